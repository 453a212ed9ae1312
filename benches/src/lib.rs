//! The work that is timed, done by our crates through the interface the product itself uses.
//!
//! `cargo xtask bench` starts the binary `ours` once per measurement, so that start-up and peak memory are
//! those of the work alone, and prints its numbers beside those of `peers/*.py`. Both sides read the same
//! token ids, written by [`prepare`]. `docs/performance.md` says what is compared with what.

pub mod machine;
pub mod models;
pub mod ppo;
pub mod prepare;
pub mod reward_step;
pub mod sampling;
pub mod scaling;
pub mod time_to_reward;
pub mod train_step;

use serde_json::{Map, Value};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tetherline_models::{Engine, Precision};

/// Prompts of a PPO step, rows of a training step, pairs of a reward step.
pub const BATCH: usize = 32;
/// Tokens of every prompt.
pub const PROMPT: usize = 8;
/// New tokens of every response.
pub const NEW: usize = 64;
/// PPO updates of one run.
pub const UPDATES: usize = 3;
/// Optimizer steps of one run of reward training.
pub const REWARD_STEPS: usize = 12;

/// The numbers of one measurement, by key.
pub type Numbers = Map<String, Value>;

/// Whether linear layers compute with weights rounded to bf16, in all that this process measures.
static BF16: AtomicBool = AtomicBool::new(false);

/// Rounds the weights that linear layers compute with to bf16 from now on.
pub fn use_bf16() {
    BF16.store(true, Ordering::Relaxed);
}

/// An engine of the process's precision.
pub(crate) fn engine(threads: usize) -> anyhow::Result<Engine> {
    let precision = if BF16.load(Ordering::Relaxed) { Precision::Bf16 } else { Precision::F32 };
    Ok(Engine::new(threads).with_precision(precision)?)
}

/// The same as the value of `model.dtype`.
pub(crate) fn dtype() -> String {
    if BF16.load(Ordering::Relaxed) { "bf16" } else { "f32" }.to_owned()
}

/// The directory of the policy below a model directory made by [`prepare`].
pub fn policy_dir(model: &Path) -> std::path::PathBuf {
    model.join("policy")
}

/// The directory of the reward model, likewise.
pub fn reward_dir(model: &Path) -> std::path::PathBuf {
    model.join("reward")
}

/// A path as the value of a recipe's key.
///
/// # Errors
/// If it is not UTF-8.
pub(crate) fn text(path: &Path) -> anyhow::Result<String> {
    let whole = std::path::absolute(path)?;
    whole.to_str().map(str::to_owned).ok_or_else(|| anyhow::anyhow!("{} is not UTF-8", whole.display()))
}

/// The middle of the values, or the mean of the middle two; 0 for none.
pub fn median(values: &[f64]) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    match v.len() {
        0 => 0.0,
        n if n % 2 == 1 => v[n / 2],
        n => 0.5 * (v[n / 2 - 1] + v[n / 2]),
    }
}

/// Median seconds of `work`, run once to warm up and then at least `times` times and 0.5 s.
///
/// # Errors
/// The first error of `work`.
pub fn seconds_of(times: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    work()?;
    let (all, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < times || all.elapsed().as_secs_f64() < 0.5 {
        let start = Instant::now();
        work()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(&seconds))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
