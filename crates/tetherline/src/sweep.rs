//! `tether sweep RECIPE --grid KEY=A,B,C`: one run per regime and seed, and the reward–KL frontier that they span.
//!
//! ```text
//! OUT/sweep.json           recipe, grid and seeds; a resumed sweep must match it
//! OUT/start/seed-1/        SFT and reward model, once per seed, where no key of the grid concerns them
//! OUT/regimes/NAME/seed-1/ an ordinary run directory per regime and seed
//! OUT/frontier.json  frontier.html  frontier.svg
//! ```
//!
//! Several grids multiply. A run that is finished is read and not done again; one that was interrupted goes on from its
//! checkpoint; one that its guard halted is reported and the others go on. Runs go in parallel, each with its share of the
//! cores, which changes no bit of any run.

mod grid;
mod workers;

pub use grid::{Axis, parse_axis};

use crate::checkpoint::{save_dir, save_file};
use crate::pipeline::{EvaluationFile, read_json};
use crate::recipe::Recipe;
use crate::run_dir::RunDir;
use crate::{Error, RunOptions, Stages, report};
use grid::RegimeSets;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tetherline_core::{BoxError, Observer, Stage};
use tetherline_eval::Evaluation;
use tetherline_eval::frontier::{Frontier, Point, Regime};
use tetherline_eval::report::{frontier_page, frontier_svg};
use workers::{Job, Outcome};

/// Where and how a sweep runs.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// The directory of the sweep.
    pub out: PathBuf,
    /// Go on with the sweep that is there.
    pub resume: bool,
    /// Runs per regime, with the recipe's seed and those after it.
    pub seeds: u64,
    /// Runs at a time; 0: as many as there are cores.
    pub jobs: usize,
    /// Threads of all runs together; 0: every core.
    pub threads: usize,
    /// Seconds since any fixed moment.
    pub clock: fn() -> f64,
}

/// What a sweep has to say.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepSummary {
    /// The regimes.
    pub frontier: Frontier,
    /// The page that shows them.
    pub report: PathBuf,
}

/// The name of the policy that PPO starts from, a regime of its own.
const START: &str = "before PPO";

/// What a sweep directory belongs to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Belongs {
    recipe: String,
    grid: Vec<Axis>,
    seeds: u64,
}

/// Runs every regime of a grid over a recipe and compares them.
///
/// # Errors
/// [`Error::Recipe`] where a value of the grid makes no recipe; [`Error::Input`] where the directory belongs to another
/// sweep or the recipe evaluates nothing; [`Error::Interrupted`]; what a run failed with, unless it stopped itself.
pub fn sweep(
    source: &str,
    sets: &[(String, String)],
    axes: &[Axis],
    options: &SweepOptions,
    observer: &mut dyn Observer,
) -> Result<SweepSummary, Error> {
    let base = Recipe::load(source, sets)?;
    if base.eval.prompts == 0 {
        let problem = "eval.prompts is 0: regimes are compared on held-out prompts";
        return Err(Error::input("the recipe", problem));
    }
    let axes: Vec<Axis> = axes.iter().map(|axis| axis.under_law(&base)).collect();
    let regimes = grid::regimes(&axes);
    let seeds: Vec<u64> = (0..options.seeds.max(1)).map(|k| base.seed + k).collect();
    let recipe = |regime: &RegimeSets, seed: u64| -> Result<Recipe, Error> {
        let seed = [("seed".to_owned(), seed.to_string())];
        let recipe = Recipe::load(source, &[sets, &regime.sets, &seed].concat())?;
        grid::check_targets(&regime.sets, &recipe).map_err(|e| Error::input("--grid", e))?;
        recipe.check(Stages::All)?;
        Ok(recipe)
    };
    // Every recipe is read before the first run starts.
    let mut jobs = Vec::new();
    for regime in &regimes {
        for &seed in &seeds {
            let out = options.out.join("regimes").join(&regime.directory).join(format!("seed-{seed}"));
            jobs.push(Job {
                regime: jobs.len() / seeds.len(),
                seed,
                recipe: recipe(regime, seed)?,
                out,
                stages: Stages::All,
            });
        }
    }
    // A grid that makes no recipe leaves nothing behind.
    open(options, &base, &axes)?;
    if grid::leaves_early_stages(&axes) && (base.runs_sft() || base.trains_reward_model()) {
        prepare(&jobs[..seeds.len()], options, observer)?;
        for job in &jobs {
            start_from(job, &start_dir(options, job.seed))?;
        }
    }
    let outcomes = workers::run(&jobs, options, observer)?;
    let frontier = Frontier::of(gather(&regimes, &jobs, &outcomes)?);
    let text = serde_json::to_vec_pretty(&frontier).map_err(Error::stage(Stage::Report))?;
    save_file(&options.out.join("frontier.json"), &text)?;
    save_file(&options.out.join("frontier.svg"), frontier_svg(&frontier).as_bytes())?;
    let report = options.out.join("frontier.html");
    save_file(&report, frontier_page("Tetherline sweep", &base.to_toml(), &frontier).as_bytes())?;
    Ok(SweepSummary { frontier, report })
}

