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

use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, debertav2, modernbert};
use config::{EncoderConfig, Family};
use head::Head;
use std::path::PathBuf;
use tokenizers::{EncodeInput, TruncationParams};

/// Padded tokens of a batch, at most (but for a batch of one row).
const BATCH_TOKENS: usize = 4096;

/// A sequence classifier.
pub struct Encoder {
    config: EncoderConfig,
    trunk: Trunk,
    head: Head,
    tokenizer: tokenizers::Tokenizer,
    path: PathBuf,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({}, labels {:?})", self.path.display(), self.config.labels)
    }
}

enum Trunk {
    Bert(bert::BertModel),
    DebertaV2(Box<debertav2::DebertaV2Model>),
    ModernBert(modernbert::ModernBert),
}

/// One encoded text.
struct Encoded {
    ids: Vec<u32>,
    /// 0 of the first text, 1 of the second, where the tokenizer says so.
    segments: Vec<u32>,
}

impl Encoder {
    /// Loads a directory.
    ///
    /// # Errors
    /// If it holds no classifier of a known family, or its weights or its tokenizer cannot be used.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        let config = EncoderConfig::load(files)?;
        let tokenizer = tokenizer(files, &config)?;
        let tensors = names::tensors(files, &config)?;
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let missing = |e| failed(files, &e);
        let trunk = match &config.family {
            Family::Bert { config, .. } => bert::BertModel::load(vb.clone(), config).map(Trunk::Bert),
            Family::DebertaV2 { config, .. } => debertav2::DebertaV2Model::load(vb.pp("deberta"), config)
                .map(|trunk| Trunk::DebertaV2(Box::new(trunk))),
            Family::ModernBert { config, .. } => {
                modernbert::ModernBert::load(vb.clone(), config).map(Trunk::ModernBert)
            }
        };
        let trunk = trunk.map_err(missing)?;
        let head = Head::load(&vb, &config).map_err(missing)?;
        Ok(Self { config, trunk, head, tokenizer, path: files.root() })
    }

    /// Names of the labels, in the order of the logits.
    pub fn labels(&self) -> &[String] {
        &self.config.labels
    }

    /// Whether labels do not exclude each other: each has a sigmoid, and they have no softmax together.
    pub fn multi_label(&self) -> bool {
        self.config.multi_label
    }

    /// Longest sequence, tokens.
    pub fn max_tokens(&self) -> usize {
        self.config.max_tokens
    }

    /// Token ids of a text, or of two as a pair, as the model reads them.
    ///
    /// # Errors
    /// If the tokenizer refuses it.
    pub fn ids(&self, text: &str, second: Option<&str>) -> Result<Vec<u32>> {
        Ok(self.encode(text, second)?.ids)
    }

    /// Logits of texts, or of pairs of texts: for each one number per label.
    ///
    /// # Errors
    /// If the tokenizer refuses a text, or an operation fails.
    pub fn logits(&self, texts: &[(&str, Option<&str>)]) -> Result<Vec<Vec<f32>>> {
        let rows = texts.iter().map(|(a, b)| self.encode(a, *b)).collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(rows[i].ids.len()));
        let mut out = vec![Vec::new(); rows.len()];
        let mut rest = &order[..];
        while let Some(&longest) = rest.first() {
            let most = BATCH_TOKENS / rows[longest].ids.len().max(1);
            // Its table of positions is not broadcast over a batch by candle.
            let most = if self.config.one_by_one() { 1 } else { most.clamp(1, 64) };
            let (batch, others) = rest.split_at(most.min(rest.len()));
            rest = others;
            let rows: Vec<&Encoded> = batch.iter().map(|&i| &rows[i]).collect();
            let logits = self
                .forward(&rows)
                .map_err(|e| ModelError::Encoder { path: self.path.clone(), problem: first_line(&e) })?;
            for (&i, logits) in batch.iter().zip(logits) {
                out[i] = logits;
            }
        }
        Ok(out)
    }

    /// Logits of rows, padded to the longest of them.
    fn forward(&self, rows: &[&Encoded]) -> candle_core::Result<Vec<Vec<f32>>> {
        let width = rows.iter().map(|r| r.ids.len()).max().unwrap_or(0);
        let shape = (rows.len(), width);
        let padded = |of: &dyn Fn(&Encoded, usize) -> u32, pad: u32| {
            let all = rows
                .iter()
                .flat_map(|r| (0..width).map(move |i| if i < r.ids.len() { of(r, i) } else { pad }));
            Tensor::from_vec(all.collect::<Vec<u32>>(), shape, &Device::Cpu)
        };
        let ids = padded(&|r, i| r.ids[i], self.config.pad)?;
        let mask = padded(&|_, _| 1, 0)?;
        let segments = padded(&|r, i| if self.config.segments { r.segments[i] } else { 0 }, 0)?;
        let hidden = match &self.trunk {
            Trunk::Bert(trunk) => trunk.forward(&ids, &segments, Some(&mask)),
            Trunk::DebertaV2(trunk) => trunk.forward(&ids, Some(segments), Some(mask.clone())),
            Trunk::ModernBert(trunk) => trunk.forward(&ids, &mask),
        }?;
        self.head.forward(&hidden, &mask)?.to_vec2()
    }

    fn encode(&self, text: &str, second: Option<&str>) -> Result<Encoded> {
        let input: EncodeInput<'_> = match second {
            None => text.into(),
            Some(second) => (text, second).into(),
        };
        let encoded = self.tokenizer.encode(input, true).map_err(|e| ModelError::Tokenizer {
            path: self.path.join("tokenizer.json"),
            problem: e.to_string(),
        })?;
        let encoded = Encoded { ids: encoded.get_ids().to_vec(), segments: encoded.get_type_ids().to_vec() };
        if encoded.ids.is_empty() {
            let problem =
                "an empty text has no tokens, not even special ones, and cannot be scored".to_owned();
            return Err(ModelError::Tokenizer { path: self.path.join("tokenizer.json"), problem });
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

/// The tokenizer of a directory, which cuts at the longest sequence and does not pad.
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
