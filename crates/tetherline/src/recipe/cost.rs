//! `[cost]`: a limit on the mean cost of responses, held by a Lagrange multiplier (PPO-Lagrangian).

use serde::{Deserialize, Serialize};
use tetherline_core::FieldError;
use tetherline_reward::{RewardConfig, RuleConfig};

/// What responses cost and how much they may on average.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostSection {
    /// Largest mean cost of a response, cost units.
    pub limit: f64,
    /// Weight of `model.cost`, where one is given.
    #[serde(default = "one")]
    pub model_weight: f64,
    /// The multiplier λ.
    #[serde(default)]
    pub multiplier: Multiplier,
    /// Rules, added to the cost model or used alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<RuleConfig>,
}

fn one() -> f64 {
    1.0
}

/// Dual ascent on ln λ, the law `dual` of `tetherline-kl` with the constants of Safe-RLHF:
/// ln λ ← ln λ + lr·λ·(mean cost − limit).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Multiplier {
    /// λ at first.
    pub init: f64,
    /// Step size per cost unit; 0: λ stays what it is.
    pub lr: f64,
    /// Responses that the mean cost is taken over, at least; 1 to 100 000.
    pub window: u64,
    /// Smallest λ.
    pub min: f64,
    /// Largest λ.
    pub max: f64,
}

impl Default for Multiplier {
    fn default() -> Self {
        Self { init: 1.0, lr: 0.1, window: 128, min: 1e-4, max: 5.0 }
    }
}

impl CostSection {
    /// Checks every value.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        let need = |ok: bool, field: &str, value: &dyn std::fmt::Display, range: &str| {
            FieldError::require(ok, field, value, range)
        };
        let finite = self.limit.is_finite() && self.limit.abs() <= 1e5;
        need(finite, "limit", &self.limit, "between -1e5 and 1e5")?;
        need(self.model_weight.is_finite(), "model_weight", &self.model_weight, "a number")?;
        let m = self.multiplier;
        need(
            m.min > 0.0 && m.min <= m.max && m.max <= 1e6,
            "multiplier.max",
            &m.max,
            "above min, at most 1e6",
        )?;
        let range = format!("between min ({}) and max ({})", m.min, m.max);
        need((m.min..=m.max).contains(&m.init), "multiplier.init", &m.init, &range)?;
        need((0.0..=1e3).contains(&m.lr), "multiplier.lr", &m.lr, "from 0 (fixed) to 1000")?;
        need((1..=100_000).contains(&m.window), "multiplier.window", &m.window, "from 1 to 100000")?;
        RewardConfig { rule: self.rule.clone(), ..RewardConfig::default() }.validate()
    }
}
