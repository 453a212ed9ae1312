//! Direct preference optimisation: the policy learns from preference pairs, without a reward model or sampling. In a recipe
//! with `[dpo]` it stands where PPO does, on the same start and the same reference.

use crate::codec::Codec;
use crate::fit::Fit;
use crate::recipe::Recipe;
use crate::reward::data::hold_out;
use crate::run_dir::RunDir;
use crate::sft::note_skipped;
use crate::supervised::Supervised;
use crate::train::{Example, Trainer};
use crate::{Error, sources};
use serde_json::Value;
use tetherline_core::{BoxError, Event, Metrics, Observer, Schedule, Stage};
use tetherline_data::ComparisonRow;
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Engine, Model, Row, RowGrad, RowOutput, UnitLoss};
use tetherline_ppo::{AnswerRatio, DpoConfig, dpo_pair};

/// A tokenised pair, the chosen answer first.
struct Pair([Example; 2]);

impl Pair {
    fn rows(&self) -> Vec<Row<'_>> {
        self.0.iter().map(Example::row).collect()
    }
}

/// Mean over a batch of the loss of its pairs.
struct PairLoss<'a> {
    /// ln π_ref of the tokens of both answers.
    reference: &'a [[Vec<f32>; 2]],
    config: &'a DpoConfig,
}

/// What a pair adds to the means of its batch.
#[derive(Clone, Copy, Default)]
struct OfPair {
    loss: f64,
    /// 1 where the chosen answer has the higher implicit reward.
    right: f64,
    /// Implicit rewards β·Σ (ln π − ln π_ref).
    rewards: [f64; 2],
}

impl UnitLoss for PairLoss<'_> {
    type Stats = OfPair;

    fn unit(&self, u: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> OfPair {
        let w = 1.0 / self.reference.len() as f64;
        let ratios = [0, 1].map(|i| AnswerRatio::of(rows[i].logprobs, &self.reference[u][i]));
        let term = dpo_pair(ratios[0], ratios[1], self.config);
        grads[0].logprobs.fill((w * term.d_chosen) as f32);
        grads[1].logprobs.fill((w * term.d_rejected) as f32);
        of_pair(ratios, term.loss, self.config, w)
    }
}

fn of_pair(ratios: [AnswerRatio; 2], loss: f64, config: &DpoConfig, w: f64) -> OfPair {
    let rewards = ratios.map(|r| config.beta * r.sum);
    let right =
        if rewards[0] > rewards[1] { 1.0 } else { 0.5 * f64::from(u8::from(rewards[0] == rewards[1])) };
    OfPair { loss: w * loss, right: w * right, rewards: rewards.map(|r| w * r) }
}

fn metrics(pairs: &[OfPair]) -> Metrics {
    let sum = |f: &dyn Fn(&OfPair) -> f64| pairs.iter().map(f).sum::<f64>();
    let (chosen, rejected) = (sum(&|p| p.rewards[0]), sum(&|p| p.rewards[1]));
    Metrics::from(
        [
            ("loss", sum(&|p| p.loss)),
            ("accuracy", sum(&|p| p.right)),
            ("margin", chosen - rejected),
            ("reward_chosen", chosen),
            ("reward_rejected", rejected),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    )
}

/// The pairs that fit: of a ranking every two answers of which one is better. A tie teaches nothing here.
fn encode(codec: &Codec, rows: &[ComparisonRow], fit: &mut Fit) -> Result<Vec<Pair>, Error> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let answers = row.answers.iter().map(|a| codec.example(&row.prompt, a.last_text(), true));
        let answers: Vec<Example> = answers.collect::<Result<_, _>>()?;
        if !fit.keeps(row.line, answers.iter().map(|a| a.tokens.len()).max().unwrap_or(0))? {
            continue;
        }
        // A label below ½ says that the other answer of a pair is more often preferred.
        let label = row.label.unwrap_or(1.0);
        for (i, better) in answers.iter().enumerate() {
            for (j, worse) in answers.iter().enumerate() {
                let first = row.ranks[i] < row.ranks[j];
                if label != 0.5 && row.ranks[i] != row.ranks[j] && first == (label > 0.5) {
                    out.push(Pair([better.clone(), worse.clone()]));
                }
            }
        }
    }
    Ok(out)
}

/// ln π_ref of the answers of `pairs`.
fn of_reference(reference: &Model, engine: &Engine, pairs: &[&Pair]) -> Result<Vec<[Vec<f32>; 2]>, BoxError> {
    let rows: Vec<Row<'_>> = pairs.iter().flat_map(|p| p.rows()).collect();
    let mut out = reference.forward(engine, &rows, 1.0)?.into_iter().map(|r| r.logprobs);
    Ok(pairs.iter().map(|_| [(); 2].map(|()| out.next().unwrap_or_default())).collect())
}

