//! The candle graph against numbers from Python transformers and torch, and against the CPU kernels.
//!
//! The two implementations share the description of the decoder and the parameters, and no arithmetic. So a
//! test here that fails where `goldens.rs` passes means the graph, and the other way round the kernels.
#![cfg(feature = "graph")]
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests: a panic is the report")]

mod common;
#[path = "common/train.rs"]
mod train;

use candle_core::Tensor;
use common::{Golden, GoldenRow, dirs, fixtures};
use std::path::{Path, PathBuf};
use tetherline_models::{
    CandleLoss, CandleRow, Device, Engine, Heads, Model, ModelError, ModelFiles, Row, RowGrad, RowOutput,
    SaveType, UnitLoss,
};
use train::{ids, json};

const LM: Heads = Heads { lm: true, scalar: false };
const SCALAR: Heads = Heads { lm: false, scalar: true };
const BOTH: Heads = Heads { lm: true, scalar: true };

fn graph() -> Engine {
    Engine::on(Device::Graph, 1).unwrap()
}

fn load(dir: &Path, heads: Heads) -> Model {
    let mut model = Model::load(&ModelFiles::dir(dir).unwrap(), heads, 3).unwrap_or_else(|e| panic!("{e}"));
    model.make_trainable();
    model
}

/// Grouped keys, tied and untied heads, Llama-3 rotary scaling, GPT-2.
fn language_models() -> Vec<PathBuf> {
    let oracle = ["tiny-random-llama-untied", "tiny-random-llama-llama3rope", "tiny-random-gpt2"];
    dirs(&["tiny-llama", "tiny-gpt2"], &oracle)
}

#[track_caller]
fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "length of {what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        // Written so that a NaN fails.
        assert!((a - b).abs() <= tolerance, "{what}[{i}] is {a}, expected {b}");
    }
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, g| m.max(g.abs()))
}

/// Ragged rows of made-up tokens; some ask for everything, one for nothing, one has a single token.
fn ragged(vocab: usize) -> Vec<Vec<u32>> {
    [9, 1, 4, 13, 2, 6]
        .iter()
        .enumerate()
        .map(|(r, &n)| (0..n).map(|i| ((r * 31 + i * 17 + 5) % vocab) as u32).collect())
        .collect()
}

fn rows(tokens: &[Vec<u32>]) -> Vec<Row<'_>> {
    let wanted = |i: usize, n: usize| match i {
        2 => (0..0, 0..0),
        _ => ((n - 1) / 3..n - 1, n / 2..n),
    };
    let row = |(i, t)| {
        let (lm, scalar) = wanted(i, Vec::len(t));
        Row { tokens: t, lm, scalar }
    };
    tokens.iter().enumerate().map(row).collect()
}

#[test]
fn logits_and_hidden_states_are_those_of_transformers() {
    let engine = graph();
    for dir in language_models() {
        let (golden, model) = (Golden::of(&dir), load(&dir, LM));
        let (dim, vocab) = (model.config().dim, model.config().vocab);
        let rows = golden.rows("right");
        assert!(rows.len() >= 3);
        for row in &rows {
            let n = row.tokens.len();
            let (hidden, logits) = model.hidden_and_logits(&engine, &row.tokens).unwrap();
            let expected = golden.f32("right.logits").unwrap();
            golden.close("logits", &logits, &expected[row.at * vocab..(row.at + n) * vocab], 1e-4);
            if let Some(expected) = golden.f32("right.last_hidden") {
                golden.close("hidden", &hidden, &expected[row.at * dim..(row.at + n) * dim], 1e-4);
            }
        }
    }
}

