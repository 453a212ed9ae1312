//! Budgets that follow metrics, and drift over several runs, on a tiny model.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tetherline::{Error, Recipe, RunOptions, Stages, run};
use tetherline_core::{Event, Observer, Silent, Stage};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");

fn recipe(dir: &Path, more: &[(&str, &str)]) -> Recipe {
    let words = ["boat", "rope", "tide", "lamp", "order", "bread", "shore", "clerk"];
    let text = (0..16).fold(String::new(), |mut text, i| {
        writeln!(text, r#"{{"prompt": "the {} and the {} {i}"}}"#, words[i % 8], words[(i / 8 + 3 * i) % 8])
            .unwrap();
        text
    });
    std::fs::write(dir.join("prompts.jsonl"), text).unwrap();
    std::fs::write(dir.join("empty.toml"), "").unwrap();
    let prompts = dir.join("prompts.jsonl").display().to_string();
    let plain = [
        ("model.policy", MODEL),
        ("data.prompts", &prompts),
        ("seed", "3"),
        ("reward.model_weight", "0.0"),
        ("reward.rule", "[{ keyword = { words = ['e', 'o'], cap = 5 } }]"),
        ("sampling.max_new_tokens", "8"),
        ("ppo.batch_size", "8"),
        ("ppo.epochs", "2"),
        ("ppo.lr", "1e-3"),
        ("ppo.lr_schedule", "constant"),
        ("eval.prompts", "0"),
    ];
    let plain = plain.iter().filter(|(key, _)| more.iter().all(|(k, _)| k != key));
    let sets: Vec<(String, String)> = plain.chain(more).map(|(k, v)| ((*k).into(), (*v).into())).collect();
    Recipe::load(dir.join("empty.toml").to_str().unwrap(), &sets).unwrap()
}

fn options(out: PathBuf) -> RunOptions {
    RunOptions { out, resume: false, after_halt: false, stages: Stages::All, threads: 1, clock: || 0.0 }
}

fn lines(out: &Path, log: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join(log)).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn targets(out: &Path) -> Vec<f64> {
    lines(out, "metrics.jsonl").iter().map(|l| l["budget/all/target"].as_f64().unwrap()).collect()
}

fn budget(metric: &str) -> String {
    format!(
        "{{ adaptive = {{ init = 0.1, target = 0.4 }}, budget = [{{ id = 'all', target = 0.4, metrics = [{metric}] }}] }}"
    )
}

struct StopAfterFirst(bool);

impl Observer for StopAfterFirst {
    fn on_event(&mut self, event: &Event<'_>) {
        self.0 |= matches!(event, Event::Step { stage: Stage::Ppo, .. });
    }

    fn stop_requested(&self) -> bool {
        self.0
    }
}

#[test]
fn a_metric_of_the_log_tightens_a_budget_at_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let kl = budget("{ id = 'grad_norm', warn = 1e-9, limit = 2e-9 }");
    let recipe = recipe(dir.path(), &[("kl", &kl), ("ppo.steps", "4")]);
    let out = dir.path().join("straight");
    run(&recipe, &options(out.clone()), &mut Silent).unwrap();
    // A fifth of the target is the least; the first step has no log before it.
    let wanted = [0.4, 0.08, 0.08, 0.08];
    assert!(targets(&out).iter().zip(wanted).all(|(t, w)| (t - w).abs() < 1e-12), "{:?}", targets(&out));
    let decision =
        lines(&out, "control.jsonl").into_iter().filter(|l| l["verdict"].is_string()).nth(1).unwrap();
    assert_eq!(decision["reason"]["code"], "budget_tightened");
    // The value of the step before is part of what an interrupted run keeps.
    let stopped = dir.path().join("stopped");
    let error = run(&recipe, &options(stopped.clone()), &mut StopAfterFirst(false)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    run(&recipe, &RunOptions { resume: true, ..options(stopped.clone()) }, &mut Silent).unwrap();
    assert_eq!(lines(&stopped, "control.jsonl"), lines(&out, "control.jsonl"));
}

#[test]
fn a_metric_that_crosses_its_limit_tightens_at_once_and_relaxes_slowly() {
    let dir = tempfile::tempdir().unwrap();
    let kl = budget("{ id = 'score', warn = 50.0, limit = 100.0 }");
    let fault = "[{ at = 3, steps = 2, what = { hostile_reward = 1000.0 } }]";
    let more = [
        ("kl", kl.as_str()),
        ("ppo.steps", "11"),
        ("ppo.lr", "1e-5"),
        ("allow_faults", "true"),
        ("fault", fault),
    ];
    let out = dir.path().join("run");
    run(&recipe(dir.path(), &more), &options(out.clone()), &mut Silent).unwrap();
    // Five clean steps (5 to 9), then 5 % a step.
    let relaxed = [0.08 * 1.05, 0.08 * 1.05 * 1.05, 0.08 * 1.05f64.powi(3)];
    let wanted = [&[0.4; 2][..], &[0.08; 6], &relaxed].concat();
    assert!(targets(&out).iter().zip(wanted).all(|(t, w)| (t - w).abs() < 1e-12), "{:?}", targets(&out));
}

#[test]
fn a_metric_that_nothing_measures_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for unknown in ["refusal/unsafe", "time/rollout_s", "heldout/gold", "grad-norm"] {
        let kl = budget(&format!("{{ id = '{unknown}', warn = 0.2, limit = 0.1 }}"));
        let recipe = recipe(dir.path(), &[("kl", &kl), ("ppo.steps", "2")]);
        let out = dir.path().join(unknown.replace('/', "-"));
        let error = run(&recipe, &options(out), &mut Silent).unwrap_err().to_string();
        assert!(error.contains(unknown) && error.contains("grad_norm"), "{error}");
    }
}

