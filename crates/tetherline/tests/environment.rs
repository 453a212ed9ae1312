//! Conversations of several turns with a program: what it said is in the row, and is masked.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::Value;
use std::path::Path;
use tetherline::{Recipe, RunOptions, Stages, run};
use tetherline_core::Silent;

/// Asks a second question after the first answer, and then pays for it.
const SECOND_QUESTION: &str = r#"while read -r line; do case "$line" in
  *'"turn":1'*'"last":false'*) echo '{"text": " and the tide?", "reward": 0.25}';;
  *) echo '{"done": true, "reward": 1}';;
esac; done"#;

fn recipe(dir: &Path, script: &str, more: &[(&str, &str)]) -> Result<Recipe, tetherline::RecipeError> {
    let prompts: String = (0..8).map(|i| format!("{{\"prompt\": \"the boat {i}\"}}\n")).collect();
    std::fs::write(dir.join("prompts.jsonl"), prompts).unwrap();
    let file = dir.join("prompts.jsonl").display().to_string();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");
    let environment =
        format!("{{ argv = [\"sh\", \"-c\", {script:?}], max_turns = 2, max_tokens = 40, weight = 2.0 }}");
    let plain = [
        ("data.prompts", file.as_str()),
        ("model.policy", model),
        ("reward.model_weight", "0.0"),
        ("reward.rule", "[{ keyword = { words = ['tide'], cap = 5 } }]"),
        ("environment", &environment),
        ("sampling.max_new_tokens", "12"),
        // Every turn ends, since the tiny model seldom writes an end of sequence.
        ("sampling.stop", "['a', 'e', 'i', 'o', 't']"),
        ("ppo.steps", "2"),
        ("ppo.batch_size", "8"),
        ("ppo.epochs", "1"),
        ("ppo.lr", "1e-3"),
        ("ppo.missing_eos_penalty", "none"),
        ("kl", "{ fixed = { init = 0.1 } }"),
        ("eval.prompts", "4"),
        ("checkpoint.every", "1"),
    ];
    let sets: Vec<(String, String)> =
        plain.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    std::fs::write(dir.join("empty.toml"), "").unwrap();
    Recipe::load(dir.join("empty.toml").to_str().unwrap(), &sets)
}

fn options(out: &Path) -> RunOptions {
    RunOptions {
        out: out.to_owned(),
        resume: false,
        after_halt: false,
        stages: Stages::All,
        threads: 1,
        clock: || 0.0,
    }
}

fn lines(out: &Path, log: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join(log)).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A whole run with a second question: the reward of both turns is the score's part, the rule sees what the policy wrote
/// alone, and the answer to the question stands in the samples.
#[test]
fn a_second_question_is_asked_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    run(&recipe(dir.path(), SECOND_QUESTION, &[]).unwrap(), &options(&out), &mut Silent).unwrap();
    let metrics = lines(&out, "metrics.jsonl");
    for m in &metrics {
        let of = |key: &str| m[key].as_f64().unwrap_or_else(|| panic!("{key} {m}"));
        let turns = of("environment/turns");
        assert!(turns > 1.0 && turns <= 2.0, "{turns}");
        // 2·(0.25 + 1) for those asked twice, 2·1 for those cut off in their first turn.
        let want = 2.0 * (1.0 + 0.25 * (turns - 1.0));
        assert!((of("score/environment") - want).abs() < 1e-5, "{m}");
        // Nobody but the program says it.
        assert_eq!(of("score/rule.keyword"), 0.0);
        assert!(of("environment/tokens") > 0.0);
    }
    let samples = lines(&out, "samples.jsonl");
    let two = samples.iter().find(|s| s["turns"].as_array().unwrap().len() == 3).unwrap();
    let turns = two["turns"].as_array().unwrap();
    let said: Vec<&str> = turns.iter().map(|t| t["role"].as_str().unwrap()).collect();
    assert_eq!(said, ["assistant", "user", "assistant"]);
    assert_eq!(turns[1]["content"], " and the tide?");
    let own = format!("{}\n{}", turns[0]["content"].as_str().unwrap(), turns[2]["content"].as_str().unwrap());
    assert_eq!(two["response"], own);
    // The first KL to the reference is none, whatever the program wrote in between.
    assert!(metrics[0]["objective/kl_exact"].as_f64().unwrap().abs() < 1e-6, "{}", metrics[0]);
    assert!(out.join("evaluation.json").is_file());
    // The same again, bit for bit.
    let again = dir.path().join("again");
    run(&recipe(dir.path(), SECOND_QUESTION, &[]).unwrap(), &options(&again), &mut Silent).unwrap();
    assert_eq!(lines(&again, "metrics.jsonl"), metrics);
}

