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
    /// Share of the update that the next trial has, or that stands.
    scale: f64,
    beta: Option<&'a Value>,
    reason: &'a str,
    /// The observation that it was made on, where the line before is one.
    seen: Option<&'a Value>,
}

impl Decision<'_> {
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
        if parts.len() > 1 { list(parts.into_iter()) } else { parts.concat() }
    }

    fn is_trial(&self) -> bool {
        self.seen.is_some_and(|seen| seen["phase"] == "trial")
    }

    /// β decided; of a trial nothing, as it moves none. Several that are equal are one.
    fn beta(&self) -> String {
        let number = |b: &Value| b.as_f64().map(num);
        match self.beta {
            _ if self.is_trial() => String::new(),
            Some(Value::Object(map)) => {
                let mut all = map.values().filter_map(number);
                let first = all.next().unwrap_or_default();
                if all.all(|b| b == first) {
                    return first;
                }
                let one = |(d, b): (&String, &Value)| Some(format!("{} {}", escape(d), number(b)?));
                list(map.iter().filter_map(one))
            }
            Some(v) => number(v).unwrap_or_default(),
            None => String::new(),
        }
    }
}

/// A cell that may break between its items, and not inside them.
fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| format!("<span>{item}</span>")).collect();
    format!("<span class=\"list\">{}</span>", items.join(", "))
}

fn decisions(data: &ReportData) -> impl Iterator<Item = Decision<'_>> {
    data.control.iter().enumerate().filter_map(|(i, v)| {
        let before = i.checked_sub(1).map(|i| &data.control[i]);
        Some(Decision {
            step: v.get("step").and_then(Value::as_f64).unwrap_or(f64::NAN),
            verdict: v.get("verdict")?.as_str()?,
            scale: v.get("scale").and_then(Value::as_f64).unwrap_or(1.0),
            beta: v.get("beta"),
            reason: v.pointer("/reason/text").and_then(Value::as_str).unwrap_or(""),
            seen: before.filter(|b| b.get("domains").is_some() && b.get("step") == v.get("step")),
        })
    })
}

/// What was done other than to accept: a decision, or all trials of an update together.
pub(super) struct Intervention<'a> {
    pub(super) step: f64,
    /// The verdicts on one update, in order; one for anything else.
    decisions: Vec<Decision<'a>>,
}

impl<'a> Intervention<'a> {
    fn last(&self) -> Option<&Decision<'a>> {
        self.decisions.last()
    }

    /// The verdict in the end, after what it took.
    fn verdict(&self) -> String {
        let last = self.last().map_or("", |d| d.verdict);
        if self.decisions.len() > 1 { format!("scale, then {last}") } else { last.to_owned() }
    }

    /// Shares of the update that were tried, and what stands in the end.
    fn shares(&self) -> String {
        if !self.last().is_some_and(Decision::is_trial) {
            return String::new();
        }
        // The first trial is of the whole update; each verdict but the last names the share of the next one.
        let tried = self.decisions.iter().map(|d| d.scale);
        let n = self.decisions.len();
        let mut shares: Vec<String> = std::iter::once(1.0).chain(tried).take(n).map(num).collect();
        if n > 5 {
            shares.splice(3..n - 1, ["…".to_owned()]);
        }
        shares.join(" → ")
    }

    /// Why: what the first trial saw, and of an update that was undone also the last word.
    fn why(&self) -> String {
        let first = self.decisions.first().map_or("", |d| d.reason);
        match self.last() {
            Some(last) if self.decisions.len() > 1 && last.verdict != "accept" => {
                format!("{first}; in the end: {}", last.reason)
            }
            _ => first.to_owned(),
        }
    }

    pub(super) fn sentence(&self) -> String {
        format!("step {:.0}: {}. {}", self.step, self.verdict(), self.why())
    }
}

/// Everything but updates and rollouts that were accepted as they were.
pub(super) fn interventions(data: &ReportData) -> Vec<Intervention<'_>> {
    let mut out: Vec<Intervention<'_>> = Vec::new();
    for d in decisions(data) {
        match out.last_mut() {
            Some(i) if i.step == d.step && d.is_trial() && i.last().is_some_and(Decision::is_trial) => {
                i.decisions.push(d);
            }
            _ => out.push(Intervention { step: d.step, decisions: vec![d] }),
        }
    }
    out.retain(|i| i.decisions.len() > 1 || i.last().is_some_and(|d| d.verdict != "accept"));
    out
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
        vec![step, d.of(), escape(d.verdict), d.kl(), d.beta(), why(d.reason)]
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

fn why(text: &str) -> String {
    format!("<span class=\"why\">{}</span>", escape(text))
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
    let mut shown = interventions(data);
    if shown.is_empty() {
        shown = decisions(data).map(|d| Intervention { step: d.step, decisions: vec![d] }).collect();
        shown.drain(..shown.len().saturating_sub(6));
        out += "<p class=\"note\">Every update was accepted. The last decisions:</p>\n";
    } else if shown.len() > SHOWN {
        out += &format!("<p class=\"note\">The last {SHOWN} of {} interventions:</p>\n", shown.len());
        shown.drain(..shown.len() - SHOWN);
    }
    let row = |i: &Intervention<'_>| {
        let trials = match i.last() {
            Some(d) if d.is_trial() => i.decisions.len().to_string(),
            _ => String::new(),
        };
        let beta = i.last().map(Decision::beta).unwrap_or_default();
        vec![format!("{:.0}", i.step), escape(&i.verdict()), trials, i.shares(), beta, why(&i.why())]
    };
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    let head = ["Step", "Verdict", "Trials", "Shares tried", "β", "Reason"];
    out += &table("decisions", "Control decisions", &head, &rows);
    out + &all(data)
}
