//! The orthogonal choices of an algorithm: advantages, ratio, surrogate, aggregation, KL, penalties.
//!
//! Each enum names the peers that compute a variant. Where two peers differ both are here, and the default is the one
//! whose gradient is that of the stated objective. Which combinations make no sense is said in `combinations.rs`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a response's rewards become advantages.
///
/// Notation: S_i is the score of response i, g its group (the responses to one prompt), K_t = Σ_{t' ≥ t} β·k1_{t'} the
/// KL penalty still to come. All but [`Advantage::Gae`] need no value function, and none is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// Generalized advantage estimation with a critic (Schulman et al. 2016).
    #[default]
    Gae,
    /// (S_i − mean_g)/(std_g + 1e-6), std with n − 1: GRPO (Shao et al. 2024; verl `grpo`, OpenRLHF `group_norm`,
    /// TRL `scale_rewards = "group"`, whose ε is 1e-4).
    #[serde(alias = "grpo")]
    GroupStd,
    /// S_i − mean_g: Dr. GRPO (Liu et al. 2025; verl `norm_adv_by_std_in_grpo = False`, OpenRLHF `dr_grpo`, tinker).
    #[serde(alias = "dr_grpo")]
    GroupMean,
    /// S_i − mean of the others: RLOO (Ahmadian et al. 2024; TRL, verl, OpenRLHF `rloo`).
    #[serde(alias = "rloo")]
    LeaveOneOut,
    /// S_i − Σ_g len·S / Σ_g len: OPO (verl `opo`).
    #[serde(alias = "opo")]
    LengthWeighted,
    /// Discounted rewards to go, no baseline; whitened over the batch: REINFORCE++ (Hu 2025; verl, OpenRLHF `reinforce`).
    ReinforcePlusPlus,
    /// S_i − mean_g, whitened over the batch: REINFORCE++-baseline (verl, OpenRLHF `reinforce_baseline`).
    ReinforcePlusPlusBaseline,
    /// Rewards to go less the score of the greedy response to the same prompt: ReMax (Li et al. 2023; verl `remax`).
    Remax,
}

impl Advantage {
    /// Whether a value function is trained.
    pub fn needs_critic(self) -> bool {
        self == Self::Gae
    }

    /// Whether a response is compared with the others to its prompt.
    pub fn needs_group(self) -> bool {
        use Advantage::{GroupMean, GroupStd, LeaveOneOut, LengthWeighted, ReinforcePlusPlusBaseline};
        matches!(self, GroupStd | GroupMean | LeaveOneOut | LengthWeighted | ReinforcePlusPlusBaseline)
    }

    /// Whether advantages are whitened over the batch where the recipe does not say.
    pub fn whitens(self) -> bool {
        matches!(self, Self::Gae | Self::ReinforcePlusPlus | Self::ReinforcePlusPlusBaseline)
    }
}

/// How the KL penalty in the reward meets the baseline of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKl {
    /// The baseline is of scores alone, and a token's advantage then pays for the KL still to come, −K_t (OpenRLHF).
    /// The default: no token pays for KL before it, and std_g does not divide β.
    #[default]
    ToGo,
    /// A response's KL is part of its score, S_i − Σ_t β·k1_t, before the baseline (verl, TRL's RLOO). With
    /// [`Advantage::GroupStd`] the effective β is β/std_g: it depends on how far the scores of a group spread.
    InScore,
}

/// What the importance ratio is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    /// ρ_t = π_new(a_t)/π_old(a_t) (PPO).
    #[default]
    Token,
    /// s = exp(mean_t ln ρ_t), one for all tokens of a response; each token's gradient goes through s (GSPO, Zheng et al.
    /// 2025; verl `gspo`, TRL `importance_sampling_level = "sequence"`, OpenRLHF `gspo`). ln s is held to 10.
    Sequence,
    /// As `sequence`, with each ln ρ_t clipped to [−ε, ε_high] before the mean (GMPO; verl `geo_mean`).
    GeometricMean,
}

