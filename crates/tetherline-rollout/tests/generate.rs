//! Sampling from the committed tiny models: what is drawn, what is recorded, and what it depends on.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use std::path::Path;
use tetherline_core::seeds::Purpose;
use tetherline_core::{PromptBatch, PromptRef, Rollout, StopReason};
use tetherline_models::{Engine, Heads, Model, ModelFiles, Row, Tokenizer};
use tetherline_rollout::{RolloutError, SamplingConfig, StreamName, generate};

fn load(name: &str) -> (Model, Tokenizer) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name);
    let files = ModelFiles::dir(dir).unwrap();
    let model = Model::load(&files, Heads { lm: true, scalar: false }, 1).unwrap();
    let tokenizer = Tokenizer::load(&files, &model.config().eos).unwrap();
    (model, tokenizer)
}

/// Prompts of one to four tokens, `samples` rows each.
fn prompts(ids: std::ops::Range<u64>, samples: u32) -> PromptBatch {
    let mut out = PromptBatch::default();
    for id in ids {
        let tokens: Vec<u32> = (0..=id as u32 % 4).map(|t| 5 + 7 * t + id as u32).collect();
        for sample in 0..samples {
            let row = PromptRef {
                tokens: &tokens,
                id,
                sample,
                domain: "all",
                user: "",
                text: "",
                messages: &[],
                answer: "",
            };
            out.push(row);
        }
    }
    out
}

fn config(max_new_tokens: usize) -> SamplingConfig {
    SamplingConfig { max_new_tokens, ..SamplingConfig::default() }
}

const NAME: StreamName = StreamName { seed: 3, purpose: Purpose::Sampling, step: 1 };

fn sample(of: &(Model, Tokenizer), prompts: PromptBatch, config: &SamplingConfig, threads: usize) -> Rollout {
    generate(&of.0, &of.1, prompts, config, NAME, &Engine::new(threads), 7).unwrap()
}

#[test]
fn a_response_depends_on_neither_its_neighbours_nor_the_threads() {
    for name in ["tiny-llama", "tiny-gpt2"] {
        let model = load(name);
        let all = sample(&model, prompts(0..40, 1), &config(12), 2);
        assert_eq!(all.policy_version, 7);
        assert_eq!(all, sample(&model, prompts(0..40, 1), &config(12), 1));
        for id in [0, 17, 39] {
            let alone = sample(&model, prompts(id..id + 1, 1), &config(12), 1);
            let i = id as usize;
            assert_eq!(alone.responses.row(0), all.responses.row(i));
            assert_eq!(alone.logprobs.row(0), all.logprobs.row(i));
            assert_eq!(alone.entropy.row(0), all.entropy.row(i));
        }
        let different = (0..40).filter(|&i| all.responses.row(i) != all.responses.row((i + 4) % 40)).count();
        assert!(different > 30, "rows draw from streams of their own");
    }
}

#[test]
fn a_prompt_that_is_shared_is_answered_as_if_it_were_read_each_time() {
    for name in ["tiny-llama", "tiny-gpt2"] {
        let model = load(name);
        let together = sample(&model, prompts(3..12, 5), &config(9), 2);
        for i in 0..together.responses.len() {
            let mut alone = PromptBatch::default();
            alone.push(together.prompts.get(i));
            let alone = sample(&model, alone, &config(9), 1);
            assert_eq!(alone.responses.row(0), together.responses.row(i), "{name}, row {i}");
            assert_eq!(alone.logprobs.row(0), together.logprobs.row(i), "{name}, row {i}");
        }
    }
}

#[test]
fn what_is_recorded_is_what_a_full_pass_at_the_same_temperature_says() {
    let (model, tokenizer) = load("tiny-llama");
    let config = SamplingConfig { temperature: 0.7, top_k: 9, ..config(10) };
    let r = generate(&model, &tokenizer, prompts(0..12, 2), &config, NAME, &Engine::new(2), 0).unwrap();
    assert_eq!(r.temperature, 0.7);
    for i in 0..24 {
        let (p, a) = (r.prompts.tokens.row(i), r.responses.row(i));
        let tokens = [p, a].concat();
        let row = Row { tokens: &tokens, lm: p.len() - 1..tokens.len() - 1, scalar: 0..0 };
        let full = model.forward(&Engine::new(1), &[row], 0.7).unwrap().remove(0);
        assert_eq!(full.logprobs, r.logprobs.row(i), "row {i}: log-probs before top-k, to the bit");
        assert_eq!(full.entropy, r.entropy.row(i));
    }
}

