//! The saved state of a controller: versioned, exact, plain numbers.

use crate::law::LawState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// The version written by this build.
pub const STATE_VERSION: u32 = 1;

/// Everything a controller must keep to continue exactly. Every number in it is finite, so JSON holds
/// it without loss (given a writer and reader that round-trip `f64`, as serde_json with `float_roundtrip`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerState {
    /// Format version; see [`STATE_VERSION`].
    pub version: u32,
    /// Name of the law, as in the configuration.
    pub law: String,
    /// The last rollout step seen.
    pub last_step: Option<u64>,
    /// Per domain.
    pub domains: BTreeMap<String, DomainState>,
}

/// State of one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainState {
    /// The law's own numbers.
    pub law: LawState,
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
    /// A number that no controller could have written.
    #[error("controller state of domain `{domain}` is damaged: {problem}")]
    Damaged {
        /// Domain.
        domain: String,
        /// What is wrong.
        problem: String,
    },
}
