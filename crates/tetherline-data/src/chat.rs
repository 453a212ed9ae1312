//! Chat templates: messages → the text a model was trained on, as Hugging Face renders it.
//!
//! Follows `transformers.utils.chat_template_utils` (5.23): Jinja with `trim_blocks`, `lstrip_blocks`
//! and loop controls; globals `raise_exception`, `strftime_now`; a `tojson` that does not escape HTML;
//! variables `messages`, `add_generation_prompt`, `tools` and `documents` (always `none` here) and every
//! special token of the tokenizer configuration.
//!
//! One deliberate difference: there is no clock. `strftime_now` is undefined, so templates that look
//! for it fall back on their own fixed date (Llama 3.2's do), unless [`ChatTemplate::with_date`] gives
//! the date. The same conversation always renders to the same text.

use crate::chat_python::{python_formatter, tojson};
use crate::{DataError, Date, Message};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

const NAME: &str = "chat_template";

/// A compiled chat template with its tokenizer's special tokens.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    /// `bos_token` → `<s>` and so on.
    specials: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Takes the template and the special tokens from the contents of `tokenizer_config.json`. `None`
    /// where it has no `chat_template`. Of a list of named templates, the one named `default` is used.
    ///
    /// # Errors
    /// Malformed JSON, a list without `default`, or a template that does not compile.
    pub fn from_tokenizer_config(json: &str) -> Result<Option<Self>, DataError> {
        let config = parse_config(json)?;
        let source = match config.get("chat_template") {
            None | Some(Json::Null) => return Ok(None),
            Some(Json::String(source)) => source.clone(),
            Some(Json::Array(list)) => default_template(list)?,
            Some(Json::Object(named)) => match named.get("default") {
                Some(Json::String(source)) => source.clone(),
                _ => return Err(no_default(named.keys().cloned())),
            },
            Some(_) => {
                let problem =
                    "field `chat_template`: expected a string or a list of {\"name\", \"template\"}";
                return Err(DataError::Template(problem.to_owned()));
            }
        };
        Self::compile(source, specials(&config)).map(Some)
    }

    /// Takes the template from the contents of `chat_template.jinja` (which overrides the one in the
    /// configuration) and the special tokens from the contents of `tokenizer_config.json`.
    ///
    /// # Errors
    /// Malformed JSON, or a template that does not compile.
    pub fn from_jinja(template: &str, tokenizer_config: &str) -> Result<Self, DataError> {
        Self::compile(template.to_owned(), specials(&parse_config(tokenizer_config)?))
    }

    fn compile(source: String, specials: Vec<(String, String)>) -> Result<Self, DataError> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| DataError::Template(explain(&e)))?);
        env.set_formatter(python_formatter);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", tojson);
        env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        // Jinja reads every line ending as `\n`.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        env.add_template_owned(NAME, plain_generation_blocks(&source))
            .map_err(|e| DataError::Template(format!("does not compile: {}", explain(&e))))?;
        Ok(Self { env, specials })
    }

    /// Defines `strftime_now` as this date, at midnight.
    #[must_use]
    pub fn with_date(mut self, date: Date) -> Self {
        self.env.add_function("strftime_now", move |format: String| -> Result<String, Error> {
            date.strftime(&format).map_err(|e| Error::new(ErrorKind::InvalidOperation, e))
        });
        self
    }

    /// Renders a conversation. With `add_generation_prompt` the text ends where the assistant is about
    /// to speak.
    ///
    /// The text holds the special tokens that the template writes, the first one included: encode it
    /// without adding special tokens again.
    ///
    /// # Errors
    /// [`DataError::Template`] with the template's own words where it refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, DataError> {
        let fail = |e: Error| DataError::Template(explain(&e));
        let template = self.env.get_template(NAME).map_err(fail)?;
        let message =
            |m: &Message| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
        let mut context = vec![
            ("messages", messages.iter().map(message).collect::<Value>()),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        context.extend(self.specials.iter().map(|(k, v)| (k.as_str(), Value::from(v))));
        template.render(Value::from_pairs(context)).map_err(fail)
    }

    /// Renders a prompt, ready for the assistant to speak, and the text that `answer` adds to it
    /// (its end-of-turn token included). The two concatenated are the whole conversation rendered.
    ///
    /// # Errors
    /// Where the template refuses the conversation, or does not render it as a continuation of its
    /// prompt.
    pub fn render_split(
        &self,
        prompt: &[Message],
        answer: &[Message],
    ) -> Result<(String, String), DataError> {
        let before = self.render(prompt, true)?;
        let whole = self.render(&[prompt, answer].concat(), false)?;
        match whole.strip_prefix(&before) {
            Some(rest) => Ok((before.clone(), rest.to_owned())),
            None => {
                let same = before.chars().zip(whole.chars()).take_while(|(a, b)| a == b).count();
                Err(DataError::Template(format!(
                    "the conversation does not start with its prompt: they differ from character {same} on \
                     ({:?} in the prompt, {:?} in the conversation); use a template that renders earlier turns \
                     the same way whatever follows",
                    excerpt(&before, same),
                    excerpt(&whole, same)
                )))
            }
        }
    }
}

fn excerpt(text: &str, from: usize) -> String {
    text.chars().skip(from).take(16).collect()
}

fn parse_config(json: &str) -> Result<serde_json::Map<String, Json>, DataError> {
    serde_json::from_str(json)
        .map_err(|e| DataError::Template(format!("tokenizer configuration: expected a JSON object: {e}")))
}

