//! RLHF with the drift under control: the loops, recipes, run directories and checkpoints.
//!
//! A [`recipe`] says everything about a run; a run directory ([`run_dir`]) holds everything it did.
//! Training state is saved whole or not at all ([`checkpoint`]), and logs are cut back to the last save
//! on resume ([`jsonl`]), so an interrupted run that is resumed equals one that never was.

pub mod checkpoint;
mod error;
pub mod generate;
pub mod jsonl;
mod options;
mod plan;
pub mod recipe;
pub mod report;
pub mod run_dir;
pub mod score;
pub mod train;

pub use error::{Error, ErrorKind};
pub use options::{RunOptions, RunSummary, Stages};
pub use plan::{PlannedStage, plan};
pub use recipe::{Recipe, RecipeError};

/// Runs the stages of a recipe in a run directory.
///
/// # Errors
/// [`Error`], sorted by [`Error::kind`].
pub fn run(
    recipe: &Recipe,
    options: &RunOptions,
    _observer: &mut dyn tetherline_core::Observer,
) -> Result<RunSummary, Error> {
    recipe.check(options.stages)?;
    run_dir::RunDir::open(&options.out, recipe, options.resume)?;
    Err(Error::input("the recipe", "training is not part of this build"))
}
