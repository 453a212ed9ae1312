//! Every choice of algorithm in a run of a few steps on a tiny model, rules alone as the reward.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use tetherline::{Recipe, RunOptions, Stages, run};
use tetherline_core::{Event, Observer, Silent, Stage};

type Sets<'a> = &'a [(&'a str, &'a str)];

fn recipe(dir: &Path, more: Sets<'_>) -> Result<Recipe, tetherline::RecipeError> {
    let words = ["boat", "rope", "tide", "lamp", "order", "bread", "shore", "clerk"];
    let mut prompts = String::new();
    for i in 0..16 {
        writeln!(
            prompts,
            r#"{{"prompt": "the {} and the {} {i}"}}"#,
            words[i % 8],
            words[(i / 8 + 3 * i) % 8]
        )
        .unwrap();
    }
    std::fs::write(dir.join("prompts.jsonl"), prompts).unwrap();
    let file = dir.join("prompts.jsonl").display().to_string();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");
    let plain: Sets<'_> = &[
        ("data.prompts", &file),
        ("model.policy", model),
        ("seed", "3"),
        ("reward.model_weight", "0.0"),
        ("reward.rule", "[{ keyword = { words = ['e', 'o'], cap = 5 } }]"),
        ("sampling.max_new_tokens", "8"),
        ("ppo.steps", "3"),
        ("ppo.batch_size", "8"),
        ("ppo.epochs", "2"),
        ("ppo.lr", "1e-3"),
        ("ppo.lr_schedule", "constant"),
        // No response of eight tokens ends by itself: all would have the one score of the default penalty.
        ("ppo.missing_eos_penalty", "none"),
        ("kl", "{ fixed = { init = 0.1 } }"),
        ("eval.prompts", "0"),
        ("checkpoint.every", "2"),
        ("checkpoint.keep", "20"),
    ];
    // A later value of a key stands.
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

fn lines(out: &Path, log: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join(log)).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// The metrics of a run, and whether a checkpoint of it has a value model.
fn metrics(more: Sets<'_>) -> (Vec<Value>, bool) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let recipe = recipe(dir.path(), more).unwrap_or_else(|e| panic!("{more:?}: {e}"));
    run(&recipe, &options(&out, false), &mut Silent).unwrap_or_else(|e| panic!("{more:?}: {e}"));
    let value = out.join("checkpoints/step-000002/value.bin").is_file();
    assert!(out.join("checkpoints/step-000002/policy.bin").is_file());
    (lines(&out, "metrics.jsonl"), value)
}

