//! A language model small enough to be written out: 16 tokens, responses of one or two of them, so that policy, reference,
//! reward and optimum are vectors over 16 or 256 responses.
//!
//! It is a Llama (one block, width 16) with random weights, a tokenizer of its own and a reward of keyword rules, and it is
//! trained by a recipe like any other model. For all that the loop knows it could be a large one.
//!
//! Optimum of J(π) = E_π r − β·KL(π ‖ π_ref): π* = π_ref·e^{r/β}/Z with J* = β·ln Z, and J* − J(π) = β·KL(π ‖ π*) for any π
//! (Korbak et al. 2022, "RL with KL penalties is better viewed as Bayesian inference", section 3).
//! Units: nats per response, score units.

use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tetherline::ppo::POLICY_HEADS;
use tetherline_core::{BoxError, Decode};
use tetherline_models::{Engine, Model, ModelConfig, ModelFiles, SaveType, Tokenizer};
use tetherline_reward::{KeywordConfig, KeywordRule};

/// Tokens: three special ones and 13 letters.
pub(crate) const VOCAB: usize = 16;
const LETTERS: &str = "abcdefghijklm";
/// What every response answers.
const PROMPT: &str = "m";

/// Score of each occurrence. The pairs make a reward of two letters that is no sum over them.
const REWARD: [(&str, f64); 11] = [
    ("a", 0.5),
    ("b", 1.0),
    ("c", -1.0),
    ("d", 2.0),
    ("e", -0.5),
    ("g", 1.5),
    ("k", -1.5),
    ("ab", 2.0),
    ("db", -2.0),
    ("dd", -1.5),
    ("ge", 3.0),
];

/// What the recipe changes for the optimum to be reached, and not only approached.
pub(crate) const SETTINGS: &[(&str, &str)] = &[
    ("ppo.batch_size", "256"),
    ("ppo.samples_per_prompt", "256"),
    ("ppo.epochs", "1"),
    ("ppo.lr", "3e-3"),
    ("ppo.lr_schedule", "linear"),
    ("ppo.lam", "1"),
    ("ppo.whiten_advantages", "false"),
    ("ppo.value_clip_range", "0"),
    ("ppo.vf_coef", "1"),
    ("ppo.max_grad_norm", "0"),
];

/// The model's directory and what of it does not change.
pub(crate) struct World {
    dir: PathBuf,
    engine: Engine,
    tokenizer: Tokenizer,
    rules: Vec<KeywordRule>,
    prompt: Vec<u32>,
    /// Letters of a response: 1 or 2.
    pub(crate) tokens: usize,
    /// π_ref over responses.
    pub(crate) reference: Vec<f64>,
    /// Score of each response.
    pub(crate) reward: Vec<f64>,
}

