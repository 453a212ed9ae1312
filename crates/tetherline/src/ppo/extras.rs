//! What some algorithms need of a step besides sampling and scoring: penalties of length, greedy baselines, weights for
//! samples of another engine, an entropy bonus that follows a target.

use super::{Ppo, not_finite, stage};
use crate::Error;
use crate::rows::{samples, select};
use tetherline_core::seeds::Purpose;
use tetherline_core::{PromptBatch, Ragged, Rollout};
use tetherline_models::PairRow;
use tetherline_ppo::{Advantage, Correction, Penalties, correction_weights, score_rollout};
use tetherline_rollout::{SamplingConfig, StreamName, generate};

impl Ppo<'_> {
    /// What lowers a score.
    pub(super) fn penalties(&self) -> Penalties {
        let limit = self.recipe.sampling.max_new_tokens;
        Penalties {
            missing_eos: self.config.missing_eos_penalty,
            overlong: self.config.overlong.map(|overlong| (overlong, limit)),
        }
    }

    /// Scores of the greedy response to each row's prompt, where advantages are measured from them (ReMax).
    pub(super) fn greedy_scores(&mut self, step: u64, rollout: &Rollout) -> Result<Option<Vec<f32>>, Error> {
        if self.config.advantages != Advantage::Remax {
            return Ok(None);
        }
        let k = self.config.samples_per_prompt;
        let firsts: Vec<usize> = (0..rollout.prompts.len()).step_by(k).collect();
        let prompts: PromptBatch = select(&rollout.prompts, &firsts, 1);
        let sampling = SamplingConfig { temperature: 0.0, ..self.recipe.sampling.clone() };
        // No number is drawn: greedy decoding has no use for its stream.
        let name = StreamName { seed: self.recipe.seed, purpose: Purpose::Sampling, step };
        let greedy = generate(
            &self.policy.model,
            &self.codec.tokenizer,
            prompts,
            &sampling,
            name,
            self.engine,
            step - 1,
        )
        .map_err(stage)?;
        let parts = self.scorer.score(self.engine, &samples(&greedy))?;
        let scored = score_rollout(greedy, parts, self.penalties()).map_err(not_finite(step))?;
        Ok(Some(scored.scores.iter().flat_map(|&s| std::iter::repeat_n(s, k)).collect()))
    }

    /// Weights of tokens by the trainer's own log-probs, which become log π_old.
    pub(super) fn correct_rollout(
        &self,
        rollout: &mut Rollout,
        trainer: &[PairRow],
        correction: Correction,
    ) -> Result<Ragged<f32>, Error> {
        let mut rows = Vec::with_capacity(trainer.len());
        for (i, pair) in trainer.iter().enumerate() {
            let written = rollout.written.as_ref().map(|w| w.row(i));
            let own = &pair.policy.logprobs;
            rows.push(correction_weights(own, rollout.logprobs.row(i), written, correction).map_err(stage)?);
        }
        rollout.logprobs = Ragged::from_rows(trainer.iter().map(|p| p.policy.logprobs.iter().copied()));
        Ok(Ragged::from_rows(rows))
    }

    /// Sets the bonus of this step by the entropy of its rollout; returns the coefficient of the next.
    pub(super) fn set_entropy_bonus(&mut self, rollout: &Rollout) -> f64 {
        let Some(target) = self.config.entropy_target else { return self.entropy_coef };
        let entropy = crate::rows::mean_written(&rollout.entropy, rollout.written.as_ref());
        self.entropy_bonus = target.in_force(self.entropy_coef, entropy);
        target.next(self.entropy_coef, entropy)
    }
}
