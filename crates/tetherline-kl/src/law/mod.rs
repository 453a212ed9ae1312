//! Laws: how β follows the measured KL. One file per law.
//!
//! A law is a configuration plus a small state per domain. Every law but `ziegler` keeps β finite,
//! non-negative and inside its bounds whatever it is fed; `ziegler` is the published linear form, which
//! does neither unless bounds are given, and stays only finite.

mod adaptive;
mod fixed;
mod ziegler;

pub use adaptive::{Adaptive, AdaptiveState};
pub use fixed::{Fixed, FixedState};
pub use ziegler::{Ziegler, ZieglerState};

use crate::config::KlConfigError;
use crate::reading::Reading;
use serde::{Deserialize, Serialize};

/// The law of a controller; the section's name in a configuration is the variant's in `snake_case`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Law {
    /// β is a constant.
    Fixed(Fixed),
    /// Ziegler et al. (2019), linear as published.
    Ziegler(Ziegler),
    /// The same in log space with bounds: the default.
    Adaptive(Adaptive),
}

/// A law's state for one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LawState {
    /// State of [`Law::Fixed`].
    Fixed(FixedState),
    /// State of [`Law::Ziegler`].
    Ziegler(ZieglerState),
    /// State of [`Law::Adaptive`].
    Adaptive(AdaptiveState),
}

/// What a law did with a reading, besides moving β.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Nothing to add.
    Plain,
    /// β wanted past its bound.
    AtBound,
    /// β is negative.
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
            Self::Ziegler(_) => "ziegler",
            Self::Adaptive(_) => "adaptive",
        }
    }

    /// The initial β, reward units per nat.
    #[must_use]
    pub fn init(&self) -> f64 {
        match self {
            Self::Fixed(c) => c.init,
            Self::Ziegler(c) => c.init,
            Self::Adaptive(c) => c.init,
        }
    }

    /// The target KL in nats per sequence; `None` for an open-loop law.
    #[must_use]
    pub fn target(&self) -> Option<f64> {
        match self {
            Self::Fixed(_) => None,
            Self::Ziegler(c) => Some(c.target),
            Self::Adaptive(c) => Some(c.target),
        }
    }

    /// The bounds of β, where the law has them.
    #[must_use]
    pub fn bounds(&self) -> Option<(f64, f64)> {
        match self {
            Self::Fixed(_) => None,
            Self::Ziegler(c) => match (c.beta_min, c.beta_max) {
                (None, None) => None,
                (lo, hi) => Some((lo.unwrap_or(f64::NEG_INFINITY), hi.unwrap_or(f64::INFINITY))),
            },
            Self::Adaptive(c) => Some((c.beta_min, c.beta_max)),
        }
    }

    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        match self {
            Self::Fixed(c) => c.validate(),
            Self::Ziegler(c) => c.validate(),
            Self::Adaptive(c) => c.validate(),
        }
    }

    /// Whether the law must see even measurements that cannot be a KL: the published form does.
    pub(crate) fn takes_everything_finite(&self) -> bool {
        matches!(self, Self::Ziegler(_))
    }

    pub(crate) fn start(&self) -> LawState {
        match self {
            Self::Fixed(_) => LawState::Fixed(FixedState {}),
            Self::Ziegler(c) => LawState::Ziegler(ZieglerState { beta: c.init }),
            Self::Adaptive(c) => LawState::Adaptive(AdaptiveState { beta: c.init }),
        }
    }

    /// Current β of a state of this law.
    pub(crate) fn beta(&self, state: &LawState) -> f64 {
        match state {
            LawState::Fixed(_) => self.init(),
            LawState::Ziegler(s) => s.beta,
            LawState::Adaptive(s) => s.beta,
        }
    }

    /// Moves the state by one reading against `target`.
    pub(crate) fn update(&self, state: &mut LawState, reading: &Reading, target: f64) -> Note {
        match (self, state) {
            (Self::Ziegler(c), LawState::Ziegler(s)) => c.update(s, reading, target),
            (Self::Adaptive(c), LawState::Adaptive(s)) => c.update(s, reading, target),
            // A fixed law has nothing to move. States of another law are refused by `restore`.
            _ => Note::Plain,
        }
    }

    /// What is wrong with a saved state of this law, if anything.
    pub(crate) fn damage(&self, state: &LawState) -> Option<String> {
        let same = matches!(
            (self, state),
            (Self::Fixed(_), LawState::Fixed(_))
                | (Self::Ziegler(_), LawState::Ziegler(_))
                | (Self::Adaptive(_), LawState::Adaptive(_))
        );
        if !same {
            return Some(format!("it is not a state of the law `{}`", self.name()));
        }
        let beta = self.beta(state);
        let unbounded = matches!(self, Self::Ziegler(_));
        if !beta.is_finite() || (beta < 0.0 && !unbounded) {
            return Some(format!("β is {beta}"));
        }
        None
    }
}

/// β·exp(by), inside its bounds, and whether a bound stopped it.
pub(crate) fn bounded_exp_step(beta: f64, by: f64, min: f64, max: f64) -> (f64, Note) {
    let wanted = beta * by.exp();
    let to = wanted.clamp(min, max);
    (to, if wanted != to { Note::AtBound } else { Note::Plain })
}
