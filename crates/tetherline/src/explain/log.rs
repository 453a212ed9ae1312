//! What the logs of a run say of its updates: KL, β, verdicts, budgets.

use crate::Error;
use crate::recipe::Recipe;
use crate::report::lines;
use crate::run_dir::RunDir;
use serde_json::Value;
use std::collections::BTreeMap;
use tetherline_core::Metrics;
use tetherline_eval::explain::{BetaRange, BudgetInForce, DecisionLine, Decisions, Fate, Logged};
use tetherline_kl::{ALL, Budget};

/// The logs, by step.
pub(super) struct RunLog {
    metrics: BTreeMap<u64, Metrics>,
    decisions: Vec<Decision>,
    events: Vec<(u64, Value)>,
}

/// A decision of `control.jsonl` and the observation that it answers.
struct Decision {
    step: u64,
    trial: bool,
    verdict: String,
    /// Share of the update for the next trial, or that stands.
    scale: f64,
    beta: BTreeMap<String, f64>,
    text: String,
    /// Id, mean KL (nats per sequence) and sequences of each domain seen.
    seen: Vec<(String, f64, f64)>,
}

/// Metrics whose moves are shown.
pub(super) fn shown(key: &str) -> bool {
    let all =
        ["objective/scores", "objective/kl_exact", "objective/kl_coef", "objective/entropy", "eval/gold"];
    all.contains(&key)
        || ["score/", "heldout/", "response/", "policy/", "guard/", "trial/kl"]
            .iter()
            .any(|p| key.starts_with(p))
        || (key.starts_with("domain/") && (key.ends_with("/kl") || key.ends_with("/score")))
}

