//! The `[reward]` section of a recipe: training of the reward model, and `[[reward.rule]]`.
//!
//! Training defaults are those of Huang et al. 2024 ("N+"): one epoch, batches of 64 pairs, AdamW with
//! ε = 1e-5, learning rate 3e-6 on a cosine without warm-up. `max_grad_norm = 0` switches clipping off.
//!
//! Rules: `rule_config.rs`.

use crate::{EnsembleConfig, Ranking, RuleConfig};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use tetherline_core::{FieldError, LrSchedule};

/// Hyperparameters of reward-model training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardConfig {
    /// Passes over the pairs.
    pub epochs: usize,
    /// Optimizer steps; None: as many as `epochs` need. Where both bind, the smaller wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Pairs per optimizer step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// How the learning rate falls.
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
    pub max_grad_norm: f64,
    /// Coefficient of (r_chosen + r_rejected)², which keeps scores near 0.
    pub center_coef: f64,
    /// Share of labels taken to be wrong, in [0, ½).
    pub label_smoothing: f64,
    /// Loss of rankings of more than two answers.
    pub ranking: Ranking,
    /// Fit beforehand what length alone says about preferences, and hold it out of the score.
    pub length_debias: bool,
    /// Weight of the reward model in the score; 0: rules alone, and no model is trained.
    pub model_weight: f64,
    /// Reference samples that mean and standard deviation are fitted on.
    pub normalize_samples: usize,
    /// Sources (names of rules, or `reward_model` for one that is given) whose scores are put on the scale of the
    /// reference policy's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub normalize: Vec<String>,
    /// Several reward models instead of one.
    #[serde(skip_serializing_if = "EnsembleConfig::is_default")]
    pub ensemble: EnsembleConfig,
    /// Rules, added to the reward model or used alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<RuleConfig>,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            epochs: 1,
            steps: None,
            batch_size: 64,
            lr: 3e-6,
            lr_schedule: LrSchedule::Cosine,
            warmup_steps: 0,
            adam_eps: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            center_coef: 0.0,
            label_smoothing: 0.0,
            ranking: Ranking::PlackettLuce,
            length_debias: false,
            model_weight: 1.0,
            normalize_samples: 256,
            normalize: Vec::new(),
            ensemble: EnsembleConfig::default(),
            rule: Vec::new(),
        }
    }
}

impl RewardConfig {
    /// Checks every range, and that no two rules share a name.
    ///
    /// # Errors
    /// The first field that is out of range; rules are `rule[i].field`.
    pub fn validate(&self) -> Result<(), FieldError> {
        at_least_one("epochs", self.epochs as u64)?;
        at_least_one("batch_size", self.batch_size as u64)?;
        at_least_one("steps", self.steps.unwrap_or(1))?;
        positive("lr", self.lr)?;
        if let Some(steps) = self.steps {
            let range = format!("at most steps ({steps})");
            need(self.warmup_steps <= steps, "warmup_steps", &self.warmup_steps, &range)?;
        }
        positive("adam_eps", self.adam_eps)?;
        need((0.0..1.0).contains(&self.beta1), "beta1", &self.beta1, "in [0, 1)")?;
        need((0.0..1.0).contains(&self.beta2), "beta2", &self.beta2, "in [0, 1)")?;
        not_negative("weight_decay", self.weight_decay)?;
        not_negative("max_grad_norm", self.max_grad_norm)?;
        not_negative("center_coef", self.center_coef)?;
        let smoothing = self.label_smoothing;
        need((0.0..0.5).contains(&smoothing), "label_smoothing", &smoothing, "in [0, 0.5)")?;
        let enough = self.normalize_samples != 1;
        need(enough, "normalize_samples", &self.normalize_samples, "0 (not at all) or at least 2")?;
        let within = |e: FieldError| FieldError::new(format!("ensemble.{}", e.field), e.problem);
        self.ensemble.validate().map_err(within)?;
        for (i, rule) in self.rule.iter().enumerate() {
            rule.validate().map_err(|e| FieldError::new(format!("rule[{i}].{}", e.field), e.problem))?;
            if let Some(first) = self.rule[..i].iter().position(|other| other.name() == rule.name()) {
                let problem = format!("`{}` is already the name of rule[{first}]", rule.name());
                return Err(FieldError::new(format!("rule[{i}].name"), problem));
            }
        }
        Ok(())
    }
}

pub(crate) fn need(ok: bool, field: &str, value: &dyn Display, range: &str) -> Result<(), FieldError> {
    FieldError::require(ok, field, value, range)
}

pub(crate) fn at_least_one(field: &str, value: u64) -> Result<(), FieldError> {
    need(value > 0, field, &value, "at least 1")
}

pub(crate) fn positive(field: &str, value: f64) -> Result<(), FieldError> {
    need(value.is_finite() && value > 0.0, field, &value, "a number above 0")
}

/// `sample_timeout_s`, where it is given, beside a `timeout_s` that is valid.
pub(crate) fn sample_seconds(each: Option<f64>, all: f64) -> Result<(), FieldError> {
    let Some(each) = each else { return Ok(()) };
    positive("sample_timeout_s", each)?;
    need(each <= all, "sample_timeout_s", &each, &format!("at most timeout_s = {all}"))
}

