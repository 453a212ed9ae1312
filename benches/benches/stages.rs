//! The stages of a PPO step on both models, every core: rollout, reference and exact KL, values, and the
//! gradient and optimizer step of one epoch on the responses. Throughput is in response tokens.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tetherline::codec::Codec;
use tetherline::scoring::REWARD_HEADS;
use tetherline::train::{Example, Trainer, nll};
use tetherline_benches::models::{Size, load};
use tetherline_benches::sampling::{batch, rollout};
use tetherline_benches::train_step::ADAMW;
use tetherline_benches::{BATCH, NEW, PROMPT, policy_dir, prepare};
use tetherline_models::{Engine, ModelFiles, Row};

fn stages(c: &mut Criterion) {
    let engine = Engine::new(std::thread::available_parallelism().map_or(1, usize::from));
    for size in Size::ALL {
        let dir = tempfile::tempdir().expect("a directory");
        prepare::prepare(dir.path(), size).expect("a model directory");
        let (model, name) = load(size).expect("a model");
        let files = ModelFiles::dir(policy_dir(dir.path())).expect("a policy");
        let codec = Codec::load(&files, &model).expect("a tokenizer");
        let prompts = prepare::read_ids(dir.path(), "prompts.ids.jsonl").expect("prompts");
        let prompts = batch(&prompts[..BATCH]);

        let mut group = c.benchmark_group(format!("{size:?}, {name}"));
        group.sample_size(10);
        group.throughput(Throughput::Elements((BATCH * NEW) as u64));
        let sample = || rollout(&model, &codec.tokenizer, &engine, prompts.clone(), 1).expect("a rollout");
        group.bench_function("rollout", |b| b.iter(|| black_box(sample())));

        let r = sample();
        let examples: Vec<Example> = (0..BATCH)
            .map(|i| Example {
                tokens: [prompts.tokens.row(i), r.responses.row(i)].concat(),
                prompt_len: PROMPT,
            })
            .collect();
        let rows: Vec<Row<'_>> = examples.iter().map(Example::row).collect();
        let reference = model.clone();
        group.bench_function("reference and exact KL", |b| {
            b.iter(|| black_box(model.forward_pair(&reference, &engine, &rows, 1.0).expect("rows that fit")));
        });
        let value = model.with_heads(REWARD_HEADS, 1).expect("a value model");
        let value_rows: Vec<Row<'_>> = examples
            .iter()
            .map(|e| Row { tokens: &e.tokens, lm: 0..0, scalar: PROMPT - 1..e.tokens.len() - 1 })
            .collect();
        group.bench_function("values", |b| {
            b.iter(|| black_box(value.forward(&engine, &value_rows, 1.0).expect("rows that fit")));
        });
        let mut trainer = Trainer::new(model.clone(), ADAMW);
        let of_step: Vec<&Example> = examples.iter().collect();
        group.bench_function("policy step of an epoch", |b| {
            b.iter(|| {
                nll(&mut trainer, &engine, &of_step).expect("rows that fit");
                trainer.step(&engine, 1e-9, None).expect("a finite gradient")
            });
        });
        group.finish();
    }
}

criterion_group!(benches, stages);
criterion_main!(benches);
