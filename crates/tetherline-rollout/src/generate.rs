//! Continuous batching with a cache: a row that ends leaves the batch and the next prompt takes its place; log-prob,
//! entropy and value are read off the way.
//!
//! On the CPU kernels every thread has a batch of its own and takes prompts from one queue, if the model is so small
//! that its weights stay in the cache; the threads share one batch, each with its columns of every matrix, if reading the
//! weights is what takes the time. On the graph all rows decode together, which is what keeps an accelerator busy. A
//! prompt with several samples is read once.
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
use tetherline_models::{DecodeBatch, Device, Engine, Model, Team, Tokenizer, log_softmax_in_place};

/// Rows a thread of the CPU decodes together: enough to reuse the weights it reads, few enough for its cache.
const ROWS: usize = 16;

/// Parameters from which on threads share a batch.
const SHARED: usize = 1_000_000;

/// How the CPU kernels decode: in how many batches at once, of how many rows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batches {
    /// All threads share one batch.
    pub shared: bool,
    /// Rows that decode together.
    pub rows: usize,
    /// Batches at work at the same time.
    pub count: usize,
}

impl Batches {
    /// For a model of `params` parameters and `prompts` prompts on `threads` threads.
    pub fn of(params: usize, prompts: usize, threads: usize) -> Self {
        if threads > 1 && params >= SHARED {
            return Self { shared: true, rows: prompts.clamp(1, ROWS * threads), count: 1 };
        }
        let rows = prompts.div_ceil(threads).clamp(1, ROWS);
        Self { shared: false, rows, count: threads.min(prompts.div_ceil(rows)).max(1) }
    }
}

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
    let n = prompts.len();
    let threads = if engine.device() == Device::Cpu { engine.threads() } else { 1 };
    let Batches { shared, rows, count } = match engine.device() {
        Device::Cpu => Batches::of(model.n_params(), n, threads),
        _ => Batches { shared: false, rows: n.max(1), count: 1 },
    };
    let queue =
        Queue { model, engine, tokenizer, prompts: &prompts, config, name, rows, next: AtomicUsize::new(0) };
    let done: Mutex<Vec<Option<Row>>> = Mutex::new((0..n).map(|_| None).collect());
    let failed = Mutex::new(None);
    let worker = |team: Option<&Team<'_>>| match queue.work(team) {
        Ok(rows) => {
            let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            rows.into_iter().for_each(|(i, row)| done[i] = Some(row));
        }
        Err(e) => {
            // What is left in the queue is of no use any more.
            queue.next.store(n, Ordering::Relaxed);
            failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
        }
    };
    if shared {
        Team::with(threads, |team| worker(Some(team)));
    } else {
        std::thread::scope(|s| {
            for _ in 1..count {
                s.spawn(|| worker(None));
            }
            worker(None);
        });
    }
    if let Some(e) = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(e);
    }
    let mut out = Rollout { policy_version, temperature: temperature(config), ..Rollout::default() };
    for row in done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_iter().flatten() {
        let prompt = prompts.tokens.row(out.texts.len());
        out.texts.push(response_text(tokenizer, prompt, &row.tokens));
        out.responses.push_row(row.tokens);
        out.logprobs.push_row(row.logprobs);
        out.entropy.push_row(row.entropy);
        out.values.push_row(row.values);
        out.stop.push(row.stop.unwrap_or(StopReason::Length));
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

/// The prompts that wait, and what a thread needs to answer them.
struct Queue<'a> {
    model: &'a Model,
    engine: &'a Engine,
    tokenizer: &'a Tokenizer,
    prompts: &'a PromptBatch,
    config: &'a SamplingConfig,
    name: StreamName,
    /// Rows that decode together.
    rows: usize,
    next: AtomicUsize,
}

/// A row that decodes.
struct Active {
    prompt: usize,
    row: Row,
    stream: Stream,
    /// The token to read next.
    feed: TokenId,
    /// Scratch space of the draw.
    order: Vec<u32>,
}

