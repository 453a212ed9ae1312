//! The decoder, its gradient, AdamW and the tokenizer against numbers from Python transformers and torch.
//!
//! `fixtures/models/README.md` says what a golden holds and how it was made. The directories of the oracle
//! (`TETHER_ORACLE`) have the same layout and are tested where they are found. Log-probs and entropies are
//! in nats per token; the loss is the mean negative log-prob of the continuation's tokens.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests: a panic is the report")]

mod common;
#[path = "common/nll.rs"]
mod nll;
#[path = "common/train.rs"]
mod train;

use common::{Golden, GoldenRow, dirs};
use nll::MeanNll;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tetherline_models::optim::{AdamW, AdamWConfig, clip_factor, grad_norm};
use tetherline_models::{Engine, Heads, Model, ModelFiles, Row, Tokenizer};
use train::{ids, json};

const LM: Heads = Heads { lm: true, scalar: false };
const SCALAR: Heads = Heads { lm: false, scalar: true };
const ORACLE_LLAMA: [&str; 5] = [
    "tiny-random-llama-untied",
    "tiny-random-llama-tied",
    "tiny-random-llama-llama3rope",
    "tiny-random-llama-bf16",
    "tiny-random-llama-sharded",
];

/// Every language model with the full set of goldens.
fn language_models() -> Vec<PathBuf> {
    dirs(&["tiny-llama", "tiny-gpt2"], &[&ORACLE_LLAMA[..], &["tiny-random-gpt2"]].concat())
}

fn load(dir: &Path, heads: Heads) -> Model {
    Model::load(&ModelFiles::dir(dir).unwrap(), heads, 0).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn logits_and_hidden_states() {
    let engine = Engine::new(1);
    let mut models = language_models();
    models.extend(dirs(&[], &["stories260k"]));
    for dir in models {
        let (golden, model) = (Golden::of(&dir), load(&dir, LM));
        let (dim, vocab) = (model.config().dim, model.config().vocab);
        let mut compared = 0;
        let mut compare = |name: &str, tokens: &[u32], at: usize| {
            let (hidden, logits) = model.hidden_and_logits(&engine, tokens).unwrap();
            let n = tokens.len();
            let expected = golden.f32(&format!("{name}.logits")).unwrap();
            golden.close(name, &logits, &expected[at * vocab..(at + n) * vocab], 1e-4);
            if let Some(expected) = golden.f32(&format!("{name}.last_hidden")) {
                golden.close(name, &hidden, &expected[at * dim..(at + n) * dim], 1e-4);
            }
            compared += 1;
        };
        for side in ["right", "left"] {
            for row in golden.rows(side) {
                compare(side, &row.tokens, row.at);
            }
        }
        if let Some(story) = golden.ints("greedy.ids") {
            compare("greedy", &story[0], 0);
        }
        assert!(compared >= 3, "{}: only {compared} rows", golden.dir);
    }
}

#[test]
fn log_probs_and_entropy_of_continuations() {
    let engine = Engine::new(2);
    for dir in language_models() {
        let (golden, model) = (Golden::of(&dir), load(&dir, LM));
        for side in ["right", "left"] {
            let rows = golden.rows(side);
            let batch: Vec<Row<'_>> = rows.iter().map(GoldenRow::lm).collect();
            for (temperature, name) in [(1.0, "cont_logprobs_t1.0"), (0.7, "cont_logprobs_t0.7")] {
                let out = model.forward(&engine, &batch, temperature).unwrap();
                let check = |name: &str, of: &dyn Fn(usize) -> Vec<f32>| {
                    let Some(expected) = golden.f32(&format!("{side}.{name}")) else {
                        assert!(rows.is_empty(), "{}: {side}.{name} is missing", golden.dir);
                        return;
                    };
                    for (i, row) in rows.iter().enumerate() {
                        let found = of(i);
                        assert!(row.scored.contains(&true) && found.len() == row.scored.len());
                        for j in (0..found.len()).filter(|&j| row.scored[j]) {
                            golden.close(name, &found[j..=j], &[expected[row.at_next + j]], 1e-4);
                        }
                    }
                };
                check(name, &|i| out[i].logprobs.clone());
                if temperature == 1.0 {
                    check("cont_entropy", &|i| out[i].entropy.clone());
                }
            }
        }
    }
}

#[test]
fn reward_scores() {
    let engine = Engine::new(1);
    for dir in dirs(&["tiny-llama-reward"], &["tiny-random-rm-llama", "tiny-random-rm-gpt2"]) {
        let (golden, model) = (Golden::of(&dir), load(&dir, SCALAR));
        for side in ["right", "left"] {
            for (i, row) in golden.rows(side).iter().enumerate() {
                let n = row.tokens.len();
                let score = |scalar| {
                    let row = Row { tokens: &row.tokens, lm: 0..0, scalar };
                    model.forward(&engine, &[row], 1.0).unwrap().remove(0).scalars
                };
                let expected = golden.f32(&format!("{side}.scores")).unwrap();
                golden.close("scores", &score(n - 1..n), &expected[i..=i], 1e-4);
                let expected = golden.f32(&format!("{side}.token_scores")).unwrap();
                golden.close("token_scores", &score(0..n), &expected[row.at..row.at + n], 1e-4);
            }
        }
        assert_eq!(golden.rows("right").len(), 3);
    }
}

/// Loss and gradient on the right-padded batch.
fn loss_and_grad(model: &Model, engine: &Engine, rows: &[GoldenRow]) -> (f64, Vec<f32>) {
    let units: Vec<Vec<Row<'_>>> = rows.iter().map(|r| vec![r.lm()]).collect();
    let count = rows.iter().flat_map(|r| &r.scored).filter(|s| **s).count() as f32;
    let mut grad = vec![0.0; model.n_params()];
    let losses = model.step(engine, &units, 1.0, &MeanNll { rows, count }, &mut grad).unwrap();
    (losses.iter().sum(), grad)
}

fn relative(what: &str, found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("{what}: the golden has no number"));
    assert!((found - expected).abs() <= tolerance * expected.abs(), "{what} is {found}, expected {expected}");
}

