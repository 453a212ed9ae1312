//! Running recipes and reading what they logged.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tetherline::{Recipe, RunOptions, Stages, run};
use tetherline_core::{BoxError, Metrics, Silent, Stage};

/// A run: its name, which is its directory too, a recipe, and what it changes there.
#[derive(Clone)]
pub(crate) struct Job {
    /// Name, unique within the experiment.
    pub(crate) name: String,
    /// An embedded recipe or a file.
    pub(crate) recipe: String,
    /// As with `--set`; later ones win.
    pub(crate) sets: Vec<(String, String)>,
}

impl Job {
    /// A run of a recipe with these changes.
    pub(crate) fn new(name: String, recipe: &str, sets: &[(&str, &str)]) -> Self {
        let sets = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self { name, recipe: recipe.to_owned(), sets }
    }

    /// With one more change.
    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.sets.push((key.to_owned(), value.to_string()));
        self
    }

    /// Its run directory.
    pub(crate) fn dir(&self, out: &Path) -> PathBuf {
        out.join("runs").join(&self.name)
    }
}

/// Runs all of them, `parallel` at a time, and gives what each has logged, one object per PPO step.
///
/// # Errors
/// With the first run that fails; those under way are finished first.
pub(crate) fn run_all(jobs: &[Job], out: &Path, parallel: usize) -> Result<Vec<Vec<Metrics>>, BoxError> {
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    let failed: Mutex<Option<String>> = Mutex::new(None);
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = one(job, out);
            let at = start.elapsed().as_secs_f64();
            match result {
                Ok(()) => eprintln!("{at:6.0} s  {}", job.name),
                Err(error) => {
                    next.store(jobs.len(), Ordering::Relaxed);
                    if let Ok(mut failed) = failed.lock() {
                        failed.get_or_insert(format!("{}: {error}", job.name));
                    }
                }
            }
        }
    };
    std::thread::scope(|s| (0..parallel.max(1)).for_each(|_| drop(s.spawn(work))));
    match failed.into_inner() {
        Ok(None) => jobs.iter().map(|job| metrics(&job.dir(out))).collect(),
        Ok(Some(problem)) => Err(problem.into()),
        Err(_) => Err("a run panicked".into()),
    }
}

fn one(job: &Job, out: &Path) -> Result<(), BoxError> {
    stages(job, &job.dir(out), Stages::All)
}

/// One stage of a recipe in `dir`, for others to start from; nothing where it is done.
///
/// # Errors
/// If it fails.
pub(crate) fn stage(job: &Job, dir: &Path, stage: Stage) -> Result<(), BoxError> {
    stages(job, dir, Stages::Only(stage))
}

fn stages(job: &Job, dir: &Path, stages: Stages) -> Result<(), BoxError> {
    let recipe = Recipe::load(&job.recipe, &job.sets)?;
    let options = RunOptions {
        resume: dir.join("config.toml").is_file(),
        after_halt: false,
        stages,
        threads: 1,
        clock: || 0.0,
        out: dir.to_owned(),
    };
    run(&recipe, &options, &mut Silent)?;
    Ok(())
}

/// The log of a run directory, one object per PPO step.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn metrics(dir: &Path) -> Result<Vec<Metrics>, BoxError> {
    let path = dir.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// A key's values over the steps; NaN where a step has none.
pub(crate) fn curve(log: &[Metrics], key: &str) -> Vec<f64> {
    log.iter().map(|m| m.get(key).copied().unwrap_or(f64::NAN)).collect()
}

/// A key's mean over the last `steps` steps.
pub(crate) fn last(log: &[Metrics], key: &str, steps: usize) -> f64 {
    let values = curve(&log[log.len().saturating_sub(steps)..], key);
    values.iter().sum::<f64>() / values.len() as f64
}
