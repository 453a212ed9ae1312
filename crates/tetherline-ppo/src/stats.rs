//! What an update measured: sums while it runs, means at its end.

use crate::{SurrogateTerm, ValueTerm};
use serde::{Deserialize, Serialize};
use tetherline_core::UpdateStats;

/// Sums over the tokens of any number of rows, minibatches and epochs; [`LossSums::merge`] adds two.
///
/// The losses are sums of *weighted* token losses, so they equal the loss of the minibatch once all its
/// rows are in; everything else is a plain sum over tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossSums {
    /// Σ w·policy loss.
    pub policy_loss: f64,
    /// Σ w·β·KL, where the penalty is in the loss.
    #[serde(default)]
    pub kl_loss: f64,
    /// Σ importance weights of tokens (`weights.rs`), 1 each where there are none.
    #[serde(default)]
    pub correction: f64,
    /// Σ u·value loss (with ½, without `vf_coef`).
    pub value_loss: f64,
    /// Σ entropy, nats.
    pub entropy: f64,
    /// Σ ½(log π_new − log π_old)², nats.
    pub approx_kl: f64,
    /// Σ importance ratio.
    pub ratio: f64,
    /// Largest importance ratio; 0 before the first token.
    pub ratio_max: f64,
    /// Largest |ratio − 1|.
    pub ratio_deviation: f64,
    /// Tokens whose ratio was clipped.
    pub clipped: u64,
    /// Tokens at the dual clip.
    pub dual_clipped: u64,
    /// Values that were clipped.
    pub value_clipped: u64,
    /// Tokens.
    pub tokens: u64,
    /// Values.
    pub values: u64,
}

impl LossSums {
    /// Adds one policy token, whose loss is weighted by `factor` too; `entropy` and `log_ratio` in nats.
    pub(crate) fn add_policy(
        &mut self,
        term: &SurrogateTerm,
        weight: f64,
        factor: f64,
        log_ratio: f64,
        entropy: f64,
    ) {
        self.policy_loss += weight * factor * term.loss;
        self.correction += factor;
        self.entropy += entropy;
        self.approx_kl += 0.5 * log_ratio * log_ratio;
        self.ratio += term.ratio;
        self.ratio_max = self.ratio_max.max(term.ratio);
        self.ratio_deviation = self.ratio_deviation.max((term.ratio - 1.0).abs());
        self.clipped += u64::from(term.clipped);
        self.dual_clipped += u64::from(term.dual_clipped);
        self.tokens += 1;
    }

    /// Adds one value.
    pub(crate) fn add_value(&mut self, term: &ValueTerm, weight: f64) {
        self.value_loss += weight * term.loss;
        self.value_clipped += u64::from(term.clipped);
        self.values += 1;
    }

    /// Adds the sums of other tokens.
    pub fn merge(&mut self, other: &Self) {
        self.policy_loss += other.policy_loss;
        self.value_loss += other.value_loss;
        self.kl_loss += other.kl_loss;
        self.correction += other.correction;
        self.entropy += other.entropy;
        self.approx_kl += other.approx_kl;
        self.ratio += other.ratio;
        self.ratio_max = self.ratio_max.max(other.ratio_max);
        self.ratio_deviation = self.ratio_deviation.max(other.ratio_deviation);
        self.clipped += other.clipped;
        self.dual_clipped += other.dual_clipped;
        self.value_clipped += other.value_clipped;
        self.tokens += other.tokens;
        self.values += other.values;
    }

    /// Mean ½(log π_new − log π_old)², nats per token.
    pub fn approx_kl_mean(&self) -> f64 {
        self.approx_kl / self.tokens.max(1) as f64
    }

    /// Means over the tokens seen in `minibatches` optimizer steps: losses per minibatch, the rest per
    /// token. `grad_norm` and `explained_variance` are left 0 for the caller, who knows them.
    pub fn means(&self, minibatches: u64) -> UpdateStats {
        let (tokens, values) = (self.tokens.max(1) as f64, self.values.max(1) as f64);
        UpdateStats {
            policy_loss: self.policy_loss / minibatches.max(1) as f64,
            value_loss: self.value_loss / minibatches.max(1) as f64,
            kl_loss: self.kl_loss / minibatches.max(1) as f64,
            correction_mean: self.correction / tokens,
            entropy: self.entropy / tokens,
            approx_kl: self.approx_kl_mean(),
            clip_frac: self.clipped as f64 / tokens,
            value_clip_frac: self.value_clipped as f64 / values,
            ratio_mean: self.ratio / tokens,
            ratio_max: self.ratio_max,
            optimizer_steps: minibatches,
            ..UpdateStats::default()
        }
    }
}

/// Share of the returns' variance that the values explain: 1 − Var(return − value) / Var(return).
///
/// 0 where there are no returns or all are equal. Entries beyond the shorter slice are ignored.
pub fn explained_variance(returns: &[f32], values: &[f32]) -> f64 {
    let variance = |x: &dyn Fn(usize) -> f64| {
        let n = returns.len().min(values.len());
        let mean = (0..n).map(x).sum::<f64>() / n.max(1) as f64;
        (0..n).map(|i| (x(i) - mean).powi(2)).sum::<f64>()
    };
    let total = variance(&|i| f64::from(returns[i]));
    let left = variance(&|i| f64::from(returns[i]) - f64::from(values[i]));
    if total > 0.0 { 1.0 - left / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explained_variance_of_known_cases() {
        let returns = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(explained_variance(&returns, &returns), 1.0);
        assert_eq!(explained_variance(&returns, &[7.0; 4]), 0.0);
        // A constant offset does not matter; the wrong sign quadruples the variance.
        assert_eq!(explained_variance(&returns, &[11.0, 12.0, 13.0, 14.0]), 1.0);
        assert_eq!(explained_variance(&returns, &[-1.0, -2.0, -3.0, -4.0]), -3.0);
        assert_eq!(explained_variance(&[2.0, 2.0], &[1.0, 3.0]), 0.0);
        assert_eq!(explained_variance(&[], &[]), 0.0);
    }

    #[test]
    fn merging_is_adding() {
        let a = LossSums { policy_loss: 1.0, ratio_max: 3.0, tokens: 2, clipped: 1, ..LossSums::default() };
        let b = LossSums { policy_loss: 0.5, ratio_max: 2.0, tokens: 6, clipped: 3, ..LossSums::default() };
        let mut ab = a.clone();
        ab.merge(&b);
        let mut ba = b;
        ba.merge(&a);
        assert_eq!(ab, ba);
        let means = ab.means(2);
        assert_eq!((means.policy_loss, means.clip_frac, means.ratio_max), (0.75, 0.5, 3.0));
    }
}
