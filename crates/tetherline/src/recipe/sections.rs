//! The sections of a recipe that belong to no other crate: model, data, sft, eval, checkpoint.
//!
//! Every key has a default, so that a recipe says only what is special about it; the resolved recipe
//! in the run directory says everything.

use super::{AdapterSection, ChatSection, RewardModels};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tetherline_core::{FieldError, LrSchedule};

/// `[model]`: where the weights come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// The policy to start from: `"frontdesk"` (embedded), a Hugging Face directory, or a hub id
    /// `owner/name[@revision]`.
    pub policy: String,
    /// The reference the KL is measured to; absent: the policy after SFT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// A reward-model directory or hub id, or several as an ensemble; given, no reward model is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardModels>,
    /// A cost-model directory or hub id, for `[cost]`: a sequence-classification model whose score is a cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// Whether the value function has its own network.
    pub value: ValueModel,
    /// Longest sequence (prompt and response) in tokens; 0: what the model's config says.
    pub max_context: usize,
    /// Compute the activations of each block again on the way back instead of keeping them: less memory, about a third
    /// more work, the same bits.
    pub gradient_checkpointing: bool,
    /// What linear layers compute with, in every model of the run.
    pub dtype: Dtype,
    /// The embedding and this many of the lowest blocks are not trained.
    pub freeze_layers: usize,
    /// Train low-rank additions to linear layers and leave the weights as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSection>,
}

/// Element type of the weights that linear layers compute with. Parameters, optimizer, activations and log-probs are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16.
    Bf16,
}

/// Where the value function lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueModel {
    /// Its own network, initialised from the reward model (or, with rules alone, from the policy).
    #[default]
    Separate,
    /// A second head on the policy's trunk.
    Shared,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            policy: String::new(),
            reference: None,
            reward: None,
            cost: None,
            value: ValueModel::Separate,
            max_context: 0,
            gradient_checkpointing: false,
            dtype: Dtype::F32,
            freeze_layers: 0,
            adapter: None,
        }
    }
}

/// A place that weights can be loaded from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The base policy embedded in the binary.
    Frontdesk,
    /// A Hugging Face directory.
    Dir(PathBuf),
    /// A hub repository.
    Hub {
        /// `owner/name`.
        id: String,
        /// Branch, tag or commit; absent: the default branch.
        revision: Option<String>,
    },
}

impl ModelSource {
    /// Reads `"frontdesk"`, a directory, or `owner/name[@revision]`. An existing directory wins over a
    /// hub id of the same spelling.
    ///
    /// # Errors
    /// What was expected, where `text` is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "frontdesk" {
            return Ok(Self::Frontdesk);
        }
        let path = PathBuf::from(text);
        if path.is_dir() {
            return Ok(Self::Dir(path));
        }
        if path.is_absolute() || text.starts_with('.') || path.exists() {
            if path.is_file() {
                // It says by name what a file of weights is, and what to take instead.
                return Err(tetherline_models::ModelFiles::dir(path)
                    .map_or_else(|e| e.to_string(), |_| format!("{text} is a file; name its directory")));
            }
            return Err(format!("no model directory at {text}"));
        }
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision.to_owned())),
            None => (text, None),
        };
        let word = |s: &str| {
            !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        match id.split_once('/') {
            Some((owner, name)) if word(owner) && word(name) && revision.as_deref() != Some("") => {
                Ok(Self::Hub { id: id.to_owned(), revision })
            }
            _ => Err(format!(
                "must be \"frontdesk\", a model directory or a hub id (owner/name[@revision]), and there is \
                 no directory {text:?}"
            )),
        }
    }
}

/// `[data]`: where prompts, demonstrations and preferences come from.
///
/// Paths in a recipe file are relative to that file, paths given with `--set` to the current directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSection {
    /// An embedded world that provides every file not given below, and a gold score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub world: Option<World>,
    /// Demonstrations: `prompt` and `response`, or `messages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft: Option<PathBuf>,
    /// Prompts for PPO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PathBuf>,
    /// Preference pairs for the reward model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PathBuf>,
    /// Held-out preference pairs; absent: those of a tenth of the prompts of `pairs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs_eval: Option<PathBuf>,
    /// Held-out prompts; absent: `prompts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_prompts: Option<PathBuf>,
    /// Skip (and count) lines that are malformed or longer than the context instead of stopping.
    pub skip_bad_lines: bool,
    /// Prompts of more tokens are left out; 0: none are.
    pub max_prompt_tokens: usize,
    /// What the chat template is told.
    #[serde(skip_serializing_if = "ChatSection::is_empty")]
    pub chat: ChatSection,
}

impl DataSection {
    /// The files that are given, each with its dotted key.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let all = [
            ("data.sft", &self.sft),
            ("data.prompts", &self.prompts),
            ("data.pairs", &self.pairs),
            ("data.pairs_eval", &self.pairs_eval),
            ("data.eval_prompts", &self.eval_prompts),
        ];
        all.into_iter().filter_map(|(key, path)| Some((key, path.as_ref()?)))
    }
}

