//! Where crates meet: peers know a trait, not each other.

use crate::{Message, NamedScore, TokenId};

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One response as text and tokens, as a scorer sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextSample<'a> {
    /// Prompt as text.
    pub prompt: &'a str,
    /// Prompt as messages; empty where it is plain text.
    pub messages: &'a [Message],
    /// Response as text, specials skipped.
    pub response: &'a str,
    /// Prompt token ids (policy tokenizer).
    pub prompt_tokens: &'a [TokenId],
    /// Response token ids (policy tokenizer), EOS included if written.
    pub response_tokens: &'a [TokenId],
    /// Domain tag.
    pub domain: &'a str,
    /// What a verifiable check needs: the expected answer, or tests; empty where the prompt has none.
    pub answer: &'a str,
    /// The prompt as the policy reads it, chat template and special tokens written out; empty where nobody asked.
    pub rendered: &'a str,
}

/// Scores that a source did not give, and that something else stands in for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fallback {
    /// Name of the source.
    pub source: String,
    /// The samples.
    pub rows: Vec<usize>,
    /// Why.
    pub why: String,
}

/// Scores responses: a reward model, a rule, a command, a gold rubric.
pub trait Score: Send {
    /// One [`NamedScore`] per part, each with one weighted value per sample. The score is their sum.
    ///
    /// # Errors
    /// Whatever stopped the scorer; a non-finite value is the caller's to refuse.
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError>;

    /// The samples of the last call whose score is a declared stand-in, per source.
    fn fallbacks(&self) -> Vec<Fallback> {
        Vec::new()
    }
}

/// Turns tokens into text.
pub trait Decode: Send + Sync {
    /// Text of `tokens`, specials skipped.
    fn decode(&self, tokens: &[TokenId]) -> String;
}
