//! Supervised fine-tuning: mean negative log-likelihood of the responses, prompts masked.

use crate::codec::Codec;
use crate::fit::Fit;
use crate::recipe::{Recipe, Turns};
use crate::run_dir::RunDir;
use crate::supervised::Supervised;
use crate::train::{EveryTurn, Trainer, nll_of_turns};
use crate::{Error, sources};
use tetherline_core::{Event, Metrics, Observer, Schedule, Stage};
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
    run: &RunDir,
    observer: &mut dyn Observer,
) -> Result<(Model, Vec<serde_json::Value>), Error> {
    let config = recipe.sft.clone().unwrap_or_default();
    let loaded = sources::sft(recipe)?.ok_or_else(|| Error::input("data.sft", "missing"))?;
    note_skipped(observer, "data.sft", loaded.skipped.len());
    crate::typed::warn(observer, "data.sft", codec, loaded.rows.iter().map(|r| (r.line, &r.prompt)));
    let context = model.context();
    let file = sources::file_of(recipe, "data.sft");
    let mut fit = Fit::new(&file, context, format!("context {context}"), recipe.data.skip_bad_lines);
    let mut examples = Vec::with_capacity(loaded.rows.len());
    for row in &loaded.rows {
        let e = match config.turns {
            Turns::Last => codec.example(&row.prompt, &row.response, true).map(EveryTurn::from),
            Turns::All => codec.every_turn(&row.prompt, &row.response),
        };
        let e = e.map_err(|e| Error::input(format!("{file}, line {}", row.line), e))?;
        if fit.keeps(row.line, e.example.tokens.len())? && e.targets() > 0 {
            examples.push(e);
        }
    }
    fit.report(observer);
    if examples.is_empty() {
        return Err(Error::input("data.sft", "no demonstration fits the model's context"));
    }
    let schedule = Schedule {
        peak: config.lr,
        warmup: config.warmup_steps,
        total: config.total_steps(examples.len()),
        decay: config.lr_schedule,
    };
    let adam = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-5, weight_decay: config.weight_decay };
    let training = Supervised {
        stage: Stage::Sft,
        member: 0,
        seed: recipe.seed,
        items: examples.len(),
        batch_size: config.batch_size,
        schedule,
        max_grad_norm: config.max_grad_norm,
        engine,
        run,
        checkpoint: &recipe.checkpoint,
    };
    training.train(Trainer::new(model, adam), observer, |trainer, batch| {
        let batch: Vec<&EveryTurn> = batch.iter().map(|&i| &examples[i]).collect();
        Ok(Metrics::from([("loss".to_owned(), nll_of_turns(trainer, engine, &batch)?)]))
    })
}

/// Says how many bad lines were left out.
pub(crate) fn note_skipped(observer: &mut dyn Observer, what: &str, skipped: usize) {
    if skipped > 0 {
        observer.on_event(&Event::Warning(&format!(
            "{what}: {skipped} bad {} skipped",
            if skipped == 1 { "line was" } else { "lines were" }
        )));
    }
}
