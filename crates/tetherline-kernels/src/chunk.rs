//! A few whole sequences through all layers, forward and backward, in one reused workspace.

use crate::attention::{self, Scratch};
use crate::block::{Acts, Grads, sized};
use crate::engine::Row;
use crate::gemm::{Init, NR};
use crate::head::{LmState, scalar_backward, scalar_forward};
use crate::linear::{Output, PackedWeights};
use crate::mlp;
use crate::norm;
use crate::params::{Grad, Params};
use crate::size::{Chunk, FLOAT};
use crate::spec::{Activation, DecoderSpec, LayerSpec, LinearSpec, NormSpec};
use crate::team::{Shares, Team, each};

/// Fewer numbers than this are not worth a job of a team.
const SHARED: usize = 2048;

/// A decoder with its weights, ready to run.
#[derive(Clone, Copy, Debug)]
pub struct Net<'a> {
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) params: Params<'a>,
    pub(crate) packed: &'a PackedWeights,
    team: Option<&'a Team<'a>>,
}

impl<'a> Net<'a> {
    /// The decoder `spec` with its parameters, as they are and packed by [`PackedWeights::new`].
    pub fn new(spec: &'a DecoderSpec, params: Params<'a>, packed: &'a PackedWeights) -> Self {
        Self { spec, params, packed, team: None }
    }

    /// The same, but that a team shares the work of every linear layer.
    pub(crate) fn with_team(self, team: Option<&'a Team<'a>>) -> Self {
        Self { team, ..self }
    }

    pub(crate) fn team(&self) -> Option<&'a Team<'a>> {
        self.team
    }

    /// y = init + linear(x) at `rows` positions.
    pub(crate) fn linear(
        &self,
        l: &LinearSpec,
        rows: usize,
        x: &[f32],
        ldx: usize,
        y: &mut [f32],
        ldy: usize,
        init: Init<'_>,
    ) {
        self.packed.forward(self.team, l, self.params, rows, x, ldx, y, ldy, init);
    }

    /// y = linear(x) of several layers at once.
    pub(crate) fn linears(&self, rows: usize, x: &[f32], ldx: usize, outputs: &mut [Output<'_>]) {
        self.packed.forward_all(self.team, self.params, rows, (x, ldx), outputs);
    }

    /// norm(x) at rows that a team shares.
    pub(crate) fn norm(&self, n: &NormSpec, x: &[f32], y: &mut [f32], stats: &mut [f32]) {
        let rows = x.len() / n.dim;
        let team = self.team.filter(|_| x.len() >= SHARED);
        let tasks = team.map_or(1, Team::threads);
        let share = rows.div_ceil(tasks).max(1);
        let (y, stats) = (Shares::new(y), Shares::new(stats));
        each(team, tasks, &|task| {
            let (from, to) = ((task * share).min(rows), ((task + 1) * share).min(rows));
            // SAFETY: a task has rows of its own.
            let (y, stats) =
                unsafe { (y.at(from * n.dim, (to - from) * n.dim), stats.at(2 * from, 2 * (to - from))) };
            norm::forward(n, self.params, &x[from * n.dim..to * n.dim], y, stats);
        });
    }

    /// act(gate)·up, number by number, that a team shares.
    pub(crate) fn gated(&self, act: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
        let n = y.len();
        let team = self.team.filter(|_| n >= SHARED);
        let tasks = team.map_or(1, Team::threads);
        let share = n.div_ceil(tasks).next_multiple_of(NR);
        let y = Shares::new(y);
        each(team, tasks, &|task| {
            let (from, to) = ((task * share).min(n), ((task + 1) * share).min(n));
            // SAFETY: a task has numbers of its own.
            mlp::gated(act, &gate[from..to], &up[from..to], unsafe { y.at(from, to - from) });
        });
    }
}

/// What a forward pass leaves for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing: there will be none.
    Nothing,
    /// The activations of every trained block.
    Activations,
    /// The input of every trained block; its activations are computed again (gradient checkpointing, Chen et al. 2016).
    Inputs,
}

/// A block at work: what it computes position by position, and what attention saves.
#[derive(Debug, Default)]
struct Block {
    acts: Acts,
    att_stats: Vec<f32>, // per sequence
}

