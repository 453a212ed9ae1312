//! One training step of a language model: forward, backward, AdamW, on 32 rows of 72 tokens.

use crate::{Numbers, policy_dir, prepare, seconds_of};
use anyhow::{Result, anyhow};
use serde_json::json;
use std::path::Path;
use tetherline::ppo::POLICY_HEADS;
use tetherline::train::{Example, Trainer, nll};
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Engine, Model, ModelFiles};

/// AdamW with the defaults of PyTorch.
pub const ADAMW: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };

/// Rows of token ids as training examples without a prompt.
pub fn examples(rows: Vec<Vec<u32>>) -> Vec<Example> {
    rows.into_iter().map(|tokens| Example { tokens, prompt_len: 0 }).collect()
}

/// Loss, gradient and optimizer step over all `examples`.
///
/// # Errors
/// If a number is not finite.
pub fn step(trainer: &mut Trainer, engine: &Engine, examples: &[Example]) -> Result<()> {
    let batch: Vec<&Example> = examples.iter().collect();
    nll(trainer, engine, &batch).map_err(|e| anyhow!(e))?;
    trainer.step(engine, 1e-5, None)?;
    Ok(())
}

/// Median seconds of a step.
///
/// # Errors
/// If the model directory is not one of [`crate::prepare`].
pub fn train_step(dir: &Path, threads: usize) -> Result<Numbers> {
    let model = Model::load(&ModelFiles::dir(policy_dir(dir))?, POLICY_HEADS, 0)?;
    let engine = crate::engine(threads)?;
    let examples = examples(prepare::read_ids(dir, "rows.ids.jsonl")?);
    let mut trainer = Trainer::new(model, ADAMW);
    let seconds = seconds_of(8, || step(&mut trainer, &engine, &examples))?;
    Ok(Numbers::from_iter([("step_s".to_owned(), json!(seconds))]))
}
