//! Why a decision was taken: an enum with its numbers, and a sentence rendered only when it is read.

use crate::trust_region::CapOf;
use serde::de::Error as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::Arc;

/// What a guard asks for a rollback for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackCause {
    /// Measurements in a row were broken.
    Broken,
    /// KL stayed far above its target.
    BlowUp,
}

impl std::fmt::Display for RollbackCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Broken => "several measurements in a row were broken",
            Self::BlowUp => "KL stays far above its target",
        })
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $code:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty),* } => $text:literal );* $(;)?) => {
        /// Why a decision was taken, with its numbers. KL in nats per sequence.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name { $($(#[$fdoc])* $field: $ty),* },)*
            /// Read back from a log, where only the code and the sentence are kept.
            Recorded {
                /// The code.
                code: ReasonCode,
                /// The sentence.
                text: String,
            },
        }

        /// The kind of a [`Reason`]; serialised in `snake_case`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ReasonCode { $($(#[$doc])* $name),* }

        impl ReasonCode {
            /// Every code, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as it stands in a log.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }
        }

        impl Reason {
            /// The kind of this reason.
            #[must_use]
            pub fn code(&self) -> ReasonCode {
                match self {
                    $(Self::$name { .. } => ReasonCode::$name,)*
                    Self::Recorded { code, .. } => *code,
                }
            }
        }

        impl std::fmt::Display for Reason {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$name { $($field),* } => write!(f, $text),)*
                    Self::Recorded { text, .. } => f.write_str(text),
                }
            }
        }
    };
}