fn default_template(list: &[Json]) -> Result<String, DataError> {
    let entry =
        |e: &Json| Some((e.get("name")?.as_str()?.to_owned(), e.get("template")?.as_str()?.to_owned()));
    let Some(named) = list.iter().map(entry).collect::<Option<Vec<_>>>() else {
        let problem = "field `chat_template`: expected every entry to have `name` and `template` as strings";
        return Err(DataError::Template(problem.to_owned()));
    };
    let default = named.iter().find(|(name, _)| name == "default").map(|(_, source)| source.clone());
    default.ok_or_else(|| no_default(named.into_iter().map(|(name, _)| name)))
}

fn no_default(names: impl Iterator<Item = String>) -> DataError {
    let names: Vec<_> = names.collect();
    DataError::Template(format!(
        "field `chat_template`: expected a template named `default`, found `{}`",
        names.join("`, `")
    ))
}

/// Every `…_token` with a text: a string, or an object with `content`.
fn specials(config: &serde_json::Map<String, Json>) -> Vec<(String, String)> {
    let text = |v: &Json| v.as_str().or_else(|| v.get("content")?.as_str()).map(str::to_owned);
    let tokens = config.iter().filter(|(k, _)| k.ends_with("_token"));
    tokens.filter_map(|(k, v)| Some((k.clone(), text(v)?))).collect()
}

/// `{% generation %}` marks assistant tokens for Hugging Face's loss mask and renders as its body.
fn plain_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let (inside, after) = (&rest[start + 2..start + len], &rest[start + len..]);
        out.push_str(&rest[..start + 2]);
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&match word {
            "generation" => inside.replace(word, "if true"),
            "endgeneration" => inside.replace(word, "endif"),
            _ => inside.to_owned(),
        });
        rest = after;
    }
    out + rest
}

/// The engine's error in one line, with the template's line and any cause.
fn explain(error: &Error) -> String {
    let mut out = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    if error.kind() != ErrorKind::InvalidOperation && error.detail().is_some() {
        out = format!("{}: {out}", error.kind());
    }
    if let Some(line) = error.line() {
        out.push_str(&format!(" (template line {line})"));
    }
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        out.push_str(&format!(": {e}"));
        cause = e.source();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jinja(source: &str) -> Result<ChatTemplate, DataError> {
        ChatTemplate::from_jinja(
            source,
            r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true}"#,
        )
    }

    fn render(source: &str) -> String {
        jinja(source).unwrap().render(&[Message::user("héé <b>")], true).unwrap()
    }

    #[test]
    fn special_tokens_come_in_both_forms() {
        assert_eq!(
            render("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ add_bos_token }}"),
            "<s>|</s>||"
        );
    }

    #[test]
    fn the_template_is_found_where_the_configuration_keeps_it() {
        let of = |json: &str| ChatTemplate::from_tokenizer_config(json);
        assert!(of(r#"{"bos_token": "<s>"}"#).unwrap().is_none());
        let one = r#"{"chat_template": "{{ bos_token }}!", "bos_token": "<s>"}"#;
        assert_eq!(of(one).unwrap().unwrap().render(&[], false).unwrap(), "<s>!");
        let many = r#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
        assert_eq!(of(many).unwrap().unwrap().render(&[], false).unwrap(), "D");
        let none =
            r#"{"chat_template": [{"name": "rag", "template": "T"}, {"name": "tool_use", "template": "T"}]}"#;
        let error = of(none).unwrap_err().to_string();
        assert!(error.contains("named `default`, found `rag`, `tool_use`"), "{error}");
        for bad in [r#"{"chat_template": 3}"#, "[]", "{", r#"{"chat_template": [{"name": "x"}]}"#] {
            assert!(matches!(of(bad), Err(DataError::Template(_))), "{bad}");
        }
    }

    #[test]
    fn errors_carry_the_templates_words_and_line() {
        let refused = jinja("\n{{ raise_exception('roles must alternate') }}").unwrap().render(&[], false);
        let text = refused.unwrap_err().to_string();
        assert_eq!(text, "chat template: roles must alternate (template line 2)");
        let broken = jinja("a\n{% if %}").unwrap_err().to_string();
        assert!(broken.contains("does not compile") && broken.contains("template line 2"), "{broken}");
        let clock = jinja("{{ strftime_now('%Y') }}").unwrap().render(&[], false).unwrap_err().to_string();
        assert!(clock.contains("strftime_now"), "{clock}");
    }

    #[test]
    fn the_date_is_the_callers() {
        let source =
            "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}";
        assert_eq!(render(source), "26 Jul 2024");
        let dated = jinja(source).unwrap().with_date(Date { year: 2025, month: 3, day: 9 });
        assert_eq!(dated.render(&[], false).unwrap(), "09 Mar 2025");
    }

    #[test]
    fn line_endings_are_read_as_in_python() {
        // The same text in jinja2.Environment(trim_blocks=True, lstrip_blocks=True) renders to "a\nbc".
        assert_eq!(render("a\r\n{% if true %}\r\nb{% endif %}\rc\r\n"), "a\nbc");
    }

    #[test]
    fn generation_blocks_render_as_their_body() {
        assert_eq!(
            render("a {%- generation -%} {{ messages[0].content }} {%- endgeneration %} b"),
            "ahéé <b> b"
        );
    }

    #[test]
    fn a_split_is_the_whole_rendering_cut_in_two() {
        let chatml = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}{% if \
                      add_generation_prompt %}<assistant>{% endif %}";
        let (prompt, answer) = (vec![Message::user("q")], vec![Message::assistant("a")]);
        let split = jinja(chatml).unwrap().render_split(&prompt, &answer).unwrap();
        assert_eq!(split, ("<user>q<end>\n<assistant>".to_owned(), "a<end>\n".to_owned()));
        let shifting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
        let error = jinja(shifting).unwrap().render_split(&prompt, &answer).unwrap_err().to_string();
        assert!(error.contains("from character 0 on (\"1q\" in the prompt, \"2qa\""), "{error}");
    }
}
