//! Whole runs on the embedded world, a few steps of each stage.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use std::collections::BTreeMap;
use std::path::Path;
use tetherline::{Error, Recipe, RunOptions, Stages, run};
use tetherline_core::{Event, Observer, Silent, Stage};

/// A recipe of few and small steps.
fn recipe(more: &[(&str, &str)]) -> Recipe {
    let mut sets = vec![
        ("sft.steps", "5"),
        ("sft.batch_size", "4"),
        ("reward.steps", "5"),
        ("reward.batch_size", "4"),
        ("reward.normalize_samples", "8"),
        ("sampling.max_new_tokens", "12"),
        ("ppo.steps", "4"),
        ("ppo.batch_size", "8"),
        ("eval.prompts", "6"),
        ("checkpoint.every", "2"),
    ];
    sets.extend(more);
    let sets: Vec<(String, String)> = sets.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    Recipe::load("quickstart", &sets).unwrap()
}

fn options(out: &Path, threads: usize, resume: bool) -> RunOptions {
    RunOptions { out: out.to_owned(), resume, after_halt: false, stages: Stages::All, threads, clock: || 0.0 }
}

/// Asks to stop after `at` steps of `stage`.
struct StopAt {
    stage: Stage,
    at: u64,
    reached: bool,
}

impl Observer for StopAt {
    fn on_event(&mut self, event: &Event<'_>) {
        if let Event::Step { stage, step, .. } = event {
            self.reached |= *stage == self.stage && *step == self.at;
        }
    }

    fn stop_requested(&self) -> bool {
        self.reached
    }
}

/// Everything a run left but its checkpoints, its lock and its audit, which says that it was interrupted.
fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            match name.as_str() {
                "checkpoints" | ".lock" | "audit.jsonl" => {}
                _ if path.is_dir() => todo.push(path),
                // The report names its directory.
                "report.html" => {
                    let own = root.file_name().unwrap().to_str().unwrap();
                    let text = std::fs::read_to_string(&path).unwrap();
                    out.insert(name, text.replace(&format!(" in {own}"), " in DIR").into_bytes());
                }
                _ => drop(out.insert(name, std::fs::read(&path).unwrap())),
            }
        }
    }
    out
}

#[test]
fn an_interrupted_run_goes_on_bit_for_bit_in_every_stage() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(&[]);
    let straight = dir.path().join("straight");
    run(&recipe, &options(&straight, 1, false), &mut Silent).unwrap();
    let wanted = contents(&straight);
    for file in ["sft.jsonl", "reward.jsonl", "metrics.jsonl", "policy/model.safetensors", "report.html"] {
        assert!(wanted.contains_key(file), "{file} is missing");
    }
    for (stage, at) in [(Stage::Sft, 3), (Stage::Reward, 3), (Stage::Ppo, 3)] {
        let out = dir.path().join(stage.name());
        let mut observer = StopAt { stage, at, reached: false };
        match run(&recipe, &options(&out, 2, false), &mut observer) {
            Err(Error::Interrupted { stage: s, step, checkpoint: Some(path) }) => {
                assert_eq!((s, step), (stage, at));
                assert!(path.is_dir());
            }
            other => panic!("{}: {other:?}", stage.name()),
        }
        let mut steps = Steps(Vec::new());
        run(&recipe, &options(&out, 2, true), &mut steps).unwrap();
        assert_eq!(steps.0.first(), Some(&(stage, at + 1)), "the saved steps are not done again");
        let found = contents(&out);
        assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
        for (name, bytes) in &wanted {
            assert!(found[name] == *bytes, "{name} differs after {} was interrupted", stage.name());
        }
        assert!(!out.join("checkpoints/sft").exists() && !out.join("checkpoints/reward").exists());
    }
}

/// Remembers the steps that were run.
struct Steps(Vec<(Stage, u64)>);

impl Observer for Steps {
    fn on_event(&mut self, event: &Event<'_>) {
        if let Event::Step { stage, step, .. } = event {
            self.0.push((*stage, *step));
        }
    }
}

