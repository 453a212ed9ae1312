//! `report.html` of a run directory.

use crate::Error;
use crate::Recipe;
use crate::explain::log::budget_of;
use crate::pipeline::{EvaluationFile, read_json};
use crate::run_dir::RunDir;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tetherline_core::Metrics;
use tetherline_eval::report::{
    DomainAccuracy, GroupAccuracy, LossPoint, ReliabilityBin, ReportData, RewardModelReport, StageNote,
    render,
};
use tetherline_reward::{GroupReport, HeldOut};

/// The file that the evaluation stage leaves.
pub const EVALUATION: &str = "evaluation.json";

/// Writes the report of a run from its logs and says where it is.
///
/// # Errors
/// [`Error::RunDir`] where there is no run.
pub fn write(run_dir: &Path) -> Result<PathBuf, Error> {
    let run = RunDir::read(run_dir)?;
    let recipe = run.recipe()?;
    let root = run.root();
    let evaluation: Option<EvaluationFile> = read_json(&root.join(EVALUATION))?;
    let held_out: Option<HeldOut> = read_json(&root.join("reward_held_out.json"))?;
    let metrics = lines(&run.metrics())?;
    let (sft, reward) = (losses(&root.join("sft.jsonl"))?, losses(&root.join("reward.jsonl"))?);
    let steps = |name: &str, n: usize, unit: &str| {
        (n > 0).then(|| StageNote { name: name.into(), detail: format!("{n} {unit}") })
    };
    let (comparison, samples) = match evaluation {
        Some(e) => (Some(e.comparison), e.samples),
        None => (None, Vec::new()),
    };
    let control = decisions(&run)?;
    let data = ReportData {
        title: "Tetherline run".into(),
        run_name: name_of(root, &recipe),
        halted: halted(&control),
        not_finite: crate::audit::not_finite(&run)?,
        stages: [
            steps("sft", sft.len(), "steps"),
            steps("reward", reward.len(), "steps"),
            steps("dpo", lines(&root.join("dpo.jsonl"))?.len(), "steps"),
            steps("ppo", metrics.len(), "steps"),
            comparison.as_ref().and_then(|c| steps("eval", c.aligned.overall.n, "held-out responses")),
        ]
        .into_iter()
        .flatten()
        .collect(),
        comparison,
        series: metrics.iter().map(numbers).collect(),
        kl_target: recipe.kl.overall_target().map(|t| t.0),
        domain_targets: domain_targets(&recipe, &metrics),
        control,
        sft,
        reward_loss: reward,
        reward_model: held_out.map(reward_report),
        samples,
        recipe: recipe.to_toml(),
    };
    crate::checkpoint::save_file(&run.report(), render(&data).as_bytes())?;
    Ok(run.report())
}

/// What a run is called: its recipe, and the directory where it lies.
pub(crate) fn name_of(root: &Path, recipe: &Recipe) -> String {
    let own = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let directory = own(root).or_else(|| own(&std::fs::canonicalize(root).ok()?));
    match directory.filter(|d| *d != recipe.name) {
        Some(directory) if recipe.name.is_empty() => directory,
        Some(directory) => format!("{} in {directory}", recipe.name),
        None => recipe.name.clone(),
    }
}

/// Takes away the report of a run that goes on; whether there was one.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn remove(run: &RunDir) -> Result<bool, Error> {
    let path = run.report();
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Io { action: "remove", path, source }),
    }
}

/// Step and reason of a halt after which the run did not go on.
fn halted(control: &[Value]) -> Option<(u64, String)> {
    let last = control.iter().rfind(|l| l["verdict"] == "halt" || l["verdict"] == "halt_released")?;
    let why = last.pointer("/reason/text").and_then(Value::as_str).unwrap_or("no reason is given");
    (last["verdict"] == "halt").then(|| (last["step"].as_u64().unwrap_or(0), why.to_owned()))
}

/// The targets of domains that have budgets.
fn domain_targets(recipe: &Recipe, metrics: &[Value]) -> BTreeMap<String, f64> {
    let domain = |key: &String| Some(key.strip_prefix("domain/")?.strip_suffix("/kl")?.to_owned());
    let domains = metrics.iter().filter_map(Value::as_object).flat_map(|m| m.keys()).filter_map(domain);
    domains.filter_map(|d| budget_of(&recipe.kl.budgets, &d).map(|b| (d, b.target.0))).collect()
}

