//! Tokens per second of a training step and of sampling, on the CPU kernels and on another device.
//!
//! ```text
//! cargo run --release -p tetherline-models --example engines -- [MODEL_DIR] [DEVICE] [THREADS] [ROWS]
//! ```
//!
//! Defaults: the embedded base policy, `graph`, every core, 64 rows of 96 tokens. A training step is
//! forward, loss, backward and the change of the parameters (and, on a device, their upload); the engines
//! take turns, and the best of five counts. candle chooses its own threads (`RAYON_NUM_THREADS`).
#![expect(clippy::print_stdout, reason = "a program that talks")]

use std::path::PathBuf;
use std::time::Instant;
use tetherline_models::{
    Device, Engine, Heads, Model, ModelFiles, Result, Row, RowGrad, RowOutput, UnitLoss,
};

const WIDTH: usize = 96;
const PROMPT: usize = 32;

struct Nll;

impl UnitLoss for Nll {
    type Stats = ();

    fn unit(&self, _: usize, _: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) {
        grads.iter_mut().for_each(|g| g.logprobs.fill(-1e-3));
    }
}

/// One training step.
fn train(model: &mut Model, engine: &Engine, tokens: &[Vec<u32>], grad: &mut Vec<f32>) -> Result<()> {
    let row = |tokens| vec![Row { tokens, lm: PROMPT - 1..WIDTH - 1, scalar: 0..0 }];
    let units: Vec<Vec<Row<'_>>> = tokens.iter().map(|t| row(&t[..])).collect();
    grad.fill(0.0);
    model.step(engine, &units, 1.0, &Nll, grad)?;
    model.update(engine, |p| p.iter_mut().zip(&*grad).for_each(|(p, g)| *p -= 1e-6 * g));
    Ok(())
}

/// Responses of `WIDTH - PROMPT` tokens to every row, in groups of 16 on the CPU, on one thread.
fn decode(model: &Model, engine: &Engine, tokens: &[Vec<u32>]) -> Result<()> {
    let group = if engine.device() == Device::Cpu { 16 } else { tokens.len() };
    for rows in tokens.chunks(group) {
        let mut batch = model.decode_batch(engine, WIDTH)?;
        rows.iter().try_for_each(|t| batch.push(&t[..PROMPT]))?;
        for p in PROMPT..WIDTH {
            batch.step(&rows.iter().map(|t| t[p]).collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

fn seconds(mut job: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    job()?;
    Ok(start.elapsed().as_secs_f64())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let base = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/frontdesk/base");
    let dir = args.first().map_or_else(base, PathBuf::from);
    let device: Device = args.get(1).map_or(Ok(Device::Graph), |d| d.parse())?;
    let every = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.get(2).map_or(Ok(every), |n| n.parse())?;
    let rows: usize = args.get(3).map_or(Ok(64), |n| n.parse())?;

    let mut model = Model::load(&ModelFiles::dir(dir)?, Heads { lm: true, scalar: false }, 1)?;
    model.make_trainable();
    let vocab = model.config().vocab;
    let token = |r: usize, i: usize| ((r * 8191 + i * 131 + i * i * 7) % vocab) as u32;
    let tokens: Vec<Vec<u32>> = (0..rows).map(|r| (0..WIDTH).map(|i| token(r, i)).collect()).collect();
    let engines = [Engine::new(threads), Engine::on(device, threads)?];
    let mut grad = vec![0.0; model.n_params()];

    let mut best = [[f64::INFINITY; 2]; 2];
    for _ in 0..5 {
        for (engine, best) in engines.iter().zip(&mut best) {
            best[0] = best[0].min(seconds(|| train(&mut model, engine, &tokens, &mut grad))?);
            best[1] = best[1].min(seconds(|| decode(&model, engine, &tokens))?);
        }
    }
    println!("{} parameters, {rows} rows of {WIDTH} tokens, {threads} threads", model.n_params());
    println!("{:<8} {:>22} {:>22}", "device", "train, tokens/s", "decode, tokens/s");
    for (engine, [train, decode]) in engines.iter().zip(best) {
        let all = (rows * WIDTH) as f64 / train;
        let new = (rows * (WIDTH - PROMPT)) as f64 / decode;
        println!("{:<8} {all:>22.0} {new:>22.0}", engine.device().to_string());
    }
    let ratio = |i: usize| best[0][i] / best[1][i];
    println!("{device} to cpu: train {:.3}x, decode {:.3}x", ratio(0), ratio(1));
    Ok(())
}
