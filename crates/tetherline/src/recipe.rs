//! Recipes: one TOML file that says everything about a run.
//!
//! Three promises. A key that is not known, has the wrong type or is out of range is an error that names
//! file, line and column (or the `--set` it came from). The resolved recipe, written into the run
//! directory, spells every default out and reads back to the same value. And two recipes that would run
//! the same have the same fingerprint, so a run directory can refuse a recipe that is not its own.

mod adapter;
mod chat;
mod cost;
mod embedded;
mod error;
mod fault;
mod fingerprint;
mod load;
mod locate;
mod paths;
mod reward_models;
mod sections;
mod set;
#[cfg(test)]
mod tests;
mod trial;
mod validate;

pub use adapter::AdapterSection;
pub use chat::ChatSection;
pub use cost::{CostSection, Multiplier};
pub use embedded::{EMBEDDED, Embedded, embedded};
pub use error::RecipeError;
pub use fault::{Fault, FaultKind};
pub use fingerprint::Difference;
pub use locate::Place;
pub(crate) use locate::key_span;
pub use reward_models::RewardModels;
pub use sections::{
    CheckpointConfig, DataSection, Dtype, EvalConfig, ModelSection, ModelSource, SftConfig, Turns,
    ValueModel, World,
};
pub use trial::TrialConfig;

use serde::{Deserialize, Serialize};
use tetherline_kl::KlConfig;
use tetherline_models::Device;
use tetherline_ppo::{DpoConfig, PpoConfig};
use tetherline_reward::{EnvironmentConfig, RewardConfig};
use tetherline_rollout::SamplingConfig;

/// Everything about a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// What to call the run. Has no influence on it.
    pub name: String,
    /// Root of every random stream.
    pub seed: u64,
    /// Worker threads; 0: every core. Has no influence on the numbers.
    pub threads: usize,
    /// What computes: `"cpu"` (the kernels), `"graph"`, `"cuda"`, `"cuda:N"` or `"metal"`. Results differ in
    /// the last bits.
    pub device: Device,
    /// Whether `[[fault]]` is allowed: a run with one is a test of the guard, not training.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_faults: bool,
    /// Where the weights come from.
    pub model: ModelSection,
    /// Where the data comes from.
    pub data: DataSection,
    /// Supervised fine-tuning; absent: skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft: Option<SftConfig>,
    /// Direct preference optimisation in place of PPO; absent: PPO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpo: Option<DpoConfig>,
    /// The reward model, and rules that score.
    pub reward: RewardConfig,
    /// A limit on what responses cost; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostSection>,
    /// A program that speaks with the policy between its turns; absent: responses have one turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentConfig>,
    /// How responses are drawn.
    pub sampling: SamplingConfig,
    /// Shaping and update.
    pub ppo: PpoConfig,
    /// The controller of the KL coefficient.
    pub kl: KlConfig,
    /// How an update is measured before it stands.
    pub trial: TrialConfig,
    /// Held-out evaluation.
    pub eval: EvalConfig,
    /// How often the state is saved.
    pub checkpoint: CheckpointConfig,
    /// What goes wrong on purpose.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fault: Vec<Fault>,
}

impl Default for Recipe {
    /// Every section at its defaults; β fixed at 0.05 (Huang et al. 2024).
    fn default() -> Self {
        Self {
            name: String::new(),
            seed: 1,
            threads: 0,
            device: Device::Cpu,
            allow_faults: false,
            model: ModelSection::default(),
            data: DataSection::default(),
            sft: None,
            dpo: None,
            reward: RewardConfig::default(),
            cost: None,
            environment: None,
            sampling: SamplingConfig::default(),
            ppo: PpoConfig::default(),
            kl: KlConfig::fixed(0.05),
            trial: TrialConfig::default(),
            eval: EvalConfig::default(),
            checkpoint: CheckpointConfig::default(),
            fault: Vec::new(),
        }
    }
}

impl Recipe {
    /// Whether every update is measured before it stands: a trust region, a guard or a ledger is configured.
    pub fn judges_updates(&self) -> bool {
        self.kl.trust_region.is_some() || self.kl.guard.is_some() || self.kl.ledger.is_some()
    }

    /// Whether the first reference is kept beside one that moves: KL to it is capped.
    pub(crate) fn keeps_first_reference(&self) -> bool {
        let capped = self.kl.trust_region.is_some_and(|region| region.ref0_cap.is_some());
        capped && self.kl.reference.is_some_and(|r| r.moves())
    }

    /// The resolved recipe as TOML, every default written out.
    ///
    /// # Panics
    /// Never: every value of a recipe has a TOML form.
    #[expect(clippy::expect_used, reason = "the types of a recipe all have a TOML form; a test covers each")]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is a TOML document")
    }
}
