//! What a policy does on held-out prompts: plain records in, one serialisable [`Evaluation`] out.

use crate::{
    Estimate, EvalError, Share,
    correlation::pearson,
    estimate::quantile,
    ngram::{distinct_n, repeated_n, unique_share},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One response and what was measured on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResponseRecord {
    /// Prompt, as numbered by the data set.
    pub prompt_id: u64,
    /// Domain tag.
    pub domain: String,
    /// User tag.
    pub user: String,
    /// Prompt text.
    pub prompt: String,
    /// Response text, specials skipped.
    pub response: String,
    /// Response token ids, the end of sequence included if written.
    pub tokens: Vec<u32>,
    /// Proxy score (reward model or rule).
    pub score: f64,
    /// Gold score, where the world has one.
    pub gold: Option<f64>,
    /// Exact KL(π‖π_ref) summed over the response's tokens, nats per sequence.
    pub kl_exact: Option<f64>,
    /// Entropy of the policy, mean over the response's tokens, nats per token.
    pub entropy: f64,
    /// The response ended with an end of sequence rather than by length.
    pub stopped_by_eos: bool,
    /// The response refuses.
    pub refused: bool,
    /// The prompt should be refused.
    pub unsafe_prompt: bool,
}

impl ResponseRecord {
    /// Tokens without the closing end of sequence.
    pub fn text_tokens(&self) -> &[u32] {
        match self.tokens.split_last() {
            Some((_, rest)) if self.stopped_by_eos => rest,
            _ => &self.tokens,
        }
    }
}

/// The numbers of one set of responses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Responses.
    pub n: usize,
    /// Distinct prompts.
    pub prompts: usize,
    /// Proxy score.
    pub score: Estimate,
    /// Gold score, where every response has one.
    pub gold: Option<Estimate>,
    /// Exact KL to the reference, nats per sequence, where every response has one.
    pub kl_exact: Option<Estimate>,
    /// Exact KL, nats per token: ΣKL / Σtokens.
    pub kl_per_token: Option<f64>,
    /// Entropy of the policy, nats per token, mean over responses.
    pub entropy: Estimate,
    /// Refusals on prompts that should be refused.
    pub refusal_unsafe: Option<Share>,
    /// Refusals on prompts that should be answered.
    pub refusal_benign: Option<Share>,
    /// Length in tokens, the end of sequence included.
    pub length_tokens: Estimate,
    /// 95th percentile of the length in tokens.
    pub length_tokens_p95: f64,
    /// Length in white-space separated words.
    pub length_words: Estimate,
    /// Distinct-1 over token ids, pooled.
    pub distinct_1: Option<f64>,
    /// Distinct-2 over token ids, pooled.
    pub distinct_2: Option<f64>,
    /// Repeated 4-gram share within a response.
    pub rep_4gram: Option<Estimate>,
    /// Share of distinct responses.
    pub unique_share: f64,
    /// Responses that ended with an end of sequence.
    pub eos_share: Share,
    /// Correlation of the proxy score with the length in tokens.
    pub score_length_r: Option<f64>,
}

/// A policy's numbers, overall and per domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// All responses.
    pub overall: Summary,
    /// By domain, in alphabetical order.
    pub domains: BTreeMap<String, Summary>,
}

impl Evaluation {
    /// Evaluates `records`, in any order.
    ///
    /// # Errors
    /// [`EvalError::NoRecords`], or [`EvalError::NonFinite`] naming the field and the record.
    pub fn of(records: &[ResponseRecord]) -> Result<Self, EvalError> {
        check_finite(records)?;
        let overall = Summary::of(records.iter()).ok_or(EvalError::NoRecords)?;
        let domains =
            by_domain(records).into_iter().filter_map(|(d, rows)| Some((d, Summary::of(rows.into_iter())?)));
        Ok(Self { overall, domains: domains.collect() })
    }
}

/// Records grouped by their domain.
pub fn by_domain(records: &[ResponseRecord]) -> BTreeMap<String, Vec<&ResponseRecord>> {
    let mut groups: BTreeMap<String, Vec<&ResponseRecord>> = BTreeMap::new();
    for r in records {
        groups.entry(r.domain.clone()).or_default().push(r);
    }
    groups
}

impl Summary {
    /// Refusals on all prompts.
    pub fn refused(&self) -> Option<Share> {
        let parts = [self.refusal_unsafe, self.refusal_benign];
        let (hits, n) = parts.iter().flatten().fold((0.0, 0), |t, s| (t.0 + s.hits, t.1 + s.n));
        Share::new(hits, n)
    }

