//! `tether policy diff A B`: recipes key by key, data and models by hash, evaluations side by side.

use super::{called, digits, find, told};
use crate::cli::DiffArgs;
use crate::output;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use tetherline_registry::{Artifact, Kind, Registry};

/// What is compared of a policy.
#[derive(Default)]
struct Side {
    recipe: BTreeMap<String, String>,
    inputs: BTreeMap<String, String>,
    metrics: BTreeMap<String, f64>,
}

pub(super) fn diff(registry: &mut Registry, args: &DiffArgs) -> anyhow::Result<()> {
    let policies = [&args.a, &args.b].map(|text| find(registry, text, &args.registry));
    let [a, b] = policies;
    let (a, b) = (a?.artifact, b?.artifact);
    let (left, right) = (side(registry, &a)?, side(registry, &b)?);
    let mut text = format!("a: {}\nb: {}", called(&a), called(&b));
    section(&mut text, "recipe", &left.recipe, &right.recipe);
    section(&mut text, "data and models", &left.inputs, &right.inputs);
    let names: BTreeSet<_> = left.metrics.keys().chain(right.metrics.keys()).collect();
    if !names.is_empty() {
        let _ = write!(text, "\n\n{:<24}{:>16}{:>16}{:>16}", "evaluation", "a", "b", "b − a");
        for name in names {
            let (x, y) = (left.metrics.get(name), right.metrics.get(name));
            let cell = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
            let change = x.zip(y).map(|(x, y)| y - x);
            let _ = write!(
                text,
                "\n{name:<24}{:>16}{:>16}{:>16}",
                cell(x.copied()),
                cell(y.copied()),
                cell(change)
            );
        }
    }
    output::result(&text);
    Ok(())
}

fn side(registry: &mut Registry, policy: &Artifact) -> anyhow::Result<Side> {
    let mut out = Side::default();
    let of_policy = registry.parents(Kind::Policy, &policy.id).map_err(told)?;
    let run = of_policy.iter().find(|(role, _)| role == "made_by").map(|(_, run)| run.id.clone());
    let of_run = match run {
        Some(run) => registry.parents(Kind::Run, &run).map_err(told)?,
        None => Vec::new(),
    };
    for (role, parent) in of_policy.iter().chain(&of_run) {
        match parent.kind {
            Kind::Recipe => flatten("", &parent.detail["recipe"], &mut out.recipe),
            Kind::Evaluation => {
                let numbers = parent.detail["metrics"].as_object().into_iter().flatten();
                out.metrics.extend(numbers.filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))));
            }
            Kind::Run => {}
            _ => drop(out.inputs.insert(role.clone(), format!("{} {}", digits(&parent.id), parent.name))),
        }
    }
    Ok(out)
}

/// Every leaf of a JSON value by its path.
fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, out);
            }
        }
        Value::Null => {}
        leaf => drop(out.insert(path.to_owned(), leaf.to_string())),
    }
}

/// The keys whose values differ.
fn section(text: &mut String, title: &str, a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) {
    let keys: BTreeSet<_> = a.keys().chain(b.keys()).filter(|key| a.get(*key) != b.get(*key)).collect();
    let same = if a.is_empty() && b.is_empty() { "unknown" } else { "the same" };
    let _ = write!(text, "\n\n{title}{}", if keys.is_empty() { format!(": {same}") } else { String::new() });
    for key in keys {
        let cell = |side: &BTreeMap<String, String>| side.get(key).map_or("-", String::as_str).to_owned();
        let _ = write!(text, "\n  {key}: {} → {}", cell(a), cell(b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_key_by_key() {
        let side = |text: &str| {
            let mut out = BTreeMap::new();
            flatten("", &serde_json::from_str(text).unwrap(), &mut out);
            out
        };
        let mut text = String::new();
        let a = side(r#"{"seed": 1, "ppo": {"lr": 0.5, "steps": 3}, "sft": null}"#);
        section(&mut text, "recipe", &a, &side(r#"{"seed": 1, "ppo": {"lr": 0.25}, "kl": [1]}"#));
        assert_eq!(text, "\n\nrecipe\n  kl: - → [1]\n  ppo.lr: 0.5 → 0.25\n  ppo.steps: 3 → -");
        text.clear();
        section(&mut text, "recipe", &a, &a);
        assert_eq!(text, "\n\nrecipe: the same");
    }
}
