//! What a caller decides about a run that is not part of the recipe, and what it gets back.

use std::path::PathBuf;
use tetherline_core::Stage;

/// Which stages to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stages {
    /// Everything the recipe asks for.
    #[default]
    All,
    /// One stage, on what the earlier ones left in the run directory.
    Only(Stage),
}

impl Stages {
    /// Whether `stage` is among them.
    pub fn include(self, stage: Stage) -> bool {
        match self {
            Stages::All => true,
            Stages::Only(only) => only == stage,
        }
    }
}

/// What a caller decides about a run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The run directory.
    pub out: PathBuf,
    /// Continue the run that is in `out`.
    pub resume: bool,
    /// With `resume`: go on although the guard halted the run; it then starts anew.
    pub after_halt: bool,
    /// Which stages.
    pub stages: Stages,
    /// Worker threads; 0: every core.
    pub threads: usize,
    /// Seconds since any fixed moment, never decreasing. Only `time/*` metrics depend on it; libraries
    /// have no clock of their own.
    pub clock: fn() -> f64,
}

/// What a run has to say when it is over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunSummary {
    /// Baseline policy against aligned policy, as a plain-text table.
    pub table: String,
    /// A few responses before and after, as plain text.
    pub samples: String,
    /// Where the report is, if one was written.
    pub report: Option<PathBuf>,
    /// Anything else worth a line each.
    pub notes: Vec<String>,
}
