//! Reward-model training: Bradley–Terry on preference pairs, then mean 0 and standard deviation 1 on the
//! reference policy's samples, so that β means the same thing in every run.

use crate::codec::Codec;
use crate::recipe::Recipe;
use crate::scoring::{NORM_FILE, REWARD_HEADS, RewardModel};
use crate::sft::note_skipped;
use crate::train::Trainer;
use crate::{Error, sources};
use serde_json::json;
use std::path::Path;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{Event, Metrics, Observer, Stage};
use tetherline_data::PairRow;
use tetherline_models::optim::{AdamWConfig, Decay, Schedule};
use tetherline_models::{Engine, Model, ModelFiles, Row, RowGrad, RowOutput, SaveType, UnitLoss};
use tetherline_reward::{HeldOut, HeldOutPair, LrSchedule, RewardNorm, pair_loss};

/// A tokenised pair.
struct Pair {
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    chosen_len: usize,
    rejected_len: usize,
    margin: f64,
    domain: String,
}

impl Pair {
    fn rows(&self) -> Vec<Row<'_>> {
        [&self.chosen, &self.rejected]
            .map(|t| Row { tokens: t, lm: 0..0, scalar: t.len() - 1..t.len() })
            .to_vec()
    }
}

/// Mean over the batch of −log σ(r_c − r_r − margin) + c·(r_c + r_r)².
struct BradleyTerry<'a> {
    pairs: &'a [&'a Pair],
    center: f64,
}

impl UnitLoss for BradleyTerry<'_> {
    /// (loss share, 1 if ordered rightly)
    type Stats = (f64, f64);

    fn unit(&self, u: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> (f64, f64) {
        let w = 1.0 / self.pairs.len() as f64;
        let (c, r) = (f64::from(rows[0].scalars[0]), f64::from(rows[1].scalars[0]));
        let l = pair_loss(c, r, self.pairs[u].margin, self.center);
        grads[0].scalars[0] = (l.d_chosen * w) as f32;
        grads[1].scalars[0] = (l.d_rejected * w) as f32;
        let right = if c > r { 1.0 } else { 0.5 * f64::from(u8::from(c == r)) };
        (l.loss * w, right * w)
    }
}

fn encode(codec: &Codec, rows: &[PairRow], context: usize) -> Result<Vec<Pair>, Error> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let c = codec.example(&row.prompt, row.chosen.last_text(), true)?;
        let r = codec.example(&row.prompt, row.rejected.last_text(), true)?;
        if c.tokens.len() > context || r.tokens.len() > context {
            continue;
        }
        out.push(Pair {
            chosen_len: c.tokens.len() - c.prompt_len,
            rejected_len: r.tokens.len() - r.prompt_len,
            chosen: c.tokens,
            rejected: r.tokens,
            margin: row.margin.unwrap_or(0.0),
            domain: row.domain.clone(),
        });
    }
    Ok(out)
}

/// What training left behind.
#[derive(Debug)]
pub struct Trained {
    /// The model, before normalisation.
    pub model: Model,
    /// One log row per step.
    pub log: Vec<serde_json::Value>,
    /// The held-out report, where there are held-out pairs.
    pub held_out: Option<HeldOut>,
}

