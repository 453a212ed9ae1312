//! The `[ppo]` section of a recipe.
//!
//! Defaults are those of Huang et al., "The N+ Implementation Details of RLHF with PPO" (2024):
//! 10⁶ episodes in batches of 512, four epochs of one minibatch, AdamW with ε = 1e-5, learning rate 3e-6
//! decaying linearly to 0. [`PpoConfig::trl_parity`] has the choices of TRL's `PPOTrainer` instead.
//!
//! The KL coefficient is not here: it belongs to the controller (`[kl]`).
//!
//! Two fields are switched off with `0`: `max_grad_norm` and `value_clip_range`. `0` (and not a missing
//! key) means off so that a fully resolved recipe reads back as it was written.

use crate::{
    Advantage, Aggregation, Correction, EntropyTarget, GroupKl, KlIn, KlLoss, MissingEos, Overlong, Ratio,
    ScoreAt, Surrogate, WhitenVariance,
};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use tetherline_core::{FieldError, LrSchedule};
use tetherline_kl::KlEstimator;
use tetherline_kl::placement::WrongGradient;

/// Hyperparameters of PPO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PpoConfig {
    /// Rollouts to collect; each is followed by `epochs` passes over it.
    pub steps: u64,
    /// Responses per rollout (episodes).
    pub batch_size: usize,
    /// Responses sampled for each prompt; divides `batch_size`.
    pub samples_per_prompt: usize,
    /// Passes over each rollout.
    pub epochs: usize,
    /// Optimizer steps per pass; divides `batch_size`.
    pub minibatches: usize,
    /// Rows per forward pass; gradients accumulate over a minibatch. None: the whole minibatch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,

    /// Peak learning rate.
    pub lr: f64,
    /// How the learning rate moves over `steps`.
    pub lr_schedule: LrSchedule,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// AdamW ε, added outside the square root (PyTorch).
    pub adam_eps: f64,
    /// AdamW β₁.
    pub beta1: f64,
    /// AdamW β₂.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradient norm at which gradients are scaled down; 0: never.
    #[serde(with = "zero_is_off")]
    pub max_grad_norm: Option<f64>,

    /// How rewards become advantages; all but `"gae"` make no value function.
    pub advantages: Advantage,
    /// How the KL penalty meets the baseline of a group.
    pub group_kl: GroupKl,
    /// Discount γ per token.
    pub gamma: f64,
    /// GAE λ.
    pub lam: f64,
    /// What the importance ratio is of.
    pub ratio: Ratio,
    /// What is done with it.
    pub surrogate: Surrogate,
    /// The ratio is clipped to [1 − clip_range, 1 + clip_range].
    pub clip_range: f64,
    /// Upper clip range where it differs from the lower ("clip higher", DAPO).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_range_high: Option<f64>,
    /// Bound c on ratio × |advantage| for negative advantages (dual clip, Ye et al. 2020); above 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f64>,
    /// A new value further than this from the old one gives no gradient; 0: no clipping.
    #[serde(with = "zero_is_off")]
    pub value_clip_range: Option<f64>,
    /// Weight of the value loss, which itself has a factor ½.
    pub vf_coef: f64,
    /// Weight of the entropy bonus; with `entropy_target`, its first value.
    pub entropy_coef: f64,
    /// Moves the weight of the entropy bonus towards an entropy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_target: Option<EntropyTarget>,
    /// How token losses become one number.
    pub aggregation: Aggregation,
    /// Stop the remaining epochs of a step when `approx_kl` (nats per token) exceeds 1.5 × this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_kl: Option<f64>,

    /// Where the KL penalty stands; its coefficient β is the controller's.
    pub kl_in: KlIn,
    /// The penalty in the reward. Any but k1 has a biased gradient, and has to be accepted.
    pub kl_reward: KlEstimator,
    /// The penalty in the loss.
    pub kl_loss: KlLoss,
    /// Whether a `kl_reward` or `kl_loss` whose gradient is not that of the KL is taken all the same, to reproduce a peer.
    pub kl_wrong_gradient: WrongGradient,
    /// Steps at the start in which the value function learns alone.
    pub critic_warmup: u64,

    /// Whiten advantages over the batch. None: as their authors do, which is `true` for `"gae"`,
    /// `"reinforce_plus_plus"` and `"reinforce_plus_plus_baseline"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whiten_advantages: Option<bool>,
    /// Scale per-token rewards to unit variance before GAE; their mean is kept.
    pub whiten_rewards: bool,
    /// Divisor of the variance in whitening.
    pub whiten_variance: WhitenVariance,
    /// What happens to the score of a response that has no end of sequence.
    pub missing_eos_penalty: MissingEos,
    /// What a response near the length limit pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlong: Option<Overlong>,
    /// Responses without an end of sequence do not enter the losses (DAPO's overlong filtering; TRL
    /// `mask_truncated_completions`).
    pub mask_truncated: bool,
    /// Where the score enters the per-token rewards.
    pub score_at: ScoreAt,
    /// Weights of tokens whose sampler computes other log-probs than the trainer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout_correction: Option<Correction>,
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            steps: 1954,
            batch_size: 512,
            samples_per_prompt: 1,
            epochs: 4,
            minibatches: 1,
            micro_batch: None,
            lr: 3e-6,
            lr_schedule: LrSchedule::Linear,
            warmup_steps: 0,
            adam_eps: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.0,
            max_grad_norm: Some(1.0),
            advantages: Advantage::Gae,
            group_kl: GroupKl::ToGo,
            gamma: 1.0,
            lam: 0.95,
            ratio: Ratio::Token,
            surrogate: Surrogate::Clipped,
            clip_range: 0.2,
            clip_range_high: None,
            dual_clip: None,
            value_clip_range: Some(0.2),
            vf_coef: 0.1,
            entropy_coef: 0.0,
            entropy_target: None,
            aggregation: Aggregation::TokenMean,
            target_kl: None,
            kl_in: KlIn::Reward,
            kl_reward: KlEstimator::K1,
            kl_loss: KlLoss::Corrected,
            kl_wrong_gradient: WrongGradient::Refuse,
            critic_warmup: 0,
            whiten_advantages: None,
            whiten_rewards: false,
            whiten_variance: WhitenVariance::Unbiased,
            missing_eos_penalty: MissingEos::Replace(-1.0),
            overlong: None,
            mask_truncated: false,
            score_at: ScoreAt::LastToken,
            rollout_correction: None,
        }
    }
}