#[test]
fn log_probs_and_entropy_are_those_of_transformers() {
    let engine = graph();
    for dir in language_models() {
        let (golden, model) = (Golden::of(&dir), load(&dir, LM));
        let rows = golden.rows("right");
        // All rows in one padded batch.
        let batch: Vec<Row<'_>> = rows.iter().map(GoldenRow::lm).collect();
        for (temperature, name) in [(1.0, "cont_logprobs_t1.0"), (0.7, "cont_logprobs_t0.7")] {
            let out = model.forward(&engine, &batch, temperature).unwrap();
            let logprobs = golden.f32(&format!("right.{name}")).unwrap();
            let entropy = golden.f32("right.cont_entropy").unwrap();
            for (row, out) in rows.iter().zip(&out) {
                assert!(row.scored.contains(&true) && out.logprobs.len() == row.scored.len());
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

#[test]
fn reward_scores_are_those_of_transformers() {
    let engine = graph();
    for dir in dirs(&["tiny-llama-reward"], &["tiny-random-rm-llama", "tiny-random-rm-gpt2"]) {
        let (golden, model) = (Golden::of(&dir), load(&dir, SCALAR));
        let rows = golden.rows("right");
        let whole = |r: &'_ GoldenRow| 0..r.tokens.len();
        let batch: Vec<Row<'_>> =
            rows.iter().map(|r| Row { tokens: &r.tokens, lm: 0..0, scalar: whole(r) }).collect();
        let out = model.forward(&engine, &batch, 1.0).unwrap();
        let expected = golden.f32("right.token_scores").unwrap();
        for (row, out) in rows.iter().zip(&out) {
            golden.close("scores", &out.scalars, &expected[row.at..row.at + row.tokens.len()], 1e-4);
        }
        assert_eq!(rows.len(), 3);
    }
}

/// Mean negative log-prob over the continuation's tokens.
struct MeanNll<'a> {
    rows: &'a [GoldenRow],
    count: f32,
}

impl UnitLoss for MeanNll<'_> {
    type Stats = usize;

    fn unit(&self, unit: usize, _: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> usize {
        for (j, _) in self.rows[unit].scored.iter().enumerate().filter(|(_, s)| **s) {
            grads[0].logprobs[j] = -1.0 / self.count;
        }
        unit
    }
}

#[test]
fn every_gradient_is_that_of_torch() {
    let engine = graph();
    let mut compared = 0;
    for dir in language_models() {
        // The oracle recorded those of its GPT-2 in training mode, with dropout.
        let Some(full) = Golden::open(&dir, "golden_grads.safetensors") else { continue };
        if dir.ends_with("tiny-random-gpt2") {
            continue;
        }
        let (rows, model) = (Golden::of(&dir).rows("right"), load(&dir, LM));
        let units: Vec<Vec<Row<'_>>> = rows.iter().map(|r| vec![r.lm()]).collect();
        let count = rows.iter().flat_map(|r| &r.scored).filter(|s| **s).count() as f32;
        let mut grad = vec![0.0; model.n_params()];
        let stats = model.step(&engine, &units, 1.0, &MeanNll { rows: &rows, count }, &mut grad).unwrap();
        // Statistics come in the order of the units, however rows are grouped.
        assert_eq!(stats, (0..rows.len()).collect::<Vec<_>>());
        assert_eq!(full.names(), model.slots().iter().map(|s| s.name.clone()).collect());
        for slot in model.slots() {
            let expected = full.f32(&slot.name).unwrap();
            full.close(&slot.name, &grad[slot.range()], &expected, 1e-4 * largest(&expected));
        }
        compared += 1;
    }
    assert!(compared >= 2);
}

/// A gradient for every output, as PPO with an entropy bonus and a shared value head has: odd numbers that
/// depend on unit, row and token. The statistic is Σ output·g.
struct Everything;

impl UnitLoss for Everything {
    type Stats = f64;

    fn unit(&self, unit: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> f64 {
        let mut sum = 0.0;
        let mut fill = |out: &[f32], g: &mut [f32], row: usize, kind: usize| {
            for (i, (o, g)) in out.iter().zip(g).enumerate() {
                *g = ((unit * 37 + row * 11 + i * 5 + kind * 3) as f32 * 0.77).sin();
                sum += f64::from(*o) * f64::from(*g);
            }
        };
        for (r, (out, grad)) in rows.iter().zip(grads).enumerate() {
            fill(out.logprobs, grad.logprobs, r, 0);
            fill(out.entropy, grad.entropy, r, 1);
            fill(out.scalars, grad.scalars, r, 2);
        }
        sum
    }
}

/// Every parameter's gradient of both engines, relative to the largest of its tensor.
fn same_gradients(model: &Model, units: &[Vec<Row<'_>>], temperature: f32) {
    let step = |engine: &Engine| {
        // The gradient is added to what is there.
        let mut grad = vec![0.25; model.n_params()];
        let stats = model.step(engine, units, temperature, &Everything, &mut grad).unwrap();
        (stats, grad)
    };
    let ((a, kernels), (b, graph)) = (step(&Engine::new(2)), step(&graph()));
    assert_eq!(a.len(), units.len());
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 1e-3, "statistics {a} and {b}");
    }
    for slot in model.slots() {
        let of = |g: &[f32]| g[slot.range()].iter().map(|g| g - 0.25).collect::<Vec<_>>();
        let (kernels, graph) = (of(&kernels), of(&graph));
        // Rounding of a number next to 0.25 is 1.5e-8.
        close(&slot.name, &graph, &kernels, (1e-4 * largest(&kernels)).max(2e-6));
        assert!(largest(&kernels) > 0.0, "{}", slot.name);
    }
}

/// PPO with a clipped ratio, a squared value error and an entropy bonus, by hand: old log-prob −4, advantages of alternating sign.
struct ByHand;

fn advantage(i: usize) -> f32 {
    if i.is_multiple_of(2) { 1.5 } else { -0.5 }
}

impl UnitLoss for ByHand {
    type Stats = f64;

    fn unit(&self, _: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> f64 {
        let mut loss = 0.0;
        for (row, grad) in rows.iter().zip(grads) {
            for (i, logprob) in row.logprobs.iter().enumerate() {
                let (ratio, a) = ((logprob + 4.0).exp(), advantage(i));
                let clipped = ratio.clamp(0.8, 1.2);
                loss -= f64::from((ratio * a).min(clipped * a)) + 0.01 * f64::from(row.entropy[i]);
                grad.logprobs[i] = if ratio * a <= clipped * a { -a * ratio } else { 0.0 };
                grad.entropy[i] = -0.01;
            }
            for (value, g) in row.scalars.iter().zip(grad.scalars.iter_mut()) {
                loss += 0.5 * f64::from((value - 2.0).powi(2));
                *g = value - 2.0;
            }
        }
        loss
    }
}

fn ppo(_: usize, rows: &[CandleRow]) -> candle_core::Result<Tensor> {
    let mut loss = Tensor::zeros((), candle_core::DType::F32, &candle_core::Device::Cpu)?;
    for row in rows {
        let n = row.logprobs.dim(0)?;
        let a = Tensor::from_vec((0..n).map(advantage).collect(), n, row.logprobs.device())?;
        let ratio = (&row.logprobs + 4.0)?.exp()?;
        let surrogate = (&ratio * &a)?.minimum(&(ratio.clamp(0.8f32, 1.2f32)? * &a)?)?;
        let values = ((&row.scalars - 2.0)?.sqr()? * 0.5)?;
        loss = (((loss - surrogate.sum_all()?)? - (row.entropy.sum_all()? * 0.01)?)? + values.sum_all()?)?;
    }
    Ok(loss)
}

#[test]
fn a_loss_may_be_a_candle_expression() {
    let model = load(&fixtures().join("tiny-llama"), BOTH);
    let tokens = ragged(model.config().vocab);
    let units: Vec<Vec<Row<'_>>> = rows(&tokens).chunks(2).map(<[Row<'_>]>::to_vec).collect();
    for engine in [Engine::new(2), graph()] {
        let (mut by_hand, mut by_candle) = (Vec::new(), Vec::new());
        let expected = model.step(&engine, &units, 0.7, &ByHand, &mut by_hand).unwrap();
        let found = model.step(&engine, &units, 0.7, &CandleLoss::new(ppo), &mut by_candle).unwrap();
        assert_eq!(found.len(), 3);
        for (found, expected) in found.into_iter().zip(expected) {
            let found = found.unwrap();
            assert!((found - expected).abs() < 1e-5 * expected.abs(), "{found} {expected}");
        }
        close("gradient", &by_candle, &by_hand, 1e-5 * largest(&by_hand));
        // What candle cannot compute is said, unit by unit, and adds nothing.
        let wrong = CandleLoss::new(|_, rows: &[CandleRow]| rows[0].logprobs.reshape((1000, 7)));
        let several = CandleLoss::new(|_, rows: &[CandleRow]| Ok(rows[0].logprobs.clone()));
        let mut grad = Vec::new();
        let failed = model.step(&engine, &units, 0.7, &wrong, &mut grad).unwrap();
        assert!(failed.iter().all(Result::is_err) && grad.iter().all(|g| *g == 0.0));
        assert!(model.step(&engine, &units[..1], 0.7, &several, &mut grad).unwrap()[0].is_err());
        assert!(grad.iter().all(|g| *g == 0.0));
    }
}

#[test]
fn outputs_and_gradients_are_those_of_the_kernels() {
    for dir in language_models() {
        let model = load(&dir, BOTH);
        let tokens = ragged(model.config().vocab);
        let rows = rows(&tokens);
        let a = model.forward(&Engine::new(2), &rows, 0.7).unwrap();
        let b = model.forward(&graph(), &rows, 0.7).unwrap();
        for (a, b) in a.iter().zip(&b) {
            close("log-probs", &b.logprobs, &a.logprobs, 1e-4);
            close("entropy", &b.entropy, &a.entropy, 1e-4);
            close("scalars", &b.scalars, &a.scalars, 1e-4);
        }
        assert_eq!((a.len(), a[0].logprobs.len(), a[2].scalars.len()), (6, 6, 0));
        // One row per unit, two rows per unit, and a unit without rows.
        same_gradients(&model, &rows.iter().map(|r| vec![r.clone()]).collect::<Vec<_>>(), 0.7);
        let mut pairs: Vec<Vec<Row<'_>>> = rows.chunks(2).map(<[Row<'_>]>::to_vec).collect();
        pairs.push(Vec::new());
        same_gradients(&model, &pairs, 1.0);
    }
    for dir in dirs(&["tiny-llama-reward"], &["tiny-random-rm-gpt2"]) {
        let model = load(&dir, SCALAR);
        let tokens = ragged(model.config().vocab);
        same_gradients(&model, &rows(&tokens).into_iter().map(|r| vec![r]).collect::<Vec<_>>(), 1.0);
        let mut heads = model.with_scores(SCALAR, 3, 5).unwrap();
        heads.make_trainable();
        same_gradients(&heads, &rows(&tokens).into_iter().map(|r| vec![r]).collect::<Vec<_>>(), 1.0);
    }
}

