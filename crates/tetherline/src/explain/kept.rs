//! The policies that a run kept: its start, its checkpoints, and `policy/`.

use crate::checkpoint::Checkpoints;
use crate::codec::Codec;
use crate::pipeline::Run;
use crate::ppo::POLICY_HEADS;
use crate::recipe::ValueModel;
use crate::train::Trainer;
use crate::{Error, sources};
use std::path::PathBuf;
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Heads, Model};

/// Where a policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The model that PPO started from.
    Start,
    /// A checkpoint.
    Checkpoint(PathBuf),
    /// `policy/`, the last.
    Policy(PathBuf),
}

impl Kept {
    /// In a word.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Kept::Start => "start",
            Kept::Checkpoint(_) => "checkpoint",
            Kept::Policy(_) => "policy",
        }
    }
}

/// The models of a run.
pub(super) struct Policies<'a> {
    run: &'a Run<'a>,
    pub(super) codec: Codec,
    pub(super) start: Model,
    pub(super) reference: Model,
    /// Whether the start has no KL to the reference.
    pub(super) starts_as_reference: bool,
    pub(super) reward_dir: PathBuf,
    /// Updates done and where the policy is, ascending.
    pub(super) kept: Vec<(u64, Kept)>,
}

impl<'a> Policies<'a> {
    /// Finds what a run of `last` updates kept.
    pub(super) fn open(run: &'a Run<'a>, last: u64) -> Result<Self, Error> {
        let (start, codec) = run.load(&run.start_files()?)?;
        let reference = run.reference(&start)?;
        let mut kept = vec![(0, Kept::Start)];
        let checkpoints = Checkpoints::reading(run.dir.root().join("checkpoints"));
        for c in checkpoints.all()? {
            if c.step > 0 && c.step <= last && c.path.join("policy.bin").is_file() {
                kept.push((c.step, Kept::Checkpoint(c.path)));
            }
        }
        // It is written when the last step is done.
        let policy = run.dir.policy();
        if policy.is_dir() && last == run.recipe.ppo.steps {
            kept.retain(|(step, _)| *step != last);
            kept.push((last, Kept::Policy(policy)));
        }
        let starts_as_reference = run.recipe.model.reference.is_none();
        let reward_dir = run.dir.reward();
        Ok(Self { run, codec, start, reference, starts_as_reference, reward_dir, kept })
    }

    /// Loads a policy.
    pub(super) fn load(&self, kept: &Kept) -> Result<Model, Error> {
        match kept {
            Kept::Start => Ok(self.start.clone()),
            Kept::Policy(dir) => {
                let files = sources::open_dir(dir).map_err(|e| Error::input("the aligned policy", e))?;
                Ok(self.run.load(&files)?.0)
            }
            Kept::Checkpoint(dir) => self.restore(dir),
        }
    }

    /// The policy of a checkpoint: as PPO sets it up, with the weights that were saved.
    fn restore(&self, dir: &std::path::Path) -> Result<Model, Error> {
        let what = || format!("the checkpoint {}", dir.display());
        let heads = match self.run.recipe.model.value {
            ValueModel::Shared => Heads { lm: true, scalar: true },
            ValueModel::Separate => POLICY_HEADS,
        };
        let start = self.run.load_to_train(&self.run.start_files()?)?.0;
        let model = start.with_heads(heads, self.run.recipe.seed).map_err(|e| Error::input(what(), e))?;
        let adam = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        let mut trainer = Trainer::new(model, adam);
        let bytes = std::fs::read(dir.join("policy.bin")).map_err(|e| Error::input(what(), e))?;
        trainer.restore(&self.run.engine, &bytes).map_err(|e| Error::input(what(), e))?;
        Ok(trainer.model)
    }
}
