//! `tether score` and `tether generate` against what Python transformers gave for the same models.

use super::Model;
use super::checks::Checks;
use super::compare::{expect_close, numbers, read_rows, write_rows};
use super::tether::{Tether, args};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Largest allowed difference of a log-prob (nats) or a score from the golden one.
const TOLERANCE: f64 = 1e-4;

/// Checks a language model.
pub(super) fn check(checks: &mut Checks, tether: &Tether, model: &Model) {
    let name = &model.name;
    let check = |tether: &Tether, body: fn(&Tether, &Model, &Value) -> Result<()>| {
        golden(model).and_then(|golden| body(tether, model, &golden))
    };
    checks.check(&format!("{name}: log-probs are the golden ones"), || check(tether, score));
    checks.check(&format!("{name}: a reference of the same weights has no KL"), || check(tether, reference));
    checks.check(&format!("{name}: greedy text is the golden one"), || check(tether, greedy));
    checks
        .check(&format!("{name}: samples repeat, and score agrees with generate"), || check(tether, sample));
}

/// Checks a reward model.
pub(super) fn check_reward(checks: &mut Checks, tether: &Tether, model: &Model) {
    checks.check(&format!("{}: scores are the golden ones", model.name), || {
        let golden = golden(model)?;
        for (kind, keys) in ROWS {
            let out =
                score_rows(tether, model, &scored_rows(&golden, keys)?, &format!("scores-{kind}"), None)?;
            for (got, want) in out.iter().zip(rows(&golden)?) {
                let score = |row: &Value| row["score"].as_f64().with_context(|| format!("no score in {row}"));
                expect_close("score", &[score(got)?], &[score(want)?], TOLERANCE)?;
            }
        }
        Ok(())
    });
}

/// The two forms that a row to score may have.
const ROWS: [(&str, &[&str]); 2] = [("ids", &["input_ids", "prompt_len"]), ("text", &["prompt", "response"])];

