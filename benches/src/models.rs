//! The two models of the benchmarks.
//!
//! - **S**: stories260k (260 k parameters) where the oracle has it, else the embedded base policy of the
//!   frontdesk world.
//! - **M**: a Llama with random weights, dim 288, 6 layers, 6 heads, ffn 768, vocabulary 4096, 7.2 M parameters,
//!   with the tokenizer of S.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tetherline::ppo::POLICY_HEADS;
use tetherline::sources::open_model;
use tetherline_models::{Model, ModelConfig, ModelFiles, Tokenizer};

/// Which model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// About a quarter of a million parameters.
    S,
    /// Seven million.
    M,
}

impl Size {
    /// Both.
    pub const ALL: [Self; 2] = [Self::S, Self::M];

    /// `S` or `M`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "S" => Ok(Self::S),
            "M" => Ok(Self::M),
            other => bail!("there is no model {other:?}; there are S and M"),
        }
    }
}

/// Where the oracle is, if there is one.
fn oracle() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle");
    std::env::var_os("TETHER_ORACLE").map_or(default, PathBuf::from)
}

/// The oracle's stories260k, if it is there.
fn stories() -> Option<PathBuf> {
    Some(oracle().join("models/stories260k")).filter(|dir| dir.join("model.safetensors").is_file())
}

/// The file with the prompts of TRL's run to a reward, if S is stories260k and the oracle has it.
pub fn story_openings() -> Option<PathBuf> {
    stories()?;
    Some(oracle().join("peers_ppo_run/prompts.json")).filter(|file| file.is_file())
}

/// The files of S and their name.
fn small() -> Result<(ModelFiles, &'static str)> {
    match stories() {
        Some(dir) => Ok((ModelFiles::dir(dir)?, "stories260k")),
        None => Ok((open_model("frontdesk")?, "frontdesk base policy")),
    }
}

/// The tokenizer of S, which the other models borrow.
///
/// # Errors
/// If its files cannot be used.
pub fn tokenizer() -> Result<Tokenizer> {
    Ok(Tokenizer::load(&small()?.0, &[])?)
}

/// A model as a policy, and its name.
///
/// # Errors
/// If the files of S cannot be used.
pub fn load(size: Size) -> Result<(Model, String)> {
    let (files, name) = small()?;
    match size {
        Size::S => Ok((Model::load(&files, POLICY_HEADS, 0)?, name.to_owned())),
        Size::M => {
            let mut model = llama(288, 6, 6, 768, 4096)?;
            for asset in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
                if let Some(bytes) = files.read(asset)? {
                    model.set_asset(asset, bytes.into_owned());
                }
            }
            let ids = json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0});
            model.set_asset("generation_config.json", ids.to_string().into_bytes());
            Ok((model, "random llama".to_owned()))
        }
    }
}

/// A Llama with random weights and tied embeddings.
///
/// # Errors
/// If the sizes do not make a model.
pub fn llama(dim: usize, layers: usize, heads: usize, ffn: usize, vocab: usize) -> Result<Model> {
    let config: Value = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "intermediate_size": ffn, "vocab_size": vocab,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "use_cache": true,
    });
    let map: Map<String, Value> = config.as_object().cloned().context("not an object")?;
    Ok(Model::random(ModelConfig::from_map(map, "config.json".into())?, POLICY_HEADS, 0))
}

/// Parameters that are part of a matrix product, the vocabulary head included: a training step takes
/// 6 × these × tokens floating-point operations (attention not counted).
pub fn matmul_params(model: &Model) -> usize {
    let (matrices, embedding) = model.slots().iter().fold((0, 0), |(m, e), slot| {
        let n: usize = slot.shape.iter().product();
        let is_matrix = slot.shape.len() == 2;
        let is_embedding = slot.name.ends_with("embed_tokens.weight");
        (m + if is_matrix { n } else { 0 }, e + if is_embedding { n } else { 0 })
    });
    // Tied, the embedding is the head; untied, it is only looked up.
    if model.config().tied { matrices } else { matrices - embedding }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_second_model() {
        let model = llama(288, 6, 6, 768, 4096).unwrap();
        let layer = 4 * 288 * 288 + 3 * 288 * 768;
        assert_eq!(matmul_params(&model), 6 * layer + 4096 * 288);
        assert_eq!(model.n_params(), 6 * (layer + 2 * 288) + 4096 * 288 + 288);
    }
}
