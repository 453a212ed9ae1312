//! What can stop sampling.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutError {
    /// A prompt leaves no room to write in.
    #[error(
        "prompt {id} has {tokens} tokens; with {new} new tokens that exceeds the context of {context}: shorten \
         the prompt or sampling.max_new_tokens"
    )]
    TooLong {
        /// Prompt id.
        id: u64,
        /// Its tokens.
        tokens: usize,
        /// `max_new_tokens`.
        new: usize,
        /// The model's context.
        context: usize,
    },
    /// A prompt without a token.
    #[error("prompt {id} has no tokens; the policy needs at least one to continue from")]
    EmptyPrompt {
        /// Prompt id.
        id: u64,
    },
    /// The policy's logits are not finite.
    #[error("prompt {id}: the policy's log-probs are not finite at response token {token}")]
    NonFinite {
        /// Prompt id.
        id: u64,
        /// Response token.
        token: usize,
    },
    /// A row does not fit the model.
    #[error(transparent)]
    Model(#[from] tetherline_models::ModelError),
}
