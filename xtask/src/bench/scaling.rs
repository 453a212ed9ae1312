//! `cargo xtask bench --scaling`: time and memory against the size of everything, and the roofline.
//!
//! Writes `docs/scaling/data.json`, `docs/scaling/*.svg` and the marked part of `docs/scaling.md`. Every point is a
//! fresh process of `ours`, so its peak memory is its own. Peers' times come from the last `--peers` run.

mod figures;
mod floor;
mod page;

use super::machine;
use super::options::Options;
use super::process::Bench;
use super::results::Results;
use crate::process::root;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// One size of the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) dim: usize,
    pub(super) vocab: usize,
    pub(super) batch: usize,
    pub(super) tokens: usize,
}

/// Where one of them changes, the others stay here.
pub(super) const BASE: Shape = Shape { dim: 256, vocab: 4096, batch: 32, tokens: 72 };
/// Layers of every model.
pub(super) const LAYERS: usize = 6;
/// Prompt tokens of every row that is sampled.
pub(super) const PROMPT: usize = 8;

/// What changes along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Dim,
    Batch,
    Tokens,
    Vocab,
    Threads,
}

impl Axis {
    const ALL: [Self; 5] = [Self::Dim, Self::Batch, Self::Tokens, Self::Vocab, Self::Threads];

    /// As in `data.json`.
    fn name(self) -> &'static str {
        match self {
            Self::Dim => "dim",
            Self::Batch => "batch",
            Self::Tokens => "tokens",
            Self::Vocab => "vocab",
            Self::Threads => "threads",
        }
    }
}

/// One measurement.
pub(super) struct Point {
    pub(super) axis: Axis,
    pub(super) shape: Shape,
    pub(super) threads: usize,
    /// What the training step printed.
    pub(super) train: Value,
    /// What sampling printed.
    pub(super) sample: Value,
}

/// Everything measured.
pub(super) struct Measured {
    pub(super) points: Vec<Point>,
    /// Threads of all but the threads axis.
    pub(super) threads: usize,
    /// By number of threads: what `gemm-peak` and `bandwidth` printed.
    pub(super) machine: Vec<(usize, Value, Value)>,
    /// By model (S, M): its `model.json`, what `train-step` and `sampling` printed.
    pub(super) models: Vec<(String, Value, Value, Value)>,
    /// The last `--peers` run, if there was one on this CPU.
    pub(super) peers: Option<Results>,
}

fn grid(threads: &[usize], most: usize) -> Vec<(Axis, Shape, usize)> {
    let mut grid = Vec::new();
    grid.extend([64, 128, 192, 256, 384, 512].map(|dim| (Axis::Dim, Shape { dim, ..BASE }, most)));
    grid.extend([1, 2, 4, 8, 16, 32, 64, 128].map(|batch| (Axis::Batch, Shape { batch, ..BASE }, most)));
    grid.extend(
        [32, 64, 128, 256, 512].map(|tokens| (Axis::Tokens, Shape { tokens, batch: 8, ..BASE }, most)),
    );
    grid.extend([512, 2048, 8192, 32768].map(|vocab| (Axis::Vocab, Shape { vocab, ..BASE }, most)));
    grid.extend(threads.iter().map(|&n| (Axis::Threads, BASE, n)));
    grid
}

pub(super) fn run(bench: &Bench, options: &Options) -> Result<()> {
    let most = options.threads.iter().copied().max().unwrap_or(1);
    let ours = |work: &str, threads: usize, more: &[&str]| -> Result<Value> {
        println!("{work} {} on {threads} threads", more.join(" "));
        machine::wait_for_quiet(options.quiet);
        let mut command = Command::new(&bench.ours);
        command.arg(work).args(["--threads", &threads.to_string()]).args(more);
        bench.line(command, work)
    };
    let mut found = Measured {
        points: Vec::new(),
        threads: most,
        machine: Vec::new(),
        models: Vec::new(),
        peers: peers(bench)?,
    };
    for &n in &options.threads {
        found.machine.push((n, ours("gemm-peak", n, &[])?, ours("bandwidth", n, &[])?));
    }
    for model in &options.models {
        let dir = bench.model(model).display().to_string();
        let of = |work| ours(work, most, &["--model", &dir]);
        found.models.push((model.clone(), bench.about(model)?, of("train-step")?, of("sampling")?));
    }
    for (axis, shape, threads) in grid(&options.threads, most) {
        let Shape { dim, vocab, batch, tokens } = shape;
        let text = format!("layers={LAYERS},dim={dim},vocab={vocab},batch={batch},tokens={tokens}");
        let of = |work| ours(work, threads, &["--shape", &text]);
        found.points.push(Point {
            axis,
            shape,
            threads,
            train: of("scale-train")?,
            sample: of("scale-sample")?,
        });
    }
    write(&found)
}

