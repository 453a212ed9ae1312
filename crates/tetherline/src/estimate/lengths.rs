//! How long the rows of a recipe are, in tokens.

use super::models::Models;
use crate::codec::Codec;
use crate::recipe::Recipe;
use crate::{Error, sources};
use tetherline_data::Text;
use tetherline_frontdesk::{GoldScorer, World};
use tetherline_models::RowSize;

/// Rows looked at of a file, spread over it: lengths need no more.
const LOOKED_AT: usize = 4096;

/// Tokens of rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths {
    /// Of prompts.
    prompts: Vec<usize>,
    /// Of prompts to evaluate on.
    eval: Vec<usize>,
    /// Of a response, as assumed.
    pub(super) response: usize,
    /// Demonstrations.
    pub(super) sft: Vec<RowSize>,
    /// The answers of each pair or ranking.
    pub(super) pairs: Vec<Vec<RowSize>>,
}

/// Texts of prompts, and how many tokens of the policy each is.
pub(super) type Texts = Vec<(String, usize)>;

/// Texts that tokenizers are compared on.
const COMPARED: usize = 64;

/// Lengths, with the data and the tokenizer that a run holds too.
pub(super) struct Loaded {
    lengths: Lengths,
    texts: Texts,
    _codec: Codec,
    _data: Box<dyn std::any::Any>,
}

impl Loaded {
    pub(super) fn lengths(self) -> (Lengths, Texts) {
        (self.lengths, self.texts)
    }
}

fn some<T>(rows: &[T]) -> impl Iterator<Item = &T> {
    rows.iter().step_by(rows.len().div_ceil(LOOKED_AT).max(1))
}

/// Reads and encodes the data of every stage.
pub(super) fn load(recipe: &Recipe, models: &Models, response: Option<usize>) -> Result<Loaded, Error> {
    let config = models.policy.config();
    let codec = Codec::open(&models.files, &config.eos, config.vocab)?;
    let codec = if recipe.data.world.is_some() { codec.wrapping_plain_prompts() } else { codec };
    let context = match recipe.model.max_context {
        0 => config.max_positions,
        n => n.min(config.max_positions),
    };
    let new = recipe.longest_response();
    let mut lengths = Lengths { response: response.unwrap_or(new).min(new), ..Lengths::default() };
    let most = match recipe.data.max_prompt_tokens {
        0 => context,
        n => n,
    };
    let room = context.saturating_sub(new).min(most);
    let fits = |prompt: &Text| -> Result<Option<usize>, Error> {
        Ok(Some(codec.prompt(prompt)?.len()).filter(|n| *n <= room))
    };
    let prompts = sources::prompts(recipe)?;
    let mut texts = Texts::new();
    for row in prompts.iter().flat_map(|l| some(&l.rows)).take(COMPARED) {
        let text = row.prompt.last_text();
        let tokens = codec.tokenizer.encode(text, false).map_err(|e| Error::input("a prompt", e))?.len();
        texts.push((text.to_owned(), tokens));
    }
    for row in prompts.iter().flat_map(|l| some(&l.rows)) {
        lengths.prompts.extend(fits(&row.prompt)?);
    }
    if lengths.prompts.is_empty() && recipe.dpo.is_none() {
        return Err(Error::input("data.prompts", format!("no prompt has at most {room} tokens, which fit")));
    }
    let eval = if recipe.eval.prompts > 0 { sources::eval_prompts(recipe)? } else { None };
    for row in eval.iter().flat_map(|l| &l.rows) {
        if lengths.eval.len() == recipe.eval.prompts {
            break;
        }
        lengths.eval.extend(fits(&row.prompt)?);
    }
    let sft = if recipe.runs_sft() { sources::sft(recipe)? } else { None };
    for row in sft.iter().flat_map(|l| some(&l.rows)) {
        let e = codec.example(&row.prompt, &row.response, true)?;
        if (1..=context).contains(&e.tokens.len()) {
            lengths.sft.push(RowSize { tokens: e.tokens.len(), lm: e.targets(), scalar: 0 });
        }
    }
    let from_pairs = recipe.trains_reward_model() || recipe.dpo.is_some();
    let pairs = if from_pairs { sources::pairs(recipe)? } else { None };
    for row in pairs.iter().flat_map(|l| some(&l.rows)) {
        let of = |answer: &str| -> Result<RowSize, Error> {
            let e = codec.example(&row.prompt, answer, true)?;
            Ok(RowSize { tokens: e.tokens.len(), lm: e.targets(), scalar: 1 })
        };
        let all = row.answers.iter().map(|a| of(a.last_text())).collect::<Result<Vec<_>, _>>()?;
        if all.iter().all(|r| r.tokens <= context) {
            lengths.pairs.push(all);
        }
    }
    if lengths.prompts.is_empty() {
        lengths.prompts.extend(lengths.pairs.iter().flatten().map(|r| r.tokens - r.lm));
    }
    // What else a run keeps: the reward model's tokenizer, and the gold of the world.
    let other = || Codec::open(&models.files, &config.eos, config.vocab);
    let scorer = if models.reward.is_some() { Some(other()?) } else { None };
    let world = recipe.data.world.is_some().then(World::embedded);
    let gold = world.transpose().map_err(|e| Error::input("the embedded world", e))?;
    let gold = gold.map(|world| GoldScorer::new(world.prompts()));
    Ok(Loaded { lengths, texts, _codec: codec, _data: Box::new((prompts, eval, sft, pairs, scorer, gold)) })
}

