//! Hard trust region: judges the result of an update and scales it back, or refuses it.
//!
//! After an update the trainer measures KL on held-out prompts (phase `trial`). Every configured cap is
//! compared with an upper confidence bound KL + z·stderr:
//!
//! - `cap` (or `cap_ratio` × target): KL to the current reference;
//! - `old_cap`: KL to the policy before the update;
//! - `ref0_cap`: KL to the first reference, which never moves. A reference that follows the policy
//!   launders drift: KL to it stays small while KL to the first one grows without end.
//!
//! Where a cap is passed, the answer is `scale` with the share of the *whole* update to keep,
//! θ_old + scale·(θ_new − θ_old), and another trial is expected. √(2·KL) is nearly linear along that line,
//! which gives the first guess; each further trial shrinks it by at least `backtrack` (TRPO's 0.8), at
//! most `max_trials` times. Where the bound hardly falls with the share (the line through the last two trials
//! does not reach the cap even at a share of 0; √KL is convex along it, so that the truth lies above), the next
//! trial is of the weights before the update, `scale` 0: if these are above a cap on this shard, no share can help
//! and the update is rejected at once. Above a cap already before the update, a step that lowers KL is accepted (else
//! a tightened target would deadlock) and one that does not is rejected at once. "Before" is what the last
//! accepted trial measured, not the rollout's second sample of the same weights: with that, a rollout that
//! noise puts above the cap would let the next rise pass for a fall, and KL would climb without end.
//!
//! Caps are only as good as the trials: where an update was not judged and the rollout after it lies above a cap
//! beyond its noise, the answer is `halt`; a trust region that meets no trials is named.

use crate::config::{KlConfigError, positive, require};
use crate::decision::Verdict;
use crate::reading::Reading;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// Caps on the result of an update.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRegion {
    /// Cap on KL to the current reference; `cap_ratio` × target where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<NatsPerSequence>,
    /// The cap as a multiple of each domain's target (default 1.15).
    #[serde(default = "default_cap_ratio")]
    pub cap_ratio: f64,
    /// Cap on KL to the policy before the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_cap: Option<NatsPerSequence>,
    /// Cap on KL to the first reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref0_cap: Option<NatsPerSequence>,
    /// Inside an update: stop its epochs when KL to the old policy exceeds this (see [`Self::early_stop`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at: Option<NatsPerSequence>,
    /// Each further trial keeps at most this share of the last one (default 0.8).
    #[serde(default = "default_backtrack")]
    pub backtrack: f64,
    /// Times that a step is scaled back before it is rejected (default 10).
    #[serde(default = "default_max_trials")]
    pub max_trials: u32,
    /// Standard errors added before the comparison (default 1.645: at most 5 % of accepted steps lie
    /// above the cap in truth).
    #[serde(default = "default_z")]
    pub z: f64,
}

fn default_cap_ratio() -> f64 {
    1.15
}

fn default_backtrack() -> f64 {
    0.8
}

fn default_max_trials() -> u32 {
    10
}

fn default_z() -> f64 {
    1.645
}

impl Default for TrustRegion {
    fn default() -> Self {
        Self {
            cap: None,
            cap_ratio: default_cap_ratio(),
            old_cap: None,
            ref0_cap: None,
            stop_at: None,
            backtrack: default_backtrack(),
            max_trials: default_max_trials(),
            z: default_z(),
        }
    }
}

/// State of a trust region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRegionState {
    /// The step whose trials these are.
    pub step: Option<u64>,
    /// The last trial number seen in it.
    pub trial: Option<u32>,
    /// Trials judged in it.
    pub judged: u32,
    /// Share of the update that the last trial had; 0 where it is to be of the weights before.
    pub scale: f64,
    /// Share and √(bound/cap) of the last trial of the update that was above a cap.
    pub last: Option<(f64, f64)>,
    /// While the weights before the update are to be measured: the share to go on with if they keep every cap.
    pub resume: Option<f64>,
    /// Whether they were measured.
    pub before: bool,
    /// The verdict on the step's update; `None` while another trial is expected.
    pub verdict: Option<Verdict>,
}

impl TrustRegionState {
    /// The state after a rollout whose batch leads to no update.
    pub(crate) fn without_update(step: u64, verdict: Verdict) -> Self {
        Self { step: Some(step), scale: 1.0, verdict: Some(verdict), ..Self::default() }
    }

    pub(crate) fn damage(&self) -> Option<String> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let last = self.last.is_none_or(|(at, excess)| share(at) && excess.is_finite());
        let possible = share(self.scale) && self.resume.is_none_or(share) && last;
        (!possible).then(|| format!("the last trial had {} of its update", self.scale))
    }
}

