//! `config.json` of an encoder with a sequence-classification head, in the spelling of transformers 4 and 5.

use super::head::{HeadAct, HeadNames};
use crate::config::Fields;
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use candle_transformers::models::{bert, debertav2, modernbert};
use serde_json::{Map, Value};

/// The classes that load. XLM-RoBERTa and CamemBERT are RoBERTa with another vocabulary.
const CLASSES: [(&str, Kind); 7] = [
    ("BertForSequenceClassification", Kind::Bert),
    ("DistilBertForSequenceClassification", Kind::DistilBert),
    ("RobertaForSequenceClassification", Kind::Roberta),
    ("XLMRobertaForSequenceClassification", Kind::Roberta),
    ("CamembertForSequenceClassification", Kind::Roberta),
    ("DebertaV2ForSequenceClassification", Kind::DebertaV2),
    ("ModernBertForSequenceClassification", Kind::ModernBert),
];

#[derive(Clone, Copy)]
enum Kind {
    Bert,
    DistilBert,
    Roberta,
    DebertaV2,
    ModernBert,
}

/// What a trunk is made of.
#[derive(Clone)]
pub(super) enum Family {
    /// BERT, DistilBERT, RoBERTa.
    Bert {
        config: bert::Config,
        /// Of the trunk's tensors.
        prefix: &'static str,
        distilled: bool,
        /// Row of the table of positions that the first token has.
        first_position: usize,
        head: HeadNames,
    },
    DebertaV2 {
        config: Box<debertav2::Config>,
        head: HeadNames,
    },
    ModernBert {
        config: modernbert::Config,
        head: HeadNames,
        /// Of the head's first layer.
        bias: bool,
        /// Mean over the tokens in place of the first.
        mean: bool,
    },
}

/// An encoder and its head.
#[derive(Clone)]
pub(super) struct EncoderConfig {
    pub(super) family: Family,
    pub(super) vocab: usize,
    pub(super) dim: usize,
    /// Of norms.
    pub(super) eps: f64,
    pub(super) pad: u32,
    /// The trunk tells the two texts of a pair apart.
    pub(super) segments: bool,
    pub(super) max_tokens: usize,
    pub(super) labels: Vec<String>,
    pub(super) multi_label: bool,
    pub(super) head_act: HeadAct,
}

impl EncoderConfig {
    /// Whether rows cannot share a batch: candle does not broadcast the table of positions over one.
    pub(super) fn one_by_one(&self) -> bool {
        matches!(&self.family, Family::DebertaV2 { config, .. } if config.position_biased_input)
    }

    pub(super) fn load(files: &ModelFiles) -> Result<Self> {
        let path = files.path("config.json");
        let not = |problem: &str| ModelError::NotAModel { path: files.root(), problem: problem.to_owned() };
        let json = files.json("config.json")?.ok_or_else(|| not("config.json is missing"))?;
        let raw = json.as_object().ok_or_else(|| not("config.json is not a JSON object"))?;
        let f = Fields { path: path.clone(), map: raw };
        let class = raw.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or("none");
        let Some((_, kind)) = CLASSES.iter().find(|(name, _)| *name == class) else {
            let known = CLASSES.map(|(name, _)| name).join(", ");
            return Err(ModelError::UnknownArchitecture {
                path,
                found: format!("`{class}` is no encoder with a head for scores"),
                known,
            });
        };
        let labels = labels(&f)?;
        let multi_label = match f.get("problem_type").and_then(Value::as_str) {
            None | Some("single_label_classification" | "regression") => false,
            Some("multi_label_classification") => true,
            Some(other) => return Err(f.error("problem_type", format!("`{other}` is not known"))),
        };
        let mut config = match kind {
            Kind::Bert | Kind::DistilBert | Kind::Roberta => bert_like(&f, *kind)?,
            Kind::DebertaV2 => deberta(&f)?,
            Kind::ModernBert => modern(&f)?,
        };
        // transformers writes 10³⁰ where there is no limit.
        let tokenizer = files.json("tokenizer_config.json")?.unwrap_or_default();
        if let Some(most) = tokenizer.get("model_max_length").and_then(Value::as_u64).filter(|n| *n > 0) {
            config.max_tokens = config.max_tokens.min(usize::try_from(most).unwrap_or(usize::MAX));
        }
        (config.labels, config.multi_label) = (labels, multi_label);
        Ok(config)
    }
}