reasons! {
    /// Nothing has been observed yet.
    Start "start" {} => "no observation yet: β is at its initial value";
    /// The law is a constant.
    Fixed "fixed" {
        /// The coefficient.
        beta: f64
    } => "β is fixed at {beta}";
    /// The law is a schedule.
    Scheduled "scheduled" {
        /// The coefficient.
        beta: f64
    } => "β is {beta:.6} by its schedule";
    /// The law raised β.
    BetaRaised "beta_raised" {
        /// Domain.
        domain: Arc<str>,
        /// Measured KL.
        kl: f64,
        /// Target KL.
        target: f64,
        /// β before.
        from: f64,
        /// β after.
        to: f64
    } => "KL of {domain} is {kl:.4}, target {target:.4} nats per sequence: β {from:.6} → {to:.6}";
    /// The law lowered β.
    BetaLowered "beta_lowered" {
        /// Domain.
        domain: Arc<str>,
        /// Measured KL.
        kl: f64,
        /// Target KL.
        target: f64,
        /// β before.
        from: f64,
        /// β after.
        to: f64
    } => "KL of {domain} is {kl:.4}, target {target:.4} nats per sequence: β {from:.6} → {to:.6}";
    /// The law saw the measurement and left β alone.
    BetaHeld "beta_held" {
        /// Domain.
        domain: Arc<str>,
        /// Measured KL.
        kl: f64,
        /// Target KL.
        target: f64,
        /// β.
        beta: f64
    } => "KL of {domain} is {kl:.4}, target {target:.4} nats per sequence: β stays at {beta:.6}";
    /// β wanted to move further but is at its bound.
    AtBound "at_bound" {
        /// Domain.
        domain: Arc<str>,
        /// Measured KL.
        kl: f64,
        /// Target KL.
        target: f64,
        /// β, equal to the bound.
        beta: f64
    } => "β of {domain} is at its bound {beta} with KL {kl:.4} against a target of {target:.4} nats per sequence";
    /// The published linear form made β negative.
    CrossedZero "crossed_zero" {
        /// Domain.
        domain: Arc<str>,
        /// β after.
        beta: f64,
        /// Sequences in the step.
        n: u64
    } => "β of {domain} is {beta:.6}, not above zero: a step of {n} episodes is too long for the horizon of the linear form (use `adaptive`, or set beta_min)";
    /// The published linear form left the range of an `f64`.
    Overflow "overflow" {
        /// Domain.
        domain: Arc<str>,
        /// β, held.
        beta: f64
    } => "β of {domain} would leave the range of a number and is held at {beta:e}";
    /// A number is not finite, or cannot be what it is named.
    NotFinite "not_finite" {
        /// Domain.
        domain: Arc<str>,
        /// Field of the observation.
        field: &'static str
    } => "{field} of {domain} is not a usable number: β is held and the batch should not be learned from";
    /// One id stands twice in an observation.
    ListedTwice "listed_twice" {
        /// Domain.
        domain: Arc<str>
    } => "{domain} is listed twice in one observation: β is held, since which of the two counts is not known";
    /// Significantly negative KL.
    NegativeKl "negative_kl" {
        /// Domain.
        domain: Arc<str>,
        /// Measured KL.
        kl: f64,
        /// Its standard error.
        stderr: f64
    } => "KL of {domain} is {kl:.4} ± {stderr:.4} nats per sequence, and a KL is never negative: suspect the mask, the temperature, dropout or log-probs of another engine; β is held";
    /// The measurement says less than its noise.
    TooNoisy "too_noisy" {
        /// Domain.
        domain: Arc<str>,
        /// Standard error.
        stderr: f64,
        /// Target KL.
        target: f64
    } => "the standard error of {domain}, {stderr:.4}, exceeds the target of {target:.4} nats per sequence: β is held until more sequences are measured";
    /// No domain had a single sequence.
    AllAbsent "all_absent" {} => "no domain has a measured sequence: there is nothing to control on";
    /// The step was seen before.
    DuplicateStep "duplicate_step" {
        /// Step of the observation.
        step: u64
    } => "step {step} was observed before: its decision stands and nothing moves";
    /// The step is older than the last one.
    StepBackwards "step_backwards" {
        /// Step of the observation.
        step: u64,
        /// Last step seen.
        last: u64
    } => "step {step} is older than the last one, {last}: steps never run backwards, so nothing moves";
    /// The trial was seen before.
    DuplicateTrial "duplicate_trial" {
        /// Trial number.
        trial: u32
    } => "trial {trial} was judged before: its verdict stands";
    /// A trial of a step that no rollout has begun.
    TrialAhead "trial_ahead" {
        /// Step of the trial.
        step: u64
    } => "a trial of step {step}, which no rollout has begun: send the rollout of a step before its trials";
    /// Another update in a step that is done.
    StepClosed "step_closed" {
        /// Step of the trial.
        step: u64
    } => "step {step} is done and a new trial of it stands for weights that moved since: undo that, one update is judged per rollout";
    /// A trial measurement that no part judges.
    NotJudged "not_judged" {
        /// Trial number.
        trial: u32
    } => "trial {trial} is accepted: no trust region is configured";
    /// Every cap is kept.
    InsideCaps "inside_caps" {
        /// Trial number.
        trial: u32,
        /// Share of the update that this trial had.
        scale: f64
    } => "trial {trial} keeps every cap with {scale:.4} of the update";
    /// A cap is passed; the step is to be scaled back.
    AboveCap "above_cap" {
        /// Domain.
        domain: Arc<str>,
        /// KL to what.
        of: CapOf,
        /// Upper confidence bound of that KL.
        bound: f64,
        /// The cap.
        cap: f64,
        /// Share of the whole update to keep.
        scale: f64
    } => "KL of {domain} to {of} is up to {bound:.4}, above its cap of {cap:.4} nats per sequence: keep {scale:.4} of the update and measure again";
    /// A cap is passed and no share of the step helps, or there were too many trials.
    CapReject "cap_reject" {
        /// Domain.
        domain: Arc<str>,
        /// KL to what.
        of: CapOf,
        /// Upper confidence bound of that KL.
        bound: f64,
        /// The cap.
        cap: f64,
        /// Trials judged.
        trials: u32
    } => "KL of {domain} to {of} is up to {bound:.4}, above its cap of {cap:.4} nats per sequence after {trials} trials: undo the update";
    /// The bound hardly falls with the share of the update: the weights before are to be measured.
    CheckBefore "check_before" {
        /// Domain.
        domain: Arc<str>,
        /// KL to what.
        of: CapOf,
        /// Upper confidence bound of that KL.
        bound: f64,
        /// The cap.
        cap: f64
    } => "KL of {domain} to {of} is up to {bound:.4}, above its cap of {cap:.4} nats per sequence, and falls so little with the share of the update that no share may keep it: measure the weights before the update";
    /// The weights before the update keep every cap: smaller shares are worth trying.
    BeforeInside "before_inside" {
        /// Share of the whole update to keep.
        scale: f64
    } => "the weights before the update keep every cap: keep {scale:.4} of the update and measure again";
    /// The weights before the update are above a cap on this shard: no share of the update can help.
    AboveBefore "above_before" {
        /// Domain.
        domain: Arc<str>,
        /// KL to what.
        of: CapOf,
        /// Upper confidence bound of that KL.
        bound: f64,
        /// The cap.
        cap: f64,
        /// Trials judged.
        trials: u32
    } => "KL of {domain} to {of} is up to {bound:.4} even before the update, above its cap of {cap:.4} nats per sequence: no share of it can help, undo it after {trials} trials";
    /// A cap is configured whose KL was not measured.
    Unmeasured "unmeasured" {
        /// Domain.
        domain: Arc<str>,
        /// Missing field.
        field: &'static str
    } => "a limit on {field} is configured but {domain} does not measure it: what is not measured is not accepted";
    /// A domain of the rollout is missing from the trial.
    DomainMissing "domain_missing" {
        /// Domain.
        domain: Arc<str>
    } => "the rollout measured {domain} and the trial does not: what is not measured is not accepted";
    /// A budget has met no domain or user of its name.
    BudgetUnseen "budget_unseen" {
        /// Budget.
        budget: Arc<str>,
        /// Rollouts so far.
        rollouts: u64
    } => "no domain or user named {budget} was measured in {rollouts} rollouts: nothing holds this budget";
    /// A budget is linked to a metric that was never measured.
    MetricUnseen "metric_unseen" {
        /// Budget.
        budget: Arc<str>,
        /// Metric.
        metric: Arc<str>,
        /// Rollouts so far.
        rollouts: u64
    } => "the budget {budget} is linked to {metric}, which was not measured in {rollouts} rollouts: it does not tighten";
    /// A trust region has met no trial.
    NoTrials "no_trials" {
        /// Rollouts in a row whose update was not judged.
        rollouts: u64
    } => "a trust region is configured and {rollouts} updates in a row were not judged: its caps hold only what trials measure";
    /// A rollout lies above a cap and the update before it was not judged.
    CapUnjudged "cap_unjudged" {
        /// Domain.
        domain: Arc<str>,
        /// KL to what.
        of: CapOf,
        /// Measured KL.
        kl: f64,
        /// The cap.
        cap: f64
    } => "KL of {domain} to {of} is {kl:.4}, above its cap of {cap:.4} nats per sequence, and the update before was not judged: send a trial after each update";
    /// The KL to the first reference before an update is not known.
    BeforeUnknown "before_unknown" {
        /// Domain.
        domain: Arc<str>
    } => "kl_ref0 of {domain} is capped but not known before the update: measure it in rollouts too, or a policy above the cap cannot come back below it";
    /// The ledger has not enough left for this step.
    LedgerExhausted "ledger_exhausted" {
        /// Spent so far.
        spent: f64,
        /// KL of this update.
        kl_old: f64,
        /// Limit.
        limit: f64
    } => "the run has drifted {spent:.4} and this update would add {kl_old:.4}, above the limit of {limit:.4} nats per sequence";
    /// Too many updates were not measured for a ledger to mean anything.
    LedgerUnfed "ledger_unfed" {
        /// Updates that could not be entered.
        updates: u64
    } => "{updates} updates were not measured (kl_old): a sum that leaves them out limits nothing";
    /// A metric tightened a budget.
    BudgetTightened "budget_tightened" {
        /// Budget.
        budget: Arc<str>,
        /// Metric.
        metric: Arc<str>,
        /// Its confidence bound.
        bound: f64,
        /// Its limit.
        limit: f64,
        /// Target now.
        target: f64
    } => "{metric} may be {bound:.4} (limit {limit:.4}): the budget {budget} tightens to {target:.4} nats per sequence";
    /// β is at its upper bound and KL stays above the target.
    Infeasible "infeasible" {
        /// Domain.
        domain: Arc<str>,
        /// Measured KL.
        kl: f64,
        /// Target KL.
        target: f64,
        /// β, at its upper bound.
        beta: f64,
        /// Observations in a row.
        for_observations: u32
    } => "the budget of {domain} is infeasible: KL is {kl:.4} against {target:.4} nats per sequence with β at its bound {beta} for {for_observations} observations";
    /// KL rises fast close to its cap.
    FastRise "fast_rise" {
        /// Domain.
        domain: Arc<str>,
        /// Measured KL.
        kl: f64,
        /// Cap.
        cap: f64,
        /// Learning-rate factor.
        lr_factor: f64
    } => "KL of {domain} has risen to {kl:.4}, close to its cap of {cap:.4} nats per sequence: the learning rate is multiplied by {lr_factor:.4}";
    /// The guard asks for a rollback.
    Rollback "rollback" {
        /// What for.
        cause: RollbackCause,
        /// Rollbacks so far, this one included.
        rollbacks: u32,
        /// Multiplier on β.
        boost: f64
    } => "{cause}: restore the last good checkpoint (rollback number {rollbacks}); β is multiplied by {boost:.4}";
    /// The guard halts.
    GuardHalt "guard_halt" {
        /// Broken measurements in a row.
        broken: u32,
        /// Rollbacks so far.
        rollbacks: u32
    } => "broken measurements in a row: {broken}; rollbacks so far: {rollbacks}; the run stops";
    /// It halted before.
    Halted "halted" {
        /// The step at which it halted.
        step: u64
    } => "halted at step {step}; a halt stays until the controller is started anew";
}