/// Trains a reward model from `policy`'s trunk.
///
/// # Errors
/// If the data cannot be used, a loss is not finite, or the observer asked to stop.
pub fn reward(
    recipe: &Recipe,
    policy: &Model,
    codec: &Codec,
    engine: &Engine,
    observer: &mut dyn Observer,
) -> Result<Trained, Error> {
    let config = &recipe.reward;
    let fail = |e: tetherline_models::ModelError| Error::input("the reward model", e);
    let model = policy.with_heads(REWARD_HEADS, recipe.seed).map_err(fail)?;
    let context = model.context();
    let loaded = sources::pairs(recipe)?.ok_or_else(|| Error::input("data.pairs", "missing"))?;
    note_skipped(observer, "data.pairs", loaded.skipped.len());
    let pairs = encode(codec, &loaded.rows, context)?;
    let too_long = loaded.rows.len() - pairs.len();
    if too_long > 0 {
        observer.on_event(&Event::Warning(&format!(
            "reward: {too_long} pairs are longer than the context of {context} tokens and were left out"
        )));
    }
    if pairs.is_empty() {
        return Err(Error::input("data.pairs", "no pair fits the model's context"));
    }
    let per_epoch = pairs.len().div_ceil(config.batch_size) as u64;
    let total = config.steps.unwrap_or(per_epoch * config.epochs as u64);
    let adam = AdamWConfig {
        beta1: config.beta1,
        beta2: config.beta2,
        eps: config.adam_eps,
        weight_decay: config.weight_decay,
    };
    let mut trainer = Trainer::new(model, adam);
    let decay = match config.lr_schedule {
        LrSchedule::Constant => Decay::Constant,
        LrSchedule::Linear => Decay::Linear,
        LrSchedule::Cosine => Decay::Cosine,
    };
    let schedule = Schedule { peak: config.lr, warmup: config.warmup_steps, total, decay };
    let max_norm = (config.max_grad_norm > 0.0).then_some(config.max_grad_norm);
    observer.on_event(&Event::StageStarted { stage: Stage::Reward, done: 0, total });
    let mut order: Vec<usize> = Vec::new();
    let mut epoch = 0;
    let mut log = Vec::new();
    for step in 0..total {
        if order.is_empty() {
            order = (0..pairs.len()).collect();
            stream(recipe.seed, Purpose::Shuffle, epoch, Stage::Reward as u64, 0).shuffle(&mut order);
            epoch += 1;
        }
        let take = config.batch_size.min(order.len());
        let batch: Vec<&Pair> = order.drain(order.len() - take..).map(|i| &pairs[i]).collect();
        let loss = BradleyTerry { pairs: &batch, center: config.center_coef };
        let mut stats = Vec::new();
        // The loss knows its units by their place in the batch, so micro-batches go through one call;
        // the kernels bound memory by chunks of tokens.
        let units: Vec<Vec<Row<'_>>> = batch.iter().map(|p| p.rows()).collect();
        stats.extend(trainer.accumulate(engine, &units, 1.0, &loss).map_err(Error::stage(Stage::Reward))?);
        let lr = schedule.at(step);
        let value: f64 = stats.iter().map(|s| s.0).sum();
        let accuracy: f64 = stats.iter().map(|s| s.1).sum();
        let norm = trainer.step(engine, lr, max_norm).map_err(Error::stage(Stage::Reward))?;
        if !value.is_finite() {
            let what = format!("the loss is {value}");
            return Err(Error::NotFinite {
                stage: Stage::Reward,
                step: step + 1,
                what,
                last_checkpoint: None,
            });
        }
        log.push(json!({"step": step + 1, "loss": value, "accuracy": accuracy, "grad_norm": norm, "lr": lr}));
        let metrics = Metrics::from([
            ("loss".into(), value),
            ("accuracy".into(), accuracy),
            ("grad_norm".into(), norm),
            ("lr".into(), lr),
        ]);
        observer.on_event(&Event::Step { stage: Stage::Reward, step: step + 1, total, metrics: &metrics });
        if observer.stop_requested() {
            return Err(Error::Interrupted { stage: Stage::Reward, step: step + 1, checkpoint: None });
        }
    }
    let model = trainer.model;
    let held_out = match sources::pairs_eval(recipe)? {
        Some(rows) => {
            note_skipped(observer, "data.pairs_eval", rows.skipped.len());
            Some(measure(&model, engine, &encode(codec, &rows.rows, context)?)?)
        }
        None => None,
    };
    observer.on_event(&Event::StageFinished { stage: Stage::Reward });
    Ok(Trained { model, log, held_out })
}

/// Accuracy, margin, calibration and length correlation on pairs the model has not seen.
fn measure(model: &Model, engine: &Engine, pairs: &[Pair]) -> Result<HeldOut, Error> {
    let rows: Vec<Row<'_>> = pairs.iter().flat_map(Pair::rows).collect();
    let out = model.forward(engine, &rows, 1.0).map_err(|e| Error::input("data.pairs_eval", e))?;
    let scored: Vec<HeldOutPair> = pairs
        .iter()
        .zip(out.chunks_exact(2))
        .map(|(p, s)| HeldOutPair {
            chosen: s[0].scalars[0],
            rejected: s[1].scalars[0],
            chosen_len: p.chosen_len,
            rejected_len: p.rejected_len,
            domain: p.domain.clone(),
        })
        .collect();
    HeldOut::measure(&scored).map_err(Error::stage(Stage::Reward))
}

/// Writes a reward model as a Hugging Face directory with its normalisation.
///
/// # Errors
/// If a file cannot be written.
pub fn save(dir: &Path, model: &Model, norm: RewardNorm) -> Result<(), tetherline_core::BoxError> {
    model.save(dir, SaveType::F32)?;
    std::fs::write(dir.join(NORM_FILE), format!("{}\n", serde_json::to_string_pretty(&norm)?))?;
    Ok(())
}

/// A freshly trained model as a scorer, not normalised yet.
///
/// # Errors
/// If its tokenizer cannot be used.
pub fn as_scorer(model: Model, files: &ModelFiles) -> Result<RewardModel, Error> {
    let codec = Codec::load(files, &model)?;
    Ok(RewardModel { model, codec, norm: RewardNorm::IDENTITY, shares_tokens: true })
}
