//! One function a family: its keys, its defaults where `config.json` is silent, and what makes it different.

use super::fields::Fields;
use super::rope::{self, RopeConfig, RopeFacts};
use super::{Architecture, Biases, HeadNorms, LayerConfig, ModelConfig, Norms};
use crate::error::Result;
use serde_json::{Map, Value};
use tetherline_kernels::{Activation, NormKind};

/// Blocks that a model may have; more is a broken file.
const MOST_LAYERS: usize = 1000;

pub(super) fn read(arch: Architecture, f: &Fields<'_>) -> Result<ModelConfig> {
    match arch {
        Architecture::Llama => llama(f),
        Architecture::Mistral => mistral(f),
        Architecture::Qwen2 => qwen2(f),
        Architecture::Qwen3 => qwen3(f),
        Architecture::SmolLm3 => smollm3(f),
        Architecture::Olmo2 => olmo2(f),
        Architecture::Phi3 => phi3(f),
        Architecture::Gemma2 => gemma2(f),
        Architecture::Gemma3 => gemma3(f),
        Architecture::Gpt2 => gpt2(f),
        Architecture::GptNeoX => gpt_neox(f),
    }
}

/// What the families after Llama say where `config.json` does not.
struct Defaults {
    arch: Architecture,
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    max_positions: usize,
    eps: f64,
    tied: bool,
    activation: (&'static str, &'static str),
    theta: f64,
}

const LLAMA: Defaults = Defaults {
    arch: Architecture::Llama,
    kv_heads: None,
    head_dim: None,
    max_positions: 2048,
    eps: 1e-6,
    tied: false,
    activation: ("hidden_act", "silu"),
    theta: 10_000.0,
};

/// A decoder as Llama has it: pre-norms, one rotary embedding, a gated block, no biases.
fn like_llama(f: &Fields<'_>, d: &Defaults) -> Result<ModelConfig> {
    let dim = f.size("hidden_size")?;
    let heads = f.size("num_attention_heads")?;
    let head_dim = match d.head_dim {
        Some(n) => f.size_or("head_dim", n)?,
        None => f.size_or("head_dim", (dim / heads).max(1))?,
    };
    let max_positions = f.size_or("max_position_embeddings", d.max_positions)?;
    let phi3 = d.arch == Architecture::Phi3;
    let partial = phi3.then_some(f.number_or("partial_rotary_factor", 1.0)?);
    let facts = RopeFacts {
        theta: f.number_or("rope_theta", d.theta)?,
        head_dim,
        partial,
        max_positions,
        long_only: phi3,
        original: match f.get("original_max_position_embeddings") {
            Some(v) => Some(f.as_size("original_max_position_embeddings", v)?),
            None => phi3.then_some(4096),
        },
    };
    let ropes = if d.arch == Architecture::Gemma3 {
        gemma3_ropes(f, &facts)?
    } else {
        vec![RopeConfig::read(f, rope::described(f)?, &facts)?]
    };
    Ok(ModelConfig {
        vocab: f.size("vocab_size")?,
        dim,
        heads,
        kv_heads: f.size_or_null("num_key_value_heads", d.kv_heads.map(|n| n.min(heads)))?.unwrap_or(heads),
        head_dim,
        ffn: f.size("intermediate_size")?,
        max_positions,
        layers: vec![LayerConfig { rope: Some(0), window: None }; layers(f, "num_hidden_layers")?],
        act: activation(f, d.activation.0, d.activation.1)?,
        gated: true,
        ropes,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        tied: f.flag_or("tie_word_embeddings", d.tied)?,
        ..plain(d.arch, Norms { kind: NormKind::Rms, eps: f.number_or("rms_norm_eps", d.eps)?, ..NORMS })
    })
}

const NORMS: Norms = Norms {
    kind: NormKind::Rms,
    eps: 0.0,
    plus_one: false,
    before: true,
    after: false,
    of_heads: HeadNorms::None,
};

/// What no family has of itself; sizes are still to be filled in.
fn plain(arch: Architecture, norms: Norms) -> ModelConfig {
    ModelConfig {
        arch,
        vocab: 0,
        dim: 0,
        heads: 0,
        kv_heads: 0,
        head_dim: 0,
        ffn: 0,
        max_positions: 0,
        layers: Vec::new(),
        norms,
        biases: Biases::default(),
        act: Activation::Silu,
        gated: false,
        parallel: false,
        ropes: Vec::new(),
        learned_positions: false,
        attention_scale: 1.0,
        scale_by_layer: false,
        attention_cap: None,
        logit_cap: None,
        embed_scale: 1.0,
        tied: false,
        sequence_classification: false,
        scores: 1,
        bos: None,
        eos: Vec::new(),
        pad: None,
        raw: Map::new(),
    }
}

