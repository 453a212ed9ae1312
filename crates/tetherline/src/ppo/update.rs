//! The update: the surrogate of the recipe, `epochs` times over `minibatches`. Without a critic the policy learns alone, and
//! in the first `critic_warmup` steps the critic.

use super::loss::{Part, PpoLoss};
use super::{Ppo, stage};
use crate::Error;
use crate::rows::{lm_rows, scalar_rows};
use crate::train::{NonFiniteGradient, Trainer};
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{Advantages, ScoredRollout, Stage, UpdateStats};
use tetherline_kl::NatsPerSequence;
use tetherline_models::{Engine, Row};
use tetherline_ppo::{
    LossSums, MinibatchTotals, PpoConfig, PpoError, ScoreAt, explained_variance, old_values_row,
};

impl Ppo<'_> {
    pub(super) fn update(
        &mut self,
        step: u64,
        scored: &ScoredRollout,
        adv: &Advantages,
        full: &[Vec<u32>],
        lr: f64,
    ) -> Result<UpdateStats, Error> {
        let (rollout, engine, max_grad_norm) = (&scored.rollout, self.engine, self.config.max_grad_norm);
        let mut lm = lm_rows(full, rollout);
        let scalar = scalar_rows(full, rollout, self.config.score_at == ScoreAt::AfterEos);
        let n = lm.len();
        let config = &PpoConfig { entropy_coef: self.entropy_bonus, ..self.config.clone() };
        let critic = config.advantages.needs_critic();
        let policy_learns = step > config.critic_warmup;
        let spoils_gradients = self.spoils_gradients(step);
        // A value head on the policy's own trunk learns with it, and has no warm-up.
        let shared = critic && self.value.is_none();
        if shared {
            lm.iter_mut().zip(&scalar).for_each(|(row, s)| row.scalar = s.scalar.clone());
        }
        let not_finite = |e: NonFiniteGradient| Error::NotFinite {
            stage: Stage::Ppo,
            step,
            what: e.to_string(),
            last_checkpoint: None,
        };
        let (mut sums, mut norms, mut steps) = (LossSums::default(), 0.0, 0u64);
        let mut of_costs = LossSums::default();
        'epochs: for epoch in 0..self.config.epochs {
            let mut order: Vec<usize> = (0..n).collect();
            stream(self.recipe.seed, Purpose::Shuffle, step, epoch as u64, 0).shuffle(&mut order);
            let mut of_epoch = LossSums::default();
            for minibatch in order.chunks(n / self.config.minibatches) {
                let totals = MinibatchTotals::of(adv, adv.counted.as_ref(), minibatch);
                let loss = |rows, what| PpoLoss { rows, rollout, adv, totals: &totals, config, what };
                let micros = || minibatch.chunks(self.config.micro_batch.unwrap_or(n));
                // One model after the other: they need one gradient between them.
                if policy_learns {
                    for rows in micros() {
                        let loss = loss(rows, if shared { Part::Both } else { Part::Policy });
                        let stats = accumulate(&mut self.policy, engine, &lm, &loss)?;
                        merge(&mut of_epoch, stats, step)?;
                    }
                    if spoils_gradients {
                        self.policy.spoil_gradient();
                    }
                    norms += self.policy.step(engine, lr, max_grad_norm).map_err(not_finite)?;
                }
                if let Some(value) = &mut self.value {
                    for rows in micros() {
                        let stats = accumulate(value, engine, &scalar, &loss(rows, Part::Value))?;
                        merge(&mut of_epoch, stats, step)?;
                    }
                    value.step(engine, lr, max_grad_norm).map_err(not_finite)?;
                }
                if let (Some(constraint), Some(costs)) = (&mut self.constraint, &self.costs) {
                    let (rollout, adv) = (&costs.scored.rollout, &costs.adv);
                    for rows in micros() {
                        let loss = PpoLoss { rollout, adv, ..loss(rows, Part::Value) };
                        let stats = accumulate(&mut constraint.critic, engine, &scalar, &loss)?;
                        merge(&mut of_costs, stats, step)?;
                    }
                    constraint.critic.step(engine, lr, max_grad_norm).map_err(not_finite)?;
                }
                steps += 1;
            }
            let per_token = of_epoch.approx_kl_mean();
            let per_sequence = NatsPerSequence(of_epoch.approx_kl / n.max(1) as f64);
            let region = self.recipe.kl.trust_region;
            let stop =
                self.config.stops_early(per_token) || region.is_some_and(|r| r.early_stop(per_sequence));
            sums.merge(&of_epoch);
            if stop {
                break 'epochs;
            }
        }
        self.spoil_values(step);
        if let Some(constraint) = &mut self.constraint {
            constraint.value_loss = of_costs.means(steps).value_loss;
        }
        let mut stats = sums.means(steps);
        stats.grad_norm = norms / steps.max(1) as f64;
        let (mut returns, mut values) = (Vec::new(), Vec::new());
        for i in (0..n).filter(|_| critic) {
            let v = old_values_row(rollout, adv, i);
            returns.extend_from_slice(&adv.returns.row(i)[..v.len()]);
            values.extend_from_slice(&v);
        }
        stats.explained_variance = explained_variance(&returns, &values);
        Ok(stats)
    }
}

fn accumulate(
    trainer: &mut Trainer,
    engine: &Engine,
    rows: &[Row<'_>],
    loss: &PpoLoss<'_>,
) -> Result<Vec<Result<LossSums, PpoError>>, Error> {
    let units: Vec<Vec<Row<'_>>> = loss.rows.iter().map(|&i| vec![rows[i].clone()]).collect();
    trainer.accumulate(engine, &units, loss.rollout.temperature, loss).map_err(stage)
}

fn merge(sums: &mut LossSums, rows: Vec<Result<LossSums, PpoError>>, step: u64) -> Result<(), Error> {
    for row in rows {
        sums.merge(&row.map_err(super::not_finite(step))?);
    }
    Ok(())
}
