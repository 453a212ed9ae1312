//! Which choices go together, and what may surprise about those that do.
//!
//! A combination is refused where it does not do what its words say: a group of one, a clip without a ratio, a penalty
//! without a gradient. What merely differs from a paper is allowed.

use crate::{Advantage, KlLoss, MissingEos, PpoConfig, Ratio, ScoreAt, Surrogate};
use tetherline_core::FieldError;
use tetherline_kl::KlEstimator;
use tetherline_kl::placement::{PenaltyForm, Placement, WrongGradient, check_placement};

impl PpoConfig {
    /// Refuses choices that make no sense together.
    pub(crate) fn check_combinations(&self) -> Result<(), FieldError> {
        let refuse = |field: &str, problem: String| Err(FieldError::new(field, problem));
        let kind = word(&self.advantages);
        if self.advantages.needs_group() && self.samples_per_prompt < 2 {
            return refuse(
                "samples_per_prompt",
                format!(
                    "advantages = {kind} compares a response with the others to its prompt: must be at least 2, got {}",
                    self.samples_per_prompt
                ),
            );
        }
        if !self.advantages.needs_critic() {
            self.check_without_critic(&kind)?;
        }
        if self.critic_warmup >= self.steps && self.critic_warmup > 0 {
            let problem = format!(
                "must be below steps ({}), or the policy never learns; got {}",
                self.steps, self.critic_warmup
            );
            return refuse("critic_warmup", problem);
        }
        if !self.advantages.needs_group() && self.group_kl != crate::GroupKl::ToGo {
            return refuse(
                "group_kl",
                format!("advantages = {kind} has no baseline of a group; leave it out"),
            );
        }
        if self.advantages.needs_group() && self.whiten_rewards {
            let problem =
                format!("scales rewards before GAE; advantages = {kind} compares scores as they are");
            return refuse("whiten_rewards", problem);
        }
        self.check_ratio(&kind)?;
        self.check_kl()?;
        if self.mask_truncated && self.missing_eos_penalty != MissingEos::None {
            let problem = "hides the very responses that missing_eos_penalty is to teach; set missing_eos_penalty = \
                           \"none\", or leave mask_truncated out";
            return refuse("mask_truncated", problem.to_owned());
        }
        if let Some(e) = self.entropy_target
            && self.entropy_coef > e.max
        {
            let problem =
                format!("must be at most entropy_target.max = {}, got {}", e.max, self.entropy_coef);
            return refuse("entropy_coef", problem);
        }
        Ok(())
    }

    fn check_without_critic(&self, kind: &str) -> Result<(), FieldError> {
        if self.score_at == ScoreAt::AfterEos {
            let problem = format!(
                "the place after EOS is there for its value, and advantages = {kind} has no value function; use \
                 \"last_token\""
            );
            return Err(FieldError::new("score_at", problem));
        }
        if self.critic_warmup > 0 {
            let problem = format!("advantages = {kind} has no value function to warm up");
            return Err(FieldError::new("critic_warmup", problem));
        }
        Ok(())
    }

    fn check_ratio(&self, kind: &str) -> Result<(), FieldError> {
        let refuse = |field: &str, problem: String| Err(FieldError::new(field, problem));
        let (ratio, surrogate) = (word(&self.ratio), word(&self.surrogate));
        if self.ratio != Ratio::Token && self.surrogate != Surrogate::Clipped {
            let problem =
                format!("{ratio} goes with surrogate = \"clipped\"; {surrogate} is of single tokens");
            return refuse("ratio", problem);
        }
        if self.dual_clip.is_some() && self.surrogate != Surrogate::Clipped {
            return refuse("dual_clip", format!("surrogate = {surrogate} is bounded already; leave it out"));
        }
        if self.surrogate == Surrogate::Reinforce && self.epochs * self.minibatches > 1 {
            let problem = format!(
                "\"reinforce\" has no ratio, so that it is right for samples of the policy as it is: with epochs = {} \
                 and minibatches = {} most steps are on older ones; set both to 1, or choose another surrogate",
                self.epochs, self.minibatches
            );
            return refuse("surrogate", problem);
        }
        if self.ratio == Ratio::GeometricMean {
            if self.dual_clip.is_some() {
                return refuse(
                    "dual_clip",
                    format!("ratio = {ratio} clips tokens before the mean; leave it out"),
                );
            }
            let to_go = self.kl_in.reward() && self.group_kl == crate::GroupKl::ToGo;
            if !self.advantages.needs_group() || to_go {
                let instead = "a group estimator with group_kl = \"in_score\" or kl_in = \"loss\"";
                let problem = format!(
                    "{ratio} takes one advantage for a whole response, and advantages = {kind} gives each token its \
                     own here; use {instead}, or ratio = \"sequence\""
                );
                return refuse("ratio", problem);
            }
        }
        Ok(())
    }

