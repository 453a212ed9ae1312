//! PPO as the product runs it: a recipe, a run directory, `tetherline::run`.
//!
//! [`Settings::Parity`] is the embedded recipe `trl-parity`, made to do what the peer does: 32 prompts of 8 tokens,
//! 64 new tokens that no end of sequence cuts short, 4 epochs of one minibatch, a separate value model that
//! starts as the reward model. [`Settings::Best`] changes what costs time without changing the method: the value
//! head shares the policy's trunk and the score stands at the last token, so values come out of the rollout.

use crate::machine::since_start;
use crate::{BATCH, NEW, Numbers, dtype, median, policy_dir, reward_dir, text};
use anyhow::{Result, ensure};
use serde_json::json;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;
use tetherline::{Recipe, RunOptions, Stages};
use tetherline_core::{Event, Observer, Stage};

/// Which recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// The peer's.
    Parity,
    /// Ours for speed.
    Best,
}

/// What [`Settings::Best`] changes.
const BEST: &[(&str, &str)] = &[("model.value", "shared"), ("ppo.score_at", "last_token")];

#[derive(Default)]
struct Watch {
    started: Option<(f64, Instant)>,
    /// Total, rollout, score, update, seconds.
    steps: Vec<[f64; 4]>,
}

impl Observer for Watch {
    fn on_event(&mut self, event: &Event<'_>) {
        match event {
            Event::StageStarted { stage: Stage::Ppo, .. } => {
                self.started = Some((since_start(), Instant::now()));
            }
            Event::Step { stage: Stage::Ppo, metrics, .. } => {
                let Some((_, from)) = &mut self.started else { return };
                let time = |key: &str| metrics.get(key).copied().unwrap_or(0.0);
                let total = from.elapsed().as_secs_f64();
                let (rollout, score) = (time("time/rollout_s"), time("time/score_s"));
                self.steps.push([total, rollout, score, time("time/update_s")]);
                *from = Instant::now();
            }
            _ => {}
        }
    }
}

/// Seconds since the first call; the clock of `time/*`.
pub(crate) fn seconds() -> f64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    ORIGIN.elapsed().as_secs_f64()
}

/// The recipe of a run of `updates` updates.
///
/// # Errors
/// If the model directory is not one of [`crate::prepare`].
pub fn recipe(model: &Path, settings: Settings, updates: usize) -> Result<Recipe> {
    let mut sets: Vec<(String, String)> = [
        ("model.policy", text(&policy_dir(model))?),
        ("model.reward", text(&reward_dir(model))?),
        ("data.prompts", text(&model.join("prompts.jsonl"))?),
        ("ppo.steps", updates.to_string()),
        ("ppo.batch_size", BATCH.to_string()),
        ("ppo.lr", "1e-5".to_owned()),
        ("sampling.max_new_tokens", NEW.to_string()),
        ("sampling.ignore_eos", "true".to_owned()),
        ("eval.prompts", "0".to_owned()),
        ("checkpoint.every", "0".to_owned()),
        ("model.dtype", dtype()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if settings == Settings::Best {
        sets.extend(BEST.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    }
    Ok(Recipe::load("trl-parity", &sets)?)
}

/// Runs PPO; seconds per iteration (medians over the updates) and seconds from the start of the process to
/// the start of the first iteration.
///
/// # Errors
/// If the run fails.
pub fn ppo(model: &Path, threads: usize, settings: Settings, updates: usize) -> Result<Numbers> {
    let recipe = recipe(model, settings, updates)?;
    let scratch = tempfile::tempdir()?;
    let options = RunOptions {
        out: scratch.path().join("run"),
        resume: false,
        after_halt: false,
        stages: Stages::Only(Stage::Ppo),
        threads,
        clock: seconds,
    };
    let mut watch = Watch::default();
    tetherline::run(&recipe, &options, &mut watch)?;
    ensure!(watch.steps.len() == updates, "{} updates instead of {updates}", watch.steps.len());
    let of = |i: usize| median(&watch.steps.iter().map(|s| s[i]).collect::<Vec<_>>());
    let mut out = Numbers::new();
    for (i, key) in ["total_s", "rollout_s", "scoring_s", "update_s"].into_iter().enumerate() {
        out.insert(key.to_owned(), json!(of(i)));
    }
    out.insert("startup_s".to_owned(), json!(watch.started.map(|(startup, _)| startup)));
    Ok(out)
}
