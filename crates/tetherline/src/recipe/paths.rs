//! Paths in a recipe are relative to the file (or command line) they were written in.

use std::path::Path;
use toml::{Table, Value};

/// Keys of `[data]` that are file paths.
const DATA: &[&str] = &["sft", "prompts", "pairs", "pairs_eval", "eval_prompts"];
/// Keys of `[model]` that may be directories.
const MODEL: &[&str] = &["policy", "reference", "reward", "cost"];

/// Makes every path in `table` absolute, taking it relative to `base`.
///
/// A `[model]` entry is only taken as a path where it looks like one or where the directory exists:
/// `owner/name` may be a hub id.
pub(super) fn resolve(table: &mut Table, base: &Path) {
    if let Some(Value::Table(data)) = table.get_mut("data") {
        for key in DATA {
            if let Some(Value::String(text)) = data.get_mut(*key) {
                *text = absolute(base, text);
            }
        }
    }
    if let Some(Value::Table(model)) = table.get_mut("model") {
        for key in MODEL {
            match model.get_mut(*key) {
                Some(Value::Array(several)) => several.iter_mut().for_each(|one| resolve_model(one, base)),
                Some(one) => resolve_model(one, base),
                None => {}
            }
        }
    }
    for section in ["reward", "cost"] {
        let Some(Value::Array(rules)) = table.get_mut(section).and_then(|s| s.get_mut("rule")) else {
            continue;
        };
        let encoders = rules.iter_mut().filter_map(|rule| rule.get_mut("encoder")?.get_mut("model"));
        encoders.for_each(|model| resolve_model(model, base));
    }
}

fn resolve_model(value: &mut Value, base: &Path) {
    if let Value::String(text) = value
        && text != "frontdesk"
        && (text.starts_with('.') || base.join(&text).is_dir())
    {
        *text = absolute(base, text);
    }
}

fn absolute(base: &Path, text: &str) -> String {
    let joined = base.join(text);
    // Falls back to the joined path where there is no current directory.
    let path = std::path::absolute(&joined).unwrap_or(joined);
    path.to_string_lossy().into_owned()
}