fn layers(f: &Fields<'_>, field: &str) -> Result<usize> {
    let n = f.size(field)?;
    if n > MOST_LAYERS {
        return Err(f.error(field, format!("{n} blocks are more than {MOST_LAYERS}")));
    }
    Ok(n)
}

fn activation(f: &Fields<'_>, field: &str, default: &str) -> Result<Activation> {
    let name = f.get(field).map_or(Some(default), Value::as_str);
    Ok(match name {
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu" | "gelu_python") => Activation::GeluErf,
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        _ => {
            let found = f.get(field).map(Value::to_string).unwrap_or_default();
            let known = "silu, swish, gelu, gelu_python, gelu_new, gelu_pytorch_tanh, gelu_fast, relu";
            return Err(f.error(field, format!("{found} is not supported; supported: {known}")));
        }
    })
}

/// A list with an item for each block.
fn of_length<'v>(f: &Fields<'_>, field: &str, v: &'v Value, n: usize, what: &str) -> Result<&'v [Value]> {
    match v.as_array() {
        Some(list) if list.len() == n => Ok(list),
        Some(list) => {
            let found = list.len();
            Err(f.error(field, format!("expected a list of {n} {what}, one a block, found one of {found}")))
        }
        None => Err(f.error(field, format!("expected a list of {n} {what}, found {v}"))),
    }
}

/// Which blocks have a sliding window: the list `layer_types`, or else what the family says of block i.
fn sliding(f: &Fields<'_>, n: usize, family: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
    let field = "layer_types";
    let Some(list) = f.get(field) else { return Ok((0..n).map(family).collect()) };
    let list = of_length(f, field, list, n, "names")?;
    list.iter()
        .map(|v| match v.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => {
                let known = "sliding_attention, full_attention";
                Err(f.error(field, format!("{v} is not supported; supported: {known}")))
            }
        })
        .collect()
}

/// Gives the blocks that slide their window.
fn set_windows(c: &mut ModelConfig, sliding: &[bool], window: Option<usize>) {
    for (layer, &slides) in c.layers.iter_mut().zip(sliding) {
        layer.window = window.filter(|_| slides);
    }
}

fn attention_bias(f: &Fields<'_>, c: &mut ModelConfig) -> Result<()> {
    let bias = f.flag_or("attention_bias", false)?;
    (c.biases.qkv, c.biases.out) = (bias, bias);
    Ok(())
}

fn llama(f: &Fields<'_>) -> Result<ModelConfig> {
    let mut c = like_llama(f, &LLAMA)?;
    attention_bias(f, &mut c)?;
    c.biases.mlp = f.flag_or("mlp_bias", false)?;
    Ok(c)
}

fn mistral(f: &Fields<'_>) -> Result<ModelConfig> {
    let mut c = like_llama(
        f,
        &Defaults { arch: Architecture::Mistral, kv_heads: Some(8), max_positions: 131_072, ..LLAMA },
    )?;
    let window = f.size_or_null("sliding_window", Some(4096))?;
    // With `layer_types` transformers takes it for a Ministral.
    let sliding = sliding(f, c.layers.len(), |_| true)?;
    set_windows(&mut c, &sliding, window);
    Ok(c)
}

/// The window of Qwen 2 and 3 and SmolLM 3, which a flag turns on.
fn flagged_window(f: &Fields<'_>, absent: Option<usize>) -> Result<Option<usize>> {
    Ok(if f.flag_or("use_sliding_window", false)? { f.size_or_null("sliding_window", absent)? } else { None })
}

fn qwen_windows(f: &Fields<'_>, c: &mut ModelConfig) -> Result<()> {
    let window = flagged_window(f, Some(4096))?;
    let full = match f.get("max_window_layers") {
        Some(v) if v.as_u64() == Some(0) => 0,
        _ => f.size_or("max_window_layers", 28)?,
    };
    let sliding = sliding(f, c.layers.len(), |i| window.is_some() && i >= full)?;
    set_windows(c, &sliding, window);
    Ok(())
}

fn qwen2(f: &Fields<'_>) -> Result<ModelConfig> {
    let mut c = like_llama(
        f,
        &Defaults { arch: Architecture::Qwen2, kv_heads: Some(32), max_positions: 32_768, ..LLAMA },
    )?;
    c.biases.qkv = true;
    qwen_windows(f, &mut c)?;
    Ok(c)
}

