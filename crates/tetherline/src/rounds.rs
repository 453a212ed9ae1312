//! What a policy has drifted over all the runs that made it: `drift_ledger.json` beside its weights.
//!
//! KL to the reference of a run says nothing about the runs before: five rounds of 2 nats each, each to the policy that the
//! last one left, may be 2 nats from the first reference or 40. So every PPO stage leaves a line about itself and carries on
//! those it found with the policy it started from:
//!
//! - the **first reference**, by name and by a hash of its weights;
//! - per round: exact KL of the round's result to the first reference, on its own responses to held-out prompts
//!   (`trial.prompts` of them), nats per sequence; to the round's own reference, where that did not move; what a reference that
//!   moved forgave; and the ledger's spending.
//!
//! KL does not add up, so the distance is measured, not summed. Where the first reference cannot be opened any more, or is
//! another model now, the distance is not known, and the file says so. Under `ref0_cap` the guard holds KL to the first
//! reference of all rounds; `[kl.ledger]` counts on from what earlier rounds spent.

use crate::codec::Codec;
use crate::recipe::Recipe;
use crate::rows::{full_rows, lm_rows};
use crate::{Error, sources};
use serde::{Deserialize, Serialize};
use tetherline_core::seeds::Purpose;
use tetherline_core::{Observer, PromptBatch, Stage};
use tetherline_kl::{KlEstimate, NatsPerSequence};
use tetherline_models::{Engine, Model, ModelFiles};
use tetherline_rollout::{StreamName, generate};

/// Its name in a policy's directory.
pub const FILE: &str = "drift_ledger.json";

/// A policy's drift, round by round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftLedger {
    /// What KL was measured to in the first round.
    pub first: FirstReference,
    /// One entry per PPO stage, oldest first.
    pub rounds: Vec<Round>,
}

/// The reference of the first round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstReference {
    /// A directory, a hub id or `frontdesk`; `../sft`, seen from the ledger, where the run fine-tuned it itself.
    pub model: String,
    /// Hash of its weights (FNV-1a over their bits, hexadecimal).
    pub hash: String,
}

/// What one PPO stage did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Name of the run.
    pub name: String,
    /// Steps of PPO.
    pub steps: u64,
    /// Responses measured on.
    pub responses: u64,
    /// Exact KL to the first reference, nats per sequence; `None` where that is not to be had.
    pub kl_first: Option<f64>,
    /// Its standard error.
    pub kl_first_stderr: Option<f64>,
    /// Exact KL to this round's reference, nats per sequence; `None` where it moved.
    pub kl_reference: Option<f64>,
    /// KL that moves of the reference gave up, nats per sequence.
    pub forgiven: f64,
    /// KL to the policy before, summed over this round's updates, nats per sequence; with `kl.ledger`.
    pub spent: Option<f64>,
}

/// What a PPO stage itself says about its drift.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spending {
    /// As [`Round::forgiven`].
    pub forgiven: f64,
    /// As [`Round::spent`], with what earlier rounds spent.
    pub spent: Option<f64>,
}

impl DriftLedger {
    /// The drift of the policy in `files`, where it has one.
    ///
    /// # Errors
    /// If the file is there and damaged.
    pub fn of(files: &ModelFiles) -> Result<Option<Self>, Error> {
        let what = || format!("{FILE} in {}", files.root().display());
        let Some(json) = files.json(FILE).map_err(|e| Error::input(what(), e))? else { return Ok(None) };
        let mut ledger: Self = serde_json::from_value(json).map_err(|e| Error::input(what(), e))?;
        // Of the run that left it: seen from here.
        if ledger.first.model.starts_with("../") {
            ledger.first.model = files.root().join(&ledger.first.model).display().to_string();
        }
        Ok(Some(ledger))
    }

    /// KL spent by all rounds, nats per sequence.
    pub fn spent(&self) -> f64 {
        self.rounds.iter().filter_map(|round| round.spent).sum()
    }

    /// Opens the first reference; why not, where it is gone or is another model now.
    pub(crate) fn open_first(&self, recipe: &Recipe) -> Result<Model, String> {
        let FirstReference { model: name, hash } = &self.first;
        let files = sources::open_model(name).map_err(|e| e.to_string())?;
        let model = Model::load(&files, crate::ppo::POLICY_HEADS, recipe.seed).map_err(|e| e.to_string())?;
        if hash_of(&model) != *hash {
            return Err(format!("the first reference {name} is another model now"));
        }
        model.with_context(recipe.model.max_context).map_err(|e| e.to_string())
    }
}

/// The hash of a model's weights.
pub(crate) fn hash_of(model: &Model) -> String {
    let bits = model.frozen().iter().chain(model.trained()).map(|x| u64::from(x.to_bits()));
    let hash = bits.fold(0xcbf2_9ce4_8422_2325u64, |h, x| (h ^ x).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// Exact KL of `policy` to each of `others` on its own responses to the first `trial.prompts` held-out prompts.
pub(crate) fn measure(
    recipe: &Recipe,
    policy: &Model,
    others: &[&Model],
    codec: &Codec,
    engine: &Engine,
    observer: &mut dyn Observer,
) -> Result<Vec<KlEstimate>, Error> {
    let loaded =
        sources::eval_prompts(recipe)?.ok_or_else(|| Error::input("data.eval_prompts", "missing"))?;
    let rows = &loaded.rows[..loaded.rows.len().min(recipe.trial.prompts)];
    let context = policy.context();
    let prompts: PromptBatch =
        crate::rows::encode_prompts(recipe, codec, rows, context, "data.eval_prompts", observer)?;
    let name = StreamName { seed: recipe.seed, purpose: Purpose::Eval, step: 1 };
    let rollout = generate(policy, &codec.tokenizer, prompts, &recipe.sampling, name, engine, 0)
        .map_err(Error::stage(Stage::Ppo))?;
    let full = full_rows(&rollout);
    let rows = lm_rows(&full, &rollout);
    let to = |other: &&Model| {
        let pairs = policy
            .forward_pair(other, engine, &rows, rollout.temperature)
            .map_err(Error::stage(Stage::Ppo))?;
        let mut estimate = KlEstimate::default();
        for pair in &pairs {
            let kl: f64 = pair.kl_exact.iter().map(|&x| f64::from(x)).sum();
            estimate.push(NatsPerSequence(kl), pair.kl_exact.len());
        }
        Ok(estimate)
    };
    others.iter().map(to).collect()
}
