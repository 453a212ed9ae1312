//! Several reward models as one: how their scores combine, and how far they disagree.
//!
//! ```text
//! mean                 m = (1/K) Σ_k r_k
//! worst                min_k r_k
//! mean_minus_variance  m − λ·V,   V = (1/K) Σ_k (r_k − m)²     "population" (Coste et al. 2024, eq. 4)
//!                                 V = Σ_k (r_k − m)²/(K − 1)   "unbiased"
//! disagreement         √V
//! ```
//!
//! Members are models (`members`), heads on the trunk of one (`heads`), or both: every head of every model is one.
//! Heads cost one forward and one backward pass of the trunk whatever their number, and share what the trunk gets wrong.
//!
//! r_k are normalised scores, so that members are on one scale: each has mean 0 and standard deviation 1 on the reference
//! policy's samples. The combination of those is not scaled again.

use crate::config::need;
use serde::{Deserialize, Serialize};
use tetherline_core::FieldError;

/// `[reward.ensemble]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnsembleConfig {
    /// Reward models to train, each with a head and an order of the data of its own.
    pub members: usize,
    /// Heads on the trunk of each.
    pub heads: usize,
    /// Each head draws how often it counts each comparison, Poisson(1); false: they differ in their first weights alone.
    pub bootstrap: bool,
    /// What becomes of their scores.
    pub combine: Combine,
    /// Divisor of the variance.
    pub variance: Variance,
}

/// How the scores of members combine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Their mean.
    #[default]
    Mean,
    /// The lowest.
    Worst,
    /// The mean less λ times the variance.
    MeanMinusVariance(f64),
}

/// What the sum of squared deviations is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// K.
    #[default]
    Population,
    /// K − 1.
    Unbiased,
}

impl Default for EnsembleConfig {
    fn default() -> Self {
        Self { members: 1, heads: 1, bootstrap: true, combine: Combine::Mean, variance: Variance::Population }
    }
}

impl EnsembleConfig {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        need((1..=64).contains(&self.members), "members", &self.members, "from 1 to 64")?;
        need((1..=64).contains(&self.heads), "heads", &self.heads, "from 1 to 64")?;
        match self.combine {
            Combine::MeanMinusVariance(x) => {
                need(x.is_finite() && x >= 0.0, "combine.mean_minus_variance", &x, "0 or above")
            }
            _ => Ok(()),
        }
    }

    /// The combined score and the disagreement of one sample, from the scores of its members.
    pub fn combine(&self, scores: &[f32]) -> (f32, f32) {
        let k = scores.len().max(1) as f64;
        let mean = scores.iter().map(|&x| f64::from(x)).sum::<f64>() / k;
        let squares: f64 = scores.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        let variance = match self.variance {
            Variance::Population => squares / k,
            Variance::Unbiased => squares / (k - 1.0).max(1.0),
        };
        let combined = match self.combine {
            Combine::Mean => mean,
            // NaN is worse than anything, and must show.
            Combine::Worst => scores
                .iter()
                .map(|&x| f64::from(x))
                .fold(f64::INFINITY, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }),
            Combine::MeanMinusVariance(lambda) => mean - lambda * variance,
        };
        (combined as f32, variance.sqrt() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ensemble(toml: &str) -> EnsembleConfig {
        let config: EnsembleConfig = toml::from_str(toml).unwrap();
        config.validate().unwrap();
        config
    }

    /// 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14.
    #[test]
    fn three_members_by_hand() {
        let scores = [1.0, 2.0, 6.0];
        let sd = (14f32 / 3.0).sqrt();
        assert_eq!(ensemble("").combine(&scores), (3.0, sd));
        assert_eq!(ensemble("combine = \"worst\"").combine(&scores), (1.0, sd));
        let less = ensemble("combine = { mean_minus_variance = 0.5 }").combine(&scores).0;
        assert!((less - (3.0 - 7.0 / 3.0)).abs() < 1e-6, "{less}");
        let unbiased = ensemble("combine = { mean_minus_variance = 0.5 }\nvariance = \"unbiased\"");
        assert_eq!(unbiased.combine(&scores), (3.0 - 3.5, 7f32.sqrt()));
        assert_eq!(unbiased.combine(&[2.5]), (2.5, 0.0));
        assert!(ensemble("combine = \"worst\"").combine(&[1.0, f32::NAN, 0.0]).0.is_nan());
    }

    #[test]
    fn ranges() {
        let field =
            |text: &str| toml::from_str::<EnsembleConfig>(text).unwrap().validate().unwrap_err().field;
        assert_eq!(field("members = 0"), "members");
        assert_eq!(field("heads = 65"), "heads");
        assert_eq!(field("combine = { mean_minus_variance = -1.0 }"), "combine.mean_minus_variance");
        assert!(toml::from_str::<EnsembleConfig>("combine = \"median\"").is_err());
        assert!(EnsembleConfig::default().is_default());
    }
}
