//! Direct preference optimisation in runs of a few steps on a tiny model.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use tetherline::{Error, Recipe, RunOptions, Stages, run};
use tetherline_core::{Event, Observer, Silent, Stage};

fn recipe(dir: &Path, more: &[(&str, &str)]) -> Result<Recipe, tetherline::RecipeError> {
    let words = ["boat", "rope", "tide", "lamp", "order", "bread", "shore", "clerk"];
    let (mut pairs, mut prompts) = (String::new(), String::new());
    for i in 0..40 {
        let prompt = format!("the {} and the {} {i}", words[i % 8], words[(i / 8 + 3 * i) % 8]);
        writeln!(pairs, r#"{{"prompt": "{prompt}", "chosen": " yes, here", "rejected": " no way"}}"#)
            .unwrap();
        writeln!(prompts, r#"{{"prompt": "{prompt}"}}"#).unwrap();
    }
    std::fs::write(dir.join("pairs.jsonl"), pairs).unwrap();
    std::fs::write(dir.join("prompts.jsonl"), prompts).unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");
    let (of_pairs, of_prompts) = (file("pairs.jsonl"), file("prompts.jsonl"));
    let plain = [
        ("data.pairs", of_pairs.as_str()),
        ("data.prompts", of_prompts.as_str()),
        ("model.policy", model),
        ("reward.model_weight", "0.0"),
        ("reward.rule", "[{ keyword = { words = ['e', 'o'], cap = 5 } }]"),
        ("sampling.max_new_tokens", "8"),
        ("dpo.batch_size", "8"),
        ("dpo.steps", "8"),
        ("dpo.epochs", "2"),
        ("dpo.lr", "1e-3"),
        ("dpo.lr_schedule", "constant"),
        ("eval.prompts", "4"),
        ("checkpoint.every", "2"),
    ];
    let sets: Vec<(String, String)> =
        plain.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    std::fs::write(dir.join("empty.toml"), "").unwrap();
    Recipe::load(dir.join("empty.toml").to_str().unwrap(), &sets)
}

fn options(out: &Path, resume: bool) -> RunOptions {
    RunOptions {
        out: out.to_owned(),
        resume,
        after_halt: false,
        stages: Stages::All,
        threads: 1,
        clock: || 0.0,
    }
}

fn log(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("dpo.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn of(rows: &[Value], key: &str) -> Vec<f64> {
    rows.iter().map(|r| r[key].as_f64().unwrap()).collect()
}

/// Asks to stop after the third step.
struct Stop(bool);

impl Observer for Stop {
    fn on_event(&mut self, event: &Event<'_>) {
        if let Event::Step { stage: Stage::Dpo, step: 3, .. } = event {
            self.0 = true;
        }
    }

    fn stop_requested(&self) -> bool {
        self.0
    }
}

/// From the reference every log-ratio is 0, so the first loss is ln 2; then the chosen answers rise above the rejected ones.
#[test]
fn a_run_learns_the_preference_and_is_resumed_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &[]).unwrap();
    let (straight, resumed) = (dir.path().join("straight"), dir.path().join("resumed"));
    run(&recipe, &options(&straight, false), &mut Silent).unwrap();
    let rows = log(&straight);
    let loss = of(&rows, "loss");
    assert!((loss[0] - 2f64.ln()).abs() < 1e-6 && of(&rows, "margin")[0].abs() < 1e-6, "{:?}", rows[0]);
    assert!(loss[7] < 0.9 * loss[0] && of(&rows, "accuracy")[7] == 1.0, "{loss:?}");
    let held_out: Value =
        serde_json::from_slice(&std::fs::read(straight.join("dpo_held_out.json")).unwrap()).unwrap();
    assert!(held_out["accuracy"].as_f64().unwrap() > 0.9, "{held_out}");
    for file in ["evaluation.json", "report.html", "policy/README.md"] {
        assert!(straight.join(file).is_file(), "{file}");
    }
    assert!(!straight.join("metrics.jsonl").is_file() && !straight.join("checkpoints/dpo").exists());

    match run(&recipe, &options(&resumed, false), &mut Stop(false)) {
        Err(Error::Interrupted { stage: Stage::Dpo, step: 3, .. }) => {}
        other => panic!("{other:?}"),
    }
    run(&recipe, &options(&resumed, true), &mut Silent).unwrap();
    for file in ["dpo.jsonl", "policy/model.safetensors", "dpo_held_out.json"] {
        let read = |out: &Path| std::fs::read(out.join(file)).unwrap();
        assert!(read(&straight) == read(&resumed), "{file}");
    }
}

/// At the reference IPO's loss is (1/(2β))² in both forms, and its first steps lower it.
#[test]
fn ipo_brings_the_log_ratios_towards_their_gap() {
    for (loss, lr) in [("ipo", "1e-3"), ("ipo_sum", "1e-5")] {
        let dir = tempfile::tempdir().unwrap();
        let sets = [("dpo.loss", loss), ("dpo.beta", "0.5"), ("dpo.lr", lr), ("eval.prompts", "0")];
        let recipe = recipe(dir.path(), &sets).unwrap();
        let out = dir.path().join("run");
        run(&recipe, &options(&out, false), &mut Silent).unwrap();
        let losses = of(&log(&out), "loss");
        assert!((losses[0] - 1.0).abs() < 1e-6 && losses[7] < 0.8, "{loss}: {losses:?}");
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |sets: &[(&str, &str)]| recipe(dir.path(), sets).unwrap_err().to_string();
    let error = refused(&[("dpo.loss", "ipo"), ("dpo.label_smoothing", "0.1")]);
    assert!(error.contains("goes with loss = \"sigmoid\""), "{error}");
    let error = refused(&[("kl", "{ fixed = { init = 0.1 }, reference = { reset = { every = 1 } } }")]);
    assert!(error.contains("it stands still"), "{error}");
    let without = recipe(dir.path(), &[]).unwrap();
    let without = Recipe { data: tetherline::recipe::DataSection { pairs: None, ..without.data }, ..without };
    let error = run(&without, &options(&dir.path().join("run"), false), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("data.pairs") && error.contains("direct preference optimisation"), "{error}");
}