/// What is done with the ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surrogate {
    /// max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε_high)), with a dual clip if one is given (PPO).
    #[default]
    Clipped,
    /// −sg(clip(ρ, 1 − ε, 1 + ε_high))·A·log π: a clipped token still has a gradient (CISPO; verl `cispo`).
    Cispo,
    /// As `cispo` with the upper bound alone (MiniMax-M1; TRL `cispo`, whose `epsilon_high` is the bound 1 + ε_high
    /// itself).
    CispoUpper,
    /// −A·log π, without a ratio: right for one pass over fresh samples alone (REINFORCE; verl `gpg`).
    Reinforce,
}

/// How token losses of a minibatch become one number. n tokens, N rows, n_i tokens of row i.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Mean over all tokens, 1/n each (TRL's PPO and DAPO, verl `token-mean`, N+).
    TokenMean,
    /// Sum over the tokens of a sequence, mean over sequences: 1/N (verl `seq-mean-token-sum`).
    SeqMeanTokenSum,
    /// Mean over the tokens of a sequence, mean over sequences: 1/(N·n_i) (GRPO; verl `seq-mean-token-mean`, OpenRLHF).
    SeqMeanTokenMean,
    /// Sum over the tokens over a constant length L, mean over sequences: 1/(N·L) (Dr. GRPO; TRL `dr_grpo`).
    SeqMeanConstant(usize),
    /// Sum over all tokens over a constant length: 1/L (verl `seq-mean-token-sum-norm`, which despite its name does not
    /// divide by N, so that the loss grows with the batch).
    SumConstant(usize),
}

/// Where the penalty β·KL stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlIn {
    /// k1 subtracted from the reward of each token: the gradient of the whole sequence's KL (TRL's PPO, OpenAI 2019).
    #[default]
    Reward,
    /// Added to the loss (GRPO).
    Loss,
    /// Both, so that the policy pays twice. verl has two switches and prints a notice when both are on; here it has to be
    /// said in one word.
    RewardAndLoss,
}

impl KlIn {
    /// Whether the reward has it.
    pub fn reward(self) -> bool {
        self != Self::Loss
    }

    /// Whether the loss has it.
    pub fn loss(self) -> bool {
        self != Self::Reward
    }
}

/// The penalty in the loss; l = log π_new − log π_ref of a token, ρ = π_new/π_old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlLoss {
    /// ρ·k3 with the gradient through ρ, which is ρ·l: that of KL(π_new ‖ π_ref) at the tokens sampled by π_old, whatever
    /// π_old is (TRL's `use_bias_correction_kl`, DeepSeek-V3.2). The same as sg(ρ)·k2.
    #[default]
    Corrected,
    /// l²/2, gradient l: as above with π_new = π_old, biased after the first step (OpenRLHF `k2`, verl `mse`).
    K2,
    /// l: its expected gradient is zero (verl `kl`). Refused unless accepted.
    K1,
    /// e^(−l) − 1 + l, gradient 1 − e^(−l): that of the other divergence, KL(π_ref ‖ π) (GRPO, verl `low_var_kl`). Refused
    /// unless accepted.
    K3,
    /// |l| (verl `abs`). Refused unless accepted.
    Abs,
}

/// Divisor of the variance of n values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhitenVariance {
    /// n − 1 (TRL, verl).
    Unbiased,
    /// n (N+, OpenAI 2019).
    Population,
}

/// What happens to the score of a response that ran into the length limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MissingEos {
    /// Nothing.
    None,
    /// score ← score − x (TRL).
    Subtract(f64),
    /// score ← x (Huang et al.; OpenAI 2019).
    Replace(f64),
}

/// A penalty that rises over the last tokens before the length limit (DAPO's soft overlong punishment, eq. 13).
///
/// With the limit M: 0 up to M − `buffer` tokens, then linearly up to `penalty` at M.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlong {
    /// Tokens before the limit over which the penalty rises.
    pub buffer: usize,
    /// What the longest response pays, score units.
    pub penalty: f64,
}

