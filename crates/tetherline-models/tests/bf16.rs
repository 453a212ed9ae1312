//! Products in bf16 (`Precision::Bf16`) against the goldens that Python transformers made in f32.
//!
//! ```text
//! |found − golden|₂ / |golden|₂ ≤ 2e-2     of all logits, hidden states, log-probs or scores of a row,
//!                                 4e-2     where the CPU rounds activations too
//! ```
//!
//! bf16 has eight bits: every weight, and on CPUs that multiply bf16 every activation, that enters a product is rounded by up
//! to 0.2 %. Sums, norms, softmax and log-probs are f32. The goldens of the oracle (`TETHER_ORACLE`) are tested where they are found.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

#[expect(dead_code, clippy::print_stderr, reason = "shared with tests that use all of it")]
mod common;

use common::{Golden, fixtures};
use std::path::{Path, PathBuf};
use tetherline_models::{Engine, Heads, Model, ModelFiles, Precision, Row};

/// Every directory with a golden in f32, of the fixtures and of the oracle.
fn models() -> Vec<PathBuf> {
    let oracle = common::dirs(&[], &[""]);
    let own = [fixtures(), fixtures().join("architectures")];
    let all = own.iter().chain(&oracle).flat_map(|root| std::fs::read_dir(root).unwrap());
    let mut found: Vec<_> =
        all.map(|e| e.unwrap().path()).filter(|p| p.join("golden.safetensors").is_file()).collect();
    found.sort();
    found
}

/// |found − expected| / |expected|, Euclidean norms; a NaN stays one.
fn apart(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

fn load(dir: &Path) -> Model {
    let golden = Golden::of(dir);
    let scalar = golden.names().contains("right.token_scores");
    Model::load(&ModelFiles::dir(dir).unwrap(), Heads { lm: !scalar, scalar }, 0).unwrap()
}

/// What a row comes to, under the names that the golden has for it.
fn outputs(model: &Model, engine: &Engine, tokens: &[u32]) -> Vec<(&'static str, Vec<f32>)> {
    if model.heads().scalar {
        let row = Row { tokens, lm: 0..0, scalar: 0..tokens.len() };
        return vec![("token_scores", model.forward(engine, &[row], 1.0).unwrap().remove(0).scalars)];
    }
    let (hidden, logits) = model.hidden_and_logits(engine, tokens).unwrap();
    vec![("last_hidden", hidden), ("logits", logits)]
}

#[test]
fn rows_are_near_the_goldens() {
    let limit = if Precision::Bf16.rounds_both_sides() { 4e-2 } else { 2e-2 };
    let engine = Engine::new(1).with_precision(Precision::Bf16).unwrap();
    let mut compared = 0;
    let mut close = |of: &str, what: &str, found: &[f32], expected: &[f32]| {
        let apart = apart(found, expected);
        // Written so that a NaN fails; equal numbers would mean that nothing was rounded.
        assert!(0.0 < apart && apart <= limit, "{of}: {what} is {apart:.4} from the golden");
        compared += 1;
    };
    for dir in models() {
        let (golden, model) = (Golden::of(&dir), load(&dir));
        for (side, row) in
            ["right", "left"].into_iter().flat_map(|s| golden.rows(s).into_iter().map(move |r| (s, r)))
        {
            for (what, found) in outputs(&model, &engine, &row.tokens) {
                let Some(all) = golden.f32(&format!("{side}.{what}")) else { continue };
                let at = row.at * found.len() / row.tokens.len();
                close(&golden.dir, what, &found, &all[at..at + found.len()]);
            }
            let Some(all) = golden.f32(&format!("{side}.cont_logprobs_t1.0")) else { continue };
            let out = model.forward(&engine, &[row.lm()], 1.0).unwrap().remove(0).logprobs;
            let scored = || (0..out.len()).filter(|&j| row.scored[j]);
            let expected: Vec<f32> = scored().map(|j| all[row.at_next + j]).collect();
            if !expected.is_empty() {
                close(&golden.dir, "logprobs", &scored().map(|j| out[j]).collect::<Vec<_>>(), &expected);
            }
        }
    }
    assert!(compared > 300, "only {compared} rows");
}
