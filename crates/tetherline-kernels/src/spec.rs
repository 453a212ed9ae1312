//! A decoder described by data: sizes, choices, and offsets into one flat parameter vector.

use crate::rope::Rope;

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
    /// Width: as many numbers are normalised together.
    pub dim: usize,
    /// Offset of the scale (`dim` floats).
    pub weight: usize,
    /// Added to the scale before it multiplies: 1 where a model stores w − 1 (Gemma), else 0.
    pub plus: f32,
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
    /// GELU itself, x·Φ(x) (`gelu`).
    GeluErf,
    /// max(x, 0)
    Relu,
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

/// Causal attention of a block: softmax over cap(scale·q·k) of the keys in the window.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Query projection.
    pub q: LinearSpec,
    /// Key projection.
    pub k: LinearSpec,
    /// Value projection.
    pub v: LinearSpec,
    /// Output projection.
    pub out: LinearSpec,
    /// Norm of the queries before rotation: of each head if it is as wide as a head, else of all of them together.
    pub q_norm: Option<NormSpec>,
    /// Norm of the keys, likewise. Both or none.
    pub k_norm: Option<NormSpec>,
    /// Which of [`DecoderSpec::ropes`] rotates queries and keys.
    pub rope: Option<usize>,
    /// Factor on the scores.
    pub scale: f32,
    /// c·tanh(score / c) takes the place of a score.
    pub soft_cap: Option<f32>,
    /// A position sees this many positions, itself the last of them; all if none.
    pub window: Option<usize>,
}

/// One block. With post-norms absent and `parallel` false:
/// x += attention(norm1(x)); x += mlp(norm2(x)).
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// Norm before attention.
    pub norm1: Option<NormSpec>,
    /// Attention.
    pub attention: AttentionSpec,
    /// Norm of what attention adds to the residual stream.
    pub post1: Option<NormSpec>,
    /// Norm before the feed-forward block.
    pub norm2: Option<NormSpec>,
    /// The feed-forward block.
    pub mlp: MlpSpec,
    /// Norm of what the feed-forward block adds.
    pub post2: Option<NormSpec>,
    /// The feed-forward block reads what attention reads: x += attention(norm1(x)) + mlp(norm2(x)).
    pub parallel: bool,
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
    /// Factor on the embeddings.
    pub embed_scale: f32,
    /// Offset of a learned table of positions (`max_positions × dim`) that is added to the embeddings.
    pub positions: Option<usize>,
    /// Rotary embeddings that blocks choose from.
    pub ropes: Vec<Rope>,
    /// Blocks.
    pub layers: Vec<LayerSpec>,
    /// The norm after the last block.
    pub final_norm: NormSpec,
    /// Projection to the vocabulary (may share the embedding's offset); absent in a pure reward model.
    pub lm_head: Option<LinearSpec>,
    /// c·tanh(logit / c) takes the place of a logit.
    pub logit_cap: Option<f32>,
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
            all.extend([&l.attention.q, &l.attention.k, &l.attention.v, &l.attention.out]);
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
