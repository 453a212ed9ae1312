//! Everything that can be wrong with a model directory.

use crate::device::Device;
use std::path::PathBuf;

/// Errors of this crate. Messages name the file, tensor or field and say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of the directory cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The directory is not a model directory.
    #[error("{path} is not a Hugging Face model directory: {problem}")]
    NotAModel {
        /// Which directory.
        path: PathBuf,
        /// What is missing and what is expected.
        problem: String,
    },
    /// `config.json` names an architecture that is not implemented.
    #[error("{path}: field `architectures`: {found}; known: {known}")]
    UnknownArchitecture {
        /// Which file.
        path: PathBuf,
        /// What it says, and why that does not load.
        found: String,
        /// What is supported.
        known: String,
    },
    /// A field of `config.json` is missing or out of range.
    #[error("{path}: field `{field}`: {problem}")]
    ConfigField {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// A weights file is truncated or corrupt.
    #[error("{path} is not a valid safetensors file: {problem}; download or save it again")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        problem: String,
    },
    /// The index of a sharded model and its shards do not agree.
    #[error("{path}: {problem}")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A weight is in the files twice.
    #[error("{path}: {problem}; leave one of them out")]
    Doubled {
        /// Which directory.
        path: PathBuf,
        /// Which, under which names and in which files.
        problem: String,
    },
    /// The vocabulary head is said to be the embedding, and is another matrix.
    #[error(
        "{path}: `{name}` differs from `{embed}`, but config.json ties them; set \"tie_word_embeddings\": false in it to \
         train both, or take `{name}` out of the file"
    )]
    TiedHead {
        /// Which directory.
        path: PathBuf,
        /// The head.
        name: String,
        /// The embedding.
        embed: String,
    },
    /// A tensor that the architecture needs is not in the files.
    #[error("{path}: tensor `{name}` with shape {shape:?} is missing{instead}")]
    MissingTensor {
        /// Which directory.
        path: PathBuf,
        /// Which tensor.
        name: String,
        /// The shape it should have.
        shape: Vec<usize>,
        /// A tensor that the architecture does not have, for people; or nothing.
        instead: String,
    },
    /// A weight is infinite or not a number.
    #[error("{path}: tensor `{name}` holds a value that is not finite; the weights are damaged")]
    NotFiniteTensor {
        /// Which directory.
        path: PathBuf,
        /// Which tensor.
        name: String,
    },
    /// A tensor is in the files that the architecture does not know.
    #[error("{path}: unexpected tensor `{name}` with shape {shape:?}; this {arch} has no such weight")]
    UnexpectedTensor {
        /// Which directory.
        path: PathBuf,
        /// Which tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The architecture.
        arch: &'static str,
    },
    /// A tensor has the wrong shape.
    #[error("{path}: tensor `{name}` has shape {found:?}, but config.json asks for {expected:?}")]
    WrongShape {
        /// Which directory.
        path: PathBuf,
        /// Which tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
        /// By the configuration.
        expected: Vec<usize>,
    },
    /// A tensor has an element type that is not a weight type.
    #[error("{path}: tensor `{name}` has type {found}; expected F32, F16 or BF16")]
    WrongType {
        /// Which directory.
        path: PathBuf,
        /// Which tensor.
        name: String,
        /// In the file.
        found: String,
    },
    /// The tokenizer cannot be used.
    #[error("{path}: {problem}")]
    Tokenizer {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The tokenizer knows ids that the embedding does not have.
    #[error(
        "{path}: the tokenizer has ids up to {tokenizer_max}, but the embedding has only {vocab} rows; \
         tokenizer and model do not belong together"
    )]
    VocabMismatch {
        /// Which directory.
        path: PathBuf,
        /// Largest token id.
        tokenizer_max: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
    /// A token id is outside the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab} tokens")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Where in the sequence.
        position: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A sequence does not fit.
    #[error("a sequence of {tokens} tokens is longer than the context of {context} tokens; {hint}")]
    TooLong {
        /// Its length.
        tokens: usize,
        /// The limit.
        context: usize,
        /// What to do.
        hint: &'static str,
    },
    /// The hub could not deliver.
    #[error("cannot get {id} from the hub: {problem}")]
    Hub {
        /// Model id and revision.
        id: String,
        /// What went wrong and what to do.
        problem: String,
    },
    /// An output is asked for at a position that a sequence does not have.
    #[error("an output is asked for at position {position} of a sequence of {tokens} tokens")]
    PositionOutOfRange {
        /// The position; a scored one needs a token after it.
        position: usize,
        /// Length of the sequence.
        tokens: usize,
    },
    /// One model is to follow another whose changes it has no place for.
    #[error(
        "it has not the adapter, or not the frozen weights, that the other model trains; start from a copy of that model"
    )]
    CannotFollow,
    /// A vocabulary head is needed.
    #[error("{0} has no vocabulary head: it is a reward model, and KL needs log-probs")]
    NoVocabulary(&'static str),
    /// A decode step was not given one token for each row.
    #[error("{tokens} tokens for a decode step of {rows} rows")]
    OneTokenPerRow {
        /// Tokens given.
        tokens: usize,
        /// Rows of the batch.
        rows: usize,
    },
    /// A device cannot be used.
    #[error("device {device}: {problem}")]
    Device {
        /// Which.
        device: Device,
        /// Why, and what to do.
        problem: String,
    },
    /// The graph computed something, but its backward pass did not reach a parameter that took part.
    #[error("the backward pass gave no gradient for `{name}`: an operation of the graph has no derivative")]
    NoGradient {
        /// The parameter.
        name: String,
    },
    /// An encoder cannot be loaded by this build.
    #[error("{path}: {problem}")]
    NoEncoders {
        /// Which directory.
        path: PathBuf,
        /// What to build.
        problem: &'static str,
    },
    /// An encoder lacks a tensor, or an operation of it failed.
    #[error("the encoder {path}: {problem}")]
    Encoder {
        /// Which directory.
        path: PathBuf,
        /// What candle says.
        problem: String,
    },
    /// A tensor operation of the graph failed: out of memory, or a bug.
    #[cfg(feature = "graph")]
    #[error("the candle graph failed: {0}")]
    Candle(#[from] candle_core::Error),
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, ModelError>;
