//! Doubling and halving, from the PPO paper: coarse, memoryless, and a limit cycle around the target.
//!
//! d < target/1.5 ⇒ β ← β/2;  d > 1.5·target ⇒ β ← 2β.
//!
//! Source: Schulman et al. (2017) §4, where d is the KL to the policy before the update; `of = "old"`
//! measures that (`kl_old`), the default measures KL to the reference. Nats per sequence either way.

use super::{Note, bounded_exp_step, default_beta_max, default_beta_min};
use crate::config::{KlConfigError, beta_bounds, target};
use crate::reading::Reading;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// Doubling and halving.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoAdaptive {
    /// Initial β, reward units per nat.
    pub init: f64,
    /// Target KL, nats per sequence.
    pub target: NatsPerSequence,
    /// Which KL is compared with the target.
    #[serde(default)]
    pub of: KlTo,
    /// Lower bound of β (default 0.0001).
    #[serde(default = "default_beta_min")]
    pub beta_min: f64,
    /// Upper bound of β (default 10).
    #[serde(default = "default_beta_max")]
    pub beta_max: f64,
}

/// What a KL is measured against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlTo {
    /// The current reference (`mean_kl`).
    #[default]
    Reference,
    /// The policy before the update (`kl_old`); a rollout that does not measure it is rejected.
    Old,
}

/// State of doubling and halving.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpoAdaptiveState {
    /// Current β.
    pub beta: f64,
}

impl PpoAdaptive {
    /// On the KL to the reference, with the default bounds.
    #[must_use]
    pub fn new(init: f64, target: NatsPerSequence) -> Self {
        Self { init, target, of: KlTo::Reference, beta_min: default_beta_min(), beta_max: default_beta_max() }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        target(self.target.0, "ppo_adaptive.target")?;
        beta_bounds("ppo_adaptive", self.init, self.beta_min, self.beta_max)
    }

    pub(crate) fn update(&self, state: &mut PpoAdaptiveState, reading: &Reading, target: f64) -> Note {
        // The policy hands over the KL that `of` names.
        let kl = reading.kl();
        let by = if kl > 1.5 * target {
            std::f64::consts::LN_2
        } else if kl < target / 1.5 {
            -std::f64::consts::LN_2
        } else {
            return Note::Plain;
        };
        let (to, note) = bounded_exp_step(state.beta, by, self.beta_min, self.beta_max);
        state.beta = to;
        note
    }
}