/// Writes the page again from `docs/scaling/data.json` and the last `--peers` run.
pub(super) fn redraw(bench: &Bench) -> Result<()> {
    let path = root().join("docs/scaling/data.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let data: Value =
        serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(data["machine"] == machine::label(), "{} was measured on another CPU", path.display());
    let mut found = read(&data).with_context(|| format!("{} is not of this version", path.display()))?;
    found.peers = peers(bench)?;
    write(&found)
}

/// What [`data`] wrote.
fn read(data: &Value) -> Option<Measured> {
    let mut found =
        Measured { points: Vec::new(), threads: 1, machine: Vec::new(), models: Vec::new(), peers: None };
    let n = |row: &Value, key: &str| row[key].as_u64().and_then(|n| usize::try_from(n).ok());
    for row in data["rows"].as_array()? {
        if let Some(name) = row["model"].as_str() {
            let [about, train, sample] = ["about", "train", "sample"].map(|key| row[key].clone());
            found.models.push((name.to_owned(), about, train, sample));
        } else if let Some(axis) = row["axis"].as_str() {
            let axis = Axis::ALL.into_iter().find(|a| a.name() == axis)?;
            let shape = Shape {
                dim: n(row, "dim")?,
                vocab: n(row, "vocab")?,
                batch: n(row, "batch")?,
                tokens: n(row, "tokens")?,
            };
            let (train, sample) = (row["train"].clone(), row["sample"].clone());
            found.points.push(Point { axis, shape, threads: n(row, "threads")?, train, sample });
        } else {
            let threads = n(row, "threads")?;
            found.threads = found.threads.max(threads);
            found.machine.push((threads, row["gemm_peak"].clone(), row["bandwidth"].clone()));
        }
    }
    Some(found)
}

/// The file of the last `--peers` run, unless it is of another CPU.
fn peers(bench: &Bench) -> Result<Option<Results>> {
    let path = bench.dir.join("peers.json");
    if !path.is_file() {
        println!("no --peers run yet: the goals are left out");
        return Ok(None);
    }
    let results = Results::read(&path)?;
    if results.machine != machine::label() {
        println!("the last --peers run was on another CPU: the goals are left out");
        return Ok(None);
    }
    Ok(Some(results))
}

fn write(found: &Measured) -> Result<()> {
    let docs = root().join("docs");
    let dir = docs.join("scaling");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let put = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    for (name, chart) in figures::all(found) {
        put(name, chart)?;
    }
    put("data.json", data(found))?;
    let path = docs.join("scaling.md");
    let old = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    fs::write(&path, page::with_region(&old, &page::region(found))?)?;
    println!("\nwrote {} and {}", path.display(), dir.display());
    Ok(())
}

/// Everything as JSON, a measurement a line.
fn data(found: &Measured) -> String {
    let mut rows: Vec<Value> = Vec::new();
    for (threads, peak, bandwidth) in &found.machine {
        rows.push(json!({"threads": threads, "gemm_peak": peak, "bandwidth": bandwidth}));
    }
    for (name, about, train, sample) in &found.models {
        rows.push(json!({"model": name, "about": about, "train": train, "sample": sample}));
    }
    for p in &found.points {
        let Shape { dim, vocab, batch, tokens } = p.shape;
        rows.push(json!({"axis": p.axis.name(), "dim": dim, "vocab": vocab,
            "batch": batch, "tokens": tokens, "threads": p.threads, "train": p.train, "sample": p.sample}));
    }
    let rows: Vec<String> = rows.iter().map(|r| format!("    {r}")).collect();
    format!("{{\n  \"machine\": {},\n  \"rows\": [\n{}\n  ]\n}}\n", json!(machine::label()), rows.join(",\n"))
}
