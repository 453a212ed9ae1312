//! Baseline policy against aligned policy, with the interval of every change.

use crate::{
    Change, Estimate, EvalError, Evaluation, ResponseRecord, Share,
    bootstrap::{RESAMPLES, paired_bootstrap},
    ngram::repeated_n,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Two evaluations on the same prompts and the changes between them (aligned minus baseline).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The policy before.
    pub baseline: Evaluation,
    /// The policy after.
    pub aligned: Evaluation,
    /// The changes.
    pub change: Changes,
}

/// The change of each quantity, in its own unit. `None` where a side does not have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Intervals come from resampling prompts (`true`) or from the two standard errors (`false`).
    pub paired: bool,
    /// Proxy score.
    pub score: Option<Change>,
    /// Gold score.
    pub gold: Option<Change>,
    /// Exact KL, nats per sequence.
    pub kl_exact: Option<Change>,
    /// Entropy, nats per token.
    pub entropy: Option<Change>,
    /// Refusals on unsafe prompts, share.
    pub refusal_unsafe: Option<Change>,
    /// Refusals on benign prompts, share.
    pub refusal_benign: Option<Change>,
    /// Length, tokens.
    pub length_tokens: Option<Change>,
    /// Repeated 4-grams, share.
    pub rep_4gram: Option<Change>,
    /// Gold score within each domain.
    pub gold_by_domain: BTreeMap<String, Change>,
    /// Proxy score within each domain.
    pub score_by_domain: BTreeMap<String, Change>,
}

type Quantity = fn(&ResponseRecord) -> Option<f64>;

fn as_share(hit: bool, counted: bool) -> Option<f64> {
    counted.then_some(f64::from(u8::from(hit)))
}

impl Comparison {
    /// Pairs the two policies by prompt; intervals by [`paired_bootstrap`] with `seed`.
    ///
    /// # Errors
    /// As [`Evaluation::of`]; [`EvalError::Unpaired`] where a prompt was answered by one policy only.
    pub fn paired(
        baseline: &[ResponseRecord],
        aligned: &[ResponseRecord],
        seed: u64,
    ) -> Result<Self, EvalError> {
        let (before, after) = (Evaluation::of(baseline)?, Evaluation::of(aligned)?);
        let answered = |r: &ResponseRecord| Some(f64::from(u8::from(!r.tokens.is_empty())));
        let (b, a) = (by_prompt(baseline.iter(), answered), by_prompt(aligned.iter(), answered));
        if let Some(&prompt_id) = b.keys().find(|p| !a.contains_key(p)) {
            return Err(EvalError::Unpaired { prompt_id, present: "baseline" });
        }
        if let Some(&prompt_id) = a.keys().find(|p| !b.contains_key(p)) {
            return Err(EvalError::Unpaired { prompt_id, present: "aligned" });
        }
        let change = |name: u64, domain: Option<&str>, q: Quantity| {
            let of = |rows: &[ResponseRecord]| {
                by_prompt(rows.iter().filter(|r| domain.is_none_or(|d| d == r.domain)), q)
            };
            let (b, a) = (of(baseline), of(aligned));
            let differences: Vec<f64> = b.iter().filter_map(|(p, b)| Some(a.get(p)? - b)).collect();
            paired_bootstrap(&differences, RESAMPLES, seed, name)
        };
        let per_domain = |name: u64, q: Quantity| {
            let domains = before.domains.keys().zip(name..);
            domains.filter_map(|(d, name)| Some((d.clone(), change(name, Some(d), q)?))).collect()
        };
        let changes = Changes {
            paired: true,
            score: change(0, None, |r| Some(r.score)),
            gold: change(1, None, |r| r.gold),
            kl_exact: change(2, None, |r| r.kl_exact),
            entropy: change(3, None, |r| Some(r.entropy)),
            refusal_unsafe: change(4, None, |r| as_share(r.refused, r.unsafe_prompt)),
            refusal_benign: change(5, None, |r| as_share(r.refused, !r.unsafe_prompt)),
            length_tokens: change(6, None, |r| Some(r.tokens.len() as f64)),
            rep_4gram: change(7, None, |r| repeated_n(r.text_tokens(), 4)),
            gold_by_domain: per_domain(1_000_000, |r| r.gold),
            score_by_domain: per_domain(2_000_000, |r| Some(r.score)),
        };
        Ok(Self { baseline: before, aligned: after, change: changes })
    }

