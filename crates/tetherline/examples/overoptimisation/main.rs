//! Over-optimisation, as Gao, Schulman & Hilton 2023 (arXiv:2210.10760) measured it, on the embedded world: gold and proxy
//! over √KL for reward models of several data sizes and label noise, by best-of-n and by PPO, with ensembles and with a
//! penalty. `docs/experiments/overoptimisation.md` says what came out.
//!
//! ```text
//! cargo run --release -p tetherline --example overoptimisation -- [--seeds N] [--out DIR] [--quick] [--docs]
//! ```
//!
//! One fine-tuned policy is the reference of everything; a seed is other preference pairs, other reward models and other
//! rollouts. Gold is the embedded rubric, which nothing is trained on.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example that prints tables and how far it is"
)]

mod bon;
mod fits;
mod pool;
mod ppo;
mod proxies;
mod report;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "experiments share more than each of them uses")]
mod support;

use pool::Answers;
use ppo::{ARMS, Arm, BATCH, FIRST};
use proxies::Cell;
use report::{Measured, Run, Shown};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::Args;
use support::runs::{Job, run_all, stage};
use tetherline::Recipe;
use tetherline_core::{BoxError, Stage};
use tetherline_frontdesk::World;
use tetherline_models::Engine;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Held-out prompts of best-of-n.
    prompts: usize,
    /// Answers to each of them.
    answers: usize,
    /// Train prompts for the reference's gold, which PPO's is measured against; eight answers to each.
    train_prompts: usize,
    /// Pairs that a proxy is shown, repetitions included.
    pub(crate) shown: usize,
    /// Steps of PPO.
    pub(crate) steps: u64,
    /// Longest answer, tokens: room for the spam that an unpenalised policy may end in, at less time than the recipe's 96.
    pub(crate) tokens: usize,
    /// Steps of a block.
    block: usize,
}

const FULL: Size =
    Size { prompts: 48, answers: 256, train_prompts: 256, shown: 2000, steps: 50, tokens: 64, block: 5 };
const QUICK: Size =
    Size { prompts: 3, answers: 16, train_prompts: 4, shown: 64, steps: 4, tokens: 24, block: 1 };

fn main() -> Result<(), BoxError> {
    let args = Args::parse("overoptimisation", 5)?;
    let (size, seeds) = if args.quick { (QUICK, 1) } else { (FULL, args.seeds) };
    let size = Size { steps: args.steps.unwrap_or(size.steps), ..size };
    let out = std::path::absolute(&args.out)?;
    let sft = if args.quick { "4" } else { "250" };
    let start = Job::new(String::new(), "quickstart", &[("eval.prompts", "0"), ("sft.steps", sft)])
        .set("sampling.max_new_tokens", size.tokens);
    stage(&start, &out.join("start"), Stage::Sft)?;
    let model = out.join("start/sft");
    let recipe = Recipe::load(&start.recipe, &start.sets)?;
    let (world, engine) = (World::embedded()?, Engine::new(1));
    let answers = |name: &str, prompts, n| pool::pool(&out.join(name), &model, &recipe, prompts, n, &engine);
    let pool = answers("pool.json", &world.heldout[..size.prompts], size.answers)?;
    let train = answers("train.json", &world.train[..size.train_prompts], 8)?;
    let gold: Vec<f64> = train.iter().flat_map(|a| a.gold.iter().copied()).collect();
    let mut measured = Measured {
        reference: gold.iter().sum::<f64>() / gold.len() as f64,
        curves: vec![bon::control(&pool)],
        runs: Vec::new(),
        accuracy: Vec::new(),
        samples: String::new(),
        how: how(size, &pool),
    };
    let mut models = Models::new();
    let ppo = |measured: &mut Measured, seed: u64, arms: &[Arm], models: &Models| -> Result<(), BoxError> {
        let trained = |arm: &Arm| &models[&(arm.cell.directory(), seed)];
        let jobs: Vec<Job> = arms.iter().map(|arm| arm.job(&model, trained(arm), seed, size)).collect();
        run_all(&jobs, &out, args.jobs)?;
        for (arm, job) in arms.iter().zip(&jobs) {
            let Some(steps) = ppo::steps(&job.dir(&out))? else { continue };
            let blocks = ppo::blocks(&steps, size.block);
            measured.runs.push(Run { arm: *arm, seed, steps, blocks });
        }
        write(&args, measured, &out, &pool, &world)
    };
    for seed in 0..seeds {
        for cell in Cell::ALL {
            let trained = proxies::train(&out, &model, cell, seed, size)?;
            let file = out.join("scores").join(cell.directory()).join(format!("seed-{seed}.json"));
            let scores = pool::scores(&file, &pool, &trained, &engine)?;
            eprintln!("best-of-n, seed {seed}: {cell}");
            measured.curves.extend(bon::curves(cell, seed, &pool, &scores));
            measured.accuracy.push((cell, seed, accuracy(&proxies::directory(&out, cell, seed))?));
            models.insert((cell.directory(), seed), trained);
        }
        ppo(&mut measured, seed, &ARMS[..FIRST], &models)?;
    }
    for seed in 0..seeds {
        ppo(&mut measured, seed, &ARMS[FIRST..], &models)?;
    }
    write(&args, &mut measured, &out, &pool, &world)
}

