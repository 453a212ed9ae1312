//! Do KL budgets per domain, per user and overall hold at once? Trains a model under budgets on all three levels and prints,
//! for each budget, how often its KL lies within 15 % of its target.
//!
//! ```text
//! cargo run --release -p tetherline --example budgets -- frontdesk|tiny SEED [STEPS] [DIR]
//! ```
//!
//! A budget's KL is the exact KL to the reference, nats per sequence, over the rows of an update that fall under it, as a
//! median over 25 updates. The first 175 updates of the embedded world do not count, nor the first 100 of the tiny model.
//!
//! - `frontdesk`: the embedded world. Its 39 users are taken together as three, since one of them writes less than two prompts
//!   of 64; and a text does not show who wrote it, so a user's budget cannot differ much from what the domains' budgets make of
//!   that user's prompts.
//! - `tiny`: `fixtures/models/tiny-llama` under a keyword rule, in a minute or two. Domain and user both show in the prompt.
#![expect(clippy::print_stdout, reason = "an example that prints a table")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tetherline::{Recipe, RunOptions, Stages, run};
use tetherline_core::{BoxError, Silent};

/// Budgets and their targets, nats per sequence.
type Budgets = &'static [(&'static str, f64)];

/// Of the embedded world. The domain targets differ by a factor of almost two. Those of users and of all rows are a little above
/// what the domains' come to on average (0.15·1.4 + 0.23·2 + 0.62·2.6 = 2.29): where every level is met exactly, nothing
/// says which one's β shall carry the penalty, and what the upper levels carry the domains cannot part among them.
const FRONTDESK: Budgets =
    &[("*", 2.6), ("unsafe", 1.4), ("medical", 2.0), ("legal", 2.0), ("user:*", 2.45), ("all", 2.45)];

/// Of the tiny model: two domains of one size, two users of one size.
const TINY: Budgets =
    &[("harbour", 0.3), ("shop", 0.6), ("user:ann", 0.45), ("user:bob", 0.45), ("all", 0.45)];

/// Updates of a median.
const WINDOW: usize = 25;

fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: budgets frontdesk|tiny SEED [STEPS] [DIR]";
    let (what, seed) = (args.next().ok_or(usage)?, args.next().ok_or(usage)?.parse::<u64>()?);
    let budgets = match what.as_str() {
        "frontdesk" => FRONTDESK,
        "tiny" => TINY,
        _ => return Err(usage.into()),
    };
    let steps: u64 = args.next().map_or(Ok(300), |text| text.parse())?;
    let temp = std::env::temp_dir().join(format!("budgets-{what}-{seed}"));
    let dir = args.next().map_or(temp, PathBuf::from);
    std::fs::create_dir_all(&dir)?;
    let recipe = if what == "tiny" { tiny(&dir, seed, steps)? } else { frontdesk(&dir, seed, steps)? };
    let out = dir.join("run");
    let options = RunOptions {
        resume: out.join("config.toml").is_file(),
        after_halt: false,
        stages: Stages::All,
        threads: 1,
        clock: || 0.0,
        out: out.clone(),
    };
    let start = Instant::now();
    run(&recipe, &options, &mut Silent)?;
    let settled = if what == "tiny" { 100 } else { 175 };
    println!("{}", table(&out, budgets, settled, seed, start.elapsed().as_secs_f64())?);
    Ok(())
}

fn frontdesk(dir: &Path, seed: u64, steps: u64) -> Result<Recipe, BoxError> {
    for name in ["prompts.train.jsonl", "prompts.heldout.jsonl"] {
        let text = tetherline_frontdesk::embedded_text(name).ok_or("the world has no prompts")??;
        let mut out = String::new();
        for line in text.lines() {
            let mut row: Value = serde_json::from_str(line)?;
            let number: usize =
                row["user"].as_str().and_then(|u| u.strip_prefix("user-")).ok_or("no user")?.parse()?;
            row["user"] = json!(["ann", "bob", "eve"][number % 3]);
            writeln!(out, "{row}")?;
        }
        std::fs::write(dir.join(name), out)?;
    }
    let set = |key: &str, value: String| (key.to_owned(), value);
    let file = |name: &str| dir.join(name).display().to_string();
    let sets = [
        set("seed", seed.to_string()),
        set("data.prompts", file("prompts.train.jsonl")),
        set("data.eval_prompts", file("prompts.heldout.jsonl")),
        set("ppo.steps", steps.to_string()),
        set("ppo.batch_size", "96".to_owned()),
        set("ppo.lr", "2e-4".to_owned()),
        set("ppo.lr_schedule", "constant".to_owned()),
        set("kl", section(FRONTDESK, 2.45, 0.0)),
        set("eval.prompts", "0".to_owned()),
    ];
    Ok(Recipe::load("quickstart", &sets)?)
}

