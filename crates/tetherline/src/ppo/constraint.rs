//! PPO-Lagrangian: the mean cost of responses is held at a limit (Safe-RLHF, Dai et al. 2023).
//!
//! ```text
//! A = (A_R − λ·A_C)/(1 + λ)          two critics, one of rewards and one of costs
//! ln λ ← ln λ + lr·λ·(c̄ − limit)     c̄ the mean cost over at least `window` responses
//! ```
//!
//! λ is the law `dual` of `tetherline-kl`. That law steers a KL, which is never negative, to a target above 0, and depends on
//! their difference alone: it is told c̄ − limit + [`SHIFT`] with a target of [`SHIFT`].

use super::{Ppo, VALUE_HEAD_SD, frozen_like, not_finite, stage};
use crate::Error;
use crate::codec::Codec;
use crate::recipe::{CostSection, Recipe};
use crate::rows::{samples, scalar_rows};
use crate::scoring::{RewardTokens, Scorer};
use crate::train::Trainer;
use tetherline_core::{Advantages, Ragged, ScoredRollout};
use tetherline_kl::law::{Dual, Fixed, Law};
use tetherline_kl::{ALL, DomainKl, KlConfig, KlController, KlObservation, KlPolicy, NatsPerSequence};
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Heads, Model};
use tetherline_ppo::{MissingEos, constrained_advantages, score_rollout};

/// Cost units added to measurement and target: no mean cost is further below its limit.
const SHIFT: f64 = 1e6;

/// What a constraint keeps.
pub(super) struct Constraint {
    limit: f64,
    scorer: Scorer,
    pub(super) critic: Trainer,
    pub(super) multiplier: KlPolicy,
    /// Value loss of the cost critic in the last update.
    pub(super) value_loss: f64,
}

/// The costs of a step.
pub(super) struct Costs {
    pub(super) scored: ScoredRollout,
    pub(super) adv: Advantages,
    /// λ of this step.
    pub(super) lambda: f64,
}

fn multiplier(section: &CostSection) -> Result<KlPolicy, Error> {
    let m = section.multiplier;
    let law = if m.lr == 0.0 {
        Law::Fixed(Fixed { init: m.init })
    } else {
        let dual = Dual::new(m.init, NatsPerSequence(SHIFT));
        Law::Dual(Dual { lr: m.lr, window: m.window, beta_min: m.min, beta_max: m.max, ..dual })
    };
    KlPolicy::new(KlConfig::from(law)).map_err(|e| Error::input("cost.multiplier", e))
}

impl Constraint {
    /// The constraint of a recipe; its critic starts as the cost model where that has the policy's tokenizer.
    pub(super) fn new(
        recipe: &Recipe,
        codec: &Codec,
        start: &Model,
        adam: AdamWConfig,
    ) -> Result<Option<Self>, Error> {
        let (Some(section), Some(mut scorer)) = (&recipe.cost, Scorer::of_costs(recipe, codec)?) else {
            return Ok(None);
        };
        let fail = |e: tetherline_models::ModelError| Error::input("the cost critic", e);
        let critic = match scorer.reward.as_mut().and_then(|(rm, _)| rm.decoder_mut()) {
            Some(model) if model.tokens == RewardTokens::Shared => {
                let first = super::first_head(&model.model, recipe.seed).map_err(fail)?;
                frozen_like(&recipe.model, first, recipe.seed).map_err(fail)?
            }
            _ => {
                let heads = Heads { lm: false, scalar: true };
                let mut m = start.with_heads(heads, recipe.seed).map_err(fail)?;
                m.init_scalar_head(VALUE_HEAD_SD, recipe.seed);
                m
            }
        };
        let (critic, multiplier) = (Trainer::new(critic, adam), multiplier(section)?);
        Ok(Some(Self { limit: section.limit, scorer, critic, multiplier, value_loss: 0.0 }))
    }

    /// λ in force.
    pub(super) fn lambda(&self) -> f64 {
        self.multiplier.beta(ALL)
    }
}

impl Ppo<'_> {
    /// Advantages under the constraint, where there is one; its costs are kept for the update.
    pub(super) fn constrained(
        &mut self,
        step: u64,
        scored: &ScoredRollout,
        full: &[Vec<u32>],
        betas: &[f64],
    ) -> Result<Option<Advantages>, Error> {
        let Some(constraint) = &mut self.constraint else { return Ok(None) };
        // Of an update that is undone nothing is logged.
        constraint.value_loss = 0.0;
        let rollout = &scored.rollout;
        let mut parts = constraint.scorer.score(self.engine, &samples(rollout))?;
        parts.iter_mut().for_each(|part| part.name = format!("cost/{}", part.name));
        let mut of_costs = rollout.clone();
        let rows = scalar_rows(full, rollout, false);
        let values =
            constraint.critic.model.forward(self.engine, &rows, rollout.temperature).map_err(stage)?;
        of_costs.values = Ragged::from_rows(values.into_iter().map(|r| r.scalars));
        let costs = score_rollout(of_costs, parts, MissingEos::None).map_err(not_finite(step))?;
        let lambda = constraint.lambda();
        let (adv, of_costs) =
            constrained_advantages(scored, &costs, betas, lambda, self.config).map_err(not_finite(step))?;
        let (n, sum) = costs.scores.iter().fold((0.0, 0.0), |(n, sum), &c| (n + 1.0, sum + f64::from(c)));
        let mean = sum / n;
        let var =
            costs.scores.iter().map(|&c| (f64::from(c) - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        let seen = NatsPerSequence(SHIFT + mean - constraint.limit);
        let domain = DomainKl::new(ALL, seen, var, costs.scores.len() as u64);
        constraint.multiplier.observe(&KlObservation::rollout(step, vec![domain]));
        self.costs = Some(Costs { scored: costs, adv: of_costs, lambda });
        Ok(Some(adv))
    }

    /// The metrics of the constraint.
    pub(super) fn put_costs(&self, put: &mut impl FnMut(&str, f64)) {
        let (Some(constraint), Some(costs)) = (&self.constraint, &self.costs) else { return };
        let mean = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len().max(1) as f64;
        let of = mean(&costs.scored.scores);
        put("cost/mean", of);
        put("cost/above_limit", of - constraint.limit);
        put("cost/lambda", costs.lambda);
        put("loss/cost_value_avg", constraint.value_loss);
        costs.scored.parts.iter().for_each(|part| put(&part.name, mean(&part.values)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Multiplier;

    /// ln λ rises by lr·λ·(c̄ − limit), falls below the limit, and stays within its bounds.
    #[test]
    fn the_multiplier_is_dual_ascent_on_its_logarithm() {
        let section = CostSection {
            limit: 0.25,
            model_weight: 1.0,
            multiplier: Multiplier { window: 1, ..Multiplier::default() },
            rule: vec![],
        };
        let mut policy = multiplier(&section).unwrap();
        let mut see = |step, cost: f64| {
            let kl = NatsPerSequence(SHIFT + cost - section.limit);
            policy.observe(&KlObservation::rollout(step, vec![DomainKl::new(ALL, kl, 0.5, 64)]));
            policy.beta(ALL)
        };
        let up = (0.1f64 * 1.0 * 0.5).exp();
        assert!((see(1, 0.75) - up).abs() < 1e-8);
        let down = up * (0.1 * up * (-3.0 - 0.25)).exp();
        assert!((see(2, -3.0) - down).abs() < 1e-8, "costs below 0 are safe ones");
        for step in 3..60 {
            assert!(see(step, 100.0) <= 5.0 + 1e-12);
        }
        assert!((see(60, 100.0) - 5.0).abs() < 1e-9);
    }
}
