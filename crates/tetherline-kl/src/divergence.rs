//! Other divergences of two next-token distributions, for dashboards.
//!
//! From full-vocabulary log-prob rows π and ref, nats per token:
//!
//! | name | formula | use |
//! | --- | --- | --- |
//! | forward KL | Σ ref ln(ref/π) | teacher-forced on reference samples: what the policy forgot |
//! | Jensen–Shannon | ½KL(π‖M) + ½KL(ref‖M), M = (π+ref)/2 | symmetric, ≤ ln 2: the safest curve to show |
//! | Rényi, order a | ln(Σ π^a ref^(1−a))/(a−1) | non-decreasing in a; → KL as a → 1 |
//! | χ² | e^(D₂) − 1 | variance of importance weights |
//! | total variation | ½Σ\|π − ref\| | ≤ √(KL/2) |

use crate::exact::{RowError, exact_kl, same_length};
use crate::units::NatsPerToken;

/// Forward KL(ref‖π).
///
/// # Errors
/// [`RowError`] when the rows are empty or differ in length.
pub fn forward_kl(logprobs: &[f32], ref_logprobs: &[f32]) -> Result<NatsPerToken, RowError> {
    same_length(logprobs, ref_logprobs)?;
    exact_kl(ref_logprobs, logprobs)
}

/// Jensen–Shannon divergence, in 0..=ln 2.
///
/// # Errors
/// [`RowError`] when the rows are empty or differ in length.
pub fn jensen_shannon(logprobs: &[f32], ref_logprobs: &[f32]) -> Result<NatsPerToken, RowError> {
    same_length(logprobs, ref_logprobs)?;
    // Half of p ln(p/m) − p + m: the extra terms sum to zero and keep every summand ≥ 0.
    let half = |p: f64, m: f64| if p == 0.0 { m } else { p * (p / m).ln() - p + m };
    let sum = pairs(logprobs, ref_logprobs)
        .map(|(lp, rlp)| {
            let (p, r) = (lp.exp(), rlp.exp());
            let m = 0.5 * (p + r);
            if m == 0.0 { 0.0 } else { 0.5 * (half(p, m) + half(r, m)) }
        })
        .sum();
    Ok(NatsPerToken(sum))
}

/// Rényi divergence of order `a` > 0; the exact KL where a = 1.
///
/// # Errors
/// [`RowError`] when the rows are empty or differ in length, or the order is not finite and > 0.
pub fn renyi(logprobs: &[f32], ref_logprobs: &[f32], a: f64) -> Result<NatsPerToken, RowError> {
    same_length(logprobs, ref_logprobs)?;
    if !a.is_finite() || a <= 0.0 {
        return Err(RowError::Order { order: a.to_string() });
    }
    if a == 1.0 {
        return exact_kl(logprobs, ref_logprobs);
    }
    if (a - 1.0).abs() < NEAR_ONE {
        return Ok(NatsPerToken(renyi_near_one(logprobs, ref_logprobs, a)));
    }
    // Log-sum-exp over a·lp + (1−a)·rlp: orders above 1 overflow otherwise.
    let exponent = |lp: f64, rlp: f64| {
        if lp == f64::NEG_INFINITY {
            f64::NEG_INFINITY // 0^a = 0, whatever the other factor
        } else if rlp == f64::NEG_INFINITY {
            if a > 1.0 { f64::INFINITY } else { f64::NEG_INFINITY }
        } else {
            a * lp + (1.0 - a) * rlp
        }
    };
    let largest =
        pairs(logprobs, ref_logprobs).map(|(p, r)| exponent(p, r)).fold(f64::NEG_INFINITY, f64::max);
    if largest.is_infinite() {
        return Ok(NatsPerToken(f64::INFINITY)); // disjoint supports, or the reference cannot take what the policy does
    }
    let sum: f64 = pairs(logprobs, ref_logprobs).map(|(p, r)| (exponent(p, r) - largest).exp()).sum();
    Ok(NatsPerToken((largest + sum.ln()) / (a - 1.0)))
}

/// Orders closer to 1 than this lose digits in ln(Σ…)/(a−1), whose sum is then close to 1.
const NEAR_ONE: f64 = 0.1;

/// The same for an order next to 1, as ln(1 + Σ π·(e^((a−1)·ln(π/ref)) − 1))/(a−1): the sum is of what differs from
/// 1, so that nothing is lost of it, and the rows' rounded normalisation is not divided by a − 1.
fn renyi_near_one(logprobs: &[f32], ref_logprobs: &[f32], a: f64) -> f64 {
    let taken = pairs(logprobs, ref_logprobs).filter(|(lp, _)| *lp != f64::NEG_INFINITY);
    let excess: f64 = taken.map(|(lp, rlp)| lp.exp() * ((a - 1.0) * (lp - rlp)).exp_m1()).sum();
    excess.ln_1p() / (a - 1.0)
}

/// χ² divergence Σ π²/ref − 1 = e^(D₂) − 1, no unit.
///
/// # Errors
/// [`RowError`] when the rows are empty or differ in length.
pub fn chi_squared(logprobs: &[f32], ref_logprobs: &[f32]) -> Result<f64, RowError> {
    Ok(renyi(logprobs, ref_logprobs, 2.0)?.0.exp_m1())
}