#[test]
fn the_audit_has_the_sha256_of_every_model_before_the_first_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");
    let prompts = dir.path().join("prompts.jsonl");
    std::fs::write(&prompts, "{\"prompt\": \"a boat\"}\n{\"prompt\": \"a rope\"}\n").unwrap();
    let sets = [
        ("model.policy", model),
        ("data.prompts", prompts.to_str().unwrap()),
        ("reward.model_weight", "0.0"),
        ("reward.rule", "[{ keyword = { words = ['e'] } }]"),
        ("sampling.max_new_tokens", "4"),
        ("ppo.steps", "2"),
        ("ppo.batch_size", "2"),
        ("checkpoint.every", "1"),
        ("eval.prompts", "0"),
    ];
    let sets: Vec<(String, String)> = sets.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let empty = dir.path().join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    let recipe = Recipe::load(empty.to_str().unwrap(), &sets).unwrap();
    let out = dir.path().join("run");
    run(&recipe, &options(&out, 1, false), &mut Silent).unwrap();
    let text = std::fs::read_to_string(out.join("audit.jsonl")).unwrap();
    let records: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let first = |event: &str| records.iter().position(|r| r["event"] == event).unwrap();
    let models = &records[first("models")];
    let whole = tetherline_audit::dir_sha256(Path::new(model)).unwrap();
    assert_eq!(models["sha256"], serde_json::json!({"model.policy": whole}));
    assert!(first("start") < first("models") && first("models") < first("checkpoint"), "{text}");
    // The registry knows the base by that hash, whatever became of the directory.
    let lineage = tetherline::lineage::of(&out, None).unwrap();
    assert_eq!(lineage.known[lineage.bases[0]].id, whole);
}

#[test]
fn a_run_that_ends_on_a_number_that_is_not_finite_leaves_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let title = |out: &Path| {
        let html = std::fs::read_to_string(out.join("report.html")).unwrap();
        let at = html.find("<h1>").unwrap() + 4;
        (html[at..at + html[at..].find("</h1>").unwrap()].to_owned(), html)
    };
    // In the first stage, before there is anything but a few losses.
    let out = dir.path().join("sft");
    let error = run(&recipe(&[("sft.lr", "1e30")]), &options(&out, 1, false), &mut Silent).unwrap_err();
    let Error::NotFinite { stage: Stage::Sft, step, what, last_checkpoint: None } = error else {
        panic!("{error}")
    };
    let (found, html) = title(&out);
    assert_eq!(found, format!("NOT FINITE: stopped at step {step} of sft"));
    assert!(html.contains(&what) && html.contains("No checkpoint had been saved yet."), "{what}");
    // In PPO, with a checkpoint before it; the audit covers what the report says.
    let sets = [("allow_faults", "true"), ("fault", "[{ at = 4, what = 'nan_gradient' }]")];
    let (out, recipe) = (dir.path().join("ppo"), recipe(&sets));
    let error = run(&recipe, &options(&out, 1, false), &mut Silent).unwrap_err();
    let Error::NotFinite { stage: Stage::Ppo, step: 4, what, .. } = error else { panic!("{error}") };
    let told = |html: &str| {
        html.contains(&format!("The run stopped itself: {what}."))
            && html.contains("The last good checkpoint is checkpoints/step-000002.")
    };
    let (found, html) = title(&out);
    assert!(found == "NOT FINITE: stopped at step 4 of ppo" && told(&html), "{found}");
    assert_eq!(tetherline::audit::check(&out, None).unwrap().problems, [""; 0]);
    // Drawn anew it says the same; while the run goes on there is none.
    std::fs::remove_file(out.join("report.html")).unwrap();
    tetherline::report::write(&out).unwrap();
    assert!(told(&title(&out).1));
    let mut observer = StopAt { stage: Stage::Ppo, at: 3, reached: false };
    let stopped = run(&recipe, &options(&out, 1, true), &mut observer);
    assert!(matches!(stopped, Err(Error::Interrupted { step: 3, .. })), "{stopped:?}");
    assert_eq!(title(&out).0, "3 PPO steps, not evaluated");
}