/// Language models whose loss and gradient can be repeated. The oracle recorded those of its GPT-2 in
/// training mode, with dropout 0.1: that loss is 8.39, the one of its own log-probs 8.08.
fn trained() -> Vec<PathBuf> {
    language_models().into_iter().filter(|d| !d.ends_with("tiny-random-gpt2")).collect()
}

#[test]
fn loss_and_gradient_of_every_parameter() {
    let engine = Engine::new(2);
    for dir in trained() {
        let (golden, train, mut model) = (Golden::of(&dir), json(&dir), load(&dir, LM));
        model.make_trainable();
        let (loss, grad) = loss_and_grad(&model, &engine, &golden.rows("right"));
        relative(&format!("{}: loss", golden.dir), loss, &train["adamw"]["trace"][0]["loss"], 1e-5);

        let norms = train["grad_norms"].as_object().unwrap();
        let (ours, theirs): (BTreeSet<&str>, BTreeSet<&str>) = (
            model.slots().iter().map(|s| s.name.as_str()).collect(),
            norms.keys().map(String::as_str).collect(),
        );
        assert_eq!(ours, theirs, "{}: parameters", golden.dir);
        let full = Golden::open(&dir, "golden_grads.safetensors");
        if let Some(full) = &full {
            assert_eq!(full.names(), ours.iter().map(|n| (*n).to_owned()).collect(), "{}", golden.dir);
        }
        for slot in model.slots() {
            let found = &grad[slot.range()];
            assert!(found.iter().any(|g| *g != 0.0), "{}: {} has no gradient", golden.dir, slot.name);
            let what = format!("{}: gradient norm of {}", golden.dir, slot.name);
            relative(&what, grad_norm(found, 1), &norms[&slot.name], 1e-4);
            if let Some(full) = &full {
                let expected = full.f32(&slot.name).unwrap();
                let largest = expected.iter().fold(0.0_f32, |m, g| m.max(g.abs()));
                full.close(&slot.name, found, &expected, 1e-4 * largest);
            }
        }
    }
}

#[test]
fn five_steps_of_adamw() {
    let engine = Engine::new(2);
    for dir in trained() {
        let (golden, mut model) = (Golden::of(&dir), load(&dir, LM));
        let adamw = &json(&dir)["adamw"];
        let number = |v: &Value| v.as_f64().unwrap();
        let config = AdamWConfig {
            beta1: number(&adamw["betas"][0]),
            beta2: number(&adamw["betas"][1]),
            eps: number(&adamw["eps"]),
            weight_decay: number(&adamw["weight_decay"]),
        };
        model.make_trainable();
        let rows = golden.rows("right");
        let mut optimizer = AdamW::new(model.n_params(), config);
        let trace = adamw["trace"].as_array().unwrap();
        assert_eq!(trace.len(), 5);
        for (i, expected) in trace.iter().enumerate() {
            let (loss, grad) = loss_and_grad(&model, &engine, &rows);
            let norm = grad_norm(&grad, 2);
            let factor = clip_factor(norm, number(&adamw["clip_grad_norm"]));
            relative(&format!("{}: loss at step {i}", golden.dir), loss, &expected["loss"], 1e-4);
            relative(
                &format!("{}: gradient norm at step {i}", golden.dir),
                norm,
                &expected["grad_norm"],
                1e-4,
            );
            model.update(&engine, |params| optimizer.step(params, &grad, factor, number(&adamw["lr"]), 1));
        }
        for (name, expected) in adamw["param_norm_after_5"].as_object().unwrap() {
            // A bias on every key moves no attention weight, so its gradient is rounding noise (1e-8), which
            // AdamW scales up to whole steps. GPT-2 keeps it in one tensor with the other two biases.
            if name.ends_with("c_attn.bias") {
                continue;
            }
            let what = format!("{}: norm of {name} after the steps", golden.dir);
            relative(&what, grad_norm(model.tensor(name).unwrap(), 1), expected, 1e-4);
        }
    }
}

