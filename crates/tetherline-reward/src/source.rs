//! What every source outside this program has in common: some samples get a score, some do not, and the recipe says what
//! stands in for these.
//!
//! A source that has never given a score is a mistake in the recipe (a wrong URL, a program that is not there) rather
//! than bad luck: it stops the run whatever `on_failure` says.

use crate::{OnFailure, RewardError};
use tetherline_core::{Fallback, NamedScore};

/// Scores of a call, some of which may be missing for the reasons given.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) scores: Vec<Option<f64>>,
    /// Why the first missing one is missing.
    pub(crate) why: Option<RewardError>,
}

/// The memory of a source between calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settled {
    answered: bool,
    /// Stand-ins of the last call.
    pub(crate) fallbacks: Vec<Fallback>,
}

impl Settled {
    /// Puts stand-ins where scores are missing.
    ///
    /// # Errors
    /// Why scores are missing, where the run should stop.
    pub(crate) fn settle(
        &mut self,
        name: &str,
        on_failure: OnFailure,
        answers: Answers,
    ) -> Result<Vec<f64>, RewardError> {
        let Answers { scores, why } = answers;
        self.fallbacks.clear();
        self.answered |= scores.iter().any(Option::is_some);
        let Some(why) = why else { return Ok(scores.into_iter().flatten().collect()) };
        let stand_in = match on_failure {
            OnFailure::Score(x) if self.answered => x,
            _ => return Err(why),
        };
        let rows: Vec<usize> = (0..scores.len()).filter(|&i| scores[i].is_none()).collect();
        if !rows.is_empty() {
            self.fallbacks.push(Fallback { source: name.to_owned(), rows, why: why.to_string() });
        }
        Ok(scores.into_iter().map(|s| s.unwrap_or(stand_in)).collect())
    }
}

/// Weighted scores as the part of a rule.
pub(crate) fn part(rule: &str, weight: f64, scores: Vec<f64>) -> Vec<NamedScore> {
    let values = scores.into_iter().map(|x| (weight * x) as f32).collect();
    vec![NamedScore { name: format!("rule.{rule}"), values }]
}

/// Whether a score is finite, weighted too.
pub(crate) fn is_usable(score: f64, weight: f64) -> bool {
    score.is_finite() && ((score * weight) as f32).is_finite()
}

/// The beginning of what a source said, for a message.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    let text = text.trim();
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(scores: &[Option<f64>]) -> Answers {
        let why = scores.contains(&None).then_some(RewardError::NonFiniteScore { index: 0, value: f32::NAN });
        Answers { scores: scores.to_vec(), why }
    }

    #[test]
    fn missing_scores_are_filled_in_once_the_source_has_answered() {
        let mut settled = Settled::default();
        let stand_in = OnFailure::Score(-1.0);
        assert!(settled.settle("a", stand_in, answers(&[None, None])).is_err(), "it never answered");
        assert_eq!(settled.settle("a", stand_in, answers(&[Some(2.0), None])).unwrap(), [2.0, -1.0]);
        assert_eq!((settled.fallbacks[0].rows.clone(), &*settled.fallbacks[0].source), (vec![1], "a"));
        assert_eq!(settled.settle("a", stand_in, answers(&[None])).unwrap(), [-1.0]);
        assert_eq!(settled.settle("a", stand_in, answers(&[Some(1.0)])).unwrap(), [1.0]);
        assert!(settled.fallbacks.is_empty());
        assert!(settled.settle("a", OnFailure::Stop, answers(&[Some(1.0), None])).is_err());
    }
}
