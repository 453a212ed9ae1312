//! Makes the shipped base policy: trains the tokenizer on the generated corpus, then a small Llama on the
//! same dialogues by plain likelihood, and writes a Hugging Face directory with bf16 weights. The shipped one
//! took 9000 steps of 32 dialogues (the default): about half an hour on two cores, 0.462 nats per token.
//!
//! ```text
//! cargo run --release -p tetherline-cli --example train_base_policy -- [OUT_DIR] [STEPS]
//! ```
#![expect(clippy::print_stdout, reason = "a program that talks")]

use anyhow::{Context, Result, anyhow};
use std::path::Path;
use tetherline::train::{Example, Trainer, nll};
use tetherline_core::{LrSchedule, Schedule};
use tetherline_frontdesk::{SEED, pretrain_dialogues};
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Engine, Heads, Model, ModelConfig, SaveType};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, PreTokenizer, Trainer as _};

const VOCAB: usize = 1024;
const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}\
{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% endif %}";
const SPECIALS: [&str; 5] = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"];

fn tokenizer() -> Result<tokenizers::Tokenizer> {
    let pre: tokenizers::PreTokenizerWrapper = serde_json::from_value(serde_json::json!({
    "type": "Sequence", "pretokenizers": [
        {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true},
        {"type": "Digits", "individual_digits": true}
    ]}))?;
    let bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let specials = SPECIALS.iter().map(|s| (*s).to_owned()).chain(bytes);
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(VOCAB)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.map(|s| AddedToken::from(s, true)).collect())
        .initial_alphabet((' '..='~').filter(|c| *c != ' ').collect())
        .build()
        .into();
    let texts = pretrain_dialogues(SEED, 20_000).flat_map(|(p, r)| [p, r]);
    trainer
        .feed(texts, |text| {
            let mut split = tokenizers::PreTokenizedString::from(text);
            pre.pre_tokenize(&mut split)?;
            let parts =
                split.get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::Byte);
            Ok(parts.into_iter().map(|(s, _, _)| s.to_owned()).collect())
        })
        .map_err(|e| anyhow!("{e}"))?;
    let mut model = tokenizers::ModelWrapper::BPE(BPE::default());
    trainer.train(&mut model).map_err(|e| anyhow!("{e}"))?;
    let mut t = tokenizers::Tokenizer::new(model);
    t.with_pre_tokenizer(Some(pre));
    let mut json: serde_json::Value = serde_json::from_str(&t.to_string(false).map_err(|e| anyhow!("{e}"))?)?;
    json["model"]["byte_fallback"] = true.into();
    json["model"]["fuse_unk"] = true.into();
    json["decoder"] = serde_json::json!({"type": "Sequence", "decoders": [
        {"type": "ByteFallback"},
        {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true},
        {"type": "Fuse"}]});
    json["added_tokens"] = SPECIALS
        .iter()
        .enumerate()
        .map(|(id, s)| {
            serde_json::json!({"id": id, "content": s, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    tokenizers::Tokenizer::from_bytes(serde_json::to_vec(&json)?).map_err(|e| anyhow!("{e}"))
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let out = args.next().unwrap_or_else(|| "fixtures/frontdesk/base".into());
    let steps: u64 = args.next().map_or(Ok(9000), |s| s.parse()).context("STEPS")?;
    let tokenizer = tokenizer()?;
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false,
        "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "head_dim": 32,
        "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02, "intermediate_size": 352,
        "max_position_embeddings": 256, "mlp_bias": false, "num_attention_heads": 4, "num_hidden_layers": 5,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "use_cache": true, "vocab_size": VOCAB
    });
    let map = config.as_object().cloned().context("config")?;
    let config = ModelConfig::from_map(map, "config.json".into())?;
    let mut model = Model::random(config, Heads { lm: true, scalar: false }, SEED);
    model.set_asset(
        "tokenizer.json",
        format!("{}\n", tokenizer.to_string(true).map_err(|e| anyhow!("{e}"))?).into_bytes(),
    );
    let tokenizer_config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
        "additional_special_tokens": ["<|user|>", "<|assistant|>"], "clean_up_tokenization_spaces": false,
        "model_max_length": 256, "chat_template": TEMPLATE
    });
    model.set_asset("tokenizer_config.json", format!("{tokenizer_config:#}\n").into_bytes());
    let generation = serde_json::json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0});
    model.set_asset("generation_config.json", format!("{generation:#}\n").into_bytes());

    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let engine = Engine::new(threads);
    let adam = AdamWConfig { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.01 };
    println!("{} parameters, {threads} threads", model.n_params());
    let mut trainer = Trainer::new(model, adam);
    let schedule = Schedule { peak: 3e-3, warmup: 100, total: steps, decay: LrSchedule::Cosine };
    let batch = 32;
    let mut dialogues = pretrain_dialogues(SEED + 1, steps as usize * batch);
    let start = std::time::Instant::now();
    let (mut sum, mut seen, mut tokens) = (0.0, 0u32, 0usize);
    for step in 0..steps {
        let mut examples = Vec::with_capacity(batch);
        for (prompt, response) in dialogues.by_ref().take(batch) {
            let text = format!("<s><|user|>{prompt}<|assistant|>{response}</s>");
            let ids = tokenizer.encode_fast(text, false).map_err(|e| anyhow!("{e}"))?.get_ids().to_vec();
            let tokens = ids[..ids.len().min(256)].to_vec();
            examples.push(Example { tokens, prompt_len: 1 });
        }
        tokens += examples.iter().map(|e| e.tokens.len()).sum::<usize>();
        let refs: Vec<&Example> = examples.iter().collect();
        sum += nll(&mut trainer, &engine, &refs).map_err(|e| anyhow!("{e}"))?;
        trainer.step(&engine, schedule.at(step), Some(1.0))?;
        seen += 1;
        if (step + 1) % 100 == 0 || step + 1 == steps {
            let s = start.elapsed().as_secs_f64();
            println!(
                "step {:>6}/{steps}  loss {:.4} nats per token  {:.0} tokens/s  {s:.0} s",
                step + 1,
                sum / f64::from(seen),
                tokens as f64 / s
            );
            (sum, seen) = (0.0, 0);
            trainer.model.save(Path::new(&out), SaveType::Bf16)?;
        }
    }
    Ok(())
}