/// Buffers of a thread, reused from chunk to chunk and from step to step.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// (first row, length) of each sequence of the chunk.
    spans: Vec<(usize, usize)>,
    tokens: Vec<usize>,
    /// Of the blocks whose activations are kept.
    kept: Vec<Block>,
    /// Of all others, one after the other.
    shared: Block,
    /// Inputs of the blocks whose activations are computed again.
    inputs: Vec<Vec<f32>>,
    keep: Option<Keep>,
    last: Vec<f32>, // residual stream after the last layer
    final_stats: Vec<f32>,
    pub(crate) hidden: Vec<f32>, // after the final norm
    pub(crate) lm: LmState,
    scalar_rows: Vec<usize>,
    pub(crate) scalars: Vec<f32>,
    scratch: Scratch,
    d_x: Vec<f32>,
    d_hidden: Vec<f32>,
    grads: Grads,
    // Per-token gradients of the loss, filled by the caller between forward and backward.
    pub(crate) g_logprobs: Vec<f32>,
    pub(crate) g_entropy: Vec<f32>,
    pub(crate) g_scalars: Vec<f32>,
}

impl Block {
    /// Floats for a chunk.
    fn floats(s: &DecoderSpec, layer: &LayerSpec, chunk: &Chunk) -> usize {
        Acts::floats(s, layer, chunk.tokens) + s.heads * attention::STATS * chunk.padded
    }

    /// From the residual stream in `acts.x` to the one that leaves the block. `on_qkv` sees the rotated queries, keys
    /// and values.
    fn forward(
        &mut self,
        net: Net<'_>,
        layer: &LayerSpec,
        spans: &[(usize, usize)],
        n: usize,
        scratch: &mut Scratch,
        out: &mut Vec<f32>,
        on_qkv: impl FnOnce(&[f32]),
    ) {
        let s = net.spec;
        let (ldq, lda) = (s.qkv_dim(), s.att_dim());
        let a = &mut self.acts;
        a.project(net, layer, n);
        let qkv = &mut a.qkv[..n * ldq];
        rotate(s, layer, spans, qkv, false);
        on_qkv(qkv);
        let att = sized(&mut a.att, n * lda);
        let total = spans.iter().map(|&(_, t)| s.heads * attention::stats_len(t)).sum();
        let mut stats = sized(&mut self.att_stats, total);
        for &(r, t) in spans.iter().filter(|(_, t)| *t > 0) {
            let (here, rest) = stats.split_at_mut(s.heads * attention::stats_len(t));
            stats = rest;
            let (qkv, out) = (&qkv[r * ldq..(r + t) * ldq], &mut att[r * lda..(r + t) * lda]);
            attention::forward(s, &layer.attention, t, qkv, out, here, scratch);
        }
        a.finish(net, layer, n, out);
    }

    /// `d_x`, the gradient of the stream that leaves the block, becomes that of the one that enters.
    fn backward(
        &mut self,
        net: Net<'_>,
        layer: &LayerSpec,
        spans: &[(usize, usize)],
        n: usize,
        scratch: &mut Scratch,
        d_x: &mut [f32],
        g: &mut Grads,
        grad: &mut Grad<'_>,
    ) {
        let s = net.spec;
        let (ldq, lda) = (s.qkv_dim(), s.att_dim());
        let a = &mut self.acts;
        a.finish_backward(net, layer, n, d_x, g, grad);
        let d_qkv = sized(&mut g.d_qkv, n * ldq);
        let mut stats = &self.att_stats[..];
        for &(r, t) in spans.iter().filter(|(_, t)| *t > 0) {
            let (here, rest) = stats.split_at(s.heads * attention::stats_len(t));
            stats = rest;
            attention::backward(
                s,
                &layer.attention,
                t,
                &a.qkv[r * ldq..(r + t) * ldq],
                &a.att[r * lda..(r + t) * lda],
                here,
                &g.d_att[r * lda..(r + t) * lda],
                &mut d_qkv[r * ldq..(r + t) * ldq],
                scratch,
            );
        }
        rotate(s, layer, spans, d_qkv, true);
        a.project_backward(net, layer, n, d_x, g, grad);
    }
}

/// Bytes of a workspace that takes chunks forward, none larger than `chunk`.
pub(crate) fn forward_bytes(s: &DecoderSpec, chunk: &Chunk) -> usize {
    let shared = s.layers.iter().map(|l| Block::floats(s, l, chunk)).max().unwrap_or(0);
    let ends = chunk.tokens * (2 * s.dim + 2) + LmState::floats(s, chunk.lm, false) + chunk.scalar;
    FLOAT * (shared + ends) + Scratch::bytes(s, chunk.longest, false)
}

