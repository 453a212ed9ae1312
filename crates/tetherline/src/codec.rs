//! Text to tokens the way a model wants it: chat template, special tokens, end of sequence.

use crate::Error;
use crate::train::Example;
use tetherline_data::{ChatTemplate, Message, Text};
use tetherline_models::{Model, ModelError, ModelFiles, Tokenizer};

/// A tokenizer and its chat template, if it has one.
#[derive(Debug)]
pub struct Codec {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    wrap_plain: bool,
    name: String,
}

impl Codec {
    /// The codec of a model directory.
    ///
    /// # Errors
    /// If tokenizer or template cannot be used, or the tokenizer has ids the embedding has not.
    pub fn load(files: &ModelFiles, model: &Model) -> Result<Self, Error> {
        let name = files.root().display().to_string();
        let input = |e: ModelError| Error::input(format!("the model {name}"), e);
        let tokenizer = Tokenizer::load(files, &model.config().eos).map_err(input)?;
        let (tokenizer_max, vocab) = (tokenizer.max_id(), model.config().vocab);
        if tokenizer_max as usize >= vocab {
            return Err(input(ModelError::VocabMismatch { path: files.root(), tokenizer_max, vocab }));
        }
        let config = tokenizer.config().to_string();
        let template = match tokenizer.chat_template_file() {
            Some(jinja) => Some(ChatTemplate::from_jinja(jinja, &config)),
            None if tokenizer.config().is_null() => None,
            None => ChatTemplate::from_tokenizer_config(&config).transpose(),
        };
        let template =
            template.transpose().map_err(|e| Error::input(format!("the chat template of {name}"), e))?;
        Ok(Self { tokenizer, template, wrap_plain: false, name })
    }

    /// Treats a plain prompt as what a user says, so that it goes through the chat template too. (By
    /// default only message lists do; plain text is encoded as it stands.)
    #[must_use]
    pub fn wrapping_plain_prompts(mut self) -> Self {
        self.wrap_plain = true;
        self
    }

    /// The template that applies to a prompt.
    fn template_for(&self, prompt: &Text) -> Option<&ChatTemplate> {
        self.template.as_ref().filter(|_| self.wrap_plain || matches!(prompt, Text::Messages(_)))
    }

    fn fail<E: Into<tetherline_core::BoxError>>(&self, e: E) -> Error {
        Error::input(format!("the tokenizer of {}", self.name), e)
    }

    /// Prompt and response as the two texts that are encoded, and whether specials are added.
    fn split(&self, prompt: &Text, response: &str) -> Result<(String, String, bool), Error> {
        match (self.template_for(prompt), prompt) {
            (Some(t), prompt) => {
                let messages = match prompt {
                    Text::Plain(p) => vec![Message::user(p.clone())],
                    Text::Messages(m) => m.clone(),
                };
                let (before, after) =
                    t.render_split(&messages, &[Message::assistant(response)]).map_err(|e| self.fail(e))?;
                Ok((before, after, false))
            }
            (None, Text::Plain(p)) => Ok((p.clone(), response.to_owned(), true)),
            (None, Text::Messages(_)) => {
                Err(self.fail("the data has message lists, but the model has no chat template"))
            }
        }
    }

    /// What `other` makes of a prompt and a response, this makes of them too.
    pub fn same_as(&self, other: &Self) -> bool {
        self.wrap_plain == other.wrap_plain && self.tokenizer.same_as(&other.tokenizer)
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
        let (text, specials) = match (self.template_for(prompt), prompt) {
            (Some(t), Text::Plain(p)) => {
                (t.render(&[Message::user(p.clone())], true).map_err(|e| self.fail(e))?, false)
            }
            (Some(t), Text::Messages(m)) => (t.render(m, true).map_err(|e| self.fail(e))?, false),
            (None, _) => {
                let (p, _, specials) = self.split(prompt, "")?;
                (p, specials)
            }
        };
        self.tokenizer.encode(&text, specials).map_err(|e| self.fail(e))
    }

    /// Tokens of prompt and response, encoded as one text, ended by an end-of-sequence token if `end`.
    ///
    /// # Errors
    /// As [`Codec::prompt`].
    pub fn example(&self, prompt: &Text, response: &str, end: bool) -> Result<Example, Error> {
        let (before, after, specials) = self.split(prompt, response)?;
        let joint = self.tokenizer.encode_joint(&before, &after, specials).map_err(|e| self.fail(e))?;
        let (mut tokens, prompt_len) = (joint.ids, joint.prompt_len);
        let eos = self.tokenizer.eos();
        // The template may end a turn by itself; exactly one end is wanted, or none.
        while tokens.len() > prompt_len && tokens.last().is_some_and(|t| eos.contains(t)) {
            tokens.pop();
        }
        if end {
            tokens.extend(self.end_token());
        }
        Ok(Example { tokens, prompt_len })
    }

    /// Plain prompt and response encoded as one text, without the chat template.
    ///
    /// # Errors
    /// If the tokenizer refuses it.
    pub fn plain_example(&self, prompt: &str, response: &str, end: bool) -> Result<Example, Error> {
        let joint = self.tokenizer.encode_joint(prompt, response, true).map_err(|e| self.fail(e))?;
        let mut tokens = joint.ids;
        if end {
            tokens.extend(self.end_token());
        }
        Ok(Example { tokens, prompt_len: joint.prompt_len })
    }

    /// The token that ends a response: the named `eos_token` if there is one.
    pub fn end_token(&self) -> Option<u32> {
        let config = self.tokenizer.config();
        let named = config.get("eos_token").and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
        named.and_then(|t| self.tokenizer.token_to_id(t)).or_else(|| self.tokenizer.eos().first().copied())
    }
}
