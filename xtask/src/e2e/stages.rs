//! Every stage, one command at a time and then all in one, and what a finished run must have left.

use super::Model;
use super::checks::Checks;
use super::compare::{expect_same_dirs, expect_same_rows, numbers, read_rows, write_rows};
use super::tether::{Tether, args};
use super::world::World;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;

/// PPO steps of the short run.
const STEPS: usize = 3;

/// Keys that every PPO line of `metrics.jsonl` has, each a number.
const METRICS: &[&str] = &[
    "step",
    "episode",
    "objective/kl",
    "objective/kl_exact",
    "objective/kl_stderr",
    "objective/kl_coef",
    "objective/scores",
    "objective/rlhf_reward",
    "objective/entropy",
    "policy/entropy_avg",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/ratio",
    "val/ratio_max",
    "grad_norm",
    "lr",
    "time/rollout_s",
    "time/score_s",
    "time/update_s",
    "tokens/generated",
];

/// Checks the stages on one model.
pub(super) fn check(checks: &mut Checks, tether: &Tether, model: &Model) {
    let name = &model.name;
    let (staged, whole) = (tether.path("staged"), tether.path("whole"));
    let stages_ran = checks.check(&format!("{name}: sft, reward, ppo and eval, one at a time"), || {
        let recipe = recipe(tether, model)?;
        // As the help of each says: a stage goes on from what the earlier ones left in the directory.
        for stage in ["sft", "reward", "ppo", "eval"] {
            tether.ok(&args![stage, recipe, "--out", staged]).with_context(|| format!("stage {stage}"))?;
        }
        expect_metrics(&staged)?;
        expect_model_dir(&staged.join("policy"))?;
        expect_model_dir(&staged.join("reward"))
    });
    let whole_ran = checks.check(&format!("{name}: a whole run leaves everything behind"), || {
        let recipe = recipe(tether, model)?;
        tether.ok(&args!["run", recipe, "--out", whole, "--dry-run"])?;
        if whole.join("metrics.jsonl").exists() {
            bail!("--dry-run ran");
        }
        // A registry that cannot be opened stops a run before it begins.
        let (as_ann, registry) = (tether.with_env(&[("USER", "ann".into())]), tether.path("runs.db"));
        as_ann
            .run(&args!["run", recipe, "--out", whole, "--registry", recipe])?
            .expect_error(&["short.toml"])?;
        as_ann.ok(&args!["run", recipe, "--out", whole, "--registry", registry])?;
        let listed = as_ann.ok(&args!["policy", "list", "--registry", registry, "--json"])?;
        if listed.matches("\"candidate\"").count() != 1 {
            bail!("the run did not register itself: {listed}");
        }
        expect_metrics(&whole)?;
        for file in ["config.toml", "control.jsonl", "samples.jsonl", "report.html"] {
            expect_content(&whole.join(file))?;
        }
        expect_card(&whole)?;
        tether.ok(&args!["report", whole])?;
        expect_content(&whole.join("report.html"))
    });
    if stages_ran && whole_ran {
        checks.check(&format!("{name}: the stages one at a time give what the whole run gave"), || {
            expect_same_rows(&staged.join("metrics.jsonl"), &whole.join("metrics.jsonl"))?;
            expect_same_dirs(&staged.join("policy"), &whole.join("policy"))
        });
    }
    if whole_ran {
        checks.check(&format!("{name}: the trained policy loads, generates and has moved"), || {
            use_policy(tether, model, &whole)
        });
    }
}

fn recipe(tether: &Tether, model: &Model) -> Result<std::path::PathBuf> {
    World::write(&tether.path("world"))?.recipe("short", model, STEPS)
}

/// The lines of `metrics.jsonl` that PPO wrote.
pub(super) fn ppo_rows(run: &Path) -> Result<Vec<Value>> {
    let rows = read_rows(&run.join("metrics.jsonl"))?;
    Ok(rows.into_iter().filter(|row| row.get("objective/kl").is_some()).collect())
}

fn expect_metrics(run: &Path) -> Result<()> {
    let rows = ppo_rows(run)?;
    if rows.len() != STEPS {
        bail!("{} PPO lines in metrics.jsonl, expected {STEPS}", rows.len());
    }
    for row in &rows {
        for key in METRICS {
            // A number that is not finite would be null.
            if row[*key].as_f64().is_none() {
                bail!("metrics.jsonl: {key} is {} in step {}", row[*key], row["step"]);
            }
        }
    }
    Ok(())
}

/// The model card says what the run read, by the hashes of its `inputs.txt`, and has the table of the evaluation.
fn expect_card(run: &Path) -> Result<()> {
    let read = |name: &str| {
        let path = run.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let (card, inputs) = (read("policy/README.md")?, read("inputs.txt")?);
    let hashes = inputs.lines().filter_map(|l| l.split_once(' ')).map(|(_, hash)| hash.to_owned());
    let words = ["[kl.adaptive]", "of a target of 2.000", "proxy score", "KL to ref"].map(str::to_owned);
    match words.into_iter().chain(hashes).find(|word| !card.contains(word)) {
        Some(word) => bail!("policy/README.md does not have {word:?}:\n{card}"),
        None => Ok(()),
    }
}

fn expect_content(path: &Path) -> Result<()> {
    let length = std::fs::metadata(path).with_context(|| format!("no {}", path.display()))?.len();
    if length == 0 {
        bail!("{} is empty", path.display());
    }
    Ok(())
}

fn expect_model_dir(dir: &Path) -> Result<()> {
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        expect_content(&dir.join(file))?;
    }
    Ok(())
}

/// The final policy is a model directory like any other, and no longer the one it started from.
fn use_policy(tether: &Tether, model: &Model, run: &Path) -> Result<()> {
    let policy = run.join("policy");
    let (prompts, samples) = (tether.path("world").join("prompts.jsonl"), tether.path("aligned.jsonl"));
    tether.ok(&args![
        "generate",
        "--model",
        policy,
        "--prompts",
        prompts,
        "--out",
        samples,
        "--max-new-tokens",
        "8"
    ])?;
    let samples = read_rows(&samples)?;
    let rows: Vec<_> =
        samples.iter().map(|s| json!({ "prompt": s["prompt"], "response": " at the pier" })).collect();
    let (data, out) = (tether.path("aligned-rows.jsonl"), tether.path("aligned-scores.jsonl"));
    write_rows(&data, &rows)?;
    tether.ok(&args!["score", "--model", policy, "--reference", model.dir, "--data", data, "--out", out])?;
    let mut kl = 0.0;
    for row in read_rows(&out)? {
        let exact = numbers(&row, "kl_exact")?;
        if let Some(bad) = exact.iter().find(|k| k.is_nan() || **k < -1e-5) {
            bail!("kl_exact is {bad}: a KL divergence is never negative");
        }
        kl += exact.iter().sum::<f64>();
    }
    if kl <= 1e-3 {
        bail!("after training the KL to the starting point is {kl} nats: nothing was learned");
    }
    let reward = run.join("reward");
    let scores = tether.path("reward-scores.jsonl");
    tether.ok(&args!["score", "--model", reward, "--data", data, "--out", scores])?;
    match read_rows(&scores)?.iter().find(|row| row["score"].as_f64().is_none()) {
        Some(row) => bail!("the reward model gave no score: {row}"),
        None => Ok(()),
    }
}
