//! Hugging Face model directories: load, run, train and save.
//!
//! A [`Model`] is a configuration, flat parameters with named spans in a stable order (the frozen ones first, shared
//! between clones; then the trained ones), and a decoder over them. Training is a forward pass over ragged rows, a loss that says the gradient of
//! each token's log-prob, entropy and value, and the backward pass ([`Model::step`]).
//!
//! The decoder has two implementations that share no arithmetic; an [`Engine`] chooses. On
//! [`Device::Cpu`] it is the kernels of `tetherline-kernels`, on every other device a graph of candle
//! tensors.
//!
//! Beside it an [`Encoder`] is a frozen classifier of the BERT family, which scores text and is never trained (feature
//! `encoders`).
//!
//! **Architecture invariants**: this crate is the only loader of weights; only [`hub`] touches the network;
//! candle is used in `graph/` and `encoders/` and nowhere else.

mod config;
mod device;
#[cfg(feature = "encoders")]
mod encoders;
#[cfg(not(feature = "encoders"))]
#[path = "no_encoders.rs"]
mod encoders;
mod engine;
mod error;
mod files;
#[cfg(feature = "graph")]
mod graph;
#[cfg(not(feature = "graph"))]
#[path = "no_graph.rs"]
mod graph;
#[cfg(feature = "hub")]
pub mod hub;
mod layout;
mod lora;
mod model;
pub mod optim;
mod tokenizer;
mod tokenizer_pieces;
mod weights;

pub use config::{Architecture, Biases, HeadNorms, LayerConfig, ModelConfig, Norms, RopeConfig, RopeScaling};
pub use device::{Device, UnknownDevice};
pub use encoders::{Encoder, EncoderProbe, EncoderShape};
pub use engine::{DecodeBatch, DecodeOutput, Engine};
pub use error::{ModelError, Result};
pub use files::ModelFiles;
#[cfg(feature = "graph")]
pub use graph::{CandleLoss, CandleRow};
pub use layout::{Heads, Slot};
pub use lora::{LoraConfig, TargetModules};
pub use model::{Model, ModelShape};
pub use tetherline_kernels::{
    Activation, DecoderSpec, NormKind, PairRow, Precision, Row, RowGrad, RowOutput, RowResult, RowSize,
    Split, Team, UnitLoss, Work, draw, give_back_freed_blocks, log_softmax_in_place,
};
pub use tokenizer::{JointEncoding, Tokenizer};
pub use tokenizer_pieces::Encoded;
pub use weights::{SaveOptions, SaveType};
