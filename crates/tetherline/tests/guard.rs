//! The guard in the loop, on a tiny model with faults injected.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tetherline::replay::Entry;
use tetherline::{Error, Recipe, RunOptions, Stages, run};
use tetherline_core::{Event, Observer, Silent, Stage};

const CAP: f64 = 0.5;

/// A run of 10 steps with a cap of 0.5 nats per sequence and a checkpoint at every second.
struct Setup {
    dir: Rc<tempfile::TempDir>,
    sets: Vec<(String, String)>,
}

impl Setup {
    fn new(more: &[(&str, &str)]) -> Self {
        let dir = Rc::new(tempfile::tempdir().unwrap());
        let words = ["boat", "rope", "tide", "lamp", "order", "bread", "shore", "clerk"];
        let prompts = |start: usize| {
            (start..start + 16).fold(String::new(), |mut text, i| {
                let domain = if i % 4 == 0 { "shop" } else { "harbour" };
                let (a, b) = (words[i % 8], words[(i / 8 + 3 * i) % 8]);
                writeln!(text, r#"{{"prompt": "the {a} and the {b} {i}", "domain": "{domain}"}}"#).unwrap();
                text
            })
        };
        std::fs::write(dir.path().join("prompts.jsonl"), prompts(0)).unwrap();
        std::fs::write(dir.path().join("held-out.jsonl"), prompts(100)).unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");
        let mut sets: Vec<(String, String)> = vec![
            ("data.prompts".into(), file("prompts.jsonl")),
            ("data.eval_prompts".into(), file("held-out.jsonl")),
        ];
        let plain = [
            ("model.policy", model),
            ("seed", "3"),
            ("reward.model_weight", "0.0"),
            ("reward.rule", "[{ keyword = { words = ['e', 'o'], cap = 5 } }]"),
            ("sampling.max_new_tokens", "8"),
            ("ppo.steps", "10"),
            ("ppo.batch_size", "8"),
            ("ppo.epochs", "2"),
            ("ppo.lr", "1e-3"),
            ("ppo.lr_schedule", "constant"),
            ("kl", "{ adaptive = { init = 0.1, target = 0.4 }, guard = {}, trust_region = { cap = 0.5 } }"),
            ("trial.prompts", "16"),
            ("eval.prompts", "0"),
            ("checkpoint.every", "2"),
            ("checkpoint.keep", "20"),
        ];
        // A table is written over another key by key: one of its own replaces the default's.
        let plain = plain.iter().filter(|(key, _)| *key != "kl" || more.iter().all(|(k, _)| k != key));
        sets.extend(plain.chain(more).map(|(k, v)| ((*k).into(), (*v).into())));
        Self { dir, sets }
    }

    fn faulty(fault: &str, more: &[(&str, &str)]) -> Self {
        Self::new(&[&[("allow_faults", "true"), ("fault", fault)], more].concat())
    }

    fn recipe(&self) -> Recipe {
        let path = self.dir.path().join("empty.toml");
        std::fs::write(&path, "").unwrap();
        Recipe::load(path.to_str().unwrap(), &self.sets).unwrap()
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, name: &str) -> Run {
        run(&self.recipe(), &options(&self.out(name)), &mut Silent).unwrap();
        self.at(self.out(name))
    }

    fn at(&self, out: PathBuf) -> Run {
        Run(out, self.dir.clone())
    }
}

fn options(out: &Path) -> RunOptions {
    let out = out.to_owned();
    RunOptions { out, resume: false, after_halt: false, stages: Stages::All, threads: 1, clock: || 0.0 }
}

/// A run directory, and what keeps it from being removed.
struct Run(PathBuf, #[expect(dead_code, reason = "held for its drop")] Rc<tempfile::TempDir>);

impl Run {
    fn lines(&self, log: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.0.join(log)).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn metric(&self, key: &str) -> Vec<f64> {
        self.lines("metrics.jsonl").iter().map(|l| l[key].as_f64().unwrap_or(f64::NAN)).collect()
    }

    fn weights(&self, step: u64) -> (Vec<u8>, Vec<u8>) {
        let of =
            |name: &str| std::fs::read(self.0.join(format!("checkpoints/step-{step:06}/{name}"))).unwrap();
        (of("policy.bin"), of("value.bin"))
    }

    fn events(&self, what: &str) -> Vec<Value> {
        let is = |l: &Value| l["event"] == what || l["verdict"] == what;
        self.lines("events.jsonl").into_iter().filter(is).collect()
    }

    /// The upper bound of KL that each accepted trial measured.
    fn accepted_bounds(&self) -> Vec<f64> {
        let control = self.lines("control.jsonl");
        let pairs = control.windows(2).filter(|w| w[0]["phase"] == "trial" && w[1]["verdict"] == "accept");
        let bound = |d: &Value| {
            let number = |key: &str| d[key].as_f64().unwrap();
            number("mean_kl") + 1.645 * (number("var") / number("n")).sqrt()
        };
        pairs.map(|w| bound(&w[0]["domains"][0])).collect()
    }
}

#[test]
fn accepted_updates_are_those_of_a_run_without_a_guard() {
    let law = "adaptive = { init = 0.1, target = 0.4 }";
    let wide = format!("{{ {law}, guard = {{ blow_up = 1e6 }}, trust_region = {{ cap = 1e6 }} }}");
    let guarded = Setup::new(&[("kl", wide.as_str())]).run("run");
    let plain = Setup::new(&[("kl", &format!("{{ {law} }}"))]).run("run");
    assert!(guarded.weights(10) == plain.weights(10));
    assert_eq!(guarded.metric("trial/kept"), [1.0; 10]);
    let mut shorn = guarded.lines("metrics.jsonl");
    for line in &mut shorn {
        let own =
            |key: &String| key.starts_with("trial/") || key.starts_with("guard/") || key == "time/trial_s";
        line.as_object_mut().unwrap().retain(|key, _| !own(key));
    }
    assert_eq!(shorn, plain.lines("metrics.jsonl"));
    // Two objects per step for the rollout, two for its trial, and a line for each checkpoint that passed.
    let phases = guarded.lines("control.jsonl");
    assert_eq!(phases.iter().filter(|l| l["phase"] == "trial").count(), 10);
    assert_eq!(phases.iter().filter(|l| l["checkpoint"].is_u64()).count(), 6);
}

#[test]
fn a_learning_rate_times_a_hundred_is_scaled_back_below_the_cap() {
    let run = Setup::faulty("[{ at = 4, steps = 2, what = { lr = 100.0 } }]", &[]).run("run");
    let bounds = run.accepted_bounds();
    assert!(!bounds.is_empty() && bounds.iter().all(|b| *b <= CAP), "{bounds:?}");
    let kept = run.metric("trial/kept");
    assert!(kept[3] < 0.9, "{kept:?}");
    let scaled = run.events("scale");
    assert!(
        scaled.iter().any(|l| l["step"] == 4 && l["text"].as_str().unwrap().contains("cap")),
        "{scaled:?}"
    );
}

#[test]
fn every_verdict_is_an_event_with_what_it_was_made_on() {
    let run = Setup::faulty("[{ at = 4, steps = 2, what = { lr = 100.0 } }]", &[]).run("run");
    let control = run.lines("control.jsonl");
    let decided: Vec<_> = control.windows(2).filter(|w| w[0].get("domains").is_some()).collect();
    let events: Vec<Value> =
        run.lines("events.jsonl").into_iter().filter(|l| l["event"] == "verdict").collect();
    assert_eq!(events.len(), decided.len());
    assert!(events.len() > 20, "rollout and trial of each of 10 steps, and the trials of what was scaled");
    for (event, pair) in events.iter().zip(decided) {
        let (seen, decision) = (&pair[0], &pair[1]);
        for key in ["step", "phase", "domains", "trial", "metrics"] {
            assert_eq!(event.get(key), seen.get(key), "{key} of {event}");
        }
        for key in ["verdict", "scale", "lr_factor"] {
            assert_eq!(event[key], decision[key], "{key} of {event}");
        }
        assert_eq!(
            (&event["text"], &event["code"]),
            (&decision["reason"]["text"], &decision["reason"]["code"])
        );
        assert!(event["beta"].is_object(), "{event}");
    }
    let accepted = run.metric("control/accepted");
    assert_eq!((accepted[1], accepted[3]), (1.0, 0.0), "{accepted:?}");
    let report = std::fs::read_to_string(tetherline::report::write(&run.0).unwrap()).unwrap();
    assert!(report.contains("<td>trial 0</td><td>accept</td>"), "an accepted trial stands in the report");
}

#[test]
fn a_gradient_that_is_no_number_leaves_weights_and_moments_bit_for_bit() {
    let wide = "{ adaptive = { init = 0.1, target = 0.4 }, trust_region = { cap = 1e6 } }";
    let every = [("checkpoint.every", "1"), ("kl", wide)];
    let setup = Setup::faulty("[{ at = 4, steps = 2, what = 'nan_gradient' }]", &every);
    let run = setup.run("run");
    assert!(run.weights(3) == run.weights(4));
    assert!(run.weights(3) == run.weights(5));
    // An update that was not made has no losses: none is drawn as 0.
    let has = |key: &str| -> Vec<bool> { run.metric(key).iter().map(|x| x.is_finite()).collect() };
    for key in ["loss/policy_avg", "val/ratio", "grad_norm", "policy/clipfrac_avg"] {
        assert_eq!(has(key)[2..6], [true, false, false, true], "{key}");
    }
    assert!(run.weights(3) != run.weights(6) && run.weights(2) != run.weights(3));
    assert_eq!(run.metric("guard/rejected"), [0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
    let rejected = run.events("reject");
    assert_eq!(rejected.len(), 2);
    assert!(rejected[0]["cause"].as_str().unwrap().contains("gradient"), "{rejected:?}");
    // The data cursor moves on: the batches are those of a run without the fault.
    let healthy = Setup::new(&every).run("run");
    let ids = |run: &Run| -> Vec<Value> {
        run.lines("samples.jsonl").iter().map(|l| l["prompt_id"].clone()).collect()
    };
    assert_eq!(ids(&run), ids(&healthy));
}

#[test]
fn three_broken_updates_roll_back_to_the_last_checkpoint_that_passed() {
    let setup = Setup::faulty("[{ at = 4, steps = 3, what = 'nan_gradient' }]", &[]);
    let straight = setup.run("straight");
    let back = straight.events("rolled_back");
    // At step 4 a broken trial was under way, so the checkpoint of step 2 is the last that passed.
    assert_eq!((back.len(), &back[0]["step"], &back[0]["to"]), (1, &6.into(), &2.into()));
    assert!(straight.weights(6) == straight.weights(2));
    assert!(straight.weights(6) != straight.weights(8));
    let boost = straight.metric("guard/boost");
    assert!((boost[5] - 1.5).abs() < 1e-9 && boost[9] < 1.5, "{boost:?}");
    assert!(straight.metric("guard/lr_factor")[6] < 1.0);
    // β of the next step is the checkpoint's times the boost.
    let beta = straight.metric("objective/kl_coef");
    assert!((beta[6] / beta[2] - 1.5).abs() < 0.1, "{beta:?}");

    // Stopped right before and right after the rollback: the same run.
    for at in [5, 6, 7] {
        let out = setup.out(&format!("stopped-{at}"));
        let stopped = run(&setup.recipe(), &options(&out), &mut StopAt { at, reached: false });
        assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
        run(&setup.recipe(), &RunOptions { resume: true, ..options(&out) }, &mut Silent).unwrap();
        let resumed = setup.at(out);
        replays(&resumed);
        assert!(resumed.weights(10) == straight.weights(10), "stopped after step {at}");
        for log in ["metrics.jsonl", "events.jsonl", "control.jsonl", "samples.jsonl"] {
            assert_eq!(resumed.lines(log), straight.lines(log), "{log}, stopped after step {at}");
        }
    }
}

#[test]
fn a_rollback_that_did_not_help_is_followed_by_one_further_back() {
    let fault =
        "[{ at = 4, steps = 3, what = 'nan_gradient' }, { at = 8, steps = 3, what = 'nan_gradient' }]";
    let setup = Setup::faulty(fault, &[("checkpoint.keep", "1")]);
    let straight = setup.run("straight");
    let went: Vec<_> =
        straight.events("rolled_back").iter().map(|l| (l["step"].clone(), l["to"].clone())).collect();
    // Nothing passed between the two: the start is never pruned.
    assert_eq!(went, [(6.into(), 2.into()), (10.into(), 0.into())]);
    let out = setup.out("stopped");
    run(&setup.recipe(), &options(&out), &mut StopAt { at: 7, reached: false }).unwrap_err();
    run(&setup.recipe(), &RunOptions { resume: true, ..options(&out) }, &mut Silent).unwrap();
    let resumed = setup.at(out);
    replays(&resumed);
    assert_eq!(resumed.lines("events.jsonl"), straight.lines("events.jsonl"));
}

struct StopAt {
    at: u64,
    reached: bool,
}

impl Observer for StopAt {
    fn on_event(&mut self, event: &Event<'_>) {
        if let Event::Step { stage: Stage::Ppo, step, .. } = event {
            self.reached |= *step == self.at;
        }
    }

    fn stop_requested(&self) -> bool {
        self.reached
    }
}

#[test]
fn a_halt_leaves_a_state_that_goes_on_when_told_to() {
    let setup = Setup::faulty("[{ at = 3, steps = 5, what = 'nan_gradient' }]", &[("checkpoint.keep", "1")]);
    let out = setup.out("run");
    match run(&setup.recipe(), &options(&out), &mut Silent) {
        Err(Error::Halted { stage: Stage::Ppo, step: 7, reason }) => {
            assert!(reason.starts_with("broken measurements in a row: 5;"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    // The report is there by itself, says so, and is covered by an end of the audit.
    let report = out.join("report.html");
    let halted =
        |text: &str| text.contains("<h1>HALTED at step 7</h1>") && text.contains("broken measurements");
    assert!(halted(&std::fs::read_to_string(&report).unwrap()));
    assert_eq!(tetherline::audit::check(&out, None).unwrap().problems, [""; 0]);
    let resume = RunOptions { resume: true, ..options(&out) };
    let refused = run(&setup.recipe(), &resume, &mut Silent).unwrap_err().to_string();
    assert!(refused.contains("step 7") && refused.contains("--after-halt"), "{refused}");
    assert!(halted(&std::fs::read_to_string(&report).unwrap()), "halted still");
    run(&setup.recipe(), &RunOptions { after_halt: true, ..resume }, &mut Silent).unwrap();
    let after = std::fs::read_to_string(&report).unwrap();
    assert!(after.contains("<h1>10 PPO steps, not evaluated</h1>"), "it went on");
    let run = setup.at(out);
    assert_eq!(run.metric("step"), (1..=10).map(f64::from).collect::<Vec<_>>());
    assert_eq!(run.metric("trial/kept")[2..7], [0.0; 5]);
    assert!(run.metric("trial/kept")[7..].iter().all(|kept| *kept > 0.0));
    // Updates were failing when it halted: what stands then did not pass, so it goes on from what did.
    let released = run.events("halt_released");
    assert_eq!((released.len(), &released[0]["to"]), (1, &2.into()));
    assert_eq!(run.events("rolled_back").last().unwrap()["step"], 7);
    assert_eq!(replays(&run).events["halt_released"], 1);
    assert_eq!(run.metric("guard/rollbacks"), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_hostile_reward_is_held_by_the_cap() {
    let fault = "[{ at = 3, steps = 8, what = { hostile_reward = 20.0 } }]";
    let run = Setup::faulty(fault, &[("ppo.lr", "5e-3")]).run("run");
    let bounds = run.accepted_bounds();
    assert!(bounds.iter().all(|b| *b <= CAP), "{bounds:?}");
    assert!(!run.events("scale").is_empty() || !run.events("reject").is_empty());
    // Of eight responses each, which is a noisy number.
    let kl = run.metric("objective/kl_exact");
    let mean = kl.iter().sum::<f64>() / kl.len() as f64;
    assert!(mean < 1.5 * CAP && kl.iter().all(|kl| *kl < 3.0 * CAP), "{kl:?}");
}

#[test]
fn a_score_that_is_no_number_is_not_learnt_from() {
    let setup = Setup::faulty("[{ at = 4, what = 'nan_score' }]", &[("checkpoint.every", "1")]);
    let run = setup.run("run");
    assert!(run.weights(3) == run.weights(4));
    let rejected = run.events("reject");
    assert!(rejected[0]["text"].as_str().unwrap().contains("reward_sd"), "{rejected:?}");
    // Without a guard it ends the run, as it always did.
    let plain = Setup::faulty("[{ at = 4, what = 'nan_score' }]", &[("kl", "{ fixed = { init = 0.1 } }")]);
    let error = tetherline::run(&plain.recipe(), &options(&plain.out("run")), &mut Silent).unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 4, .. }), "{error}");
}

#[test]
fn a_domain_whose_prompts_disappear_keeps_its_beta_and_is_reported() {
    let kl = "{ adaptive = { init = 0.1, target = 0.4, horizon = 100 }, guard = {}, trust_region = { cap = 0.5 }, \
              budget = [{ id = 'shop', target = 0.4 }, { id = 'harbour', target = 0.4 }] }";
    let fault = "[{ at = 3, steps = 16, what = { lost_domain = 'shop' } }]";
    let run = Setup::faulty(fault, &[("kl", kl), ("ppo.steps", "22")]).run("run");
    let decisions: Vec<Value> =
        run.lines("control.jsonl").into_iter().filter(|l| l["verdict"].is_string()).collect();
    let beta = |step: u64, id: &str| -> f64 {
        decisions.iter().find(|d| d["step"] == step).unwrap()["beta"][id].as_f64().unwrap()
    };
    assert!((3..=18).all(|step| beta(step, "shop") == beta(2, "shop")));
    assert!(beta(18, "harbour") != beta(2, "harbour"));
    // 8 rows a step, a quarter of them: 20 are missing after 10 steps.
    let absent = run.events("domain_absent");
    assert_eq!((absent.len(), &absent[0]["domain"], &absent[0]["step"]), (1, &"shop".into(), &12.into()));
    assert_eq!(run.events("domain_back")[0]["step"], 19);
    assert!(decisions.iter().all(|d| d["verdict"] != "halt" && d["verdict"] != "rollback"));
}

#[test]
fn faults_are_refused_unless_they_are_allowed() {
    let mut setup = Setup::faulty("[{ at = 3, what = 'nan_gradient' }]", &[]);
    setup.sets.retain(|(key, _)| key != "allow_faults");
    let path = setup.dir.path().join("empty.toml");
    std::fs::write(&path, "").unwrap();
    let error = Recipe::load(path.to_str().unwrap(), &setup.sets).unwrap_err().to_string();
    assert!(error.contains("allow_faults = true"), "{error}");
}

#[test]
fn the_log_of_a_rollback_replays() {
    let setup = Setup::faulty("[{ at = 4, steps = 3, what = 'nan_gradient' }]", &[]);
    let run = setup.run("run");
    let followed = replayed(&setup, &run);
    assert!(followed.iter().any(|e| matches!(e, Entry::RolledBack(2))), "{followed:?}");
}

/// What a replay of a run's log followed besides observations; every decision is the one that was logged.
fn replayed(setup: &Setup, run: &Run) -> Vec<Entry> {
    let entries = tetherline::replay::replay(&setup.recipe().kl, &run.0.join("control.jsonl"), 0).unwrap();
    let observed = |e: &Entry| match e {
        Entry::Observed(replayed) => Some(replayed.decision.clone()),
        _ => None,
    };
    let replayed: Vec<_> = entries.iter().filter_map(observed).collect();
    let logged: Vec<Value> =
        run.lines("control.jsonl").into_iter().filter(|l| l["verdict"].is_string()).collect();
    assert_eq!(replayed.iter().map(|d| serde_json::to_value(d).unwrap()).collect::<Vec<_>>(), logged);
    entries.into_iter().filter(|e| !matches!(e, Entry::Observed(_))).collect()
}

/// A run that halted at step 7 after five broken updates, and a person who lets it go on.
fn released(more: &[(&str, &str)]) -> (Setup, PathBuf, RunOptions) {
    let setup = Setup::faulty("[{ at = 3, steps = 5, what = 'nan_gradient' }]", more);
    let out = setup.out("run");
    let halted = run(&setup.recipe(), &options(&out), &mut Silent);
    assert!(matches!(halted, Err(Error::Halted { step: 7, .. })), "{halted:?}");
    let release = RunOptions { resume: true, after_halt: true, ..options(&out) };
    (setup, out, release)
}

#[test]
fn the_log_of_a_released_halt_replays_to_its_end() {
    let (setup, out, release) = released(&[]);
    run(&setup.recipe(), &release, &mut Silent).unwrap();
    let run = setup.at(out);
    let followed = replayed(&setup, &run);
    let at = followed.iter().position(|e| matches!(e, Entry::Released(7))).unwrap();
    assert!(matches!(followed[at + 1], Entry::RolledBack(2)), "{followed:?}");
    let last = run.lines("control.jsonl").into_iter().rfind(|l| l["verdict"].is_string()).unwrap();
    assert_eq!((&last["step"], &last["verdict"]), (&10.into(), &"accept".into()));
}

#[test]
fn a_release_is_saved_at_once() {
    struct Killed;
    impl Observer for Killed {
        fn on_event(&mut self, event: &Event<'_>) {
            assert!(!matches!(event, Event::Step { stage: Stage::Ppo, .. }), "killed");
        }
    }
    let (setup, out, release) = released(&[("checkpoint.every", "20")]);
    let killed = std::panic::catch_unwind(|| run(&setup.recipe(), &release, &mut Killed));
    assert!(killed.is_err());
    // No report of the halt beside a run that went on: without an end that would look like a cut audit.
    let checked = tetherline::audit::check(&out, None).unwrap();
    assert_eq!((checked.ended, checked.problems), (false, Vec::new()));
    run(&setup.recipe(), &RunOptions { after_halt: false, ..release }, &mut Silent).unwrap();
    let run = setup.at(out);
    assert_eq!(run.metric("step"), (1..=10).map(f64::from).collect::<Vec<_>>());
    assert_eq!(run.events("halt_released").len(), 1);
    replayed(&setup, &run);
}

#[test]
fn a_release_after_broken_batches_goes_back_to_what_passed() {
    let setup = Setup::faulty("[{ at = 3, steps = 5, what = 'nan_score' }]", &[]);
    let out = setup.out("run");
    let halted = run(&setup.recipe(), &options(&out), &mut Silent);
    assert!(matches!(halted, Err(Error::Halted { step: 7, .. })), "{halted:?}");
    run(&setup.recipe(), &RunOptions { resume: true, after_halt: true, ..options(&out) }, &mut Silent)
        .unwrap();
    assert_eq!(setup.at(out).events("halt_released")[0]["to"], 2);
}

#[test]
fn a_value_model_that_alone_is_broken_is_undone_as_a_broken_policy_is() {
    let wide = "{ adaptive = { init = 0.1, target = 0.4 }, trust_region = { cap = 1e6 } }";
    let every = [("checkpoint.every", "1"), ("kl", wide)];
    let fault = "[{ at = 4, steps = 2, what = 'nan_value' }]";
    let run = Setup::faulty(fault, &every).run("run");
    assert!(run.weights(3) == run.weights(4) && run.weights(3) == run.weights(5));
    assert!(run.weights(5) != run.weights(6));
    let cause = run.events("reject")[0]["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains("value model"), "{cause}");
    // Three in a row under a guard go back, and the run reaches its end.
    let back = Setup::faulty("[{ at = 4, steps = 3, what = 'nan_value' }]", &[]).run("run");
    assert_eq!(back.events("rolled_back")[0]["to"], 2);
    assert_eq!(back.metric("step").len(), 10);
    // Without a guard it ends the run at the next rollout.
    let plain = Setup::faulty(fault, &[("kl", "{ fixed = { init = 0.1 } }")]);
    let error = tetherline::run(&plain.recipe(), &options(&plain.out("run")), &mut Silent).unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 5, .. }), "{error}");
}

#[test]
fn values_that_are_no_numbers_are_not_learnt_from_and_lead_back() {
    let setup = Setup::new(&[]);
    let out = setup.out("run");
    let stopped = run(&setup.recipe(), &options(&out), &mut StopAt { at: 5, reached: false });
    assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
    // The value model's weights come back from the disk as no numbers; the checkpoint of an interruption never passes.
    let file = out.join("checkpoints/step-000005/value.bin");
    let mut bytes = std::fs::read(&file).unwrap();
    let end = 24 + (bytes.len() - 24) / 3;
    bytes[24..end].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&f32::NAN.to_le_bytes()));
    std::fs::write(&file, bytes).unwrap();
    // With the audit that the run wrote this checkpoint would be passed over.
    std::fs::remove_file(out.join("audit.jsonl")).unwrap();
    run(&setup.recipe(), &RunOptions { resume: true, ..options(&out) }, &mut Silent).unwrap();
    let run = setup.at(out);
    let back = run.events("rolled_back");
    assert_eq!((back.len(), &back[0]["step"], &back[0]["to"]), (1, &8.into(), &4.into()));
    let cause = run.events("reject")[0]["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains("values of the value model"), "{cause}");
    // Afterwards the values are numbers again: what is refused then, a trial refuses for its KL.
    assert!(run.events("reject").iter().all(|l| l["step"].as_u64() <= Some(8) || l["phase"] == "trial"));
    let value = run.weights(10).1;
    assert!(value[24..].chunks_exact(4).all(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]]).is_finite()));
}

/// Hides the policies of all checkpoints after a step, as a disk does that loses files.
struct Hide<'a> {
    after: u64,
    checkpoints: &'a Path,
}

