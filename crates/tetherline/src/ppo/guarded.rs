//! The guard in the loop: an update stands only once it is measured and accepted.
//!
//! ```text
//! hold weights and moments
//! update
//! for trial in 0.. :
//!     measure KL to the reference and to the policy before, on the held-out shard
//!     accept   → the update stands
//!     scale α  → θ ← θ₀ + α·(θ − θ₀), moments alike; measure again
//!     scale 0  → measure θ₀ itself, with θ kept: whether any share can help
//!     reject   → weights and moments as they were, bit for bit
//!     rollback → the same, and then the last checkpoint that passed (`rollback.rs`)
//!     halt     → the same, and the run ends with its state saved
//! ```
//!
//! The controller decides (`tetherline-kl`), this file obeys. A gradient or loss that is not finite is a trial whose KL is
//! not a number. Step counter, data cursor and sampling streams move on whatever the verdict.

use super::shard::{Measured, Shard, Unmeasurable};
use super::{Ppo, stage};
use crate::Error;
use crate::codec::Codec;
use crate::recipe::{Fault, FaultKind, Recipe};
use crate::rows::encode_prompts;
use crate::sources;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tetherline_core::{Advantages, Observer, PromptBatch, ScoredRollout, UpdateStats};
use tetherline_kl::{
    ControlDecision, DomainKl, KlController, KlObservation, NatsPerSequence, ReasonCode, Verdict,
};
use tetherline_models::Model;
use tetherline_models::optim::AdamWState;

/// What a guarded loop keeps besides the models it trains.
pub(super) struct Guarded {
    /// The policy before the update: its weights undo it, and KL(new ‖ old) is measured to it.
    pub(super) old: Model,
    moments: AdamWState,
    /// The same of each critic: of the value model and of costs, as far as there are any.
    critics: Vec<(Vec<f32>, AdamWState)>,
    /// The first reference (of all rounds, where the policy comes from an earlier one), where it is another model than the
    /// reference, or will be, and KL to it is capped.
    pub(super) first: Option<Model>,
    /// Prompts to measure on, and the groups of each.
    pub(super) pool: PromptBatch,
    pub(super) pool_groups: Vec<Vec<String>>,
    /// Whether the weights as they are now passed their last trial with room to a blow-up.
    pub(super) passed: bool,
    /// Updates that did not stand.
    pub(super) rejected: u64,
}

/// What became of a step's update.
pub(super) struct Judged {
    pub(super) stats: UpdateStats,
    /// Share of the update that stands: 1 all, 0 nothing.
    pub(super) kept: f64,
    pub(super) trials: Vec<(KlObservation, ControlDecision)>,
    /// On the shard, at the end of the trials; none where it cannot be measured.
    pub(super) measured: Option<Measured>,
    /// What stands, on the batch's responses and on prompts that decided nothing.
    pub(super) batch: Option<Measured>,
    pub(super) fresh: Option<Measured>,
    /// Why an update could not be measured.
    pub(super) broken: Option<String>,
    pub(super) trial_s: f64,
}

impl Judged {
    /// Of a step without an update (`kept` 0) or one that nothing judges (1).
    pub(super) fn without_trials(stats: UpdateStats, kept: f64) -> Self {
        let (measured, batch, fresh, broken) = (None, None, None, None);
        Self { stats, kept, trials: Vec::new(), measured, batch, fresh, broken, trial_s: 0.0 }
    }

    /// A line for the events per verdict on a trial; `in_force` are the coefficients that shaped the batch.
    pub(super) fn events(&self, in_force: &ControlDecision) -> Vec<Value> {
        let cause = |decision: &ControlDecision| {
            self.broken.clone().filter(|_| decision.verdict != Verdict::Accept).unwrap_or_default()
        };
        let line = |(seen, decision): &(KlObservation, ControlDecision)| {
            verdict_event(seen, decision, in_force, &cause(decision))
        };
        self.trials.iter().map(line).collect()
    }
}

/// A verdict as a line of `events.jsonl`: what was seen, what was decided and why, with every number of both. `cause` is
/// what was not finite, if anything was.
pub(super) fn verdict_event(
    seen: &KlObservation,
    decision: &ControlDecision,
    in_force: &ControlDecision,
    cause: &str,
) -> Value {
    let mut line = json!({"step": seen.step, "event": "verdict", "phase": seen.phase, "verdict": decision.verdict,
        "text": decision.reason.text(), "code": decision.reason.code().as_str(), "scale": decision.scale,
        "lr_factor": decision.lr_factor, "beta": in_force.beta, "domains": seen.domains});
    if let Some(trial) = seen.trial {
        line["trial"] = json!(trial);
    }
    if !seen.metrics.is_empty() {
        line["metrics"] = json!(seen.metrics);
    }
    if !cause.is_empty() {
        line["cause"] = json!(cause);
    }
    line
}

