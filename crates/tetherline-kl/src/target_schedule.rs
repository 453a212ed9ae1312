//! A schedule of the target KL: every target is multiplied by a share that moves over the run.
//!
//! `shape = "quadratic"` from 0.04 to 1 raises √KL in a straight line (KL.md §2.1).

use crate::config::{KlConfigError, require, target};
use crate::ramp::{Ramp, Shape};
use serde::{Deserialize, Serialize};

/// Shares of the target over the rollouts observed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSchedule {
    /// Share of the target at the first rollout.
    pub from: f64,
    /// Share at the end and ever after (default 1).
    #[serde(default = "default_to")]
    pub to: f64,
    /// Rollouts from one to the other.
    pub steps: u64,
    /// How it goes (default linear).
    #[serde(default)]
    pub shape: Shape,
}

fn default_to() -> f64 {
    1.0
}

impl TargetSchedule {
    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        target(self.from, "target_schedule.from")?;
        target(self.to, "target_schedule.to")?;
        require(self.steps > 0, "target_schedule.steps", self.steps, "> 0")
    }

    /// The share at rollout `t`, from 0.
    pub(crate) fn at(&self, t: u64) -> f64 {
        Ramp { from: self.from, to: self.to, steps: self.steps, shape: self.shape, warmup: 0 }.at(t)
    }
}
