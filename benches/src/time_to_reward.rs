//! Seconds until PPO has raised a reward as far as TRL does, on stories260k.
//!
//! The reward counts happy words (the embedded recipe `word-reward`): min(5, hits of five substrings) in 48 new
//! tokens after one of 64 prompts of 8 tokens. The run ends when the mean score of the last five steps, and of at
//! least [`WINDOW_ROWS`] responses, reaches [`REWARD`] while their mean exact KL is at most [`KL`]. TRL's PPOTrainer
//! needs 40 steps of 64 responses for it (`peers/time_to_reward.py`); its settings are those of the recipe, ours
//! differ in `OURS`.

use crate::machine::{own_cpu_s, since_start};
use crate::ppo::seconds;
use crate::{Numbers, policy_dir, text};
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::VecDeque;
use std::path::Path;
use tetherline::{Error, Recipe, RunOptions, Stages};
use tetherline_core::{Event, Observer, Stage};

/// The mean score to reach; the most there is is 5.
pub const REWARD: f64 = 4.1;
/// The KL to the start that it may cost, nats per sequence.
pub const KL: f64 = 21.0;
/// Steps that the means are over, at least.
pub const WINDOW_STEPS: usize = 5;
/// Responses that the means are over, at least.
pub const WINDOW_ROWS: f64 = 320.0;
/// Steps after which a run has failed.
const MOST_STEPS: usize = 48;

/// What we change in the recipe: one pass of eight minibatches instead of four passes of one, so that every optimizer
/// step sees answers that none has seen before, for a quarter of the work; advantages of the whole return (λ 1), which
/// spread over so many small steps; a β that holds the KL where the reward is reached.
const OURS: &[(&str, &str)] = &[
    ("ppo.epochs", "1"),
    ("ppo.minibatches", "8"),
    ("ppo.lr", "1.2e-4"),
    ("ppo.lam", "1.0"),
    ("ppo.score_at", "last_token"),
    ("kl.fixed.init", "0.1"),
];

/// Score, KL and rows of a step.
type Seen = (f64, f64, f64);

#[derive(Default)]
struct Watch {
    window: VecDeque<Seen>,
    steps: usize,
    rows: f64,
    reached: Option<f64>,
    highest_kl: f64,
}

impl Watch {
    /// Means of score and KL over the last steps, as soon as there are enough.
    fn means(&mut self, seen: Seen) -> Option<(f64, f64)> {
        self.window.push_back(seen);
        let rows = |w: &VecDeque<Seen>| w.iter().map(|s| s.2).sum::<f64>();
        while self.window.len() > WINDOW_STEPS && rows(&self.window) - self.window[0].2 >= WINDOW_ROWS {
            self.window.pop_front();
        }
        let n = rows(&self.window);
        let mean = |of: fn(&Seen) -> f64| self.window.iter().map(|s| of(s) * s.2).sum::<f64>() / n;
        (self.window.len() >= WINDOW_STEPS && n >= WINDOW_ROWS).then(|| (mean(|s| s.0), mean(|s| s.1)))
    }
}

impl Observer for Watch {
    fn on_event(&mut self, event: &Event<'_>) {
        let Event::Step { stage: Stage::Ppo, metrics, .. } = event else { return };
        let of = |key: &str| metrics.get(key).copied().unwrap_or(f64::NAN);
        let rows = of("tokens/generated") / of("response/length");
        self.rows += rows;
        self.steps += 1;
        if let Some((score, kl)) = self.means((of("objective/scores"), of("objective/kl_exact"), rows)) {
            self.highest_kl = self.highest_kl.max(kl);
            if score >= REWARD && kl <= KL {
                self.reached = Some(since_start());
            }
        }
    }

    fn stop_requested(&self) -> bool {
        self.reached.is_some()
    }
}

/// Seconds from the start of the process until the reward is reached, and what it took.
///
/// # Errors
/// If the reward is not reached, or the model directory has no such prompts (the base policy of the frontdesk world
/// does not write stories).
pub fn time_to_reward(model: &Path, threads: usize, seed: u64, sets: &[(String, String)]) -> Result<Numbers> {
    let prompts = model.join("stories.jsonl");
    if !prompts.is_file() {
        bail!("the words of the reward need a model that writes stories; {} is none", model.display());
    }
    let mut all: Vec<(String, String)> = [
        ("model.policy", text(&policy_dir(model))?),
        ("data.prompts", text(&prompts)?),
        ("seed", seed.to_string()),
        ("ppo.steps", MOST_STEPS.to_string()),
        ("eval.prompts", "0".to_owned()),
        ("checkpoint.every", "0".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    all.extend(OURS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    all.extend(sets.iter().cloned());
    let recipe = Recipe::load("word-reward", &all)?;
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
    match tetherline::run(&recipe, &options, &mut watch) {
        Ok(_) | Err(Error::Interrupted { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(reached) = watch.reached else {
        bail!("{MOST_STEPS} steps did not reach a reward of {REWARD} at a KL of at most {KL}");
    };
    let (score, kl) = watch.window.iter().fold((0.0, 0.0), |(a, b), s| (a + s.0 * s.2, b + s.1 * s.2));
    let rows: f64 = watch.window.iter().map(|s| s.2).sum();
    Ok(Numbers::from_iter([
        ("reached_s".to_owned(), json!(reached)),
        ("cpu_s".to_owned(), json!(own_cpu_s())),
        ("steps".to_owned(), json!(watch.steps)),
        ("episodes".to_owned(), json!(watch.rows)),
        ("score".to_owned(), json!(score / rows)),
        ("kl".to_owned(), json!(kl / rows)),
        ("highest_kl".to_owned(), json!(watch.highest_kl)),
    ]))
}
