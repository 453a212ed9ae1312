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
use tetherline_reward::{HeldOut, RewardNorm};

use data::{Comparison, Preferences};
use loss::{Part, PreferenceLoss};

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
    let data = Preferences::load(recipe, codec, model.context(), observer)?;
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
        seed: recipe.seed,
        items: pairs.len(),
        batch_size: config.batch_size,
        schedule,
        max_grad_norm: config.max_grad_norm,
        engine,
        run,
        checkpoint: &recipe.checkpoint,
    };
    let gamma = if config.length_debias { data.gamma } else { 0.0 };
    let (model, log) = training.train(Trainer::new(model, adam), observer, |trainer, batch| {
        let batch: Vec<&Comparison> = batch.iter().map(|&i| &pairs[i]).collect();
        let loss = PreferenceLoss { batch: &batch, config, gamma };
        let units: Vec<Vec<Row<'_>>> = batch.iter().map(|c| c.rows()).collect();
        let stats = trainer.accumulate(engine, &units, 1.0, &loss)?;
        let sum = |of: fn(&Part) -> f64| stats.iter().map(of).sum::<f64>();
        let mut metrics = Metrics::from([("loss".to_owned(), sum(|s| s.loss))]);
        let ordered = sum(|s| s.ordered);
        if ordered > 0.0 {
            metrics.insert("accuracy".to_owned(), sum(|s| s.right) / ordered);
        }
        Ok(metrics)
    })?;
    let scores = held_out::scores(&model, engine, &data.held_out)?;
    let held_out = held_out::measure(&data, &scores)?;
    Ok(Trained { model, log, held_out })
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
