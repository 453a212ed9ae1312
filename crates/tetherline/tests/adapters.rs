//! Whole runs that train an adapter in place of the weights.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use std::path::Path;
use tetherline::export::{ExportOptions, export};
use tetherline::generate::{GenerateOptions, generate};
use tetherline::{Device, Error, Recipe, RunOptions, Stages, run};
use tetherline_core::{Event, Observer, Silent, Stage};
use tetherline_rollout::SamplingConfig;

fn recipe(more: &[(&str, &str)]) -> Result<Recipe, tetherline::RecipeError> {
    let mut sets = vec![
        ("sft.steps", "3"),
        ("sft.batch_size", "4"),
        ("sft.lr", "1e-3"),
        ("reward.steps", "3"),
        ("reward.batch_size", "4"),
        ("reward.normalize_samples", "8"),
        ("sampling.max_new_tokens", "12"),
        ("ppo.steps", "3"),
        ("ppo.batch_size", "8"),
        ("ppo.lr", "1e-3"),
        ("eval.prompts", "4"),
        ("checkpoint.every", "1"),
    ];
    sets.extend(more);
    let sets: Vec<(String, String)> = sets.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    Recipe::load("quickstart", &sets)
}

fn options(out: &Path, stages: Stages, resume: bool) -> RunOptions {
    RunOptions { out: out.to_owned(), resume, after_halt: false, stages, threads: 1, clock: || 0.0 }
}

/// Asks to stop after two steps of a stage.
struct Stop(Stage, bool);

impl Observer for Stop {
    fn on_event(&mut self, event: &Event<'_>) {
        if let Event::Step { stage, step: 2, .. } = event {
            self.1 |= *stage == self.0;
        }
    }

