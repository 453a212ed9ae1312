//! Held-out evaluation of a policy: scores, gold, exact KL, refusals, length and diversity.

use crate::codec::Codec;
use crate::conversation::{Conversations, sample};
use crate::recipe::Recipe;
use crate::rows::{encode_prompts, full_rows, lm_rows, samples, sum_written};
use crate::scoring::Scorer;
use crate::{Error, sources};
use tetherline_core::seeds::Purpose;
use tetherline_core::{Event, NamedScore, Observer, PromptBatch, PromptRef, Rollout, Stage, StopReason};
use tetherline_eval::ResponseRecord;
use tetherline_models::{Engine, Model};
use tetherline_reward::Environment;
use tetherline_rollout::{SamplingConfig, StreamName};

/// The held-out prompts of a recipe, encoded, one row per sample.
///
/// # Errors
/// If the file cannot be used.
pub fn prompts(
    recipe: &Recipe,
    codec: &Codec,
    context: usize,
    observer: &mut dyn Observer,
) -> Result<PromptBatch, Error> {
    let loaded =
        sources::eval_prompts(recipe)?.ok_or_else(|| Error::input("data.eval_prompts", "missing"))?;
    crate::sft::note_skipped(observer, "data.eval_prompts", loaded.skipped.len());
    let all = encode_prompts(recipe, codec, &loaded.rows, context, "data.eval_prompts", observer)?;
    let mut out = PromptBatch::default();
    for i in 0..all.len().min(recipe.eval.prompts) {
        for k in 0..recipe.eval.samples {
            out.push(PromptRef { sample: k as u32, ..all.get(i) });
        }
    }
    Ok(out)
}

/// Responses, what was measured on each, and the parts of their scores.
pub(crate) struct Responses {
    pub(crate) records: Vec<ResponseRecord>,
    pub(crate) parts: Vec<NamedScore>,
    pub(crate) rollout: Rollout,
}

/// Samples a response to every prompt and measures it. Baseline and aligned policy use the same streams.
///
/// # Errors
/// If sampling or scoring fails.
pub fn evaluate(
    recipe: &Recipe,
    policy: &Model,
    reference: &Model,
    codec: &Codec,
    scorer: &mut Scorer,
    engine: &Engine,
    prompts: PromptBatch,
) -> Result<Vec<ResponseRecord>, Error> {
    Ok(respond(recipe, policy, reference, codec, scorer, engine, prompts)?.records)
}

/// As [`evaluate`], with what the records leave out.
pub(crate) fn respond(
    recipe: &Recipe,
    policy: &Model,
    reference: &Model,
    codec: &Codec,
    scorer: &mut Scorer,
    engine: &Engine,
    prompts: PromptBatch,
) -> Result<Responses, Error> {
    let sampling = SamplingConfig { temperature: recipe.eval.temperature, ..recipe.sampling.clone() };
    let name = StreamName { seed: recipe.seed, purpose: Purpose::Eval, step: 1 };
    let at = (0, Stage::Eval);
    let mut environment = recipe.environment.clone().map(Environment::new);
    let (r, conversations) =
        sample(environment.as_mut(), policy, codec, prompts, &sampling, name, engine, at)?;
    let full = full_rows(&r);
    let pairs = policy
        .forward_pair(reference, engine, &lm_rows(&full, &r), r.temperature)
        .map_err(Error::stage(Stage::Eval))?;
    let mut parts = scorer.score(engine, &samples(&r))?;
    parts.extend(conversations.as_ref().map(Conversations::part));
    let written = |i: usize| r.written.as_ref().map(|w| w.row(i));
    let records = (0..r.responses.len())
        .map(|i| ResponseRecord {
            prompt_id: r.prompts.ids[i],
            domain: r.prompts.domains[i].clone(),
            user: r.prompts.users[i].clone(),
            prompt: r.prompts.texts[i].clone(),
            response: r.texts[i].clone(),
            tokens: r.responses.row(i).to_vec(),
            score: parts.iter().map(|p| f64::from(p.values[i])).sum(),
            gold: scorer.gold(&r.prompts.texts[i], &r.texts[i]),
            kl_exact: Some(sum_written(&pairs[i].kl_exact, written(i)).0),
            entropy: {
                let (sum, n) = sum_written(r.entropy.row(i), written(i));
                sum / n.max(1) as f64
            },
            stopped_by_eos: r.stop[i] != StopReason::Length,
            refused: tetherline_frontdesk::is_refusal(&r.texts[i]),
            unsafe_prompt: r.prompts.domains[i] == "unsafe",
        })
        .collect();
    Ok(Responses { records, parts, rollout: r })
}

/// Tells the observer that a part of the evaluation is done.
pub(crate) fn progress(observer: &mut dyn Observer, step: u64, total: u64) {
    observer.on_event(&Event::Step { stage: Stage::Eval, step, total, metrics: &Default::default() });
}
