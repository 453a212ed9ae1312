//! Safetensors files in and out of the flat parameters, a tensor at a time: neither reading nor writing holds all
//! weights twice.

mod load;
mod save;

#[cfg(feature = "encoders")]
pub(crate) use load::{count, load_all};
pub(crate) use load::{load, load_file};
pub use save::{SaveOptions, SaveType};
pub(crate) use save::{save, save_sharded};

/// The file of a model that is not sharded.
const SINGLE: &str = "model.safetensors";
/// The index of one that is.
const INDEX: &str = "model.safetensors.index.json";
/// The vocabulary head's usual name.
const LM_HEAD: &str = "lm_head.weight";
