//! Checks before the first update.

use super::{Ppo, stage};
use crate::Error;
use crate::rows::{full_rows, lm_rows, select};
use tetherline_core::seeds::Purpose;
use tetherline_core::{Event, Observer, Stage};
use tetherline_models::{Engine, PairRow, Precision, Row};
use tetherline_rollout::{StreamName, generate};

/// Tokens per response: a disagreement shows in the first ones, and the first step should not have to wait.
const TOKENS: usize = 16;

/// Nats per token by which rounding weights may move log-probs.
const MOST_DRIFT: f64 = 0.02;

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
        let drift = self.drift_of_precision(&lm_rows(&full, &rollout), &pairs, rollout.temperature)?;
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
        let drift =
            drift.map_or_else(String::new, |d| format!(", bf16 moves log-probs by {d:.1e} nats per token"));
        observer.on_event(&Event::Note(&format!(
            "self-test passed: first ratio off by at most {worst:.1e}, KL to the reference {kl:.2e} nats per \
             sequence{drift}"
        )));
        observer.on_event(&Event::StageFinished { stage: Stage::SelfTest });
        Ok(())
    }

    /// Mean |Δ log p| of weights rounded to bf16 against the weights themselves, nats per token; none in f32.
    fn drift_of_precision(
        &self,
        rows: &[Row<'_>],
        rounded: &[PairRow],
        temperature: f32,
    ) -> Result<Option<f64>, Error> {
        if self.engine.precision() == Precision::F32 {
            return Ok(None);
        }
        let exact = Engine::new(self.engine.threads());
        let plain = self.policy.model.without_panels();
        let exact = plain.forward(&exact, rows, temperature).map_err(stage)?;
        let (mut sum, mut tokens) = (0.0, 0usize);
        for (a, b) in exact.iter().zip(rounded) {
            tokens += a.logprobs.len();
            sum +=
                a.logprobs.iter().zip(&b.policy.logprobs).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
        }
        let drift = sum / tokens.max(1) as f64;
        // Written so that a NaN is refused.
        if drift <= MOST_DRIFT {
            return Ok(Some(drift));
        }
        let cause = format!(
            "weights rounded to bf16 move log-probs by {drift:.2e} nats per token (allowed {MOST_DRIFT}): this model \
             needs model.dtype = \"f32\""
        );
        Err(Error::SelfTest { cause })
    }
}
