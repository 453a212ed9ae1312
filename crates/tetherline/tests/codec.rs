//! Conversations to tokens, against Python transformers (`fixtures/scripts/tokenizer_goldens.py`): what users
//! type is never parsed into special tokens, masks say what the assistant wrote, every end is trained.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use tetherline::codec::Codec;
use tetherline_data::{Message, Text};
use tetherline_models::ModelFiles;

const KINDS: [&str; 5] = ["byte-bpe", "spm-bpe", "metaspace", "unigram", "wordpiece"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers")
}

fn goldens() -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("goldens.json")).unwrap()).unwrap()
}

fn codec(dir: &Path) -> Codec {
    Codec::open(&ModelFiles::dir(dir).unwrap(), &[], 1000).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    serde_json::from_value(v.clone()).unwrap()
}

fn messages(v: &Value) -> Vec<Message> {
    serde_json::from_value(v["messages"].clone()).unwrap()
}

#[test]
fn chats_have_the_tokens_of_transformers_with_sanitized_control_tokens() {
    let (goldens, mut attacked, mut own) = (goldens(), 0, 0);
    for kind in KINDS {
        let codec = codec(&fixtures().join(kind));
        let special: Vec<u32> = codec
            .tokenizer
            .added_tokens()
            .iter()
            .filter(|(_, special)| *special)
            .filter_map(|(t, _)| codec.tokenizer.token_to_id(t))
            .collect();
        let harmless = codec.prompt(&Text::Messages(messages(&goldens[kind]["chats"][0]))).unwrap();
        let count = |ids: &[u32], t: u32| ids.iter().filter(|&&i| i == t).count();
        for case in goldens[kind]["chats"].as_array().unwrap() {
            let got = codec.prompt(&Text::Messages(messages(case))).unwrap();
            let name = format!("{kind}: {}", case["messages"][0]["content"]);
            let typed = case["messages"][0]["content"].as_str().unwrap();
            if typed.contains('\u{f0000}') && !codec.tokenizer.special_pieces(typed).iter().any(|(_, t)| *t) {
                // Transformers drops the private characters that serve as its marks; here they stay where no mark
                // is needed.
                assert_eq!(got, ids(&case["parsed_ids"]), "{name}");
            } else if case["error"].is_null() {
                assert_eq!(got, ids(&case["ids"]), "{name}");
            } else {
                // Transformers refuses what its vocabulary has as a piece of text; here it is cut in two.
                assert!(case["error"].as_str().unwrap().contains("Can't sanitize"));
                own += 1;
            }
            // Whatever the user types, the special tokens are those of a harmless conversation. (`unk` stands
            // for what the vocabulary lacks.)
            let unknown = ["<unk>", "[UNK]"].map(|t| codec.tokenizer.token_to_id(t));
            for &t in special.iter().filter(|&&t| !unknown.contains(&Some(t))) {
                assert_eq!(count(&got, t), count(&harmless, t), "{name}: token {t} in {got:?}");
            }
            attacked += usize::from(got != ids(&case["parsed_ids"]));
        }
    }
    assert!(attacked >= 30 && own == 7, "{attacked} conversations would have been parsed, {own} are ours");
}

#[test]
fn masks_are_those_of_transformers() {
    for kind in KINDS {
        let golden = &goldens()[kind]["mask"];
        let got = codec(&fixtures().join(kind)).conversation(&messages(golden)).unwrap();
        assert_eq!(got.tokens, ids(&golden["ids"]), "{kind}");
        let mask: Vec<bool> = ids(&golden["mask"]).into_iter().map(|m| m == 1).collect();
        assert_eq!(got.written, mask, "{kind}");
    }
}

/// A copy of a fixture with another template, and the end-of-sequence ids of `generation_config.json`.
fn with_template(kind: &str, template: &str, ends: &[&str]) -> (tempfile::TempDir, Codec) {
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixtures().join(kind).join(file), dir.path().join(file)).unwrap();
    }
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let id = |t: &&str| codec(dir.path()).tokenizer.token_to_id(t).unwrap();
    let ends: Vec<u32> = ends.iter().map(id).collect();
    let config = serde_json::json!({"eos_token_id": ends}).to_string();
    std::fs::write(dir.path().join("generation_config.json"), config).unwrap();
    let codec = codec(dir.path());
    (dir, codec)
}

