//! Checks across a whole recipe: every section's own, and what a stage asks of several.

use super::{Fault, ModelSource, Recipe, RecipeError};
use crate::Stages;
use tetherline_core::{FieldError, Stage};

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
        self.data.chat.validate().map_err(under("data.chat"))?;
        self.reward.validate().map_err(under("reward"))?;
        let weight = self.reward.model_weight;
        FieldError::require(weight.is_finite(), "reward.model_weight", weight, "a number")?;
        self.ppo.validate().map_err(under("ppo"))?;
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
        if stages.include(Stage::Ppo) && !self.uses_reward_model() && self.reward.rule.is_empty() {
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
        let ppo = stages.include(Stage::Ppo);
        let eval = stages.include(Stage::Eval) && data.eval_prompts.is_none() && self.eval.prompts > 0;
        let needed = [
            ("data.sft", sft && data.sft.is_none(), "supervised fine-tuning"),
            (
                "data.pairs",
                reward && data.pairs.is_none(),
                "training a reward model (or give model.reward, or set reward.model_weight = 0 and add a \
                 [[reward.rule]])",
            ),
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

    fn validate_models(&self) -> Result<(), FieldError> {
        let model = &self.model;
        for (key, text) in model.named() {
            ModelSource::parse(text).map_err(|problem| FieldError::new(key, problem))?;
        }
        if model.reward.is_some() && self.reward.ensemble.members > 1 {
            let problem = "says how many reward models to train, and model.reward names models that are trained; leave \
                           one of them out";
            return Err(FieldError::new("reward.ensemble.members", problem));
        }
        if let Some(adapter) = &model.adapter {
            adapter.validate().map_err(under("model.adapter"))?;
            let problem = "an adapter freezes every block; leave out freeze_layers or [model.adapter]";
            if model.freeze_layers > 0 {
                return Err(FieldError::new("model.freeze_layers", problem));
            }
        }
        let room = model.max_context == 0 || self.sampling.max_new_tokens < model.max_context;
        let range = format!("below model.max_context = {}, to leave room for a prompt", model.max_context);
        FieldError::require(room, "sampling.max_new_tokens", self.sampling.max_new_tokens, &range)
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
