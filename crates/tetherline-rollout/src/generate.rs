//! Batched sampling with a cache: finished rows leave the batch, and log-prob, entropy and value are read
//! off the way.
//!
//! On the CPU kernels every thread owns its rows for the whole generation; on the graph all rows decode
//! together, which is what keeps an accelerator busy.
//!
//! Each row draws from its own stream (seed, purpose, step, prompt id, sample index). On the kernels a decode
//! step also has the same bits in every batch, so a response depends neither on its neighbours nor on the
//! threads.

use crate::sample::{draw, greedy};
use crate::{RolloutError, SamplingConfig};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tetherline_core::seeds::{Purpose, Stream, stream};
use tetherline_core::{PromptBatch, Ragged, Rollout, StopReason, TokenId};
use tetherline_models::{Device, Engine, Model, Tokenizer, log_softmax_in_place};

/// Rows a thread of the CPU decodes together: enough to reuse the weights it reads, few enough for its cache.
const ROWS: usize = 16;

/// The name of the streams that responses draw from, but for prompt and sample.
#[derive(Clone, Copy, Debug)]
pub struct StreamName {
    /// Root seed.
    pub seed: u64,
    /// What the responses are for.
    pub purpose: Purpose,
    /// Step of the run.
    pub step: u64,
}

#[derive(Default)]
struct Row {
    tokens: Vec<TokenId>,
    logprobs: Vec<f32>,
    entropy: Vec<f32>,
    values: Vec<f32>,
    stop: Option<StopReason>,
}

/// Samples a response to every prompt.
///
/// `values` are filled where the model has a scalar head (a shared trunk). `ref_logprobs` stay empty.
///
/// # Errors
/// A prompt that is empty or leaves no room, a token outside the vocabulary, logits that are not finite, or
/// a device that fails.
pub fn generate(
    model: &Model,
    tokenizer: &Tokenizer,
    prompts: PromptBatch,
    config: &SamplingConfig,
    name: StreamName,
    engine: &Engine,
    policy_version: u64,
) -> Result<Rollout, RolloutError> {
    let context = model.context();
    for (i, tokens) in prompts.tokens.rows().enumerate() {
        let id = prompts.ids[i];
        if tokens.is_empty() {
            return Err(RolloutError::EmptyPrompt { id });
        }
        if tokens.len() + config.max_new_tokens > context {
            return Err(RolloutError::TooLong {
                id,
                tokens: tokens.len(),
                new: config.max_new_tokens,
                context,
            });
        }
        model.check_tokens(tokens)?;
    }
    let (rows, threads) = match engine.device() {
        Device::Cpu => (ROWS, engine.threads()),
        _ => (prompts.len().max(1), 1),
    };
    let groups = prompts.len().div_ceil(rows);
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Result<Vec<Row>, RolloutError>>> =
        (0..groups).map(|_| Mutex::new(Ok(Vec::new()))).collect();
    let worker = || {
        loop {
            let g = next.fetch_add(1, Ordering::Relaxed);
            if g >= groups {
                break;
            }
            let rows = g * rows..((g + 1) * rows).min(prompts.len());
            let result = decode_group(model, engine, tokenizer, &prompts, rows, config, name);
            *done[g].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = result;
        }
    };
    std::thread::scope(|s| {
        for _ in 1..threads.min(groups) {
            s.spawn(worker);
        }
        worker();
    });
    let mut out = Rollout { policy_version, temperature: temperature(config), ..Rollout::default() };
    for group in done {
        for row in group.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)? {
            let prompt = prompts.tokens.row(out.texts.len());
            out.texts.push(response_text(tokenizer, prompt, &row.tokens));
            out.responses.push_row(row.tokens);
            out.logprobs.push_row(row.logprobs);
            out.entropy.push_row(row.entropy);
            out.values.push_row(row.values);
            out.stop.push(row.stop.unwrap_or(StopReason::Length));
        }
    }
    out.ref_logprobs = Ragged::from_rows((0..prompts.len()).map(|_| []));
    out.prompts = prompts;
    Ok(out)
}

