//! What `tether plan` says of frozen encoders.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use std::path::{Path, PathBuf};
use tetherline::Recipe;
use tetherline::estimate::{Estimate, EstimateOptions, estimate};
use tetherline_core::Stage;

fn encoder(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/encoders");
    root.join(name).canonicalize().unwrap()
}

/// Bytes of the tensors of a file: what stands behind its header.
fn weights(name: &str) -> u64 {
    let file = std::fs::read(encoder(name).join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    file.len() as u64 - 8 - header
}

fn plan(sets: &[(&str, String)]) -> Result<Estimate, tetherline::Error> {
    let few = [("sampling.max_new_tokens", "8"), ("ppo.batch_size", "8"), ("eval.prompts", "4")];
    let mut all: Vec<(String, String)> = few.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    all.extend(sets.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
    let options = EstimateOptions {
        response_tokens: None,
        clock: || {
            use std::sync::atomic::{AtomicU64, Ordering};
            // Every look at it is a hundredth of a second later.
            static NOW: AtomicU64 = AtomicU64::new(0);
            NOW.fetch_add(1, Ordering::Relaxed) as f64 / 100.0
        },
        held: || Some(0),
    };
    estimate(&Recipe::load("quickstart", &all).unwrap(), &options)
}

/// As rule, as reward model and as cost model: the weights of each are a part of every stage that asks it, and its time is one of
/// scoring.
#[test]
fn encoders_are_counted_wherever_they_score() {
    let path = |name: &str| encoder(name).display().to_string();
    let rules = format!(
        "[{{ encoder = {{ name = \"cheer\", model = {:?} }} }}, {{ encoder = {{ name = \"pair\", model = {:?}, pair = true }} }}]",
        path("distilbert"),
        path("modernbert")
    );
    let cost = format!(
        "{{ limit = 0.0, rule = [{{ encoder = {{ name = \"harm\", model = {:?} }} }}] }}",
        path("bert")
    );
    let sets = [
        ("model.reward", path("bert")),
        ("model.cost", path("deberta-v2")),
        ("model.value", "separate".to_owned()),
        ("reward.rule", rules),
        ("cost", cost),
    ];
    if !cfg!(feature = "encoders") {
        let error = plan(&sets).unwrap_err().to_string();
        assert!(error.contains("feature `encoders`"), "{error}");
        return;
    }
    let found = plan(&sets).unwrap();
    let part = |stage: Stage, name: &str| {
        let stage = found.memory.iter().find(|m| m.stage == stage).unwrap();
        stage.parts.iter().find(|p| p.name == name).map(|p| p.bytes)
    };
    for (name, model, in_eval) in [
        ("reward model: weights", "bert", true),
        ("encoder cheer: weights", "distilbert", true),
        ("encoder pair: weights", "modernbert", true),
        ("cost model: weights", "deberta-v2", false),
        ("encoder harm: weights", "bert", false),
    ] {
        assert_eq!(part(Stage::Ppo, name), Some(weights(model)), "{name}");
        assert_eq!(part(Stage::Eval, name), in_eval.then(|| weights(model)), "{name}");
    }
    // Eight rows of some tokens: kilobytes, not nothing.
    let workspace = part(Stage::Ppo, "workspace of encoders").unwrap();
    assert!((10_000..10_000_000).contains(&workspace), "{workspace}");
    let step = found.step.unwrap();
    assert!(step.scoring.is_finite() && step.scoring > 0.0, "{step:?}");
}
