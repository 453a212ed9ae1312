//! Loss of a preference pair, with its gradient in closed form.
//!
//! ```text
//! x = r_c − r_r − margin + γ·(g(n_c) − g(n_r))                  logit of "chosen is better"
//! q = (1 − ε)·p + ε·(1 − p)                                     label p, smoothed by ε
//! loss = q·softplus(−x) + (1 − q)·softplus(x) + κ·(r_c + r_r)²  softplus(−x) = −log σ(x)
//! d/d r_c = σ(x) − q + 2κ(r_c + r_r)                            d/d r_r = q − σ(x) + 2κ(r_c + r_r)
//! ```
//!
//! With a label p = 1 (`chosen` is better) and ε = 0 it is Bradley–Terry, −log σ(x) (Ouyang et al. 2022, eq. 1;
//! margin: Touvron et al. 2023, eq. 2; centring: Eisenstein et al. 2023; smoothing as conservative DPO, Mitchell
//! 2023). A label of ½ is a tie: the loss is least at x = 0, elsewhere at x = ln(q/(1 − q)). The length term is
//! that of `length_debias.rs`. A batch's loss is the mean over pairs. softplus is written so that no score overflows
//! it. Rankings of more than two: `ranking.rs`.

use crate::RewardError;

/// What a pair's loss depends on besides its scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairTarget {
    /// Probability that the chosen answer is the better one, in [0, 1]; ½ is a tie.
    pub label: f64,
    /// By how much it should be preferred, score units.
    pub margin: f64,
    /// γ·(g(n_c) − g(n_r)), what length alone says for the chosen one, in nats of log-odds; 0 without debiasing.
    pub length: f64,
    /// ε, the share of labels taken to be wrong, in [0, ½).
    pub smoothing: f64,
    /// κ, 0 for no centring.
    pub center: f64,
}

impl Default for PairTarget {
    /// The chosen answer is better, and nothing else is known.
    fn default() -> Self {
        Self { label: 1.0, margin: 0.0, length: 0.0, smoothing: 0.0, center: 0.0 }
    }
}

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

/// `(softplus(−x), softplus(x), σ(x), σ(−x))`: exp of a number at most 0 cannot overflow.
fn logistic(x: f64) -> (f64, f64, f64, f64) {
    let small = (-x.abs()).exp();
    let log = small.ln_1p();
    let (high, low) = (1.0 / (1.0 + small), small / (1.0 + small));
    let (right, wrong) = if x >= 0.0 { (high, low) } else { (low, high) };
    ((-x).max(0.0) + log, x.max(0.0) + log, right, wrong)
}

