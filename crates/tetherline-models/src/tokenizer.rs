//! `tokenizer.json` with what belongs to it: special ids, end-of-sequence ids, chat template source.

use crate::config::token_ids;
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use serde_json::Value;
use std::path::PathBuf;

/// Text to ids and back.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    eos: Vec<u32>,
    config: Value,
    chat_template: Option<String>,
}

/// A prompt and a response encoded as one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JointEncoding {
    /// All ids, specials as the tokenizer's post-processor puts them.
    pub ids: Vec<u32>,
    /// How many of them belong to the prompt; a token that straddles the boundary belongs to the response.
    pub prompt_len: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`.
    ///
    /// `config_eos` are the end-of-sequence ids of `config.json`; those of `generation_config.json` are added.
    ///
    /// # Errors
    /// If `tokenizer.json` is missing or invalid, or another file is not JSON.
    pub fn load(files: &ModelFiles, config_eos: &[u32]) -> Result<Self> {
        let path = files.path("tokenizer.json");
        let Some(bytes) = files.read("tokenizer.json")? else {
            return Err(ModelError::NotAModel {
                path: files.root(),
                problem: "tokenizer.json is missing (a fast tokenizer is needed; with Python: \
                          AutoTokenizer.from_pretrained(DIR, use_fast=True).save_pretrained(DIR))"
                    .into(),
            });
        };
        let inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| ModelError::Tokenizer { path: path.clone(), problem: e.to_string() })?;
        let config = files.json("tokenizer_config.json")?.unwrap_or(Value::Null);
        let mut eos = match files.json("generation_config.json")? {
            Some(g) => token_ids(g.get("eos_token_id")),
            None => Vec::new(),
        };
        for id in config_eos {
            if !eos.contains(id) {
                eos.push(*id);
            }
        }
        let named = match config.get("eos_token") {
            Some(Value::Object(o)) => o.get("content").and_then(Value::as_str),
            Some(v) => v.as_str(),
            None => None,
        };
        if let Some(id) = named.and_then(|t| inner.token_to_id(t))
            && !eos.contains(&id)
        {
            eos.push(id);
        }
        let chat_template =
            files.read("chat_template.jinja")?.map(|b| String::from_utf8_lossy(&b).into_owned());
        Ok(Self { inner, path, eos, config, chat_template })
    }

    fn fail(&self, e: impl std::fmt::Display) -> ModelError {
        ModelError::Tokenizer { path: self.path.clone(), problem: e.to_string() }
    }

    /// Ids of `text`; `specials` adds what the post-processor adds (such as a beginning-of-sequence token).
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode(&self, text: &str, specials: bool) -> Result<Vec<u32>> {
        let e = self.inner.encode_fast(text, specials).map_err(|e| self.fail(e))?;
        Ok(e.get_ids().to_vec())
    }

    /// Encodes prompt and response as one text.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode_joint(&self, prompt: &str, response: &str, specials: bool) -> Result<JointEncoding> {
        let e = self.inner.encode(format!("{prompt}{response}"), specials).map_err(|e| self.fail(e))?;
        let first = e.get_offsets().iter().position(|&(_, end)| end > prompt.len());
        let ids = e.get_ids().to_vec();
        let prompt_len = first.unwrap_or(ids.len());
        Ok(JointEncoding { ids, prompt_len })
    }

    /// Text of `ids`.
    ///
    /// # Errors
    /// If the tokenizer refuses the ids.
    pub fn decode(&self, ids: &[u32], skip_specials: bool) -> Result<String> {
        self.inner.decode(ids, skip_specials).map_err(|e| self.fail(e))
    }

    /// Whether `other` turns every text and every conversation into the same ids.
    pub fn same_as(&self, other: &Self) -> bool {
        let text = |t: &Self| t.inner.to_string(false).ok();
        let template = |t: &Self| (t.chat_template.clone(), t.config.get("chat_template").cloned());
        text(self).is_some() && text(self) == text(other) && template(self) == template(other)
    }

    /// Ids that end a sequence.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The id of a token written exactly so.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The largest id the tokenizer can produce.
    pub fn max_id(&self) -> u32 {
        self.inner.get_vocab(true).values().copied().max().unwrap_or(0)
    }

    /// `tokenizer_config.json` (null if absent).
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// `chat_template.jinja`, if the directory has one.
    pub fn chat_template_file(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }
}

impl tetherline_core::Decode for Tokenizer {
    fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, true).unwrap_or_default()
    }
}
