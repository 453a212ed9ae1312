//! What can go wrong while rewards are learned or computed.

use tetherline_core::FieldError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// A configuration value is out of range.
    #[error(transparent)]
    Field(#[from] FieldError),

    /// Chosen, rejected and margins do not pair up.
    #[error("{what} has {got} entries, expected {expected} (one per pair)")]
    Pairs {
        /// The array.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The number of pairs.
        expected: usize,
    },

    /// The score of a pair, or its loss, is not finite.
    #[error(
        "pair {pair}: chosen score {chosen}, rejected score {rejected}, margin {margin}: the loss is not finite"
    )]
    NonFinitePair {
        /// Which pair.
        pair: usize,
        /// Its chosen score.
        chosen: f32,
        /// Its rejected score.
        rejected: f32,
        /// Its margin.
        margin: f32,
    },

    /// Reference scores that do not vary cannot be scaled to standard deviation 1.
    #[error(
        "cannot normalise the reward: {count} reference scores with mean {mean} and standard deviation {std}; \
         the reward model gives every sample the same score (was it trained? are the samples all equal?)"
    )]
    Degenerate {
        /// Number of scores.
        count: usize,
        /// Their mean.
        mean: f64,
        /// Their standard deviation.
        std: f64,
    },

    /// A reference score is not finite.
    #[error("reference score {index} is {value}")]
    NonFiniteScore {
        /// Which.
        index: usize,
        /// Its value.
        value: f32,
    },

    /// A server or a sandbox gave no scores.
    #[error("rule {rule}: {who} {problem}")]
    Source {
        /// Name of the rule.
        rule: String,
        /// What gave none.
        who: String,
        /// What happened.
        problem: String,
    },

    /// A check needs the answer of a prompt that has none.
    #[error(
        "rule {rule}: the prompt `{prompt}` has no answer to check against; give its row a field `answer`"
    )]
    NoAnswer {
        /// Name of the rule.
        rule: String,
        /// The beginning of the prompt.
        prompt: String,
    },

    /// A scoring command could not be started, timed out, failed, or wrote something else than scores.
    #[error("rule {rule}: command `{command}` {problem}{stderr}")]
    Command {
        /// Name of the rule.
        rule: String,
        /// The program and its arguments.
        command: String,
        /// What happened and what was expected.
        problem: String,
        /// The end of what it wrote to standard error, introduced by `; it wrote: `, or nothing.
        stderr: String,
    },
}