/// Loss of one pair of scores.
pub fn pair_loss(chosen: f64, rejected: f64, target: &PairTarget) -> PairLoss {
    let t = target;
    let (if_right, if_wrong, right, wrong) = logistic(chosen - rejected - t.margin + t.length);
    let q = (1.0 - t.smoothing) * t.label + t.smoothing * (1.0 - t.label);
    // σ(x) − q, so that it is exact where q is 0 or 1.
    let d = (1.0 - q) * right - q * wrong;
    let sum = chosen + rejected;
    // A share of 0 leaves its side out: ∞·0 is no number.
    let side = |share: f64, loss: f64| if share == 0.0 { 0.0 } else { share * loss };
    PairLoss {
        loss: side(q, if_right) + side(1.0 - q, if_wrong) + t.center * sum * sum,
        d_chosen: d + 2.0 * t.center * sum,
        d_rejected: -d + 2.0 * t.center * sum,
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

/// Bradley–Terry loss of the pairs of one micro-batch, divided by the number of pairs in the whole batch.
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
        let target = PairTarget { margin: f64::from(margin), center, ..PairTarget::default() };
        let pair = pair_loss(f64::from(c), f64::from(r), &target);
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

    const PLAIN: PairTarget =
        PairTarget { label: 1.0, margin: 0.0, length: 0.0, smoothing: 0.0, center: 0.0 };

    #[test]
    fn known_values() {
        let even = pair_loss(0.3, 0.3, &PLAIN);
        assert!((even.loss - 2f64.ln()).abs() < 1e-15);
        assert_eq!((even.d_chosen, even.d_rejected), (-0.5, 0.5));
        // x = ln 3: σ(−x) = ¼, loss ln(4/3).
        let three = pair_loss(3f64.ln() + 1.0, 0.0, &PairTarget { margin: 1.0, ..PLAIN });
        assert!((three.loss - (4.0f64 / 3.0).ln()).abs() < 1e-15 && (three.d_rejected - 0.25).abs() < 1e-15);
        let centred = pair_loss(2.0, 1.0, &PairTarget { center: 0.1, ..PLAIN });
        assert!((centred.loss - pair_loss(2.0, 1.0, &PLAIN).loss - 0.9).abs() < 1e-12);
        assert!((centred.d_chosen + centred.d_rejected - 1.2).abs() < 1e-12);
        // What length says is added to the difference.
        let by_length = pair_loss(0.0, 0.0, &PairTarget { length: 3f64.ln(), ..PLAIN });
        assert!((by_length.loss - (4.0f64 / 3.0).ln()).abs() < 1e-15);
    }

    /// A soft label's loss is least, and then the entropy of the label, where σ(x) is the smoothed label: by hand,
    /// p = 0.9 and ε = 0.25 give q = 0.75 · 0.9 + 0.25 · 0.1 = 0.7.
    #[test]
    fn a_soft_label_is_what_the_model_should_say() {
        let target = PairTarget { label: 0.9, smoothing: 0.25, margin: 0.5, ..PLAIN };
        let best = 0.5 + (0.7f64 / 0.3).ln();
        let at = pair_loss(best, 0.0, &target);
        assert!(at.d_chosen.abs() < 1e-15 && at.d_rejected.abs() < 1e-15, "{at:?}");
        let entropy = -(0.7 * 0.7f64.ln() + 0.3 * 0.3f64.ln());
        assert!((at.loss - entropy).abs() < 1e-12, "{at:?}");
        let tie = PairTarget { label: 0.5, ..PLAIN };
        assert_eq!(pair_loss(1.7, 1.7, &tie).d_chosen, 0.0);
        assert_eq!(pair_loss(2.0, 1.0, &tie).loss, pair_loss(1.0, 2.0, &tie).loss);
        // A label of 0 is the pair the other way round.
        let (zero, swapped) =
            (pair_loss(0.4, 1.1, &PairTarget { label: 0.0, ..PLAIN }), pair_loss(1.1, 0.4, &PLAIN));
        assert_eq!((zero.loss, zero.d_chosen), (swapped.loss, swapped.d_rejected));
    }

    #[test]
    fn nothing_overflows() {
        let lost = pair_loss(-1e6, 1e6, &PLAIN);
        assert_eq!((lost.loss, lost.d_chosen, lost.d_rejected), (2e6, -1.0, 1.0));
        let won = pair_loss(1e6, -1e6, &PLAIN);
        assert_eq!((won.loss, won.d_chosen, won.d_rejected), (0.0, 0.0, 0.0));
    }

    #[test]
    fn gradients_are_central_differences() {
        let h = 1e-5;
        for (c, r, target) in [
            (0.3, -1.2, PairTarget { margin: 0.5, center: 0.1, ..PLAIN }),
            (-2.0, 1.5, PairTarget { center: 0.01, ..PLAIN }),
            (4.0, -3.0, PairTarget { margin: -0.2, ..PLAIN }),
            (0.7, 0.2, PairTarget { label: 0.3, margin: 0.4, length: -0.6, smoothing: 0.1, center: 0.05 }),
            (-0.4, 1.9, PairTarget { label: 0.5, length: 1.3, smoothing: 0.2, ..PLAIN }),
        ] {
            let loss = |c: f64, r: f64| pair_loss(c, r, &target).loss;
            let at = pair_loss(c, r, &target);
            let dc = (loss(c + h, r) - loss(c - h, r)) / (2.0 * h);
            let dr = (loss(c, r + h) - loss(c, r - h)) / (2.0 * h);
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
