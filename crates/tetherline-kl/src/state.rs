//! The saved state of a controller: versioned, exact, plain numbers.

use crate::budget::BudgetState;
use crate::decision::Verdict;
use crate::guard::GuardState;
use crate::law::LawState;
use crate::ledger::LedgerState;
use crate::trust_region::{Before, TrustRegionState};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// The version written by this build.
pub const STATE_VERSION: u32 = 4;

/// Everything a controller must keep to continue exactly. Every number in it is finite, so JSON holds
/// it without loss (given a writer and reader that round-trip `f64`, as serde_json with `float_roundtrip`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerState {
    /// Format version; see [`STATE_VERSION`]. No release wrote another, so nothing is migrated: another is
    /// refused.
    #[serde(deserialize_with = "supported")]
    pub version: u32,
    /// Name of the law, as in the configuration.
    pub law: String,
    /// The last rollout step seen.
    pub last_step: Option<u64>,
    /// The verdict on it, repeated where the same step comes again.
    pub last_verdict: Verdict,
    /// Rollouts that moved β.
    pub rollouts: u64,
    /// Rollouts in a row whose update was not judged, under a trust region.
    pub unjudged: u64,
    /// Per domain.
    pub domains: BTreeMap<String, DomainState>,
    /// Per budget, in the configuration's order.
    pub budgets: Vec<BudgetState>,
    /// The trust region's.
    pub trust_region: TrustRegionState,
    /// The guard's; never rewound.
    pub guard: GuardState,
    /// The ledger's; never rewound.
    pub ledger: LedgerState,
}

/// Refuses a state of another version by its number. The version is written first, so that this comes before
/// whatever field that version has and this one has not.
fn supported<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        STATE_VERSION => Ok(STATE_VERSION),
        found => Err(D::Error::custom(StateError::Version { found, supported: STATE_VERSION })),
    }
}

/// State of one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainState {
    /// The law's own numbers.
    pub law: LawState,
    /// Observations in a row with β at its upper bound and KL above the target.
    pub stuck: u32,
    /// KL to the reference in the last usable rollout, nats per sequence.
    pub kl: Option<f64>,
    /// Standard error of `kl`.
    pub stderr: f64,
    /// Where the weights are, for the trust region.
    pub at: Before,
    /// Whether a cap on KL to the reference cut this domain's last update.
    pub capped: bool,
    /// The last rollout step that measured it.
    pub measured: Option<u64>,
    /// Measurements too noisy to act on, taken together until they are not.
    pub pending: Option<Pending>,
}

/// Several measurements of one domain taken together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// Sequences.
    pub n: u64,
    /// Their mean KL, nats per sequence.
    pub mean: f64,
    /// Standard error of the mean.
    pub stderr: f64,
}

impl DomainState {
    /// What no controller can have written, besides the law's own numbers.
    pub(crate) fn damage(&self) -> Option<String> {
        let at = [self.at.reference, Some(self.at.stderr), self.at.ref0, self.kl, Some(self.stderr)];
        let kl = [self.at.reference, self.kl];
        if !at.iter().flatten().all(|v| v.is_finite()) {
            return Some("a measurement is not finite".to_owned());
        }
        if self
            .pending
            .is_some_and(|p| p.n == 0 || !p.mean.is_finite() || p.stderr.is_nan() || p.stderr < 0.0)
        {
            return Some("the measurements taken together do not fit together".to_owned());
        }
        let negative = kl.iter().flatten().any(|v| *v < 0.0) || self.stderr < 0.0 || self.at.stderr < 0.0;
        negative.then(|| "a KL or a standard error is negative".to_owned())
    }
}

/// A state that cannot be continued from.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StateError {
    /// Written by another version of the format.
    #[error(
        "controller state has version {found}, this build reads version {supported}: continue with the release that wrote it"
    )]
    Version {
        /// Version in the state.
        found: u32,
        /// Version this build reads.
        supported: u32,
    },
    /// Written by another law.
    #[error("controller state was written by the law `{found}`, the configuration says `{expected}`")]
    OtherLaw {
        /// Law in the state.
        found: String,
        /// Law of this controller.
        expected: String,
    },
    /// Written under other budgets.
    #[error("controller state was written under the budgets [{found}], the configuration has [{expected}]")]
    OtherBudgets {
        /// Ids in the state.
        found: String,
        /// Ids of this controller.
        expected: String,
    },
    /// A number that no controller could have written.
    #[error("controller state of {part} is damaged: {problem}")]
    Damaged {
        /// Which part: a domain, a budget, the guard, …
        part: String,
        /// What is wrong.
        problem: String,
    },
}
