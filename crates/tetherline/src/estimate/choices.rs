//! The same recipe with one thing decided otherwise.

use super::models::Models;
use super::{Ground, Predicted};
use crate::recipe::{AdapterSection, Dtype, Recipe, ValueModel};
use serde::Serialize;
use tetherline_kl::ReferenceSchedule;

/// A recipe that differs from the declared one in one decision, and what it would take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// What is decided.
    pub about: &'static str,
    /// How, as keys of a recipe.
    pub set: String,
    /// Whether the recipe declares it so.
    pub declared: bool,
    /// Bytes of the stage that needs most.
    pub peak_bytes: u64,
    /// Seconds of a step of PPO or DPO.
    pub seconds: f64,
}

type Change = Box<dyn Fn(&mut Recipe)>;

fn change(f: impl Fn(&mut Recipe) + 'static) -> Change {
    Box::new(f)
}

/// Takes the adapter and frozen blocks away.
fn full(r: &mut Recipe) {
    r.model.adapter = None;
    r.model.freeze_layers = 0;
}

fn least(r: &mut Recipe) {
    full(r);
    if r.ppo.advantages.needs_critic() {
        r.model.value = ValueModel::Shared;
    }
    r.model.adapter = Some(AdapterSection::default());
    r.model.gradient_checkpointing = true;
    r.model.dtype = Dtype::Bf16;
    r.model.reference = None;
    r.kl.reference = None;
}

/// Every decision with each of its answers.
fn decisions(recipe: &Recipe, models: &Models) -> Vec<(&'static str, String, Change)> {
    let model = &recipe.model;
    let half = (models.policy.config().layers.len() / 2).max(1);
    let frozen = if model.freeze_layers > 0 { model.freeze_layers } else { half };
    let adapter = model.adapter.clone().unwrap_or_default();
    let rank = adapter.rank;
    let mut all: Vec<(&'static str, String, Change)> = vec![
        ("value function", "model.value=separate".into(), change(|r| r.model.value = ValueModel::Separate)),
        ("value function", "model.value=shared".into(), change(|r| r.model.value = ValueModel::Shared)),
    ];
    if !recipe.ppo.advantages.needs_critic() || recipe.dpo.is_some() {
        all.clear();
    }
    // An adapter that the policy came with goes on being trained.
    if model.adapter.is_some() || !models.start.has_adapter() {
        all.push(("what is trained", "everything".into(), change(full)));
        all.push((
            "what is trained",
            format!("model.freeze_layers={frozen}"),
            change(move |r| {
                full(r);
                r.model.freeze_layers = frozen;
            }),
        ));
        all.push((
            "what is trained",
            format!("model.adapter.rank={rank}"),
            change(move |r| {
                full(r);
                r.model.adapter = Some(adapter.clone());
            }),
        ));
    }
    for on in [false, true] {
        let set = format!("model.gradient_checkpointing={on}");
        all.push(("recomputation", set, change(move |r| r.model.gradient_checkpointing = on)));
    }
    for (name, dtype) in [("f32", Dtype::F32), ("bf16", Dtype::Bf16)] {
        all.push((
            "weights of products",
            format!("model.dtype={name}"),
            change(move |r| r.model.dtype = dtype),
        ));
    }
    let moving = match recipe.kl.reference {
        Some(schedule) if schedule.moves() => schedule,
        _ => ReferenceSchedule::Ema { rate: 0.01 },
    };
    let copy = match (models.start.has_adapter(), recipe.runs_sft()) {
        (true, _) => "the start, over the same base",
        (false, true) => "a copy of the policy after SFT",
        (false, false) => "a copy of the policy",
    };
    all.push((
        "reference",
        copy.into(),
        change(|r| {
            r.model.reference = None;
            r.kl.reference = None;
        }),
    ));
    let other = model.reference.clone().unwrap_or_else(|| model.policy.clone());
    let declared = model.reference.is_some();
    let set = if declared {
        format!("model.reference={other}")
    } else {
        "model.reference=DIR (of this size)".into()
    };
    all.push((
        "reference",
        set,
        change(move |r| {
            r.model.reference = Some(other.clone());
            r.kl.reference = None;
        }),
    ));
    if recipe.dpo.is_some() {
        all.push(("all that saves memory", "adapter, recomputation, bf16".into(), change(least)));
        return all;
    }
    all.push((
        "reference",
        "kl.reference.ema (moving)".into(),
        change(move |r| {
            r.model.reference = None;
            r.kl.reference = Some(moving);
        }),
    ));
    let minibatch = recipe.ppo.batch_size / recipe.ppo.minibatches.max(1);
    let micro = recipe.ppo.micro_batch.unwrap_or((minibatch / 4).max(1));
    all.push(("gradient accumulation", "none".into(), change(|r| r.ppo.micro_batch = None)));
    all.push((
        "gradient accumulation",
        format!("ppo.micro_batch={micro}"),
        change(move |r| r.ppo.micro_batch = Some(micro)),
    ));
    all.push(("all that saves memory", "shared, adapter, recomputation, bf16".into(), change(least)));
    all
}

/// Predicts every alternative that the recipe could have.
pub(super) fn all(recipe: &Recipe, models: &Models, ground: &Ground, own: &Predicted) -> Vec<Choice> {
    let mut out = Vec::new();
    for (about, set, change) in decisions(recipe, models) {
        let mut other = recipe.clone();
        change(&mut other);
        let declared = other == *recipe;
        let (peak_bytes, seconds) = if declared {
            (own.peak, own.seconds())
        } else {
            // A choice that these models cannot make is no choice; what is declared was predicted before.
            let Ok(predicted) = ground.predict(&other) else { continue };
            (predicted.peak, predicted.seconds())
        };
        out.push(Choice { about, set, declared, peak_bytes, seconds });
    }
    out
}
