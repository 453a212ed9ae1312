//! From named reward parts to the score PPO maximises.
//!
//! `raw_scores` is the sum of the parts. A response that ran into the length limit has no end of
//! sequence; its score is then lowered ([`MissingEos::Subtract`], TRL) or replaced
//! ([`MissingEos::Replace`], Huang et al. 2024 detail "reward −1 without EOS"). A response that ended
//! at a stop string counts as ended.
//!
//! Before that, a response near the length limit may pay for its length ([`Overlong`], DAPO).

use crate::{MissingEos, Overlong, PpoError};
use tetherline_core::{NamedScore, Rollout, ScoredRollout, StopReason};

/// What lowers a score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// For a response without EOS.
    pub missing_eos: MissingEos,
    /// For a long response, and the length limit in tokens.
    pub overlong: Option<(Overlong, usize)>,
}

impl From<MissingEos> for Penalties {
    fn from(missing_eos: MissingEos) -> Self {
        Self { missing_eos, overlong: None }
    }
}

/// Attaches scores to a rollout.
///
/// # Errors
/// [`PpoError::Length`] when a part does not have one value per row, [`PpoError::NonFiniteRow`] when a
/// part holds a NaN or infinity.
pub fn score_rollout(
    rollout: Rollout,
    parts: Vec<NamedScore>,
    penalties: impl Into<Penalties>,
) -> Result<ScoredRollout, PpoError> {
    let Penalties { missing_eos, overlong } = penalties.into();
    let rows = rollout.responses.len();
    let mut sums = vec![0.0f64; rows];
    for part in &parts {
        if part.values.len() != rows {
            return Err(PpoError::Length {
                what: "a score part",
                got: part.values.len(),
                expected: rows,
                per: "response",
            });
        }
        for (row, (sum, &value)) in sums.iter_mut().zip(&part.values).enumerate() {
            if !value.is_finite() {
                return Err(PpoError::NonFiniteRow { what: "score", row, value: f64::from(value) });
            }
            *sum += f64::from(value);
        }
    }
    let unfinished = |row: usize| rollout.stop.get(row) == Some(&StopReason::Length);
    let penalized: Vec<bool> =
        (0..rows).map(|row| missing_eos != MissingEos::None && unfinished(row)).collect();
    let scores = sums
        .iter()
        .enumerate()
        .map(|(row, &score)| {
            let pays = overlong.map_or(0.0, |(o, limit)| o.of(rollout.responses.row_len(row), limit));
            match missing_eos {
                MissingEos::Subtract(x) if penalized[row] => (score - pays - x) as f32,
                MissingEos::Replace(x) if penalized[row] => x as f32,
                _ => (score - pays) as f32,
            }
        })
        .collect();
    let raw_scores = sums.iter().map(|&x| x as f32).collect();
    Ok(ScoredRollout { rollout, raw_scores, scores, parts, penalized, baselines: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_core::Ragged;

    fn rollout() -> Rollout {
        Rollout {
            responses: Ragged::from_rows([vec![1, 2], vec![3], vec![4, 5]]),
            stop: vec![StopReason::Eos, StopReason::Length, StopReason::StopString],
            ..Rollout::default()
        }
    }

    fn parts() -> Vec<NamedScore> {
        vec![
            NamedScore { name: "reward_model".into(), values: vec![1.0, 2.0, 3.0] },
            NamedScore { name: "rule.length".into(), values: vec![0.5, -0.25, 0.0] },
        ]
    }

    #[test]
    fn only_the_unfinished_row_is_penalised() {
        let none = score_rollout(rollout(), parts(), MissingEos::None).unwrap();
        assert_eq!(none.scores, [1.5, 1.75, 3.0]);
        assert_eq!(none.penalized, [false; 3]);
        let subtract = score_rollout(rollout(), parts(), MissingEos::Subtract(1.0)).unwrap();
        assert_eq!(subtract.scores, [1.5, 0.75, 3.0]);
        assert_eq!(subtract.raw_scores, [1.5, 1.75, 3.0]);
        let replace = score_rollout(rollout(), parts(), MissingEos::Replace(-1.0)).unwrap();
        assert_eq!(replace.scores, [1.5, -1.0, 3.0]);
        assert_eq!(replace.penalized, [false, true, false]);
    }

    /// A limit of 2 tokens and a buffer of 2: one token pays half, two pay all; a replaced score stays what it is.
    #[test]
    fn long_responses_pay_for_their_length() {
        let overlong = Some((Overlong { buffer: 2, penalty: 1.0 }, 2));
        let none = Penalties { missing_eos: MissingEos::None, overlong };
        let scored = score_rollout(rollout(), parts(), none).unwrap();
        assert_eq!(scored.scores, [0.5, 1.25, 2.0]);
        assert_eq!(scored.raw_scores, [1.5, 1.75, 3.0]);
        let replace = Penalties { missing_eos: MissingEos::Replace(-1.0), overlong };
        assert_eq!(score_rollout(rollout(), parts(), replace).unwrap().scores, [0.5, -1.0, 2.0]);
    }

    #[test]
    fn bad_parts_are_refused() {
        let mut bad = parts();
        bad[1].values.pop();
        let error = score_rollout(rollout(), bad, MissingEos::None).unwrap_err().to_string();
        assert!(error.contains("2 entries, expected 3"), "{error}");
        let mut bad = parts();
        bad[0].values[2] = f32::NAN;
        let error = score_rollout(rollout(), bad, MissingEos::None).unwrap_err().to_string();
        assert!(error.contains("row 2"), "{error}");
    }
}
