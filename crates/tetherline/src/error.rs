//! Everything that can end a run, sorted by what the user should look at.

use crate::{checkpoint::CheckpointError, jsonl::JsonlError, recipe::RecipeError, run_dir::RunDirError};
use std::path::PathBuf;
use tetherline_audit::AuditError;
use tetherline_core::{BoxError, Stage};

/// Why a run, or a command on a model, ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A checkpoint or model directory could not be saved.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A log could not be written.
    #[error(transparent)]
    Jsonl(#[from] JsonlError),
    /// The audit of a run is broken, or cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// `read`, `write`, …
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A data file or a model that was given cannot be used.
    #[error("cannot use {what}: {source}")]
    Input {
        /// What was being read, e.g. `the policy in ./model`.
        what: String,
        /// Why.
        source: BoxError,
    },
    /// The step-0 self-test found the set-up broken; nothing was trained.
    #[error("the self-test before step 1 failed: {cause}")]
    SelfTest {
        /// What was measured, what it should have been, and what usually causes it.
        cause: String,
    },
    /// A loss or reward became infinite or not a number.
    #[error(
        "{stage} stopped at step {step}: {what}. {kept}",
        stage = stage.name(),
        kept = kept(last_checkpoint)
    )]
    NotFinite {
        /// In which stage.
        stage: Stage,
        /// At which step, 1-based.
        step: u64,
        /// What was not finite, and where.
        what: String,
        /// The last good checkpoint.
        last_checkpoint: Option<PathBuf>,
    },
    /// The controller or a guard halted the run.
    #[error("{stage} was halted at step {step}: {reason}", stage = stage.name())]
    Halted {
        /// In which stage.
        stage: Stage,
        /// At which step, 1-based.
        step: u64,
        /// Why.
        reason: String,
    },
    /// The user asked to stop, and the state is saved.
    #[error("{stage} was interrupted at step {step}", stage = stage.name())]
    Interrupted {
        /// In which stage.
        stage: Stage,
        /// Steps done.
        step: u64,
        /// Where the state is, if there was any to save.
        checkpoint: Option<PathBuf>,
    },
    /// A stage failed in another way.
    #[error("{stage} failed: {source}", stage = stage.name())]
    Stage {
        /// In which stage.
        stage: Stage,
        /// Why.
        source: BoxError,
    },
}

fn kept(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "no checkpoint had been saved yet".to_owned(),
    }
}

/// What kind of trouble an [`Error`] is. The command line has one exit code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Something failed: disk, memory, a bug.
    Failed,
    /// The recipe or the way the command was used is wrong.
    Usage,
    /// A data file or model that was given cannot be used.
    Input,
    /// Training stopped itself.
    Stopped,
    /// The user interrupted; the state is saved.
    Interrupted,
}

impl Error {
    /// What kind of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Recipe(_) => ErrorKind::Usage,
            Error::RunDir(e) => match e {
                RunDirError::NotEmpty { .. }
                | RunDirError::NotARun { .. }
                | RunDirError::OtherRecipe { .. }
                | RunDirError::OtherInputs { .. }
                | RunDirError::NothingToResume { .. }
                | RunDirError::InUse { .. } => ErrorKind::Usage,
                RunDirError::Recipe(_)
                | RunDirError::Jsonl(JsonlError::Shorter { .. })
                | RunDirError::Audit(AuditError::Broken { .. }) => ErrorKind::Input,
                _ => ErrorKind::Failed,
            },
            Error::Jsonl(JsonlError::Shorter { .. })
            | Error::Audit(AuditError::Broken { .. })
            | Error::Input { .. } => ErrorKind::Input,
            Error::SelfTest { .. } | Error::NotFinite { .. } | Error::Halted { .. } => ErrorKind::Stopped,
            Error::Interrupted { .. } => ErrorKind::Interrupted,
            Error::Checkpoint(_)
            | Error::Jsonl(_)
            | Error::Audit(_)
            | Error::Io { .. }
            | Error::Stage { .. } => ErrorKind::Failed,
        }
    }

    /// An [`Error::Input`] about `what`.
    pub fn input(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Error::Input { what: what.into(), source: source.into() }
    }

    /// For `map_err`: an [`Error::Stage`] of `stage`.
    pub fn stage<E: Into<BoxError>>(stage: Stage) -> impl FnOnce(E) -> Self {
        move |source| Error::Stage { stage, source: source.into() }
    }
}
