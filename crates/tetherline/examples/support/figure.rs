//! Figures as self-contained SVG: panels two in a row, with lines, bands, dots and 95 % intervals, on linear or logarithmic
//! axes. Every series is named in a legend; colours are those of Okabe and Ito, which colour-blind readers tell apart.

use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 312.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 42.0;
const BOTTOM: f64 = 42.0;
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a8a8a"];
/// Height of a line of the legend.
const LEGEND: f64 = 15.0;

/// How a series is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A line.
    Line,
    /// A dashed line: what is expected.
    Dashed,
    /// Dots.
    Dots,
    /// Dots joined by a line.
    LineDots,
}

/// One series.
#[derive(Clone)]
pub(crate) struct Series {
    name: String,
    style: Style,
    points: Vec<(f64, f64)>,
    /// 95 % intervals of x and y, point by point; empty: none.
    x_interval: Vec<(f64, f64)>,
    y_interval: Vec<(f64, f64)>,
    colour: Option<usize>,
}

impl Series {
    /// Points (x, y) in order. An empty name stays out of the legend.
    pub(crate) fn new(name: &str, style: Style, points: Vec<(f64, f64)>) -> Self {
        let name = name.to_owned();
        Self { name, style, points, x_interval: Vec::new(), y_interval: Vec::new(), colour: None }
    }

    /// Intervals of y: a band behind a line, whiskers at dots.
    pub(crate) fn y_interval(mut self, interval: Vec<(f64, f64)>) -> Self {
        self.y_interval = interval;
        self
    }

    /// Intervals of x, as whiskers.
    pub(crate) fn x_interval(mut self, interval: Vec<(f64, f64)>) -> Self {
        self.x_interval = interval;
        self
    }

    /// The colour with this number instead of that of its place.
    pub(crate) fn colour(mut self, colour: usize) -> Self {
        self.colour = Some(colour);
        self
    }
}

/// One panel.
pub(crate) struct Panel {
    title: String,
    x: String,
    y: String,
    series: Vec<Series>,
    log_x: bool,
    log_y: bool,
    rows: Vec<String>,
}

impl Panel {
    /// An empty panel with the names of its axes, units included.
    pub(crate) fn new(title: &str, x: &str, y: &str) -> Self {
        let (title, x, y) = (title.to_owned(), x.to_owned(), y.to_owned());
        Self { title, x, y, series: Vec::new(), log_x: false, log_y: false, rows: Vec::new() }
    }

    /// With one more series.
    pub(crate) fn with(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// Logarithmic x.
    pub(crate) fn log_x(mut self) -> Self {
        self.log_x = true;
        self
    }

    /// Logarithmic y.
    pub(crate) fn log_y(mut self) -> Self {
        self.log_y = true;
        self
    }

    /// Names in place of y: the first at y = 0, on top; the next at y = 1.
    pub(crate) fn rows(mut self, names: Vec<String>) -> Self {
        self.rows = names;
        self
    }

    fn left(&self) -> f64 {
        let longest = self.rows.iter().map(|r| r.chars().count()).max().unwrap_or(0);
        (6.0 * longest as f64 + 14.0).max(56.0)
    }

    fn legend(&self) -> impl Iterator<Item = (usize, &Series)> {
        self.series.iter().enumerate().filter(|(_, s)| !s.name.is_empty())
    }

    fn height(&self) -> f64 {
        let body = if self.rows.is_empty() { HEIGHT } else { TOP + BOTTOM + 22.0 * self.rows.len() as f64 };
        body + LEGEND * self.legend().count().div_ceil(2) as f64
    }
}

struct Axis {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, log: bool, from: f64, to: f64) -> Self {
        let usable = values.filter(|v| v.is_finite() && (!log || *v > 0.0));
        let (low, high) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (1.0, 2.0) };
        let mut axis = Self { low, high, log, from, to, ticks: Vec::new() };
        if log {
            (axis.low, axis.high) = (low / 1.15, high * 1.15);
            let steps: &[f64] = if high / low < 30.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let first = axis.low.log10().floor() as i32;
            let all = (first..first + 24).flat_map(|e| steps.iter().map(move |s| s * 10_f64.powi(e)));
            axis.ticks = all.filter(|t| (axis.low..=axis.high).contains(t)).collect();
            return axis;
        }
        let pad = if high > low { 0.04 * (high - low) } else { 0.1 * high.abs().max(1e-9) };
        axis.low = if low >= 0.0 && low < 0.25 * high { 0.0 } else { low - pad };
        axis.high = high + pad;
        let rough = (axis.high - axis.low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = power * [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= rough).unwrap_or(10.0);
        let (first, last) = ((axis.low / step).ceil() as i64, (axis.high / step).floor() as i64);
        axis.ticks = (first..=last).map(|i| i as f64 * step).collect();
        axis
    }

    fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }
}

/// A number as people write it: 1e-5, 0.05, 3, 200, 2000000.
fn label(value: f64) -> String {
    if value > 0.0 && value < 9e-4 {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').replace('-', "−")
}

/// The panels, two in a row; one alone takes a row for itself.
pub(crate) fn svg(panels: &[Panel]) -> String {
    let width = WIDTH * panels.len().min(2) as f64;
    let heights: Vec<f64> =
        panels.chunks(2).map(|row| row.iter().map(Panel::height).fold(0.0, f64::max)).collect();
    let height: f64 = heights.iter().sum();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"11\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (i, panel) in panels.iter().enumerate() {
        let y: f64 = heights[..i / 2].iter().sum();
        let _ = writeln!(out, "<g transform=\"translate({},{y})\">", WIDTH * (i % 2) as f64);
        draw(panel, &mut out);
        out += "</g>\n";
    }
    out + "</svg>\n"
}

