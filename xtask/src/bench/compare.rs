//! `cargo xtask bench --compare REV`: our side of another revision and of the working tree, in turn.

use super::options::Options;
use super::process::{Bench, Program, Side};
use super::{measure, summary, table};
use crate::process::{output, root, run as execute};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) fn run(bench: &Bench, options: &Options, revision: &str) -> Result<()> {
    let base = build(&bench.dir.join("rev"), revision)?;
    let mut sides = vec![Side { name: "base", program: Program::Ours(base) }];
    sides.extend(bench.our_sides(options));
    let path = bench.dir.join("compare.json");
    let results = measure(bench, options, &sides, |results| results.write(&path))?;
    println!("\nbase: {revision}; ours: the working tree; on {}", results.machine);
    for model in &options.models {
        table::print(&results, model, &options.threads, table::BASE);
        summary::print(&results, model, &bench.about(model)?, &options.threads, table::BASE);
    }
    println!("\nall numbers: {}", path.display());
    Ok(())
}

fn git(args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(args).current_dir(root());
    command
}

/// `ours` of a revision, built in a worktree below `dir`.
fn build(dir: &Path, revision: &str) -> Result<PathBuf> {
    let commit = output(&mut git(&["rev-parse", "--verify", &format!("{revision}^{{commit}}")]))?;
    let commit = commit.trim();
    let (source, target) = (dir.join("source"), dir.join("target"));
    remove(&source)?;
    fs::create_dir_all(dir)?;
    execute(git(&["worktree", "add", "--quiet", "--detach"]).arg(&source).arg(commit))?;
    let built = if source.join("benches/Cargo.toml").is_file() {
        println!("building {revision} ({commit})");
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        execute(
            Command::new(program)
                .args(["build", "--quiet", "--release", "--package", "tetherline-benches", "--bin", "ours"])
                .env("CARGO_TARGET_DIR", &target)
                .current_dir(&source),
        )
    } else {
        Err(anyhow::anyhow!("{revision} has no benches/ to build"))
    };
    remove(&source)?;
    built?;
    let name = format!("ours{}", std::env::consts::EXE_SUFFIX);
    let (from, to) = (target.join("release").join(&name), dir.join(&name));
    if !from.is_file() {
        bail!("{} was not built", from.display());
    }
    fs::copy(&from, &to)?;
    Ok(to)
}

/// Takes a worktree away, if it is there.
fn remove(source: &Path) -> Result<()> {
    if source.exists() {
        execute(git(&["worktree", "remove", "--force"]).arg(source))?;
    }
    execute(&mut git(&["worktree", "prune"]))
}