impl PpoConfig {
    /// Whether advantages are whitened over the batch.
    pub fn whitens(&self) -> bool {
        self.whiten_advantages.unwrap_or(self.advantages.whitens())
    }

    /// The choices of TRL's `PPOTrainer` (1.12) where they differ from the defaults: Adam ε 1e-8, no
    /// gradient clipping, constant rate, score after EOS, no missing-EOS penalty.
    pub fn trl_parity() -> Self {
        Self {
            adam_eps: 1e-8,
            max_grad_norm: None,
            lr_schedule: LrSchedule::Constant,
            score_at: ScoreAt::AfterEos,
            missing_eos_penalty: MissingEos::None,
            ..Self::default()
        }
    }

    /// Checks every range, and that the choices go together.
    ///
    /// # Errors
    /// The first field that is out of range, or that another one excludes.
    pub fn validate(&self) -> Result<(), FieldError> {
        let need = |ok: bool, field: &str, value: &dyn Display, range: &str| {
            FieldError::require(ok, field, value, range)
        };
        let positive = |name: &str, x: f64| need(x.is_finite() && x > 0.0, name, &x, "a number above 0");
        let not_negative = |name: &str, x: f64| need(x.is_finite() && x >= 0.0, name, &x, "0 or above");
        let share = |name: &str, x: f64| need((0.0..=1.0).contains(&x), name, &x, "in [0, 1]");
        let below_one = |name: &str, x: f64| need((0.0..1.0).contains(&x), name, &x, "in [0, 1)");

        need(self.steps > 0, "steps", &self.steps, "at least 1")?;
        need(self.batch_size > 0, "batch_size", &self.batch_size, "at least 1")?;
        need(self.epochs > 0, "epochs", &self.epochs, "at least 1")?;
        let divides = |n: usize| n > 0 && self.batch_size.is_multiple_of(n);
        let of_batch = format!("at least 1 and a divisor of batch_size ({})", self.batch_size);
        need(divides(self.samples_per_prompt), "samples_per_prompt", &self.samples_per_prompt, &of_batch)?;
        need(divides(self.minibatches), "minibatches", &self.minibatches, &of_batch)?;
        if let Some(rows) = self.micro_batch {
            need(rows > 0, "micro_batch", &rows, "at least 1")?;
        }

        positive("lr", self.lr)?;
        let all = format!("at most steps ({})", self.steps);
        need(self.warmup_steps <= self.steps, "warmup_steps", &self.warmup_steps, &all)?;
        positive("adam_eps", self.adam_eps)?;
        below_one("beta1", self.beta1)?;
        below_one("beta2", self.beta2)?;
        not_negative("weight_decay", self.weight_decay)?;
        if let Some(x) = self.max_grad_norm {
            positive("max_grad_norm", x)?;
        }

        share("gamma", self.gamma)?;
        share("lam", self.lam)?;
        need(self.clip_range > 0.0 && self.clip_range < 1.0, "clip_range", &self.clip_range, "in (0, 1)")?;
        if let Some(x) = self.clip_range_high {
            positive("clip_range_high", x)?;
        }
        if let Some(x) = self.dual_clip {
            need(x.is_finite() && x > 1.0, "dual_clip", &x, "above 1")?;
        }
        if let Some(x) = self.value_clip_range {
            positive("value_clip_range", x)?;
        }
        not_negative("vf_coef", self.vf_coef)?;
        not_negative("entropy_coef", self.entropy_coef)?;
        if let Some(x) = self.target_kl {
            positive("target_kl", x)?;
        }
        match self.missing_eos_penalty {
            MissingEos::None => {}
            MissingEos::Subtract(x) => not_negative("missing_eos_penalty.subtract", x)?,
            MissingEos::Replace(x) => need(x.is_finite(), "missing_eos_penalty.replace", &x, "finite")?,
        }
        if let Some(e) = self.entropy_target {
            positive("entropy_target.target", e.target)?;
            positive("entropy_target.delta", e.delta)?;
            positive("entropy_target.max", e.max)?;
        }
        if let Some(o) = self.overlong {
            need(o.buffer > 0, "overlong.buffer", &o.buffer, "at least 1")?;
            positive("overlong.penalty", o.penalty)?;
        }
        if let Aggregation::SeqMeanConstant(n) | Aggregation::SumConstant(n) = self.aggregation {
            need(n > 0, "aggregation", &n, "a length of at least 1 token")?;
        }
        match self.rollout_correction {
            None => {}
            Some(Correction::Token(c)) => need(c >= 1.0, "rollout_correction.token", &c, "at least 1")?,
            Some(Correction::Sequence(c)) => need(c >= 1.0, "rollout_correction.sequence", &c, "at least 1")?,
        }
        self.check_combinations()
    }