/// The lines of `control.jsonl`, and what else the guard did or saw (a rollback, a domain that is gone) among them.
fn decisions(run: &RunDir) -> Result<Vec<Value>, Error> {
    let mut all = lines(&run.control())?;
    for event in lines(&run.events())? {
        let (what, text) = (&event["event"], &event["text"]);
        if text.is_string() && what != "verdict" {
            let reason = serde_json::json!({"text": text});
            all.push(serde_json::json!({"step": event["step"], "verdict": what, "reason": reason}));
        }
    }
    let step = |l: &Value| l["step"].as_u64().unwrap_or(0);
    all.retain(|line| line["step"].is_u64());
    all.sort_by_key(step);
    Ok(all)
}

/// The lines of a JSON-lines file; none if there is no such file.
pub(crate) fn lines(path: &Path) -> Result<Vec<Value>, Error> {
    let text = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Io { action: "read", path: path.to_owned(), source }),
        Ok(text) => text,
    };
    let row = |(i, l): (usize, &str)| {
        serde_json::from_str(l).map_err(|e| Error::input(format!("{} line {}", path.display(), i + 1), e))
    };
    text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).map(row).collect()
}

fn numbers(line: &Value) -> Metrics {
    let of = |m: &serde_json::Map<String, Value>| {
        m.iter().filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))).collect()
    };
    line.as_object().map(of).unwrap_or_default()
}

fn losses(path: &Path) -> Result<Vec<LossPoint>, Error> {
    let point = |l: &Value| {
        let number = |k: &str| l.get(k).and_then(Value::as_f64).unwrap_or(f64::NAN);
        LossPoint { step: number("step"), train: number("loss"), held_out: None }
    };
    Ok(lines(path)?.iter().map(point).collect())
}

fn groups(of: Vec<GroupReport>) -> Vec<GroupAccuracy> {
    of.into_iter().map(|g| GroupAccuracy { group: g.group, n: g.pairs, accuracy: g.accuracy }).collect()
}

fn reward_report(h: HeldOut) -> RewardModelReport {
    RewardModelReport {
        n: h.pairs,
        accuracy: h.accuracy,
        margin: h.mean_margin,
        ece: Some(h.ece),
        bins: h
            .bins
            .iter()
            .filter(|b| b.pairs > 0)
            .map(|b| ReliabilityBin { confidence: b.confidence, accuracy: b.accuracy, n: b.pairs })
            .collect(),
        domains: h
            .domains
            .iter()
            .map(|(d, r)| (d.clone(), DomainAccuracy { n: r.pairs, accuracy: r.accuracy }))
            .collect(),
        length_correlation: h.length_correlation,
        by_length: groups(h.by_length),
        by_agreement: groups(h.by_agreement),
        noise_ceiling: h.noise_ceiling,
        length_only: h.length_only.map(|l| (l.prefers_longer, l.accuracy)),
        bag_of_words: h.bag_of_words,
        members: h.members,
        disagreement: h.disagreement,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_halt_is_told_until_it_is_released() {
        let mut lines = vec![
            json!({"step": 3, "verdict": "accept"}),
            json!({"step": 7, "verdict": "halt", "reason": {"text": "broken"}}),
            json!({"step": 7, "verdict": "reject"}),
        ];
        assert_eq!(halted(&lines), Some((7, "broken".to_owned())));
        lines.push(json!({"step": 7, "verdict": "halt_released"}));
        assert_eq!(halted(&lines), None);
        assert_eq!(halted(&[]), None);
    }

    #[test]
    fn domains_have_the_target_of_their_budget() {
        let budgets = "[{ id = '*', target = 1.0 }, { id = 'unsafe', target = 0.5 }]";
        let sets = [("kl.budget".to_owned(), budgets.to_owned())];
        let recipe = Recipe::load("quickstart", &sets).expect("the quickstart with budgets");
        let metrics = [json!({"domain/food/kl": 0.3, "domain/unsafe/kl": 0.2, "domain/food/score": 1.0})];
        let targets = domain_targets(&recipe, &metrics);
        assert_eq!(
            targets.into_iter().collect::<Vec<_>>(),
            [("food".to_owned(), 1.0), ("unsafe".to_owned(), 0.5)]
        );
    }
}
