//! Thousands of updates of a tiny policy, most of them broken on purpose, under a cap: does it hold?
//!
//! ```text
//! cargo run --release -p tetherline --example guard_long_run -- [STEPS] [DIR]
//! ```
//!
//! Prints, for a healthy run and for one with random faults (learning rates up to × 1000, hostile rewards, NaN gradients
//! and scores), how many updates stood, how many of them unscaled, how many were accepted above the cap on the shard that
//! the guard judged by, and how many lay above it on another shard that decided nothing.
#![expect(clippy::print_stdout, reason = "an example")]

use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use tetherline::recipe::{Fault, FaultKind};
use tetherline::{Error, Recipe, RunOptions, Stages, run};
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{BoxError, Silent};

const CAP: f64 = 0.5;

fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip(1);
    let steps: u64 = args.next().map_or(Ok(10_000), |n| n.parse())?;
    let held = tempfile::tempdir()?;
    let dir = args.next().map_or_else(|| held.path().to_owned(), Into::into);
    std::fs::create_dir_all(&dir)?;
    println!("| run | steps | stood | unscaled | halts | above the cap, judged | above the cap, fresh |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (name, steps, faults) in [("healthy", steps / 10, Vec::new()), ("faulty", steps, faults(steps))] {
        let recipe = recipe(&dir, steps, faults)?;
        let out = dir.join(name);
        let mut halts = 0;
        let mut options = options(&out);
        while let Err(e) = run(&recipe, &options, &mut Silent) {
            let Error::Halted { reason, .. } = &e else { return Err(e.into()) };
            halts += 1;
            println!("halted: {reason}");
            options = RunOptions { resume: true, after_halt: true, ..options };
        }
        println!("{}", row(name, &out, halts)?);
    }
    Ok(())
}

fn options(out: &Path) -> RunOptions {
    let out = out.to_owned();
    RunOptions { out, resume: false, after_halt: false, stages: Stages::All, threads: 1, clock: || 0.0 }
}

/// Three steps of four go wrong in some way.
fn faults(steps: u64) -> Vec<Fault> {
    let mut faults = Vec::new();
    for at in 1..=steps {
        let mut draw = stream(1, Purpose::World, at, 0, 0);
        let (kind, size) = (draw.uniform(), draw.uniform());
        let what = match kind {
            k if k < 0.5 => FaultKind::Lr(1000f64.powf(size)),
            k if k < 0.65 => FaultKind::HostileReward(20.0 * size),
            k if k < 0.70 => FaultKind::NanGradient,
            k if k < 0.75 => FaultKind::NanScore,
            _ => continue,
        };
        faults.push(Fault { at, steps: 1, what });
    }
    faults
}

fn recipe(dir: &Path, steps: u64, fault: Vec<Fault>) -> Result<Recipe, BoxError> {
    let words = ["boat", "rope", "tide", "lamp", "order", "bread", "shore", "clerk"];
    let mut prompts = [String::new(), String::new()];
    for i in 0..512 {
        let (a, b, c) = (words[i % 8], words[i / 8 % 8], words[i / 64]);
        writeln!(prompts[i % 2], r#"{{"prompt": "the {a} and the {b} {c}"}}"#)?;
    }
    std::fs::write(dir.join("prompts.jsonl"), &prompts[0])?;
    std::fs::write(dir.join("held-out.jsonl"), &prompts[1])?;
    let text = format!(
        r#"
allow_faults = true
seed = 5
[model]
policy = '{model}'
[data]
prompts = "prompts.jsonl"
eval_prompts = "held-out.jsonl"
[reward]
model_weight = 0.0
[[reward.rule]]
keyword = {{ words = ["e", "o"], cap = 5 }}
[sampling]
max_new_tokens = 6
[ppo]
steps = {steps}
batch_size = 8
epochs = 1
lr = 1e-4
lr_schedule = "constant"
[kl.adaptive]
init = 0.1
target = 0.3
horizon = 200
[kl.guard]
max_rollbacks = 1000
[kl.trust_region]
cap = {CAP}
[trial]
prompts = 16
batch = false
audit_every = 1
[eval]
prompts = 0
[checkpoint]
every = 200
"#,
        model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama"),
    );
    let path = dir.join("recipe.toml");
    std::fs::write(&path, text)?;
    let recipe = Recipe::load(path.to_str().ok_or("the directory's name is no UTF-8")?, &[])?;
    Ok(Recipe { fault, ..recipe })
}

/// The figures of a run, as a row of the table.
fn row(name: &str, out: &Path, halts: u32) -> Result<String, BoxError> {
    let lines = |log: &str| -> Result<Vec<Value>, BoxError> {
        let text = std::fs::read_to_string(out.join(log))?;
        Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    };
    let metrics = lines("metrics.jsonl")?;
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap_or(f64::NAN);
    let stood: Vec<&Value> = metrics.iter().filter(|l| number(l, "trial/kept") > 0.0).collect();
    let count = |of: &dyn Fn(&Value) -> bool| stood.iter().filter(|l| of(l)).count();
    let whole = count(&|l| number(l, "trial/kept") == 1.0);
    let fresh = count(&|l| number(l, "trial/fresh_kl") > CAP);
    // What the guard itself compared: the mean with its upper bound of 1.645 standard errors.
    let judged = count(&|l| number(l, "trial/kl") + 1.645 * number(l, "trial/kl_stderr") > CAP);
    let share = |n: usize, of: usize| format!("{n} ({:.1} %)", 100.0 * n as f64 / of.max(1) as f64);
    Ok(format!(
        "| {name} | {} | {} | {} | {halts} | {judged} | {} |",
        metrics.len(),
        share(stood.len(), metrics.len()),
        share(whole, metrics.len()),
        share(fresh, stood.len())
    ))
}