fn qwen3(f: &Fields<'_>) -> Result<ModelConfig> {
    let mut c = like_llama(
        f,
        &Defaults {
            arch: Architecture::Qwen3,
            kv_heads: Some(32),
            head_dim: Some(128),
            max_positions: 32_768,
            ..LLAMA
        },
    )?;
    attention_bias(f, &mut c)?;
    c.norms.of_heads = HeadNorms::Each;
    qwen_windows(f, &mut c)?;
    Ok(c)
}

fn smollm3(f: &Fields<'_>) -> Result<ModelConfig> {
    let mut c = like_llama(
        f,
        &Defaults {
            arch: Architecture::SmolLm3,
            kv_heads: Some(4),
            max_positions: 32_768,
            tied: true,
            theta: 2_000_000.0,
            ..LLAMA
        },
    )?;
    attention_bias(f, &mut c)?;
    c.biases.mlp = f.flag_or("mlp_bias", false)?;
    let n = c.layers.len();
    let turns: Vec<bool> = match f.get("no_rope_layers") {
        // 1 says that a layer does rotate.
        Some(v) => {
            let list = of_length(f, "no_rope_layers", v, n, "flags")?;
            let flag = |v: &Value| match (v.as_bool(), v.as_u64()) {
                (Some(turns), _) => Ok(turns),
                (_, Some(n @ 0..=1)) => Ok(n == 1),
                _ => Err(f.error("no_rope_layers", format!("expected 0 or 1, found {v}"))),
            };
            list.iter().map(flag).collect::<Result<_>>()?
        }
        None => {
            let interval = f.size_or("no_rope_layer_interval", 4)?;
            (0..n).map(|i| (i + 1) % interval != 0).collect()
        }
    };
    // The flag says what `layer_types` is where it is absent, and nothing where it is given.
    let window = match f.get("layer_types") {
        Some(_) => f.size_or_null("sliding_window", None)?,
        None => flagged_window(f, None)?,
    };
    let sliding = sliding(f, n, |i| window.is_some() && !turns[i])?;
    set_windows(&mut c, &sliding, window);
    for (layer, turns) in c.layers.iter_mut().zip(turns) {
        layer.rope = turns.then_some(0);
    }
    Ok(c)
}

fn olmo2(f: &Fields<'_>) -> Result<ModelConfig> {
    let mut c = like_llama(f, &Defaults { arch: Architecture::Olmo2, eps: 1e-5, ..LLAMA })?;
    attention_bias(f, &mut c)?;
    (c.norms.before, c.norms.after) = (false, true);
    c.norms.of_heads = HeadNorms::All;
    Ok(c)
}

fn phi3(f: &Fields<'_>) -> Result<ModelConfig> {
    let mut c =
        like_llama(f, &Defaults { arch: Architecture::Phi3, max_positions: 4096, eps: 1e-5, ..LLAMA })?;
    let window = f.size_or_null("sliding_window", None)?;
    c.layers.iter_mut().for_each(|l| l.window = window);
    Ok(c)
}

const GEMMA: Defaults = Defaults {
    arch: Architecture::Gemma2,
    kv_heads: Some(4),
    head_dim: Some(256),
    max_positions: 8192,
    tied: true,
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
    ..LLAMA
};

fn like_gemma(f: &Fields<'_>, d: &Defaults) -> Result<ModelConfig> {
    let why = "its tokens see those after them, as in an embedding model, which cannot generate; take a causal model";
    f.unset("use_bidirectional_attention", why)?;
    let mut c = like_llama(f, d)?;
    attention_bias(f, &mut c)?;
    (c.norms.after, c.norms.plus_one) = (true, true);
    c.attention_scale = 1.0 / f.number_or("query_pre_attn_scalar", 256.0)?.sqrt();
    c.embed_scale = (c.dim as f64).sqrt();
    Ok(c)
}

fn gemma2(f: &Fields<'_>) -> Result<ModelConfig> {
    let mut c = like_gemma(f, &GEMMA)?;
    c.attention_cap = f.number_or_null("attn_logit_softcapping", Some(50.0))?;
    c.logit_cap = f.number_or_null("final_logit_softcapping", Some(30.0))?;
    let sliding = sliding(f, c.layers.len(), |i| i % 2 == 0)?;
    set_windows(&mut c, &sliding, Some(f.size_or("sliding_window", 4096)?));
    Ok(c)
}