/// `id2label` in order; else as many as `num_labels` says, or two.
fn labels(f: &Fields<'_>) -> Result<Vec<String>> {
    let Some(map) = f.object("id2label")?.filter(|m| !m.is_empty()) else {
        let n = f.size_or("num_labels", 2)?;
        return Ok((0..n).map(|i| format!("LABEL_{i}")).collect());
    };
    let at = |i: usize| map.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned);
    let named: Option<Vec<String>> = (0..map.len()).map(at).collect();
    named.ok_or_else(|| f.error("id2label", "expected a name for each of \"0\", \"1\", …"))
}

fn unknown_act(f: &Fields<'_>, field: &str, found: &str) -> ModelError {
    f.error(field, format!("`{found}` is not known; expected gelu, gelu_new or relu"))
}

fn act<'a>(f: &'a Fields<'_>, field: &str) -> &'a str {
    f.get(field).and_then(Value::as_str).unwrap_or("gelu")
}

fn head_act(f: &Fields<'_>, field: &str) -> Result<HeadAct> {
    match act(f, field) {
        "gelu" => Ok(HeadAct::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(HeadAct::GeluTanh),
        "relu" => Ok(HeadAct::Relu),
        "tanh" => Ok(HeadAct::Tanh),
        other => Err(unknown_act(f, field, other)),
    }
}

fn pad(f: &Fields<'_>, default: u32) -> u32 {
    f.get("pad_token_id").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
}

fn bert_like(f: &Fields<'_>, kind: Kind) -> Result<EncoderConfig> {
    let distilled = matches!(kind, Kind::DistilBert);
    let key = |theirs: &'static str, distil: &'static str| if distilled { distil } else { theirs };
    if let Some(other) = f.get("position_embedding_type").and_then(Value::as_str).filter(|t| *t != "absolute")
    {
        return Err(
            f.error("position_embedding_type", format!("`{other}` is not supported; expected absolute"))
        );
    }
    let act_key = key("hidden_act", "activation");
    let hidden_act = match act(f, act_key) {
        "gelu" => bert::HiddenAct::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => bert::HiddenAct::GeluApproximate,
        "relu" => bert::HiddenAct::Relu,
        other => return Err(unknown_act(f, act_key, other)),
    };
    let (first_position, pad) = match kind {
        Kind::Roberta => (pad(f, 1) as usize + 1, pad(f, 1)),
        _ => (0, pad(f, 0)),
    };
    let positions = f.size("max_position_embeddings")?;
    let Some(max_tokens) = positions.checked_sub(first_position).filter(|n| *n > 0) else {
        return Err(
            f.error("max_position_embeddings", format!("{positions} leave no position behind padding"))
        );
    };
    let eps = if distilled { 1e-12 } else { f.number_or("layer_norm_eps", 1e-12)? };
    let dim = f.size(key("hidden_size", "dim"))?;
    let vocab = f.size("vocab_size")?;
    let segments = if distilled { 1 } else { f.size_or("type_vocab_size", 2)? };
    let config = bert::Config {
        vocab_size: vocab,
        hidden_size: dim,
        num_hidden_layers: f.size(key("num_hidden_layers", "n_layers"))?,
        num_attention_heads: f.size(key("num_attention_heads", "n_heads"))?,
        intermediate_size: f.size(key("intermediate_size", "hidden_dim"))?,
        hidden_act,
        max_position_embeddings: max_tokens,
        type_vocab_size: segments,
        layer_norm_eps: eps,
        model_type: None,
        ..bert::Config::default()
    };
    let (prefix, head, head_act) = match kind {
        Kind::DistilBert => ("distilbert.", ["pre_classifier", "classifier"], HeadAct::Relu),
        Kind::Roberta => ("roberta.", ["classifier.dense", "classifier.out_proj"], HeadAct::Tanh),
        _ => ("bert.", ["pooler.dense", "classifier"], HeadAct::Tanh),
    };
    let head = HeadNames { dense: head[0], norm: None, out: head[1] };
    Ok(EncoderConfig {
        family: Family::Bert { config, prefix, distilled, first_position, head },
        vocab,
        dim,
        eps,
        pad,
        segments: segments > 1,
        max_tokens,
        labels: Vec::new(),
        multi_label: false,
        head_act,
    })
}

fn deberta(f: &Fields<'_>) -> Result<EncoderConfig> {
    if f.get("conv_kernel_size").and_then(Value::as_u64).is_some_and(|n| n > 0) {
        return Err(f.error(
            "conv_kernel_size",
            "a convolution behind the first block is not supported (DeBERTa-v2 XL)",
        ));
    }
    let dim = f.size("hidden_size")?;
    let same = |field: &str| match f.size_or(field, dim)? {
        n if n == dim => Ok(()),
        n => Err(f.error(field, format!("{n} differs from hidden_size = {dim}, which is not supported"))),
    };
    same("embedding_size")?;
    same("pooler_hidden_size")?;
    let hidden_act = match act(f, "hidden_act") {
        "gelu" => debertav2::HiddenAct::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => debertav2::HiddenAct::GeluApproximate,
        "relu" => debertav2::HiddenAct::Relu,
        other => return Err(unknown_act(f, "hidden_act", other)),
    };
    let kinds: Vec<String> = match f.get("pos_att_type") {
        None => Vec::new(),
        Some(Value::String(text)) => text.split('|').map(|s| s.trim().to_lowercase()).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(|v| v.as_str()).map(str::to_lowercase).collect(),
        Some(v) => return Err(f.error("pos_att_type", format!("expected a list, found {v}"))),
    };
    let signed = |field: &str| f.get(field).and_then(Value::as_i64).and_then(|n| isize::try_from(n).ok());
    let vocab = f.size("vocab_size")?;
    let max_tokens = f.size("max_position_embeddings")?;
    let eps = f.number_or("layer_norm_eps", 1e-7)?;
    let segments = f.get("type_vocab_size").and_then(Value::as_u64).unwrap_or(0) as usize;
    let config = Box::new(debertav2::Config {
        vocab_size: vocab,
        hidden_size: dim,
        num_hidden_layers: f.size("num_hidden_layers")?,
        num_attention_heads: f.size("num_attention_heads")?,
        intermediate_size: f.size("intermediate_size")?,
        hidden_act,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        max_position_embeddings: max_tokens,
        type_vocab_size: segments,
        initializer_range: 0.02,
        layer_norm_eps: eps,
        relative_attention: f.flag_or("relative_attention", false)?,
        max_relative_positions: signed("max_relative_positions").unwrap_or(-1),
        pad_token_id: Some(pad(f, 0) as usize),
        position_biased_input: f.flag_or("position_biased_input", true)?,
        pos_att_type: kinds,
        position_buckets: signed("position_buckets"),
        share_att_key: Some(f.flag_or("share_att_key", false)?),
        attention_head_size: None,
        embedding_size: None,
        norm_rel_ebd: f.get("norm_rel_ebd").and_then(Value::as_str).map(str::to_lowercase),
        conv_kernel_size: None,
        conv_groups: None,
        conv_act: None,
        id2label: None,
        label2id: None,
        pooler_dropout: None,
        pooler_hidden_act: None,
        pooler_hidden_size: None,
        cls_dropout: None,
    });
    let head = HeadNames { dense: "pooler.dense", norm: None, out: "classifier" };
    Ok(EncoderConfig {
        family: Family::DebertaV2 { config, head },
        vocab,
        dim,
        eps,
        pad: pad(f, 0),
        segments: segments > 1,
        max_tokens,
        labels: Vec::new(),
        multi_label: false,
        head_act: head_act(f, "pooler_hidden_act")?,
    })
}

fn modern(f: &Fields<'_>) -> Result<EncoderConfig> {
    for field in ["attention_bias", "mlp_bias", "norm_bias"] {
        f.unset(field, "candle's ModernBERT has no such weights")?;
    }
    match act(f, "hidden_activation") {
        "gelu" => {}
        other => {
            return Err(f.error("hidden_activation", format!("`{other}` is not supported; expected gelu")));
        }
    }
    let layers = f.size("num_hidden_layers")?;
    let every = every(f, layers)?;
    let dim = f.size("hidden_size")?;
    let vocab = f.size("vocab_size")?;
    let max_tokens = f.size("max_position_embeddings")?;
    let eps = f.number_or("norm_eps", f.number_or("layer_norm_eps", 1e-5)?)?;
    let theta = |of: &str, old: &str, default: f64| -> Result<f64> {
        let new = f.object("rope_parameters")?.and_then(|r| r.get(of)).and_then(Value::as_object);
        let Some(new) = new else { return f.number_or(old, default) };
        let kind = new.get("rope_type").and_then(Value::as_str).unwrap_or("default");
        if kind != "default" {
            return Err(f.error("rope_parameters", format!("`{kind}` is not supported; expected default")));
        }
        rope_theta(f, new, default)
    };
    let config = modernbert::Config {
        vocab_size: vocab,
        hidden_size: dim,
        num_hidden_layers: layers,
        num_attention_heads: f.size("num_attention_heads")?,
        intermediate_size: f.size("intermediate_size")?,
        max_position_embeddings: max_tokens,
        layer_norm_eps: eps,
        pad_token_id: pad(f, 0),
        global_attn_every_n_layers: every,
        global_rope_theta: theta("full_attention", "global_rope_theta", 160_000.0)?,
        local_attention: f.size_or("local_attention", 128)?,
        local_rope_theta: theta("sliding_attention", "local_rope_theta", 10_000.0)?,
        classifier_config: None,
    };
    let mean = match f.get("classifier_pooling").and_then(Value::as_str) {
        None | Some("cls") => false,
        Some("mean") => true,
        Some(other) => return Err(f.error("classifier_pooling", format!("`{other}`: expected cls or mean"))),
    };
    let head = HeadNames { dense: "head.dense", norm: Some("head.norm"), out: "classifier" };
    let bias = f.flag_or("classifier_bias", false)?;
    Ok(EncoderConfig {
        family: Family::ModernBert { config, head, bias, mean },
        vocab,
        dim,
        eps,
        pad: pad(f, 0),
        segments: false,
        max_tokens,
        labels: Vec::new(),
        multi_label: false,
        head_act: head_act(f, "classifier_activation")?,
    })
}

fn rope_theta(f: &Fields<'_>, rope: &Map<String, Value>, default: f64) -> Result<f64> {
    match rope.get("rope_theta").map(Value::as_f64) {
        None => Ok(default),
        Some(Some(x)) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err(f.error("rope_parameters", "rope_theta: expected a positive number")),
    }
}

/// How often a block sees everything: every so many, the first included.
fn every(f: &Fields<'_>, layers: usize) -> Result<usize> {
    let Some(types) = f.get("layer_types").and_then(Value::as_array) else {
        return f.size_or("global_attn_every_n_layers", 3);
    };
    let full: Vec<bool> = types.iter().map(|t| t.as_str() == Some("full_attention")).collect();
    let step = full.iter().skip(1).position(|x| *x).map_or(layers.max(1), |i| i + 1);
    let regular = full.len() == layers && full.iter().enumerate().all(|(i, x)| *x == (i % step == 0));
    let problem = "blocks that see everything have to be the first and every so many after it";
    if regular { Ok(step) } else { Err(f.error("layer_types", problem)) }
}
