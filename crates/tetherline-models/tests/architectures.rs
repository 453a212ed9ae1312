//! Every architecture against Python transformers: hidden states, logits, log-probs, scores, gradients, and the same
//! numbers from cached decoding and from `config.json` in its older spelling.
//!
//! `fixtures/models/README.md` says how the goldens were made. With the feature `graph` the candle graph is held to
//! them too.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests: a panic is the report")]

mod common;
#[path = "common/nll.rs"]
mod nll;

use common::{Golden, GoldenRow, dirs, fixtures};
use nll::MeanNll;
use std::path::{Path, PathBuf};
use tetherline_models::{Engine, Heads, Model, ModelFiles, Row};

const LM: Heads = Heads { lm: true, scalar: false };
const SCALAR: Heads = Heads { lm: false, scalar: true };

const ORACLE: [&str; 8] = [
    "tiny-random-mistral",
    "tiny-random-qwen2",
    "tiny-random-qwen3",
    "tiny-random-gpt-neox",
    "tiny-random-gemma2",
    "tiny-random-gemma3",
    "tiny-random-phi3",
    "tiny-random-llama-llama3rope",
];

/// The directories of this project's fixtures, sorted; classifiers or language models.
fn own(classifiers: bool) -> Vec<PathBuf> {
    let all = std::fs::read_dir(fixtures().join("architectures")).unwrap();
    let mut found: Vec<PathBuf> = all.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    found.retain(|p| p.to_string_lossy().ends_with("-reward") == classifiers);
    found.sort();
    found
}

fn language_models() -> Vec<PathBuf> {
    let mut all = own(false);
    assert!(all.len() >= 30, "{} architectures", all.len());
    all.extend(dirs(&[], &ORACLE));
    all
}

