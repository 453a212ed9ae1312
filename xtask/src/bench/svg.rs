//! Charts as self-contained SVG: panels two in a row, each with its own axes, lines, dots and dashed limits.
//!
//! Numbers on the axes are written out; every line is named at its end. Colours are those of Okabe and Ito, which
//! colour-blind readers tell apart.

use std::fmt::Write as _;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 92.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
/// Least distance between two names, and between a name and the next row of ticks.
const APART: f64 = 13.0;

/// How a line is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// What was measured: a line with a dot at each point.
    Measured,
    /// A limit: dashed, without dots.
    Limit,
    /// Single points, each with its own name; no line.
    Points,
}

/// A line and its name.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) style: Style,
    pub(super) points: Vec<(f64, f64)>,
    /// Names of the points of [`Style::Points`].
    pub(super) labels: Vec<String>,
}

impl Line {
    pub(super) fn new(name: &str, style: Style, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.to_owned(), style, points, labels: Vec::new() }
    }
}

/// One panel; both axes are logarithmic.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: String,
    pub(super) lines: Vec<Line>,
}

/// From the smallest to the largest value; logarithmic.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64, room: f64) -> Self {
        let positive = values.filter(|v| v.is_finite() && *v > 0.0);
        let (low, high) = positive.fold((f64::INFINITY, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low < f64::INFINITY { (low, high) } else { (1.0, 10.0) };
        Self { low: low / room, high: (high * room).max(low * 1.5), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.from + share.min(1.0) * (self.to - self.from)
    }

    /// Powers of ten; with 2 and 5 where there are few of them.
    fn ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = if decades < 2.2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let first = self.low.log10().floor() as i32;
        let all = (first..first + 16).flat_map(|e| steps.iter().map(move |s| s * 10_f64.powi(e)));
        all.filter(|t| (self.low..=self.high).contains(t)).collect()
    }
}

/// A number as people write it: 0.05, 3, 200, 5k, 2M.
fn label(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e4 => (v / 1e3, "k"),
        v => (v, ""),
    };
    let digits = if scaled > 0.0 { (1 - scaled.log10().floor() as i32).clamp(0, 6) as usize } else { 0 };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// The panels, two in a row.
pub(super) fn chart(panels: &[Panel]) -> String {
    let width = WIDTH * panels.len().min(2) as f64;
    let height = HEIGHT * panels.len().div_ceil(2) as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (i, panel) in panels.iter().enumerate() {
        let _ = writeln!(
            out,
            "<g transform=\"translate({},{})\">",
            WIDTH * (i % 2) as f64,
            HEIGHT * (i / 2) as f64
        );
        draw(panel, &mut out);
        out += "</g>\n";
    }
    out + "</svg>\n"
}

fn draw(panel: &Panel, out: &mut String) {
    let points = || panel.lines.iter().flat_map(|l| &l.points);
    let x = Axis::new(points().map(|p| p.0), LEFT, WIDTH - RIGHT, 1.0);
    let y = Axis::new(points().map(|p| p.1), HEIGHT - BOTTOM, TOP, 1.3);
    let _ = writeln!(out, "<text x=\"8\" y=\"16\" font-weight=\"bold\">{}</text>", escaped(&panel.title));
    for tick in y.ticks() {
        let at = y.at(tick);
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" \
             fill=\"#555\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 5.0,
            at + 4.0,
            label(tick)
        );
    }
    let foot = HEIGHT - BOTTOM;
    for tick in x.ticks() {
        let at = x.at(tick);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {foot}v4\" stroke=\"#999\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" \
             fill=\"#555\">{}</text>",
            foot + 16.0,
            label(tick)
        );
    }
    let _ = writeln!(
        out,
        "<path d=\"M{LEFT} {foot}H{:.1}\" stroke=\"#999\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" \
         fill=\"#555\">{}</text>",
        WIDTH - RIGHT,
        WIDTH - RIGHT,
        foot + 32.0,
        escaped(&panel.x)
    );
    let mut names: Vec<(f64, &str, &str)> = Vec::new();
    for (i, line) in panel.lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let place = |p: &(f64, f64)| (x.at(p.0), y.at(p.1));
        if line.style != Style::Points {
            let path: Vec<String> =
                line.points.iter().map(place).map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            let dashes = if line.style == Style::Limit { " stroke-dasharray=\"5 4\"" } else { "" };
            let _ = writeln!(
                out,
                "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"{dashes}/>",
                path.join("L")
            );
            if let Some(last) = line.points.last() {
                names.push((y.at(last.1), colour, &line.name));
            }
        }
        if line.style != Style::Limit {
            for (k, p) in line.points.iter().enumerate() {
                let (px, py) = place(p);
                let _ = writeln!(out, "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"{colour}\"/>");
                if let Some(name) = line.labels.get(k) {
                    let _ = writeln!(
                        out,
                        "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                        px + 6.0,
                        py + 12.0,
                        escaped(name)
                    );
                }
            }
        }
    }
    // Names at the right edge, pushed apart downwards, then back up from the foot.
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    for i in 1..names.len() {
        names[i].0 = names[i].0.max(names[i - 1].0 + APART);
    }
    let mut floor = foot;
    for name in names.iter_mut().rev() {
        name.0 = name.0.min(floor);
        floor = name.0 - APART;
    }
    for (at, colour, name) in names {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            WIDTH - RIGHT + 6.0,
            at + 4.0,
            escaped(name)
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.05, 0.2, 3.0, 200.0, 5000.0, 20_000.0, 2e6].map(label),
            ["0.05", "0.2", "3", "200", "5000", "20k", "2M"]
        );
    }

    #[test]
    fn equal_factors_are_equally_far_apart() {
        let axis = Axis::new([1.0, 100.0].into_iter(), 0.0, 200.0, 1.0);
        assert!((axis.at(10.0) - 100.0).abs() < 1e-9);
        assert_eq!(axis.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(Axis::new(std::iter::empty(), 0.0, 1.0, 1.0).ticks().len(), 4);
    }

    #[test]
    fn every_line_is_drawn_and_named() {
        let line = Line::new("a < b", Style::Measured, vec![(1.0, 2.0), (4.0, 8.0)]);
        let chart = chart(&[Panel { title: "t".into(), x: "x".into(), lines: vec![line] }]);
        assert!(chart.contains("a &lt; b") && chart.matches("<circle").count() == 2);
        assert!(chart.starts_with("<svg") && chart.ends_with("</svg>\n"));
    }
}