impl Reason {
    /// The sentence, with its numbers.
    #[must_use]
    pub fn text(&self) -> String {
        self.to_string()
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ReasonCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ReasonCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Self::ALL
            .iter()
            .find(|c| c.as_str() == code)
            .copied()
            .ok_or_else(|| D::Error::custom(format!("unknown reason code `{code}`")))
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("Reason", 2)?;
        s.serialize_field("code", &self.code())?;
        s.serialize_field("text", &self.text())?;
        s.end()
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Recorded {
            code: ReasonCode,
            text: String,
        }
        let Recorded { code, text } = Recorded::deserialize(deserializer)?;
        Ok(Self::Recorded { code, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_has_its_numbers_and_survives_a_log() {
        let reason =
            Reason::BetaRaised { domain: "medical".into(), kl: 9.0, target: 6.0, from: 0.2, to: 0.21 };
        assert_eq!(
            reason.text(),
            "KL of medical is 9.0000, target 6.0000 nats per sequence: β 0.200000 → 0.210000"
        );
        let json = serde_json::to_string(&reason).unwrap();
        assert!(json.starts_with(r#"{"code":"beta_raised","text":"#), "{json}");
        let back: Reason = serde_json::from_str(&json).unwrap();
        assert_eq!((back.code(), back.text()), (reason.code(), reason.text()));
        assert!(serde_json::from_str::<Reason>(r#"{"code":"nope","text":""}"#).is_err());
    }

    #[test]
    fn codes_are_distinct() {
        let codes: std::collections::BTreeSet<_> = ReasonCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(codes.len(), ReasonCode::ALL.len());
    }
}
