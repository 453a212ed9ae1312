//! What a run recorded of itself, gates on it, and its way into production and back.
//!
//! The audit of the runs that the other checks made: a whole one, one that was killed in the middle, one under a guard.

use super::Model;
use super::checks::Checks;
use super::compare::copy_dir;
use super::interrupt::newest_checkpoint;
use super::tether::{Tether, args};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Passes on anything that was measured.
const LOOSE: &str = "[kl]\nmax = 1000.0\n[collapse]\nmin_entropy = 0.0\n";

/// Nobody passes, and nobody measured it.
const STRICT: &str = "[kl]\nmax = 1e-9\n[[metric]]\nname = \"p95_ms\"\nmax = 400.0\n";

/// Checks audit, gates and registry on the runs of one model.
pub(super) fn check(checks: &mut Checks, tether: &Tether, model: &Model) {
    let name = &model.name;
    checks.check(
        &format!("{name}: audits of a whole, a killed and a guarded run are whole and replay"),
        || {
            for run in ["whole", "killed", "guarded"] {
                let run = tether.path(run);
                tether.ok(&args!["audit", "verify", run])?;
                tether.ok(&args!["audit", "replay", run])?;
            }
            Ok(())
        },
    );
    checks.check(&format!("{name}: an edited log and an edited decision are found"), || tampered(tether));
    checks.check(&format!("{name}: gates pass and refuse, in the table, JSON and JUnit"), || gates(tether));
    checks.check(&format!("{name}: a policy goes into production, and back"), || policy(tether));
}

fn tampered(tether: &Tether) -> Result<()> {
    let (whole, copy) = (tether.path("whole"), tether.path("tampered"));
    copy_dir(&whole, &copy)?;
    let edit = |file: &str, from: &str, to: &str| -> Result<()> {
        let text = fs::read_to_string(whole.join(file))?;
        if !text.contains(from) {
            bail!("{file} has no {from:?}");
        }
        Ok(fs::write(copy.join(file), text.replacen(from, to, 1))?)
    };
    edit("samples.jsonl", "\"step\":1", "\"step\":2")?;
    tether.run(&args!["audit", "verify", copy])?.expect_error(&["samples.jsonl is not what it was"])?;
    edit("audit.jsonl", "\"event\":\"decision\"", "\"event\":\"decisiom\"")?;
    tether.run(&args!["audit", "verify", copy])?.expect_error(&["audit.jsonl: line", "was edited"])?;
    fs::copy(whole.join("audit.jsonl"), copy.join("audit.jsonl"))?;
    edit("control.jsonl", "\"verdict\":\"accept\"", "\"verdict\":\"reject\"")?;
    let weights = newest_checkpoint(&copy)?.join("policy.bin");
    let mut bytes = fs::read(&weights)?;
    bytes[100] ^= 1;
    fs::write(&weights, bytes)?;
    tether.run(&args!["audit", "verify", copy])?.expect_error(&["policy.bin is not what the run saved"])?;
    tether
        .run(&args!["audit", "replay", copy])?
        .expect_error(&["step 1", "verdict is \"reject\" in control.jsonl"])
}

fn gates(tether: &Tether) -> Result<()> {
    let (loose, strict) = (write(tether, "loose.toml", LOOSE)?, write(tether, "strict.toml", STRICT)?);
    let (whole, staged) = (tether.path("whole"), tether.path("staged"));
    let (json, junit) = (tether.path("gate.json"), tether.path("gate.xml"));
    let outs = args!["--json", json, "--junit", junit];
    let gate = |gates: &Path| args!["gate", "--candidate", whole, "--baseline", staged, "--gates", gates];
    tether.ok(&[gate(&loose), outs.clone()].concat())?;
    expect_verdict(&json, true, 2)?;
    tether.run(&[gate(&strict), outs].concat())?.expect_error(&["refused: 0 of 2 gates", "missing"])?;
    expect_verdict(&json, false, 2)?;
    // A table or chain that was edited is not judged.
    let edited = tether.path("gated");
    copy_dir(&whole, &edited)?;
    let evaluation = fs::read(edited.join("evaluation.json"))?;
    fs::write(edited.join("evaluation.json"), [&evaluation[..], b" "].concat())?;
    let gate = args!["gate", "--candidate", edited, "--gates", loose];
    tether.run(&gate)?.expect_error(&["evaluation.json is not what it was", "not judged"])?;
    let xml = fs::read_to_string(&junit)?;
    if !xml.contains("tests=\"2\" failures=\"2\"") {
        bail!("gate.xml: {xml}");
    }
    Ok(())
}