fn draw(panel: &Panel, out: &mut String) {
    let (left, right) = (panel.left(), WIDTH - RIGHT);
    let top = TOP + LEGEND * panel.legend().count().div_ceil(2) as f64;
    let foot = panel.height() - BOTTOM;
    let xs = panel
        .series
        .iter()
        .flat_map(|s| s.points.iter().map(|p| p.0).chain(s.x_interval.iter().flat_map(|i| [i.0, i.1])));
    let ys = panel
        .series
        .iter()
        .flat_map(|s| s.points.iter().map(|p| p.1).chain(s.y_interval.iter().flat_map(|i| [i.0, i.1])));
    let x = Axis::new(xs, panel.log_x, left, right);
    let mut y = Axis::new(ys, panel.log_y, foot, top);
    if !panel.rows.is_empty() {
        let (low, high) = (-0.6, panel.rows.len() as f64 - 0.4);
        y = Axis { low, high, log: false, from: top, to: foot, ticks: Vec::new() };
        for (i, name) in panel.rows.iter().enumerate() {
            let at = y.at(i as f64);
            line(out, (left, at), (right, at), "#eee");
            text(out, left - 6.0, at + 4.0, "end", "#333", name);
        }
    }
    let _ = writeln!(out, "<text x=\"8\" y=\"16\" font-weight=\"bold\">{}</text>", escaped(&panel.title));
    for &tick in &y.ticks {
        line(out, (left, y.at(tick)), (right, y.at(tick)), "#e4e4e4");
        text(out, left - 5.0, y.at(tick) + 4.0, "end", "#555", &label(tick));
    }
    for &tick in &x.ticks {
        let at = x.at(tick);
        if panel.rows.is_empty() {
            line(out, (at, foot), (at, foot + 4.0), "#999");
        } else {
            line(out, (at, top), (at, foot + 4.0), "#e4e4e4");
        }
        text(out, at, foot + 16.0, "middle", "#555", &label(tick));
    }
    line(out, (left, foot), (right, foot), "#999");
    text(out, right, foot + 33.0, "end", "#333", &panel.x);
    text(out, 8.0, top - 9.0, "start", "#333", &panel.y);
    for (i, series) in panel.series.iter().enumerate() {
        draw_series(out, series, COLOURS[series.colour.unwrap_or(i) % COLOURS.len()], &x, &y);
    }
    for (place, (i, series)) in panel.legend().enumerate() {
        let colour = COLOURS[series.colour.unwrap_or(i) % COLOURS.len()];
        let (at_x, at_y) = (8.0 + (place % 2) as f64 * WIDTH / 2.0, 32.0 + (place / 2) as f64 * LEGEND);
        if series.style != Style::Dots {
            let dashes = if series.style == Style::Dashed { " stroke-dasharray=\"4 3\"" } else { "" };
            let _ = writeln!(
                out,
                "<path d=\"M{at_x} {:.1}h18\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
                at_y - 4.0
            );
        }
        if matches!(series.style, Style::Dots | Style::LineDots) {
            dot(out, (at_x + 9.0, at_y - 4.0), colour);
        }
        text(out, at_x + 24.0, at_y, "start", "#333", &series.name);
    }
}

fn draw_series(out: &mut String, series: &Series, colour: &str, x: &Axis, y: &Axis) {
    let place = |p: (f64, f64)| (x.at(p.0), y.at(p.1));
    let dots = matches!(series.style, Style::Dots | Style::LineDots);
    let finite = |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite();
    if !dots && !series.y_interval.is_empty() {
        let band = || series.points.iter().zip(&series.y_interval).filter(|(p, i)| finite(p) && finite(i));
        let up = band().map(|(p, i)| place((p.0, i.1)));
        let down = band().map(|(p, i)| place((p.0, i.0)));
        let corners: Vec<(f64, f64)> = up.chain(down.collect::<Vec<_>>().into_iter().rev()).collect();
        let _ = writeln!(out, "<path d=\"{}Z\" fill=\"{colour}\" opacity=\"0.18\"/>", path(&corners));
    }
    if series.style != Style::Dots {
        let points: Vec<(f64, f64)> = series.points.iter().copied().filter(finite).map(place).collect();
        let dashes = if series.style == Style::Dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        let _ = writeln!(
            out,
            "<path d=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"{dashes}/>",
            path(&points)
        );
    }
    if !dots {
        return;
    }
    for (i, p) in series.points.iter().enumerate().filter(|(_, p)| finite(p)) {
        if let Some((low, high)) = series.y_interval.get(i).filter(|i| finite(i)) {
            line(out, place((p.0, *low)), place((p.0, *high)), colour);
        }
        if let Some((low, high)) = series.x_interval.get(i).filter(|i| finite(i)) {
            line(out, place((*low, p.1)), place((*high, p.1)), colour);
        }
        dot(out, place(*p), colour);
    }
}

fn path(points: &[(f64, f64)]) -> String {
    points.iter().enumerate().fold(String::new(), |mut d, (i, (x, y))| {
        let _ = write!(d, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        d
    })
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        out,
        "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn dot(out: &mut String, at: (f64, f64), colour: &str) {
    let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", at.0, at.1);
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{}</text>",
        escaped(text)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
