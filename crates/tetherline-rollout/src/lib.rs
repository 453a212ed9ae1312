//! Batched sampling from a policy, with log-probs, entropies and values captured on the way.

mod config;
mod error;
mod generate;
mod sample;

pub use config::SamplingConfig;
pub use error::RolloutError;
pub use generate::{Batches, StreamName, generate};
