//! What an update did, measured: exact KL to the reference and to the policy before the update.
//!
//! A trial samples a response of the *updated* policy to each prompt of a held-out shard and sums the exact KL over its
//! positions. The estimate is unbiased for nats per sequence: the prefixes are the policy's own. (Prefixes of the batch
//! were drawn before the update; on them KL is biased towards where the old policy goes, and the prompts are those that
//! the update was made for. `trial/batch_kl` is that number, for comparison only.)
//!
//! - The shard of a step: `trial.prompts` held-out prompts, drawn anew for each step, in the proportions of the batch
//!   between the groups that have a β of their own. All trials of a step share shard and random streams, so what
//!   differs between them is the policy.
//! - The value model of its own (and with `[cost]` the cost critic), or the shared trunk's second head, answers for the same tokens: values that are not finite
//!   make a measurement that is no number, as a broken policy does. So do weights that are not finite, used or not.
//! - With `[environment]` a trial is whole conversations, and what the environment wrote is left out of the sums. An environment
//!   that fails ends the conversation, as in a rollout.
//! - A group without held-out prompts is measured on the batch's prompts, with streams of their own.

use super::{Ppo, observe, stage};
use crate::Error;
use crate::conversation;
use crate::rows::{full_rows, lm_rows, scalar_rows, sum_written};
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{PromptBatch, PromptRef, Rollout, Stage};
use tetherline_kl::{DomainKl, KlByDomain, KlEstimate, NatsPerSequence};
use tetherline_models::Model;
use tetherline_rollout::{RolloutError, StreamName};

/// The row of the stream that orders the prompts: no prompt has this id.
const ORDER: u64 = u64::MAX;

/// Samples of training prompts count from here, so that no stream is one of a held-out prompt.
const OF_THE_BATCH: u32 = 1 << 16;

/// Which prompts to measure on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shard {
    /// Those that the guard judges by.
    Judged,
    /// Others, which decide nothing.
    Fresh,
}

/// Exact KL of the policy, nats per sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// To the reference, over all rows.
    pub(super) kl: KlEstimate,
    /// To the policy before the update, over all rows.
    pub(super) old: KlEstimate,
    groups: KlByDomain,
    old_groups: KlByDomain,
    /// To the first reference; none where that one moved away and was not kept.
    first_groups: Option<KlByDomain>,
}

impl Measured {
    /// Of the weights before an update: they are no distance from themselves.
    pub(super) fn with_itself_before(mut self) -> Self {
        let nothing = |e: &mut KlEstimate| {
            let rows = e.count();
            *e = KlEstimate::default();
            (0..rows).for_each(|_| e.push(NatsPerSequence(0.0), 0));
        };
        nothing(&mut self.old);
        self.old_groups.domains.values_mut().for_each(nothing);
        self
    }

    /// One entry per group, for the controller.
    pub(super) fn domains(&self) -> Vec<DomainKl> {
        let mean = |of: &KlByDomain, id: &str| of.domains.get(id).map(KlEstimate::mean);
        let domain = |(id, e): (&String, &KlEstimate)| DomainKl {
            kl_old: mean(&self.old_groups, id),
            kl_ref0: self.first_groups.as_ref().and_then(|first| mean(first, id)),
            ..e.domain(id.as_str())
        };
        self.groups.domains.iter().map(domain).collect()
    }
}

/// Whether sampling failed because the policy gives no numbers.
fn is_not_finite(source: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(source.downcast_ref(), Some(RolloutError::NonFinite { .. }))
}

/// What cannot be measured: weights that are not finite.
pub(super) struct Unmeasurable(pub(super) String);