/// A program that dies ends conversations with the declared reward, once it has ever answered; and never silently.
#[test]
fn a_program_that_dies_is_stood_in_for() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("asked");
    let script = format!(
        "if [ -e {0} ]; then echo gone >&2; exit 1; fi; touch {0}; while read -r l; do echo '{{\"done\": true}}'; done",
        marker.display()
    );
    let with = |failure: &str| {
        let environment =
            format!("{{ argv = [\"sh\", \"-c\", {script:?}], max_tokens = 40, on_failure = {failure} }}");
        recipe(dir.path(), "true", &[("environment", &environment), ("eval.prompts", "0")]).unwrap()
    };
    let out = dir.path().join("run");
    run(&with("{ score = -1.0 }"), &options(&out), &mut Silent).unwrap();
    let metrics = lines(&out, "metrics.jsonl");
    let of = |key: &str| metrics.iter().map(|m| m[key].as_f64()).collect::<Vec<_>>();
    // Weighted like any other.
    assert_eq!(of("score/environment"), [Some(0.0), Some(-2.0)]);
    assert_eq!(of("fallback/environment"), [None, Some(1.0)]);
    std::fs::remove_file(&marker).unwrap();
    let error =
        run(&with("\"stop\""), &options(&dir.path().join("other")), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("gone") && error.contains("environment"), "{error}");
}

/// An update is judged on whole conversations, and on what the policy wrote there alone: with a rate that moves nothing the KL
/// of its trials is that of the rollout, though the reference finds the program's words as unlikely as the policy's.
#[test]
fn updates_are_judged_on_conversations() {
    let dir = tempfile::tempdir().unwrap();
    let reference = dir.path().join("reference");
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama"));
    let further = recipe(dir.path(), SECOND_QUESTION, &[("ppo.lr", "1e-2"), ("eval.prompts", "0")]).unwrap();
    run(&further, &options(&reference), &mut Silent).unwrap();
    let policy = reference.join("policy");
    let judged = |more: &[(&str, &str)], name: &str| {
        let out = dir.path().join(name);
        let sets = [
            ("model.policy", policy.to_str().unwrap()),
            ("model.reference", model.to_str().unwrap()),
            ("kl", "{ fixed = { init = 0.1 }, trust_region = { cap = 50.0, old_cap = 5.0 }, guard = {} }"),
            ("trial", "{ prompts = 8, batch = true }"),
            ("eval.prompts", "0"),
        ];
        let sets: Vec<_> = sets.iter().chain(more).copied().collect();
        run(&recipe(dir.path(), SECOND_QUESTION, &sets).unwrap(), &options(&out), &mut Silent).unwrap();
        lines(&out, "metrics.jsonl")
    };
    let still = judged(&[("ppo.lr", "1e-30")], "still");
    for m in &still {
        let of = |key: &str| m[key].as_f64().unwrap_or_else(|| panic!("{key} {m}"));
        assert!(of("environment/tokens") > 0.0 && of("objective/kl_exact") > 1e-3, "{m}");
        assert!((of("trial/batch_kl") / of("objective/kl_exact") - 1.0).abs() < 1e-5, "{m}");
        assert!(of("trial/kl") > 0.0 && of("trial/kept") == 1.0, "{m}");
        // Other prompts and draws of the same policy: as many turns, as much KL but for noise.
        assert!((0.2..5.0).contains(&(of("trial/kl") / of("objective/kl_exact"))), "{m}");
    }
    // A cap that no update can keep is one that none passes.
    let capped = "{ fixed = { init = 0.1 }, trust_region = { cap = 50.0, old_cap = 1e-9 } }";
    let refused = judged(&[("ppo.lr", "1e-2"), ("kl", capped)], "refused");
    assert!(refused.iter().all(|m| m["trial/kept"].as_f64().unwrap() < 1.0), "{refused:?}");
}

#[test]
fn what_does_not_go_with_turns_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (sets, says) in [
        (&[("ppo.overlong", "{ buffer = 3, penalty = 1.0 }")][..], "counts the tokens of one turn"),
        (&[("ppo.advantages", "remax")], "has one turn"),
        (&[("sampling.ignore_eos", "true")], "ends with its end of sequence"),
        (&[("environment.max_tokens", "3")], "at least sampling.max_new_tokens = 12"),
        (&[("environment.max_turns", "0")], "max_turns"),
    ] {
        let error = recipe(dir.path(), "true", sets).unwrap_err().to_string();
        assert!(error.contains(says), "{sets:?}: {error}");
    }
}
