//! Threads, chunks and gradient shards: a batch of rows forward, or forward and backward.
//!
//! Work is a list of *units*: the rows that one term of the loss needs together (one response for PPO, a
//! chosen and a rejected answer for a reward model). Units are grouped into chunks of a fixed number of
//! tokens and chunks into a number of shards that depends on the batch alone; threads take shards. Each
//! shard has its own gradient, and shards are summed in order ([`Sum`]).

use crate::chunk::{Keep, Net, Workspace};
use crate::decode::Leftovers;
use crate::params::Grad;
use crate::softmax::kl_of_logits;
use crate::spec::DecoderSpec;
use crate::sum::Sum;
use crate::threads::on_threads;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Gradient shards of a step, by the size of the model alone; also the largest useful number of threads. Each has as
/// many numbers as there are parameters, which have to be cleared and added up.
pub(crate) fn most_shards(spec: &DecoderSpec) -> usize {
    if spec.n_trained() > LARGE { 4 } else { 8 }
}

/// A model of more parameters gives back what only one kind of work needs when another begins: to ask for it anew is little
/// beside the work, and each wants the memory.
const LARGE: usize = 4_000_000;

impl DecoderSpec {
    /// Whether memory that one kind of work alone needs (sampling, scoring, training) is given back when another begins.
    pub fn is_large(&self) -> bool {
        self.n_params > LARGE
    }
}

/// Kinds of work that take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// [`crate::DecodeBatch`].
    Sampling,
    /// [`Engine::forward_pair`].
    Scoring,
    /// [`Engine::step`].
    Training,
}

/// One sequence and what is wanted of it.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// Positions whose *next* token is scored: log-prob and entropy. Must end before the last position.
    pub lm: Range<usize>,
    /// Positions whose scalar (value, reward) is wanted.
    pub scalar: Range<usize>,
}

/// Outputs of one row.
#[derive(Clone, Copy, Debug)]
pub struct RowOutput<'a> {
    /// log p of each scored token under softmax(logits / T), nats.
    pub logprobs: &'a [f32],
    /// Entropy of each of those distributions, nats per token.
    pub entropy: &'a [f32],
    /// Scalars at the wanted positions: of each position as many as the scalar head has outputs.
    pub scalars: &'a [f32],
}

/// Gradient of the loss with respect to one row's outputs; all zero when handed over.
#[derive(Debug)]
pub struct RowGrad<'a> {
    /// d loss / d logprobs.
    pub logprobs: &'a mut [f32],
    /// d loss / d entropy.
    pub entropy: &'a mut [f32],
    /// d loss / d scalars.
    pub scalars: &'a mut [f32],
}

/// Owned outputs of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowResult {
    /// As [`RowOutput::logprobs`].
    pub logprobs: Vec<f32>,
    /// As [`RowOutput::entropy`].
    pub entropy: Vec<f32>,
    /// As [`RowOutput::scalars`].
    pub scalars: Vec<f32>,
}

/// Policy and reference on the same row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairRow {
    /// The policy's outputs.
    pub policy: RowResult,
    /// log π_ref of each scored token, nats.
    pub ref_logprobs: Vec<f32>,
    /// Exact full-vocabulary KL(π‖π_ref) at each scored position, nats per token.
    pub kl_exact: Vec<f32>,
}

/// A loss that is a sum over units, seen one unit at a time with everything else already a constant.
pub trait UnitLoss: Sync {
    /// What the loss remembers of a unit.
    type Stats: Send;

    /// Fills the gradients of the unit's rows and returns its statistics.
    fn unit(&self, unit: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> Self::Stats;
}

/// Threads and their reused buffers.
#[derive(Debug)]
pub struct Engine {
    threads: usize,
    keep: Keep,
    workspaces: Mutex<Vec<Workspace>>,
    /// Of the second model of [`Engine::forward_pair`]: apart, since those above grow to what training keeps.
    seconds: Mutex<Vec<Workspace>>,
    /// Gradients that nobody uses.
    gradients: Mutex<Vec<Vec<f32>>>,
    pub(crate) leftovers: Leftovers,
    phase: Mutex<Option<Phase>>,
}

impl Engine {
    /// An engine that uses at most `threads` threads.
    pub fn new(threads: usize) -> Self {
        let threads = threads.clamp(1, 256);
        Self {
            threads,
            keep: Keep::Activations,
            workspaces: Mutex::default(),
            seconds: Mutex::default(),
            gradients: Mutex::default(),
            leftovers: Leftovers::default(),
            phase: Mutex::default(),
        }
    }

