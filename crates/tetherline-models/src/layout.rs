//! Where each named tensor of an architecture lies in the flat parameter vector, and the decoder that the
//! kernels run over it. The order is fixed: embedding, blocks in order, final norm, heads.

use crate::config::{Architecture, ModelConfig};
use tetherline_kernels::rope::RopeTable;
use tetherline_kernels::{
    Activation, DecoderSpec, LayerSpec, Layout, LinearSpec, MlpSpec, NormKind, NormSpec, Positions,
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

#[derive(Default)]
struct Builder {
    slots: Vec<Slot>,
    at: usize,
    linears: usize,
}

impl Builder {
    fn tensor(&mut self, name: String, shape: &[usize]) -> usize {
        let offset = self.at;
        self.at += shape.iter().product::<usize>();
        self.slots.push(Slot { name, offset, shape: shape.to_vec() });
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
        LinearSpec { id: self.id(), weight, stride: shape[1], bias, n_in, n_out, layout }
    }

    fn norm(&mut self, name: &str, c: &ModelConfig) -> NormSpec {
        let weight = self.tensor(format!("{name}.weight"), &[c.dim]);
        let (kind, bias) = match c.arch {
            Architecture::Llama => (NormKind::Rms, None),
            Architecture::Gpt2 => (NormKind::Layer, Some(self.tensor(format!("{name}.bias"), &[c.dim]))),
        };
        NormSpec { kind, weight, bias, eps: c.norm_eps as f32 }
    }
}

/// Slots and decoder of a configuration with the given heads.
pub(crate) fn build(c: &ModelConfig, heads: Heads) -> (Vec<Slot>, DecoderSpec) {
    let mut b = Builder::default();
    let (embed_name, norm_name) = match c.arch {
        Architecture::Llama => ("model.embed_tokens.weight", "model.norm"),
        Architecture::Gpt2 => ("transformer.wte.weight", "transformer.ln_f"),
    };
    let embed = b.tensor(embed_name.into(), &[c.vocab, c.dim]);
    let positions = match c.arch {
        Architecture::Llama => Positions::Rope(RopeTable::new(c.inv_freq(), 1.0, c.max_positions)),
        Architecture::Gpt2 => {
            Positions::Learned(b.tensor("transformer.wpe.weight".into(), &[c.max_positions, c.dim]))
        }
    };
    let layers = (0..c.layers)
        .map(|i| match c.arch {
            Architecture::Llama => llama_layer(&mut b, c, &format!("model.layers.{i}")),
            Architecture::Gpt2 => gpt2_layer(&mut b, c, &format!("transformer.h.{i}")),
        })
        .collect();
    let final_norm = b.norm(norm_name, c);
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
            }
        } else {
            b.linear("lm_head", c.dim, c.vocab, Layout::OutIn, false)
        }
    });
    let scalar_head = heads.scalar.then(|| {
        let name = SCORE.strip_suffix(".weight").unwrap_or(SCORE);
        b.linear(name, c.dim, 1, Layout::OutIn, false)
    });
    let spec = DecoderSpec {
        dim: c.dim,
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        vocab: c.vocab,
        max_positions: c.max_positions,
        embed,
        positions,
        layers,
        final_norm,
        lm_head,
        scalar_head,
        n_params: b.at,
    };
    (b.slots, spec)
}

fn llama_layer(b: &mut Builder, c: &ModelConfig, p: &str) -> LayerSpec {
    let (q_dim, kv_dim, bias) = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.attention_bias);
    LayerSpec {
        norm1: b.norm(&format!("{p}.input_layernorm"), c),
        q: b.linear(&format!("{p}.self_attn.q_proj"), c.dim, q_dim, Layout::OutIn, bias),
        k: b.linear(&format!("{p}.self_attn.k_proj"), c.dim, kv_dim, Layout::OutIn, bias),
        v: b.linear(&format!("{p}.self_attn.v_proj"), c.dim, kv_dim, Layout::OutIn, bias),
        out: b.linear(&format!("{p}.self_attn.o_proj"), q_dim, c.dim, Layout::OutIn, bias),
        norm2: b.norm(&format!("{p}.post_attention_layernorm"), c),
        mlp: MlpSpec::Gated {
            gate: b.linear(&format!("{p}.mlp.gate_proj"), c.dim, c.ffn, Layout::OutIn, c.mlp_bias),
            up: b.linear(&format!("{p}.mlp.up_proj"), c.dim, c.ffn, Layout::OutIn, c.mlp_bias),
            down: b.linear(&format!("{p}.mlp.down_proj"), c.ffn, c.dim, Layout::OutIn, c.mlp_bias),
            act: Activation::Silu,
        },
    }
}

fn gpt2_layer(b: &mut Builder, c: &ModelConfig, p: &str) -> LayerSpec {
    let norm1 = b.norm(&format!("{p}.ln_1"), c);
    // Queries, keys and values are columns of one stored matrix.
    let fused = b.linear(&format!("{p}.attn.c_attn"), c.dim, 3 * c.dim, Layout::InOut, true);
    let mut part = |i: usize| LinearSpec {
        id: if i == 0 { fused.id } else { b.id() },
        weight: fused.weight + i * c.dim,
        bias: fused.bias.map(|o| o + i * c.dim),
        n_out: c.dim,
        ..fused.clone()
    };
    let (q, k, v) = (part(0), part(1), part(2));
    LayerSpec {
        norm1,
        q,
        k,
        v,
        out: b.linear(&format!("{p}.attn.c_proj"), c.dim, c.dim, Layout::InOut, true),
        norm2: b.norm(&format!("{p}.ln_2"), c),
        mlp: MlpSpec::Plain {
            up: b.linear(&format!("{p}.mlp.c_fc"), c.dim, c.ffn, Layout::InOut, true),
            down: b.linear(&format!("{p}.mlp.c_proj"), c.ffn, c.dim, Layout::InOut, true),
            act: Activation::GeluTanh,
        },
    }
}
