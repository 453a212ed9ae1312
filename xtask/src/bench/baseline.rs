//! `cargo xtask bench`: our side alone, beside numbers that were stored on the same CPU.

use super::options::Options;
use super::process::Bench;
use super::results::Results;
use super::{machine, measure, summary, table};
use crate::process::root;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where baselines are kept, one file per machine.
fn dir() -> PathBuf {
    root().join("benches/baselines")
}

pub(super) fn run(bench: &Bench, options: &Options, save: bool) -> Result<()> {
    let own = dir().join(format!("{}.json", machine::slug(&machine::label())));
    let stored = stored(&own)?;
    let mut results = measure(bench, options, &bench.our_sides(options), |_| Ok(()))?;
    if save {
        fs::create_dir_all(dir()).with_context(|| format!("cannot create {}", dir().display()))?;
        results.write(&own)?;
        println!("stored {}", own.display());
    }
    match &stored {
        None => println!("\nthere is no baseline yet; --save stores one"),
        Some(stored) => {
            println!("\nbase: the baseline of {}", stored.machine);
            if stored.machine != results.machine {
                println!("ANOTHER CPU than this one ({}): the ratios mean nothing", results.machine);
            }
            results.take_as("base", stored);
        }
    }
    for model in &options.models {
        table::print(&results, model, &options.threads, table::BASE);
        summary::print(&results, model, &bench.about(model)?, &options.threads, table::BASE);
    }
    Ok(())
}

/// This machine's baseline, or another's.
fn stored(own: &Path) -> Result<Option<Results>> {
    if own.is_file() {
        return Results::read(own).map(Some);
    }
    let listed = fs::read_dir(dir()).into_iter().flatten().flatten().map(|e| e.path());
    let mut files: Vec<PathBuf> = listed.filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    files.first().map(|p| Results::read(p)).transpose()
}
