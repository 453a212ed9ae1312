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
    /// What is added to it.
    pub adapter: Option<AdapterSpec>,
}

/// y += scale·(x·Aᵀ)·Bᵀ, a low-rank addition to a linear layer (LoRA, Hu et al. 2021, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdapterSpec {
    /// Offset of A (`rank × n_in`).
    pub a: usize,
    /// Offset of B (`n_out × rank`).
    pub b: usize,
    /// Inner dimension.
    pub rank: usize,
    /// Factor.
    pub scale: f32,
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

impl LayerSpec {
    /// The linear layers of the block.
    pub fn linears(&self) -> impl Iterator<Item = &LinearSpec> {
        let (a, mlp) = (
            &self.attention,
            match &self.mlp {
                MlpSpec::Gated { gate, up, down, .. } => [Some(gate), Some(up), Some(down)],
                MlpSpec::Plain { up, down, .. } => [None, Some(up), Some(down)],
            },
        );
        [&a.q, &a.k, &a.v, &a.out].into_iter().chain(mlp.into_iter().flatten())
    }
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
    /// Projection to one number per position, a value or a reward, or to one of each of several heads.
    pub scalar_head: Option<LinearSpec>,
    /// Number of parameters.
    pub n_params: usize,
    /// How many of them, from the first on, are frozen.
    pub frozen: usize,
}

impl DecoderSpec {
    /// Parameters that are trained.
    pub fn n_trained(&self) -> usize {
        self.n_params - self.frozen
    }

    /// Scalars per position: outputs of the scalar head.
    pub fn scores(&self) -> usize {
        self.scalar_head.as_ref().map_or(1, |head| head.n_out)
    }

    /// The first block that has trained parameters, or is above ones.
    pub(crate) fn first_trained_layer(&self) -> usize {
        let trains = |at: usize| at >= self.frozen;
        if trains(self.embed) || self.positions.is_some_and(trains) {
            return 0;
        }
        let layer = |l: &LayerSpec| {
            let norms = [&l.norm1, &l.attention.q_norm, &l.attention.k_norm, &l.post1, &l.norm2, &l.post2];
            norms.into_iter().flatten().any(|n| trains(n.weight))
                || l.linears().any(|l| trains(l.weight) || l.adapter.is_some_and(|a| trains(a.a)))
        };
        self.layers.iter().position(layer).unwrap_or(self.layers.len())
    }

    /// Width of the concatenated queries, keys and values of a position.
    pub(crate) fn qkv_dim(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of the concatenated head outputs.
    pub(crate) fn att_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Every linear layer once, to change.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut LinearSpec> {
        let layers = self.layers.iter_mut().flat_map(|l| {
            let (a, mlp) = (
                &mut l.attention,
                match &mut l.mlp {
                    MlpSpec::Gated { gate, up, down, .. } => [Some(gate), Some(up), Some(down)],
                    MlpSpec::Plain { up, down, .. } => [None, Some(up), Some(down)],
                },
            );
            [&mut a.q, &mut a.k, &mut a.v, &mut a.out].into_iter().chain(mlp.into_iter().flatten())
        });
        layers.chain(&mut self.lm_head).chain(&mut self.scalar_head)
    }

    /// Every linear layer once, in the order of their ids.
    pub fn linears(&self) -> Vec<&LinearSpec> {
        let mut all: Vec<&LinearSpec> = self.layers.iter().flat_map(LayerSpec::linears).collect();
        all.extend(self.lm_head.iter());
        all.extend(self.scalar_head.iter());
        all.sort_by_key(|l| l.id);
        all
    }
}