fn ledger(out: &Path) -> tetherline::rounds::DriftLedger {
    serde_json::from_slice(&std::fs::read(out.join("policy/drift_ledger.json")).unwrap()).unwrap()
}

/// The mean exact KL of a saved policy to the tiny model itself, on its own responses.
fn distance(recipe: &Recipe, policy: &Path) -> f64 {
    use tetherline_models::{Engine, Model, ModelFiles};
    let engine = Engine::new(1);
    let heads = tetherline::ppo::POLICY_HEADS;
    let load = |dir: &Path| Model::load(&ModelFiles::dir(dir).unwrap(), heads, 0).unwrap();
    let (policy, first) = (load(policy), load(Path::new(MODEL)));
    let codec = tetherline::codec::Codec::load(&ModelFiles::dir(MODEL).unwrap(), &first).unwrap();
    let mut scorer = tetherline::scoring::Scorer::new(recipe, &codec, Path::new("")).unwrap();
    let recipe = Recipe {
        eval: tetherline::recipe::EvalConfig { prompts: 16, ..recipe.eval.clone() },
        ..recipe.clone()
    };
    let prompts = tetherline::evaluate::prompts(&recipe, &codec, policy.context(), &mut Silent).unwrap();
    let records =
        tetherline::evaluate::evaluate(&recipe, &policy, &first, &codec, &mut scorer, &engine, prompts)
            .unwrap();
    records.iter().map(|r| r.kl_exact.unwrap()).sum::<f64>() / records.len() as f64
}