    fn check_kl(&self) -> Result<(), FieldError> {
        let accept = "; kl_wrong_gradient = \"accept\" takes it all the same";
        if self.kl_reward != KlEstimator::K1 {
            if !self.kl_in.reward() {
                let problem = "kl_in = \"loss\" has no penalty in the reward; leave it out, or set kl_in";
                return Err(FieldError::new("kl_reward", problem));
            }
            check_placement(self.kl_reward.into(), Placement::InReward, self.kl_wrong_gradient)
                .map_err(|e| FieldError::new("kl_reward", format!("{e}{accept}")))?;
        }
        self.check_kl_loss(accept)
    }

    /// What stands in the loss.
    fn loss_form(&self) -> PenaltyForm {
        match self.kl_loss {
            KlLoss::Corrected | KlLoss::K2 => PenaltyForm::K2,
            KlLoss::K1 => PenaltyForm::K1,
            KlLoss::K3 => PenaltyForm::K3,
            KlLoss::Abs => PenaltyForm::Abs,
        }
    }

    fn check_kl_loss(&self, accept: &str) -> Result<(), FieldError> {
        if !self.kl_in.loss() {
            let problem = "kl_in = \"reward\" has no penalty in the loss; leave it out, or set kl_in";
            return if self.kl_loss == KlLoss::Corrected {
                Ok(())
            } else {
                Err(FieldError::new("kl_loss", problem))
            };
        }
        check_placement(self.loss_form(), Placement::InLoss, self.kl_wrong_gradient)
            .map(drop)
            .map_err(|e| FieldError::new("kl_loss", format!("{e}{accept}")))
    }

    /// What is allowed and yet may surprise, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.kl_in.reward() && self.kl_in.loss() {
            out.push("ppo.kl_in = \"reward_and_loss\": the policy pays β·KL twice".to_owned());
        }
        // What was accepted, with what is wrong with it.
        let wrong = |form, place| check_placement(form, place, WrongGradient::Refuse).err();
        if self.kl_in.reward()
            && let Some(e) = wrong(self.kl_reward.into(), Placement::InReward)
        {
            let of = match self.kl_reward {
                KlEstimator::K2 => {
                    "E[½l²·∇ln π]: what it charges becomes less likely, so it pulls back tokens that became more likely than \
                     π_ref, and pushes those that became less likely further down"
                }
                KlEstimator::K3 => {
                    "E[(e^(−l) − 1 + l)·∇ln π]: of second order in l near π_ref, where it hardly pulls, and it pushes tokens \
                     that became less likely than π_ref further down, by e^(−l)"
                }
                _ => {
                    "E[|l|·∇ln π]: what it charges becomes less likely, so it pushes tokens that became less likely than π_ref \
                     further down"
                }
            };
            out.push(format!("ppo.kl_reward = {}: {}; on-policy it is {of}", name(self.kl_reward), e.reason));
        }
        if self.kl_in.loss()
            && let Some(e) = wrong(self.loss_form(), Placement::InLoss)
        {
            out.push(format!("ppo.kl_loss = {}: {}", word(&self.kl_loss), e.reason));
        }
        if self.advantages == Advantage::GroupStd
            && self.group_kl == crate::GroupKl::InScore
            && self.kl_in.reward()
        {
            let text = "ppo.group_kl = \"in_score\" with \"group_std\": a group's standard deviation divides β too, so that \
                        the penalty depends on how far its scores spread";
            out.push(text.to_owned());
        }
        if self.ratio == Ratio::Sequence && self.advantages.needs_critic() {
            let text = "ppo.ratio = \"sequence\" with GAE: every token's own advantage is multiplied by the ratio of the \
                        whole response";
            out.push(text.to_owned());
        }
        out
    }
}

/// An estimator as it is written in a recipe.
fn name(estimator: KlEstimator) -> &'static str {
    match estimator {
        KlEstimator::K1 => "\"k1\"",
        KlEstimator::K2 => "\"k2\"",
        KlEstimator::K3 => "\"k3\"",
        KlEstimator::Abs => "\"abs\"",
    }
}

