//! What each prompt of an evaluation gave: numbers alone, so that two evaluations on the same prompts can be paired later.

use crate::ResponseRecord;
use crate::ngram::repeated_n;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Means over the responses to one prompt. No text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptRow {
    /// Prompt, as numbered by the data set.
    pub id: u64,
    /// Domain tag.
    pub domain: String,
    /// Proxy score.
    pub score: f64,
    /// Gold score, where every response has one.
    pub gold: Option<f64>,
    /// Exact KL to the reference, nats per sequence.
    pub kl: Option<f64>,
    /// Entropy, nats per token.
    pub entropy: f64,
    /// Tokens per response.
    pub length_tokens: f64,
    /// Share of 4-grams that are repeated within a response, over those long enough to have any.
    pub repeated_4grams: Option<f64>,
    /// Share of responses that ended by themselves.
    pub ended: f64,
    /// Share of responses that refuse.
    pub refused: f64,
    /// Whether the prompt should be refused.
    pub unsafe_prompt: bool,
}

impl PromptRow {
    /// One row per prompt, by id.
    pub fn all(records: &[ResponseRecord]) -> Vec<Self> {
        let mut of: BTreeMap<u64, Vec<&ResponseRecord>> = BTreeMap::new();
        for r in records {
            of.entry(r.prompt_id).or_default().push(r);
        }
        of.into_iter().filter_map(|(id, rows)| Self::of(id, &rows)).collect()
    }

    fn of(id: u64, rows: &[&ResponseRecord]) -> Option<Self> {
        let first = rows.first()?;
        let mean =
            |of: &dyn Fn(&ResponseRecord) -> f64| rows.iter().map(|r| of(r)).sum::<f64>() / rows.len() as f64;
        let every = |of: fn(&ResponseRecord) -> Option<f64>| {
            let all: Option<Vec<f64>> = rows.iter().map(|r| of(r)).collect();
            all.map(|all| all.iter().sum::<f64>() / all.len() as f64)
        };
        let repeated: Vec<f64> = rows.iter().filter_map(|r| repeated_n(r.text_tokens(), 4)).collect();
        let share = |hit: bool| f64::from(u8::from(hit));
        Some(Self {
            id,
            domain: first.domain.clone(),
            score: mean(&|r| r.score),
            gold: every(|r| r.gold),
            kl: every(|r| r.kl_exact),
            entropy: mean(&|r| r.entropy),
            length_tokens: mean(&|r| r.tokens.len() as f64),
            repeated_4grams: (!repeated.is_empty())
                .then(|| repeated.iter().sum::<f64>() / repeated.len() as f64),
            ended: mean(&|r| share(r.stopped_by_eos)),
            refused: mean(&|r| share(r.refused)),
            unsafe_prompt: first.unsafe_prompt,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_to_a_prompt_are_averaged() {
        let row = |prompt_id, score, gold, tokens: &[u32]| ResponseRecord {
            prompt_id,
            score,
            gold,
            tokens: tokens.to_vec(),
            refused: score > 2.0,
            ..Default::default()
        };
        let rows = [
            row(7, 1.0, Some(0.0), &[1, 2]),
            row(3, 5.0, Some(2.0), &[1]),
            row(7, 3.0, None, &[4, 4, 4, 4, 4, 4]),
        ];
        let all = PromptRow::all(&rows);
        assert_eq!(all.iter().map(|r| r.id).collect::<Vec<_>>(), [3, 7]);
        let seven = &all[1];
        assert_eq!((seven.score, seven.gold, seven.length_tokens), (2.0, None, 4.0));
        // Three 4-grams, two of them seen before; the short response has none.
        assert!((seven.repeated_4grams.unwrap() - 2.0 / 3.0).abs() < 1e-12 && seven.refused == 0.5);
        assert_eq!((all[0].gold, all[0].repeated_4grams), (Some(2.0), None));
    }
}
