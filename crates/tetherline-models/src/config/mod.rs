//! `config.json`, in the spelling of transformers 4 and 5, read into one plain description: a decoder by its parts,
//! whatever the family.

mod families;
mod fields;
mod refuse;
mod rope;

pub use rope::{RopeConfig, RopeScaling};

use crate::error::{ModelError, Result};
use crate::files::{ModelFiles, gguf};
pub(crate) use fields::Fields;
pub(crate) use refuse::is_encoder;
use serde_json::{Map, Value};
use std::path::PathBuf;
use tetherline_kernels::{Activation, NormKind};

/// Architectures this crate trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1 to 3 and what shares its classes (SmolLM 1 and 2, TinyLlama).
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen 3: norms of queries and keys.
    Qwen3,
    /// SmolLM 3: Llama with layers that do not rotate.
    SmolLm3,
    /// OLMo 2: norms after attention and feed-forward block, and of queries and keys.
    Olmo2,
    /// Phi 3: Llama with fused projections.
    Phi3,
    /// Gemma 2: norms before and after, soft caps, every other layer with a window.
    Gemma2,
    /// Gemma 3 (text): Gemma 2 without caps, with norms of queries and keys, and two rotary bases.
    Gemma3,
    /// GPT-2: LayerNorm, learned positions, GELU block, biases everywhere.
    Gpt2,
    /// GPT-NeoX, Pythia: parallel residual, partly rotated heads, one fused projection.
    GptNeoX,
}

const ALL: [Architecture; 11] = [
    Architecture::Llama,
    Architecture::Mistral,
    Architecture::Qwen2,
    Architecture::Qwen3,
    Architecture::SmolLm3,
    Architecture::Olmo2,
    Architecture::Phi3,
    Architecture::Gemma2,
    Architecture::Gemma3,
    Architecture::Gpt2,
    Architecture::GptNeoX,
];

impl Architecture {
    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Mistral => "Mistral",
            Self::Qwen2 => "Qwen2",
            Self::Qwen3 => "Qwen3",
            Self::SmolLm3 => "SmolLM3",
            Self::Olmo2 => "OLMo-2",
            Self::Phi3 => "Phi-3",
            Self::Gemma2 => "Gemma-2",
            Self::Gemma3 => "Gemma-3",
            Self::Gpt2 => "GPT-2",
            Self::GptNeoX => "GPT-NeoX",
        }
    }

    /// `model_type`, and the classes of a language model and of a classifier.
    fn classes(self) -> [&'static str; 3] {
        match self {
            Self::Llama => ["llama", "LlamaForCausalLM", "LlamaForSequenceClassification"],
            Self::Mistral => ["mistral", "MistralForCausalLM", "MistralForSequenceClassification"],
            Self::Qwen2 => ["qwen2", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification"],
            Self::Qwen3 => ["qwen3", "Qwen3ForCausalLM", "Qwen3ForSequenceClassification"],
            Self::SmolLm3 => ["smollm3", "SmolLM3ForCausalLM", "SmolLM3ForSequenceClassification"],
            Self::Olmo2 => ["olmo2", "Olmo2ForCausalLM", "Olmo2ForSequenceClassification"],
            Self::Phi3 => ["phi3", "Phi3ForCausalLM", "Phi3ForSequenceClassification"],
            Self::Gemma2 => ["gemma2", "Gemma2ForCausalLM", "Gemma2ForSequenceClassification"],
            Self::Gemma3 => ["gemma3_text", "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification"],
            Self::Gpt2 => ["gpt2", "GPT2LMHeadModel", "GPT2ForSequenceClassification"],
            Self::GptNeoX => ["gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXForSequenceClassification"],
        }
    }

    fn class(self, sequence_classification: bool) -> &'static str {
        self.classes()[if sequence_classification { 2 } else { 1 }]
    }

    /// From `architectures[0]`, or from `model_type` where that is absent; and whether it is a classifier.
    fn find(class: Option<&str>, model_type: Option<&str>) -> Option<(Self, bool)> {
        let find = |i: usize, name: &str| ALL.into_iter().find(|a| a.classes()[i] == name);
        match (class, model_type) {
            (Some(class), _) => {
                find(1, class).map(|a| (a, false)).or_else(|| find(2, class).map(|a| (a, true)))
            }
            (None, Some(kind)) => find(0, kind).map(|a| (a, false)),
            (None, None) => None,
        }
    }

    /// The classes that load, for messages.
    fn known() -> String {
        let names: Vec<&str> = ALL.iter().map(|a| a.class(false)).collect();
        format!("{}, and their …ForSequenceClassification", names.join(", "))
    }
}

