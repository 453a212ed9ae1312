//! `tether drift`: how far one policy is from another, and where, on prompts or on a log of what was said.
//!
//! ```text
//! prompts ──policy samples──▶ responses ──both models──▶ exact KL(π‖π_ref) per token   ┐
//!    └────reference samples─▶ responses ──both models──▶ exact KL(π_ref‖π) per token   ├▶ tetherline_eval::drift
//! log of responses ──────────────────────both models──▶ exact KL on these texts        ┘
//! ```
//!
//! Policy and reference answer with the same random streams, so equal policies give equal responses.

mod measure;

pub(crate) use measure::{Measurer, Rows};

use crate::codec::Codec;
use crate::fit::Fit;
use crate::ppo::POLICY_HEADS;
use crate::train::Example;
use crate::{Error, sources};
use std::path::PathBuf;
use tetherline_core::{Event, Observer, PromptBatch, PromptRef};
use tetherline_data::{ReadOptions, ScoreInput, ScoreRow, Text, read_prompts, read_scores};
use tetherline_eval::drift::{Drift, DriftInput};
use tetherline_models::{Device, Model};
use tetherline_rollout::SamplingConfig;

/// What to compare, on what.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftOptions {
    /// The policy: `"frontdesk"`, a Hugging Face directory (also of an adapter), or a hub id.
    pub policy: String,
    /// The reference, with the same vocabulary.
    pub reference: String,
    /// JSON lines with `prompt` or `messages`; with `given` also the responses.
    pub prompts: PathBuf,
    /// Measure the responses that stand in the file instead of sampling from the policy.
    pub given: bool,
    /// With `given`: add the end-of-sequence token to text responses.
    pub append_eos: bool,
    /// Plain prompts are what a user says, and go through the chat template.
    pub chat: bool,
    /// How responses are drawn; its temperature also divides the logits that KL is measured on.
    pub sampling: SamplingConfig,
    /// Root of the random streams.
    pub seed: u64,
    /// Responses per prompt.
    pub num_samples: u32,
    /// Also let the reference answer, to see what gained and what lost.
    pub reference_answers: bool,
    /// Pairs of responses to keep for people.
    pub pairs: usize,
    /// Rows run together. Has no influence on the results.
    pub batch_size: usize,
    /// Worker threads; 0: every core.
    pub threads: usize,
    /// Where the models run.
    pub device: Device,
    /// Skip (and count) malformed and over-long lines instead of stopping.
    pub skip_bad_lines: bool,
}

/// A drift, and what was left out of it.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftOutcome {
    /// The drift.
    pub drift: Drift,
    /// Malformed or over-long lines skipped.
    pub skipped: usize,
}

/// Measures the drift of a policy from a reference.
///
/// # Errors
/// [`Error::Input`] where the device, a model or the data cannot be used, or the models have different vocabularies.
pub fn drift(options: &DriftOptions, observer: &mut dyn Observer) -> Result<DriftOutcome, Error> {
    let engine = crate::pipeline::engine(options.device, options.threads)?;
    let load = |name: &str, role: &str| -> Result<(Model, Codec), Error> {
        let files = sources::open_model(name)?;
        let model = Model::load(&files, POLICY_HEADS, 0);
        let model = model.map_err(|e| Error::input(format!("the {role} {name}"), e))?;
        let codec = Codec::load(&files, &model)?;
        Ok((model, if options.chat { codec.wrapping_plain_prompts() } else { codec }))
    };
    let (policy, codec) = load(&options.policy, "policy")?;
    let (reference, other) = load(&options.reference, "reference")?;
    if !codec.same_as(&other) {
        observer.on_event(&Event::Warning(
            "policy and reference have different tokenizers or chat templates; those of the policy are used for both",
        ));
    }
    let reference = sources::sharing(reference, &policy, &engine)?;
    let measurer = Measurer {
        engine: &engine,
        codec: &codec,
        sampling: &options.sampling,
        seed: options.seed,
        batch_size: options.batch_size,
    };
    let mut input = DriftInput {
        policy: options.policy.clone(),
        reference: options.reference.clone(),
        temperature: options.sampling.temperature,
        given: options.given,
        seed: options.seed,
        pairs: options.pairs,
        ..DriftInput::default()
    };
    let (prompts, skipped);
    if options.given {
        let given = given_rows(options, &codec, &policy)?;
        (prompts, skipped) = (given.prompts, given.skipped);
        input.responses = measurer.responses(&policy, &reference, &given.rows, false, observer)?;
    } else {
        (prompts, skipped) = read(options, &codec, &policy)?;
        let rows = measurer.sample(&policy, &prompts, observer)?;
        input.responses = measurer.responses(&policy, &reference, &rows, false, observer)?;
    }
    if options.reference_answers && !prompts.is_empty() {
        let rows = measurer.sample(&reference, &prompts, observer)?;
        input.reference_responses = measurer.responses(&reference, &policy, &rows, true, observer)?;
    }
    let file = options.prompts.display().to_string();
    let drift = Drift::of(&input).map_err(|e| Error::input(file, e))?;
    Ok(DriftOutcome { drift, skipped })
}

