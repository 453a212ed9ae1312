//! How often the always-valid tests reject where nothing differs, and where something does.
//!
//! ```text
//! cargo run --release -p tetherline-eval --example sequential_power -- [RUNS]
//! ```
//!
//! Each run looks after every prompt from the 20th to the 1 000th. "Peeking" is the ordinary two-sided z-test at the same
//! looks, which is not meant for that; "fixed" looks once, at the end. α is 0.05.
#![expect(clippy::print_stdout, reason = "an example that prints a table")]

use tetherline_core::seeds::{Purpose, Stream, stream};
use tetherline_eval::ab::FIRST_LOOK;
use tetherline_eval::sequential::{BoundedMean, EFFECT, TTest};

const PROMPTS: usize = 1000;
const Z: f64 = 1.959_963_984_540_054;

/// A distribution of paired differences with standard deviation 1.
#[derive(Clone, Copy)]
enum Noise {
    Normal,
    /// Exponential less its mean.
    Skewed,
    /// Student's t with 3 degrees of freedom, over √3.
    Heavy,
    /// Nothing for nine prompts of ten.
    Rare,
}

impl Noise {
    fn draw(self, r: &mut Stream) -> f64 {
        match self {
            Self::Normal => r.normal(),
            Self::Skewed => -(1.0 - r.uniform()).ln() - 1.0,
            Self::Heavy => {
                let square: f64 = (0..3).map(|_| r.normal().powi(2)).sum();
                r.normal() / (square / 3.0).sqrt() / 3f64.sqrt()
            }
            Self::Rare => {
                if r.uniform() < 0.1 {
                    r.normal() / 0.1f64.sqrt()
                } else {
                    0.0
                }
            }
        }
    }
}

/// Whether each test ever rejects, and at which prompt the sequential one does.
struct Run {
    sequential: Option<usize>,
    peeking: bool,
    fixed: bool,
}

/// The t-test on differences with this mean.
fn differences(noise: Noise, mean: f64, r: &mut Stream) -> Run {
    let mut test = TTest::new(EFFECT);
    run(r, |r| {
        let x = mean + noise.draw(r);
        test.push(x);
        (x, test.p())
    })
}

/// The betting test on wins with this rate, `ties` of them ½.
fn wins(rate: f64, ties: f64, r: &mut Stream) -> Run {
    let mut test = BoundedMean::new(0.5);
    run(r, |r| {
        let x = match r.uniform() {
            u if u < ties => 0.5,
            _ => f64::from(u8::from(r.uniform() < rate)),
        };
        test.push(x);
        (x - 0.5, test.p())
    })
}

fn run(r: &mut Stream, mut next: impl FnMut(&mut Stream) -> (f64, f64)) -> Run {
    let (mut n, mut mean, mut squares) = (0.0, 0.0, 0.0);
    let mut out = Run { sequential: None, peeking: false, fixed: false };
    for i in 1..=PROMPTS {
        let (x, p) = next(r);
        n += 1.0;
        let before = x - mean;
        mean += before / n;
        squares += before * (x - mean);
        out.fixed = mean.abs() > Z * (squares / (n - 1.0) / n).sqrt();
        if i >= FIRST_LOOK {
            out.peeking |= out.fixed;
            if p <= 0.05 && out.sequential.is_none() {
                out.sequential = Some(i);
            }
        }
    }
    out
}

fn row(name: &str, runs: u64, one: impl Fn(&mut Stream) -> Run) {
    let all: Vec<Run> = (0..runs).map(|i| one(&mut stream(7, Purpose::World, 0, i, 0))).collect();
    let share = |n: usize| 100.0 * n as f64 / runs as f64;
    let mut at: Vec<usize> = all.iter().map(|r| r.sequential.unwrap_or(PROMPTS)).collect();
    at.sort_unstable();
    println!(
        "| {name} | {:.1} % | {:.1} % | {:.1} % | {} |",
        share(all.iter().filter(|r| r.sequential.is_some()).count()),
        share(all.iter().filter(|r| r.peeking).count()),
        share(all.iter().filter(|r| r.fixed).count()),
        at[at.len() / 2]
    );
}

fn main() {
    let runs = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2000);
    println!(
        "{runs} runs a row\n\n| differences | always valid | peeking | fixed | median prompts |\n| --- | --- | --- | --- | --- |"
    );
    for (name, noise) in [
        ("normal", Noise::Normal),
        ("skewed", Noise::Skewed),
        ("heavy tails", Noise::Heavy),
        ("nine in ten zero", Noise::Rare),
    ] {
        row(&format!("{name}, none"), runs, |r| differences(noise, 0.0, r));
    }
    for effect in [0.1, 0.2, 0.3, 0.5] {
        row(&format!("normal, {effect} sd"), runs, |r| differences(Noise::Normal, effect, r));
    }
    for (rate, ties) in [(0.5, 0.0), (0.5, 0.5), (0.5, 0.95)] {
        row(&format!("wins {rate}, ties {ties}"), runs, |r| wins(rate, ties, r));
    }
    for rate in [0.55, 0.6, 0.65, 0.75] {
        row(&format!("wins {rate}, ties 0"), runs, |r| wins(rate, 0.0, r));
    }
}
