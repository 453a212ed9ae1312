//! PI or PID on ln β, with a dead band, a rate limit and anti-windup.
//!
//! With d = √(2·KL) (its sampling error 1/√n does not depend on KL, so gains mean the same at every
//! target), d_f its exponential average, d* = √(2·target) and e = clip(d_f/d* − 1, ±1) less the dead band:
//!
//! u = ln init + kp·e + I + kd·(d_f − d_f,previous)/d*;  I ← I + ki·e + (sat(u) − u)
//!
//! where sat limits u to its bounds and to ± `rate` per update: what the limits take away is taken from
//! the integral as well (back-calculation), so it never winds up. Source: KL.md §2.2; Åström & Murray ch. 11.

use super::{Note, default_beta_max, default_beta_min, exp_within};
use crate::config::{KlConfigError, beta_bounds, positive, require, target};
use crate::reading::Reading;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// PI(D) on ln β with gains chosen by hand; `auto_pi` chooses them itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pid {
    /// Initial β, reward units per nat.
    pub init: f64,
    /// Target KL, nats per sequence.
    pub target: NatsPerSequence,
    /// Proportional gain: change of ln β per unit of relative error in d (default 1).
    #[serde(default = "default_kp")]
    pub kp: f64,
    /// Integral gain, per update (default 0.05).
    #[serde(default = "default_ki")]
    pub ki: f64,
    /// Derivative gain (default 0).
    #[serde(default)]
    pub kd: f64,
    /// Weight of the newest measurement in the average of d, in (0, 1] (default 0.5).
    #[serde(default = "default_smoothing")]
    pub smoothing: f64,
    /// Errors below this many standard errors of the average count as zero (default 1).
    #[serde(default = "default_dead_band")]
    pub dead_band: f64,
    /// Largest change of ln β per update (default 0.2).
    #[serde(default = "default_rate")]
    pub rate: f64,
    /// Lower bound of β (default 0.0001).
    #[serde(default = "default_beta_min")]
    pub beta_min: f64,
    /// Upper bound of β (default 10).
    #[serde(default = "default_beta_max")]
    pub beta_max: f64,
}

fn default_kp() -> f64 {
    1.0
}

fn default_ki() -> f64 {
    0.05
}

pub(crate) fn default_smoothing() -> f64 {
    0.5
}

pub(crate) fn default_dead_band() -> f64 {
    1.0
}

pub(crate) fn default_rate() -> f64 {
    0.2
}

/// State of a PID.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PidState {
    /// Current β.
    pub beta: f64,
    /// The integral, as a change of ln β from its initial value.
    pub integral: f64,
    /// Average of d; `None` before the first measurement.
    pub d: Option<f64>,
}

impl Pid {
    /// With the default gains and limits.
    #[must_use]
    pub fn new(init: f64, target: NatsPerSequence) -> Self {
        Self {
            init,
            target,
            kp: default_kp(),
            ki: default_ki(),
            kd: 0.0,
            smoothing: default_smoothing(),
            dead_band: default_dead_band(),
            rate: default_rate(),
            beta_min: default_beta_min(),
            beta_max: default_beta_max(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        target(self.target.0, "pid.target")?;
        for (value, field) in
            [(self.kp, "pid.kp"), (self.ki, "pid.ki"), (self.kd, "pid.kd"), (self.dead_band, "pid.dead_band")]
        {
            require((0.0..=1e6).contains(&value), field, value, "from 0 to 1e6")?;
        }
        positive(self.rate, "pid.rate")?;
        require(self.smoothing > 0.0 && self.smoothing <= 1.0, "pid.smoothing", self.smoothing, "in (0, 1]")?;
        beta_bounds("pid", self.init, self.beta_min, self.beta_max)
    }

    pub(crate) fn start(&self) -> PidState {
        PidState { beta: self.init, integral: 0.0, d: None }
    }

    pub(crate) fn update(&self, state: &mut PidState, reading: &Reading, target: f64) -> Note {
        let now = Deviation::measure(reading, target, state.d, self.smoothing, self.dead_band);
        let slope = (now.d - state.d.unwrap_or(now.d)) / now.d_target;
        state.d = Some(now.d);
        state.integral += self.ki * now.error;
        let u = self.init.ln() + self.kp * now.error + state.integral + self.kd * slope;
        let (sat, beta, note) = saturate(u, state.beta, self.rate, self.beta_min, self.beta_max);
        state.integral += sat - u;
        state.beta = beta;
        note
    }
}

/// The deviation of KL from its target in units of d = √(2·KL).
pub(crate) struct Deviation {
    /// Average of d.
    pub(crate) d: f64,
    /// d at the target.
    pub(crate) d_target: f64,
    /// d/d* − 1, limited to ±1, before the dead band.
    pub(crate) raw: f64,
    /// The same after the dead band.
    pub(crate) error: f64,
}

impl Deviation {
    pub(crate) fn measure(
        reading: &Reading,
        target: f64,
        before: Option<f64>,
        smoothing: f64,
        dead_band: f64,
    ) -> Self {
        let d_target = (2.0 * target).sqrt();
        let now = (2.0 * reading.kl()).sqrt();
        let d = before.map_or(now, |before| before + smoothing * (now - before));
        let raw = (d / d_target - 1.0).clamp(-1.0, 1.0);
        // se(d) = se(KL)/d; relative to d* once more; averaging shrinks it by √(α/(2−α)).
        let noise = reading.stderr / (d_target * d_target) * (smoothing / (2.0 - smoothing)).sqrt();
        let band = dead_band * noise;
        Self { d, d_target, raw, error: raw - raw.clamp(-band, band) }
    }
}

/// ln β limited to its bounds and to ± `rate` from where it is, and β itself, which is exactly what it was
/// where ln β does not move, and exactly the bound where a bound stops it.
pub(crate) fn saturate(u: f64, beta: f64, rate: f64, min: f64, max: f64) -> (f64, f64, Note) {
    let now = beta.ln();
    let limited = u.clamp(now - rate, now + rate);
    let bounded = limited.clamp(min.ln(), max.ln());
    let inside = bounded > min.ln() && bounded < max.ln();
    let to = if inside && bounded == now { beta } else { exp_within(bounded, min, max) };
    (bounded, to, if bounded == limited { Note::Plain } else { Note::AtBound })
}