/// Whether the line through two trials above a cap, each a share of the update and its √(bound/cap), lies above it at a
/// share of 0 too. √KL is convex along the update, so that the truth there lies above the line.
pub(crate) fn is_hopeless(before: (f64, f64), now: (f64, f64)) -> bool {
    let ((share_before, excess_before), (share, excess)) = (before, now);
    let slope = (excess_before - excess) / (share_before - share);
    share < share_before && excess - slope * share > 1.0
}

/// Which KL a cap is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapOf {
    /// To the current reference.
    Reference,
    /// To the policy before the update.
    Old,
    /// To the first reference.
    FirstReference,
}

impl std::fmt::Display for CapOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reference => "the reference",
            Self::Old => "the policy before the update",
            Self::FirstReference => "the first reference",
        })
    }
}

/// What one domain's trial measurement amounts to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Judgement {
    /// Inside every cap, or lower than before.
    Inside,
    /// A cap is configured whose KL was not measured: the field's name.
    Unmeasured(&'static str),
    /// Above a cap; keep this share of what the trial had, 0 where no share can help.
    Above { of: CapOf, bound: f64, cap: f64, keep: f64 },
}

/// KL of the weights before the update, as the last accepted trial measured it, or the last rollout where
/// none was judged since. Nats per sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    /// To the current reference; `None` where it is not known.
    pub reference: Option<f64>,
    /// Standard error of `reference`.
    pub stderr: f64,
    /// To the first reference.
    pub ref0: Option<f64>,
}

impl Before {
    /// What this measurement says of the weights it was taken on.
    pub(crate) fn of(reading: &Reading) -> Self {
        Self { reference: Some(reading.kl()), stderr: reading.stderr, ref0: reading.kl_ref0 }
    }
}

impl TrustRegion {
    pub(crate) fn validate(&self, has_target: bool) -> Result<(), KlConfigError> {
        let caps = [
            (self.cap, "trust_region.cap"),
            (self.old_cap, "trust_region.old_cap"),
            (self.ref0_cap, "trust_region.ref0_cap"),
            (self.stop_at, "trust_region.stop_at"),
        ];
        for (cap, field) in caps {
            cap.map_or(Ok(()), |cap| positive(cap.0, field))?;
        }
        let some = has_target || caps.iter().any(|(cap, _)| cap.is_some());
        require(
            some,
            "trust_region.cap",
            "none",
            "given where the law has no target of the KL to the reference",
        )?;
        require(self.cap_ratio >= 1.0, "trust_region.cap_ratio", self.cap_ratio, "≥ 1")?;
        positive(self.cap_ratio, "trust_region.cap_ratio")?;
        let inside = self.backtrack > 0.0 && self.backtrack < 1.0;
        require(inside, "trust_region.backtrack", self.backtrack, "in (0, 1)")?;
        let trials = (1..=100).contains(&self.max_trials);
        require(trials, "trust_region.max_trials", self.max_trials, "from 1 to 100")?;
        require(
            (0.0..=100.0).contains(&self.z),
            "trust_region.z",
            format_args!("{:?}", self.z),
            "from 0 to 100",
        )
    }

    /// The cap that a rollout lies above beyond its noise, if any, with the KL and the cap.
    pub(crate) fn passed_by(&self, now: &Reading, target: Option<f64>) -> Option<(CapOf, f64, f64)> {
        let noise = |kl: f64| (2.0 * kl.max(0.0) / now.n as f64).sqrt();
        let reference = self.reference_cap(target).map(|cap| (CapOf::Reference, now.mean, now.stderr, cap));
        let first = self.ref0_cap.zip(now.kl_ref0);
        let first = first.map(|(cap, kl)| (CapOf::FirstReference, kl, noise(kl), cap.0));
        let beyond = |(of, kl, stderr, cap)| (kl - self.z * stderr > cap).then_some((of, kl, cap));
        reference.and_then(beyond).or_else(|| first.and_then(beyond))
    }

    /// The cap on KL to the current reference of a domain with this target.
    pub(crate) fn reference_cap(&self, target: Option<f64>) -> Option<f64> {
        self.cap.map(|c| c.0).or_else(|| target.map(|t| t * self.cap_ratio))
    }

    /// Whether to stop an update's remaining epochs, given KL(old policy‖new policy) so far (PPO practice: 1.5 × a target of 0.01 per token). A NaN stops.
    #[must_use]
    pub fn early_stop(&self, kl_old: NatsPerSequence) -> bool {
        self.stop_at.is_some_and(|limit| kl_old.0.is_nan() || kl_old > limit)
    }

