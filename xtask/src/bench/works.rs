//! What is measured, and the goals. PPO, training and reward steps are times, sampling is a rate.

/// A number that a process prints.
pub(super) struct Metric {
    /// Its key in the line of JSON.
    pub(super) key: &'static str,
    /// What it is called in a table.
    pub(super) label: &'static str,
    /// Which of our works it is read from.
    pub(super) ours: &'static str,
    pub(super) unit: Unit,
    /// How many times better than the peer we want to be, on S and M.
    pub(super) goal: Option<[f64; 2]>,
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    TokensPerSecond,
    Gflops,
}

impl Unit {
    /// Whether more of it is better.
    pub(super) fn is_rate(self) -> bool {
        matches!(self, Unit::TokensPerSecond | Unit::Gflops)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::TokensPerSecond => "tok/s",
            Unit::Gflops => "GFLOP/s",
        }
    }
}

/// One piece of work, as both sides do it.
pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// The peer's script in `benches/peers`.
    pub(super) peer: Option<&'static str>,
    /// Subcommands of `ours`.
    pub(super) ours: &'static [&'static str],
    pub(super) metrics: &'static [Metric],
}

const fn metric(ours: &'static str, key: &'static str, label: &'static str, unit: Unit) -> Metric {
    Metric { key, label, ours, unit, goal: None }
}

const fn goal(metric: Metric, s: f64, m: f64) -> Metric {
    Metric { goal: Some([s, m]), ..metric }
}

pub(super) const WORKS: &[Work] = &[
    Work {
        name: "ppo",
        title: "PPO iteration: 32 prompts of 8 tokens, 64 new, 4 epochs, separate value model (TRL 1.12 PPOTrainer)",
        peer: Some("ppo.py"),
        ours: &["ppo", "ppo-best"],
        metrics: &[
            goal(metric("ppo", "total_s", "iteration", Unit::Seconds), 6.0, 1.5),
            metric("ppo", "rollout_s", "  rollout", Unit::Seconds),
            metric("ppo", "scoring_s", "  scoring", Unit::Seconds),
            metric("ppo", "update_s", "  update", Unit::Seconds),
            goal(metric("ppo-best", "total_s", "best settings", Unit::Seconds), 12.0, 4.0),
            metric("ppo-best", "rollout_s", "  rollout", Unit::Seconds),
            metric("ppo-best", "scoring_s", "  scoring", Unit::Seconds),
            metric("ppo-best", "update_s", "  update", Unit::Seconds),
        ],
    },
    Work {
        name: "sampling",
        title: "Sampling: prompts of 8 tokens, 64 new (transformers generate)",
        peer: Some("sampling.py"),
        ours: &["sampling"],
        metrics: &[
            goal(metric("sampling", "b1_tok_s", "batch 1", Unit::TokensPerSecond), 80.0, 12.0),
            goal(metric("sampling", "b8_tok_s", "batch 8", Unit::TokensPerSecond), 50.0, 8.0),
            goal(metric("sampling", "b32_tok_s", "batch 32", Unit::TokensPerSecond), 18.0, 4.5),
        ],
    },
    Work {
        name: "train-step",
        title: "Training step: forward, backward, AdamW on 32 × 72 tokens (torch, sdpa)",
        peer: Some("train_step.py"),
        ours: &["train-step"],
        metrics: &[goal(metric("train-step", "step_s", "step", Unit::Seconds), 4.0, 1.45)],
    },
    Work {
        name: "reward-step",
        title: "Reward step: 32 pairs of 24 to 72 tokens (TRL 1.16 RewardTrainer, which pads)",
        peer: Some("reward_step.py"),
        ours: &["reward-step"],
        metrics: &[goal(metric("reward-step", "step_s", "step", Unit::Seconds), 6.0, 2.0)],
    },
    Work {
        name: "gemm-peak",
        title: "Multiply-adds in registers",
        peer: None,
        ours: &["gemm-peak"],
        metrics: &[metric("gemm-peak", "fma_gflops", "f32", Unit::Gflops)],
    },
];

/// Tokens of a training step.
pub(super) const STEP_TOKENS: f64 = 32.0 * 72.0;
/// Goals of the summary, on S and M: times less memory; seconds to the first step; two threads against one;
/// share of the matrix-product peak.
pub(super) const MEMORY: [f64; 2] = [15.0, 5.0];
pub(super) const STARTUP_S: [f64; 2] = [0.1, 0.3];
pub(super) const SECOND_CORE: [f64; 2] = [1.9, 1.9];
pub(super) const GEMM_SHARE: [f64; 2] = [0.65, 0.85];
