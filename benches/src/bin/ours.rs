//! One measurement of our side: `ours WORK --model DIR [--threads N]` prints one line of JSON.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks on its terminal")]

use anyhow::{Context, Result, bail};
use serde_json::json;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use tetherline_benches::machine::{self, Meter};
use tetherline_benches::models::Size;
use tetherline_benches::ppo::{Settings, ppo};
use tetherline_benches::{
    Numbers, UPDATES, prepare, reward_step, sampling, scaling, time_to_reward, train_step,
};

/// The seed of works that draw by chance, where no `--seed` is given.
const SEED: &str = "TETHER_BENCH_SEED";

const USAGE: &str = "\
ours WORK --model DIR [--threads N] [--dtype f32|bf16]

  ppo          three PPO updates with the settings of the peer
  ppo-best     the same with our best settings
  startup      from the start of the process to the first PPO update
  sampling     tokens per second at batch 1, 8, 32
  train-step   a training step on 32 × 72 tokens
  reward-step  a step of reward training on 32 pairs
  time-to-reward [--seed N] [--set KEY=VALUE]…
               until PPO reaches TRL's reward on stories260k
  gemm-peak    multiply-adds per second in registers; needs no --model
  bandwidth    bytes per second by footprint; needs no --model
  scale-train, scale-sample --shape dim=256,layers=6,vocab=4096,batch=32,tokens=72
               a training step or sampling of a random model; needs no --model

ours prepare --model DIR --size S|M   writes DIR: models and data for all of these and for peers/*.py";

fn main() -> ExitCode {
    machine::start();
    tetherline_kernels::give_back_freed_blocks();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ours: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((work, options)) = args.split_first() else { bail!("which work?\n\n{USAGE}") };
    let value = |flag: &str| {
        let at = options.iter().position(|a| a == flag)?;
        options.get(at + 1).map(String::as_str)
    };
    let threads: usize = value("--threads").unwrap_or("1").parse().context("--threads takes a number")?;
    let dir = || value("--model").map(PathBuf::from).context("--model DIR is missing");
    let shape = || scaling::Shape::parse(value("--shape").unwrap_or_default());
    if work == "prepare" {
        return prepare::prepare(&dir()?, Size::parse(value("--size").unwrap_or("S"))?);
    }
    match value("--dtype") {
        None | Some("f32") => {}
        Some("bf16") => tetherline_benches::use_bf16(),
        Some(other) => bail!("there is no dtype {other:?}; there are f32 and bf16"),
    }
    let meter = Meter::new();
    let mut numbers = match work.as_str() {
        "time-to-reward" => {
            let named = std::env::var(SEED).unwrap_or_else(|_| "0".to_owned());
            let seed = value("--seed").unwrap_or(&named).parse().context("--seed takes a number")?;
            time_to_reward::time_to_reward(&dir()?, threads, seed, &sets(options)?)?
        }
        "bandwidth" => scaling::bandwidth(threads),
        "scale-train" => scaling::train(&shape()?, threads)?,
        "scale-sample" => scaling::sample(&shape()?, threads)?,
        _ => measure(work, dir, threads)?,
    };
    numbers.insert("work".to_owned(), json!(work));
    numbers.insert("threads".to_owned(), json!(threads));
    numbers.insert("foreign_cores".to_owned(), json!(meter.foreign_cores()));
    numbers.insert("peak_mib".to_owned(), json!(machine::peak_mib()));
    println!("{}", serde_json::Value::from(numbers));
    Ok(())
}

/// Every `--set KEY=VALUE`.
fn sets(options: &[String]) -> Result<Vec<(String, String)>> {
    let values = options.windows(2).filter(|w| w[0] == "--set").map(|w| &w[1]);
    values
        .map(|text| {
            let (key, value) = text.split_once('=').with_context(|| format!("{text:?} is not KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn measure(work: &str, dir: impl Fn() -> Result<PathBuf>, threads: usize) -> Result<Numbers> {
    match work {
        "ppo" => ppo(&dir()?, threads, Settings::Parity, UPDATES),
        "ppo-best" => ppo(&dir()?, threads, Settings::Best, UPDATES),
        "startup" => startup(&dir()?, threads),
        "sampling" => sampling::sampling(&dir()?, threads),
        "train-step" => train_step::train_step(&dir()?, threads),
        "reward-step" => reward_step::reward_step(&dir()?, threads),
        "gemm-peak" => Ok(peak(threads)),
        other => bail!("there is no work {other:?}\n\n{USAGE}"),
    }
}

fn startup(dir: &Path, threads: usize) -> Result<Numbers> {
    let mut numbers = ppo(dir, threads, Settings::Parity, 1)?;
    numbers.retain(|key, _| key == "startup_s");
    Ok(numbers)
}

/// The best of ten tenths of a second, all threads at once.
fn peak(threads: usize) -> Numbers {
    const ROUNDS: u64 = 1 << 24;
    let one = || {
        let start = Instant::now();
        let (operations, sum) = tetherline_kernels::bench::multiply_adds(black_box(ROUNDS));
        black_box(sum);
        operations as f64 / start.elapsed().as_secs_f64()
    };
    let all = || -> f64 {
        std::thread::scope(|s| {
            let workers: Vec<_> = (0..threads).map(|_| s.spawn(one)).collect();
            workers.into_iter().filter_map(|w| w.join().ok()).sum()
        })
    };
    let best = (0..10).map(|_| all()).fold(0.0, f64::max);
    Numbers::from_iter([("fma_gflops".to_owned(), json!(best * 1e-9))])
}