    /// Judges one domain's measurement after an update.
    pub(crate) fn judge(&self, after: &Reading, before: Before, target: Option<f64>) -> Judgement {
        let n = after.n as f64;
        // KL to the old policy and the first reference come without an error of their own: the variance of a
        // log-ratio is about 2·KL.
        let noise = |kl: f64| (2.0 * kl.max(0.0) / n).sqrt();
        let checks = [
            (
                CapOf::Reference,
                self.reference_cap(target),
                Some((after.kl(), after.stderr)),
                before.reference.map(|kl| (kl, before.stderr)),
                "mean_kl",
            ),
            (
                CapOf::Old,
                self.old_cap.map(|c| c.0),
                after.kl_old.map(|kl| (kl, noise(kl))),
                Some((0.0, 0.0)),
                "kl_old",
            ),
            (
                CapOf::FirstReference,
                self.ref0_cap.map(|c| c.0),
                after.kl_ref0.map(|kl| (kl, noise(kl))),
                before.ref0.map(|kl| (kl, noise(kl))),
                "kl_ref0",
            ),
        ];
        let mut worst = Judgement::Inside;
        for (of, cap, measured, before, field) in checks {
            let Some(cap) = cap else { continue };
            let Some((kl, stderr)) = measured else { return Judgement::Unmeasured(field) };
            let bound = kl + self.z * stderr;
            if bound <= cap {
                continue;
            }
            let before_bound = before.map(|(kl, stderr)| kl + self.z * stderr);
            let was_above = before_bound.is_some_and(|b| b > cap);
            if was_above && before.is_some_and(|(was, _)| kl < was) {
                continue;
            }
            let keep = if was_above { 0.0 } else { self.keep(bound, cap, before_bound) };
            let smaller = match worst {
                Judgement::Above { keep: other, .. } => keep < other,
                _ => true,
            };
            if smaller {
                worst = Judgement::Above { of, bound, cap, keep };
            }
        }
        worst
    }