fn rename_all(checkpoints: &Path, from: &str, to: &str) {
    for entry in std::fs::read_dir(checkpoints).unwrap() {
        let dir = entry.unwrap().path();
        if dir.join(from).exists() {
            std::fs::rename(dir.join(from), dir.join(to)).unwrap();
        }
    }
}

impl Observer for Hide<'_> {
    fn on_event(&mut self, event: &Event<'_>) {
        if matches!(event, Event::Step { stage: Stage::Ppo, step, .. } if *step == self.after) {
            rename_all(self.checkpoints, "policy.bin", "lost.bin");
        }
    }
}

#[test]
fn a_rollback_without_a_checkpoint_to_read_is_a_halt_that_keeps_its_step() {
    let setup = Setup::faulty("[{ at = 4, steps = 3, what = 'nan_gradient' }]", &[]);
    let out = setup.out("run");
    let checkpoints = out.join("checkpoints");
    let halted =
        run(&setup.recipe(), &options(&out), &mut Hide { after: 5, checkpoints: &checkpoints }).unwrap_err();
    assert!(matches!(halted, Error::Halted { step: 6, .. }), "{halted}");
    assert!(halted.to_string().contains("no checkpoint that passed can be read"), "{halted}");
    let at = setup.at(out.clone());
    assert_eq!(at.metric("step").last(), Some(&6.0));
    assert_eq!(at.events("halt").len(), 1);
    let resume = RunOptions { resume: true, ..options(&out) };
    let refused = run(&setup.recipe(), &resume, &mut Silent).unwrap_err().to_string();
    assert!(refused.contains("step 6") && refused.contains("--after-halt"), "{refused}");
    // Released while there is still none, it changes nothing; with one it goes on from there.
    let release = RunOptions { after_halt: true, ..resume };
    let refused = run(&setup.recipe(), &release, &mut Silent).unwrap_err();
    assert!(matches!(refused, Error::Halted { step: 6, .. }), "{refused}");
    rename_all(&checkpoints, "lost.bin", "policy.bin");
    run(&setup.recipe(), &release, &mut Silent).unwrap();
    assert_eq!(at.metric("step").len(), 10);
    assert_eq!(at.events("halt_released")[0]["to"], 2);
    replayed(&setup, &at);
}

