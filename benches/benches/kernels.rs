//! One thread, decoders that are nearly all one kernel: matrix products, attention, the vocabulary head; the
//! softmax alone; decode steps of both models.
//!
//! Kernels are private, so each is timed inside the smallest decoder that spends its time there. Throughput is in
//! tokens; `backward` is forward and backward together.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tetherline::train::{Example, Trainer, nll};
use tetherline_benches::models::{Size, llama, load};
use tetherline_benches::train_step::ADAMW;
use tetherline_models::{Engine, Model, Row, log_softmax_in_place};

/// `rows` rows of `tokens` tokens with all ids below `vocab`.
fn rows(rows: usize, tokens: usize, vocab: usize) -> Vec<Example> {
    let id = |r: usize, t: usize| ((r * 7919 + t * 104_729) % vocab) as u32;
    (0..rows).map(|r| Example { tokens: (0..tokens).map(|t| id(r, t)).collect(), prompt_len: 0 }).collect()
}

fn decoders(c: &mut Criterion) {
    let arms = [
        ("matrix products: dim 288, ffn 768, rows of 8", llama(288, 6, 6, 768, 64), rows(288, 8, 64)),
        ("attention: 8 heads of 8, rows of 256", llama(64, 4, 8, 8, 64), rows(8, 256, 64)),
        ("vocabulary head: dim 288 to 4096", llama(288, 1, 6, 8, 4096), rows(32, 72, 4096)),
    ];
    let engine = Engine::new(1);
    for (name, model, examples) in arms {
        let model = model.expect("a model");
        let mut group = c.benchmark_group(name);
        let tokens: usize = examples.iter().map(|e| e.tokens.len()).sum();
        group.throughput(Throughput::Elements(tokens as u64));
        let forward: Vec<Row<'_>> = examples.iter().map(Example::row).collect();
        group.bench_function("forward", |b| {
            b.iter(|| black_box(model.forward(&engine, &forward, 1.0).expect("rows that fit")));
        });
        let mut trainer = Trainer::new(model.clone(), ADAMW);
        let batch: Vec<&Example> = examples.iter().collect();
        group.bench_function("backward", |b| {
            b.iter(|| black_box(nll(&mut trainer, &engine, &batch).expect("rows that fit")));
        });
        group.finish();
    }
}

fn softmax(c: &mut Criterion) {
    let mut group = c.benchmark_group("log-softmax and entropy of a row");
    for vocab in [512, 4096] {
        let logits: Vec<f32> = (0..vocab).map(|i| ((i * 37) % 101) as f32 * 0.05).collect();
        let mut row = logits.clone();
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(vocab), |b| {
            b.iter(|| {
                row.copy_from_slice(&logits);
                black_box(log_softmax_in_place(&mut row, 1.0))
            });
        });
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    let engine = Engine::new(1);
    for size in Size::ALL {
        let (model, _) = load(size).expect("a model");
        let mut group = c.benchmark_group(format!("64 decode steps of {size:?}"));
        for n in [1, 8, 16] {
            group.throughput(Throughput::Elements(64 * n as u64));
            group.bench_function(BenchmarkId::from_parameter(n), |b| {
                b.iter(|| steps(&model, &engine, n));
            });
        }
        group.finish();
    }
}

fn steps(model: &Model, engine: &Engine, rows: usize) {
    let mut batch = model.decode_batch(engine, 72).expect("a batch");
    for _ in 0..rows {
        batch.push(&[1, 20, 30, 40, 50, 60, 70]).expect("a prompt");
    }
    let feed = vec![80; rows];
    for _ in 0..64 {
        black_box(batch.step(&feed).expect("a step").logits[0]);
    }
}

criterion_group!(benches, decoders, softmax, decode);
criterion_main!(benches);
