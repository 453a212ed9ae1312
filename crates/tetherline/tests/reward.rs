//! Reward models trained on preferences of every kind, and sources of scores that fail in the loop.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use tetherline::{Recipe, RunOptions, Stages, run};
use tetherline_core::{Silent, Stage};

fn recipe(sets: &[(&str, String)]) -> Recipe {
    let few = [
        ("sft.steps", "0"),
        ("sft.epochs", "0"),
        ("reward.steps", "3"),
        ("reward.batch_size", "8"),
        ("reward.normalize_samples", "8"),
        ("sampling.max_new_tokens", "8"),
        ("ppo.steps", "3"),
        ("ppo.batch_size", "8"),
        ("eval.prompts", "0"),
    ];
    let mut all: Vec<(String, String)> = few.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    all.extend(sets.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
    Recipe::load("quickstart", &all).unwrap()
}

fn stage(recipe: &Recipe, out: &Path, stage: Stage) -> Result<tetherline::RunSummary, tetherline::Error> {
    let options = RunOptions {
        out: out.to_owned(),
        resume: false,
        after_halt: false,
        stages: Stages::Only(stage),
        threads: 1,
        clock: || 0.0,
    };
    run(recipe, &options, &mut Silent)
}

fn lines(path: PathBuf) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn file(dir: &Path, name: &str, rows: impl Iterator<Item = String>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, rows.map(|r| r + "\n").collect::<String>()).unwrap();
    path.display().to_string()
}

/// Pairs with and without soft labels, ties, margins and rankings train together; the report is of the held-out file.
#[test]
fn preferences_of_every_kind() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        r#"{"prompt": "pN", "chosen": "Thank you, done.", "rejected": "No."}"#,
        r#"{"prompt": "pN", "chosen": "Yes, at once.", "rejected": "Never ever.", "p_chosen": 0.7, "margin": 0.5}"#,
        r#"{"prompt": "pN", "chosen": "Yes.", "rejected": "Sure.", "p_chosen": 0.5}"#,
        r#"{"prompt": "pN", "responses": ["Good.", "Fine.", "Well.", "Bad."], "ranks": [1, 2, 2, 4]}"#,
    ];
    let train =
        file(dir.path(), "train.jsonl", (0..24).map(|i| kinds[i % 4].replace("pN", &format!("p{i}"))));
    let held = [
        r#"{"prompt": "q", "chosen": "Thank you, it is done now, and well.", "rejected": "No.", "agreement": 0.9}"#,
        r#"{"prompt": "q", "chosen": "Yes.", "rejected": "Never, and not now, and not at all.", "p_chosen": 0.3}"#,
        r#"{"prompt": "q", "chosen": "Yes.", "rejected": "Sure.", "p_chosen": 0.5}"#,
        r#"{"prompt": "q", "responses": ["Good, and good again, and more of it, and all of it.", "Bad, and more of it.", "So."]}"#,
    ];
    let test = file(dir.path(), "test.jsonl", held.iter().map(|s| (*s).to_owned()));
    for (ranking, debias) in [("plackett_luce", "false"), ("pairs", "true")] {
        let recipe = recipe(&[
            ("data.pairs", train.clone()),
            ("data.pairs_eval", test.clone()),
            ("reward.ranking", format!("{ranking:?}")),
            ("reward.length_debias", debias.into()),
            ("reward.label_smoothing", "0.05".into()),
            ("reward.center_coef", "0.01".into()),
        ]);
        let out = dir.path().join(ranking);
        stage(&recipe, &out, Stage::Reward).unwrap();
        assert!(lines(out.join("reward.jsonl")).iter().all(|l| l["loss"].as_f64().unwrap() < 3.0));
        let report: Value =
            serde_json::from_str(&std::fs::read_to_string(out.join("reward_held_out.json")).unwrap())
                .unwrap();
        // Two pairs that are no tie, and the three of the ranking.
        assert_eq!((&report["pairs"], &report["ties"]), (&5.into(), &1.into()));
        // 0.9, and 0.7 for the label of 0.3.
        assert!((report["noise_ceiling"].as_f64().unwrap() - 0.8).abs() < 1e-12, "{report}");
        assert_eq!(report["agreement_known"], 2);
        // The better answer is the longer one in all five.
        let length = &report["length_only"];
        let longer = length["prefers_longer"].as_bool().unwrap();
        assert_eq!(length["accuracy"].as_f64().unwrap(), if longer { 1.0 } else { 0.0 }, "{report}");
        assert!(report["bag_of_words"].is_number() && report["accuracy_ci"][1].as_f64().unwrap() <= 1.0);
    }
}

