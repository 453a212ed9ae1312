//! The sampler on the CPU kernels and on the candle graph.
#![cfg(feature = "graph")]
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use std::path::Path;
use tetherline_core::seeds::Purpose;
use tetherline_core::{PromptBatch, PromptRef, Rollout};
use tetherline_models::{Device, Engine, Heads, Model, ModelFiles, Tokenizer};
use tetherline_rollout::{SamplingConfig, StreamName, generate};

/// Prompts of many lengths, more than one group of the CPU holds; one has a single token.
fn prompts(vocab: usize) -> PromptBatch {
    let mut out = PromptBatch::default();
    for i in 0..20_u64 {
        let tokens: Vec<u32> =
            (0..1 + i * 5 % 12).map(|t| ((i * 29 + t * 11 + 4) % vocab as u64) as u32).collect();
        out.push(PromptRef {
            tokens: &tokens,
            id: i,
            sample: 0,
            domain: "all",
            user: "",
            text: "",
            messages: &[],
            answer: "",
        });
    }
    out
}

fn sample(name: &str, engine: &Engine, temperature: f64) -> Rollout {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name);
    let files = ModelFiles::dir(dir).unwrap();
    let model = Model::load(&files, Heads { lm: true, scalar: true }, 5).unwrap();
    let tokenizer = Tokenizer::load(&files, &[]).unwrap();
    let config = SamplingConfig { temperature, max_new_tokens: 12, ..SamplingConfig::default() };
    let stream = StreamName { seed: 9, purpose: Purpose::Sampling, step: 1 };
    generate(&model, &tokenizer, prompts(model.config().vocab), &config, stream, engine, 0).unwrap()
}

#[test]
fn greedy_responses_are_the_same_on_both_engines() {
    for name in ["tiny-llama", "tiny-gpt2"] {
        let kernels = sample(name, &Engine::new(2), 0.0);
        let graph = sample(name, &Engine::on(Device::Graph, 1).unwrap(), 0.0);
        assert_eq!(kernels.responses, graph.responses, "{name}");
        assert_eq!(kernels.stop, graph.stop);
        assert_eq!(kernels.responses.len(), 20);
        for (kernels, graph) in [
            (&kernels.logprobs, &graph.logprobs),
            (&kernels.entropy, &graph.entropy),
            (&kernels.values, &graph.values),
        ] {
            assert_eq!(kernels.flat().len(), graph.flat().len());
            assert!(!kernels.flat().is_empty());
            for (a, b) in kernels.flat().iter().zip(graph.flat()) {
                assert!((a - b).abs() < 1e-4, "{name}: {a} and {b}");
            }
        }
    }
}

/// Rows leave the batch at different steps here, and what is recorded is what a full pass computes.
#[test]
fn log_probs_of_the_graphs_sampler_are_those_of_its_trainer() {
    let engine = Engine::on(Device::Graph, 1).unwrap();
    let r = sample("tiny-llama", &engine, 1.0);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny-llama");
    let model = Model::load(&ModelFiles::dir(dir).unwrap(), Heads { lm: true, scalar: true }, 5).unwrap();
    for i in 0..r.responses.len() {
        let (prompt, response) = (r.prompts.tokens.row(i), r.responses.row(i));
        let tokens = [prompt, response].concat();
        let span = prompt.len() - 1..tokens.len() - 1;
        let row = tetherline_models::Row { tokens: &tokens, lm: span.clone(), scalar: span };
        let out = model.forward(&engine, &[row], 1.0).unwrap().remove(0);
        for (a, b) in
            out.logprobs.iter().zip(r.logprobs.row(i)).chain(out.scalars.iter().zip(r.values.row(i)))
        {
            assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
    }
}
