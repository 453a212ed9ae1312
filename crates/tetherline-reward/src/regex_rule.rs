//! Regex rule: how often a pattern matches the response.
//!
//! ```text
//! score = weight · min(cap, number of non-overlapping matches)
//! ```

use crate::{RegexConfig, RewardError};
use regex::Regex;
use tetherline_core::{BoxError, FieldError, NamedScore, Score, TextSample};

/// A regex rule.
#[derive(Clone, Debug)]
pub struct RegexRule {
    config: RegexConfig,
    regex: Regex,
}

impl RegexRule {
    /// Compiles the pattern.
    ///
    /// # Errors
    /// [`RewardError::Field`] when it is not a regular expression.
    pub fn new(config: RegexConfig) -> Result<Self, RewardError> {
        let regex = Regex::new(&config.pattern)
            .map_err(|e| FieldError::new("pattern", format!("is not a regular expression: {e}")))?;
        Ok(Self { config, regex })
    }

    /// Weighted score of one response.
    pub fn score_text(&self, response: &str) -> f64 {
        let cap = usize::try_from(self.config.cap).unwrap_or(usize::MAX);
        self.config.weight * self.regex.find_iter(response).take(cap).count() as f64
    }
}

impl Score for RegexRule {
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let values = samples.iter().map(|s| self.score_text(s.response) as f32).collect();
        Ok(vec![NamedScore { name: format!("rule.{}", self.config.name), values }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(toml: &str) -> RegexRule {
        RegexRule::new(toml::from_str(toml).unwrap()).unwrap()
    }

    #[test]
    fn matches_are_counted_up_to_the_cap() {
        let once = rule(r"pattern = '\d+'");
        assert_eq!(once.score_text("12 and 34"), 1.0);
        assert_eq!(once.score_text("none"), 0.0);
        let twice = rule("pattern = '\\d+'\ncap = 2\nweight = -0.25");
        assert_eq!(twice.score_text("1 2 3"), -0.5);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = RegexRule::new(toml::from_str("pattern = '('").unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("pattern: is not a regular expression"), "{error}");
    }
}