impl Queue<'_> {
    /// Answers prompts until the queue is empty.
    fn work(&self, team: Option<&Team<'_>>) -> Result<Vec<(usize, Row)>, RolloutError> {
        let longest = (0..self.prompts.len()).map(|r| self.prompts.tokens.row_len(r)).max().unwrap_or(0);
        let batch = self.model.decode_batch(self.engine, longest + self.config.max_new_tokens)?;
        let mut batch = match team {
            Some(team) => batch.with_team(team),
            None => batch,
        };
        let mut done = Vec::new();
        let mut active: Vec<Active> = Vec::with_capacity(self.rows);
        let (mut feed, mut keep) = (Vec::new(), Vec::new());
        let vocab = self.model.config().vocab;
        loop {
            self.join(&mut active, &mut batch)?;
            if active.is_empty() {
                return Ok(done);
            }
            feed.clear();
            feed.extend(active.iter().map(|a| a.feed));
            let step = batch.step(&feed)?;
            let rows = active.iter_mut().zip(step.logits.chunks_exact_mut(vocab));
            match team {
                None => rows
                    .into_iter()
                    .enumerate()
                    .try_for_each(|(i, (a, logits))| self.draw(a, logits, step.scalars.get(i).copied()))?,
                Some(team) => {
                    let rows: Vec<_> = rows.map(|row| Mutex::new((row, Ok(())))).collect();
                    team.run(rows.len(), &|i| {
                        let mut row = rows[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        let ((a, logits), result) = &mut *row;
                        *result = self.draw(a, logits, step.scalars.get(i).copied());
                    });
                    rows.into_iter().try_for_each(|row| {
                        row.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).1
                    })?;
                }
            }
            keep.clear();
            keep.extend(active.iter().map(|a| a.row.stop.is_none()));
            if keep.contains(&false) {
                batch.retain(|i| keep[i])?;
                let ended = active.extract_if(.., |a| a.row.stop.is_some());
                done.extend(ended.map(|a| (a.prompt, a.row)));
            }
        }
    }

    /// Draws the next token of a row from its logits.
    fn draw(&self, a: &mut Active, logits: &mut [f32], scalar: Option<f32>) -> Result<(), RolloutError> {
        let entropy = log_softmax_in_place(logits, temperature(self.config));
        let token = if self.config.is_greedy() {
            greedy(logits)
        } else {
            draw(logits, self.config, &mut a.stream, &mut a.order)
        };
        if !(logits[token].is_finite() && entropy.is_finite()) {
            let (id, token) = (self.prompts.ids[a.prompt], a.row.tokens.len());
            return Err(RolloutError::NonFinite { id, token });
        }
        a.feed = token as TokenId;
        a.row.tokens.push(a.feed);
        a.row.logprobs.push(logits[token]);
        a.row.entropy.push(entropy);
        a.row.values.extend(scalar);
        a.row.stop = self.stop(&a.row.tokens);
        Ok(())
    }

    /// Fills the batch with the prompts that come next, all but the last token of each.
    fn join(&self, active: &mut Vec<Active>, batch: &mut DecodeBatch<'_>) -> Result<(), RolloutError> {
        let from = active.len();
        while active.len() < self.rows {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.prompts.len() {
                break;
            }
            active.push(self.start(i));
        }
        let Some(last) = active[from..].last().map(|a| a.prompt) else { return Ok(()) };
        let prompt = |i: usize| self.prompts.tokens.row(i);
        let before: Vec<&[TokenId]> =
            active[from..].iter().map(|a| &prompt(a.prompt)[..prompt(a.prompt).len() - 1]).collect();
        let again = last + 1 < self.prompts.len() && prompt(last + 1) == prompt(last);
        Ok(batch.push_all(&before, again)?)
    }

    /// A response to prompt `i`, not begun.
    fn start(&self, i: usize) -> Active {
        let tokens = self.prompts.tokens.row(i);
        let StreamName { seed, purpose, step } = self.name;
        let stream = stream(seed, purpose, step, self.prompts.ids[i], self.prompts.sample[i]);
        let new = self.config.max_new_tokens;
        let row = Row {
            tokens: Vec::with_capacity(new),
            logprobs: Vec::with_capacity(new),
            entropy: Vec::with_capacity(new),
            ..Row::default()
        };
        Active { prompt: i, row, stream, feed: tokens[tokens.len() - 1], order: Vec::new() }
    }

    /// Why a response ends with its last token, if it does.
    fn stop(&self, tokens: &[TokenId]) -> Option<StopReason> {
        let last = tokens.last()?;
        if !self.config.ignore_eos && self.tokenizer.eos().contains(last) {
            Some(StopReason::Eos)
        } else if hits_stop_string(self.tokenizer, tokens, &self.config.stop) {
            Some(StopReason::StopString)
        } else if tokens.len() >= self.config.max_new_tokens {
            Some(StopReason::Length)
        } else {
            None
        }
    }
}

fn hits_stop_string(tokenizer: &Tokenizer, tokens: &[TokenId], stop: &[String]) -> bool {
    if stop.is_empty() {
        return false;
    }
    let text = tetherline_core::Decode::decode(tokenizer, tokens);
    stop.iter().any(|s| text.contains(s.as_str()))
}