/// Total variation distance, in 0..=1.
///
/// # Errors
/// [`RowError`] when the rows are empty or differ in length.
pub fn total_variation(logprobs: &[f32], ref_logprobs: &[f32]) -> Result<f64, RowError> {
    same_length(logprobs, ref_logprobs)?;
    Ok(0.5 * pairs(logprobs, ref_logprobs).map(|(lp, rlp)| (lp.exp() - rlp.exp()).abs()).sum::<f64>())
}

fn pairs<'a>(a: &'a [f32], b: &'a [f32]) -> impl Iterator<Item = (f64, f64)> + 'a {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(p: &[f64]) -> Vec<f32> {
        p.iter().map(|p| p.ln() as f32).collect()
    }

    /// KL.md's golden vector; rows are f32, so 1e-5 there.
    #[test]
    fn golden_vector() {
        let (p, r) = (row(&[0.5, 0.3, 0.2]), row(&[0.2, 0.5, 0.3]));
        for (name, value, golden) in [
            ("forward", forward_kl(&p, &r).unwrap().0, 0.193_794_197_9),
            ("js", jensen_shannon(&p, &r).unwrap().0, 0.050_874_612_5),
            ("renyi .5", renyi(&p, &r, 0.5).unwrap().0, 0.105_799_536_8),
            ("renyi 1", renyi(&p, &r, 1.0).unwrap().0, 0.223_804_657_2),
            ("renyi 2", renyi(&p, &r, 2.0).unwrap().0, 0.446_820_293_8),
            ("chi2", chi_squared(&p, &r).unwrap(), 0.563_333_333_3),
            ("tv", total_variation(&p, &r).unwrap(), 0.3),
        ] {
            assert!((value - golden).abs() < 1e-5, "{name}: {value} vs {golden}");
        }
    }

    /// D_a is smooth in a: D_a = KL + ½(a−1)·Var(ln π/ref) + O((a−1)²), with KL.md's sd of k1 for the variance.
    #[test]
    fn renyi_next_to_order_one_keeps_its_digits() {
        let (p, r) = (row(&[0.5, 0.3, 0.2]), row(&[0.2, 0.5, 0.3]));
        let (kl, variance) = (0.223_804_657_2, 0.693_45f64.powi(2));
        for step in [1e-12, 1e-9, 1e-6, 1e-4, 1e-3] {
            for a in [1.0 - step, 1.0 + step] {
                let expected = kl + 0.5 * (a - 1.0) * variance;
                let found = renyi(&p, &r, a).unwrap().0;
                assert!((found - expected).abs() < 1e-6, "order {a}: {found} vs {expected}");
            }
        }
        // The two ways agree where one takes over from the other, but for the row's normalisation in f32.
        for a in [0.9, 1.1] {
            let inside = renyi(&p, &r, 1.0 + (a - 1.0) * (1.0 - 1e-9)).unwrap().0;
            assert!((inside - renyi(&p, &r, a).unwrap().0).abs() < 3e-6, "order {a}");
        }
        // Supports that differ: what only the reference takes adds nothing, what only the policy takes is infinite.
        let (one, both) = ([0.0f32, f32::NEG_INFINITY], row(&[0.5, 0.5]));
        assert!((renyi(&one, &both, 1.01).unwrap().0 - 2f64.ln()).abs() < 1e-6);
        assert_eq!(renyi(&both, &one, 1.01).unwrap().0, f64::INFINITY);
        assert!((renyi(&both, &one, 0.99).unwrap().0 - 0.99 * 0.5f64.ln() / -0.01).abs() < 1e-4);
    }

    #[test]
    fn disjoint_supports_are_at_the_ends_of_every_scale() {
        let (p, r) = ([0.0f32, f32::NEG_INFINITY], [f32::NEG_INFINITY, 0.0f32]);
        assert!((jensen_shannon(&p, &r).unwrap().0 - 2f64.ln()).abs() < 1e-12);
        assert_eq!(total_variation(&p, &r).unwrap(), 1.0);
        assert_eq!(forward_kl(&p, &r).unwrap().0, f64::INFINITY);
        assert_eq!(renyi(&p, &r, 0.5).unwrap().0, f64::INFINITY);
        assert_eq!(renyi(&p, &r, 2.0).unwrap().0, f64::INFINITY);
        let half = row(&[0.5, 0.5]);
        assert!((renyi(&p, &half, 0.5).unwrap().0 - 2f64.ln()).abs() < 1e-6);
        assert_eq!(renyi(&half, &p, 2.0).unwrap().0, f64::INFINITY);
        assert!((renyi(&half, &p, 0.5).unwrap().0 - 2f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn wrong_orders_and_rows_are_errors() {
        let p = row(&[1.0]);
        for a in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(renyi(&p, &p, a).unwrap_err().to_string().contains("order"));
        }
        let longer = row(&[0.5, 0.5]);
        assert!(forward_kl(&p, &longer).is_err() && jensen_shannon(&p, &longer).is_err());
        assert!(total_variation(&p, &longer).is_err() && renyi(&p, &longer, 2.0).is_err());
    }
}
