//! One tiny model per architecture through the binary: log-probs against the goldens of Python transformers, a short run
//! of every training stage, resuming, and the tensors of what is saved.
//!
//! The models are in `fixtures/models/architectures`; one tokenizer serves them all.

use super::checks::Checks;
use super::compare::{
    copy_dir, expect_close, expect_same_dirs, expect_same_rows, numbers, read_rows, write_rows,
};
use super::safetensors::File;
use super::stages::ppo_rows;
use super::tether::{Tether, args};
use crate::process;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A language model of each architecture, and a classifier where there is one.
const MODELS: &[(&str, Option<&str>)] = &[
    ("llama", Some("llama-reward")),
    ("mistral-window", Some("mistral-reward")),
    ("qwen2", Some("qwen2-reward")),
    ("qwen3", Some("qwen3-reward")),
    ("smollm3", None),
    ("olmo2", None),
    ("phi3", Some("phi3-reward")),
    ("gemma2", Some("gemma2-reward")),
    ("gemma3", Some("gemma3-reward")),
    ("gpt2", Some("gpt2-reward")),
    ("gpt-neox", Some("gpt-neox-reward")),
];

/// Those whose run is stopped after its first PPO step and resumed: the two that differ most from a Llama.
const RESUMED: [&str; 2] = ["gemma3", "gpt-neox"];

/// Largest allowed difference of a log-prob (nats) or a score from the golden one.
const TOLERANCE: f64 = 1e-4;

/// (prompt, good answer, poor answer), all short enough for a context of 32 tokens.
const ROWS: &[(&str, &str, &str)] = &[
    ("who is it", "the boat", "no"),
    ("where", "at the pier", "why"),
    ("when", "on friday", "never"),
    ("thank you", "a good day", "go"),
];

/// Checks every architecture.
pub(super) fn check(checks: &mut Checks, tether: &Tether) {
    for (name, classifier) in MODELS {
        checks.check(&format!("architectures: {name}: log-probs are the golden ones"), || {
            log_probs(tether, &assemble(tether, name)?)
        });
        if let Some(classifier) = classifier {
            checks.check(&format!("architectures: {classifier}: scores are the golden ones"), || {
                scores(tether, &assemble(tether, classifier)?)
            });
        }
        let run = tether.path(&format!("run-{name}"));
        let ran = checks.check(&format!("architectures: {name}: sft, reward model and ppo"), || {
            train(tether, name, &run, false)?;
            expect_no_drift_at_first(&run)?;
            expect_same_tensors(&assemble(tether, name)?, &run)
        });
        if ran && RESUMED.contains(name) {
            checks.check(&format!("architectures: {name}: goes on from a checkpoint, bit for bit"), || {
                let again = tether.path(&format!("again-{name}"));
                copy_dir(&run, &again)?;
                fs::remove_dir_all(again.join("policy"))?;
                fs::remove_dir_all(again.join("checkpoints").join("step-000002"))?;
                train(tether, name, &again, true)?;
                expect_same_rows(&run.join("metrics.jsonl"), &again.join("metrics.jsonl"))?;
                expect_same_dirs(&run.join("policy"), &again.join("policy"))
            });
        }
    }
}

/// A directory with a model of the fixtures and the tokenizer they share.
fn assemble(tether: &Tether, name: &str) -> Result<PathBuf> {
    let fixtures = process::root().join("fixtures").join("models").join("architectures");
    let dir = tether.path(name);
    if !dir.is_dir() {
        copy_dir(&fixtures.join(name), &dir)?;
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixtures.join(file), dir.join(file)).with_context(|| format!("no {file}"))?;
        }
    }
    Ok(dir)
}

/// `golden.safetensors`: three right-padded rows and what transformers gave for them.
struct Golden {
    file: File,
    /// Tokens of each row without padding.
    rows: Vec<Vec<i64>>,
}

impl Golden {
    fn read(dir: &Path) -> Result<Self> {
        let file = File::read(&dir.join("golden.safetensors"))?;
        let (ids, lens) = (file.integers("right.input_ids")?, file.integers("lens")?);
        let width = ids.len() / lens.len();
        let row = |(row, &n): (&[i64], &i64)| Ok(row[..usize::try_from(n)?].to_vec());
        let rows = ids.chunks(width).zip(&lens).map(row).collect::<Result<_>>()?;
        Ok(Self { file, rows })
    }
}

/// Runs `tether score` on rows and reads what it wrote.
fn score(tether: &Tether, dir: &Path, rows: &[Value]) -> Result<Vec<Value>> {
    let (data, out) = (dir.join("rows.jsonl"), dir.join("scored.jsonl"));
    write_rows(&data, rows)?;
    tether.ok(&args!["score", "--model", dir, "--data", data, "--out", out])?;
    let scored = read_rows(&out)?;
    if scored.len() != rows.len() {
        bail!("{} rows in, {} rows out", rows.len(), scored.len());
    }
    Ok(scored)
}

fn log_probs(tether: &Tether, dir: &Path) -> Result<()> {
    let golden = Golden::read(dir)?;
    let prompts = golden.file.integers("prompt_lens")?;
    let want = golden.file.floats("right.cont_logprobs_t1.0")?;
    let width = want.len() / golden.rows.len();
    let rows: Vec<Value> = golden.rows.iter().zip(&prompts).map(|(ids, n)| row(ids, *n)).collect();
    for (i, got) in score(tether, dir, &rows)?.iter().enumerate() {
        let span = usize::try_from(prompts[i])? - 1..golden.rows[i].len() - 1;
        let want = &want[i * width..(i + 1) * width][span];
        expect_close(&format!("row {}: logprobs", i + 1), &numbers(got, "logprobs")?, want, TOLERANCE)?;
    }
    Ok(())
}