fn all(rows: &[Value], key: &str) -> Vec<f64> {
    rows.iter().map(|row| row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"))).collect()
}

#[test]
fn every_estimator_without_a_critic_runs_and_makes_no_value_model() {
    for (kind, samples) in [
        ("group_std", "4"),
        ("group_mean", "2"),
        ("leave_one_out", "4"),
        ("length_weighted", "4"),
        ("reinforce_plus_plus", "1"),
        ("reinforce_plus_plus_baseline", "4"),
        ("remax", "2"),
    ] {
        let quoted = format!("{kind:?}");
        let (rows, value) = metrics(&[("ppo.advantages", &quoted), ("ppo.samples_per_prompt", samples)]);
        assert!(!value, "{kind} made a value model");
        assert_eq!(rows.len(), 3);
        for row in &rows {
            for key in ["loss/value_avg", "val/explained_variance", "val/clipfrac_avg"] {
                assert!(row.get(key).is_none(), "{kind}: {key} in {row}");
            }
            let grouped = row.get("group/uniform_share").is_some();
            assert_eq!(
                grouped,
                kind.contains("group")
                    || matches!(kind, "leave_one_out" | "length_weighted")
                    || kind.ends_with("baseline"),
                "{kind}"
            );
            assert_eq!(row.get("objective/greedy_scores").is_some(), kind == "remax");
        }
        assert!(all(&rows, "grad_norm").iter().all(|g| *g > 0.0), "{kind}: {rows:?}");
        // The policy moved away from its reference.
        assert!(all(&rows, "objective/kl_exact")[2] > 0.0, "{kind}");
    }
    let (rows, value) = metrics(&[]);
    assert!(value && rows[0].get("val/explained_variance").is_some());
}

#[test]
fn every_ratio_surrogate_aggregation_and_placement_runs() {
    let group: Sets<'_> = &[("ppo.advantages", "grpo"), ("ppo.samples_per_prompt", "4")];
    for more in [
        &[("ppo.ratio", "sequence")][..],
        &[("ppo.ratio", "geometric_mean"), ("ppo.kl_in", "loss")],
        &[("ppo.surrogate", "cispo")],
        &[("ppo.surrogate", "cispo_upper"), ("ppo.clip_range_high", "3.0")],
        &[("ppo.surrogate", "reinforce"), ("ppo.epochs", "1")],
        &[("ppo.dual_clip", "3.0"), ("ppo.clip_range_high", "0.28")],
        &[("ppo.aggregation", "seq_mean_token_mean")],
        &[("ppo.aggregation", "{ seq_mean_constant = 8 }")],
        &[("ppo.aggregation", "{ sum_constant = 64 }")],
        &[("ppo.group_kl", "in_score")],
        &[("ppo.kl_in", "loss")],
        &[("ppo.kl_in", "reward_and_loss"), ("ppo.kl_loss", "k2")],
        &[("ppo.kl_in", "loss"), ("ppo.kl_loss", "k3"), ("ppo.kl_wrong_gradient", "accept")],
        &[("ppo.mask_truncated", "true")],
        &[("ppo.whiten_advantages", "true")],
    ] {
        let (rows, _) = metrics(&[group, more].concat());
        assert!(all(&rows, "policy/approxkl_avg").iter().all(|x| x.is_finite()), "{more:?}");
        let in_loss = more.iter().any(|(k, v)| *k == "ppo.kl_in" && v.contains("loss"));
        assert_eq!(rows[0].get("loss/kl_avg").is_some(), in_loss, "{more:?}");
        let in_reward = !more.contains(&("ppo.kl_in", "loss"));
        assert_eq!(rows[0].get("objective/non_score_reward").is_some(), in_reward, "{more:?}");
    }
}

/// β far above any score: in the reward or in the loss, the penalty keeps the policy at its reference.
#[test]
fn the_penalty_holds_the_policy_wherever_it_stands() {
    let drift = |more: Sets<'_>| {
        let (rows, _) = metrics(
            &[&[("ppo.steps", "8"), ("ppo.samples_per_prompt", "4"), ("ppo.batch_size", "32")], more]
                .concat(),
        );
        *all(&rows, "objective/kl_exact").last().unwrap()
    };
    let grpo = ("ppo.advantages", "grpo");
    let free = drift(&[grpo, ("kl", "{ fixed = { init = 0.0 } }")]);
    let held = ("kl", "{ fixed = { init = 20.0 } }");
    for place in ["reward", "loss"] {
        let kl = drift(&[grpo, held, ("ppo.kl_in", place)]);
        assert!(kl < 0.6 * free, "kl_in = {place}: {kl} nats, and {free} without a penalty");
    }
}

#[test]
fn a_policy_without_a_critic_learns() {
    let (rows, _) = metrics(&[
        ("ppo.advantages", "leave_one_out"),
        ("ppo.samples_per_prompt", "4"),
        ("ppo.steps", "15"),
        ("ppo.batch_size", "32"),
        ("ppo.lr", "3e-3"),
        ("kl", "{ fixed = { init = 0.0 } }"),
    ]);
    let scores = all(&rows, "objective/scores");
    let mean = |s: &[f64]| s.iter().sum::<f64>() / s.len() as f64;
    let (first, last) = (mean(&scores[..3]), mean(&scores[12..]));
    assert!(last > first + 0.5, "from {first} to {last}");
}

#[test]
fn groups_whose_scores_are_alike_teach_nothing_and_are_counted() {
    let constant = "[{ keyword = { words = ['no such word'] } }]";
    let (rows, _) = metrics(&[
        ("ppo.advantages", "grpo"),
        ("ppo.samples_per_prompt", "4"),
        ("reward.rule", constant),
        ("kl", "{ fixed = { init = 0.0 } }"),
    ]);
    assert_eq!(all(&rows, "group/uniform_share"), [1.0; 3]);
    assert_eq!(all(&rows, "grad_norm"), [0.0; 3]);
    assert_eq!(all(&rows, "objective/kl_exact"), [0.0; 3], "nothing moved, not even by rounding");
}

#[test]
fn the_critic_warms_up_alone() {
    let (rows, value) = metrics(&[("ppo.critic_warmup", "2"), ("ppo.steps", "4")]);
    assert!(value);
    let kl = all(&rows, "objective/kl_exact");
    assert_eq!(kl[..3], [0.0; 3], "the policy is its reference until the critic is warm");
    assert!(kl[3] > 0.0);
    assert!(all(&rows, "loss/value_avg").iter().all(|l| *l > 0.0));
    assert_eq!(all(&rows, "grad_norm")[..2], [0.0; 2]);
}