/// Raters who like length and nothing else teach a reward model length, unless it is held out of the score.
#[test]
fn length_can_be_held_out_of_the_score() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["order", "refund", "today", "please", "parcel", "account", "ship", "help"];
    let text = |seed: usize, n: usize| {
        let word = |i: usize| words[(seed * 7 + i * i + 3 * i) % words.len()];
        (0..n).map(word).collect::<Vec<_>>().join(" ")
    };
    let row = |i: usize| {
        let (a, b) = (2 + i * 5 % 7, 2 + (i * 3 + 2) % 9);
        let (long, short) = (text(i, a.max(b)), text(i + 1, a.min(b)));
        // In one of six pairs the shorter one wins.
        let (chosen, rejected) = if i % 6 == 5 { (short, long) } else { (long, short) };
        format!(r#"{{"prompt": "case {i}", "chosen": "{chosen}", "rejected": "{rejected}"}}"#)
    };
    let train = file(dir.path(), "train.jsonl", (0..240).map(row));
    let test = file(dir.path(), "test.jsonl", (240..340).map(row));
    let correlation = |debias: &str| {
        let recipe = recipe(&[
            ("data.pairs", train.clone()),
            ("data.pairs_eval", test.clone()),
            ("reward.length_debias", debias.into()),
            ("reward.steps", "40".into()),
            ("reward.epochs", "3".into()),
            ("reward.batch_size", "16".into()),
            ("reward.lr", "1e-3".into()),
        ]);
        let out = dir.path().join(debias);
        stage(&recipe, &out, Stage::Reward).unwrap();
        let report = std::fs::read_to_string(out.join("reward_held_out.json")).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        report["length_correlation"].as_f64().unwrap()
    };
    let (plain, debiased) = (correlation("false"), correlation("true"));
    assert!(plain > 0.3 && debiased.abs() < 0.5 * plain, "{plain} {debiased}");
}

