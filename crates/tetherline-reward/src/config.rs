//! The `[reward]` section of a recipe: training of the reward model, and `[[reward.rule]]`.
//!
//! Training defaults are those of Huang et al. 2024 ("N+"): one epoch, batches of 64 pairs, AdamW with
//! ε = 1e-5, learning rate 3e-6 on a cosine without warm-up. `max_grad_norm = 0` switches clipping off.
//!
//! A rule is one table per entry, named by its kind:
//!
//! ```toml
//! [[rule]]
//! keyword = { name = "cheer", words = ["happy", "smile"], cap = 5, weight = 1.0 }
//!
//! [[rule]]
//! length = { max = 64, scale = 16, weight = 0.5 }
//! ```

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
    /// Weight of the reward model in the score; 0: rules alone, and no model is trained.
    pub model_weight: f64,
    /// Reference samples that mean and standard deviation are fitted on.
    pub normalize_samples: usize,
    /// Rules, added to the reward model or used alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<RuleConfig>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleConfig {
    /// Counts words.
    Keyword(KeywordConfig),
    /// Counts matches of a regular expression.
    Regex(RegexConfig),
    /// Penalises length outside a range.
    Length(LengthConfig),
    /// Asks a program.
    Command(CommandConfig),
}

/// Counts substrings: `weight · min(cap, occurrences)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeywordConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "keyword_name")]
    pub name: String,
    /// Factor; negative to penalise.
    #[serde(default = "one")]
    pub weight: f64,
    /// Substrings to look for.
    pub words: Vec<String>,
    /// Highest count; none: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<u64>,
    /// Count every occurrence; false: every word at most once.
    #[serde(default = "yes")]
    pub per_occurrence: bool,
    /// Compare in lower case.
    #[serde(default = "yes")]
    pub case_insensitive: bool,
}

/// Counts matches: `weight · min(cap, matches)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegexConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "regex_name")]
    pub name: String,
    /// Factor; negative to penalise.
    #[serde(default = "one")]
    pub weight: f64,
    /// The pattern (syntax of the `regex` crate; `(?i)`, `(?s)` and `(?m)` set flags).
    pub pattern: String,
    /// Highest count. The default 1 makes it "matches or not".
    #[serde(default = "one_match")]
    pub cap: u64,
}

/// Penalises length: `−weight · (distance from [min, max]) / scale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "length_name")]
    pub name: String,
    /// Factor; negative to reward distance.
    #[serde(default = "one")]
    pub weight: f64,
    /// What is counted.
    #[serde(default)]
    pub unit: LengthUnit,
    /// Shortest length without a penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u64>,
    /// Longest length without a penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Shorthand for `min` and `max` both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u64>,
    /// Units of distance that cost one `weight`.
    #[serde(default = "one")]
    pub scale: f64,
}

/// What a length is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthUnit {
    /// Response tokens, EOS included.
    #[default]
    Tokens,
    /// Words separated by white space.
    Words,
    /// Unicode scalar values.
    Chars,
}

/// Asks a program: `weight · score`. See `command.rs` for what it reads and writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "command_name")]
    pub name: String,
    /// Factor.
    #[serde(default = "one")]
    pub weight: f64,
    /// Program and arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Seconds a batch may take.
    #[serde(default = "minute")]
    pub timeout_s: f64,
}

fn keyword_name() -> String {
    "keyword".into()
}
fn regex_name() -> String {
    "regex".into()
}
fn length_name() -> String {
    "length".into()
}
fn command_name() -> String {
    "command".into()
}
fn one() -> f64 {
    1.0
}
fn one_match() -> u64 {
    1
}
fn yes() -> bool {
    true
}
fn minute() -> f64 {
    60.0
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
            model_weight: 1.0,
            normalize_samples: 256,
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
        need(self.normalize_samples >= 2, "normalize_samples", &self.normalize_samples, "at least 2")?;
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

impl RuleConfig {
    /// Name of the rule, without the `rule.` of the score's part.
    pub fn name(&self) -> &str {
        match self {
            Self::Keyword(c) => &c.name,
            Self::Regex(c) => &c.name,
            Self::Length(c) => &c.name,
            Self::Command(c) => &c.name,
        }
    }

    fn weight(&self) -> f64 {
        match self {
            Self::Keyword(c) => c.weight,
            Self::Regex(c) => c.weight,
            Self::Length(c) => c.weight,
            Self::Command(c) => c.weight,
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        need(!self.name().is_empty(), "name", &"\"\"", "a name")?;
        need(self.weight().is_finite(), "weight", &self.weight(), "finite")?;
        match self {
            Self::Keyword(c) => {
                let good = !c.words.is_empty() && c.words.iter().all(|w| !w.is_empty());
                need(good, "words", &format!("{:?}", c.words), "a list of non-empty words")?;
                at_least_one("cap", c.cap.unwrap_or(1))
            }
            Self::Regex(c) => {
                at_least_one("cap", c.cap)?;
                regex::Regex::new(&c.pattern)
                    .map(|_| ())
                    .map_err(|e| FieldError::new("pattern", format!("is not a regular expression: {e}")))
            }
            Self::Length(c) => {
                positive("scale", c.scale)?;
                match (c.target, c.min, c.max) {
                    (Some(_), None, None) => Ok(()),
                    (Some(_), _, _) => {
                        Err(FieldError::new("target", "stands for `min` and `max`; give one or the other"))
                    }
                    (None, None, None) => Err(FieldError::new("min", "give `min`, `max` or `target`")),
                    (None, Some(min), Some(max)) => {
                        need(min <= max, "min", &min, &format!("at most max ({max})"))
                    }
                    (None, _, _) => Ok(()),
                }
            }
            Self::Command(c) => {
                let good = c.argv.first().is_some_and(|program| !program.is_empty());
                need(good, "argv", &format!("{:?}", c.argv), "a program and its arguments")?;
                // A day: longer ones do not fit a `Duration` for sure and are no doubt a mistake.
                let range = "above 0 and at most 86400";
                need(c.timeout_s > 0.0 && c.timeout_s <= 86400.0, "timeout_s", &c.timeout_s, range)
            }
        }
    }
}

fn need(ok: bool, field: &str, value: &dyn Display, range: &str) -> Result<(), FieldError> {
    FieldError::require(ok, field, value, range)
}

fn at_least_one(field: &str, value: u64) -> Result<(), FieldError> {
    need(value > 0, field, &value, "at least 1")
}

fn positive(field: &str, value: f64) -> Result<(), FieldError> {
    need(value.is_finite() && value > 0.0, field, &value, "a number above 0")
}

fn not_negative(field: &str, value: f64) -> Result<(), FieldError> {
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
        "#;
        let config: RewardConfig = toml::from_str(text).unwrap();
        config.validate().unwrap();
        let names: Vec<_> = config.rule.iter().map(RuleConfig::name).collect();
        assert_eq!(names, ["keyword", "greeting", "length", "command"]);
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
