//! Synthetic plants for trying a controller without a language model.
//!
//! In d = √(2·KL) a policy that learns a reward under a penalty β behaves like
//! d' = η(c·S − β·d) + noise (KL.md §2.2): S the reward's standard deviation, c a scale, η set so that the
//! time constant at the target is τ updates. The plant is for unit tests and for comparing laws; it is no
//! evidence about language models. Everything here is deterministic given a seed.

mod noise;
mod plant;
mod run;
mod sparkline;
mod summary;
mod svg;

pub use noise::Noise;
pub use plant::{Plant, PlantKind};
pub use run::{Disturbance, Scenario, Trace, simulate};
pub use sparkline::sparkline;
pub use summary::{Summary, median, summarise};
pub use svg::svg;
