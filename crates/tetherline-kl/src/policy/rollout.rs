//! A rollout's measurement: it moves β.

use super::KlPolicy;
use super::answer::Answer;
use super::entries::Entries;
use crate::budget::Moved;
use crate::decision::{ControlDecision, Verdict};
use crate::guard::Alarm;
use crate::law::Note;
use crate::ledger::MAX_UNENTERED;
use crate::observation::{ALL, DomainKl, KlObservation};
use crate::reading::{Checked, Reading};
use crate::reason::{Reason, RollbackCause};
use crate::state::Pending;
use crate::trust_region::{Before, TrustRegionState};
use std::sync::Arc;

/// Observations in a row with β at its upper bound and KL above the target that name a budget infeasible.
pub(super) const STUCK: u32 = 12;
/// So many of them ask a guard for a rollback, and once these are used up for a halt.
const HOPELESS: u32 = 40;
/// Rollouts after which a budget that has met nobody, or a metric that was never measured, is named: this many, and
/// then at every doubling.
const UNSEEN: u64 = 8;
/// The same for updates in a row that were not judged.
const UNJUDGED: u64 = 4;

/// The budgeted domains taken together.
#[derive(Clone, Copy)]
struct Pool {
    mean: f64,
    between: f64,
}

/// What the domains of one observation add up to, for the guard.
#[derive(Default)]
struct Seen {
    broken: bool,
    usable: bool,
    blown_up: bool,
    stuck: bool,
    /// A budget that has been infeasible for too long.
    hopeless: Option<Reason>,
    rising: Option<(Arc<str>, f64, f64)>,
}

impl KlPolicy {
    pub(super) fn rollout(&mut self, obs: &KlObservation, out: &mut ControlDecision) {
        let mut answer = Answer::default();
        if let Some(step) = self.guard.halted {
            answer.propose("", Verdict::Halt, Reason::Halted { step });
            return answer.give(out);
        }
        if let Some(last) = self.last_step.filter(|&last| obs.step <= last) {
            let step = obs.step;
            (out.verdict, out.reason) = if step == last {
                (self.last_verdict, Reason::DuplicateStep { step })
            } else {
                (Verdict::Reject, Reason::StepBackwards { step, last })
            };
            return;
        }
        let last = self.trust_region.verdict.filter(|_| self.trust_region.step == self.last_step);
        if last.is_none() {
            // The weights may have moved without being judged: where they are is not known.
            self.domains.values_mut().for_each(|d| d.at = Before::default());
        }
        let before = self.last_step.replace(obs.step);
        self.unjudged = match last {
            _ if before.is_none() || self.config.trust_region.is_none() => 0,
            None => self.unjudged.saturating_add(1),
            Some(Verdict::Accept | Verdict::Throttle) => 0,
            // No update was kept: the weights are as well or as badly known as before.
            Some(_) => self.unjudged,
        };
        self.follow_metrics(obs, &mut answer);
        if obs.domains.iter().all(|d| d.n == 0) {
            answer.propose("", Verdict::Halt, Reason::AllAbsent {});
        } else {
            let entries = Entries::of(obs, std::mem::take(&mut self.scratch));
            self.measure(obs, &entries, before.filter(|_| last.is_none()), &mut answer);
            self.scratch = entries.release();
        }
        answer.give(out);
        self.last_verdict = out.verdict;
        if matches!(out.verdict, Verdict::Reject | Verdict::Rollback | Verdict::Halt) {
            // No update of these weights follows.
            self.trust_region = TrustRegionState::without_update(obs.step, out.verdict);
        }
    }