fn expect_verdict(json: &Path, passed: bool, checks: usize) -> Result<()> {
    let verdict: Value = serde_json::from_str(&fs::read_to_string(json)?)?;
    let found = (verdict["passed"].as_bool(), verdict["checks"].as_array().map(Vec::len));
    if found != (Some(passed), Some(checks)) {
        bail!("{}: {verdict}", json.display());
    }
    Ok(())
}

fn policy(tether: &Tether) -> Result<()> {
    let (loose, strict) = (write(tether, "loose.toml", LOOSE)?, write(tether, "strict.toml", STRICT)?);
    let registry = tether.path("registry.db");
    let policy = |words: &[&str], more: &[std::ffi::OsString]| {
        let words = words.iter().map(std::ffi::OsString::from);
        [args!["policy"], words.collect(), args!["--registry", registry, "--by", "ann"], more.to_vec()]
            .concat()
    };
    for (run, name) in [("whole", "first"), ("killed", "second")] {
        tether.ok(&policy(&["add"], &args![tether.path(run), "--name", name]))?;
    }
    let promote = |name: &str, gates: &Path| policy(&["promote", name], &args!["--gates", gates]);
    tether.ok(&promote("first", &loose))?;
    tether.run(&promote("second", &strict))?.expect_error(&["gates did not pass"])?;
    // Numbers that are not those of the audit are not judged.
    let evaluation = tether.path("killed").join("evaluation.json");
    let whole = fs::read(&evaluation)?;
    fs::write(&evaluation, [&whole[..], b" "].concat())?;
    tether.run(&promote("second", &loose))?.expect_error(&["evaluation.json is not what it was"])?;
    fs::write(&evaluation, whole)?;
    let rules = |n: &str, who: &str| policy(&["rules", "--approvals", n, "--approve-as", who], &[]);
    tether.run(&rules("20", "ann"))?.expect_error(&["it takes 20 people"])?;
    tether.run(&rules("2", "ann"))?.expect_error(&["it takes 2 people"])?;
    tether.ok(&rules("2", "bob"))?;
    let approve = |who: &str| [promote("second", &loose), args!["--approve-as", who]].concat();
    tether.run(&approve("ann"))?.expect_error(&["takes 2 people"])?;
    tether.ok(&approve("bob"))?;
    expect_production(&tether.ok(&policy(&["show", "production", "--json"], &[]))?, "second")?;
    let lineage = tether.ok(&policy(&["lineage", "second"], &[]))?;
    if !lineage.contains("made_by run") || !lineage.contains("base policy") {
        bail!("{lineage}");
    }
    tether.ok(&policy(&["diff", "first", "second"], &[]))?;
    // Where the files are gone, there is nothing to go back to, and nothing is changed.
    let (there, away) = (tether.path("whole").join("policy"), tether.path("away"));
    fs::rename(&there, &away)?;
    let back = policy(&["rollback", "--reason", "a drill"], &[]);
    tether.run(&back)?.expect_error(&["there is no directory", "--unchecked"])?;
    expect_production(&tether.ok(&policy(&["show", "production", "--json"], &[]))?, "second")?;
    fs::rename(&away, &there)?;
    tether.ok(&back)?;
    expect_production(&tether.ok(&policy(&["show", "production", "--json"], &[]))?, "first")?;
    let said = tether.ok(&policy(&["audit"], &[]))?;
    if !said.contains("the tables are what it says") {
        bail!("{said}");
    }
    Ok(())
}

fn expect_production(json: &str, name: &str) -> Result<()> {
    let line = json.lines().find(|l| l.starts_with('{')).context("no JSON")?;
    let found: Value = serde_json::from_str(line)?;
    if found["name"] != name || found["stage"] != "production" {
        bail!("{name} is not in production: {found}");
    }
    Ok(())
}

fn write(tether: &Tether, name: &str, text: &str) -> Result<std::path::PathBuf> {
    let path = tether.path(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