#[test]
fn tokens_come_as_often_as_the_distribution_says() {
    let (model, tokenizer) = load("tiny-llama");
    let n = 6000;
    let r = generate(&model, &tokenizer, prompts(2..3, n), &config(1), NAME, &Engine::new(2), 0).unwrap();
    let prompt = r.prompts.tokens.row(0).to_vec();
    let (_, logits) = model.hidden_and_logits(&Engine::new(1), &prompt).unwrap();
    let vocab = model.config().vocab;
    let last = &logits[logits.len() - vocab..];
    let top = last.iter().copied().fold(f32::MIN, f32::max);
    let weights: Vec<f64> = last.iter().map(|&z| f64::from(z - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut counts = vec![0.0; vocab];
    r.responses.rows().for_each(|row| counts[row[0] as usize] += 1.0);
    // Pearson's χ² over the tokens that are expected at least five times, the rest as one class.
    let (mut chi2, mut classes, mut rest) = (0.0, 0.0f64, (0.0, 0.0));
    for (count, weight) in counts.iter().zip(&weights) {
        let expected = weight / total * f64::from(n);
        if expected < 5.0 {
            rest = (rest.0 + count, rest.1 + expected);
        } else {
            chi2 += (count - expected).powi(2) / expected;
            classes += 1.0;
        }
    }
    chi2 += (rest.0 - rest.1).powi(2) / rest.1.max(1e-9);
    // Mean k and variance 2k: five standard deviations above is one in millions.
    assert!(chi2 < classes + 5.0 * (2.0 * classes).sqrt(), "χ² = {chi2:.0} over {classes} classes");
    assert!(chi2 > classes - 5.0 * (2.0 * classes).sqrt(), "χ² = {chi2:.0}: too regular to be random");
}

#[test]
fn top_k_of_one_is_greedy_and_top_p_keeps_the_likeliest() {
    let model = load("tiny-gpt2");
    let greedy = SamplingConfig { temperature: 0.0, ..config(8) };
    let one = SamplingConfig { top_k: 1, ..config(8) };
    let least = SamplingConfig { top_p: 1e-6, ..config(8) };
    let want = sample(&model, prompts(0..9, 1), &greedy, 2);
    for config in [one, least] {
        assert_eq!(sample(&model, prompts(0..9, 1), &config, 2).responses, want.responses);
    }
}

#[test]
fn a_response_ends_at_eos_unless_told_to_go_on() {
    let (mut model, tokenizer) = load("tiny-llama");
    let eos = tokenizer.eos()[0] as usize;
    // A model that likes to stop: EOS takes the place of the likeliest first token of every prompt.
    let greedy = SamplingConfig { temperature: 0.0, ..config(6) };
    let first = {
        let r = generate(&model, &tokenizer, prompts(1..2, 1), &greedy, NAME, &Engine::new(1), 0).unwrap();
        r.responses.row(0)[0] as usize
    };
    let slot = model.slots().iter().find(|s| s.name.contains("lm_head")).map(|s| s.range());
    let (dim, vocab) = (model.config().dim, model.config().vocab);
    let range = slot.expect("tiny-llama has a head of its own");
    assert_eq!(range.len(), dim * vocab);
    model.update(&Engine::new(1), |p| {
        let head = &mut p[range];
        for k in 0..dim {
            head.swap(first * dim + k, eos * dim + k);
        }
    });
    let run = |config: &SamplingConfig| {
        generate(&model, &tokenizer, prompts(1..2, 1), config, NAME, &Engine::new(1), 0).unwrap()
    };
    let stopped = run(&greedy);
    assert_eq!((stopped.responses.row(0), stopped.stop[0]), (&[eos as u32][..], StopReason::Eos));
    let on = run(&SamplingConfig { ignore_eos: true, ..greedy });
    assert_eq!((on.responses.row_len(0), on.stop[0]), (6, StopReason::Length));
    assert_eq!(on.responses.row(0)[0], eos as u32);
}

#[test]
fn a_stop_string_ends_a_response_with_the_token_that_completes_it() {
    let model = load("tiny-llama");
    let free = sample(&model, prompts(0..8, 1), &config(12), 1);
    let i = (0..8).find(|&i| free.texts[i].chars().count() > 3).unwrap();
    let stop: String = free.texts[i].chars().skip(1).take(2).collect();
    let stopped =
        sample(&model, prompts(0..8, 1), &SamplingConfig { stop: vec![stop.clone()], ..config(12) }, 1);
    assert_eq!(stopped.stop[i], StopReason::StopString);
    assert!(stopped.texts[i].contains(&stop));
    let n = stopped.responses.row_len(i);
    assert_eq!(stopped.responses.row(i), &free.responses.row(i)[..n]);
    let shorter = tetherline_core::Decode::decode(&model.1, &stopped.responses.row(i)[..n - 1]);
    assert!(!shorter.contains(&stop), "it went on after the stop string");
}

#[test]
fn prompts_that_cannot_be_continued_are_refused_by_name() {
    let (model, tokenizer) = load("tiny-llama");
    let error = |tokens: &[u32], new: usize| {
        let mut batch = prompts(0..1, 1);
        batch.push(PromptRef { tokens, id: 41, ..prompts(0..1, 1).get(0) });
        generate(&model, &tokenizer, batch, &config(new), NAME, &Engine::new(1), 0).unwrap_err()
    };
    assert!(matches!(error(&[], 4), RolloutError::EmptyPrompt { id: 41 }));
    let context = model.context();
    assert!(matches!(error(&[5, 6], context - 1), RolloutError::TooLong { id: 41, tokens: 2, .. }));
    let text = error(&[5, 60_000], 4).to_string();
    assert!(text.contains("60000"), "{text}");
}
