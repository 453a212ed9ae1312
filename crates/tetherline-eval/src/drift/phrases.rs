//! Tokens and runs of words that one policy uses more often than the other.
//!
//! Counted is the number of responses that have it, not how often it stands in them: a response that repeats itself is
//! one response. The test is Fisher's exact one, two-sided (Fisher 1935; the tables at most as probable as the observed
//! one); of all that were tested those are listed that pass Benjamini & Hochberg (1995) at a false discovery rate of
//! 5 %. What stands in fewer than 3 responses of both sides together is not tested. Several samples of one prompt
//! count as independent, which they are not quite: read p values of such runs as optimistic.
//!
//! Words are the runs between white space, lower case, without punctuation around them; phrases have up to 5
//! of them. A phrase that stands inside a longer listed one, and in hardly any response without it, is left out.

use super::Response;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Words of the longest phrase.
pub(super) const LONGEST: usize = 5;

/// Responses that must have it.
pub(super) const LEAST: usize = 3;

/// Expected share of false ones among those listed.
pub(super) const FALSE_DISCOVERIES: f64 = 0.05;

/// Most that are listed on each side.
const LISTED: usize = 40;

/// A token or a run of words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phrase {
    /// The text.
    pub text: String,
    /// Id, of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Share of the policy's responses that have it.
    pub policy_share: f64,
    /// Share of the reference's.
    pub reference_share: f64,
    /// Fisher's p, two-sided, before any correction.
    pub p_value: f64,
    /// First response with it that the other policy answers without it: prompt and sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<(u64, u32)>,
}

/// What changed significantly, the clearest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phrases {
    /// How many were tested.
    pub tested: usize,
    /// Responses of the policy.
    pub policy_responses: usize,
    /// Responses of the reference.
    pub reference_responses: usize,
    /// More often in the policy's responses.
    pub gained: Vec<Phrase>,
    /// More often in the reference's.
    pub lost: Vec<Phrase>,
}

/// ln k! for k up to n.
fn ln_factorials(n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n + 1];
    for k in 1..=n {
        out[k] = out[k - 1] + (k as f64).ln();
    }
    out
}

/// Fisher's exact test, two-sided, of `a` in `n` against `b` in `m`.
///
/// # Panics
/// If `a > n` or `b > m`.
pub fn fisher_exact(a: usize, n: usize, b: usize, m: usize) -> f64 {
    fisher(&ln_factorials(n + m), a, n, b, m)
}

fn fisher(ln_fact: &[f64], a: usize, n: usize, b: usize, m: usize) -> f64 {
    let ln_choose = |n: usize, k: usize| ln_fact[n] - ln_fact[k] - ln_fact[n - k];
    let hits = a + b;
    let ln_p = |x: usize| ln_choose(n, x) + ln_choose(m, hits - x) - ln_choose(n + m, hits);
    // As R does: tables that differ by rounding alone count as equally probable.
    let observed = ln_p(a) + 1e-7;
    let tables = hits.saturating_sub(m)..=hits.min(n);
    tables.map(ln_p).filter(|p| *p <= observed).map(f64::exp).sum::<f64>().min(1.0)
}

struct Tested<K> {
    key: K,
    policy: usize,
    reference: usize,
    p: f64,
}

/// Everything that passes, by p; and how many were tested.
fn screen<K: Eq + Hash + Ord + Clone>(
    policy: &[HashSet<K>],
    reference: &[HashSet<K>],
) -> (Vec<Tested<K>>, usize) {
    let mut counts: HashMap<&K, (usize, usize)> = HashMap::new();
    policy.iter().flatten().for_each(|k| counts.entry(k).or_default().0 += 1);
    reference.iter().flatten().for_each(|k| counts.entry(k).or_default().1 += 1);
    let (n, m) = (policy.len(), reference.len());
    let ln_fact = ln_factorials(n + m);
    let frequent = counts.into_iter().filter(|(_, (a, b))| a + b >= LEAST);
    let mut all: Vec<_> = frequent
        .map(|(key, (a, b))| Tested {
            key: key.clone(),
            policy: a,
            reference: b,
            p: fisher(&ln_fact, a, n, b, m),
        })
        .collect();
    all.sort_by(|x, y| x.p.total_cmp(&y.p).then_with(|| x.key.cmp(&y.key)));
    let tested = all.len();
    let passes = |(i, t): (usize, &Tested<K>)| t.p <= FALSE_DISCOVERIES * (i + 1) as f64 / tested as f64;
    let kept = all.iter().enumerate().rposition(passes).map_or(0, |i| i + 1);
    all.truncate(kept);
    (all, tested)
}

