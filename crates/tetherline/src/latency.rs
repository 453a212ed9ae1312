//! How long single answers take: what `tether gate` measures where a gate asks for a latency.
//!
//! Candidate and baseline answer the same held-out prompts, one prompt at a time (a batch of 1) and in turn, so that whatever
//! else the machine does meets both; who goes first changes from prompt to prompt. Two answers of each go before, untimed.
//! The time of an answer is that of reading its prompt and sampling it, in ms of wall-clock; per token it is divided by the
//! tokens of the answer, its end included.
//!
//! | metric | what | unit |
//! | --- | --- | --- |
//! | `latency` | mean over the answers, with its standard error, and by prompt | ms per token |
//! | `latency_p50`, `latency_p95` | quantiles of the same | ms per token |
//! | `latency_answer_p50`, `latency_answer_p95` | quantiles over the answers | ms per answer |

use crate::codec::Codec;
use crate::pipeline::training_engine;
use crate::ppo::POLICY_HEADS;
use crate::recipe::Recipe;
use crate::rows::encode_prompts;
use crate::run_dir::RunDir;
use crate::{Error, sources};
use serde::Serialize;
use std::path::Path;
use tetherline_core::seeds::Purpose;
use tetherline_core::{PromptBatch, Silent, Stage};
use tetherline_eval::estimate::quantile;
use tetherline_eval::gate::{Mean, Metric, Metrics, PerPrompt};
use tetherline_models::{Model, ModelFiles};
use tetherline_rollout::{SamplingConfig, StreamName, generate};

/// How to measure.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Seconds since any fixed moment, never decreasing.
    pub clock: fn() -> f64,
    /// What the machine is called.
    pub machine: String,
    /// Worker threads; 0: every core.
    pub threads: usize,
    /// Answers of each policy.
    pub answers: usize,
}

/// What was measured, on what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// What the machine is called.
    pub machine: String,
    /// Worker threads.
    pub threads: usize,
    /// Where the models ran.
    pub device: String,
    /// Answers of each policy.
    pub answers: usize,
    /// The candidate's.
    pub candidate: Option<Quantiles>,
    /// The baseline's.
    pub baseline: Option<Quantiles>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// Mean per token.
    pub per_token_mean: f64,
    /// Median per token.
    pub per_token_p50: f64,
    /// 95th percentile per token.
    pub per_token_p95: f64,
    /// Median per answer.
    pub per_answer_p50: f64,
    /// 95th percentile per answer.
    pub per_answer_p95: f64,
}

/// Answers before the first that counts.
const WARM_UP: usize = 2;

/// The stream of these answers, beside those of evaluations.
const STREAM: u64 = 3;

/// A policy with its prompts encoded by its own tokenizer, and what its answers took: (ms, tokens) of each.
struct Side {
    model: Model,
    codec: Codec,
    prompts: PromptBatch,
    took: Vec<(f64, usize)>,
}

/// The policy that a run made.
pub(crate) fn made(run: &Path) -> Result<ModelFiles, Error> {
    sources::open_dir(RunDir::read(run)?.policy()).map_err(|e| Error::input(run.display().to_string(), e))
}

/// The policy that the run started from.
pub(crate) fn started(run: &Path) -> Result<ModelFiles, Error> {
    let recipe = RunDir::read(run)?.recipe()?;
    if recipe.runs_sft() {
        return sources::open_dir(run.join("sft")).map_err(|e| Error::input(run.display().to_string(), e));
    }
    sources::open_model(&recipe.model.policy)
}

/// Measures up to two policies in turn, on the prompts and with the sampling of `recipe`, and adds the metrics to each.
pub(crate) fn measure(
    recipe: &Recipe,
    timing: &Timing,
    (candidate, baseline): (Option<ModelFiles>, Option<ModelFiles>),
    (of_candidate, of_baseline): (&mut Metrics, &mut Metrics),
) -> Result<Latency, Error> {
    let engine = training_engine(recipe, timing.threads)?;
    let sampling = SamplingConfig { temperature: recipe.eval.temperature, ..recipe.sampling.clone() };
    let name = StreamName { seed: recipe.seed, purpose: Purpose::Eval, step: STREAM };
    let mut sides = Vec::new();
    for files in [&candidate, &baseline].into_iter().flatten() {
        sides.push(Side::open(recipe, files)?);
    }
    for i in 0..timing.answers + WARM_UP {
        let n = sides.len();
        for k in 0..n {
            let side = &mut sides[(k + i) % n];
            let mut one = PromptBatch::default();
            one.push(side.prompts.get(i % side.prompts.len()));
            let start = (timing.clock)();
            let answer = generate(&side.model, &side.codec.tokenizer, one, &sampling, name, &engine, 0)
                .map_err(Error::stage(Stage::Eval))?;
            let took = 1e3 * ((timing.clock)() - start);
            if i >= WARM_UP {
                side.took.push((took, answer.responses.total()));
            }
        }
    }
    let mut found = sides.iter();
    let mut add = |measured: bool, metrics: &mut Metrics| {
        let took = measured.then(|| found.next()).flatten()?;
        put(&took.took, metrics)
    };
    let candidate = add(candidate.is_some(), of_candidate);
    let baseline = add(baseline.is_some(), of_baseline);
    let device = recipe.device.to_string();
    let threads = engine.threads();
    let (machine, answers) = (timing.machine.clone(), timing.answers);
    Ok(Latency { machine, threads, device, answers, candidate, baseline })
}