/// Bytes that the way back adds to [`forward_bytes`].
pub(crate) fn step_bytes(s: &DecoderSpec, chunk: &Chunk, keep: Keep) -> usize {
    let trained = s.layers.iter().skip(s.first_trained_layer());
    let kept: usize = match keep {
        Keep::Nothing => 0,
        Keep::Activations => trained.map(|l| Block::floats(s, l, chunk)).sum(),
        Keep::Inputs => trained.count() * chunk.tokens * s.dim,
    };
    let outputs = 2 * chunk.lm + chunk.scalar;
    let back = LmState::floats(s, chunk.lm, true) - LmState::floats(s, chunk.lm, false);
    let scratch = Scratch::bytes(s, chunk.longest, true) - Scratch::bytes(s, chunk.longest, false);
    FLOAT * (kept + outputs + back + 2 * chunk.tokens * s.dim) + Grads::bytes(s, chunk.tokens) + scratch
}

impl Workspace {
    /// Forward through all layers and the heads that `rows` ask for; `keep` says what stays for
    /// [`Workspace::backward`]. `on_qkv(layer, qkv)` sees each layer's rotated queries, keys and values.
    pub(crate) fn forward(
        &mut self,
        net: Net<'_>,
        rows: &[&Row<'_>],
        scale: f32,
        keep: Keep,
        mut on_qkv: impl FnMut(usize, &[f32]),
    ) {
        let s = net.spec;
        self.spans.clear();
        self.tokens.clear();
        for row in rows {
            self.spans.push((self.tokens.len(), row.tokens.len()));
            self.tokens.extend(row.tokens.iter().map(|&t| t as usize));
        }
        let n = self.tokens.len();
        if n == 0 {
            // Rows without tokens: nothing to compute, and nothing to go back through.
            self.heads(net, rows, scale);
            return;
        }
        self.keep = Some(keep);
        let trained = if keep == Keep::Nothing { s.layers.len() } else { s.first_trained_layer() };
        match keep {
            Keep::Activations if self.kept.len() < s.layers.len() => {
                self.kept.resize_with(s.layers.len(), Block::default);
            }
            Keep::Inputs if self.inputs.len() < s.layers.len() => {
                self.inputs.resize_with(s.layers.len(), Vec::new);
            }
            _ => {}
        }
        self.embed(net, n);
        for (l, layer) in s.layers.iter().enumerate() {
            let mut block = &mut self.shared;
            if l >= trained {
                match keep {
                    Keep::Activations => block = &mut self.kept[l],
                    Keep::Inputs => {
                        sized(&mut self.inputs[l], n * s.dim).copy_from_slice(&self.last[..n * s.dim])
                    }
                    Keep::Nothing => {}
                }
            }
            // The residual stream arrives in `last` and leaves in `last`; the block keeps it as its input.
            std::mem::swap(&mut block.acts.x, &mut self.last);
            let (spans, scratch) = (&self.spans, &mut self.scratch);
            block.forward(net, layer, spans, n, scratch, &mut self.last, |qkv| on_qkv(l, qkv));
        }
        let hidden = sized(&mut self.hidden, n * s.dim);
        let stats = sized(&mut self.final_stats, 2 * n);
        norm::forward(&s.final_norm, net.params, &self.last[..n * s.dim], hidden, stats);
        self.heads(net, rows, scale);
    }

    fn embed(&mut self, net: Net<'_>, n: usize) {
        let (s, d) = (net.spec, net.spec.dim);
        let x = sized(&mut self.last, n * d);
        for &(r, t) in &self.spans {
            for p in 0..t {
                let row = r + p;
                embed(s, net.params, self.tokens[row] as u32, p, &mut x[row * d..(row + 1) * d]);
            }
        }
    }

    fn heads(&mut self, net: Net<'_>, rows: &[&Row<'_>], scale: f32) {
        let d = net.spec.dim;
        self.lm.positions.clear();
        self.lm.targets.clear();
        self.scalar_rows.clear();
        for (row, &(start, _)) in rows.iter().zip(&self.spans) {
            self.lm.positions.extend(row.lm.clone().map(|p| start + p));
            self.lm.targets.extend(row.lm.clone().map(|p| row.tokens[p + 1] as usize));
            self.scalar_rows.extend(row.scalar.clone().map(|p| start + p));
        }
        self.scalars.clear();
        if let Some(head) = &net.spec.lm_head {
            self.lm.forward(net.spec, head, net.params, net.packed, &self.hidden, scale);
        }
        if let Some(head) = &net.spec.scalar_head {
            let hidden = &self.hidden;
            for &p in &self.scalar_rows {
                scalar_forward(head, net.params, &hidden[p * d..(p + 1) * d], &mut self.scalars);
            }
        }
    }

