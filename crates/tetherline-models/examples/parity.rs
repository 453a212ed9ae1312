//! How far every architecture of the fixtures is from Python transformers, and what it saves, for Python to read.
//!
//! ```sh
//! cargo run --release -p tetherline-models --example parity -- OUT
//! python fixtures/scripts/check_architectures.py OUT
//! ```
//!
//! For each model it writes `OUT/NAME/parity.json` (largest differences to the goldens of transformers) and saves the
//! model as f32, as bf16 and as shards (`OUT/NAME/f32`, `bf16`, `sharded`), each with `ours.json`: the logits or scores
//! computed here from what was saved. The script beside loads the directories with transformers and compares.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a chore for the terminal: a panic is the report"
)]

#[expect(dead_code, clippy::print_stderr, reason = "shared with the tests, which use all of it")]
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/nll.rs"]
mod nll;

use common::{Golden, GoldenRow, fixtures};
use nll::MeanNll;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tetherline_models::{Engine, Heads, Model, ModelFiles, Row, SaveOptions, SaveType};

const LM: Heads = Heads { lm: true, scalar: false };
const SCALAR: Heads = Heads { lm: false, scalar: true };

/// Small enough that the tiny models have several shards.
const SHARD: u64 = 8_000;

fn main() {
    let out = PathBuf::from(std::env::args().nth(1).expect("usage: parity OUT"));
    let all = std::fs::read_dir(fixtures().join("architectures")).unwrap();
    let mut dirs: Vec<PathBuf> = all.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    let engine = Engine::new(1);
    for dir in dirs {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let heads = if name.ends_with("-reward") { SCALAR } else { LM };
        let model = load(&dir, heads);
        let golden = Golden::of(&dir);
        let target = out.join(&name);
        std::fs::create_dir_all(&target).unwrap();
        let mut found = json!({ "name": name, "architecture": model.config().arch.name() });
        found["forward"] = forward(&engine, &model, &golden).into();
        if heads.lm {
            found["gradient"] = gradient(&engine, &dir, &golden).into();
            found["decode"] = decode(&engine, &model, &golden).into();
        }
        if let Some(bf16) = golden.f32("bf16.logits") {
            found["bf16"] = against_bf16(&engine, &model, &golden, &bf16).into();
        }
        std::fs::write(target.join("parity.json"), format!("{found:#}\n")).unwrap();
        println!("{found}");
        for (kind, dtype, max_shard_bytes) in [
            ("f32", SaveType::F32, SaveOptions::DEFAULT_SHARD),
            ("bf16", SaveType::Bf16, SaveOptions::DEFAULT_SHARD),
            ("sharded", SaveType::F32, SHARD),
        ] {
            let saved = target.join(kind);
            model.save(&saved, SaveOptions { dtype, max_shard_bytes }).unwrap();
            let rows = outputs(&engine, &load(&saved, heads), &dir);
            std::fs::write(saved.join("ours.json"), json!({ "rows": rows }).to_string()).unwrap();
        }
    }
}

fn load(dir: &Path, heads: Heads) -> Model {
    Model::load(&ModelFiles::dir(dir).unwrap(), heads, 0).unwrap()
}

fn largest(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    // A NaN is the largest difference.
    let apart =
        |(a, b): (&f32, &f32)| if (a - b).is_nan() { f64::INFINITY } else { f64::from((a - b).abs()) };
    found.iter().zip(expected).map(apart).fold(0.0, f64::max)
}

/// Scores at every token of a row.
fn token_scores(engine: &Engine, model: &Model, tokens: &[u32]) -> Vec<f32> {
    let row = Row { tokens, lm: 0..0, scalar: 0..tokens.len() };
    model.forward(engine, &[row], 1.0).unwrap().remove(0).scalars
}

