//! `audit.jsonl` of a run: what was decided, on what, and from what; and whether the rest of the directory still agrees.
//!
//! | `event` | when | says |
//! | --- | --- | --- |
//! | `start`, `resume` | a process begins in the directory | SHA-256 of `config.toml` and of every data file, seed, version; once the SHA-256 of the checkpoints that were there |
//! | `models` | the models that it starts from are loaded | SHA-256 of each directory |
//! | `stage` | a stage has left its result | SHA-256 of the directory |
//! | `restored` | PPO begins, or goes on from a checkpoint | the step; 0 at the start |
//! | `decision` | the controller decided | the decision, and the SHA-256 of the observation's line in `control.jsonl` |
//! | `checkpoint` | one is about to appear | the step, of which stage, SHA-256 of each file |
//! | `rolled_back`, `halt_released` | the run went back, or on after a halt | to which step |
//! | `evaluation` | `evaluation.json` was written | its SHA-256 |
//! | `end` | the process ends by itself | how (with what was not finite, where that ended it), and the SHA-256 of every log |
//!
//! A resumed run does not cut it: the other logs are cut back to the checkpoint, this one says that it went on from there
//! (`restored`), and the decisions of the lost steps stand twice. They must be the same, as a resumed run repeats what was
//! lost. No prompt, response, path or configuration text is in it.

pub(crate) mod checkpoints;

use crate::Error;
use crate::inputs::ModelHashes;
use crate::recipe::Recipe;
use crate::replay::{Entry, replay};
use crate::report::lines;
use crate::run_dir::RunDir;
use checkpoints::Recorded;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tetherline_audit::{AuditLog, Head, Record, dir_sha256, file_sha256, sha256, verify};
use tetherline_core::Stage;
use tetherline_eval::report::NotFinite;
use tetherline_models::Device;

/// The logs and tables whose hashes an `end` record has.
const LOGS: [&str; 9] = [
    "metrics.jsonl",
    "control.jsonl",
    "samples.jsonl",
    "events.jsonl",
    "sft.jsonl",
    "reward.jsonl",
    "dpo.jsonl",
    "reward_held_out.json",
    "dpo_held_out.json",
];

/// Appends `value`, an object, to a log.
pub(crate) fn append(log: &mut AuditLog, value: Value) -> Result<(), Error> {
    let body = match value {
        Value::Object(body) => body,
        other => Map::from_iter([("value".to_owned(), other)]),
    };
    log.append(&body)?;
    Ok(())
}

/// Appends one record to a run's log and forces it to disk.
pub(crate) fn record(run: &RunDir, value: Value) -> Result<(), Error> {
    let mut log = AuditLog::open(run.audit())?;
    append(&mut log, value)?;
    Ok(log.sync()?)
}

fn hash_of(path: &Path) -> Result<String, Error> {
    file_sha256(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })
}

/// The beginning of a process in the directory.
pub(crate) fn started(run: &RunDir, recipe: &Recipe) -> Result<(), Error> {
    let mut log = AuditLog::open(run.audit())?;
    let data = recipe.data.files().map(|(key, path)| Ok((key.to_owned(), hash_of(path)?)));
    let data = data.collect::<Result<BTreeMap<_, _>, Error>>()?;
    let event = if log.head().records == 0 { "start" } else { "resume" };
    let mut body = json!({"event": event, "seed": recipe.seed, "config": hash_of(&run.config())?, "data": data,
        "version": env!("CARGO_PKG_VERSION")});
    if !read(&run.audit(), None)?.1.iter().any(|r| r.body.contains_key("checkpoints")) {
        body["checkpoints"] = json!(checkpoints::inventory(run)?);
    }
    if log.torn() > 0 {
        body["torn_bytes"] = json!(log.torn());
    }
    append(&mut log, body)?;
    Ok(log.sync()?)
}

/// The models that the recipe names were read; nothing where it names no directory, or they were recorded before.
pub(crate) fn models(run: &RunDir, hashes: &ModelHashes) -> Result<(), Error> {
    match hashes.wait()? {
        Some(hashes) if !hashes.is_empty() => record(run, json!({"event": "models", "sha256": hashes})),
        _ => Ok(()),
    }
}

