//! Chat templates: messages → the text a model was trained on, as Hugging Face renders it.
//!
//! Follows `transformers.utils.chat_template_utils` (5.23): Jinja with `trim_blocks`, `lstrip_blocks`
//! and loop controls; globals `raise_exception`, `strftime_now`; a `tojson` that does not escape HTML;
//! variables `messages`, `add_generation_prompt`, `tools` and `documents` (always `none` here) and every
//! special token of the tokenizer configuration. Control tokens that somebody typed are told apart from those
//! that the template writes ([`Rendered`]).
//!
//! One deliberate difference: there is no clock. `strftime_now` is undefined for templates that look whether it
//! is defined, so that they fall back on their own fixed date (Llama 3.2's do); for others it is 26 July 2024;
//! [`ChatTemplate::with_date`] gives another date. The same conversation always renders to the same text.

use crate::chat_marks::{ControlTokens, Rendered, WRITTEN, strip};
use crate::chat_python::{method, python_formatter, python_tests, tojson};
use crate::chat_source::{
    configured, default_of, generation_as_filter, literal_text, parse_config, specials,
};
use crate::{DataError, Date, Message, chat_incremental};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::Value as Json;

const NAME: &str = "chat_template";
/// The filter that stands for `{% generation %}`, and the variable that switches its marks on.
const GENERATION: &str = "tetherline_generation";
/// What every rendering gives a template.
const GIVEN: [&str; 8] = [
    "messages",
    "add_generation_prompt",
    "tools",
    "documents",
    "strftime_now",
    "namespace",
    "loop",
    GENERATION,
];
/// The day of a template that asks for one without looking whether there is a clock: that of Llama 3's templates.
const DAY: Date = Date { year: 2024, month: 7, day: 26 };

/// A compiled chat template with its tokenizer's special tokens.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    /// `bos_token` → `<s>` and so on, and what [`ChatTemplate::with_variable`] added.
    variables: Vec<(String, Value)>,
    /// What the template may print by itself.
    literals: String,
    control: ControlTokens,
    /// Whether it says what the assistant wrote.
    generation: bool,
}

/// A conversation rendered as one text, and where its prompt ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Prompt and answer.
    pub whole: Rendered,
    /// Bytes of the text that are the prompt's.
    pub prompt: usize,
}

impl ChatTemplate {
    /// Takes the template and the special tokens from the contents of `tokenizer_config.json`. `None`
    /// where it has no `chat_template`. Of a list of named templates, the one named `default` is used.
    ///
    /// # Errors
    /// Malformed JSON, a list without `default`, or a template that does not compile.
    pub fn from_tokenizer_config(json: &str) -> Result<Option<Self>, DataError> {
        let config = parse_config(json)?;
        let Some(source) = configured(&config)? else { return Ok(None) };
        Self::compile(source, &specials(&config)).map(Some)
    }

    /// Takes the template from the contents of `chat_template.jinja` (which overrides the one in the
    /// configuration) and the special tokens from the contents of `tokenizer_config.json`.
    ///
    /// # Errors
    /// Malformed JSON, or a template that does not compile.
    pub fn from_jinja(template: &str, tokenizer_config: &str) -> Result<Self, DataError> {
        Self::compile(template.to_owned(), &specials(&parse_config(tokenizer_config)?))
    }

    /// As [`ChatTemplate::from_jinja`], of (name, template) pairs: the files of `additional_chat_templates`.
    ///
    /// # Errors
    /// Malformed JSON, no template named `default`, or one that does not compile.
    pub fn from_named(named: Vec<(String, String)>, tokenizer_config: &str) -> Result<Self, DataError> {
        Self::compile(default_of(named)?, &specials(&parse_config(tokenizer_config)?))
    }

