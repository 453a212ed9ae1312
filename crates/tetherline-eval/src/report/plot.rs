//! Line charts as inline SVG.
//!
//! A chart is 400 × 220 units and as wide as its column, so its 12-unit text stays readable on a phone.
//! Unit and axis are named in words, lines are labelled at their ends, a target is a dashed line with its
//! value, and each step has an invisible strip whose `<title>` shows its numbers on hover.

use super::{
    html::{escape, num},
    scale::Axis,
};
use std::fmt::Write;

/// A line of a chart.
#[derive(Default)]
pub(super) struct Line {
    /// Label.
    pub(super) name: String,
    /// Colour class of the style sheet: `c1` … `c4`, `grey`.
    pub(super) class: &'static str,
    /// Points (x, y) in order; non-finite y leaves a gap.
    pub(super) points: Vec<(f64, f64)>,
    /// (x, low, high) of the 95 % band.
    pub(super) band: Vec<(f64, f64, f64)>,
    /// A thin line, for the noisier of two.
    pub(super) thin: bool,
}

/// A chart.
#[derive(Default)]
pub(super) struct Plot {
    /// What it shows.
    pub(super) title: String,
    /// Unit of y.
    pub(super) unit: String,
    /// Name of x.
    pub(super) x_label: String,
    /// Lines.
    pub(super) lines: Vec<Line>,
    /// Dashed horizontal line and its label.
    pub(super) target: Option<(String, f64)>,
    /// Moments marked at the foot, with what happened.
    pub(super) marks: Vec<(f64, String)>,
    /// Start y at zero.
    pub(super) from_zero: bool,
    /// Logarithmic y, where all values are positive.
    pub(super) log: bool,
    /// Range of y shared with other charts.
    pub(super) y_range: Option<(f64, f64)>,
    /// A small panel of a grid of panels.
    pub(super) small: bool,
    /// Points as dots, with a moving average as the line.
    pub(super) scatter: bool,
}

struct Frame {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn of(small: bool) -> Self {
        if small {
            Self { width: 200.0, height: 124.0, left: 30.0, right: 8.0, top: 10.0, bottom: 20.0 }
        } else {
            Self { width: 400.0, height: 226.0, left: 42.0, right: 88.0, top: 12.0, bottom: 36.0 }
        }
    }

    fn x(&self, share: f64) -> f64 {
        self.left + share * (self.width - self.left - self.right)
    }

    fn y(&self, share: f64) -> f64 {
        self.height - self.bottom - share * (self.height - self.top - self.bottom)
    }
}

/// Most points of a line, and most hover strips.
const MOST_POINTS: usize = 500;
const MOST_STRIPS: usize = 60;

impl Plot {
    /// Whether there is anything to draw.
    pub(super) fn is_empty(&self) -> bool {
        !self.lines.iter().any(|l| l.points.iter().any(|p| p.1.is_finite()))
    }

    /// The chart with its caption; nothing where there is no data.
    pub(super) fn figure(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let mut out = format!(
            "<figure class=\"chart{}\"><figcaption><b>{}</b>",
            if self.small { " small" } else { "" },
            escape(&self.title)
        );
        if !self.unit.is_empty() {
            let _ = write!(out, " <span>{}</span>", escape(&self.unit));
        }
        if self.small
            && let Some(last) = self.lines.first().and_then(|l| last_finite(&l.points))
        {
            let _ = write!(out, "<em>{}</em>", num(last.1));
        }
        if self.lines.len() > 1 && !self.small {
            out += "<span class=\"legend\">";
            for line in &self.lines {
                let _ = write!(out, "<i class=\"{}\">{}</i>", line.class, escape(&line.name));
            }
            out += "</span>";
        }
        out += "</figcaption>\n";
        out += &self.svg();
        out + "</figure>\n"
    }

