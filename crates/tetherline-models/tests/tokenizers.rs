//! Tokenizers of every kind against what Python transformers makes of the same directories
//! (`fixtures/scripts/tokenizer_goldens.py`).
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use tetherline_models::{ModelFiles, Tokenizer};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers")
}

fn goldens() -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("goldens.json")).unwrap()).unwrap()
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::load(&ModelFiles::dir(fixtures().join(name)).unwrap(), &[]).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    serde_json::from_value(v.clone()).unwrap()
}

#[test]
fn texts_are_encoded_and_decoded_as_in_transformers() {
    let mut texts = 0;
    for (name, golden) in goldens().as_object().unwrap() {
        let t = load(name);
        assert_eq!(u64::from(t.max_id()) + 1, golden["vocab"].as_u64().unwrap(), "{name}: size");
        assert_eq!(t.eos_token().map(u64::from), golden["eos"].as_u64(), "{name}: end of sequence");
        assert_eq!(t.eos(), t.eos_token().as_slice(), "{name}");
        for case in golden["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let plain = ids(&case["ids_without_specials"]);
            assert_eq!(t.encode(text, true).unwrap(), ids(&case["ids"]), "{name}: {text:?} with specials");
            assert_eq!(t.encode(text, false).unwrap(), plain, "{name}: {text:?}");
            assert_eq!(t.decode(&plain, false).unwrap(), case["decoded"], "{name}: {text:?} decoded");
            assert_eq!(t.decode(&plain, true).unwrap(), case["skipped"], "{name}: {text:?} without specials");
            texts += 1;
        }
    }
    assert_eq!(texts, 10 * 23);
}

/// A special token that is typed becomes text: its id does not come out, and decoding gives the text back.
#[test]
fn typed_special_tokens_are_text() {
    for name in ["byte-bpe", "spm-bpe", "metaspace", "unigram", "wordpiece"] {
        let t = load(name);
        let specials: Vec<String> =
            t.added_tokens().into_iter().filter(|(_, s)| *s).map(|(t, _)| t).collect();
        assert!(specials.len() >= 3, "{name}: {specials:?}");
        for token in &specials {
            let id = t.token_to_id(token).unwrap();
            for text in [token.clone(), format!("tide {token}{token} ropes"), format!("a{token}b\n {token}")]
            {
                assert!(t.encode(&text, false).unwrap().contains(&id), "{name}: {text:?} has no {token}");
                let pieces = t.special_pieces(&text);
                let typed = t.encode_pieces(&pieces, false).unwrap();
                // An unknown token stands for whatever the vocabulary lacks.
                if !token.to_lowercase().contains("unk") {
                    assert!(!typed.ids.contains(&id), "{name}: {text:?} is {:?}", typed.ids);
                }
                if name == "byte-bpe" {
                    assert_eq!(t.decode(&typed.ids, true).unwrap(), text);
                }
                // Every byte of the text is some token's, in order.
                assert!(typed.offsets.iter().all(|o| o.end <= text.len()));
                assert!(typed.offsets.windows(2).all(|w| w[0].start <= w[1].start), "{:?}", typed.offsets);
            }
        }
    }
}

#[test]
fn what_the_post_processor_adds_is_added_to_typed_text_too() {
    let t = load("spm-bpe");
    let pieces = t.special_pieces("a</s>");
    assert_eq!(pieces, [("a", false), ("</s>", true)]);
    let plain = t.encode_pieces(&pieces, false).unwrap().ids;
    assert_eq!(t.encode_pieces(&pieces, true).unwrap().ids, [&[1], plain.as_slice()].concat());
    let t = load("unigram");
    let pieces = t.special_pieces("boats </s>");
    let ids = t.encode_pieces(&pieces, true).unwrap().ids;
    assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1, "only the one of the post-processor: {ids:?}");
    assert_eq!(ids.last(), Some(&1));
}

#[test]
fn a_directory_with_a_slow_tokenizer_says_how_to_convert_it() {
    for (file, said) in [
        (Some("tokenizer.model"), "convert its slow tokenizer (tokenizer.model) with: python -c"),
        (Some("vocab.json"), "convert its slow tokenizer (vocab.json and merges.txt) with: python -c"),
        (Some("vocab.txt"), "save_pretrained("),
        (None, "no other tokenizer is there"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        if let Some(file) = file {
            std::fs::write(dir.path().join(file), "{}").unwrap();
        }
        let e = Tokenizer::load(&ModelFiles::dir(dir.path()).unwrap(), &[]).unwrap_err().to_string();
        assert!(e.contains(said) && e.lines().count() == 1, "{e}");
    }
}

#[test]
fn added_tokens_at_other_ids_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let from = fixtures().join("variants/decoder");
    std::fs::copy(from.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config = |id: &str| {
        let decoder = serde_json::json!({id: {"content": "<new>", "special": true}});
        let config = serde_json::json!({"added_tokens_decoder": decoder}).to_string();
        std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        Tokenizer::load(&ModelFiles::dir(dir.path()).unwrap(), &[])
    };
    let next = load("spm-bpe").max_id() + 1;
    assert_eq!(config(&next.to_string()).unwrap().token_to_id("<new>"), Some(next));
    for bad in ["5", "9999", "x"] {
        let e = config(bad).unwrap_err().to_string();
        assert!(e.contains("tokenizer_config.json: added_tokens_decoder") && e.contains("<new>"), "{e}");
    }
}

#[test]
fn every_end_of_sequence_counts() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixtures().join("byte-bpe").join(file), dir.path().join(file)).unwrap();
    }
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [400, 7]}"#).unwrap();
    let t = Tokenizer::load(&ModelFiles::dir(dir.path()).unwrap(), &[7, 9]).unwrap();
    let named = t.token_to_id("<|im_end|>").unwrap();
    assert_eq!(t.eos(), [400, 7, 9, named]);
}

/// The text models of Gemma 3 have no row for the placeholder of images that their tokenizer has behind all others.
#[test]
fn a_placeholder_of_images_does_not_count_to_the_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("byte-bpe/tokenizer.json")).unwrap()).unwrap();
    let most = load("byte-bpe").max_id();
    let with = |json: &mut Value, token: &str, id: u32| {
        let added = json["added_tokens"].as_array_mut().unwrap();
        let mut new = added[0].clone();
        (new["id"], new["content"]) = (id.into(), token.into());
        added.push(new);
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::load(&ModelFiles::dir(dir.path()).unwrap(), &[]).unwrap().max_id()
    };
    assert_eq!(with(&mut json, "<image_soft_token>", most + 1), most);
    assert_eq!(with(&mut json, "<another>", most + 2), most + 2);
}