/// A choice as it is written in a recipe.
fn word(choice: &impl std::fmt::Display) -> String {
    format!("\"{choice}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Option<(String, String)> {
        let config: PpoConfig = toml::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        config.validate().err().map(|e| (e.field, e.problem))
    }

    #[test]
    fn combinations_that_make_no_sense_are_refused_with_the_way_out() {
        let group = "samples_per_prompt = 4\nadvantages = \"rloo\"\n";
        let once = "epochs = 1\nminibatches = 1\n";
        for (text, field, says) in [
            ("advantages = \"group_std\"".to_owned(), "samples_per_prompt", "at least 2"),
            (format!("{group}score_at = \"after_eos\""), "score_at", "last_token"),
            (format!("{group}critic_warmup = 3"), "critic_warmup", "no value function"),
            (format!("{group}whiten_rewards = true"), "whiten_rewards", "before GAE"),
            ("critic_warmup = 2000".to_owned(), "critic_warmup", "never learns"),
            ("group_kl = \"in_score\"".to_owned(), "group_kl", "no baseline"),
            (format!("{once}surrogate = \"cispo\"\nratio = \"sequence\""), "ratio", "single tokens"),
            ("surrogate = \"cispo\"\ndual_clip = 3.0".to_owned(), "dual_clip", "leave it out"),
            ("surrogate = \"reinforce\"".to_owned(), "surrogate", "epochs = 4"),
            (
                format!("{once}minibatches = 2\nsurrogate = \"reinforce\"").replace("minibatches = 1\n", ""),
                "surrogate",
                "minibatches = 2",
            ),
            ("ratio = \"geometric_mean\"".to_owned(), "ratio", "each token its own"),
            (format!("{group}ratio = \"geometric_mean\""), "ratio", "in_score"),
            (
                format!("{group}group_kl = \"in_score\"\nratio = \"geometric_mean\"\ndual_clip = 2.0"),
                "dual_clip",
                "before the mean",
            ),
            ("kl_loss = \"k2\"".to_owned(), "kl_loss", "kl_in"),
            ("kl_in = \"loss\"\nkl_loss = \"k1\"".to_owned(), "kl_loss", "zero"),
            ("kl_reward = \"k3\"".to_owned(), "kl_reward", "biased"),
            ("kl_reward = \"k2\"".to_owned(), "kl_reward", "kl_wrong_gradient = \"accept\""),
            (
                "kl_reward = \"k2\"\nkl_in = \"loss\"\nkl_wrong_gradient = \"accept\"".to_owned(),
                "kl_reward",
                "kl_in",
            ),
            ("kl_in = \"loss\"\nkl_loss = \"k3\"".to_owned(), "kl_loss", "kl_wrong_gradient = \"accept\""),
            ("mask_truncated = true".to_owned(), "mask_truncated", "missing_eos_penalty"),
            ("entropy_coef = 2.0\nentropy_target = { target = 1.0 }".to_owned(), "entropy_coef", "at most"),
        ] {
            let (at, problem) = refused(&text).unwrap_or_else(|| panic!("{text} was accepted"));
            assert!(at == field && problem.contains(says), "{text}\n{at}: {problem}");
        }
    }

    #[test]
    fn the_published_algorithms_are_accepted() {
        for text in [
            "samples_per_prompt = 8\nadvantages = \"grpo\"\nkl_in = \"loss\"\naggregation = \"seq_mean_token_mean\"",
            "samples_per_prompt = 8\nadvantages = \"dr_grpo\"\naggregation = { seq_mean_constant = 64 }",
            "samples_per_prompt = 8\nadvantages = \"grpo\"\nclip_range_high = 0.28\noverlong = { buffer = 4, penalty = 1.0 }",
            "samples_per_prompt = 4\nadvantages = \"rloo\"\ngroup_kl = \"in_score\"\nepochs = 1\nsurrogate = \"reinforce\"",
            "samples_per_prompt = 4\nadvantages = \"grpo\"\nratio = \"sequence\"\nclip_range = 3e-4\nclip_range_high = 4e-4",
            "samples_per_prompt = 4\nadvantages = \"grpo\"\nkl_in = \"loss\"\nratio = \"geometric_mean\"\nclip_range = 0.4",
            "samples_per_prompt = 4\nadvantages = \"grpo\"\nsurrogate = \"cispo_upper\"\nclip_range_high = 4.0",
            "advantages = \"reinforce_plus_plus\"",
            "samples_per_prompt = 4\nadvantages = \"reinforce_plus_plus_baseline\"\nkl_in = \"loss\"\nkl_loss = \"k2\"",
            "advantages = \"remax\"\nepochs = 1",
            "kl_in = \"loss\"\nkl_loss = \"k3\"\nkl_wrong_gradient = \"accept\"",
            "mask_truncated = true\nmissing_eos_penalty = \"none\"",
            "critic_warmup = 10",
        ] {
            assert_eq!(refused(text), None, "{text}");
        }
    }

    #[test]
    fn what_may_surprise_is_said() {
        let of = |text: &str| toml::from_str::<PpoConfig>(text).unwrap().warnings().len();
        assert_eq!(of(""), 0);
        assert_eq!(of("kl_in = \"reward_and_loss\""), 1);
        assert_eq!(of("samples_per_prompt = 2\nadvantages = \"grpo\"\ngroup_kl = \"in_score\""), 1);
    }

    /// What was accepted in spite of its gradient is warned of, with what is wrong with it.
    #[test]
    fn accepted_penalties_are_warned_of() {
        let warnings = |text: &str| {
            let text = format!("kl_wrong_gradient = \"accept\"\n{text}");
            let config: PpoConfig = toml::from_str(&text).unwrap();
            config.validate().unwrap();
            config.warnings().join("\n")
        };
        for (kind, bias) in [("k2", "½l²"), ("k3", "hardly pulls"), ("abs", "|l|")] {
            let text = warnings(&format!("kl_reward = \"{kind}\""));
            assert!(text.contains(&format!("kl_reward = \"{kind}\"")) && text.contains(bias), "{text}");
            assert!(text.contains("further down"), "{text}");
        }
        assert!(warnings("kl_in = \"loss\"\nkl_loss = \"k3\"").contains("another divergence"));
        assert_eq!(warnings(""), "");
    }
}
