//! What a decoder will need before anything of it is there: bytes of panels, workspaces, gradient shards and caches,
//! and floating-point operations. Every number follows from a [`DecoderSpec`] and the lengths of the rows.
//!
//! The sizes are those of the buffers that are allocated, which say them where they are declared (`floats`); a test
//! compares with an allocator that counts.

use crate::chunk::{self, Keep};
use crate::decode;
use crate::engine::{chunks_of, most_shards};
use crate::gemm::{HalfGrad, HalfPanels, HalfRows, NR, Panels};
use crate::linear::{Precision, in_place};
use crate::spec::{DecoderSpec, LayerSpec, LinearSpec};

/// Bytes of a float.
pub(crate) const FLOAT: usize = size_of::<f32>();

/// How long a row is, and how much is asked of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSize {
    /// Tokens.
    pub tokens: usize,
    /// Positions whose next token is scored.
    pub lm: usize,
    /// Positions whose scalar is wanted.
    pub scalar: usize,
}

/// The largest chunk that rows are grouped into, each number by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) tokens: usize,
    pub(crate) lm: usize,
    pub(crate) scalar: usize,
    /// Tokens of the longest row.
    pub(crate) longest: usize,
    /// Tokens of all rows, each rounded up to whole panels.
    pub(crate) padded: usize,
}

/// Bytes, of what never changes and of what is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Of frozen parameters, which models share.
    pub frozen: usize,
    /// Of trained parameters.
    pub trained: usize,
}

/// What a training step needs beside the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepSize {
    /// Bytes of the buffers of each thread.
    pub workspace: usize,
    /// Threads that have some.
    pub threads: usize,
    /// Gradients: the sum, and the shards that are not added to it yet.
    pub gradients: usize,
}

/// Floating-point operations of a decoder on some rows; a multiply-add counts as two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Of the blocks, forward.
    pub blocks: f64,
    /// Of the vocabulary head, forward.
    pub head: f64,
    /// Of the way back.
    pub backward: f64,
}

impl Work {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.blocks + self.head + self.backward
    }
}

impl Panels {
    /// Bytes of the panels of a k × n matrix.
    pub(crate) fn bytes(k: usize, n: usize) -> usize {
        n.div_ceil(NR) * k * NR * FLOAT
    }
}

fn linear_bytes(l: &LinearSpec, train: bool, precision: Precision) -> usize {
    let bytes = match precision {
        Precision::F32 => Panels::bytes,
        Precision::Bf16 => HalfPanels::bytes,
    };
    bytes(l.n_in, l.n_out) + if train && !in_place(l, precision) { bytes(l.n_out, l.n_in) } else { 0 }
}

/// Of the largest chunk of units, each a list of rows that stay together.
fn largest(spec: &DecoderSpec, units: &[Vec<RowSize>]) -> (Chunk, usize) {
    let chunks = chunks_of(spec, units.len(), |u| units[u].iter().map(|r| r.tokens).sum());
    let mut most = Chunk::default();
    for chunk in &chunks {
        let mut one = Chunk::default();
        for row in units[chunk.clone()].iter().flatten() {
            one.tokens += row.tokens;
            one.lm += row.lm;
            one.scalar += row.scalar * spec.scores();
            one.padded += row.tokens.next_multiple_of(NR);
            most.longest = most.longest.max(row.tokens);
        }
        most.tokens = most.tokens.max(one.tokens);
        most.lm = most.lm.max(one.lm);
        most.scalar = most.scalar.max(one.scalar);
        most.padded = most.padded.max(one.padded);
    }
    (most, chunks.len())
}

impl DecoderSpec {
    /// Bytes of the packed weights that the kernels read; `train` counts what the backward pass reads too.
    pub fn panel_bytes(&self, train: bool, precision: Precision) -> Split {
        let mut bytes = Split::default();
        for l in self.linears() {
            let of = linear_bytes(l, train, precision);
            if l.weight < self.frozen {
                bytes.frozen += of
            } else {
                bytes.trained += of
            }
            if let Some(a) = l.adapter {
                // scale·Aᵀ and Bᵀ; scale·B and A for the way back.
                bytes.trained += Panels::bytes(l.n_in, a.rank) + Panels::bytes(a.rank, l.n_out);
                if train {
                    bytes.trained += Panels::bytes(l.n_out, a.rank) + Panels::bytes(a.rank, l.n_in);
                }
            }
        }
        bytes
    }

    /// Bytes of the buffers with which each thread takes chunks of `rows` forward, and how many threads have any.
    pub fn forward_bytes(&self, rows: &[RowSize], threads: usize) -> (usize, usize) {
        let units: Vec<Vec<RowSize>> = rows.iter().map(|r| vec![*r]).collect();
        let (chunk, chunks) = largest(self, &units);
        (chunk::forward_bytes(self, &chunk), threads.min(chunks))
    }

