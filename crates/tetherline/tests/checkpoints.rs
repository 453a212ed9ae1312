//! A checkpoint is gone on from, and back to, only if its files are those that the audit has.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tetherline::audit::{check, check_results, read};
use tetherline::{Error, Recipe, RunOptions, Stages, run};
use tetherline_audit::{Head, seal};
use tetherline_core::{Event, Observer, Silent, Stage};

/// A run of 6 steps on a tiny model, with a checkpoint at every second.
struct Setup {
    dir: tempfile::TempDir,
    recipe: Recipe,
}

impl Setup {
    fn new(more: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name).display().to_string()
        };
        let line = |i: usize| format!("{{\"prompt\": \"the boat and the rope {i}\"}}\n");
        let prompts = write("prompts.jsonl", &(0..8).map(line).collect::<String>());
        let held_out = write("held-out.jsonl", &(90..98).map(line).collect::<String>());
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");
        let plain = [
            ("data.prompts", prompts.as_str()),
            ("data.eval_prompts", held_out.as_str()),
            ("model.policy", model),
            ("seed", "3"),
            ("reward.model_weight", "0.0"),
            ("reward.rule", "[{ keyword = { words = ['e', 'o'], cap = 5 } }]"),
            ("sampling.max_new_tokens", "6"),
            ("ppo.steps", "6"),
            ("ppo.batch_size", "4"),
            ("ppo.lr", "1e-3"),
            ("eval.prompts", "0"),
            ("checkpoint.every", "2"),
            ("checkpoint.keep", "20"),
        ];
        let sets: Vec<(String, String)> =
            plain.iter().chain(more).map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let recipe = Recipe::load(&write("empty.toml", ""), &sets).unwrap();
        Self { dir, recipe }
    }

    fn options(&self, name: &str, resume: bool) -> RunOptions {
        let out = self.dir.path().join(name);
        RunOptions { out, resume, after_halt: false, stages: Stages::All, threads: 1, clock: || 0.0 }
    }

    /// A run that was stopped after step 5 and then changed by `change`.
    fn stopped(&self, name: &str, change: impl FnOnce(&Path)) -> RunOptions {
        let options = self.options(name, false);
        let stopped =
            run(&self.recipe, &options, &mut Seen { stop: Some((Stage::Ppo, 5)), ..Seen::default() });
        assert!(matches!(stopped, Err(Error::Interrupted { step: 5, .. })), "{stopped:?}");
        change(&options.out);
        RunOptions { resume: true, ..options }
    }
}

type Change = Box<dyn FnOnce()>;

/// What a run says, and what is done to it on the way.
#[derive(Default)]
struct Seen {
    stop: Option<(Stage, u64)>,
    stopping: bool,
    change: Option<(u64, Change)>,
    warnings: Vec<String>,
    first: Option<u64>,
}

impl Observer for Seen {
    fn on_event(&mut self, event: &Event<'_>) {
        match event {
            Event::Warning(text) => self.warnings.push((*text).to_owned()),
            Event::Step { stage, step, .. } => {
                self.stopping |= self.stop == Some((*stage, *step));
                self.first.get_or_insert(*step);
                if let Some((_, change)) = self.change.take_if(|(at, _)| at == step) {
                    change();
                }
            }
            _ => {}
        }
    }

