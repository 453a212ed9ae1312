//! How much memory a recipe will take and how long its steps, said before a weight is read: `tether plan`.
//!
//! ```text
//! peak of a stage  = what the process holds already (measured) + Σ named parts (exact sizes of what is allocated)
//! seconds per step = Σ operations of a part / operations per second of that part, measured here for a moment
//! ```
//!
//! Sizes come from `config.json` and the lengths of the data in tokens; operations from the same. What cannot be known
//! is how long responses will be: without [`EstimateOptions::response_tokens`] they are as long as they may be.

mod choices;
mod judges;
mod lengths;
mod memory;
mod models;
mod probe;
mod table;
mod time;

use crate::recipe::Recipe;
use crate::{Error, Stages};
use judges::Judge;
use lengths::Lengths;
use models::Models;
use probe::Speeds;
use serde::Serialize;
use tetherline_models::Device;

pub use choices::Choice;
pub use memory::{Part, StageMemory};
pub use time::{StageTime, StepTime};

/// What a caller decides about a prediction.
#[derive(Clone, Debug)]
pub struct EstimateOptions {
    /// Tokens of a response, on average; none: as many as it may have.
    pub response_tokens: Option<usize>,
    /// Seconds since any fixed moment; libraries have no clock of their own.
    pub clock: fn() -> f64,
    /// Bytes that this process holds now, where the system says so.
    pub held: fn() -> Option<u64>,
}

/// What is predicted of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The recipe's name.
    pub recipe: String,
    /// Worker threads.
    pub threads: usize,
    /// Parameters of the policy, and how many of them are trained.
    pub parameters: usize,
    /// Those that are trained.
    pub trained: usize,
    /// Tokens of the average prompt and, as assumed, of a response.
    pub prompt_tokens: f64,
    /// Tokens of a response, as assumed.
    pub response_tokens: usize,
    /// Memory by stage.
    pub memory: Vec<StageMemory>,
    /// Bytes of the stage that needs most.
    pub peak_bytes: u64,
    /// Seconds of an optimizer step of SFT, of the reward model and of DPO.
    pub stages: Vec<StageTime>,
    /// Seconds of a step of PPO; none in a recipe with `[dpo]`.
    pub step: Option<StepTime>,
    /// The same for other recipes.
    pub choices: Vec<Choice>,
}

impl Estimate {
    /// As text of at most 100 columns.
    pub fn text(&self) -> String {
        table::text(self)
    }
}

/// A stage as its name.
fn name<S: serde::Serializer>(stage: &tetherline_core::Stage, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(stage.name())
}

/// Peak and step of one recipe.
struct Predicted {
    memory: Vec<StageMemory>,
    peak: u64,
    stages: Vec<StageTime>,
    step: Option<StepTime>,
}

impl Predicted {
    /// Seconds of a step of what makes the policy: PPO, or the last of the other stages.
    fn seconds(&self) -> f64 {
        let last = || self.stages.last().map_or(0.0, |s| s.seconds);
        self.step.map_or_else(last, |step| step.total())
    }
}

/// What stays the same from choice to choice.
struct Ground {
    threads: usize,
    held: u64,
    lengths: Lengths,
    speeds: Speeds,
    judges: Vec<Judge>,
}

impl Ground {
    fn predict(&self, recipe: &Recipe) -> Result<Predicted, Error> {
        let models = Models::of(recipe)?;
        let memory = memory::stages(recipe, &models, self);
        let peak = memory.iter().map(|m| m.peak).max().unwrap_or(0);
        let (stages, step) = time::of(recipe, &models, self)?;
        Ok(Predicted { memory, peak, stages, step })
    }
}

/// Predicts memory and time of `recipe` and of its alternatives. Reads configurations, tokenizers and data; measures
/// speeds for some seconds on a small decoder of like width, trained in each of the ways that the choices have.
///
/// # Errors
/// As [`crate::plan`]; if the device is not the CPU, whose memory alone is known.
pub fn estimate(recipe: &Recipe, options: &EstimateOptions) -> Result<Estimate, Error> {
    if recipe.device != Device::Cpu {
        let problem = "its memory and speed are known for device = \"cpu\" alone; try --set device=cpu";
        return Err(Error::input(format!("the plan for device {}", recipe.device), problem));
    }
    crate::plan(recipe, Stages::All)?;
    let engine = crate::pipeline::training_engine(recipe, recipe.threads)?;
    let models = Models::of(recipe)?;
    let mut judges = judges::load(recipe)?;
    let loaded = lengths::load(recipe, &models, options.response_tokens)?;
    // Program, tokenizers and data, as a run has them.
    let held = (options.held)().unwrap_or(16 << 20);
    let (lengths, texts) = loaded.lengths();
    for judge in &mut judges {
        judge.read(&texts)?;
        judge.measure(&lengths.rollout(recipe.ppo.batch_size), options.clock)?;
    }
    let speeds = probe::open(models.policy.config(), &lengths, engine.threads(), options.clock)?;
    let ground = Ground { threads: engine.threads(), held, lengths, speeds, judges };
    let own = ground.predict(recipe)?;
    let choices = choices::all(recipe, &models, &ground, &own);
    let spec = models.policy.spec();
    Ok(Estimate {
        recipe: recipe.name.clone(),
        threads: ground.threads,
        parameters: spec.n_params,
        trained: spec.n_trained(),
        prompt_tokens: ground.lengths.mean_prompt(),
        response_tokens: ground.lengths.response,
        memory: own.memory,
        peak_bytes: own.peak,
        stages: own.stages,
        step: own.step,
        choices,
    })
}
