//! A model directory to time on: `policy/`, `reward/`, and the data of every work as text and as token ids.
//!
//! Our trainers read the text, the peers the ids that our tokenizer makes of it, so both sides do the same work.

use crate::models::{Size, load, matmul_params, story_openings};
use crate::{BATCH, NEW, PROMPT, REWARD_STEPS, UPDATES, policy_dir, reward_dir};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::collections::HashSet;
use std::path::Path;
use tetherline::codec::Codec;
use tetherline::scoring::REWARD_HEADS;
use tetherline_core::seeds::{Purpose, Stream, stream};
use tetherline_data::Text;
use tetherline_models::{Engine, Model, ModelFiles, Row, SaveType};

/// Shortest and longest sequence of a preference pair, tokens; lengths are uniform between them.
pub const PAIR_TOKENS: (usize, usize) = (24, PROMPT + NEW);

/// Distinct prompts of the pairs. Fewer than ten, so that the trainer holds none out.
const PAIR_PROMPTS: usize = 8;

/// Rows whose log-probs are written.
const CHECKED: usize = 8;

/// Texts are made of these, until they have the tokens that are wanted.
const WORDS: &[&str] = &[
    "the", "cat", "sat", "on", "a", "mat", "and", "saw", "her", "big", "red", "ball", "in", "it", "was",
    "sad", "he", "ran", "to", "his", "mom", "day", "one", "little", "girl", "tree", "play", "with", "they",
    "went",
];

/// Writes the directory, and `model.json` with what is to know about it.
///
/// # Errors
/// If the model cannot be made or a file cannot be written.
pub fn prepare(dir: &Path, size: Size) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let (model, name) = load(size)?;
    model.save(&policy_dir(dir), SaveType::F32)?;
    model.with_heads(REWARD_HEADS, 1)?.save(&reward_dir(dir), SaveType::F32)?;
    let files = ModelFiles::dir(policy_dir(dir))?;
    let codec = Codec::load(&files, &model)?;
    let mut draw = stream(0, Purpose::World, 0, 0, 0);

    let prompts = prompts(&codec, BATCH * UPDATES, &mut draw)?;
    lines(dir, "prompts.jsonl", prompts.iter().map(|(text, _)| json!({"prompt": text})))?;
    lines(dir, "prompts.ids.jsonl", prompts.iter().map(|(_, ids)| json!(ids)))?;

    if size == Size::S
        && let Some(file) = story_openings()
    {
        let openings = openings(&codec, &file)?;
        lines(dir, "stories.jsonl", openings.iter().map(|(text, _)| json!({"prompt": text})))?;
        lines(dir, "stories.ids.jsonl", openings.iter().map(|(_, ids)| json!(ids)))?;
    }

    let (mut text, mut ids, mut tokens) = (Vec::new(), Vec::new(), 0);
    for i in 0..BATCH * REWARD_STEPS {
        let prompt = &prompts[i % PAIR_PROMPTS].0;
        let mut answer = || {
            let (low, high) = PAIR_TOKENS;
            response(&codec, prompt, low + draw.below(high - low + 1), &mut draw)
        };
        let (chosen, rejected) = (answer()?, answer()?);
        tokens += chosen.1.len() + rejected.1.len();
        text.push(json!({"prompt": prompt, "chosen": chosen.0, "rejected": rejected.0}));
        ids.push(json!({"chosen_ids": chosen.1, "rejected_ids": rejected.1}));
    }
    let pair_mean = tokens as f64 / (2 * ids.len()) as f64;
    lines(dir, "pairs.jsonl", text)?;
    lines(dir, "pairs.ids.jsonl", ids)?;

    // Any ids do for a training step; special ones (below 3) are left out.
    let top = codec.tokenizer.max_id() as usize + 1;
    let mut row = || (0..PROMPT + NEW).map(|_| 3 + draw.below(top - 3) as u32).collect::<Vec<_>>();
    let rows: Vec<Vec<u32>> = (0..BATCH).map(|_| row()).collect();
    lines(dir, "rows.ids.jsonl", rows.iter().map(|r| json!(r)))?;
    lines(dir, "rows.logprobs.jsonl", logprobs(&model, &rows[..CHECKED])?)?;

    let c = model.config();
    let about = json!({"name": name, "params": model.n_params(), "matmul_params": matmul_params(&model),
        "dim": c.dim, "layers": c.layers.len(), "vocab": c.vocab, "kv": c.kv_heads * c.head_dim,
        "pair_mean_tokens": pair_mean});
    std::fs::write(dir.join("model.json"), format!("{about}\n"))?;
    Ok(())
}

