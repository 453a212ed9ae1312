//! Keyword rule: how many of the given substrings the response has.
//!
//! ```text
//! score = weight · min(cap, Σ_word count(word))
//! ```
//!
//! Occurrences of one word do not overlap; different words may. Substrings, not words: `joy` is found in
//! `enjoy`.

use crate::KeywordConfig;
use tetherline_core::{BoxError, NamedScore, Score, TextSample};

/// A keyword rule.
#[derive(Clone, Debug)]
pub struct KeywordRule {
    config: KeywordConfig,
    words: Vec<String>,
}

impl KeywordRule {
    /// The rule of a validated configuration.
    pub fn new(config: KeywordConfig) -> Self {
        let fold = |w: &String| if config.case_insensitive { w.to_lowercase() } else { w.clone() };
        let words = config.words.iter().map(fold).collect();
        Self { config, words }
    }

    /// Weighted score of one response.
    pub fn score_text(&self, response: &str) -> f64 {
        let lower = self.config.case_insensitive.then(|| response.to_lowercase());
        let text = lower.as_deref().unwrap_or(response);
        let count: u64 = self
            .words
            .iter()
            .map(|word| {
                if self.config.per_occurrence {
                    text.matches(word.as_str()).count() as u64
                } else {
                    u64::from(text.contains(word.as_str()))
                }
            })
            .sum();
        self.config.weight * count.min(self.config.cap.unwrap_or(u64::MAX)) as f64
    }
}

impl Score for KeywordRule {
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let values = samples.iter().map(|s| self.score_text(s.response) as f32).collect();
        Ok(vec![NamedScore { name: format!("rule.{}", self.config.name), values }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(toml: &str) -> KeywordRule {
        KeywordRule::new(toml::from_str(toml).unwrap())
    }

    /// The word-count reward: min(5, number of lower-case substring hits of five words).
    #[test]
    fn the_word_count_reward() {
        let r = rule("words = [\"happy\", \"smile\", \"laugh\", \"love\", \"joy\"]\ncap = 5");
        assert_eq!(r.score_text("Lily was HAPPY. She smiled and laughed; she enjoyed it."), 4.0);
        assert_eq!(r.score_text("love love love love love love love"), 5.0);
        assert_eq!(r.score_text("The cat sat."), 0.0);
    }

    #[test]
    fn the_switches() {
        let once = rule("words = [\"ha\", \"ho\"]\nper_occurrence = false\nweight = -0.5");
        assert_eq!(once.score_text("ha ha ha"), -0.5);
        assert_eq!(once.score_text("ha ho"), -1.0);
        let exact = rule("words = [\"Ha\"]\ncase_insensitive = false");
        assert_eq!(exact.score_text("ha Ha HA"), 1.0);
        assert_eq!(rule("words = [\"aa\"]").score_text("aaaaa"), 2.0);
    }
}
