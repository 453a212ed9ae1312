//! An encoder without its weights: what it will hold, how much a pass over texts is, and how fast such a pass is here.
//!
//! ```text
//! weights       4 bytes × parameters, of the header of the weights file
//! activations   of a batch of B rows padded to T tokens, N = B·T, S = B·H·T² (H heads, width D, F of the MLP), f32:
//!               the larger of the MLP's and attention's, by what candle-transformers keeps alive (`alive`)
//! operations    blocks × N × (8·D² + 2·m·D·F + 4·T·D), m = 3 where the MLP is gated, else 2; DeBERTa-v2 also scores each
//!               token against the table of relative positions, 2·P rows: + 4·N·2P·D
//! ```

use super::config::{EncoderConfig, Family};
use super::net::{Encoded, Net};
use super::{Reader, batches, failed};
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::weights;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;

/// A classifier of which configuration, tokenizer and the names of its tensors were read.
#[derive(Clone)]
pub struct EncoderShape {
    config: EncoderConfig,
    reader: Reader,
    parameters: usize,
}

impl std::fmt::Debug for EncoderShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncoderShape({}, {} parameters)", self.reader.path.display(), self.parameters)
    }
}

/// Sizes of a trunk.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) blocks: usize,
    pub(super) heads: usize,
    pub(super) mlp: usize,
    pub(super) gated: bool,
    /// Rows of DeBERTa's table of relative positions, which a token is scored against.
    pub(super) relative: usize,
}

impl EncoderShape {
    /// Reads a directory; of the weights the header alone.
    ///
    /// # Errors
    /// As [`super::Encoder::load`], but for the weights.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        let config = EncoderConfig::load(files)?;
        let reader = Reader::load(files, &config)?;
        let parameters = weights::count(files)?;
        Ok(Self { config, reader, parameters })
    }

    /// Names of the labels, in the order of the logits.
    pub fn labels(&self) -> &[String] {
        &self.config.labels
    }

    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self) -> usize {
        size_of::<f32>() * self.parameters
    }

    /// Longest sequence, tokens.
    pub fn max_tokens(&self) -> usize {
        self.config.max_tokens
    }

    /// Tokens of a text, or of two as a pair, special ones and the cut included.
    ///
    /// # Errors
    /// If the tokenizer refuses it.
    pub fn tokens(&self, text: &str, second: Option<&str>) -> Result<usize> {
        Ok(self.reader.encode(text, second)?.ids.len())
    }

    /// Bytes of what a pass over rows of these lengths holds at its peak, beside the weights.
    pub fn forward_bytes(&self, lengths: &[usize]) -> usize {
        let of = |batch: Vec<usize>| alive(&self.config, batch.len(), lengths[batch[0]]);
        batches(lengths, self.config.one_by_one()).into_iter().map(of).max().unwrap_or(0)
    }

    /// Operations of a pass over rows of these lengths.
    pub fn work(&self, lengths: &[usize]) -> f64 {
        work(&self.config, lengths)
    }

    /// An encoder of the same width with few blocks and zeros for weights, ready to run over rows of this length.
    ///
    /// # Errors
    /// If candle refuses the configuration.
    pub fn probe(&self, length: usize) -> Result<EncoderProbe> {
        let config = self.config.small();
        let length = length.clamp(1, self.config.max_tokens);
        let rows = if config.one_by_one() { 1 } else { (PROBED / length).clamp(1, 16) };
        let row = |i: usize| Encoded {
            ids: (0..length).map(|t| ((i * 31 + t * 17) % config.vocab) as u32).collect(),
            segments: vec![0; length],
        };
        let rows: Vec<Encoded> = (0..rows).map(row).collect();
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let root = ModelFiles::Dir(self.reader.path.clone());
        let net = Net::load(&vb, config).map_err(|e| failed(&root, &e))?;
        Ok(EncoderProbe { net, rows })
    }
}

/// Tokens that a probe runs over.
const PROBED: usize = 512;