/// Three heads on one trunk: each gives the bits that it gives alone, what it adds to a pass is its own products, and a
/// saved directory has them all, for Python as three labels.
#[test]
fn heads_share_their_trunk() {
    let engine = Engine::new(1);
    let dir = fixtures().join("tiny-llama-reward");
    let heads = load(&dir, SCALAR).with_scores(SCALAR, 3, 5).unwrap();
    let tokens = ragged(heads.config().vocab);
    let rows: Vec<Row<'_>> =
        tokens.iter().map(|t| Row { tokens: t, lm: 0..0, scalar: t.len() - 1..t.len() }).collect();
    let out = heads.forward(&engine, &rows, 1.0).unwrap();
    let weights = heads.tensor("score.weight").unwrap();
    let d = heads.config().dim;
    for k in 0..3 {
        let mut alone = heads.with_scores(SCALAR, 1, 5).unwrap();
        let at = alone.slots().iter().find(|s| s.name == "score.weight").unwrap().range();
        alone.update(&engine, |all| all[at].copy_from_slice(&weights[k * d..(k + 1) * d]));
        for (one, all) in alone.forward(&engine, &rows, 1.0).unwrap().iter().zip(&out) {
            assert_eq!((all.scalars.len(), one.scalars[0]), (3, all.scalars[k]), "head {k}");
        }
    }
    assert!(weights[..d] != weights[d..2 * d] && weights[d..2 * d] != weights[2 * d..]);
    let saved = tempfile::tempdir().unwrap();
    heads.save(saved.path(), SaveType::F32).unwrap();
    let config = std::fs::read_to_string(saved.path().join("config.json")).unwrap();
    assert!(config.contains("\"HEAD_2\": 2") && !config.contains("LABEL_0"), "{config}");
    let again = load(saved.path(), SCALAR);
    assert_eq!(again.config().scores, 3);
    assert_eq!(again.forward(&engine, &rows, 1.0).unwrap(), out);
    // Three labels of any other name are a classifier's.
    std::fs::write(saved.path().join("config.json"), config.replace("HEAD_", "CLASS_")).unwrap();
    let error = Model::load(&ModelFiles::dir(saved.path()).unwrap(), SCALAR, 0).unwrap_err().to_string();
    assert!(error.contains("one label; this classifier has 3"), "{error}");
}

