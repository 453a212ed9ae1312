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
//! Where a log has no spread, the variance is that of the log-ratio along the tilt of the reference, 2·KL.
//!
//! A log is JSON lines, or one JSON object with the rows in `log_history` (`trainer_state.json` of Hugging Face
//! trainers). A row may hold its numbers in `data` (verl's `FileLogger`). Numbers that are not finite may stand as
//! Python writes them.

use crate::Error;
use crate::python_json;
use serde_json::{Map, Value};
use std::path::Path;
use tetherline_kl::{ALL, ControlDecision, DomainKl, KlConfig, KlObservation, NatsPerSequence};

/// One observation of a log, and what was and would have been decided.
#[derive(Debug)]
pub struct Replayed {
    /// What was observed.
    pub observation: KlObservation,
    /// The β in the log, where it has one.
    pub logged_beta: Option<f64>,
    /// What the controller decides.
    pub decision: ControlDecision,
}

/// Replays a log through a controller of `config`. `episodes` stands in for the sequences per update where the
/// log does not say.
///
/// # Errors
/// [`Error::Input`] naming file and line of a row that is no JSON object, or where no row has a KL.
pub fn replay(config: &KlConfig, log: &Path, episodes: u64) -> Result<Vec<Replayed>, Error> {
    let file = log.display().to_string();
    let text = std::fs::read_to_string(log).map_err(|source| Error::Io {
        action: "read",
        path: log.to_owned(),
        source,
    })?;
    let mut controller = config.build().map_err(|e| Error::input("the kl section", e))?;
    let mut out = Vec::new();
    let mut last_episode = 0.0;
    for (place, row) in rows(&python_json::finite(&text), &file)? {
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        let logged_beta = number("objective/kl_coef").or_else(|| number("actor/reward_kl_penalty_coeff"));
        let observation = if row.contains_key("domains") {
            serde_json::from_value(Value::Object(row)).map_err(|e| Error::input(place, e))?
        } else {
            let episode = number("episode").filter(|e| *e > last_episode);
            let n = episode.map_or(episodes, |e| (e - last_episode) as u64);
            last_episode = episode.unwrap_or(last_episode);
            let Some((kl, stderr)) = logged_kl(&row) else { continue };
            let step = number("step").or_else(|| number("training/global_step"));
            let step = step.map_or(out.len() as u64, |s| s as u64);
            let var = stderr.map_or(2.0 * kl.max(0.0), |s| s * s * n as f64);
            KlObservation::rollout(step, vec![DomainKl::new(ALL, NatsPerSequence(kl), var, n)])
        };
        let decision = controller.observe(&observation);
        out.push(Replayed { observation, logged_beta, decision });
    }
    if out.is_empty() {
        let problem = "no row has a KL: expected `objective/kl_exact`, `objective/kl`, `actor/reward_kl_penalty` \
                       with `response_length/mean`, or observations with `domains`";
        return Err(Error::input(file, problem));
    }
    Ok(out)
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

/// Mean KL and its standard error, nats per sequence.
fn logged_kl(row: &Row) -> Option<(f64, Option<f64>)> {
    // `null` is how a log holds a KL that was not finite: it is an observation too, and a broken one.
    let value = |key: &str| row.get(key).map(|v| v.as_f64().unwrap_or(f64::NAN));
    if let Some(kl) = value("objective/kl_exact") {
        return Some((kl, value("objective/kl_exact_stderr")));
    }
    if let Some(kl) = value("objective/kl") {
        return Some((kl, value("objective/kl_stderr")));
    }
    let (per_token, tokens) = (value("actor/reward_kl_penalty")?, value("response_length/mean")?);
    Some((per_token * tokens, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_kl::law::{Adaptive, Law};

    fn run(lines: &[&str]) -> Result<Vec<Replayed>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        replay(&Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 1000.0)).into(), &path, 64)
    }

    #[test]
    fn nested_rows_and_a_history_are_logs_too() {
        let flat = r#"{"training/global_step":4,"actor/reward_kl_penalty":0.01,"response_length/mean":200.0,"actor/reward_kl_penalty_coeff":0.2}"#;
        let nested = format!(r#"{{"step": 5, "data": {flat}}}"#);
        let verl = run(&[&nested]).unwrap();
        assert_eq!((verl[0].observation.step, verl[0].observation.domains[0].mean_kl.0), (5, 2.0));
        assert_eq!(verl[0].logged_beta, Some(0.2));
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
        assert_eq!((ours[1].observation.domains[0].n, ours[0].logged_beta), (64, Some(0.1)));
        let trl = run(&[r#"{"episode":512,"objective/kl":3.0}"#]).unwrap();
        assert_eq!((trl[0].observation.domains[0].n, trl[0].observation.domains[0].var), (512, 6.0));
        let verl = run(&[r#"{"training/global_step":4,"actor/reward_kl_penalty":0.01,"response_length/mean":200.0,"actor/reward_kl_penalty_coeff":0.2}"#]).unwrap();
        assert_eq!((verl[0].observation.step, verl[0].observation.domains[0].mean_kl.0), (4, 2.0));
        assert!(ours[1].decision.beta_for(ALL) > 0.2, "8 nats are above the target of 6");
    }

    #[test]
    fn a_log_without_kl_and_a_broken_line_are_errors() {
        assert!(run(&[r#"{"loss":1.0}"#]).unwrap_err().to_string().contains("objective/kl"));
        assert!(run(&["{}", "{"]).unwrap_err().to_string().contains("line 2"));
        for line in [r#"{"objective/kl":null}"#, r#"{"objective/kl":NaN}"#, r#"{"objective/kl": -Infinity}"#]
        {
            let broken = run(&[line]).unwrap();
            assert!(broken[0].observation.domains[0].mean_kl.0.is_nan());
            assert_eq!(broken[0].decision.beta_for(ALL), 0.2);
        }
    }
}