    /// The share of the step at which the bound of √(2·KL), taken as linear, meets the cap; at most `backtrack`.
    fn keep(&self, bound: f64, cap: f64, before: Option<f64>) -> f64 {
        let root = |kl: f64| (2.0 * kl.max(0.0)).sqrt();
        let (at, start, goal) = (root(bound), root(before.unwrap_or(0.0)), root(cap));
        let share = if at > start { (goal - start) / (at - start) } else { self.backtrack };
        share.max(0.05).min(self.backtrack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(kl: f64, kl_old: Option<f64>, kl_ref0: Option<f64>) -> Reading {
        // A count so large that every standard error is negligible.
        Reading { mean: kl, stderr: 1e-9, n: 1 << 60, reward_sd: None, kl_old, kl_ref0 }
    }

    fn before(kl: f64) -> Before {
        Before { reference: Some(kl), stderr: 0.0, ref0: None }
    }

    #[test]
    fn the_first_guess_is_linear_in_the_root_of_kl() {
        let tr = TrustRegion { cap: Some(NatsPerSequence(2.0)), ..TrustRegion::default() };
        // From KL 0.5 (d = 1) to 8 (d = 4); the cap is at d = 2: a third of the way.
        match tr.judge(&reading(8.0, None, None), before(0.5), None) {
            Judgement::Above { of: CapOf::Reference, cap, keep, .. } => {
                assert_eq!(cap, 2.0);
                assert!((keep - 1.0 / 3.0).abs() < 1e-6, "{keep}");
            }
            other => panic!("{other:?}"),
        }
        // Just above: at least the backtracking factor.
        match tr.judge(&reading(2.001, None, None), before(0.5), None) {
            Judgement::Above { keep, .. } => assert_eq!(keep, 0.8),
            other => panic!("{other:?}"),
        }
        assert_eq!(tr.judge(&reading(1.999, None, None), before(0.5), None), Judgement::Inside);
    }

    #[test]
    fn a_small_backtrack_is_the_most_that_is_kept() {
        let tr = TrustRegion { backtrack: 0.01, ..TrustRegion::default() };
        match tr.judge(&reading(20.0, None, None), before(3.0), Some(6.0)) {
            Judgement::Above { keep, .. } => assert_eq!(keep, 0.01),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_guess_counts_the_noise_on_both_ends() {
        let tr = TrustRegion { cap: Some(NatsPerSequence(4.5)), z: 2.0, ..TrustRegion::default() };
        // Bounds of 2 (d = 2) before and 8 (d = 4) after; the cap is at d = 3.
        let noisy = Reading { stderr: 0.75, ..reading(6.5, None, None) };
        let was = Before { stderr: 0.75, ..before(0.5) };
        match tr.judge(&noisy, was, None) {
            Judgement::Above { keep, .. } => assert!((keep - 0.5).abs() < 1e-9, "{keep}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn above_the_cap_only_a_lowering_step_passes() {
        let tr = TrustRegion::default(); // 1.15 × target
        let target = Some(2.0); // cap 2.3
        assert_eq!(tr.judge(&reading(2.9, None, None), before(3.0), target), Judgement::Inside);
        for after in [3.0, 3.1] {
            match tr.judge(&reading(after, None, None), before(3.0), target) {
                Judgement::Above { keep, .. } => assert_eq!(keep, 0.0),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_gate_is_on_the_upper_bound() {
        let tr = TrustRegion { cap: Some(NatsPerSequence(2.0)), z: 2.0, ..TrustRegion::default() };
        let noisy = Reading { stderr: 0.3, ..reading(1.5, None, None) };
        assert!(
            matches!(tr.judge(&noisy, before(1.0), None), Judgement::Above { bound, .. } if bound == 2.1)
        );
        let calm = Reading { stderr: 0.2, ..noisy };
        assert_eq!(tr.judge(&calm, before(1.0), None), Judgement::Inside);
    }

    #[test]
    fn old_and_first_reference_have_their_own_caps() {
        let tr = TrustRegion {
            old_cap: Some(NatsPerSequence(0.5)),
            ref0_cap: Some(NatsPerSequence(9.0)),
            ..TrustRegion::default()
        };
        let judge = |old, ref0| tr.judge(&reading(1.0, old, ref0), before(1.0), Some(6.0));
        assert_eq!(judge(Some(0.4), Some(8.0)), Judgement::Inside);
        assert_eq!(judge(None, Some(8.0)), Judgement::Unmeasured("kl_old"));
        assert_eq!(judge(Some(0.4), None), Judgement::Unmeasured("kl_ref0"));
        match judge(Some(2.0), Some(8.0)) {
            // KL to the old policy is quadratic in the step: half of it.
            Judgement::Above { of: CapOf::Old, keep, .. } => assert!((keep - 0.5).abs() < 1e-6),
            other => panic!("{other:?}"),
        }
        assert!(matches!(judge(Some(0.4), Some(9.5)), Judgement::Above { of: CapOf::FirstReference, .. }));
        // Two caps at once: the smaller share counts.
        assert!(matches!(judge(Some(50.0), Some(9.5)), Judgement::Above { of: CapOf::Old, .. }));
    }

    #[test]
    fn of_several_caps_the_one_that_leaves_least_decides() {
        let cap = |c: f64| Some(NatsPerSequence(c));
        let was = Before { reference: Some(0.5), stderr: 0.0, ref0: Some(0.5) };
        let judge = |reference: f64, first: f64| {
            let tr = TrustRegion { cap: cap(reference), ref0_cap: cap(first), ..TrustRegion::default() };
            match tr.judge(&reading(8.0, None, Some(8.0)), was, None) {
                Judgement::Above { of, keep, .. } => (of, keep),
                other => panic!("{other:?}"),
            }
        };
        // From d = 1 to 4: a cap of 2 (d = 2) leaves a third, one of 4.5 (d = 3) two thirds.
        for (reference, first, of) in [(2.0, 4.5, CapOf::Reference), (4.5, 2.0, CapOf::FirstReference)] {
            let (found, keep) = judge(reference, first);
            assert_eq!(found, of);
            assert!((keep - 1.0 / 3.0).abs() < 1e-6);
        }
    }

    #[test]
    fn weights_exactly_at_the_cap_are_not_above_it() {
        let tr = TrustRegion { cap: Some(NatsPerSequence(2.0)), ..TrustRegion::default() };
        match tr.judge(&reading(3.0, None, None), before(2.0), None) {
            Judgement::Above { keep, .. } => {
                assert_eq!(keep, 0.05, "the least share is tried, not a rejection")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_noise_of_the_other_two_is_that_of_a_log_ratio() {
        // √(2·0.25/8) = 0.25, so that the bound is 0.5.
        let measured = Reading { n: 8, ..reading(1.0, Some(0.25), Some(0.25)) };
        let judge = |cap: f64, first: bool| {
            let cap = Some(NatsPerSequence(cap));
            let (old_cap, ref0_cap) = if first { (None, cap) } else { (cap, None) };
            TrustRegion { old_cap, ref0_cap, z: 1.0, ..TrustRegion::default() }.judge(
                &measured,
                before(1.0),
                Some(6.0),
            )
        };
        for first in [false, true] {
            assert_eq!(judge(0.5, first), Judgement::Inside);
            assert!(matches!(judge(0.49, first), Judgement::Above { bound, .. } if bound == 0.5));
        }
    }

    #[test]
    fn early_stop_inside_an_update() {
        let tr = TrustRegion { stop_at: Some(NatsPerSequence(0.5)), ..TrustRegion::default() };
        assert!(
            !tr.early_stop(NatsPerSequence(0.5))
                && tr.early_stop(NatsPerSequence(0.51))
                && tr.early_stop(NatsPerSequence(f64::NAN))
        );
        assert!(!TrustRegion::default().early_stop(NatsPerSequence(f64::NAN)));
    }
}
