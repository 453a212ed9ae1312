//! What `[[fault]]` breaks on purpose. A recipe without faults takes none of these paths.

use super::Ppo;
use crate::recipe::{Fault, FaultKind};
use tetherline_core::{NamedScore, PromptBatch, Rollout};

impl Ppo<'_> {
    /// The faults of a step.
    pub(super) fn faults(&self, step: u64) -> impl Iterator<Item = &Fault> {
        self.recipe.fault.iter().filter(move |fault| fault.strikes(step))
    }

    /// Whether this step's gradients are spoilt.
    pub(super) fn spoils_gradients(&self, step: u64) -> bool {
        self.faults(step).any(|fault| fault.what == FaultKind::NanGradient)
    }

    /// Breaks the value model, if this step's update is to do so.
    pub(super) fn spoil_values(&mut self, step: u64) {
        if self.faults(step).any(|fault| fault.what == FaultKind::NanValue) {
            self.value.as_mut().unwrap_or(&mut self.policy).spoil_weights(self.engine);
        }
    }

    /// Puts the next prompt of another domain in the place of each of a lost one.
    pub(super) fn lose_domains(&self, step: u64, rows: &mut [usize]) {
        let prompts = &self.prompts;
        for fault in self.faults(step) {
            let FaultKind::LostDomain(lost) = &fault.what else { continue };
            for row in &mut *rows {
                let next = (0..prompts.len()).map(|i| (*row + i) % prompts.len());
                *row = next.into_iter().find(|&i| prompts.domains[i] != *lost).unwrap_or(*row);
            }
        }
    }

    /// Breaks the scores of a step; returns how many are not finite. Where updates are judged, those become 0 and the
    /// batch is reported as broken; elsewhere they end the run.
    pub(super) fn check_scores(&self, step: u64, rollout: &Rollout, parts: &mut [NamedScore]) -> usize {
        for fault in self.faults(step) {
            match fault.what {
                FaultKind::HostileReward(strength) => hostile(strength, rollout, parts),
                FaultKind::NanScore => {
                    parts.iter_mut().take(1).for_each(|part| part.values[0] = f32::NAN);
                }
                _ => {}
            }
        }
        let mut broken = 0;
        if self.guarded.is_some() {
            // Zeros that no update sees: the batch is refused.
            for value in parts.iter_mut().flat_map(|part| &mut part.values).filter(|v| !v.is_finite()) {
                *value = 0.0;
                broken += 1;
            }
        }
        broken
    }

    /// How many values of a rollout are not finite. Where updates are judged, those become 0 and the batch is reported as
    /// broken; elsewhere they end the run.
    pub(super) fn check_values(&self, rollout: &mut Rollout) -> usize {
        let mut broken = 0;
        if self.guarded.is_some() {
            let after = rollout.bootstrap_values.iter_mut().flatten();
            for value in rollout.values.flat_mut().iter_mut().chain(after).filter(|v| !v.is_finite()) {
                *value = 0.0;
                broken += 1;
            }
        }
        broken
    }
}

/// Pays for what the reference would never say.
fn hostile(strength: f64, rollout: &Rollout, parts: &mut [NamedScore]) {
    for (k, part) in parts.iter_mut().enumerate() {
        for (value, logprobs) in part.values.iter_mut().zip(rollout.ref_logprobs.rows()) {
            let surprise =
                -logprobs.iter().map(|&x| f64::from(x)).sum::<f64>() / logprobs.len().max(1) as f64;
            *value = if k == 0 { (strength * surprise) as f32 } else { 0.0 };
        }
    }
}

/// How often each domain is drawn, and which has not been for long.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Presence(std::collections::BTreeMap<String, Seen>);

#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
struct Seen {
    /// The last step that drew it.
    step: u64,
    /// Rows drawn since.
    rows: u64,
    /// Whether its absence was reported.
    reported: bool,
}

/// Rows of a domain that should have been drawn before its absence is no chance: e⁻²⁰.
const EXPECTED: f64 = 20.0;

impl Presence {
    /// Counts a batch drawn from `prompts`; lines for the events about domains that are gone, or back.
    pub(super) fn watch(
        &mut self,
        step: u64,
        batch: &PromptBatch,
        prompts: &PromptBatch,
    ) -> Vec<serde_json::Value> {
        if self.0.is_empty() {
            self.0 = prompts.domains.iter().map(|d| (d.clone(), Seen::default())).collect();
        }
        let mut lines = Vec::new();
        for (domain, seen) in &mut self.0 {
            let line = |event: &str, text: String| serde_json::json!({"step": step, "event": event, "domain": domain, "text": text});
            if batch.domains.contains(domain) {
                if seen.reported {
                    lines.push(line("domain_back", format!("prompts of {domain} are drawn again")));
                }
                *seen = Seen { step, ..Seen::default() };
                continue;
            }
            seen.rows += batch.len() as u64;
            if seen.reported {
                continue;
            }
            let of = prompts.domains.iter().filter(|d| *d == domain).count();
            if seen.rows as f64 * of as f64 / prompts.len() as f64 >= EXPECTED {
                seen.reported = true;
                let text = format!(
                    "no prompt of {domain} was drawn since step {}, in {} responses, although {of} of {} prompts are of \
                     it; its β is held",
                    seen.step,
                    seen.rows,
                    prompts.len()
                );
                lines.push(line("domain_absent", text));
            }
        }
        lines
    }
}