#[test]
fn the_distance_to_a_first_reference_that_is_not_kept_is_not_claimed() {
    let moving = |cap: &str| {
        format!(
            "{{ adaptive = {{ init = 0.1, target = 0.4 }}, trust_region = {{ cap = 1e6{cap} }}, \
             reference = {{ sync = {{ mix = 1.0, every = 3 }} }} }}"
        )
    };
    let trials = |kl: &str| -> Vec<Value> {
        let run = Setup::new(&[("kl", kl)]).run("run");
        run.lines("control.jsonl").into_iter().filter(|l| l["phase"] == "trial").collect()
    };
    let unknown = trials(&moving(""));
    assert!(unknown.iter().all(|l| l["domains"][0]["kl_ref0"].is_null()), "{unknown:?}");
    let known = trials(&moving(", ref0_cap = 1e6"));
    let pair = |l: &Value| {
        (l["domains"][0]["mean_kl"].as_f64().unwrap(), l["domains"][0]["kl_ref0"].as_f64().unwrap())
    };
    // Before the reference moves both are one number; afterwards the first is farther away.
    let (early, late) = (pair(&known[2]), pair(&known[9]));
    assert!(early.0 == early.1 && late.1 > 2.0 * late.0, "{early:?} {late:?}");
    let fixed = trials("{ adaptive = { init = 0.1, target = 0.4 }, trust_region = { cap = 1e6 } }");
    assert!(fixed.iter().all(|l| l["domains"][0]["kl_ref0"] == l["domains"][0]["mean_kl"]));
}