#[test]
fn long_responses_pay_and_the_penalty_is_logged() {
    let (with, _) =
        metrics(&[("ppo.overlong", "{ buffer = 8, penalty = 2.0 }"), ("sampling.ignore_eos", "true")]);
    let paid = all(&with, "response/overlong_penalty");
    assert_eq!(paid[0], 2.0, "every response has all 8 tokens");
    let (scores, raw) = (all(&with, "objective/scores"), all(&with, "objective/scores_raw"));
    assert!((raw[0] - scores[0] - 2.0).abs() < 1e-6);
}

/// Here sampler and trainer are one engine: the weights are 1, and the run is the one without them.
#[test]
fn weights_for_another_sampler_are_one_for_our_own() {
    let (plain, _) = metrics(&[]);
    for correction in ["{ token = 2.0 }", "{ sequence = 2.0 }"] {
        let (rows, _) = metrics(&[("ppo.rollout_correction", correction)]);
        for (a, b) in all(&rows, "val/correction_mean").iter().zip(all(&rows, "val/correction_max")) {
            assert!((a - 1.0).abs() < 1e-4 && (b - 1.0).abs() < 1e-3, "{a} {b}");
        }
        for (a, b) in all(&rows, "objective/scores").iter().zip(all(&plain, "objective/scores")) {
            assert!((a - b).abs() < 1e-6);
        }
    }
}

/// Asks to stop after the second step.
struct Stop(bool);

impl Observer for Stop {
    fn on_event(&mut self, event: &Event<'_>) {
        if let Event::Step { stage: Stage::Ppo, step: 2, .. } = event {
            self.0 = true;
        }
    }

    fn stop_requested(&self) -> bool {
        self.0
    }
}

#[test]
fn the_entropy_coefficient_follows_its_target_and_survives_a_resume() {
    let dir = tempfile::tempdir().unwrap();
    let sets: Sets<'_> = &[
        ("ppo.entropy_coef", "0.01"),
        ("ppo.entropy_target", "{ target = 100.0, delta = 0.01, max = 0.035 }"),
        ("ppo.steps", "5"),
    ];
    let recipe = recipe(dir.path(), sets).unwrap();
    let (straight, resumed) = (dir.path().join("straight"), dir.path().join("resumed"));
    run(&recipe, &options(&straight, false), &mut Silent).unwrap();
    let coefficients = all(&lines(&straight, "metrics.jsonl"), "policy/entropy_coef");
    for (got, want) in coefficients.iter().zip([0.01, 0.02, 0.03, 0.035, 0.035]) {
        assert!((got - want).abs() < 1e-12, "{coefficients:?}");
    }
    assert!(run(&recipe, &options(&resumed, false), &mut Stop(false)).is_err());
    run(&recipe, &options(&resumed, true), &mut Silent).unwrap();
    assert_eq!(lines(&straight, "metrics.jsonl"), lines(&resumed, "metrics.jsonl"));
}

/// Words that pay also cost: the multiplier rises while the mean cost is above its limit, and the policy gives them up.
#[test]
fn a_limit_on_costs_is_held_by_its_multiplier() {
    let costly: Sets<'_> = &[
        ("cost.rule", "[{ keyword = { words = ['e', 'o'], cap = 5 } }]"),
        ("cost.limit", "0.5"),
        ("ppo.steps", "20"),
        ("ppo.batch_size", "32"),
        ("ppo.lr", "3e-3"),
        ("kl", "{ fixed = { init = 0.0 } }"),
    ];
    let (rows, _) = metrics(&[costly, &[("cost.multiplier", "{ init = 3.0, lr = 0.0 }")]].concat());
    let costs = all(&rows, "cost/mean");
    let mean = |c: &[f64]| c.iter().sum::<f64>() / c.len() as f64;
    assert!(mean(&costs[15..]) < 0.6 * mean(&costs[..3]), "{costs:?}");
    assert_eq!(all(&rows, "cost/lambda"), [3.0; 20]);
    assert!(all(&rows, "loss/cost_value_avg")[19] < all(&rows, "loss/cost_value_avg")[0]);
    // Reward and cost are the same number here, so an advantage is (1 − λ)/(1 + λ) of one.
    assert_eq!(all(&rows, "cost/rule.keyword"), costs);

    let (rows, _) = metrics(&[costly, &[("cost.multiplier", "{ window = 1, lr = 0.2 }")]].concat());
    let (costs, lambda) = (all(&rows, "cost/above_limit"), all(&rows, "cost/lambda"));
    for t in 1..20 {
        let want = (lambda[t - 1].ln() + 0.2 * lambda[t - 1] * costs[t - 1]).exp().min(5.0);
        assert!((lambda[t] - want).abs() < 1e-6, "step {t}: {} and {want}", lambda[t]);
    }
}