/// Splits what passed into gained and lost.
fn split<K: Eq + Hash>(
    (passed, tested): (Vec<Tested<K>>, usize),
    (policy, reference): (&[Response], &[Response]),
    (in_policy, in_reference): (&[HashSet<K>], &[HashSet<K>]),
    name: impl Fn(&K) -> (String, Option<u32>),
) -> Phrases {
    let (n, m) = (policy.len(), reference.len());
    let mut out = Phrases { tested, policy_responses: n, reference_responses: m, ..Phrases::default() };
    let place = |r: &Response| (r.prompt_id, r.sample);
    let at = |rows: &[Response]| -> HashMap<(u64, u32), usize> {
        rows.iter().enumerate().map(|(i, r)| (place(r), i)).collect()
    };
    let (at_policy, at_reference) = (at(policy), at(reference));
    for t in passed {
        let gained = t.policy as f64 / n as f64 > t.reference as f64 / m as f64;
        let (rows, own, other, other_at) = if gained {
            (policy, in_policy, in_reference, &at_reference)
        } else {
            (reference, in_reference, in_policy, &at_policy)
        };
        let without = |r: &Response| other_at.get(&place(r)).is_some_and(|&j| !other[j].contains(&t.key));
        let example = rows.iter().enumerate().find(|(i, r)| own[*i].contains(&t.key) && without(r));
        let (text, id) = name(&t.key);
        let phrase = Phrase {
            text,
            id,
            policy_share: t.policy as f64 / n as f64,
            reference_share: t.reference as f64 / m as f64,
            p_value: t.p,
            example: example.map(|(_, r)| place(r)),
        };
        if gained { &mut out.gained } else { &mut out.lost }.push(phrase);
    }
    out
}

/// Tokens.
pub(super) fn tokens(policy: &[Response], reference: &[Response]) -> Phrases {
    let sets = |rows: &[Response]| -> Vec<HashSet<u32>> {
        rows.iter().map(|r| r.tokens.iter().copied().collect()).collect()
    };
    let mut names: HashMap<u32, &str> = HashMap::new();
    for r in policy.iter().chain(reference) {
        for (id, piece) in r.tokens.iter().zip(&r.pieces) {
            let name = names.entry(*id).or_default();
            if piece.len() > name.len() {
                *name = piece;
            }
        }
    }
    let (a, b) = (sets(policy), sets(reference));
    let name = |id: &u32| (names.get(id).copied().unwrap_or_default().to_owned(), Some(*id));
    let mut out = split(screen(&a, &b), (policy, reference), (&a, &b), name);
    out.gained.truncate(LISTED);
    out.lost.truncate(LISTED);
    out
}

/// Words of a text: lower case, without punctuation around them.
pub(super) fn words_of(text: &str) -> Vec<String> {
    let bare = |w: &str| w.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    text.split_whitespace().map(bare).filter(|w| !w.is_empty()).collect()
}

/// Runs of words.
pub(super) fn words(policy: &[Response], reference: &[Response]) -> Phrases {
    let sets = |rows: &[Response]| -> Vec<HashSet<String>> {
        let runs = |r: &Response| {
            let words = words_of(&r.text);
            (1..=LONGEST).flat_map(|n| words.windows(n).map(|w| w.join(" ")).collect::<Vec<_>>()).collect()
        };
        rows.iter().map(runs).collect()
    };
    let (a, b) = (sets(policy), sets(reference));
    let mut out = split(screen(&a, &b), (policy, reference), (&a, &b), |k| (k.clone(), None));
    keep_longest(&mut out.gained, |p| p.policy_share);
    keep_longest(&mut out.lost, |p| p.reference_share);
    out
}

