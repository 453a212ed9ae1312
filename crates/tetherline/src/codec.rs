//! Text to tokens the way a model wants it: chat template, special tokens, end of sequence.
//!
//! What a message says is text: a special token in it (`<|im_end|>`, `</s>`) is encoded as these characters,
//! never as that token, and so it is in plain text. Only the template writes special tokens.

use crate::Error;
use crate::train::{EveryTurn, Example};
use std::collections::BTreeMap;
use tetherline_data::{ChatTemplate, Message, Piece, Rendered, Text};
use tetherline_models::{Encoded, Model, ModelError, ModelFiles, Tokenizer};

/// A tokenizer and its chat template, if it has one.
#[derive(Debug)]
pub struct Codec {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    wrap_plain: bool,
    /// What the template was told.
    variables: BTreeMap<String, serde_json::Value>,
    name: String,
}

/// A conversation as tokens, with what the assistant wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// For each token, whether the assistant wrote it.
    pub written: Vec<bool>,
}

impl Codec {
    /// The codec of a model directory.
    ///
    /// # Errors
    /// If tokenizer or template cannot be used, or the tokenizer has ids the embedding has not.
    pub fn load(files: &ModelFiles, model: &Model) -> Result<Self, Error> {
        Self::open(files, &model.config().eos, model.config().vocab)
    }

    /// As [`Codec::load`], of a model with `vocab` rows in its embedding and the end-of-sequence ids `eos`.
    ///
    /// # Errors
    /// As [`Codec::load`].
    pub fn open(files: &ModelFiles, eos: &[u32], vocab: usize) -> Result<Self, Error> {
        let name = files.root().display().to_string();
        let input = |e: ModelError| Error::input(format!("the model {name}"), e);
        let tokenizer = Tokenizer::load(files, eos).map_err(input)?;
        let tokenizer_max = tokenizer.max_id();
        if tokenizer_max as usize >= vocab {
            return Err(input(ModelError::VocabMismatch { path: files.root(), tokenizer_max, vocab }));
        }
        let config =
            if tokenizer.config().is_null() { "{}".to_owned() } else { tokenizer.config().to_string() };
        let named = tokenizer.named_templates();
        let template = match tokenizer.chat_template_file() {
            Some(jinja) => Some(ChatTemplate::from_jinja(jinja, &config)),
            None if !named.is_empty() => Some(ChatTemplate::from_named(named.to_vec(), &config)),
            None => ChatTemplate::from_tokenizer_config(&config).transpose(),
        };
        let template =
            template.transpose().map_err(|e| Error::input(format!("the chat template of {name}"), e))?;
        let template = template.map(|t| t.with_added_tokens(tokenizer.added_tokens()));
        Ok(Self { tokenizer, template, wrap_plain: false, variables: BTreeMap::new(), name })
    }

    /// Treats a plain prompt as what a user says, so that it goes through the chat template too. (By
    /// default only message lists do; plain text is encoded as it stands.)
    #[must_use]
    pub fn wrapping_plain_prompts(mut self) -> Self {
        self.wrap_plain = true;
        self
    }

    /// Tells the chat template these variables, as keyword arguments of `apply_chat_template` in transformers.
    ///
    /// # Errors
    /// One that the template does not look at, with those that it does.
    pub fn with_variables(mut self, variables: &BTreeMap<String, serde_json::Value>) -> Result<Self, Error> {
        let what = || format!("the chat template of {}", self.name);
        for (name, value) in variables {
            let refuse =
                |why: String| Err(Error::input(what(), format!("data.chat.variables.{name}: {why}")));
            let Some(template) = self.template.take() else {
                return refuse("there is none that it could be given to; leave it out".into());
            };
            let open = template.open_variables();
            if !open.contains(name) {
                return refuse(match open.as_slice() {
                    [] => "the template looks at no variable; leave it out".to_owned(),
                    _ => format!("the template does not look at it; it looks at {}", open.join(", ")),
                });
            }
            self.template = Some(template.with_variable(name, value));
        }
        self.variables.extend(variables.clone());
        Ok(self)
    }

    /// Tells the chat template the variables of `other` that it looks at.
    #[must_use]
    pub fn with_variables_of(mut self, other: &Self) -> Self {
        let Some(mut template) = self.template.take() else { return self };
        let open = template.open_variables();
        for (name, value) in other.variables.iter().filter(|(name, _)| open.contains(name)) {
            template = template.with_variable(name, value);
            self.variables.insert(name.clone(), value.clone());
        }
        self.template = Some(template);
        self
    }