#[test]
fn held_out_prompts_are_measured_as_often_as_asked_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = |name: &str, every: &str| -> Vec<serde_json::Map<String, serde_json::Value>> {
        let out = dir.path().join(name);
        run(&recipe(&[("eval.every", every)]), &options(&out, 2, false), &mut Silent).unwrap();
        let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let (without, mut with) = (metrics("without", "0"), metrics("with", "2"));
    for (step, row) in (1..).zip(&mut with) {
        for key in ["score", "gold", "kl_exact", "entropy", "length"] {
            let value = row.remove(&format!("heldout/{key}"));
            assert_eq!(value.is_some_and(|v| v.is_f64()), step % 2 == 0, "{key} at step {step}");
        }
    }
    assert_eq!(with, without);
}

/// Every stage on the candle graph: the numbers of the kernels, up to rounding.
#[cfg(feature = "graph")]
#[test]
fn a_run_on_the_graph_is_that_of_the_kernels() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = |device: &str| -> Vec<serde_json::Map<String, serde_json::Value>> {
        let out = dir.path().join(device);
        let small = [("device", device), ("ppo.steps", "2"), ("eval.prompts", "0"), ("sft.steps", "3")];
        run(&recipe(&small), &options(&out, 2, false), &mut Silent).unwrap();
        let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let (kernels, graph) = (metrics("cpu"), metrics("graph"));
    assert_eq!((kernels.len(), graph.len()), (2, 2));
    for (kernels, graph) in kernels.iter().zip(&graph) {
        assert_eq!(kernels.keys().collect::<Vec<_>>(), graph.keys().collect::<Vec<_>>());
        for (key, k) in kernels {
            let (Some(k), Some(g)) = (k.as_f64(), graph[key].as_f64()) else { continue };
            assert!((k - g).abs() <= 1e-3 * k.abs().max(1.0), "{key}: {k} on the kernels, {g} on the graph");
        }
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_was_not_built_in_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let e =
        run(&recipe(&[("device", "cuda")]), &options(&out, 1, false), &mut Silent).unwrap_err().to_string();
    assert!(e.starts_with("cannot use device cuda: ") && e.contains("--features cuda"), "{e}");
    assert!(!out.exists());
}

#[test]
fn budgets_of_every_level_are_measured_and_a_row_pays_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let budgets = "[{ id = 'all', target = 3.0 }, { id = 'unsafe', target = 2.0 }, { id = 'user:*', target = 4.0, \
                   metrics = [{ id = 'response/length', warn = 1.0, limit = 90.0 }] }]";
    let sets = [("kl.budget", budgets), ("sft.steps", "1"), ("reward.steps", "1"), ("eval.prompts", "0")];
    let out = dir.path().join("run");
    run(&recipe(&sets), &options(&out, 2, false), &mut Silent).unwrap();
    let lines = |name: &str| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    let control = lines("control.jsonl");
    let (observed, decided) = (&control[0], &control[1]);
    let n = |of: &dyn Fn(&str) -> bool| -> u64 {
        let domains = observed["domains"].as_array().unwrap().iter();
        domains.filter(|d| of(d["id"].as_str().unwrap())).map(|d| d["n"].as_u64().unwrap()).sum()
    };
    assert_eq!(n(&|id| id == "all"), 8);
    assert_eq!(n(&|id| id.starts_with("user:")), 8);
    assert_eq!(n(&|id| id != "all" && !id.starts_with("user:")), 8);
    let length =
        observed["metrics"].as_array().unwrap().iter().find(|m| m["id"] == "response/length").unwrap();
    let metrics = lines("metrics.jsonl");
    assert!(
        (length["value"].as_f64().unwrap() - metrics[0]["response/length"].as_f64().unwrap()).abs() < 1e-9
    );
    assert_eq!(decided["combine"], "sum");
    // Three levels share the initial β; the first step is shaped by it.
    assert!((metrics[0]["objective/kl_coef"].as_f64().unwrap() - 0.1).abs() < 1e-9);

    let unknown = "[{ id = 'all', target = 3.0, metrics = [{ id = 'happiness', warn = 0.1, limit = 0.2 }] }]";
    let sets = [("kl.budget", unknown), ("sft.steps", "1"), ("reward.steps", "1")];
    let error = run(&recipe(&sets), &options(&dir.path().join("other"), 2, false), &mut Silent).unwrap_err();
    assert!(
        error.to_string().contains("happiness") && error.to_string().contains("score/reward_model"),
        "{error}"
    );
}

