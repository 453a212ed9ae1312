//! JSON as Python's `json.dumps` writes it: `NaN`, `Infinity` and `-Infinity` stand where JSON has no word for a
//! number that is not finite. They are read as `null`, the contract's word for it.

use std::borrow::Cow;

const LITERALS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// The text with these literals as `null`; what stands inside strings stays.
pub(crate) fn finite(text: &str) -> Cow<'_, str> {
    if !text.contains("NaN") && !text.contains("Infinity") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    let (mut rest, mut inside) = (text, false);
    while let Some(c) = rest.chars().next() {
        let literal = LITERALS.iter().find(|l| !inside && is_word(rest, l) && !out.ends_with(is_part));
        let taken = match (literal, c) {
            (Some(literal), _) => {
                out.push_str("null");
                rest = &rest[literal.len()..];
                continue;
            }
            // A backslash inside a string takes the next character with it.
            (None, '\\') if inside => c.len_utf8() + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, _) => c.len_utf8(),
        };
        inside ^= c == '"';
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Cow::Owned(out)
}

fn is_word(text: &str, word: &str) -> bool {
    text.strip_prefix(word).is_some_and(|rest| !rest.starts_with(is_part))
}

fn is_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_become_null_outside_strings_only() {
        for (text, expected) in [
            (r#"{"a": NaN, "b":[-Infinity,Infinity]}"#, r#"{"a": null, "b":[null,null]}"#),
            (r#"{"NaN": "NaN, Infinity", "x": NaN}"#, r#"{"NaN": "NaN, Infinity", "x": null}"#),
            (r#"{"a\"NaN": NaN, "\\": -Infinity}"#, r#"{"a\"NaN": null, "\\": null}"#),
            (r#"{"é∞NaN\": NaN": NaN}"#, r#"{"é∞NaN\": NaN": null}"#),
            ("NaN", "null"),
        ] {
            assert_eq!(finite(text), expected);
            serde_json::from_str::<serde_json::Value>(&finite(text)).unwrap();
        }
    }

    #[test]
    fn other_words_stay_and_stay_errors() {
        for text in
            ["NaNs", "xNaN", "--Infinity", "Infinity1", r#"{"a": nan}"#, "\"open NaN", "\"\\", "NaN\\é"]
        {
            let clean = finite(text);
            assert!(clean == text || text == "NaN\\é", "{clean}");
            assert!(serde_json::from_str::<serde_json::Value>(&clean).is_err(), "{text}");
        }
        assert!(matches!(finite(r#"{"a": 1}"#), Cow::Borrowed(_)));
    }
}
