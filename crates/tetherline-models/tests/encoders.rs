//! Encoders against Python transformers: token ids and logits of texts and pairs, in padded batches, cut and empty ones too
//! (`fixtures/scripts/make_encoders.py`).
#![cfg(feature = "encoders")]
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use serde::Deserialize;
use std::path::{Path, PathBuf};
use tetherline_models::{Encoder, ModelFiles};

#[derive(Deserialize)]
struct Golden {
    batches: Vec<Batch>,
}

#[derive(Deserialize)]
struct Batch {
    texts: Vec<String>,
    pairs: Option<Vec<String>>,
    ids: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/encoders")
}

fn load(dir: &Path) -> Encoder {
    Encoder::load(&ModelFiles::dir(dir).unwrap()).unwrap()
}

/// A copy of a directory whose `config.json` is edited.
fn edited(name: &str, from: &str, to: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(root().join(name).join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
    dir
}

#[test]
fn every_family_gives_the_logits_of_transformers() {
    let mut names: Vec<_> = std::fs::read_dir(root()).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.len(), 6);
    for dir in names {
        let golden = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let golden: Golden = serde_json::from_str(&golden).unwrap();
        let encoder = load(&dir);
        for batch in golden.batches {
            let second = |i: usize| batch.pairs.as_ref().map(|p| p[i].as_str());
            let texts: Vec<_> =
                batch.texts.iter().enumerate().map(|(i, t)| (t.as_str(), second(i))).collect();
            for ((text, second), ids) in texts.iter().zip(&batch.ids) {
                assert_eq!(
                    &encoder.ids(text, *second).unwrap(),
                    ids,
                    "{}: {text:?} {second:?}",
                    dir.display()
                );
            }
            assert!(batch.ids.iter().any(|ids| ids.len() == encoder.max_tokens()), "one is cut");
            let logits = encoder.logits(&texts).unwrap();
            let mut worst = 0f32;
            for (ours, theirs) in logits.iter().zip(&batch.logits) {
                assert_eq!((ours.len(), theirs.len()), (encoder.labels().len(), encoder.labels().len()));
                worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
            }
            assert!(worst < 1e-4, "{}: off by {worst}", dir.display());
        }
    }
}

#[test]
fn labels_are_read_and_rows_do_not_depend_on_their_batch() {
    let encoder = load(&root().join("roberta"));
    assert_eq!(encoder.labels(), ["toxic", "insult", "threat"]);
    assert!(encoder.multi_label());
    let encoder = load(&root().join("deberta-v2"));
    assert!(!encoder.multi_label() && encoder.labels().len() == 1);
    // More rows than a batch holds.
    let texts: Vec<String> = (0..150).map(|i| "the boat ".repeat(i % 9)).collect();
    let rows: Vec<_> = texts.iter().map(|t| (t.as_str(), None)).collect();
    let logits = encoder.logits(&rows).unwrap();
    for (i, row) in rows.iter().enumerate().step_by(7) {
        let alone = encoder.logits(&[*row]).unwrap()[0][0];
        assert!((logits[i][0] - alone).abs() < 1e-5, "row {i}: {} and {alone}", logits[i][0]);
    }
    assert!(encoder.logits(&[]).unwrap().is_empty());
}

/// The spelling of transformers 4, and of old BERT files.
#[test]
fn older_configurations_say_the_same() {
    let dir = edited(
        "modernbert",
        "\"rope_parameters\"",
        "\"local_rope_theta\": 20.0, \"global_rope_theta\": 200.0, \"_\"",
    );
    let again = edited("modernbert", "\"layer_types\"", "\"_\"");
    let text = [("the boats and the buoys, the tide turns and turns", None)];
    let whole = load(&root().join("modernbert")).logits(&text).unwrap();
    assert_eq!(load(dir.path()).logits(&text).unwrap(), whole);
    assert_eq!(load(again.path()).logits(&text).unwrap(), whole);
}

#[test]
fn what_cannot_be_used_is_named() {
    let refused = |name: &str, from: &str, to: &str| {
        let dir = edited(name, from, to);
        Encoder::load(&ModelFiles::dir(dir.path()).unwrap()).unwrap_err().to_string()
    };
    let e = refused("bert", "BertForSequenceClassification", "BertForMaskedLM");
    assert!(e.contains("`BertForMaskedLM` is no encoder with a head"), "{e}");
    let e = refused("bert", "\"gelu\"", "\"silu\"");
    assert!(e.contains("`hidden_act`: `silu` is not known"), "{e}");
    let e = refused("deberta-v2", "\"architectures\"", "\"conv_kernel_size\": 3, \"architectures\"");
    assert!(e.contains("`conv_kernel_size`"), "{e}");
    let e = refused("bert", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert!(e.contains("encoder.layer.2"), "{e}");
    let e = refused("modernbert", "\"norm_bias\": false", "\"norm_bias\": true");
    assert!(e.contains("`norm_bias`: true is not supported"), "{e}");
    let e = refused("bert", "\"vocab_size\"", "\"vocab_size\": 50, \"_\"");
    assert!(e.contains("the tokenizer has ids up to"), "{e}");
}
