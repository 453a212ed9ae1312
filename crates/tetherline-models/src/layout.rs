//! Where each named tensor of an architecture lies in the flat parameter vector, and the decoder that the
//! kernels run over it. The order is fixed: embedding, blocks in order, final norm, heads.

use crate::config::{Architecture, HeadNorms, ModelConfig};
use std::borrow::Cow;
use tetherline_kernels::{
    AttentionSpec, DecoderSpec, LayerSpec, Layout, LinearSpec, MlpSpec, NormKind, NormSpec,
};

/// A named tensor inside the flat parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Hugging Face name.
    pub name: String,
    /// Offset of the first element.
    pub offset: usize,
    /// Shape in the file.
    pub shape: Vec<usize>,
    /// Heads whose queries, keys and values alternate in the file (GPT-NeoX: q of head 0, k of head 0, v of head 0, q
    /// of head 1, …); in the flat parameters all queries come first, then all keys, then all values.
    pub alternating_heads: Option<usize>,
}

impl Slot {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The span in the flat parameters.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len()
    }

    /// From the order of the flat parameters to that of the file.
    pub fn to_file<'v>(&self, values: &'v [f32]) -> Cow<'v, [f32]> {
        let Some(heads) = self.alternating_heads else { return Cow::Borrowed(values) };
        let each = values.len() / (3 * heads);
        let block = |i: usize| &values[(i % 3 * heads + i / 3) * each..][..each];
        Cow::Owned((0..3 * heads).flat_map(block).copied().collect())
    }

    /// From the order of the file to that of the flat parameters, in place.
    pub(crate) fn order(&self, values: &mut [f32]) {
        let Some(heads) = self.alternating_heads else { return };
        let each = values.len() / (3 * heads);
        let file = values.to_vec();
        for (i, block) in file.chunks_exact(each).enumerate() {
            values[(i % 3 * heads + i / 3) * each..][..each].copy_from_slice(block);
        }
    }
}

/// Which heads a model carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Vocabulary head.
    pub lm: bool,
    /// Scalar head `score.weight` (value or reward).
    pub scalar: bool,
}

/// Name of the scalar head's weight, as in `…ForSequenceClassification`.
pub(crate) const SCORE: &str = "score.weight";