    /// What a training step over `units` adds to [`DecoderSpec::forward_bytes`].
    pub fn step_size(&self, units: &[Vec<RowSize>], checkpointing: bool, threads: usize) -> StepSize {
        let (chunk, chunks) = largest(self, units);
        let keep = if checkpointing { Keep::Inputs } else { Keep::Activations };
        let shards = most_shards(self).min(chunks);
        StepSize {
            workspace: chunk::step_bytes(self, &chunk, keep),
            threads: threads.min(shards),
            // The first shard's is the sum; its thread goes on with another.
            gradients: shards.min(threads + 1),
        }
    }

    /// Bytes that each thread rounds operands into for products in bf16 over `units`: on the way forward, and what the
    /// way back adds.
    pub fn rounding_bytes(&self, units: &[Vec<RowSize>]) -> (usize, usize) {
        let (chunk, _) = largest(self, units);
        let head = self.lm_head.as_ref().map(|l| (l, chunk.lm));
        let blocks = self.layers.iter().flat_map(LayerSpec::linears).map(|l| (l, chunk.tokens));
        let (mut there, mut back, mut grad) = (0usize, 0usize, 0usize);
        for (l, rows) in blocks.chain(head) {
            there = there.max(HalfRows::bytes(rows, l.n_in));
            back = back.max(HalfRows::bytes(rows, l.n_out));
            if l.weight >= self.frozen {
                grad = grad.max(HalfGrad::bytes(rows, l.n_in, l.n_out));
            }
        }
        (there, back.saturating_sub(there) + grad)
    }

    /// Bytes of a batch of `rows` that decode together, each of up to `capacity` tokens, of which a prompt has up to
    /// `prompt`: its cache, and its other buffers.
    pub fn decode_bytes(
        &self,
        rows: usize,
        capacity: usize,
        prompt: usize,
        threads: usize,
    ) -> (usize, usize) {
        decode::bytes(self, rows, capacity, prompt, threads)
    }

    /// Weights of a block's linear layers, adapters included.
    fn block_weights(layer: &LayerSpec) -> usize {
        let of = |l: &LinearSpec| l.n_in * l.n_out + l.adapter.map_or(0, |a| a.rank * (l.n_in + l.n_out));
        layer.linears().map(of).sum()
    }

    /// Operations of attention at all positions of a row, forward: two products with every visible key.
    fn attention_work(&self, layer: &LayerSpec, tokens: usize) -> f64 {
        let seen = (1..=tokens).map(|t| t.min(layer.attention.window.unwrap_or(t))).sum::<usize>();
        4.0 * self.att_dim() as f64 * seen as f64
    }

    /// Operations of a forward pass over rows.
    pub fn forward_work(&self, rows: &[RowSize]) -> Work {
        let mut work = Work::default();
        for layer in &self.layers {
            let each = 2.0 * Self::block_weights(layer) as f64;
            work.blocks += rows
                .iter()
                .map(|r| each * r.tokens as f64 + self.attention_work(layer, r.tokens))
                .sum::<f64>();
        }
        if self.lm_head.is_some() {
            let scored: usize = rows.iter().map(|r| r.lm).sum();
            work.head = 2.0 * (self.dim * self.vocab) as f64 * scored as f64;
        }
        work
    }

    /// Operations of a training step over rows, forward and back.
    pub fn step_work(&self, rows: &[RowSize], checkpointing: bool) -> Work {
        let mut work = self.forward_work(rows);
        let tokens: usize = rows.iter().map(|r| r.tokens).sum();
        let first = self.first_trained_layer();
        for layer in self.layers.iter().skip(first) {
            let own = |l: &LinearSpec| {
                let base = if l.weight >= self.frozen { l.n_in * l.n_out } else { 0 };
                // Of an adapter both factors, each with what lies between them computed once more.
                base + l.adapter.map_or(0, |a| 2 * a.rank * (l.n_in + l.n_out))
            };
            let weights = Self::block_weights(layer) + layer.linears().map(own).sum::<usize>();
            let attention: f64 = rows.iter().map(|r| self.attention_work(layer, r.tokens)).sum();
            // Back through attention: the scores again, and the gradients of scores, queries, keys and values.
            work.backward += 2.0 * (weights * tokens) as f64 + 2.5 * attention;
            if checkpointing {
                work.backward += 2.0 * (Self::block_weights(layer) * tokens) as f64 + attention;
            }
        }
        if let Some(head) = &self.lm_head {
            work.backward += work.head * if head.weight >= self.frozen { 2.0 } else { 1.0 };
        }
        work
    }

    /// Operations of decoding `steps` tokens for each of `rows` rows after prompts of `prompt` tokens, the prompt's own
    /// (read once for `samples` rows) included.
    pub fn decode_work(&self, rows: usize, prompt: usize, steps: usize, samples: usize) -> Work {
        let prompts = rows.div_ceil(samples.max(1));
        let read = self
            .forward_work(&vec![RowSize { tokens: prompt.saturating_sub(1), ..RowSize::default() }; prompts]);
        let whole = RowSize { tokens: prompt + steps, ..RowSize::default() };
        let before = RowSize { tokens: prompt, ..RowSize::default() };
        let each = self.forward_work(&[whole]).blocks - self.forward_work(&[before]).blocks;
        Work {
            blocks: read.blocks + each * rows as f64,
            head: 2.0 * (self.dim * self.vocab * steps * rows) as f64,
            backward: 0.0,
        }
    }
}