pub(crate) fn not_negative(field: &str, value: f64) -> Result<(), FieldError> {
    need(value.is_finite() && value >= 0.0, field, &value, "0 or above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_reads_and_reads_back() {
        assert_eq!(toml::from_str::<RewardConfig>("").unwrap(), RewardConfig::default());
        let text = r#"
            lr = 1e-4
            center_coef = 0.01
            [[rule]]
            keyword = { words = ["happy", "joy"], cap = 5 }
            [[rule]]
            regex = { name = "greeting", pattern = "^Hello", weight = 0.5 }
            [[rule]]
            length = { max = 40, unit = "words", scale = 10 }
            [[rule]]
            [rule.command]
            argv = ["python3", "score.py"]
            on_failure = { score = -1.0 }
            [[rule]]
            http = { url = "http://127.0.0.1:5000/get_reward", protocol = "trl", on_failure = "stop" }
            [[rule]]
            exact = { extract = '####\s*(.+)', numeric = true }
            [[rule]]
            program = { argv = ["python3", "-I", "main.py"], memory_mb = 256 }
            [[rule]]
            encoder = { model = "./toxicity", label = "toxic", output = "probability", weight = -2.0 }
        "#;
        let config: RewardConfig = toml::from_str(text).unwrap();
        config.validate().unwrap();
        let names: Vec<_> = config.rule.iter().map(RuleConfig::name).collect();
        assert_eq!(
            names,
            ["keyword", "greeting", "length", "command", "http", "exact", "program", "encoder"]
        );
        let again: RewardConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn every_range_is_checked() {
        for (text, field) in [
            ("epochs = 0", "epochs"),
            ("batch_size = 0", "batch_size"),
            ("steps = 0", "steps"),
            ("steps = 3\nwarmup_steps = 4", "warmup_steps"),
            ("lr = nan", "lr"),
            ("adam_eps = 0", "adam_eps"),
            ("beta1 = 1", "beta1"),
            ("beta2 = nan", "beta2"),
            ("weight_decay = -1", "weight_decay"),
            ("max_grad_norm = -1", "max_grad_norm"),
            ("center_coef = inf", "center_coef"),
            ("label_smoothing = 0.5", "label_smoothing"),
            ("label_smoothing = nan", "label_smoothing"),
            ("ensemble = { members = 0 }", "ensemble.members"),
            ("normalize_samples = 1", "normalize_samples"),
            ("rule = [{ keyword = { words = [] } }]", "rule[0].words"),
            ("rule = [{ keyword = { words = [\"\"] } }]", "rule[0].words"),
            ("rule = [{ keyword = { words = [\"a\"], weight = inf } }]", "rule[0].weight"),
            ("rule = [{ regex = { pattern = \"(\" } }]", "rule[0].pattern"),
            ("rule = [{ length = {} }]", "rule[0].min"),
            ("rule = [{ length = { min = 4, max = 3 } }]", "rule[0].min"),
            ("rule = [{ length = { target = 4, max = 3 } }]", "rule[0].target"),
            ("rule = [{ length = { target = 4, scale = 0 } }]", "rule[0].scale"),
            ("rule = [{ command = { argv = [] } }]", "rule[0].argv"),
            ("rule = [{ command = { argv = [\"a\"], timeout_s = 0 } }]", "rule[0].timeout_s"),
            (
                "rule = [{ command = { argv = [\"a\"], on_failure = { score = nan } } }]",
                "rule[0].on_failure.score",
            ),
            ("rule = [{ http = { url = \"localhost:5000\" } }]", "rule[0].url"),
            ("rule = [{ http = { url = \"http:///x\" } }]", "rule[0].url"),
            ("rule = [{ http = { url = \"http://a/x\", batch = 0 } }]", "rule[0].batch"),
            ("rule = [{ exact = { extract = \"(\" } }]", "rule[0].extract"),
            ("rule = [{ program = { argv = [\"sh\"], file = \"../x\" } }]", "rule[0].file"),
            ("rule = [{ program = { argv = [\"lua\"], file = \"a.lua\" } }]", "rule[0].done"),
            ("rule = [{ program = { argv = [\"sh\"], memory_mb = 1 } }]", "rule[0].memory_mb"),
            ("rule = [{ program = { argv = [\"sh\"], cpu_s = 0 } }]", "rule[0].cpu_s"),
            ("rule = [{ encoder = { model = \"\" } }]", "rule[0].model"),
            ("rule = [{ length = { max = 3 } }, { length = { min = 2 } }]", "rule[1].name"),
        ] {
            let config: RewardConfig = toml::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(config.validate().unwrap_err().field, field, "{text}");
        }
    }

    #[test]
    fn unknown_keys_and_kinds_are_refused() {
        for text in ["center = 0.1", "rule = [{ keyword = { word = [\"a\"] } }]", "rule = [{ magic = {} }]"] {
            assert!(toml::from_str::<RewardConfig>(text).is_err(), "{text}");
        }
    }
}