impl Side {
    fn open(recipe: &Recipe, files: &ModelFiles) -> Result<Self, Error> {
        let fail = |e| Error::input(format!("the policy {}", files.root().display()), e);
        let model = Model::load(files, POLICY_HEADS, recipe.seed).map_err(fail)?;
        let model = model.with_context(recipe.model.max_context).map_err(fail)?;
        let codec = Codec::load(files, &model)?.with_variables(&recipe.data.chat.variables)?;
        let codec = if recipe.data.world.is_some() { codec.wrapping_plain_prompts() } else { codec };
        let none = || Error::input("the recipe", "it has no prompts to measure a latency on");
        let rows = sources::eval_prompts(recipe)?.ok_or_else(none)?.rows;
        let context = model.context();
        let prompts = encode_prompts(recipe, &codec, &rows, context, "data.eval_prompts", &mut Silent)?;
        if prompts.is_empty() {
            return Err(none());
        }
        Ok(Self { model, codec, prompts, took: Vec::new() })
    }
}

/// Adds what the answers took.
fn put(took: &[(f64, usize)], metrics: &mut Metrics) -> Option<Quantiles> {
    let per_answer: Vec<f64> = took.iter().map(|(ms, _)| *ms).collect();
    let per_token: Vec<f64> = took.iter().map(|(ms, tokens)| ms / (*tokens).max(1) as f64).collect();
    let n = per_token.len() as f64;
    let mean = per_token.iter().sum::<f64>() / n;
    let squares: f64 = per_token.iter().map(|x| (x - mean).powi(2)).sum();
    let found = Quantiles {
        per_token_mean: mean,
        per_token_p50: quantile(&per_token, 0.5)?,
        per_token_p95: quantile(&per_token, 0.95)?,
        per_answer_p50: quantile(&per_answer, 0.5)?,
        per_answer_p95: quantile(&per_answer, 0.95)?,
    };
    let se = (per_token.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
    let latency = Metric::Mean(Mean { value: mean, se, n: Some(per_token.len()) });
    metrics.by_name.insert("latency".into(), latency);
    let values = per_token.iter().enumerate().map(|(i, x)| (i as u64, *x)).collect();
    metrics.by_prompt.insert("latency".into(), PerPrompt { prompts: "timed in turn".into(), values });
    for (name, value) in [
        ("latency_p50", found.per_token_p50),
        ("latency_p95", found.per_token_p95),
        ("latency_answer_p50", found.per_answer_p50),
        ("latency_answer_p95", found.per_answer_p95),
    ] {
        metrics.by_name.insert(name.into(), Metric::Plain(value));
    }
    Some(found)
}

impl Latency {
    /// Two lines: on what, and what came of it.
    pub fn text(&self) -> String {
        let one = |name: &str, q: &Option<Quantiles>| {
            let q = q.as_ref()?;
            Some(format!(
                "{name} {:.2} ms per token (p50 {:.2}, p95 {:.2}), {:.0} ms per answer (p95 {:.0})",
                q.per_token_mean, q.per_token_p50, q.per_token_p95, q.per_answer_p50, q.per_answer_p95
            ))
        };
        let parts: Vec<String> = [one("candidate", &self.candidate), one("baseline", &self.baseline)]
            .into_iter()
            .flatten()
            .collect();
        format!(
            "latency of {} answers each, one at a time and in turn, on {} with {} threads ({}):\n  {}",
            self.answers,
            self.machine,
            self.threads,
            self.device,
            parts.join("\n  ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_metrics_per_token_and_per_answer() {
        let mut metrics = Metrics::default();
        // 10, 20, 30 and 40 ms for 10, 10, 10 and 20 tokens: 1, 2, 3 and 2 ms per token.
        let took = [(10.0, 10), (20.0, 10), (30.0, 10), (40.0, 20)];
        let found = put(&took, &mut metrics).unwrap();
        assert_eq!((found.per_token_mean, found.per_token_p50, found.per_answer_p50), (2.0, 2.0, 25.0));
        let Metric::Mean(mean) = metrics.by_name["latency"] else { panic!("a mean") };
        // Variance 2/3, over 4 answers.
        assert!((mean.se.unwrap() - (2.0f64 / 12.0).sqrt()).abs() < 1e-12 && mean.n == Some(4));
        assert_eq!(metrics.by_prompt["latency"].values[&2], 3.0);
        assert_eq!(metrics.by_name["latency_answer_p95"].value(), 38.5);
    }
}
