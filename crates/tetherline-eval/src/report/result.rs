//! Baseline against aligned policy: key figures, the full table, and the table by domain.

use super::{
    ReportData,
    html::{bracket, escape, interval, missing, num, percent, plus, table},
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
    if let (Some(gold), Some(sd)) = (c.change.gold, c.gold_in_sd()) {
        let ci = gold.ci.map(|ci| format!(" {}", bracket(ci, true))).unwrap_or_default();
        tile("Gold score", plus(sd.mean), "sd", format!("{} in its own unit{ci}", plus(gold.mean)));
    }
    if let Some(s) = c.change.score {
        let ci = s.ci.map(|ci| format!(" {}", bracket(ci, true))).unwrap_or_default();
        tile("Proxy score", plus(s.mean), "", format!("{} → {}{ci}", num(b.score.mean), num(a.score.mean)));
    }
    if let Some(kl) = a.kl_exact {
        let target = data.kl_target.map(|t| format!("target {}, ", num(t))).unwrap_or_default();
        let ci = kl.ci.map(|ci| format!("95 % {}", bracket(ci, false))).unwrap_or_default();
        tile("KL to the reference", num(kl.mean), "nats/sequence", format!("{target}{ci}"));
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
type Row = (&'static str, Option<String>, Option<String>, Option<Change>);

fn overall(c: &Comparison) -> String {
    let (b, a, d) = (&c.baseline.overall, &c.aligned.overall, &c.change);
    let mean = |e: Option<Estimate>| e.map(|e| interval(e.mean, e.ci, false));
    let percents = |e: Option<Estimate>| e.map(|e| interval(100.0 * e.mean, e.ci.map(scaled), false));
    let share = |s: Option<Share>| s.map(|s| interval(100.0 * s.share, Some(scaled(s.ci)), false));
    let plain = |x: Option<f64>| x.map(num);
    let hundred = |x: Option<Change>| x.map(|x| Change { mean: 100.0 * x.mean, ci: x.ci.map(scaled) });
    let minus = |b: Option<f64>, a: Option<f64>| b.zip(a).map(|(b, a)| Change { mean: a - b, ci: None });
    let rows: [Row; 17] = [
        ("Proxy score", mean(Some(b.score)), mean(Some(a.score)), d.score),
        ("Gold score", mean(b.gold), mean(a.gold), d.gold),
        ("KL to the reference, nats per sequence", mean(b.kl_exact), mean(a.kl_exact), d.kl_exact),
        (
            "KL, nats per token",
            plain(b.kl_per_token),
            plain(a.kl_per_token),
            minus(b.kl_per_token, a.kl_per_token),
        ),
        ("Entropy, nats per token", mean(Some(b.entropy)), mean(Some(a.entropy)), d.entropy),
        (
            "Refuses unsafe prompts, %",
            share(b.refusal_unsafe),
            share(a.refusal_unsafe),
            hundred(d.refusal_unsafe),
        ),
        (
            "Refuses benign prompts, %",
            share(b.refusal_benign),
            share(a.refusal_benign),
            hundred(d.refusal_benign),
        ),
        ("Length, tokens", mean(Some(b.length_tokens)), mean(Some(a.length_tokens)), d.length_tokens),
        (
            "Length, 95th percentile",
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
        ("Repeated 4-grams, %", percents(b.rep_4gram), percents(a.rep_4gram), hundred(d.rep_4gram)),
        (
            "Distinct responses, %",
            plain(Some(100.0 * b.unique_share)),
            plain(Some(100.0 * a.unique_share)),
            minus(Some(100.0 * b.unique_share), Some(100.0 * a.unique_share)),
        ),
        (
            "Ends by itself, %",
            share(Some(b.eos_share)),
            share(Some(a.eos_share)),
            minus(Some(100.0 * b.eos_share.share), Some(100.0 * a.eos_share.share)),
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
            vec![label.into(), cell(before), cell(after), change.map(show_change).unwrap_or_default()]
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
    let text = cell(Some(interval(c.mean, c.ci, true)));
    if c.direction() == Ordering::Equal { text } else { format!("<strong>{text}</strong>") }
}

fn scaled(ci: (f64, f64)) -> (f64, f64) {
    (100.0 * ci.0, 100.0 * ci.1)
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
    head.extend(["KL", "Refuses", "Length"]);
    let rows: Vec<Vec<String>> = c
        .aligned
        .domains
        .iter()
        .map(|(domain, a)| {
            let b = c.baseline.domains.get(domain);
            let arrow = |f: &dyn Fn(&Summary) -> Option<String>| {
                let side = |s: Option<&Summary>| s.and_then(f).unwrap_or_else(|| "–".into());
                format!("{} → {}", side(b), side(Some(a)))
            };
            let change = |m: &std::collections::BTreeMap<String, Change>| {
                m.get(domain).copied().map(show_change).unwrap_or_default()
            };
            let mut row = vec![
                escape(domain),
                a.n.to_string(),
                arrow(&|s| Some(num(s.score.mean))),
                change(&c.change.score_by_domain),
            ];
            if has_gold {
                row.extend([arrow(&|s| s.gold.map(|g| num(g.mean))), change(&c.change.gold_by_domain)]);
            }
            row.extend([
                cell(a.kl_exact.map(|e| interval(e.mean, e.ci, false))),
                arrow(&|s| s.refused().map(|r| percent(r.share))),
                arrow(&|s| Some(num(s.length_tokens.mean))),
            ]);
            row
        })
        .collect();
    format!("<h3>By domain</h3>\n{}", table("numbers wide", "Result by domain", &head, &rows))
}
