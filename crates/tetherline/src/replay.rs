//! `tether kl replay`: what β would another controller have chosen on the KL that a run logged?
//!
//! A replay answers for the controller only: had β been another one, the KL would have been another one too.
//!
//! | log | mean KL, nats per sequence | variance across sequences | sequences |
//! | --- | --- | --- | --- |
//! | observations (the JSON-lines contract, `control.jsonl`) | `mean_kl` | `var` | `n` |
//! | ours (`metrics.jsonl`) | `objective/kl_exact`, else `objective/kl` | its `_stderr`² · n | growth of `episode` |
//! | TRL | `objective/kl` | 2·KL | growth of `episode` |
//! | verl | `actor/reward_kl_penalty` · `response_length/mean` | 2·KL | `episodes` given |
//!
//! The lines of the contract are followed: `{"checkpoint": STEP}` keeps the replaying controller's state under that step,
//! `{"rollback": STEP}` returns to it, as the trainer of the log did, and `{"release": STEP}` starts its guard anew after a
//! halt that a person released. A decision in the log gives its β by domain; the β
//! of the other logs is that of `all`.
//!
//! Where a log has no spread, the variance is that of the log-ratio along the tilt of the reference, 2·KL.
//!
//! A log is JSON lines, or one JSON object with the rows in `log_history` (`trainer_state.json` of Hugging Face
//! trainers). A row may hold its numbers in `data` (verl's `FileLogger`). Numbers that are not finite may stand as
//! Python writes them.

use crate::Error;
use crate::control::kept::Kept;
use crate::python_json;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use tetherline_kl::{
    ALL, ControlDecision, DomainKl, KlConfig, KlController, KlObservation, KlPolicy, NatsPerSequence,
};

/// One observation of a log, and what was and would have been decided.
#[derive(Debug)]
pub struct Replayed {
    /// What was observed.
    pub observation: KlObservation,
    /// The β in the log by domain, where it has them.
    pub logged_beta: BTreeMap<String, f64>,
    /// The whole decision in the log, where it has one.
    pub logged: Option<Value>,
    /// What the controller decides.
    pub decision: ControlDecision,
}

/// What a log holds, in its order.
#[derive(Debug)]
pub enum Entry {
    /// An observation and the decision on it.
    Observed(Box<Replayed>),
    /// The trainer saved a checkpoint at this step; the controller's state is kept under it.
    Checkpoint(u64),
    /// The trainer went back to its checkpoint of this step, and the controller's law with it.
    RolledBack(u64),
    /// A person let the trainer go on after its halt at this step, and the guard started anew.
    Released(u64),
}

/// Replays a log through a controller of `config`. `episodes` stands in for the sequences per update where the
/// log does not say.
///
/// # Errors
/// [`Error::Input`] naming file and line of a row that is no JSON object, that has a step or a number that is none, or
/// that goes back to a checkpoint which the log does not hold; or where no row has a KL.
pub fn replay(config: &KlConfig, log: &Path, episodes: u64) -> Result<Vec<Entry>, Error> {
    let file = log.display().to_string();
    let text = std::fs::read_to_string(log).map_err(|source| Error::Io {
        action: "read",
        path: log.to_owned(),
        source,
    })?;
    let controller = KlPolicy::new(config.clone()).map_err(|e| Error::input("the kl section", e))?;
    let mut replay =
        Replay { controller, kept: Kept::all(), out: Vec::new(), observed: 0, last_episode: 0.0, episodes };
    for (place, row) in rows(&python_json::finite(&text), &file)? {
        replay.row(row).map_err(|problem| Error::input(place, problem))?;
    }
    if replay.observed == 0 && text.trim().is_empty() {
        let problem = "it is empty: there is nothing to replay. A run writes it from its first PPO step on; one that has \
                       not come so far, or is trained by other stages alone, has decided nothing yet";
        return Err(Error::input(file, problem));
    }
    if replay.observed == 0 {
        let problem = "no row has a KL: expected `objective/kl_exact`, `objective/kl`, `actor/reward_kl_penalty` \
                       with `response_length/mean`, or observations with `domains`";
        return Err(Error::input(file, problem));
    }
    Ok(replay.out)
}