/// A stage has left its directory.
pub(crate) fn stage_done(run: &RunDir, stage: Stage, dir: &Path) -> Result<(), Error> {
    let hash =
        dir_sha256(dir).map_err(|source| Error::Io { action: "read", path: dir.to_owned(), source })?;
    record(run, json!({"event": "stage", "stage": stage.name(), "sha256": hash}))
}

/// `evaluation.json` was written.
pub(crate) fn evaluated(run: &RunDir, file: &Path) -> Result<(), Error> {
    record(run, json!({"event": "evaluation", "sha256": hash_of(file)?}))
}

/// The end of a process that ends by itself, well or not.
pub(crate) fn ended(run: &RunDir, failed: Option<&Error>) -> Result<(), Error> {
    let (word, step) = match failed {
        None => ("done", None),
        Some(Error::Halted { step, .. }) => ("halted", Some(*step)),
        Some(Error::NotFinite { step, .. }) => ("not_finite", Some(*step)),
        Some(Error::Interrupted { step, .. }) => ("interrupted", Some(*step)),
        Some(_) => ("failed", None),
    };
    let mut hashes = BTreeMap::new();
    for name in LOGS {
        let path = run.root().join(name);
        if path.is_file() {
            hashes.insert(name, hash_of(&path)?);
        }
    }
    let mut body = json!({"event": "end", "outcome": word, "step": step, "logs": hashes});
    if let Some(Error::NotFinite { stage, what, last_checkpoint, .. }) = failed {
        let checkpoint = last_checkpoint.as_deref().map(|p| p.strip_prefix(run.root()).unwrap_or(p));
        (body["stage"], body["what"]) = (json!(stage.name()), json!(what));
        body["checkpoint"] = json!(checkpoint.map(|p| p.display().to_string()));
    }
    record(run, body)
}

/// How a run ended on a number that is not finite, if it did and no process has gone on since. The chain is not verified.
pub(crate) fn not_finite(run: &RunDir) -> Result<Option<NotFinite>, Error> {
    let path = run.audit();
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|source| Error::Io { action: "read", path, source })?,
    };
    let last: Option<Value> = text.lines().next_back().and_then(|line| serde_json::from_str(line).ok());
    let Some(end) = last.filter(|r| r["event"] == "end" && r["outcome"] == "not_finite") else {
        return Ok(None);
    };
    let words = |key: &str| end[key].as_str().map(str::to_owned);
    Ok(Some(NotFinite {
        stage: words("stage").unwrap_or_default(),
        step: end["step"].as_u64().unwrap_or_default(),
        what: words("what").unwrap_or_else(|| "a number was not finite".to_owned()),
        checkpoint: words("checkpoint"),
    }))
}

/// The records of the lines that a step added to `control.jsonl`.
pub(crate) fn decisions(control: &[Value]) -> Vec<Value> {
    let mut out = Vec::new();
    for pair in control.windows(2).filter(|p| p[0].get("domains").is_some()) {
        let [seen, decision] = pair else { continue };
        let line = sha256(seen.to_string().as_bytes());
        out.push(json!({"event": "decision", "phase": seen["phase"], "trial": seen["trial"],
            "observation": line, "decision": decision}));
    }
    for line in control {
        if let Some(to) = line.get("rollback") {
            out.push(json!({"event": "rolled_back", "to": to}));
        }
    }
    out
}

/// What [`check`] found.
#[derive(Debug)]
pub struct Checked {
    /// The end of the chain.
    pub head: Head,
    /// How often each event stands in it.
    pub events: BTreeMap<String, u64>,
    /// Where files of the directory are not what the chain says they were.
    pub problems: Vec<String>,
    /// Whether the last record is the end of a run. Otherwise it was killed or is going on, and no record covers its logs.
    pub ended: bool,
}

/// Verifies the chain of a run, and that its configuration, its logs, its checkpoints and the results of its stages are those
/// that the chain names. With `kept`, the chain must contain that head.
///
/// # Errors
/// [`Error::Io`] without an audit, [`Error::Audit`] where the chain is broken.
pub fn check(root: &Path, kept: Option<&Head>) -> Result<Checked, Error> {
    let (head, records) = read(&root.join("audit.jsonl"), kept)?;
    let mut checked = compare(root, head, &records);
    checked.problems.extend(Recorded::of(root, &records).problems());
    Ok(checked)
}

/// The same but for checkpoints, on which no number of a run depends once it has ended.
///
/// # Errors
/// As [`check`].
pub fn check_results(root: &Path) -> Result<Checked, Error> {
    let (head, records) = read(&root.join("audit.jsonl"), None)?;
    Ok(compare(root, head, &records))
}

