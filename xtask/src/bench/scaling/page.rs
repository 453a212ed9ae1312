//! The tables of `docs/scaling.md`, and their place in it.

use super::super::machine;
use super::super::results::Results;
use super::super::table::short;
use super::super::works::{MEMORY, SECOND_CORE, WORKS};
use super::figures::{least_ms, most_rate, rate, sample_mib, step, step_ms, train_mib};
use super::floor::{Machine, Model};
use super::{Axis, Measured, Point};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write as _;

const BEGIN: &str = "<!-- measured: what follows is written by `cargo xtask bench --scaling` -->\n";
const END: &str = "<!-- end of what is measured -->";

const INTENSITY: &str = "## Arithmetic intensity

A step moves at least 44 bytes per parameter (weights forward and backward, gradient written and read, AdamW's seven
streams), decoding 4 bytes per weight and the cache of every row at a context of 40. *Ridge*: the intensity from which
arithmetic is the limit, at the bandwidth of a quarter of that footprint.

";

const REACH: &str = "## How far the goals can be reached

*Limit*: the least time or the highest rate of the work on this machine, as above. *At most*: the ratio of something that
runs at the limit. For memory the limit is weights, gradients and moments alone. Peer and ours are of the last `--peers`
run.

";

/// `page` with what stands between the marks replaced.
pub(super) fn with_region(page: &str, region: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("scaling.md has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("scaling.md has no line {END}"))?;
    Ok(format!("{before}{BEGIN}\n{}\n\n{END}{after}", region.trim()))
}

pub(super) fn region(found: &Measured) -> String {
    let mut out = format!("{}. {} threads where nothing else is said.\n\n", machine::label(), found.threads);
    limits(found, &mut out);
    intensity(found, &mut out);
    goals(found, &mut out);
    scaling(found, &mut out);
    out
}

fn table(out: &mut String, head: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(out, "| {} |\n|{}", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out.push('\n');
}

/// Three digits, or nothing where there is no number.
fn cell(x: f64) -> String {
    if x.is_finite() { short(x) } else { String::new() }
}

fn limits(found: &Measured, out: &mut String) {
    *out += "## What the machine can do\n\n";
    let sizes = [(1.0, "1 MiB"), (8.0, "8 MiB"), (32.0, "32 MiB"), (256.0, "256 MiB")];
    let mut head = vec!["threads", "multiply-adds in registers, GFLOP/s"];
    let names = sizes.map(|s| format!("reads {}, GB/s", s.1));
    head.extend(names.iter().map(String::as_str));
    head.push("a ← b + s·c, 256 MiB, GB/s");
    let row = |(threads, peak, bandwidth): &(usize, Value, Value)| {
        let m = Machine::of(peak, bandwidth);
        let mut row = vec![threads.to_string(), cell(1e-9 * m.peak)];
        row.extend(sizes.map(|(mib, _)| cell(1e-9 * m.bandwidth(mib * 1024.0 * 1024.0))));
        row.push(cell(bandwidth["triad_262144_gb_s"].as_f64().unwrap_or(f64::NAN)));
        row
    };
    table(out, &head, &found.machine.iter().map(row).collect::<Vec<_>>());
    *out += "![Roofline and memory bandwidth](scaling/roofline.svg)\n\n";
}

fn intensity(found: &Measured, out: &mut String) {
    *out += INTENSITY;
    let m = super::figures::machine(found, found.threads);
    let mut rows = Vec::new();
    for (name, about, train, sample) in &found.models {
        let model = Model::of(about);
        let mut add = |work: String, flop: f64, bytes: f64, seconds: f64| {
            let ridge = m.peak / m.rate(bytes);
            let bound = if flop / bytes < ridge { "memory" } else { "arithmetic" };
            let least = (flop / m.peak).max(bytes / m.rate(bytes));
            let share = format!("{} %", cell(100.0 * least / seconds));
            rows.push(vec![
                work,
                cell(1e-6 * flop),
                cell(1e-6 * bytes),
                cell(flop / bytes),
                cell(ridge),
                bound.to_owned(),
                cell(1e-9 * flop / seconds),
                share,
            ]);
        };
        for n in [1.0, 8.0, 32.0] {
            let (flop, bytes) = model.decode(n, 40.0);
            let rate = sample[&format!("b{n}_tok_s")].as_f64().unwrap_or(f64::NAN);
            add(format!("{name}: decoding {n} rows"), flop, bytes, n / rate);
        }
        let (intensity, flop) = step(&model);
        add(
            format!("{name}: training step"),
            flop,
            flop / intensity,
            train["step_s"].as_f64().unwrap_or(f64::NAN),
        );
    }
    let head =
        ["work", "MFLOP", "MB", "FLOP/byte", "ridge", "limit", "reached, GFLOP/s", "share of the limit"];
    table(out, &head, &rows);
}

/// Floor of a metric on a model: seconds, or tokens per second.
fn floor(m: &Machine, model: &Model, about: &Value, ours: &str, key: &str) -> Option<f64> {
    match (ours, key) {
        ("ppo", "total_s") => Some(m.ppo(model, false)),
        ("ppo-best", "total_s") => Some(m.ppo(model, true)),
        ("train-step", _) => Some(m.step(model, 32.0, 72.0, 71.0)),
        ("reward-step", _) => Some(m.reward(model, about["pair_mean_tokens"].as_f64()?)),
        ("sampling", _) => {
            let rows: f64 = key.strip_prefix('b')?.strip_suffix("_tok_s")?.parse().ok()?;
            Some(m.sampling(model, rows, 8.0, 64.0))
        }
        _ => None,
    }
}

fn goals(found: &Measured, out: &mut String) {
    let Some(peers) = &found.peers else { return };
    let n = found.threads;
    let m = super::figures::machine(found, n);
    let mut rows = Vec::new();
    for (name, about, ..) in &found.models {
        let model = Model::of(about);
        let at = usize::from(name == "M");
        let mid = |side: &str, work: &str, key: &str| Some(peers.spread(name, n, side, work, key)?.median);
        let mut add =
            |what: String, theirs: Option<f64>, ours: Option<f64>, limit: f64, [most, is, goal]: [f64; 3]| {
                let of = |x: Option<f64>| x.map_or_else(String::new, short);
                let ratio = |x: f64| match (x.is_finite(), theirs) {
                    (false, _) => String::new(),
                    (true, Some(_)) => format!("{}×", short(x)),
                    (true, None) => short(x),
                };
                let times = if theirs.is_some() { "×" } else { "" };
                let wanted = if goal.is_nan() { String::new() } else { format!("≥{goal}{times}") };
                let reach = if most < goal { "**out of reach**" } else { "" };
                rows.push(vec![
                    format!("{name}: {what}"),
                    of(theirs),
                    of(ours),
                    cell(limit),
                    ratio(most),
                    ratio(is),
                    wanted,
                    reach.to_owned(),
                ]);
            };
        for work in WORKS {
            for metric in work.metrics {
                let (Some(goal), Some(peer)) = (metric.goal, work.peer) else { continue };
                let Some(limit) = floor(&m, &model, about, metric.ours, metric.key) else { continue };
                let Some(theirs) = mid("peer", peer, metric.key) else { continue };
                let ours = mid("ours", metric.ours, metric.key);
                let times = |x: f64| if metric.unit.is_rate() { x / theirs } else { theirs / x };
                let against = if work.again { " beside llama.cpp" } else { "" };
                let what = match work.metrics.len() {
                    1 => format!("{}, {}", work.name, metric.unit.name()),
                    _ => format!("{}, {}{against}, {}", work.name, metric.label, metric.unit.name()),
                };
                let ratios = [times(limit), ours.map_or(f64::NAN, times), goal[at]];
                add(what, Some(theirs), ours, limit, ratios);
            }
        }
        memory(peers, name, n, &model, &mut |what, theirs, ours, limit| {
            let ratios = [theirs / limit, theirs / ours, MEMORY[at]];
            add(what, Some(theirs), Some(ours), limit, ratios);
        });
        second_core(found, peers, name, |ours, most| {
            let what = "second core, training step".to_owned();
            add(what, None, ours, most, [most, ours.unwrap_or(f64::NAN), SECOND_CORE[at]]);
        });
        if let Some(seconds) = mid("ours", "train-step", "step_s") {
            let flop = 6.0 * (model.trunk + model.head) * 32.0 * 72.0;
            let share = |seconds: f64| flop / seconds / m.peak;
            let limit = share(m.step(&model, 32.0, 72.0, 71.0));
            let what = "training step, share of multiply-adds in registers".to_owned();
            // The goal is a share of torch's fastest product.
            add(what, None, Some(share(seconds)), limit, [limit, share(seconds), f64::NAN]);
        }
    }
    if rows.is_empty() {
        return;
    }
    *out += REACH;
    table(out, &["goal", "peer", "ours", "limit", "at most", "ours", "goal", ""], &rows);
}

/// Peak memory of a PPO run: policy and value model with gradient and moments, reference, reward model.
fn memory(peers: &Results, name: &str, n: usize, m: &Model, add: &mut dyn FnMut(String, f64, f64, f64)) {
    let mib = |side: &str, work: &str| Some(peers.spread(name, n, side, work, "peak_mib")?.median);
    let Some(theirs) = mib("peer", "ppo.py") else { return };
    for (work, what, copies) in [("ppo", "memory of PPO, MiB", 10.0), ("ppo-best", "… best settings", 6.0)]
    {
        if let Some(ours) = mib("ours", work) {
            add(what.to_owned(), theirs, ours, copies * 4.0 * m.params / (1024.0 * 1024.0));
        }
    }
}

fn second_core(found: &Measured, peers: &Results, name: &str, mut add: impl FnMut(Option<f64>, f64)) {
    let peak = |n: usize| found.machine.iter().find(|m| m.0 == n).map(|m| Machine::of(&m.1, &m.2).peak);
    let (Some(one), Some(two)) = (peak(1), peak(2)) else { return };
    let step = |n: usize| Some(peers.spread(name, n, "ours", "train-step", "step_s")?.median);
    add(step(1).zip(step(2)).map(|(a, b)| a / b), two / one);
}

/// An axis, its heading, the name of its first column, its figure, and what stands in that column.
type Section = (Axis, &'static str, &'static str, Option<&'static str>, fn(&Point) -> String);

fn scaling(found: &Measured, out: &mut String) {
    let sections: [Section; 5] = [
        (Axis::Dim, "Parameters", "dim", Some("parameters.svg"), |p| p.shape.dim.to_string()),
        (Axis::Batch, "Batch", "rows", Some("batch.svg"), |p| p.shape.batch.to_string()),
        (Axis::Tokens, "Length of a row (8 rows)", "tokens", Some("length.svg"), |p| {
            p.shape.tokens.to_string()
        }),
        (Axis::Vocab, "Vocabulary", "vocabulary", Some("vocabulary.svg"), |p| p.shape.vocab.to_string()),
        (Axis::Threads, "Threads", "threads", None, |p| p.threads.to_string()),
    ];
    for (axis, title, name, figure, of) in sections {
        let _ = writeln!(out, "## {title}\n");
        if let Some(figure) = figure {
            let _ = writeln!(out, "![{title}](scaling/{figure})\n");
        }
        let rows: Vec<Vec<String>> = found
            .points
            .iter()
            .filter(|p| p.axis == axis)
            .map(|p| {
                let tokens = (p.shape.batch * p.shape.tokens) as f64;
                vec![
                    of(p),
                    cell(1e-6 * p.train["params"].as_f64().unwrap_or(f64::NAN)),
                    cell(step_ms(p)),
                    cell(1e3 * tokens / step_ms(p)),
                    format!("{} %", cell(100.0 * least_ms(found, p) / step_ms(p))),
                    cell(train_mib(p)),
                    cell(rate(p)),
                    format!("{} %", cell(100.0 * rate(p) / most_rate(found, p))),
                    cell(sample_mib(p)),
                ]
            })
            .collect();
        let head = [
            name,
            "M parameters",
            "step, ms",
            "tokens/s",
            "of the limit",
            "MiB",
            "sampling, tokens/s",
            "of the limit",
            "MiB",
        ];
        table(out, &head, &rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("# Title\n\n{BEGIN}old\n{END}\n\nnotes\n");
        let new = with_region(&page, "\nnew\n").unwrap();
        assert_eq!(new, format!("# Title\n\n{BEGIN}\nnew\n\n{END}\n\nnotes\n"));
        assert_eq!(with_region(&new, "new").unwrap(), new);
        assert!(with_region("# Title", "new").is_err());
    }
}
