//! Baselines without a value function, of the responses to one prompt.
//!
//! ```text
//! group std        A_i = (S_i − μ)/(σ + 1e-6)            σ² = Σ (S − μ)²/(n − 1)
//! group mean       A_i = S_i − μ
//! leave one out    A_i = S_i − (n·μ − S_i)/(n − 1) = n/(n − 1)·(S_i − μ)
//! length weighted  A_i = S_i − Σ len·S / Σ len
//! ```
//!
//! A group whose scores are all alike teaches nothing: its advantages are exactly 0, however small the σ that rounding
//! leaves. A response alone has no baseline but itself; such groups are refused (peers differ: verl's GRPO and RLOO take
//! the raw score, its vectorised RLOO 0).

use crate::{Advantage, PpoError};

/// Added to the standard deviation (verl; TRL has 1e-4, OpenRLHF 1e-9).
pub const GROUP_EPS: f64 = 1e-6;

/// Mean of a group's scores, and their standard deviation with n − 1; 0 of fewer than two.
pub fn mean_and_std(scores: &[f64]) -> (f64, f64) {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n.max(1.0);
    let squares = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
    (mean, if scores.len() < 2 { 0.0 } else { (squares / (n - 1.0)).sqrt() })
}

/// Whether all scores of a group are alike, up to the rounding of an f32.
pub fn is_uniform(scores: &[f64]) -> bool {
    let (low, high) =
        scores.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &s| (a.min(s), b.max(s)));
    high - low <= 4.0 * f64::from(f32::EPSILON) * low.abs().max(high.abs())
}

/// Advantages of the responses of one group; `lengths` in tokens.
///
/// # Errors
/// [`PpoError::GroupTooSmall`] for a response alone, [`PpoError::Length`] for a length too many.
pub fn group_advantages(kind: Advantage, scores: &[f64], lengths: &[usize]) -> Result<Vec<f64>, PpoError> {
    if lengths.len() != scores.len() {
        let (got, expected) = (lengths.len(), scores.len());
        return Err(PpoError::Length { what: "lengths of a group", got, expected, per: "response" });
    }
    if scores.len() < 2 {
        return Err(PpoError::GroupTooSmall { count: scores.len() });
    }
    if is_uniform(scores) {
        return Ok(vec![0.0; scores.len()]);
    }
    let (mean, std) = mean_and_std(scores);
    let n = scores.len() as f64;
    let (baseline, scale) = match kind {
        Advantage::GroupStd => (mean, 1.0 / (std + GROUP_EPS)),
        Advantage::LeaveOneOut => (mean, n / (n - 1.0)),
        Advantage::LengthWeighted => {
            let tokens: usize = lengths.iter().sum();
            let sum: f64 = scores.iter().zip(lengths).map(|(s, &l)| s * l as f64).sum();
            (if tokens == 0 { mean } else { sum / tokens as f64 }, 1.0)
        }
        _ => (mean, 1.0),
    };
    Ok(scores.iter().map(|s| (s - baseline) * scale).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Advantage) -> Vec<f64> {
        group_advantages(kind, &[1.0, 2.0, 6.0], &[1, 1, 2]).unwrap()
    }

    /// Mean 3, squares 4 + 1 + 9 = 14, so σ = √7; the others' means are 4, 3.5, 1.5; Σ len·S/Σ len = 15/4.
    #[test]
    fn three_scores_by_hand() {
        let close = |a: Vec<f64>, b: [f64; 3]| {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?} is not {b:?}");
        };
        let s = 7f64.sqrt() + 1e-6;
        close(of(Advantage::GroupStd), [-2.0 / s, -1.0 / s, 3.0 / s]);
        close(of(Advantage::GroupMean), [-2.0, -1.0, 3.0]);
        close(of(Advantage::LeaveOneOut), [-3.0, -1.5, 4.5]);
        close(of(Advantage::LengthWeighted), [-2.75, -1.75, 2.25]);
    }

    #[test]
    fn a_group_of_equal_scores_has_no_advantages_at_all() {
        // 0.1 + 0.2 and 0.3 differ by rounding; divided by their σ they would be ±0.7.
        let alike = [0.1 + 0.2, 0.3, f64::from(0.3f32)];
        for kind in [Advantage::GroupStd, Advantage::GroupMean, Advantage::LeaveOneOut] {
            assert_eq!(group_advantages(kind, &alike, &[1; 3]).unwrap(), [0.0; 3]);
        }
        assert!(!is_uniform(&[0.3, 0.3001]));
        assert!(is_uniform(&[0.0, 0.0]));
    }

    #[test]
    fn a_response_alone_is_refused() {
        let error = group_advantages(Advantage::LeaveOneOut, &[1.0], &[3]).unwrap_err().to_string();
        assert!(error.contains("samples_per_prompt"), "{error}");
    }
}
