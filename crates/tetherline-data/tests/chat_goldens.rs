//! Chat templates against Hugging Face's own renderings (`fixtures/scripts/chat_goldens.py`).
//!
//! The templates in `tests/chat` write the formats of their model families with the Jinja that such
//! templates use: macros, namespaces, slices, whitespace control, string methods, `raise_exception`.
//! `TETHER_CHAT_TEMPLATES` names another folder that the script was run on, to try real templates.

use serde_json::Value;
use std::path::PathBuf;
use tetherline_data::{ChatTemplate, DataError, Message};

#[test]
fn templates_render_as_in_transformers() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat");
    let folder = PathBuf::from(std::env::var("TETHER_CHAT_TEMPLATES").unwrap_or_else(|_| default.to_owned()));
    let goldens: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("goldens.json")).unwrap()).unwrap();
    let config = goldens["specials"].to_string();
    let (mut refused, mut wrong) = (0, Vec::new());
    let cases = goldens["cases"].as_array().unwrap();
    for case in cases {
        let name = format!("{} / {}", case["template"], case["case"]);
        let source = std::fs::read_to_string(folder.join(case["template"].as_str().unwrap())).unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let template = match ChatTemplate::from_jinja(&source, &config) {
            Ok(template) => template,
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                continue;
            }
        };
        match (
            template.render(&messages, case["add_generation_prompt"] == true),
            &case["text"],
            &case["error"],
        ) {
            (Ok(got), Value::String(want), _) if got == *want => {}
            (Err(DataError::Template(got)), _, Value::String(want)) if got.contains(want.as_str()) => {
                refused += 1
            }
            (got, want, error) => wrong.push(format!("{name}:\n  got  {got:?}\n  want {want} {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(!cases.is_empty() && refused < cases.len(), "nothing was rendered");
    if folder.as_path() == std::path::Path::new(default) {
        assert!(cases.len() == 49 && refused >= 5, "{} cases, {refused} refused", cases.len());
    }
}