/// More tokens than one group holds: several graphs, whose gradients add up.
#[test]
fn a_batch_of_several_groups() {
    let model = load(&fixtures().join("tiny-llama"), BOTH);
    let n = model.context().min(60);
    let tokens: Vec<Vec<u32>> = (0..90)
        .map(|r| (0..n - r % 7).map(|i| ((r * 13 + i * 7) % model.config().vocab) as u32).collect())
        .collect();
    assert!(tokens.iter().map(Vec::len).sum::<usize>() > 4096);
    let units: Vec<Vec<Row<'_>>> = rows(&tokens).into_iter().map(|r| vec![r]).collect();
    same_gradients(&model, &units, 1.0);
}

#[test]
fn heads_that_no_row_asks_for_get_no_gradient() {
    for name in ["tiny-llama", "tiny-gpt2"] {
        let model = load(&fixtures().join(name), BOTH);
        let tokens = [1, 2, 3, 4];
        for (row, idle) in [
            (Row { tokens: &tokens, lm: 0..3, scalar: 0..0 }, vec!["score.weight"]),
            (Row { tokens: &tokens, lm: 0..0, scalar: 1..4 }, vec!["lm_head.weight"]),
        ] {
            let mut grad = vec![0.0; model.n_params()];
            model.step(&graph(), &[vec![row]], 1.0, &Everything, &mut grad).unwrap();
            for slot in model.slots() {
                let none = largest(&grad[slot.range()]) == 0.0;
                // A position table has rows that no token reached, but not only those.
                assert_eq!(none, idle.contains(&slot.name.as_str()), "{}", slot.name);
            }
        }
        // Nothing asked for, nothing done.
        let mut grad = vec![0.0; model.n_params()];
        let row = Row { tokens: &tokens, lm: 0..0, scalar: 0..0 };
        model.step(&graph(), &[vec![row]], 1.0, &Everything, &mut grad).unwrap();
        assert_eq!(largest(&grad), 0.0);
    }
}