impl World {
    /// Writes model and prompt into `dir`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub(crate) fn new(dir: &Path, tokens: usize) -> Result<Self, BoxError> {
        std::fs::create_dir_all(dir)?;
        let engine = Engine::new(1);
        let model = dir.join("model");
        write_model(&model, &engine)?;
        std::fs::write(dir.join("prompts.jsonl"), format!("{}\n", json!({"prompt": PROMPT})))?;
        let tokenizer = Tokenizer::load(&ModelFiles::dir(&model)?, &[])?;
        let rule = |(word, weight): &(&str, f64)| {
            let rule = json!({"name": word, "words": [word], "weight": weight});
            Ok::<_, BoxError>(KeywordRule::new(serde_json::from_value::<KeywordConfig>(rule)?))
        };
        let rules = REWARD.iter().map(rule).collect::<Result<_, _>>()?;
        let prompt = tokenizer.encode(PROMPT, true)?;
        let mut world = Self {
            dir: dir.to_owned(),
            engine,
            tokenizer,
            rules,
            prompt,
            tokens,
            reference: Vec::new(),
            reward: Vec::new(),
        };
        world.reference = world.distribution(&model)?;
        world.reward = (0..VOCAB.pow(tokens as u32)).map(|i| world.score(i)).collect();
        Ok(world)
    }

    /// A recipe that trains it with penalty β.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn recipe(&self) -> Result<String, BoxError> {
        let mut text = format!(
            "[model]\npolicy = 'model'\n[data]\nprompts = 'prompts.jsonl'\n[reward]\nmodel_weight = 0.0\n\
             [sampling]\nmax_new_tokens = {}\nignore_eos = true\n[ppo]\nmissing_eos_penalty = 'none'\n\
             [kl.fixed]\ninit = 1.0\n[eval]\nprompts = 0\n[checkpoint]\nevery = 0\n",
            self.tokens
        );
        for (word, weight) in REWARD {
            writeln!(
                text,
                "[[reward.rule]]\nkeyword = {{ name = '{word}', words = ['{word}'], weight = {weight:?} }}"
            )?;
        }
        let path = self.dir.join(format!("recipe-{}.toml", self.tokens));
        std::fs::write(&path, text)?;
        Ok(path.to_str().ok_or("the directory's name is no UTF-8")?.to_owned())
    }

    /// The probability of every response under the model in `dir`: softmax of its logits after the prompt, times that after
    /// the first letter. Response i of two letters is (i / 16, i mod 16).
    ///
    /// # Errors
    /// If the model cannot be loaded.
    pub(crate) fn distribution(&self, dir: &Path) -> Result<Vec<f64>, BoxError> {
        let model = Model::load(&ModelFiles::dir(dir)?, POLICY_HEADS, 0)?;
        let next = |context: &[u32]| -> Result<Vec<f64>, BoxError> {
            let (_, logits) = model.hidden_and_logits(&self.engine, context)?;
            Ok(softmax(&logits[logits.len() - VOCAB..]))
        };
        let first = next(&self.prompt)?;
        if self.tokens == 1 {
            return Ok(first);
        }
        let mut all = Vec::with_capacity(VOCAB * VOCAB);
        for (a, p) in first.iter().enumerate() {
            let then = next(&[self.prompt.as_slice(), &[a as u32]].concat())?;
            all.extend(then.iter().map(|q| p * q));
        }
        Ok(all)
    }

    /// Holds the scores of the samples that a run logged to those of [`World::reward`].
    ///
    /// # Errors
    /// If one differs: then this page's rewards are not those that the run was trained on.
    pub(crate) fn check_samples(&self, run: &Path) -> Result<(), BoxError> {
        for line in std::fs::read_to_string(run.join("samples.jsonl"))?.lines() {
            let row: Value = serde_json::from_str(line)?;
            let text = row["response"].as_str().ok_or("a sample without a response")?;
            let own: f64 = self.rules.iter().map(|rule| rule.score_text(text)).sum();
            let logged = row["score"].as_f64().ok_or("a sample without a score")?;
            if (own - logged).abs() > 1e-5 {
                return Err(format!("{text:?} has the score {logged} in {}, not {own}", run.display()).into());
            }
        }
        Ok(())
    }

    /// The score that the rules give to a response.
    fn score(&self, response: usize) -> f64 {
        let ids: Vec<u32> = match self.tokens {
            1 => vec![response as u32],
            _ => vec![(response / VOCAB) as u32, (response % VOCAB) as u32],
        };
        let text = Decode::decode(&self.tokenizer, &ids);
        self.rules.iter().map(|rule| rule.score_text(&text)).sum()
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f64> = logits.iter().map(|x| f64::from(x - top).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|x| x / sum).collect()
}

/// π* = π_ref·e^{r/β}/Z and J* = β·ln Z.
pub(crate) fn optimum(reference: &[f64], reward: &[f64], beta: f64) -> (Vec<f64>, f64) {
    let top = reward.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let w: Vec<f64> = reference.iter().zip(reward).map(|(p, r)| p * ((r - top) / beta).exp()).collect();
    let z: f64 = w.iter().sum();
    (w.iter().map(|x| x / z).collect(), beta * z.ln() + top)
}

/// KL(p ‖ q), nats.
pub(crate) fn kl(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
}

/// Half the sum of absolute differences.
pub(crate) fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    0.5 * p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum::<f64>()
}

/// Σ p·x.
pub(crate) fn mean(p: &[f64], x: &[f64]) -> f64 {
    p.iter().zip(x).map(|(p, x)| p * x).sum()
}

fn write_model(dir: &Path, engine: &Engine) -> Result<(), BoxError> {
    let config: Map<String, Value> = serde_json::from_value(json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 32, "vocab_size": VOCAB, "max_position_embeddings": 8, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false, "attention_bias": false,
        "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "use_cache": true,
    }))?;
    let mut model = Model::random(ModelConfig::from_map(config, "config.json".into())?, POLICY_HEADS, 0);
    // From a standard deviation of 0.02 to one that makes the reference far from uniform.
    let wide: Vec<_> = model.slots().iter().filter(|s| s.shape.len() == 2).map(|s| s.range()).collect();
    model.update(engine, |all| {
        wide.into_iter().for_each(|range| all[range].iter_mut().for_each(|x| *x *= 12.0))
    });
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    let names = ["<unk>", "<s>", "</s>"];
    let tokens = names.into_iter().map(str::to_owned).chain(LETTERS.chars().map(String::from));
    let vocab: Map<String, Value> = tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(0, names[0]), special(1, names[1]), special(2, names[2])],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    model.set_asset("tokenizer.json", tokenizer.to_string().into_bytes());
    let about = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "pad_token": "<unk>", "clean_up_tokenization_spaces": false});
    model.set_asset("tokenizer_config.json", about.to_string().into_bytes());
    Ok(model.save(dir, SaveType::F32)?)
}
