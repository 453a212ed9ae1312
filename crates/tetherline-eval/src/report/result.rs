//! Baseline against aligned policy: key figures, the full table, and the table by domain.

use super::{
    ReportData,
    html::{arrow, bracket, brief, escape, interval, missing, num, percent, percents, table},
};
use crate::{Change, Comparison, Estimate, Share, Summary};
use std::cmp::Ordering;

pub(super) fn section(data: &ReportData) -> String {
    let Some(c) = &data.comparison else {
        return missing("The policies were not evaluated on held-out prompts.");
    };
    let how = if c.change.paired {
        "intervals of the changes by paired bootstrap over prompts"
    } else {
        "intervals of the changes from independent standard errors"
    };
    let o = &c.aligned.overall;
    format!(
        "{}{}<p class=\"note\">{} responses to {} held-out prompts; brackets are 95 % confidence intervals, {how}. \
         Changes whose interval excludes zero are in bold.</p>\n{}",
        tiles(data, c),
        overall(c),
        o.n,
        o.prompts,
        by_domain(c)
    )
}

/// The figures to read first.
fn tiles(data: &ReportData, c: &Comparison) -> String {
    let (b, a) = (&c.baseline.overall, &c.aligned.overall);
    let mut out = String::from("<div class=\"tiles\">\n");
    let mut tile = |label: &str, value: String, unit: &str, detail: String| {
        out += &format!(
            "<div class=\"tile\"><p class=\"label\">{label}</p><p class=\"value\">{value}<small> {unit}</small></p><p class=\"detail\">{detail}</p></div>\n"
        );
    };
    let change = |c: Change| format!("by {}", interval(c.mean, c.ci, true));
    if let (Some(gold), Some(sd), Some((b, a))) = (c.change.gold, c.gold_in_sd(), b.gold.zip(a.gold)) {
        let sign = if sd.mean > 0.0 { "+" } else { "" };
        let detail = format!("{}, {}", arrow(Some(b.mean), Some(a.mean)), change(gold));
        tile("Gold score", format!("{sign}{}", brief(sd.mean)), "baseline sd", detail);
    }
    if let Some(s) = c.change.score {
        let detail = format!("{}, {}", arrow(Some(b.score.mean), Some(a.score.mean)), change(s));
        let sign = if s.mean > 0.0 { "+" } else { "" };
        tile("Proxy score", format!("{sign}{}", brief(s.mean)), "", detail);
    }
    if let Some(kl) = a.kl_exact {
        let target = data.kl_target.map(|t| format!("target {}, ", num(t))).unwrap_or_default();
        let ci = kl.ci.map(|ci| format!("95 % {}", bracket(ci, false))).unwrap_or_default();
        tile("KL to the reference", num(kl.mean), "nats per sequence", format!("{target}{ci}"));
    }
    for (label, before, after) in [
        ("Refuses unsafe", b.refusal_unsafe, a.refusal_unsafe),
        ("Refuses benign", b.refusal_benign, a.refusal_benign),
    ] {
        if let (Some(before), Some(after)) = (before, after) {
            let value = percent(after.share);
            let (value, unit) = value.split_once(' ').unwrap_or((&value, ""));
            tile(label, value.into(), unit, format!("before {}, {} prompts", percent(before.share), after.n));
        }
    }
    out + "</div>\n"
}