impl Ppo<'_> {
    /// Samples and measures the policy as it is now on a shard of step `step`.
    pub(super) fn measure(
        &self,
        step: u64,
        batch: &PromptBatch,
        which: Shard,
    ) -> Result<Result<Measured, Unmeasurable>, Error> {
        if let Some(whose) = self.broken_weights() {
            return Ok(Err(Unmeasurable(format!("weights of the {whose} are not finite"))));
        }
        let name = StreamName { seed: self.recipe.seed, purpose: Purpose::Trial, step };
        let prompts = self.shard(step, batch, which);
        // Conversations as in a rollout; what they earn is not asked for.
        let mut environment = self.environment.clone();
        let sampled = conversation::sample(
            environment.as_mut(),
            &self.policy.model,
            self.codec,
            prompts,
            &self.recipe.sampling,
            name,
            self.engine,
            (step, Stage::Ppo),
        );
        let rollout = match sampled {
            Ok((rollout, _)) => rollout,
            Err(Error::Stage { source, .. }) if is_not_finite(source.as_ref()) => {
                return Ok(Err(Unmeasurable(source.to_string())));
            }
            Err(e) => return Err(e),
        };
        let full = full_rows(&rollout);
        if which == Shard::Judged && !self.values_are_finite(&rollout, &full)? {
            return Ok(Err(Unmeasurable("values of the value model are not finite".to_owned())));
        }
        let (domains, users) = (&rollout.prompts.domains, &rollout.prompts.users);
        let groups = observe::groups_of_rows(&self.recipe.kl, domains, users);
        self.kl_on(&full, &rollout, &groups).map(Ok)
    }

    /// Which model has a trained weight that is not finite.
    fn broken_weights(&self) -> Option<&'static str> {
        let broken = |model: &Model| model.trained().iter().any(|x| !x.is_finite());
        if broken(&self.policy.model) {
            return Some("policy");
        }
        let cost = || self.constraint.as_ref().filter(|c| broken(&c.critic.model)).map(|_| "cost critic");
        self.value.as_ref().filter(|value| broken(&value.model)).map(|_| "value model").or_else(cost)
    }

    /// Whether every response token has a value that is a number.
    fn values_are_finite(&self, rollout: &Rollout, full: &[Vec<u32>]) -> Result<bool, Error> {
        let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        let Some(value) = &self.value else { return Ok(finite(rollout.values.flat())) };
        let rows = scalar_rows(full, rollout, false);
        let out = value.model.forward(self.engine, &rows, rollout.temperature).map_err(stage)?;
        Ok(out.iter().all(|row| finite(&row.scalars)))
    }

    /// Exact KL of the policy to the reference, to the policy before and, where it is another, to the first reference,
    /// on the tokens of a rollout that the policy wrote; `full` are its whole rows.
    pub(super) fn kl_on(
        &self,
        full: &[Vec<u32>],
        rollout: &Rollout,
        groups: &[Vec<String>],
    ) -> Result<Measured, Error> {
        let (rows, t) = (lm_rows(full, rollout), rollout.temperature);
        let to = |other: &Model| -> Result<Vec<(f64, usize)>, Error> {
            let pairs = self.policy.model.forward_pair(other, self.engine, &rows, t).map_err(stage)?;
            let written = |i: usize| rollout.written.as_ref().map(|w| w.row(i));
            Ok(pairs.iter().enumerate().map(|(i, p)| sum_written(&p.kl_exact, written(i))).collect())
        };
        let by_group = |kl: &[(f64, usize)]| {
            let (mut all, mut by) = (KlEstimate::default(), KlByDomain::default());
            for (&(kl, tokens), groups) in kl.iter().zip(groups) {
                all.push(NatsPerSequence(kl), tokens);
                groups.iter().for_each(|group| by.push(group, NatsPerSequence(kl), tokens));
            }
            (all, by)
        };
        let (kl, by) = by_group(&to(&self.reference)?);
        let mut out = Measured { kl, groups: by, ..Measured::default() };
        if let Some(guarded) = &self.guarded {
            (out.old, out.old_groups) = by_group(&to(&guarded.old)?);
            out.first_groups = match &guarded.first {
                Some(first) => Some(by_group(&to(first)?).1),
                None if self.reference_moves() || self.later_round => None,
                None => Some(out.groups.clone()),
            };
        }
        Ok(out)
    }

    /// The prompts to measure on.
    fn shard(&self, step: u64, batch: &PromptBatch, which: Shard) -> PromptBatch {
        let mut out = PromptBatch::default();
        let Some(guarded) = &self.guarded else { return out };
        let keys = observe::groups_of_rows(&self.recipe.kl, &batch.domains, &batch.users);
        let mut order: Vec<usize> = (0..guarded.pool.len()).collect();
        stream(self.recipe.seed, Purpose::Trial, step, ORDER, 0).shuffle(&mut order);
        let mut kinds: Vec<&Vec<String>> = keys.iter().collect();
        kinds.sort();
        kinds.dedup();
        for kind in kinds {
            let of_batch: Vec<usize> = (0..batch.len()).filter(|&i| keys[i] == *kind).collect();
            let share = self.recipe.trial.prompts as f64 * of_batch.len() as f64 / batch.len() as f64;
            let wanted = (share.round() as usize).max(2);
            let held_out: Vec<usize> =
                order.iter().copied().filter(|&i| guarded.pool_groups[i] == *kind).collect();
            let (from, rows, first) = match held_out.is_empty() {
                false => (&guarded.pool, held_out, 0),
                true => (batch, of_batch, OF_THE_BATCH),
            };
            let skipped = if which == Shard::Fresh { wanted } else { 0 };
            for at in skipped..skipped + wanted {
                let row = from.get(rows[at % rows.len()]);
                // A row of the batch may already be another sample of its prompt, and must not share a stream with it.
                let sample = first * (1 + row.sample) + (at / rows.len()) as u32;
                out.push(PromptRef { sample, ..row });
            }
        }
        out
    }
}
