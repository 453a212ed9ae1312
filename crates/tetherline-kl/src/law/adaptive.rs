//! The adaptive controller in log space, with bounds: the default.
//!
//! e = clip(KL/target − 1, −0.2, 0.2);  β ← clip(β·exp(e·n/horizon), beta_min, beta_max)
//!
//! The paper describes a log-space proportional controller; the published code is its linearisation,
//! which can cross zero and has no bounds. This form agrees with it to second order in e·n/horizon.
//! Seen as control it is a pure integrator of ln β: with a plant of time constant τ updates it does not
//! oscillate where horizon ≥ 8·n·τ (KL.md §2.2). Units: KL and target in nats per sequence, n and
//! horizon in episodes.

use super::{Note, bounded_exp_step};
use crate::config::{KlConfigError, beta_bounds, positive, target};
use crate::reading::Reading;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// Bounded log-space form of Ziegler's controller.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adaptive {
    /// Initial β, reward units per nat.
    pub init: f64,
    /// Target KL, nats per sequence.
    pub target: NatsPerSequence,
    /// Horizon in episodes (default 10 000, as every peer's): β moves by at most e^0.2 in that many.
    #[serde(default = "default_horizon")]
    pub horizon: f64,
    /// Lower bound of β (default 0.0001).
    #[serde(default = "default_beta_min")]
    pub beta_min: f64,
    /// Upper bound of β (default 10).
    #[serde(default = "default_beta_max")]
    pub beta_max: f64,
}

pub(crate) fn default_horizon() -> f64 {
    10_000.0
}

pub(crate) fn default_beta_min() -> f64 {
    1e-4
}

pub(crate) fn default_beta_max() -> f64 {
    10.0
}

/// State of the log-space form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveState {
    /// Current β.
    pub beta: f64,
}

impl Adaptive {
    /// With the default bounds.
    #[must_use]
    pub fn new(init: f64, target: NatsPerSequence, horizon: f64) -> Self {
        Self { init, target, horizon, beta_min: default_beta_min(), beta_max: default_beta_max() }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        target(self.target.0, "adaptive.target")?;
        positive(self.horizon, "adaptive.horizon")?;
        beta_bounds("adaptive", self.init, self.beta_min, self.beta_max)
    }

    pub(crate) fn update(&self, state: &mut AdaptiveState, reading: &Reading, target: f64) -> Note {
        let error = (reading.kl() / target - 1.0).clamp(-0.2, 0.2);
        let by = error * reading.n as f64 / self.horizon;
        let (to, note) = bounded_exp_step(state.beta, by, self.beta_min, self.beta_max);
        state.beta = to;
        note
    }
}
