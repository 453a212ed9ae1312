//! The one trait every controller has.

use crate::decision::ControlDecision;
use crate::observation::KlObservation;
use crate::state::{ControllerState, StateError};

/// A pure, deterministic, serialisable state machine from KL measurements to decisions.
///
/// No clock and no randomness: the same observations from the same state give the same decisions, bit
/// for bit, in whatever order the domains of an observation stand.
pub trait KlController: std::fmt::Debug {
    /// Takes one observation and writes the decision over `out`, reusing its memory: nothing is
    /// allocated once every domain has been seen.
    fn observe_into(&mut self, observation: &KlObservation, out: &mut ControlDecision);

    /// Takes one observation and returns the decision.
    fn observe(&mut self, observation: &KlObservation) -> ControlDecision {
        let mut out = ControlDecision::empty();
        self.observe_into(observation, &mut out);
        out
    }

    /// The current β of a row of this domain, reward units per nat; before any observation, the initial β.
    fn beta(&self, domain: &str) -> f64;

    /// Everything that must be kept to continue exactly.
    fn state(&self) -> ControllerState;

    /// Continues from a saved state.
    ///
    /// # Errors
    /// [`StateError`] when the state is of another version or another law; this controller is then unchanged.
    fn restore(&mut self, state: &ControllerState) -> Result<(), StateError>;

    /// Follows the trainer back to a checkpoint after [`Verdict::Rollback`](crate::Verdict::Rollback): the
    /// laws' state (β, integrals) returns to it; the step, the guard's counters, the ledger, the budgets
    /// and whatever was seen since stay, so that the same failure is not replayed for ever.
    ///
    /// # Errors
    /// As [`Self::restore`].
    fn roll_back(&mut self, checkpoint: &ControllerState) -> Result<(), StateError>;
}
