//! Preferences as a reward model reads them: encoded, split, and what length alone says about them.

use crate::codec::Codec;
use crate::fit::Fit;
use crate::recipe::Recipe;
use crate::sft::note_skipped;
use crate::{Error, sources};
use std::collections::HashSet;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{Event, Observer, Stage};
use tetherline_data::ComparisonRow;
use tetherline_models::Row;
use tetherline_reward::{TextPair, fit_length, length_feature};

/// One answer with its prompt.
pub(super) struct Answer {
    /// Prompt and answer.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the answer.
    pub(super) len: usize,
    pub(super) text: String,
}

/// Two or more answers to one prompt.
pub(super) struct Comparison {
    pub(super) answers: Vec<Answer>,
    /// 1 the best; equal ranks are ties. Of a pair see `label`.
    pub(super) ranks: Vec<u32>,
    /// Of a pair: probability that the first answer is better.
    pub(super) label: f64,
    pub(super) margin: f64,
    pub(super) agreement: Option<f64>,
    pub(super) domain: String,
}

impl Comparison {
    /// The score of an answer is read at its last token.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let row = |a: &Answer| -> usize { a.tokens.len() };
        self.answers.iter().map(|a| Row { tokens: &a.tokens, lm: 0..0, scalar: row(a) - 1..row(a) }).collect()
    }

    /// Every pair of answers, each with the probability that the first is better.
    pub(super) fn pairs(&self) -> Vec<(usize, usize, f64)> {
        let k = self.answers.len();
        if k == 2 {
            return vec![(0, 1, self.label)];
        }
        let pair = |i: usize, j: usize| (i, j, order(self.ranks[i], self.ranks[j]));
        (0..k).flat_map(|i| (i + 1..k).map(move |j| pair(i, j))).collect()
    }
}

/// Label of a pair with these ranks.
fn order(a: u32, b: u32) -> f64 {
    match a.cmp(&b) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 0.0,
    }
}

/// What a reward model is trained and tested on.
pub(crate) struct Preferences {
    pub(super) train: Vec<Comparison>,
    pub(super) held_out: Vec<Comparison>,
    /// What length alone says of the training pairs, nats of log-odds per unit of ln(1 + tokens).
    pub(super) gamma: f64,
}

impl Preferences {
    /// Reads, splits and encodes the preferences of a recipe.
    pub(crate) fn load(
        recipe: &Recipe,
        codec: &Codec,
        context: usize,
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let loaded = sources::pairs(recipe)?.ok_or_else(|| Error::input("data.pairs", "missing"))?;
        note_skipped(observer, "data.pairs", loaded.skipped.len());
        let skip = recipe.data.skip_bad_lines;
        let fit = |key| Fit::new(sources::file_of(recipe, key), context, format!("context {context}"), skip);
        let mut rows = loaded.rows;
        let held_out = match sources::pairs_eval(recipe)? {
            Some(given) => {
                note_skipped(observer, "data.pairs_eval", given.skipped.len());
                given.rows
            }
            None => hold_out(&mut rows, recipe.seed),
        };
        crate::typed::warn(observer, "data.pairs", codec, rows.iter().map(|r| (r.line, &r.prompt)));
        let mut strict = fit("data.pairs");
        let train = encode(codec, &rows, &mut strict)?;
        strict.report(observer);
        let mut strict = fit(if recipe.data.pairs_eval.is_some() { "data.pairs_eval" } else { "data.pairs" });
        let held_out = encode(codec, &held_out, &mut strict)?;
        strict.report(observer);
        if train.is_empty() {
            return Err(Error::input("data.pairs", "no pair fits the model's context"));
        }
        let differences: Vec<(f64, f64)> = train
            .iter()
            .flat_map(|c| {
                let g = |i: usize| length_feature(c.answers[i].len);
                c.pairs().into_iter().map(move |(i, j, label)| (g(i) - g(j), label))
            })
            .collect();
        let gamma = fit_length(&differences);
        if recipe.reward.length_debias {
            observer.on_event(&Event::Note(&format!(
                "reward.length_debias: an answer twice as long has {:.2} times the odds of being preferred; that is held \
                 out of the score (γ = {gamma:.3})",
                2f64.powf(gamma)
            )));
        }
        Ok(Self { train, held_out, gamma })
    }
}