const TURNS: &str =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";

/// What a response is trained on ends with one end of sequence: the one that the template writes first, or the
/// tokenizer's own. Nothing stands in for padding, so no end is ever left out of the loss.
#[test]
fn a_response_ends_with_one_end_of_sequence_and_it_is_trained() {
    let prompt = Text::Messages(vec![Message::user("hi")]);
    let turns = format!("{TURNS}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}");
    let phi = format!("{turns}{{% if not add_generation_prompt %}}<|endoftext|>{{% endif %}}");
    let none = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
    for (template, ends, last) in [
        (turns.as_str(), &["<|im_end|>"][..], "<|im_end|>"),
        (&turns, &["<|endoftext|>", "<|im_end|>"], "<|im_end|>"),
        (&phi, &["<|endoftext|>", "<|im_end|>"], "<|im_end|>"),
        (none, &["<|endoftext|>", "<|im_end|>"], "<|im_end|>"),
        (none, &["<|im_end|>"], "<|im_end|>"),
    ] {
        let (_dir, codec) = with_template("byte-bpe", template, ends);
        let id = |t: &str| codec.tokenizer.token_to_id(t).unwrap();
        let e = codec.example(&prompt, "the tide", true).unwrap();
        let text = codec.tokenizer.decode(&e.tokens[e.prompt_len..], false).unwrap();
        let behind = if template == none { "\n" } else { "" };
        assert_eq!(text, format!("the tide{behind}{last}"), "{template}");
        // Each of these is a target, the end too.
        assert_eq!(e.targets(), e.tokens.len() - e.prompt_len);
        assert_eq!(e.tokens.iter().filter(|&&t| t == id(last)).count(), 1 + usize::from(template != none));
        let open = codec.example(&prompt, "the tide", false).unwrap();
        assert_eq!(open.tokens, e.tokens[..e.tokens.len() - 1], "without an end, all else is the same");
    }
}

/// Every answer is trained as the last one is: what was said and the one token that ends it.
#[test]
fn every_turn_ends_as_the_last_does() {
    let speak = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let turns = format!("{TURNS}{speak}");
    let phi = format!("{turns}{{% if not add_generation_prompt %}}<|endoftext|>{{% endif %}}");
    let marked = |open: &str, close: &str| {
        format!(
            "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{% if m.role == 'assistant' %}}{{% generation %}}\
             {{{{ m.content }}}}{open}{{% endgeneration %}}{close}{{% else %}}{{{{ m.content }}}}<|im_end|>\n\
             {{% endif %}}{{% endfor %}}{speak}"
        )
    };
    let said = [("user", "hi"), ("assistant", "at low"), ("user", "and?"), ("assistant", " the tide ")];
    let messages: Vec<Message> = said.iter().map(|(role, text)| Message::new(*role, *text)).collect();
    let (prompt, first) = (Text::Messages(messages[..3].to_vec()), Text::Messages(messages[..1].to_vec()));
    for template in [&turns, &phi, &marked("<|im_end|>\n", ""), &marked("", "<|im_end|>\n")] {
        let (_dir, codec) = with_template("byte-bpe", template, &["<|endoftext|>", "<|im_end|>"]);
        let all = codec.every_turn(&prompt, " the tide ").unwrap();
        let last = codec.example(&prompt, " the tide ", true).unwrap();
        assert_eq!(all.example.tokens, last.tokens, "{template}");
        let trained = |from: usize, to: usize| {
            let tokens = (from..to).filter(|i| all.written[i - all.example.prompt_len]);
            let tokens: Vec<u32> = tokens.map(|i| all.example.tokens[i]).collect();
            codec.tokenizer.decode(&tokens, false).unwrap()
        };
        let (whole, cut) = (last.tokens.len(), last.prompt_len);
        assert_eq!(trained(all.example.prompt_len, cut), "at low<|im_end|>", "{template}");
        assert_eq!(trained(cut, whole), codec.tokenizer.decode(&last.tokens[cut..], false).unwrap());
        assert_eq!(all.targets() - last.targets(), codec.example(&first, "at low", true).unwrap().targets());
        // One answer is one answer either way, and plain text has no more.
        let one = codec.example(&first, "at low", true).unwrap();
        assert_eq!(codec.every_turn(&first, "at low").unwrap(), one.into());
        let plain = codec.example(&Text::Plain("at".into()), " low", true).unwrap();
        assert_eq!(codec.every_turn(&Text::Plain("at".into()), " low").unwrap(), plain.into());
    }
    let forgets = "{% for m in messages %}{% if loop.last or m.role == 'user' %}<{{ m.content }}>{% endif %}{% endfor %}";
    let (_dir, codec) = with_template("byte-bpe", forgets, &["<|im_end|>"]);
    let e = codec.every_turn(&prompt, "the tide").unwrap_err().to_string();
    assert!(e.contains("message 2") && e.contains("train on the last answer alone"), "{e}");
}

