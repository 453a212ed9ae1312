//! When a moving reference moves: periodic copies, moving averages, hard resets, and their ledger.
//!
//! | schedule | every `every` updates | source |
//! | --- | --- | --- |
//! | `fixed` | never | |
//! | `sync` | ref ← (1−α)·ref + α·policy (TRL's TR-DPO: α 0.6, 512) | Gorbatovski et al. 2024 |
//! | `ema` | the same at every update with a small rate (WARP: 0.01) | Ramé et al. 2024 |
//! | `reset` | ref ← policy and the optimiser starts anew | ProRL 2025 |
//!
//! A moving reference launders drift: KL to it may stay at 1 nat while KL to the first one grows without
//! end. The ledger keeps the sum of what was forgiven (KL to the reference given up at each move, nats per
//! sequence), and a `ref0_cap` in the trust region limits the truth.

use crate::config::{KlConfigError, require};
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// How the reference follows the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReferenceSchedule {
    /// It never moves.
    #[default]
    Fixed,
    /// Mixed with the policy now and then.
    Sync {
        /// Share of the policy in the new reference, in (0, 1].
        mix: f64,
        /// Updates between two moves.
        every: u64,
    },
    /// Mixed with the policy at every update.
    Ema {
        /// Share of the policy, in (0, 1].
        rate: f64,
    },
    /// Replaced by the policy, with a new optimiser.
    Reset {
        /// Updates between two resets.
        every: u64,
    },
}

/// What to do with the reference after an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReferenceMove {
    /// Nothing.
    Stay,
    /// ref ← (1 − mix)·ref + mix·policy.
    Mix {
        /// Share of the policy.
        mix: f64,
    },
    /// ref ← policy; reset the optimiser.
    Reset,
}

/// What the reference's moves have forgiven so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceLedger {
    /// Updates seen.
    pub updates: u64,
    /// Moves of the reference.
    pub moves: u64,
    /// Σ of KL given up by moves, nats per sequence: KL before the move less KL after it, to first order
    /// KL·(1 − (1−mix)²), since KL is quadratic in the distance.
    pub forgiven: f64,
}

impl ReferenceSchedule {
    /// Checks every value.
    ///
    /// # Errors
    /// [`KlConfigError`] with the field's name.
    pub fn validate(&self) -> Result<(), KlConfigError> {
        let share = |v: f64, field| require(v > 0.0 && v <= 1.0, field, v, "in (0, 1]");
        match *self {
            Self::Fixed => Ok(()),
            Self::Sync { mix, every } => {
                share(mix, "reference.sync.mix")?;
                require(every > 0, "reference.sync.every", every, "> 0")
            }
            Self::Ema { rate } => share(rate, "reference.ema.rate"),
            Self::Reset { every } => require(every > 0, "reference.reset.every", every, "> 0"),
        }
    }

    /// Counts one accepted update and says what the reference does; `kl` is KL to the current reference.
    pub fn after_update(&self, ledger: &mut ReferenceLedger, kl: NatsPerSequence) -> ReferenceMove {
        ledger.updates += 1;
        let due = |every: u64| ledger.updates.is_multiple_of(every);
        let step = match *self {
            Self::Sync { mix, every } if due(every) => ReferenceMove::Mix { mix },
            Self::Ema { rate } => ReferenceMove::Mix { mix: rate },
            Self::Reset { every } if due(every) => ReferenceMove::Reset,
            _ => return ReferenceMove::Stay,
        };
        let left = match step {
            ReferenceMove::Mix { mix } => (1.0 - mix).powi(2),
            _ => 0.0,
        };
        ledger.moves += 1;
        if kl.0.is_finite() {
            ledger.forgiven += kl.0.max(0.0) * (1.0 - left);
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_come_when_due_and_are_entered() {
        let sync = ReferenceSchedule::Sync { mix: 0.5, every: 2 };
        let mut ledger = ReferenceLedger::default();
        let moves: Vec<_> = (0..4).map(|_| sync.after_update(&mut ledger, NatsPerSequence(4.0))).collect();
        let mix = ReferenceMove::Mix { mix: 0.5 };
        assert_eq!(moves, [ReferenceMove::Stay, mix, ReferenceMove::Stay, mix]);
        assert_eq!((ledger.moves, ledger.forgiven), (2, 6.0));
        let mut ledger = ReferenceLedger::default();
        assert_eq!(
            ReferenceSchedule::Reset { every: 1 }.after_update(&mut ledger, NatsPerSequence(4.0)),
            ReferenceMove::Reset
        );
        assert_eq!(ledger.forgiven, 4.0);
        let every_third = ReferenceSchedule::Reset { every: 3 };
        let mut other = ReferenceLedger::default();
        let moved: Vec<_> =
            (0..4).map(|_| every_third.after_update(&mut other, NatsPerSequence(1.0))).collect();
        use ReferenceMove::{Reset, Stay};
        assert_eq!((moved, other.updates, other.moves), (vec![Stay, Stay, Reset, Stay], 4, 1));
        ReferenceSchedule::Ema { rate: 1.0 }.after_update(&mut ledger, NatsPerSequence(f64::NAN));
        ReferenceSchedule::Ema { rate: 1.0 }.after_update(&mut ledger, NatsPerSequence(-1.0));
        assert_eq!((ledger.moves, ledger.forgiven), (3, 4.0));
        assert_eq!(
            ReferenceSchedule::Fixed.after_update(&mut ledger, NatsPerSequence(9.0)),
            ReferenceMove::Stay
        );
    }

    #[test]
    fn values_out_of_range_are_named() {
        let field = |s: ReferenceSchedule| s.validate().unwrap_err().field;
        assert_eq!(field(ReferenceSchedule::Sync { mix: 0.0, every: 2 }), "reference.sync.mix");
        assert_eq!(field(ReferenceSchedule::Sync { mix: 0.5, every: 0 }), "reference.sync.every");
        assert_eq!(field(ReferenceSchedule::Ema { rate: 1.5 }), "reference.ema.rate");
        assert_eq!(field(ReferenceSchedule::Reset { every: 0 }), "reference.reset.every");
        assert!(ReferenceSchedule::Fixed.validate().is_ok());
        assert!(ReferenceSchedule::Sync { mix: 1.0, every: 1 }.validate().is_ok());
        assert!(ReferenceSchedule::Reset { every: 1 }.validate().is_ok());
        assert!(ReferenceSchedule::Ema { rate: 1.0 }.validate().is_ok());
    }
}