/// How a family calls its tensors, without `.weight` and `.bias`; those of a block without its prefix.
struct Names {
    embed: &'static str,
    positions: &'static str,
    block: &'static str,
    norm1: &'static str,
    qkv: Qkv,
    out: &'static str,
    head_norms: [&'static str; 2],
    post1: &'static str,
    norm2: &'static str,
    gate_up: GateUp,
    down: &'static str,
    post2: &'static str,
    final_norm: &'static str,
    lm_head: &'static str,
    layout: Layout,
}

/// The projections to queries, keys and values.
enum Qkv {
    Apart([&'static str; 3]),
    /// One matrix: all queries, all keys, all values.
    Fused(&'static str),
    /// One matrix, alternating by head.
    Alternating(&'static str),
}

/// The projections into the feed-forward block.
enum GateUp {
    Apart([&'static str; 2]),
    /// One matrix: the gate, then up.
    Fused(&'static str),
    Up(&'static str),
}

const LLAMA: Names = Names {
    embed: "model.embed_tokens",
    positions: "",
    block: "model.layers",
    norm1: "input_layernorm",
    qkv: Qkv::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    out: "self_attn.o_proj",
    head_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    post1: "post_attention_layernorm",
    norm2: "post_attention_layernorm",
    gate_up: GateUp::Apart(["mlp.gate_proj", "mlp.up_proj"]),
    down: "mlp.down_proj",
    post2: "post_feedforward_layernorm",
    final_norm: "model.norm",
    lm_head: "lm_head",
    layout: Layout::OutIn,
};

impl Names {
    fn of(arch: Architecture) -> Self {
        match arch {
            Architecture::Llama
            | Architecture::Mistral
            | Architecture::Qwen2
            | Architecture::Qwen3
            | Architecture::SmolLm3
            | Architecture::Olmo2 => LLAMA,
            Architecture::Gemma2 | Architecture::Gemma3 => {
                Self { norm2: "pre_feedforward_layernorm", ..LLAMA }
            }
            Architecture::Phi3 => Self {
                qkv: Qkv::Fused("self_attn.qkv_proj"),
                gate_up: GateUp::Fused("mlp.gate_up_proj"),
                ..LLAMA
            },
            Architecture::Gpt2 => Self {
                embed: "transformer.wte",
                positions: "transformer.wpe",
                block: "transformer.h",
                norm1: "ln_1",
                qkv: Qkv::Fused("attn.c_attn"),
                out: "attn.c_proj",
                norm2: "ln_2",
                gate_up: GateUp::Up("mlp.c_fc"),
                down: "mlp.c_proj",
                final_norm: "transformer.ln_f",
                layout: Layout::InOut,
                ..LLAMA
            },
            Architecture::GptNeoX => Self {
                embed: "gpt_neox.embed_in",
                block: "gpt_neox.layers",
                qkv: Qkv::Alternating("attention.query_key_value"),
                out: "attention.dense",
                gate_up: GateUp::Up("mlp.dense_h_to_4h"),
                down: "mlp.dense_4h_to_h",
                final_norm: "gpt_neox.final_layer_norm",
                lm_head: "embed_out",
                ..LLAMA
            },
        }
    }
}

struct Builder<'c> {
    c: &'c ModelConfig,
    slots: Vec<Slot>,
    at: usize,
    linears: usize,
}

impl Builder<'_> {
    fn tensor(&mut self, name: String, shape: &[usize]) -> usize {
        let offset = self.at;
        self.at += shape.iter().product::<usize>();
        self.slots.push(Slot { name, offset, shape: shape.to_vec(), alternating_heads: None });
        offset
    }

    fn id(&mut self) -> usize {
        self.linears += 1;
        self.linears - 1
    }

    fn linear(&mut self, name: &str, n_in: usize, n_out: usize, layout: Layout, bias: bool) -> LinearSpec {
        let shape = match layout {
            Layout::OutIn => [n_out, n_in],
            Layout::InOut => [n_in, n_out],
        };
        let weight = self.tensor(format!("{name}.weight"), &shape);
        let bias = bias.then(|| self.tensor(format!("{name}.bias"), &[n_out]));
        LinearSpec { id: self.id(), weight, stride: shape[1], bias, n_in, n_out, layout, adapter: None }
    }

    /// Linear layers that are parts of one stored matrix, `widths` outputs each.
    fn fused<const N: usize>(
        &mut self,
        name: &str,
        n_in: usize,
        widths: [usize; N],
        layout: Layout,
        bias: bool,
    ) -> [LinearSpec; N] {
        let whole = self.linear(name, n_in, widths.iter().sum(), layout, bias);
        let mut before = 0;
        std::array::from_fn(|i| {
            let from = before;
            before += widths[i];
            let step = if layout == Layout::OutIn { n_in } else { 1 };
            LinearSpec {
                id: if i == 0 { whole.id } else { self.id() },
                weight: whole.weight + from * step,
                bias: whole.bias.map(|o| o + from),
                n_out: widths[i],
                ..whole.clone()
            }
        })
    }

    fn norm(&mut self, name: &str, dim: usize) -> NormSpec {
        let norms = &self.c.norms;
        let weight = self.tensor(format!("{name}.weight"), &[dim]);
        let bias = (norms.kind == NormKind::Layer).then(|| self.tensor(format!("{name}.bias"), &[dim]));
        let plus = if norms.plus_one { 1.0 } else { 0.0 };
        NormSpec { kind: norms.kind, dim, weight, plus, bias, eps: norms.eps as f32 }
    }

    fn layer(&mut self, names: &Names, i: usize) -> LayerSpec {
        let c = self.c;
        let p = format!("{}.{i}", names.block);
        let at = |name: &str| format!("{p}.{name}");
        let (q_dim, kv_dim) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let norm1 = c.norms.before.then(|| self.norm(&at(names.norm1), c.dim));
        let widths = [q_dim, kv_dim, kv_dim];
        let bias = c.biases.qkv;
        let [q, k, v] = match names.qkv {
            Qkv::Apart(each) => {
                let mut widths = widths.into_iter();
                each.map(|n| {
                    let width = widths.next().unwrap_or(kv_dim);
                    self.linear(&at(n), c.dim, width, names.layout, bias)
                })
            }
            Qkv::Fused(name) => self.fused(&at(name), c.dim, widths, names.layout, bias),
            Qkv::Alternating(name) => {
                let from = self.slots.len();
                let parts = self.fused(&at(name), c.dim, widths, names.layout, bias);
                for slot in &mut self.slots[from..] {
                    slot.alternating_heads = Some(c.heads);
                }
                parts
            }
        };
        let out = self.linear(&at(names.out), q_dim, c.dim, names.layout, c.biases.out);
        let mut head_norm = |name: &str, heads: usize| match c.norms.of_heads {
            HeadNorms::None => None,
            HeadNorms::Each => Some(self.norm(&at(name), c.head_dim)),
            HeadNorms::All => Some(self.norm(&at(name), heads * c.head_dim)),
        };
        let [q_norm, k_norm] =
            [head_norm(names.head_norms[0], c.heads), head_norm(names.head_norms[1], c.kv_heads)];
        let scale = if c.scale_by_layer { c.attention_scale / (i + 1) as f64 } else { c.attention_scale };
        let attention = AttentionSpec {
            q,
            k,
            v,
            out,
            q_norm,
            k_norm,
            rope: c.layers[i].rope,
            scale: scale as f32,
            soft_cap: c.attention_cap.map(|x| x as f32),
            window: c.layers[i].window,
        };
        let post1 = c.norms.after.then(|| self.norm(&at(names.post1), c.dim));
        let norm2 = c.norms.before.then(|| self.norm(&at(names.norm2), c.dim));
        let (layout, bias) = (names.layout, c.biases.mlp);
        let (act, down) = (c.act, at(names.down));
        let mlp = match names.gate_up {
            GateUp::Apart([gate, up]) => {
                let gate = self.linear(&at(gate), c.dim, c.ffn, layout, bias);
                let up = self.linear(&at(up), c.dim, c.ffn, layout, bias);
                MlpSpec::Gated { gate, up, down: self.linear(&down, c.ffn, c.dim, layout, bias), act }
            }
            GateUp::Fused(name) => {
                let [gate, up] = self.fused(&at(name), c.dim, [c.ffn, c.ffn], layout, bias);
                MlpSpec::Gated { gate, up, down: self.linear(&down, c.ffn, c.dim, layout, bias), act }
            }
            GateUp::Up(name) => {
                let up = self.linear(&at(name), c.dim, c.ffn, layout, bias);
                MlpSpec::Plain { up, down: self.linear(&down, c.ffn, c.dim, layout, bias), act }
            }
        };
        let post2 = c.norms.after.then(|| self.norm(&at(names.post2), c.dim));
        LayerSpec { norm1, attention, post1, norm2, mlp, post2, parallel: c.parallel }
    }
}

/// Slots and decoder of a configuration with the given heads.
pub(crate) fn build(c: &ModelConfig, heads: Heads) -> (Vec<Slot>, DecoderSpec) {
    let names = Names::of(c.arch);
    let mut b = Builder { c, slots: Vec::new(), at: 0, linears: 0 };
    let embed = b.tensor(format!("{}.weight", names.embed), &[c.vocab, c.dim]);
    let positions = c
        .learned_positions
        .then(|| b.tensor(format!("{}.weight", names.positions), &[c.max_positions, c.dim]));
    let layers = (0..c.layers.len()).map(|i| b.layer(&names, i)).collect();
    let final_norm = b.norm(names.final_norm, c.dim);
    let lm_head = heads.lm.then(|| {
        if c.tied {
            LinearSpec {
                id: b.id(),
                weight: embed,
                stride: c.dim,
                bias: None,
                n_in: c.dim,
                n_out: c.vocab,
                layout: Layout::OutIn,
                adapter: None,
            }
        } else {
            b.linear(names.lm_head, c.dim, c.vocab, Layout::OutIn, false)
        }
    });
    let scalar_head = heads.scalar.then(|| {
        let name = SCORE.strip_suffix(".weight").unwrap_or(SCORE);
        b.linear(name, c.dim, c.scores, Layout::OutIn, false)
    });
    let spec = DecoderSpec {
        dim: c.dim,
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        vocab: c.vocab,
        max_positions: c.max_positions,
        embed,
        embed_scale: c.embed_scale as f32,
        positions,
        ropes: c.ropes.iter().map(|r| r.tables(c.max_positions)).collect(),
        layers,
        final_norm,
        lm_head,
        logit_cap: c.logit_cap.map(|x| x as f32),
        scalar_head,
        n_params: b.at,
        frozen: 0,
    };
    (b.slots, spec)
}
