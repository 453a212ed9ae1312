//! How fast this machine is now: a small decoder of like width, run for a moment the way a run would.

use super::lengths::Lengths;
use crate::Error;
use crate::ppo::POLICY_HEADS;
use std::cell::RefCell;
use tetherline_models::optim::{AdamW, AdamWConfig};
use tetherline_models::{
    Engine, LoraConfig, Model, ModelConfig, ModelError, ModelShape, Precision, Row, RowGrad, RowOutput,
    RowSize, Team, UnitLoss, log_softmax_in_place,
};
use tetherline_rollout::Batches;

/// Parameters of the small decoder at most: with panels, gradient and shards some 40 MB.
const PARAMETERS: usize = 1_200_000;
/// Seconds that a measurement goes on for, at least.
const SECONDS: f64 = 0.12;
/// Floats that are read to measure the memory's speed: 64 MB, more than most caches.
const STREAMED: usize = 16 << 20;
/// Bytes of panels that may stay in a cache from one decoding step to the next.
const CACHED: usize = 16 << 20;

/// What speeds depend on, besides the machine and the width of a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    pub(super) precision: Precision,
    pub(super) checkpointing: bool,
    pub(super) adapter: Option<LoraConfig>,
}

/// Speeds of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    /// Operations per second of a forward pass.
    pub(super) forward: f64,
    /// Of the way back.
    pub(super) backward: f64,
    /// Of cached decoding.
    pub(super) decode: f64,
    /// Seconds per trained parameter of an optimizer step.
    pub(super) optimizer: f64,
}

/// All speeds: each kind is measured when it is first asked for.
pub(super) struct Speeds {
    probe: Probe,
    known: RefCell<Vec<(Kind, Rates)>>,
    pub(super) threads: usize,
    /// Bytes per second from memory.
    pub(super) bandwidth: f64,
    /// Bytes of panels that stay in a cache.
    pub(super) cached: usize,
}

impl Speeds {
    /// The speeds of a kind, after some tenths of a second where it is new.
    pub(super) fn of(&self, kind: Kind) -> Result<Rates, Error> {
        let known = self.known.borrow().iter().find(|(k, _)| *k == kind).map(|(_, rates)| *rates);
        if let Some(rates) = known {
            return Ok(rates);
        }
        let rates = self.probe.rates(&kind).map_err(failed)?;
        self.known.borrow_mut().push((kind, rates));
        Ok(rates)
    }
}

fn failed(e: ModelError) -> Error {
    Error::input("the small model that speed is measured on", e)
}

/// Fewer blocks, tokens and, where that is not enough, narrower ones, until the parameters are few.
fn small(config: &ModelConfig) -> ModelConfig {
    let mut c = config.clone();
    let block = |c: &ModelConfig| {
        let wide = if c.gated { 3 } else { 2 };
        c.dim * (c.head_dim * (2 * c.heads + 2 * c.kv_heads) + wide * c.ffn)
    };
    while block(&c) > PARAMETERS * 2 / 3 && c.heads > 1 {
        c.kv_heads = (c.kv_heads / 2).max(1);
        c.heads = (c.heads / 2).max(c.kv_heads) / c.kv_heads * c.kv_heads;
        c.dim = (c.dim / 2).next_multiple_of(16);
        c.ffn = (c.ffn / 2).next_multiple_of(16);
    }
    c.vocab = c.vocab.min((PARAMETERS / 3 / c.dim).max(64));
    let left = PARAMETERS.saturating_sub(c.vocab * c.dim * if c.tied { 1 } else { 2 });
    c.layers.truncate((left / block(&c).max(1)).max(1));
    c.max_positions = c.max_positions.min(4096);
    c
}

/// Gradients of like size for all outputs.
struct Flat;

impl UnitLoss for Flat {
    type Stats = ();

    fn unit(&self, _: usize, _: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) {
        for g in grads {
            g.logprobs.fill(1e-3);
            g.scalars.fill(1e-3);
        }
    }
}

/// Median seconds of `job`, after one that is not counted.
pub(super) fn seconds(
    clock: fn() -> f64,
    mut job: impl FnMut() -> Result<(), ModelError>,
) -> Result<f64, ModelError> {
    job()?;
    let (begin, mut all) = (clock(), Vec::new());
    while all.len() < 3 || clock() - begin < SECONDS {
        let t = clock();
        job()?;
        all.push(clock() - t);
    }
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2].max(1e-9))
}

/// The small decoder and the rows that it runs on.
struct Probe {
    config: ModelConfig,
    rows: Vec<Vec<u32>>,
    prompt: usize,
    response: usize,
    threads: usize,
    clock: fn() -> f64,
    /// Of the model that is planned.
    params: usize,
}

impl Probe {
    fn model(&self, adapter: Option<&LoraConfig>) -> Result<Model, ModelError> {
        let model = Model::random(self.config.clone(), POLICY_HEADS, 0);
        let Some(adapter) = adapter else { return Ok(model) };
        // The blocks that it names may be among those that are left out.
        model.with_adapter(LoraConfig { layers_to_transform: None, ..adapter.clone() }, 0)
    }

