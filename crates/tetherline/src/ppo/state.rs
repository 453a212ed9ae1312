//! What a checkpoint of PPO holds, besides weights and moments.

use super::Ppo;
use super::faults::Presence;
use crate::Error;
use crate::run_dir::LogOffsets;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use tetherline_core::BoxError;
use tetherline_kl::{ControlDecision, ControllerState, KlController, ReferenceLedger};

/// The file of what a checkpoint says.
pub(super) const STATE: &str = "state.json";

/// What a checkpoint says besides weights and moments.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    step: u64,
    episodes: u64,
    decision: ControlDecision,
    controller: ControllerState,
    #[serde(default)]
    reference: ReferenceLedger,
    offsets: LogOffsets,
    /// Whether a rollback may come back to it (`rollback.rs`).
    #[serde(default)]
    passed: bool,
    /// Why the run was halted here, if it was.
    #[serde(default)]
    halted: Option<String>,
    /// Updates that did not stand.
    #[serde(default)]
    rejected: u64,
    #[serde(default)]
    weights_passed: bool,
    #[serde(default)]
    presence: Presence,
    #[serde(default)]
    went_back: Option<u64>,
    /// Weight of the entropy bonus, where it follows a target.
    #[serde(default)]
    entropy_coef: Option<f64>,
    #[serde(default)]
    linked: BTreeMap<String, f64>,
    /// The multiplier of a constraint on costs.
    #[serde(default)]
    multiplier: Option<ControllerState>,
}

/// What resuming needs of a checkpoint beside the loop's own state.
pub(super) struct Resumed {
    pub(super) offsets: LogOffsets,
    pub(super) halted: Option<String>,
}

impl Saved {
    /// Reads what the checkpoint in `dir` says.
    pub(super) fn read(dir: &Path) -> Result<Self, BoxError> {
        Ok(serde_json::from_slice(&std::fs::read(dir.join(STATE))?)?)
    }

    /// Whether a rollback may come back to it.
    pub(super) fn passed(&self) -> bool {
        self.passed
    }

    /// The controller's state.
    pub(super) fn controller(&self) -> &ControllerState {
        &self.controller
    }
}

impl Ppo<'_> {
    pub(super) fn save(&self, dir: &Path, offsets: LogOffsets) -> Result<(), BoxError> {
        self.policy.save(&dir.join("policy.bin"))?;
        if let Some(v) = &self.value {
            v.save(&dir.join("value.bin"))?;
        }
        if let Some(constraint) = &self.constraint {
            constraint.critic.save(&dir.join("cost_value.bin"))?;
        }
        self.save_reference(dir)?;
        let saved = Saved {
            step: self.done,
            episodes: self.episodes,
            decision: self.decision.clone(),
            controller: self.controller.state(),
            reference: self.reference_ledger,
            offsets,
            passed: self.passed(),
            halted: self.halted.clone(),
            rejected: self.guarded.as_ref().map_or(0, |g| g.rejected),
            weights_passed: self.guarded.as_ref().is_some_and(|g| g.passed),
            presence: self.presence.clone(),
            went_back: self.went_back,
            entropy_coef: self.config.entropy_target.map(|_| self.entropy_coef),
            linked: self.linked.clone(),
            multiplier: self.constraint.as_ref().map(|c| c.multiplier.state()),
        };
        std::fs::write(dir.join(STATE), serde_json::to_vec_pretty(&saved)?)?;
        Ok(())
    }

    pub(super) fn restore(&mut self, dir: &Path) -> Result<Resumed, Error> {
        let what = || format!("the checkpoint {}", dir.display());
        let saved = Saved::read(dir).map_err(|e| Error::input(what(), e))?;
        self.restore_weights(dir)?;
        self.reference_ledger = saved.reference;
        self.controller.restore(&saved.controller).map_err(|e| Error::input(what(), e))?;
        if let (Some(constraint), Some(state)) = (&mut self.constraint, &saved.multiplier) {
            constraint.multiplier.restore(state).map_err(|e| Error::input(what(), e))?;
        }
        self.decision = saved.decision;
        self.done = saved.step;
        self.episodes = saved.episodes;
        self.presence = saved.presence;
        self.went_back = saved.went_back;
        self.entropy_coef = saved.entropy_coef.unwrap_or(self.config.entropy_coef);
        self.linked = saved.linked;
        if let Some(guarded) = &mut self.guarded {
            (guarded.rejected, guarded.passed) = (saved.rejected, saved.weights_passed);
        }
        Ok(Resumed { offsets: saved.offsets, halted: saved.halted })
    }

    /// Weights, moments and a moving reference of a checkpoint.
    pub(super) fn restore_weights(&mut self, dir: &Path) -> Result<(), Error> {
        let what = || format!("the checkpoint {}", dir.display());
        let read = |name: &str| std::fs::read(dir.join(name)).map_err(|e| Error::input(what(), e));
        self.policy.restore(self.engine, &read("policy.bin")?).map_err(|e| Error::input(what(), e))?;
        if let Some(v) = &mut self.value {
            v.restore(self.engine, &read("value.bin")?).map_err(|e| Error::input(what(), e))?;
        }
        if let Some(constraint) = &mut self.constraint {
            let bytes = read("cost_value.bin")?;
            constraint.critic.restore(self.engine, &bytes).map_err(|e| Error::input(what(), e))?;
        }
        self.restore_reference(dir).map_err(|e| Error::input(what(), e))
    }
}