impl RunLog {
    /// Reads `metrics.jsonl`, `control.jsonl` and `events.jsonl`.
    pub(super) fn read(dir: &RunDir) -> Result<Self, Error> {
        let step = |line: &Value| line["step"].as_u64();
        let mut metrics = BTreeMap::new();
        for line in lines(&dir.metrics())? {
            if let (Some(step), Some(map)) = (step(&line), line.as_object()) {
                let numbers = map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_f64()?)));
                metrics.insert(step, numbers.collect());
            }
        }
        let mut decisions = Vec::new();
        let mut seen = Value::Null;
        for line in lines(&dir.control())? {
            if line.get("domains").is_some() {
                seen = line;
            } else if let (Some(step), Some(verdict)) = (step(&line), line["verdict"].as_str()) {
                decisions.push(Decision::of(step, verdict, &line, &seen));
            }
        }
        let of = |line: Value| Some((step(&line)?, line));
        Ok(Self { metrics, decisions, events: lines(&dir.events())?.into_iter().filter_map(of).collect() })
    }

    /// The last step.
    pub(super) fn last(&self) -> Option<u64> {
        self.metrics.keys().next_back().copied()
    }

    /// A metric of a step.
    pub(super) fn metric(&self, step: u64, key: &str) -> Option<f64> {
        self.metrics.get(&step)?.get(key).copied()
    }

    /// Metrics of the updates after `from` up to `to`.
    pub(super) fn series(&self, from: u64, to: u64) -> Vec<Metrics> {
        self.metrics.range(from + 1..=to).map(|(_, m)| m.clone()).collect()
    }

    /// KL by updates done: that of step s + 1 is the policy's after s updates. What moves of the reference gave up until
    /// then is added.
    pub(super) fn logged(&self) -> BTreeMap<u64, Logged> {
        let of = |(step, m): (&u64, &Metrics)| {
            let forgiven = self.metric(step - 1, "kl/reference_forgiven").unwrap_or(0.0);
            let stderr = m.get("objective/kl_exact_stderr").copied().unwrap_or(0.0);
            let kl_nats = m.get("objective/kl_exact").copied()? + forgiven;
            Some((step - 1, Logged { kl_nats, stderr }))
        };
        self.metrics.iter().filter(|(step, _)| **step > 0).filter_map(of).collect()
    }

    /// KL on the held-out prompts, by updates done.
    pub(super) fn held_out(&self) -> Vec<(u64, f64)> {
        self.metrics.iter().filter_map(|(s, m)| Some((*s, *m.get("heldout/kl_exact")?))).collect()
    }

    /// (update, step of the checkpoint it went back to).
    pub(super) fn rollbacks(&self) -> Vec<(u64, u64)> {
        let of = |(step, e): &(u64, Value)| {
            (e["event"] == "rolled_back").then(|| Some((*step, e["to"].as_u64()?))).flatten()
        };
        self.events.iter().filter_map(of).collect()
    }

    /// What became of an update.
    pub(super) fn fate(&self, step: u64) -> Fate {
        if self.rollbacks().iter().any(|(s, _)| *s == step) {
            return Fate::RolledBack;
        }
        if let Some(kept) = self.metric(step, "trial/kept") {
            return if kept > 0.0 { Fate::Stood } else { Fate::Undone };
        }
        let skips = ["reject", "rollback", "halt"];
        let skipped = |d: &Decision| d.step == step && !d.trial && skips.contains(&d.verdict.as_str());
        if self.decisions.iter().any(skipped) { Fate::Undone } else { Fate::Stood }
    }

    /// Whether the policy after an update is the one before it.
    pub(super) fn undone(&self, step: u64) -> bool {
        self.fate(step) == Fate::Undone
    }

    /// Verdicts of a step other than to accept.
    pub(super) fn verdicts(&self, step: u64) -> Vec<String> {
        let of = self.decisions.iter().filter(|d| d.step == step && d.verdict != "accept");
        of.map(|d| if d.trial { format!("trial: {}", d.verdict) } else { d.verdict.clone() }).collect()
    }

    /// Budgets whose KL was above their target in the batch of a step.
    pub(super) fn over_budget(&self, recipe: &Recipe, step: u64) -> Vec<String> {
        let seen = self.decisions.iter().filter(|d| d.step == step && !d.trial).flat_map(|d| &d.seen);
        let over = |(id, kl, _): &&(String, f64, f64)| {
            budget_of(&recipe.kl.budgets, id).is_some_and(|b| *kl > b.target.0)
        };
        seen.filter(over).map(|(id, ..)| id.clone()).collect()
    }

    /// What was decided for the updates after `from` up to `to`.
    pub(super) fn decisions(&self, recipe: &Recipe, from: u64, to: u64) -> Decisions {
        let kl = &recipe.kl;
        let mut out = Decisions {
            law: kl.law.name().to_owned(),
            target_nats: kl.overall_target().map(|t| t.0),
            ..Decisions::default()
        };
        let link = |m: &tetherline_kl::MetricLimit| format!("{}: {} … {}", m.id, m.warn, m.limit);
        out.budgets = kl
            .budgets
            .iter()
            .map(|b| BudgetInForce {
                id: b.id.clone(),
                target_nats: b.target.0,
                metrics: b.metrics.iter().map(link).collect(),
            })
            .collect();
        for step in from + 1..=to {
            for (id, beta) in self.in_force(kl.init(), step) {
                let range = out.betas.entry(id).or_insert(BetaRange {
                    first: beta,
                    last: beta,
                    least: beta,
                    largest: beta,
                });
                range.last = beta;
                range.least = range.least.min(beta);
                range.largest = range.largest.max(beta);
            }
        }
        let every = to - from == 1;
        let mut shown: Vec<&Decision> = Vec::new();
        for d in self.decisions.iter().filter(|d| d.step > from && d.step <= to) {
            *out.verdicts.entry(d.verdict.clone()).or_default() += 1;
            shown.push(d);
        }
        if every {
            out.lines.extend(shown.iter().map(|d| Decision::line(&[d])));
        } else {
            // All trials of an update are one.
            let same = |a: &&Decision, b: &&Decision| a.trial && b.trial && a.step == b.step;
            let groups = shown.chunk_by(same).filter(|g| g.len() > 1 || g[0].verdict != "accept");
            out.lines.extend(groups.map(Decision::line));
        }
        for (step, e) in self.events.iter().filter(|(s, e)| *s > from && *s <= to && e["event"] != "verdict")
        {
            out.lines.push(DecisionLine {
                step: *step,
                phase: "event".to_owned(),
                what: e["event"].as_str().unwrap_or_default().to_owned(),
                shares: Vec::new(),
                beta: betas(&e["beta"]),
                kl_nats: e["kl"].as_f64(),
                text: e["text"].as_str().unwrap_or_default().to_owned(),
            });
        }
        out.lines.sort_by_key(|l| l.step);
        out
    }

    /// The coefficients that shaped the batch of `step`: those decided before it, or gone back to.
    fn in_force(&self, init: f64, step: u64) -> BTreeMap<String, f64> {
        let decided = self.decisions.iter().rev().find(|d| d.step < step && !d.beta.is_empty());
        let back = self.events.iter().rev().find(|(s, e)| *s < step && e["event"] == "rolled_back");
        match (decided, back) {
            (Some(d), Some((s, e))) if *s >= d.step => betas(&e["beta"]),
            (Some(d), _) => d.beta.clone(),
            (None, _) => BTreeMap::from([(ALL.to_owned(), init)]),
        }
    }
}