/// What training left behind.
#[derive(Debug)]
pub struct Trained {
    /// The policy.
    pub model: Model,
    /// One log row per step.
    pub log: Vec<Value>,
    /// Loss, accuracy, margin and implicit rewards on held-out pairs; none where there are no such pairs.
    pub held_out: Option<Metrics>,
}

/// Trains `policy` on the recipe's pairs.
///
/// # Errors
/// If the data cannot be used, a loss is not finite, or the observer asked to stop.
pub fn dpo(
    recipe: &Recipe,
    policy: Model,
    reference: &Model,
    codec: &Codec,
    engine: &Engine,
    run: &RunDir,
    observer: &mut dyn Observer,
) -> Result<Trained, Error> {
    let config = recipe.dpo.clone().unwrap_or_default();
    let context = policy.context();
    let loaded = sources::pairs(recipe)?.ok_or_else(|| Error::input("data.pairs", "missing"))?;
    note_skipped(observer, "data.pairs", loaded.skipped.len());
    let mut rows = loaded.rows;
    let (held_out, key) = match sources::pairs_eval(recipe)? {
        Some(given) => (given.rows, "data.pairs_eval"),
        None => (hold_out(&mut rows, recipe.seed), "data.pairs"),
    };
    crate::typed::warn(observer, "data.pairs", codec, rows.iter().map(|r| (r.line, &r.prompt)));
    let mut encoded = |rows: &[ComparisonRow], key: &str| {
        let (file, skip) = (sources::file_of(recipe, key), recipe.data.skip_bad_lines);
        let mut fit = Fit::new(file, context, format!("context {context}"), skip);
        let pairs = encode(codec, rows, &mut fit);
        fit.report(observer);
        pairs
    };
    let (pairs, held_out) = (encoded(&rows, "data.pairs")?, encoded(&held_out, key)?);
    if pairs.is_empty() {
        return Err(Error::input("data.pairs", "no pair fits the model's context"));
    }
    let per_epoch = pairs.len().div_ceil(config.batch_size) as u64;
    let schedule = Schedule {
        peak: config.lr,
        warmup: config.warmup_steps,
        total: config.steps.unwrap_or(u64::MAX).min(per_epoch * config.epochs as u64),
        decay: config.lr_schedule,
    };
    let adam = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: config.weight_decay };
    let training = Supervised {
        stage: Stage::Dpo,
        member: 0,
        seed: recipe.seed,
        items: pairs.len(),
        batch_size: config.batch_size,
        schedule,
        max_grad_norm: config.max_grad_norm,
        engine,
        run,
        checkpoint: &recipe.checkpoint,
    };
    let (model, log) = training.train(Trainer::new(policy, adam), observer, |trainer, batch| {
        let batch: Vec<&Pair> = batch.iter().map(|&i| &pairs[i]).collect();
        let reference = of_reference(reference, engine, &batch)?;
        let units: Vec<Vec<Row<'_>>> = batch.iter().map(|p| p.rows()).collect();
        let loss = PairLoss { reference: &reference, config: &config };
        Ok(metrics(&trainer.accumulate(engine, &units, 1.0, &loss)?))
    })?;
    let held_out =
        measure(&model, reference, engine, &held_out, &config).map_err(Error::stage(Stage::Dpo))?;
    if let Some(m) = &held_out {
        observer.on_event(&Event::Note(&format!(
            "DPO on held-out pairs: accuracy {:.3}, margin {:.3}, loss {:.3}",
            m["accuracy"], m["margin"], m["loss"]
        )));
    }
    Ok(Trained { model, log, held_out })
}

/// The means over pairs that were not trained on.
fn measure(
    model: &Model,
    reference: &Model,
    engine: &Engine,
    pairs: &[Pair],
    config: &DpoConfig,
) -> Result<Option<Metrics>, BoxError> {
    let mut out = Vec::with_capacity(pairs.len());
    let all: Vec<&Pair> = pairs.iter().collect();
    for batch in all.chunks(config.batch_size) {
        let (policy, reference) =
            (of_reference(model, engine, batch)?, of_reference(reference, engine, batch)?);
        for (p, r) in policy.iter().zip(&reference) {
            let ratios = [0, 1].map(|i| AnswerRatio::of(&p[i], &r[i]));
            let loss = dpo_pair(ratios[0], ratios[1], config).loss;
            out.push(of_pair(ratios, loss, config, 1.0 / pairs.len() as f64));
        }
    }
    Ok((!out.is_empty()).then(|| metrics(&out)))
}
