//! When a moving reference moves: periodic copies, moving averages, hard resets, and their ledger.
//!
//! | schedule | every `every` updates | source |
//! | --- | --- | --- |
//! | `fixed` | never | |
//! | `sync` | ref ← (1−α)·ref + α·policy (TRL's TR-DPO: α 0.6, 512) | Gorbatovski et al. 2024 |
//! | `ema` | the same at every update with a small rate (WARP: 0.01) | Ramé et al. 2024 |
//! | `reset` | ref ← policy and the optimiser starts anew | ProRL 2025 |
//!
//! ```toml
//! [kl.reference.sync]
//! mix = 0.6
//! every = 512
//! ```
//!
//! The trainer owns the weights: after each update that it kept it asks [`crate::KlConfig::reference_after_update`]
//! whether the reference moves, and saves the ledger with its checkpoints.
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// What the reference's moves have forgiven so far. Like the guard's counters it never rewinds, not even after a
/// rollback: what was forgiven stays forgiven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceLedger {
    /// The last update's step; one that comes again, or an earlier one, moves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Updates seen.
    pub updates: u64,
    /// Moves of the reference.
    pub moves: u64,
    /// Σ of KL given up by moves, nats per sequence: KL before the move less KL after it, to first order
    /// KL·(1 − (1−mix)²), since KL is quadratic in the distance.
    pub forgiven: f64,
    /// What the last move forgave, nats per sequence.
    pub last_forgiven: f64,
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

    /// Whether the reference ever moves.
    #[must_use]
    pub fn moves(&self) -> bool {
        *self != Self::Fixed
    }

    /// Whether the next update that is counted moves the reference. A trainer that measures KL for the move alone need
    /// not measure it otherwise.
    #[must_use]
    pub fn moves_next(&self, ledger: &ReferenceLedger) -> bool {
        self.is_due(ledger.updates.saturating_add(1))
    }

    fn is_due(&self, updates: u64) -> bool {
        match *self {
            Self::Fixed => false,
            Self::Ema { .. } => true,
            Self::Sync { every, .. } | Self::Reset { every } => updates.is_multiple_of(every),
        }
    }

    /// Counts the accepted update of a step and says what the reference does; `kl` is KL to the current reference. A
    /// KL that is not finite, or negative, forgives nothing.
    pub fn after_update(
        &self,
        step: u64,
        kl: NatsPerSequence,
        ledger: &mut ReferenceLedger,
    ) -> ReferenceMove {
        if ledger.step.is_some_and(|last| step <= last) {
            return ReferenceMove::Stay;
        }
        ledger.step = Some(step);
        ledger.updates = ledger.updates.saturating_add(1);
        let step = match *self {
            _ if !self.is_due(ledger.updates) => return ReferenceMove::Stay,
            Self::Fixed => return ReferenceMove::Stay,
            Self::Sync { mix, .. } => ReferenceMove::Mix { mix },
            Self::Ema { rate } => ReferenceMove::Mix { mix: rate },
            Self::Reset { .. } => ReferenceMove::Reset,
        };
        let left = match step {
            ReferenceMove::Mix { mix } => (1.0 - mix).powi(2),
            _ => 0.0,
        };
        ledger.moves += 1;
        let forgiven = if kl.0.is_finite() { kl.0.max(0.0) * (1.0 - left) } else { 0.0 };
        ledger.forgiven += forgiven;
        ledger.last_forgiven = forgiven;
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The moves after the steps `0..n` at this KL.
    fn moves(schedule: ReferenceSchedule, n: u64, kl: f64) -> (Vec<ReferenceMove>, ReferenceLedger) {
        let mut ledger = ReferenceLedger::default();
        let mut after = |step| {
            let next = schedule.moves_next(&ledger);
            let made = schedule.after_update(step, NatsPerSequence(kl), &mut ledger);
            assert_eq!(next, made != ReferenceMove::Stay);
            made
        };
        let moves = (0..n).map(&mut after).collect();
        (moves, ledger)
    }

    #[test]
    fn moves_come_when_due_and_are_entered() {
        use ReferenceMove::{Mix, Reset, Stay};
        let (made, ledger) = moves(ReferenceSchedule::Sync { mix: 0.5, every: 2 }, 4, 4.0);
        assert_eq!(made, [Stay, Mix { mix: 0.5 }, Stay, Mix { mix: 0.5 }]);
        assert_eq!((ledger.moves, ledger.forgiven, ledger.last_forgiven), (2, 6.0, 3.0));
        let (made, ledger) = moves(ReferenceSchedule::Reset { every: 3 }, 4, 1.0);
        assert_eq!((made, ledger.updates, ledger.moves), (vec![Stay, Stay, Reset, Stay], 4, 1));
        let (made, mut ledger) = moves(ReferenceSchedule::Reset { every: 1 }, 1, 4.0);
        assert_eq!((made, ledger.forgiven), (vec![Reset], 4.0));
        for (step, kl) in [(1, f64::NAN), (2, -1.0), (3, f64::INFINITY)] {
            ReferenceSchedule::Ema { rate: 1.0 }.after_update(step, NatsPerSequence(kl), &mut ledger);
        }
        assert_eq!((ledger.moves, ledger.forgiven, ledger.last_forgiven), (4, 4.0, 0.0));
        assert_eq!(moves(ReferenceSchedule::Fixed, 2, 9.0).0, [Stay, Stay]);
    }

    /// Steps need not be consecutive, but none counts twice.
    #[test]
    fn a_step_that_comes_again_moves_nothing() {
        let schedule = ReferenceSchedule::Reset { every: 2 };
        let mut ledger = ReferenceLedger::default();
        let mut after = |step| schedule.after_update(step, NatsPerSequence(2.0), &mut ledger);
        assert_eq!([10, 10, 9].map(&mut after), [ReferenceMove::Stay; 3]);
        assert_eq!([30, 30].map(&mut after), [ReferenceMove::Reset, ReferenceMove::Stay]);
        assert_eq!((ledger.updates, ledger.moves, ledger.forgiven), (2, 1, 2.0));
        let text = serde_json::to_string(&ledger).unwrap();
        assert_eq!(serde_json::from_str::<ReferenceLedger>(&text).unwrap(), ledger);
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
