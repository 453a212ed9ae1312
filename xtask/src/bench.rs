//! `cargo xtask bench`: how fast our crates are; with `--peers` beside TRL, transformers, torch and llama.cpp.
//!
//! Every measurement is a fresh process. The two sides of a comparison take turns, so that what else the machine
//! does falls on both; each process also measures the CPU that others used meanwhile, and the tables show it.
//! `docs/performance.md` says what is compared with what.

mod baseline;
mod compare;
mod llama;
mod machine;
mod options;
mod peers;
mod process;
mod results;
mod scaling;
mod summary;
mod svg;
mod table;
mod works;

use crate::process as cargo;
use anyhow::{Context, Result};
use options::{Mode, Options};
use process::Bench;
use results::Results;
use std::fs;
use std::path::PathBuf;

pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let dir = cargo::target_dir()?.join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let bench = Bench { ours: build()?, dir };
    bench.prepare(&options)?;
    println!("{}", machine::label());
    match &options.mode {
        Mode::Alone { save } => baseline::run(&bench, &options, *save),
        Mode::Peers => peers::run(&bench, &options),
        Mode::Scaling => scaling::run(&bench, &options),
        Mode::Redraw => scaling::redraw(&bench),
        Mode::Compare(revision) => compare::run(&bench, &options, revision),
    }
}

/// Builds our side as it is in the working tree.
fn build() -> Result<PathBuf> {
    let what = ["build", "--quiet", "--release", "--package", "tetherline-benches", "--bin", "ours"];
    cargo::run(&mut cargo::cargo(&what))?;
    let name = format!("ours{}", std::env::consts::EXE_SUFFIX);
    Ok(cargo::target_dir()?.join("release").join(name))
}

/// Measures `works` by each of `sides` in turn. `measure` starts one process and returns its line of JSON.
///
/// A process that fails is reported and left out; the others go on.
fn measure(
    bench: &Bench,
    options: &Options,
    sides: &[process::Side],
    mut after: impl FnMut(&Results) -> Result<()>,
) -> Result<Results> {
    let mut results = Results::new();
    for model in &options.models {
        for work in works::WORKS.iter().filter(|w| options.wants(w, model)) {
            for &threads in &options.threads {
                for round in 1..=options.repeat {
                    for side in sides {
                        for run in side.runs(work) {
                            println!(
                                "{model}, {threads} threads, {round} of {}: {} {run}",
                                options.repeat, side.name
                            );
                            machine::wait_for_quiet(options.quiet);
                            match bench.measure(&run, model, threads, round - 1) {
                                Ok(line) => results.add(model, threads, side.name, run.work(), &line),
                                Err(error) => println!("  FAILED: {error:#}"),
                            }
                            after(&results)?;
                        }
                    }
                }
            }
        }
    }
    Ok(results)
}
