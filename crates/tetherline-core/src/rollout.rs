//! What sampling produced, and what each later stage adds to it. No stage writes back.

use crate::{PromptBatch, Ragged, TokenId};
use serde::{Deserialize, Serialize};

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model wrote an end-of-sequence token (kept as the last token of the response).
    Eos,
    /// A stop string appeared.
    StopString,
    /// `max_new_tokens` were written.
    Length,
}

/// Sampled responses with everything the update needs, one row per sample.
///
/// Every per-token array has one entry per **response** token. Log-probs are natural logs, of the
/// distribution tempered by `temperature` and before top-k/top-p.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The prompts, in row order.
    pub prompts: PromptBatch,
    /// Response token ids.
    pub responses: Ragged<TokenId>,
    /// Responses as text (specials skipped).
    pub texts: Vec<String>,
    /// Why each response ended.
    pub stop: Vec<StopReason>,
    /// log π_old of each sampled token, nats.
    pub logprobs: Ragged<f32>,
    /// log π_ref of the same tokens, nats. Empty rows until the reference has been run.
    pub ref_logprobs: Ragged<f32>,
    /// Entropy of the policy's distribution at each token, nats.
    pub entropy: Ragged<f32>,
    /// Exact full-vocabulary KL(π‖π_ref) at each position, nats per token, where measured.
    pub kl_exact: Option<Ragged<f32>>,
    /// Value estimate at each response token (the state *before* the token). Empty rows until scored.
    pub values: Ragged<f32>,
    /// Value after the last token of each row; used when the score is placed after EOS.
    pub bootstrap_values: Option<Vec<f32>>,
    /// Which response tokens the policy wrote. `None`: all of them.
    pub written: Option<Ragged<bool>>,
    /// Version of the policy weights that sampled these rows (the update counter).
    pub policy_version: u64,
    /// Sampling temperature; both policy and reference are divided by it.
    pub temperature: f32,
}

/// A named part of a score and its weight already applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedScore {
    /// Name of the part, e.g. `"reward_model"` or `"rule.length"`.
    pub name: String,
    /// One weighted value per row.
    pub values: Vec<f32>,
}

/// A rollout with one score per response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredRollout {
    /// The rollout.
    pub rollout: Rollout,
    /// The score of each response before penalties: the sum of `parts`.
    pub raw_scores: Vec<f32>,
    /// The score that PPO maximises: `raw_scores` after the missing-EOS penalty.
    pub scores: Vec<f32>,
    /// The named parts of `raw_scores`.
    pub parts: Vec<NamedScore>,
    /// Rows that were penalised for having no end of sequence.
    pub penalized: Vec<bool>,
    /// Score of the greedy response to each row's prompt, penalties included; where advantages are measured from it (ReMax).
    #[serde(default)]
    pub baselines: Option<Vec<f32>>,
}

/// Host-side result of shaping and GAE; per-token rows match `responses`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advantages {
    /// The k1 estimate log π_old − log π_ref of each token, nats.
    pub kl: Ragged<f32>,
    /// Per-token reward: −β·kl, plus the score at its place.
    pub rewards: Ragged<f32>,
    /// Advantages (whitened if configured).
    pub advantages: Ragged<f32>,
    /// Returns (targets of the value loss). One longer than the response where the score sits after EOS.
    pub returns: Ragged<f32>,
    /// The KL coefficient of each row.
    pub kl_coef: Vec<f64>,
    /// Tokens that enter the losses: those that the policy wrote, in rows that take part. `None`: all.
    #[serde(default)]
    pub counted: Option<Ragged<bool>>,
    /// Constant weight of each token in the policy loss. `None`: 1.
    #[serde(default)]
    pub weights: Option<Ragged<f32>>,
}

/// Means over one PPO update (all epochs and minibatches). Keys in `metrics.jsonl` say the TRL name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateStats {
    /// Clipped policy loss.
    pub policy_loss: f64,
    /// Clipped value loss, before `vf_coef`.
    pub value_loss: f64,
    /// β·KL in the loss; 0 where it is in the reward.
    #[serde(default)]
    pub kl_loss: f64,
    /// Mean importance weight of tokens that another engine sampled; 1 without one.
    #[serde(default)]
    pub correction_mean: f64,
    /// Entropy of the policy distribution, nats per token.
    pub entropy: f64,
    /// ½(log π_new − log π_old)², mean over tokens, nats per token.
    pub approx_kl: f64,
    /// Share of tokens whose ratio was clipped.
    pub clip_frac: f64,
    /// Share of tokens whose value was clipped.
    pub value_clip_frac: f64,
    /// Mean importance ratio.
    pub ratio_mean: f64,
    /// Largest importance ratio seen.
    pub ratio_max: f64,
    /// Gradient norm before clipping, mean over optimizer steps.
    pub grad_norm: f64,
    /// 1 − Var(return − value)/Var(return).
    pub explained_variance: f64,
    /// Optimizer steps taken.
    pub optimizer_steps: u64,
}
