//! `tether generate`: sampling responses from a model into a file.

use crate::codec::Codec;
use crate::fit::Fit;
use crate::ppo::POLICY_HEADS;
use crate::{Error, sources};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use tetherline_core::seeds::Purpose;
use tetherline_core::{Event, Metrics, Observer, PromptBatch, PromptRef, Stage};
use tetherline_data::{ReadOptions, read_prompts};
use tetherline_models::{Device, Model};
use tetherline_rollout::{SamplingConfig, StreamName};

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
    /// Where the model runs.
    pub device: Device,
    /// Skip (and count) malformed and over-long lines instead of stopping.
    pub skip_bad_lines: bool,
    /// Also write `input_ids` and `prompt_len`: what `tether score` then scores is what was sampled, token for
    /// token, where encoding the text again may cut it differently.
    pub input_ids: bool,
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
/// [`Error::Input`] where the device, the model or the prompts cannot be used, [`Error::Io`] where the file cannot be
/// written.
pub fn generate(options: &GenerateOptions, observer: &mut dyn Observer) -> Result<GenerateSummary, Error> {
    let engine = crate::pipeline::engine(options.device, options.threads)?;
    let files = sources::open_model(&options.model)?;
    let what = || format!("the model {}", options.model);
    let model = Model::load(&files, POLICY_HEADS, 0).map_err(|e| Error::input(what(), e))?;
    let codec = Codec::load(&files, &model)?;
    let read = ReadOptions { skip_bad_lines: options.skip_bad_lines };
    let file = options.prompts.display().to_string();
    let loaded = read_prompts(&options.prompts, &read).map_err(|e| Error::input(file.clone(), e))?;
    let mut all = PromptBatch::default();
    let (context, new) = (model.context(), options.sampling.max_new_tokens);
    let why = format!("context {context} less --max-new-tokens {new}");
    let mut fit = Fit::new(&file, context.saturating_sub(new), why, options.skip_bad_lines);
    for (id, row) in loaded.rows.iter().enumerate() {
        let tokens = codec.prompt(&row.prompt)?;
        if !fit.keeps(row.line, tokens.len())? {
            continue;
        }
        for k in 0..options.num_samples {
            all.push(PromptRef {
                tokens: &tokens,
                id: id as u64,
                sample: k,
                domain: &row.domain,
                user: &row.user,
                text: row.prompt.last_text(),
                messages: row.prompt.messages(),
                answer: &row.answer,
            });
        }
    }
    let name = StreamName { seed: options.seed, purpose: Purpose::Sampling, step: 0 };
    let mut out = crate::score::Output::create(&options.out, &options.prompts)?;
    let total = all.len() as u64;
    observer.on_event(&Event::StageStarted { stage: Stage::Generate, done: 0, total });
    let mut tokens = 0;
    for from in (0..all.len()).step_by(options.batch_size.max(1)) {
        let to = (from + options.batch_size.max(1)).min(all.len());
        let mut batch = PromptBatch::default();
        for i in from..to {
            batch.push(all.get(i));
        }
        let r = tetherline_rollout::generate(
            &model,
            &codec.tokenizer,
            batch,
            &options.sampling,
            name,
            &engine,
            0,
        )
        .map_err(|e| Error::input(file.clone(), e))?;
        for i in 0..r.responses.len() {
            let mut row = json!({
                "prompt": r.prompts.texts[i], "response": r.texts[i], "token_ids": r.responses.row(i),
                "logprobs": r.logprobs.row(i), "stop_reason": r.stop[i],
            });
            if options.input_ids {
                let prompt = r.prompts.tokens.row(i);
                row["input_ids"] = json!([prompt, r.responses.row(i)].concat());
                row["prompt_len"] = json!(prompt.len());
            }
            writeln!(out, "{row}").map_err(|e| out.error(e))?;
        }
        tokens += r.responses.total();
        let metrics = Metrics::new();
        observer.on_event(&Event::Step { stage: Stage::Generate, step: to as u64, total, metrics: &metrics });
    }
    out.finish()?;
    observer.on_event(&Event::StageFinished { stage: Stage::Generate });
    Ok(GenerateSummary { rows: all.len(), tokens, skipped: loaded.skipped.len() + fit.skipped() })
}