#[test]
fn a_policy_of_five_rounds_knows_its_distance_to_the_first_reference() {
    let dir = tempfile::tempdir().unwrap();
    let kl = "{ fixed = { init = 0.01 }, ledger = { limit = 1000.0 } }";
    let mut start = MODEL.to_owned();
    let mut before = 0.0;
    for round in 1..=5 {
        let out = dir.path().join(format!("round-{round}"));
        let (seed, name) = (round.to_string(), format!("round-{round}"));
        let more = [
            ("model.policy", start.as_str()),
            ("kl", kl),
            ("ppo.steps", "3"),
            ("seed", &seed),
            ("name", &name),
        ];
        let recipe = recipe(dir.path(), &more);
        run(&recipe, &options(out.clone()), &mut Silent).unwrap();
        let found = ledger(&out);
        assert_eq!(
            (found.rounds.len(), found.first.model.as_str()),
            (round, Path::new(MODEL).to_str().unwrap())
        );
        let last = found.rounds.last().unwrap();
        let measured = distance(&recipe, &out.join("policy"));
        assert!((last.kl_first.unwrap() - measured).abs() < 1e-6 * measured, "{last:?} {measured}");
        // So do gates, which otherwise would see the last round alone.
        let gated = tetherline::gate::run_metrics(&out).unwrap().get("kl_first_reference").copied();
        assert_eq!(gated, last.kl_first.filter(|_| round > 1), "round {round}");
        // KL to the round's own reference starts at nothing again.
        assert_eq!(round == 1, last.kl_first == last.kl_reference, "{last:?}");
        // The ledger counts on.
        let spent: Vec<f64> =
            lines(&out, "metrics.jsonl").iter().map(|l| l["kl/ledger_spent"].as_f64().unwrap()).collect();
        assert!(spent[0] >= before && spent.is_sorted(), "{spent:?} after {before}");
        before = *spent.last().unwrap();
        assert!((found.spent() - before).abs() < 1e-9, "{} {before}", found.spent());
        start = out.join("policy").display().to_string();
    }
    let found = ledger(&dir.path().join("round-5"));
    let last = found.rounds.last().unwrap();
    assert!(last.kl_first.unwrap() > 1.5 * last.kl_reference.unwrap(), "{found:?}");
}

#[test]
fn a_cap_to_the_first_reference_holds_over_rounds_or_says_what_it_misses() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    std::fs::create_dir(&first).unwrap();
    for entry in std::fs::read_dir(MODEL).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
        std::fs::copy(&entry, first.join(entry.file_name().unwrap())).unwrap();
    }
    let first = first.display().to_string();
    let one = dir.path().join("one");
    let more = [("model.policy", first.as_str()), ("kl", "{ fixed = { init = 0.01 } }"), ("ppo.steps", "3")];
    run(&recipe(dir.path(), &more), &options(one.clone()), &mut Silent).unwrap();
    let policy = one.join("policy").display().to_string();
    let again = |name: &str, kl: &str| {
        let more =
            [("model.policy", policy.as_str()), ("kl", kl), ("ppo.steps", "2"), ("trial.prompts", "8")];
        let out = dir.path().join(name);
        run(&recipe(dir.path(), &more), &options(out.clone()), &mut Silent).map(|_| out)
    };
    let law = "adaptive = { init = 0.1, target = 0.4 }";
    let capped = format!("{{ {law}, trust_region = {{ cap = 1e6, ref0_cap = 1e6 }} }}");
    let trial = |out: &Path| lines(out, "control.jsonl").into_iter().find(|l| l["phase"] == "trial").unwrap();
    let seen = trial(&again("two", &capped).unwrap());
    let number = |key: &str| seen["domains"][0][key].as_f64().unwrap();
    assert!(number("kl_ref0") > number("mean_kl"), "{seen}");
    // Without the cap it is not measured, and not claimed to be the distance to this round's reference.
    let plain = trial(&again("three", &format!("{{ {law}, trust_region = {{ cap = 1e6 }} }}")).unwrap());
    assert!(plain["domains"][0]["kl_ref0"].is_null(), "{plain}");
    std::fs::remove_dir_all(&first).unwrap();
    let error = again("four", &capped).unwrap_err().to_string();
    assert!(error.contains("ref0_cap") && error.contains(&first), "{error}");
    let lost = again("five", "{ fixed = { init = 0.01 } }").unwrap();
    assert_eq!(ledger(&lost).rounds.last().unwrap().kl_first, None);
}
