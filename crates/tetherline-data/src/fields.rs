//! Typed access to the fields of one JSON object. Every error names the field's path, says what was
//! expected and what was found.

use crate::error::BadRow;
use crate::{DEFAULT_DOMAIN, Message, Text};
use serde_json::{Map, Value};
use tetherline_core::TokenId;

/// One row as JSON. A field that is `null` counts as absent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The field, if it is there and not `null`.
    pub(crate) fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    /// Whether the field is there and not `null`.
    pub(crate) fn has(self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// An error that says which fields were expected and which were found.
    pub(crate) fn missing(self, expected: &str) -> BadRow {
        let found: Vec<&str> = self.0.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str()).collect();
        let found =
            if found.is_empty() { "no field".to_owned() } else { format!("`{}`", found.join("`, `")) };
        BadRow::new("", format!("expected {expected}; found {found}"))
    }

    /// A string or a list of messages.
    pub(crate) fn text(self, name: &str) -> Result<Text, BadRow> {
        match self.get(name) {
            Some(Value::String(s)) => Ok(Text::Plain(s.clone())),
            Some(Value::Array(list)) => messages(name, list).map(Text::Messages),
            Some(other) => Err(wrong(name, "a string or a list of messages", other)),
            None => Err(self.missing(&format!("a field `{name}`"))),
        }
    }

    /// A string, or a list that holds one assistant message.
    pub(crate) fn response(self) -> Result<String, BadRow> {
        match self.text("response")? {
            Text::Plain(s) => Ok(s),
            Text::Messages(mut list) => match list.pop() {
                Some(m) if list.is_empty() && m.is_assistant() => Ok(m.content),
                _ => Err(BadRow::new("response", "expected a string or a list with one assistant message")),
            },
        }
    }

    /// The `messages` field.
    pub(crate) fn messages(self) -> Result<Vec<Message>, BadRow> {
        match self.get("messages") {
            Some(Value::Array(list)) => messages("messages", list),
            Some(other) => Err(wrong("messages", "a list of messages", other)),
            None => Err(self.missing("a field `messages`")),
        }
    }

    /// `domain`, or the default.
    pub(crate) fn domain(self) -> Result<String, BadRow> {
        let domain = self.tag("domain")?;
        Ok(if domain.is_empty() { DEFAULT_DOMAIN.to_owned() } else { domain })
    }

    /// `user`, or empty.
    pub(crate) fn user(self) -> Result<String, BadRow> {
        self.tag("user")
    }

    fn tag(self, name: &str) -> Result<String, BadRow> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(s)) => Ok(s.clone()),
            // Numeric user ids are common.
            Some(Value::Number(n)) if !n.is_f64() => Ok(n.to_string()),
            Some(other) => Err(wrong(name, "a string or an integer", other)),
        }
    }

    /// `margin`.
    pub(crate) fn margin(self) -> Result<Option<f64>, BadRow> {
        let Some(value) = self.get("margin") else { return Ok(None) };
        match value.as_f64().filter(|x| x.is_finite()) {
            Some(x) => Ok(Some(x)),
            None => Err(wrong("margin", "a finite number", value)),
        }
    }

    /// `p_chosen`.
    pub(crate) fn label(self) -> Result<Option<f64>, BadRow> {
        let Some(value) = self.get("p_chosen") else { return Ok(None) };
        match value.as_f64().filter(|x| (0.0..=1.0).contains(x)) {
            Some(x) => Ok(Some(x)),
            None => {
                Err(wrong("p_chosen", "a number from 0 to 1 (how likely `chosen` is the better one)", value))
            }
        }
    }

    /// `agreement`.
    pub(crate) fn agreement(self) -> Result<Option<f64>, BadRow> {
        let Some(value) = self.get("agreement") else { return Ok(None) };
        match value.as_f64().filter(|x| (0.5..=1.0).contains(x)) {
            Some(x) => Ok(Some(x)),
            None => Err(wrong("agreement", "a number from 0.5 to 1 (share of labelers who agree)", value)),
        }
    }

    /// `answer`: a string as it is, anything else as JSON; empty where there is none.
    pub(crate) fn answer(self) -> String {
        match self.get("answer") {
            None => String::new(),
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// `responses`: at least two, each a string or a list with one assistant message.
    pub(crate) fn responses(self) -> Result<Vec<String>, BadRow> {
        let list = match self.get("responses") {
            Some(Value::Array(list)) => list,
            Some(other) => return Err(wrong("responses", "a list of at least two responses", other)),
            None => return Err(self.missing("a field `responses`")),
        };
        if list.len() < 2 {
            let problem = format!("expected at least two responses, found {}", list.len());
            return Err(BadRow::new("responses", problem));
        }
        let one = |(i, value): (usize, &Value)| match value {
            Value::String(s) => Ok(s.clone()),
            Value::Array(items) => match messages(&format!("responses[{i}]"), items)?.as_slice() {
                [m] if m.is_assistant() => Ok(m.content.clone()),
                _ => Err(BadRow::new(
                    format!("responses[{i}]"),
                    "expected a string or a list with one assistant message",
                )),
            },
            other => {
                Err(wrong(format!("responses[{i}]"), "a string or a list with one assistant message", other))
            }
        };
        list.iter().enumerate().map(one).collect()
    }

    /// `ranks` of `n` responses, 1 the best; absent: best first.
    pub(crate) fn ranks(self, n: usize) -> Result<Vec<u32>, BadRow> {
        let list = match self.get("ranks") {
            None => return Ok((1..).take(n).collect()),
            Some(Value::Array(list)) if list.len() == n => list,
            Some(Value::Array(list)) => {
                let problem = format!("expected {n} ranks, one per response, found {}", list.len());
                return Err(BadRow::new("ranks", problem));
            }
            Some(other) => return Err(wrong("ranks", "a list of ranks, one per response", other)),
        };
        let rank = |(i, v): (usize, &Value)| {
            let rank = v.as_u64().and_then(|x| u32::try_from(x).ok()).filter(|x| *x > 0);
            rank.ok_or_else(|| wrong(format!("ranks[{i}]"), "a rank (an integer, 1 the best)", v))
        };
        list.iter().enumerate().map(rank).collect()
    }

    /// `input_ids` and `prompt_len`.
    pub(crate) fn tokens(self) -> Result<(Vec<TokenId>, usize), BadRow> {
        let ids = match self.get("input_ids") {
            Some(Value::Array(list)) => list,
            Some(other) => return Err(wrong("input_ids", "a list of token ids", other)),
            None => return Err(self.missing("fields `input_ids` and `prompt_len`")),
        };
        let id = |(i, v): (usize, &Value)| {
            let id = v.as_u64().and_then(|x| TokenId::try_from(x).ok());
            id.ok_or_else(|| wrong(format!("input_ids[{i}]"), "a token id (an integer from 0 on)", v))
        };
        let ids = ids.iter().enumerate().map(id).collect::<Result<Vec<_>, _>>()?;
        let Some(len) = self.get("prompt_len") else {
            return Err(self.missing("a field `prompt_len` beside `input_ids`"));
        };
        let range = format!("an integer from 1 to {} (the length of `input_ids`)", ids.len());
        match len.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=ids.len()).contains(&n) => Ok((ids, n)),
            _ => Err(wrong("prompt_len", &range, len)),
        }
    }
}

