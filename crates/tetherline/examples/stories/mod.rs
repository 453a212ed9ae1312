//! The word reward on stories260k: where its model and prompts are, and what its curves come to.
//!
//! The recipe is the embedded `word-reward`: min(5, hits of five happy words) in 48 tokens after one of 64 openings, 64
//! responses a step. KL is the k1 estimate, nats per sequence, which TRL logs too.

use super::support::page::{bounds, over_seeds};
use super::support::runs::{Job, curve};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tetherline_core::{BoxError, Metrics};

/// Responses of a step.
pub(crate) const BATCH: f64 = 64.0;

/// Steps that a mean is over.
const WINDOW: usize = 5;

/// Model and prompts.
pub(crate) struct Stories {
    /// The oracle's directory.
    pub(crate) oracle: PathBuf,
    prompts: PathBuf,
}

impl Stories {
    /// None, and a line that says so, where the oracle is missing.
    ///
    /// # Errors
    /// If the prompts cannot be read or written.
    pub(crate) fn open(out: &Path) -> Result<Option<Self>, BoxError> {
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle");
        let oracle = std::env::var_os("TETHER_ORACLE").map_or(default, PathBuf::from);
        let run = oracle.join("peers_ppo_run");
        if !oracle.join("models/stories260k/model.safetensors").is_file() || !run.is_dir() {
            println!("SKIPPED: oracle not found at {} (set TETHER_ORACLE)", oracle.display());
            return Ok(None);
        }
        let whole: Value = serde_json::from_str(&std::fs::read_to_string(run.join("prompts.json"))?)?;
        let texts = whole["texts"].as_array().ok_or("prompts.json has no texts")?;
        let lines: String = texts.iter().map(|text| format!("{}\n", json!({"prompt": text}))).collect();
        let prompts = out.join("prompts.jsonl");
        std::fs::write(&prompts, lines)?;
        Ok(Some(Self { oracle, prompts }))
    }

    /// A run with these changes.
    pub(crate) fn job(&self, name: &str, seed: u64, steps: u64, sets: &[(&str, &str)]) -> Job {
        Job::new(format!("{name}-{seed}"), "word-reward", sets)
            .set("seed", seed)
            .set("ppo.steps", steps)
            .set("model.policy", self.oracle.join("models/stories260k").display())
            .set("data.prompts", self.prompts.display())
            .set("eval.prompts", 0)
            .set("checkpoint.every", 0)
    }
}

/// Score and KL of each step.
#[derive(Clone)]
pub(crate) struct Curve {
    pub(crate) score: Vec<f64>,
    pub(crate) kl: Vec<f64>,
}

impl Curve {
    /// That of a run.
    pub(crate) fn of(log: &[Metrics]) -> Self {
        Self { score: curve(log, "objective/scores"), kl: curve(log, "objective/kl") }
    }

    /// Its first steps.
    pub(crate) fn until(&self, steps: usize) -> Self {
        let first = |x: &[f64]| x[..steps.min(x.len())].to_vec();
        Self { score: first(&self.score), kl: first(&self.kl) }
    }

    /// Means over windows of steps, so that noise does not decide when something was reached.
    pub(crate) fn smooth(&self) -> Self {
        let mean = |w: &[f64]| w.iter().sum::<f64>() / w.len() as f64;
        let window = |x: &[f64]| x.windows(WINDOW.min(x.len())).map(mean).collect();
        Self { score: window(&self.score), kl: window(&self.kl) }
    }

    /// Means of score and KL over the last steps.
    pub(crate) fn end(&self) -> (f64, f64) {
        let s = self.smooth();
        (s.score.last().copied().unwrap_or(f64::NAN), s.kl.last().copied().unwrap_or(f64::NAN))
    }

    /// The score where the smoothed KL first passes `kl`, between two steps; NaN if it never does.
    pub(crate) fn score_at(&self, kl: f64) -> f64 {
        let s = self.smooth();
        let Some(i) = s.kl.iter().position(|x| *x >= kl) else { return f64::NAN };
        let Some(before) = i.checked_sub(1) else { return s.score[0] };
        let share = (kl - s.kl[before]) / (s.kl[i] - s.kl[before]);
        s.score[before] + share * (s.score[i] - s.score[before])
    }

    /// Samples until the smoothed score reaches `score`, and the smoothed KL there; NaN if it never does.
    pub(crate) fn reaches(&self, score: f64) -> (f64, f64) {
        let s = self.smooth();
        let at = s.score.iter().position(|x| *x >= score);
        at.map_or((f64::NAN, f64::NAN), |i| (BATCH * (i + WINDOW) as f64, s.kl[i]))
    }
}

/// A number that a curve comes to.
pub(crate) type Number<'a> = &'a dyn Fn(&Curve) -> f64;

/// A setting and its curves, one per seed.
pub(crate) struct Setting {
    pub(crate) name: String,
    pub(crate) curves: Vec<Curve>,
}

impl Setting {
    /// A number of each curve, over the seeds that have one, and how many have not.
    pub(crate) fn cell(&self, of: impl Fn(&Curve) -> f64) -> String {
        let known: Vec<f64> = self.curves.iter().map(of).filter(|x| x.is_finite()).collect();
        match self.curves.len() - known.len() {
            0 => over_seeds(&known),
            n if n == self.curves.len() => "never".to_owned(),
            n => format!("{} ({n} of {} never)", over_seeds(&known), self.curves.len()),
        }
    }

    /// Means over seeds of each step, and their intervals.
    pub(crate) fn steps(&self, of: impl Fn(&Curve) -> &Vec<f64>) -> Vec<(f64, (f64, f64))> {
        let steps = self.curves.iter().map(|c| of(c).len()).min().unwrap_or(0);
        (0..steps).map(|i| bounds(&self.curves.iter().map(|c| of(c)[i]).collect::<Vec<_>>())).collect()
    }

    /// (KL, score), both smoothed and averaged over seeds.
    pub(crate) fn frontier(&self) -> Vec<(f64, f64)> {
        let smooth = Self { name: String::new(), curves: self.curves.iter().map(Curve::smooth).collect() };
        let (kl, score) = (smooth.steps(|c| &c.kl), smooth.steps(|c| &c.score));
        kl.iter().zip(&score).map(|(kl, score)| (kl.0, score.0)).collect()
    }

    /// Every number.
    pub(crate) fn json(&self) -> Value {
        let curves: Vec<Value> = self.curves.iter().map(|c| json!({"score": c.score, "kl": c.kl})).collect();
        json!({"name": self.name, "curves": curves})
    }
}