fn row(ids: &[i64], prompt_len: i64) -> Value {
    json!({ "input_ids": ids, "prompt_len": prompt_len })
}

fn scores(tether: &Tether, dir: &Path) -> Result<()> {
    let golden = Golden::read(dir)?;
    let want = golden.file.floats("right.scores")?;
    let rows: Vec<Value> = golden.rows.iter().map(|ids| row(ids, 1)).collect();
    for (i, got) in score(tether, dir, &rows)?.iter().enumerate() {
        let found = got["score"].as_f64().with_context(|| format!("no score in {got}"))?;
        expect_close(&format!("row {}: score", i + 1), &[found], &want[i..=i], TOLERANCE)?;
    }
    Ok(())
}

/// Two steps of each stage, a checkpoint after each. PPO begins with the self-test of its first ratio.
fn train(tether: &Tether, name: &str, out: &Path, resume: bool) -> Result<()> {
    let world = tether.path("world");
    fs::create_dir_all(&world)?;
    // Prompts as messages: the chat template of the tokenizer is used.
    let rows = |row: fn(Value, &str, &str) -> Value| -> Vec<Value> {
        let prompt = |p: &str| json!([{ "role": "user", "content": p }]);
        ROWS.iter().map(|(p, good, poor)| row(prompt(p), good, poor)).collect()
    };
    write_rows(&world.join("prompts.jsonl"), &rows(|prompt, _, _| json!({ "prompt": prompt })))?;
    write_rows(
        &world.join("sft.jsonl"),
        &rows(|prompt, good, _| json!({ "prompt": prompt, "response": good })),
    )?;
    write_rows(
        &world.join("pairs.jsonl"),
        &rows(|prompt, good, poor| {
            let said = |text: &str| json!([{ "role": "assistant", "content": text }]);
            json!({ "prompt": prompt, "chosen": said(good), "rejected": said(poor) })
        }),
    )?;
    // Both ways of keeping a value function, in turn.
    let at = MODELS.iter().position(|(n, _)| *n == name).unwrap_or(0);
    let value = ["separate", "shared"][at % 2];
    let model = assemble(tether, name)?;
    let recipe = world.join(format!("{name}.toml"));
    let text = format!(
        r#"# Written by cargo xtask e2e.
name = "{name}"
seed = 11

[model]
policy = '{model}'
value = "{value}"

[data]
sft = "sft.jsonl"
prompts = "prompts.jsonl"
pairs = "pairs.jsonl"
pairs_eval = "pairs.jsonl"

[sft]
steps = 2
batch_size = 4
lr = 1e-3

[reward]
steps = 2
batch_size = 4
lr = 1e-3

[sampling]
max_new_tokens = 8

[ppo]
steps = 2
batch_size = 4
epochs = 2
minibatches = 2
lr = 1e-3

[kl.fixed]
init = 0.1

[eval]
prompts = 0

[checkpoint]
every = 1
keep = 2
"#,
        model = model.display(),
    );
    fs::write(&recipe, text)?;
    let mut args = args!["run", recipe, "--out", out];
    if resume {
        args.extend(args!["--resume"]);
    }
    tether.ok(&args).map(drop)
}

/// The policy is its own reference in the first step: every number of the KL is 0, not only near it.
fn expect_no_drift_at_first(run: &Path) -> Result<()> {
    let rows = ppo_rows(run)?;
    let [first, second] = rows.as_slice() else { bail!("{} PPO steps, expected 2", rows.len()) };
    for key in ["objective/kl", "objective/kl_exact"] {
        if first[key].as_f64() != Some(0.0) {
            bail!("{key} of the first step is {}, expected 0", first[key]);
        }
    }
    if second["objective/kl_exact"].as_f64().is_none_or(|kl| kl <= 0.0) {
        bail!("the first update moved nothing: {}", second["objective/kl_exact"]);
    }
    Ok(())
}

/// The policy has the tensors it was read with; the reward model those of the trunk, and a score.
fn expect_same_tensors(model: &Path, run: &Path) -> Result<()> {
    let (want, policy) = (shapes(model)?, shapes(&run.join("policy"))?);
    if want != policy {
        bail!("the policy was saved with other tensors:\n{want:?}\n{policy:?}");
    }
    let trunk = |mut shapes: BTreeMap<String, String>, head: &[&str]| {
        shapes.retain(|name, _| !head.contains(&name.as_str()));
        shapes
    };
    let reward = shapes(&run.join("reward"))?;
    if !reward.contains_key("score.weight")
        || trunk(reward.clone(), &["score.weight"]) != trunk(want, &["lm_head.weight", "embed_out.weight"])
    {
        bail!("the reward model was saved with other tensors: {reward:?}");
    }
    Ok(())
}

/// Tensor name → shape.
fn shapes(dir: &Path) -> Result<BTreeMap<String, String>> {
    let file = File::read(&dir.join("model.safetensors"))?;
    Ok(file.names().into_iter().map(|name| (name.clone(), file.header[&name]["shape"].to_string())).collect())
}
