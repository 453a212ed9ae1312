//! A training step and sampling at any size of model and batch, and the memory bandwidth, for `docs/scaling.md`.
//!
//! Models are Llamas with random weights, 8 heads, ffn 8/3 of the dim (to the next 16) and tied embeddings.

use crate::models::{llama, matmul_params, tokenizer};
use crate::sampling::batch;
use crate::train_step::{ADAMW, examples, step};
use crate::{Numbers, PROMPT, seconds_of};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::hint::black_box;
use std::time::Instant;
use tetherline::train::Trainer;
use tetherline_core::seeds::Purpose;
use tetherline_models::Model;
use tetherline_rollout::{SamplingConfig, StreamName, generate};

/// A size of the work.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Width of the model.
    pub dim: usize,
    /// Its layers.
    pub layers: usize,
    /// Its vocabulary.
    pub vocab: usize,
    /// Rows.
    pub batch: usize,
    /// Tokens of a row; when sampling, the first [`PROMPT`] are the prompt.
    pub tokens: usize,
}

impl Shape {
    /// `dim=256,layers=6,vocab=4096,batch=32,tokens=72`, any of them.
    ///
    /// # Errors
    /// If a name or a number is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let mut shape = Self { dim: 256, layers: 6, vocab: 4096, batch: 32, tokens: 72 };
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (name, value) =
                part.split_once('=').with_context(|| format!("{part:?} is not NAME=NUMBER"))?;
            let value: usize = value.parse().with_context(|| format!("{part:?} is not NAME=NUMBER"))?;
            match name {
                "dim" => shape.dim = value,
                "layers" => shape.layers = value,
                "vocab" => shape.vocab = value,
                "batch" => shape.batch = value,
                "tokens" => shape.tokens = value,
                _ => bail!("there is no {name:?}; there are dim, layers, vocab, batch and tokens"),
            }
        }
        Ok(shape)
    }

    fn model(&self) -> Result<Model> {
        llama(self.dim, self.layers, 8, (self.dim * 8).div_ceil(3).next_multiple_of(16), self.vocab)
    }

    /// Ids that any vocabulary of ours has, without the special ones.
    fn rows(&self, tokens: usize) -> Vec<Vec<u32>> {
        let id = |row: usize, at: usize| (3 + (row * 7919 + at * 104_729) % 500) as u32;
        (0..self.batch).map(|row| (0..tokens).map(|at| id(row, at)).collect()).collect()
    }
}

fn about(model: &Model) -> Numbers {
    Numbers::from_iter([
        ("params".to_owned(), json!(model.n_params())),
        ("matmul_params".to_owned(), json!(matmul_params(model))),
    ])
}

/// Median seconds of a training step.
///
/// # Errors
/// If the shape makes no model.
pub fn train(shape: &Shape, threads: usize) -> Result<Numbers> {
    let model = shape.model()?;
    let mut out = about(&model);
    let engine = crate::engine(threads)?;
    let rows = examples(shape.rows(shape.tokens));
    let mut trainer = Trainer::new(model, ADAMW);
    let seconds = seconds_of(3, || step(&mut trainer, &engine, &rows))?;
    out.insert("step_s".to_owned(), json!(seconds));
    Ok(out)
}

/// New tokens per second.
///
/// # Errors
/// If the shape makes no model or leaves no token to sample.
pub fn sample(shape: &Shape, threads: usize) -> Result<Numbers> {
    let model = shape.model()?;
    let mut out = about(&model);
    let (engine, tokenizer) = (crate::engine(threads)?, tokenizer()?);
    let new = shape.tokens.checked_sub(PROMPT).filter(|n| *n > 0).context("tokens must be above 8")?;
    let config = SamplingConfig { max_new_tokens: new, ignore_eos: true, ..SamplingConfig::default() };
    let prompts = shape.rows(PROMPT);
    let mut draw = 0;
    let seconds = seconds_of(3, || {
        draw += 1;
        let name = StreamName { seed: 0, purpose: Purpose::Sampling, step: draw };
        generate(&model, &tokenizer, batch(&prompts), &config, name, &engine, 0)?;
        Ok(())
    })?;
    out.insert("tok_s".to_owned(), json!((shape.batch * new) as f64 / seconds));
    Ok(out)
}

/// Sizes of memory that are gone through again and again, KiB, all threads together.
pub const FOOTPRINTS_KIB: [usize; 8] = [512, 1024, 4096, 8192, 16384, 32768, 65536, 262_144];

/// Bytes per second that all threads together read (a sum) and move (a ← b + s·c; three streams) at each footprint.
pub fn bandwidth(threads: usize) -> Numbers {
    let mut out = Numbers::new();
    for kib in FOOTPRINTS_KIB {
        let numbers = kib * 256 / threads;
        let read = together(threads, || {
            let a = vec![1.0_f32; numbers];
            rate(4 * numbers, || {
                black_box(sum(&a));
            })
        });
        let third = numbers / 3;
        let triad = together(threads, || {
            let (mut a, b, c) = (vec![1.0_f32; third], vec![2.0_f32; third], vec![3.0_f32; third]);
            rate(12 * third, || {
                let s = black_box(0.5);
                for ((a, b), c) in a.iter_mut().zip(&b).zip(&c) {
                    *a = b + s * c;
                }
                black_box(&a);
            })
        });
        out.insert(format!("read_{kib}_gb_s"), json!(read * 1e-9));
        out.insert(format!("triad_{kib}_gb_s"), json!(triad * 1e-9));
    }
    out
}

/// The sum of what every thread measures for itself at the same time.
fn together(threads: usize, one: impl Fn() -> f64 + Sync) -> f64 {
    std::thread::scope(|s| {
        let workers: Vec<_> = (0..threads).map(|_| s.spawn(&one)).collect();
        workers.into_iter().filter_map(|w| w.join().ok()).sum()
    })
}

/// Bytes per second: the best of ten turns of at least 15 ms.
fn rate(bytes: usize, mut pass: impl FnMut()) -> f64 {
    pass();
    let turn = |_| {
        let (start, mut passes) = (Instant::now(), 0);
        while passes == 0 || start.elapsed().as_secs_f64() < 0.015 {
            pass();
            passes += 1;
        }
        (passes * bytes) as f64 / start.elapsed().as_secs_f64()
    };
    (0..10).map(turn).fold(0.0, f64::max)
}

/// In 32 independent sums, so that the loop waits for memory and not for an addition.
fn sum(a: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 32];
    for part in a.as_chunks::<32>().0 {
        for (sum, x) in sums.iter_mut().zip(part) {
            *sum += x;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read() {
        let shape = Shape::parse("dim=64,batch=2,tokens=16,layers=1,vocab=512").unwrap();
        assert_eq!((shape.dim, shape.layers, shape.vocab, shape.batch, shape.tokens), (64, 1, 512, 2, 16));
        assert!(Shape::parse("dim").is_err() && Shape::parse("depth=2").is_err());
        assert!(train(&shape, 1).unwrap()["step_s"].as_f64().unwrap() > 0.0);
        assert!(sample(&shape, 1).unwrap()["tok_s"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn a_sum_leaves_nothing_out() {
        assert_eq!(sum(&[1.0; 96]), 96.0);
    }
}
