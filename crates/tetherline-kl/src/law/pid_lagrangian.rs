//! PID-Lagrangian: a PID on the constraint's violation gives the multiplier itself.
//!
//! Δ = J − target;  I ← max(0, I + ki·Δ);  P ← a·P + (1−a)·Δ;  J̄ ← a·J̄ + (1−a)·J;
//! D = max(0, J̄ − J̄ of `delay` updates ago);  β = clip(kp·P + I + kd·D, 0, beta_max)
//!
//! Source: Stooke, Achiam & Abbeel (2020) and its code, with J the KL in nats per sequence. The gains are
//! in reward units per nat², so they do not carry over from one target to another: prefer `pid` or `auto_pi`.

use super::{Note, default_beta_max, possible};
use crate::config::{KlConfigError, beta_max, require, target};
use crate::reading::Reading;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// PID-Lagrangian.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PidLagrangian {
    /// Initial β (the integral's start), reward units per nat.
    pub init: f64,
    /// Target KL, nats per sequence.
    pub target: NatsPerSequence,
    /// Proportional gain (default 0.1).
    #[serde(default = "default_kp")]
    pub kp: f64,
    /// Integral gain (default 0.01).
    #[serde(default = "default_ki")]
    pub ki: f64,
    /// Derivative gain (default 0.01).
    #[serde(default = "default_kd")]
    pub kd: f64,
    /// Weight of the past in the averages, in [0, 1) (default 0.95).
    #[serde(default = "default_memory")]
    pub memory: f64,
    /// Updates over which the rise is measured, 1 to 1000 (default 10).
    #[serde(default = "default_delay")]
    pub delay: usize,
    /// Upper bound of β (default 10).
    #[serde(default = "default_beta_max")]
    pub beta_max: f64,
}

fn default_kp() -> f64 {
    0.1
}

fn default_ki() -> f64 {
    0.01
}

fn default_kd() -> f64 {
    0.01
}

fn default_memory() -> f64 {
    0.95
}

fn default_delay() -> usize {
    10
}

/// State of a PID-Lagrangian.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PidLagrangianState {
    /// Current β.
    pub beta: f64,
    /// The integral.
    pub integral: f64,
    /// Average violation.
    pub violation: f64,
    /// Averages of KL over the last `delay` updates, in a ring.
    pub history: Vec<f64>,
    /// Where in the ring the oldest one is.
    pub oldest: usize,
}

impl PidLagrangian {
    /// With the gains of the common ports (0.1, 0.01, 0.01).
    #[must_use]
    pub fn new(init: f64, target: NatsPerSequence) -> Self {
        Self {
            init,
            target,
            kp: default_kp(),
            ki: default_ki(),
            kd: default_kd(),
            memory: default_memory(),
            delay: default_delay(),
            beta_max: default_beta_max(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        target(self.target.0, "pid_lagrangian.target")?;
        for (value, field) in [
            (self.init, "pid_lagrangian.init"),
            (self.kp, "pid_lagrangian.kp"),
            (self.ki, "pid_lagrangian.ki"),
            (self.kd, "pid_lagrangian.kd"),
        ] {
            require((0.0..=1e6).contains(&value), field, value, "from 0 to 1e6")?;
        }
        let memory = (0.0..1.0).contains(&self.memory);
        require(memory, "pid_lagrangian.memory", self.memory, "in [0, 1)")?;
        require((1..=1000).contains(&self.delay), "pid_lagrangian.delay", self.delay, "from 1 to 1000")?;
        beta_max(self.beta_max, "pid_lagrangian.beta_max")?;
        let range = format!("≤ beta_max ({})", self.beta_max);
        require(self.init <= self.beta_max, "pid_lagrangian.init", self.init, &range)
    }

    pub(crate) fn start(&self) -> PidLagrangianState {
        PidLagrangianState {
            beta: self.init,
            integral: self.init,
            violation: 0.0,
            history: Vec::with_capacity(self.delay),
            oldest: 0,
        }
    }

    /// Whether a saved state can be one of this law.
    pub(crate) fn fits(&self, s: &PidLagrangianState) -> bool {
        let ring = s.history.len() <= self.delay && s.oldest < self.delay;
        let integral = (0.0..=self.beta_max).contains(&s.integral);
        ring && integral && s.violation.is_finite() && s.history.iter().all(|kl| possible(&[], &[Some(*kl)]))
    }

    pub(crate) fn update(&self, state: &mut PidLagrangianState, reading: &Reading, target: f64) -> Note {
        let kl = reading.kl();
        let violation = kl - target;
        // β_max also bounds the integral: without it a long violation would have to be unwound.
        state.integral = (state.integral + self.ki * violation).clamp(0.0, self.beta_max);
        state.violation = self.memory * state.violation + (1.0 - self.memory) * violation;
        let newest = if state.history.is_empty() { 0 } else { self.newest(state) };
        let before = state.history.get(newest).copied().unwrap_or(0.0);
        let average = self.memory * before + (1.0 - self.memory) * kl;
        let delayed = if state.history.len() < self.delay { 0.0 } else { state.history[state.oldest] };
        let rise = (average - delayed).max(0.0);
        if state.history.len() < self.delay {
            state.history.push(average);
        } else {
            state.history[state.oldest] = average;
            state.oldest = (state.oldest + 1) % self.delay;
        }
        let wanted = self.kp * state.violation + state.integral + self.kd * rise;
        state.beta = wanted.clamp(0.0, self.beta_max);
        if state.beta < wanted { Note::AtBound } else { Note::Plain }
    }

    fn newest(&self, state: &PidLagrangianState) -> usize {
        let len = state.history.len();
        if len < self.delay { len - 1 } else { (state.oldest + self.delay - 1) % self.delay }
    }
}
