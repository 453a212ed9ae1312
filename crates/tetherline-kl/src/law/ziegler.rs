//! The adaptive controller as published and as every peer codes it: linear, unbounded.
//!
//! e = clip(KL/target − 1, −0.2, 0.2);  β ← β·(1 + e·n/horizon)
//!
//! Source: Ziegler et al. (2019) §2.2 and `lm-human-preferences`; bit-identical in verl, OpenRLHF and
//! trlX (golden traces). Units: KL and target in nats per sequence, n and horizon in episodes.
//!
//! It is here for comparison. It has no bounds unless they are given; where 0.2·n > horizon one step
//! below target makes β negative, a bonus for drifting away. Where it makes β exactly 0 (0.2·n = horizon), or is
//! rounded to it, β stays 0 for ever: every factor of 0 is 0. Each step with β ≤ 0 says so. `adaptive` is the
//! repaired form.

use super::{Note, default_horizon};
use crate::config::{KlConfigError, positive, require, target};
use crate::reading::Reading;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// The published linear form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ziegler {
    /// Initial β, reward units per nat (0.2 in the paper's code).
    pub init: f64,
    /// Target KL, nats per sequence (6 in the paper).
    pub target: NatsPerSequence,
    /// Horizon in episodes (default 10 000).
    #[serde(default = "default_horizon")]
    pub horizon: f64,
    /// Optional lower bound of β.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta_min: Option<f64>,
    /// Optional upper bound of β.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta_max: Option<f64>,
}

/// State of the linear form.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZieglerState {
    /// Current β.
    pub beta: f64,
}

impl Ziegler {
    /// The published form without bounds.
    #[must_use]
    pub fn new(init: f64, target: NatsPerSequence, horizon: f64) -> Self {
        Self { init, target, horizon, beta_min: None, beta_max: None }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        positive(self.init, "ziegler.init")?;
        target(self.target.0, "ziegler.target")?;
        positive(self.horizon, "ziegler.horizon")?;
        let lo = self.beta_min.unwrap_or(0.0);
        require(lo.is_finite() && lo >= 0.0 && lo <= self.init, "ziegler.beta_min", lo, "in [0, init]")?;
        let hi = self.beta_max.unwrap_or(self.init);
        require(hi.is_finite() && hi >= self.init, "ziegler.beta_max", hi, "finite and ≥ init")
    }

    pub(crate) fn update(&self, state: &mut ZieglerState, reading: &Reading, target: f64) -> Note {
        // The raw mean, and this order of operations: it is what the peers' traces pin bit for bit.
        let error = (reading.mean / target - 1.0).clamp(-0.2, 0.2);
        let wanted = state.beta * (1.0 + error * reading.n as f64 / self.horizon);
        if !wanted.is_finite() {
            return Note::Overflow;
        }
        let mut to = wanted;
        if let Some(min) = self.beta_min {
            to = to.max(min);
        }
        if let Some(max) = self.beta_max {
            to = to.min(max);
        }
        state.beta = to;
        match () {
            () if to <= 0.0 => Note::CrossedZero,
            () if to != wanted => Note::AtBound,
            () => Note::Plain,
        }
    }
}
