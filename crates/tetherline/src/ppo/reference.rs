//! A reference that moves (`kl.reference`): after an update it stays, is mixed with the policy, or becomes it.
//!
//! KL is then measured to a reference that follows; what each move forgave stands in the ledger, in the metrics and in
//! every checkpoint, so that the distance to the first reference is not forgotten.

use super::{Ppo, stage};
use crate::Error;
use crate::rows::lm_rows;
use serde_json::{Value, json};
use std::path::Path;
use tetherline_core::{BoxError, Rollout};
use tetherline_kl::{NatsPerSequence, ReferenceMove, ReferenceSchedule};

/// The reference's trained parameters in a checkpoint.
const FILE: &str = "reference.bin";

impl Ppo<'_> {
    /// Whether the reference ever moves.
    pub(super) fn reference_moves(&self) -> bool {
        self.recipe.kl.reference.is_some_and(|r| r.moves())
    }

    /// After the update of a step that was kept: moves the reference if it is due. Returns a line for the events where
    /// something happened that is not of every step.
    pub(super) fn move_reference(
        &mut self,
        step: u64,
        rollout: &Rollout,
        full: &[Vec<u32>],
    ) -> Result<Option<Value>, Error> {
        let schedule = self.recipe.kl.reference.unwrap_or_default();
        let due = schedule.moves_next(&self.reference_ledger);
        let kl = NatsPerSequence(if due { self.kl_after_update(rollout, full)? } else { 0.0 });
        let due = self.recipe.kl.reference_after_update(step, kl, &mut self.reference_ledger);
        let forgiven = self.reference_ledger.last_forgiven;
        let line = |event: &str| json!({"step": step, "event": event, "forgiven": forgiven, "kl": kl.0});
        match due {
            ReferenceMove::Stay => Ok(None),
            ReferenceMove::Mix { mix } => {
                self.reference.mix(self.engine, &self.policy.model, mix as f32).map_err(stage)?;
                let every_step = matches!(self.recipe.kl.reference, Some(ReferenceSchedule::Ema { .. }));
                Ok((!every_step).then(|| line("reference_mixed")))
            }
            ReferenceMove::Reset => {
                self.reference.mix(self.engine, &self.policy.model, 1.0).map_err(stage)?;
                self.policy.reset_optimizer();
                if let Some(value) = &mut self.value {
                    value.reset_optimizer();
                }
                Ok(Some(line("reference_reset")))
            }
        }
    }

    /// Exact KL of the updated policy to the reference on the responses of the step, nats per sequence: what a move to
    /// the policy gives up. (The rollout's own KL is that of the policy before the update.)
    fn kl_after_update(&self, rollout: &Rollout, full: &[Vec<u32>]) -> Result<f64, Error> {
        let rows = lm_rows(full, rollout);
        let pairs = self.policy.model.forward_pair(&self.reference, self.engine, &rows, rollout.temperature);
        let pairs = pairs.map_err(stage)?;
        let sum: f64 = pairs.iter().flat_map(|p| &p.kl_exact).map(|kl| f64::from(*kl)).sum();
        Ok(sum / pairs.len().max(1) as f64)
    }

    /// Writes the reference beside the policy's checkpoint, if it moves.
    pub(super) fn save_reference(&self, dir: &Path) -> Result<(), BoxError> {
        if self.reference_moves() {
            let bytes: Vec<u8> = self.reference.trained().iter().flat_map(|x| x.to_le_bytes()).collect();
            std::fs::write(dir.join(FILE), bytes)?;
        }
        Ok(())
    }

    /// Continues from [`Ppo::save_reference`].
    pub(super) fn restore_reference(&mut self, dir: &Path) -> Result<(), BoxError> {
        if !self.reference_moves() {
            return Ok(());
        }
        let path = dir.join(FILE);
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let expected = 4 * self.reference.n_trained();
        if bytes.len() != expected {
            let found = bytes.len();
            return Err(format!("{} has {found} bytes and not {expected}", path.display()).into());
        }
        self.reference.update(self.engine, |own| {
            for (x, b) in own.iter_mut().zip(bytes.chunks_exact(4)) {
                *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        });
        Ok(())
    }
}