fn betas(value: &Value) -> BTreeMap<String, f64> {
    let of = |m: &serde_json::Map<String, Value>| {
        m.iter().filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))).collect()
    };
    value.as_object().map(of).unwrap_or_default()
}

/// The budget that an id falls under: its own, else the longest pattern that matches.
pub(crate) fn budget_of<'a>(budgets: &'a [Budget], id: &str) -> Option<&'a Budget> {
    let matches = |b: &&Budget| b.id == id || b.id.strip_suffix('*').is_some_and(|p| id.starts_with(p));
    budgets.iter().filter(matches).max_by_key(|b| (b.id == id, b.id.len()))
}

impl Decision {
    fn of(step: u64, verdict: &str, line: &Value, seen: &Value) -> Self {
        let domain = |d: &Value| {
            Some((d["id"].as_str()?.to_owned(), d["mean_kl"].as_f64()?, d["n"].as_f64().unwrap_or(0.0)))
        };
        Self {
            step,
            trial: seen["phase"] == "trial" && seen["step"].as_u64() == Some(step),
            verdict: verdict.to_owned(),
            scale: line["scale"].as_f64().unwrap_or(1.0),
            beta: betas(&line["beta"]),
            text: line.pointer("/reason/text").and_then(Value::as_str).unwrap_or_default().to_owned(),
            seen: seen["domains"].as_array().into_iter().flatten().filter_map(domain).collect(),
        }
    }

    /// One decision, or all trials of an update: the last verdict on what it saw, why the first one was given, and of an
    /// update that was undone also why that was.
    fn line(group: &[&Self]) -> DecisionLine {
        let (first, last) = (group[0], group[group.len() - 1]);
        let text = match group.len() > 1 && last.verdict != "accept" {
            true => format!("{}; in the end: {}", first.text, last.text),
            false => first.text.clone(),
        };
        let tried = std::iter::once(1.0).chain(group.iter().map(|d| d.scale)).take(group.len());
        let shares = if group.len() > 1 { tried.collect() } else { Vec::new() };
        DecisionLine { shares, text, ..last.own_line() }
    }

    fn own_line(&self) -> DecisionLine {
        let all = self.seen.iter().find(|(id, ..)| id == ALL).map(|(_, kl, _)| *kl);
        let n: f64 = self.seen.iter().map(|(.., n)| n).sum();
        let mean = self.seen.iter().map(|(_, kl, n)| kl * n).sum::<f64>() / n;
        DecisionLine {
            step: self.step,
            phase: if self.trial { "trial" } else { "rollout" }.to_owned(),
            what: self.verdict.clone(),
            shares: Vec::new(),
            beta: self.beta.clone(),
            kl_nats: all.or((n > 0.0).then_some(mean)),
            text: self.text.clone(),
        }
    }
}