    /// Everything that a rollout with a measured domain moves. `unjudged` is the step whose update no trial judged.
    fn measure<'a>(
        &mut self,
        obs: &'a KlObservation,
        entries: &Entries<'a>,
        unjudged: Option<u64>,
        answer: &mut Answer<'a>,
    ) {
        self.rollouts += 1;
        let pool = self.pool(entries);
        let mut seen = Seen::default();
        for (domain, twice) in entries.iter() {
            if twice {
                // Which of the two is meant is not for a controller to guess.
                seen.broken = true;
                let reason = Reason::ListedTwice { domain: self.known(&domain.id) };
                answer.propose(&domain.id, Verdict::Reject, reason);
                continue;
            }
            self.domain(domain, obs.step, pool, &mut seen, answer);
        }
        self.name_what_was_never_seen(answer);
        self.settle_ledger(entries, unjudged, answer);
        self.guard_rollout(obs.step, &seen, answer);
    }

    /// Lets every budget follow its metrics.
    fn follow_metrics<'a>(&mut self, obs: &'a KlObservation, answer: &mut Answer<'a>) {
        for (budget, state) in self.config.budgets.iter().zip(&mut self.budgets) {
            if let Moved::Tightened { metric, bound } = budget.follow(state, &obs.metrics) {
                let limit = &budget.metrics[metric];
                let reason = Reason::BudgetTightened {
                    budget: budget.id.as_str().into(),
                    metric: limit.id.as_str().into(),
                    bound,
                    limit: limit.limit,
                    target: budget.target.0 * state.share,
                };
                answer.propose("", Verdict::Accept, reason);
            }
        }
    }

    /// Names budgets that have met no measured domain or user of their name, metrics that were never measured and
    /// trials that were never sent: what is misspelt or forgotten would otherwise hold nothing, in silence.
    fn name_what_was_never_seen(&self, answer: &mut Answer<'_>) {
        let mut note = |reason| answer.propose("", Verdict::Accept, reason);
        if self.unjudged >= UNJUDGED && self.unjudged.is_power_of_two() {
            note(Reason::NoTrials { rollouts: self.unjudged });
        }
        let rollouts = self.rollouts;
        let due = rollouts >= UNSEEN && rollouts.is_power_of_two();
        // That of all budgets none is met needs no patience.
        let none = !self.domains.values().any(|d| d.measured.is_some() && d.budget.is_some());
        if !due && !none {
            return;
        }
        for (budget, state) in self.config.budgets.iter().zip(&self.budgets) {
            let name = || budget.id.as_str().into();
            let met = |(id, d): (&Arc<str>, &super::Domain)| d.measured.is_some() && budget.names(id);
            if !self.domains.iter().any(met) {
                note(Reason::BudgetUnseen { budget: name(), rollouts });
            }
            if let Some(metric) = budget.metrics.iter().zip(&state.met).find(|(_, met)| due && !**met) {
                let metric = metric.0.id.as_str().into();
                note(Reason::MetricUnseen { budget: name(), metric, rollouts });
            }
        }
    }

    /// Mean of r_k = KL_k/T_k over the budgeted domains, weighted by sequences, and the variance between
    /// them beyond their noise, for shrinkage; `None` where none is on.
    fn pool(&mut self, entries: &Entries<'_>) -> Option<Pool> {
        if self.config.budgets.is_empty() || self.config.shrink == 0.0 {
            return None;
        }
        let (mut sum, mut square, mut noise, mut count) = (0.0, 0.0, 0.0, 0.0);
        for (domain, twice) in entries.iter() {
            let id = self.known(&domain.id);
            let Some(budget) = self.domains.get(&id).and_then(|d| d.budget) else { continue };
            let (false, Checked::Usable(reading)) = (twice || domain.id == ALL, Reading::check(domain))
            else {
                continue;
            };
            let Some(target) = self.target_of(Some(budget)).filter(|_| !reading.impossible()) else {
                continue;
            };
            let (n, ratio) = (reading.n as f64, reading.kl() / target);
            sum += n * ratio;
            square += n * ratio * ratio;
            noise += n * (reading.stderr / target).powi(2);
            count += n;
        }
        (count > 0.0).then(|| {
            let mean = sum / count;
            Pool { mean, between: ((square - noise) / count - mean * mean).max(0.0) }
        })
    }

    /// The stored form of an id, creating its state at first sight.
    pub(super) fn known(&mut self, id: &str) -> Arc<str> {
        if let Some((id, _)) = self.domains.get_key_value(id) {
            return id.clone();
        }
        let stored: Arc<str> = id.into();
        let domain = self.start_domain(id);
        self.domains.insert(stored.clone(), domain);
        stored
    }

    /// One domain's measurement: moves its β and says why.
    fn domain<'a>(
        &mut self,
        domain: &'a DomainKl,
        step: u64,
        pool: Option<Pool>,
        seen: &mut Seen,
        answer: &mut Answer<'a>,
    ) {
        let id = self.known(&domain.id);
        let reading = match Reading::check(domain) {
            Checked::Absent => return,
            Checked::Invalid(field) => {
                seen.broken = true;
                let reason = Reason::NotFinite { domain: id, field };
                return answer.propose(&domain.id, Verdict::Reject, reason);
            }
            Checked::Usable(reading) => reading,
        };
        if let Some(d) = self.domains.get_mut(&id) {
            d.measured = Some(step);
        }
        if reading.impossible() {
            seen.broken = true;
            let reason = Reason::NegativeKl { domain: id.clone(), kl: reading.mean, stderr: reading.stderr };
            answer.propose(&domain.id, Verdict::Reject, reason);
            if !self.config.law.takes_everything_finite() {
                return;
            }
        }
        seen.usable = true;
        let Some(budget) = self.domains.get(&id).map(|d| d.budget) else { return };
        self.check_caps(&id, domain, &reading, answer);
        if !self.controlled(budget) {
            return self.remember(&id, &reading);
        }
        let target = self.target_of(budget);
        let Some(steered) = self.steered(&reading) else {
            self.remember(&id, &reading);
            let reason = Reason::Unmeasured { domain: id, field: "kl_old" };
            return answer.propose(&domain.id, Verdict::Reject, reason);
        };
        if let Some(target) = target {
            self.watch(&id, &reading, &steered, target, seen);
        }
        self.remember(&id, &reading);
        let pooled = self.with_pending(&id, steered);
        let shrunk = self.shrink(&pooled, domain, target, pool);
        // A large error says nothing, unless the mean is beyond it even so: then the law must see the blow-up.
        let unclear = |t: &f64| shrunk.stderr > *t && shrunk.mean - 2.0 * shrunk.stderr <= *t;
        let noisy = target.filter(|t| unclear(t) && !self.config.law.takes_everything_finite());
        if let Some(d) = self.domains.get_mut(&id) {
            let Reading { n, mean, stderr, .. } = pooled;
            d.pending = noisy.map(|_| Pending { n, mean, stderr });
        }
        if let Some(target) = noisy {
            let reason = Reason::TooNoisy { domain: id, stderr: shrunk.stderr, target };
            return answer.propose(&domain.id, Verdict::Accept, reason);
        }
        let told = self.raise_where_capped(&id, &reading, shrunk);
        // A feed-forward β is shared by the levels of budgets, as the initial one is.
        let told = Reading { reward_sd: told.reward_sd.map(|sd| sd / self.levels as f64), ..told };
        if let Some(reason) = self.apply_law(&id, domain, &told, target, answer) {
            seen.stuck = true;
            let is_hopeless = self.domains.get(&id).is_some_and(|d| d.stuck >= HOPELESS);
            if is_hopeless && seen.hopeless.is_none() {
                seen.hopeless = Some(reason);
            }
        }
    }

    /// The KL that the law's target is of; `None` where that was not measured.
    fn steered(&self, reading: &Reading) -> Option<Reading> {
        if !self.config.law.steers_by_old() {
            return Some(*reading);
        }
        let kl = reading.kl_old?;
        Some(Reading {
            mean: kl,
            stderr: (2.0 * kl.max(0.0) / reading.n as f64).sqrt().max(f64::MIN_POSITIVE),
            ..*reading
        })
    }

    /// The measurement taken together with those before it that were too noisy to act on.
    fn with_pending(&self, id: &Arc<str>, now: Reading) -> Reading {
        let Some(before) = self.domains.get(id).and_then(|d| d.pending) else { return now };
        let (a, b) = (before.n as f64, now.n as f64);
        let n = a + b;
        Reading {
            mean: (a * before.mean + b * now.mean) / n,
            stderr: (a * before.stderr).hypot(b * now.stderr) / n,
            n: before.n.saturating_add(now.n),
            ..now
        }
    }

    /// Compares a rollout with the caps where no trial kept them, and says what a trial will miss.
    fn check_caps<'a>(
        &self,
        id: &Arc<str>,
        domain: &'a DomainKl,
        reading: &Reading,
        answer: &mut Answer<'a>,
    ) {
        let Some(region) = self.config.trust_region else { return };
        let passed = region.passed_by(reading, self.capped_target(id)).filter(|_| self.unjudged > 0);
        if let Some((of, kl, cap)) = passed {
            let reason = Reason::CapUnjudged { domain: id.clone(), of, kl, cap };
            answer.propose(&domain.id, Verdict::Halt, reason);
        }
        let known = reading.kl_ref0.is_some() || self.domains.get(id).is_some_and(|d| d.at.ref0.is_some());
        if region.ref0_cap.is_some() && !known {
            answer.propose(&domain.id, Verdict::Accept, Reason::BeforeUnknown { domain: id.clone() });
        }
    }

    /// Draws a small sample's relative KL towards the batch's.
    fn shrink(&self, r: &Reading, domain: &DomainKl, target: Option<f64>, pool: Option<Pool>) -> Reading {
        match (target, pool) {
            (Some(target), Some(pool)) if domain.id != ALL => {
                let n = r.n as f64;
                let noise = (r.stderr / target).powi(2);
                let weight = (n / (n + self.config.shrink)).max(pool.between / (pool.between + noise));
                let ratio = weight * r.kl() / target + (1.0 - weight) * pool.mean;
                Reading { mean: ratio * target, stderr: weight * r.stderr, ..*r }
            }
            _ => *r,
        }
    }

    /// Where the last update of this domain was cut by a cap, its law is told the bound that the cap judges,
    /// KL + z·stderr, instead of the mean: otherwise noise could hold the one above the cap and the other
    /// below the target, with every update refused and β falling.
    fn raise_where_capped(&mut self, id: &Arc<str>, measured: &Reading, shrunk: Reading) -> Reading {
        let by_reference = !self.config.law.steers_by_old();
        let (Some(d), Some(region), true) =
            (self.domains.get_mut(id), self.config.trust_region, by_reference)
        else {
            return shrunk;
        };
        if !std::mem::take(&mut d.capped) {
            return shrunk;
        }
        Reading { mean: shrunk.mean.max(measured.kl() + region.z * measured.stderr), ..shrunk }
    }

    /// Moves a domain's β; says so where its budget is infeasible.
    fn apply_law<'a>(
        &mut self,
        id: &Arc<str>,
        domain: &'a DomainKl,
        reading: &Reading,
        target: Option<f64>,
        answer: &mut Answer<'a>,
    ) -> Option<Reason> {
        let law = &self.config.law;
        let d = self.domains.get_mut(id)?;
        let from = law.beta(&d.law);
        let note = law.update(&mut d.law, reading, target.unwrap_or(f64::INFINITY));
        let to = law.beta(&d.law);
        let at_max = law.bounds().is_some_and(|(_, hi)| to >= hi);
        let above = target.filter(|t| at_max && reading.mean - reading.stderr > *t);
        d.stuck = if above.is_some() { d.stuck.saturating_add(1) } else { 0 };
        let stuck = d.stuck;
        let (kl, id) = (reading.mean, id.clone());
        let Some(target) = target else {
            let reason = if from == to && matches!(law, crate::law::Law::Fixed(_)) {
                Reason::Fixed { beta: to }
            } else {
                Reason::Scheduled { beta: to }
            };
            answer.propose(&domain.id, Verdict::Accept, reason);
            return None;
        };
        if stuck >= STUCK {
            if let (Some(guard), true) = (&self.config.guard, stuck.is_multiple_of(STUCK)) {
                guard.throttle(&mut self.guard);
            }
            let reason = Reason::Infeasible { domain: id, kl, target, beta: to, for_observations: stuck };
            answer.propose(&domain.id, Verdict::Throttle, reason.clone());
            return Some(reason);
        }
        let reason = match note {
            Note::AtBound => Reason::AtBound { domain: id, kl, target, beta: to },
            Note::CrossedZero => Reason::CrossedZero { domain: id, beta: to, n: reading.n },
            Note::Overflow => Reason::Overflow { domain: id, beta: to },
            Note::Plain if to > from => Reason::BetaRaised { domain: id, kl, target, from, to },
            Note::Plain if to < from => Reason::BetaLowered { domain: id, kl, target, from, to },
            Note::Plain => Reason::BetaHeld { domain: id, kl, target, beta: to },
        };
        answer.propose(&domain.id, Verdict::Accept, reason);
        None
    }

    /// Compares a usable measurement with the guard's marks.
    fn watch(&self, id: &Arc<str>, reading: &Reading, steered: &Reading, target: f64, seen: &mut Seen) {
        let Some(guard) = &self.config.guard else { return };
        let lower = steered.mean - 2.0 * steered.stderr;
        seen.blown_up |= lower > guard.blow_up * target;
        let region = self.config.trust_region.unwrap_or_default();
        let Some(cap) = region.reference_cap(self.capped_target(id)) else { return };
        let Some(d) = self.domains.get(id) else { return };
        let Some(before) = d.seen else { return };
        let noise = (reading.stderr.powi(2) + d.seen_stderr.powi(2)).sqrt();
        let first = seen.rising.as_ref().is_none_or(|(other, ..)| id < other);
        if first && reading.mean > 0.9 * cap && reading.mean - before > 2.0 * noise {
            seen.rising = Some((id.clone(), reading.mean, cap));
        }
    }

    fn remember(&mut self, id: &Arc<str>, reading: &Reading) {
        let Some(d) = self.domains.get_mut(id) else { return };
        d.seen = Some(reading.kl());
        d.seen_stderr = reading.stderr;
        // What an accepted trial measured stands: another sample of the same weights would let noise
        // above the cap pass for a policy above it, whose next rise then looks like a fall.
        if d.at.reference.is_none() {
            d.at = Before::of(reading);
        }
    }

    /// Enters the rollout's KL to the old policy for the update before it, where no trial judged that one.
    fn settle_ledger(&mut self, entries: &Entries<'_>, unjudged: Option<u64>, answer: &mut Answer<'_>) {
        let Some(ledger) = self.config.ledger else { return };
        match (unjudged, mean_kl_old(entries)) {
            (Some(step), Some(kl_old)) => ledger.enter(&mut self.ledger, step, kl_old),
            (Some(_), None) => {
                self.ledger.unentered = self.ledger.unentered.saturating_add(1);
                let reason = Reason::Unmeasured { domain: ALL.into(), field: "kl_old" };
                answer.propose("", Verdict::Reject, reason);
            }
            (None, _) => {}
        }
        let updates = self.ledger.unentered;
        if updates > MAX_UNENTERED {
            answer.propose("", Verdict::Halt, Reason::LedgerUnfed { updates });
        }
        // The update is done: all that is left is to stop.
        let (spent, limit) = (self.ledger.spent, ledger.limit.0);
        if spent > limit {
            answer.propose("", Verdict::Halt, Reason::LedgerExhausted { spent, kl_old: 0.0, limit });
        }
    }

    fn guard_rollout(&mut self, step: u64, seen: &Seen, answer: &mut Answer<'_>) {
        let Some(guard) = self.config.guard else { return };
        let alarm = if seen.broken {
            guard.broken(&mut self.guard)
        } else if seen.usable {
            guard.usable(&mut self.guard, seen.blown_up, !seen.stuck)
        } else {
            Alarm::None
        };
        let cause = if seen.broken { RollbackCause::Broken } else { RollbackCause::BlowUp };
        self.propose_alarm(alarm, cause, self.guard.broken, answer);
        if let (Alarm::None, Some(reason)) = (alarm, &seen.hopeless) {
            // What pushes harder than β can pull has had its time; perhaps it does not where the budget was kept.
            match guard.roll_back(&mut self.guard) {
                Alarm::Rollback => {
                    self.domains.values_mut().for_each(|d| d.stuck = 0);
                    answer.propose("", Verdict::Rollback, reason.clone());
                }
                _ => answer.propose("", Verdict::Halt, reason.clone()),
            }
        }
        if let Some((domain, kl, cap)) = &seen.rising {
            guard.throttle(&mut self.guard);
            let lr_factor = self.guard.lr_factor;
            let reason = Reason::FastRise { domain: domain.clone(), kl: *kl, cap: *cap, lr_factor };
            answer.propose("", Verdict::Throttle, reason);
        }
        if answer.halts() {
            self.guard.halted.get_or_insert(step);
        }
    }

    /// What an alarm asks for; `count` measurements of its kind were broken in a row.
    pub(super) fn propose_alarm(
        &self,
        alarm: Alarm,
        cause: RollbackCause,
        count: u32,
        answer: &mut Answer<'_>,
    ) {
        let rollbacks = self.guard.rollbacks;
        match alarm {
            Alarm::None => {}
            Alarm::Rollback => {
                let boost = self.guard.ln_boost.exp();
                answer.propose("", Verdict::Rollback, Reason::Rollback { cause, rollbacks, boost });
            }
            Alarm::Halt => {
                let reason = Reason::GuardHalt { broken: count, rollbacks };
                answer.propose("", Verdict::Halt, reason);
            }
        }
    }
}

/// KL to the policy before the update: that of `all`, else the mean over domains weighted by sequences;
/// `None` where it was not measured.
pub(super) fn mean_kl_old(entries: &Entries<'_>) -> Option<f64> {
    // It stands by itself: that another number of the measurement is broken does not unmake the update.
    let usable = |d: &DomainKl| {
        let kl = d.kl_old.map(|kl| kl.0).filter(|kl| crate::reading::possible(*kl));
        (d.n > 0).then_some((d.n as f64, kl))
    };
    if let Some((_, Some(kl))) = entries.only(ALL).and_then(usable) {
        return Some(kl);
    }
    let (mut sum, mut count) = (0.0, 0.0);
    for (domain, _) in entries.iter().filter(|(d, twice)| !twice && d.id != ALL) {
        if let Some((n, kl_old)) = usable(domain) {
            sum += n * kl_old?;
            count += n;
        }
    }
    (count > 0.0).then(|| sum / count)
}
