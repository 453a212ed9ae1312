//! Seconds of a step: operations of each part over the operations per second that were measured of it.

use super::lengths::Lengths;
use super::models::{Models, Reference};
use super::probe::Speeds;
use crate::recipe::{Dtype, Recipe};
use serde::Serialize;
use tetherline_core::Stage;
use tetherline_models::{ModelShape, Precision, RowSize};
use tetherline_rollout::Batches;

/// Seconds of an optimizer step of a supervised stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageTime {
    /// Which.
    #[serde(serialize_with = "super::name")]
    pub stage: Stage,
    /// Seconds of a step.
    pub seconds: f64,
}

/// Seconds of a step of PPO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StepTime {
    /// Sampling responses.
    pub rollout: f64,
    /// Reference, values and reward.
    pub scoring: f64,
    /// All epochs of the update.
    pub update: f64,
}

impl StepTime {
    /// Seconds of all of it.
    pub fn total(&self) -> f64 {
        self.rollout + self.scoring + self.update
    }
}

struct Clock<'s> {
    speeds: &'s Speeds,
    precision: Precision,
    checkpointing: bool,
}

impl Clock<'_> {
    fn forward(&self, shape: &ModelShape, rows: &[RowSize]) -> f64 {
        shape.spec().forward_work(rows).total() / self.speeds.of(self.precision).forward
    }

    fn step(&self, shape: &ModelShape, rows: &[RowSize]) -> f64 {
        let speeds = self.speeds.of(self.precision);
        let work = shape.spec().step_work(rows, self.checkpointing);
        (work.total() - work.backward) / speeds.forward + work.backward / speeds.backward
    }

    /// The optimizer, the panels that are packed anew, and the gradient that is cleared.
    fn optimizer(&self, shape: &ModelShape) -> f64 {
        shape.spec().n_trained() as f64 * self.speeds.of(self.precision).optimizer
    }

    fn decode(&self, shape: &ModelShape, rows: &[RowSize], samples: usize) -> f64 {
        let Some(first) = rows.first() else { return 0.0 };
        let speeds = self.speeds.of(self.precision);
        let mean = rows.iter().map(|r| r.tokens - r.lm).sum::<usize>() / rows.len();
        let work = shape.spec().decode_work(rows.len(), mean, first.lm, samples);
        // Weights that no cache holds have to come from memory for every step.
        let panels = shape.spec().panel_bytes(false, self.precision);
        let batches = Batches::of(shape.spec().n_params, rows.len(), self.speeds.threads);
        let rounds = rows.len().div_ceil(batches.rows * batches.count) * first.lm;
        let bytes = ((panels.frozen + panels.trained) * batches.count * rounds) as f64;
        let beyond = (panels.frozen + panels.trained) > self.speeds.cached;
        let reading = if beyond { bytes / self.speeds.bandwidth } else { 0.0 };
        (work.total() / speeds.decode).max(reading)
    }
}

/// Seconds of the supervised stages, and of a step of PPO.
pub(super) fn of(
    recipe: &Recipe,
    models: &Models,
    lengths: &Lengths,
    speeds: &Speeds,
) -> (Vec<StageTime>, StepTime) {
    let precision = match recipe.model.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
    };
    let clock = Clock { speeds, precision, checkpointing: recipe.model.gradient_checkpointing };
    let mut stages = Vec::new();
    let mut supervised = |stage: Stage, shape: &ModelShape, units: Vec<Vec<RowSize>>| {
        let rows: Vec<RowSize> = units.into_iter().flatten().collect();
        if !rows.is_empty() {
            stages.push(StageTime { stage, seconds: clock.step(shape, &rows) + clock.optimizer(shape) });
        }
    };
    if let Some(sft) = recipe.sft.as_ref().filter(|_| recipe.runs_sft()) {
        supervised(Stage::Sft, &models.start, lengths.sft_batch(sft.batch_size));
    }
    if let (true, Some((reward, _))) = (recipe.trains_reward_model(), &models.reward) {
        supervised(Stage::Reward, reward, lengths.pair_batch(recipe.reward.batch_size));
    }

    let ppo = &recipe.ppo;
    let rows = lengths.rollout(ppo.batch_size);
    let policy = &models.policy;
    let reference = match &models.reference {
        Reference::Copy => &models.start,
        Reference::Other(shape) => shape,
    };
    let scalars: Vec<RowSize> = rows.iter().map(|r| RowSize { lm: 0, ..*r }).collect();
    let mut scoring = clock.forward(policy, &rows) + clock.forward(reference, &rows);
    let mut epoch = clock.step(policy, &rows) + ppo.minibatches as f64 * clock.optimizer(policy);
    if let Some((value, _)) = &models.value {
        scoring += clock.forward(value, &scalars);
        epoch += clock.step(value, &scalars) + ppo.minibatches as f64 * clock.optimizer(value);
    }
    if let Some((reward, _)) = &models.reward {
        scoring += models.members as f64 * clock.forward(reward, &scalars);
    }
    let rollout = clock.decode(policy, &rows, ppo.samples_per_prompt);
    (stages, StepTime { rollout, scoring, update: ppo.epochs as f64 * epoch })
}
