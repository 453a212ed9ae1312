//! Steps of reward training as the product runs them: 32 preference pairs of mixed lengths each.

use crate::ppo::seconds;
use crate::{BATCH, Numbers, REWARD_STEPS, dtype, median, policy_dir, text};
use anyhow::{Result, ensure};
use serde_json::json;
use std::path::Path;
use std::time::Instant;
use tetherline::{Recipe, RunOptions, Stages};
use tetherline_core::{Event, Observer, Stage};

/// Steps that are not counted: buffers grow.
const WARM_UP: usize = 2;

#[derive(Default)]
struct Watch {
    from: Option<Instant>,
    seconds: Vec<f64>,
}

impl Observer for Watch {
    fn on_event(&mut self, event: &Event<'_>) {
        match event {
            Event::StageStarted { stage: Stage::Reward, .. } => self.from = Some(Instant::now()),
            Event::Step { stage: Stage::Reward, .. } => {
                self.seconds.extend(self.from.map(|from| from.elapsed().as_secs_f64()));
                self.from = Some(Instant::now());
            }
            _ => {}
        }
    }
}

/// Median seconds of a step.
///
/// # Errors
/// If the run fails.
pub fn reward_step(model: &Path, threads: usize) -> Result<Numbers> {
    let sets = [
        ("model.policy", text(&policy_dir(model))?),
        ("data.pairs", text(&model.join("pairs.jsonl"))?),
        ("reward.batch_size", BATCH.to_string()),
        ("reward.steps", REWARD_STEPS.to_string()),
        ("reward.lr", "1e-5".to_owned()),
        ("reward.max_grad_norm", "1.0".to_owned()),
        ("checkpoint.every", "0".to_owned()),
        ("model.dtype", dtype()),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    let recipe = Recipe::load("trl-parity", &sets)?;
    let scratch = tempfile::tempdir()?;
    let options = RunOptions {
        out: scratch.path().join("run"),
        resume: false,
        after_halt: false,
        stages: Stages::Only(Stage::Reward),
        threads,
        clock: seconds,
    };
    let mut watch = Watch::default();
    tetherline::run(&recipe, &options, &mut watch)?;
    ensure!(watch.seconds.len() == REWARD_STEPS, "{} steps instead of {REWARD_STEPS}", watch.seconds.len());
    Ok(Numbers::from_iter([("step_s".to_owned(), json!(median(&watch.seconds[WARM_UP..])))]))
}
