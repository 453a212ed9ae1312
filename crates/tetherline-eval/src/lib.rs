//! Evaluation metrics and the run report.
//!
//! Everything here is plain numbers and text: [`ResponseRecord`]s go in, an [`Evaluation`] comes out, two
//! of them make a [`Comparison`], and a run's numbers become one self-contained HTML file. No
//! tensors, no files, no network, no clock. Each metric lives in its own module with its formula, its
//! unit and its source.

pub mod ab;
pub mod agreement;
pub mod bootstrap;
mod by_prompt;
mod comparison;
pub mod correlation;
pub mod drift;
mod error;
pub mod estimate;
mod evaluation;
pub mod explain;
mod format;
pub mod frontier;
pub mod gate;
pub mod length;
pub mod multiple;
pub mod ngram;
pub mod regression;
pub mod report;
pub mod sequential;
pub mod share;
mod sparkline;
mod table;

pub use bootstrap::Change;
pub use by_prompt::PromptRow;
pub use comparison::{Changes, Comparison};
pub use error::EvalError;
pub use estimate::Estimate;
pub use evaluation::{Evaluation, ResponseRecord, Summary, by_domain};
pub use format::interval;
pub use share::Share;
pub use sparkline::sparkline;
pub use table::comparison_table;
