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
}

impl Decision<'_> {
    pub(super) fn sentence(&self) -> String {
        format!("step {:.0}: {}. {}", self.step, self.verdict, self.reason)
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
    data.control.iter().filter_map(|v| {
        Some(Decision {
            step: v.get("step").and_then(Value::as_f64).unwrap_or(f64::NAN),
            verdict: v.get("verdict")?.as_str()?,
            beta: v.get("beta"),
            reason: v.pointer("/reason/text").and_then(Value::as_str).unwrap_or(""),
        })
    })
}

/// Decisions other than to accept.
pub(super) fn interventions(data: &ReportData) -> impl Iterator<Item = Decision<'_>> {
    decisions(data).filter(|d| d.verdict != "accept")
}

const SHOWN: usize = 40;

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
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|d| {
            vec![
                format!("{:.0}", d.step),
                escape(d.verdict),
                d.beta(),
                format!("<span class=\"why\">{}</span>", escape(d.reason)),
            ]
        })
        .collect();
    out + &table("decisions", "Control decisions", &["Step", "Verdict", "β", "Reason"], &rows)
}