/// A replay under way.
struct Replay {
    controller: KlPolicy,
    kept: Kept,
    out: Vec<Entry>,
    observed: u64,
    last_episode: f64,
    episodes: u64,
}

impl Replay {
    /// Follows one row; what it says besides KL is passed over.
    fn row(&mut self, row: Row) -> Result<(), String> {
        if row.contains_key("domains") {
            let observation = serde_json::from_value(Value::Object(row)).map_err(|e| e.to_string())?;
            self.observe(observation, BTreeMap::new());
            return Ok(());
        }
        if row.contains_key("verdict") {
            self.logged(&row);
            return Ok(());
        }
        if ["checkpoint", "rollback", "release"].iter().any(|key| row.contains_key(*key)) {
            return self.checkpoint(&row);
        }
        let beta = match number(&row, "objective/kl_coef")? {
            None => number(&row, "actor/reward_kl_penalty_coeff")?,
            some => some,
        };
        let episode = number(&row, "episode")?.filter(|e| *e > self.last_episode);
        let n = episode.map_or(self.episodes, |e| (e - self.last_episode) as u64);
        self.last_episode = episode.unwrap_or(self.last_episode);
        let Some((kl, stderr)) = logged_kl(&row)? else { return Ok(()) };
        let step = match count(&row, "step")? {
            None => count(&row, "training/global_step")?,
            some => some,
        };
        let var = stderr.map_or(2.0 * kl.max(0.0), |s| s * s * n as f64);
        let domain = DomainKl::new(ALL, NatsPerSequence(kl), var, n);
        let logged = beta.filter(|b| b.is_finite()).map(|b| (ALL.to_owned(), b));
        let observation = KlObservation::rollout(step.unwrap_or(self.observed), vec![domain]);
        self.observe(observation, logged.into_iter().collect());
        Ok(())
    }

    fn observe(&mut self, observation: KlObservation, logged_beta: BTreeMap<String, f64>) {
        self.observed += 1;
        let decision = self.controller.observe(&observation);
        let replayed = Replayed { observation, logged_beta, logged: None, decision };
        self.out.push(Entry::Observed(Box::new(replayed)));
    }

    /// A decision in the log belongs to the observation before it, if it is of the same step.
    fn logged(&mut self, row: &Row) {
        let Some(Entry::Observed(last)) = self.out.last_mut() else { return };
        let same = row.get("step").and_then(Value::as_u64) == Some(last.observation.step);
        if same {
            last.logged = Some(Value::Object(row.clone()));
        }
        if let (true, Some(Value::Object(beta))) = (same, row.get("beta")) {
            last.logged_beta = beta.iter().filter_map(|(id, b)| Some((id.clone(), b.as_f64()?))).collect();
        }
    }

    /// The trainer's checkpoints. The controller's answers to these lines may stand in the log as well.
    fn checkpoint(&mut self, row: &Row) -> Result<(), String> {
        if row.contains_key("kept") || row.contains_key("beta") {
            return Ok(());
        }
        if row.len() > 1 {
            return Err("a `checkpoint`, `rollback` or `release` stands alone in its line".to_owned());
        }
        if let Some(step) = count(row, "checkpoint")? {
            self.kept.keep(step, self.controller.state()).map_err(|e| e.to_string())?;
            self.out.push(Entry::Checkpoint(step));
        }
        if let Some(step) = count(row, "rollback")? {
            let state = self.kept.of(step).ok_or_else(|| {
                format!("no checkpoint of step {step} is kept (kept: {:?})", self.kept.steps())
            })?;
            self.controller.roll_back(state).map_err(|e| e.to_string())?;
            self.out.push(Entry::RolledBack(step));
        }
        if let Some(step) = count(row, "release")? {
            self.controller.release_halt();
            self.out.push(Entry::Released(step));
        }
        Ok(())
    }
}