/// A program that stops answering costs the run nothing but its scores; answers of prompts reach the checks.
#[cfg(unix)]
#[test]
fn a_source_that_dies_is_stood_in_for() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = file(
        dir.path(),
        "prompts.jsonl",
        (0..6).map(|i| format!(r#"{{"prompt": "Say {i}.", "answer": "never said"}}"#)),
    );
    let marker = dir.path().join("asked");
    let script = format!(
        "if [ -e {0} ]; then echo gone >&2; exit 1; fi; touch {0}; while read -r l; do echo 0.5; done",
        marker.display()
    );
    let rules = format!(
        "[{{ command = {{ name = \"judge\", argv = [\"sh\", \"-c\", {script:?}], on_failure = {{ score = -1.0 }} }} }}, \
         {{ exact = {{}} }}]"
    );
    let recipe = recipe(&[
        ("reward.model_weight", "0".into()),
        ("reward.rule", rules),
        ("data.prompts", prompts.clone()),
    ]);
    let out = dir.path().join("run");
    stage(&recipe, &out, Stage::Ppo).unwrap();
    let metrics = lines(out.join("metrics.jsonl"));
    let of = |key: &str| metrics.iter().map(|m| m[key].as_f64()).collect::<Vec<_>>();
    assert_eq!(of("score/rule.judge"), [Some(0.5), Some(-1.0), Some(-1.0)]);
    assert_eq!(of("fallback/judge"), [None, Some(1.0), Some(1.0)]);
    assert_eq!(of("score/rule.exact"), [Some(0.0); 3]);
    let events = lines(out.join("events.jsonl"));
    let lost: Vec<&Value> = events.iter().filter(|e| e["event"] == "score_fallback").collect();
    assert_eq!((lost.len(), &lost[0]["step"], lost[0]["rows"].as_array().unwrap().len()), (2, &2.into(), 8));
    assert!(lost[0]["text"].as_str().unwrap().contains("gone"), "{lost:?}");

    // A prompt without an answer is named.
    std::fs::remove_file(&marker).unwrap();
    std::fs::write(&prompts, "{\"prompt\": \"What now?\"}\n").unwrap();
    let error = stage(&recipe, &dir.path().join("other"), Stage::Ppo).unwrap_err().to_string();
    assert!(error.contains("What now?") && error.contains("`answer`"), "{error}");
}

fn encoder(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/encoders");
    root.join(name).canonicalize().unwrap().display().to_string()
}

/// A frozen encoder scores responses: what the run logs is what the encoder says of each response's text.
#[cfg(feature = "encoders")]
#[test]
fn an_encoder_scores_what_was_written() {
    use tetherline_models::{Encoder, ModelFiles};
    let dir = tempfile::tempdir().unwrap();
    let rules = format!(
        "[{{ encoder = {{ name = \"cheer\", model = {:?}, weight = 2.0 }} }}, \
         {{ encoder = {{ name = \"toxic\", model = {:?}, label = \"insult\", output = \"probability\", pair = true }} }}]",
        encoder("distilbert"),
        encoder("roberta")
    );
    let sets = |rules: &str| {
        recipe(&[
            ("reward.model_weight", "0".into()),
            ("reward.rule", rules.to_owned()),
            ("ppo.missing_eos_penalty", "\"none\"".to_owned()),
        ])
    };
    let out = dir.path().join("run");
    stage(&sets(&rules), &out, Stage::Ppo).unwrap();
    let load = |name| Encoder::load(&ModelFiles::dir(encoder(name)).unwrap()).unwrap();
    let (cheer, toxic) = (load("distilbert"), load("roberta"));
    let samples = lines(out.join("samples.jsonl"));
    assert!(!samples.is_empty());
    for sample in samples {
        let text = |key: &str| sample[key].as_str().unwrap();
        let z = &cheer.logits(&[(text("response"), None)]).unwrap()[0];
        let t = toxic.logits(&[(text("prompt"), Some(text("response")))]).unwrap()[0][1];
        let expected = f64::from(2.0 * (z[1] - z[0])) + 1.0 / (1.0 + f64::from(-t).exp());
        let score = sample["score"].as_f64().unwrap();
        assert!((score - expected).abs() < 1e-4, "{score} {expected} {sample}");
    }
    // A label that has to be said, and one that is not there.
    for (rule, part) in [("", "say which of"), (", label = \"rude\"", "\"rude\" is none of")] {
        let rule = format!("[{{ encoder = {{ model = {:?}{rule} }} }}]", encoder("roberta"));
        let error = stage(&sets(&rule), &dir.path().join("bad"), Stage::Ppo).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("toxic"), "{error}");
        std::fs::remove_dir_all(dir.path().join("bad")).unwrap();
    }
}