/// Greedy tokens after `prompt`, one per step of the cached decoder; `banned` ids are never taken.
fn greedy(model: &Model, engine: &Engine, prompt: &[u32], new: usize, banned: &[u32]) -> Vec<u32> {
    let mut batch = model.decode_batch(engine, prompt.len() + new).unwrap();
    let (last, before) = prompt.split_last().unwrap();
    batch.push(before).unwrap();
    let mut next = *last;
    let mut out = Vec::new();
    for _ in 0..new {
        let logits = batch.step(&[next]).unwrap().logits;
        banned.iter().for_each(|&id| logits[id as usize] = f32::NEG_INFINITY);
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        next = u32::try_from(best).unwrap();
        out.push(next);
    }
    out
}

#[test]
fn greedy_continuations_token_by_token() {
    let engine = Engine::new(1);
    for dir in dirs(&["tiny-llama", "tiny-gpt2"], &[]) {
        let (golden, train, model) = (Golden::of(&dir), json(&dir), load(&dir, LM));
        let (prompt, new) = (ids(&train["greedy"]["prompt_ids"]), ids(&train["greedy"]["new_ids"]));
        assert_eq!(golden.ints("greedy.sequence").unwrap()[0], [&prompt[..], &new].concat());
        assert_eq!(greedy(&model, &engine, &prompt, new.len(), &[]), new, "{}", golden.dir);
    }
    // Left-padded prompts; 16 new tokens, of which none may be the end of the sequence.
    for dir in dirs(&[], &[&ORACLE_LLAMA[..], &["tiny-random-gpt2"]].concat()) {
        let (golden, model) = (Golden::of(&dir), load(&dir, LM));
        let masks = golden.ints("greedy.prompt_mask").unwrap();
        for (sequence, mask) in golden.ints("greedy.sequences").unwrap().iter().zip(&masks) {
            let start = mask.iter().position(|&m| m == 1).unwrap();
            let (prompt, new) = (&sequence[start..mask.len()], &sequence[mask.len()..]);
            assert_eq!(
                greedy(&model, &engine, prompt, new.len(), &model.config().eos),
                new,
                "{}",
                golden.dir
            );
        }
    }
    for dir in dirs(&[], &["stories260k"]) {
        let (golden, model) = (Golden::of(&dir), load(&dir, LM));
        let story = golden.ints("greedy.ids").unwrap().remove(0);
        let (prompt, rest) = story.split_at(5);
        assert_eq!(greedy(&model, &engine, prompt, rest.len(), &[]), rest);
    }
}

#[test]
fn tokenizers() {
    let check = |dir: &Path, texts: &Value, bare: &str, decoded: &str| {
        let tokenizer = Tokenizer::load(&ModelFiles::dir(dir).unwrap(), &[]).unwrap();
        let texts = texts.as_array().unwrap();
        for entry in texts {
            let text = entry["text"].as_str().unwrap();
            let expected = ids(&entry["ids"]);
            assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{text:?}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&entry[bare]), "{text:?}");
            // The fixtures decode the ids without specials as they are, the oracle skips the specials.
            let found = if decoded == "decoded" {
                tokenizer.decode(&ids(&entry[bare]), false)
            } else {
                tokenizer.decode(&expected, true)
            };
            assert_eq!(found.unwrap(), entry[decoded].as_str().unwrap(), "{text:?}");
        }
        texts.len()
    };
    for dir in dirs(&["tiny-llama", "tiny-gpt2"], &[]) {
        let n = check(&dir, &json(&dir)["tokenizer"]["texts"], "ids_without_specials", "decoded");
        assert!(n >= 3, "only {n} texts");
    }
    for dir in dirs(&[], &["stories260k"]) {
        let bytes = std::fs::read(dir.join("golden_tokenizer.json")).unwrap();
        let golden: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(check(&dir, &golden["texts"], "ids_no_special", "decoded_skip_special"), 300);
    }
}
