//! What can go wrong with evaluation records.

/// Error of this crate.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Nothing to evaluate.
    #[error("evaluate an empty set of responses: give at least one record")]
    NoRecords,
    /// A number that cannot be averaged.
    #[error(
        "average field `{field}` of record {row} (prompt {prompt_id}): the value is {value}, expected a finite number"
    )]
    NonFinite {
        /// Field of [`crate::ResponseRecord`].
        field: &'static str,
        /// Index of the record.
        row: usize,
        /// Its prompt.
        prompt_id: u64,
        /// What was found.
        value: f64,
    },
    /// A response whose vectors have not one entry per token.
    #[error(
        "response {row} (prompt {prompt_id}) needs at least one token, and one text, KL and log-ratio for each of them"
    )]
    Lengths {
        /// Index of the response.
        row: usize,
        /// Its prompt.
        prompt_id: u64,
    },
    /// A paired comparison needs the same prompts on both sides.
    #[error(
        "pair responses by prompt: prompt {prompt_id} has responses of the {present} policy only; evaluate both policies on the same prompts"
    )]
    Unpaired {
        /// The prompt.
        prompt_id: u64,
        /// `baseline` or `aligned`.
        present: &'static str,
    },
}
