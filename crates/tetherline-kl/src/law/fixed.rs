//! β = init, for ever: the N+ default (0.05).

use crate::config::{KlConfigError, require};
use serde::{Deserialize, Serialize};

/// A constant coefficient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixed {
    /// β, reward units per nat; 0 switches the penalty off.
    pub init: f64,
}

/// A fixed law keeps no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedState {}

impl Fixed {
    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        require(self.init.is_finite() && self.init >= 0.0, "fixed.init", self.init, "finite and ≥ 0")
    }
}