impl ModelSection {
    /// The models that are named, each with its dotted key.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let all = [
            ("model.policy", Some(&self.policy).filter(|text| !text.is_empty())),
            ("model.reference", self.reference.as_ref()),
            ("model.cost", self.cost.as_ref()),
        ];
        let rewards = self.reward.iter().flat_map(|r| &r.0).map(|text| ("model.reward", text));
        all.into_iter().filter_map(|(key, text)| Some((key, text?))).chain(rewards)
    }
}

/// An embedded world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum World {
    /// The customer-service assistant.
    Frontdesk,
}

/// `[sft]`: supervised fine-tuning before everything else. Absent, or with neither `steps` nor
/// `epochs`: skipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// Optimizer steps; 0: see `epochs`.
    pub steps: u64,
    /// Passes over the demonstrations; 0: see `steps`.
    pub epochs: f64,
    /// Demonstrations per step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// How the rate falls after the warm-up.
    pub lr_schedule: LrSchedule,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Clip the gradient to this norm; 0: never.
    pub max_grad_norm: f64,
    /// Which of the assistant's turns the loss is over.
    pub turns: Turns,
}

/// Turns of the assistant in a demonstration of `messages`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turns {
    /// The last, the answer that is demonstrated.
    #[default]
    Last,
    /// All of them.
    All,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            steps: 0,
            epochs: 0.0,
            batch_size: 16,
            lr: 2e-5,
            lr_schedule: LrSchedule::Cosine,
            warmup_steps: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            turns: Turns::Last,
        }
    }
}

impl SftConfig {
    /// Whether the stage does nothing.
    pub fn is_skipped(&self) -> bool {
        self.steps == 0 && self.epochs == 0.0
    }

    /// Optimizer steps over `rows` demonstrations. A started step counts.
    pub fn total_steps(&self, rows: usize) -> u64 {
        if self.steps > 0 {
            return self.steps;
        }
        (self.epochs * rows as f64 / self.batch_size as f64).ceil() as u64
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::require(
            self.epochs >= 0.0 && self.epochs.is_finite(),
            "epochs",
            self.epochs,
            "at least 0",
        )?;
        if self.steps > 0 && self.epochs > 0.0 {
            return Err(FieldError::new("epochs", "give either steps or epochs, not both"));
        }
        FieldError::require(self.batch_size > 0, "batch_size", self.batch_size, "at least 1")?;
        FieldError::require(self.lr > 0.0 && self.lr.is_finite(), "lr", self.lr, "above 0")?;
        FieldError::require(
            (0.0..1.0).contains(&self.weight_decay),
            "weight_decay",
            self.weight_decay,
            "in [0, 1)",
        )?;
        FieldError::require(
            self.max_grad_norm >= 0.0 && self.max_grad_norm.is_finite(),
            "max_grad_norm",
            self.max_grad_norm,
            "at least 0 (0 = never clip)",
        )
    }
}

/// `[eval]`: measuring on held-out prompts before and after, and now and then in between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// How many held-out prompts; 0: no evaluation.
    pub prompts: usize,
    /// Samples per prompt.
    pub samples: usize,
    /// Also evaluate every so many PPO steps (`heldout/*` in `metrics.jsonl`); 0: only before and after.
    pub every: u64,
    /// Sampling temperature; 0: greedy.
    pub temperature: f64,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { prompts: 128, samples: 1, every: 0, temperature: 1.0 }
    }
}

impl EvalConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::require(self.samples > 0, "samples", self.samples, "at least 1")?;
        FieldError::require(
            self.temperature >= 0.0 && self.temperature.is_finite(),
            "temperature",
            self.temperature,
            "at least 0 (0 = greedy)",
        )
    }
}

/// `[checkpoint]`: how often the whole state is saved during PPO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Save every so many steps of PPO (and of `[sft]` and `[reward]`, as long as these run); 0: only on an
    /// interrupt and at the end of PPO.
    pub every: u64,
    /// How many checkpoints to keep.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: 20, keep: 2 }
    }
}

impl CheckpointConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::require(self.keep > 0, "keep", self.keep, "at least 1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_sources_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().to_str().unwrap();
        assert_eq!(ModelSource::parse("frontdesk"), Ok(ModelSource::Frontdesk));
        assert_eq!(ModelSource::parse(here), Ok(ModelSource::Dir(dir.path().to_owned())));
        let hub = |id: &str, rev: Option<&str>| {
            Ok(ModelSource::Hub { id: id.to_owned(), revision: rev.map(str::to_owned) })
        };
        assert_eq!(ModelSource::parse("owner/some-model_1.0"), hub("owner/some-model_1.0", None));
        assert_eq!(ModelSource::parse("owner/name@main"), hub("owner/name", Some("main")));
        for bad in ["", "frontdsk", "a/b/c", "owner/", "owner/name@", "./nowhere", "/no/where"] {
            assert!(ModelSource::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn epochs_count_started_steps() {
        let c = SftConfig { epochs: 1.5, batch_size: 16, ..SftConfig::default() };
        assert_eq!(c.total_steps(100), 10); // 150 rows / 16 = 9.4
        assert!(SftConfig::default().is_skipped());
    }
}
