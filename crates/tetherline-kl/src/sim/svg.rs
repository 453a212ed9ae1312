//! A trace as a small self-contained SVG: KL against its target above, β below.

use super::Trace;
use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// Upper edges of the two panes.
const KL_TOP: f64 = 40.0;
const BETA_TOP: f64 = 222.0;
const PANE: f64 = 150.0;
const LEFT: f64 = 48.0;
/// Okabe–Ito: told apart by colour-blind readers.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Draws the domains of a trace; `targets` in nats per sequence (where the trace has none of its own) and names,
/// one per domain. One name alone needs no legend.
#[must_use]
pub fn svg(title: &str, trace: &Trace, targets: &[f64], names: &[&str]) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"{LEFT}\" y=\"14\">{}</text>\n",
        escaped(title)
    );
    let mut x = WIDTH - 8.0;
    for (k, name) in names.iter().enumerate().rev().filter(|_| names.len() > 1) {
        let colour = COLOURS[k % COLOURS.len()];
        let _ = write!(
            out,
            "<text x=\"{x:.1}\" y=\"14\" text-anchor=\"end\" fill=\"{colour}\">{}</text>",
            escaped(name)
        );
        x -= 6.2 * name.chars().count() as f64 + 14.0;
    }
    let moving = trace.target.iter().flatten();
    let highest = trace.kl.iter().flatten().chain(targets).chain(moving).copied().fold(0.0, f64::max);
    pane(&mut out, KL_TOP, &trace.kl, [0.0, highest], highest, "KL, nats per sequence");
    for (k, target) in targets.iter().enumerate() {
        let y = |target: f64| KL_TOP + PANE * (1.0 - target / highest.max(f64::MIN_POSITIVE));
        let first = y(trace.target.first().map_or(*target, |row| row[k]));
        let last = y(trace.target.last().map_or(*target, |row| row[k]));
        let colour = COLOURS[k % COLOURS.len()];
        let mut corners = String::new();
        for (t, pair) in trace.target.windows(2).enumerate().filter(|(_, pair)| pair[0][k] != pair[1][k]) {
            let x = LEFT + (WIDTH - LEFT) * (t + 1) as f64 / trace.target.len() as f64;
            let _ = write!(corners, " {x:.1},{:.1} {x:.1},{:.1}", y(pair[0][k]), y(pair[1][k]));
        }
        let shape = if corners.is_empty() {
            format!("<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{first:.1}\" y2=\"{first:.1}\"")
        } else {
            format!("<polyline fill=\"none\" points=\"{LEFT},{first:.1}{corners} {WIDTH},{last:.1}\"")
        };
        let _ = writeln!(out, "{shape} stroke=\"{colour}\" stroke-dasharray=\"4 3\"/>");
    }
    // β moves by factors: its pane is logarithmic where it can be.
    let smallest = trace.beta.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let highest = trace.beta.iter().flatten().copied().fold(0.0, f64::max);
    let floor = smallest.max(1e-3 * highest);
    if smallest >= 0.0 && highest > floor {
        let share = |b: &f64| (b.max(floor) / floor).ln() / (highest / floor).ln();
        let rows: Vec<Vec<f64>> = trace.beta.iter().map(|row| row.iter().map(share).collect()).collect();
        pane(&mut out, BETA_TOP, &rows, [floor, highest], 1.0, "β, logarithmic");
    } else {
        pane(&mut out, BETA_TOP, &trace.beta, [0.0, highest], highest, "β");
    }
    let _ = writeln!(
        out,
        "<text x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">update {}</text>",
        BETA_TOP + PANE + 16.0,
        trace.kl.len()
    );
    out.push_str("</svg>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// One pane: `rows` from 0 to `highest`, between the two marks.
fn pane(out: &mut String, top: f64, rows: &[Vec<f64>], [low, high]: [f64; 2], highest: f64, label: &str) {
    let domains = rows.first().map_or(0, Vec::len);
    let highest = highest.max(f64::MIN_POSITIVE);
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#666\">{label}</text>\
         <text x=\"4\" y=\"{:.1}\" fill=\"#666\">{high:.3}</text><text x=\"4\" y=\"{:.1}\" fill=\"#666\">{low:.3}</text>\
         <line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ccc\"/>",
        top - 6.0,
        top + 8.0,
        top + PANE,
        top + PANE,
        top + PANE
    );
    // More points than pixels only make the file large.
    let stride = (rows.len() / 720).max(1);
    for k in 0..domains {
        let mut points = String::new();
        for (t, row) in rows.iter().enumerate().step_by(stride) {
            let x = LEFT + (WIDTH - LEFT) * t as f64 / rows.len() as f64;
            let y = top + PANE * (1.0 - row[k].max(0.0) / highest);
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        let colour = COLOURS[k % COLOURS.len()];
        let _ = writeln!(out, "<polyline fill=\"none\" stroke=\"{colour}\" points=\"{points}\"/>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_every_domain_twice_and_escapes_the_title() {
        let trace = Trace { kl: vec![vec![1.0, 2.0]; 5], beta: vec![vec![0.1, 0.2]; 5], ..Trace::default() };
        let svg = super::svg("a < b", &trace, &[1.0, 2.0], &["x", "y < z"]);
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert_eq!(svg.matches("stroke-dasharray").count(), 2);
        // Of 0 to 2 nats, 1 is half way up the pane.
        let line = "<line x1=\"48\" x2=\"720\" y1=\"115.0\" y2=\"115.0\" stroke=\"#0072b2\" stroke-dasharray";
        assert!(svg.contains(line), "{svg}");
        assert!(svg.contains("y &lt; z") && svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_target_that_steps_is_drawn_as_a_step() {
        let target = [1.0, 1.0, 2.0, 2.0].map(|t| vec![t]).to_vec();
        let trace = Trace { kl: vec![vec![1.0]; 4], beta: vec![vec![0.1]; 4], target, ..Trace::default() };
        let step = "points=\"48,115.0 384.0,115.0 384.0,40.0 720,40.0\" stroke=\"#0072b2\" stroke-dasharray";
        let svg = svg("", &trace, &[1.0], &["x"]);
        assert!(svg.contains(step), "{svg}");
    }
}
