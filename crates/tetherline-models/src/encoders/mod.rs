//! Frozen sequence classifiers of the BERT family (feature `encoders`): sentiment, toxicity and preference scorers.
//!
//! The trunk is candle-transformers', the head (`head.rs`) ours. DistilBERT and RoBERTa run as BERT, which they are with
//! other names (`names.rs`): candle's own DistilBERT has the tanh approximation of GELU, and its RoBERTa counts positions
//! in floats. Held to goldens of Python transformers in `tests/encoders.rs`.
//!
//! A text is encoded with the encoder's own tokenizer, its special tokens and segment ids, and cut at its longest sequence
//! as transformers does with `truncation=True`. Rows run in batches of like length, padded on the right; padding is
//! masked, and moves a logit by rounding alone. f32, on the CPU.

mod config;
mod head;
mod names;
mod net;
mod shape;

use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use config::EncoderConfig;
use net::{Encoded, Net};
use std::path::PathBuf;
use tokenizers::{EncodeInput, TruncationParams};

pub use shape::{EncoderProbe, EncoderShape};

/// Padded tokens of a batch, at most (but for a batch of one row).
const BATCH_TOKENS: usize = 4096;

/// Rows of a batch, at most.
const BATCH_ROWS: usize = 64;

/// A sequence classifier.
pub struct Encoder {
    net: Net,
    reader: Reader,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({}, labels {:?})", self.reader.path.display(), self.labels())
    }
}

/// An encoder's tokenizer, and where it is from.
#[derive(Clone)]
struct Reader {
    tokenizer: tokenizers::Tokenizer,
    path: PathBuf,
}

impl Encoder {
    /// Loads a directory.
    ///
    /// # Errors
    /// If it holds no classifier of a known family, or its weights or its tokenizer cannot be used.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        let config = EncoderConfig::load(files)?;
        let reader = Reader::load(files, &config)?;
        let tensors = names::tensors(files, &config)?;
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let net = Net::load(&vb, config).map_err(|e| failed(files, &e))?;
        Ok(Self { net, reader })
    }

    /// Names of the labels, in the order of the logits.
    pub fn labels(&self) -> &[String] {
        &self.net.config.labels
    }

    /// Whether labels do not exclude each other: each has a sigmoid, and they have no softmax together.
    pub fn multi_label(&self) -> bool {
        self.net.config.multi_label
    }

    /// Longest sequence, tokens.
    pub fn max_tokens(&self) -> usize {
        self.net.config.max_tokens
    }

    /// Token ids of a text, or of two as a pair, as the model reads them.
    ///
    /// # Errors
    /// If the tokenizer refuses it.
    pub fn ids(&self, text: &str, second: Option<&str>) -> Result<Vec<u32>> {
        Ok(self.reader.encode(text, second)?.ids)
    }

    /// Logits of texts, or of pairs of texts: for each one number per label.
    ///
    /// # Errors
    /// If the tokenizer refuses a text, or an operation fails.
    pub fn logits(&self, texts: &[(&str, Option<&str>)]) -> Result<Vec<Vec<f32>>> {
        let rows = texts.iter().map(|(a, b)| self.reader.encode(a, *b)).collect::<Result<Vec<_>>>()?;
        let lengths: Vec<usize> = rows.iter().map(|r| r.ids.len()).collect();
        let mut out = vec![Vec::new(); rows.len()];
        for batch in batches(&lengths, self.net.config.one_by_one()) {
            let of: Vec<&Encoded> = batch.iter().map(|&i| &rows[i]).collect();
            let failed = |e| ModelError::Encoder { path: self.reader.path.clone(), problem: first_line(&e) };
            let logits = self.net.forward(&of).map_err(failed)?;
            for (i, logits) in batch.into_iter().zip(logits) {
                out[i] = logits;
            }
        }
        Ok(out)
    }
}

/// Which rows run together, of rows of these lengths: neighbours by length, the longest first.
fn batches(lengths: &[usize], one_by_one: bool) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let (mut rest, mut out) = (&order[..], Vec::new());
    while let Some(&longest) = rest.first() {
        let most = BATCH_TOKENS / lengths[longest].max(1);
        let most = if one_by_one { 1 } else { most.clamp(1, BATCH_ROWS) };
        let (batch, others) = rest.split_at(most.min(rest.len()));
        out.push(batch.to_vec());
        rest = others;
    }
    out
}

impl Reader {
    /// The tokenizer of a directory, which cuts at the longest sequence and does not pad.
    fn load(files: &ModelFiles, config: &EncoderConfig) -> Result<Self> {
        Ok(Self { tokenizer: tokenizer(files, config)?, path: files.root() })
    }

    fn encode(&self, text: &str, second: Option<&str>) -> Result<Encoded> {
        let input: EncodeInput<'_> = match second {
            None => text.into(),
            Some(second) => (text, second).into(),
        };
        let fail = |problem| ModelError::Tokenizer { path: self.path.join("tokenizer.json"), problem };
        let encoded = self.tokenizer.encode(input, true).map_err(|e| fail(e.to_string()))?;
        let encoded = Encoded { ids: encoded.get_ids().to_vec(), segments: encoded.get_type_ids().to_vec() };
        if encoded.ids.is_empty() {
            let problem = "an empty text has no tokens, not even special ones, and cannot be scored";
            return Err(fail(problem.to_owned()));
        }
        Ok(encoded)
    }
}

/// What candle says, without the backtrace that may follow.
fn first_line(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_owned()
}

fn failed(files: &ModelFiles, e: &candle_core::Error) -> ModelError {
    ModelError::Encoder { path: files.root(), problem: first_line(e) }
}

fn tokenizer(files: &ModelFiles, config: &EncoderConfig) -> Result<tokenizers::Tokenizer> {
    let path = files.path("tokenizer.json");
    let fail = |problem: String| ModelError::Tokenizer { path: path.clone(), problem };
    let Some(bytes) = files.read("tokenizer.json")? else {
        let dir = files.root().display().to_string();
        return Err(fail(format!(
            "there is none; write it with Python: AutoTokenizer.from_pretrained({dir:?}).save_pretrained({dir:?})"
        )));
    };
    let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| fail(e.to_string()))?;
    let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
    if largest as usize >= config.vocab {
        return Err(ModelError::VocabMismatch {
            path: files.root(),
            tokenizer_max: largest,
            vocab: config.vocab,
        });
    }
    let truncation = TruncationParams { max_length: config.max_tokens, ..TruncationParams::default() };
    inner.with_truncation(Some(truncation)).map_err(|e| fail(e.to_string()))?;
    inner.with_padding(None);
    Ok(inner)
}
