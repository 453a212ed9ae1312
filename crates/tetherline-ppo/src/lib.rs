//! Proximal policy optimisation on the host: shaping, advantages and losses over plain slices.
//!
//! The order of a step, and the file that holds each part:
//!
//! 1. [`score_rollout`] sums the reward parts and applies the missing-EOS penalty (`score.rs`);
//! 2. [`advantages`] shapes per-token rewards −β·KL + score (`shaping.rs`), runs GAE (`gae.rs`) or compares the responses
//!    to a prompt (`group.rs`), and whitens (`whiten.rs`);
//! 3. [`policy_loss_row`] and [`value_loss_row`] turn the numbers of one forward pass into the gradient
//!    of the loss with respect to each of them, in closed form (`loss.rs`), and add to [`LossSums`].
//!
//! The losses of direct preference optimisation are in `dpo.rs`.
//!
//! What can be chosen is in `choices.rs`, what makes no sense together in `combinations.rs`.
//!
//! There is no tensor and no autograd here: a model's forward pass yields one log-prob, entropy and value
//! per token, and its backward pass starts from the gradients written here. Everything is accumulated in
//! f64 and stored in f32.

mod advantages;
mod choices;
mod combinations;
mod config;
mod dpo;
mod error;
mod gae;
mod group;
mod loss;
mod score;
mod shaping;
mod stats;
mod weights;
mod whiten;

pub use advantages::{GroupSpread, advantages, advantages_with_kl, constrained_advantages, old_values_row};
pub use choices::{
    Advantage, Aggregation, Correction, EntropyTarget, GroupKl, KlIn, KlLoss, MissingEos, Overlong, Ratio,
    ScoreAt, Surrogate, WhitenVariance,
};
pub use config::PpoConfig;
pub use dpo::{AnswerRatio, DpoConfig, DpoLoss, DpoTerm, dpo_pair};
pub use error::PpoError;
pub use gae::gae_row;
pub use group::{GROUP_EPS, group_advantages, is_uniform, mean_and_std};
pub use loss::{
    Clip, KlTerm, MAX_LOG_RATIO, MAX_LOG_SEQUENCE_RATIO, MinibatchTotals, PolicyRow, SurrogateTerm, ValueRow,
    ValueTerm, cispo_surrogate, clipped_surrogate, clipped_value, geometric_surrogate, kl_term,
    policy_loss_row, sequence_log_ratio, value_loss_row,
};
pub use score::{Penalties, score_rollout};
pub use shaping::{kl_k1, score_slot, shape_row};
pub use stats::{LossSums, explained_variance};
pub use weights::{MAX_LOG_WEIGHT, correction_weights};
pub use whiten::whiten;
