//! `[sampling]`: how responses are drawn.

use serde::{Deserialize, Serialize};
use tetherline_core::FieldError;

/// How responses are drawn from the policy.
///
/// Recorded log-probs are those of the tempered distribution **before** top-k and top-p. With either of
/// the two on, samples no longer come from the distribution that KL and importance ratios are computed
/// for, so PPO wants both off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Logits of policy and reference are divided by this. 0: greedy (for generation only; PPO needs a
    /// distribution).
    pub temperature: f64,
    /// Draw from the most likely so many tokens; 0: from all.
    pub top_k: usize,
    /// Draw from the smallest set of tokens with this much probability; 1: from all.
    pub top_p: f64,
    /// Longest response, in tokens, the end-of-sequence token included.
    pub max_new_tokens: usize,
    /// An end-of-sequence token does not end a response, which then always has `max_new_tokens` (unless a
    /// stop string ends it). What comes after that token counts like the rest. TRL's PPO samples so, with
    /// `stop_token` unset.
    pub ignore_eos: bool,
    /// A response also ends where one of these appears in its text.
    pub stop: Vec<String>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            max_new_tokens: 64,
            ignore_eos: false,
            stop: Vec::new(),
        }
    }
}

impl SamplingConfig {
    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::require(
            self.temperature >= 0.0 && self.temperature.is_finite(),
            "temperature",
            self.temperature,
            "above 0 (or 0 for greedy)",
        )?;
        FieldError::require(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "in (0, 1]")?;
        FieldError::require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "at least 1")?;
        match self.stop.iter().position(String::is_empty) {
            Some(i) => Err(FieldError::new(format!("stop.{i}"), "must not be empty")),
            None => Ok(()),
        }
    }

    /// Also checks what PPO asks for: a temperature above 0.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate_for_ppo(&self) -> Result<(), FieldError> {
        self.validate()?;
        FieldError::require(
            self.temperature > 0.0,
            "temperature",
            self.temperature,
            "above 0 for PPO (greedy samples have no distribution)",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let ok = SamplingConfig::default();
        assert_eq!(ok.validate(), Ok(()));
        let field = |c: SamplingConfig| c.validate().unwrap_err().field;
        assert_eq!(field(SamplingConfig { temperature: -1.0, ..ok.clone() }), "temperature");
        assert_eq!(field(SamplingConfig { temperature: f64::NAN, ..ok.clone() }), "temperature");
        assert_eq!(field(SamplingConfig { top_p: 0.0, ..ok.clone() }), "top_p");
        assert_eq!(field(SamplingConfig { top_p: f64::NAN, ..ok.clone() }), "top_p");
        assert_eq!(field(SamplingConfig { max_new_tokens: 0, ..ok.clone() }), "max_new_tokens");
        assert_eq!(field(SamplingConfig { stop: vec!["a".into(), String::new()], ..ok.clone() }), "stop.1");
    }

    #[test]
    fn greedy_is_for_generation_only() {
        let greedy = SamplingConfig { temperature: 0.0, ..SamplingConfig::default() };
        assert!(greedy.is_greedy());
        assert_eq!(greedy.validate(), Ok(()));
        assert_eq!(greedy.validate_for_ppo().unwrap_err().field, "temperature");
    }
}
