//! Length rule: a penalty that grows linearly outside a range.
//!
//! ```text
//! score = −weight · max(0, min − n, n − max) / scale
//! ```
//!
//! n is counted in tokens (EOS included), words or characters of the response.

use crate::{LengthConfig, LengthUnit};
use tetherline_core::{BoxError, NamedScore, Score, TextSample};

/// A length rule.
#[derive(Clone, Debug)]
pub struct LengthRule {
    config: LengthConfig,
}

impl LengthRule {
    /// The rule of a validated configuration.
    pub fn new(config: LengthConfig) -> Self {
        Self { config }
    }

    /// Weighted score of a response of `length` units.
    pub fn score_length(&self, length: u64) -> f64 {
        let c = &self.config;
        let short = c.target.or(c.min).map_or(0, |min| min.saturating_sub(length));
        let long = c.target.or(c.max).map_or(0, |max| length.saturating_sub(max));
        -c.weight * short.max(long) as f64 / c.scale
    }

    fn measure(&self, sample: &TextSample<'_>) -> u64 {
        let n = match self.config.unit {
            LengthUnit::Tokens => sample.response_tokens.len(),
            LengthUnit::Words => sample.response.split_whitespace().count(),
            LengthUnit::Chars => sample.response.chars().count(),
        };
        n as u64
    }
}

impl Score for LengthRule {
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let values = samples.iter().map(|s| self.score_length(self.measure(s)) as f32).collect();
        Ok(vec![NamedScore { name: format!("rule.{}", self.config.name), values }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(toml: &str) -> LengthRule {
        LengthRule::new(toml::from_str(toml).unwrap())
    }

    #[test]
    fn the_penalty_is_linear_outside_the_range() {
        let r = rule("min = 4\nmax = 8\nscale = 2\nweight = 0.5");
        assert_eq!([0, 3, 4, 8, 9, 12].map(|n| r.score_length(n)), [-1.0, -0.25, 0.0, 0.0, -0.25, -1.0]);
        let r = rule("target = 5");
        assert_eq!([4, 5, 7].map(|n| r.score_length(n)), [-1.0, 0.0, -2.0]);
        // A reward for length alone, the baseline every length-biased reward model should be compared to.
        assert_eq!(rule("max = 0\nweight = -1").score_length(7), 7.0);
    }

    #[test]
    fn every_unit_is_its_own() {
        let sample = TextSample {
            prompt: "long prompt that does not count",
            messages: &[],
            response: "né à Nice",
            prompt_tokens: &[1; 9],
            response_tokens: &[7; 5],
            domain: "all",
            answer: "",
            rendered: "",
        };
        for (unit, n) in [("tokens", 5.0), ("words", 3.0), ("chars", 9.0)] {
            let mut r = rule(&format!("max = 0\nunit = \"{unit}\"\nweight = -1"));
            assert_eq!(r.score(&[sample]).unwrap()[0].values, [n as f32], "{unit}");
        }
    }
}