/// The audit of a run is whole, the rest of the directory is what it says, and every decision is reproduced.
#[track_caller]
fn replays(run: &Run) -> tetherline::audit::Checked {
    let replayed = tetherline::audit::replay_run(&run.0).unwrap();
    assert_eq!(replayed.differences, [""; 0]);
    let logged = run.lines("control.jsonl").iter().filter(|l| l["verdict"].is_string()).count();
    assert_eq!((replayed.decisions, logged > 10), (logged, true));
    let checked = tetherline::audit::check(&run.0, None).unwrap();
    assert_eq!(checked.problems, [""; 0]);
    checked
}

#[test]
fn the_audit_outlives_a_crash_and_shows_every_edit() {
    let setup = Setup::faulty("[{ at = 4, steps = 3, what = 'nan_gradient' }]", &[]);
    let out = setup.out("run");
    run(&setup.recipe(), &options(&out), &mut StopAt { at: 7, reached: false }).unwrap_err();
    let (head, _) = tetherline::audit::read(&out.join("audit.jsonl"), None).unwrap();
    // As if it had been killed: the last checkpoint is that of step 6, and a record of the audit is torn.
    std::fs::remove_dir_all(out.join("checkpoints/step-000007")).unwrap();
    let audit = std::fs::read_to_string(out.join("audit.jsonl")).unwrap();
    std::fs::write(out.join("audit.jsonl"), audit.clone() + "{\"seq\":99,").unwrap();
    run(&setup.recipe(), &RunOptions { resume: true, ..options(&out) }, &mut Silent).unwrap();
    let run = setup.at(out);
    let checked = replays(&run);
    let records = run.lines("audit.jsonl");
    let decided = |step: u64| records.iter().filter(|r| r["decision"]["step"] == step).count();
    // A rollout and a trial each; step 7 was lost and made again.
    assert_eq!((decided(7), decided(8)), (4, 2));
    assert_eq!(records.iter().find(|r| r["event"] == "resume").unwrap()["torn_bytes"], 10);
    assert_eq!((checked.events["rolled_back"], checked.events["end"]), (1, 2));
    assert!(
        tetherline::audit::check(&run.0, Some(&head)).is_ok(),
        "the head before the crash is still in it"
    );
    assert!(!std::fs::read_to_string(run.0.join("audit.jsonl")).unwrap().contains("the boat"));

    let control = std::fs::read_to_string(run.0.join("control.jsonl")).unwrap();
    let (config, metrics) = (run.0.join("config.toml"), run.0.join("metrics.jsonl"));
    let replay = |text: &str| {
        std::fs::write(run.0.join("control.jsonl"), text).unwrap();
        tetherline::audit::replay_run(&run.0).unwrap().differences
    };
    let line = |n: usize| control.lines().nth(n).unwrap();
    // A verdict that was never given, an observation that was never made, a decision that is gone.
    let differences = replay(&control.replacen("\"lr_factor\":1.0", "\"lr_factor\":0.5", 1));
    assert!(
        differences[0].starts_with("step 1, rollout: lr_factor is 0.5 in control.jsonl"),
        "{differences:?}"
    );
    // The same reason in the words of another build is the same decision; another reason is not.
    let reworded = control.replace("\"text\":\"", "\"text\":\"in other words: ");
    assert_ne!(reworded, control);
    assert_eq!(replay(&reworded), [""; 0]);
    let code = serde_json::from_str::<Value>(line(2)).unwrap()["reason"]["code"].to_string();
    let differences = replay(&control.replacen(&format!("\"code\":{code}"), "\"code\":\"halted\"", 1));
    let (is, was) = ("reason is {\"code\":\"halted\"} in control.jsonl", format!("{{\"code\":{code}}} when"));
    assert!(
        differences.len() == 1 && differences[0].contains(is) && differences[0].contains(&was),
        "{differences:?}"
    );
    let other = line(1).replace("\"n\":8", "\"n\":9");
    assert_ne!(other, line(1));
    let differences = replay(&control.replacen(line(1), &other, 1));
    assert!(differences.iter().any(|d| d.contains("the observation in control.jsonl")), "{differences:?}");
    let differences = replay(&control.replacen(&format!("{}\n", line(2)), "", 1));
    assert!(differences[0].contains("control.jsonl has no decision on it"), "{differences:?}");
    let kept: Vec<_> = control.lines().rev().skip(2).collect();
    let shorter: Vec<_> = kept.into_iter().rev().collect();
    assert!(!replay(&(shorter.join("\n") + "\n")).is_empty());
    assert!(replay(&control).is_empty());
    // Other files of the run.
    for path in [config, metrics] {
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}\n")).unwrap();
        let problems = tetherline::audit::check(&run.0, None).unwrap().problems;
        assert!(problems.len() == 1 && problems[0].contains("is not what it was"), "{problems:?}");
        std::fs::write(&path, text).unwrap();
    }
    let edited =
        std::fs::read_to_string(run.0.join("audit.jsonl")).unwrap().replacen("\"seed\":3", "\"seed\":4", 1);
    std::fs::write(run.0.join("audit.jsonl"), edited).unwrap();
    assert!(tetherline::audit::check(&run.0, None).unwrap_err().to_string().contains("line 1 was edited"));
}
