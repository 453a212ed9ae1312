//! The controller's states under the trainer's checkpoints: the way back after the verdict `rollback`.

use crate::Error;
use crate::checkpoint::save_file;
use crate::pipeline::read_json;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tetherline_kl::{ControllerState, KlConfig};

/// So many are kept, the newest by order of arrival and the first of all, a trainer's last resort.
const KEEP: usize = 8;

/// The kept states, oldest first, and the file that holds them.
#[derive(Debug)]
pub(crate) struct Kept {
    file: Option<PathBuf>,
    checkpoints: Vec<Checkpoint>,
    most: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    step: u64,
    state: ControllerState,
}

impl Kept {
    /// None yet, to be saved in `FILE.checkpoints` beside the state in `FILE`, if there is one.
    pub(crate) fn start(state: Option<&Path>) -> Self {
        let file = state.map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".checkpoints");
            PathBuf::from(name)
        });
        Self { file, checkpoints: Vec::new(), most: KEEP }
    }

    /// None yet, and every one that comes: a replay cannot know how far back its log goes.
    pub(crate) fn all() -> Self {
        Self { file: None, checkpoints: Vec::new(), most: usize::MAX }
    }

    /// Those of the file, each of which must suit `config`.
    pub(crate) fn read(mut self, config: &KlConfig) -> Result<Self, Error> {
        let Some(file) = &self.file else { return Ok(self) };
        let name = file.display().to_string();
        self.checkpoints = read_json(file)?.unwrap_or_default();
        for kept in &self.checkpoints {
            let mut controller = config.build().map_err(|e| Error::input("the kl section", e))?;
            let what = || format!("the checkpoint of step {} in {name}", kept.step);
            controller.restore(&kept.state).map_err(|e| Error::input(what(), e))?;
        }
        Ok(self)
    }

    /// Keeps a state under this step, in the place of an older one of the same step.
    pub(crate) fn keep(&mut self, step: u64, state: ControllerState) -> Result<(), Error> {
        let mut all = self.checkpoints.clone();
        all.retain(|c| c.step != step);
        all.push(Checkpoint { step, state });
        let surplus = all.len().saturating_sub(self.most.saturating_add(1));
        if surplus > 0 {
            all.drain(1..=surplus);
        }
        if let Some(file) = &self.file {
            let text = serde_json::to_vec(&all).map_err(|e| Error::input(file.display().to_string(), e))?;
            save_file(file, &text)?;
        }
        self.checkpoints = all;
        Ok(())
    }

    /// The state kept under this step.
    pub(crate) fn of(&self, step: u64) -> Option<&ControllerState> {
        self.checkpoints.iter().find(|c| c.step == step).map(|c| &c.state)
    }

    /// The steps that are kept, oldest first.
    pub(crate) fn steps(&self) -> Vec<u64> {
        self.checkpoints.iter().map(|c| c.step).collect()
    }
}
