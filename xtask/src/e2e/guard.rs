//! A run whose learning rate is a hundred times too high for two steps: the guard keeps the cap, and says so.

use super::Model;
use super::checks::Checks;
use super::compare::read_rows;
use super::stages::ppo_rows;
use super::tether::{Tether, args};
use super::world::World;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;

/// Nats per sequence.
const CAP: f64 = 1.0;

/// Checks the guard on one model.
pub(super) fn check(checks: &mut Checks, tether: &Tether, model: &Model) {
    let name = &model.name;
    checks.check(&format!("{name}: a learning rate × 100 under a guard, the cap unbroken"), || {
        let out = tether.path("guarded");
        let recipe = World::write(&tether.path("world"))?.recipe("guarded", model, 6)?;
        let fault = "fault=[{ at = 3, steps = 2, what = { lr = 100.0 } }]";
        let cap = format!("kl.trust_region.cap={CAP}");
        let sets = args!["--set", "kl.guard.boost=1.5", "--set", cap, "--set", "trial.prompts=8"];
        let refused =
            tether.run(&[args!["run", recipe, "--out", out, "--set", fault], sets.clone()].concat())?;
        refused.expect_error(&["allow_faults"])?;
        let run = args!["run", recipe, "--out", out, "--set", "allow_faults=true", "--set", fault];
        tether.ok(&[run, sets].concat())?;
        expect_cap(&out)?;
        expect_told(&out)
    });
}

/// No trial was accepted above the cap, and the step with the fault did not stand as a whole.
fn expect_cap(run: &Path) -> Result<()> {
    let control = read_rows(&run.join("control.jsonl"))?;
    let number = |v: &Value| v.as_f64().context("a number of control.jsonl is missing");
    for pair in control.windows(2).filter(|p| p[0]["phase"] == "trial" && p[1]["verdict"] == "accept") {
        let kl = &pair[0]["domains"][0];
        let bound = number(&kl["mean_kl"])? + 1.645 * (number(&kl["var"])? / number(&kl["n"])?).sqrt();
        if bound > CAP {
            bail!("step {} was accepted with KL up to {bound}, above {CAP}", pair[0]["step"]);
        }
    }
    let rows = ppo_rows(run)?;
    match rows.iter().find(|row| row["step"] == 3).and_then(|row| row["trial/kept"].as_f64()) {
        Some(kept) if kept < 1.0 => Ok(()),
        other => bail!("trial/kept of the step with the fault is {other:?}"),
    }
}

/// Events and report name the verdict.
fn expect_told(run: &Path) -> Result<()> {
    let events = read_rows(&run.join("events.jsonl"))?;
    let undone = |e: &Value| e["step"] == 3 && (e["verdict"] == "scale" || e["verdict"] == "reject");
    if !events.iter().any(undone) {
        bail!("events.jsonl does not have the verdict of step 3");
    }
    let report = std::fs::read_to_string(run.join("report.html")).context("no report.html")?;
    if !report.contains("above its cap") {
        bail!("report.html does not say that a cap was passed");
    }
    Ok(())
}
