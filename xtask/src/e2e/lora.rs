//! A run that trains an adapter: killed and resumed bit for bit, merged, and gone on from, over a base that never
//! changes.

use super::Model;
use super::checks::Checks;
use super::compare::{
    contents, expect_close, expect_same_dirs, expect_same_rows, numbers, read_rows, write_rows,
};
use super::stages::ppo_rows;
use super::tether::{Tether, args};
use super::world::World;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::ffi::OsString;
use std::path::Path;

const STEPS: usize = 8;

const ADAPTER: &str = "\n[model.adapter]\nrank = 4\nalpha = 8\n";

/// Checks an adapter on one model.
pub(super) fn check(checks: &mut Checks, tether: &Tether, model: &Model) {
    let name = format!("lora, {}", model.name);
    let (straight, killed) = (tether.path("lora-straight"), tether.path("lora-killed"));
    let Ok(base) = contents(&model.dir) else { return };
    let ran = checks.check(&format!("{name}: a run that trains an adapter"), || {
        tether.ok(&run_args(tether, model, &straight, 1)?)?;
        for dir in ["sft", "reward", "policy"] {
            expect_adapter(&straight.join(dir))?;
        }
        let first = ppo_rows(&straight)?.into_iter().next().context("no PPO step")?;
        // The reference is the policy after SFT, its trained adapter included.
        match first["objective/kl_exact"].as_f64() {
            Some(0.0) => Ok(()),
            kl => bail!("the KL to the reference at the first step is {kl:?}, not 0"),
        }
    });
    if !ran {
        return;
    }
    checks.check(&format!("{name}: killed while it trains an adapter and resumed, bit for bit"), || {
        let mut running = tether.spawn(&run_args(tether, model, &killed, 2)?)?;
        running.wait_until("two PPO steps", || ppo_rows(&killed).is_ok_and(|rows| rows.len() >= 2))?;
        running.child.kill()?;
        running.child.wait()?;
        let mut again = run_args(tether, model, &killed, 2)?;
        again.extend(args!["--resume"]);
        tether.ok(&again)?;
        for log in ["metrics.jsonl", "control.jsonl", "samples.jsonl"] {
            expect_same_rows(&killed.join(log), &straight.join(log))?;
        }
        expect_same_dirs(&killed.join("policy"), &straight.join("policy"))
    });
    checks
        .check(&format!("{name}: a merged adapter scores as the adapter does"), || merge(tether, &straight));
    checks.check(
        &format!("{name}: a run from an adapter goes on with it, and keeps it as the reference"),
        || {
            let out = tether.path("lora-next");
            let world = World::write(&tether.path("world"))?;
            let recipe = world.recipe_of("lora-next", model, &straight.join("policy"), 2, "")?;
            tether.ok(&args![
                "ppo",
                recipe,
                "--out",
                out,
                "--set",
                "sft.steps=0",
                "--set",
                "reward.model_weight=0",
                "--set",
                "reward.rule=[{length = {name = 'long', weight = 1.0, unit = 'tokens', target = 4}}]"
            ])?;
            let rows = ppo_rows(&out)?;
            if rows[0]["objective/kl_exact"].as_f64() != Some(0.0) {
                bail!("KL {} at the first step", rows[0]["objective/kl_exact"]);
            }
            expect_adapter(&out.join("policy"))
        },
    );
    checks.check(&format!("{name}: training adapters left the base as it was"), || {
        if contents(&model.dir)? != base {
            bail!("{} has changed", model.dir.display());
        }
        Ok(())
    });
}

fn run_args(tether: &Tether, model: &Model, out: &Path, threads: usize) -> Result<Vec<OsString>> {
    let world = World::write(&tether.path("world"))?;
    let recipe = world.recipe_of("lora", model, &model.dir, STEPS, ADAPTER)?;
    Ok(args!["run", recipe, "--out", out, "--set", format!("threads={threads}")])
}

fn expect_adapter(dir: &Path) -> Result<()> {
    for file in ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"] {
        if !dir.join(file).is_file() {
            bail!("no {file} in {}", dir.display());
        }
    }
    if dir.join("model.safetensors").exists() {
        bail!("{} holds whole weights", dir.display());
    }
    Ok(())
}

fn merge(tether: &Tether, run: &Path) -> Result<()> {
    let data = tether.path("lora-rows.jsonl");
    let prompts = read_rows(&tether.path("world").join("prompts.jsonl"))?;
    let rows: Vec<_> =
        prompts.iter().map(|p| json!({ "prompt": p["prompt"], "response": " at the pier" })).collect();
    write_rows(&data, &rows)?;
    for (dir, keys) in [("policy", ["logprobs"]), ("reward", ["score"])] {
        let (adapter, merged) = (run.join(dir), tether.path(&format!("lora-merged-{dir}")));
        tether.ok(&args!["export", "--merge", adapter, "--out", merged])?;
        let mut found = Vec::new();
        for (i, model) in [&adapter, &merged].into_iter().enumerate() {
            let out = tether.path(&format!("lora-{dir}-{i}.jsonl"));
            tether.ok(&args!["score", "--model", model, "--data", data, "--out", out])?;
            found.push(read_rows(&out)?);
        }
        for (a, b) in found[0].iter().zip(&found[1]) {
            for key in keys {
                let of = |row: &serde_json::Value| match row[key].as_f64() {
                    Some(one) => Ok(vec![one]),
                    None => numbers(row, key),
                };
                expect_close(key, &of(a)?, &of(b)?, 1e-4)?;
            }
        }
        let again = tether.run(&args!["export", "--merge", merged, "--out", tether.path("nothing")])?;
        again.expect_error(&["nothing to merge"])?;
    }
    Ok(())
}
