//! Seconds of a step: operations of each part over the operations per second that were measured of it.

use super::Ground;
use super::models::{Models, Reference};
use super::probe::{Kind, Rates, Speeds};
use crate::Error;
use crate::recipe::{Dtype, Recipe};
use serde::Serialize;
use tetherline_core::Stage;
use tetherline_models::{ModelShape, Precision, RowSize};
use tetherline_ppo::ScoreAt;
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
    /// The first trial of the update (`[trial]`), where there are any. Every time that an update is scaled back there is
    /// one more.
    pub trial: f64,
}

impl StepTime {
    /// Seconds of all of it.
    pub fn total(&self) -> f64 {
        self.rollout + self.scoring + self.update + self.trial
    }
}

struct Clock<'s> {
    speeds: &'s Speeds,
    precision: Precision,
    checkpointing: bool,
}

impl Clock<'_> {
    fn rates(&self, shape: &ModelShape) -> Result<Rates, Error> {
        let adapter = shape.adapter().cloned();
        self.speeds.of(Kind { precision: self.precision, checkpointing: self.checkpointing, adapter })
    }

    fn forward(&self, shape: &ModelShape, rows: &[RowSize]) -> Result<f64, Error> {
        Ok(shape.spec().forward_work(rows).total() / self.rates(shape)?.forward)
    }

    fn step(&self, shape: &ModelShape, rows: &[RowSize]) -> Result<f64, Error> {
        let rates = self.rates(shape)?;
        let work = shape.spec().step_work(rows, self.checkpointing);
        Ok((work.total() - work.backward) / rates.forward + work.backward / rates.backward)
    }

    /// The optimizer, the panels that are packed anew, and the gradient that is cleared.
    fn optimizer(&self, shape: &ModelShape) -> Result<f64, Error> {
        Ok(shape.spec().n_trained() as f64 * self.rates(shape)?.optimizer)
    }

    fn decode(&self, shape: &ModelShape, rows: &[RowSize], samples: usize) -> Result<f64, Error> {
        let Some(first) = rows.first() else { return Ok(0.0) };
        let rate = self.rates(shape)?.decode;
        let mean = rows.iter().map(|r| r.tokens - r.lm).sum::<usize>() / rows.len();
        let work = shape.spec().decode_work(rows.len(), mean, first.lm, samples);
        // Weights that no cache holds have to come from memory for every step.
        let panels = shape.spec().panel_bytes(false, self.precision);
        let batches = Batches::of(shape.spec().n_params, rows.len(), self.speeds.threads);
        let rounds = rows.len().div_ceil(batches.rows * batches.count) * first.lm;
        let bytes = ((panels.frozen + panels.trained) * batches.count * rounds) as f64;
        let beyond = (panels.frozen + panels.trained) > self.speeds.cached;
        let reading = if beyond { bytes / self.speeds.bandwidth } else { 0.0 };
        Ok((work.total() / rate).max(reading))
    }
}

/// Seconds of the supervised stages, and of a step of PPO where it is not DPO that makes the policy.
pub(super) fn of(
    recipe: &Recipe,
    models: &Models,
    ground: &Ground,
) -> Result<(Vec<StageTime>, Option<StepTime>), Error> {
    let Ground { lengths, speeds, .. } = ground;
    let precision = match recipe.model.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
    };
    let clock = Clock { speeds, precision, checkpointing: recipe.model.gradient_checkpointing };
    let mut stages = Vec::new();
    let supervised = |stage: Stage, shape: &ModelShape, units: Vec<Vec<RowSize>>| -> Result<_, Error> {
        let rows: Vec<RowSize> = units.into_iter().flatten().collect();
        let seconds = clock.step(shape, &rows)? + clock.optimizer(shape)?;
        Ok((!rows.is_empty()).then_some(StageTime { stage, seconds }))
    };
    if let Some(sft) = recipe.sft.as_ref().filter(|_| recipe.runs_sft()) {
        stages.extend(supervised(Stage::Sft, &models.start, lengths.sft_batch(sft.batch_size))?);
    }
    if let (true, Some((reward, _))) = (recipe.trains_reward_model(), &models.reward) {
        stages.extend(supervised(Stage::Reward, reward, lengths.pair_batch(recipe.reward.batch_size))?);
    }
    let reference = match &models.reference {
        Reference::Copy => &models.start,
        Reference::Other(shape) => shape,
    };
    if let Some(dpo) = &recipe.dpo {
        let pairs = lengths.dpo_batch(dpo.batch_size);
        let rows: Vec<RowSize> = pairs.iter().flatten().copied().collect();
        let of_reference = clock.forward(reference, &rows)?;
        let step = supervised(Stage::Dpo, &models.policy, pairs)?;
        stages.extend(step.map(|s| StageTime { seconds: s.seconds + of_reference, ..s }));
        return Ok((stages, None));
    }

    let ppo = &recipe.ppo;
    let rows = lengths.rollout(ppo.batch_size);
    let policy = &models.policy;
    let scalars: Vec<RowSize> = rows.iter().map(|r| RowSize { lm: 0, ..*r }).collect();
    let mut scoring = clock.forward(policy, &rows)? + clock.forward(reference, &rows)?;
    let mut epoch = clock.step(policy, &rows)? + ppo.minibatches as f64 * clock.optimizer(policy)?;
    match &models.value {
        Some((value, _)) => {
            scoring += clock.forward(value, &scalars)?;
            epoch += clock.step(value, &scalars)? + ppo.minibatches as f64 * clock.optimizer(value)?;
        }
        // The value after the last token is not one that sampling leaves behind.
        None if ppo.score_at == ScoreAt::AfterEos => scoring += clock.forward(policy, &scalars)?,
        None => {}
    }
    if let Some((reward, _)) = &models.reward {
        scoring += models.members as f64 * clock.forward(reward, &scalars)?;
    }
    if let Some((model, critic)) = &models.cost {
        scoring += clock.forward(critic, &scalars)?;
        epoch += clock.step(critic, &scalars)? + ppo.minibatches as f64 * clock.optimizer(critic)?;
        if let Some(model) = model {
            scoring += clock.forward(model, &scalars)?;
        }
    }
    scoring += ground.judges.iter().map(|judge| judge.seconds(&rows)).sum::<f64>();
    let rollout = clock.decode(policy, &rows, ppo.samples_per_prompt)?;
    let mut trial = 0.0;
    if recipe.judges_updates() {
        // To the reference and to the policy before, and where one moves and is capped to the first reference.
        let others = if recipe.keeps_first_reference() { 3.0 } else { 2.0 };
        let shard = lengths.rollout(recipe.trial.prompts);
        let pair = |rows: &[RowSize]| -> Result<f64, Error> {
            Ok(clock.forward(policy, rows)? + clock.forward(reference, rows)?)
        };
        trial = clock.decode(policy, &shard, 1)? + others * pair(&shard)?;
        if recipe.trial.batch {
            trial += others * pair(&rows)?;
        }
    }
    Ok((stages, Some(StepTime { rollout, scoring, update: ppo.epochs as f64 * epoch, trial })))
}
