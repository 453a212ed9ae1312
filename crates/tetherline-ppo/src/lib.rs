//! Proximal policy optimisation on the host: shaping, advantages and losses over plain slices.
//!
//! The order of a step, and the file that holds each part:
//!
//! 1. [`score_rollout`] sums the reward parts and applies the missing-EOS penalty (`score.rs`);
//! 2. [`advantages`] shapes per-token rewards −β·KL + score (`shaping.rs`), runs GAE (`gae.rs`) and
//!    whitens (`whiten.rs`);
//! 3. [`policy_loss_row`] and [`value_loss_row`] turn the numbers of one forward pass into the gradient
//!    of the loss with respect to each of them, in closed form (`loss.rs`), and add to [`LossSums`].
//!
//! There is no tensor and no autograd here: a model's forward pass yields one log-prob, entropy and value
//! per token, and its backward pass starts from the gradients written here. Everything is accumulated in
//! f64 and stored in f32.

mod advantages;
mod config;
mod error;
mod gae;
mod loss;
mod score;
mod shaping;
mod stats;
mod whiten;

pub use advantages::{advantages, advantages_with_kl, old_values_row};
pub use config::{Aggregation, MissingEos, PpoConfig, ScoreAt, WhitenVariance};
pub use error::PpoError;
pub use gae::gae_row;
pub use loss::{
    Clip, MAX_LOG_RATIO, MinibatchTotals, PolicyRow, SurrogateTerm, ValueRow, ValueTerm, clipped_surrogate,
    clipped_value, policy_loss_row, value_loss_row,
};
pub use score::score_rollout;
pub use shaping::{kl_k1, score_slot, shape_row};
pub use stats::{LossSums, explained_variance};
pub use whiten::whiten;
