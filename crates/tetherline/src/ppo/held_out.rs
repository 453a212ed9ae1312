//! Held-out prompts every so many steps: `heldout/*` of `metrics.jsonl`.

use super::{Ppo, log::StepOutput, stage};
use crate::Error;
use crate::evaluate::evaluate;
use serde_json::json;

impl Ppo<'_> {
    /// Adds the means over the held-out prompts to the lines of `step`, where `eval.every` says so.
    pub(super) fn add_held_out(&mut self, step: u64, out: &mut StepOutput) -> Result<(), Error> {
        let every = self.recipe.eval.every;
        let Some(prompts) = self.held_out.clone().filter(|_| every > 0 && step.is_multiple_of(every)) else {
            return Ok(());
        };
        let (policy, reference) = (&self.policy.model, &self.reference);
        let (codec, engine) = (self.codec, self.engine);
        let records = evaluate(self.recipe, policy, reference, codec, &mut self.scorer, engine, prompts)
            .map_err(stage)?;
        let n = records.len() as f64;
        let mean = |of: &dyn Fn(&tetherline_eval::ResponseRecord) -> Option<f64>| {
            records.iter().map(of).sum::<Option<f64>>().map(|sum| sum / n)
        };
        let measured = [
            ("heldout/score", mean(&|r| Some(r.score))),
            ("heldout/gold", mean(&|r| r.gold)),
            ("heldout/kl_exact", mean(&|r| r.kl_exact)),
            ("heldout/entropy", mean(&|r| Some(r.entropy))),
            ("heldout/length", mean(&|r| Some(r.tokens.len() as f64))),
        ];
        for (key, value) in measured {
            let Some(value) = value.filter(|v| v.is_finite()) else { continue };
            out.metrics.insert(key.to_owned(), value);
            if let Some(line) = out.line.as_object_mut() {
                line.insert(key.to_owned(), json!(value));
            }
        }
        Ok(())
    }
}