    /// The same, but that the backward pass of [`Engine::step`] computes the activations of every block again from its
    /// input: about a third more work, and the activations of one block in memory instead of all. The same bits.
    #[must_use]
    pub fn with_gradient_checkpointing(mut self) -> Self {
        self.keep = Keep::Inputs;
        self
    }

    /// Threads used.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Work of a kind begins.
    pub(crate) fn begin(&self, spec: &DecoderSpec, phase: Phase) {
        if !spec.is_large() || lock(&self.phase).replace(phase) == Some(phase) {
            return;
        }
        if phase != Phase::Sampling {
            self.leftovers.clear();
        }
        if phase != Phase::Training {
            lock(&self.gradients).clear();
            lock(&self.workspaces).clear();
        }
    }

    /// A gradient of nothing.
    fn zeros(&self, n: usize) -> Vec<f32> {
        let mut gradient = lock(&self.gradients).pop().unwrap_or_default();
        gradient.clear();
        gradient.resize(n, 0.0);
        gradient
    }

    /// Takes a gradient that has been used, for the next one; no more of them than a step needs.
    pub fn recycle(&self, gradient: Vec<f32>) {
        let mut gradients = lock(&self.gradients);
        if gradients.len() <= self.threads {
            gradients.push(gradient);
        }
    }

    fn take_workspace(&self) -> Workspace {
        lock(&self.workspaces).pop().unwrap_or_default()
    }

    fn return_workspace(&self, ws: Workspace) {
        lock(&self.workspaces).push(ws);
    }

