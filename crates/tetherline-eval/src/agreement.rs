//! How far labelers agree with each other, and which pairs an ensemble of reward models disagrees about.
//!
//! - Cohen's κ of two labelers (Cohen 1960): (p_o − p_e) / (1 − p_e) with p_o the share of items on which they agree and
//!   p_e what their marginals would give by chance.
//! - Krippendorff's α of any number of labelers with gaps (nominal data; Krippendorff 2011): 1 − D_o / D_e from the
//!   coincidences of values within items.
//!
//! Both are 1 for perfect agreement and 0 for agreement by chance; undefined where everybody always says the same.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One labeler's verdict on one item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rating {
    /// The item.
    pub item: String,
    /// Who.
    pub labeler: String,
    /// The verdict.
    pub value: String,
}

/// Two labelers on the items that both judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairAgreement {
    /// One labeler.
    pub first: String,
    /// The other.
    pub second: String,
    /// Items that both judged.
    pub items: usize,
    /// Share of these on which they agree.
    pub share: f64,
    /// Cohen's κ; `None` where it is undefined.
    pub kappa: Option<f64>,
}

/// The agreement of all labelers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Items with a rating.
    pub items: usize,
    /// Items that several judged.
    pub shared_items: usize,
    /// Krippendorff's α (nominal); `None` where it is undefined.
    pub alpha: Option<f64>,
    /// Every two labelers with an item in common.
    pub pairs: Vec<PairAgreement>,
}

/// The agreement of ratings; of several by one labeler on one item the last counts.
pub fn agreement(ratings: &[Rating]) -> Agreement {
    let mut items: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for r in ratings {
        items.entry(&r.item).or_default().insert(&r.labeler, &r.value);
    }
    let labelers: Vec<&str> =
        ratings.iter().map(|r| r.labeler.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    let mut pairs = Vec::new();
    for (i, first) in labelers.iter().enumerate() {
        for second in &labelers[i + 1..] {
            let both: Vec<(&str, &str)> =
                items.values().filter_map(|m| Some((*m.get(first)?, *m.get(second)?))).collect();
            if both.is_empty() {
                continue;
            }
            let share = both.iter().filter(|(a, b)| a == b).count() as f64 / both.len() as f64;
            pairs.push(PairAgreement {
                first: (*first).to_owned(),
                second: (*second).to_owned(),
                items: both.len(),
                share,
                kappa: kappa(&both, share),
            });
        }
    }
    Agreement {
        items: items.len(),
        shared_items: items.values().filter(|m| m.len() > 1).count(),
        alpha: alpha(items.values().map(|m| m.values().copied().collect())),
        pairs,
    }
}

fn kappa(both: &[(&str, &str)], share: f64) -> Option<f64> {
    let n = both.len() as f64;
    let values: BTreeSet<&str> = both.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let of = |v: &str, first: bool| {
        both.iter().filter(|(a, b)| (if first { *a } else { *b }) == v).count() as f64 / n
    };
    let chance: f64 = values.iter().map(|v| of(v, true) * of(v, false)).sum();
    (chance < 1.0).then(|| (share - chance) / (1.0 - chance))
}

fn alpha<'a>(items: impl Iterator<Item = Vec<&'a str>>) -> Option<f64> {
    let (mut same, mut totals): (f64, BTreeMap<&str, f64>) = (0.0, BTreeMap::new());
    for values in items.filter(|v| v.len() > 1) {
        let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
        values.iter().for_each(|v| *counts.entry(v).or_default() += 1.0);
        let others = values.len() as f64 - 1.0;
        for (value, n) in counts {
            same += n * (n - 1.0) / others;
            *totals.entry(value).or_default() += n;
        }
    }
    let n: f64 = totals.values().sum();
    let by_chance: f64 = totals.values().map(|t| t * (t - 1.0)).sum::<f64>() / (n - 1.0);
    (n > 1.0 && by_chance < n).then(|| 1.0 - (n - same) / (n - by_chance))
}

/// How much the members of an ensemble disagree about a pair: the variance over members of σ(margin), their
/// probability that the first response is preferred. 0 where all agree; at most ¼.
pub fn disagreement(margins: &[f64]) -> f64 {
    let p: Vec<f64> = margins.iter().map(|m| 1.0 / (1.0 + (-m).exp())).collect();
    let mean = p.iter().sum::<f64>() / p.len().max(1) as f64;
    p.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / p.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratings(rows: &[(&str, &str)]) -> Vec<Rating> {
        let one = |labeler: &str, (i, v): (usize, &str)| Rating {
            item: i.to_string(),
            labeler: labeler.to_owned(),
            value: v.to_owned(),
        };
        rows.iter()
            .flat_map(|(labeler, values)| {
                let given = values.split(' ').enumerate().filter(|(_, v)| *v != ".");
                given.map(|x| one(labeler, x)).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn krippendorffs_own_example() {
        // Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section C: α = 0.743.
        let data = ratings(&[
            ("A", "1 2 3 3 2 1 4 1 2 . . ."),
            ("B", "1 2 3 3 2 2 4 1 2 5 . 3"),
            ("C", ". 3 3 3 2 3 4 2 2 5 1 ."),
            ("D", "1 2 3 3 2 4 4 1 2 5 1 ."),
        ]);
        let found = agreement(&data);
        assert!((found.alpha.unwrap() - 0.743).abs() < 5e-4, "{found:?}");
        assert_eq!((found.items, found.shared_items, found.pairs.len()), (12, 11, 6));
    }

    #[test]
    fn cohens_kappa_of_a_known_table() {
        // 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: p_o = 0.7, p_e = 0.5, κ = 0.4.
        let cells = [(20, "yes", "yes"), (5, "yes", "no"), (10, "no", "yes"), (15, "no", "no")];
        let each = |of: fn(&(usize, &'static str, &'static str)) -> &'static str| {
            cells.iter().flat_map(|c| vec![of(c); c.0]).collect::<Vec<_>>().join(" ")
        };
        let found = agreement(&ratings(&[("x", &each(|c| c.1)), ("y", &each(|c| c.2))]));
        let pair = &found.pairs[0];
        assert_eq!((pair.items, pair.share), (50, 0.7));
        assert!((pair.kappa.unwrap() - 0.4).abs() < 1e-12);
    }

    #[test]
    fn no_spread_has_no_agreement_beyond_chance() {
        let same = agreement(&ratings(&[("x", "a a a"), ("y", "a a a")]));
        assert_eq!((same.alpha, same.pairs[0].kappa, same.pairs[0].share), (None, None, 1.0));
        assert_eq!(agreement(&[]), Agreement::default());
        assert_eq!(agreement(&ratings(&[("x", "a b")])).alpha, None);
    }

    #[test]
    fn an_ensemble_disagrees_most_where_it_is_split() {
        assert_eq!(disagreement(&[1.0, 1.0, 1.0]), 0.0);
        // σ(ln 3) = 3/4 and σ(−ln 3) = 1/4: variance 1/16.
        assert!((disagreement(&[3f64.ln(), -(3f64.ln())]) - 1.0 / 16.0).abs() < 1e-12);
        assert!((disagreement(&[800.0, -800.0]) - 0.25).abs() < 1e-12);
    }
}
