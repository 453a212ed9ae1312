//! Supervised fine-tuning: mean negative log-likelihood of the responses, prompts masked.

use crate::codec::Codec;
use crate::recipe::Recipe;
use crate::train::{Example, Trainer, nll_step};
use crate::{Error, sources};
use serde_json::json;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{Event, Metrics, Observer, Stage};
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Engine, Model};

/// Trains `model` on the recipe's demonstrations; returns it with one log row per step.
///
/// # Errors
/// If the data cannot be used, a loss is not finite, or the observer asked to stop.
pub fn sft(
    recipe: &Recipe,
    model: Model,
    codec: &Codec,
    engine: &Engine,
    observer: &mut dyn Observer,
) -> Result<(Model, Vec<serde_json::Value>), Error> {
    let config = recipe.sft.clone().unwrap_or_default();
    let loaded = sources::sft(recipe)?.ok_or_else(|| Error::input("data.sft", "missing"))?;
    note_skipped(observer, "data.sft", loaded.skipped.len());
    let context = model.context();
    let mut examples = Vec::with_capacity(loaded.rows.len());
    for row in &loaded.rows {
        let e = codec.example(&row.prompt, &row.response, true)?;
        if e.tokens.len() <= context && e.targets() > 0 {
            examples.push(e);
        }
    }
    let too_long = loaded.rows.len() - examples.len();
    if too_long > 0 {
        observer.on_event(&Event::Warning(&format!(
            "sft: {too_long} demonstrations are longer than the context of {context} tokens and were left out"
        )));
    }
    if examples.is_empty() {
        return Err(Error::input("data.sft", "no demonstration fits the model's context"));
    }
    let total = config.total_steps(examples.len());
    let adam = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-5, weight_decay: config.weight_decay };
    let mut trainer = Trainer::new(model, adam);
    let max_norm = (config.max_grad_norm > 0.0).then_some(config.max_grad_norm);
    observer.on_event(&Event::StageStarted { stage: Stage::Sft, done: 0, total });
    let mut order = Vec::new();
    let mut epoch = 0;
    let mut log = Vec::new();
    for step in 0..total {
        let mut batch: Vec<&Example> = Vec::with_capacity(config.batch_size);
        while batch.len() < config.batch_size {
            if order.is_empty() {
                order = (0..examples.len()).collect();
                stream(recipe.seed, Purpose::Shuffle, epoch, Stage::Sft as u64, 0).shuffle(&mut order);
                epoch += 1;
            }
            batch.extend(order.pop().map(|i: usize| &examples[i]));
        }
        let lr = config.lr_at(step, total);
        let (loss, norm) =
            nll_step(&mut trainer, engine, &batch, lr, max_norm).map_err(Error::stage(Stage::Sft))?;
        if !loss.is_finite() {
            let what = format!("the loss is {loss}");
            return Err(Error::NotFinite { stage: Stage::Sft, step: step + 1, what, last_checkpoint: None });
        }
        log.push(json!({"step": step + 1, "loss": loss, "grad_norm": norm, "lr": lr}));
        let metrics = Metrics::from([("loss".into(), loss), ("grad_norm".into(), norm), ("lr".into(), lr)]);
        observer.on_event(&Event::Step { stage: Stage::Sft, step: step + 1, total, metrics: &metrics });
        if observer.stop_requested() {
            return Err(Error::Interrupted { stage: Stage::Sft, step: step + 1, checkpoint: None });
        }
    }
    observer.on_event(&Event::StageFinished { stage: Stage::Sft });
    Ok((trainer.model, log))
}

/// Says how many bad lines were left out.
pub(crate) fn note_skipped(observer: &mut dyn Observer, what: &str, skipped: usize) {
    if skipped > 0 {
        observer.on_event(&Event::Warning(&format!("{what}: {skipped} bad lines were skipped")));
    }
}