/// An encoder as the reward model: prompt and response as a pair, on the scale of the reference policy where that is asked for.
/// The value function starts from the policy.
#[cfg(feature = "encoders")]
#[test]
fn an_encoder_can_be_the_reward_model() {
    use tetherline_models::{Encoder, ModelFiles};
    let dir = tempfile::tempdir().unwrap();
    let sets = |more: &[(&str, String)]| {
        let plain = [
            ("model.reward", encoder("bert")),
            ("ppo.missing_eos_penalty", "\"none\"".to_owned()),
            ("eval.prompts", "4".to_owned()),
        ];
        recipe(&[&plain[..], more].concat())
    };
    let out = dir.path().join("run");
    stage(&sets(&[]), &out, Stage::Ppo).unwrap();
    let bert = Encoder::load(&ModelFiles::dir(encoder("bert")).unwrap()).unwrap();
    let text = |sample: &Value, key: &str| sample[key].as_str().unwrap().to_owned();
    let raw = |sample: &Value| {
        let (prompt, response) = (text(sample, "prompt"), text(sample, "response"));
        f64::from(bert.logits(&[(&prompt, Some(&response))]).unwrap()[0][0])
    };
    let samples = lines(out.join("samples.jsonl"));
    assert!(samples.len() > 2);
    for sample in &samples {
        let (score, raw) = (sample["score"].as_f64().unwrap(), raw(sample));
        assert!((score - raw).abs() < 1e-4, "{score} {raw} {sample}");
    }
    stage(&sets(&[]), &out, Stage::Eval).unwrap();
    // On the reference's scale: (raw − mean)/std.
    let scaled = dir.path().join("scaled");
    stage(&sets(&[("reward.normalize", "[\"reward_model\"]".to_owned())]), &scaled, Stage::Ppo).unwrap();
    let norms = std::fs::read_to_string(scaled.join("score_norms.json")).unwrap();
    let norm = serde_json::from_str::<Value>(&norms).unwrap()["reward_model"].take();
    let (mean, std) = (norm["mean"].as_f64().unwrap(), norm["std"].as_f64().unwrap());
    assert!(mean.abs() > 0.1 && (std - 1.0).abs() > 0.01, "{norm}");
    for sample in lines(scaled.join("samples.jsonl")) {
        let (score, want) = (sample["score"].as_f64().unwrap(), (raw(&sample) - mean) / std);
        assert!((score - want).abs() < 1e-4, "{score} {want} {sample}");
    }
}

/// An encoder as the cost model: the logged cost is what it says of the responses.
#[cfg(feature = "encoders")]
#[test]
fn an_encoder_can_be_the_cost_model() {
    use tetherline_models::{Encoder, ModelFiles};
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let of_costs = recipe(&[
        ("reward.model_weight", "0".into()),
        ("reward.rule", "[{ keyword = { words = [\"e\"] } }]".to_owned()),
        ("model.cost", encoder("bert")),
        ("model.value", "separate".to_owned()),
        ("cost", "{ limit = 0.5 }".to_owned()),
        // So few that every response is among the samples.
        ("ppo.batch_size", "2".to_owned()),
        ("ppo.minibatches", "1".to_owned()),
    ]);
    stage(&of_costs, &out, Stage::Ppo).unwrap();
    let bert = Encoder::load(&ModelFiles::dir(encoder("bert")).unwrap()).unwrap();
    let samples = lines(out.join("samples.jsonl"));
    for (i, step) in lines(out.join("metrics.jsonl")).iter().enumerate() {
        let of_step: Vec<&Value> = samples.iter().filter(|s| s["step"] == i + 1).collect();
        assert_eq!(of_step.len(), 2, "{samples:?}");
        let cost = |s: &&Value| {
            let text = |key: &str| s[key].as_str().unwrap();
            f64::from(bert.logits(&[(text("prompt"), Some(text("response")))]).unwrap()[0][0])
        };
        let want = of_step.iter().map(cost).sum::<f64>() / 2.0;
        let (all, part) = (step["cost/mean"].as_f64().unwrap(), step["cost/reward_model"].as_f64().unwrap());
        assert!((all - want).abs() < 1e-4 && (part - want).abs() < 1e-4, "{all} {part} {want}");
    }
}

