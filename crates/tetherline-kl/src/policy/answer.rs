//! Choosing the gravest of several answers.

use crate::decision::{ControlDecision, Verdict};
use crate::reason::Reason;
use crate::trust_region::CapOf;
use std::sync::Arc;

/// The gravest answer so far.
#[derive(Default)]
pub(super) struct Answer<'a> {
    best: Option<(u8, &'a str, Verdict, Reason)>,
}

/// halt > rollback > reject > scale > throttle > accept with a note > accept.
fn gravity(verdict: Verdict, reason: &Reason) -> u8 {
    match verdict {
        Verdict::Halt => 7,
        Verdict::Rollback => 6,
        Verdict::Reject => 5,
        Verdict::Scale => 4,
        Verdict::Throttle => 3,
        Verdict::Accept => match reason {
            Reason::Fixed { .. }
            | Reason::Scheduled { .. }
            | Reason::BetaHeld { .. }
            | Reason::BetaLowered { .. }
            | Reason::BetaRaised { .. }
            | Reason::InsideCaps { .. } => 1,
            _ => 2,
        },
    }
}

impl<'a> Answer<'a> {
    /// Proposes an answer on behalf of a domain (`""`: of no particular one).
    pub(super) fn propose(&mut self, id: &'a str, verdict: Verdict, reason: Reason) {
        let gravity = gravity(verdict, &reason);
        let better = match &self.best {
            None => true,
            Some((best, best_id, ..)) => gravity > *best || (gravity == *best && id < *best_id),
        };
        if better {
            self.best = Some((gravity, id, verdict, reason));
        }
    }

    /// Replaces the answer by a request to scale back, unless something graver was asked for.
    pub(super) fn replace_scale(&mut self, id: &'a str, reason: Reason) {
        if self.best.as_ref().is_some_and(|(_, _, verdict, _)| *verdict == Verdict::Scale) {
            self.best = None;
        }
        self.propose(id, Verdict::Scale, reason);
    }

    /// Writes a request for another trial with this share, whatever else was proposed.
    pub(super) fn scale(self, share: f64, reason: Reason, out: &mut ControlDecision) {
        out.scale = share;
        out.verdict = Verdict::Scale;
        out.reason = reason;
    }

    /// The cap that was passed, if that is the answer.
    pub(super) fn above(&self) -> Option<(CapOf, f64, f64, Arc<str>)> {
        match &self.best {
            Some((_, _, _, Reason::AboveCap { of, bound, cap, domain, .. })) => {
                Some((*of, *bound, *cap, domain.clone()))
            }
            _ => None,
        }
    }

    /// Whether the answer is that a cap is passed and no share of the step helps.
    pub(super) fn capped(&self) -> bool {
        matches!(self.best, Some((_, _, _, Reason::CapReject { .. })))
    }

    /// Whether the answer is that the weights before the update are above a cap already.
    pub(super) fn above_before(&self) -> bool {
        matches!(self.best, Some((_, _, _, Reason::AboveBefore { .. })))
    }

    /// Whether the answer is to a broken measurement.
    pub(super) fn broken(&self) -> bool {
        matches!(
            self.best,
            Some((
                _,
                _,
                _,
                Reason::NotFinite { .. } | Reason::NegativeKl { .. } | Reason::ListedTwice { .. }
            ))
        )
    }

    /// Whether the gravest answer so far is a halt.
    pub(super) fn halts(&self) -> bool {
        matches!(self.best, Some((_, _, Verdict::Halt, _)))
    }

    /// Writes the gravest answer.
    pub(super) fn give(self, out: &mut ControlDecision) {
        if let Some((_, _, verdict, reason)) = self.best {
            out.verdict = verdict;
            out.reason = reason;
        }
    }
}
