//! `tokenizer.json` with what belongs to it: special ids, end-of-sequence ids, chat template source.
//!
//! What transformers 5.23 does when it loads a directory (`tokenization_utils_tokenizers.py`) is done here too:
//! tokens of `added_tokens_decoder` that `tokenizer.json` lacks are added, `special_tokens_map.json` counts where
//! there is no `added_tokens_decoder`, `add_bos_token` and `add_eos_token` do not count (the post-processor of
//! `tokenizer.json` says what is added), and truncation and padding of `tokenizer.json` are off.

use crate::config::token_ids;
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::tokenizer_pieces::{Encoded, PlainText};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;
use tokenizers::AddedToken;

/// Placeholders that only models of images and text have rows for.
const OF_OTHER_MODALITIES: [&str; 1] = ["<image_soft_token>"];

/// Text to ids and back.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same without added tokens, made when first needed.
    plain: Arc<PlainText>,
    path: PathBuf,
    eos: Vec<u32>,
    config: Value,
    chat_template: Option<String>,
    named_templates: Vec<(String, String)>,
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
    /// Reads `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json`,
    /// `chat_template.jinja` and `additional_chat_templates`.
    ///
    /// `config_eos` are the end-of-sequence ids of `config.json`; those of `generation_config.json` are added.
    ///
    /// # Errors
    /// If `tokenizer.json` is missing or invalid, or another file is not JSON.
    pub fn load(files: &ModelFiles, config_eos: &[u32]) -> Result<Self> {
        let path = files.path("tokenizer.json");
        let Some(bytes) = files.read("tokenizer.json")? else { return Err(no_fast_tokenizer(files)?) };
        let fail = |problem: String| ModelError::Tokenizer { path: path.clone(), problem };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| fail(e.to_string()))?;
        inner.with_padding(None).with_truncation(None).map_err(|e| fail(e.to_string()))?;
        let config = configuration(files)?;
        let bad_config =
            |problem: String| ModelError::Tokenizer { path: files.path("tokenizer_config.json"), problem };
        add_tokens(&mut inner, &config).map_err(bad_config)?;
        let mut eos = match files.json("generation_config.json")? {
            Some(g) => token_ids(g.get("eos_token_id")),
            None => Vec::new(),
        };
        for id in config_eos {
            if !eos.contains(id) {
                eos.push(*id);
            }
        }
        if let Some(id) = named(&config, "eos_token").and_then(|t| inner.token_to_id(t))
            && !eos.contains(&id)
        {
            eos.push(id);
        }
        let chat_template =
            files.read("chat_template.jinja")?.map(|b| String::from_utf8_lossy(&b).into_owned());
        let named_templates = files.named_templates()?;
        let plain = Arc::default();
        Ok(Self { inner, plain, path, eos, config, chat_template, named_templates })
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
        let text = format!("{prompt}{response}");
        let encoded = self.encode_pieces(&[(&text, false)], specials)?;
        let prompt_len = encoded.tokens_before(prompt.len());
        Ok(JointEncoding { ids: encoded.ids, prompt_len })
    }

    /// Encodes a text in pieces, each with whether it was typed: a typed piece is a special or another added
    /// token that somebody wrote as text, and becomes the tokens of that text, never that token.
    ///
    /// As `encode_marked_chat` of transformers 5.23: pieces behind the first are encoded after a line break, so
    /// that no prefix space gets between. A text of one piece is encoded as [`Tokenizer::encode`] does. Where the
    /// vocabulary has the token as an ordinary piece of text, it is encoded in two halves; transformers refuses it.
    ///
    /// # Errors
    /// If the tokenizer refuses the text.
    pub fn encode_pieces(&self, pieces: &[(&str, bool)], specials: bool) -> Result<Encoded> {
        self.plain.encode(&self.inner, pieces, specials).map_err(|e| self.fail(e))
    }

    /// Cuts a text at the special tokens that it holds, for [`Tokenizer::encode_pieces`].
    pub fn special_pieces<'a>(&self, text: &'a str) -> Vec<(&'a str, bool)> {
        self.plain.cut(&self.inner, text)
    }

    /// The added tokens, each with whether it is special.
    pub fn added_tokens(&self) -> Vec<(String, bool)> {
        let mut tokens: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
        tokens.sort_by_key(|(id, _)| *id);
        tokens.into_iter().map(|(_, t)| (t.content, t.special)).collect()
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
        let template = |t: &Self| {
            (t.chat_template.clone(), t.named_templates.clone(), t.config.get("chat_template").cloned())
        };
        text(self).is_some() && text(self) == text(other) && template(self) == template(other)
    }

    /// Ids that end a sequence.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// The id of the named `eos_token`; of several ids that end a sequence this one ends a plain text.
    pub fn eos_token(&self) -> Option<u32> {
        named(&self.config, "eos_token").and_then(|t| self.inner.token_to_id(t))
    }

    /// The id of a token written exactly so.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The largest id the tokenizer can produce for text: placeholders of images are left out, for which text models of a
    /// family (Gemma 3) have no row of the embedding. (What is typed is never such a token, and no template writes one.)
    pub fn max_id(&self) -> u32 {
        let ids = self.inner.get_vocab(true);
        let of_text = ids.iter().filter(|(token, _)| !OF_OTHER_MODALITIES.contains(&token.as_str()));
        of_text.map(|(_, id)| *id).max().unwrap_or(0)
    }

    /// `tokenizer_config.json` with what counts of `special_tokens_map.json` (null if both are absent).
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// `chat_template.jinja`, if the directory has one.
    pub fn chat_template_file(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// (name, template) of each file in `additional_chat_templates`.
    pub fn named_templates(&self) -> &[(String, String)] {
        &self.named_templates
    }
}

