//! Cumulative drift ledger: what every update spent, against a limit for the whole run.
//!
//! spent = Σ KL(policy after‖policy before) over accepted updates, nats per sequence, weighted over
//! domains by their sequences (or the entry `all`). A trial that would exceed the limit is rejected;
//! where no trials are sent, an update that has exceeded it halts. An update that was not measured is not forgotten:
//! its rollout is rejected, and more than [`MAX_UNENTERED`] of them halt.
//! Entries are only ever added: a rollback does not give drift back.

use crate::config::{KlConfigError, positive};
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// A limit on the sum of KL over updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Largest sum.
    pub limit: NatsPerSequence,
}

/// State of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerState {
    /// Nats per sequence spent so far.
    pub spent: f64,
    /// Updates entered.
    pub entries: u64,
    /// The step entered last.
    pub last_step: Option<u64>,
    /// Updates that could not be entered, since nothing measured them.
    pub unentered: u64,
}

/// Updates that may stay unmeasured in a whole run.
pub(crate) const MAX_UNENTERED: u64 = 3;

impl LedgerState {
    pub(crate) fn damage(&self) -> Option<String> {
        let possible = self.spent.is_finite() && self.spent >= 0.0;
        (!possible).then(|| format!("{} nats are spent", self.spent))
    }
}

impl Ledger {
    pub(crate) fn validate(&self) -> Result<(), KlConfigError> {
        positive(self.limit.0, "ledger.limit")
    }

    /// Whether an update of this size still fits.
    pub(crate) fn fits(&self, s: &LedgerState, kl_old: f64) -> bool {
        s.spent + kl_old.max(0.0) <= self.limit.0
    }

    /// Enters an accepted update, once per step.
    pub(crate) fn enter(&self, s: &mut LedgerState, step: u64, kl_old: f64) {
        if s.last_step.is_none_or(|last| step > last) {
            s.spent += kl_old.max(0.0);
            s.entries += 1;
            s.last_step = Some(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spends_once_per_step_and_never_gives_back() {
        let l = Ledger { limit: NatsPerSequence(1.0) };
        let mut s = LedgerState::default();
        l.enter(&mut s, 0, 0.75);
        l.enter(&mut s, 0, 0.75);
        l.enter(&mut s, 1, -0.5);
        assert_eq!((s.spent, s.entries), (0.75, 2));
        assert!(l.fits(&s, 0.25) && !l.fits(&s, 0.26));
        assert!(Ledger { limit: NatsPerSequence(0.0) }.validate().is_err());
    }
}
