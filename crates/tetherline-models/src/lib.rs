//! Hugging Face model directories: load, run, train and save.
//!
//! A [`Model`] is a configuration, all parameters in one flat vector with named spans in a stable order,
//! and the decoder of `tetherline-kernels` over them. Training is a forward pass over ragged rows, a loss
//! that says the gradient of each token's log-prob, entropy and value, and the backward pass
//! ([`Model::step`]).
//!
//! **Architecture invariants**: this crate is the only loader of weights; only [`hub`] touches the network;
//! exactly one place turns logits into log-probs (`tetherline-kernels::softmax`), for sampler and trainer.

mod config;
mod error;
mod files;
#[cfg(feature = "hub")]
pub mod hub;
mod layout;
mod model;
pub mod optim;
mod tokenizer;
mod weights;

pub use config::{Architecture, ModelConfig, RopeScaling};
pub use error::{ModelError, Result};
pub use files::ModelFiles;
pub use layout::{Heads, Slot};
pub use model::Model;
pub use tetherline_kernels::{
    DecodeBatch, Engine, PairRow, Row, RowGrad, RowOutput, RowResult, UnitLoss, log_softmax_in_place,
};
pub use tokenizer::{JointEncoding, Tokenizer};
pub use weights::SaveType;