    fn svg(&self) -> String {
        let f = Frame::of(self.small);
        let (x, y) = self.axes();
        let mut out = format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
            f.width,
            f.height,
            escape(&self.summary())
        );
        for &tick in &y.ticks {
            let at = f.y(y.at(tick));
            let zero = if tick == 0.0 { " zero" } else { "" };
            let _ = write!(
                out,
                "<path class=\"grid{zero}\" d=\"M{:.1} {at:.1}H{:.1}\"/>",
                f.left,
                f.width - f.right
            );
            let _ = write!(
                out,
                "<text class=\"tick e\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                f.left - 6.0,
                at + 4.0,
                y.label(tick)
            );
        }
        let foot = f.height - f.bottom;
        let shown: Vec<f64> = if self.small { ends(&x.ticks) } else { x.ticks.clone() };
        for tick in shown {
            let at = f.x(x.at(tick));
            let _ = write!(out, "<path class=\"grid\" d=\"M{at:.1} {foot:.1}v4\"/>");
            let _ = write!(
                out,
                "<text class=\"tick m\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                foot + 16.0,
                x.label(tick)
            );
        }
        if !self.small {
            let _ = write!(
                out,
                "<text class=\"name e\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                f.width - f.right,
                foot + 31.0,
                escape(&self.x_label)
            );
        }
        for line in &self.lines {
            out += &band(line, &f, &x, &y);
        }
        if let Some((_, target)) = &self.target {
            let at = f.y(y.at(*target));
            let _ =
                write!(out, "<path class=\"target\" d=\"M{:.1} {at:.1}H{:.1}\"/>", f.left, f.width - f.right);
        }
        for line in &self.lines {
            let weight = if line.thin || self.scatter { " thin" } else { "" };
            let points = if self.scatter { moving_average(&line.points) } else { thinned(&line.points) };
            if self.scatter {
                out += &dots(line, &f, &x, &y, &self.x_label);
            }
            let weight = if self.scatter { "" } else { weight };
            let _ = write!(
                out,
                "<path class=\"line{weight} {}\" d=\"{}\"/>",
                line.class,
                path(&points, &f, &x, &y)
            );
            if line.points.len() == 1 || (!self.scatter && !self.small && line.points.len() <= 30) {
                for p in line.points.iter().filter(|p| p.1.is_finite()) {
                    let (cx, cy) = (f.x(x.at(p.0)), f.y(y.at(p.1)));
                    let _ = write!(
                        out,
                        "<circle class=\"dot {}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2.4\"/>",
                        line.class
                    );
                }
            }
        }
        for (at, what) in &self.marks {
            let at = f.x(x.at(*at));
            let _ = write!(
                out,
                "<path class=\"mark\" d=\"M{at:.1} {:.1}l-4 7h8z\"><title>{}</title></path>",
                foot - 7.0,
                escape(what)
            );
        }
        if !self.small {
            out += &self.end_labels(&f, &y);
        }
        if !self.scatter {
            out += &self.strips(&f, &x, &y);
        }
        out + "</svg>"
    }

    fn axes(&self) -> (Axis, Axis) {
        let points =
            || self.lines.iter().flat_map(|l| &l.points).filter(|p| p.0.is_finite() && p.1.is_finite());
        let (x_low, x_high) = range(points().map(|p| p.0));
        let bands = self.lines.iter().flat_map(|l| &l.band).flat_map(|b| [b.1, b.2]);
        let target = self.target.iter().map(|t| t.1);
        let zero = self.from_zero.then_some(0.0);
        let all = points().map(|p| p.1).chain(bands).chain(target).chain(zero).filter(|v| v.is_finite());
        let (low, high) = self.y_range.unwrap_or_else(|| range(all));
        // Sampling noise a little below zero does not need a tick of its own.
        let low = if self.from_zero && low > -0.02 * high { low.max(0.0) } else { low };
        let y = if self.log && low > 0.0 {
            Axis::log(low, high)
        } else {
            Axis::linear(low, high, if self.small { 3 } else { 4 }, !self.small)
        };
        let most = if self.small { 4 } else { 5 };
        // Steps of training are whole numbers, and so are their ticks.
        let x = if points().all(|p| p.0.fract() == 0.0) {
            let (low, high) = if x_low < x_high { (x_low, x_high) } else { (x_low - 1.0, x_high + 1.0) };
            Axis::linear(low, high, most.min((high - low) as usize), false)
        } else {
            Axis::linear(x_low, x_high, most, false)
        };
        (x, y)
    }

    /// Names (where there are several lines) and last values at the right edge, pushed apart.
    fn end_labels(&self, f: &Frame, y: &Axis) -> String {
        let mut labels: Vec<(f64, &str, String)> = Vec::new();
        for line in &self.lines {
            let points = if self.scatter { moving_average(&line.points) } else { line.points.clone() };
            if let Some(last) = last_finite(&points) {
                let text =
                    if self.lines.len() > 1 { format!("{} {}", line.name, num(last.1)) } else { num(last.1) };
                labels.push((f.y(y.at(last.1)), line.class, text));
            }
        }
        if let Some((name, value)) = &self.target {
            labels.push((f.y(y.at(*value)), "target-label", format!("{name} {}", num(*value))));
        }
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        const APART: f64 = 14.0;
        for i in 1..labels.len() {
            labels[i].0 = labels[i].0.max(labels[i - 1].0 + APART);
        }
        let mut floor = f.height - f.bottom + 2.0;
        for label in labels.iter_mut().rev() {
            label.0 = label.0.min(floor);
            floor = label.0 - APART;
        }
        labels.iter().fold(String::new(), |mut out, (at, class, text)| {
            let _ = write!(
                out,
                "<text class=\"end {class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                f.width - f.right + 6.0,
                at + 4.0,
                escape(text)
            );
            out
        })
    }

    /// Invisible columns, one per (thinned) x, which show a rule, dots and a title on hover.
    fn strips(&self, f: &Frame, x: &Axis, y: &Axis) -> String {
        let Some(longest) = self.lines.iter().max_by_key(|l| l.points.len()) else { return String::new() };
        let every =
            longest.points.len().div_ceil(if self.small { MOST_STRIPS / 3 } else { MOST_STRIPS }).max(1);
        let xs: Vec<f64> = longest.points.iter().step_by(every).map(|p| p.0).collect();
        let half = (f.width - f.left - f.right) / (xs.len().max(2) - 1) as f64 / 2.0;
        let mut out = String::new();
        for at in xs {
            let px = f.x(x.at(at));
            let mut title = format!("{} {}", self.x_label, num_step(at));
            let mut dots = String::new();
            for line in &self.lines {
                let Some(p) = line.points.iter().find(|p| p.0 == at && p.1.is_finite()) else { continue };
                let name = if line.name.is_empty() { &self.title } else { &line.name };
                let _ = write!(title, "\n{name}: {}", num(p.1));
                if let Some(b) = line.band.iter().find(|b| b.0 == at) {
                    let _ = write!(title, " {}", super::html::bracket((b.1, b.2), false));
                }
                let cy = f.y(y.at(p.1));
                let _ = write!(
                    dots,
                    "<circle class=\"{}\" cx=\"{px:.1}\" cy=\"{cy:.1}\" r=\"3.2\"/>",
                    line.class
                );
            }
            let _ = write!(
                out,
                "<g class=\"hit\"><title>{}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
                 <path d=\"M{px:.1} {:.1}V{:.1}\"/>{dots}</g>",
                escape(&title),
                px - half,
                f.top,
                2.0 * half,
                f.height - f.top - f.bottom,
                f.top,
                f.height - f.bottom
            );
        }
        out
    }

    /// The chart in a sentence, for those who do not see it.
    fn summary(&self) -> String {
        let mut text = self.title.clone();
        if !self.unit.is_empty() {
            let _ = write!(text, ", {}", self.unit);
        }
        for line in &self.lines {
            let finite: Vec<_> = line.points.iter().filter(|p| p.1.is_finite()).collect();
            if let (Some(first), Some(last)) = (finite.first(), finite.last()) {
                let name = if line.name.is_empty() { "from" } else { &line.name };
                let at = |x: f64| format!("{} {}", self.x_label, num_step(x));
                let _ = write!(
                    text,
                    "; {name} {} at {} to {} at {}",
                    num(first.1),
                    at(first.0),
                    num(last.1),
                    at(last.0)
                );
            }
        }
        if let Some((name, value)) = &self.target {
            let _ = write!(text, "; {name} {}", num(*value));
        }
        text
    }
}

