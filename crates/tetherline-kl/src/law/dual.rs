//! Dual ascent on ln β, the form of Safe-RLHF.
//!
//! ln β ← clip(ln β + lr·β·(c̄ − target), ln beta_min, ln beta_max), with c̄ the mean KL over at least the
//! last `window` sequences: gradient ascent on −(target − c̄)·exp(ln β).
//!
//! Source: Dai et al. (2023), as ported; its constants lr 0.1, λ ≤ 5, window 128. The factor β in the step
//! makes recovery from a small β slow: beta_min keeps it from dying out. Nats per sequence.

use super::{Note, default_beta_min, exp_within};
use crate::config::{KlConfigError, beta_bounds, require, target};
use crate::reading::Reading;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// Dual ascent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dual {
    /// Initial β, reward units per nat.
    pub init: f64,
    /// Target KL, nats per sequence.
    pub target: NatsPerSequence,
    /// Step size, per reward unit (default 0.1).
    #[serde(default = "default_lr")]
    pub lr: f64,
    /// Sequences to average over, 1 to 100 000 (default 128).
    #[serde(default = "default_window")]
    pub window: u64,
    /// Lower bound of β (default 0.0001).
    #[serde(default = "default_beta_min")]
    pub beta_min: f64,
    /// Upper bound of β (default 5).
    #[serde(default = "default_max")]
    pub beta_max: f64,
}

fn default_lr() -> f64 {
    0.1
}

fn default_window() -> u64 {
    128
}

fn default_max() -> f64 {
    5.0
}

/// State of dual ascent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DualState {
    /// Current β.
    pub beta: f64,
    /// The newest measurements (mean KL, sequences), oldest first, that cover the window.
    pub recent: Vec<(f64, u64)>,
}

impl Dual {
    /// With Safe-RLHF's constants.
    #[must_use]
    pub fn new(init: f64, target: NatsPerSequence) -> Self {
        Self {
            init,
            target,
            lr: default_lr(),
            window: default_window(),
            beta_min: default_beta_min(),
            beta_max: default_max(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        target(self.target.0, "dual.target")?;
        require(self.lr > 0.0 && self.lr <= 1e6, "dual.lr", self.lr, "> 0 and at most 1e6")?;
        require((1..=100_000).contains(&self.window), "dual.window", self.window, "from 1 to 100000")?;
        beta_bounds("dual", self.init, self.beta_min, self.beta_max)
    }

    pub(crate) fn start(&self) -> DualState {
        DualState { beta: self.init, recent: Vec::new() }
    }

    pub(crate) fn update(&self, state: &mut DualState, reading: &Reading, target: f64) -> Note {
        state.recent.push((reading.kl(), reading.n));
        // Drop the oldest while the rest still covers the window.
        let mut covered = 0;
        let needed = state.recent.iter().rev().take_while(|(_, n)| {
            let needed = covered < self.window;
            covered = covered.saturating_add(*n);
            needed
        });
        let drop = state.recent.len() - needed.count();
        state.recent.drain(..drop);
        let (sum, count) =
            state.recent.iter().fold((0.0, 0.0), |(s, c), (kl, n)| (s + kl * *n as f64, c + *n as f64));
        let wanted = state.beta.ln() + self.lr * state.beta * (sum / count - target);
        let to = wanted.clamp(self.beta_min.ln(), self.beta_max.ln());
        state.beta = exp_within(to, self.beta_min, self.beta_max);
        if to == wanted { Note::Plain } else { Note::AtBound }
    }
}
