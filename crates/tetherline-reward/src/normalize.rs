//! Puts rewards on one scale: mean 0 and standard deviation 1 on samples of the reference policy.
//!
//! ```text
//! score ← (score − mean) / std         std with divisor n
//! ```
//!
//! A Bradley–Terry model fixes scores only up to a shift, and its scale is whatever training left. After
//! this, a KL coefficient in score units per nat means the same in every run (Ziegler et al. 2019, §2.1).

use crate::RewardError;
use serde::{Deserialize, Serialize};

/// Shift and scale of a reward model's scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardNorm {
    /// Mean of the raw scores on the reference samples.
    pub mean: f64,
    /// Their standard deviation.
    pub std: f64,
}

impl RewardNorm {
    /// Leaves scores as they are.
    pub const IDENTITY: Self = Self { mean: 0.0, std: 1.0 };

    /// Fits mean and standard deviation.
    ///
    /// # Errors
    /// [`RewardError::NonFiniteScore`]; [`RewardError::Degenerate`] for fewer than two scores, or scores
    /// that vary by less than f32 rounding would.
    pub fn fit(scores: &[f32]) -> Result<Self, RewardError> {
        if let Some((index, &value)) = scores.iter().enumerate().find(|(_, x)| !x.is_finite()) {
            return Err(RewardError::NonFiniteScore { index, value });
        }
        let n = scores.len().max(1) as f64;
        let mean = scores.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let std = (scores.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt();
        if scores.len() < 2 || std <= 1e-6 * mean.abs().max(1e-3) {
            return Err(RewardError::Degenerate { count: scores.len(), mean, std });
        }
        Ok(Self { mean, std })
    }

    /// Normalises one score.
    pub fn apply(&self, score: f32) -> f32 {
        ((f64::from(score) - self.mean) / self.std) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean 5, Σ(x − 5)² = 32 over 8 values: standard deviation 2.
    #[test]
    fn the_textbook_sample() {
        let norm = RewardNorm::fit(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!(norm, RewardNorm { mean: 5.0, std: 2.0 });
        assert_eq!([norm.apply(9.0), norm.apply(5.0)], [2.0, 0.0]);
        assert_eq!(RewardNorm::IDENTITY.apply(3.5), 3.5);
    }

    #[test]
    fn scores_that_do_not_vary_are_refused() {
        for scores in [&[][..], &[1.0], &[3.0, 3.0, 3.0], &[1e4, 1e4 + 0.001], &[0.0, 0.0]] {
            let error = RewardNorm::fit(scores).unwrap_err();
            assert!(matches!(error, RewardError::Degenerate { .. }), "{scores:?}: {error}");
        }
        RewardNorm::fit(&[1e-5, -1e-5]).unwrap();
        let error = RewardNorm::fit(&[1.0, f32::INFINITY]).unwrap_err().to_string();
        assert_eq!(error, "reference score 1 is inf");
    }
}
