//! Optimisation over flat parameter vectors: AdamW and gradient clipping.
//!
//! Plain Rust over `&mut [f32]`: supervised fine-tuning, reward training and PPO share it. A flat vector
//! has one order, so moments need no names and a checkpoint is two more vectors.

mod adamw;
mod clip;

pub use adamw::{AdamW, AdamWConfig, AdamWState, StateMismatch};
pub use clip::{clip_factor, grad_norm};
