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

use crate::Error;
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
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let at = || format!("{file} line {}", i + 1);
        let row: Map<String, Value> = serde_json::from_str(line).map_err(|e| Error::input(at(), e))?;
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        let observation = if row.contains_key("domains") {
            serde_json::from_str(line).map_err(|e| Error::input(at(), e))?
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
        let logged_beta = number("objective/kl_coef").or_else(|| number("actor/reward_kl_penalty_coeff"));
        let decision = controller.observe(&observation);
        out.push(Replayed { observation, logged_beta, decision });
    }
    if out.is_empty() {
        let problem = "no line has a KL: expected `objective/kl_exact`, `objective/kl`, `actor/reward_kl_penalty` \
                       with `response_length/mean`, or observations with `domains`";
        return Err(Error::input(file, problem));
    }
    Ok(out)
}

/// Mean KL and its standard error, nats per sequence.
fn logged_kl(row: &Map<String, Value>) -> Option<(f64, Option<f64>)> {
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
        let broken = run(&[r#"{"objective/kl":null}"#]).unwrap();
        assert!(broken[0].observation.domains[0].mean_kl.0.is_nan());
        assert_eq!(broken[0].decision.beta_for(ALL), 0.2);
    }
}
