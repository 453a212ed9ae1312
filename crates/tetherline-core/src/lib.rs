//! Data types, seam traits, events and named random streams shared by every crate.
//!
//! The decision behind this crate: **rollout data is host-side, ragged and tensor-free.** A rollout is
//! plain vectors of token ids and `f32`s with row boundaries, so KL, GAE, shaping, evaluation and
//! reports are ordinary Rust over slices, comparable with golden files and usable without a tensor
//! library. Padding does not exist here.
//!
//! **Architecture invariant**: no tensors, no files, no clock, no environment, no network.

mod event;
mod field;
mod message;
mod prompt;
mod ragged;
mod rollout;
mod schedule;
mod seam;
pub mod seeds;
mod share;

pub use event::{Event, Metrics, Observer, Silent, Stage};
pub use field::FieldError;
pub use message::Message;
pub use prompt::{PromptBatch, PromptRef, TokenId};
pub use ragged::{Ragged, RaggedMismatch};
pub use rollout::{Advantages, NamedScore, Rollout, ScoredRollout, StopReason, UpdateStats};
pub use schedule::{LrSchedule, Schedule};
pub use seam::{BoxError, Decode, Fallback, Score, TextSample};
pub use share::wilson;