    /// Runs `job(worker-local workspace, task index)` for every task, tasks handed out in order.
    fn parallel(&self, tasks: usize, job: impl Fn(&mut Workspace, usize) + Sync) {
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut ws = self.take_workspace();
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                job(&mut ws, task);
            }
            self.return_workspace(ws);
        };
        on_threads(0..self.threads.min(tasks), |_| worker());
    }

    /// Outputs of every row at temperature `temperature`.
    ///
    /// # Panics
    /// If a token or position is out of range; callers check user input first.
    pub fn forward(&self, net: Net<'_>, rows: &[Row<'_>], temperature: f32) -> Vec<RowResult> {
        let chunks = chunks_of(net.spec, rows.len(), |i| rows[i].tokens.len());
        let out: Vec<Mutex<RowResult>> = rows.iter().map(|_| Mutex::default()).collect();
        self.parallel(chunks.len(), |ws, c| {
            let picked: Vec<&Row<'_>> = rows[chunks[c].clone()].iter().collect();
            ws.forward(net, &picked, 1.0 / temperature, Keep::Nothing, |_, _| {});
            for (i, o) in outputs(ws, &picked, net.spec.scores()).into_iter().enumerate() {
                *lock(&out[chunks[c].start + i]) = o.to_owned_result();
            }
        });
        out.into_iter().map(unlock).collect()
    }

    /// Policy and reference on the same rows: log-probs of both and their exact KL.
    ///
    /// # Panics
    /// If the vocabularies differ, or as [`Engine::forward`].
    pub fn forward_pair(
        &self,
        policy: Net<'_>,
        reference: Net<'_>,
        rows: &[Row<'_>],
        temperature: f32,
    ) -> Vec<PairRow> {
        self.begin(policy.spec, Phase::Scoring);
        let vocab = policy.spec.vocab;
        assert_eq!(vocab, reference.spec.vocab, "policy and reference must share a vocabulary");
        let scale = 1.0 / temperature;
        let chunks = chunks_of(policy.spec, rows.len(), |i| rows[i].tokens.len());
        let out: Vec<Mutex<PairRow>> = rows.iter().map(|_| Mutex::default()).collect();
        self.parallel(chunks.len(), |ws, c| {
            let picked: Vec<&Row<'_>> = rows[chunks[c].clone()].iter().collect();
            ws.forward(policy, &picked, scale, Keep::Nothing, |_, _| {});
            let owned: Vec<RowResult> =
                outputs(ws, &picked, policy.spec.scores()).into_iter().map(|o| o.to_owned_result()).collect();
            let bare: Vec<Row<'_>> = picked.iter().map(|r| Row { scalar: 0..0, ..(*r).clone() }).collect();
            let mut other = lock(&self.seconds).pop().unwrap_or_default();
            other.forward(reference, &bare.iter().collect::<Vec<_>>(), scale, Keep::Nothing, |_, _| {});
            let mut at = 0;
            for (i, outputs) in owned.into_iter().enumerate() {
                let span = at..at + outputs.logprobs.len();
                at = span.end;
                let kl_exact = span
                    .clone()
                    .map(|m| {
                        let zp = &ws.lm.logits[m * vocab..(m + 1) * vocab];
                        let zq = &other.lm.logits[m * vocab..(m + 1) * vocab];
                        kl_of_logits(zp, ws.lm.lse[m], zq, other.lm.lse[m], scale)
                    })
                    .collect();
                let ref_logprobs = other.lm.logprobs[span].to_vec();
                *lock(&out[chunks[c].start + i]) = PairRow { policy: outputs, ref_logprobs, kl_exact };
            }
            lock(&self.seconds).push(other);
        });
        if policy.spec.is_large() {
            lock(&self.seconds).clear();
        }
        out.into_iter().map(unlock).collect()
    }

    /// Hidden states (t × dim, after the final norm) and logits (t × vocab; none without a vocabulary head) of one
    /// sequence.
    pub fn hidden_and_logits(&self, net: Net<'_>, tokens: &[u32]) -> (Vec<f32>, Vec<f32>) {
        let spec = net.spec;
        let mut ws = self.take_workspace();
        // The last position has no next token; score a repeated one and drop nothing.
        let mut padded = tokens.to_vec();
        padded.push(tokens.last().copied().unwrap_or(0));
        let row = Row { tokens: &padded, lm: 0..tokens.len(), scalar: 0..0 };
        let fits = padded.len() <= spec.max_positions;
        let row = if fits { row } else { Row { tokens, lm: 0..tokens.len() - 1, scalar: 0..0 } };
        ws.forward(net, &[&row], 1.0, Keep::Nothing, |_, _| {});
        let hidden = ws.hidden[..tokens.len() * spec.dim].to_vec();
        let scored = if spec.lm_head.is_some() { row.lm.len() } else { 0 };
        let logits = ws.lm.logits[..scored * spec.vocab].to_vec();
        self.return_workspace(ws);
        (hidden, logits)
    }

    /// Forward and backward of the summed unit losses; the gradient is **added** to `grad`, of which an empty one is that of
    /// nothing and becomes one float per trained parameter. [`Engine::recycle`] takes it when it has been used.
    ///
    /// `units[u]` lists the rows of unit `u`. Returns each unit's statistics in order.
    ///
    /// # Panics
    /// As [`Engine::forward`]; if `grad` is neither empty nor one float per trained parameter.
    pub fn step<L: UnitLoss>(
        &self,
        net: Net<'_>,
        units: &[Vec<Row<'_>>],
        temperature: f32,
        loss: &L,
        grad: &mut Vec<f32>,
    ) -> Vec<L::Stats> {
        let spec = net.spec;
        self.begin(spec, Phase::Training);
        if grad.is_empty() {
            *grad = self.zeros(spec.n_trained());
        }
        assert_eq!(grad.len(), spec.n_trained(), "gradient length");
        let scale = 1.0 / temperature;
        let chunks = chunks_of(spec, units.len(), |u| units[u].iter().map(|r| r.tokens.len()).sum());
        let shards = most_shards(spec).min(chunks.len());
        let stats: Vec<Mutex<Option<L::Stats>>> = units.iter().map(|_| Mutex::new(None)).collect();
        let backward = |ws: &mut Workspace, shard: usize, grad: &mut [f32]| {
            // Chunks of a shard are spread over the batch, so long rows spread too.
            for chunk in chunks.iter().skip(shard).step_by(shards) {
                let picked: Vec<&Row<'_>> = units[chunk.clone()].iter().flatten().collect();
                ws.forward(net, &picked, scale, self.keep, |_, _| {});
                losses(ws, chunk.clone(), units, spec.scores(), loss, &stats);
                ws.backward(net, scale, &mut Grad::new(spec.frozen, grad));
            }
        };
        let sum = Sum::new(grad);
        self.parallel(shards, |ws, shard| {
            if shard == 0 {
                sum.first(|grad| backward(ws, shard, grad));
                return;
            }
            let mut buffer = self.zeros(spec.n_trained());
            sum.add(shard, &mut buffer, |grad| backward(ws, shard, grad));
            self.recycle(buffer);
        });
        stats.into_iter().filter_map(unlock).collect()
    }
}

/// Shows `loss` what the workspace computed of the units of a chunk, one after the other, for the gradients of it.
fn losses<L: UnitLoss>(
    ws: &mut Workspace,
    chunk: Range<usize>,
    units: &[Vec<Row<'_>>],
    scores: usize,
    loss: &L,
    stats: &[Mutex<Option<L::Stats>>],
) {
    zeroed(&mut ws.g_logprobs, ws.lm.logprobs.len());
    zeroed(&mut ws.g_entropy, ws.lm.entropy.len());
    zeroed(&mut ws.g_scalars, ws.scalars.len());
    let (mut lm, mut sc) = (0, 0);
    for u in chunk {
        let n = units[u].len();
        let mut outs = Vec::with_capacity(n);
        let (mut gl, mut ge, mut gs) =
            (&mut ws.g_logprobs[lm..], &mut ws.g_entropy[lm..], &mut ws.g_scalars[sc..]);
        let mut grads = Vec::with_capacity(n);
        for row in &units[u] {
            let a = if ws.lm.logprobs.is_empty() { 0 } else { row.lm.len() };
            let b = if ws.scalars.is_empty() { 0 } else { row.scalar.len() * scores };
            outs.push(RowOutput {
                logprobs: &ws.lm.logprobs[lm..lm + a],
                entropy: &ws.lm.entropy[lm..lm + a],
                scalars: &ws.scalars[sc..sc + b],
            });
            let (l, rest) = gl.split_at_mut(a);
            gl = rest;
            let (e, rest) = ge.split_at_mut(a);
            ge = rest;
            let (s, rest) = gs.split_at_mut(b);
            gs = rest;
            grads.push(RowGrad { logprobs: l, entropy: e, scalars: s });
            lm += a;
            sc += b;
        }
        *lock(&stats[u]) = Some(loss.unit(u, &outs, &mut grads));
    }
}

impl RowOutput<'_> {
    fn to_owned_result(self) -> RowResult {
        RowResult {
            logprobs: self.logprobs.to_vec(),
            entropy: self.entropy.to_vec(),
            scalars: self.scalars.to_vec(),
        }
    }
}

/// The outputs of each row of the workspace's last forward pass.
fn outputs<'w>(ws: &'w Workspace, rows: &[&Row<'_>], scores: usize) -> Vec<RowOutput<'w>> {
    let (mut lm, mut sc) = (0, 0);
    rows.iter()
        .map(|row| {
            let a = if ws.lm.logprobs.is_empty() { 0 } else { row.lm.len() };
            let b = if ws.scalars.is_empty() { 0 } else { row.scalar.len() * scores };
            let out = RowOutput {
                logprobs: &ws.lm.logprobs[lm..lm + a],
                entropy: &ws.lm.entropy[lm..lm + a],
                scalars: &ws.scalars[sc..sc + b],
            };
            lm += a;
            sc += b;
            out
        })
        .collect()
}

/// Groups consecutive units into chunks of about as many tokens as keep a chunk's activations in cache.
pub(crate) fn chunks_of(
    spec: &DecoderSpec,
    units: usize,
    tokens: impl Fn(usize) -> usize,
) -> Vec<Range<usize>> {
    let target = spec.dim.clamp(144, 512);
    let mut chunks = Vec::new();
    let (mut start, mut size) = (0, 0);
    for u in 0..units {
        let n = tokens(u);
        if u > start && size + n > target {
            chunks.push(start..u);
            (start, size) = (u, 0);
        }
        size += n;
    }
    if start < units {
        chunks.push(start..units);
    }
    chunks
}

fn zeroed(v: &mut Vec<f32>, n: usize) {
    v.clear();
    v.resize(n, 0.0);
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn unlock<T>(m: Mutex<T>) -> T {
    m.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
