//! Exact KL and entropy of one next-token distribution, from full-vocabulary log-prob rows.
//!
//! KL(π‖ref) = Σ_v π(v) (ln π(v) − ln ref(v)), nats per token. Summed over the tokens of a response on
//! sampled prefixes it is the Rao-Blackwellised sequence KL: unbiased like k1, with less variance
//! (Amini et al. 2025, arXiv 2504.10637). Never negative, so it is the monitoring default.

use crate::units::{NatsPerSequence, NatsPerToken};
use thiserror::Error;

/// Two rows that cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RowError {
    /// The rows have different vocabulary sizes.
    #[error(
        "policy row has {policy} log-probs and reference row {reference}: both must cover the same vocabulary"
    )]
    Length {
        /// Entries in the policy's row.
        policy: usize,
        /// Entries in the reference's row.
        reference: usize,
    },
    /// Log-probs of one response's tokens of which there are not as many.
    #[error(
        "{policy} log-probs of the policy, {reference} of the reference and room for {out}: one each per response token"
    )]
    Tokens {
        /// Log-probs of the policy.
        policy: usize,
        /// Log-probs of the reference.
        reference: usize,
        /// Places for the result; where none are asked for, as many as the policy has.
        out: usize,
    },
    /// A Rényi divergence of an order that has none.
    #[error("the order of a Rényi divergence must be finite and > 0, got {order}")]
    Order {
        /// The order asked for.
        order: String,
    },
    /// A head that does not fit its rows.
    #[error("a head of {head} tokens does not fit: {problem}")]
    Head {
        /// Tokens in the head.
        head: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// The row is empty.
    #[error("a log-prob row is empty: it must cover the vocabulary")]
    Empty,
}

pub(crate) fn same_length(policy: &[f32], reference: &[f32]) -> Result<(), RowError> {
    match (policy.len(), reference.len()) {
        (0, _) | (_, 0) => Err(RowError::Empty),
        (p, r) if p != r => Err(RowError::Length { policy: p, reference: r }),
        _ => Ok(()),
    }
}

/// Exact KL(π‖ref) of one position.
///
/// Accumulated in `f64` as Σ (π ln(π/ref) − π + ref), which equals the KL for normalised rows, has no
/// negative term and so is free of the cancellation that makes the plain sum slightly negative in
/// `f32`. A token the policy never takes adds nothing; one it takes and the reference cannot makes the
/// result +∞, as the mathematics says.
///
/// # Shapes
/// Both rows hold `vocab` log-probs, normalised.
///
/// # Errors
/// [`RowError`] when the rows are empty or differ in length.
pub fn exact_kl(logprobs: &[f32], ref_logprobs: &[f32]) -> Result<NatsPerToken, RowError> {
    same_length(logprobs, ref_logprobs)?;
    let mut sum = 0.0;
    for (&lp, &rlp) in logprobs.iter().zip(ref_logprobs) {
        let (lp, rlp) = (f64::from(lp), f64::from(rlp));
        let (p, r) = (lp.exp(), rlp.exp());
        sum += if p == 0.0 { r } else { p * (lp - rlp) - p + r };
    }
    Ok(NatsPerToken(sum))
}

/// Rao-Blackwellised KL of one response: the exact KL of every position, summed over its tokens.
///
/// E over responses is KL(π‖ref), as with k1, and the variance is never larger: the token that happened to
/// be sampled is integrated out (Amini et al. 2025, arXiv 2504.10637, theorem 1).
///
/// # Shapes
/// `rows` yields (policy row, reference row) per response token, each with `vocab` normalised log-probs of
/// the position that predicts that token; none for an empty response, whose KL is 0.
///
/// # Errors
/// [`RowError`] when a pair of rows is empty or differs in length.
pub fn rao_blackwell_kl<'a>(
    rows: impl IntoIterator<Item = (&'a [f32], &'a [f32])>,
) -> Result<NatsPerSequence, RowError> {
    let mut sum = 0.0;
    for (logprobs, ref_logprobs) in rows {
        sum += exact_kl(logprobs, ref_logprobs)?.0;
    }
    Ok(NatsPerSequence(sum))
}

/// Entropy −Σ π ln π of one position.
///
/// # Shapes
/// `logprobs` holds `vocab` log-probs, normalised; an empty row has entropy 0.
#[must_use]
pub fn entropy(logprobs: &[f32]) -> NatsPerToken {
    let sum = logprobs
        .iter()
        .map(|&lp| {
            let lp = f64::from(lp);
            let p = lp.exp();
            if p == 0.0 { 0.0 } else { -p * lp }
        })
        .sum();
    NatsPerToken(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(p: &[f64]) -> Vec<f32> {
        p.iter().map(|p| p.ln() as f32).collect()
    }

    #[test]
    fn golden_vector() {
        let kl = exact_kl(&row(&[0.5, 0.3, 0.2]), &row(&[0.2, 0.5, 0.3])).unwrap().0;
        assert!((kl - 0.223_804_657_2).abs() < 1e-6, "{kl}");
        let h = entropy(&row(&[0.25; 4])).0;
        assert!((h - 4f64.ln()).abs() < 1e-6, "{h}");
    }

    #[test]
    fn equal_rows_are_exactly_zero_and_support_counts() {
        let p = row(&[0.7, 0.2, 0.1]);
        assert_eq!(exact_kl(&p, &p).unwrap(), NatsPerToken(0.0));
        let point = [0.0f32, f32::NEG_INFINITY];
        let half = row(&[0.5, 0.5]);
        assert!((exact_kl(&point, &half).unwrap().0 - 2f64.ln()).abs() < 1e-6);
        assert_eq!(exact_kl(&half, &point).unwrap().0, f64::INFINITY);
        assert_eq!(exact_kl(&point, &point).unwrap().0, 0.0);
        assert_eq!(entropy(&point).0, 0.0);
    }

    #[test]
    fn wrong_rows_are_named() {
        assert_eq!(exact_kl(&[0.0], &[0.0, 0.0]), Err(RowError::Length { policy: 1, reference: 2 }));
        assert_eq!(exact_kl(&[], &[]), Err(RowError::Empty));
    }
}
