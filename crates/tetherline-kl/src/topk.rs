//! KL from the log-probs of a few tokens only, when the full vocabulary is too much to move.
//!
//! With K the policy's top tokens, P_K and R_K their total probability under π and ref:
//!
//! - [`top_k_lower_bound`]: Σ_{v∈K} π ln(π/ref) + (1−P_K) ln((1−P_K)/(1−R_K)): the KL after all other tokens
//!   are merged into one. By the data-processing inequality a **lower bound**, rising as K grows; never
//!   "exact". (The head's sum alone is no bound at all: it can exceed the KL.)
//! - [`top_k_with_sampled_tail`]: Σ_{v∈K} π ln(π/ref) + 1[x∉K]·(ln π(x) − ln ref(x)) for the sampled token x:
//!   **unbiased**, with the variance of k1 only in the tail.
//!
//! Nats per token.

use crate::exact::RowError;
use crate::units::NatsPerToken;

fn head(logprobs: &[f32], ref_logprobs: &[f32]) -> Result<(f64, f64, f64), RowError> {
    if logprobs.len() != ref_logprobs.len() {
        return Err(RowError::Length { policy: logprobs.len(), reference: ref_logprobs.len() });
    }
    let (mut sum, mut p_mass, mut r_mass) = (0.0, 0.0, 0.0);
    for (lp, rlp) in logprobs.iter().zip(ref_logprobs) {
        let (lp, rlp) = (f64::from(*lp), f64::from(*rlp));
        let p = lp.exp();
        p_mass += p;
        r_mass += rlp.exp();
        sum += if p == 0.0 { 0.0 } else { p * (lp - rlp) };
    }
    // f32 log-probs may sum to a little more than one; much more is a mistake.
    if p_mass > 1.001 || r_mass > 1.001 {
        let problem = "its probabilities sum to more than one; give log-probs of distinct tokens";
        return Err(RowError::Head { head: logprobs.len(), problem });
    }
    Ok((sum, p_mass.min(1.0), r_mass.min(1.0)))
}

/// A lower bound of KL(π‖ref) from the head's log-probs and one bucket for the rest.
///
/// # Shapes
/// Both slices hold the log-probs of the same distinct tokens, those with the highest policy
/// probability; an empty head gives 0.
///
/// # Errors
/// [`RowError`] when the lengths differ or the probabilities sum to more than one.
pub fn top_k_lower_bound(logprobs: &[f32], ref_logprobs: &[f32]) -> Result<NatsPerToken, RowError> {
    let (sum, p, r) = head(logprobs, ref_logprobs)?;
    let (p_tail, r_tail) = (1.0 - p, 1.0 - r);
    let tail = if p_tail <= 0.0 { 0.0 } else { p_tail * (p_tail / r_tail.max(f64::from(f32::EPSILON))).ln() };
    Ok(NatsPerToken(sum + tail))
}

/// An unbiased estimate of KL(π‖ref): the head exactly, the tail by the sampled token.
///
/// # Shapes
/// As for [`top_k_lower_bound`]. `tail_sample` is `None` where the sampled token is in the head, else its
/// (ln π, ln ref).
///
/// # Errors
/// As [`top_k_lower_bound`].
pub fn top_k_with_sampled_tail(
    logprobs: &[f32],
    ref_logprobs: &[f32],
    tail_sample: Option<(f32, f32)>,
) -> Result<NatsPerToken, RowError> {
    let (sum, ..) = head(logprobs, ref_logprobs)?;
    let tail = tail_sample.map_or(0.0, |(lp, rlp)| f64::from(lp) - f64::from(rlp));
    Ok(NatsPerToken(sum + tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::exact_kl;

    fn row(p: &[f64]) -> Vec<f32> {
        p.iter().map(|p| p.ln() as f32).collect()
    }

    const P: [f64; 4] = [0.4, 0.3, 0.2, 0.1];
    const R: [f64; 4] = [0.1, 0.3, 0.2, 0.4];

    #[test]
    fn the_bound_rises_with_the_head_and_ends_at_the_kl() {
        let (p, r) = (row(&P), row(&R));
        let kl = exact_kl(&p, &r).unwrap().0;
        let bounds: Vec<_> = (0..=4).map(|k| top_k_lower_bound(&p[..k], &r[..k]).unwrap().0).collect();
        assert_eq!(bounds[0], 0.0);
        assert!(bounds.windows(2).all(|w| w[1] >= w[0] - 1e-7), "{bounds:?}");
        assert!((bounds[4] - kl).abs() < 1e-6);
        // By hand: 0.4 ln 4 + 0.6 ln(0.6/0.9).
        assert!((bounds[1] - (0.4 * 4f64.ln() + 0.6 * (2.0f64 / 3.0).ln())).abs() < 1e-6);
        // The head alone exceeds the KL, so it is no bound.
        assert!(top_k_with_sampled_tail(&p[..1], &r[..1], None).unwrap().0 > kl);
    }

    #[test]
    fn the_sampled_tail_is_unbiased() {
        let (p, r) = (row(&P), row(&R));
        let mean: f64 = (0..4)
            .map(|x| {
                let tail = (x >= 2).then(|| (p[x], r[x]));
                P[x] * top_k_with_sampled_tail(&p[..2], &r[..2], tail).unwrap().0
            })
            .sum();
        assert!((mean - exact_kl(&p, &r).unwrap().0).abs() < 1e-6);
    }

    #[test]
    fn heads_that_are_no_heads_are_refused() {
        let twice = row(&[0.7, 0.7]);
        assert!(top_k_lower_bound(&twice, &twice).unwrap_err().to_string().contains("distinct"));
        assert!(top_k_lower_bound(&twice, &twice[..1]).is_err());
        let fine = row(&[0.5, 0.5]);
        assert!(top_k_lower_bound(&twice, &fine).is_err() && top_k_lower_bound(&fine, &twice).is_err());
        assert!(top_k_lower_bound(&fine, &fine).is_ok());
        let all = row(&[1.0]);
        assert_eq!(
            top_k_lower_bound(&all, &row(&[0.5])).unwrap().0,
            f64::from(0.0f32) - f64::from(0.5f32.ln())
        );
    }
}
