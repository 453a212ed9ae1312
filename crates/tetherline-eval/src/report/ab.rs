//! The page of a comparison: every tested metric with its intervals, as a table and as a figure.

use super::html::{bracket, escape, interval, num, page, table};
use super::scale::Axis;
use crate::ab::{AbResult, Candidate, Metric, Verdict};
use std::fmt::Write;

/// Draws the page of a comparison.
pub fn ab_page(title: &str, result: &AbResult) -> String {
    let early = if result.prompts < result.available {
        format!(
            "It stopped after {} of {} prompts, as soon as the {} was decided.",
            result.prompts,
            result.available,
            result.decide_on.name()
        )
    } else {
        format!("All {} prompts were answered.", result.prompts)
    };
    let mut ledes: Vec<String> = result.candidates.iter().map(|c| c.sentence(result)).collect();
    ledes.push(early);
    let mut body = String::new();
    for metric in [Metric::WinRate, Metric::Score, Metric::Gold] {
        body += &forest(result, metric);
    }
    let body = format!("<section><div class=\"charts\">{body}</div></section>\n{}", numbers(result));
    page(title, &format!("Compared with {}", result.baseline), &ledes, &body)
}

impl Candidate {
    /// What the metric that decides says, in words.
    pub fn sentence(&self, result: &AbResult) -> String {
        let Some(t) = self.tested.iter().find(|t| t.metric == result.decide_on) else { return String::new() };
        let verdict = match t.verdict {
            Verdict::Better => "is better than",
            Verdict::Worse => "is worse than",
            Verdict::Undecided => "is not shown to differ from",
        };
        format!(
            "{} {verdict} {}: {} {} (always-valid p after Holm {}).",
            self.name,
            result.baseline,
            t.metric.name(),
            interval(t.mean, t.always, t.metric != Metric::WinRate),
            p_value(t.p_holm)
        )
    }
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

fn numbers(result: &AbResult) -> String {
    let mut out = String::new();
    for candidate in &result.candidates {
        let tested = candidate.tested.iter().map(|t| {
            let ci = |ci: Option<(f64, f64)>| ci.map_or_else(|| "–".to_owned(), |ci| bracket(ci, false));
            vec![
                t.metric.name().to_owned(),
                num(t.mean),
                ci(t.always),
                ci(t.bootstrap),
                p_value(t.p),
                p_value(t.p_holm),
                match t.verdict {
                    Verdict::Better => "<strong>better</strong>".to_owned(),
                    Verdict::Worse => "<strong>worse</strong>".to_owned(),
                    Verdict::Undecided => "undecided".to_owned(),
                },
            ]
        });
        let described = candidate.described.iter().map(|d| {
            let ci = d.bootstrap.map_or_else(|| "–".to_owned(), |ci| bracket(ci, false));
            let none = String::new;
            vec![escape(&d.name), num(d.value), none(), ci, none(), none(), none()]
        });
        let rows: Vec<_> = tested.chain(described).collect();
        let head = ["", "mean", "always valid", "bootstrap", "p", "p, Holm", ""];
        let _ = write!(
            out,
            "<section><h2>{} − {}</h2>\n{}</section>\n",
            escape(&candidate.name),
            escape(&result.baseline),
            table("numbers wide", "Differences", &head, &rows)
        );
    }
    let _ = writeln!(
        out,
        "<p class=\"note\">Who wins: {}; ties count ½. <b>Always valid</b>: intervals at {} % and p-values that hold whenever \
         one stops. <b>Bootstrap</b>: 95 % over prompts, for a number of prompts fixed beforehand. Holm corrects over every \
         metric and candidate on this page.</p>",
        escape(&result.judge),
        num(100.0 * (1.0 - result.alpha))
    );
    out
}

const WIDTH: f64 = 400.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 16.0;
const ROW: f64 = 30.0;

/// Every candidate's interval of one metric; nothing where none has it.
fn forest(result: &AbResult, metric: Metric) -> String {
    let rows: Vec<_> = result
        .candidates
        .iter()
        .filter_map(|c| Some((c, c.tested.iter().find(|t| t.metric == metric)?)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let ends = rows.iter().flat_map(|(_, t)| {
        let (low, high) = t.always.or(t.bootstrap).unwrap_or((t.mean, t.mean));
        [low, high, t.mean, metric.null()]
    });
    let (low, high) = ends.fold((f64::INFINITY, f64::NEG_INFINITY), |r, x| (r.0.min(x), r.1.max(x)));
    let x = Axis::linear(low, high, 4, true);
    let at = |v: f64| LEFT + x.at(v) * (WIDTH - LEFT - RIGHT);
    let foot = 12.0 + ROW * rows.len() as f64;
    let unit = if metric == Metric::WinRate { "share of prompts won, ties ½" } else { "difference" };
    let mut out = format!(
        "<figure class=\"chart\"><figcaption><b>{}</b> <span>{unit}</span></figcaption>\n<svg viewBox=\"0 0 {WIDTH} {}\" \
         role=\"img\" aria-label=\"{}\">\n",
        metric.name(),
        foot + 26.0,
        metric.name()
    );
    for &tick in &x.ticks {
        let _ = write!(out, "<path class=\"grid\" d=\"M{:.1} 6V{foot:.1}\"/>", at(tick));
        let _ = write!(
            out,
            "<text class=\"tick m\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            at(tick),
            foot + 16.0,
            x.label(tick)
        );
    }
    let _ = write!(out, "<path class=\"target\" d=\"M{:.1} 2V{foot:.1}\"/>", at(metric.null()));
    for (i, (candidate, t)) in rows.iter().enumerate() {
        let y = 12.0 + ROW * (i as f64 + 0.5);
        let class = if t.verdict == Verdict::Undecided { "grey" } else { "c1" };
        let cut: String = candidate.name.chars().take(16).collect();
        let _ = write!(out, "<g class=\"{class}\"><title>{}</title>", escape(&candidate.name));
        let _ = write!(
            out,
            "<text class=\"e\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            escape(&cut)
        );
        if let Some((low, high)) = t.always {
            let _ = write!(out, "<path class=\"whisker\" d=\"M{:.1} {y:.1}H{:.1}\"/>", at(low), at(high));
        }
        let _ = write!(out, "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\"/></g>", at(t.mean));
    }
    out + "\n</svg></figure>\n"
}
