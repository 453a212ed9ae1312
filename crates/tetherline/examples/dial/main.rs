//! The dial: PPO under a fixed β over two decades, from collapse to stall, on the embedded world with its gold and on a model
//! that writes stories. `docs/experiments/dial.md` says what came out.
//!
//! ```text
//! cargo run --release -p tetherline --example dial -- [--seeds N] [--steps N] [--out DIR] [--quick] [--docs]
//! ```
//!
//! The stories need the model and the prompts of the oracle (`TETHER_ORACLE`); without it they are left out.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example that prints tables and how far it is"
)]

mod report;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "experiments share more than each of them uses")]
mod support;
mod tilt;
mod worlds;

use report::Measured;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;
use support::Args;
use tetherline_core::BoxError;
use worlds::{Size, World};

/// Two decades in half-decades, and no penalty at all; in the order in which they are wanted.
const BETAS: [f64; 6] = [0.1, 0.0, 1.0, 0.01, 0.3, 0.03];

const FULL: Size = Size {
    sft: 250,
    frontdesk: 40,
    stories: 40,
    prompts: 160,
    answers: 1,
    tilt_prompts: 32,
    tilt_answers: 256,
};
const QUICK: Size =
    Size { sft: 3, frontdesk: 2, stories: 2, prompts: 4, answers: 1, tilt_prompts: 2, tilt_answers: 8 };

fn main() -> Result<(), BoxError> {
    let args = Args::parse("dial", 5)?;
    let (size, seeds) = if args.quick { (QUICK, 1) } else { (FULL, args.seeds) };
    let steps = |own| args.steps.unwrap_or(own);
    let size = Size { frontdesk: steps(size.frontdesk), stories: steps(size.stories), ..size };
    let out = std::path::absolute(&args.out)?;
    let mut worlds = Vec::new();
    match World::stories(&oracle(), &out)? {
        Ok(world) => worlds.push(world),
        Err(missing) => eprintln!("{missing}"),
    }
    worlds.push(World::Frontdesk);
    let start = Instant::now();
    let mut done: Vec<Measured> = Vec::new();
    for world in worlds {
        let (runs, reference) = (Vec::new(), Vec::new());
        done.push(Measured { world: world.clone(), runs, reference, answers: size.tilt_answers });
        for seed in 0..seeds {
            for beta in BETAS {
                world.train(&out, (beta, seed), size)?;
                eprintln!("{:6.0} s  {}, β {beta}, seed {seed}", start.elapsed().as_secs_f64(), world.name());
            }
            let scores = world.reference_scores(&out, seed, size)?;
            let Some(measured) = done.last_mut() else { continue };
            measured.reference.push((seed, scores));
            for beta in BETAS {
                if let Some(file) = world.result(&out, beta, seed)? {
                    measured.runs.push((beta, seed, file));
                }
            }
            write(&args, &done)?;
        }
    }
    Ok(())
}

/// What is there so far.
fn write(args: &Args, done: &[Measured]) -> Result<(), BoxError> {
    let text: Vec<String> = done.iter().rev().map(Measured::markdown).collect();
    let numbers: Vec<_> = done.iter().map(Measured::json).collect();
    let figures = done.iter().flat_map(Measured::figures).collect();
    support::page::write(args, "dial", &text.join("\n"), &json!(numbers), &figures)
}

fn oracle() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle");
    std::env::var_os("TETHER_ORACLE").map_or_else(beside, PathBuf::from)
}
