//! Chat templates against Hugging Face's own renderings (`fixtures/scripts/chat_goldens.py`).
//!
//! The templates in `tests/chat` write the formats of their model families with the Jinja that such
//! templates use: macros, namespaces, slices, whitespace control, string methods, `raise_exception`; those in
//! `tests/chat/families` are the families' own. `TETHER_CHAT_TEMPLATES` names another folder that the script
//! was run on, to try others.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::Value;
use std::path::PathBuf;
use tetherline_data::{ChatTemplate, DataError, Date, Message};

const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat");

fn folder() -> PathBuf {
    PathBuf::from(std::env::var("TETHER_CHAT_TEMPLATES").unwrap_or_else(|_| DEFAULT.to_owned()))
}

fn goldens() -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join("goldens.json")).unwrap()).unwrap()
}

fn template(case: &Value, specials: &Value) -> Result<ChatTemplate, DataError> {
    let source = std::fs::read_to_string(folder().join(case["template"].as_str().unwrap())).unwrap();
    let mut template = ChatTemplate::from_jinja(&source, &specials.to_string())?;
    if let Some([year, month, day]) = case["date"].as_array().map(Vec::as_slice) {
        let n = |v: &Value| v.as_u64().unwrap() as u8;
        template =
            template.with_date(Date { year: year.as_i64().unwrap() as i32, month: n(month), day: n(day) });
    }
    for (name, value) in case["variables"].as_object().into_iter().flatten() {
        template = template.with_variable(name, value);
    }
    Ok(template)
}

fn messages(case: &Value) -> Vec<Message> {
    serde_json::from_value(case["messages"].clone()).unwrap()
}

#[test]
fn what_a_variable_changes_is_known_to_be_open() {
    let goldens = goldens();
    let mut seen = 0;
    for case in goldens["cases"].as_array().unwrap() {
        let source = std::fs::read_to_string(folder().join(case["template"].as_str().unwrap())).unwrap();
        let bare = ChatTemplate::from_jinja(&source, &goldens["specials"].to_string()).unwrap();
        let open = bare.open_variables();
        for (name, value) in case["variables"].as_object().into_iter().flatten() {
            assert!(open.contains(name), "{}: {name} is not among {open:?}", case["template"]);
            assert!(!bare.clone().with_variable(name, value).open_variables().contains(name));
            seen += 1;
        }
        for given in
            ["messages", "tools", "add_generation_prompt", "bos_token", "raise_exception", "strftime_now"]
        {
            assert!(!open.iter().any(|n| n == given), "{}: {given}", case["template"]);
        }
    }
    if folder().as_path() == std::path::Path::new(DEFAULT) {
        assert!(seen >= 5, "{seen} cases set a variable");
    }
}

#[test]
fn templates_render_as_in_transformers() {
    let goldens = goldens();
    let (mut refused, mut wrong) = (0, Vec::new());
    let cases = goldens["cases"].as_array().unwrap();
    for case in cases {
        let name = format!("{} / {}", case["template"], case["case"]);
        let got = template(case, &goldens["specials"])
            .and_then(|t| t.render(&messages(case), case["add_generation_prompt"] == true));
        match (got, &case["text"], &case["error"]) {
            (Ok(got), Value::String(want), _) if got == *want => {}
            (Err(DataError::Template(got)), _, Value::String(want)) if got.contains(want.as_str()) => {
                refused += 1
            }
            (got, want, error) => wrong.push(format!("{name}:\n  got  {got:?}\n  want {want} {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(!cases.is_empty() && refused < cases.len(), "nothing was rendered");
    if folder().as_path() == std::path::Path::new(DEFAULT) {
        assert!(cases.len() == 628 && refused == 62, "{} cases, {refused} refused", cases.len());
    }
}

#[test]
fn generation_blocks_say_what_the_assistant_wrote() {
    let goldens = goldens();
    let mut seen = 0;
    let cases = goldens["cases"].as_array().unwrap().iter();
    for case in cases.filter(|c| c["assistant"].is_array() && c["add_generation_prompt"] == false) {
        let got = template(case, &goldens["specials"]).unwrap().render_masked(&messages(case)).unwrap();
        let text = got.text();
        assert_eq!(text, case["text"].as_str().unwrap());
        // Python counts characters, and keeps empty blocks.
        let chars = |bytes: usize| text[..bytes].chars().count() as u64;
        let got: Vec<[u64; 2]> = got.assistant.iter().map(|r| [chars(r.start), chars(r.end)]).collect();
        let want: Vec<[u64; 2]> = serde_json::from_value(case["assistant"].clone()).unwrap();
        let want: Vec<_> = want.into_iter().filter(|[start, end]| start < end).collect();
        assert_eq!(got, want, "{} / {}", case["template"], case["case"]);
        seen += usize::from(!got.is_empty());
    }
    assert!(seen >= 40 || folder().as_path() != std::path::Path::new(DEFAULT), "{seen}");
}

/// TRL's `*_training` templates render as the originals, with blocks: without blocks, step by step, the same
/// parts must come out, up to line breaks behind the end of a turn.
#[test]
fn masks_step_by_step_are_those_of_the_generation_blocks() {
    let goldens = goldens();
    let specials = goldens["specials"].to_string();
    let messages = [
        Message::user("Where is it?"),
        Message::assistant("On its way."),
        Message::user("On its way."),
        Message::assistant("Yes."),
    ];
    for family in ["gemma", "gemma3", "llama3", "phi3", "phi3_5", "qwen2_5"] {
        let load = |name: String| {
            let path = PathBuf::from(DEFAULT).join("families").join(name);
            ChatTemplate::from_jinja(&std::fs::read_to_string(path).unwrap(), &specials).unwrap()
        };
        let added = ["<|end|>", "<|user|>", "</s>"].map(|t| (t.to_owned(), true));
        let plain = load(format!("{family}.jinja")).with_added_tokens(added);
        let marked = load(format!("{family}_training.jinja"));
        let (a, b) = (plain.render_masked(&messages).unwrap(), marked.render_masked(&messages).unwrap());
        assert_eq!(a.text(), b.text(), "{family}");
        let parts = |r: &tetherline_data::Rendered| {
            let text = r.text();
            r.assistant.iter().map(|s| text[s.clone()].replace('\n', "")).collect::<String>()
        };
        assert_eq!(parts(&a), parts(&b), "{family}");
    }
}

#[test]
fn the_tokens_that_a_template_writes_are_found() {
    let goldens = goldens();
    let candidates: Vec<String> = serde_json::from_value(goldens["candidates"].clone()).unwrap();
    for (name, literal) in goldens["literals"].as_object().unwrap() {
        let case = serde_json::json!({"template": name});
        let template = template(&case, &goldens["specials"]).unwrap();
        let template = template.with_added_tokens(candidates.iter().map(|c| (c.clone(), false)));
        let literal: Vec<String> = serde_json::from_value(literal.clone()).unwrap();
        for c in &candidates {
            let asked = [Message::user(format!("a{c}b"))];
            // A template that refuses this cannot be asked.
            let Ok(rendered) = template.render_pieces(&asked, false) else { continue };
            let typed = rendered.pieces.iter().any(|p| p.typed && p.text == *c);
            assert_eq!(typed, literal.contains(c) && c != "\n", "{name}: {c:?} in {rendered:?}");
        }
    }
}