    fn of<'a>(records: impl Iterator<Item = &'a ResponseRecord>) -> Option<Self> {
        let rows: Vec<&ResponseRecord> = records.collect();
        let mean = |f: fn(&ResponseRecord) -> Option<f64>| {
            let values: Vec<(u64, f64)> = rows.iter().filter_map(|r| Some((r.prompt_id, f(r)?))).collect();
            Estimate::clustered(&values)
        };
        // A mean over some of the responses would not be comparable with one over all of them.
        let complete = |e: Option<Estimate>| e.filter(|e| e.n == rows.len());
        let texts: Vec<&[u32]> = rows.iter().map(|r| r.text_tokens()).collect();
        let lengths: Vec<f64> = rows.iter().map(|r| r.tokens.len() as f64).collect();
        let refusals = |of_unsafe: bool| {
            Share::of(rows.iter().filter(|r| r.unsafe_prompt == of_unsafe).map(|r| r.refused))
        };
        let kl_exact = complete(mean(|r| r.kl_exact));
        let tokens: f64 = lengths.iter().sum();
        let score_against_length: Vec<_> = rows.iter().zip(&lengths).map(|(r, &l)| (l, r.score)).collect();
        let prompts: std::collections::BTreeSet<u64> = rows.iter().map(|r| r.prompt_id).collect();
        Some(Self {
            n: rows.len(),
            prompts: prompts.len(),
            score: mean(|r| Some(r.score))?,
            gold: complete(mean(|r| r.gold)),
            kl_exact,
            kl_per_token: kl_exact.filter(|_| tokens > 0.0).map(|kl| kl.mean * kl.n as f64 / tokens),
            entropy: mean(|r| Some(r.entropy))?,
            refusal_unsafe: refusals(true),
            refusal_benign: refusals(false),
            length_tokens: mean(|r| Some(r.tokens.len() as f64))?,
            length_tokens_p95: quantile(&lengths, 0.95)?,
            length_words: mean(|r| Some(r.response.split_whitespace().count() as f64))?,
            distinct_1: distinct_n(&texts, 1),
            distinct_2: distinct_n(&texts, 2),
            rep_4gram: mean(|r| repeated_n(r.text_tokens(), 4)),
            unique_share: unique_share(&texts)?,
            eos_share: Share::of(rows.iter().map(|r| r.stopped_by_eos))?,
            score_length_r: pearson(&score_against_length),
        })
    }
}

fn check_finite(records: &[ResponseRecord]) -> Result<(), EvalError> {
    for (row, r) in records.iter().enumerate() {
        let fields = [
            ("score", Some(r.score)),
            ("gold", r.gold),
            ("kl_exact", r.kl_exact),
            ("entropy", Some(r.entropy)),
        ];
        for (field, value) in fields {
            if let Some(value) = value.filter(|v| !v.is_finite()) {
                return Err(EvalError::NonFinite { field, row, prompt_id: r.prompt_id, value });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(prompt_id: u64, domain: &str, tokens: &[u32], score: f64) -> ResponseRecord {
        ResponseRecord {
            prompt_id,
            domain: domain.into(),
            response: "two words".into(),
            tokens: tokens.to_vec(),
            score,
            gold: Some(2.0 * score),
            kl_exact: Some(tokens.len() as f64 * 0.5),
            entropy: 1.0,
            ..Default::default()
        }
    }

    #[test]
    fn numbers_by_hand() {
        let mut a = record(1, "x", &[1, 2, 3, 9], 1.0);
        a.stopped_by_eos = true;
        let mut b = record(2, "x", &[1, 2], 3.0);
        b.unsafe_prompt = true;
        b.refused = true;
        let c = record(3, "y", &[7, 7, 7, 7, 7, 7], 5.0);
        let e = Evaluation::of(&[a, b, c]).unwrap();
        let o = &e.overall;
        assert_eq!((o.n, o.score.mean, o.gold.unwrap().mean, o.length_tokens.mean), (3, 3.0, 6.0, 4.0));
        assert_eq!(o.kl_exact.unwrap().mean, 2.0);
        assert_eq!(o.kl_per_token, Some(0.5));
        assert_eq!(o.refusal_unsafe.unwrap().share, 1.0);
        assert_eq!((o.refusal_benign.unwrap().n, o.refusal_benign.unwrap().share), (2, 0.0));
        // Unigrams 1 2 3 | 1 2 | 7×6: the end of sequence is no text.
        assert_eq!(o.distinct_1, Some(4.0 / 11.0));
        assert!((o.rep_4gram.unwrap().mean - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(o.rep_4gram.unwrap().n, 1);
        assert_eq!(o.length_words.mean, 2.0);
        assert!((o.eos_share.share - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(e.domains["y"].n, 1);
        assert_eq!(e.domains["x"].score.mean, 2.0);
        let text = serde_json::to_string(&e).unwrap();
        assert_eq!(serde_json::from_str::<Evaluation>(&text).unwrap(), e);
    }

    #[test]
    fn a_mean_needs_every_response() {
        let mut b = record(2, "x", &[1], 1.0);
        b.gold = None;
        let e = Evaluation::of(&[record(1, "x", &[1], 1.0), b]).unwrap();
        assert!(e.overall.gold.is_none() && e.overall.kl_exact.is_some());
    }

    #[test]
    fn bad_input_is_named() {
        assert_eq!(Evaluation::of(&[]), Err(EvalError::NoRecords));
        let mut r = record(77, "x", &[1], 1.0);
        r.entropy = f64::INFINITY;
        let text = Evaluation::of(&[record(1, "x", &[1], 1.0), r]).unwrap_err().to_string();
        assert!(
            text.contains("entropy") && text.contains("record 1") && text.contains("prompt 77"),
            "{text}"
        );
    }
}
