//! Back to the last checkpoint that passed, and on from a halt.
//!
//! A checkpoint *passed* if its weights passed their trial (or are those that the run started from), no domain stood near a
//! blow-up there, and the guard had no alarm under way. Only the start and the checkpoints of `checkpoint.every` count: one
//! that an interruption adds must not change where a run goes back to. A run with a guard saves its start as `step-000000`, and the newest
//! checkpoint that passed is never pruned, so there is always one to go back to.
//!
//! A rollback restores weights, moments, a moving reference and the laws of the domains that the checkpoint knows. Step, data cursor, streams, ledgers and
//! the guard's own counters go on: the next batch is another one, under a boosted β and a throttled learning rate.

use super::state::Saved;
use super::{Ppo, stage};
use crate::Error;
use crate::checkpoint::{Checkpoint, Checkpoints};
use serde_json::{Value, json};
use tetherline_core::Stage;
use tetherline_kl::KlController;

impl Ppo<'_> {
    /// Whether a checkpoint of this moment is one to go back to.
    pub(super) fn passed(&self) -> bool {
        let (step, every) = (self.done, self.recipe.checkpoint.every);
        self.is_sound() && (step == 0 || (every > 0 && step.is_multiple_of(every)))
    }

    /// Whether the weights as they are passed, and the guard has no alarm under way.
    fn is_sound(&self) -> bool {
        let guard = self.controller.state().guard;
        let calm = guard.broken == 0 && guard.broken_trials == 0 && guard.blown_up == 0;
        self.guarded.as_ref().is_some_and(|g| g.passed) && calm && guard.halted.is_none()
    }

    /// The checkpoints that passed, newest first, with what they say.
    fn passed_before(&self, checkpoints: &Checkpoints) -> Result<Vec<(Checkpoint, Saved)>, Error> {
        let found = checkpoints.all()?.into_iter().rev().filter(|c| c.step <= self.done);
        let read = |c: Checkpoint| Saved::read(&c.path).ok().filter(Saved::passed).map(|saved| (c, saved));
        Ok(found.filter_map(read).collect())
    }

    /// The step of the newest checkpoint that passed, which must not be pruned.
    pub(super) fn last_passed(&self, checkpoints: &Checkpoints) -> Result<Option<u64>, Error> {
        if self.recipe.kl.guard.is_none() {
            return Ok(None);
        }
        Ok(self.passed_before(checkpoints)?.first().map(|(c, _)| c.step))
    }

    /// Goes back; returns a line for the events, and the checkpoint's step.
    pub(super) fn roll_back(&mut self, step: u64, checkpoints: &Checkpoints) -> Result<(Value, u64), Error> {
        let mut problems = Vec::new();
        for (checkpoint, saved) in self.passed_before(checkpoints)? {
            match self.restore_weights(&checkpoint.path) {
                Ok(()) => {
                    self.controller.roll_back(saved.controller()).map_err(stage)?;
                    self.decision.beta = self.controller.betas();
                    if let Some(guarded) = &mut self.guarded {
                        guarded.passed = true;
                    }
                    let guard = self.controller.state().guard;
                    let text = format!(
                        "weights and moments are those of step {} again; β is multiplied by {:.4}, the learning rate by \
                         {:.4}",
                        checkpoint.step,
                        guard.ln_boost.exp(),
                        guard.lr_factor
                    );
                    let line = json!({"step": step, "event": "rolled_back", "to": checkpoint.step, "text": text,
                        "beta": self.decision.beta, "problems": problems});
                    return Ok((line, checkpoint.step));
                }
                Err(e) => problems.push(e.to_string()),
            }
        }
        let reason = format!("a rollback is due, and no checkpoint that passed can be read: {problems:?}");
        Err(Error::Halted { stage: Stage::Ppo, step, reason })
    }

    /// Goes on after a halt that a person has looked at: from the last checkpoint that passed where this one did not.
    /// Returns a line for the events.
    pub(super) fn release_halt(&mut self, checkpoints: &Checkpoints) -> Result<Value, Error> {
        let step = self.done;
        self.controller.release_halt();
        let text = "the guard starts anew after its halt";
        let mut line = json!({"step": step, "event": "halt_released", "text": text});
        if !self.is_sound() && self.recipe.kl.guard.is_some() {
            line["to"] = json!(self.roll_back(step, checkpoints)?.1);
        }
        Ok(line)
    }
}