    fn compile(source: String, specials: &[(String, String)]) -> Result<Self, DataError> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| DataError::Template(explain(&e)))?);
        env.set_formatter(python_formatter);
        env.set_unknown_method_callback(method);
        env.add_filter("tojson", tojson);
        python_tests(&mut env);
        env.add_filter(GENERATION, |state: &State<'_, '_>, body: String| {
            let marked = state.lookup(GENERATION).is_some_and(|v| v.is_true());
            if marked { format!("{}{body}{}", WRITTEN[0], WRITTEN[1]) } else { body }
        });
        env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        // Jinja reads every line ending as `\n`.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let (runnable, generation) = generation_as_filter(&source, GENERATION);
        env.add_template_owned(NAME, runnable)
            .map_err(|e| DataError::Template(format!("does not compile: {}", explain(&e))))?;
        let variables = specials.iter().map(|(k, v)| (k.clone(), Value::from(v))).collect();
        let literals = literal_text(&source);
        let control = ControlTokens::default();
        let asks = source.contains("strftime_now") && !source.contains("strftime_now is defined");
        let out = Self { env, variables, literals, control, generation };
        Ok(if asks { out.with_date(DAY) } else { out })
    }

    /// Defines `strftime_now` as this date, at midnight.
    #[must_use]
    pub fn with_date(mut self, date: Date) -> Self {
        self.env.add_function("strftime_now", move |format: String| -> Result<String, Error> {
            date.strftime(&format).map_err(|e| Error::new(ErrorKind::InvalidOperation, e))
        });
        self
    }

    /// Sets a variable that the template knows, such as `enable_thinking` or `date_string`.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &Json) -> Self {
        self.variables.push((name.to_owned(), from_json(value)));
        self
    }

    /// Names that the template looks up and that nobody gives it: what [`ChatTemplate::with_variable`] can set with any
    /// effect, sorted. Special tokens and what every rendering has are not among them.
    pub fn open_variables(&self) -> Vec<String> {
        let Ok(template) = self.env.get_template(NAME) else { return Vec::new() };
        let given = |name: &str| {
            GIVEN.contains(&name)
                || name.ends_with("_token")
                || self.env.globals().any(|(global, _)| global == name)
                || self.variables.iter().any(|(own, _)| own == name)
        };
        let mut names: Vec<_> =
            template.undeclared_variables(false).into_iter().filter(|n| !given(n)).collect();
        names.sort();
        names
    }

    /// Tells the added tokens of the tokenizer, each with whether it is special. Those that are special, and
    /// those that the template writes, are control tokens: typed in a message they are text.
    #[must_use]
    pub fn with_added_tokens(mut self, added: impl IntoIterator<Item = (String, bool)>) -> Self {
        self.control = ControlTokens::new(added, &self.literals);
        self
    }

    pub(crate) fn control(&self) -> &ControlTokens {
        &self.control
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
        self.run(messages, add_generation_prompt, false)
    }

    fn run(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        track: bool,
    ) -> Result<String, DataError> {
        let fail = |e: Error| DataError::Template(explain(&e));
        let template = self.env.get_template(NAME).map_err(fail)?;
        let message =
            |m: &Message| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
        let mut context = vec![
            ("messages", messages.iter().map(message).collect::<Value>()),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            (GENERATION, Value::from(track)),
        ];
        context.extend(self.variables.iter().map(|(k, v)| (k.as_str(), v.clone())));
        template.render(Value::from_pairs(context)).map_err(fail)
    }

    /// As [`ChatTemplate::render`], with the control tokens that the messages hold cut out as typed.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_pieces(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Rendered, DataError> {
        let marked = self.run(&self.marked(messages), add_generation_prompt, false)?;
        Ok(self.unmarked(&marked, self.control.typed_in(messages)))
    }

    /// The messages with their control tokens between marks; as they are where they hold none.
    fn marked(&self, messages: &[Message]) -> Vec<Message> {
        if !self.control.typed_in(messages) {
            return messages.to_vec();
        }
        let mark = |m: &Message| {
            Message::new(self.control.mark("user", &m.role), self.control.mark(&m.role, &m.content))
        };
        messages.iter().map(mark).collect()
    }

    fn unmarked(&self, text: &str, marks: bool) -> Rendered {
        if marks {
            return Rendered::from_marked(text, &self.control);
        }
        let piece = crate::Piece { text: text.to_owned(), typed: false };
        Rendered { pieces: vec![piece], assistant: Vec::new() }
    }

    /// Renders a whole conversation and says which parts of its text the assistant wrote: what stands in the
    /// template's `{% generation %}` blocks. For a template without them: all from where the assistant is
    /// about to speak to the end of its turn, found by rendering the conversation up to there.
    ///
    /// # Errors
    /// Where the template refuses the conversation; without `{% generation %}` also where it renders earlier
    /// turns differently as the conversation goes on.
    pub fn render_masked(&self, messages: &[Message]) -> Result<Rendered, DataError> {
        if self.generation {
            let clean = |m: &Message| Message::new(strip(&m.role), strip(&m.content));
            let messages: Vec<Message> = messages.iter().map(clean).collect();
            let text = self.run(&self.marked(&messages), false, true)?;
            return Ok(self.unmarked(&text, true));
        }
        let mut out = self.render_pieces(messages, false)?;
        out.assistant = chat_incremental::spans(self, messages, &out.text(), |messages, prompt| {
            Ok(self.render_pieces(messages, prompt)?.text())
        })?;
        Ok(out)
    }

    /// Renders a prompt, ready for the assistant to speak, and the `answer` to it (its end-of-turn token
    /// included) as one text.
    ///
    /// # Errors
    /// Where the template refuses the conversation, or does not render it as a continuation of its
    /// prompt.
    pub fn render_split(&self, prompt: &[Message], answer: &[Message]) -> Result<Split, DataError> {
        let whole = self.render_pieces(&[prompt, answer].concat(), false)?;
        let (before, text) = (self.render_pieces(prompt, true)?.text(), whole.text());
        if text.starts_with(&before) {
            return Ok(Split { prompt: before.len(), whole });
        }
        let same = before.chars().zip(text.chars()).take_while(|(a, b)| a == b).count();
        Err(DataError::Template(format!(
            "the conversation does not start with its prompt: they differ from character {same} on \
             ({:?} in the prompt, {:?} in the conversation); use a template that renders earlier turns \
             the same way whatever follows",
            excerpt(&before, same),
            excerpt(&text, same)
        )))
    }
}

fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => {
            n.as_i64().map_or_else(|| Value::from(n.as_f64().unwrap_or(f64::NAN)), Value::from)
        }
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(list) => list.iter().map(from_json).collect(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(k, v)| (k.as_str(), from_json(v)))),
    }
}

fn excerpt(text: &str, from: usize) -> String {
    text.chars().skip(from).take(16).collect()
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
    }

    #[test]
    fn the_date_is_the_callers() {
        let source =
            "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}";
        assert_eq!(render(source), "26 Jul 2024");
        assert_eq!(render("{{ strftime_now('%d %B %Y') }}"), "26 July 2024");
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
        let (prompt, answer) = (vec![Message::user("q<end>")], vec![Message::assistant("a")]);
        let control = jinja(chatml).unwrap().with_added_tokens([("<end>".to_owned(), false)]);
        for template in [control, jinja(chatml).unwrap()] {
            let split = template.render_split(&prompt, &answer).unwrap();
            let text = split.whole.text();
            assert_eq!(text.split_at(split.prompt), ("<user>q<end><end>\n<assistant>", "a<end>\n"));
        }
        let shifting = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
        let error = jinja(shifting).unwrap().render_split(&prompt, &answer).unwrap_err().to_string();
        assert!(error.contains("from character 0 on (\"1q<end>\" in the prompt, \"2q<end>a\""), "{error}");
    }

    #[test]
    fn masks_without_generation_blocks_come_from_rendering_step_by_step() {
        let messages =
            [Message::user("q"), Message::assistant("a"), Message::user("a"), Message::assistant("b")];
        let written = |source: &str, messages: &[Message]| {
            let added = ["<|end|>", "<|user|>", "<|over|>"].map(|t| (t.to_owned(), true));
            let template = jinja(source).unwrap().with_added_tokens(added);
            let r = template.render_masked(messages)?;
            let text = r.text();
            Ok::<_, DataError>(r.assistant.iter().map(|s| text[s.clone()].to_owned()).collect::<Vec<_>>())
        };
        // As Phi-3's: the whole conversation ends with one token more.
        let phi = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if \
                   add_generation_prompt %}<|assistant|>{% else %}<|over|>{% endif %}";
        assert_eq!(written(phi, &messages).unwrap(), ["a<|end|>", "b<|end|><|over|>"]);
        // A template that leaves out earlier answers, as Qwen3's leaves out their thoughts.
        let forgets = "{% for m in messages %}{% if loop.last or m.role == 'user' %}<{{ m.content }}>{% endif \
                       %}{% endfor %}";
        let error = written(forgets, &messages).unwrap_err().to_string();
        assert!(error.contains("message 2") && error.contains("{% generation %}"), "{error}");
        assert_eq!(written(forgets, &messages[..2]).unwrap(), ["<a>"]);
        let refuses = "{% if not messages %}{{ raise_exception('nothing') }}{% endif %}x";
        let error = written(refuses, &messages[1..2]).unwrap_err().to_string();
        assert!(error.contains("refuses what stands before it (nothing"), "{error}");
    }
}