/// A row of a log: numbers by name.
type Row = Map<String, Value>;

/// The rows of a log with their places: of `log_history` where the text is one object that has it, else its lines.
fn rows(text: &str, file: &str) -> Result<Vec<(String, Row)>, Error> {
    let whole = serde_json::from_str::<Value>(text).ok();
    if let Some(history) = whole.as_ref().and_then(|w| w.get("log_history")) {
        let problem = || Error::input(file, "`log_history` is no array");
        let history = history.as_array().ok_or_else(problem)?;
        let row = |(i, row): (usize, &Value)| {
            let at = format!("{file} log_history[{i}]");
            match row.as_object() {
                Some(row) => Ok((at, flat(row.clone()))),
                None => Err(Error::input(at, "it is no JSON object")),
            }
        };
        return history.iter().enumerate().map(row).collect();
    }
    if whole.is_some() && text.trim().contains('\n') {
        let problem =
            "it is one JSON value over several lines: expected JSON lines, or an object with `log_history`";
        return Err(Error::input(file, problem));
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let row = |(i, line): (usize, &str)| {
        let at = format!("{file} line {}", i + 1);
        match serde_json::from_str(line) {
            Ok(row) => Ok((at, flat(row))),
            Err(e) => Err(Error::input(at, e)),
        }
    };
    lines.map(row).collect()
}

/// A row with the numbers of its `data` beside its own.
fn flat(mut row: Row) -> Row {
    match row.remove("data") {
        Some(Value::Object(data)) => data.into_iter().chain(row).collect(),
        Some(other) => {
            row.insert("data".to_owned(), other);
            row
        }
        None => row,
    }
}

/// A number of a row, where it has it. `null` is how a log holds a number that was not finite: NaN.
fn number(row: &Row, key: &str) -> Result<Option<f64>, String> {
    match row.get(key) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(f64::NAN)),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(format!("`{key}` must be a number, got {value}")),
        },
    }
}

/// A step of a row, where it has it.
fn count(row: &Row, key: &str) -> Result<Option<u64>, String> {
    let Some(value) = row.get(key) else { return Ok(None) };
    // Some loggers write every number as a float.
    let whole = value.as_f64().filter(|v| v.fract() == 0.0 && (0.0..9e15).contains(v)).map(|v| v as u64);
    match value.as_u64().or(whole) {
        Some(step) => Ok(Some(step)),
        None => Err(format!("`{key}` must be a whole number ≥ 0, got {value}")),
    }
}