impl Overlong {
    /// What a response of `tokens` tokens pays under a limit of `limit`; 0 or above.
    pub fn of(&self, tokens: usize, limit: usize) -> f64 {
        let over = tokens as f64 - (limit as f64 - self.buffer as f64);
        self.penalty * (over / self.buffer.max(1) as f64).clamp(0.0, 1.0)
    }
}

/// Where the score enters the per-token rewards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreAt {
    /// At the last token the policy wrote.
    LastToken,
    /// One place after the end of sequence, where a response has one; else at the last token (TRL).
    AfterEos,
}

/// Weights for rollouts whose sampler computes other log-probs than the trainer (`weights.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Correction {
    /// Each token by min(π_trainer/π_sampler, C) (TIS; verl, TRL, OpenRLHF).
    Token(f64),
    /// All tokens of a response by min(Π π_trainer/π_sampler, C).
    Sequence(f64),
}

/// An entropy coefficient that follows a target (Skywork-OR1; TRL's `use_adaptive_entropy`).
///
/// After each step c ← c + delta where the entropy was below the target, c − delta where it was above, in [0, max]. The
/// bonus counts only while the entropy is not above the target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntropyTarget {
    /// Entropy to hold, nats per token.
    pub target: f64,
    /// Change per step.
    #[serde(default = "default_delta")]
    pub delta: f64,
    /// Largest coefficient.
    #[serde(default = "default_max")]
    pub max: f64,
}

fn default_delta() -> f64 {
    0.005
}

fn default_max() -> f64 {
    1.0
}

impl EntropyTarget {
    /// The next coefficient after an entropy of `entropy` nats per token; the same where that is not a number.
    pub fn next(&self, coefficient: f64, entropy: f64) -> f64 {
        let step = if entropy < self.target {
            self.delta
        } else if entropy > self.target {
            -self.delta
        } else {
            0.0
        };
        (coefficient + step).clamp(0.0, self.max)
    }

    /// The coefficient of the bonus under this entropy: none above the target.
    pub fn in_force(&self, coefficient: f64, entropy: f64) -> f64 {
        if entropy > self.target { 0.0 } else { coefficient }
    }
}

/// As they are written in a recipe.
macro_rules! displayed {
    ($($choice:ty),*) => {$(
        impl fmt::Display for $choice {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}

displayed!(Advantage, GroupKl, Ratio, Surrogate, KlIn, KlLoss);

#[cfg(test)]
mod tests {
    use super::*;

    /// DAPO's example: 20480 tokens with a buffer of 4096.
    #[test]
    fn the_overlong_penalty_rises_over_the_buffer() {
        let overlong = Overlong { buffer: 4096, penalty: 1.0 };
        for (tokens, pays) in [(0, 0.0), (16384, 0.0), (18432, 0.5), (20480, 1.0), (30000, 1.0)] {
            assert_eq!(overlong.of(tokens, 20480), pays, "{tokens}");
        }
        assert_eq!(Overlong { buffer: 10, penalty: 2.0 }.of(5, 8), 2.0 * 0.7);
    }

    #[test]
    fn the_entropy_coefficient_moves_towards_the_target_within_its_bounds() {
        let c = EntropyTarget { target: 0.5, delta: 0.1, max: 0.25 };
        assert_eq!(c.next(0.1, 0.4), 0.2);
        assert_eq!(c.next(0.2, 0.4), 0.25);
        assert_eq!(c.next(0.05, 0.6), 0.0);
        assert_eq!(c.next(0.1, 0.5), 0.1);
        assert_eq!(c.next(0.1, f64::NAN), 0.1);
        assert_eq!((c.in_force(0.1, 0.6), c.in_force(0.1, 0.5)), (0.0, 0.1));
    }
}