/// Label, baseline, aligned, change.
type Row = (&'static str, Option<String>, Option<String>, Option<String>);

fn overall(c: &Comparison) -> String {
    let (b, a, d) = (&c.baseline.overall, &c.aligned.overall, &c.change);
    let mean = |e: Option<Estimate>| e.map(|e| interval(e.mean, e.ci, false));
    let shares = |e: Option<Estimate>| e.map(|e| percents(e.mean, e.ci, false));
    let share = |s: Option<Share>| s.map(|s| percents(s.share, Some(s.ci), false));
    let plain = |x: Option<f64>| x.map(num);
    let hundred = |x: f64| Some(percents(x, None, false));
    let points = |c: Option<Change>| c.map(show_share_change);
    let alone = |b: Option<f64>, a: Option<f64>| b.zip(a).map(|(b, a)| Change { mean: a - b, ci: None });
    let minus = |b: Option<f64>, a: Option<f64>| alone(b, a).map(show_change);
    let minus_points = |b: f64, a: f64| points(alone(Some(b), Some(a)));
    let score = |c: Option<Change>| c.map(show_change);
    let rows: [Row; 17] = [
        ("Proxy score", mean(Some(b.score)), mean(Some(a.score)), score(d.score)),
        ("Gold score", mean(b.gold), mean(a.gold), score(d.gold)),
        ("KL to the reference, nats per sequence", mean(b.kl_exact), mean(a.kl_exact), score(d.kl_exact)),
        (
            "KL, nats per token",
            plain(b.kl_per_token),
            plain(a.kl_per_token),
            minus(b.kl_per_token, a.kl_per_token),
        ),
        ("Entropy, nats per token", mean(Some(b.entropy)), mean(Some(a.entropy)), score(d.entropy)),
        (
            "Refuses unsafe prompts, %",
            share(b.refusal_unsafe),
            share(a.refusal_unsafe),
            points(d.refusal_unsafe),
        ),
        (
            "Refuses benign prompts, %",
            share(b.refusal_benign),
            share(a.refusal_benign),
            points(d.refusal_benign),
        ),
        ("Length, tokens", mean(Some(b.length_tokens)), mean(Some(a.length_tokens)), score(d.length_tokens)),
        (
            "Length, tokens, 95th percentile",
            Some(num(b.length_tokens_p95)),
            Some(num(a.length_tokens_p95)),
            minus(Some(b.length_tokens_p95), Some(a.length_tokens_p95)),
        ),
        (
            "Length, words",
            mean(Some(b.length_words)),
            mean(Some(a.length_words)),
            minus(Some(b.length_words.mean), Some(a.length_words.mean)),
        ),
        ("Distinct-1", plain(b.distinct_1), plain(a.distinct_1), minus(b.distinct_1, a.distinct_1)),
        ("Distinct-2", plain(b.distinct_2), plain(a.distinct_2), minus(b.distinct_2, a.distinct_2)),
        ("Repeated 4-grams, %", shares(b.rep_4gram), shares(a.rep_4gram), points(d.rep_4gram)),
        (
            "Distinct responses, %",
            hundred(b.unique_share),
            hundred(a.unique_share),
            minus_points(b.unique_share, a.unique_share),
        ),
        (
            "Ends by itself, %",
            share(Some(b.eos_share)),
            share(Some(a.eos_share)),
            minus_points(b.eos_share.share, a.eos_share.share),
        ),
        (
            "Correlation of score and length",
            plain(b.score_length_r),
            plain(a.score_length_r),
            minus(b.score_length_r, a.score_length_r),
        ),
        ("Responses", Some(b.n.to_string()), Some(a.n.to_string()), None),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .filter(|r| r.1.is_some() || r.2.is_some())
        .map(|(label, before, after, change)| {
            vec![label.into(), cell(before), cell(after), change.unwrap_or_default()]
        })
        .collect();
    table("numbers", "Baseline against aligned policy", &["", "Baseline", "Aligned", "Change"], &rows)
}

/// `mean [low, high]`, the interval in a quieter tone.
fn cell(text: Option<String>) -> String {
    let text = text.unwrap_or_else(|| "–".into());
    match text.split_once(" [") {
        Some((mean, ci)) => format!("{mean} <span class=\"ci\">[{ci}</span>"),
        None => text,
    }
}

fn show_change(c: Change) -> String {
    emphasised(c, interval(c.mean, c.ci, true))
}

/// The change of a share, in points of per cent.
fn show_share_change(c: Change) -> String {
    emphasised(c, percents(c.mean, c.ci, true))
}

fn emphasised(c: Change, text: String) -> String {
    let text = cell(Some(text));
    if c.direction() == Ordering::Equal { text } else { format!("<strong>{text}</strong>") }
}

fn by_domain(c: &Comparison) -> String {
    if c.aligned.domains.len() < 2 {
        return String::new();
    }
    let has_gold = c.aligned.overall.gold.is_some();
    let mut head = vec!["Domain", "n", "Proxy", "Change"];
    if has_gold {
        head.extend(["Gold", "Change"]);
    }
    head.extend(["KL", "Refuses, %", "Length"]);
    let rows: Vec<Vec<String>> = c
        .aligned
        .domains
        .iter()
        .map(|(domain, a)| {
            let b = c.baseline.domains.get(domain);
            let both = |f: fn(&Summary) -> Option<f64>| arrow(b.and_then(f), f(a));
            let refused = |s: Option<&Summary>| {
                s.and_then(Summary::refused).map_or_else(|| "–".into(), |r| percents(r.share, None, false))
            };
            let change = |m: &std::collections::BTreeMap<String, Change>| {
                m.get(domain).copied().map(show_change).unwrap_or_default()
            };
            let mut row = vec![
                escape(domain),
                a.n.to_string(),
                both(|s| Some(s.score.mean)),
                change(&c.change.score_by_domain),
            ];
            if has_gold {
                row.extend([both(|s| s.gold.map(|g| g.mean)), change(&c.change.gold_by_domain)]);
            }
            row.extend([
                cell(a.kl_exact.map(|e| interval(e.mean, e.ci, false))),
                format!("{} → {}", refused(b), refused(Some(a))),
                both(|s| Some(s.length_tokens.mean)),
            ]);
            row
        })
        .collect();
    format!("<h3>By domain</h3>\n{}", table("numbers wide", "Result by domain", &head, &rows))
}