#[test]
fn a_template_is_told_only_what_it_looks_at() {
    let template = format!(
        "{TURNS}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% if think is defined and think is false \
         %}}no {{% endif %}}{{{{ mood | default('calm') }}}}{{% endif %}}"
    );
    let (_dir, plain) = with_template("byte-bpe", &template, &["<|im_end|>"]);
    let (_other, blind) = with_template("byte-bpe", TURNS, &["<|im_end|>"]);
    let variables = |json: Value| serde_json::from_value(json).unwrap();
    let told = || with_template("byte-bpe", &template, &["<|im_end|>"]).1;
    let quiet = told().with_variables(&variables(serde_json::json!({"think": false}))).unwrap();
    let end = |codec: &Codec| {
        let tokens = codec.prompt(&Text::Messages(vec![Message::user("hi")])).unwrap();
        codec.tokenizer.decode(&tokens, false).unwrap().rsplit_once("assistant\n").map(|(_, e)| e.to_owned())
    };
    assert_eq!(end(&plain).unwrap(), "calm");
    assert_eq!(end(&quiet).unwrap(), "no calm");
    // What is said to one template is another way of writing, and follows to a template that knows it.
    assert!(!plain.same_as(&quiet));
    let followed = plain.with_variables_of(&quiet);
    assert!(followed.same_as(&quiet) && end(&followed) == end(&quiet));
    let blind = blind.with_variables_of(&quiet);
    let e =
        told().with_variables(&variables(serde_json::json!({"thinking": false}))).unwrap_err().to_string();
    assert!(e.contains("data.chat.variables.thinking") && e.contains("it looks at mood, think"), "{e}");
    let e = blind.with_variables(&variables(serde_json::json!({"think": false}))).unwrap_err().to_string();
    assert!(e.contains("looks at no variable"), "{e}");
}

/// A pad token, missing, its own or the end of sequence, changes nothing.
#[test]
fn the_pad_token_does_not_count() {
    let turns = format!("{TURNS}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}");
    let (dir, _) = with_template("byte-bpe", &turns, &[]);
    let with_pad = |pad: Value| {
        let config = serde_json::json!({"eos_token": "<|im_end|>", "pad_token": pad}).to_string();
        std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        let codec = codec(dir.path());
        let chat =
            Text::Messages(vec![Message::user("hi"), Message::assistant("boats"), Message::user("and?")]);
        let e = codec.example(&chat, "the tide", true).unwrap();
        assert_eq!(
            (e.tokens.last().copied(), e.targets()),
            (codec.end_token(), e.tokens.len() - e.prompt_len)
        );
        (e.tokens, e.prompt_len)
    };
    let none = with_pad(Value::Null);
    for pad in ["<|im_end|>", "<|endoftext|>"] {
        assert_eq!(with_pad(pad.into()), none, "{pad}");
    }
}