/// `n` of `all`, evenly over their order by length, so that a batch of them is a typical one.
fn typical<T: Clone>(all: &[T], n: usize, length: impl Fn(&T) -> usize) -> Vec<T> {
    if all.is_empty() {
        return Vec::new();
    }
    let mut sorted = all.to_vec();
    sorted.sort_by_key(|x| length(x));
    let at = |i: usize| sorted[(2 * i + 1) * sorted.len() / (2 * n)].clone();
    // Neighbours of unlike length, as a shuffled batch has them.
    let prime_to_n = |s: &usize| (2..=*s).all(|d| !s.is_multiple_of(d) || !n.is_multiple_of(d));
    let stride = (n * 5 / 8..).find(|s| *s > 0 && prime_to_n(s)).unwrap_or(1);
    (0..n).map(|i| at(i * stride % n)).collect()
}

impl Lengths {
    pub(super) fn mean_prompt(&self) -> f64 {
        self.prompts.iter().sum::<usize>() as f64 / self.prompts.len().max(1) as f64
    }

    /// Prompt and response of the rows of a rollout, policy and value read.
    pub(super) fn rollout(&self, rows: usize) -> Vec<RowSize> {
        self.answered(typical(&self.prompts, rows, |n| *n))
    }

    /// The same of the evaluation.
    pub(super) fn evaluation(&self, samples: usize) -> Vec<RowSize> {
        self.answered(self.eval.iter().flat_map(|n| vec![*n; samples]).collect())
    }

    fn answered(&self, prompts: Vec<usize>) -> Vec<RowSize> {
        let r = self.response;
        prompts.into_iter().map(|p| RowSize { tokens: p + r, lm: r, scalar: r }).collect()
    }

    /// Units of a step of SFT.
    pub(super) fn sft_batch(&self, n: usize) -> Vec<Vec<RowSize>> {
        typical(&self.sft, n, |r| r.tokens).into_iter().map(|r| vec![r]).collect()
    }

    /// Units of a step of the reward model: of every answer the score.
    pub(super) fn pair_batch(&self, n: usize) -> Vec<Vec<RowSize>> {
        self.pairs_of(n, |r| RowSize { lm: 0, ..r })
    }

    /// Units of a step of DPO: of every pair the log-probs of both answers. Of a ranking two answers count.
    pub(super) fn dpo_batch(&self, n: usize) -> Vec<Vec<RowSize>> {
        let mut pairs = self.pairs_of(n, |r| RowSize { scalar: 0, ..r });
        pairs.iter_mut().for_each(|p| p.truncate(2));
        pairs
    }

    fn pairs_of(&self, n: usize, read: impl Fn(RowSize) -> RowSize) -> Vec<Vec<RowSize>> {
        let pairs = typical(&self.pairs, n, |p| p.iter().map(|r| r.tokens).sum());
        pairs.into_iter().map(|p| p.into_iter().map(&read).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typical_batch_has_the_mean_of_all_and_every_length_once() {
        let all: Vec<usize> = (1..=64).rev().collect();
        let mut batch = typical(&all, 16, |n| *n);
        assert_eq!(batch.iter().sum::<usize>() / 16, 33);
        batch.sort_unstable();
        assert!(batch.windows(2).all(|w| w[1] - w[0] == 4), "{batch:?}");
        let mut few = typical(&[7, 9], 24, |n| *n);
        few.sort_unstable();
        assert_eq!(few, [[7; 12], [9; 12]].concat());
    }
}
