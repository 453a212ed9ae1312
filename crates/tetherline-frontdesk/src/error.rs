//! What can go wrong with the world.

/// An error of the frontdesk world.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontdeskError {
    /// A row could not be written as JSON.
    #[error("write a row as JSON: {source}")]
    Serialize {
        /// Cause.
        source: serde_json::Error,
    },
    /// A line of a fixture is not a row of the expected form.
    #[error("{file}, line {line}: {source}; write the file anew with `cargo xtask fixtures --text`")]
    Parse {
        /// File.
        file: String,
        /// Line, 1-based.
        line: usize,
        /// Cause.
        source: serde_json::Error,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// File or folder.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// A prompt is not one of this world's.
    #[error(
        "prompt {prompt:?} is not in the frontdesk world, so its slot values are unknown; \
         use the prompts of fixtures/frontdesk"
    )]
    UnknownPrompt {
        /// The text, shortened.
        prompt: String,
    },
}