#[test]
fn exact_kl_is_that_of_the_kernels_and_zero_to_itself() {
    for dir in language_models() {
        let policy = load(&dir, BOTH);
        let mut reference = load(&dir, LM);
        let tokens = ragged(policy.config().vocab);
        let rows = rows(&tokens);
        let same = policy.forward_pair(&reference, &graph(), &rows, 0.9).unwrap();
        assert!(same.iter().flat_map(|r| &r.kl_exact).all(|kl| kl.abs() < 1e-6));
        reference.update(&graph(), |p| {
            p.iter_mut().enumerate().for_each(|(i, p)| *p += 0.02 * (i as f32).sin());
        });
        let a = policy.forward_pair(&reference, &Engine::new(1), &rows, 0.9).unwrap();
        let b = policy.forward_pair(&reference, &graph(), &rows, 0.9).unwrap();
        let mut total = 0.0;
        for (a, b) in a.iter().zip(&b) {
            close("policy", &b.policy.logprobs, &a.policy.logprobs, 1e-4);
            close("values", &b.policy.scalars, &a.policy.scalars, 1e-4);
            close("reference", &b.ref_logprobs, &a.ref_logprobs, 1e-4);
            close("KL", &b.kl_exact, &a.kl_exact, 1e-4);
            total += a.kl_exact.iter().sum::<f32>();
        }
        assert!(total > 1e-3, "the models must differ for this to mean anything: {total}");
    }
}

/// A copy of the parameters on the device must not outlive a change, on whichever engine it is made.
#[test]
fn a_change_of_the_parameters_reaches_both_engines() {
    let (kernels, graph) = (Engine::new(1), graph());
    let mut model = load(&fixtures().join("tiny-gpt2"), BOTH);
    let tokens = ragged(model.config().vocab);
    let rows = rows(&tokens);
    let before = model.forward(&graph, &rows, 1.0).unwrap();
    let untouched = model.clone();
    for engine in [&graph, &kernels] {
        model.forward(&kernels, &rows, 1.0).unwrap();
        model.update(engine, |p| p.iter_mut().for_each(|p| *p *= 1.1));
        let (a, b) =
            (model.forward(&kernels, &rows, 1.0).unwrap(), model.forward(&graph, &rows, 1.0).unwrap());
        for (a, b) in a.iter().zip(&b) {
            close("log-probs", &b.logprobs, &a.logprobs, 1e-4);
        }
        assert!((b[0].logprobs[0] - before[0].logprobs[0]).abs() > 1e-4);
    }
    model.init_scalar_head(0.0, 1);
    assert!(model.forward(&graph, &rows, 1.0).unwrap().iter().flat_map(|r| &r.scalars).all(|v| *v == 0.0));
    assert_eq!(untouched.forward(&graph, &rows, 1.0).unwrap(), before);
}

/// Logits of a full pass after the last of `tokens`.
fn full_pass(model: &Model, engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    let logits = model.hidden_and_logits(engine, tokens).unwrap().1;
    logits[(tokens.len() - 1) * model.config().vocab..].to_vec()
}

