//! An explanation as one HTML page, in the style of the run's report.

use super::{Decisions, Explanation, RewardFit};
use crate::drift::{STYLE, visible};
use crate::format::signed;
use crate::regression::Regression;
use crate::report::drift_path;
use crate::report::html::{escape, interval, minus, missing, num, percent, table};
use crate::report::page::Page;
use std::fmt::Write;

/// Updates and decisions that are listed.
const ROWS: usize = 40;

pub(super) fn render(e: &Explanation) -> String {
    let u = &e.updates;
    let headline = format!(
        "{} nats per sequence in {}",
        minus(signed(u.total_nats(), 2)),
        if e.to - e.from == 1 { e.stretch() } else { format!("{} updates", e.to - e.from) }
    );
    let mut sentences = vec![format!(
        "The KL to the reference went from {} to {} nats per sequence in {}.",
        num(u.kl_nats_before),
        num(u.kl_nats_after),
        e.stretch()
    )];
    sentences.extend(e.drift.as_ref().map(|d| format!("{}: {}", visible(&e.compared), d.sentence())));
    let page = Page {
        title: "Explanation of a run",
        name: &visible(&e.run),
        headline: &headline,
        sentences: &sentences,
        notes: String::new(),
        style: STYLE,
    };
    let mut sections = vec![
        ("updates", "What each update contributed", updates(e)),
        ("decisions", "Decisions in force", decisions(&e.decisions)),
        ("reward", "What the reward explains", reward(e.reward.as_ref())),
    ];
    if e.to - e.from > 1 {
        sections.push(("metrics", "How the metrics moved", moves(e)));
    }
    match &e.drift {
        Some(d) => sections.extend(d.sections()),
        None => sections.push(("where", "Where the drift is", missing("The policies were not kept."))),
    }
    if !e.notes.is_empty() {
        let notes: String = e.notes.iter().map(|n| missing(&visible(n))).collect();
        sections.push(("notes", "Notes", notes));
    }
    page.with(&sections)
}

fn safe(text: &str) -> String {
    escape(&visible(text))
}

fn optional(x: Option<f64>) -> String {
    x.map_or_else(|| "–".into(), num)
}

/// Shares of an update that were tried, the middle of many left out.
fn shares(shares: &[f64]) -> String {
    let mut shown: Vec<String> = shares.iter().map(|x| num(*x)).collect();
    if shown.len() > 5 {
        let n = shown.len();
        shown.splice(3..n - 1, ["…".to_owned()]);
    }
    shown.join(" → ")
}

fn updates(e: &Explanation) -> String {
    let u = &e.updates;
    let logged = u.logged.iter().map(|(s, kl)| (*s as f64, *kl)).collect();
    let measured = u.anchors.iter().map(|a| (a.anchor.after as f64, a.anchor.kl_nats)).collect();
    let mark = |l: &super::DecisionLine| (l.step as f64, format!("step {}: {}. {}", l.step, l.what, l.text));
    let marks = e.decisions.lines.iter().filter(|l| l.what != "accept").map(mark).collect();
    let mut out = format!("<div class=\"charts\">{}</div>\n", drift_path::figure(logged, measured, marks));
    let sources: Vec<String> =
        u.anchors.iter().map(|a| format!("{} ({})", a.anchor.after, escape(&a.source))).collect();
    let _ = writeln!(
        out,
        "<p class=\"note\">Contributions add up to the difference exactly. The KL was measured on the same prompts after {} \
         updates; between these, the shape is that of the log, where every step has prompts of its own, and the error is \
         that of the log.</p>",
        sources.join(", ")
    );
    let largest = e.largest();
    let mut shown: Vec<_> = largest.iter().take(ROWS).collect();
    shown.sort_by_key(|u| u.contribution.update);
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|u| {
            let c = &u.contribution;
            let error = match (c.measured, c.stderr) {
                (true, _) => "<span class=\"ci\">measured</span>".to_owned(),
                (_, Some(s)) => format!("<span class=\"ci\">± {}</span>", num(s)),
                (_, None) => String::new(),
            };
            let total = e.updates.total_nats();
            let share = if total == 0.0 { "–".into() } else { percent(c.nats / total) };
            let mut verdicts = super::folded(&u.verdicts);
            if !c.stood && verdicts.is_empty() {
                verdicts = "undone".into();
            }
            vec![
                c.update.to_string(),
                format!("<strong>{}</strong> {error}", minus(signed(c.nats, 3))),
                share,
                optional(u.beta),
                optional(u.lr),
                optional(u.score),
                format!("<span class=\"list\">{}</span>", safe(&u.over_budget.join(", "))),
                format!("<span class=\"list\">{}</span>", safe(&verdicts)),
            ]
        })
        .collect();
    let head = [
        "Update",
        "Contribution, nats per sequence",
        "Of the total",
        "β",
        "lr",
        "Score",
        "Over budget",
        "Verdicts",
    ];
    out += &table("numbers wide", "Updates", &head, &rows);
    if largest.len() > ROWS {
        let rest: f64 = largest[ROWS..].iter().map(|u| u.contribution.nats).sum();
        let _ = writeln!(
            out,
            "<p class=\"note\">{} smaller ones: {} together.</p>",
            largest.len() - ROWS,
            minus(signed(rest, 3))
        );
    }
    out
}