    fn stop_requested(&self) -> bool {
        self.1
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_run_that_trains_an_adapter_is_resumed_bit_for_bit_and_starts_without_kl() {
    let dir = tempfile::tempdir().unwrap();
    for (value, targets) in [("separate", "\"all-linear\""), ("shared", "[\"q_proj\", \"v_proj\"]")] {
        let recipe = recipe(&[
            ("model.value", &format!("{value:?}")),
            ("model.adapter.rank", "4"),
            ("model.adapter.target_modules", targets),
        ])
        .unwrap();
        let straight = dir.path().join(format!("{value}-straight"));
        run(&recipe, &options(&straight, Stages::All, false), &mut Silent).unwrap();
        let metrics = String::from_utf8(read(&straight.join("metrics.jsonl"))).unwrap();
        let first: serde_json::Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
        assert_eq!(first["objective/kl_exact"].as_f64(), Some(0.0), "exactly: the reference is a clone");
        for stage in [Stage::Sft, Stage::Reward, Stage::Ppo] {
            let out = dir.path().join(format!("{value}-{}", stage.name()));
            match run(&recipe, &options(&out, Stages::All, false), &mut Stop(stage, false)) {
                Err(Error::Interrupted { stage: at, .. }) => assert_eq!(at, stage),
                other => panic!("{other:?}"),
            }
            run(&recipe, &options(&out, Stages::All, true), &mut Silent).unwrap();
            for file in
                ["metrics.jsonl", "policy/adapter_model.safetensors", "reward/adapter_model.safetensors"]
            {
                assert!(
                    read(&out.join(file)) == read(&straight.join(file)),
                    "{value}, {}: {file}",
                    stage.name()
                );
            }
        }
        assert_eq!(straight.join("policy/value_head.safetensors").exists(), value == "shared");
        assert!(!straight.join("policy/model.safetensors").exists());
    }
}

/// Greedy text of a model.
fn text(model: &Path, prompts: &Path, out: &Path) -> Vec<u8> {
    let options = GenerateOptions {
        model: model.display().to_string(),
        prompts: prompts.to_owned(),
        out: out.to_owned(),
        sampling: SamplingConfig { temperature: 0.0, max_new_tokens: 8, ..SamplingConfig::default() },
        seed: 1,
        num_samples: 1,
        batch_size: 4,
        threads: 1,
        device: Device::Cpu,
        skip_bad_lines: false,
        input_ids: false,
    };
    generate(&options, &mut Silent).unwrap();
    let text = String::from_utf8(read(out)).unwrap();
    let response = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap()["response"].to_string();
    text.lines().map(response).collect::<String>().into_bytes()
}

#[test]
fn an_exported_adapter_says_what_the_adapter_says() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(&[("model.adapter.rank", "2"), ("model.adapter.rslora", "true")]).unwrap();
    let out = dir.path().join("run");
    run(&recipe, &options(&out, Stages::Only(Stage::Sft), false), &mut Silent).unwrap();
    let merged = dir.path().join("merged");
    let options =
        ExportOptions { merge: out.join("sft").display().to_string(), out: merged.clone(), bf16: false };
    let done = export(&options).unwrap();
    assert_eq!(done.base, "frontdesk");
    assert!(done.adapter > 0 && done.parameters > done.adapter);
    assert!(export(&options).unwrap_err().to_string().contains("there already"));
    let card = String::from_utf8(read(&merged.join("README.md"))).unwrap();
    assert!(
        card.contains("library_name: transformers") && card.contains("those of its base, `frontdesk`"),
        "{card}"
    );
    let prompts = dir.path().join("p.jsonl");
    std::fs::write(&prompts, "{\"prompt\": \"Where is my order?\"}\n{\"prompt\": \"Hello\"}\n").unwrap();
    let (a, b) = (dir.path().join("a.jsonl"), dir.path().join("b.jsonl"));
    assert_eq!(text(&out.join("sft"), &prompts, &a), text(&merged, &prompts, &b));
    let plain = ExportOptions { merge: merged.display().to_string(), out: dir.path().join("x"), bf16: false };
    assert!(export(&plain).unwrap_err().to_string().contains("nothing to merge"));
}

#[test]
fn frozen_blocks_stay_and_a_run_goes_through() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(&[("model.freeze_layers", "2")]).unwrap();
    let out = dir.path().join("run");
    run(&recipe, &options(&out, Stages::All, false), &mut Silent).unwrap();
    let load = |dir: &str| {
        let files = tetherline_models::ModelFiles::dir(out.join(dir)).unwrap();
        tetherline_models::Model::load(&files, tetherline::ppo::POLICY_HEADS, 0).unwrap()
    };
    let (sft, policy) = (load("sft"), load("policy"));
    let base = tetherline::sources::open_model("frontdesk").unwrap();
    let base = tetherline_models::Model::load(&base, tetherline::ppo::POLICY_HEADS, 0).unwrap();
    let (mut same, mut moved) = (0, 0);
    for slot in base.slots() {
        let [a, b, c] = [&base, &sft, &policy].map(|m| m.tensor(&slot.name).unwrap());
        let frozen = slot.name.contains("embed") || slot.name.contains(".0.") || slot.name.contains(".1.");
        if frozen {
            assert!(a == b && a == c, "{}", slot.name);
            same += 1;
        } else {
            moved += usize::from(a != b && b != c);
        }
    }
    assert!(same > 10 && moved > 1, "{same} {moved}");
}

#[test]
fn what_an_adapter_cannot_be_is_refused() {
    let fails = |sets: &[(&str, &str)]| recipe(sets).unwrap_err().to_string();
    let e = fails(&[("model.adapter.dropout", "0.1")]);
    assert!(e.contains("model.adapter.dropout") && e.contains("sampler"), "{e}");
    assert!(fails(&[("model.adapter.rank", "0")]).contains("model.adapter.rank"));
    assert!(fails(&[("model.adapter.target_modules", "[]")]).contains("model.adapter.target_modules"));
    assert!(fails(&[("model.adapter.rnak", "1")]).contains("rnak"));
    let e = fails(&[("model.adapter.rank", "2"), ("model.freeze_layers", "1")]);
    assert!(e.contains("model.freeze_layers"), "{e}");
    // It reads back as it is written.
    let some = recipe(&[("model.adapter.target_modules", "[\"q_proj\"]")]).unwrap();
    assert_eq!(toml::from_str::<Recipe>(&some.to_toml()).unwrap(), some);
    let dir = tempfile::tempdir().unwrap();
    let wrong = recipe(&[("model.adapter.target_modules", "[\"nope\"]")]).unwrap();
    let e = run(&wrong, &options(&dir.path().join("r"), Stages::All, false), &mut Silent).unwrap_err();
    assert!(e.to_string().contains("`nope` is no linear layer"), "{e}");
}
