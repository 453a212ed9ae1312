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
    /// The same for our side in bf16.
    pub(super) goal_bf16: Option<[f64; 2]>,
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    TokensPerSecond,
    Gflops,
    /// Steps, responses, nats: the fewer, the better.
    Count,
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
            Unit::Count => "",
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
    /// The models it is done on.
    pub(super) models: &'static [&'static str],
    /// Whether our side is that of another work, here beside another peer: nothing of its own without that.
    pub(super) again: bool,
    /// Whether it takes minutes and is left out unless `--only` names it.
    pub(super) named: bool,
}

impl Work {
    /// Whether it is also measured in bf16.
    pub(super) fn has_bf16(&self) -> bool {
        self.metrics.iter().any(|m| m.goal_bf16.is_some())
    }
}

const fn work(name: &'static str, title: &'static str, metrics: &'static [Metric]) -> Work {
    Work { name, title, peer: None, ours: &[], metrics, models: &["S", "M"], again: false, named: false }
}

const fn metric(ours: &'static str, key: &'static str, label: &'static str, unit: Unit) -> Metric {
    Metric { key, label, ours, unit, goal: None, goal_bf16: None }
}

const fn goal(metric: Metric, s: f64, m: f64) -> Metric {
    Metric { goal: Some([s, m]), ..metric }
}

const fn goal_bf16(metric: Metric, s: f64, m: f64) -> Metric {
    Metric { goal_bf16: Some([s, m]), ..metric }
}

/// Tokens per second of `sampling` at a batch size.
const fn rate(key: &'static str, label: &'static str) -> Metric {
    metric("sampling", key, label, Unit::TokensPerSecond)
}

pub(super) const WORKS: &[Work] = &[
    Work {
        peer: Some("ppo.py"),
        ours: &["ppo", "ppo-best"],
        ..work(
            "ppo",
            "PPO iteration, 32 prompts of 8, 64 new, 4 epochs, value model (TRL 1.12)",
            &[
                goal_bf16(goal(metric("ppo", "total_s", "iteration", Unit::Seconds), 6.0, 1.5), 6.0, 2.5),
                metric("ppo", "rollout_s", "  rollout", Unit::Seconds),
                metric("ppo", "scoring_s", "  scoring", Unit::Seconds),
                metric("ppo", "update_s", "  update", Unit::Seconds),
                goal_bf16(
                    goal(metric("ppo-best", "total_s", "best settings", Unit::Seconds), 12.0, 4.0),
                    12.0,
                    4.0,
                ),
                metric("ppo-best", "rollout_s", "  rollout", Unit::Seconds),
                metric("ppo-best", "scoring_s", "  scoring", Unit::Seconds),
                metric("ppo-best", "update_s", "  update", Unit::Seconds),
            ],
        )
    },
    Work {
        peer: Some("sampling.py"),
        ours: &["sampling"],
        ..work(
            "sampling",
            "Sampling, prompts of 8, 64 new (transformers generate)",
            &[
                goal(rate("b1_tok_s", "batch 1"), 80.0, 12.0),
                goal(rate("b8_tok_s", "batch 8"), 50.0, 8.0),
                goal(rate("b32_tok_s", "batch 32"), 18.0, 4.5),
            ],
        )
    },
    Work {
        peer: Some("llama.py"),
        ours: &["sampling"],
        again: true,
        ..work(
            "llama",
            "Sampling, the same (llama.cpp, f32)",
            &[
                goal(rate("b1_tok_s", "batch 1"), 1.0, 1.0),
                goal(rate("b8_tok_s", "batch 8"), 1.0, 1.0),
                goal(rate("b32_tok_s", "batch 32"), 1.0, 1.0),
            ],
        )
    },
    Work {
        peer: Some("train_step.py"),
        ours: &["train-step"],
        ..work(
            "train-step",
            "Training step: forward, backward, AdamW on 32 × 72 tokens (torch, sdpa)",
            &[goal_bf16(goal(metric("train-step", "step_s", "step", Unit::Seconds), 4.0, 1.45), 6.0, 2.5)],
        )
    },
    Work {
        peer: Some("reward_step.py"),
        ours: &["reward-step"],
        ..work(
            "reward-step",
            "Reward step: 32 pairs of 24 to 72 tokens (TRL 1.16 RewardTrainer, pads)",
            &[goal(metric("reward-step", "step_s", "step", Unit::Seconds), 6.0, 2.0)],
        )
    },
    Work {
        peer: Some("time_to_reward.py"),
        ours: &["time-to-reward"],
        models: &["S"],
        named: true,
        ..work(
            "time-to-reward",
            "Time to a reward of 4.1 of 5 (TRL 1.12 PPOTrainer; each process another seed)",
            &[
                goal(metric("time-to-reward", "reached_s", "seconds", Unit::Seconds), 10.0, 10.0),
                metric("time-to-reward", "steps", "steps", Unit::Count),
                metric("time-to-reward", "episodes", "responses", Unit::Count),
                metric("time-to-reward", "kl", "KL, nats/sequence", Unit::Count),
            ],
        )
    },
    Work {
        ours: &["gemm-peak"],
        ..work(
            "gemm-peak",
            "Multiply-adds in registers",
            &[metric("gemm-peak", "fma_gflops", "f32", Unit::Gflops)],
        )
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