    fn stop_requested(&self) -> bool {
        self.stopping
    }
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn step(out: &Path, step: u64) -> PathBuf {
    out.join(format!("checkpoints/step-{step:06}"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn logs(out: &Path) -> Vec<String> {
    let names = ["metrics.jsonl", "control.jsonl", "samples.jsonl", "policy/model.safetensors"];
    names.iter().map(|n| String::from_utf8_lossy(&std::fs::read(out.join(n)).unwrap()).into_owned()).collect()
}

/// The audit's hash of a file in a checkpoint, its beginning.
fn recorded(out: &Path, at: u64, file: &str) -> String {
    let (_, records) = read(&out.join("audit.jsonl"), None).unwrap();
    let saved = records.iter().find(|r| r.body["event"] == "checkpoint" && r.body["step"] == at).unwrap();
    saved.body["sha256"][file].as_str().unwrap()[..12].to_owned()
}

#[test]
fn an_edited_checkpoint_is_passed_over_for_an_older_one_and_the_run_ends_the_same() {
    let setup = Setup::new(&[]);
    let straight = setup.options("straight", false);
    run(&setup.recipe, &straight, &mut Silent).unwrap();
    assert_eq!(check(&straight.out, None).unwrap().problems, [""; 0]);
    let wanted = logs(&straight.out);
    // Weights; the controller's state, still JSON that can be read; a file too many; a file that is gone; a whole checkpoint
    // in the place of another; and one that the run never saved.
    type Edit = fn(&Path);
    let edits: [(&str, u64, Edit, &str); 6] = [
        ("weights", 5, |out| flip(&step(out, 5).join("policy.bin")), "policy.bin is not what the run saved"),
        (
            "state",
            5,
            |out| {
                let path = step(out, 5).join("state.json");
                let text = std::fs::read_to_string(&path).unwrap();
                let edited = text.replacen("\"episodes\": 20", "\"episodes\": 24", 1);
                assert_ne!(text, edited);
                std::fs::write(path, edited).unwrap();
            },
            "state.json is not what the run saved",
        ),
        (
            "more",
            5,
            |out| std::fs::write(step(out, 5).join("x.bin"), "x").unwrap(),
            "x.bin (SHA-256 2d711642b726…)",
        ),
        ("less", 5, |out| std::fs::remove_file(step(out, 5).join("value.bin")).unwrap(), "value.bin is gone"),
        ("moved", 5, |out| copy(&step(out, 2), &step(out, 5)), "policy.bin is not what the run saved"),
        ("planted", 9, |out| copy(&step(out, 4), &step(out, 9)), "the audit has no record of it"),
    ];
    for (name, at, edit, problem) in edits {
        let options = setup.stopped(name, edit);
        let found = check(&options.out, None).unwrap().problems;
        assert!(found.len() == 1 && found[0].contains(problem), "{name}: {found:?}");
        assert_eq!(check_results(&options.out).unwrap().problems, [""; 0], "{name}");
        let mut seen = Seen::default();
        run(&setup.recipe, &options, &mut seen).unwrap();
        let told = seen.warnings.iter().find(|w| w.contains(problem));
        let told = told.unwrap_or_else(|| panic!("{name}: {:?}", seen.warnings));
        assert!(told.contains(&format!("step-{at:06}")) && told.contains("; going on from "), "{told}");
        assert_eq!(seen.first, Some(if at == 9 { 6 } else { 5 }), "{name}");
        if name == "weights" {
            let now = tetherline_audit::file_sha256(&step(&straight.out, 4).join("policy.bin")).unwrap();
            let was = recorded(&options.out, 5, "policy.bin");
            assert!(told.contains(&format!("in the audit {was}…")) && !told.contains(&now[..12]), "{told}");
        }
        assert!(logs(&options.out) == wanted, "{name}: the run ends the same");
        // What was passed over is said as long as it is there; one that is newer than what the run saved goes.
        let left = if at == 9 { Vec::new() } else { found };
        assert_eq!(check(&options.out, None).unwrap().problems, left, "{name}");
    }
}

#[test]
fn where_no_checkpoint_is_what_the_run_saved_it_does_not_go_on() {
    let setup = Setup::new(&[("checkpoint.keep", "1")]);
    let options = setup.stopped("run", |out| flip(&step(out, 5).join("policy.bin")));
    let error = run(&setup.recipe, &options, &mut Silent).unwrap_err();
    assert_eq!(error.kind(), tetherline::ErrorKind::Input);
    let (text, was) = (error.to_string(), recorded(&options.out, 5, "policy.bin"));
    for words in ["step-000005: policy.bin is not", &was, "put back what the run saved"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    flip(&step(&options.out, 5).join("policy.bin"));
    run(&setup.recipe, &options, &mut Silent).unwrap();
}

#[test]
fn a_process_killed_between_record_and_checkpoint_is_gone_on_from_exactly() {
    let setup = Setup::new(&[]);
    let straight = setup.options("straight", false);
    run(&setup.recipe, &straight, &mut Silent).unwrap();
    // The record of step 5 is there, and the directory still has its first name.
    let options = setup.stopped("killed", |out| {
        std::fs::rename(step(out, 5), out.join("checkpoints/.tmp-step-000005")).unwrap();
    });
    assert_eq!(check(&options.out, None).unwrap().problems, [""; 0]);
    let mut seen = Seen::default();
    run(&setup.recipe, &options, &mut seen).unwrap();
    assert_eq!((seen.first, seen.warnings.len()), (Some(5), 0), "{:?}", seen.warnings);
    assert!(logs(&options.out) == logs(&straight.out));
}

/// The audit as a version without hashes of checkpoints would have written it.
fn forget_hashes(out: &Path) {
    let path = out.join("audit.jsonl");
    let (_, records) = read(&path, None).unwrap();
    let (mut head, mut text) = (Head::default(), String::new());
    for record in records {
        let mut body: Map<String, Value> = record.body;
        body.remove("checkpoints");
        if body["event"] == "checkpoint" {
            body.remove("sha256");
        }
        let (line, next) = seal(&head, &body).unwrap();
        text.push_str(&(line + "\n"));
        head = next;
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_run_of_an_earlier_version_goes_on_and_is_covered_from_then_on() {
    let setup = Setup::new(&[]);
    for (name, change) in [
        ("earlier", forget_hashes as fn(&Path)),
        // The same where a broken audit was moved away.
        ("moved", |out| std::fs::rename(out.join("audit.jsonl"), out.join("audit-1.jsonl")).unwrap()),
    ] {
        let options = setup.stopped(name, change);
        let mut seen = Seen { stop: Some((Stage::Ppo, 6)), ..Seen::default() };
        run(&setup.recipe, &options, &mut seen).unwrap();
        assert_eq!((seen.first, seen.warnings.len()), (Some(6), 0), "{name}: {:?}", seen.warnings);
        assert_eq!(check(&options.out, None).unwrap().problems, [""; 0], "{name}");
        flip(&step(&options.out, 4).join("value.bin"));
        let found = check(&options.out, None).unwrap().problems;
        assert!(found.len() == 1 && found[0].contains("step-000004: value.bin is not"), "{name}: {found:?}");
    }
}

#[test]
fn a_rollback_passes_over_an_edited_checkpoint() {
    let guard = "{ adaptive = { init = 0.1, target = 0.4 }, guard = {}, trust_region = { cap = 0.5 } }";
    let fault = "[{ at = 4, steps = 3, what = 'nan_gradient' }]";
    let sets = [("kl", guard), ("allow_faults", "true"), ("fault", fault), ("trial.prompts", "8")];
    let setup = Setup::new(&sets);
    // At step 4 a broken trial was under way, so the checkpoint of step 2 is the last that passed.
    for (name, file, to) in
        [("whole", None, 2), ("weights", Some("policy.bin"), 0), ("state", Some("state.json"), 0)]
    {
        let options = setup.options(name, false);
        let path = file.map(|f| step(&options.out, 2).join(f));
        let change = path.map(|path| (5, Box::new(move || flip(&path)) as Change));
        run(&setup.recipe, &options, &mut Seen { change, ..Seen::default() }).unwrap();
        let events = std::fs::read_to_string(options.out.join("events.jsonl")).unwrap();
        let events: Vec<Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let back = events.iter().find(|e| e["event"] == "rolled_back").unwrap();
        assert_eq!((&back["step"], &back["to"]), (&6.into(), &to.into()), "{name}: {back}");
        let text = back["text"].as_str().unwrap();
        match file {
            Some(file) => {
                assert!(text.contains(&format!("step-000002: {file} is not what the run saved")), "{text}")
            }
            None => assert!(!text.contains("passed over"), "{text}"),
        }
    }
}

#[test]
fn checkpoints_of_a_stage_are_covered_too() {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        ("sft.steps", "5"),
        ("sft.batch_size", "4"),
        ("ppo.steps", "1"),
        ("eval.prompts", "0"),
        ("checkpoint.every", "2"),
    ];
    let sets: Vec<(String, String)> = sets.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let recipe = Recipe::load("quickstart", &sets).unwrap();
    let out = dir.path().join("run");
    let options = RunOptions {
        out: out.clone(),
        resume: false,
        after_halt: false,
        stages: Stages::Only(Stage::Sft),
        threads: 1,
        clock: || 0.0,
    };
    let mut seen = Seen { stop: Some((Stage::Sft, 3)), ..Seen::default() };
    run(&recipe, &options, &mut seen).unwrap_err();
    assert_eq!(check(&out, None).unwrap().problems, [""; 0]);
    let saved = out.join("checkpoints/sft/step-000003/model.bin");
    flip(&saved);
    let found = check(&out, None).unwrap().problems;
    assert!(found.len() == 1 && found[0].contains("sft/step-000003: model.bin is not"), "{found:?}");
    let resume = RunOptions { resume: true, ..options };
    let error = run(&recipe, &resume, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("model.bin is not what the run saved"), "{error}");
    flip(&saved);
    let mut seen = Seen::default();
    run(&recipe, &resume, &mut seen).unwrap();
    assert_eq!(seen.first, Some(4));
}