/// Something to measure speed on.
pub struct EncoderProbe {
    net: Net,
    rows: Vec<Encoded>,
}

impl EncoderProbe {
    /// One pass.
    ///
    /// # Errors
    /// If an operation fails.
    pub fn run(&self) -> Result<()> {
        let rows: Vec<&Encoded> = self.rows.iter().collect();
        let fail =
            |e| ModelError::Encoder { path: "the small encoder".into(), problem: super::first_line(&e) };
        self.net.forward(&rows).map(drop).map_err(fail)
    }

    /// Its operations.
    pub fn work(&self) -> f64 {
        work(&self.net.config, &self.rows.iter().map(|r| r.ids.len()).collect::<Vec<_>>())
    }
}

fn work(config: &EncoderConfig, lengths: &[usize]) -> f64 {
    let (s, d) = (config.sizes(), config.dim as f64);
    let products = if s.gated { 3.0 } else { 2.0 };
    let token = 8.0 * d * d + 2.0 * products * d * s.mlp as f64 + 4.0 * d * s.relative as f64;
    let of = |batch: Vec<usize>| {
        let width = lengths[batch[0]] as f64;
        batch.len() as f64 * width * (token + 4.0 * width * d)
    };
    s.blocks as f64 * batches(lengths, config.one_by_one()).into_iter().map(of).sum::<f64>()
}

/// Bytes alive at the peak of a block, for `rows` rows of `width` tokens. In candle-transformers a name that is bound again
/// keeps what it was bound to until its function ends: attention holds projections twice, and its scores before and after
/// scaling, masked, and in the softmax. The counts are those of the code but for what is too short-lived to add up; eight rows
/// of 512 tokens at width 384 took 587, 597 and 664 MB of BERT, ModernBERT and DeBERTa-v2, and these give 585, 585 and 686.
fn alive(config: &EncoderConfig, rows: usize, width: usize) -> usize {
    let s = config.sizes();
    let tokens = rows * width;
    let attention = 13 * tokens * config.dim + tokens * s.heads * (5 * width + s.relative);
    let mlp = 4 * tokens * config.dim + if s.gated { 5 } else { 2 } * tokens * s.mlp;
    size_of::<f32>() * attention.max(mlp)
}

impl EncoderConfig {
    pub(super) fn sizes(&self) -> Sizes {
        match &self.family {
            Family::Bert { config: c, .. } => Sizes {
                blocks: c.num_hidden_layers,
                heads: c.num_attention_heads,
                mlp: c.intermediate_size,
                gated: false,
                relative: 0,
            },
            Family::DebertaV2 { config: c, .. } => {
                let positions = match (c.position_buckets, c.max_relative_positions) {
                    (Some(n), _) if n > 0 => n as usize,
                    (_, n) if n > 0 => n as usize,
                    _ => c.max_position_embeddings,
                };
                Sizes {
                    blocks: c.num_hidden_layers,
                    heads: c.num_attention_heads,
                    mlp: c.intermediate_size,
                    gated: false,
                    relative: if c.relative_attention { 2 * positions } else { 0 },
                }
            }
            Family::ModernBert { config: c, .. } => Sizes {
                blocks: c.num_hidden_layers,
                heads: c.num_attention_heads,
                mlp: c.intermediate_size,
                gated: true,
                relative: 0,
            },
        }
    }

    /// The same with a block or two and a small vocabulary.
    fn small(&self) -> Self {
        let (mut small, vocab) = (self.clone(), self.vocab.min(1024));
        small.vocab = vocab;
        match &mut small.family {
            Family::Bert { config: c, .. } => {
                (c.num_hidden_layers, c.vocab_size) = (c.num_hidden_layers.min(2), vocab);
            }
            Family::DebertaV2 { config: c, .. } => {
                (c.num_hidden_layers, c.vocab_size) = (c.num_hidden_layers.min(2), vocab);
            }
            Family::ModernBert { config: c, .. } => {
                (c.num_hidden_layers, c.vocab_size) = (c.num_hidden_layers.min(2), vocab);
            }
        }
        small
    }
}
