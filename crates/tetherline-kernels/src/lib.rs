//! CPU kernels for a trainable decoder: forward, backward and cached decoding over ragged rows.
//!
//! The shape of the work matters more than any one kernel. Whole sequences are grouped into small
//! chunks; a thread takes a chunk through all layers forward, asks the caller's loss for the gradient of
//! each token's outputs, and takes it back through all layers while it is still in cache. Matrix products
//! are single-threaded, workspaces are reused, and there is no padding anywhere.
//!
//! **Bits.** Every output element of a matrix product is one chain of fused multiply-adds in the order of
//! the inner dimension, whatever the tile, the batch or the number of rows. Gradients are summed over a
//! number of shards that depends on the batch only. So the same binary on the same CPU gives the same
//! bits for any number of threads, and a cached decode step gives the same logits as a full forward pass.
//!
//! This crate knows nothing of files, configurations or losses: a decoder is described by a
//! [`DecoderSpec`] (offsets into one flat parameter vector), and a loss is a [`UnitLoss`].

#[macro_use]
mod simd;
mod allocator;
mod attention;
#[doc(hidden)]
pub mod bench;
mod block;
mod cap;
mod chunk;
mod decode;
mod engine;
mod floats;
mod gemm;
mod head;
mod linear;
mod mlp;
mod norm;
mod optimizer;
mod params;
pub mod rope;
mod size;
mod softmax;
mod spec;
mod sum;
mod team;
mod threads;

pub use allocator::give_back_freed_blocks;
pub use chunk::Net;
pub use decode::{DecodeBatch, DecodeOutput};
pub use engine::{Engine, PairRow, Row, RowGrad, RowOutput, RowResult, UnitLoss};
pub use floats::Floats;
pub use linear::{PackedWeights, Precision};
pub use optimizer::{AdamWStep, adamw, sum_of_squares};
pub use params::Params;
pub use size::{RowSize, Split, StepSize, Work};
pub use softmax::{draw, log_softmax_in_place};
pub use spec::{
    Activation, AdapterSpec, AttentionSpec, DecoderSpec, LayerSpec, Layout, LinearSpec, MlpSpec, NormKind,
    NormSpec,
};
pub use team::Team;
pub use threads::{on_threads, worth};