/// The reward models of a cell's directory and a seed.
type Models = BTreeMap<(String, u64), Vec<PathBuf>>;

/// What is there so far.
fn write(
    args: &Args,
    measured: &mut Measured,
    out: &Path,
    pool: &[Answers],
    world: &World,
) -> Result<(), BoxError> {
    measured.samples = samples(out, pool, world)?;
    support::page::write(
        args,
        "overoptimisation",
        &measured.markdown(),
        &measured.json(),
        &measured.figures(),
    )
}

fn how(size: Size, pool: &[Answers]) -> String {
    format!(
        "Best-of-n from {} answers to each of {} held-out prompts, {:.0} % of them different for their prompt. PPO for {} steps \
         of {BATCH} answers; a point is the mean of {} steps. Intervals are 95 %, Student's t over seeds; *gain* is gold above that \
         of the reference; α and β of a form are fitted per seed, R² is the range over seeds.",
        size.answers,
        size.prompts,
        100.0 * pool::distinct_share(pool),
        size.steps,
        size.block
    )
}

fn accuracy(dir: &Path) -> Result<f64, BoxError> {
    let report: Value = serde_json::from_slice(&std::fs::read(dir.join("reward_held_out.json"))?)?;
    report["accuracy"].as_f64().ok_or_else(|| format!("{}: no accuracy", dir.display()).into())
}

/// The first prompts: what the reference says, what the key cell's first proxy picks of all answers, and what PPO against it
/// ends with (to other prompts, those of its last steps).
fn samples(out: &Path, pool: &[Answers], world: &World) -> Result<String, BoxError> {
    let mut rows = BTreeMap::new();
    let file = out.join("scores").join(Cell::KEY.directory()).join("seed-0.json");
    if !file.is_file() {
        return Ok(String::new());
    }
    let scores: Vec<Vec<Vec<f32>>> = serde_json::from_slice(&std::fs::read(file)?)?;
    for (i, answers) in pool.iter().take(2).enumerate() {
        let proxy = &scores[0][i];
        let best = (0..proxy.len()).max_by(|&a, &b| proxy[a].total_cmp(&proxy[b])).unwrap_or(0);
        let by = |who: &str, at: usize| Shown {
            by: who.to_owned(),
            scores: format!("{:.1}, {:.1}", proxy[at], answers.gold[at]),
            text: answers.texts[at].clone(),
        };
        let picked = by(&format!("best of {}", proxy.len()), best);
        rows.insert(world.heldout[i].text.clone(), vec![by("the reference", 0), picked]);
    }
    for arm in [&ARMS[0], &ARMS[1]] {
        for (prompt, shown) in last_samples(&arm.run_dir(out, 0), arm.name)? {
            rows.entry(prompt).or_insert_with(Vec::new).push(shown);
        }
    }
    Ok(report::samples(&rows))
}

/// Prompt and answer of the last two lines of a run's samples.
fn last_samples(run: &Path, name: &str) -> Result<Vec<(String, Shown)>, BoxError> {
    let path = run.join("samples.jsonl");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path)?;
    let lines: Vec<&str> = text.lines().collect();
    let read = |line: &&str| -> Result<_, BoxError> {
        let line: Value = serde_json::from_str(line)?;
        let number = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
        let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let scores = format!("{:.1}, {:.1}", number("score"), number("gold"));
        Ok((word("prompt"), Shown { by: format!("PPO, {name}"), scores, text: word("response") }))
    };
    lines[lines.len().saturating_sub(2)..].iter().map(read).collect()
}