/// What the response adds to the prompt's text. Tokens alone may decode to something else: SentencePiece
/// drops the space before the first word of a text.
fn response_text(tokenizer: &Tokenizer, prompt: &[TokenId], response: &[TokenId]) -> String {
    let decode = |tokens: &[TokenId]| tetherline_core::Decode::decode(tokenizer, tokens);
    let whole = decode(&[prompt, response].concat());
    match whole.strip_prefix(&decode(prompt)) {
        Some(text) => text.to_owned(),
        // The boundary is inside a character.
        None => decode(response),
    }
}

/// The temperature of the distribution that log-probs are of: greedy decoding reads it at 1.
fn temperature(config: &SamplingConfig) -> f32 {
    if config.is_greedy() { 1.0 } else { config.temperature as f32 }
}

fn decode_group(
    model: &Model,
    engine: &Engine,
    tokenizer: &Tokenizer,
    prompts: &PromptBatch,
    rows: std::ops::Range<usize>,
    config: &SamplingConfig,
    name: StreamName,
) -> Result<Vec<Row>, RolloutError> {
    let longest = rows.clone().map(|r| prompts.tokens.row_len(r)).max().unwrap_or(0);
    let mut batch = model.decode_batch(engine, longest + config.max_new_tokens)?;
    let mut out: Vec<Row> = rows.clone().map(|_| Row::default()).collect();
    let mut streams: Vec<Stream> = rows
        .clone()
        .map(|r| stream(name.seed, name.purpose, name.step, prompts.ids[r], prompts.sample[r]))
        .collect();
    let mut feed: Vec<TokenId> = Vec::new();
    for r in rows.clone() {
        let tokens = prompts.tokens.row(r);
        batch.push(&tokens[..tokens.len() - 1])?;
        feed.push(tokens[tokens.len() - 1]);
    }
    let mut alive: Vec<usize> = (0..rows.len()).collect();
    let mut order = Vec::new();
    let (vocab, t) = (model.config().vocab, temperature(config));
    while !alive.is_empty() {
        let step = batch.step(&feed)?;
        let mut keep = vec![true; alive.len()];
        feed.clear();
        for (i, (&r, logits)) in alive.iter().zip(step.logits.chunks_exact_mut(vocab)).enumerate() {
            let entropy = log_softmax_in_place(logits, t);
            let row = &mut out[r];
            let token = if config.is_greedy() {
                greedy(logits)
            } else {
                draw(logits, config, &mut streams[r], &mut order)
            };
            if !(logits[token].is_finite() && entropy.is_finite()) {
                return Err(RolloutError::NonFinite {
                    id: prompts.ids[rows.start + r],
                    token: row.tokens.len(),
                });
            }
            row.tokens.push(token as TokenId);
            row.logprobs.push(logits[token]);
            row.entropy.push(entropy);
            row.values.extend(step.scalars.get(i));
            row.stop = if !config.ignore_eos && tokenizer.eos().contains(&(token as TokenId)) {
                Some(StopReason::Eos)
            } else if hits_stop_string(tokenizer, &row.tokens, &config.stop) {
                Some(StopReason::StopString)
            } else if row.tokens.len() >= config.max_new_tokens {
                Some(StopReason::Length)
            } else {
                None
            };
            keep[i] = row.stop.is_none();
            if keep[i] {
                feed.push(token as TokenId);
            }
        }
        batch.retain(|i| keep[i])?;
        let mut k = keep.into_iter();
        alive.retain(|_| k.next().unwrap_or(false));
    }
    Ok(out)
}

fn hits_stop_string(tokenizer: &Tokenizer, tokens: &[TokenId], stop: &[String]) -> bool {
    if stop.is_empty() {
        return false;
    }
    let text = tetherline_core::Decode::decode(tokenizer, tokens);
    stop.iter().any(|s| text.contains(s.as_str()))
}