/// The openings of stories that TRL's run to a reward had, as text and as our tokenizer's ids.
fn openings(codec: &Codec, file: &Path) -> Result<Vec<(String, Vec<u32>)>> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let whole: serde_json::Value = serde_json::from_slice(&text)?;
    let texts: Vec<String> = serde_json::from_value(whole["texts"].clone())?;
    texts.into_iter().map(|t| Ok((t.clone(), codec.prompt(&Text::Plain(t))?))).collect()
}

/// Our log-probs of every token of `rows` but the first of each, for a peer to show that it has the same model.
fn logprobs(model: &Model, rows: &[Vec<u32>]) -> Result<Vec<serde_json::Value>> {
    let rows: Vec<Row<'_>> =
        rows.iter().map(|r| Row { tokens: r, lm: 0..r.len() - 1, scalar: 0..0 }).collect();
    let out = model.forward(&Engine::new(1), &rows, 1.0)?;
    Ok(out.into_iter().map(|r| json!(r.logprobs)).collect())
}

/// Distinct texts of [`PROMPT`] tokens each, with their ids.
fn prompts(codec: &Codec, n: usize, draw: &mut Stream) -> Result<Vec<(String, Vec<u32>)>> {
    let (mut seen, mut out) = (HashSet::new(), Vec::new());
    for _ in 0..1000 * n {
        if out.len() == n {
            return Ok(out);
        }
        let made = grow(PROMPT, draw, |text| Ok(codec.prompt(&Text::Plain(text.to_owned()))?))?;
        if made.1.len() == PROMPT && seen.insert(made.0.clone()) {
            out.push(made);
        }
    }
    bail!("only {} of {n} prompts of {PROMPT} tokens found", out.len())
}

/// A response that makes prompt and response a sequence of at most `tokens` tokens (and nearly always of exactly
/// so many), with the ids of both.
fn response(codec: &Codec, prompt: &str, tokens: usize, draw: &mut Stream) -> Result<(String, Vec<u32>)> {
    let of =
        |text: &str| Ok(codec.example(&Text::Plain(prompt.to_owned()), &format!(" {text}"), true)?.tokens);
    let (text, ids) = grow(tokens, draw, of)?;
    Ok((format!(" {text}"), ids))
}

/// Adds random words as long as `encode` gives at most `tokens` tokens, until it gives `tokens`.
fn grow(
    tokens: usize,
    draw: &mut Stream,
    encode: impl Fn(&str) -> Result<Vec<u32>>,
) -> Result<(String, Vec<u32>)> {
    let mut best = (String::new(), Vec::new());
    let mut failed = 0;
    while best.1.len() < tokens && failed < 20 {
        let word = *draw.pick(WORDS);
        let text = if best.0.is_empty() { word.to_owned() } else { format!("{} {word}", best.0) };
        let ids = encode(&text)?;
        if ids.len() <= tokens { best = (text, ids) } else { failed += 1 }
    }
    Ok(best)
}

fn lines(dir: &Path, name: &str, rows: impl IntoIterator<Item = serde_json::Value>) -> Result<()> {
    let text: String = rows.into_iter().map(|r| format!("{r}\n")).collect();
    std::fs::write(dir.join(name), text).with_context(|| format!("cannot write {name}"))
}

/// Rows of token ids, as [`prepare`] wrote them.
///
/// # Errors
/// If the file cannot be read.
pub fn read_ids(dir: &Path, name: &str) -> Result<Vec<Vec<u32>>> {
    let path = dir.join(name);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {} (`ours prepare` writes it)", path.display()))?;
    text.lines().map(|l| Ok(serde_json::from_str(l)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_has_the_lengths_that_are_promised() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), Size::S).unwrap();
        let prompts = read_ids(dir.path(), "prompts.ids.jsonl").unwrap();
        assert_eq!(prompts.len(), 96);
        assert!(prompts.iter().all(|p| p.len() == 8));
        let text = std::fs::read_to_string(dir.path().join("pairs.ids.jsonl")).unwrap();
        let lens: Vec<usize> = text
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
            .flat_map(|v| ["chosen_ids", "rejected_ids"].map(|k| v[k].as_array().unwrap().len()))
            .collect();
        assert_eq!(lens.len(), 768);
        assert!(lens.iter().all(|n| (20..=72).contains(n)), "{lens:?}");
        let mean = lens.iter().sum::<usize>() as f64 / 768.0;
        assert!((mean - 48.0).abs() < 2.0, "{mean}");
        assert!(read_ids(dir.path(), "rows.ids.jsonl").unwrap().iter().all(|r| r.len() == 72));
    }
}
