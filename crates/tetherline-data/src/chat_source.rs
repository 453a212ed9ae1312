//! Where a chat template and its special tokens stand in a model directory, and what can be read off the
//! template's source without running it.

use crate::DataError;
use serde_json::{Map, Value as Json};

/// `chat_template` of `tokenizer_config.json`: a string, a list of `{"name", "template"}`, or an object.
pub(crate) fn configured(config: &Map<String, Json>) -> Result<Option<String>, DataError> {
    match config.get("chat_template") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(source)) => Ok(Some(source.clone())),
        Some(Json::Array(list)) => {
            let entry = |e: &Json| {
                Some((e.get("name")?.as_str()?.to_owned(), e.get("template")?.as_str()?.to_owned()))
            };
            let Some(named) = list.iter().map(entry).collect::<Option<Vec<_>>>() else {
                let problem =
                    "field `chat_template`: expected every entry to have `name` and `template` as strings";
                return Err(DataError::Template(problem.to_owned()));
            };
            default_of(named).map(Some)
        }
        Some(Json::Object(named)) => {
            let texts = named.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())));
            default_of(texts.collect()).map(Some)
        }
        Some(_) => {
            let problem = "field `chat_template`: expected a string or a list of {\"name\", \"template\"}";
            Err(DataError::Template(problem.to_owned()))
        }
    }
}

/// The template named `default`: a conversation without tools needs no other.
pub(crate) fn default_of(named: Vec<(String, String)>) -> Result<String, DataError> {
    let names: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
    named.into_iter().find(|(name, _)| name == "default").map(|(_, source)| source).ok_or_else(|| {
        DataError::Template(format!(
            "field `chat_template`: expected a template named `default`, found `{}`",
            names.join("`, `")
        ))
    })
}

/// `tokenizer_config.json` as an object.
pub(crate) fn parse_config(json: &str) -> Result<Map<String, Json>, DataError> {
    serde_json::from_str(json)
        .map_err(|e| DataError::Template(format!("tokenizer configuration: expected a JSON object: {e}")))
}

/// Every `…_token` with a text: a string, or an object with `content`.
pub(crate) fn specials(config: &Map<String, Json>) -> Vec<(String, String)> {
    let text = |v: &Json| v.as_str().or_else(|| v.get("content")?.as_str()).map(str::to_owned);
    let tokens = config.iter().filter(|(k, _)| k.ends_with("_token"));
    tokens.filter_map(|(k, v)| Some((k.clone(), text(v)?))).collect()
}

/// A stretch of a template's source.
enum Part<'a> {
    /// Text that is printed as it stands.
    Text(&'a str),
    /// `{% … %}` or `{{ … }}`, with its delimiters.
    Code(&'a str),
}

/// Cuts a source into text and code; comments are left out of both.
fn parts(source: &str) -> Vec<Part<'_>> {
    let mut out = Vec::new();
    let mut rest = source;
    while let Some(start) = ["{%", "{{", "{#"].iter().filter_map(|d| rest.find(d)).min() {
        out.push(Part::Text(&rest[..start]));
        let close = match &rest[start..start + 2] {
            "{%" => "%}",
            "{{" => "}}",
            _ => "#}",
        };
        let len = code_len(&rest[start..], close);
        if close != "#}" {
            out.push(Part::Code(&rest[start..start + len]));
        }
        rest = &rest[start + len..];
    }
    out.push(Part::Text(rest));
    out
}

/// Bytes up to and with `close`, which does not count inside a string constant.
fn code_len(code: &str, close: &str) -> usize {
    let mut quote = None;
    let mut chars = code.char_indices().skip(2);
    while let Some((i, c)) = chars.next() {
        match quote {
            Some(_) if c == '\\' => drop(chars.next()),
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if code[i..].starts_with(close) => return i + close.len(),
            None if close != "#}" && (c == '\'' || c == '"') => quote = Some(c),
            None => {}
        }
    }
    code.len()
}

/// What the template may print by itself: its text and every string constant, with a NUL between any two,
/// so that a search finds nothing that spans them.
pub(crate) fn literal_text(source: &str) -> String {
    let mut out = String::new();
    for part in parts(source) {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Code(code) => {
                let mut chars = code.chars();
                while let Some(c) = chars.next() {
                    if c == '\'' || c == '"' {
                        out.push('\0');
                        constant(&mut chars, c, &mut out);
                    }
                }
            }
        }
        out.push('\0');
    }
    out
}

/// The rest of a string constant up to `quote`, its escapes resolved.
fn constant(chars: &mut std::str::Chars<'_>, quote: char, out: &mut String) {
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => return,
            },
            c if c == quote => return,
            c => out.push(c),
        }
    }
}

/// Turns `{% generation %}`, which marks what the assistant wrote, into a filter block in a scope of its own,
/// as Jinja's engine in Python runs it. The second value says whether there was any.
pub(crate) fn generation_as_filter(source: &str, filter: &str) -> (String, bool) {
    let (mut out, mut found) = (String::with_capacity(source.len()), false);
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let (inside, after) = (&rest[start + 2..start + len], &rest[start + len..]);
        out.push_str(&rest[..start + 2]);
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&match word {
            "generation" => inside.replace(word, &format!("with %}}{{% filter {filter}")),
            "endgeneration" => inside.replace(word, "endfilter %}{% endwith"),
            _ => inside.to_owned(),
        });
        found |= word == "generation";
        rest = after;
    }
    (out + rest, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_template_prints_is_its_text_and_its_strings() {
        let source = "<a>{# '<b>' #}{{ '<c>\\n' + \"it's }} <d>\" }}{% if x == '<e' %}f>{% endif %}";
        let text = literal_text(source);
        for inside in ["<a>", "<c>\n", "it's }} <d>", "<e", "f>"] {
            assert!(text.contains(inside), "{inside:?} in {text:?}");
        }
        for outside in ["<b>", "<ef>", "<e>", "x =="] {
            assert!(!text.contains(outside), "{outside:?} in {text:?}");
        }
        assert!(literal_text("{{ 'open").contains("open"), "a broken template is no panic");
    }
}
