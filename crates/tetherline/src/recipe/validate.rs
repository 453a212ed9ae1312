//! Checks across a whole recipe: every section's own, and what a stage asks of several.

use super::{Fault, ModelSource, Recipe, RecipeError, ValueModel};
use crate::Stages;
use tetherline_core::{FieldError, Stage};
use tetherline_ppo::{Advantage, ScoreAt};

impl Recipe {
    /// Checks every value that is given, and that every file and directory named exists.
    ///
    /// # Errors
    /// The first field that is wrong, as a dotted path from the top of the recipe.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::require(
            i64::try_from(self.seed).is_ok(),
            "seed",
            self.seed,
            "at most 9223372036854775807 (TOML has no larger integer)",
        )?;
        // It names a directory under runs/.
        let plain = !self.name.contains(['/', '\\', '\0']) && !self.name.starts_with('.');
        FieldError::require(
            plain,
            "name",
            format!("{:?}", self.name),
            "without `/` and `\\`, and not start with `.`",
        )?;
        FieldError::require(self.threads <= 1024, "threads", self.threads, "at most 1024 (0: every core)")?;
        if let Some(sft) = &self.sft {
            sft.validate().map_err(under("sft"))?;
        }
        if let Some(dpo) = &self.dpo {
            dpo.validate().map_err(under("dpo"))?;
            if self.kl.reference.is_some_and(|r| r.moves()) {
                let problem =
                    "moves the reference after updates of PPO; with [dpo] it stands still, leave it out";
                return Err(FieldError::new("kl.reference", problem));
            }
        }
        self.data.chat.validate().map_err(under("data.chat"))?;
        self.reward.validate().map_err(under("reward"))?;
        let weight = self.reward.model_weight;
        FieldError::require(weight.is_finite(), "reward.model_weight", weight, "a number")?;
        self.validate_normalize()?;
        self.ppo.validate().map_err(under("ppo"))?;
        self.validate_algorithm()?;
        self.validate_cost()?;
        self.validate_environment()?;
        self.kl.validate().map_err(|e| FieldError::new(format!("kl.{}", e.field), e.problem))?;
        self.trial.validate().map_err(under("trial"))?;
        self.fault.iter().try_for_each(Fault::validate).map_err(under("fault"))?;
        let problem = "a fault breaks training on purpose: set allow_faults = true, or leave [[fault]] out";
        if !self.fault.is_empty() && !self.allow_faults {
            return Err(FieldError::new("fault", problem));
        }
        self.sampling.validate_for_ppo().map_err(under("sampling"))?;
        self.eval.validate().map_err(under("eval"))?;
        self.checkpoint.validate().map_err(under("checkpoint"))?;
        self.validate_models()?;
        self.validate_files()
    }

    /// Checks that everything the stages need is given.
    ///
    /// # Errors
    /// [`RecipeError::Missing`], with the flag that would give it.
    pub fn check(&self, stages: Stages) -> Result<(), RecipeError> {
        let missing = |key: &str, problem: String| Err(RecipeError::Missing(FieldError::new(key, problem)));
        if self.model.policy.is_empty() {
            let form = "give it in the recipe or with --set model.policy=DIR (\"frontdesk\", a model \
                        directory or a hub id)";
            return missing("model.policy", format!("missing: {form}"));
        }
        let trains = self.trains_reward_model();
        let samples = self.dpo.is_none() && stages.include(Stage::Ppo);
        let evaluates = self.dpo.is_some() && stages.include(Stage::Eval) && self.eval.prompts > 0;
        if (samples || evaluates) && !self.uses_reward_model() && self.reward.rule.is_empty() {
            let problem =
                "nothing scores the responses: reward.model_weight is 0 and there is no [[reward.rule]]";
            return missing("reward", problem.to_owned());
        }
        if self.data.world.is_some() {
            return Ok(());
        }
        let data = &self.data;
        let sft = stages.include(Stage::Sft) && self.runs_sft();
        let reward = stages.include(Stage::Reward) && trains;
        let ppo = samples;
        let dpo = self.dpo.is_some() && stages.include(Stage::Dpo);
        let eval = stages.include(Stage::Eval) && data.eval_prompts.is_none() && self.eval.prompts > 0;
        let needed: [(&str, bool, &str); 4] = [
            ("data.sft", sft && data.sft.is_none(), "supervised fine-tuning"),
            (
                "data.pairs",
                reward && data.pairs.is_none(),
                "training a reward model (or give model.reward, or set reward.model_weight = 0 and add a \
                 [[reward.rule]])",
            ),
            ("data.pairs", dpo && data.pairs.is_none(), "direct preference optimisation"),
            ("data.prompts", (ppo || eval) && data.prompts.is_none(), "PPO and evaluation"),
        ];
        match needed.into_iter().find(|(_, is_missing, _)| *is_missing) {
            Some((key, _, why)) => {
                missing(key, format!("missing, and needed for {why}; --set {key}=FILE gives it"))
            }
            None => Ok(()),
        }
    }

    /// Whether there is anything for SFT to do.
    pub fn runs_sft(&self) -> bool {
        self.sft.as_ref().is_some_and(|s| !s.is_skipped())
    }

    /// Whether a reward model is part of the score.
    pub fn uses_reward_model(&self) -> bool {
        self.reward.model_weight != 0.0
    }

    /// How many reward models score.
    pub fn reward_members(&self) -> usize {
        match &self.model.reward {
            _ if !self.uses_reward_model() => 0,
            Some(given) => given.0.len(),
            None => self.reward.ensemble.members,
        }
    }

    /// Whether a reward model is trained (rather than loaded, or not used).
    pub fn trains_reward_model(&self) -> bool {
        self.uses_reward_model() && self.model.reward.is_none()
    }

    /// Sources whose scores are normalised.
    fn validate_normalize(&self) -> Result<(), FieldError> {
        let reward = &self.reward;
        let refuse = |problem: String| Err(FieldError::new("reward.normalize", problem));
        if !reward.normalize.is_empty() && reward.normalize_samples == 0 {
            return refuse("needs samples to measure: set reward.normalize_samples to 2 or more".into());
        }
        for name in &reward.normalize {
            let rule = reward.rule.iter().find(|rule| rule.name() == name);
            let weight = match rule {
                Some(rule) => rule.weight(),
                None if name == "reward_model" && self.trains_reward_model() => {
                    return refuse(
                        "a reward model that is trained has its own normalisation; leave it out".into(),
                    );
                }
                None if name == "reward_model" && self.uses_reward_model() => reward.model_weight,
                None => {
                    return refuse(format!(
                        "no source is called {name:?}; it takes names of [[reward.rule]], or reward_model"
                    ));
                }
            };
            if weight == 0.0 {
                return refuse(format!("{name:?} has weight 0: nothing is scored by it"));
            }
        }
        Ok(())
    }

    fn validate_models(&self) -> Result<(), FieldError> {
        let model = &self.model;
        for (key, text) in model.named() {
            ModelSource::parse(text).map_err(|problem| FieldError::new(key, problem))?;
        }
        for (key, encoder) in self.encoders() {
            ModelSource::parse(&encoder.model).map_err(|problem| FieldError::new(key, problem))?;
        }
        if model.reward.is_some() && self.reward.ensemble.members > 1 {
            let problem = "says how many reward models to train, and model.reward names models that are trained; leave \
                           one of them out";
            return Err(FieldError::new("reward.ensemble.members", problem));
        }
        if model.reward.is_some() && self.reward.ensemble.heads > 1 {
            let problem = "says how many heads to train, and model.reward names models that are trained, with the heads they \
                           have; leave one of them out";
            return Err(FieldError::new("reward.ensemble.heads", problem));
        }
        if model.adapter.is_some() && self.reward.ensemble.heads > 1 && self.trains_reward_model() {
            let problem = "an adapter's directory holds one head; leave out [model.adapter], or use members";
            return Err(FieldError::new("reward.ensemble.heads", problem));
        }
        if let Some(adapter) = &model.adapter {
            adapter.validate().map_err(under("model.adapter"))?;
            let problem = "an adapter freezes every block; leave out freeze_layers or [model.adapter]";
            if model.freeze_layers > 0 {
                return Err(FieldError::new("model.freeze_layers", problem));
            }
        }
        let longest = self.longest_response();
        let room = model.max_context == 0 || longest < model.max_context;
        let range = format!("below model.max_context = {}, to leave room for a prompt", model.max_context);
        let key =
            if self.environment.is_some() { "environment.max_tokens" } else { "sampling.max_new_tokens" };
        FieldError::require(room, key, longest, &range)
    }

    /// What the algorithm asks of the other sections.
    fn validate_algorithm(&self) -> Result<(), FieldError> {
        let ppo = &self.ppo;
        let shared = self.model.value == ValueModel::Shared;
        if shared && !ppo.advantages.needs_critic() {
            let problem = format!(
                "there is no value function with ppo.advantages = \"{}\" to share the policy's trunk; leave out model.value, \
                 or set it to \"separate\", its default",
                ppo.advantages
            );
            return Err(FieldError::new("model.value", problem));
        }
        if shared && ppo.critic_warmup > 0 {
            let problem = "a value head on the policy's trunk cannot learn alone: its steps move the policy; use \
                           model.value = \"separate\", or leave it out";
            return Err(FieldError::new("ppo.critic_warmup", problem));
        }
        let most = self.sampling.max_new_tokens;
        if let Some(o) = ppo.overlong
            && o.buffer > most
        {
            let range = format!("at most sampling.max_new_tokens = {most}");
            return FieldError::require(false, "ppo.overlong.buffer", o.buffer, &range);
        }
        Ok(())
    }

    /// What a constraint on costs asks of the other sections.
    fn validate_cost(&self) -> Result<(), FieldError> {
        let refuse = |key: &str, problem: &str| Err(FieldError::new(key, problem));
        let Some(cost) = &self.cost else {
            return match &self.model.cost {
                Some(_) => {
                    refuse("model.cost", "scores costs for [cost], which is missing; add it, or leave it out")
                }
                None => Ok(()),
            };
        };
        cost.validate().map_err(under("cost"))?;
        if self.model.cost.is_none() && cost.rule.is_empty() {
            return refuse("cost", "nothing says what a response costs: give model.cost or a [[cost.rule]]");
        }
        if self.dpo.is_some() {
            return refuse("cost", "is a constraint of PPO; leave out [dpo] or [cost]");
        }
        if !self.ppo.advantages.needs_critic() || self.ppo.score_at == ScoreAt::AfterEos {
            let problem = "costs have a critic of their own and stand at the last token: needs advantages = \"gae\" and \
                           score_at = \"last_token\"";
            return refuse("cost", problem);
        }
        if self.model.value == ValueModel::Shared {
            return refuse(
                "model.value",
                "rewards and costs have a critic each with [cost]; use \"separate\"",
            );
        }
        Ok(())
    }

    /// What conversations of several turns ask of the other sections.
    fn validate_environment(&self) -> Result<(), FieldError> {
        let Some(environment) = &self.environment else { return Ok(()) };
        environment.validate().map_err(under("environment"))?;
        let refuse = |key: &str, problem: &str| Err(FieldError::new(key, problem));
        let least = self.sampling.max_new_tokens;
        let range = format!("at least sampling.max_new_tokens = {least}, the longest turn");
        FieldError::require(
            environment.max_tokens >= least,
            "environment.max_tokens",
            environment.max_tokens,
            &range,
        )?;
        if self.dpo.is_some() {
            return refuse(
                "environment",
                "speaks with a policy that samples; leave out [dpo] or [environment]",
            );
        }
        if self.sampling.ignore_eos {
            return refuse(
                "sampling.ignore_eos",
                "a turn ends with its end of sequence; leave it out with [environment]",
            );
        }
        if self.ppo.advantages == Advantage::Remax {
            return refuse(
                "ppo.advantages",
                "the greedy response of \"remax\" has one turn; take another with [environment]",
            );
        }
        if self.ppo.overlong.is_some() {
            return refuse("ppo.overlong", "counts the tokens of one turn; leave it out with [environment]");
        }
        Ok(())
    }

    fn validate_files(&self) -> Result<(), FieldError> {
        match self.data.files().find(|(_, path)| !path.is_file()) {
            Some((key, path)) => Err(FieldError::new(key, format!("no file {}", path.display()))),
            None => Ok(()),
        }
    }
}

/// Puts the section's name before the field of its error.
fn under(section: &'static str) -> impl Fn(FieldError) -> FieldError {
    move |e| FieldError::new(format!("{section}.{}", e.field), e.problem)
}
