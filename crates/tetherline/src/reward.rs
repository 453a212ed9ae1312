//! Reward-model training: preference pairs and rankings, then mean 0 and standard deviation 1 on the reference policy's
//! samples, so that β means the same thing in every run.

pub(crate) mod data;
pub(crate) mod held_out;
mod loss;

use crate::Error;
use crate::codec::Codec;
use crate::recipe::Recipe;
use crate::run_dir::RunDir;
use crate::scoring::{NORM_FILE, REWARD_HEADS, RewardModel, RewardTokens};
use crate::supervised::Supervised;
use crate::train::Trainer;
use std::path::Path;
use tetherline_core::{Metrics, Observer, Schedule, Stage};
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Engine, Model, ModelFiles, Row, SaveType};
use tetherline_reward::RewardNorm;

use data::Comparison;
pub(crate) use data::Preferences;
use loss::{Part, PreferenceLoss};

/// Between the seeds of members; odd, so that they are all different.
const MEMBER_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Trains member `member` of a recipe's reward models from `policy`'s trunk; returns the model, not normalised yet, and one
/// log row per step. Members differ in their head and in the order of the data; the heads of one in their weights and,
/// with `bootstrap`, in how often each comparison counts.
///
/// # Errors
/// If a loss is not finite, or the observer asked to stop.
pub(crate) fn train(
    recipe: &Recipe,
    policy: &Model,
    data: &Preferences,
    member: usize,
    engine: &Engine,
    run: &RunDir,
    observer: &mut dyn Observer,
) -> Result<(Model, Vec<serde_json::Value>), Error> {
    let config = &recipe.reward;
    let fail = |e: tetherline_models::ModelError| Error::input("the reward model", e);
    let seed = recipe.seed.wrapping_add((member as u64).wrapping_mul(MEMBER_SEED));
    let heads = config.ensemble.heads;
    let model = policy.with_scores(REWARD_HEADS, heads, seed).map_err(fail)?;
    let drawn = loss::drawn(&config.ensemble, data.train.len(), seed);
    let pairs = &data.train;
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
        member,
        seed,
        items: pairs.len(),
        batch_size: config.batch_size,
        schedule,
        max_grad_norm: config.max_grad_norm,
        engine,
        run,
        checkpoint: &recipe.checkpoint,
    };
    let gamma = if config.length_debias { data.gamma } else { 0.0 };
    training.train(Trainer::new(model, adam), observer, |trainer, batch| {
        let times: Vec<&[f64]> = batch.iter().map(|&i| &drawn[i][..]).collect();
        let batch: Vec<&Comparison> = batch.iter().map(|&i| &pairs[i]).collect();
        let loss = PreferenceLoss { batch: &batch, times: &times, config, gamma };
        let units: Vec<Vec<Row<'_>>> = batch.iter().map(|c| c.rows()).collect();
        let stats = trainer.accumulate(engine, &units, 1.0, &loss)?;
        let sum = |of: fn(&Part) -> f64| stats.iter().map(of).sum::<f64>();
        let mut metrics = Metrics::from([("loss".to_owned(), sum(|s| s.loss))]);
        let ordered = sum(|s| s.ordered);
        if ordered > 0.0 {
            metrics.insert("accuracy".to_owned(), sum(|s| s.right) / ordered);
        }
        Ok(metrics)
    })
}

/// Scores of the held-out answers by each head of a member, as they are.
pub(crate) fn held_out_scores(
    data: &Preferences,
    model: &Model,
    engine: &Engine,
) -> Result<Vec<Vec<Vec<f32>>>, Error> {
    held_out::scores(model, engine, &data.held_out)
}

/// Writes a reward model as a Hugging Face directory with the normalisation of its heads.
///
/// # Errors
/// If a file cannot be written.
pub fn save(dir: &Path, model: &Model, norms: &[RewardNorm]) -> Result<(), tetherline_core::BoxError> {
    model.save(dir, SaveType::F32)?;
    let text = match norms {
        [norm] => serde_json::to_string_pretty(norm),
        heads => serde_json::to_string_pretty(heads),
    };
    std::fs::write(dir.join(NORM_FILE), format!("{}\n", text?))?;
    Ok(())
}

/// A freshly trained model as a scorer, not normalised yet.
///
/// # Errors
/// If its tokenizer cannot be used.
pub fn as_scorer(model: Model, files: &ModelFiles) -> Result<RewardModel, Error> {
    let codec = Codec::load(files, &model)?;
    let norms = vec![RewardNorm::IDENTITY; model.config().scores];
    Ok(RewardModel { model, codec, norms, tokens: RewardTokens::Shared })
}
