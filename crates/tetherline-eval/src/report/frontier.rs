//! The page of a sweep: reward against KL with intervals, and a table of the regimes.

use super::html::{bracket, escape, num, page, table};
use super::scale::Axis;
use crate::frontier::{Frontier, Point};
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 96.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 44.0;

/// Draws the page of a sweep over `recipe`.
pub fn frontier_page(title: &str, recipe: &str, frontier: &Frontier) -> String {
    let on: Vec<&str> = (0..frontier.regimes.len())
        .filter(|&i| frontier.regimes[i].kl.is_some() && frontier.dominated[i].is_none())
        .map(|i| frontier.short(i))
        .collect();
    let dominated = frontier.dominated.iter().flatten().count();
    let clear = frontier.dominated.iter().flatten().filter(|d| d.clear).count();
    let lede = format!(
        "{} of {} regimes on the frontier: {}. {dominated} dominated, {clear} of them clearly.",
        on.len(),
        frontier.regimes.len(),
        on.join(", ")
    );
    let reward = if frontier.by_gold { "gold" } else { "score" };
    let mut body = format!(
        "<section><figure class=\"chart\"><figcaption><b>Reward against drift</b> <span>held-out {reward} over exact KL \
         to the reference, nats per sequence; bars are 95 % intervals, grey is dominated</span></figcaption>\n{}</figure>\n\
         </section>\n",
        svg(frontier)
    );
    body += &format!("<section><h2>Regimes</h2>\n{}</section>\n", rows(frontier));
    if !recipe.is_empty() {
        body += &format!(
            "<section><details><summary>The recipe that the regimes change</summary><pre>{}</pre></details></section>\n",
            escape(recipe)
        );
    }
    page(title, "Reward and drift of KL regimes", &[lede], &body)
}

fn rows(frontier: &Frontier) -> String {
    let cell = |p: Option<Point>| {
        p.map_or_else(
            || "–".to_owned(),
            |p| {
                let ci = p.ci.map_or_else(String::new, |ci| {
                    format!(" <span class=\"ci\">{}</span>", bracket(ci, false))
                });
                format!("{}{ci}", num(p.mean))
            },
        )
    };
    let row = |(i, r): (usize, &crate::frontier::Regime)| {
        let mut verdict = escape(&frontier.verdict(i));
        for failure in &r.failures {
            verdict += &format!("<br><span class=\"ci\">{}</span>", escape(failure));
        }
        vec![
            escape(&r.name),
            r.runs.to_string(),
            cell(r.kl),
            cell(r.gold),
            cell(r.score),
            cell(r.length),
            verdict,
        ]
    };
    let rows: Vec<_> = frontier.regimes.iter().enumerate().map(row).collect();
    let head = ["regime", "runs", "KL, nats/seq", "gold", "score", "length", ""];
    table("numbers wide", "Regimes", &head, &rows)
}

/// Everything that an axis has to hold: means, and the ends of their intervals.
fn range(points: impl Iterator<Item = Point>) -> (f64, f64) {
    let ends = points.flat_map(|p| [p.mean, p.ci.map_or(p.mean, |c| c.0), p.ci.map_or(p.mean, |c| c.1)]);
    ends.filter(|x| x.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |r, x| (r.0.min(x), r.1.max(x)))
}

/// The figure alone.
pub fn frontier_svg(frontier: &Frontier) -> String {
    // On its own a figure has no style sheet around it.
    let style = "<style>text{font:12px sans-serif;fill:#555}.e{text-anchor:end}.m{text-anchor:middle}.grid{fill:none;\
                 stroke:#ddd}.line{fill:none;stroke:#0b67b2;stroke-width:1.6}.whisker{stroke-width:1.4;opacity:.6}.c1{--c:#0b67b2}\
                 .grey{--c:#8d929c}.whisker{stroke:var(--c)}.dot{fill:var(--c)}</style>";
    let drawn = svg(frontier);
    drawn.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1).replacen(
        '>',
        &format!(">{style}"),
        1,
    )
}

fn svg(frontier: &Frontier) -> String {
    let points: Vec<(usize, Point, Point)> = (0..frontier.regimes.len())
        .filter_map(|i| {
            let r = &frontier.regimes[i];
            Some((i, r.kl?, frontier.reward(r)?))
        })
        .collect();
    if points.is_empty() {
        return String::new();
    }
    let (x_low, x_high) = range(points.iter().map(|p| p.1));
    let (y_low, y_high) = range(points.iter().map(|p| p.2));
    let (x, y) = (Axis::linear(x_low.min(0.0), x_high, 6, true), Axis::linear(y_low, y_high, 5, true));
    let at_x = |v: f64| LEFT + x.at(v) * (WIDTH - LEFT - RIGHT);
    let at_y = |v: f64| HEIGHT - BOTTOM - y.at(v) * (HEIGHT - TOP - BOTTOM);
    let reward = if frontier.by_gold { "gold" } else { "score" };
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{reward} over KL of {} regimes\">\n",
        points.len()
    );
    for &tick in &y.ticks {
        let at = at_y(tick);
        let _ = write!(out, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/>", WIDTH - RIGHT);
        let _ = write!(
            out,
            "<text class=\"tick e\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 7.0,
            at + 4.0,
            y.label(tick)
        );
    }
    let foot = HEIGHT - BOTTOM;
    for &tick in &x.ticks {
        let at = at_x(tick);
        let _ = write!(out, "<path class=\"grid\" d=\"M{at:.1} {foot:.1}v4\"/>");
        let _ = write!(
            out,
            "<text class=\"tick m\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            foot + 17.0,
            x.label(tick)
        );
    }
    let _ = write!(
        out,
        "<text class=\"name e\" x=\"{:.1}\" y=\"{:.1}\">KL, nats per sequence</text>",
        WIDTH - RIGHT,
        foot + 36.0
    );
    let mut best: Vec<_> = points.iter().filter(|p| frontier.dominated[p.0].is_none()).collect();
    best.sort_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
    let path: Vec<String> =
        best.iter().map(|p| format!("{:.1} {:.1}", at_x(p.1.mean), at_y(p.2.mean))).collect();
    if path.len() > 1 {
        let _ = write!(out, "<path class=\"line c1\" d=\"M{}\"/>", path.join("L"));
    }
    for (i, kl, gain) in &points {
        let class = if frontier.dominated[*i].is_some() { "grey" } else { "c1" };
        let (cx, cy) = (at_x(kl.mean), at_y(gain.mean));
        let _ = write!(out, "<g class=\"{class}\"><title>{}</title>", escape(&frontier.regimes[*i].name));
        if let Some((low, high)) = kl.ci {
            let _ =
                write!(out, "<path class=\"whisker\" d=\"M{:.1} {cy:.1}H{:.1}\"/>", at_x(low), at_x(high));
        }
        if let Some((low, high)) = gain.ci {
            let _ =
                write!(out, "<path class=\"whisker\" d=\"M{cx:.1} {:.1}V{:.1}\"/>", at_y(low), at_y(high));
        }
        let _ = write!(out, "<circle class=\"dot\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4.2\"/>");
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            cx + 7.0,
            cy - 7.0,
            escape(frontier.short(*i))
        );
    }
    out + "\n</svg>"
}
