//! frontdesk: the embedded world of a customer-service assistant, with its gold rubric.
//!
//! A small, seeded, generated world that is a true RLHF problem and readable by a person. Users ask
//! short questions; demonstrations answer them well or badly; pairs of answers are rated by a
//! Bradley-Terry rater with [`gold`] in its head and a shaky hand. The reward model sees the pairs,
//! never gold; evaluation sees gold, so a report can put proxy against gold.
//!
//! ```
//! use tetherline_frontdesk::{World, gold};
//! let world = World::embedded()?;
//! let prompt = &world.heldout[0];
//! let good = tetherline_frontdesk::best_response(prompt);
//! assert!(gold(prompt, &good).total > gold(prompt, "Whatever.").total);
//! # Ok::<(), tetherline_frontdesk::FrontdeskError>(())
//! ```
//!
//! **Architecture invariant**: no tensors, no tokenizer, no chat template, no network.

pub mod catalog;
mod error;
mod files;
mod gold;
mod intents;
pub mod phrases;
mod read;
mod record;
mod respond;
mod scorer;
mod stats;
pub mod text;
mod world;

pub use error::FrontdeskError;
pub use files::{BASE_POLICY, FILES, embedded_text};
pub use gold::{GoldBreakdown, PARTS, Weights, gold, weights};
pub use intents::{Intent, intent, intents};
pub use read::{Counts, GREETING_WINDOW, SIGN_OFF_WINDOW, is_refusal, read};
pub use record::{Demonstration, Domain, Facts, Preference, Prompt, from_jsonl, to_jsonl};
pub use respond::{ANYONE, DEMONSTRATORS, Mix, RATED, best_response, respond, spam_response};
pub use scorer::GoldScorer;
pub use stats::{GoldStats, Moments};
pub use world::{
    FLIP_SHARE, RATER_TEMPERATURE, RatedPair, SEED, SHIPPED, Sizes, Split, World, prefer, pretrain_dialogues,
    rate, split_of,
};

/// Runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