/// Compares what is in the directory with what the records say.
fn compare(root: &Path, head: Head, records: &[Record]) -> Checked {
    let mut events = BTreeMap::new();
    let mut problems = Vec::new();
    for record in records {
        *events.entry(event(record).to_owned()).or_default() += 1;
    }
    let mut expect = |name: &str, is: Result<String, std::io::Error>, was: &Value| match is {
        Ok(hash) if was == &json!(hash) => {}
        Ok(_) => problems.push(format!("{name} is not what it was when the audit recorded it")),
        Err(e) => problems.push(format!("{name} cannot be read: {e}")),
    };
    let last = |what: &str| records.iter().rev().find(|r| event(r) == what);
    let ended = records.last().is_some_and(|r| event(r) == "end");
    if let Some(first) = records.first() {
        expect("config.toml", file_sha256(&root.join("config.toml")), &first.body["config"]);
    }
    // Between two ends a run appends to its logs: only those of one that ended are known.
    if let Some(end) = records.last().filter(|r| event(r) == "end") {
        for (name, was) in end.body["logs"].as_object().into_iter().flatten() {
            expect(name, file_sha256(&root.join(name)), was);
        }
    }
    let evaluation = last("evaluation");
    if let Some(evaluation) = evaluation {
        expect("evaluation.json", file_sha256(&root.join("evaluation.json")), &evaluation.body["sha256"]);
    }
    let mut stages: BTreeMap<&str, &Value> = BTreeMap::new();
    for stage in records.iter().filter(|r| event(r) == "stage") {
        stages.insert(stage.body["stage"].as_str().unwrap_or_default(), &stage.body["sha256"]);
    }
    for (stage, was) in stages {
        let dir = if stage == Stage::Ppo.name() { "policy" } else { stage };
        expect(&format!("{dir}/"), dir_sha256(&root.join(dir)), was);
    }
    if evaluation.is_none() && root.join("evaluation.json").is_file() {
        problems.push(
            "evaluation.json is not in the audit: it was put there, or the run was killed just then (`tether eval` evaluates \
             anew)"
                .to_owned(),
        );
    }
    if records.is_empty() {
        problems.push("audit.jsonl has no record: it covers nothing".to_owned());
    } else if !ended && root.join("report.html").is_file() {
        problems.push(
            "audit.jsonl does not end as a run does, although there is a report: its last records were taken away, or a \
             later run in this directory was killed"
                .to_owned(),
        );
    }
    Checked { head, events, problems, ended }
}

fn event(record: &Record) -> &str {
    record.body["event"].as_str().unwrap_or_default()
}

/// Reads and verifies a chain.
///
/// # Errors
/// [`Error::Io`], [`Error::Audit`].
pub fn read(path: &Path, kept: Option<&Head>) -> Result<(Head, Vec<Record>), Error> {
    let bytes =
        std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    let broken = |broken| tetherline_audit::AuditError::Broken { path: path.to_owned(), broken };
    Ok(verify(&bytes, kept).map_err(broken)?)
}

/// What [`replay_run`] found.
#[derive(Debug, Default)]
pub struct ReplayedRun {
    /// Decisions in `control.jsonl` that were recomputed.
    pub decisions: usize,
    /// Decisions of the audit that were compared; repeated after a resume, each counts.
    pub audited: usize,
    /// Every decision that was not reproduced: where, and what differs.
    pub differences: Vec<String>,
}

