//! Drift between models whose KL is known: every position has the same distribution over two tokens.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use safetensors::{SafeTensors, serialize, tensor::TensorView};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tetherline::Device;
use tetherline::drift::{DriftOptions, drift};
use tetherline_core::Silent;
use tetherline_rollout::SamplingConfig;

/// The two tokens that are ever written.
const X: usize = 100;
const Y: usize = 101;

/// A Llama whose blocks add nothing and whose hidden state is (1, …, 1): token v has the logit `head[v][0]` at every
/// position, whatever came before. X has probability `p`, Y the rest.
fn one_distribution(dir: &Path, name: &str, p: f64) -> PathBuf {
    let from = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama"));
    let to = dir.join(name);
    std::fs::create_dir(&to).unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let given = SafeTensors::deserialize(&bytes).unwrap();
    let mut made: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, t) in given.tensors() {
        let n: usize = t.shape().iter().product();
        let mut values = vec![0f32; n];
        if name.ends_with("embed_tokens.weight") || name.ends_with("norm.weight") {
            values.fill(1.0);
        }
        if name == "lm_head.weight" {
            let dim = t.shape()[1];
            for v in 0..t.shape()[0] {
                values[v * dim] = match v {
                    X => p.ln() as f32,
                    Y => (1.0 - p).ln() as f32,
                    _ => -40.0,
                };
            }
        }
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        made.insert(name, (t.shape().to_vec(), bytes));
    }
    let views = made.iter().map(|(name, (shape, bytes))| {
        (name.clone(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(to.join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
    to
}

fn options(policy: &Path, reference: &Path, prompts: &Path) -> DriftOptions {
    DriftOptions {
        policy: policy.display().to_string(),
        reference: reference.display().to_string(),
        prompts: prompts.to_owned(),
        given: false,
        append_eos: false,
        chat: false,
        sampling: SamplingConfig { max_new_tokens: 10, ..SamplingConfig::default() },
        seed: 3,
        num_samples: 1,
        reference_answers: true,
        pairs: 6,
        batch_size: 8,
        threads: 1,
        device: Device::Cpu,
        skip_bad_lines: false,
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-4 * b.abs().max(1.0)
}

/// KL of (p, 1 − p) to (q, 1 − q), nats.
fn kl(p: f64, q: f64) -> f64 {
    p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln()
}

#[test]
fn the_drift_of_a_known_distribution() {
    let dir = tempfile::tempdir().unwrap();
    let policy = one_distribution(dir.path(), "policy", 0.8);
    let reference = one_distribution(dir.path(), "reference", 0.5);
    let prompts = dir.path().join("prompts.jsonl");
    let text = (0..40).fold(String::new(), |mut text, i| {
        let (domain, user) = (if i % 4 == 0 { "care" } else { "desk" }, if i < 10 { "ann" } else { "bob" });
        writeln!(text, r#"{{"prompt": "the boat {i}", "domain": "{domain}", "user": "{user}"}}"#).unwrap();
        text
    });
    std::fs::write(&prompts, text).unwrap();
    let d = drift(&options(&policy, &reference, &prompts), &mut Silent).unwrap().drift;
    assert_eq!((d.responses, d.prompts, d.tokens), (40, 40, 400));
    assert!(close(d.kl_nats_per_token.mean, kl(0.8, 0.5)), "{:?}", d.kl_nats_per_token);
    assert!(close(d.kl_nats_per_sequence.mean, 10.0 * kl(0.8, 0.5)));
    assert!(close(d.reverse_kl_nats_per_sequence.unwrap().mean, 10.0 * kl(0.5, 0.8)));
    // Every position has the same KL: shares are counts, and the interval has no width.
    let (low, high) = d.kl_nats_per_token.ci.unwrap();
    assert!(high - low < 1e-6);
    let share = |parts: &[tetherline::eval::drift::Part], name: &str| {
        parts.iter().find(|p| p.name == name).map(|p| p.share).unwrap()
    };
    assert!(close(share(&d.shares.domains, "care"), 0.25) && close(share(&d.shares.users, "ann"), 0.25));
    assert!(close(share(&d.shares.positions, "1"), 0.1) && close(share(&d.shares.positions, "5-8"), 0.4));
    // The log-ratio is noisy, the exact KL is not: 0.8·ln 1.6 + 0.2·ln 0.4 a token, within four standard errors.
    let sd = (1.6f64.ln() - 0.4f64.ln()) * 0.4;
    assert!((d.log_ratio_nats_per_sequence.mean / 10.0 - kl(0.8, 0.5)).abs() < 4.0 * sd / 20.0);
    let written = &d.shares.tokens;
    assert!(written.iter().all(|p| p.id == Some(X as u64) || p.id == Some(Y as u64)), "{written:?}");
    assert!(close(written.iter().map(|p| p.share).sum(), 1.0));
}

#[test]
fn given_responses_are_measured_as_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let policy = one_distribution(dir.path(), "policy", 0.8);
    let reference = one_distribution(dir.path(), "reference", 0.5);
    let log = dir.path().join("log.jsonl");
    let rows = [
        format!(r#"{{"input_ids": [1, 9, {X}, {Y}, {X}], "prompt_len": 2, "domain": "a"}}"#),
        format!(r#"{{"input_ids": [1, 9, {Y}], "prompt_len": 2, "domain": "b"}}"#),
        format!(r#"{{"input_ids": [1, 8, {Y}, {Y}], "prompt_len": 2, "domain": "b"}}"#),
    ];
    std::fs::write(&log, rows.join("\n")).unwrap();
    let options =
        DriftOptions { given: true, reference_answers: false, ..options(&policy, &reference, &log) };
    let d = drift(&options, &mut Silent).unwrap().drift;
    // Two of them answer the same prompt.
    assert_eq!((d.responses, d.prompts, d.tokens), (3, 2, 6));
    assert!(close(d.kl_nats_per_sequence.mean, 2.0 * kl(0.8, 0.5)));
    assert!(close(d.shares.domains[0].share, 0.5));
    let log_ratio = (2.0 * 1.6f64.ln() + 4.0 * 0.4f64.ln()) / 3.0;
    assert!(close(d.log_ratio_nats_per_sequence.mean, log_ratio), "{:?}", d.log_ratio_nats_per_sequence);
    assert!(d.phrase_changes.is_none() && d.reverse_kl_nats_per_sequence.is_none());
    assert_eq!(d.pairs[0].policy.tokens.len(), 3);
}

#[test]
fn equal_policies_do_not_drift_and_answer_alike() {
    let dir = tempfile::tempdir().unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");
    let prompts = dir.path().join("p.jsonl");
    std::fs::write(&prompts, "{\"prompt\": \"the boat\"}\n{\"prompt\": \"the rope\"}\n").unwrap();
    let d = drift(&options(Path::new(model), Path::new(model), &prompts), &mut Silent).unwrap().drift;
    assert_eq!(d.kl_nats_per_sequence.mean, 0.0);
    assert!(d.shares.domains.iter().all(|p| p.share == 0.0));
    assert!(d.behaviours.iter().all(|b| b.change.mean == 0.0));
    let (p, r) = (&d.pairs[0].policy, d.pairs[0].reference.as_ref().unwrap());
    assert_eq!(
        p.tokens.iter().map(|t| &t.text).collect::<Vec<_>>(),
        r.tokens.iter().map(|t| &t.text).collect::<Vec<_>>()
    );
}

#[test]
fn models_of_different_vocabularies_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models");
    let prompts = dir.path().join("p.jsonl");
    std::fs::write(&prompts, "{\"prompt\": \"the boat\"}\n").unwrap();
    let llama = Path::new(models).join("tiny-llama");
    let e = drift(&options(&llama, Path::new("frontdesk"), &prompts), &mut Silent).unwrap_err().to_string();
    assert!(e.contains("vocabulary"), "{e}");
    let e =
        drift(&options(&llama, &llama, &dir.path().join("nowhere")), &mut Silent).unwrap_err().to_string();
    assert!(e.contains("nowhere"), "{e}");
}
