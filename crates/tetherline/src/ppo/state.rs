//! What a checkpoint of PPO holds, besides weights and moments.

use super::Ppo;
use crate::Error;
use crate::run_dir::LogOffsets;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tetherline_core::BoxError;
use tetherline_kl::{ControlDecision, ControllerState, ReferenceLedger};

/// What a checkpoint says besides weights and moments.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    step: u64,
    episodes: u64,
    decision: ControlDecision,
    controller: ControllerState,
    #[serde(default)]
    reference: ReferenceLedger,
    offsets: LogOffsets,
}

impl Ppo<'_> {
    pub(super) fn save(&self, dir: &Path, offsets: LogOffsets) -> Result<(), BoxError> {
        self.policy.save(&dir.join("policy.bin"))?;
        if let Some(v) = &self.value {
            v.save(&dir.join("value.bin"))?;
        }
        self.save_reference(dir)?;
        let saved = Saved {
            step: self.done,
            episodes: self.episodes,
            decision: self.decision.clone(),
            controller: self.controller.state(),
            reference: self.reference_ledger,
            offsets,
        };
        std::fs::write(dir.join("state.json"), serde_json::to_vec_pretty(&saved)?)?;
        Ok(())
    }

    pub(super) fn restore(&mut self, dir: &Path) -> Result<LogOffsets, Error> {
        let what = || format!("the checkpoint {}", dir.display());
        let read = |name: &str| std::fs::read(dir.join(name)).map_err(|e| Error::input(what(), e));
        let saved: Saved =
            serde_json::from_slice(&read("state.json")?).map_err(|e| Error::input(what(), e))?;
        self.policy.restore(self.engine, &read("policy.bin")?).map_err(|e| Error::input(what(), e))?;
        if let Some(v) = &mut self.value {
            v.restore(self.engine, &read("value.bin")?).map_err(|e| Error::input(what(), e))?;
        }
        self.restore_reference(dir).map_err(|e| Error::input(what(), e))?;
        self.reference_ledger = saved.reference;
        self.controller.restore(&saved.controller).map_err(|e| Error::input(what(), e))?;
        self.decision = saved.decision;
        self.done = saved.step;
        self.episodes = saved.episodes;
        Ok(saved.offsets)
    }
}
