//! Checks before the first update.

use super::{Ppo, stage};
use crate::Error;
use crate::rows::{full_rows, lm_rows, select};
use tetherline_core::seeds::Purpose;
use tetherline_core::{Event, Observer, Stage};
use tetherline_rollout::{StreamName, generate};

/// Tokens per response: a disagreement shows in the first ones, and the first step should not have to wait.
const TOKENS: usize = 32;

impl Ppo<'_> {
    /// Before any update: sampler and trainer must agree (first ratio 1 ± 1e-4), and a policy that starts
    /// from its reference must have no KL to it.
    pub(super) fn self_test(&mut self, observer: &mut dyn Observer) -> Result<(), Error> {
        observer.on_event(&Event::StageStarted { stage: Stage::SelfTest, done: 0, total: 1 });
        let rows: Vec<usize> = (0..self.prompts.len().min(8)).collect();
        let batch = select(&self.prompts, &rows, 1);
        let name = StreamName { seed: self.recipe.seed, purpose: Purpose::Eval, step: 0 };
        let (model, engine) = (&self.policy.model, self.engine);
        let mut sampling = self.recipe.sampling.clone();
        sampling.max_new_tokens = sampling.max_new_tokens.min(TOKENS);
        let rollout =
            generate(model, &self.codec.tokenizer, batch, &sampling, name, engine, 0).map_err(stage)?;
        let full = full_rows(&rollout);
        let pairs = model
            .forward_pair(&self.reference, self.engine, &lm_rows(&full, &rollout), rollout.temperature)
            .map_err(stage)?;
        let mut worst = 0.0f64;
        let mut kl = 0.0f64;
        for (i, p) in pairs.iter().enumerate() {
            for (new, old) in p.policy.logprobs.iter().zip(rollout.logprobs.row(i)) {
                let ratio = (f64::from(*new) - f64::from(*old)).exp();
                worst = if ratio.is_finite() { worst.max((ratio - 1.0).abs()) } else { f64::INFINITY };
            }
            kl += p.kl_exact.iter().map(|&k| f64::from(k)).sum::<f64>() / pairs.len() as f64;
        }
        if worst > 1e-4 {
            let cause = format!(
                "the first importance ratio is off by {worst:.2e} (allowed 1e-4): the sampler and the trainer \
                 compute different log-probs for the same tokens; likely causes: weights that are not finite or \
                 very large, a temperature applied on one side only, a prompt cut differently"
            );
            return Err(Error::SelfTest { cause });
        }
        if self.recipe.model.reference.is_none() && kl.abs() > 1e-4 {
            let cause = format!(
                "the policy starts from its reference, yet its KL to it is {kl:.3e} nats per sequence: the two \
                 were not loaded from the same weights"
            );
            return Err(Error::SelfTest { cause });
        }
        observer.on_event(&Event::Note(&format!(
            "self-test passed: first ratio off by at most {worst:.1e}, KL to the reference {kl:.2e} nats per sequence"
        )));
        observer.on_event(&Event::StageFinished { stage: Stage::SelfTest });
        Ok(())
    }
}
