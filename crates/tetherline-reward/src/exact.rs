//! Exact-answer rule: does the response give the answer that the prompt's row names (`answer`)?
//!
//! ```text
//! score = weight · 1   if extract(response) = answer, both trimmed
//!         weight · 0   otherwise
//! ```

use crate::{ExactConfig, RewardError};
use regex::Regex;
use tetherline_core::{BoxError, FieldError, NamedScore, Score, TextSample};

/// An exact-answer rule.
#[derive(Clone, Debug)]
pub struct ExactRule {
    config: ExactConfig,
    extract: Option<Regex>,
}

impl ExactRule {
    /// Compiles the pattern.
    ///
    /// # Errors
    /// [`RewardError::Field`] when it is not a regular expression.
    pub fn new(config: ExactConfig) -> Result<Self, RewardError> {
        let compile = |p: &String| Regex::new(p).map_err(|e| FieldError::new("extract", e.to_string()));
        let extract = config.extract.as_ref().map(compile).transpose()?;
        Ok(Self { config, extract })
    }

    /// Whether `response` gives `answer`.
    pub fn is_right(&self, response: &str, answer: &str) -> bool {
        let given = match &self.extract {
            None => Some(response),
            Some(pattern) => {
                let last = pattern.captures_iter(response).last();
                last.and_then(|c| Some(c.get(1).or(c.get(0))?.as_str()))
            }
        };
        let Some(given) = given else { return false };
        let (given, answer) = (given.trim(), answer.trim());
        if self.config.numeric
            && let (Some(a), Some(b)) = (number(given), number(answer))
        {
            return a == b || (a - b).abs() <= 1e-9 * b.abs();
        }
        if self.config.case_insensitive {
            return given.to_lowercase() == answer.to_lowercase();
        }
        given == answer
    }
}

/// A number with thousands separators, currency or percent signs, or a full stop behind it.
fn number(text: &str) -> Option<f64> {
    let bare: String = text.chars().filter(|c| !matches!(c, ',' | '$' | '€' | '£' | '%' | ' ')).collect();
    bare.strip_suffix('.').unwrap_or(&bare).parse().ok().filter(|x: &f64| x.is_finite())
}

/// What a check says of a prompt that has nothing to check against.
pub(crate) fn no_answer(rule: &str, sample: &TextSample<'_>) -> RewardError {
    let prompt: String = sample.prompt.trim().chars().take(60).collect();
    RewardError::NoAnswer { rule: rule.to_owned(), prompt }
}

impl Score for ExactRule {
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let mut values = Vec::with_capacity(samples.len());
        for s in samples {
            if s.answer.is_empty() {
                return Err(no_answer(&self.config.name, s).into());
            }
            let right = f64::from(u8::from(self.is_right(s.response, s.answer)));
            values.push((self.config.weight * right) as f32);
        }
        Ok(vec![NamedScore { name: format!("rule.{}", self.config.name), values }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(toml: &str) -> ExactRule {
        ExactRule::new(toml::from_str(toml).unwrap()).unwrap()
    }

    #[test]
    fn answers_are_compared_whole_or_by_their_last_match() {
        assert!(rule("").is_right(" Paris\n", "Paris") && !rule("").is_right("Paris.", "Paris"));
        assert!(
            rule("case_insensitive = true").is_right("PARIS", "Paris")
                && !rule("").is_right("PARIS", "Paris")
        );
        let marked = rule("extract = '####\\s*(.+)'");
        assert!(marked.is_right("2 + 2 #### 5\nno, #### 4", "4") && !marked.is_right("it is 4", "4"));
        assert!(rule("extract = '-?\\d+'").is_right("from 3 to -7", "-7"));
    }

    #[test]
    fn numbers_are_numbers() {
        let numeric = rule("numeric = true");
        assert!(
            numeric.is_right("1,000.0", "1000")
                && numeric.is_right("$42.", "42")
                && numeric.is_right("x", "x")
        );
        assert!(!numeric.is_right("1000.1", "1000") && !numeric.is_right("nan", "inf"));
        assert!(!rule("").is_right("1,000", "1000"));
    }

    #[test]
    fn a_prompt_without_an_answer_is_named() {
        let sample = TextSample { prompt: "What is 1 + 1?", response: "2", ..Default::default() };
        let error = rule("name = \"sum\"").score(&[sample]).unwrap_err().to_string();
        assert!(
            error.contains("rule sum") && error.contains("What is 1 + 1?") && error.contains("`answer`"),
            "{error}"
        );
        let right = TextSample { answer: "2", ..sample };
        assert_eq!(rule("weight = 2").score(&[right]).unwrap()[0].values, [2.0]);
    }
}