/// Weights rounded to bf16: sampler and trainer round alike, so the first ratio is 1 and the KL to the start exactly 0.
#[test]
fn a_run_in_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let (out, again) = (dir.path().join("run"), dir.path().join("again"));
    let recipe = recipe(&[("model.dtype", "bf16"), ("sft.steps", "1"), ("reward.steps", "1")]);
    run(&recipe, &options(&out, 2, false), &mut Silent).unwrap();
    run(&recipe, &options(&again, 1, false), &mut Silent).unwrap();
    let found = contents(&out);
    assert_eq!(metric(&found, "objective/kl_exact")[0], 0.0);
    assert!(metric(&found, "objective/kl_exact")[3] > 0.0);
    assert_eq!(found["metrics.jsonl"], contents(&again)["metrics.jsonl"]);
}

/// A metric of every step.
fn metric(run: &BTreeMap<String, Vec<u8>>, key: &str) -> Vec<f64> {
    let text = String::from_utf8(run["metrics.jsonl"].clone()).unwrap();
    let of = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()[key].as_f64().unwrap();
    text.lines().map(of).collect()
}

/// A reference that becomes the policy after every update is the policy that samples next: the KL to it is 0, exactly.
/// One that is mixed by halves follows, and an interrupted run goes on bit for bit, reference included.
#[test]
fn a_reference_that_moves() {
    let dir = tempfile::tempdir().unwrap();
    let started = |name: &str, more: &[(&str, &str)], stop: Option<u64>| {
        let out = dir.path().join(name);
        let more = [more, &[("sft.steps", "1"), ("reward.steps", "1"), ("ppo.lr", "1e-3")]].concat();
        let recipe = recipe(&more);
        if let Some(at) = stop {
            let mut observer = StopAt { stage: Stage::Ppo, at, reached: false };
            assert!(run(&recipe, &options(&out, 2, false), &mut observer).is_err());
        }
        run(&recipe, &options(&out, 1, stop.is_some()), &mut Silent).unwrap();
        contents(&out)
    };
    let fixed = started("fixed", &[], None);
    assert!(metric(&fixed, "objective/kl_exact")[1..].iter().all(|kl| *kl > 0.0));

    let reset = started("reset", &[("kl.reference", "{ reset = { every = 1 } }")], None);
    assert_eq!(metric(&reset, "objective/kl_exact"), [0.0; 4]);
    assert_eq!(metric(&reset, "kl/reference_moves"), [1.0, 2.0, 3.0, 4.0]);
    // What was given up is the KL that each update made, though no rollout shows any.
    let forgiven = metric(&reset, "kl/reference_forgiven");
    assert!(forgiven[0] > 0.0 && forgiven.windows(2).all(|w| w[1] > w[0]), "{forgiven:?}");
    assert_eq!(String::from_utf8_lossy(&reset["events.jsonl"]).matches("reference_reset").count(), 4);

    let ema = [("kl.reference", "{ ema = { rate = 0.5 } }")];
    let (straight, resumed) = (started("ema", &ema, None), started("ema-resumed", &ema, Some(3)));
    assert!(straight == resumed);
    // The first update is forgiven in half of its distance; after that the two runs part.
    let of = |run| metric(run, "objective/kl_exact")[1];
    let share = of(&straight) / of(&fixed);
    assert!((0.15..0.35).contains(&share), "KL is quadratic in the distance: {share}");
}
