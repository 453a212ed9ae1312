//! A measurement after an update: the trust region and the ledger judge it. β does not move.

use super::KlPolicy;
use super::answer::Answer;
use super::entries::Entries;
use super::rollout::mean_kl_old;
use crate::decision::{ControlDecision, Verdict};
use crate::observation::{ALL, KlObservation};
use crate::reading::{Checked, Reading};
use crate::reason::{Reason, RollbackCause};
use crate::trust_region::{Before, CapOf, Judgement, TrustRegion, TrustRegionState, is_hopeless};
use std::sync::Arc;

impl KlPolicy {
    pub(super) fn trial(&mut self, obs: &KlObservation, out: &mut ControlDecision) {
        let (step, trial) = (obs.step, obs.trial.unwrap_or(self.next_trial(obs.step)));
        if let Some(reason) = self.out_of_turn(step, trial) {
            out.verdict = match reason {
                Reason::Halted { .. } => Verdict::Halt,
                Reason::DuplicateTrial { .. } => repeat(&self.trust_region, out),
                _ => Verdict::Reject,
            };
            out.reason = reason;
            return;
        }
        if self.trust_region.step != Some(step) {
            self.trust_region =
                TrustRegionState { step: Some(step), scale: 1.0, ..TrustRegionState::default() };
        }
        self.trust_region.trial = Some(trial);
        self.trust_region.judged += 1;
        let entries = Entries::of(obs, std::mem::take(&mut self.scratch));
        self.judge_update(step, trial, &entries, out);
        self.scratch = entries.release();
    }

    /// Why this trial is not to be judged, if so.
    fn out_of_turn(&self, step: u64, trial: u32) -> Option<Reason> {
        if let Some(step) = self.guard.halted {
            return Some(Reason::Halted { step });
        }
        match self.last_step {
            Some(last) if step < last => return Some(Reason::StepBackwards { step, last }),
            Some(last) if step == last => {}
            _ => return Some(Reason::TrialAhead { step }),
        }
        let state = &self.trust_region;
        if state.step != Some(step) {
            return None;
        }
        if state.trial.is_some_and(|last| trial <= last) {
            return Some(Reason::DuplicateTrial { trial });
        }
        state.verdict.is_some().then_some(Reason::StepClosed { step })
    }

    fn judge_update(&mut self, step: u64, trial: u32, entries: &Entries<'_>, out: &mut ControlDecision) {
        let mut answer = Answer::default();
        let region = self.config.trust_region;
        // A trial of the weights before the update, and the share to go on with.
        let resume = self.trust_region.resume.take();
        let Some((keep, excess)) = self.judge(entries, region.as_ref(), &mut answer) else {
            // Broken or unmeasured: rejected.
            return self.close(step, None, answer, out);
        };
        let TrustRegionState { scale, judged, last, before, .. } = self.trust_region;
        let exhausted = region.is_none_or(|r| judged > r.max_trials);
        if let Some(scale) = resume {
            self.trust_region.before = true;
            if keep == 1.0 {
                self.trust_region.scale = scale;
                return answer.scale(scale, Reason::BeforeInside { scale }, out);
            }
            if let Some((of, bound, cap, domain)) = answer.above() {
                let reason = Reason::AboveBefore { domain, of, bound, cap, trials: judged };
                answer.propose("", Verdict::Reject, reason);
            }
            return self.close(step, None, answer, out);
        }
        if keep < 1.0 {
            if keep > 0.0 && !exhausted {
                let now = (scale, excess);
                let hopeless = !before && last.is_some_and(|last| is_hopeless(last, now));
                self.trust_region.last = Some(now);
                self.trust_region.scale = scale * keep;
                if let (true, Some((of, bound, cap, domain))) = (hopeless, answer.above()) {
                    self.trust_region.resume = Some(self.trust_region.scale);
                    self.trust_region.scale = 0.0;
                    return answer.scale(0.0, Reason::CheckBefore { domain, of, bound, cap }, out);
                }
                out.scale = self.trust_region.scale;
                answer.give(out);
                out.verdict = Verdict::Scale;
                return;
            }
            if let Some((of, bound, cap, domain)) = answer.above() {
                let reason = Reason::CapReject { domain, of, bound, cap, trials: judged };
                answer.propose("", Verdict::Reject, reason);
            }
            return self.close(step, None, answer, out);
        }
        let kl_old = mean_kl_old(entries);
        if let Some(ledger) = self.config.ledger {
            let spent = self.ledger.spent;
            match kl_old {
                None => {
                    let reason = Reason::Unmeasured { domain: ALL.into(), field: "kl_old" };
                    answer.propose("", Verdict::Reject, reason);
                    return self.close(step, None, answer, out);
                }
                Some(kl_old) if !ledger.fits(&self.ledger, kl_old) => {
                    let reason = Reason::LedgerExhausted { spent, kl_old, limit: ledger.limit.0 };
                    answer.propose("", Verdict::Reject, reason);
                    return self.close(step, None, answer, out);
                }
                Some(_) => {}
            }
        }
        if region.is_none() && self.config.ledger.is_none() {
            answer.propose("", Verdict::Accept, Reason::NotJudged { trial });
        } else {
            answer.propose("", Verdict::Accept, Reason::InsideCaps { trial, scale: self.trust_region.scale });
        }
        self.move_to(entries);
        self.close(step, Some(kl_old.unwrap_or(0.0)), answer, out);
    }

    /// The weights are now where this trial measured them; of a domain that it did not measure, nothing is
    /// known until the next rollout.
    fn move_to(&mut self, entries: &Entries<'_>) {
        for (id, known) in &mut self.domains {
            let measured = entries.only(id).map(Reading::check);
            known.at = match measured {
                Some(Checked::Usable(reading)) => Before::of(&reading),
                _ => Before::default(),
            };
        }
    }