/// The norms of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norms {
    /// Which.
    pub kind: NormKind,
    /// ε.
    pub eps: f64,
    /// What is stored is the scale less one.
    pub plus_one: bool,
    /// Before attention and feed-forward block.
    pub before: bool,
    /// Of what attention and feed-forward block add to the residual stream.
    pub after: bool,
    /// Of queries and keys.
    pub of_heads: HeadNorms,
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorms {
    /// None.
    None,
    /// Of each head by itself.
    Each,
    /// Of all heads together.
    All,
}

/// Which linear layers of a block have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output projection of attention.
    pub out: bool,
    /// The feed-forward block.
    pub mlp: bool,
}

/// What differs from block to block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Which of [`ModelConfig::ropes`] rotates queries and keys.
    pub rope: Option<usize>,
    /// Positions that one sees, itself included; all if none.
    pub window: Option<usize>,
}

/// What the kernels and the loader need to know of a model.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Which family.
    pub arch: Architecture,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward block.
    pub ffn: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// Blocks.
    pub layers: Vec<LayerConfig>,
    /// Norms.
    pub norms: Norms,
    /// Biases.
    pub biases: Biases,
    /// Non-linearity of the feed-forward block.
    pub act: Activation,
    /// The feed-forward block has a gate.
    pub gated: bool,
    /// The feed-forward block reads what attention reads.
    pub parallel: bool,
    /// Rotary embeddings.
    pub ropes: Vec<RopeConfig>,
    /// Positions are a learned table.
    pub learned_positions: bool,
    /// Factor on attention scores.
    pub attention_scale: f64,
    /// … divided by the number of the block, from 1.
    pub scale_by_layer: bool,
    /// Soft cap of attention scores.
    pub attention_cap: Option<f64>,
    /// Soft cap of logits.
    pub logit_cap: Option<f64>,
    /// Factor on embeddings.
    pub embed_scale: f64,
    /// Output projection shares the embedding.
    pub tied: bool,
    /// The directory holds a `…ForSequenceClassification` model.
    pub sequence_classification: bool,
    /// Outputs of the scalar head: several are the heads of an ensemble on one trunk.
    pub scores: usize,
    /// Beginning-of-sequence id.
    pub bos: Option<u32>,
    /// End-of-sequence ids of `config.json`.
    pub eos: Vec<u32>,
    /// Padding id.
    pub pad: Option<u32>,
    raw: Map<String, Value>,
}

/// One id or a list of ids, as `eos_token_id` may be.
pub(crate) fn token_ids(v: Option<&Value>) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match v {
        Some(Value::Array(items)) => items.iter().filter_map(one).collect(),
        Some(v) => one(v).into_iter().collect(),
        None => Vec::new(),
    }
}

/// How a head of an ensemble is called in `id2label`.
fn head_name(i: usize) -> String {
    format!("HEAD_{i}")
}