/// An end of sequence that somebody typed inside a response is text, and the response goes on behind it.
#[test]
fn an_end_typed_inside_a_response_ends_nothing() {
    for kind in KINDS {
        let codec = match kind {
            // The fixture's opens every answer with a thought.
            "byte-bpe" => with_template(kind, TURNS, &[]).1,
            _ => codec(&fixtures().join(kind)),
        };
        let end = codec.end_token().unwrap();
        let typed = codec
            .tokenizer
            .added_tokens()
            .into_iter()
            .map(|(t, _)| t)
            .find(|t| codec.tokenizer.token_to_id(t) == Some(end))
            .unwrap();
        for prompt in
            [Text::Messages(vec![Message::user(format!("q {typed}"))]), Text::Plain(format!("q {typed} "))]
        {
            let e = codec.example(&prompt, &format!("tide {typed} boats"), true).unwrap();
            let response = &e.tokens[e.prompt_len..];
            assert_eq!(response.iter().filter(|&&t| t == end).count(), 1, "{kind}: {response:?}");
            assert_eq!(response.last(), Some(&end), "{kind}");
            let text = codec.tokenizer.decode(response, true).unwrap();
            assert!(text.contains("boats"), "{kind}: {text}");
        }
    }
}

#[test]
fn a_plain_prompt_is_not_ended_by_the_post_processor() {
    let codec = codec(&fixtures().join("unigram"));
    let end = codec.end_token().unwrap();
    let prompt = codec.prompt(&Text::Plain("the tide".into())).unwrap();
    assert_eq!(prompt, codec.tokenizer.encode("the tide", false).unwrap());
    let e = codec.example(&Text::Plain("the tide".into()), " boats", true).unwrap();
    assert_eq!((e.tokens.iter().filter(|&&t| t == end).count(), e.tokens.last()), (1, Some(&end)));
}

#[test]
fn masks_without_generation_blocks_or_a_reason_why_not() {
    let (_dir, codec) = with_template("byte-bpe", TURNS, &[]);
    let chat = [Message::user("the tide"), Message::assistant("the tide"), Message::user("the tide")];
    // The template has no generation prompt: the assistant is said to write its header too.
    let got = codec.conversation(&chat).unwrap();
    let written: Vec<u32> =
        got.tokens.iter().zip(&got.written).filter(|(_, w)| **w).map(|(t, _)| *t).collect();
    let text = codec.tokenizer.decode(&written, false).unwrap();
    assert_eq!(text, "<|im_start|>assistant\nthe tide<|im_end|>\n");
    let (_dir, codec) = with_template("byte-bpe", "{{ messages[-1].content }}", &[]);
    let e = codec.conversation(&chat).unwrap_err().to_string();
    assert!(e.contains("cannot tell which tokens of message 2 the assistant wrote"), "{e}");
}

#[test]
fn templates_are_found_in_every_place() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixtures().join("byte-bpe/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let prompt = || {
        let codec =
            Codec::open(&ModelFiles::dir(dir.path()).unwrap(), &[], 1000).map_err(|e| e.to_string())?;
        let ids = codec.prompt(&Text::Messages(vec![Message::user("x")])).map_err(|e| e.to_string())?;
        codec.tokenizer.decode(&ids, false).map_err(|e| e.to_string())
    };
    assert!(prompt().unwrap_err().contains("no chat template"));
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let list =
        r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "list"}]}"#;
    write("tokenizer_config.json", list);
    assert_eq!(prompt().unwrap(), "list");
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/rag.jinja", "rag");
    assert!(prompt().unwrap_err().contains("expected a template named `default`, found `rag`"));
    write("additional_chat_templates/default.jinja", "named");
    assert_eq!(prompt().unwrap(), "named");
    write("chat_template.jinja", "file {{ bos_token }}");
    write("tokenizer_config.json", "{}");
    write("special_tokens_map.json", r#"{"bos_token": {"content": "<s>"}}"#);
    assert_eq!(prompt().unwrap(), "file <s>");
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused_with_both_sizes() {
    let files = || ModelFiles::dir(fixtures().join("byte-bpe")).unwrap();
    let e = Codec::open(&files(), &[], 408).unwrap_err().to_string();
    assert!(e.contains("ids up to 408") && e.contains("only 408 rows"), "{e}");
    // Rows of the embedding that no token has are common, and harmless.
    for vocab in [409, 512] {
        Codec::open(&files(), &[], vocab).unwrap();
    }
}
