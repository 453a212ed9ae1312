//! What stands on the trunk: a pooled state h (B, D) → logits (B, labels).
//!
//! ```text
//! BERT          h = first token          W₂·tanh(W₁·h + b₁) + b₂
//! DistilBERT    h = first token          W₂·relu(W₁·h + b₁) + b₂
//! RoBERTa       h = first token          W₂·tanh(W₁·h + b₁) + b₂
//! DeBERTa-v2    h = first token          W₂·act(W₁·h + b₁) + b₂           act: pooler_hidden_act
//! ModernBERT    h = first token or mean  W₂·LN(act(W₁·h [+ b₁])) + b₂     act: classifier_activation
//! ```
//!
//! Source: modeling_*.py of transformers 5.23. Dropout is none: nothing is trained.

use super::config::{EncoderConfig, Family};
use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{LayerNorm, Linear, VarBuilder};

/// A head.
pub(super) struct Head {
    dense: Linear,
    act: HeadAct,
    norm: Option<LayerNorm>,
    out: Linear,
    /// Over the tokens of a row; else its first token.
    mean: bool,
}

/// The function between its layers.
#[derive(Clone, Copy)]
pub(super) enum HeadAct {
    /// x·Φ(x).
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    Relu,
    Tanh,
}

impl HeadAct {
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
            Self::Relu => x.relu(),
            Self::Tanh => x.tanh(),
        }
    }
}

/// What the layers of a head are called.
#[derive(Clone)]
pub(super) struct HeadNames {
    pub(super) dense: &'static str,
    pub(super) norm: Option<&'static str>,
    pub(super) out: &'static str,
}

impl Head {
    pub(super) fn load(vb: &VarBuilder<'_>, config: &EncoderConfig) -> Result<Self> {
        let (dim, labels) = (config.dim, config.labels.len());
        let (names, bias, mean) = match &config.family {
            Family::Bert { head, .. } => (head, true, false),
            Family::DebertaV2 { head, .. } => (head, true, false),
            Family::ModernBert { head, bias, mean, .. } => (head, *bias, *mean),
        };
        let norm = names.norm.map(|name| candle_nn::layer_norm_no_bias(dim, config.eps, vb.pp(name)));
        Ok(Self {
            dense: candle_nn::linear_b(dim, dim, bias, vb.pp(names.dense))?,
            act: config.head_act,
            norm: norm.transpose()?,
            out: candle_nn::linear(dim, labels, vb.pp(names.out))?,
            mean,
        })
    }

    /// `hidden` (B, T, D) and `mask` (B, T), 1 where there is a token.
    pub(super) fn forward(&self, hidden: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let pooled = if self.mean {
            let mask = mask.to_dtype(DType::F32)?;
            let sum = hidden.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?;
            sum.broadcast_div(&mask.sum_keepdim(1)?)?
        } else {
            hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?
        };
        let mut x = self.act.forward(&self.dense.forward(&pooled)?)?;
        if let Some(norm) = &self.norm {
            x = norm.forward(&x)?;
        }
        self.out.forward(&x)
    }
}
