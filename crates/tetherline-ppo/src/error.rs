//! What can go wrong between a rollout and the gradient of its loss.

use tetherline_core::RaggedMismatch;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PpoError {
    /// Two per-token arrays have different row lengths.
    #[error(transparent)]
    Rows(#[from] RaggedMismatch),

    /// A per-row or per-token array has the wrong length.
    #[error("{what} has {got} entries, expected {expected} (one per {per})")]
    Length {
        /// The array.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The length it should have.
        expected: usize,
        /// What there should be one entry for.
        per: &'static str,
    },

    /// A number that must be finite is not.
    #[error("{what} of row {row}, token {token} is {value}; the batch was left unused")]
    NonFiniteToken {
        /// The array.
        what: &'static str,
        /// Row in the batch.
        row: usize,
        /// Token in the response.
        token: usize,
        /// The offending value.
        value: f64,
    },

    /// A per-row number that must be finite is not.
    #[error("{what} of row {row} is {value}; the batch was left unused")]
    NonFiniteRow {
        /// The array.
        what: &'static str,
        /// Row in the batch.
        row: usize,
        /// The offending value.
        value: f64,
    },

    /// A loss or its gradient is not finite.
    #[error(
        "{what} at token {token} is not finite (now {new}, before the update {old}); \
         no optimizer step was taken: lower `lr` or `max_grad_norm`"
    )]
    NonFiniteLoss {
        /// Which loss.
        what: &'static str,
        /// Token in the row.
        token: usize,
        /// The new log-prob or value.
        new: f32,
        /// The old log-prob or value.
        old: f32,
    },

    /// The score is to be placed after EOS but the rollout carries no value for that place.
    #[error(
        "score_at = \"after_eos\" needs the value after the last token of every row, \
         but the rollout has no bootstrap_values"
    )]
    MissingBootstrap,

    /// A group of one has no baseline.
    #[error(
        "a group of {count} response has nothing to be compared with; ppo.samples_per_prompt must be at least 2"
    )]
    GroupTooSmall {
        /// How many responses there are.
        count: usize,
    },

    /// Rows do not come in whole groups.
    #[error("{rows} responses are no whole number of groups of {size} (ppo.samples_per_prompt)")]
    Groups {
        /// Responses.
        rows: usize,
        /// Responses per group.
        size: usize,
    },

    /// ReMax without a greedy response.
    #[error(
        "advantages = \"remax\" needs the score of the greedy response to every prompt, but the rollout has none"
    )]
    MissingBaseline,

    /// A single number has no unbiased variance.
    #[error(
        "cannot whiten {count} value with the unbiased variance; use a larger batch or whiten_variance = \"population\""
    )]
    WhitenTooFew {
        /// How many values there are.
        count: usize,
    },
}