/// The `[kl]` section. With `shrink` 0 every group's KL counts as it was measured, however small the group.
fn section(budgets: Budgets, target: f64, shrink: f64) -> String {
    let each: Vec<String> =
        budgets.iter().map(|(id, target)| format!("{{ id = '{id}', target = {target:?} }}")).collect();
    let law = format!("auto_pi = {{ init = 0.1, target = {target:?} }}");
    format!("{{ {law}, shrink = {shrink:?}, budget = [{}] }}", each.join(", "))
}

fn tiny(dir: &Path, seed: u64, steps: u64) -> Result<Recipe, BoxError> {
    let words = [["boat", "rope", "tide", "shore"], ["lamp", "bread", "clerk", "order"]];
    let mut prompts = String::new();
    for i in 0..256 {
        let (domain, user) = (i % 2, i / 2 % 2);
        let text =
            format!("the {} and the {} {}", words[domain][i / 4 % 4], words[domain][i / 16 % 4], i / 64);
        let text = if user == 0 { format!("please {text}") } else { text };
        let (domain, user) = (["harbour", "shop"][domain], ["ann", "bob"][user]);
        let row = json!({"prompt": text, "domain": domain, "user": user});
        writeln!(prompts, "{row}")?;
    }
    std::fs::write(dir.join("prompts.jsonl"), prompts)?;
    let text = format!(
        r#"
seed = {seed}
[model]
policy = '{model}'
[data]
prompts = "prompts.jsonl"
[reward]
model_weight = 0.0
[[reward.rule]]
keyword = {{ words = ["e", "o"], cap = 5 }}
[sampling]
max_new_tokens = 8
[ppo]
steps = {steps}
batch_size = 64
epochs = 2
lr = 5e-4
lr_schedule = "constant"
missing_eos_penalty = "none"
[eval]
prompts = 0
[checkpoint]
every = 0
"#,
        model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama"),
    );
    let path = dir.join("recipe.toml");
    std::fs::write(&path, text)?;
    let kl = [("kl".to_owned(), section(TINY, 0.45, 32.0))];
    Ok(Recipe::load(path.to_str().ok_or("the directory's name is no UTF-8")?, &kl)?)
}

/// The target of an id.
fn target(budgets: Budgets, id: &str) -> f64 {
    let of = |name: &str| budgets.iter().find(|(id, _)| *id == name).map(|(_, target)| *target);
    let pattern = if id.starts_with("user:") { "user:*" } else { "*" };
    of(id).or_else(|| of(pattern)).unwrap_or(f64::NAN)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    0.5 * (sorted[(n - 1) / 2] + sorted[n / 2])
}

fn table(out: &Path, budgets: Budgets, settled: u64, seed: u64, seconds: f64) -> Result<String, BoxError> {
    // KL of every id by update, from the observations.
    let mut series: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
    let mut rows: BTreeMap<String, f64> = BTreeMap::new();
    for line in std::fs::read_to_string(out.join("control.jsonl"))?.lines() {
        let line: Value = serde_json::from_str(line)?;
        for domain in line["domains"].as_array().into_iter().flatten() {
            let id = domain["id"].as_str().unwrap_or_default().to_owned();
            let step = line["step"].as_u64().unwrap_or_default();
            *rows.entry(id.clone()).or_default() += domain["n"].as_f64().unwrap_or_default();
            series.entry(id).or_default().push((step, domain["mean_kl"].as_f64().unwrap_or(f64::NAN)));
        }
    }
    let mut text = format!(
        "seed {seed}, {seconds:.0} s\n\n| budget | target | rows per update | median KL | within 15 % |\n\
         | --- | --- | --- | --- | --- |\n"
    );
    let mut all_hold: BTreeMap<u64, bool> = BTreeMap::new();
    for (id, points) in &series {
        let target = target(budgets, id);
        let windows = points.windows(WINDOW).map(|w| {
            let kl: Vec<f64> = w.iter().map(|p| p.1).collect();
            (w[WINDOW - 1].0, median(&kl))
        });
        let counted: Vec<(u64, f64)> = windows.filter(|(step, _)| *step > settled).collect();
        let holds = |kl: f64| (kl / target - 1.0).abs() <= 0.15;
        for &(step, kl) in &counted {
            *all_hold.entry(step).or_insert(true) &= holds(kl);
        }
        let inside = counted.iter().filter(|(_, kl)| holds(*kl)).count() as f64 / counted.len().max(1) as f64;
        let overall = median(&counted.iter().map(|p| p.1).collect::<Vec<_>>());
        let n = rows[id] / points.len() as f64;
        writeln!(text, "| `{id}` | {target:.1} | {n:.0} | {overall:.2} | {:.0} % |", 100.0 * inside)?;
    }
    let at_once = all_hold.values().filter(|hold| **hold).count() as f64 / all_hold.len().max(1) as f64;
    writeln!(text, "| all of these at once | | | | {:.0} % |", 100.0 * at_once)?;
    Ok(text)
}
