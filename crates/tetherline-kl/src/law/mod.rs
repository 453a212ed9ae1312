//! Laws: how β follows the measured KL. One file per law.
//!
//! A law is a configuration plus a small state per domain. Every law but `ziegler` keeps β finite,
//! non-negative and inside its bounds whatever it is fed; `ziegler` is the published linear form, which
//! does neither unless bounds are given, and stays only finite.

mod adaptive;
mod auto_pi;
mod dual;
mod fixed;
mod pid;
mod pid_lagrangian;
mod ppo_adaptive;
mod schedule;
mod ziegler;

pub use adaptive::{Adaptive, AdaptiveState};
pub use auto_pi::{AutoPi, AutoPiState, Mode};
pub use dual::{Dual, DualState};
pub use fixed::{Fixed, FixedState};
pub use pid::{Pid, PidState};
pub use pid_lagrangian::{PidLagrangian, PidLagrangianState};
pub use ppo_adaptive::{KlTo, PpoAdaptive, PpoAdaptiveState};
pub use schedule::{Schedule, ScheduleState};
pub use ziegler::{Ziegler, ZieglerState};

pub(crate) use adaptive::{default_beta_max, default_beta_min, default_horizon};

use crate::config::KlConfigError;
use crate::reading::Reading;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// The law of a controller; the section's name in a configuration is the variant's in `snake_case`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Law {
    /// β is a constant.
    Fixed(Fixed),
    /// β follows a schedule.
    Schedule(Schedule),
    /// Ziegler et al. (2019), linear as published.
    Ziegler(Ziegler),
    /// The same in log space with bounds: the default.
    Adaptive(Adaptive),
    /// Doubling and halving.
    PpoAdaptive(PpoAdaptive),
    /// PI(D) on ln β with given gains.
    Pid(Pid),
    /// PID on the violation itself.
    PidLagrangian(PidLagrangian),
    /// Dual ascent on ln β.
    Dual(Dual),
    /// Self-tuning PI on ln β.
    AutoPi(AutoPi),
}

/// A law's state for one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LawState {
    /// State of [`Law::Fixed`].
    Fixed(FixedState),
    /// State of [`Law::Schedule`].
    Schedule(ScheduleState),
    /// State of [`Law::Ziegler`].
    Ziegler(ZieglerState),
    /// State of [`Law::Adaptive`].
    Adaptive(AdaptiveState),
    /// State of [`Law::PpoAdaptive`].
    PpoAdaptive(PpoAdaptiveState),
    /// State of [`Law::Pid`].
    Pid(PidState),
    /// State of [`Law::PidLagrangian`].
    PidLagrangian(PidLagrangianState),
    /// State of [`Law::Dual`].
    Dual(DualState),
    /// State of [`Law::AutoPi`].
    AutoPi(AutoPiState),
}

/// What a law did with a reading, besides moving β.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Nothing to add.
    Plain,
    /// β wanted past its bound.
    AtBound,
    /// β is zero or negative.
    CrossedZero,
    /// β would not have been finite and was held.
    Overflow,
}