/// All pairs of texts, for the bag of words.
pub(super) fn text_pairs(of: &[Comparison]) -> Vec<TextPair<'_>> {
    of.iter()
        .flat_map(|c| {
            let text = |i: usize| c.answers[i].text.as_str();
            c.pairs().into_iter().map(move |(i, j, label)| TextPair { a: text(i), b: text(j), label })
        })
        .collect()
}

fn encode(codec: &Codec, rows: &[ComparisonRow], fit: &mut Fit) -> Result<Vec<Comparison>, Error> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let mut answers = Vec::with_capacity(row.answers.len());
        for answer in &row.answers {
            let text = answer.last_text().to_owned();
            let example = codec.example(&row.prompt, &text, true)?;
            let len = example.tokens.len() - example.prompt_len;
            answers.push(Answer { tokens: example.tokens, len, text });
        }
        if !fit.keeps(row.line, answers.iter().map(|a| a.tokens.len()).max().unwrap_or(0))? {
            continue;
        }
        let label = row.label.unwrap_or_else(|| order(row.ranks[0], row.ranks[1]));
        out.push(Comparison {
            answers,
            ranks: row.ranks.clone(),
            label,
            margin: row.margin.unwrap_or(0.0),
            // A soft label is a share of labelers.
            agreement: row.agreement.or(row.label.map(|p| p.max(1.0 - p))),
            domain: row.domain.clone(),
        });
    }
    Ok(out)
}

/// Takes the comparisons of a tenth of the prompts out of `rows`: a prompt is either trained or tested on. None
/// where there are fewer than ten prompts.
pub(crate) fn hold_out(rows: &mut Vec<ComparisonRow>, seed: u64) -> Vec<ComparisonRow> {
    // In the file's order: that of a hash set is not the same in every run.
    let mut seen = HashSet::new();
    let mut prompts: Vec<_> =
        rows.iter().map(|r| r.prompt.clone()).filter(|p| seen.insert(p.clone())).collect();
    stream(seed, Purpose::Shuffle, u64::MAX, Stage::Reward as u64, 0).shuffle(&mut prompts);
    prompts.truncate(prompts.len() / 10);
    let held: HashSet<_> = prompts.into_iter().collect();
    let (test, train) = std::mem::take(rows).into_iter().partition(|r| held.contains(&r.prompt));
    *rows = train;
    test
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_data::{ReadOptions, read_comparisons_str};

    #[test]
    fn a_tenth_of_the_prompts_is_held_out_whole() {
        let line = |i: usize| {
            format!("{{\"prompt\":\"p{}\",\"chosen\":\"good {i}\",\"rejected\":\"bad {i}\"}}\n", i % 40)
        };
        let text: String = (0..120).map(line).collect();
        let read = || read_comparisons_str("pairs", &text, &ReadOptions::default()).unwrap().rows;
        let (mut train, mut again) = (read(), read());
        let test = hold_out(&mut train, 3);
        assert_eq!((train.len(), test.len()), (108, 12), "4 of 40 prompts, 3 pairs each");
        assert!(test.iter().all(|t| train.iter().all(|r| r.prompt != t.prompt)));
        assert_eq!(hold_out(&mut again, 3), test, "the same in every run");
        let mut few = read();
        few.truncate(9);
        assert!(hold_out(&mut few, 3).is_empty());
        assert_eq!(few.len(), 9);
    }

    #[test]
    fn a_ranking_is_all_its_pairs() {
        let answer = |n: usize| Answer { tokens: vec![1; n], len: n, text: String::new() };
        let mut ranking = Comparison {
            answers: vec![answer(3), answer(4), answer(5)],
            ranks: vec![2, 1, 2],
            label: 0.0,
            margin: 0.0,
            agreement: None,
            domain: "all".into(),
        };
        assert_eq!(ranking.pairs(), [(0, 1, 0.0), (0, 2, 0.5), (1, 2, 1.0)]);
        ranking.answers.pop();
        ranking.label = 0.7;
        assert_eq!(ranking.pairs(), [(0, 1, 0.7)]);
    }
}
