//! Best-of-n from one pool of samples.
//!
//! N answers of the reference to each prompt. Of n drawn from them without replacement, the k-th in order of the proxy is the
//! best in C(k−1, n−1) of C(N, n) subsets, so
//!
//! ```text
//! R_n = (1/P) Σ_prompts Σ_{k=n..N} C(k−1, n−1)/C(N, n) · r_(k)
//! ```
//!
//! is unbiased for the expected gold (and proxy) of the best of n, with no drawing of subsets. KL to the reference:
//! ln n − (n−1)/n nats per sequence, exact for continuous scores and an upper bound with ties (Beirami et al. 2024).

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tetherline::codec::Codec;
use tetherline::recipe::Recipe;
use tetherline::scoring::RewardModel;
use tetherline_core::seeds::Purpose;
use tetherline_core::{BoxError, PromptBatch, PromptRef};
use tetherline_data::Text;
use tetherline_frontdesk::{Prompt, gold};
use tetherline_models::{Engine, Heads, Model, ModelFiles};
use tetherline_rollout::{StreamName, generate};

/// The answers to one prompt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answers {
    /// Gold of each.
    pub(crate) gold: Vec<f64>,
    /// Prompt and answer of each, tokens.
    tokens: Vec<Vec<u32>>,
    /// A few of them as text.
    pub(crate) texts: Vec<String>,
}

/// The answers to `prompts`, `samples` each, by the model in `start`; read where they are there already.
pub(crate) fn pool(
    path: &Path,
    start: &Path,
    recipe: &Recipe,
    prompts: &[Prompt],
    samples: usize,
    engine: &Engine,
) -> Result<Vec<Answers>, BoxError> {
    if path.is_file() {
        let found: Vec<Answers> = serde_json::from_slice(&std::fs::read(path)?)?;
        if found.len() == prompts.len() && found.iter().all(|a| a.gold.len() == samples) {
            return Ok(found);
        }
    }
    let files = ModelFiles::dir(start)?;
    let model = Model::load(&files, Heads { lm: true, scalar: false }, recipe.seed)?;
    let codec = Codec::load(&files, &model)?.wrapping_plain_prompts();
    let name = StreamName { seed: recipe.seed, purpose: Purpose::Eval, step: 1 };
    let mut out = Vec::new();
    for (id, prompt) in prompts.iter().enumerate() {
        let tokens = codec.prompt(&Text::Plain(prompt.text.clone()))?;
        let mut batch = PromptBatch::default();
        for sample in 0..samples {
            batch.push(PromptRef {
                tokens: &tokens,
                id: id as u64,
                sample: sample as u32,
                domain: prompt.domain.name(),
                user: &prompt.user,
                text: &prompt.text,
                messages: &[],
                answer: "",
            });
        }
        let r = generate(&model, &codec.tokenizer, batch, &recipe.sampling, name, engine, 0)?;
        out.push(Answers {
            gold: r.texts.iter().map(|text| gold(prompt, text).total).collect(),
            tokens: r.responses.rows().map(|row| [&tokens, row].concat()).collect(),
            texts: r.texts,
        });
    }
    std::fs::write(path, serde_json::to_vec(&out)?)?;
    Ok(out)
}

/// Normalised scores of every answer by each reward model: `[model][prompt][answer]`. Read where they are there already.
pub(crate) fn scores(
    path: &Path,
    pool: &[Answers],
    models: &[PathBuf],
    engine: &Engine,
) -> Result<Vec<Vec<Vec<f32>>>, BoxError> {
    if path.is_file() {
        return Ok(serde_json::from_slice(&std::fs::read(path)?)?);
    }
    let mut out = Vec::new();
    for dir in models {
        let rm = RewardModel::load(&ModelFiles::dir(dir)?)?;
        let mut of_model = Vec::new();
        for answers in pool {
            // The reference often says the same: each text is scored once.
            let mut place: HashMap<&[u32], usize> = HashMap::new();
            let mut distinct = Vec::new();
            let mut which = Vec::new();
            for tokens in &answers.tokens {
                which.push(*place.entry(tokens).or_insert_with(|| {
                    distinct.push(tokens.clone());
                    distinct.len() - 1
                }));
            }
            let scores = rm.raw_scores(engine, &distinct)?;
            of_model.push(which.into_iter().map(|i| rm.norms[0].apply(scores[i][0])).collect::<Vec<f32>>());
        }
        out.push(of_model);
    }
    std::fs::create_dir_all(path.parent().ok_or("no parent")?)?;
    std::fs::write(path, serde_json::to_vec(&out)?)?;
    Ok(out)
}

/// Share of answers that are the only one of their text for their prompt.
pub(crate) fn distinct_share(pool: &[Answers]) -> f64 {
    let of = |a: &Answers| a.tokens.iter().collect::<std::collections::HashSet<_>>().len();
    let all: usize = pool.iter().map(|a| a.tokens.len()).sum();
    pool.iter().map(of).sum::<usize>() as f64 / all.max(1) as f64
}

/// KL of the best of n to the reference, nats per sequence.
pub(crate) fn kl(n: usize) -> f64 {
    let n = n as f64;
    n.ln() - (n - 1.0) / n
}

/// The expected `values` of the best of n by `proxy`, over all subsets of n of the pool.
pub(crate) fn best_of(n: usize, proxy: &[f32], values: &[f64]) -> f64 {
    let all = proxy.len();
    let mut order: Vec<usize> = (0..all).collect();
    order.sort_by(|&a, &b| proxy[a].total_cmp(&proxy[b]));
    // C(N−1, n−1)/C(N, n) = n/N, and from place k to k−1 a factor (k−n)/(k−1).
    let (mut weight, mut sum) = (n as f64 / all as f64, 0.0);
    for k in (n..=all).rev() {
        sum += weight * values[order[k - 1]];
        weight *= (k - n) as f64 / (k as f64 - 1.0).max(1.0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ln n − (n − 1)/n to six digits.
    #[test]
    fn kl_of_the_best_of_n() {
        for (n, want) in [(1, 0.0), (2, 0.193147), (4, 0.636294), (16, 1.835089), (64, 3.174508)] {
            assert!((kl(n) - want).abs() < 1e-6, "{n}");
        }
    }

    /// Beside the mean over all ten subsets of three of five.
    #[test]
    fn the_best_of_all_subsets() {
        let (proxy, values) = ([0.3_f32, -1.0, 2.0, 0.5, 1.0], [1.0, 5.0, -2.0, 0.0, 7.0]);
        let (mut sum, mut subsets) = (0.0, 0.0);
        for a in 0..5 {
            for b in a + 1..5 {
                for c in b + 1..5 {
                    let best = [a, b, c].into_iter().max_by(|i, j| proxy[*i].total_cmp(&proxy[*j])).unwrap();
                    sum += values[best];
                    subsets += 1.0;
                }
            }
        }
        assert_eq!(subsets, 10.0);
        assert!((best_of(3, &proxy, &values) - sum / subsets).abs() < 1e-12);
        assert!((best_of(1, &proxy, &values) - 11.0 / 5.0).abs() < 1e-12, "one is the mean");
        assert!((best_of(5, &proxy, &values) + 2.0).abs() < 1e-12, "all: the best of the proxy");
    }
}