/// `tether score` with an encoder: logits by label, a score where one label is meant, and text alone.
#[cfg(feature = "encoders")]
#[test]
fn given_responses_are_scored_by_an_encoder() {
    use tetherline::score::{ScoreOptions, score};
    use tetherline_models::{Encoder, ModelFiles};
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| format!("{{\"prompt\": \"Question {i}?\", \"response\": \"An answer, the {i}.\"}}");
    let data = file(dir.path(), "data.jsonl", (0..3).map(row));
    let run = |model: &str, data: &str, reference: Option<&str>| {
        let options = ScoreOptions {
            model: encoder(model),
            reference: reference.map(encoder),
            data: data.into(),
            out: dir.path().join("scores.jsonl"),
            append_eos: false,
            batch_size: 2,
            threads: 1,
            device: tetherline::Device::Cpu,
            skip_bad_lines: false,
        };
        score(&options, &mut Silent).map(|done| (done.rows, lines(dir.path().join("scores.jsonl"))))
    };
    for (model, pair) in [("bert", true), ("distilbert", false), ("roberta", false)] {
        let (rows, found) = run(model, &data, None).unwrap();
        assert_eq!((rows, found.len()), (3, 3));
        let known = Encoder::load(&ModelFiles::dir(encoder(model)).unwrap()).unwrap();
        for (i, line) in found.iter().enumerate() {
            let (prompt, response) = (format!("Question {i}?"), format!("An answer, the {i}."));
            let text = if pair { (&*prompt, Some(&*response)) } else { (&*response, None) };
            let want = &known.logits(&[text]).unwrap()[0];
            for (label, z) in known.labels().iter().zip(want) {
                let got = line["logits"][label].as_f64().unwrap();
                assert!((got - f64::from(*z)).abs() < 1e-5, "{model} {label} {line}");
            }
            let score = line["score"].as_f64();
            let want = match want[..] {
                [z] => Some(f64::from(z)),
                [no, yes] => Some(f64::from(yes - no)),
                _ => None,
            };
            assert_eq!(score.is_some(), want.is_some(), "{line}");
            assert!(score.zip(want).is_none_or(|(a, b)| (a - b).abs() < 1e-5), "{line} {want:?}");
        }
    }
    let tokens = file(
        dir.path(),
        "tokens.jsonl",
        std::iter::once("{\"input_ids\": [1, 2, 3], \"prompt_len\": 1}".into()),
    );
    let error = run("bert", &tokens, None).unwrap_err().to_string();
    assert!(error.contains("tokens.jsonl line 1") && error.contains("reads text"), "{error}");
    let error = run("bert", &data, Some("roberta")).unwrap_err().to_string();
    assert!(error.contains("--reference"), "{error}");
}

/// A build without encoders says what to build, wherever one is named; of several labels one has to be declared.
#[test]
fn an_encoder_that_cannot_be_used_says_how() {
    let dir = tempfile::tempdir().unwrap();
    let rule = format!("[{{ encoder = {{ model = {:?} }} }}]", encoder("bert"));
    let as_rule = recipe(&[("reward.model_weight", "0".into()), ("reward.rule", rule)]);
    let as_reward = |name| recipe(&[("model.reward", encoder(name))]);
    let run =
        |recipe: &Recipe, out| stage(recipe, &dir.path().join(out), Stage::Ppo).unwrap_err().to_string();
    if cfg!(feature = "encoders") {
        let error = run(&as_reward("roberta"), "labels");
        assert!(error.contains("toxic, insult, threat") && error.contains("label = NAME"), "{error}");
        return;
    }
    for (i, recipe) in [as_rule, as_reward("bert")].iter().enumerate() {
        let error = run(recipe, ["rule", "reward"][i]);
        assert!(error.contains("feature `encoders`") && !error.contains('\n'), "{error}");
    }
}