/// Leaves out phrases that stand inside a longer one of the list and, four times in five, nowhere else.
fn keep_longest(phrases: &mut Vec<Phrase>, share: impl Fn(&Phrase) -> f64) {
    phrases.truncate(10 * LISTED);
    let inside = |short: &str, long: &str| {
        short.len() < long.len() && format!(" {long} ").contains(&format!(" {short} "))
    };
    let covered = |p: &Phrase| phrases.iter().any(|q| inside(&p.text, &q.text) && share(q) >= 0.8 * share(p));
    let keep: Vec<bool> = phrases.iter().map(|p| !covered(p)).collect();
    let mut keep = keep.into_iter();
    phrases.retain(|_| keep.next().unwrap_or(true));
    phrases.truncate(LISTED);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fisher_agrees_with_published_tables() {
        // The lady tasting tea (Fisher 1935): 3 of 4 against 1 of 4, p = 0.4857; all right, p = 0.02857.
        assert!((fisher_exact(3, 4, 1, 4) - 34.0 / 70.0).abs() < 1e-12);
        assert!((fisher_exact(4, 4, 0, 4) - 2.0 / 70.0).abs() < 1e-12);
        // Convictions of twins (R's help page of fisher.test): 2 of 17 against 10 of 13, p = 0.0005367.
        assert!((fisher_exact(2, 17, 10, 13) - 0.000_536_7).abs() < 5e-8);
        assert_eq!(fisher_exact(0, 9, 0, 9), 1.0);
        assert!((fisher_exact(5, 9, 5, 9) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_false_discovery_rate_lets_few_of_many_equal_ones_pass() {
        // 200 words in 30 of 60 responses on either side, drawn independently: nothing to discover.
        let mut random = tetherline_core::seeds::stream(1, tetherline_core::seeds::Purpose::World, 0, 0, 0);
        let mut side = || -> Vec<HashSet<u32>> {
            (0..60).map(|_| (0..200u32).filter(|_| random.uniform() < 0.5).collect()).collect()
        };
        let (passed, tested) = screen(&side(), &side());
        assert_eq!((passed.len(), tested), (0, 200));
    }

    fn response(id: u64, text: &str) -> Response {
        let tokens: Vec<u32> = text.split(' ').map(|w| w.len() as u32).collect();
        let n = tokens.len();
        Response {
            prompt_id: id,
            text: text.into(),
            pieces: text.split(' ').map(str::to_owned).collect(),
            tokens,
            kl: vec![0.0; n],
            log_ratio: vec![0.0; n],
            ..Response::default()
        }
    }

    #[test]
    fn the_longest_phrase_stands_for_its_parts() {
        let policy: Vec<_> = (0..20).map(|i| response(i, "Thank you for asking, dear friend.")).collect();
        let reference: Vec<_> = (0..20).map(|i| response(i, "No idea at all.")).collect();
        let found = words(&policy, &reference);
        let gained: Vec<_> = found.gained.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(gained, ["thank you for asking dear", "you for asking dear friend"]);
        let lost: Vec<_> = found.lost.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(lost, ["no idea at all"]);
        let p = &found.gained[0];
        assert_eq!((p.policy_share, p.reference_share, p.example), (1.0, 0.0, Some((0, 0))));
        assert!(words(&policy, &policy).gained.is_empty());
    }

    #[test]
    fn tokens_are_counted_once_per_response() {
        let policy: Vec<_> = (0..12).map(|i| response(i, "ab ab ab ab")).collect();
        let reference: Vec<_> = (0..12).map(|i| response(i, if i < 6 { "ab x" } else { "abc x" })).collect();
        let found = tokens(&policy, &reference);
        // Token 1 (x) in 0 against 12 and 3 (abc) in 0 against 6: p = 2/C(24, 12), and 0.0137.
        assert_eq!(found.tested, 3);
        assert_eq!(found.lost.iter().map(|p| p.id).collect::<Vec<_>>(), [Some(1), Some(3)]);
        assert_eq!(
            found.gained.iter().map(|p| (p.id, p.reference_share)).collect::<Vec<_>>(),
            [(Some(2), 0.5)]
        );
    }
}
