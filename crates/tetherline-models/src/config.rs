//! `config.json`, in the spelling of transformers 4 and 5, read into one plain description.

use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Architectures this crate trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3: RMSNorm, rotary positions, gated SiLU block, grouped key/value heads.
    Llama,
    /// GPT-2: LayerNorm, learned positions, GELU block, biases everywhere.
    Gpt2,
}

const KNOWN: &str =
    "LlamaForCausalLM, LlamaForSequenceClassification, GPT2LMHeadModel, GPT2ForSequenceClassification";

impl Architecture {
    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "Llama",
            Self::Gpt2 => "GPT-2",
        }
    }

    fn class(self, sequence_classification: bool) -> &'static str {
        match (self, sequence_classification) {
            (Self::Llama, false) => "LlamaForCausalLM",
            (Self::Llama, true) => "LlamaForSequenceClassification",
            (Self::Gpt2, false) => "GPT2LMHeadModel",
            (Self::Gpt2, true) => "GPT2ForSequenceClassification",
        }
    }
}

/// Scaling of rotary frequencies.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// fᵢ / factor.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// `low_freq_factor`.
        low: f64,
        /// `high_freq_factor`.
        high: f64,
        /// `original_max_position_embeddings`.
        original: f64,
    },
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
    /// Blocks.
    pub layers: usize,
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
    /// ε of the norms.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Output projection shares the embedding.
    pub tied: bool,
    /// Biases in attention (Llama).
    pub attention_bias: bool,
    /// Biases in the feed-forward block (Llama).
    pub mlp_bias: bool,
    /// The directory holds a `…ForSequenceClassification` model.
    pub sequence_classification: bool,
    /// Beginning-of-sequence id.
    pub bos: Option<u32>,
    /// End-of-sequence ids of `config.json`.
    pub eos: Vec<u32>,
    /// Padding id.
    pub pad: Option<u32>,
    raw: Map<String, Value>,
}

/// Typed access with errors that name the file and the field.
struct Fields<'a> {
    path: PathBuf,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn error(&self, field: &str, problem: impl Into<String>) -> ModelError {
        ModelError::ConfigField { path: self.path.clone(), field: field.to_owned(), problem: problem.into() }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    fn size(&self, field: &str) -> Result<usize> {
        let v = self.get(field).ok_or_else(|| self.error(field, "missing; expected a positive integer"))?;
        self.as_size(field, v)
    }

    fn size_or(&self, field: &str, default: usize) -> Result<usize> {
        self.get(field).map_or(Ok(default), |v| self.as_size(field, v))
    }

    fn as_size(&self, field: &str, v: &Value) -> Result<usize> {
        match v.as_u64() {
            // Sizes index memory; anything past this is not a model but a broken file.
            Some(n @ 1..=16_777_216) => Ok(n as usize),
            _ => Err(self.error(field, format!("expected an integer from 1 to 16777216, found {v}"))),
        }
    }

    fn number_or(&self, field: &str, default: f64) -> Result<f64> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => match v.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => Ok(x),
                _ => Err(self.error(field, format!("expected a positive number, found {v}"))),
            },
        }
    }

    fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        self.get(field).map_or(Ok(default), |v| {
            v.as_bool().ok_or_else(|| self.error(field, format!("expected true or false, found {v}")))
        })
    }

    fn must_be(&self, field: &str, allowed: &[&str]) -> Result<()> {
        match self.get(field).and_then(Value::as_str) {
            Some(s) if !allowed.contains(&s) => {
                Err(self.error(field, format!("`{s}` is not supported; supported: {}", allowed.join(", "))))
            }
            _ => Ok(()),
        }
    }
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