/// Opens the directory of a sweep: a new one, or with `resume` the same one again.
fn open(options: &SweepOptions, base: &Recipe, axes: &[Axis]) -> Result<(), Error> {
    // Names and threads have no influence on a run.
    let recipe = Recipe { name: String::new(), threads: 0, ..base.clone() }.to_toml();
    let belongs = Belongs { recipe, grid: axes.to_vec(), seeds: options.seeds.max(1) };
    let path = options.out.join("sweep.json");
    let what = || format!("the directory {}", options.out.display());
    if let Some(found) = read_json::<Belongs>(&path)? {
        if !options.resume {
            let problem = "a sweep is in it already: go on with --resume, or choose another with --out";
            return Err(Error::input(what(), problem));
        }
        if found != belongs {
            let problem =
                "the sweep in it has another recipe, grid or number of seeds; choose another with --out";
            return Err(Error::input(what(), problem));
        }
        return Ok(());
    }
    let occupied = std::fs::read_dir(&options.out).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(Error::input(
            what(),
            "it is not empty, and no sweep is in it; choose another with --out",
        ));
    }
    std::fs::create_dir_all(&options.out).map_err(|source| Error::Io {
        action: "create",
        path: options.out.clone(),
        source,
    })?;
    let text = serde_json::to_vec_pretty(&belongs).map_err(|e| Error::input(what(), e))?;
    Ok(save_file(&path, &text)?)
}

fn start_dir(options: &SweepOptions, seed: u64) -> PathBuf {
    options.out.join("start").join(format!("seed-{seed}"))
}

/// SFT and reward model, once per seed.
fn prepare(first: &[Job], options: &SweepOptions, observer: &mut dyn Observer) -> Result<(), Error> {
    for job in first {
        for stage in [Stage::Sft, Stage::Reward] {
            let run = RunOptions {
                out: start_dir(options, job.seed),
                resume: false,
                after_halt: false,
                stages: Stages::Only(stage),
                threads: options.threads,
                clock: options.clock,
            };
            crate::run(&job.recipe, &run, observer)?;
        }
    }
    Ok(())
}

/// What SFT and reward training leave in a run directory.
const DIRECTORIES: [&str; 2] = ["sft", "reward"];
const FILES: [&str; 3] = ["sft.jsonl", "reward.jsonl", "reward_held_out.json"];

/// Makes a run's directory with the early stages already done, if it is not there yet.
fn start_from(job: &Job, start: &Path) -> Result<(), Error> {
    if job.out.join("config.toml").is_file() {
        return Ok(());
    }
    let inputs = crate::inputs::hashes(&job.recipe)?;
    let run = RunDir::open(&job.out, &job.recipe, &inputs, job.out.is_dir())?;
    let copied = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    for name in FILES.into_iter().filter(|name| start.join(name).is_file()) {
        let from = start.join(name);
        let text = std::fs::read(&from).map_err(copied("read", &from))?;
        save_file(&run.root().join(name), &text)?;
    }
    for name in DIRECTORIES.into_iter().filter(|name| start.join(name).is_dir()) {
        let from = start.join(name);
        save_dir(&run.root().join(name), |to| copy_files(&from, to))?;
    }
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Result<(), BoxError> {
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// The regimes with what their runs came to; the first is the policy before PPO.
fn gather(regimes: &[RegimeSets], jobs: &[Job], outcomes: &[Outcome]) -> Result<Vec<Regime>, Error> {
    let mut finished: Vec<(usize, EvaluationFile)> = Vec::new();
    for (job, outcome) in jobs.iter().zip(outcomes) {
        if let (Outcome::Finished, Some(file)) = (outcome, read_json(&job.out.join(report::EVALUATION))?) {
            finished.push((job.regime, file));
        }
    }
    let regime = |name: &str, of: &[&Evaluation], failures: Vec<String>| {
        let all = |get: fn(&Evaluation) -> Option<tetherline_eval::Estimate>| {
            let each: Option<Vec<_>> = of.iter().map(|e| get(e)).collect();
            each.and_then(|each| Point::over_seeds(&each))
        };
        Regime {
            name: name.to_owned(),
            runs: of.len(),
            kl: all(|e| e.overall.kl_exact),
            score: all(|e| Some(e.overall.score)),
            gold: all(|e| e.overall.gold),
            length: all(|e| Some(e.overall.length_tokens)),
            failures,
        }
    };
    let mut out = Vec::new();
    // Before PPO all regimes of a seed are one policy: that of the first regime that finished stands for them.
    if let Some((first, _)) = finished.first() {
        let before: Vec<_> =
            finished.iter().filter(|(i, _)| i == first).map(|(_, f)| &f.comparison.baseline).collect();
        out.push(regime(START, &before, Vec::new()));
    }
    for (i, sets) in regimes.iter().enumerate() {
        let of: Vec<_> =
            finished.iter().filter(|(j, _)| *j == i).map(|(_, f)| &f.comparison.aligned).collect();
        let failed = jobs.iter().zip(outcomes).filter(|(job, _)| job.regime == i);
        let failures = failed.filter_map(|(job, outcome)| match outcome {
            Outcome::Stopped(why) => Some(format!("seed {}: {why}", job.seed)),
            Outcome::Finished => None,
        });
        out.push(regime(&sets.name, &of, failures.collect()));
    }
    Ok(out)
}