fn gemma3(f: &Fields<'_>) -> Result<ModelConfig> {
    let d = Defaults { arch: Architecture::Gemma3, max_positions: 131_072, theta: 1_000_000.0, ..GEMMA };
    let mut c = like_gemma(f, &d)?;
    // transformers stores `attn_logit_softcapping` and does not use it.
    c.logit_cap = f.number_or_null("final_logit_softcapping", None)?;
    c.norms.of_heads = HeadNorms::Each;
    let every = f.size_or("sliding_window_pattern", 6)?;
    let sliding = sliding(f, c.layers.len(), |i| (i + 1) % every != 0)?;
    set_windows(&mut c, &sliding, Some(f.size_or("sliding_window", 4096)?));
    for (layer, slides) in c.layers.iter_mut().zip(sliding) {
        layer.rope = Some(usize::from(slides));
    }
    Ok(c)
}

/// The rotary embedding of global layers, then that of local ones.
fn gemma3_ropes(f: &Fields<'_>, global: &RopeFacts) -> Result<Vec<RopeConfig>> {
    let local = RopeFacts { theta: f.number_or("rope_local_base_freq", 10_000.0)?, ..*global };
    let old = f.object("rope_scaling")?.filter(|o| !o.is_empty());
    let new = f.object("rope_parameters")?;
    let of = |kind: &str| new.and_then(|o| o.get(kind)).and_then(Value::as_object);
    Ok(vec![
        RopeConfig::read(f, old.or_else(|| of("full_attention")), global)?,
        RopeConfig::read(f, of("sliding_attention"), &local)?,
    ])
}

/// What GPT-2 and GPT-NeoX share: LayerNorm, a plain block, biases.
fn like_gpt(f: &Fields<'_>, arch: Architecture, keys: &GptKeys) -> Result<ModelConfig> {
    let dim = f.size(keys.dim)?;
    let heads = f.size(keys.heads)?;
    if dim % heads != 0 {
        return Err(f.error(keys.heads, format!("{heads} heads do not divide {} {dim}", keys.dim)));
    }
    let head_dim = dim / heads;
    Ok(ModelConfig {
        vocab: f.size("vocab_size")?,
        dim,
        heads,
        kv_heads: heads,
        head_dim,
        ffn: f.size_or(keys.ffn, 4 * dim)?,
        max_positions: f.size_or(keys.positions.0, keys.positions.1)?,
        layers: vec![LayerConfig { rope: None, window: None }; layers(f, keys.layers)?],
        biases: Biases { qkv: true, out: true, mlp: true },
        act: activation(f, keys.activation.0, keys.activation.1)?,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        tied: f.flag_or("tie_word_embeddings", keys.tied)?,
        ..plain(arch, Norms { kind: NormKind::Layer, eps: f.number_or(keys.eps, 1e-5)?, ..NORMS })
    })
}

struct GptKeys {
    dim: &'static str,
    heads: &'static str,
    layers: &'static str,
    ffn: &'static str,
    positions: (&'static str, usize),
    eps: &'static str,
    activation: (&'static str, &'static str),
    tied: bool,
}

fn gpt2(f: &Fields<'_>) -> Result<ModelConfig> {
    f.unset("add_cross_attention", "there is no encoder to attend to; take a decoder alone")?;
    let keys = GptKeys {
        dim: "n_embd",
        heads: "n_head",
        layers: "n_layer",
        ffn: "n_inner",
        positions: ("n_positions", 1024),
        eps: "layer_norm_epsilon",
        activation: ("activation_function", "gelu_new"),
        tied: true,
    };
    let mut c = like_gpt(f, Architecture::Gpt2, &keys)?;
    c.learned_positions = true;
    c.scale_by_layer = f.flag_or("scale_attn_by_inverse_layer_idx", false)?;
    if !f.flag_or("scale_attn_weights", true)? {
        c.attention_scale = 1.0;
    }
    Ok(c)
}

fn gpt_neox(f: &Fields<'_>) -> Result<ModelConfig> {
    let keys = GptKeys {
        dim: "hidden_size",
        heads: "num_attention_heads",
        layers: "num_hidden_layers",
        ffn: "intermediate_size",
        positions: ("max_position_embeddings", 2048),
        eps: "layer_norm_eps",
        activation: ("hidden_act", "gelu"),
        tied: false,
    };
    let mut c = like_gpt(f, Architecture::GptNeoX, &keys)?;
    let facts = RopeFacts {
        theta: f.number_or("rotary_emb_base", 10_000.0)?,
        head_dim: c.head_dim,
        partial: Some(f.number_or("rotary_pct", 0.25)?),
        max_positions: c.max_positions,
        long_only: false,
        original: None,
    };
    c.ropes = vec![RopeConfig::read(f, rope::described(f)?, &facts)?];
    c.layers.iter_mut().for_each(|l| l.rope = Some(0));
    c.parallel = f.flag_or("use_parallel_residual", true)?;
    let bias = f.flag_or("attention_bias", true)?;
    (c.biases.qkv, c.biases.out) = (bias, bias);
    Ok(c)
}
