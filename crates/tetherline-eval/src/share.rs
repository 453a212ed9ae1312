//! Shares with Wilson's interval: refusal rates, win rates, end-of-sequence share.
//!
//! The interval (`tetherline_core::wilson`) stays inside 0..=1 and has width where the share is 0 or 1, which the normal
//! interval does not.

use serde::{Deserialize, Serialize};
use tetherline_core::wilson;

/// A share of `n` cases. Ties of a win rate count one half, so `hits` need not be whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Cases counted.
    pub n: usize,
    /// Cases that hit.
    pub hits: f64,
    /// `hits / n`, in 0..=1.
    pub share: f64,
    /// Wilson's 95 % interval.
    pub ci: (f64, f64),
}

impl Share {
    /// `hits` of `n`. `None` if `n` is 0.
    pub fn new(hits: f64, n: usize) -> Option<Self> {
        let ci = wilson(hits, n)?;
        Some(Self { n, hits, share: hits / n as f64, ci })
    }

    /// Share of cases that are true.
    pub fn of(cases: impl IntoIterator<Item = bool>) -> Option<Self> {
        let (mut hits, mut n) = (0.0, 0);
        for case in cases {
            n += 1;
            hits += f64::from(u8::from(case));
        }
        Self::new(hits, n)
    }
}

/// How often the first of each pair is larger; ties count one half.
/// `None` if there are no pairs.
pub fn win_rate(pairs: &[(f64, f64)]) -> Option<Share> {
    let wins: f64 = pairs
        .iter()
        .map(|(a, b)| match a.partial_cmp(b) {
            Some(std::cmp::Ordering::Greater) => 1.0,
            Some(std::cmp::Ordering::Equal) => 0.5,
            _ => 0.0,
        })
        .sum();
    Share::new(wins, pairs.len())
}

/// Share of responses that `refuses` recognises. `None` if there are none.
pub fn refusal_rate<'a>(
    responses: impl IntoIterator<Item = &'a str>,
    refuses: impl Fn(&str) -> bool,
) -> Option<Share> {
    Share::of(responses.into_iter().map(refuses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_agrees_with_published_intervals() {
        // Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
        for (hits, n, low, high) in [
            (81.0, 263, 0.2553, 0.3662),
            (15.0, 148, 0.0624, 0.1605),
            (0.0, 20, 0.0, 0.1611),
            (1.0, 29, 0.0061, 0.1718),
        ] {
            let s = Share::new(hits, n).unwrap();
            assert!((s.ci.0 - low).abs() < 5e-5 && (s.ci.1 - high).abs() < 5e-5, "{hits}/{n}: {:?}", s.ci);
        }
        assert!(Share::new(0.0, 0).is_none());
    }

    #[test]
    fn ties_are_half_a_win() {
        let s = win_rate(&[(1.0, 0.0), (0.0, 1.0), (2.0, 2.0), (3.0, 1.0)]).unwrap();
        assert_eq!((s.n, s.share), (4, 0.625));
    }

    #[test]
    fn refusals_by_predicate() {
        let s = refusal_rate(["I cannot help.", "Sure."], |r| r.contains("cannot")).unwrap();
        assert_eq!(s.share, 0.5);
    }
}