fn room_for(options: &DriftOptions, model: &Model) -> (usize, String) {
    let (context, new) = (model.context(), options.sampling.max_new_tokens);
    (context.saturating_sub(new), format!("context {context} less --max-new-tokens {new}"))
}

/// The prompts of the file, one row per sample, and how many lines were skipped.
fn read(options: &DriftOptions, codec: &Codec, model: &Model) -> Result<(PromptBatch, usize), Error> {
    let file = options.prompts.display().to_string();
    let read = ReadOptions { skip_bad_lines: options.skip_bad_lines };
    let loaded = read_prompts(&options.prompts, &read).map_err(|e| Error::input(file.clone(), e))?;
    let (room, why) = room_for(options, model);
    let mut fit = Fit::new(&file, room, why, options.skip_bad_lines);
    let mut out = PromptBatch::default();
    for (id, row) in loaded.rows.iter().enumerate() {
        let tokens = codec.prompt(&row.prompt)?;
        if !fit.keeps(row.line, tokens.len())? {
            continue;
        }
        for sample in 0..options.num_samples {
            out.push(PromptRef {
                tokens: &tokens,
                id: id as u64,
                sample,
                domain: &row.domain,
                user: &row.user,
                text: row.prompt.last_text(),
                messages: row.prompt.messages(),
                answer: &row.answer,
            });
        }
    }
    Ok((out, loaded.skipped.len() + fit.skipped()))
}

struct Given {
    rows: Rows,
    /// Prompts that leave room for an answer of the reference.
    prompts: PromptBatch,
    skipped: usize,
}

/// The responses that stand in the file.
fn given_rows(options: &DriftOptions, codec: &Codec, model: &Model) -> Result<Given, Error> {
    let file = options.prompts.display().to_string();
    let read = ReadOptions { skip_bad_lines: options.skip_bad_lines };
    let loaded = read_scores(&options.prompts, &read).map_err(|e| Error::input(file.clone(), e))?;
    let context = model.context();
    let room = room_for(options, model).0;
    let mut fit = Fit::new(&file, context, format!("context {context}"), options.skip_bad_lines);
    let mut given = Given { rows: Rows::default(), prompts: PromptBatch::default(), skipped: 0 };
    // One prompt asked several times is one prompt: its responses are not independent.
    let mut known = std::collections::HashMap::new();
    let mut samples: Vec<u32> = Vec::new();
    for row in &loaded.rows {
        let (example, text) = encode(codec, row, options.append_eos)?;
        if !fit.keeps(row.line, example.tokens.len())? {
            continue;
        }
        if let Err(e) = model.check_tokens(&example.tokens) {
            fit.refuse(row.line, &e.to_string())?;
            continue;
        }
        let (prompt, response) = example.tokens.split_at(example.prompt_len);
        if prompt.is_empty() || response.is_empty() {
            let which = if prompt.is_empty() { "prompt" } else { "response" };
            fit.refuse(row.line, &format!("the {which} has no tokens"))?;
            continue;
        }
        let id = *known.entry(prompt.to_vec()).or_insert(samples.len());
        if id == samples.len() {
            samples.push(0);
        }
        let at = PromptRef {
            tokens: prompt,
            id: id as u64,
            sample: samples[id],
            domain: &row.domain,
            user: &row.user,
            text: &text.0,
            messages: &[],
            answer: "",
        };
        samples[id] += 1;
        if prompt.len() <= room {
            given.prompts.push(at);
        }
        given.rows.push(at, response, &text.1);
    }
    given.skipped = loaded.skipped.len() + fit.skipped();
    Ok(given)
}

/// A row's tokens, and its prompt and response as text.
fn encode(codec: &Codec, row: &ScoreRow, append_eos: bool) -> Result<(Example, (String, String)), Error> {
    match &row.input {
        ScoreInput::Tokens { input_ids, prompt_len } => {
            let example = Example { tokens: input_ids.clone(), prompt_len: *prompt_len };
            let text = |ids: &[u32]| tetherline_core::Decode::decode(&codec.tokenizer, ids);
            let texts = (text(&input_ids[..*prompt_len]), text(&input_ids[*prompt_len..]));
            Ok((example, texts))
        }
        ScoreInput::Text { prompt, response } => {
            let example = match prompt {
                Text::Plain(p) if !codec.wraps_plain_prompts() => {
                    codec.plain_example(p, response, append_eos)?
                }
                _ => codec.example(prompt, response, append_eos)?,
            };
            Ok((example, (prompt.last_text().to_owned(), response.clone())))
        }
    }
}