    /// From two evaluations alone: intervals from the standard errors as if the policies had answered
    /// unrelated prompts, which is wider than [`Comparison::paired`] where pairing helps.
    pub fn unpaired(baseline: Evaluation, aligned: Evaluation) -> Self {
        let (b, a) = (&baseline.overall, &aligned.overall);
        let by_domain = |get: fn(&crate::Summary) -> Option<Estimate>| {
            let both = baseline
                .domains
                .iter()
                .filter_map(|(d, b)| Some((d.clone(), difference(get(b)?, get(aligned.domains.get(d)?)?))));
            both.collect()
        };
        let change = Changes {
            paired: false,
            score: Some(difference(b.score, a.score)),
            gold: b.gold.zip(a.gold).map(|(b, a)| difference(b, a)),
            kl_exact: b.kl_exact.zip(a.kl_exact).map(|(b, a)| difference(b, a)),
            entropy: Some(difference(b.entropy, a.entropy)),
            refusal_unsafe: b.refusal_unsafe.zip(a.refusal_unsafe).map(|(b, a)| share_difference(b, a)),
            refusal_benign: b.refusal_benign.zip(a.refusal_benign).map(|(b, a)| share_difference(b, a)),
            length_tokens: Some(difference(b.length_tokens, a.length_tokens)),
            rep_4gram: b.rep_4gram.zip(a.rep_4gram).map(|(b, a)| difference(b, a)),
            gold_by_domain: by_domain(|s| s.gold),
            score_by_domain: by_domain(|s| Some(s.score)),
        };
        Self { baseline, aligned, change }
    }

    /// The change of gold in standard deviations of the baseline's gold scores.
    pub fn gold_in_sd(&self) -> Option<Change> {
        let sd = self.baseline.overall.gold?.sd;
        let gold = self.change.gold.filter(|_| sd > 0.0)?;
        Some(Change { mean: gold.mean / sd, ci: gold.ci.map(|(l, h)| (l / sd, h / sd)) })
    }
}

/// Mean of a quantity per prompt.
fn by_prompt<'a>(
    rows: impl Iterator<Item = &'a ResponseRecord>,
    q: impl Fn(&ResponseRecord) -> Option<f64>,
) -> BTreeMap<u64, f64> {
    let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for r in rows {
        if let Some(x) = q(r) {
            let s = sums.entry(r.prompt_id).or_default();
            *s = (s.0 + x, s.1 + 1.0);
        }
    }
    sums.into_iter().map(|(p, (sum, n))| (p, sum / n)).collect()
}

fn difference(b: Estimate, a: Estimate) -> Change {
    let mean = a.mean - b.mean;
    let ci = b.se.zip(a.se).map(|(sb, sa)| {
        let half = 1.959_963_984_540_054 * sb.hypot(sa);
        (mean - half, mean + half)
    });
    Change { mean, ci }
}

/// Newcombe's (1998, method 10) interval of a difference of shares, from the two Wilson intervals.
fn share_difference(b: Share, a: Share) -> Change {
    let mean = a.share - b.share;
    let low = mean - (a.share - a.ci.0).hypot(b.ci.1 - b.share);
    let high = mean + (a.ci.1 - a.share).hypot(b.share - b.ci.0);
    Change { mean, ci: Some((low, high)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(shift: f64) -> Vec<ResponseRecord> {
        (0..40)
            .map(|i| ResponseRecord {
                prompt_id: i,
                domain: if i % 2 == 0 { "a" } else { "b" }.into(),
                tokens: vec![1, 2, 3],
                score: i as f64 + shift + f64::from(u8::from(i % 3 == 0)) * shift,
                gold: Some(i as f64),
                ..Default::default()
            })
            .collect()
    }

    #[test]
    fn pairing_removes_what_prompts_share() {
        let (b, a) = (rows(0.0), rows(0.1));
        let paired = Comparison::paired(&b, &a, 1).unwrap();
        let score = paired.change.score.unwrap();
        // 14 of the 40 prompts move by 0.2, the others by 0.1.
        assert!((score.mean - (14.0 * 0.2 + 26.0 * 0.1) / 40.0).abs() < 1e-12);
        assert_eq!(score.direction(), std::cmp::Ordering::Greater);
        let unpaired = Comparison::unpaired(paired.baseline.clone(), paired.aligned.clone());
        assert!((unpaired.change.score.unwrap().mean - score.mean).abs() < 1e-12);
        assert_eq!(unpaired.change.score.unwrap().direction(), std::cmp::Ordering::Equal);
        assert_eq!(paired.change.gold.unwrap().mean, 0.0);
        assert_eq!(paired.change.score_by_domain.len(), 2);
        assert!(paired.change.kl_exact.is_none() && paired.change.refusal_unsafe.is_none());
    }

    #[test]
    fn prompts_of_one_side_are_refused() {
        let b = rows(0.0);
        let err = Comparison::paired(&b, &b[1..], 1).unwrap_err();
        assert_eq!(err, EvalError::Unpaired { prompt_id: 0, present: "baseline" });
        let err = Comparison::paired(&b[1..], &b, 1).unwrap_err();
        assert_eq!(err, EvalError::Unpaired { prompt_id: 0, present: "aligned" });
    }

    #[test]
    fn newcombe_difference() {
        // Newcombe (1998), table II, method 10, 56/70 − 48/80: 0.0524 to 0.3339.
        let c = share_difference(Share::new(48.0, 80).unwrap(), Share::new(56.0, 70).unwrap());
        let (low, high) = c.ci.unwrap();
        assert!((low - 0.0524).abs() < 5e-5 && (high - 0.3339).abs() < 5e-5, "{low} {high}");
    }
}