fn num_step(x: f64) -> String {
    if x.fract() == 0.0 { format!("{x:.0}") } else { num(x) }
}

fn last_finite(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    points.iter().rev().find(|p| p.1.is_finite()).copied()
}

fn ends(ticks: &[f64]) -> Vec<f64> {
    match ticks {
        [] => vec![],
        [one] => vec![*one],
        [first, .., last] => vec![*first, *last],
    }
}

/// (min, max), or (0, 1) of nothing.
pub(super) fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// Every k-th point and the last, so that a long run stays a small file.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(MOST_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, p)| *p).collect()
}

/// Centred moving average over about an eighth of the points, in both coordinates.
fn moving_average(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<_> = points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
    let reach = finite.len() / 16;
    let averages = (0..finite.len()).map(|i| {
        let reach = reach.min(i).min(finite.len() - 1 - i);
        let part = &finite[i - reach..=i + reach];
        let n = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / n, part.iter().map(|p| p.1).sum::<f64>() / n)
    });
    thinned(&averages.collect::<Vec<_>>())
}

fn path(points: &[(f64, f64)], f: &Frame, x: &Axis, y: &Axis) -> String {
    let mut out = String::new();
    let mut pen = 'M';
    for p in points {
        if !p.1.is_finite() {
            pen = 'M';
            continue;
        }
        let _ = write!(out, "{pen}{:.1} {:.1}", f.x(x.at(p.0)), f.y(y.at(p.1)));
        pen = 'L';
    }
    out
}

fn band(line: &Line, f: &Frame, x: &Axis, y: &Axis) -> String {
    let every = line.band.len().div_ceil(MOST_POINTS).max(1);
    let kept: Vec<_> =
        line.band.iter().step_by(every).filter(|b| b.1.is_finite() && b.2.is_finite()).collect();
    if kept.len() < 2 {
        return String::new();
    }
    let floor = |v: f64| f.y(y.at(v).clamp(0.0, 1.0));
    let mut d = String::new();
    for (i, b) in kept.iter().enumerate() {
        let _ = write!(d, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, f.x(x.at(b.0)), floor(b.2));
    }
    for b in kept.iter().rev() {
        let _ = write!(d, "L{:.1} {:.1}", f.x(x.at(b.0)), floor(b.1));
    }
    format!("<path class=\"band {}\" d=\"{d}Z\"/>", line.class)
}

fn dots(line: &Line, f: &Frame, x: &Axis, y: &Axis, x_label: &str) -> String {
    let every = line.points.len().div_ceil(2 * MOST_STRIPS).max(1);
    line.points.iter().filter(|p| p.0.is_finite() && p.1.is_finite()).step_by(every).fold(String::new(), |mut out, p| {
        let _ = write!(
            out,
            "<circle class=\"cloud {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\"><title>{x_label} {}\n{}: {}</title></circle>",
            line.class,
            f.x(x.at(p.0)),
            f.y(y.at(p.1)),
            num(p.0),
            escape(&line.name),
            num(p.1)
        );
        out
    })
}