impl tetherline_core::Decode for Tokenizer {
    fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, true).unwrap_or_default()
    }
}

/// Why there is no `tokenizer.json`, with the command that makes one where there is something to make it of.
fn no_fast_tokenizer(files: &ModelFiles) -> Result<ModelError> {
    let slow = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"];
    let mut found = None;
    for file in slow {
        if files.has(file)? {
            found = Some(file);
            break;
        }
    }
    let path = files.root();
    let problem = match found {
        None => {
            "tokenizer.json is missing, and no other tokenizer is there; copy it from the model's base".into()
        }
        Some(file) => {
            let file = if file == "vocab.json" { "vocab.json and merges.txt" } else { file };
            let dir = path.display();
            format!(
                "tokenizer.json is missing; convert its slow tokenizer ({file}) with: python -c \"from \
                 transformers import AutoTokenizer as T; T.from_pretrained('{dir}').save_pretrained('{dir}')\""
            )
        }
    };
    Ok(ModelError::NotAModel { path, problem })
}

/// `tokenizer_config.json`, with `special_tokens_map.json` on top where it has no `added_tokens_decoder`.
fn configuration(files: &ModelFiles) -> Result<Value> {
    let config = files.json("tokenizer_config.json")?;
    let map = match files.json("special_tokens_map.json")? {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let mut out = match config {
        Some(Value::Object(config)) => config,
        None if map.is_empty() => return Ok(Value::Null),
        None => Map::new(),
        Some(_) => {
            return Err(ModelError::Tokenizer {
                path: files.path("tokenizer_config.json"),
                problem: "expected a JSON object".into(),
            });
        }
    };
    if out.get("added_tokens_decoder").is_none_or(Value::is_null) {
        out.extend(map);
    }
    Ok(Value::Object(out))
}

/// The text of a special token: a string, or an object with `content`.
fn named<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    let v = config.get(name)?;
    v.as_str().or_else(|| v.get("content")?.as_str())
}

/// Adds the tokens of `added_tokens_decoder`, by their ids, and then those of `additional_special_tokens` (or
/// `extra_special_tokens`) and the named ones that `tokenizer.json` does not have.
fn add_tokens(inner: &mut tokenizers::Tokenizer, config: &Value) -> std::result::Result<(), String> {
    let flag = |t: &Value, name: &str| t.get(name).and_then(Value::as_bool).unwrap_or(false);
    let mut listed = Vec::new();
    for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
        let problem = || format!("added_tokens_decoder: expected an id with a token, found {id:?}: {token}");
        let id: u32 = id.parse().map_err(|_| problem())?;
        let content = token.get("content").and_then(Value::as_str).ok_or_else(problem)?;
        let special = flag(token, "special");
        let added = AddedToken::from(content, special)
            .lstrip(flag(token, "lstrip"))
            .rstrip(flag(token, "rstrip"))
            .single_word(flag(token, "single_word"))
            .normalized(token.get("normalized").and_then(Value::as_bool).unwrap_or(!special));
        listed.push((id, added));
    }
    listed.sort_by_key(|(id, _)| *id);
    for (id, token) in listed {
        let content = token.content.clone();
        if inner.get_added_vocabulary().get_vocab().contains_key(&content) {
            continue;
        }
        inner.add_tokens([token]).map_err(|e| e.to_string())?;
        let got = inner.token_to_id(&content);
        if got != Some(id) {
            return Err(format!(
                "added_tokens_decoder gives {content:?} the id {id}, but in tokenizer.json that id is taken or \
                 skipped (it would get {got:?}); save the tokenizer again with Python transformers"
            ));
        }
    }
    let text = |v: &Value| v.as_str().or_else(|| v.get("content")?.as_str()).map(str::to_owned);
    let names = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let mut special: Vec<String> = names.iter().filter_map(|n| text(config.get(n)?)).collect();
    for list in ["additional_special_tokens", "extra_special_tokens"] {
        special.extend(config.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(text));
    }
    for content in special {
        if inner.get_added_vocabulary().is_special_token(&content) || content.is_empty() {
            continue;
        }
        let known = inner.get_added_tokens_decoder().into_values().find(|t| t.content == content);
        let token = known.unwrap_or_else(|| AddedToken::from(content, true)).special(true);
        inner.add_special_tokens([token]).map_err(|e| e.to_string())?;
    }
    Ok(())
}
