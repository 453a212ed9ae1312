//! Accuracy of a reward model within groups of pairs: by length difference, by agreement of labelers.

use crate::report::{GroupReport, Judged};

/// Groups that pairs are divided into by length difference.
const LENGTH_GROUPS: usize = 5;

fn report<'a>(group: String, of: impl Iterator<Item = &'a Judged>) -> GroupReport {
    let (mut pairs, mut right, mut margin) = (0, 0.0, 0.0);
    for j in of {
        pairs += 1;
        right += j.right;
        margin += j.margin;
    }
    let n = f64::max(1.0, pairs as f64);
    GroupReport { group, pairs, accuracy: right / n, mean_margin: margin / n }
}

/// Groups of like size, from "the better answer is much shorter" to "much longer"; pairs of the same difference stay
/// together.
pub(crate) fn by_length(judged: &[Judged]) -> Vec<GroupReport> {
    let mut sorted: Vec<&Judged> = judged.iter().collect();
    sorted.sort_by_key(|j| j.longer_by);
    let mut out = Vec::new();
    let mut start = 0;
    for k in 1..=LENGTH_GROUPS {
        let mut end = (sorted.len() * k / LENGTH_GROUPS).max(start);
        while end > 0 && end < sorted.len() && sorted[end].longer_by == sorted[end - 1].longer_by {
            end += 1;
        }
        if start == end {
            continue;
        }
        let (low, high) = (sorted[start].longer_by, sorted[end - 1].longer_by);
        let group = if low == high { signed(low) } else { format!("{} to {}", signed(low), signed(high)) };
        out.push(report(group, sorted[start..end].iter().copied()));
        start = end;
    }
    out
}

fn signed(tokens: i64) -> String {
    match tokens {
        0 => "0".into(),
        n if n > 0 => format!("+{n}"),
        n => format!("−{}", -n),
    }
}

/// Groups by the share of labelers who agree, in tenths from ½; empty ones left out.
pub(crate) fn by_agreement(judged: &[Judged]) -> Vec<GroupReport> {
    let tenth = |a: f64| (((a - 0.5) * 10.0 + 1e-9) as usize).min(4);
    (0..5)
        .map(|k| {
            let to = if k == 4 { "100 %".to_owned() } else { format!("{} %", 59 + 10 * k) };
            let of = judged.iter().filter(|j| j.agreement.is_some_and(|a| tenth(a) == k));
            report(format!("{} to {to}", 50 + 10 * k), of)
        })
        .filter(|g| g.pairs > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(longer_by: i64, right: f64, agreement: Option<f64>) -> Judged {
        Judged { margin: right, right, longer_by, agreement }
    }

    #[test]
    fn length_groups_hold_equal_differences_together() {
        let of: Vec<Judged> = (-5..5).map(|d| judged(d * 10, f64::from(u8::from(d >= 0)), None)).collect();
        let groups = by_length(&of);
        let names: Vec<&str> = groups.iter().map(|g| g.group.as_str()).collect();
        assert_eq!(names, ["−50 to −40", "−30 to −20", "−10 to 0", "+10 to +20", "+30 to +40"]);
        assert_eq!(groups.iter().map(|g| g.accuracy).collect::<Vec<_>>(), [0.0, 0.0, 0.5, 1.0, 1.0]);
        let same = vec![judged(3, 1.0, None); 7];
        assert_eq!(
            by_length(&same),
            [GroupReport { group: "+3".into(), pairs: 7, accuracy: 1.0, mean_margin: 1.0 }]
        );
        assert!(by_length(&[]).is_empty());
        let few = [judged(1, 1.0, None), judged(2, 0.0, None)];
        assert_eq!(by_length(&few).iter().map(|g| g.pairs).sum::<usize>(), 2);
    }

    #[test]
    fn agreement_in_tenths() {
        let of = [0.5, 0.6, 0.69, 0.7, 0.9, 1.0].map(|a| judged(0, 1.0, Some(a)));
        let groups: Vec<_> = by_agreement(&of).into_iter().map(|g| (g.group, g.pairs)).collect();
        let want = [("50 to 59 %", 1), ("60 to 69 %", 2), ("70 to 79 %", 1), ("90 to 100 %", 2)];
        assert_eq!(groups, want.map(|(g, n)| (g.to_owned(), n)));
        assert!(by_agreement(&[judged(0, 1.0, None)]).is_empty());
    }
}
