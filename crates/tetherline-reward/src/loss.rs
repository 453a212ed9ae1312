//! Bradley–Terry loss of preference pairs, with its gradient in closed form.
//!
//! ```text
//! x = r_c − r_r − margin
//! loss = softplus(−x) + κ·(r_c + r_r)²            softplus(−x) = −log σ(x)
//! d/d r_c = −σ(−x) + 2κ(r_c + r_r)                d/d r_r = σ(−x) + 2κ(r_c + r_r)
//! ```
//!
//! (Ouyang et al. 2022, eq. 1; margin: Touvron et al. 2023, eq. 2; centring: Eisenstein et al. 2023.) A
//! batch's loss is the mean over pairs. softplus is written so that no score overflows it.

use crate::RewardError;

/// Loss of one pair and its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// The loss, nats.
    pub loss: f64,
    /// d loss / d chosen score.
    pub d_chosen: f64,
    /// d loss / d rejected score.
    pub d_rejected: f64,
}

/// Loss of one pair; `center` is κ, 0 for no centring.
pub fn pair_loss(chosen: f64, rejected: f64, margin: f64, center: f64) -> PairLoss {
    let x = chosen - rejected - margin;
    // softplus(−x) and σ(−x): exp of a number at most 0 cannot overflow.
    let small = (-x.abs()).exp();
    let softplus = (-x).max(0.0) + small.ln_1p();
    let wrong = if x >= 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) };
    let sum = chosen + rejected;
    PairLoss {
        loss: softplus + center * sum * sum,
        d_chosen: -wrong + 2.0 * center * sum,
        d_rejected: wrong + 2.0 * center * sum,
    }
}

/// Loss of (a part of) a batch and its gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchLoss {
    /// Σ loss / `normalizer`.
    pub loss: f64,
    /// d loss / d chosen score of each pair.
    pub d_chosen: Vec<f32>,
    /// d loss / d rejected score of each pair.
    pub d_rejected: Vec<f32>,
    /// Pairs whose chosen score is the higher; a tie is half a pair. Not divided by anything.
    pub correct: f64,
}

/// Loss of the pairs of one micro-batch, divided by the number of pairs in the whole batch.
///
/// Adding up micro-batches gives the mean over the batch.
///
/// # Errors
/// [`RewardError::Pairs`] when the lengths differ, [`RewardError::NonFinitePair`] for a NaN or infinity.
pub fn batch_loss(
    chosen: &[f32],
    rejected: &[f32],
    margins: Option<&[f32]>,
    center: f64,
    pairs_in_batch: usize,
) -> Result<BatchLoss, RewardError> {
    let expected = chosen.len();
    let margin_count = margins.map_or(expected, <[f32]>::len);
    for (what, got) in [("rejected", rejected.len()), ("margins", margin_count)] {
        if got != expected {
            return Err(RewardError::Pairs { what, got, expected });
        }
    }
    let scale = 1.0 / pairs_in_batch.max(1) as f64;
    let mut out = BatchLoss { loss: 0.0, d_chosen: vec![], d_rejected: vec![], correct: 0.0 };
    for (i, (&c, &r)) in chosen.iter().zip(rejected).enumerate() {
        let margin = margins.map_or(0.0, |m| m[i]);
        let pair = pair_loss(f64::from(c), f64::from(r), f64::from(margin), center);
        if !pair.loss.is_finite() {
            return Err(RewardError::NonFinitePair { pair: i, chosen: c, rejected: r, margin });
        }
        out.loss += scale * pair.loss;
        out.d_chosen.push((scale * pair.d_chosen) as f32);
        out.d_rejected.push((scale * pair.d_rejected) as f32);
        out.correct += win(c, r);
    }
    Ok(out)
}

/// 1 when the first is higher, ½ for a tie, else 0.
pub(crate) fn win(a: f32, b: f32) -> f64 {
    if a > b {
        1.0
    } else if a == b {
        0.5
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let even = pair_loss(0.3, 0.3, 0.0, 0.0);
        assert!((even.loss - 2f64.ln()).abs() < 1e-15);
        assert_eq!((even.d_chosen, even.d_rejected), (-0.5, 0.5));
        // x = ln 3: σ(−x) = ¼, loss ln(4/3).
        let three = pair_loss(3f64.ln() + 1.0, 0.0, 1.0, 0.0);
        assert!((three.loss - (4.0f64 / 3.0).ln()).abs() < 1e-15 && (three.d_rejected - 0.25).abs() < 1e-15);
        let centred = pair_loss(2.0, 1.0, 0.0, 0.1);
        assert!((centred.loss - pair_loss(2.0, 1.0, 0.0, 0.0).loss - 0.9).abs() < 1e-12);
        assert!((centred.d_chosen + centred.d_rejected - 1.2).abs() < 1e-12);
    }

    #[test]
    fn nothing_overflows() {
        let lost = pair_loss(-1e6, 1e6, 0.0, 0.0);
        assert_eq!((lost.loss, lost.d_chosen, lost.d_rejected), (2e6, -1.0, 1.0));
        let won = pair_loss(1e6, -1e6, 0.0, 0.0);
        assert_eq!((won.loss, won.d_chosen, won.d_rejected), (0.0, 0.0, 0.0));
    }

    #[test]
    fn gradients_are_central_differences() {
        let h = 1e-5;
        for (c, r, m, k) in [(0.3, -1.2, 0.5, 0.1), (-2.0, 1.5, 0.0, 0.01), (4.0, -3.0, -0.2, 0.0)] {
            let at = pair_loss(c, r, m, k);
            let dc = (pair_loss(c + h, r, m, k).loss - pair_loss(c - h, r, m, k).loss) / (2.0 * h);
            let dr = (pair_loss(c, r + h, m, k).loss - pair_loss(c, r - h, m, k).loss) / (2.0 * h);
            assert!((at.d_chosen - dc).abs() < 1e-9 && (at.d_rejected - dr).abs() < 1e-9, "{at:?} {dc} {dr}");
        }
    }

    #[test]
    fn bad_batches_are_refused() {
        let error = batch_loss(&[1.0, 2.0], &[1.0], None, 0.0, 2).unwrap_err().to_string();
        assert!(error.contains("rejected has 1 entries, expected 2"), "{error}");
        assert!(batch_loss(&[1.0], &[1.0], Some(&[]), 0.0, 1).is_err());
        let error = batch_loss(&[1.0, f32::NAN], &[1.0, 2.0], None, 0.0, 2).unwrap_err().to_string();
        assert!(error.starts_with("pair 1: chosen score NaN"), "{error}");
    }

    #[test]
    fn a_tie_is_half_a_win() {
        assert_eq!(batch_loss(&[1.0, 0.0, 2.0], &[0.0, 0.0, 3.0], None, 0.0, 3).unwrap().correct, 1.5);
    }
}