/// Three members train, their scores combine response by response as said, and how far they are apart is logged.
#[test]
fn an_ensemble_is_its_members() {
    let dir = tempfile::tempdir().unwrap();
    let base = [("ppo.steps", "1".to_owned()), ("ppo.missing_eos_penalty", "\"none\"".to_owned())];
    let with = |more: &[(&str, String)]| recipe(&[&base[..], more].concat());
    let trained = dir.path().join("trained");
    let three = with(&[("reward.ensemble.members", "3".to_owned()), ("reward.lr", "1e-3".to_owned())]);
    stage(&three, &trained, Stage::Reward).unwrap();
    let members = ["reward", "reward-2", "reward-3"].map(|name| trained.join(name));
    let weights = members.each_ref().map(|m| std::fs::read(m.join("model.safetensors")).unwrap());
    assert!(weights[0] != weights[1] && weights[1] != weights[2]);
    assert!(trained.join("reward-3.jsonl").is_file() && !trained.join("checkpoints/reward-2").exists());
    let report = std::fs::read_to_string(trained.join("reward_held_out.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["members"].as_array().unwrap().len(), 3);
    assert!(report["disagreement"].as_f64().unwrap() > 0.0);

    // The first responses of PPO are the same whatever scores them.
    let scores = |name: &str, models: &[&Path], combine: &str| {
        let list: Vec<String> = models.iter().map(|m| m.display().to_string()).collect();
        let recipe =
            with(&[("model.reward", format!("{list:?}")), ("reward.ensemble.combine", combine.to_owned())]);
        let out = dir.path().join(name);
        stage(&recipe, &out, Stage::Ppo).unwrap();
        let samples = lines(out.join("samples.jsonl"));
        let of = |key: &str| samples.iter().filter_map(|s| s[key].as_f64()).collect::<Vec<_>>();
        (of("score"), of("disagreement"), lines(out.join("metrics.jsonl")).remove(0))
    };
    let alone: Vec<_> =
        members.iter().enumerate().map(|(i, m)| scores(&format!("alone{i}"), &[m], "\"mean\"").0).collect();
    let all = members.each_ref().map(PathBuf::as_path);
    let (mean, apart, metrics) = scores("mean", &all, "\"mean\"");
    let (worst, ..) = scores("worst", &all, "\"worst\"");
    let (less, ..) = scores("less", &all, "{ mean_minus_variance = 2.0 }");
    assert_eq!((alone[0].len(), mean.len(), apart.len()), (3, 3, 3));
    for i in 0..3 {
        let of = [alone[0][i], alone[1][i], alone[2][i]];
        let m = of.iter().sum::<f64>() / 3.0;
        let v = of.iter().map(|x| (x - m).powi(2)).sum::<f64>() / 3.0;
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-4, "{a} {b} {of:?}");
        near(mean[i], m);
        near(worst[i], of.iter().copied().fold(f64::INFINITY, f64::min));
        near(less[i], m - 2.0 * v);
        near(apart[i], v.sqrt());
    }
    assert!(metrics["reward/disagreement"].as_f64().unwrap() > 0.0);
    // The run's own members score as well, and a list beside members to train is refused.
    stage(&three, &trained, Stage::Ppo).unwrap();
    let both =
        [("reward.ensemble.members", "2".to_owned()), ("model.reward", members[0].display().to_string())];
    let sets: Vec<(String, String)> = both.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let error = Recipe::load("quickstart", &sets).unwrap_err().to_string();
    assert!(error.contains("leave one of them out"), "{error}");
}

/// Three heads on one trunk: they disagree, combine response by response as said, go on after an interruption, and one
/// reward model is all there is.
#[test]
fn heads_on_one_trunk_are_an_ensemble() {
    struct Stop(bool);
    impl tetherline_core::Observer for Stop {
        fn on_event(&mut self, event: &tetherline_core::Event<'_>) {
            self.0 |= matches!(event, tetherline_core::Event::Step { stage: Stage::Reward, step: 2, .. });
        }
        fn stop_requested(&self) -> bool {
            self.0
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let with = |combine: &str| {
        recipe(&[
            ("ppo.steps", "1".to_owned()),
            ("ppo.missing_eos_penalty", "\"none\"".to_owned()),
            ("reward.ensemble", format!("{{ heads = 3, combine = {combine} }}")),
            ("reward.lr", "1e-3".to_owned()),
        ])
    };
    let options = |out: &Path, resume| RunOptions {
        out: out.to_owned(),
        resume,
        after_halt: false,
        stages: Stages::Only(Stage::Reward),
        threads: 1,
        clock: || 0.0,
    };
    let (out, cut) = (dir.path().join("mean"), dir.path().join("cut"));
    run(&with("\"mean\""), &options(&out, false), &mut Silent).unwrap();
    assert!(run(&with("\"mean\""), &options(&cut, false), &mut Stop(false)).is_err());
    run(&with("\"mean\""), &options(&cut, true), &mut Silent).unwrap();
    for file in ["reward/model.safetensors", "reward/reward_norm.json", "reward_held_out.json"] {
        assert!(std::fs::read(cut.join(file)).unwrap() == std::fs::read(out.join(file)).unwrap(), "{file}");
    }
    assert!(!out.join("reward-2").exists());
    let norms: Value =
        serde_json::from_slice(&std::fs::read(out.join("reward/reward_norm.json")).unwrap()).unwrap();
    assert_eq!(norms.as_array().unwrap().len(), 3);
    let report: Value =
        serde_json::from_slice(&std::fs::read(out.join("reward_held_out.json")).unwrap()).unwrap();
    assert_eq!(report["members"].as_array().unwrap().len(), 3);
    assert!(report["disagreement"].as_f64().unwrap() > 0.0);

    // What PPO logs of each sample is what the heads say of its tokens.
    let given = |combine: &str, name: &str| {
        let recipe = recipe(&[
            ("ppo.steps", "1".to_owned()),
            ("ppo.missing_eos_penalty", "\"none\"".to_owned()),
            ("model.reward", out.join("reward").display().to_string()),
            ("reward.ensemble.combine", combine.to_owned()),
        ]);
        let out = dir.path().join(name);
        stage(&recipe, &out, Stage::Ppo).unwrap();
        let samples = lines(out.join("samples.jsonl"));
        let of = |key: &str| samples.iter().filter_map(|s| s[key].as_f64()).collect::<Vec<_>>();
        (of("score"), of("disagreement"), lines(out.join("metrics.jsonl")).remove(0))
    };
    let (mean, apart, metrics) = given("\"mean\"", "a");
    let (worst, ..) = given("\"worst\"", "b");
    let (less, ..) = given("{ mean_minus_variance = 2.0 }", "c");
    assert!(metrics["reward/disagreement"].as_f64().unwrap() > 0.0);
    assert_eq!((mean.len(), apart.len()), (3, 3));
    for i in 0..3 {
        assert!(apart[i] > 0.0 && worst[i] < mean[i], "{apart:?}");
        assert!((less[i] - (mean[i] - 2.0 * apart[i] * apart[i])).abs() < 1e-4, "{} {}", less[i], mean[i]);
    }
    let sets = [("reward.ensemble.heads", "2"), ("model.reward", "frontdesk")];
    let sets: Vec<(String, String)> = sets.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let error = Recipe::load("quickstart", &sets).unwrap_err().to_string();
    assert!(error.contains("with the heads they have"), "{error}");
}

/// A source is measured on the reference's responses before PPO, once: a resumed run and the evaluation read what was
/// measured, and scores are on that scale.
#[test]
fn sources_are_put_on_the_scale_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "[{ length = { name = \"letters\", unit = \"chars\", target = 20, weight = 2.0 } }, { keyword = { words = [\"e\"] } }]";
    let with = |normalize: &str| {
        recipe(&[
            ("reward.model_weight", "0".into()),
            ("reward.rule", rules.to_owned()),
            ("reward.normalize", normalize.to_owned()),
            ("reward.normalize_samples", "64".into()),
            ("ppo.missing_eos_penalty", "\"none\"".to_owned()),
            ("eval.prompts", "4".into()),
        ])
    };
    let (plain, scaled) = (dir.path().join("plain"), dir.path().join("scaled"));
    stage(&with("[]"), &plain, Stage::Ppo).unwrap();
    stage(&with("[\"letters\"]"), &scaled, Stage::Ppo).unwrap();
    assert!(!plain.join("score_norms.json").exists());
    let file = scaled.join("score_norms.json");
    let norms: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let of = |key: &str| norms["letters"][key].as_f64().unwrap();
    assert!(norms.as_object().unwrap().len() == 1 && of("std") > 0.0, "{norms}");
    // The first responses are the same whatever scores them, and their number per step is 8.
    let first = |out: &Path, key: &str| lines(out.join("metrics.jsonl"))[0][key].as_f64().unwrap();
    let (raw, normalised) = (first(&plain, "score/rule.letters"), first(&scaled, "score/rule.letters"));
    let want = 2.0 * (raw / 2.0 - of("mean")) / of("std");
    assert!((normalised - want).abs() < 1e-3 * want.abs().max(1.0), "{normalised} {want}");
    assert_eq!(first(&plain, "score/rule.keyword"), first(&scaled, "score/rule.keyword"));
    // What was measured is read, not measured anew.
    std::fs::write(&file, r#"{"letters": {"mean": 0.0, "std": 100.0}}"#).unwrap();
    std::fs::remove_dir_all(scaled.join("policy")).unwrap();
    let options = RunOptions {
        out: scaled.clone(),
        resume: true,
        after_halt: false,
        stages: Stages::All,
        threads: 1,
        clock: || 0.0,
    };
    run(&with("[\"letters\"]"), &options, &mut Silent).unwrap();
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept["letters"]["std"], 100.0);
    let evaluation: Value =
        serde_json::from_slice(&std::fs::read(scaled.join("evaluation.json")).unwrap()).unwrap();
    assert!(evaluation.to_string().len() > 100);
}

/// Stops while the second member trains; what comes of it is what an uninterrupted run leaves.
#[test]
fn an_interrupted_ensemble_goes_on() {
    struct Stop(u64, bool);
    impl tetherline_core::Observer for Stop {
        fn on_event(&mut self, event: &tetherline_core::Event<'_>) {
            if let tetherline_core::Event::Step { stage: Stage::Reward, step: 2, .. } = event {
                self.0 += 1;
                self.1 = self.0 == 2;
            }
        }
        fn stop_requested(&self) -> bool {
            self.1
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(&[("reward.ensemble.members", "2".into()), ("reward.lr", "1e-3".into())]);
    let (straight, cut) = (dir.path().join("straight"), dir.path().join("cut"));
    stage(&recipe, &straight, Stage::Reward).unwrap();
    let options = |resume| RunOptions {
        out: cut.clone(),
        resume,
        after_halt: false,
        stages: Stages::Only(Stage::Reward),
        threads: 1,
        clock: || 0.0,
    };
    let stopped = run(&recipe, &options(false), &mut Stop(0, false));
    assert!(matches!(stopped, Err(tetherline::Error::Interrupted { step: 2, .. })), "{stopped:?}");
    assert!(cut.join("reward-2").is_dir() && !cut.join("reward").exists());
    run(&recipe, &options(true), &mut Silent).unwrap();
    for file in
        ["reward/model.safetensors", "reward-2/model.safetensors", "reward_held_out.json", "reward.jsonl"]
    {
        assert!(
            std::fs::read(cut.join(file)).unwrap() == std::fs::read(straight.join(file)).unwrap(),
            "{file}"
        );
    }
}