    /// The target that a cap may be a multiple of: that of the KL to the reference of an id with a β of its own.
    pub(super) fn capped_target(&self, id: &str) -> Option<f64> {
        let budget = self.domains.get(id).and_then(|d| d.budget);
        let steered = self.controlled(budget) && !self.config.law.steers_by_old();
        self.target_of(budget).filter(|_| steered)
    }

    fn next_trial(&self, step: u64) -> u32 {
        match self.trust_region {
            TrustRegionState { step: Some(s), trial: Some(t), .. } if s == step => t.saturating_add(1),
            _ => 0,
        }
    }

    /// The share of the trial's step to keep, over all domains, and the largest √(bound/cap) above a cap; `None` where it
    /// must be rejected.
    fn judge<'a>(
        &mut self,
        entries: &Entries<'a>,
        region: Option<&TrustRegion>,
        answer: &mut Answer<'a>,
    ) -> Option<(f64, f64)> {
        let mut keep = Some(1.0);
        let mut excess = 0.0_f64;
        let mut measured = false;
        for (domain, twice) in entries.iter() {
            let known = self.domains.get_key_value(domain.id.as_str()).map(|(id, _)| id.clone());
            let id = || -> Arc<str> { known.clone().unwrap_or_else(|| domain.id.as_str().into()) };
            if twice {
                answer.propose(&domain.id, Verdict::Reject, Reason::ListedTwice { domain: id() });
                keep = None;
                continue;
            }
            let reading = match Reading::check(domain) {
                Checked::Absent => continue,
                Checked::Invalid(field) => {
                    answer.propose(&domain.id, Verdict::Reject, Reason::NotFinite { domain: id(), field });
                    keep = None;
                    continue;
                }
                Checked::Usable(reading) => reading,
            };
            measured = true;
            if reading.impossible() {
                let reason = Reason::NegativeKl { domain: id(), kl: reading.mean, stderr: reading.stderr };
                answer.propose(&domain.id, Verdict::Reject, reason);
                keep = None;
                continue;
            }
            let Some(region) = region else { continue };
            let before = self.domains.get(domain.id.as_str()).map(|d| d.at).unwrap_or_default();
            match region.judge(&reading, before, self.capped_target(&domain.id)) {
                Judgement::Inside => {}
                Judgement::Unmeasured(field) => {
                    answer.propose(&domain.id, Verdict::Reject, Reason::Unmeasured { domain: id(), field });
                    keep = None;
                }
                Judgement::Above { of, bound, cap, keep: share } => {
                    if let Some(d) = self.domains.get_mut(domain.id.as_str()) {
                        d.capped |= of == CapOf::Reference;
                    }
                    excess = excess.max((bound / cap).sqrt());
                    let scale = self.trust_region.scale * share;
                    let reason = Reason::AboveCap { domain: id(), of, bound, cap, scale };
                    // The smallest share decides, so only its reason is given.
                    match keep {
                        Some(k) if share < k => {
                            keep = Some(share);
                            answer.replace_scale(&domain.id, reason);
                        }
                        Some(k) if share == k => answer.propose(&domain.id, Verdict::Scale, reason),
                        _ => {}
                    }
                }
            }
        }
        if !measured && keep.is_some() {
            answer.propose("", Verdict::Reject, Reason::AllAbsent {});
            return None;
        }
        if let Some(domain) = region.filter(|_| keep.is_some()).and_then(|_| self.missing(entries)) {
            answer.propose("", Verdict::Reject, Reason::DomainMissing { domain });
            return None;
        }
        keep.map(|keep| (keep, excess))
    }

    /// A domain that this step's rollout measured and its trial does not.
    fn missing(&self, entries: &Entries<'_>) -> Option<Arc<str>> {
        let measured = |id: &str| entries.only(id).is_some_and(|d| d.n > 0);
        let wanted = self.domains.iter().filter(|(_, d)| d.measured == self.last_step);
        wanted.map(|(id, _)| id).find(|id| !measured(id)).cloned()
    }

    /// Ends a step's trials: accepted with this KL to the old policy, or rejected.
    fn close(&mut self, step: u64, accepted: Option<f64>, answer: Answer<'_>, out: &mut ControlDecision) {
        let mut answer = answer;
        let broken = accepted.is_none() && answer.broken();
        if let Some(kl_old) = accepted {
            out.scale = self.trust_region.scale;
            if let Some(ledger) = self.config.ledger {
                ledger.enter(&mut self.ledger, step, kl_old);
            }
        }
        if let Some(guard) = self.config.guard {
            // A step that was refused because the policy was above the cap already says nothing about the
            // learning rate; with a rate that shrinks at every one, no step would be seen to lower KL.
            let above_already = self.trust_region.judged == 1 && answer.capped() || answer.above_before();
            if accepted.is_none() && !above_already {
                guard.throttle(&mut self.guard);
            }
            if broken {
                let alarm = guard.broken_trial(&mut self.guard);
                self.propose_alarm(alarm, RollbackCause::Broken, self.guard.broken_trials, &mut answer);
                if answer.halts() {
                    self.guard.halted.get_or_insert(step);
                }
            } else {
                self.guard.broken_trials = 0;
            }
        }
        answer.give(out);
        self.trust_region.verdict = Some(out.verdict);
    }
}

/// The answer that was given to a trial seen before.
fn repeat(state: &TrustRegionState, out: &mut ControlDecision) -> Verdict {
    let verdict = state.verdict.unwrap_or(Verdict::Scale);
    if matches!(verdict, Verdict::Accept | Verdict::Scale) {
        out.scale = state.scale;
    }
    verdict
}
