//! `[data.chat]`: variables of the chat template.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use tetherline_core::FieldError;

/// Names that the program gives a template itself.
const GIVEN: [&str; 6] =
    ["messages", "add_generation_prompt", "continue_final_message", "tools", "documents", "strftime_now"];

/// What the chat template is told besides the messages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatSection {
    /// Name → value, as keyword arguments of `apply_chat_template` in transformers: `{ enable_thinking = false }`.
    pub variables: BTreeMap<String, Value>,
}

impl ChatSection {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty()
    }

    /// Checks names and values. Whether a template knows the names is seen where it is loaded.
    ///
    /// # Errors
    /// The first that no template can be given.
    pub fn validate(&self) -> Result<(), FieldError> {
        for (name, value) in &self.variables {
            let refuse = |problem: &str| Err(FieldError::new(format!("variables.{name}"), problem));
            let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !word || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
                return refuse(
                    "no template can have a variable of this name; expected letters, digits and `_`",
                );
            }
            if GIVEN.contains(&name.as_str()) {
                return refuse("the program gives this to the template itself");
            }
            if name.ends_with("_token") {
                return refuse("special tokens come from the tokenizer");
            }
            if !plain(value) {
                return refuse("must be a text, a number, true, false, or a list or table of these");
            }
        }
        Ok(())
    }
}

/// Whether a value of a recipe is one in JSON too: `nan` and `inf` are not, which come here as null.
fn plain(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => items.iter().all(plain),
        Value::Object(map) => map.values().all(plain),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}
