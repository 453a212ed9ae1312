//! AutoPI: a PI on ln β that learns the plant's time constant from the first rise and tunes itself.
//!
//! In d = √(2·KL) the policy under a penalty behaves like d' = η(S − β·d): a first-order plant whose
//! time constant at the target is τ = d*/(ηS) (KL.md §2.2). While d charges up from zero its slope is
//! about ηS, so **τ̂ = d*/slope**. The gains follow by SIMC with θ = 1 + delay + (1−α)/α updates of dead
//! time (measurement, transport, averaging):
//!
//! kp = clip(τ̂/2θ, 0.25, 4);  ki = kp/min(τ̂, 8θ);  u = I + kp·e;  I ← I + ki·e + (sat(u) − u)
//!
//! Three modes: **charge** (d below 75 % of d* and still rising: β rests, nothing is integrated, the slope
//! is measured), **arrival** (until d first reaches 97 % of d*: gains at a quarter, so that the integral
//! does not wind up on the way), **track**.
//!
//! Two additions to KL.md's law. *Stall*: an initial β that is too large holds d below the target for
//! ever, and a charge without end would wait for it; here, when less than a fifth of the rise (or fall) so far came
//! in the second half of the time charged (a test without any constant of time), d has settled at S/β, and
//! ln β moves by ln(d/d*), at most a factor of four at once. A policy that had drifted to S/β before this controller
//! saw it rises by nothing at all, and a fifth of nothing is noise: there, after 256 updates and τ̂ (at most 512), a
//! second half counts as settled that gained less than 3 standard errors or 3 % of d*. *Target steps*: the equilibrium
//! is β* = S/d*, so a target that moves takes ln β along by −ln(d*_new/d*_old).

use super::pid::{Deviation, default_dead_band, default_rate, default_smoothing, saturate};
use super::{Note, default_beta_max, possible};
use crate::config::{KlConfigError, beta_bounds, positive, require, target};
use crate::reading::Reading;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// Self-tuning PI on ln β.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoPi {
    /// Initial β, reward units per nat.
    pub init: f64,
    /// Target KL, nats per sequence.
    pub target: NatsPerSequence,
    /// Replace `init` at the first measurement by sd(reward)/√(2·target), the β at which a Gaussian reward
    /// has the target KL, where `reward_sd` is given (default false).
    #[serde(default)]
    pub feed_forward: bool,
    /// Updates between a change of β and its first effect on the measured KL, beyond one (default 0).
    #[serde(default)]
    pub delay: u32,
    /// Weight of the newest measurement in the average of d, in (0, 1] (default 0.5).
    #[serde(default = "default_smoothing")]
    pub smoothing: f64,
    /// Errors below this many standard errors of the average count as zero (default 1).
    #[serde(default = "default_dead_band")]
    pub dead_band: f64,
    /// Largest change of ln β per update (default 0.2).
    #[serde(default = "default_rate")]
    pub rate: f64,
    /// Lower bound of β (default 0.001).
    #[serde(default = "default_min")]
    pub beta_min: f64,
    /// Upper bound of β (default 10).
    #[serde(default = "default_beta_max")]
    pub beta_max: f64,
}

fn default_min() -> f64 {
    1e-3
}

/// Where AutoPI is on its way to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Rising towards the target; β rests.
    Charge,
    /// Close below the target for the first time.
    Arrival,
    /// Regulating.
    Track,
}

/// State of AutoPI.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoPiState {
    /// Current β.
    pub beta: f64,
    /// The integral: ln β at rest.
    pub integral: f64,
    /// Average of d; `None` before the first measurement.
    pub d: Option<f64>,
    /// Mode.
    pub mode: Mode,
    /// d* of the last measurement, to notice a target that moved.
    pub d_target: Option<f64>,
    /// Estimated time constant at the target, updates.
    pub tau: Option<f64>,
    /// Sums of the slope's least squares: count, Σt, Σt², Σd, Σtd.
    pub fit: [f64; 5],
    /// Updates spent in this charge.
    pub charged: u32,
    /// d when this charge began.
    pub began: f64,
    /// d at the last power-of-two update of this charge.
    pub halfway: f64,
}

/// Time constant assumed where none could be measured, updates.
const TAU_UNKNOWN: f64 = 8.0;

/// From this deviation of d on an arrival integrates.
const ARRIVED: f64 = -0.1;