    /// The template that applies to a prompt, with the prompt's messages.
    fn messages(&self, prompt: &Text) -> Result<Option<(&ChatTemplate, Vec<Message>)>, Error> {
        match (&self.template, prompt) {
            (Some(t), Text::Plain(p)) if self.wrap_plain => Ok(Some((t, vec![Message::user(p.clone())]))),
            (Some(t), Text::Messages(m)) => Ok(Some((t, m.clone()))),
            (None, Text::Messages(_)) => {
                Err(self.fail("the data has message lists, but the model has no chat template"))
            }
            (_, Text::Plain(_)) => Ok(None),
        }
    }

    fn fail<E: Into<tetherline_core::BoxError>>(&self, e: E) -> Error {
        Error::input(format!("the tokenizer of {}", self.name), e)
    }

    fn rendered(&self, text: &Rendered) -> Result<Encoded, Error> {
        let pieces: Vec<_> =
            text.pieces.iter().map(|Piece { text, typed }| (text.as_str(), *typed)).collect();
        self.tokenizer.encode_pieces(&pieces, false).map_err(|e| self.fail(e))
    }

    fn plain(&self, text: &str) -> Result<Encoded, Error> {
        let pieces = self.tokenizer.special_pieces(text);
        self.tokenizer.encode_pieces(&pieces, true).map_err(|e| self.fail(e))
    }

    /// What `other` makes of a prompt and a response, this makes of them too.
    pub fn same_as(&self, other: &Self) -> bool {
        self.wrap_plain == other.wrap_plain
            && self.variables == other.variables
            && self.tokenizer.same_as(&other.tokenizer)
    }

    /// Whether plain prompts go through the chat template too.
    pub fn wraps_plain_prompts(&self) -> bool {
        self.wrap_plain
    }

    /// Tokens of a prompt, ready for the assistant to speak.
    ///
    /// # Errors
    /// If the template or the tokenizer refuses it.
    pub fn prompt(&self, prompt: &Text) -> Result<Vec<u32>, Error> {
        if let Some((template, messages)) = self.messages(prompt)? {
            let text = template.render_pieces(&messages, true).map_err(|e| self.fail(e))?;
            return Ok(self.rendered(&text)?.ids);
        }
        let mut encoded = self.plain(prompt.last_text())?;
        // A post-processor may end every text; a prompt goes on.
        while let (Some(id), Some(at)) = (encoded.ids.last(), encoded.offsets.last()) {
            if !at.is_empty() || !self.tokenizer.eos().contains(id) || encoded.ids.len() == 1 {
                break;
            }
            encoded.ids.pop();
            encoded.offsets.pop();
        }
        Ok(encoded.ids)
    }

    /// Tokens of prompt and response, encoded as one text, ended by an end-of-sequence token if `end`.
    ///
    /// The response ends at the first end-of-sequence token that the template writes after it: what a template
    /// puts behind (a line break, or one more token) is no part of what the model says.
    ///
    /// # Errors
    /// As [`Codec::prompt`].
    pub fn example(&self, prompt: &Text, response: &str, end: bool) -> Result<Example, Error> {
        let Some((template, messages)) = self.messages(prompt)? else {
            return self.plain_example(prompt.last_text(), response, end);
        };
        let split =
            template.render_split(&messages, &[Message::assistant(response)]).map_err(|e| self.fail(e))?;
        let encoded = self.rendered(&split.whole)?;
        let prompt_len = encoded.tokens_before(split.prompt);
        let mut tokens = encoded.ids;
        let is_end = |t: &u32| self.tokenizer.eos().contains(t);
        let ended = tokens[prompt_len..].iter().position(is_end).map(|i| prompt_len + i);
        match ended {
            Some(at) => tokens.truncate(at + usize::from(end)),
            None if end => tokens.extend(self.end_token()),
            None => {}
        }
        Ok(Example { tokens, prompt_len })
    }

    /// Plain prompt and response encoded as one text, without the chat template.
    ///
    /// # Errors
    /// If the tokenizer refuses it.
    pub fn plain_example(&self, prompt: &str, response: &str, end: bool) -> Result<Example, Error> {
        let encoded = self.plain(&format!("{prompt}{response}"))?;
        let prompt_len = encoded.tokens_before(prompt.len());
        let mut tokens = encoded.ids;
        // A post-processor may end the text by itself; exactly one end is wanted, or none.
        while tokens.len() > prompt_len && tokens.last().is_some_and(|t| self.tokenizer.eos().contains(t)) {
            tokens.pop();
        }
        if end {
            tokens.extend(self.end_token());
        }
        Ok(Example { tokens, prompt_len })
    }