fn golden(model: &Model) -> Result<Value> {
    let path = model.dir.join("golden.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

fn rows(golden: &Value) -> Result<&Vec<Value>> {
    golden["rows"].as_array().context("golden.json has no rows")
}

/// The rows with only these keys (those of them that they have).
fn pick(rows: &Value, keys: &[&str]) -> Result<Vec<Value>> {
    let rows = rows.as_array().context("golden.json has no rows")?;
    let picked = |row: &Value| {
        keys.iter().filter(|k| row.get(**k).is_some()).map(|k| ((*k).to_owned(), row[*k].clone())).collect()
    };
    Ok(rows.iter().map(|row| Value::Object(picked(row))).collect())
}

/// Runs `tether score` on rows and reads what it wrote.
fn score_rows(
    tether: &Tether,
    model: &Model,
    rows: &[Value],
    file: &str,
    reference: Option<&Path>,
) -> Result<Vec<Value>> {
    let (data, out) = (tether.path(&format!("{file}-rows.jsonl")), tether.path(&format!("{file}.jsonl")));
    write_rows(&data, rows)?;
    let mut args = args!["score", "--model", model.dir, "--data", data, "--out", out];
    if let Some(dir) = reference {
        args.extend(args!["--reference", dir]);
    }
    tether.ok(&args)?;
    let scored = read_rows(&out)?;
    if scored.len() != rows.len() {
        bail!("{} rows in, {} rows out", rows.len(), scored.len());
    }
    Ok(scored)
}

fn score(tether: &Tether, model: &Model, golden: &Value) -> Result<()> {
    for (kind, keys) in ROWS {
        let out =
            score_rows(tether, model, &pick(&golden["rows"], keys)?, &format!("logprobs-{kind}"), None)?;
        for (i, (got, want)) in out.iter().zip(rows(golden)?).enumerate() {
            let what = format!("{kind} row {}: logprobs", i + 1);
            expect_close(&what, &numbers(got, "logprobs")?, &numbers(want, "logprobs")?, TOLERANCE)?;
        }
    }
    Ok(())
}

/// Golden rows of a reward model: only `score` matters, so any prompt length will do.
fn scored_rows(golden: &Value, keys: &[&str]) -> Result<Vec<Value>> {
    let wanted: Vec<&str> = keys.iter().copied().filter(|k| *k != "prompt_len").collect();
    let mut rows = pick(&golden["rows"], &wanted)?;
    for row in rows.iter_mut().filter(|r| r.get("input_ids").is_some()) {
        row["prompt_len"] = 1.into();
    }
    Ok(rows)
}

fn reference(tether: &Tether, model: &Model, golden: &Value) -> Result<()> {
    let out = score_rows(tether, model, &pick(&golden["rows"], ROWS[0].1)?, "self", Some(&model.dir))?;
    for row in &out {
        let logprobs = numbers(row, "logprobs")?;
        let zeros = vec![0.0; logprobs.len()];
        expect_close("ref_logprobs", &numbers(row, "ref_logprobs")?, &logprobs, 0.0)?;
        expect_close("kl_k1", &numbers(row, "kl_k1")?, &zeros, 0.0)?;
        expect_close("kl_exact", &numbers(row, "kl_exact")?, &zeros, 1e-6)?;
    }
    Ok(())
}

/// Runs `tether generate` and reads what it wrote.
fn generate(tether: &Tether, model: &Model, file: &str, more: &[&str]) -> Result<Vec<Value>> {
    let (prompts, out) = (tether.path("golden-prompts.jsonl"), tether.path(&format!("{file}.jsonl")));
    let golden = golden(model)?;
    write_rows(&prompts, &pick(&golden["rows"], &["prompt"])?)?;
    let mut args = args!["generate", "--model", model.dir, "--prompts", prompts, "--out", out];
    args.extend(args!["--max-new-tokens", "16"]);
    args.extend(more.iter().map(|a| (*a).into()));
    tether.ok(&args)?;
    read_rows(&out)
}

fn greedy(tether: &Tether, model: &Model, golden: &Value) -> Result<()> {
    let rows = generate(tether, model, "greedy", &["--temperature", "0"])?;
    let row = rows.first().context("generate wrote nothing")?;
    let want = &golden["greedy"];
    for (key, want) in
        [("prompt", &want["prompt"]), ("token_ids", &want["new_ids"]), ("response", &want["text"])]
    {
        if row[key] != *want {
            bail!("{key} is {}, expected {want}", row[key]);
        }
    }
    if row["stop_reason"].as_str().is_none_or(str::is_empty) {
        bail!("no stop_reason in {row}");
    }
    Ok(())
}

fn sample(tether: &Tether, model: &Model, golden: &Value) -> Result<()> {
    let flags = |seed| ["--temperature", "1", "--num-samples", "2", "--seed", seed];
    let rows = generate(tether, model, "sample-a", &flags("5"))?;
    if rows != generate(tether, model, "sample-b", &flags("5"))? {
        bail!("the same seed gave other samples");
    }
    if rows == generate(tether, model, "sample-c", &flags("6"))? {
        bail!("another seed gave the same samples");
    }
    let prompts = golden["rows"].as_array().context("no rows")?;
    if rows.len() != 2 * prompts.len() {
        bail!("{} samples of {} prompts, expected two each", rows.len(), prompts.len());
    }
    // The sampler, with its cache, and the scorer, which sees the whole sequence, must agree.
    let prompt_ids = golden["greedy"]["prompt_ids"].as_array().context("no prompt_ids")?;
    let of_first: Vec<_> = rows.iter().filter(|row| row["prompt"] == golden["greedy"]["prompt"]).collect();
    if of_first.len() != 2 {
        bail!("{} samples of the first prompt, expected 2", of_first.len());
    }
    let to_score = |row: &&Value| {
        let new = row["token_ids"].as_array().context("no token_ids")?;
        let ids: Vec<_> = prompt_ids.iter().chain(new).collect();
        Ok(json!({ "input_ids": ids, "prompt_len": prompt_ids.len() }))
    };
    let inputs = of_first.iter().map(to_score).collect::<Result<Vec<_>>>()?;
    let scored = score_rows(tether, model, &inputs, "resampled", None)?;
    for (got, row) in scored.iter().zip(of_first) {
        expect_close("logprobs", &numbers(got, "logprobs")?, &numbers(row, "logprobs")?, TOLERANCE)?;
    }
    Ok(())
}