fn load(dir: &Path, heads: Heads) -> Model {
    Model::load(&ModelFiles::dir(dir).unwrap(), heads, 0).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn engines() -> Vec<Engine> {
    #[cfg(feature = "graph")]
    return vec![Engine::new(2), Engine::on(tetherline_models::Device::Graph, 1).unwrap()];
    #[cfg(not(feature = "graph"))]
    vec![Engine::new(2)]
}

#[test]
fn logits_hidden_states_and_log_probs() {
    for engine in engines() {
        for dir in language_models() {
            let (golden, model) = (Golden::of(&dir), load(&dir, LM));
            let (dim, vocab) = (model.config().dim, model.config().vocab);
            for side in ["right", "left"] {
                let rows = golden.rows(side);
                assert_eq!(rows.len(), 3, "{}", golden.dir);
                let logits = golden.f32(&format!("{side}.logits")).unwrap();
                let hidden = golden.f32(&format!("{side}.last_hidden")).unwrap();
                for row in &rows {
                    let (h, z) = model.hidden_and_logits(&engine, &row.tokens).unwrap();
                    let n = row.tokens.len();
                    golden.close("logits", &z, &logits[row.at * vocab..(row.at + n) * vocab], 1e-4);
                    golden.close("last_hidden", &h, &hidden[row.at * dim..(row.at + n) * dim], 1e-4);
                }
                let batch: Vec<Row<'_>> = rows.iter().map(GoldenRow::lm).collect();
                for (temperature, name) in [(1.0, "cont_logprobs_t1.0"), (0.7, "cont_logprobs_t0.7")] {
                    let out = model.forward(&engine, &batch, temperature).unwrap();
                    let logprobs = golden.f32(&format!("{side}.{name}")).unwrap();
                    let entropy = golden.f32(&format!("{side}.cont_entropy")).unwrap();
                    for (row, out) in rows.iter().zip(out) {
                        for j in (0..row.scored.len()).filter(|&j| row.scored[j]) {
                            let at = row.at_next + j;
                            golden.close(name, &out.logprobs[j..=j], &logprobs[at..=at], 1e-4);
                            if temperature == 1.0 {
                                golden.close("entropy", &out.entropy[j..=j], &entropy[at..=at], 1e-4);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn scores_of_classifiers() {
    let mut all = own(true);
    assert!(all.len() >= 8, "{} classifiers", all.len());
    all.extend(dirs(&[], &["tiny-random-rm-qwen2"]));
    for engine in engines() {
        for dir in &all {
            let (golden, model) = (Golden::of(dir), load(dir, SCALAR));
            let rows = golden.rows("right");
            let (last, each) =
                (golden.f32("right.scores").unwrap(), golden.f32("right.token_scores").unwrap());
            for (i, row) in rows.iter().enumerate() {
                let n = row.tokens.len();
                let all = Row { tokens: &row.tokens, lm: 0..0, scalar: 0..n };
                let found = model.forward(&engine, &[all], 1.0).unwrap().remove(0).scalars;
                golden.close("token_scores", &found, &each[row.at..row.at + n], 1e-4);
                golden.close("scores", &found[n - 1..], &last[i..=i], 1e-4);
            }
        }
    }
}

#[test]
fn gradients_of_every_parameter() {
    for engine in engines() {
        for dir in own(false) {
            let golden = Golden::of(&dir);
            let expected = Golden::open(&dir, "golden_grads.safetensors").unwrap();
            let mut model = load(&dir, LM);
            model.make_trainable();
            let rows = golden.rows("right");
            let count = rows.iter().flat_map(|r| &r.scored).filter(|s| **s).count() as f32;
            let units: Vec<Vec<Row<'_>>> = rows.iter().map(|r| vec![r.lm()]).collect();
            let mut grad = vec![0.0; model.n_params()];
            model.step(&engine, &units, 1.0, &MeanNll { rows: &rows, count }, &mut grad).unwrap();
            let mut names = expected.names();
            // A bias on every key that is not rotated moves no attention weight: its gradient is rounding noise.
            let noise = 1e-7 * grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            for slot in model.slots() {
                assert!(names.remove(&slot.name), "{}: no golden for {}", golden.dir, slot.name);
                let want = expected.f32(&slot.name).unwrap();
                let found = slot.to_file(&grad[slot.range()]);
                let square = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
                let norm = square(&mut want.iter().map(|x| f64::from(*x)));
                let off = square(&mut want.iter().zip(&*found).map(|(a, b)| f64::from(a - b)));
                assert!(
                    off <= 1e-4 * norm + noise,
                    "{}: gradient of {} is off by {off:e} of {norm:e}",
                    golden.dir,
                    slot.name
                );
            }
            assert!(names.is_empty(), "{}: goldens of {names:?}", golden.dir);
        }
    }
}

#[test]
fn cached_decoding_agrees_with_the_whole_pass_and_continues_greedily() {
    for engine in engines() {
        for dir in language_models() {
            let (golden, model) = (Golden::of(&dir), load(&dir, LM));
            let vocab = model.config().vocab;
            let seqs: Vec<Vec<u32>> = golden.rows("right").into_iter().map(|r| r.tokens).collect();
            let whole: Vec<Vec<f32>> =
                seqs.iter().map(|t| model.hidden_and_logits(&engine, t).unwrap().1).collect();
            // Prompts of none, some and most of the tokens, in one batch.
            let mut batch = model.decode_batch(&engine, 16).unwrap();
            let mut at: Vec<usize> = seqs.iter().enumerate().map(|(i, t)| i * (t.len() - 1) / 2).collect();
            for (t, &n) in seqs.iter().zip(&at) {
                batch.push(&t[..n]).unwrap();
            }
            while at.iter().zip(&seqs).all(|(a, t)| *a < t.len()) {
                let tokens: Vec<u32> = seqs.iter().zip(&at).map(|(t, a)| t[*a]).collect();
                let out = batch.step(&tokens).unwrap();
                for (r, z) in out.logits.chunks_exact(vocab).enumerate() {
                    let want = &whole[r][at[r] * vocab..(at[r] + 1) * vocab];
                    let most = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    golden.close("cached logits", z, want, 1e-5 * most);
                }
                at.iter_mut().for_each(|a| *a += 1);
            }
            let Some(sequence) = golden.ints("greedy.sequence").map(|mut s| s.remove(0)) else { continue };
            let prompt = golden.ints("prompt_lens").unwrap()[0][0] as usize;
            let mut batch = model.decode_batch(&engine, sequence.len()).unwrap();
            batch.push(&sequence[..prompt - 1]).unwrap();
            for i in prompt - 1..sequence.len() - 1 {
                let out = batch.step(&sequence[i..=i]).unwrap();
                let best = out.logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
                assert_eq!(best as u32, sequence[i + 1], "{}: greedy token {i}", golden.dir);
            }
        }
    }
}

#[test]
fn older_spellings_are_the_same_model() {
    let mut compared = 0;
    for dir in language_models().into_iter().chain(own(true)) {
        let Ok(old) = std::fs::read(dir.join("config.legacy.json")) else { continue };
        let heads = if dir.to_string_lossy().ends_with("-reward") { SCALAR } else { LM };
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("config.json"), old).unwrap();
        std::fs::copy(dir.join("model.safetensors"), temp.path().join("model.safetensors")).unwrap();
        let (a, b) = (load(&dir, heads), load(temp.path(), heads));
        let engine = Engine::new(1);
        for row in Golden::of(&dir).rows("right") {
            let of = |m: &Model| m.hidden_and_logits(&engine, &row.tokens).unwrap();
            assert_eq!(of(&a), of(&b), "{}", dir.display());
        }
        compared += 1;
    }
    assert!(compared >= 10, "{compared} older spellings");
}

#[test]
fn sequences_past_the_original_context_of_longrope() {
    let mut compared = 0;
    for dir in own(false) {
        let Some(golden) = Golden::open(&dir, "golden_long.safetensors") else { continue };
        let (model, engine) = (load(&dir, LM), Engine::new(1));
        let vocab = model.config().vocab;
        let logits = golden.f32("right.logits").unwrap();
        for row in golden.rows("right") {
            let (_, z) = model.hidden_and_logits(&engine, &row.tokens).unwrap();
            let n = row.tokens.len();
            golden.close("logits", &z, &logits[row.at * vocab..(row.at + n) * vocab], 1e-4);
            compared += 1;
        }
        // Cached keys cannot follow the change of frequencies.
        let refused = model.decode_batch(&engine, model.context()).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("LongRoPE"), "{refused}");
    }
    assert!(compared >= 2, "{compared} long sequences");
}

#[test]
fn what_is_saved_has_the_names_and_numbers_that_were_read() {
    use tetherline_models::SaveType;
    for dir in language_models().into_iter().chain(own(true)) {
        let heads = if dir.to_string_lossy().contains("-reward") { SCALAR } else { LM };
        let temp = tempfile::tempdir().unwrap();
        load(&dir, heads).save(temp.path(), SaveType::F32).unwrap();
        let (before, after) = (
            Golden::open(&dir, "model.safetensors"),
            Golden::open(temp.path(), "model.safetensors").unwrap(),
        );
        // Not of sharded or bf16 files, whose bytes differ.
        let Some(before) = before.filter(|_| !dir.to_string_lossy().ends_with("-bf16")) else { continue };
        assert_eq!(before.names(), after.names(), "{}", dir.display());
        for name in after.names() {
            assert_eq!(before.f32(&name), after.f32(&name), "{}: {name}", dir.display());
        }
    }
}
