//! Reward-model training: Bradley–Terry on preference pairs, then mean 0 and standard deviation 1 on the
//! reference policy's samples, so that β means the same thing in every run.

use crate::codec::Codec;
use crate::fit::Fit;
use crate::recipe::Recipe;
use crate::run_dir::RunDir;
use crate::scoring::{NORM_FILE, REWARD_HEADS, RewardModel, RewardTokens};
use crate::sft::note_skipped;
use crate::supervised::Supervised;
use crate::train::Trainer;
use crate::{Error, sources};
use std::collections::HashSet;
use std::path::Path;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{Metrics, Observer, Schedule, Stage};
use tetherline_data::PairRow;
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Engine, Model, ModelFiles, Row, RowGrad, RowOutput, SaveType, UnitLoss};
use tetherline_reward::{HeldOut, HeldOutPair, RewardNorm, pair_loss};

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

fn encode(codec: &Codec, rows: &[PairRow], fit: &mut Fit) -> Result<Vec<Pair>, Error> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let c = codec.example(&row.prompt, row.chosen.last_text(), true)?;
        let r = codec.example(&row.prompt, row.rejected.last_text(), true)?;
        if !fit.keeps(row.line, c.tokens.len().max(r.tokens.len()))? {
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

/// Takes the pairs of a tenth of the prompts out of `rows`: a prompt is either trained or tested on. None
/// where there are fewer than ten prompts.
pub(crate) fn hold_out(rows: &mut Vec<PairRow>, seed: u64) -> Vec<PairRow> {
    // In the file's order: that of a hash set is not the same in every run.
    let mut seen = HashSet::new();
    let mut prompts: Vec<_> =
        rows.iter().map(|r| r.prompt.clone()).filter(|p| seen.insert(p.clone())).collect();
    stream(seed, Purpose::Shuffle, u64::MAX, Stage::Reward as u64, 0).shuffle(&mut prompts);
    prompts.truncate(prompts.len() / 10);
    let held: HashSet<_> = prompts.into_iter().collect();
    let (test, train) = std::mem::take(rows).into_iter().partition(|r| held.contains(&r.prompt));
    *rows = train;
    test
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
    run: &RunDir,
    observer: &mut dyn Observer,
) -> Result<Trained, Error> {
    let config = &recipe.reward;
    let fail = |e: tetherline_models::ModelError| Error::input("the reward model", e);
    let model = policy.with_heads(REWARD_HEADS, recipe.seed).map_err(fail)?;
    let context = model.context();
    let loaded = sources::pairs(recipe)?.ok_or_else(|| Error::input("data.pairs", "missing"))?;
    note_skipped(observer, "data.pairs", loaded.skipped.len());
    let skip = recipe.data.skip_bad_lines;
    let fit = |key| Fit::new(sources::file_of(recipe, key), context, format!("context {context}"), skip);
    let mut rows = loaded.rows;
    let held_out = match sources::pairs_eval(recipe)? {
        Some(given) => {
            note_skipped(observer, "data.pairs_eval", given.skipped.len());
            given.rows
        }
        None => hold_out(&mut rows, recipe.seed),
    };
    crate::typed::warn(observer, "data.pairs", codec, rows.iter().map(|r| (r.line, &r.prompt)));
    let mut strict = fit("data.pairs");
    let pairs = encode(codec, &rows, &mut strict)?;
    strict.report(observer);
    let mut strict = fit(if recipe.data.pairs_eval.is_some() { "data.pairs_eval" } else { "data.pairs" });
    let held_out = encode(codec, &held_out, &mut strict)?;
    strict.report(observer);
    if pairs.is_empty() {
        return Err(Error::input("data.pairs", "no pair fits the model's context"));
    }
    let per_epoch = pairs.len().div_ceil(config.batch_size) as u64;
    let total = config.steps.unwrap_or(u64::MAX).min(per_epoch * config.epochs as u64);
    let adam = AdamWConfig {
        beta1: config.beta1,
        beta2: config.beta2,
        eps: config.adam_eps,
        weight_decay: config.weight_decay,
    };
    let schedule =
        Schedule { peak: config.lr, warmup: config.warmup_steps, total, decay: config.lr_schedule };
    let training = Supervised {
        stage: Stage::Reward,
        seed: recipe.seed,
        items: pairs.len(),
        batch_size: config.batch_size,
        schedule,
        max_grad_norm: config.max_grad_norm,
        engine,
        run,
        checkpoint: &recipe.checkpoint,
    };
    let (model, log) = training.train(Trainer::new(model, adam), observer, |trainer, batch| {
        let batch: Vec<&Pair> = batch.iter().map(|&i| &pairs[i]).collect();
        let loss = BradleyTerry { pairs: &batch, center: config.center_coef };
        let units: Vec<Vec<Row<'_>>> = batch.iter().map(|p| p.rows()).collect();
        let stats = trainer.accumulate(engine, &units, 1.0, &loss)?;
        let sum = |of: fn(&(f64, f64)) -> f64| stats.iter().map(of).sum::<f64>();
        Ok(Metrics::from([("loss".to_owned(), sum(|s| s.0)), ("accuracy".to_owned(), sum(|s| s.1))]))
    })?;
    let held_out = if held_out.is_empty() { None } else { Some(measure(&model, engine, &held_out)?) };
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
    Ok(RewardModel { model, codec, norm: RewardNorm::IDENTITY, tokens: RewardTokens::Shared })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_data::{ReadOptions, read_pairs_str};

    #[test]
    fn a_tenth_of_the_prompts_is_held_out_whole() {
        let line = |i: usize| {
            format!("{{\"prompt\":\"p{}\",\"chosen\":\"good {i}\",\"rejected\":\"bad {i}\"}}\n", i % 40)
        };
        let text: String = (0..120).map(line).collect();
        let read = || read_pairs_str("pairs", &text, &ReadOptions::default()).unwrap().rows;
        let (mut train, mut again) = (read(), read());
        let test = hold_out(&mut train, 3);
        assert_eq!((train.len(), test.len()), (108, 12), "4 of 40 prompts, 3 pairs each");
        assert!(test.iter().all(|t| train.iter().all(|r| r.prompt != t.prompt)));
        assert_eq!(hold_out(&mut again, 3), test, "the same in every run");
        let mut few = read();
        few.truncate(9);
        assert!(hold_out(&mut few, 3).is_empty());
        assert_eq!(few.len(), 9);
    }
}
