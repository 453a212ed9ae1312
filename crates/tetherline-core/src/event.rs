//! What the loops tell the outside world. Libraries emit; only the command line draws.

use std::collections::BTreeMap;

/// Metric key → value, in key order. Keys and units: `docs/metrics.md`.
pub type Metrics = BTreeMap<String, f64>;

/// A stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Supervised fine-tuning.
    Sft,
    /// Reward-model training.
    Reward,
    /// The step-0 self-test.
    SelfTest,
    /// PPO.
    Ppo,
    /// Evaluation.
    Eval,
    /// Writing the report.
    Report,
    /// Sampling responses to a file (`tether generate`).
    Generate,
    /// Scoring the rows of a file (`tether score`).
    Score,
    /// Direct preference optimisation. (Last: the order of stages names random streams.)
    Dpo,
}

impl Stage {
    /// Lower-case name, as in `tether <stage>`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Sft => "sft",
            Stage::Reward => "reward",
            Stage::SelfTest => "self-test",
            Stage::Ppo => "ppo",
            Stage::Eval => "eval",
            Stage::Report => "report",
            Stage::Generate => "generate",
            Stage::Score => "score",
            Stage::Dpo => "dpo",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A stage began; `done` steps of `total` were already done (resume).
    StageStarted {
        /// Which.
        stage: Stage,
        /// Steps already done.
        done: u64,
        /// Steps in all.
        total: u64,
    },
    /// A step of a stage ended.
    Step {
        /// Which stage.
        stage: Stage,
        /// Steps done so far, 1-based.
        step: u64,
        /// Steps in all.
        total: u64,
        /// What was measured.
        metrics: &'a Metrics,
    },
    /// A stage ended.
    StageFinished {
        /// Which.
        stage: Stage,
    },
    /// Something a person should read, in one line.
    Note(&'a str),
    /// Something a person should worry about, in one line.
    Warning(&'a str),
    /// A checkpoint is complete on disk.
    CheckpointSaved {
        /// Steps done.
        step: u64,
        /// Where.
        path: &'a std::path::Path,
    },
}

/// Receives events. Must not block and must not panic.
pub trait Observer {
    /// Called on the loop's thread for every event.
    fn on_event(&mut self, event: &Event<'_>);

    /// Asked between steps: should the loop stop at the next safe point (after saving a checkpoint)?
    fn stop_requested(&self) -> bool {
        false
    }
}

/// An observer that ignores everything.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn on_event(&mut self, _event: &Event<'_>) {}
}
