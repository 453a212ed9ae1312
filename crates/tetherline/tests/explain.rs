//! Explanations of short runs on a tiny model.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tetherline::drift::{DriftOptions, drift};
use tetherline::eval::explain::Explanation;
use tetherline::explain::{ExplainOptions, explain};
use tetherline::{Device, Recipe, RunOptions, Stages, run};
use tetherline_core::{Silent, Stage};
use tetherline_rollout::SamplingConfig;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");

/// Six steps of PPO with a checkpoint after every second, on twelve prompts of two domains.
fn trained(dir: &Path, name: &str, more: &[(&str, &str)]) -> PathBuf {
    let prompts = dir.join("prompts.jsonl");
    if !prompts.exists() {
        let words = ["boat", "rope", "tide", "lamp", "order", "bread"];
        let text = (0..12).fold(String::new(), |mut text, i| {
            let domain = if i % 3 == 0 { "shop" } else { "harbour" };
            writeln!(text, r#"{{"prompt": "the {} {i}", "domain": "{domain}"}}"#, words[i % 6]).unwrap();
            text
        });
        std::fs::write(&prompts, text).unwrap();
    }
    let file = prompts.display().to_string();
    let plain = [
        ("model.policy", MODEL),
        ("seed", "3"),
        ("data.prompts", &file),
        ("data.eval_prompts", &file),
        ("reward.model_weight", "0.0"),
        ("reward.rule", "[{ keyword = { words = ['e', 'o'], cap = 5 } }]"),
        ("sampling.max_new_tokens", "8"),
        ("ppo.steps", "6"),
        ("ppo.batch_size", "8"),
        ("ppo.epochs", "2"),
        ("ppo.lr", "1e-3"),
        ("ppo.lr_schedule", "constant"),
        ("kl", "{ adaptive = { init = 0.1, target = 0.4 } }"),
        ("eval.prompts", "12"),
        ("checkpoint.every", "2"),
        ("checkpoint.keep", "20"),
    ];
    let sets: Vec<(String, String)> =
        plain.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let base = dir.join("empty.toml");
    std::fs::write(&base, "").unwrap();
    let recipe = Recipe::load(base.to_str().unwrap(), &sets).unwrap();
    let out = dir.join(name);
    let options = RunOptions {
        out: out.clone(),
        resume: false,
        after_halt: false,
        stages: Stages::Only(Stage::Ppo),
        threads: 1,
        clock: || 0.0,
    };
    run(&recipe, &options, &mut Silent).unwrap();
    out
}

fn explained(run: &Path, from: Option<u64>, to: Option<u64>) -> Explanation {
    let options = ExplainOptions {
        run: run.to_owned(),
        from,
        to,
        prompts: None,
        max_prompts: None,
        num_samples: None,
        pairs: 4,
        batch_size: 8,
        threads: 1,
    };
    explain(&options, &mut Silent).unwrap()
}

fn sum(e: &Explanation) -> f64 {
    e.updates.each.iter().map(|u| u.contribution.nats).sum()
}

#[test]
fn contributions_add_up_to_the_drift_that_is_measured_alone() {
    let dir = tempfile::tempdir().unwrap();
    let plain = trained(dir.path(), "plain", &[]);
    let listing = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = (listing(&plain), listing(&plain.join("checkpoints")));
    let e = explained(&plain, None, None);
    assert_eq!((listing(&plain), listing(&plain.join("checkpoints"))), before, "a run is only read");
    assert_eq!((e.from, e.to, e.updates.each.len()), (0, 6, 6));
    let anchors: Vec<(u64, &str)> =
        e.updates.anchors.iter().map(|a| (a.anchor.after, a.source.as_str())).collect();
    assert_eq!(anchors, [(0, "start"), (2, "checkpoint"), (4, "checkpoint"), (6, "policy")]);
    // The same number from the two directories alone.
    let d = drift(
        &DriftOptions {
            policy: plain.join("policy").display().to_string(),
            reference: MODEL.to_owned(),
            prompts: dir.path().join("prompts.jsonl"),
            given: false,
            append_eos: false,
            chat: false,
            sampling: SamplingConfig { max_new_tokens: 8, ..SamplingConfig::default() },
            seed: 3,
            num_samples: 1,
            reference_answers: true,
            pairs: 4,
            batch_size: 4,
            threads: 1,
            device: Device::Cpu,
            skip_bad_lines: false,
        },
        &mut Silent,
    )
    .unwrap()
    .drift;
    assert!(d.kl_nats_per_sequence.mean > 0.01, "it learnt nothing: {:?}", d.kl_nats_per_sequence);
    assert!((sum(&e) - d.kl_nats_per_sequence.mean).abs() < 1e-6, "{} {:?}", sum(&e), d.kl_nats_per_sequence);
    let two = e.drift.as_ref().unwrap();
    assert_eq!(two.shares, d.shares);
    assert!((two.shares.domains.iter().map(|p| p.share).sum::<f64>() - 1.0).abs() < 1e-9);
    // What was in force, and what the reward explains.
    assert_eq!(e.decisions.law, "adaptive");
    assert_eq!(e.decisions.betas["all"].first, 0.1);
    assert!(e.updates.each.iter().all(|u| u.beta.is_some() && u.contribution.stood));
    assert_eq!(e.updates.each[0].beta, Some(0.1));
    let fit = e.reward.as_ref().unwrap();
    assert!(fit.pooled.as_ref().is_none_or(|r| (0.0..=1.0).contains(&r.r_squared)));
    assert!(fit.length_r_squared.is_none() || fit.length_r_squared.unwrap() <= 1.0);
    assert!(e.moves.iter().any(|m| m.key == "objective/kl_exact"));

    // With eval.every = 1 the log has the KL of every policy on the same prompts: it is the checkpoints' own.
    let logged = explained(&trained(dir.path(), "logged", &[("eval.every", "1")]), None, None);
    assert!(logged.updates.each.iter().skip(1).all(|u| u.contribution.measured));
    for a in &e.updates.anchors {
        let same = logged.updates.anchors.iter().find(|b| b.anchor.after == a.anchor.after).unwrap();
        assert!((same.anchor.kl_nats - a.anchor.kl_nats).abs() < 1e-6, "{a:?} {same:?}");
    }

    // A stretch between two checkpoints, and one that was not kept.
    let part = explained(&plain, Some(2), Some(4));
    assert!((sum(&part) - part.updates.total_nats()).abs() < 1e-9);
    assert!(part.compared.contains("against the one after 2"), "{}", part.compared);
    let whole: f64 = e.updates.each[2..4].iter().map(|u| u.contribution.nats).sum();
    assert!((sum(&part) - whole).abs() < 1e-9);
    let one = explained(&plain, Some(2), Some(3));
    assert!(one.drift.is_none() && one.updates.each.len() == 1);
    assert!(one.notes.iter().any(|n| n.contains("kept: after 0, 2, 4, 6")), "{:?}", one.notes);
    assert!(!one.decisions.lines.is_empty(), "of one update every decision is shown");
}

#[test]
fn a_guarded_run_tells_what_was_undone() {
    let dir = tempfile::tempdir().unwrap();
    let kl = "{ adaptive = { init = 0.1, target = 0.4 }, guard = {}, trust_region = { cap = 0.05 } }";
    // Updates 3 and 4 are undone, and after the third of them the run goes back to the policy after 2.
    let fault = "[{ at = 3, steps = 3, what = 'nan_gradient' }]";
    let more =
        [("trial.prompts", "8"), ("model.value", "shared"), ("allow_faults", "true"), ("fault", fault)];
    let out = trained(dir.path(), "guarded", &[&[("kl", kl)], &more[..]].concat());
    let e = explained(&out, None, None);
    assert!((sum(&e) - e.updates.total_nats()).abs() < 1e-9);
    let undone: Vec<_> = e.updates.each.iter().filter(|u| !u.contribution.stood).collect();
    assert!(undone.iter().all(|u| u.contribution.nats == 0.0 || u.contribution.measured), "{undone:?}");
    // The update at which it went back did not stand either.
    assert!(undone.iter().map(|u| u.contribution.update).eq([3, 4, 5]), "{:?}", e.updates.each);
    let json: serde_json::Value = serde_json::to_value(&e).unwrap();
    assert_eq!(json["updates"]["each"][4]["stood"], false);
    // Alone too, whether or not the policies around them were kept.
    let back = explained(&out, Some(4), Some(5));
    assert!(back.updates.each[0].contribution.nats.abs() < 1e-9, "{:?}", back.updates);
    for u in undone {
        let n = u.contribution.update;
        let alone = explained(&out, Some(n - 1), Some(n));
        let contribution = &alone.updates.each[0].contribution;
        assert_eq!((contribution.nats, contribution.stood), (0.0, false), "update {n}: {:?}", alone.updates);
    }
    let acted = e.updates.each.iter().any(|u| u.verdicts.iter().any(|v| v.starts_with("trial: ")));
    assert!(
        acted,
        "a cap of 0.05 nats lets no update of this size stand as it is: {:?}",
        e.decisions.verdicts
    );
    assert!(e.decisions.lines.iter().any(|l| l.phase == "trial" && !l.text.is_empty()));
    assert!(e.html().contains("What each update contributed"));
}

#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let options = |run: &Path, from, to| ExplainOptions {
        run: run.to_owned(),
        from,
        to,
        prompts: None,
        max_prompts: Some(4),
        num_samples: Some(2),
        pairs: 1,
        batch_size: 8,
        threads: 1,
    };
    let e = explain(&options(dir.path(), None, None), &mut Silent).unwrap_err().to_string();
    assert!(e.contains("not a run directory"), "{e}");
    let out = trained(dir.path(), "run", &[("ppo.steps", "2")]);
    for (from, to) in [(Some(2), None), (None, Some(3)), (Some(1), Some(1))] {
        let e = explain(&options(&out, from, to), &mut Silent).unwrap_err().to_string();
        assert!(e.contains("updates 1 to 2"), "{e}");
    }
    // Two samples per prompt: also within prompts, where the reward varies there at all.
    let found = explain(&options(&out, None, None), &mut Silent).unwrap();
    assert_eq!((found.drift.as_ref().unwrap().prompts, found.drift.as_ref().unwrap().responses), (4, 8));
    if let Some(within) = &found.reward.as_ref().unwrap().within_prompts {
        assert_eq!((within.n, within.groups), (8, 4));
    }
}