/// Largest difference of a logit, a hidden state or a log-prob; of a score.
fn forward(engine: &Engine, model: &Model, golden: &Golden) -> f64 {
    let (dim, vocab) = (model.config().dim, model.config().vocab);
    let mut worst = 0.0f64;
    for row in golden.rows("right") {
        let n = row.tokens.len();
        let span = |width: usize| row.at * width..(row.at + n) * width;
        if model.heads().scalar {
            let want = golden.f32("right.token_scores").unwrap();
            worst = worst.max(largest(&token_scores(engine, model, &row.tokens), &want[span(1)]));
            continue;
        }
        let (h, z) = model.hidden_and_logits(engine, &row.tokens).unwrap();
        worst = worst.max(largest(&z, &golden.f32("right.logits").unwrap()[span(vocab)]));
        worst = worst.max(largest(&h, &golden.f32("right.last_hidden").unwrap()[span(dim)]));
        let out = model.forward(engine, &[row.lm()], 1.0).unwrap().remove(0);
        let want = golden.f32("right.cont_logprobs_t1.0").unwrap();
        for j in (0..row.scored.len()).filter(|&j| row.scored[j]) {
            worst = worst.max(largest(&out.logprobs[j..=j], &want[row.at_next + j..=row.at_next + j]));
        }
    }
    worst
}

/// Largest difference to the logits of transformers in bf16, as a share of the largest of them.
fn against_bf16(engine: &Engine, model: &Model, golden: &Golden, bf16: &[f32]) -> f64 {
    let vocab = model.config().vocab;
    let most = bf16.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let one = |row: GoldenRow| {
        let z = model.hidden_and_logits(engine, &row.tokens).unwrap().1;
        largest(&z, &bf16[row.at * vocab..(row.at + row.tokens.len()) * vocab]) / f64::from(most)
    };
    golden.rows("right").into_iter().map(one).fold(0.0, f64::max)
}

/// Largest |difference| / |expected| of a parameter's gradient, Euclidean norms. Gradients that are rounding noise (below
/// 1e-7 of the whole) do not count.
fn gradient(engine: &Engine, dir: &Path, golden: &Golden) -> f64 {
    let expected = Golden::open(dir, "golden_grads.safetensors").unwrap();
    let mut model = load(dir, LM);
    model.make_trainable();
    let rows = golden.rows("right");
    let count = rows.iter().flat_map(|r| &r.scored).filter(|s| **s).count() as f32;
    let units: Vec<Vec<Row<'_>>> = rows.iter().map(|r| vec![r.lm()]).collect();
    let mut grad = vec![0.0; model.n_params()];
    model.step(engine, &units, 1.0, &MeanNll { rows: &rows, count }, &mut grad).unwrap();
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let whole = norm(&mut grad.iter().copied());
    let mut worst = 0.0f64;
    for slot in model.slots() {
        let want = expected.f32(&slot.name).unwrap();
        let found = slot.to_file(&grad[slot.range()]);
        let size = norm(&mut want.iter().copied());
        if size > 1e-6 * whole {
            worst = worst.max(norm(&mut want.iter().zip(&*found).map(|(a, b)| a - b)) / size);
        }
    }
    worst
}

/// Largest difference of cached decoding, from the second token on, to the whole pass, as a share of the row's largest
/// logit.
fn decode(engine: &Engine, model: &Model, golden: &Golden) -> f64 {
    let vocab = model.config().vocab;
    let mut worst = 0.0f64;
    for row in golden.rows("right") {
        let whole = model.hidden_and_logits(engine, &row.tokens).unwrap().1;
        let mut batch = model.decode_batch(engine, row.tokens.len()).unwrap();
        batch.push(&row.tokens[..1]).unwrap();
        for i in 1..row.tokens.len() {
            let z = batch.step(&row.tokens[i..=i]).unwrap().logits;
            let want = &whole[i * vocab..(i + 1) * vocab];
            let most = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            worst = worst.max(largest(z, want) / f64::from(most));
        }
    }
    worst
}

/// Logits, or scores at every token, of the golden rows; also of those past the original context of LongRoPE.
fn outputs(engine: &Engine, model: &Model, dir: &Path) -> Vec<Value> {
    let files = ["golden.safetensors", "golden_long.safetensors"];
    let rows = files.iter().filter_map(|f| Golden::open(dir, f)).flat_map(|g| g.rows("right"));
    let one = |row: GoldenRow| {
        let numbers = match model.heads().scalar {
            true => token_scores(engine, model, &row.tokens),
            false => model.hidden_and_logits(engine, &row.tokens).unwrap().1,
        };
        json!({ "tokens": row.tokens, "numbers": numbers })
    };
    rows.map(one).collect()
}
