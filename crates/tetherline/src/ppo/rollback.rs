//! Back to the last checkpoint that passed, and on from a halt.
//!
//! A checkpoint *passed* if its weights passed their trial (or are those that the run started from), no domain stood near a
//! blow-up there, and the guard had no alarm under way. Only the start and the checkpoints of `checkpoint.every` count: one
//! that an interruption adds must not change where a run goes back to. A run with a guard saves its start as `step-000000`,
//! and neither this nor the newest checkpoint that passed is ever pruned, so there is one to go back to unless the disk loses it.
//! Where a rollback is due again and none passed since the last one, that one did not help: it goes back to the one before.
//!
//! One whose files are not those that the audit has of it is passed over, as is one that cannot be read, and the event says so.
//! Where there is none, the rollback is a halt: the step's lines and a checkpoint are saved first.
//!
//! A rollback restores weights, moments, a moving reference and the laws of the domains that the checkpoint knows. Step,
//! data cursor, streams, ledgers and the guard's own counters go on: the next batch is another one, under a boosted β and a
//! throttled learning rate.

use super::Ppo;
use super::state::{STATE, Saved};
use crate::Error;
use crate::checkpoint::{Checkpoint, CheckpointError, Checkpoints};
use crate::jsonl::JsonlError;
use crate::run_dir::RunLogs;
use serde_json::{Value, json};
use tetherline_core::Stage;
use tetherline_kl::KlController;

/// Checkpoints that passed, newest first, with what they say.
type Passed = Vec<(Checkpoint, Saved)>;

/// What a rollback has to say.
pub(super) struct RolledBack {
    /// The step of the checkpoint that it went back to.
    pub(super) to: u64,
    /// A line for the events.
    pub(super) line: Value,
}

/// What a release has to say: lines for the events and for the control log.
pub(super) struct Release {
    events: Vec<Value>,
    control: Vec<Value>,
}

impl Release {
    /// The step that it went back to, if it did.
    pub(super) fn to(&self) -> Option<&Value> {
        self.events.first().and_then(|line| line.get("to"))
    }

    /// Writes its lines.
    pub(super) fn write(&self, logs: &mut RunLogs) -> Result<(), JsonlError> {
        self.control.iter().try_for_each(|line| logs.control.write(line))?;
        self.events.iter().try_for_each(|line| logs.events.write(line))
    }
}

