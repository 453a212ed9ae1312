//! The algorithms beside PPO with a critic, each in a run of two steps through the whole command: GRPO, RLOO, GSPO, DPO, a limit on
//! costs, heads on one trunk, sources on the reference's scale, and a conversation with a program.

use super::Model;
use super::checks::Checks;
use super::compare::read_rows;
use super::stages::ppo_rows;
use super::tether::{Tether, args};
use super::world::World;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;

/// Rules alone: no reward model is trained.
const RULES: &[&str] = &[
    "reward.model_weight=0",
    "reward.rule=[{ keyword = { words = ['e', 'o'], cap = 5 } }]",
    "sft.steps=0",
    "model.value=separate",
];

/// (name, settings, metric that only it logs).
const RUNS: &[(&str, &[&str], &str)] = &[
    (
        "grpo",
        &[
            "ppo.advantages=grpo",
            "ppo.samples_per_prompt=4",
            "ppo.kl_in=loss",
            "ppo.aggregation=seq_mean_token_mean",
        ],
        "loss/kl_avg",
    ),
    (
        "rloo",
        &[
            "ppo.advantages=rloo",
            "ppo.samples_per_prompt=4",
            "ppo.group_kl=in_score",
            "ppo.epochs=1",
            "ppo.minibatches=1",
            "ppo.surrogate=reinforce",
        ],
        "group/std",
    ),
    (
        "gspo",
        &[
            "ppo.advantages=grpo",
            "ppo.samples_per_prompt=4",
            "ppo.ratio=sequence",
            "ppo.clip_range=3e-4",
            "ppo.clip_range_high=4e-4",
        ],
        "group/uniform_share",
    ),
    (
        "cost",
        &["cost.limit=0.1", "cost.rule=[{ length = { max = 4 } }]", "model.value=separate"],
        "cost/lambda",
    ),
    ("normalised", &["reward.normalize=['keyword']"], "score/rule.keyword"),
];

/// Checks them on one model.
pub(super) fn check(checks: &mut Checks, tether: &Tether, model: &Model) {
    let name = &model.name;
    for (algorithm, sets, metric) in RUNS {
        checks.check(&format!("algorithms: {algorithm} on {name} runs, is evaluated and explained"), || {
            let out = tether.path(&format!("algorithm-{algorithm}"));
            let recipe = World::write(&tether.path("world"))?.recipe(algorithm, model, 2)?;
            let sets = with(&[RULES, sets].concat());
            tether.ok(&[args!["run", recipe, "--out", out], sets.clone()].concat())?;
            tether.ok(&[args!["explain-config", recipe], sets].concat())?;
            expect(&ppo_rows(&out)?, 2, metric)?;
            finished(&out)
        });
    }
    checks.check(&format!("algorithms: dpo on {name} runs and is evaluated"), || {
        let out = tether.path("algorithm-dpo");
        let recipe = World::write(&tether.path("world"))?.recipe("dpo", model, 2)?;
        let sets = with(&[RULES, &["dpo.steps=2", "dpo.batch_size=4", "dpo.lr=1e-3"]].concat());
        tether.ok(&[args!["run", recipe, "--out", out], sets].concat())?;
        expect(&read_rows(&out.join("dpo.jsonl"))?, 2, "accuracy")?;
        finished(&out)
    });
    checks.check(&format!("algorithms: three heads on the trunk of {name} are trained and score"), || {
        let out = tether.path("algorithm-heads");
        let recipe = World::write(&tether.path("world"))?.recipe("heads", model, 2)?;
        let sets = with(&["reward.ensemble.heads=3", "reward.ensemble.combine=worst", "sft.steps=0"]);
        tether.ok(&[args!["run", recipe, "--out", out], sets].concat())?;
        expect(&ppo_rows(&out)?, 2, "reward/disagreement")?;
        let (rows, scores) = (tether.path("heads-rows.jsonl"), tether.path("heads-scores.jsonl"));
        std::fs::write(&rows, "{\"prompt\": \"where is the boat\", \"response\": \" at the pier\"}\n")?;
        tether.ok(&args!["score", "--model", out.join("reward"), "--data", rows, "--out", scores])?;
        match read_rows(&scores)?.first().and_then(|row| row["heads"].as_array()) {
            Some(heads) if heads.len() == 3 => finished(&out),
            other => bail!("tether score of three heads says {other:?}"),
        }
    });
    #[cfg(unix)]
    checks.check(&format!("algorithms: a program asks {name} a second question"), || {
        let out = tether.path("algorithm-environment");
        let recipe = World::write(&tether.path("world"))?.recipe("environment", model, 2)?;
        let script = "while read -r l; do case \"$l\" in *'\"last\":true'*) echo '{\"done\": true, \"reward\": 1}';; \
                      *) echo '{\"text\": \" and then?\"}';; esac; done";
        let environment = format!("environment={{ argv = ['sh', '-c', {script:?}], max_turns = 2, max_tokens = 60 }}");
        let sets = with(&[RULES, &[&environment, "sampling.stop=['a', 'e', 'i', 'o']"]].concat());
        tether.ok(&[args!["run", recipe, "--out", out], sets].concat())?;
        let rows = ppo_rows(&out)?;
        expect(&rows, 2, "environment/turns")?;
        match rows[0]["environment/tokens"].as_f64() {
            Some(tokens) if tokens > 0.0 => finished(&out),
            other => bail!("the program wrote {other:?} tokens"),
        }
    });
}

/// `--set` for each.
fn with(sets: &[&str]) -> Vec<std::ffi::OsString> {
    sets.iter().flat_map(|set| args!["--set", set]).collect()
}

/// So many lines, each with a number for `metric`.
fn expect(rows: &[Value], count: usize, metric: &str) -> Result<()> {
    let there = rows.iter().filter(|row| row[metric].is_number()).count();
    match (rows.len(), there) {
        (n, m) if n == count && m == count => Ok(()),
        (n, m) => bail!("{n} lines, of which {m} have {metric}; expected {count}"),
    }
}

/// The evaluation is there.
fn finished(run: &Path) -> Result<()> {
    std::fs::metadata(run.join("evaluation.json")).map(drop).context("no evaluation.json")
}