fn decisions(d: &Decisions) -> String {
    let target = d.target_nats.map_or_else(String::new, |t| format!(", target {} nats per sequence", num(t)));
    let mut out =
        format!("<p class=\"note\">Controller <b>{}</b>{target}.</p>\n<p class=\"chips\">", safe(&d.law));
    for (verdict, n) in &d.verdicts {
        let _ = write!(out, "<span class=\"chip\"><b>{n}</b> {}</span>", safe(verdict));
    }
    out += "</p>\n";
    let rows: Vec<Vec<String>> = d
        .betas
        .iter()
        .map(|(id, b)| {
            let all = [b.first, b.last, b.least, b.largest].map(|x| optional(Some(x)));
            std::iter::once(safe(id)).chain(all).collect()
        })
        .collect();
    out += &table("numbers", "β", &["β, score per nat", "First", "Last", "Least", "Largest"], &rows);
    if !d.budgets.is_empty() {
        let rows: Vec<Vec<String>> = d
            .budgets
            .iter()
            .map(|b| vec![safe(&b.id), num(b.target_nats), safe(&b.metrics.join("; "))])
            .collect();
        out += &table("numbers", "Budgets", &["Budget", "Nats per sequence", "Linked to"], &rows);
    }
    if d.lines.is_empty() {
        out += &missing("Every update was accepted.");
        return out;
    }
    let rows: Vec<Vec<String>> = d
        .lines
        .iter()
        .take(ROWS)
        .map(|l| {
            vec![
                l.step.to_string(),
                safe(&l.phase),
                safe(&l.what),
                shares(&l.shares),
                optional(l.kl_nats),
                format!("<span class=\"why\">{}</span>", safe(&l.text)),
            ]
        })
        .collect();
    out += &table(
        "decisions",
        "Decisions",
        &["Step", "Phase", "What", "Shares tried", "KL seen", "Reason"],
        &rows,
    );
    if d.lines.len() > ROWS {
        let _ = writeln!(out, "<p class=\"note\">And {} more.</p>", d.lines.len() - ROWS);
    }
    out
}

fn reward(fit: Option<&RewardFit>) -> String {
    let Some(fit) = fit else { return missing("The responses were not scored.") };
    let mut out = String::from(
        "<p class=\"note\">The log-ratio of a response, log π − log π_ref in nats, regressed on the parts of its reward. At the \
         optimum it would be r/β less a constant of the prompt.</p>\n",
    );
    let mut section = |title: &str, r: &Regression| {
        let adjusted = r.r_squared_adjusted.map_or_else(String::new, |a| format!(", adjusted {a:.3}"));
        let _ = writeln!(out, "<h3>{title}: R² {:.3}{}</h3>", r.r_squared, minus(adjusted));
        let rows: Vec<Vec<String>> = r
            .terms
            .iter()
            .map(|t| {
                let ci = t.stderr.map(|s| (t.coefficient - 1.96 * s, t.coefficient + 1.96 * s));
                vec![safe(&t.name), interval(t.coefficient, ci, true), format!("{:.3}", t.r_squared_alone)]
            })
            .collect();
        out += &table(
            "numbers",
            title,
            &["Part", "Nats per unit of score, 95 % interval", "R² it explains alone"],
            &rows,
        );
        if !r.left_out.is_empty() {
            out += &missing(&format!(
                "Constant, or a combination of others: {}.",
                visible(&r.left_out.join(", "))
            ));
        }
    };
    if let Some(r) = &fit.pooled {
        section("Over all responses", r);
    }
    if let Some(r) = &fit.within_prompts {
        section("Within prompts", r);
    }
    if let Some(x) = fit.length_r_squared {
        let with =
            fit.with_length_r_squared.map_or_else(String::new, |w| format!(", with the reward {w:.3}"));
        let _ = writeln!(out, "<p class=\"note\">Length alone: R² {x:.3}{with}.</p>");
    }
    if let Some(x) = fit.inverse_beta {
        let _ =
            writeln!(out, "<p class=\"note\">1/β of the last update: {} nats per unit of score.</p>", num(x));
    }
    out
}

fn moves(e: &Explanation) -> String {
    if e.moves.is_empty() {
        return missing("No metrics were logged in this stretch.");
    }
    let rows: Vec<Vec<String>> = e
        .moves
        .iter()
        .map(|m| vec![safe(&m.key), num(m.before), num(m.after), interval(m.after - m.before, None, true)])
        .collect();
    table("numbers", "Metrics", &["Logged metric", "First tenth", "Last tenth", "Change"], &rows)
}
