//! `[[fault]]`: something goes wrong on purpose, to see what the guard makes of it. Refused without `allow_faults = true`.
//!
//! ```toml
//! allow_faults = true
//!
//! [[fault]]
//! at = 40                    # first step
//! steps = 3                  # how many (default 1)
//! what = { lr = 100.0 }      # or { hostile_reward = 5.0 }, { lost_domain = "billing" }, "nan_gradient", "nan_score", "nan_value"
//! ```

use serde::{Deserialize, Serialize};
use tetherline_core::FieldError;

/// One fault and when it strikes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The first step, from 1.
    pub at: u64,
    /// How many steps (default 1).
    #[serde(default = "one")]
    pub steps: u64,
    /// What goes wrong.
    pub what: FaultKind,
}

fn one() -> u64 {
    1
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// The learning rate is multiplied by this.
    Lr(f64),
    /// Scores are replaced by this times the mean of −log π_ref over the response's tokens: pay for what the reference
    /// would never say.
    HostileReward(f64),
    /// No prompt of this domain is drawn; the next prompt of another one takes its place.
    LostDomain(String),
    /// The gradient of every optimizer step holds a NaN.
    NanGradient,
    /// One score of the batch is NaN.
    NanScore,
    /// The weights of the value model are NaN after the update; with a shared trunk all weights.
    NanValue,
}

impl Fault {
    /// Whether it strikes at this step.
    pub fn strikes(&self, step: u64) -> bool {
        step >= self.at && step - self.at < self.steps
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::require(self.at > 0, "at", self.at, "at least 1")?;
        FieldError::require(self.steps > 0, "steps", self.steps, "at least 1")?;
        match self.what {
            FaultKind::Lr(x) => FieldError::require(x.is_finite() && x >= 0.0, "what.lr", x, "at least 0"),
            FaultKind::HostileReward(x) => {
                FieldError::require(x.is_finite(), "what.hostile_reward", x, "a number")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_from_its_step_for_its_steps() {
        let fault = Fault { at: 3, steps: 2, what: FaultKind::NanGradient };
        let struck: Vec<u64> = (1..=6).filter(|&step| fault.strikes(step)).collect();
        assert_eq!(struck, [3, 4]);
    }
}
