//! What the KL controller decided, and why.

use super::{
    ReportData,
    html::{escape, missing, num, table},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// A decision line of `control.jsonl`.
pub(super) struct Decision<'a> {
    pub(super) step: f64,
    verdict: &'a str,
    beta: Option<&'a Value>,
    reason: &'a str,
    /// The observation that it was made on, where the line before is one.
    seen: Option<&'a Value>,
}

impl Decision<'_> {
    pub(super) fn sentence(&self) -> String {
        format!("step {:.0}: {}. {}", self.step, self.verdict, self.reason)
    }

    /// Of the rollout, or which trial of the update; empty for what is no decision of the controller.
    fn of(&self) -> String {
        match self.seen {
            Some(seen) if seen["phase"] == "trial" => match seen["trial"].as_u64() {
                Some(n) => format!("trial {n}"),
                None => "trial".to_owned(),
            },
            Some(_) => "rollout".to_owned(),
            None => String::new(),
        }
    }

    /// KL that it saw, nats per sequence, with its standard error; of several groups those with the largest.
    fn kl(&self) -> String {
        let number = |d: &Value, key: &str| d[key].as_f64().unwrap_or(f64::NAN);
        let mut groups: Vec<&Value> =
            self.seen.and_then(|s| s["domains"].as_array()).into_iter().flatten().collect();
        groups.sort_by(|a, b| number(b, "mean_kl").total_cmp(&number(a, "mean_kl")));
        let one = |d: &&Value| {
            let own = (number(d, "var") / number(d, "n")).sqrt();
            let stderr = d["stderr"].as_f64().unwrap_or(own);
            let (mean, id) = (number(d, "mean_kl"), d["id"].as_str().unwrap_or_default());
            let name = if id == "all" { String::new() } else { format!("{} ", escape(id)) };
            match (mean.is_finite(), stderr.is_finite()) {
                (false, _) => format!("{name}no number"),
                (true, false) => format!("{name}{}", num(mean)),
                (true, true) => format!("{name}{} ± {}", num(mean), num(stderr)),
            }
        };
        let mut parts: Vec<String> = groups.iter().take(GROUPS).map(one).collect();
        if groups.len() > GROUPS {
            parts.push(format!("and {} more", groups.len() - GROUPS));
        }
        parts.join(", ")
    }

    fn beta(&self) -> String {
        match self.beta {
            Some(Value::Object(map)) => {
                let one = |(d, b): (&String, &Value)| Some(format!("{} {}", escape(d), num(b.as_f64()?)));
                let parts: Vec<String> = map.iter().filter_map(one).collect();
                if map.len() == 1 {
                    parts.concat().split_once(' ').map(|p| p.1.into()).unwrap_or_default()
                } else {
                    parts.join(", ")
                }
            }
            Some(v) => v.as_f64().map(num).unwrap_or_default(),
            None => String::new(),
        }
    }
}

fn decisions(data: &ReportData) -> impl Iterator<Item = Decision<'_>> {
    data.control.iter().enumerate().filter_map(|(i, v)| {
        let before = i.checked_sub(1).map(|i| &data.control[i]);
        Some(Decision {
            step: v.get("step").and_then(Value::as_f64).unwrap_or(f64::NAN),
            verdict: v.get("verdict")?.as_str()?,
            beta: v.get("beta"),
            reason: v.pointer("/reason/text").and_then(Value::as_str).unwrap_or(""),
            seen: before.filter(|b| b.get("domains").is_some() && b.get("step") == v.get("step")),
        })
    })
}

/// Decisions other than to accept.
pub(super) fn interventions(data: &ReportData) -> impl Iterator<Item = Decision<'_>> {
    decisions(data).filter(|d| d.verdict != "accept")
}

const SHOWN: usize = 40;

/// Groups of an observation that a line of the table has.
const GROUPS: usize = 3;

/// Most lines of the table of every verdict.
const MOST: usize = 400;

/// Every verdict, those to accept too, with what it was made on: the last ones of a long run.
fn all(data: &ReportData) -> String {
    let mut shown: Vec<Decision<'_>> = decisions(data).collect();
    let total = shown.len();
    shown.drain(..total.saturating_sub(MOST));
    let row = |d: &Decision<'_>| {
        let step = format!("{:.0}", d.step);
        vec![step, d.of(), escape(d.verdict), d.kl(), d.beta(), why(d)]
    };
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    let head = ["Step", "On", "Verdict", "KL seen, nats/seq ± s.e.", "β", "Reason"];
    let which = match total {
        n if n > MOST => format!("The last {MOST} of {n} verdicts"),
        n => format!("All {n} verdicts"),
    };
    let table = table("decisions", "Every verdict", &head, &rows);
    format!("<details><summary>{which}, with what each was made on</summary>\n{table}</details>\n")
}

fn why(d: &Decision<'_>) -> String {
    format!("<span class=\"why\">{}</span>", escape(d.reason))
}

pub(super) fn section(data: &ReportData) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for d in decisions(data) {
        *counts.entry(d.verdict).or_default() += 1;
    }
    if counts.is_empty() {
        return missing("No control decisions were logged.");
    }
    let mut out = String::from("<p class=\"chips\">");
    for (verdict, n) in &counts {
        out += &format!("<span class=\"chip\"><b>{n}</b> {}</span>", escape(verdict));
    }
    out += "</p>\n";
    let mut shown: Vec<Decision<'_>> = interventions(data).collect();
    let all_accepted = shown.is_empty();
    if all_accepted {
        shown = decisions(data).collect();
        shown.drain(..shown.len().saturating_sub(6));
        out += "<p class=\"note\">Every update was accepted. The last decisions:</p>\n";
    } else if shown.len() > SHOWN {
        out += &format!("<p class=\"note\">The last {SHOWN} of {} interventions:</p>\n", shown.len());
        shown.drain(..shown.len() - SHOWN);
    }
    let row = |d: &Decision<'_>| vec![format!("{:.0}", d.step), escape(d.verdict), d.beta(), why(d)];
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    out += &table("decisions", "Control decisions", &["Step", "Verdict", "β", "Reason"], &rows);
    out + &all(data)
}