    /// Tokens of what `role` says behind an answer of the assistant, ready for the assistant to speak again: appended to the
    /// tokens that are there, which stay as they were sampled. `ended` is whether the answer ends with an end-of-sequence
    /// token, which is then not written twice. Of a plain prompt it is the text alone.
    ///
    /// With a chat template the conversation is rendered with a stand-in for the answer, and what the template writes behind
    /// it is taken.
    ///
    /// # Errors
    /// If the template or the tokenizer refuses it.
    pub fn continuation(
        &self,
        prompt: &Text,
        turns: &[Message],
        said: &Message,
        ended: bool,
    ) -> Result<Vec<u32>, Error> {
        const ANSWER: &str = "tetherline0answer";
        let pieces = match self.messages(prompt)? {
            None => {
                let text = &said.content;
                self.tokenizer
                    .special_pieces(text)
                    .into_iter()
                    .map(|(t, typed)| (t.to_owned(), typed))
                    .collect()
            }
            Some((template, mut messages)) => {
                messages.extend(turns.iter().cloned());
                messages.extend([Message::assistant(ANSWER), said.clone()]);
                let rendered = template.render_pieces(&messages, true).map_err(|e| self.fail(e))?;
                let holds = |p: &Piece| p.text.contains(ANSWER);
                let at = rendered.pieces.iter().rposition(holds).ok_or_else(|| {
                    self.fail("its chat template does not show an earlier answer as it was; a conversation cannot go on")
                })?;
                let behind = |(i, p): (usize, Piece)| match i {
                    0 => (p.text[p.text.rfind(ANSWER).map_or(0, |b| b + ANSWER.len())..].to_owned(), p.typed),
                    _ => (p.text, p.typed),
                };
                rendered.pieces.into_iter().skip(at).enumerate().map(behind).collect::<Vec<_>>()
            }
        };
        // Behind a line break, as all pieces but the first, so that no space gets between; it is cut off again.
        let mut all = vec![("\n", false)];
        all.extend(pieces.iter().map(|(text, typed)| (text.as_str(), *typed)));
        let encoded = self.tokenizer.encode_pieces(&all, false).map_err(|e| self.fail(e))?;
        let mut tokens = encoded.ids[encoded.tokens_before(1)..].to_vec();
        if ended && tokens.first().is_some_and(|t| self.tokenizer.eos().contains(t)) {
            tokens.remove(0);
        }
        Ok(tokens)
    }

    /// Tokens of a whole conversation, and which of them the assistant wrote, as
    /// `apply_chat_template(…, return_assistant_tokens_mask=True)` of transformers says: see
    /// [`ChatTemplate::render_masked`].
    ///
    /// # Errors
    /// If there is no chat template, it refuses the conversation, or does not show what the assistant wrote.
    pub fn conversation(&self, messages: &[Message]) -> Result<Conversation, Error> {
        let no_template = || self.fail("the data has message lists, but the model has no chat template");
        let template = self.template.as_ref().ok_or_else(no_template)?;
        let text = template.render_masked(messages).map_err(|e| self.fail(e))?;
        let encoded = self.rendered(&text)?;
        Ok(Conversation { written: encoded.mask(&text.assistant), tokens: encoded.ids })
    }

    /// As [`Codec::example`] with its end, for training on every answer of the conversation: the last is what
    /// [`Codec::example`] makes of it, and each before it ends as it does, with the first end-of-sequence token.
    ///
    /// # Errors
    /// As [`Codec::conversation`]. Of plain text the response is the only answer.
    pub fn every_turn(&self, prompt: &Text, response: &str) -> Result<EveryTurn, Error> {
        let mut example = self.example(prompt, response, true)?;
        let last = example.prompt_len;
        let mut written = vec![false; last];
        if let Some((_, mut messages)) = self.messages(prompt)? {
            messages.push(Message::assistant(response));
            let whole = self.conversation(&messages)?;
            if whole.tokens.get(..last) != example.tokens.get(..last) {
                return Err(self.fail("it encodes the conversation otherwise than prompt and answer"));
            }
            written.copy_from_slice(&whole.written[..last]);
        }
        let is_end = |t: &u32| self.tokenizer.eos().contains(t);
        let mut at = 0;
        while let Some(begin) = written[at..].iter().position(|w| *w).map(|i| at + i) {
            let until = written[begin..].iter().position(|w| !w).map_or(last, |i| begin + i);
            // A template may mark what was said without what ends it.
            let within = (until + 1).min(last);
            let end = example.tokens[begin..within].iter().position(is_end).map_or(until, |i| begin + i + 1);
            written[begin..until].fill(false);
            written[begin..end].fill(true);
            at = until.max(end);
        }
        written.resize(example.tokens.len(), true);
        example.prompt_len = written.iter().position(|w| *w).unwrap_or(last);
        written.drain(..example.prompt_len.max(1));
        Ok(EveryTurn { example, written })
    }

    /// The token that ends a response: the named `eos_token` if there is one.
    pub fn end_token(&self) -> Option<u32> {
        self.tokenizer.eos_token().or_else(|| self.tokenizer.eos().first().copied())
    }
}