#[test]
fn cached_decoding_is_a_full_pass_while_rows_join_and_leave() {
    let engine = graph();
    for dir in language_models() {
        let model = load(&dir, BOTH);
        let vocab = model.config().vocab;
        let mut texts = ragged(vocab);
        let mut batch = model.decode_batch(&engine, 24).unwrap();
        let mut rows: Vec<Vec<u32>> = Vec::new();
        for step in 0..10 {
            // Two rows at first, two more in the middle of it, one after some have left.
            let joining = match step {
                0 | 3 => 2,
                6 => 1,
                _ => 0,
            };
            for text in texts.drain(..joining) {
                batch.push(&text[..text.len() - 1]).unwrap();
                rows.push(text);
            }
            if step == 5 {
                batch.retain(|i| i % 2 == 1).unwrap();
                let mut i = 0;
                rows.retain(|_| {
                    i += 1;
                    i % 2 == 0
                });
            }
            assert_eq!(batch.len(), rows.len());
            let feed: Vec<u32> = rows.iter().map(|r| *r.last().unwrap()).collect();
            let out = batch.step(&feed).unwrap();
            assert_eq!((out.logits.len(), out.scalars.len()), (rows.len() * vocab, rows.len()));
            for (r, row) in rows.iter_mut().enumerate() {
                let expected = full_pass(&model, &engine, row);
                let found = &out.logits[r * vocab..(r + 1) * vocab];
                close("logits of a step", found, &expected, 1e-5 * largest(&expected).max(1.0));
                let n = row.len();
                let value = Row { tokens: row, lm: 0..0, scalar: n - 1..n };
                let value = model.forward(&Engine::new(1), &[value], 1.0).unwrap().remove(0).scalars;
                close("value of a step", &out.scalars[r..=r], &value, 1e-4);
                row.push(((n * 7 + r + step) % vocab) as u32);
            }
        }
        batch.retain(|_| false).unwrap();
        assert!(batch.is_empty());
        batch.push(&[1]).unwrap();
        let out = batch.step(&[2]).unwrap().logits.to_vec();
        let expected = full_pass(&model, &engine, &[1, 2]);
        close("logits of a row in an emptied batch", &out, &expected, 1e-5 * largest(&expected).max(1.0));
    }
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let engine = graph();
    for dir in dirs(&["tiny-llama", "tiny-gpt2"], &[]) {
        let (train, model) = (json(&dir), load(&dir, LM));
        let (prompt, new) = (ids(&train["greedy"]["prompt_ids"]), ids(&train["greedy"]["new_ids"]));
        let mut batch = model.decode_batch(&engine, prompt.len() + new.len()).unwrap();
        batch.push(&prompt[..prompt.len() - 1]).unwrap();
        let mut next = prompt[prompt.len() - 1];
        for &expected in &new {
            let logits = batch.step(&[next]).unwrap().logits;
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            next = u32::try_from(best).unwrap();
            assert_eq!(next, expected, "{}", dir.display());
        }
    }
}

#[test]
fn what_cannot_be_computed_is_an_error_on_both_engines() {
    let model = load(&fixtures().join("tiny-llama"), LM);
    let reward = load(&fixtures().join("tiny-llama-reward"), SCALAR);
    for engine in [Engine::new(1), graph()] {
        let tokens = [1, 2, 3];
        for row in
            [Row { tokens: &tokens, lm: 0..3, scalar: 0..0 }, Row { tokens: &tokens, lm: 0..0, scalar: 2..4 }]
        {
            let e = model.forward(&engine, &[row], 1.0).unwrap_err().to_string();
            assert!(e.ends_with("of a sequence of 3 tokens"), "{e}");
        }
        let row = Row { tokens: &tokens, lm: 0..2, scalar: 0..0 };
        let e = model.forward_pair(&reward, &engine, &[row], 1.0).unwrap_err();
        assert!(matches!(e, ModelError::NoVocabulary("the reference")), "{e}");

        let mut batch = model.decode_batch(&engine, 3).unwrap();
        assert!(matches!(batch.push(&[1; 4]), Err(ModelError::TooLong { tokens: 4, context: 3, .. })));
        assert!(matches!(batch.push(&[9999]), Err(ModelError::TokenOutOfRange { id: 9999, .. })));
        batch.push(&[1, 2]).unwrap();
        assert!(matches!(batch.step(&[1, 1]), Err(ModelError::OneTokenPerRow { tokens: 2, rows: 1 })));
        batch.step(&[1]).unwrap();
        assert!(matches!(batch.step(&[1]), Err(ModelError::TooLong { tokens: 4, context: 3, .. })));
    }
}
