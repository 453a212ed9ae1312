//! A decoder described by data: sizes, choices, and offsets into one flat parameter vector.

use crate::rope::RopeTable;

/// How a weight matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `(n_out, n_in)`, as `torch.nn.Linear`.
    OutIn,
    /// `(n_in, n_out)`, as GPT-2's `Conv1D`.
    InOut,
}

/// y = x·W (+ b), with W somewhere in the flat parameters.
#[derive(Clone, Debug)]
pub struct LinearSpec {
    /// Index into [`crate::PackedWeights`]: 0, 1, 2, … over the whole decoder.
    pub id: usize,
    /// Offset of the first weight.
    pub weight: usize,
    /// Floats from one row of the stored matrix to the next (larger than a row for a slice of a fused one).
    pub stride: usize,
    /// Offset of the bias.
    pub bias: Option<usize>,
    /// Inputs.
    pub n_in: usize,
    /// Outputs.
    pub n_out: usize,
    /// Order of the stored matrix.
    pub layout: Layout,
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// x / √(mean x² + ε) · w
    Rms,
    /// (x − mean) / √(var + ε) · w + b
    Layer,
}

/// A normalisation layer.
#[derive(Clone, Debug)]
pub struct NormSpec {
    /// Which.
    pub kind: NormKind,
    /// Offset of the scale (`dim` floats).
    pub weight: usize,
    /// Offset of the shift (`dim` floats).
    pub bias: Option<usize>,
    /// ε.
    pub eps: f32,
}

/// The non-linearity of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·σ(x)
    Silu,
    /// The tanh approximation of GELU (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
}

/// The feed-forward block.
#[derive(Clone, Debug)]
pub enum MlpSpec {
    /// down(act(gate(x)) ⊙ up(x))
    Gated {
        /// Gate projection.
        gate: LinearSpec,
        /// Up projection.
        up: LinearSpec,
        /// Down projection.
        down: LinearSpec,
        /// Non-linearity of the gate.
        act: Activation,
    },
    /// down(act(up(x)))
    Plain {
        /// Up projection.
        up: LinearSpec,
        /// Down projection.
        down: LinearSpec,
        /// Non-linearity.
        act: Activation,
    },
}

impl MlpSpec {
    /// Width of the hidden layer.
    pub fn hidden(&self) -> usize {
        match self {
            MlpSpec::Gated { up, .. } | MlpSpec::Plain { up, .. } => up.n_out,
        }
    }
}

/// One pre-norm block: x += out(attention(norm1(x))); x += mlp(norm2(x)).
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// Norm before attention.
    pub norm1: NormSpec,
    /// Query projection.
    pub q: LinearSpec,
    /// Key projection.
    pub k: LinearSpec,
    /// Value projection.
    pub v: LinearSpec,
    /// Output projection of attention.
    pub out: LinearSpec,
    /// Norm before the feed-forward block.
    pub norm2: NormSpec,
    /// The feed-forward block.
    pub mlp: MlpSpec,
}

/// How positions enter.
#[derive(Clone, Debug)]
pub enum Positions {
    /// Rotary embedding of queries and keys.
    Rope(RopeTable),
    /// A learned table (`max_positions × dim`) added to the embeddings, at this offset.
    Learned(usize),
}

/// A whole decoder.
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    /// Width of the residual stream.
    pub dim: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// Offset of the token embedding (`vocab × dim`).
    pub embed: usize,
    /// Positions.
    pub positions: Positions,
    /// Blocks.
    pub layers: Vec<LayerSpec>,
    /// The norm after the last block.
    pub final_norm: NormSpec,
    /// Projection to the vocabulary (may share the embedding's offset); absent in a pure reward model.
    pub lm_head: Option<LinearSpec>,
    /// Projection to one number per position: a value or reward head.
    pub scalar_head: Option<LinearSpec>,
    /// Number of parameters.
    pub n_params: usize,
}

impl DecoderSpec {
    /// Width of the concatenated queries, keys and values of a position.
    pub(crate) fn qkv_dim(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of the concatenated head outputs.
    pub(crate) fn att_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Every linear layer once, in the order of their ids.
    pub fn linears(&self) -> Vec<&LinearSpec> {
        let mut all = Vec::new();
        for l in &self.layers {
            all.extend([&l.q, &l.k, &l.v, &l.out]);
            match &l.mlp {
                MlpSpec::Gated { gate, up, down, .. } => all.extend([gate, up, down]),
                MlpSpec::Plain { up, down, .. } => all.extend([up, down]),
            }
        }
        all.extend(self.lm_head.iter());
        all.extend(self.scalar_head.iter());
        all.sort_by_key(|l| l.id);
        all
    }
}
