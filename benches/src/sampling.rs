//! Sampling alone: what the loop calls for a rollout, at several batch sizes, to 64 new tokens.

use crate::{NEW, Numbers, PROMPT, policy_dir, prepare, seconds_of};
use anyhow::{Result, ensure};
use serde_json::json;
use std::path::Path;
use tetherline::codec::Codec;
use tetherline::ppo::POLICY_HEADS;
use tetherline_core::seeds::Purpose;
use tetherline_core::{PromptBatch, PromptRef, Rollout};
use tetherline_models::{Engine, Model, ModelFiles, Tokenizer};
use tetherline_rollout::{SamplingConfig, StreamName, generate};

/// Batch sizes.
pub const BATCHES: [usize; 3] = [1, 8, 32];

/// Prompts as a batch; `texts` stay empty.
pub fn batch(prompts: &[Vec<u32>]) -> PromptBatch {
    let mut out = PromptBatch::default();
    for (id, tokens) in prompts.iter().enumerate() {
        let id = id as u64;
        out.push(PromptRef {
            tokens,
            id,
            sample: 0,
            domain: "all",
            user: "",
            text: "",
            messages: &[],
            answer: "",
        });
    }
    out
}

/// A rollout: temperature 1 over the whole vocabulary, exactly [`NEW`] tokens per row.
///
/// # Errors
/// If the model cannot sample.
pub fn rollout(
    model: &Model,
    tokenizer: &Tokenizer,
    engine: &Engine,
    prompts: PromptBatch,
    step: u64,
) -> Result<Rollout> {
    let config = SamplingConfig { max_new_tokens: NEW, ignore_eos: true, ..SamplingConfig::default() };
    let name = StreamName { seed: 0, purpose: Purpose::Sampling, step };
    Ok(generate(model, tokenizer, prompts, &config, name, engine, 0)?)
}

/// Tokens per second at each batch size.
///
/// # Errors
/// If the model directory is not one of [`crate::prepare`].
pub fn sampling(dir: &Path, threads: usize) -> Result<Numbers> {
    let files = ModelFiles::dir(policy_dir(dir))?;
    let model = Model::load(&files, POLICY_HEADS, 0)?;
    let codec = Codec::load(&files, &model)?;
    let prompts = prepare::read_ids(dir, "prompts.ids.jsonl")?;
    ensure!(prompts.iter().all(|p| p.len() == PROMPT), "a prompt has not {PROMPT} tokens");
    let engine = crate::engine(threads)?;
    let mut out = Numbers::new();
    for n in BATCHES {
        let mut step = 0;
        let seconds = seconds_of(5, || {
            step += 1;
            let r = rollout(&model, &codec.tokenizer, &engine, batch(&prompts[..n]), step)?;
            ensure!(r.responses.total() == n * NEW, "{} tokens", r.responses.total());
            Ok(())
        })?;
        out.insert(format!("b{n}_tok_s"), json!((n * NEW) as f64 / seconds));
    }
    Ok(out)
}