/// Mean KL and its standard error, nats per sequence.
fn logged_kl(row: &Row) -> Result<Option<(f64, Option<f64>)>, String> {
    for (kl, stderr) in
        [("objective/kl_exact", "objective/kl_exact_stderr"), ("objective/kl", "objective/kl_stderr")]
    {
        if let Some(kl) = number(row, kl)? {
            return Ok(Some((kl, number(row, stderr)?)));
        }
    }
    let per_token = number(row, "actor/reward_kl_penalty")?;
    let tokens = number(row, "response_length/mean")?;
    Ok(per_token.zip(tokens).map(|(kl, tokens)| (kl * tokens, None)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_kl::law::{Adaptive, Law};

    fn entries(config: &KlConfig, lines: &[&str]) -> Result<Vec<Entry>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        replay(config, &path, 64)
    }

    fn adaptive() -> KlConfig {
        Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 1000.0)).into()
    }

    fn run(lines: &[&str]) -> Result<Vec<Replayed>, Error> {
        let observed = |entry| match entry {
            Entry::Observed(replayed) => Some(*replayed),
            _ => None,
        };
        Ok(entries(&adaptive(), lines)?.into_iter().filter_map(observed).collect())
    }

    /// The β that a row of `all` has in the log.
    fn beta(of: &Replayed) -> Option<f64> {
        of.logged_beta.get(ALL).copied()
    }

    #[test]
    fn nested_rows_and_a_history_are_logs_too() {
        let flat = r#"{"training/global_step":4,"actor/reward_kl_penalty":0.01,"response_length/mean":200.0,"actor/reward_kl_penalty_coeff":0.2}"#;
        let nested = format!(r#"{{"step": 5, "data": {flat}}}"#);
        let verl = run(&[&nested]).unwrap();
        assert_eq!((verl[0].observation.step, verl[0].observation.domains[0].mean_kl.0), (5, 2.0));
        assert_eq!(beta(&verl[0]), Some(0.2));
        let history = [
            "{",
            r#"  "epoch": 1.0, "best_metric": NaN,"#,
            r#"  "log_history": ["#,
            r#"    {"episode": 64, "objective/kl": 3.0, "step": 1},"#,
            r#"    {"eval_loss": NaN, "step": 1},"#,
            r#"    {"episode": 128, "objective/kl": NaN, "step": 2}"#,
            "  ]",
            "}",
        ];
        let trl = run(&history).unwrap();
        assert_eq!((trl.len(), trl[1].observation.step, trl[0].observation.domains[0].n), (2, 2, 64));
        assert_eq!(trl[1].decision.verdict, tetherline_kl::Verdict::Reject);
        let refused = |lines: &[&str]| run(lines).unwrap_err().to_string();
        assert!(refused(&[r#"{"log_history": [{}, 3]}"#]).contains("log_history[1]"));
        assert!(refused(&[r#"{"log_history": 3}"#]).contains("log_history"));
        assert!(refused(&["{", r#""history": []"#, "}"]).contains("an object with `log_history`"));
        assert!(refused(&[r#"{"log_history": []}"#]).contains("no row has a KL"));
        assert!(refused(&[r#"{"step": 1, "data": 3}"#]).contains("no row has a KL"));
    }

    #[test]
    fn the_three_logs_are_read_in_nats_per_sequence() {
        let ours = run(&[
            r#"{"step":1,"episode":32,"objective/kl":9.0,"objective/kl_exact":8.0,"objective/kl_exact_stderr":0.5,"objective/kl_coef":0.1}"#,
            r#"{"step":2,"episode":96,"objective/kl_exact":8.0,"objective/kl_exact_stderr":0.5}"#,
        ])
        .unwrap();
        let first = &ours[0].observation.domains[0];
        assert_eq!((first.mean_kl.0, first.n, first.var), (8.0, 32, 8.0));
        assert_eq!((ours[1].observation.domains[0].n, beta(&ours[0])), (64, Some(0.1)));
        let trl = run(&[r#"{"episode":512,"objective/kl":3.0}"#]).unwrap();
        assert_eq!((trl[0].observation.domains[0].n, trl[0].observation.domains[0].var), (512, 6.0));
        let verl = run(&[r#"{"training/global_step":4,"actor/reward_kl_penalty":0.01,"response_length/mean":200.0,"actor/reward_kl_penalty_coeff":0.2}"#]).unwrap();
        assert_eq!((verl[0].observation.step, verl[0].observation.domains[0].mean_kl.0), (4, 2.0));
        assert!(ours[1].decision.beta_for(ALL) > 0.2, "8 nats are above the target of 6");
    }

    #[test]
    fn a_log_without_kl_and_a_broken_line_are_errors() {
        assert!(run(&[r#"{"loss":1.0}"#]).unwrap_err().to_string().contains("objective/kl"));
        assert!(run(&[]).unwrap_err().to_string().contains("it is empty: there is nothing to replay"));
        assert!(run(&["{}", "{"]).unwrap_err().to_string().contains("line 2"));
        for line in [r#"{"objective/kl":null}"#, r#"{"objective/kl":NaN}"#, r#"{"objective/kl": -Infinity}"#]
        {
            let broken = run(&[line]).unwrap();
            assert!(broken[0].observation.domains[0].mean_kl.0.is_nan());
            assert_eq!(broken[0].decision.beta_for(ALL), 0.2);
        }
    }

    #[test]
    fn a_step_or_a_number_that_is_none_names_its_line() {
        for (line, words) in [
            (r#"{"step":-4,"objective/kl":3.0}"#, "`step` must be a whole number ≥ 0, got -4"),
            (r#"{"step":1.5,"objective/kl":3.0}"#, "`step`"),
            (r#"{"step":null,"objective/kl":3.0}"#, "`step`"),
            (r#"{"training/global_step":"4","objective/kl":3.0}"#, "`training/global_step`"),
            (r#"{"step":4,"objective/kl":"x"}"#, r#"`objective/kl` must be a number, got "x""#),
            (r#"{"step":4,"objective/kl":3.0,"objective/kl_stderr":[]}"#, "`objective/kl_stderr`"),
            (r#"{"step":4,"objective/kl":3.0,"objective/kl_coef":"0.1"}"#, "`objective/kl_coef`"),
            (r#"{"step":4,"objective/kl":3.0,"episode":true}"#, "`episode`"),
            (r#"{"step":-4,"domains":[]}"#, "-4"),
            (r#"{"rollback":3}"#, "no checkpoint of step 3 is kept (kept: [])"),
            (r#"{"rollback":-3}"#, "`rollback`"),
            (r#"{"release":"3"}"#, "`release`"),
            (r#"{"release":3,"step":3}"#, "stands alone"),
            (r#"{"checkpoint":"3"}"#, "`checkpoint`"),
            (r#"{"checkpoint":3,"step":3}"#, "stands alone"),
        ] {
            let error = run(&[r#"{"step":3,"objective/kl":3.0}"#, line]).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(words), "{line}: {error}");
        }
        let float = run(&[r#"{"step":4.0,"objective/kl":3.0}"#]).unwrap();
        assert_eq!(float[0].observation.step, 4);
    }

    #[test]
    fn checkpoints_and_rollbacks_of_a_log_are_followed() {
        let observe = |step: u64| {
            format!(r#"{{"step":{step},"domains":[{{"id":"all","mean_kl":9.0,"var":1.0,"n":64}}]}}"#)
        };
        let (first, second, third) = (observe(1), observe(2), observe(3));
        let (kept, back) = (r#"{"checkpoint":1}"#, r#"{"rollback":1}"#);
        let answers = [r#"{"checkpoint":1,"kept":[1]}"#, r#"{"rollback":1,"beta":{"all":0.3}}"#];
        let lines = [&first, kept, answers[0], &second, back, answers[1], &third];
        let entries = entries(&adaptive(), &lines).unwrap();
        let betas: Vec<_> = entries
            .iter()
            .filter_map(|e| match e {
                Entry::Observed(r) => Some(r.decision.beta_for(ALL)),
                _ => None,
            })
            .collect();
        assert!(matches!(entries[1..], [Entry::Checkpoint(1), Entry::Observed(_), Entry::RolledBack(1), _]));
        assert!(betas[1] > betas[0]);
        assert_eq!(betas[2], betas[1], "the third goes on from the first, not from the second");
    }

    #[test]
    fn the_decisions_of_a_log_give_its_beta_by_domain() {
        let rows = run(&[
            r#"{"step":1,"domains":[{"id":"a","mean_kl":9.0,"var":1.0,"n":64},{"id":"b","mean_kl":1.0,"var":1.0,"n":64}]}"#,
            r#"{"step":1,"beta":{"a":0.5,"b":0.1},"verdict":"accept","scale":1.0}"#,
            r#"{"step":2,"domains":[{"id":"a","mean_kl":9.0,"var":1.0,"n":64}]}"#,
            r#"{"step":1,"beta":{"a":0.7},"verdict":"accept"}"#,
        ])
        .unwrap();
        assert_eq!(rows[0].logged_beta, BTreeMap::from([("a".to_owned(), 0.5), ("b".to_owned(), 0.1)]));
        assert!(rows[1].logged_beta.is_empty(), "a decision of another step");
    }
}