/// Checks a list of `{"role": …, "content": …}`; `path` is the list's field path.
fn messages(path: &str, list: &[Value]) -> Result<Vec<Message>, BadRow> {
    if list.is_empty() {
        return Err(BadRow::new(path, "expected at least one message, found an empty list"));
    }
    let one = |(i, value): (usize, &Value)| {
        let Value::Object(map) = value else {
            let expected = "a message like {\"role\": \"user\", \"content\": \"…\"}";
            return Err(wrong(format!("{path}[{i}]"), expected, value));
        };
        let string = |name: &str| match map.get(name) {
            Some(Value::String(s)) => Ok(s.clone()),
            other => Err(wrong(format!("{path}[{i}].{name}"), "a string", other.unwrap_or(&Value::Null))),
        };
        let message = Message { role: string("role")?, content: string("content")? };
        if message.role.is_empty() {
            let problem = "expected a role such as `user` or `assistant`, found an empty string";
            return Err(BadRow::new(format!("{path}[{i}].role"), problem));
        }
        Ok(message)
    };
    list.iter().enumerate().map(one).collect()
}

fn wrong(field: impl Into<String>, expected: &str, found: &Value) -> BadRow {
    BadRow::new(field, format!("expected {expected}, found {}", describe(found)))
}

/// A JSON value in a few words; numbers are shown, because "found a number" hides what is wrong.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