    /// Backward from the per-token gradients through all layers, adding to `grad`.
    pub(crate) fn backward(&mut self, net: Net<'_>, scale: f32, grad: &mut Grad<'_>) {
        let (s, d, n) = (net.spec, net.spec.dim, self.tokens.len());
        if n == 0 {
            return;
        }
        let g = &mut self.grads;
        let d_hidden = sized(&mut self.d_hidden, n * d);
        d_hidden.fill(0.0);
        if let (Some(head), false) = (&s.lm_head, self.lm.positions.is_empty()) {
            let (gl, ge) = (&self.g_logprobs, &self.g_entropy);
            self.lm.backward(s, head, net.params, net.packed, scale, gl, ge, d_hidden, grad, &mut g.panels);
        }
        if let Some(head) = &s.scalar_head {
            for (&p, g) in self.scalar_rows.iter().zip(self.g_scalars.chunks_exact(head.n_out)) {
                let at = p * d..(p + 1) * d;
                scalar_backward(head, net.params, &self.hidden[at.clone()], g, &mut d_hidden[at], grad);
            }
        }
        let d_x = sized(&mut self.d_x, n * d);
        d_x.fill(0.0);
        norm::backward(
            &s.final_norm,
            net.params,
            &self.last[..n * d],
            &self.final_stats,
            d_hidden,
            d_x,
            grad,
        );

        for (l, layer) in s.layers.iter().enumerate().skip(s.first_trained_layer()).rev() {
            let (spans, scratch) = (&self.spans, &mut self.scratch);
            let block = if self.keep == Some(Keep::Inputs) {
                std::mem::swap(&mut self.shared.acts.x, &mut self.inputs[l]);
                self.shared.forward(net, layer, spans, n, scratch, &mut self.last, |_| {});
                &mut self.shared
            } else {
                &mut self.kept[l]
            };
            block.backward(net, layer, spans, n, scratch, d_x, g, grad);
        }

        if s.embed_scale != 1.0 {
            d_x.iter_mut().for_each(|x| *x *= s.embed_scale);
        }
        if let Some(grad) = grad.at(s.embed, s.vocab * d) {
            for (row, &t) in d_x.chunks_exact(d).zip(&self.tokens) {
                crate::simd::add_assign(&mut grad[t * d..(t + 1) * d], row);
            }
        }
        if let Some(grad) = s.positions.and_then(|table| grad.at(table, s.max_positions * d)) {
            for &(r, t) in &self.spans {
                crate::simd::add_assign(&mut grad[..t * d], &d_x[r * d..(r + t) * d]);
            }
        }
    }
}

/// The residual stream at `position` before the first block: the token's embedding, scaled, and a learned position.
pub(crate) fn embed(s: &DecoderSpec, params: Params<'_>, token: u32, position: usize, x: &mut [f32]) {
    let at = s.embed + token as usize * s.dim;
    x.copy_from_slice(params.at(at, s.dim));
    if s.embed_scale != 1.0 {
        x.iter_mut().for_each(|x| *x *= s.embed_scale);
    }
    if let Some(table) = s.positions {
        let at = table + position * s.dim;
        crate::simd::add_assign(x, params.at(at, s.dim));
    }
}

/// Rotates queries and keys of every sequence (or rotates their gradients back).
fn rotate(s: &DecoderSpec, layer: &LayerSpec, spans: &[(usize, usize)], qkv: &mut [f32], back: bool) {
    let Some(rope) = layer.attention.rope.map(|i| &s.ropes[i]) else { return };
    let ld = s.qkv_dim();
    for &(r, t) in spans {
        let table = rope.of(t);
        for p in 0..t {
            table.rotate(&mut qkv[(r + p) * ld..], s.heads + s.kv_heads, s.head_dim, p, back);
        }
    }
}