impl ModelConfig {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// If it is missing, not JSON, names an unknown architecture, or a field is missing or out of range.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        let path = files.path("config.json");
        let Some(json) = files.json("config.json")? else {
            return Err(ModelError::NotAModel {
                path: files.root(),
                problem: "config.json is missing".into(),
            });
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
        let unknown = |found: &str| ModelError::UnknownArchitecture {
            path: path.clone(),
            found: format!("`{found}`"),
            known: KNOWN,
        };
        let (arch, sequence_classification) = match (class, model_type) {
            (Some("LlamaForCausalLM"), _) => (Architecture::Llama, false),
            (Some("LlamaForSequenceClassification"), _) => (Architecture::Llama, true),
            (Some("GPT2LMHeadModel"), _) => (Architecture::Gpt2, false),
            (Some("GPT2ForSequenceClassification"), _) => (Architecture::Gpt2, true),
            (Some(other), _) => return Err(unknown(other)),
            (None, Some("llama")) => (Architecture::Llama, false),
            (None, Some("gpt2")) => (Architecture::Gpt2, false),
            (None, other) => return Err(unknown(other.unwrap_or("(config.json names none)"))),
        };
        let f = Fields { path: path.clone(), map: &raw };
        let mut config = match arch {
            Architecture::Llama => Self::llama(&f)?,
            Architecture::Gpt2 => Self::gpt2(&f)?,
        };
        if config.heads * config.head_dim > 1 << 20 || config.heads % config.kv_heads != 0 {
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
            if labels != 1 {
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

    fn llama(f: &Fields<'_>) -> Result<Self> {
        let dim = f.size("hidden_size")?;
        let heads = f.size("num_attention_heads")?;
        f.must_be("hidden_act", &["silu", "swish"])?;
        let rope = f.get("rope_parameters").or_else(|| f.get("rope_scaling")).and_then(Value::as_object);
        let empty = Map::new();
        let rope = Fields { path: f.path.clone(), map: rope.unwrap_or(&empty) };
        let kind =
            rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str).unwrap_or("default");
        let rope_scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: rope.number_or("factor", 1.0)? },
            "llama3" => RopeScaling::Llama3 {
                factor: rope.number_or("factor", 8.0)?,
                low: rope.number_or("low_freq_factor", 1.0)?,
                high: rope.number_or("high_freq_factor", 4.0)?,
                original: rope.number_or("original_max_position_embeddings", 8192.0)?,
            },
            other => {
                let problem = format!("`{other}` is not supported; supported: default, linear, llama3");
                return Err(f.error("rope_type", problem));
            }
        };
        let theta = f.number_or("rope_theta", 10_000.0)?;
        let head_dim = f.size_or("head_dim", dim / heads)?;
        if head_dim % 2 != 0 {
            return Err(
                f.error("head_dim", format!("rotary positions need an even head size, found {head_dim}"))
            );
        }
        Ok(Self {
            arch: Architecture::Llama,
            vocab: f.size("vocab_size")?,
            dim,
            layers: f.size("num_hidden_layers")?,
            heads,
            kv_heads: f.size_or("num_key_value_heads", heads)?,
            head_dim,
            ffn: f.size("intermediate_size")?,
            max_positions: f.size_or("max_position_embeddings", 2048)?,
            norm_eps: f.number_or("rms_norm_eps", 1e-6)?,
            rope_theta: rope.number_or("rope_theta", theta)?,
            rope_scaling,
            tied: f.flag_or("tie_word_embeddings", false)?,
            attention_bias: f.flag_or("attention_bias", false)?,
            mlp_bias: f.flag_or("mlp_bias", false)?,
            ..Self::blank(Architecture::Llama)
        })
    }

    fn gpt2(f: &Fields<'_>) -> Result<Self> {
        let dim = f.size("n_embd")?;
        let heads = f.size("n_head")?;
        if dim % heads != 0 {
            return Err(f.error("n_head", format!("{heads} heads do not divide n_embd {dim}")));
        }
        f.must_be("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
        for (field, plain) in [
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("add_cross_attention", false),
        ] {
            if f.flag_or(field, plain)? != plain {
                return Err(f.error(field, format!("{} is not supported", !plain)));
            }
        }
        Ok(Self {
            vocab: f.size("vocab_size")?,
            dim,
            layers: f.size("n_layer")?,
            heads,
            kv_heads: heads,
            head_dim: dim / heads,
            ffn: f.size_or("n_inner", 4 * dim)?,
            max_positions: f.size_or("n_positions", 1024)?,
            norm_eps: f.number_or("layer_norm_epsilon", 1e-5)?,
            tied: f.flag_or("tie_word_embeddings", true)?,
            ..Self::blank(Architecture::Gpt2)
        })
    }

    fn blank(arch: Architecture) -> Self {
        Self {
            arch,
            vocab: 0,
            dim: 0,
            layers: 0,
            heads: 0,
            kv_heads: 0,
            head_dim: 0,
            ffn: 0,
            max_positions: 0,
            norm_eps: 0.0,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            tied: false,
            attention_bias: false,
            mlp_bias: false,
            sequence_classification: false,
            bos: None,
            eos: Vec::new(),
            pad: None,
            raw: Map::new(),
        }
    }

    /// The `config.json` to save: what was read, with class and element type brought up to date.
    pub(crate) fn to_json(&self, sequence_classification: bool, dtype: &str) -> Value {
        let mut raw = self.raw.clone();
        raw.insert("architectures".into(), serde_json::json!([self.arch.class(sequence_classification)]));
        raw.remove("torch_dtype");
        raw.insert("dtype".into(), dtype.into());
        if sequence_classification {
            raw.insert("id2label".into(), serde_json::json!({"0": "LABEL_0"}));
            raw.insert("label2id".into(), serde_json::json!({"LABEL_0": 0}));
            if self.pad.is_none() {
                // transformers finds the last real token by the padding id and refuses batches without one.
                let pad = self.eos.first().copied().unwrap_or(0);
                raw.insert("pad_token_id".into(), pad.into());
            }
        } else {
            raw.remove("id2label");
            raw.remove("label2id");
            raw.remove("num_labels");
        }
        Value::Object(raw)
    }

    /// Rotary frequencies fᵢ = θ^(−2i/d), scaled; f32 as in transformers.
    pub(crate) fn inv_freq(&self) -> Vec<f32> {
        let d = self.head_dim as f32;
        let theta = self.rope_theta as f32;
        (0..self.head_dim / 2)
            .map(|i| {
                let f = 1.0 / theta.powf(2.0 * i as f32 / d);
                match self.rope_scaling {
                    RopeScaling::Default => f,
                    RopeScaling::Linear { factor } => f / factor as f32,
                    RopeScaling::Llama3 { factor, low, high, original } => {
                        let wavelength = f64::from(2.0 * std::f32::consts::PI / f);
                        if wavelength < original / high {
                            f
                        } else if wavelength > original / low {
                            (f64::from(f) / factor) as f32
                        } else {
                            let smooth = (original / wavelength - low) / (high - low);
                            ((1.0 - smooth) * f64::from(f) / factor + smooth * f64::from(f)) as f32
                        }
                    }
                }
            })
            .collect()
    }
}
