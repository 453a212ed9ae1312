//! A run that is stopped in the middle of PPO, in every way, and goes on as if nothing had happened.
//!
//! The uninterrupted run uses one thread, the others two: neither an interruption nor the number of
//! threads may change a bit of the metrics (`time/*` aside) or of the final weights.

use super::Model;
use super::checks::Checks;
use super::compare::{contents, copy_dir, expect_same_dirs, expect_same_rows};
use super::stages::ppo_rows;
use super::tether::{Running, Tether, args};
use super::world::World;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// PPO steps: enough that the run is still going after two of them.
const STEPS: usize = 12;

/// Smaller than any checkpoint of the models in `fixtures/`, larger than their logs.
const FULL_DISK_KB: u32 = 100;

/// Checks interruptions on one model.
pub(super) fn check(checks: &mut Checks, tether: &Tether, model: &Model) {
    let name = &model.name;
    let straight = tether.path("straight");
    let killed = tether.path("killed");
    let frozen = tether.path("frozen");

    let ran = checks.check(&format!("{name}: an uninterrupted run to compare with"), || {
        tether.ok(&run_args(tether, model, &straight, 1, false)?).map(drop)
    });
    if !ran {
        return;
    }
    checks.check(&format!("{name}: killed in the middle of PPO and resumed, bit for bit"), || {
        let mut running = start_and_wait(tether, model, &killed)?;
        running.child.kill()?;
        running.child.wait()?;
        copy_dir(&killed, &frozen)?;
        tether.ok(&run_args(tether, model, &killed, 2, true)?)?;
        expect_same_run(&killed, &straight)
    });
    let name_of_full_disk = format!("{name}: a full disk leaves the old checkpoint, and the run can go on");
    if cfg!(unix) {
        checks.check(&name_of_full_disk, || fill_disk(tether, model, &frozen, &straight));
        checks.check(&format!("{name}: Ctrl-C saves a checkpoint and says how to go on"), || {
            ctrl_c(tether, model, &straight)
        });
    } else {
        checks.skip(&name_of_full_disk, "needs a limit on file sizes");
    }
}

fn run_args(
    tether: &Tether,
    model: &Model,
    out: &Path,
    threads: usize,
    resume: bool,
) -> Result<Vec<OsString>> {
    let recipe = World::write(&tether.path("world"))?.recipe("long", model, STEPS)?;
    let threads = format!("threads={threads}");
    let mut args = args!["run", recipe, "--out", out, "--set", threads];
    if resume {
        args.extend(args!["--resume"]);
    }
    Ok(args)
}

/// Starts a run and waits until it has done two PPO steps.
fn start_and_wait(tether: &Tether, model: &Model, out: &Path) -> Result<Running> {
    let mut running = tether.spawn(&run_args(tether, model, out, 2, false)?)?;
    // A torn last line is no step, and neither is a file that is not there yet.
    running.wait_until("two PPO steps", || ppo_rows(out).is_ok_and(|rows| rows.len() >= 2))?;
    Ok(running)
}

fn expect_same_run(run: &Path, straight: &Path) -> Result<()> {
    for log in ["metrics.jsonl", "control.jsonl", "samples.jsonl"] {
        expect_same_rows(&run.join(log), &straight.join(log))?;
    }
    expect_same_dirs(&run.join("policy"), &straight.join("policy"))
}

/// The newest checkpoint of a run.
pub(super) fn newest_checkpoint(run: &Path) -> Result<PathBuf> {
    let dir = run.join("checkpoints");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut found = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    found.retain(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("step-")));
    found.sort();
    found.pop().with_context(|| format!("no checkpoint in {}", dir.display()))
}

/// Continues a killed run where no large file can be written.
fn fill_disk(tether: &Tether, model: &Model, run: &Path, straight: &Path) -> Result<()> {
    let checkpoint = newest_checkpoint(run)?;
    let before = contents(&checkpoint)?;
    let args = run_args(tether, model, run, 2, true)?;
    let outcome =
        tether.run_with_file_limit(&args, FULL_DISK_KB).context("this system has no file limit")??;
    outcome.expect_error(&["checkpoint", "intact"])?;
    if contents(&checkpoint)? != before {
        bail!("{} has changed", checkpoint.display());
    }
    tether.ok(&args)?;
    expect_same_run(run, straight)
}

fn ctrl_c(tether: &Tether, model: &Model, straight: &Path) -> Result<()> {
    let out = tether.path("interrupted");
    let running = start_and_wait(tether, model, &out)?;
    let pid = running.child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().context("cannot start kill")?;
    let outcome = running.wait()?;
    if !sent.success() {
        bail!("kill -INT failed; the run ended with {}\n{}", outcome.status, outcome.text);
    }
    outcome.expect_error(&["--resume"])?;
    newest_checkpoint(&out)?;
    tether.ok(&run_args(tether, model, &out, 1, true)?)?;
    expect_same_run(&out, straight)
}