    fn rates(&self, kind: &Kind) -> Result<Rates, ModelError> {
        let mut engine = Engine::new(self.threads).with_precision(kind.precision)?;
        if kind.checkpointing {
            engine = engine.with_gradient_checkpointing()?;
        }
        let mut model = self.model(kind.adapter.as_ref())?;
        model.make_trainable();
        let prompt = self.prompt;
        let rows: Vec<Row<'_>> =
            self.rows.iter().map(|t| Row { tokens: t, lm: prompt - 1..t.len() - 1, scalar: 0..0 }).collect();
        let units: Vec<Vec<Row<'_>>> = rows.iter().map(|r| vec![r.clone()]).collect();
        let sizes: Vec<RowSize> =
            rows.iter().map(|r| RowSize { tokens: r.tokens.len(), lm: r.lm.len(), scalar: 0 }).collect();
        let shape = model.shape();
        let spec = shape.spec();
        let forward_work = spec.forward_work(&sizes).total();
        let forward = seconds(self.clock, || model.forward(&engine, &rows, 1.0).map(drop))?;
        let mut grad = Vec::new();
        let step = seconds(self.clock, || model.step(&engine, &units, 1.0, &Flat, &mut grad).map(drop))?;
        let backward_work = spec.step_work(&sizes, kind.checkpointing).backward;
        let decode = self.decode(&model, &engine)?;
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-5, weight_decay: 0.0 };
        let (n, threads) = (model.n_trained(), self.threads);
        let mut adam = AdamW::new(n, config);
        let optimizer = seconds(self.clock, || {
            model.update(&engine, |p| adam.step(p, &grad, 1.0, 0.0, threads));
            Ok(())
        })?;
        Ok(Rates {
            forward: forward_work / forward,
            backward: backward_work / (step - forward).max(0.3 * step),
            decode,
            optimizer: optimizer / n as f64,
        })
    }

    /// Operations per second of decoding, in batches as a run of the planned model would make them.
    fn decode(&self, model: &Model, engine: &Engine) -> Result<f64, ModelError> {
        let batches = Batches::of(self.params, usize::MAX / 2, self.threads);
        let steps = self.response.min(12);
        let prompt = &self.rows[0][..self.prompt.max(2) - 1];
        let vocab = model.config().vocab;
        let run = |team: Option<&Team<'_>>| -> Result<(), ModelError> {
            let batch = model.decode_batch(engine, self.prompt + steps)?;
            let mut batch = match team {
                Some(team) => batch.with_team(team),
                None => batch,
            };
            batch.push_all(&vec![prompt; batches.rows], false)?;
            for _ in 0..steps {
                let out = batch.step(&vec![1; batches.rows])?;
                out.logits.chunks_exact_mut(vocab).for_each(|row| {
                    std::hint::black_box(log_softmax_in_place(row, 1.0));
                });
            }
            Ok(())
        };
        let taken = if batches.shared {
            Team::with(self.threads, |team| seconds(self.clock, || run(Some(team))))?
        } else {
            seconds(self.clock, || {
                std::thread::scope(|s| {
                    let others: Vec<_> = (1..batches.count).map(|_| s.spawn(|| run(None))).collect();
                    let own = run(None);
                    others.into_iter().filter_map(|o| o.join().ok()).fold(own, Result::and)
                })
            })?
        };
        // The prompt is read once, for all rows are alike.
        let shape = model.shape();
        let rows = batches.rows;
        let work = shape.spec().decode_work(rows, self.prompt, steps, rows).total() * batches.count as f64;
        Ok(work / taken)
    }
}

/// Bytes per second that all threads together read.
fn bandwidth(threads: usize, clock: fn() -> f64) -> Result<f64, ModelError> {
    let floats = vec![1.0f32; STREAMED];
    let taken = seconds(clock, || {
        std::thread::scope(|s| {
            for part in floats.chunks(STREAMED.div_ceil(threads)) {
                s.spawn(|| {
                    let mut lanes = [0.0f32; 64];
                    for block in part.as_chunks::<64>().0 {
                        lanes.iter_mut().zip(block).for_each(|(l, x)| *l += x);
                    }
                    std::hint::black_box(lanes);
                });
            }
        });
        Ok(())
    })?;
    Ok((4 * STREAMED) as f64 / taken)
}

/// Makes ready to measure.
pub(super) fn open(
    config: &ModelConfig,
    lengths: &Lengths,
    threads: usize,
    clock: fn() -> f64,
) -> Result<Speeds, Error> {
    let params = ModelShape::new(config.clone(), POLICY_HEADS).spec().n_params;
    let small = small(config);
    let prompt = (lengths.mean_prompt().round() as usize).clamp(1, 256.min(small.max_positions / 2));
    let response = lengths.response.clamp(1, 256.min(small.max_positions - prompt));
    let length = (prompt + response).max(2);
    // Enough for a chunk of every shard.
    let rows = (8 * 512usize.min(small.dim.clamp(144, 512)) / length).max(8);
    let top = small.vocab as u32;
    let row = |i: usize| (0..length).map(|t| (i * 31 + t * 17) as u32 % top).collect();
    let rows = (0..rows).map(row).collect();
    let probe = Probe { config: small, rows, prompt, response, threads, clock, params };
    let bandwidth = bandwidth(threads, clock).map_err(failed)?;
    Ok(Speeds { probe, known: RefCell::default(), threads, bandwidth, cached: CACHED })
}
