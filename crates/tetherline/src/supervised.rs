//! What fine-tuning and reward training share: passes over the data in shuffled orders, one optimizer step
//! at a time, a log line for each, and checkpoints.

use crate::Error;
use crate::audit::checkpoints::{Recorded, saved};
use crate::recipe::CheckpointConfig;
use crate::run_dir::{RunDir, member_name};
use crate::train::Trainer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tetherline_audit::AuditLog;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{BoxError, Event, Metrics, Observer, Schedule, Stage};
use tetherline_models::{Engine, Model};

/// A stage that walks over its data.
pub(crate) struct Supervised<'a> {
    pub(crate) stage: Stage,
    /// Which member of an ensemble, from 0.
    pub(crate) member: usize,
    pub(crate) seed: u64,
    /// Examples in the data.
    pub(crate) items: usize,
    pub(crate) batch_size: usize,
    /// The learning rate, and how many steps there are.
    pub(crate) schedule: Schedule,
    /// 0: never clip.
    pub(crate) max_grad_norm: f64,
    pub(crate) engine: &'a Engine,
    pub(crate) run: &'a RunDir,
    pub(crate) checkpoint: &'a CheckpointConfig,
}

/// How far a stage is: what a checkpoint holds besides weights and moments.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Place {
    step: u64,
    /// Passes over the data begun.
    passes: u64,
    /// What is left of this pass, in reverse.
    left: Vec<usize>,
    log: Vec<Value>,
}

impl Supervised<'_> {
    /// Runs (or goes on with) all steps. `loss` adds the gradient of a batch and returns what it measured,
    /// `loss` among it. Returns the model and one log row per step.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, an interruption (after a checkpoint), or a write that failed.
    pub(crate) fn train(
        &self,
        mut trainer: Trainer,
        observer: &mut dyn Observer,
        mut loss: impl FnMut(&mut Trainer, &[usize]) -> Result<Metrics, BoxError>,
    ) -> Result<(Model, Vec<Value>), Error> {
        let (stage, total) = (self.stage, self.schedule.total);
        let checkpoints = self.run.stage_checkpoints(stage, self.member)?;
        let mut place = Place::default();
        let mut last_checkpoint = None;
        let recorded = Recorded::read(self.run)?;
        let found = recorded.restore(&checkpoints, |path| {
            restore(path, &mut trainer, self.engine)
                .map_err(|e| Error::input(format!("the checkpoint {}", path.display()), e))
        })?;
        if let Some(found) = found {
            found.report(observer);
            place = found.value;
            last_checkpoint = Some(found.path);
        }
        observer.on_event(&Event::StageStarted { stage, done: place.step, total });
        while place.step < total {
            let batch = self.batch(&mut place);
            let lr = self.schedule.at(place.step);
            let step = place.step + 1;
            let not_finite = |what: String, kept: &Option<PathBuf>| Error::NotFinite {
                stage,
                step,
                what,
                last_checkpoint: kept.clone(),
            };
            let mut metrics = loss(&mut trainer, &batch).map_err(Error::stage(stage))?;
            if let Some((key, value)) = metrics.iter().find(|(_, v)| !v.is_finite()) {
                return Err(not_finite(format!("the {key} is {value}"), &last_checkpoint));
            }
            let max_norm = (self.max_grad_norm > 0.0).then_some(self.max_grad_norm);
            let norm = trainer
                .step(self.engine, lr, max_norm)
                .map_err(|e| not_finite(e.to_string(), &last_checkpoint))?;
            metrics.extend([("grad_norm".to_owned(), norm), ("lr".to_owned(), lr)]);
            let mut row = serde_json::Map::from_iter([("step".to_owned(), json!(step))]);
            row.extend(metrics.iter().map(|(k, v)| (k.clone(), json!(v))));
            place.log.push(row.into());
            place.step = step;
            observer.on_event(&Event::Step { stage, step, total, metrics: &metrics });

            let stop = observer.stop_requested() && step < total;
            let every = self.checkpoint.every;
            if stop || (every > 0 && step.is_multiple_of(every) && step < total) {
                let of = member_name(stage.name(), self.member);
                let mut audit = AuditLog::open(self.run.audit())?;
                let path = checkpoints.save(step, |dir| {
                    save(dir, &trainer, &place)?;
                    saved(&mut audit, dir, json!({"event": "checkpoint", "of": of, "step": step}))?;
                    Ok(())
                })?;
                checkpoints.prune(step, 1, &[])?;
                last_checkpoint = Some(path);
            }
            if stop {
                return Err(Error::Interrupted { stage, step, checkpoint: last_checkpoint });
            }
        }
        observer.on_event(&Event::StageFinished { stage });
        Ok((trainer.model, place.log))
    }

    /// The next examples: every example once per pass, each pass in an order of its own.
    fn batch(&self, place: &mut Place) -> Vec<usize> {
        let mut batch = Vec::with_capacity(self.batch_size);
        while batch.len() < self.batch_size {
            if place.left.is_empty() {
                place.left = (0..self.items).collect();
                stream(self.seed, Purpose::Shuffle, place.passes, self.stage as u64, 0)
                    .shuffle(&mut place.left);
                place.passes += 1;
            }
            batch.extend(place.left.pop());
        }
        batch
    }
}

fn save(dir: &Path, trainer: &Trainer, place: &Place) -> Result<(), BoxError> {
    trainer.save(&dir.join("model.bin"))?;
    std::fs::write(dir.join("state.json"), serde_json::to_vec(place)?)?;
    Ok(())
}

fn restore(dir: &Path, trainer: &mut Trainer, engine: &Engine) -> Result<Place, BoxError> {
    trainer.restore(engine, &std::fs::read(dir.join("model.bin"))?)?;
    Ok(serde_json::from_slice(&std::fs::read(dir.join("state.json"))?)?)
}