    /// Should the remaining epochs be skipped? `approx_kl` in nats per token, mean over the last epoch.
    pub fn stops_early(&self, approx_kl: f64) -> bool {
        self.target_kl.is_some_and(|target| approx_kl > 1.5 * target)
    }
}

/// `None` is written as 0.
mod zero_is_off {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(x: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(x.unwrap_or(0.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
        let x = f64::deserialize(d)?;
        Ok((x != 0.0).then_some(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_is_the_default_and_reads_back() {
        let parsed: PpoConfig = toml::from_str("").unwrap();
        assert_eq!(parsed, PpoConfig::default());
        parsed.validate().unwrap();
        for config in [PpoConfig::default(), PpoConfig::trl_parity()] {
            config.validate().unwrap();
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<PpoConfig>(&text).unwrap(), config, "{text}");
        }
    }

    #[test]
    fn a_section_reads_as_documented() {
        let c: PpoConfig = toml::from_str(
            "max_grad_norm = 0\nmissing_eos_penalty = { subtract = 1.0 }\nscore_at = \"after_eos\"\n\
             aggregation = \"seq_mean_token_sum\"\nwhiten_variance = \"population\"\nlr_schedule = \"cosine\"",
        )
        .unwrap();
        assert_eq!(c.max_grad_norm, None);
        assert_eq!(c.missing_eos_penalty, MissingEos::Subtract(1.0));
        assert_eq!(c.score_at, ScoreAt::AfterEos);
        assert_eq!(c.aggregation, Aggregation::SeqMeanTokenSum);
        assert_eq!(c.whiten_variance, WhitenVariance::Population);
        let off: PpoConfig =
            toml::from_str("missing_eos_penalty = \"none\"\nvalue_clip_range = 0.0").unwrap();
        let group: PpoConfig = toml::from_str(
            "advantages = \"grpo\"\nsamples_per_prompt = 4\nkl_in = \"loss\"\nratio = \"sequence\"\n\
             aggregation = { seq_mean_constant = 64 }\nrollout_correction = { token = 2.0 }",
        )
        .unwrap();
        group.validate().unwrap();
        assert_eq!((group.advantages, group.whitens()), (Advantage::GroupStd, false));
        assert_eq!(toml::from_str::<PpoConfig>(&toml::to_string(&group).unwrap()).unwrap(), group);
        assert_eq!(off.missing_eos_penalty, MissingEos::None);
        assert_eq!(off.value_clip_range, None);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = toml::from_str::<PpoConfig>("clip_rnage = 0.2").unwrap_err().to_string();
        assert!(error.contains("clip_rnage"), "{error}");
    }

    #[test]
    fn every_range_is_checked() {
        for (line, field) in [
            ("steps = 0", "steps"),
            ("batch_size = 0", "batch_size"),
            ("epochs = 0", "epochs"),
            ("minibatches = 3", "minibatches"),
            ("samples_per_prompt = 0", "samples_per_prompt"),
            ("micro_batch = 0", "micro_batch"),
            ("lr = -1.0", "lr"),
            ("lr = nan", "lr"),
            ("warmup_steps = 2000", "warmup_steps"),
            ("adam_eps = 0.0", "adam_eps"),
            ("beta1 = 1.0", "beta1"),
            ("beta2 = -0.1", "beta2"),
            ("weight_decay = -1.0", "weight_decay"),
            ("max_grad_norm = -1.0", "max_grad_norm"),
            ("gamma = 1.1", "gamma"),
            ("lam = nan", "lam"),
            ("clip_range = 3.0", "clip_range"),
            ("clip_range_high = 0.0", "clip_range_high"),
            ("dual_clip = 1.0", "dual_clip"),
            ("value_clip_range = -0.2", "value_clip_range"),
            ("vf_coef = inf", "vf_coef"),
            ("entropy_coef = -0.1", "entropy_coef"),
            ("target_kl = 0.0", "target_kl"),
            ("missing_eos_penalty = { subtract = -1.0 }", "missing_eos_penalty.subtract"),
            ("missing_eos_penalty = { replace = inf }", "missing_eos_penalty.replace"),
            ("entropy_target = { target = 0.0 }", "entropy_target.target"),
            ("entropy_target = { target = 1.0, delta = -0.1 }", "entropy_target.delta"),
            ("overlong = { buffer = 0, penalty = 1.0 }", "overlong.buffer"),
            ("overlong = { buffer = 4, penalty = -1.0 }", "overlong.penalty"),
            ("aggregation = { seq_mean_constant = 0 }", "aggregation"),
            ("rollout_correction = { token = 0.5 }", "rollout_correction.token"),
            ("rollout_correction = { sequence = nan }", "rollout_correction.sequence"),
        ] {
            let config: PpoConfig = toml::from_str(line).unwrap();
            assert_eq!(config.validate().unwrap_err().field, field, "{line}");
        }
    }

    #[test]
    fn epochs_stop_at_one_and_a_half_times_the_target() {
        let config = PpoConfig { target_kl: Some(0.01), ..PpoConfig::default() };
        assert!(!config.stops_early(0.0149));
        assert!(config.stops_early(0.0151));
        assert!(!PpoConfig::default().stops_early(100.0));
    }
}