/// The prompts that updates are measured on.
fn pool(
    recipe: &Recipe,
    codec: &Codec,
    context: usize,
    observer: &mut dyn Observer,
) -> Result<PromptBatch, Error> {
    let loaded =
        sources::eval_prompts(recipe)?.ok_or_else(|| Error::input("data.eval_prompts", "missing"))?;
    encode_prompts(recipe, codec, &loaded.rows, context, "data.eval_prompts", observer)
}

impl Guarded {
    /// What the recipe's trust region, guard or ledger needs; nothing where it has none of them.
    pub(super) fn new(
        recipe: &Recipe,
        codec: &Codec,
        (policy, critics, reference): (&Model, &[&Model], &Model),
        observer: &mut dyn Observer,
    ) -> Result<Option<Self>, Error> {
        if !recipe.judges_updates() {
            return Ok(None);
        }
        let fresh = |n: usize| AdamWState { step: 0, m: vec![0.0; n], v: vec![0.0; n] };
        let pool = pool(recipe, codec, policy.context(), observer)?;
        Ok(Some(Self {
            old: policy.clone(),
            moments: fresh(policy.n_trained()),
            critics: critics.iter().map(|m| (m.trained().to_vec(), fresh(m.n_trained()))).collect(),
            first: recipe.keeps_first_reference().then(|| reference.clone()),
            pool_groups: super::observe::groups_of_rows(&recipe.kl, &pool.domains, &pool.users),
            pool,
            passed: true,
            rejected: 0,
        }))
    }
}

