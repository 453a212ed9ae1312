//! RLHF with the drift under control: the loops, recipes, run directories and checkpoints.
//!
//! A [`recipe`] says everything about a run; a run directory ([`run_dir`]) holds everything it did.
//! Training state is saved whole or not at all ([`checkpoint`]), and logs are cut back to the last save
//! on resume ([`jsonl`]), so an interrupted run that is resumed equals one that never was.

pub mod audit;
mod card;
pub mod checkpoint;
pub mod codec;
pub mod compare;
pub mod control;
mod conversation;
pub mod dpo;
pub mod drift;
mod encoder;
mod error;
pub mod estimate;
pub mod evaluate;
pub mod explain;
pub mod export;
mod fit;
pub mod gate;
pub mod generate;
mod inputs;
pub mod jsonl;
pub mod label;
pub mod latency;
pub mod lineage;
mod objective;
mod options;
pub mod pipeline;
mod plan;
pub mod ppo;
mod python_json;
pub mod rater;
pub mod recipe;
pub mod replay;
pub mod report;
pub mod reward;
pub mod rounds;
mod rows;
pub mod run_dir;
pub mod score;
pub mod score_norms;
pub mod scoring;
pub mod sft;
pub mod sources;
mod supervised;
pub mod sweep;
pub mod train;
mod typed;

pub use error::{Error, ErrorKind};
pub use objective::objective;
pub use options::{RunOptions, RunSummary, Stages};
pub use pipeline::run;
pub use plan::{PlannedStage, plan};
pub use recipe::{Recipe, RecipeError};
/// Statistics and pages of what was measured.
pub use tetherline_eval as eval;
/// Models from the hub.
#[cfg(feature = "hub")]
pub use tetherline_models::hub;
pub use tetherline_models::{Device, give_back_freed_blocks};