impl ModelConfig {
    /// Reads `config.json`; of an adapter that of its base, which the adapter may make a classifier.
    ///
    /// # Errors
    /// If it is missing, not JSON, names an unknown architecture, or a field is missing or out of range.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        if let ModelFiles::Adapter { base, .. } = files {
            let mut config = Self::load(base)?;
            config.sequence_classification |= crate::lora::is_classifier(files)?;
            return Ok(config);
        }
        let path = files.path("config.json");
        let Some(json) = files.json("config.json")? else {
            // A directory of GGUF files has none.
            let names = files.names();
            let other = names.iter().find(|n| n.to_lowercase().ends_with(".gguf"));
            let problem = other.map_or_else(|| "config.json is missing".to_owned(), |name| gguf(name));
            return Err(ModelError::NotAModel { path: files.root(), problem });
        };
        let Value::Object(raw) = json else {
            return Err(ModelError::NotAModel { path, problem: "config.json is not a JSON object".into() });
        };
        Self::from_map(raw, path)
    }

    /// From a parsed `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn from_map(raw: Map<String, Value>, path: PathBuf) -> Result<Self> {
        let class = raw.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        let model_type = raw.get("model_type").and_then(Value::as_str);
        let Some((arch, sequence_classification)) = Architecture::find(class, model_type) else {
            let found = refuse::unknown(&raw);
            return Err(ModelError::UnknownArchitecture { path, found, known: Architecture::known() });
        };
        let f = Fields { path: path.clone(), map: &raw };
        refuse::quantised(&f)?;
        let mut config = families::read(arch, &f)?;
        if config.heads.saturating_mul(config.head_dim) > 1 << 20 {
            let problem = format!("{} heads of {} are too wide", config.heads, config.head_dim);
            return Err(f.error("head_dim", problem));
        }
        if config.heads % config.kv_heads != 0 {
            return Err(f.error(
                "num_key_value_heads",
                format!("{} query heads cannot share {} key/value heads", config.heads, config.kv_heads),
            ));
        }
        config.sequence_classification = sequence_classification;
        if sequence_classification {
            let labels = match f.get("num_labels") {
                Some(v) => f.as_size("num_labels", v)?,
                None => f.get("id2label").and_then(Value::as_object).map_or(2, Map::len),
            };
            // Other labels are those of a classifier, whose logits are no scores.
            let heads = (0..labels).map(|i| Some(head_name(i)));
            let named =
                |i: usize| f.object("id2label").ok()??.get(&i.to_string())?.as_str().map(str::to_owned);
            if labels > 1 && labels <= 64 && heads.eq((0..labels).map(named)) {
                config.scores = labels;
            } else if labels != 1 {
                return Err(f.error(
                    "num_labels",
                    format!("a reward model has one label; this classifier has {labels}"),
                ));
            }
        }
        config.bos = token_ids(raw.get("bos_token_id")).first().copied();
        config.eos = token_ids(raw.get("eos_token_id"));
        config.pad = token_ids(raw.get("pad_token_id")).first().copied();
        config.raw = raw;
        Ok(config)
    }

    /// The position whose score is that of a row: the last token. Of a classifier that pads with what rows end with (its
    /// end of sequence, often) transformers takes the last token that is none of these, and so does its training.
    pub fn score_position(&self, tokens: &[u32]) -> usize {
        let pad = self.pad.filter(|_| self.sequence_classification);
        match pad {
            Some(pad) => tokens.iter().rposition(|t| *t != pad).unwrap_or(0),
            None => tokens.len().saturating_sub(1),
        }
    }

    /// The `generation_config.json` of a model that came without one: its special ids.
    pub(crate) fn generation_json(&self) -> Value {
        let mut out = Map::from_iter([("_from_model_config".to_owned(), Value::Bool(true))]);
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(id) = self.raw.get(key).filter(|v| !v.is_null()) {
                out.insert(key.to_owned(), id.clone());
            }
        }
        Value::Object(out)
    }

    /// The `config.json` to save: what was read, with class and element type brought up to date.
    pub(crate) fn to_json(&self, sequence_classification: bool, dtype: &str) -> Value {
        let mut raw = self.raw.clone();
        raw.insert("architectures".into(), serde_json::json!([self.arch.class(sequence_classification)]));
        raw.remove("torch_dtype");
        raw.insert("dtype".into(), dtype.into());
        if sequence_classification {
            let name = |i: usize| if self.scores == 1 { "LABEL_0".to_owned() } else { head_name(i) };
            let labels: Map<_, _> = (0..self.scores).map(|i| (i.to_string(), name(i).into())).collect();
            let ids: Map<_, _> = (0..self.scores).map(|i| (name(i), i.into())).collect();
            raw.insert("id2label".into(), labels.into());
            raw.insert("label2id".into(), ids.into());
            raw.remove("num_labels");
        } else {
            raw.remove("id2label");
            raw.remove("label2id");
            raw.remove("num_labels");
        }
        Value::Object(raw)
    }
}