impl Ppo<'_> {
    /// Whether a checkpoint of this moment is one to go back to.
    pub(super) fn passed(&self) -> bool {
        let (step, every) = (self.done, self.recipe.checkpoint.every);
        self.is_sound() && (step == 0 || (every > 0 && step.is_multiple_of(every)))
    }

    /// Whether the weights as they are passed, and the guard has no alarm under way.
    fn is_sound(&self) -> bool {
        self.is_calm() && self.controller.state().guard.halted.is_none()
    }

    /// The same, whether or not the guard has halted.
    fn is_calm(&self) -> bool {
        let guard = self.controller.state().guard;
        let calm = guard.broken == 0 && guard.broken_trials == 0 && guard.blown_up == 0;
        let calm = calm && !self.controller.is_infeasible();
        self.guarded.as_ref().is_some_and(|g| g.passed) && calm
    }

    /// The checkpoints that passed, newest first, with what they say, and what is wrong with those that say nothing.
    fn passed_before(&self, checkpoints: &Checkpoints) -> Result<(Passed, Vec<String>), CheckpointError> {
        let (mut passed, mut problems) = (Vec::new(), Vec::new());
        for c in checkpoints.all()?.into_iter().rev().filter(|c| c.step <= self.done) {
            // What an edited one says of itself does not count.
            match self.recorded.check_file(&c.path, STATE) {
                Err(e) => problems.push(e.to_string()),
                Ok(()) => {
                    passed.extend(Saved::read(&c.path).ok().filter(Saved::passed).map(|saved| (c, saved)))
                }
            }
        }
        Ok((passed, problems))
    }

    /// The newest checkpoint that passed and the start, which must not be pruned.
    pub(super) fn last_resorts(&self, checkpoints: &Checkpoints) -> Result<Vec<u64>, Error> {
        if self.recipe.kl.guard.is_none() {
            return Ok(Vec::new());
        }
        let (passed, _) = self.passed_before(checkpoints)?;
        Ok(passed.first().map(|(c, _)| c.step).into_iter().chain([0]).collect())
    }

    /// Goes back to the newest checkpoint that passed and can be read; what is wrong, where there is none.
    pub(super) fn roll_back(&mut self, step: u64, checkpoints: &Checkpoints) -> Result<RolledBack, String> {
        let (mut passed, mut problems) = self.passed_before(checkpoints).map_err(|e| e.to_string())?;
        // Where none passed since the last rollback, what that one went back to did not help.
        let newest = passed.first().map(|(c, _)| c.step);
        if let Some(last) = self.went_back.filter(|last| newest.is_some_and(|newest| newest <= *last)) {
            // The oldest one stays to be tried again.
            let older =
                passed.iter().position(|(c, _)| c.step < last).unwrap_or(passed.len().saturating_sub(1));
            passed.rotate_left(older);
        }
        for (checkpoint, saved) in passed {
            let as_saved = self.recorded.check(&checkpoint.path);
            let restored = as_saved.and_then(|()| self.restore_weights(&checkpoint.path));
            match restored
                .map_err(|e| e.to_string())
                .and_then(|()| self.controller.roll_back(saved.controller()).map_err(|e| e.to_string()))
            {
                Ok(()) => {
                    self.went_back = Some(checkpoint.step);
                    self.decision.beta = self.controller.betas();
                    if let Some(guarded) = &mut self.guarded {
                        guarded.passed = true;
                    }
                    let guard = self.controller.state().guard;
                    let mut text = format!(
                        "weights and moments are those of step {} again; β is multiplied by {:.4}, the learning rate by \
                         {:.4}",
                        checkpoint.step,
                        guard.ln_boost.exp(),
                        guard.lr_factor
                    );
                    if !problems.is_empty() {
                        text.push_str(&format!("; passed over: {}", problems.join("; ")));
                    }
                    let line = json!({"step": step, "event": "rolled_back", "to": checkpoint.step, "text": text,
                        "beta": self.decision.beta, "problems": problems});
                    return Ok(RolledBack { to: checkpoint.step, line });
                }
                Err(problem) => problems.push(problem),
            }
        }
        // What stands now is what a rollback was due from, and nothing to go on from.
        if let Some(guarded) = &mut self.guarded {
            guarded.passed = false;
        }
        let found = if problems.is_empty() { "there is none".to_owned() } else { problems.join("; ") };
        Err(format!(
            "a rollback is due, and no checkpoint that passed can be read ({found}); put one back into checkpoints/, or \
             start a new run"
        ))
    }

    /// Goes on after a halt that a person has looked at: from the last checkpoint that passed where this one did not.
    ///
    /// # Errors
    /// [`Error::Halted`] where no such checkpoint can be read.
    pub(super) fn release_halt(&mut self, checkpoints: &Checkpoints) -> Result<Release, Error> {
        let step = self.done;
        // Before the guard forgets its alarms, which say whether these weights are any good.
        let calm = self.is_calm();
        self.controller.release_halt();
        // Somebody has looked at it: what did not help before may help now.
        self.went_back = None;
        let text = "the guard starts anew after its halt";
        let mut line = json!({"step": step, "event": "halt_released", "text": text});
        let mut control = vec![json!({"release": step})];
        let mut back = None;
        if !calm && self.recipe.kl.guard.is_some() {
            let halted = |reason| Error::Halted { stage: Stage::Ppo, step, reason };
            let RolledBack { to, line: went_back } = self.roll_back(step, checkpoints).map_err(halted)?;
            line["to"] = json!(to);
            control.push(json!({"rollback": to}));
            back = Some(went_back);
        }
        Ok(Release { events: [line].into_iter().chain(back).collect(), control })
    }
}