/// Updates of a charge before it may be said to rest; with a longer time constant that, but at most `TAU_LONGEST`,
/// since one that was read off noise has no end.
const RESTING: u32 = 256;
const TAU_LONGEST: f64 = 512.0;

impl AutoPi {
    /// With the default limits.
    #[must_use]
    pub fn new(init: f64, target: NatsPerSequence) -> Self {
        Self {
            init,
            target,
            feed_forward: false,
            delay: 0,
            smoothing: default_smoothing(),
            dead_band: default_dead_band(),
            rate: default_rate(),
            beta_min: default_min(),
            beta_max: default_beta_max(),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        target(self.target.0, "auto_pi.target")?;
        positive(self.rate, "auto_pi.rate")?;
        require(self.delay <= 1000, "auto_pi.delay", self.delay, "at most 1000 updates")?;
        let smoothing = self.smoothing > 0.0 && self.smoothing <= 1.0;
        require(smoothing, "auto_pi.smoothing", self.smoothing, "in (0, 1]")?;
        let band = self.dead_band.is_finite() && self.dead_band >= 0.0;
        require(band, "auto_pi.dead_band", self.dead_band, "finite and ≥ 0")?;
        beta_bounds("auto_pi", self.init, self.beta_min, self.beta_max)
    }

    pub(crate) fn start(&self) -> AutoPiState {
        AutoPiState {
            beta: self.init,
            integral: self.init.ln(),
            d: None,
            mode: Mode::Charge,
            d_target: None,
            tau: None,
            fit: [0.0; 5],
            charged: 0,
            began: 0.0,
            halfway: 0.0,
        }
    }

    /// Whether a saved state can be one of this law.
    pub(crate) fn fits(&self, s: &AutoPiState) -> bool {
        let resting = (self.beta_min.ln()..=self.beta_max.ln()).contains(&s.integral);
        let fitted = s.fit[0] >= 0.0 && possible(&s.fit, &[]);
        let target = s.d_target.is_none_or(|d| d > 0.0) && s.tau.is_none_or(|tau| tau > 0.0);
        let measured = possible(&[], &[s.d, s.d_target, s.tau, Some(s.began), Some(s.halfway)]);
        resting && fitted && target && measured
    }

    /// Proportional and integral gain for the estimated time constant.
    fn gains(&self, tau: f64) -> (f64, f64) {
        let theta = 1.0 + f64::from(self.delay) + (1.0 - self.smoothing) / self.smoothing;
        let kp = (tau / (2.0 * theta)).clamp(0.25, 4.0);
        (kp, kp / tau.min(8.0 * theta))
    }

    pub(crate) fn update(&self, s: &mut AutoPiState, reading: &Reading, target: f64) -> Note {
        let first = s.d.is_none();
        let now = Deviation::measure(reading, target, s.d, self.smoothing, self.dead_band);
        s.d = Some(now.d);
        if first {
            // KL need not start at zero: a floor, or a policy that does not start as its reference.
            (s.began, s.halfway) = (now.d, now.d);
        }
        self.follow_target(s, now.d_target);
        if first && let Some(sd) = reading.reward_sd.filter(|sd| self.feed_forward && *sd > 0.0) {
            let beta = (sd / now.d_target).clamp(self.beta_min, self.beta_max);
            s.beta = beta;
            s.integral = beta.ln();
        }
        self.learn(s, &now);
        self.advance_mode(s, &now, reading);
        let (p, i) = match s.mode {
            Mode::Charge => (0.0, 0.0),
            Mode::Arrival => (0.25, if now.raw > ARRIVED { 0.25 } else { 0.0 }),
            Mode::Track => (1.0, 1.0),
        };
        let (kp, ki) = self.gains(s.tau.unwrap_or(TAU_UNKNOWN).max(1.0));
        s.integral += i * ki * now.error;
        let u = s.integral + p * kp * now.error;
        let (sat, beta, note) = saturate(u, s.beta, self.rate, self.beta_min, self.beta_max);
        if i > 0.0 {
            s.integral += ki * (sat - u);
        }
        s.integral = s.integral.clamp(self.beta_min.ln(), self.beta_max.ln());
        s.beta = beta;
        note
    }

    /// Moves the resting point with the target: β* = S/d*.
    fn follow_target(&self, s: &mut AutoPiState, d_target: f64) {
        if let Some(before) = s.d_target.filter(|before| *before != d_target) {
            if s.mode != Mode::Charge || s.tau.is_some() {
                s.integral -= (d_target / before).ln();
            }
            s.tau = s.tau.map(|tau| tau * d_target / before);
        }
        s.d_target = Some(d_target);
    }

    /// Measures the slope of the first rise between 10 % and 60 % of d*.
    fn learn(&self, s: &mut AutoPiState, now: &Deviation) {
        if s.tau.is_some() || s.mode != Mode::Charge {
            return;
        }
        let share = now.d / now.d_target;
        if (0.1..=0.6).contains(&share) {
            let t = s.fit[0];
            for (sum, term) in s.fit.iter_mut().zip([1.0, t, t * t, now.d, t * now.d]) {
                *sum += term;
            }
        }
        if share > 0.6 && s.fit[0] > 0.0 {
            let [n, t, tt, d, td] = s.fit;
            let slope = if n >= 3.0 { (n * td - t * d) / (n * tt - t * t) } else { 0.5 * now.d_target / n };
            // A slope of nothing would be an infinite time constant; the gains stop caring at 8θ.
            s.tau = Some((now.d_target / slope.max(1e-6 * now.d_target)).clamp(1.0, 1e6));
        }
    }

    fn advance_mode(&self, s: &mut AutoPiState, now: &Deviation, reading: &Reading) {
        match s.mode {
            Mode::Charge if now.raw >= -0.25 => {
                s.mode = if now.raw >= -0.03 { Mode::Track } else { Mode::Arrival };
            }
            Mode::Arrival if now.raw >= -0.03 => s.mode = Mode::Track,
            Mode::Arrival | Mode::Track if now.raw < -0.25 => {
                // A first charge that noise had taken for an arrival goes on: one that rests there would never
                // grow old.
                if s.mode == Mode::Track || s.tau.is_some() {
                    (s.charged, s.began, s.halfway) = (0, now.d, now.d);
                }
                s.mode = Mode::Charge;
            }
            _ => {}
        }
        // An arrival that does not integrate yet can rest as a charge can.
        if s.mode == Mode::Charge || (s.mode == Mode::Arrival && now.raw <= ARRIVED) {
            self.watch_for_stall(s, now, reading);
        }
    }

    /// Whether a charge that need not have begun at zero has gained nothing to speak of in its second half. One from
    /// zero is left alone until its time constant is known, or for long: a slow rise looks like rest there.
    fn rests(&self, s: &AutoPiState, now: &Deviation, reading: &Reading, gained: f64) -> bool {
        // se(d) = se(KL)/d, and at d = 0 that of the KL's root; averaging shrinks it by √(α/(2−α)).
        let stderr = reading.stderr / now.d.max(reading.stderr.sqrt());
        let stderr = stderr * (self.smoothing / (2.0 - self.smoothing)).sqrt();
        let age = f64::from(s.charged);
        let old = s.charged >= RESTING && age >= s.tau.unwrap_or(0.0).min(TAU_LONGEST);
        let drifted = s.tau.is_some() || s.began > 3.0 * stderr || age >= TAU_LONGEST;
        let little = (3.0 * std::f64::consts::SQRT_2 * stderr).max(0.03 * now.d_target);
        old && drifted && gained.abs() <= little
    }

    /// Compares d at power-of-two ages of this charge: a linear rise gains half of it in the second half
    /// of the time, one that has settled nearly nothing. A settled d = S/β tells where the target's β is.
    fn watch_for_stall(&self, s: &mut AutoPiState, now: &Deviation, reading: &Reading) {
        s.charged = s.charged.saturating_add(1);
        let doubled = s.charged.is_power_of_two();
        // The next doubling may be far off: whether d rests is asked again from one and a half times the last on.
        let late = s.charged.is_multiple_of(64) && u64::from(s.charged) * 2 >= 3u64 << s.charged.ilog2();
        if !doubled && !late {
            return;
        }
        let gained = now.d - s.halfway;
        if doubled {
            s.halfway = now.d;
        }
        let slowed = doubled
            && s.mode == Mode::Charge
            && s.charged >= 16
            && gained.abs() <= 0.2 * (now.d - s.began).abs();
        if !slowed && !self.rests(s, now, reading, gained) {
            return;
        }
        let share = (now.d / now.d_target).max(0.25);
        s.integral += share.ln();
        // The pole at this β is 1/τ', with 0.2 reached at about 3.7 τ'; at the target's β it is slower.
        s.tau.get_or_insert((f64::from(s.charged) / (3.7 * share)).max(1.0));
        (s.charged, s.began, s.halfway) = (0, now.d, now.d);
    }
}