impl Law {
    /// The section's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fixed(_) => "fixed",
            Self::Schedule(_) => "schedule",
            Self::Ziegler(_) => "ziegler",
            Self::Adaptive(_) => "adaptive",
            Self::PpoAdaptive(_) => "ppo_adaptive",
            Self::Pid(_) => "pid",
            Self::PidLagrangian(_) => "pid_lagrangian",
            Self::Dual(_) => "dual",
            Self::AutoPi(_) => "auto_pi",
        }
    }

    /// The initial β, reward units per nat.
    #[must_use]
    pub fn init(&self) -> f64 {
        match self {
            Self::Fixed(c) => c.init,
            Self::Schedule(c) => c.init,
            Self::Ziegler(c) => c.init,
            Self::Adaptive(c) => c.init,
            Self::PpoAdaptive(c) => c.init,
            Self::Pid(c) => c.init,
            Self::PidLagrangian(c) => c.init,
            Self::Dual(c) => c.init,
            Self::AutoPi(c) => c.init,
        }
    }

    /// The same law started from another β, inside its bounds.
    pub(crate) fn with_init(&self, init: f64) -> Self {
        let (lo, hi) = self.bounds().unwrap_or((0.0, f64::INFINITY));
        let init = init.max(lo).min(hi);
        let mut law = self.clone();
        match &mut law {
            Self::Fixed(c) => c.init = init,
            Self::Schedule(c) => c.init = init,
            Self::Ziegler(c) => c.init = init,
            Self::Adaptive(c) => c.init = init,
            Self::PpoAdaptive(c) => c.init = init,
            Self::Pid(c) => c.init = init,
            Self::PidLagrangian(c) => c.init = init,
            Self::Dual(c) => c.init = init,
            Self::AutoPi(c) => c.init = init,
        }
        law
    }

    /// The target KL; `None` for an open-loop law.
    #[must_use]
    pub fn target(&self) -> Option<NatsPerSequence> {
        match self {
            Self::Fixed(_) | Self::Schedule(_) => None,
            Self::Ziegler(c) => Some(c.target),
            Self::Adaptive(c) => Some(c.target),
            Self::PpoAdaptive(c) => Some(c.target),
            Self::Pid(c) => Some(c.target),
            Self::PidLagrangian(c) => Some(c.target),
            Self::Dual(c) => Some(c.target),
            Self::AutoPi(c) => Some(c.target),
        }
    }

    /// The bounds of β, where the law has them.
    #[must_use]
    pub fn bounds(&self) -> Option<(f64, f64)> {
        match self {
            Self::Fixed(_) | Self::Schedule(_) => None,
            Self::Ziegler(c) => match (c.beta_min, c.beta_max) {
                (None, None) => None,
                (lo, hi) => Some((lo.unwrap_or(f64::NEG_INFINITY), hi.unwrap_or(f64::INFINITY))),
            },
            Self::Adaptive(c) => Some((c.beta_min, c.beta_max)),
            Self::PpoAdaptive(c) => Some((c.beta_min, c.beta_max)),
            Self::Pid(c) => Some((c.beta_min, c.beta_max)),
            Self::PidLagrangian(c) => Some((0.0, c.beta_max)),
            Self::Dual(c) => Some((c.beta_min, c.beta_max)),
            Self::AutoPi(c) => Some((c.beta_min, c.beta_max)),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        match self {
            Self::Fixed(c) => c.validate(),
            Self::Schedule(c) => c.validate(),
            Self::Ziegler(c) => c.validate(),
            Self::Adaptive(c) => c.validate(),
            Self::PpoAdaptive(c) => c.validate(),
            Self::Pid(c) => c.validate(),
            Self::PidLagrangian(c) => c.validate(),
            Self::Dual(c) => c.validate(),
            Self::AutoPi(c) => c.validate(),
        }
    }

    /// Whether the law must see even measurements that cannot be a KL: the published form does.
    pub(crate) fn takes_everything_finite(&self) -> bool {
        matches!(self, Self::Ziegler(_))
    }

    /// Whether its target is of the KL to the policy before the update.
    pub(crate) fn steers_by_old(&self) -> bool {
        matches!(self, Self::PpoAdaptive(PpoAdaptive { of: KlTo::Old, .. }))
    }

    pub(crate) fn start(&self) -> LawState {
        match self {
            Self::Fixed(_) => LawState::Fixed(FixedState {}),
            Self::Schedule(_) => LawState::Schedule(ScheduleState { t: 0 }),
            Self::Ziegler(c) => LawState::Ziegler(ZieglerState { beta: c.init }),
            Self::Adaptive(c) => LawState::Adaptive(AdaptiveState { beta: c.init }),
            Self::PpoAdaptive(c) => LawState::PpoAdaptive(PpoAdaptiveState { beta: c.init }),
            Self::Pid(c) => LawState::Pid(c.start()),
            Self::PidLagrangian(c) => LawState::PidLagrangian(c.start()),
            Self::Dual(c) => LawState::Dual(c.start()),
            Self::AutoPi(c) => LawState::AutoPi(c.start()),
        }
    }

    /// Current β of a state of this law.
    pub(crate) fn beta(&self, state: &LawState) -> f64 {
        match (self, state) {
            (Self::Schedule(c), LawState::Schedule(s)) => c.beta(s),
            (_, LawState::Ziegler(s)) => s.beta,
            (_, LawState::Adaptive(s)) => s.beta,
            (_, LawState::PpoAdaptive(s)) => s.beta,
            (_, LawState::Pid(s)) => s.beta,
            (_, LawState::PidLagrangian(s)) => s.beta,
            (_, LawState::Dual(s)) => s.beta,
            (_, LawState::AutoPi(s)) => s.beta,
            (_, LawState::Fixed(_) | LawState::Schedule(_)) => self.init(),
        }
    }

    /// Moves the state by one reading against `target` (which an open-loop law ignores).
    pub(crate) fn update(&self, state: &mut LawState, reading: &Reading, target: f64) -> Note {
        match (self, state) {
            (Self::Schedule(c), LawState::Schedule(s)) => c.update(s),
            (Self::Ziegler(c), LawState::Ziegler(s)) => c.update(s, reading, target),
            (Self::Adaptive(c), LawState::Adaptive(s)) => c.update(s, reading, target),
            (Self::PpoAdaptive(c), LawState::PpoAdaptive(s)) => c.update(s, reading, target),
            (Self::Pid(c), LawState::Pid(s)) => c.update(s, reading, target),
            (Self::PidLagrangian(c), LawState::PidLagrangian(s)) => c.update(s, reading, target),
            (Self::Dual(c), LawState::Dual(s)) => c.update(s, reading, target),
            (Self::AutoPi(c), LawState::AutoPi(s)) => c.update(s, reading, target),
            // A fixed law has nothing to move. States of another law are refused by `restore`.
            _ => Note::Plain,
        }
    }

    /// What is wrong with a saved state of this law, if anything.
    pub(crate) fn damage(&self, state: &LawState) -> Option<String> {
        let consistent = match (self, state) {
            (Self::Fixed(_), LawState::Fixed(_))
            | (Self::Schedule(_), LawState::Schedule(_))
            | (Self::Ziegler(_), LawState::Ziegler(_))
            | (Self::Adaptive(_), LawState::Adaptive(_))
            | (Self::PpoAdaptive(_), LawState::PpoAdaptive(_)) => true,
            (Self::Pid(_), LawState::Pid(s)) => possible(&[s.integral], &[s.d]),
            (Self::PidLagrangian(c), LawState::PidLagrangian(s)) => c.fits(s),
            (Self::Dual(_), LawState::Dual(s)) => {
                s.recent.iter().all(|(kl, n)| *n > 0 && possible(&[], &[Some(*kl)]))
            }
            (Self::AutoPi(c), LawState::AutoPi(s)) => c.fits(s),
            _ => return Some(format!("it is not a state of the law `{}`", self.name())),
        };
        if !consistent {
            return Some("its numbers do not fit together".to_owned());
        }
        let beta = self.beta(state);
        let (lo, hi) = self.bounds().unwrap_or(match self {
            Self::Ziegler(_) => (f64::NEG_INFINITY, f64::INFINITY),
            _ => (0.0, f64::INFINITY),
        });
        let inside = beta.is_finite() && beta >= lo && beta <= hi;
        (!inside).then(|| format!("β is {beta}, outside its bounds of {lo} to {hi}"))
    }
}

/// Whether numbers of a saved state are finite, and those in `positive` not negative either.
pub(crate) fn possible(finite: &[f64], positive: &[Option<f64>]) -> bool {
    finite.iter().all(|v| v.is_finite()) && positive.iter().flatten().all(|v| v.is_finite() && *v >= 0.0)
}

/// exp(ln β), and exactly the bound where ln β is at one or past it: exp(ln(bound)) may be off by its last digit, and
/// β would never be seen to have arrived.
pub(crate) fn exp_within(ln_beta: f64, min: f64, max: f64) -> f64 {
    match () {
        () if ln_beta >= max.ln() => max,
        () if ln_beta <= min.ln() => min,
        () => ln_beta.exp().clamp(min, max),
    }
}

/// β·exp(by), inside its bounds, and whether a bound stopped it.
pub(crate) fn bounded_exp_step(beta: f64, by: f64, min: f64, max: f64) -> (f64, Note) {
    let wanted = beta * by.exp();
    let to = wanted.clamp(min, max);
    (to, if wanted != to { Note::AtBound } else { Note::Plain })
}
