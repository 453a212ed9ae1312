//! Recipes with a mistake, and run directories that are not what the command takes them for.

use super::bad_input::Setup;
use super::checks::Checks;
use super::compare::contents;
use super::tether::args;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;

/// (text in the good recipe, what to put there, what the message must hold).
const EDITS: &[(&str, &str, &[&str])] = &[
    ("minibatches = 2", "minibatchs = 2", &["minibatchs", "minibatches"]),
    ("[eval]", "[evil]", &["evil"]),
    ("init = 0.1", "init = -0.1", &["init"]),
    ("target = 2.0", "target = -2.0", &["target"]),
    ("horizon = 100", "horizon = 0", &["horizon"]),
    ("minibatches = 2", "minibatches = 2\nclip_range = -0.2", &["clip_range"]),
    ("temperature = 1.0", "temperature = -1.0", &["temperature"]),
    ("temperature = 1.0", "temperature = nan", &["temperature"]),
    ("steps = 3\nbatch_size = 4", "steps = 3\nbatch_size = 0", &["batch_size"]),
    ("lr = 1e-3", "lr = \"fast\"", &["lr"]),
    ("seed = 7", "seed = ", &[]),
];

pub(super) fn check(checks: &mut Checks, s: &Setup<'_>) {
    for (from, to, words) in EDITS {
        let shown = to.lines().last().unwrap_or(to);
        checks.check(&format!("bad input: a recipe with {shown:?} names the line"), || {
            let (path, line) = edited(s, from, to)?;
            let place = format!("bad.toml:{line}");
            let words = [&[place.as_str()], *words].concat();
            s.expect_error(&args!["run", path, "--out", s.tether.path("never")], &words)
        });
    }
    checks.check("bad input: a rule that needs another build says which", || {
        let encoder = crate::process::root().join("fixtures/models/encoders/bert");
        let rule = format!("reward.rule=[{{ encoder = {{ model = {:?} }} }}]", encoder.display().to_string());
        let args = args!["run", s.recipe, "--set", rule, "--out", s.tether.path("encoder")];
        s.expect_error(&args, &["feature `encoders`"])
    });
    checks.check("bad input: --set with an unknown key", || {
        let args = args!["run", s.recipe, "--set", "ppo.stepz=3", "--out", s.tether.path("never")];
        s.expect_error(&args, &["ppo.stepz=3", "steps"])
    });
    checks.check("bad input: --set with a value out of range", || {
        let args = args!["run", s.recipe, "--set", "ppo.lr=-1", "--out", s.tether.path("never")];
        s.expect_error(&args, &["ppo.lr=-1"])
    });
    checks.check("bad input: a loss that is not finite stops the stage and says where", || {
        let args = args!["sft", s.recipe, "--set", "sft.lr=1e30", "--out", s.tether.path("nan-sft")];
        s.expect_error(&args, &["sft", "step"])
    });
    checks.check("bad input: PPO that breaks keeps its last good checkpoint", || {
        let out = s.tether.path("nan-ppo");
        let args = args!["run", s.recipe, "--set", "ppo.lr=1e30", "--set", "ppo.steps=6", "--out", out];
        s.expect_error(&args, &["ppo", "step", "checkpoint"])?;
        let report = fs::read_to_string(out.join("report.html"))?;
        if !report.contains("NOT FINITE: stopped at step") {
            bail!("the report does not say that the run stopped on a number that is not finite");
        }
        Ok(())
    });
    checks.check("bad input: the run directory of another recipe is left alone", || {
        let out = s.tether.path("theirs");
        s.tether.ok(&args!["sft", s.recipe, "--out", out])?;
        let before = contents(&out)?;
        s.expect_error(&args!["run", s.recipe, "--out", out], &["--resume"])?;
        let other = args!["run", s.recipe, "--out", out, "--resume", "--set", "seed=8"];
        s.expect_error(&other, &["another recipe", "seed"])?;
        if contents(&out)? != before {
            bail!("{} has changed", out.display());
        }
        Ok(())
    });
    checks.check("bad input: a directory that is no run is left alone", || {
        let out = s.tether.path("thesis");
        fs::create_dir_all(&out)?;
        fs::write(out.join("thesis.txt"), "years of work")?;
        s.expect_error(&args!["run", s.recipe, "--out", out], &["thesis"])?;
        if contents(&out)?.len() != 1 {
            bail!("{} has changed", out.display());
        }
        Ok(())
    });
}

/// The good recipe with one change, and the line of the change.
fn edited(s: &Setup<'_>, from: &str, to: &str) -> Result<(PathBuf, usize)> {
    let good = fs::read_to_string(&s.recipe)?;
    let at = good.find(from).with_context(|| format!("the recipe has no {from:?}"))?;
    let last_line = at + to.rfind('\n').map_or(0, |i| i + 1);
    let bad = good.replacen(from, to, 1);
    let line = bad[..last_line].matches('\n').count() + 1;
    Ok((s.file("bad.toml", &bad)?, line))
}
