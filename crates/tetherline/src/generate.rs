//! `tether generate`: sampling responses from a model into a file.

use crate::Error;
use std::path::PathBuf;
use tetherline_core::Observer;
use tetherline_rollout::SamplingConfig;

/// What to sample, from which model, into which file.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// `"frontdesk"`, a Hugging Face directory, or a hub id.
    pub model: String,
    /// JSON lines with `prompt` or `messages`.
    pub prompts: PathBuf,
    /// Where the responses go, one JSON object per line.
    pub out: PathBuf,
    /// How they are drawn.
    pub sampling: SamplingConfig,
    /// Root of the sampling streams.
    pub seed: u64,
    /// Responses per prompt.
    pub num_samples: u32,
    /// Rows decoded together. Has no influence on the samples.
    pub batch_size: usize,
    /// Worker threads; 0: every core.
    pub threads: usize,
    /// Skip (and count) malformed lines instead of stopping.
    pub skip_bad_lines: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenerateSummary {
    /// Rows written.
    pub rows: usize,
    /// Tokens sampled.
    pub tokens: usize,
    /// Malformed lines skipped.
    pub skipped: usize,
}

/// Samples responses and writes one row each: `prompt`, `response`, `token_ids`, `logprobs` (nats, of the
/// tempered distribution), `stop_reason`.
///
/// # Errors
/// [`Error::Input`] where the model or the prompts cannot be used, [`Error::Io`] where the file cannot be
/// written.
pub fn generate(options: &GenerateOptions, _observer: &mut dyn Observer) -> Result<GenerateSummary, Error> {
    Err(Error::input(options.model.clone(), "sampling is not part of this build"))
}