impl Ppo<'_> {
    /// The update of a step, held to the verdicts of the controller.
    pub(super) fn judged_update(
        &mut self,
        step: u64,
        scored: &ScoredRollout,
        adv: &Advantages,
        full: &[Vec<u32>],
        groups: &[Vec<String>],
        lr: f64,
    ) -> Result<Judged, Error> {
        if self.guarded.is_none() {
            return Ok(Judged::without_trials(self.update(step, scored, adv, full, lr)?, 1.0));
        }
        self.hold();
        let mut out = match self.update(step, scored, adv, full, lr) {
            Ok(stats) => Judged::without_trials(stats, 1.0),
            Err(Error::NotFinite { what, .. }) => {
                let skipped = Judged::without_trials(UpdateStats::default(), 1.0);
                Judged { broken: Some(what), ..skipped }
            }
            Err(e) => return Err(e),
        };
        let start = (self.clock)();
        let batch = &scored.rollout.prompts;
        let mut before = false;
        for trial in 0.. {
            if out.broken.is_none() {
                let measured = match before {
                    true => self.measure_before(step, batch)?,
                    false => self.measure(step, batch, Shard::Judged)?,
                };
                match measured {
                    Ok(measured) => out.measured = Some(measured),
                    Err(cause) => (out.measured, out.broken) = (None, Some(cause.0)),
                }
            }
            let domains = out.measured.as_ref().map_or_else(|| unknown(groups), Measured::domains);
            let observation = KlObservation::trial(step, trial, domains);
            let decision = self.controller.observe(&observation);
            let (verdict, scale) = (decision.verdict, decision.scale);
            out.trials.push((observation, decision));
            match verdict {
                Verdict::Accept | Verdict::Throttle => break,
                Verdict::Scale => {
                    before = scale == 0.0;
                    if !before {
                        self.keep_share(scale / out.kept)?;
                        out.kept = scale;
                    }
                }
                Verdict::Reject | Verdict::Rollback | Verdict::Halt => {
                    self.put_back()?;
                    out.kept = 0.0;
                    break;
                }
            }
        }
        self.conclude(&out);
        if out.kept > 0.0 {
            let config = &self.recipe.trial;
            if config.batch {
                out.batch = Some(self.kl_on(full, &scored.rollout, groups)?);
            }
            if config.audit_every > 0 && step.is_multiple_of(config.audit_every) {
                out.fresh = self.measure(step, batch, Shard::Fresh)?.ok();
            }
        }
        out.trial_s = (self.clock)() - start;
        Ok(out)
    }

    /// Copies weights and moments aside.
    fn hold(&mut self) {
        let Some(guarded) = &mut self.guarded else { return };
        let copy = |to: &mut AdamWState, from: &AdamWState| {
            to.step = from.step;
            to.m.copy_from_slice(&from.m);
            to.v.copy_from_slice(&from.v);
        };
        guarded.old.update(self.engine, |own| own.copy_from_slice(self.policy.model.trained()));
        copy(&mut guarded.moments, self.policy.moments());
        let critics = self.value.iter().chain(self.constraint.iter().map(|c| &c.critic));
        for ((weights, moments), critic) in guarded.critics.iter_mut().zip(critics) {
            weights.copy_from_slice(critic.model.trained());
            copy(moments, critic.moments());
        }
    }

    /// Undoes everything since [`Ppo::hold`], bit for bit.
    fn put_back(&mut self) -> Result<(), Error> {
        let Some(guarded) = &self.guarded else { return Ok(()) };
        let (weights, moments) = (guarded.old.trained(), &guarded.moments);
        self.policy.put_back(self.engine, weights, moments).map_err(stage)?;
        let critics = self.value.iter_mut().chain(self.constraint.iter_mut().map(|c| &mut c.critic));
        for ((weights, moments), critic) in guarded.critics.iter().zip(critics) {
            critic.put_back(self.engine, weights, moments).map_err(stage)?;
        }
        Ok(())
    }

    /// Keeps this share of what has happened since [`Ppo::hold`].
    fn keep_share(&mut self, share: f64) -> Result<(), Error> {
        let Some(guarded) = &self.guarded else { return Ok(()) };
        let (weights, moments) = (guarded.old.trained(), &guarded.moments);
        self.policy.keep_share(self.engine, weights, moments, share).map_err(stage)?;
        let critics = self.value.iter_mut().chain(self.constraint.iter_mut().map(|c| &mut c.critic));
        for ((weights, moments), critic) in guarded.critics.iter().zip(critics) {
            critic.keep_share(self.engine, weights, moments, share).map_err(stage)?;
        }
        Ok(())
    }

    /// Measures the weights from before the update, on the shard that the update is judged by; those of now stay.
    fn measure_before(
        &mut self,
        step: u64,
        batch: &PromptBatch,
    ) -> Result<Result<Measured, Unmeasurable>, Error> {
        self.swap_with_before();
        let measured = self.measure(step, batch, Shard::Judged);
        self.swap_with_before();
        Ok(measured?.map(Measured::with_itself_before))
    }

    /// Exchanges the policy's weights with those of before the update.
    fn swap_with_before(&mut self) {
        let Some(guarded) = &mut self.guarded else { return };
        let (engine, policy) = (self.engine, &mut self.policy.model);
        guarded.old.update(engine, |old| policy.update(engine, |now| now.swap_with_slice(old)));
    }

    /// Remembers whether the weights that stand passed, for the checkpoints.
    fn conclude(&mut self, judged: &Judged) {
        let guard = self.recipe.kl.guard.unwrap_or_default();
        let z = self.recipe.kl.trust_region.unwrap_or_default().z;
        // Accepted weights may still be above a target (no cap, or above the cap already and falling).
        let blown_up = |(observation, _): &(KlObservation, ControlDecision)| {
            observation.domains.iter().any(|d| {
                let stderr = (d.var / d.n as f64).sqrt();
                let bound = d.mean_kl.0 + if stderr.is_finite() { z * stderr } else { 0.0 };
                self.controller.target(&d.id).is_some_and(|target| bound > guard.blow_up * target.0)
            })
        };
        let blown_up = judged.trials.last().is_some_and(blown_up);
        // The weights that stand were measured above a cap: whatever their own trial said, they do not pass.
        let above = |(_, d): &(KlObservation, ControlDecision)| d.reason.code() == ReasonCode::AboveBefore;
        let above = judged.trials.last().is_some_and(above);
        let Some(guarded) = &mut self.guarded else { return };
        if judged.kept > 0.0 {
            guarded.passed = !blown_up;
        } else {
            guarded.rejected += 1;
            guarded.passed &= !above;
        }
    }

    /// Faults of this step: the factor of the learning rate.
    pub(super) fn faulty_lr(&self, step: u64) -> f64 {
        let factor = |f: &Fault| match f.what {
            FaultKind::Lr(x) => x,
            _ => 1.0,
        };
        self.faults(step).map(factor).product()
    }
}

/// The groups of the batch, none of which can be measured.
fn unknown(groups: &[Vec<String>]) -> Vec<DomainKl> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for group in groups.iter().flatten() {
        *counts.entry(group).or_default() += 1;
    }
    counts.iter().map(|(id, n)| DomainKl::new(*id, NatsPerSequence(f64::NAN), f64::NAN, *n)).collect()
}