/// Recomputes every decision of a run from the observations in its `control.jsonl`, under the controller of its
/// `config.toml`, and compares it, to the last bit, with the decision in that log and with the audit. The sentence of a reason
/// is not compared: another build may say the same in other words.
///
/// # Errors
/// If the directory is no run, or a log cannot be read.
pub fn replay_run(root: &Path) -> Result<ReplayedRun, Error> {
    let run = RunDir::read(root)?;
    let recipe = run.recipe()?;
    let kl = &recipe.kl;
    // Steps that were lost are made again to the same bits by the kernels; a graph on another device promises less.
    let repeats = recipe.device == Device::Cpu;
    let (_, records) = read(&run.audit(), None)?;
    let mut out = ReplayedRun::default();
    // Step, phase and trial name a decision.
    let mut known = BTreeMap::new();
    let empty = lines(&run.control())?.is_empty();
    let entries = if empty { Vec::new() } else { replay(kl, &run.control(), 1)? };
    for entry in entries {
        let Entry::Observed(replayed) = entry else { continue };
        out.decisions += 1;
        let phase = json!(replayed.observation.phase);
        let trial = json!(replayed.observation.trial);
        let place = format!(
            "step {}, {}{}",
            replayed.observation.step,
            word(&phase),
            match &trial {
                Value::Null => String::new(),
                n => format!(" {n}"),
            }
        );
        let decided = without_prose(&json!(replayed.decision));
        match &replayed.logged {
            None => out.differences.push(format!("{place}: control.jsonl has no decision on it")),
            Some(logged) => differ(&place, "control.jsonl", logged, &decided, &mut out.differences),
        }
        known.insert((replayed.observation.step, phase.to_string(), trial.to_string()), (place, decided));
    }
    // An observation that was edited together with everything that follows from it is not the one that was seen.
    let seen: BTreeMap<String, Value> = lines(&run.control())?
        .into_iter()
        .filter(|l| l.get("domains").is_some())
        .map(|l| (sha256(l.to_string().as_bytes()), l))
        .collect();
    let mut audited = BTreeSet::new();
    for (record, lost) in decided_steps(&records) {
        let decision = &record.body["decision"];
        let key = (
            decision["step"].as_u64().unwrap_or_default(),
            record.body["phase"].to_string(),
            record.body["trial"].to_string(),
        );
        let Some((place, decided)) = known.get(&key).filter(|_| !lost || repeats) else {
            if empty && out.differences.is_empty() {
                out.differences
                    .push("control.jsonl is empty or gone, and the audit has decisions".to_owned());
            } else if !lost && !empty {
                let problem = "has a decision that is not in control.jsonl";
                out.differences.push(format!("step {}: the audit (record {}) {problem}", key.0, record.seq));
            }
            continue;
        };
        out.audited += 1;
        audited.insert(key);
        differ(place, &format!("the audit, record {}", record.seq), decision, decided, &mut out.differences);
        let observation = record.body["observation"].as_str().unwrap_or_default();
        if !seen.contains_key(observation) {
            out.differences.push(format!(
                "{place}: the observation in control.jsonl is not the one that the audit (record {}) saw",
                record.seq
            ));
        }
    }
    // A process that was killed may have written a step's decisions and not yet its records.
    let last = known.keys().next_back().map(|key| key.0);
    let killed = records.last().is_some_and(|r| event(r) != "end");
    for (key, (place, _)) in known.iter().filter(|(key, _)| !audited.contains(*key)) {
        if !(killed && Some(key.0) == last) {
            out.differences.push(format!("{place}: the audit has no record of this decision"));
        }
    }
    Ok(out)
}

/// The records of decisions, and whether the step was lost with a process that was killed and made again from a
/// checkpoint before it.
fn decided_steps(records: &[Record]) -> Vec<(&Record, bool)> {
    let mut from = u64::MAX;
    let mut out = Vec::new();
    for record in records.iter().rev() {
        match event(record) {
            "restored" => from = from.min(record.body["step"].as_u64().unwrap_or(u64::MAX)),
            "decision" => {
                let step = record.body["decision"]["step"].as_u64().unwrap_or_default();
                out.push((record, step > from));
            }
            _ => {}
        }
    }
    out.reverse();
    out
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// A decision without the sentence of its reason, whose code stays.
fn without_prose(decision: &Value) -> Value {
    let mut out = decision.clone();
    if let Some(reason) = out.get_mut("reason").and_then(Value::as_object_mut) {
        reason.remove("text");
    }
    out
}

/// Says where `found`, the decision in `place`, is not `decided`, which has no prose.
fn differ(place: &str, where_: &str, found: &Value, decided: &Value, out: &mut Vec<String>) {
    let found = &without_prose(found);
    if found == decided {
        return;
    }
    let keys = decided.as_object().into_iter().chain(found.as_object()).flat_map(|o| o.keys());
    let key = keys.into_iter().find(|k| found.get(k.as_str()) != decided.get(k.as_str()));
    let key = key.map_or("", String::as_str);
    out.push(format!(
        "{place}: {key} is {} in {where_}, and {} when it is recomputed",
        found[key], decided[key]
    ));
}
