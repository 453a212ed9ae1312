//! The figures of `docs/scaling.md`.

use super::super::svg::{Line, Panel, Style, chart};
use super::floor::{Machine, Model};
use super::{Axis, BASE, LAYERS, Measured, PROMPT, Point};
use serde_json::Value;

/// What a panel shows of a point.
type Read = fn(&Point) -> f64;

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or(f64::NAN)
}

/// Milliseconds of a training step.
pub(super) fn step_ms(p: &Point) -> f64 {
    1e3 * number(&p.train, "step_s")
}

/// New tokens per second.
pub(super) fn rate(p: &Point) -> f64 {
    number(&p.sample, "tok_s")
}

/// Peak memory of the training step, MiB.
pub(super) fn train_mib(p: &Point) -> f64 {
    number(&p.train, "peak_mib")
}

/// Peak memory of sampling, MiB.
pub(super) fn sample_mib(p: &Point) -> f64 {
    number(&p.sample, "peak_mib")
}

/// The model of a point, as far as costs go.
pub(super) fn model(p: &Point) -> Model {
    let (dim, head) = (p.shape.dim as f64, (p.shape.dim * p.shape.vocab) as f64);
    Model {
        params: number(&p.train, "params"),
        trunk: number(&p.train, "matmul_params") - head,
        head,
        dim,
        layers: LAYERS as f64,
        kv: dim,
    }
}

/// The machine on the threads of a point.
pub(super) fn machine(found: &Measured, threads: usize) -> Machine {
    let at = found.machine.iter().find(|m| m.0 == threads).or(found.machine.last());
    at.map_or(Machine { peak: f64::NAN, read: Vec::new() }, |(_, peak, bandwidth)| {
        Machine::of(peak, bandwidth)
    })
}

/// The least milliseconds of its training step.
pub(super) fn least_ms(found: &Measured, p: &Point) -> f64 {
    let (rows, tokens) = (p.shape.batch as f64, p.shape.tokens as f64);
    1e3 * machine(found, p.threads).step(&model(p), rows, tokens, tokens - 1.0)
}

/// The most tokens per second that it could sample.
pub(super) fn most_rate(found: &Measured, p: &Point) -> f64 {
    let (rows, tokens) = (p.shape.batch as f64, p.shape.tokens as f64);
    machine(found, p.threads).sampling(&model(p), rows, PROMPT as f64, tokens - PROMPT as f64)
}

pub(super) fn all(found: &Measured) -> Vec<(&'static str, String)> {
    let panels = |axis, x: &str, of: Read| {
        chart(&[
            times(found, axis, x, of),
            sampling(found, axis, x, of),
            memory(found, axis, x, of),
            shares(found, axis, x, of),
        ])
    };
    vec![
        ("parameters.svg", panels(Axis::Dim, "parameters", |p| number(&p.train, "params"))),
        ("batch.svg", panels(Axis::Batch, "rows", |p| p.shape.batch as f64)),
        ("length.svg", panels(Axis::Tokens, "tokens of a row", |p| p.shape.tokens as f64)),
        ("vocabulary.svg", panels(Axis::Vocab, "vocabulary", |p| p.shape.vocab as f64)),
        ("roofline.svg", chart(&[roofline(found), bandwidth(found)])),
    ]
}

fn line(found: &Measured, axis: Axis, name: &str, x: Read, y: impl Fn(&Point) -> f64) -> Line {
    let points = found.points.iter().filter(|p| p.axis == axis).map(|p| (x(p), y(p))).collect();
    Line::new(name, Style::Measured, points)
}

fn times(found: &Measured, axis: Axis, x: &str, of: Read) -> Panel {
    let least = line(found, axis, "floor", of, |p| least_ms(found, p));
    Panel {
        title: "Training step, milliseconds".into(),
        x: x.into(),
        lines: vec![line(found, axis, "step", of, step_ms), Line { style: Style::Limit, ..least }],
    }
}

fn sampling(found: &Measured, axis: Axis, x: &str, of: Read) -> Panel {
    let most = line(found, axis, "limit", of, |p| most_rate(found, p));
    Panel {
        title: "Sampling, tokens per second".into(),
        x: x.into(),
        lines: vec![line(found, axis, "sampling", of, rate), Line { style: Style::Limit, ..most }],
    }
}

fn memory(found: &Measured, axis: Axis, x: &str, of: Read) -> Panel {
    Panel {
        title: "Peak memory of the process, MiB".into(),
        x: x.into(),
        lines: vec![
            line(found, axis, "training", of, train_mib),
            line(found, axis, "sampling", of, sample_mib),
        ],
    }
}

fn shares(found: &Measured, axis: Axis, x: &str, of: Read) -> Panel {
    Panel {
        title: "Share of the limit, %".into(),
        x: x.into(),
        lines: vec![
            line(found, axis, "training", of, |p| 100.0 * least_ms(found, p) / step_ms(p)),
            line(found, axis, "sampling", of, |p| 100.0 * rate(p) / most_rate(found, p)),
        ],
    }
}

/// Rate against intensity of decoding and of the training step, under the machine's limits.
fn roofline(found: &Measured) -> Panel {
    let m = machine(found, found.threads);
    let roof = |bandwidth: f64| -> Vec<(f64, f64)> {
        let ridge = m.peak / bandwidth;
        [0.4, ridge, 400.0].map(|i: f64| (i, 1e-9 * m.peak.min(i * bandwidth))).into()
    };
    let mut lines = Vec::new();
    for (name, about, train, sample) in &found.models {
        let model = Model::of(about);
        let mut dots = Line::new(name, Style::Points, Vec::new());
        for rows in [1.0, 8.0, 32.0] {
            let (flop, bytes) = model.decode(rows, 40.0);
            let per_second = number(sample, &format!("b{rows}_tok_s")) / rows;
            dots.points.push((flop / bytes, 1e-9 * flop * per_second));
            dots.labels.push(format!("{name} {rows}"));
        }
        let (intensity, flop) = step(&model);
        dots.points.push((intensity, 1e-9 * flop / number(train, "step_s")));
        dots.labels.push(format!("{name} step"));
        lines.push(dots);
    }
    let memory = m.read.last().map_or(f64::NAN, |r| r.1);
    lines.push(Line::new("last cache", Style::Limit, roof(m.bandwidth(8.0 * 1024.0 * 1024.0))));
    lines.push(Line::new("memory", Style::Limit, roof(memory)));
    Panel {
        title: "GFLOP/s: decoding 1, 8, 32 rows; a step".into(),
        x: "FLOP per byte that must move".into(),
        lines,
    }
}

/// FLOP per byte, and FLOP, of a training step on 32 × 72 tokens: weights read forward and backward, gradient written
/// and read, AdamW: 44 bytes per parameter.
pub(super) fn step(m: &Model) -> (f64, f64) {
    let flop = 3.0 * m.forward(BASE.batch as f64, BASE.tokens as f64, BASE.tokens as f64 - 1.0);
    (flop / (44.0 * m.params), flop)
}

fn bandwidth(found: &Measured) -> Panel {
    let of = |(threads, peak, bandwidth): &(usize, Value, Value)| {
        let m = Machine::of(peak, bandwidth);
        let points = m.read.iter().map(|(size, rate)| (size / (1024.0 * 1024.0), 1e-9 * rate)).collect();
        Line::new(
            &format!("{threads} thread{}", if *threads == 1 { "" } else { "s" }),
            Style::Measured,
            points,
        )
    };
    Panel {
        title: "Reading memory, GB/s".into(),
        x: "MiB that are read again and again".into(),
        lines: found.machine.iter().map(of).collect(),
    }
}