#[test]
fn a_run_with_costs_is_resumed_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let sets: Sets<'_> =
        &[("cost.rule", "[{ keyword = { words = ['e'] } }]"), ("cost.limit", "0.1"), ("ppo.steps", "4")];
    let recipe = recipe(dir.path(), sets).unwrap();
    let (straight, resumed) = (dir.path().join("straight"), dir.path().join("resumed"));
    run(&recipe, &options(&straight, false), &mut Silent).unwrap();
    assert!(run(&recipe, &options(&resumed, false), &mut Stop(false)).is_err());
    run(&recipe, &options(&resumed, true), &mut Silent).unwrap();
    assert_eq!(lines(&straight, "metrics.jsonl"), lines(&resumed, "metrics.jsonl"));
    let critic = |out: &Path| std::fs::read(out.join("checkpoints/step-000004/cost_value.bin")).unwrap();
    assert!(critic(&straight) == critic(&resumed));
}

/// Costs and a guard together: an update that is undone leaves policy and both critics as they were, bit for bit, and a
/// run that is cut goes on as if it had not been.
#[test]
fn an_update_that_is_undone_takes_the_cost_critic_along() {
    let dir = tempfile::tempdir().unwrap();
    let sets: Sets<'_> = &[
        ("cost.rule", "[{ keyword = { words = ['e'] } }]"),
        ("cost.limit", "0.1"),
        ("ppo.steps", "4"),
        ("checkpoint.every", "1"),
        ("trial.prompts", "8"),
        ("allow_faults", "true"),
        ("fault", "[{ at = 3, what = { lr = 1e38 } }]"),
        ("kl", "{ fixed = { init = 0.1 }, trust_region = { cap = 5.0 } }"),
    ];
    let recipe = recipe(dir.path(), sets).unwrap_or_else(|e| panic!("{e}"));
    let (straight, resumed) = (dir.path().join("straight"), dir.path().join("resumed"));
    run(&recipe, &options(&straight, false), &mut Silent).unwrap();
    let file = |step: u64, name: &str| {
        std::fs::read(straight.join(format!("checkpoints/step-{step:06}/{name}"))).unwrap()
    };
    let kept = all(&lines(&straight, "metrics.jsonl"), "trial/kept");
    assert_eq!(kept[2], 0.0, "{kept:?}");
    for name in ["policy.bin", "value.bin", "cost_value.bin"] {
        assert!(file(2, name) == file(3, name), "{name} moved in a step that was undone");
        assert!(file(3, name) != file(4, name), "{name} does not learn");
    }
    assert!(run(&recipe, &options(&resumed, false), &mut Stop(false)).is_err());
    run(&recipe, &options(&resumed, true), &mut Silent).unwrap();
    assert_eq!(lines(&straight, "metrics.jsonl"), lines(&resumed, "metrics.jsonl"));
}

/// k2 and k3 in the reward are taken where they are accepted, and said.
#[test]
fn biased_penalties_in_the_reward_are_declared() {
    let dir = tempfile::tempdir().unwrap();
    let error = recipe(dir.path(), &[("ppo.kl_reward", "k3")]).unwrap_err().to_string();
    assert!(error.contains("biased") && error.contains("kl_wrong_gradient"), "{error}");
    for kind in ["k2", "k3"] {
        let (rows, _) = metrics(&[("ppo.kl_reward", kind), ("ppo.kl_wrong_gradient", "accept")]);
        // Neither is ever negative; k1 of the first step's own responses is zero as they are.
        assert!(all(&rows, "objective/kl").iter().all(|x| *x >= -1e-6), "{kind}");
        assert!(all(&rows, "objective/non_score_reward").iter().all(|x| *x <= 1e-6), "{kind}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_at_its_key() {
    let dir = tempfile::tempdir().unwrap();
    for (sets, says) in [
        (&[("ppo.advantages", "grpo")][..], "ppo.samples_per_prompt: advantages = \"group_std\""),
        (
            &[("ppo.advantages", "remax"), ("model.value", "shared")],
            "model.value=shared: there is no value function",
        ),
        (&[("ppo.critic_warmup", "1"), ("model.value", "shared")], "ppo.critic_warmup=1: a value head"),
        (&[("ppo.overlong", "{ buffer = 9, penalty = 1.0 }")], "at most sampling.max_new_tokens = 8"),
        (&[("ppo.kl_in", "loss"), ("ppo.kl_loss", "k1")], "expected gradient is zero"),
        (&[("ppo.kl_in", "both")], "unknown variant `both`"),
        (&[("cost.limit", "0.1")], "nothing says what a response costs"),
        (&[("model.cost", "frontdesk")], "which is missing"),
    ] {
        let error = recipe(dir.path(), sets).unwrap_err().to_string();
        assert!(error.contains(says), "{sets:?}: {error}");
    }
}
