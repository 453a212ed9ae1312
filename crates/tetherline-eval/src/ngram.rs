//! Diversity of generated text, over token ids.
//!
//! - distinct-n = distinct n-grams / all n-grams, pooled over the responses (Li et al. 2016,
//!   arXiv:1510.03055, section 5). It falls with the number of responses, so compare equal counts only.
//! - repeated n-gram share = 1 − distinct n-grams / all n-grams *within* a response, averaged over the
//!   responses that have an n-gram (seq-rep-n of Welleck et al. 2020, arXiv:1908.04319, equation 9).
//! - unique share = distinct responses / responses.
//!
//! All are shares in 0..=1, without unit.

use std::collections::HashSet;

/// Distinct-n over all responses. `None` where no response has an n-gram.
///
/// # Panics
/// If `n` is 0.
pub fn distinct_n(responses: &[&[u32]], n: usize) -> Option<f64> {
    let mut seen = HashSet::new();
    let mut total = 0usize;
    for gram in responses.iter().flat_map(|r| r.windows(n)) {
        seen.insert(gram);
        total += 1;
    }
    (total > 0).then(|| seen.len() as f64 / total as f64)
}

/// Share of a response's n-grams that repeat an earlier one of it. `None` where it has no n-gram.
///
/// # Panics
/// If `n` is 0.
pub fn repeated_n(response: &[u32], n: usize) -> Option<f64> {
    distinct_n(&[response], n).map(|d| 1.0 - d)
}

/// Share of responses that are different from each other. `None` where there are none.
pub fn unique_share(responses: &[&[u32]]) -> Option<f64> {
    let seen: HashSet<&[u32]> = responses.iter().copied().collect();
    (!responses.is_empty()).then(|| seen.len() as f64 / responses.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_by_hand() {
        let a: &[u32] = &[1, 2, 1, 2, 1];
        let b: &[u32] = &[3];
        assert_eq!(distinct_n(&[a, b], 1), Some(3.0 / 6.0));
        // Bigrams 12 21 12 21: no bigram crosses from one response into the next.
        assert_eq!(distinct_n(&[a, b], 2), Some(2.0 / 4.0));
        assert_eq!(distinct_n(&[b], 2), None);
        // 4-grams of 1 2 1 2 1 2 1: 1212 2121 1212 2121.
        assert_eq!(repeated_n(&[1, 2, 1, 2, 1, 2, 1], 4), Some(0.5));
        assert_eq!(repeated_n(&[1, 2, 3, 4, 5], 4), Some(0.0));
        assert_eq!(unique_share(&[a, b, a, b]), Some(0.5));
        assert_eq!(unique_share(&[]), None);
    }
}
