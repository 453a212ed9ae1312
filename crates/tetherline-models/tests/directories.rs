//! Model directories on disk: saved ones load to the same bits, broken ones are refused by name.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use safetensors::tensor::{SafeTensors, TensorView};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tetherline_models::{Engine, Heads, Model, ModelFiles, Row, SaveType, Tokenizer};

const LM: Heads = Heads { lm: true, scalar: false };
const BOTH: Heads = Heads { lm: true, scalar: true };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name)
}

fn load(dir: &Path, heads: Heads, seed: u64) -> Result<Model, String> {
    Model::load(&ModelFiles::dir(dir).unwrap(), heads, seed).map_err(|e| e.to_string())
}

/// A copy of a fixture that may be damaged.
fn copy(name: &str) -> TempDir {
    let temp = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture(name).join(file), temp.path().join(file)).unwrap();
    }
    temp
}

/// Loading must fail with a message that has all of `parts`.
#[track_caller]
fn refused(dir: &Path, parts: &[&str]) {
    let message = load(dir, LM, 0).map(|_| ()).unwrap_err();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
}

/// Writes the weights again, each tensor as `change` wants it: its shape and bytes, or not at all.
fn rewrite(dir: &Path, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<u8>) -> bool) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut kept = Vec::new();
    for (name, view) in file.tensors() {
        let (mut shape, mut data) = (view.shape().to_vec(), view.data().to_vec());
        if change(&name, &mut shape, &mut data) {
            kept.push((name, view.dtype(), shape, data));
        }
    }
    let views = kept.iter().map(|(n, t, s, d)| (n, TensorView::new(*t, s.clone(), d).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn saved_models_load_to_identical_bits() {
    for name in ["tiny-llama", "tiny-gpt2"] {
        let model = load(&fixture(name), BOTH, 7).unwrap();
        let temp = tempfile::tempdir().unwrap();
        model.save(temp.path(), SaveType::F32).unwrap();
        assert!(temp.path().join("value_head.safetensors").is_file());
        // Another seed: a value head that was drawn again would differ.
        let again = load(temp.path(), BOTH, 8).unwrap();
        let bits = |m: &Model| m.params().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(again.slots(), model.slots());
        assert_eq!(bits(&again), bits(&model), "{name}");
        assert!(again.tensor("score.weight").unwrap().iter().any(|x| *x != 0.0));

        let tokens = [5, 9, 280, 7];
        let row = [Row { tokens: &tokens, lm: 0..3, scalar: 0..4 }];
        let run = |m: &Model| m.forward(&Engine::new(1), &row, 1.0).unwrap();
        assert_eq!(run(&again), run(&model), "{name}");

        for asset in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            let read = |dir: &Path| std::fs::read(dir.join(asset)).unwrap();
            assert_eq!(read(temp.path()), read(&fixture(name)), "{name}: {asset}");
        }
    }
}

#[test]
fn a_saved_reward_model_is_a_classifier_and_bf16_stays_bf16() {
    let heads = Heads { lm: false, scalar: true };
    let model = load(&fixture("tiny-llama-reward"), heads, 0).unwrap();
    let temp = tempfile::tempdir().unwrap();
    model.save(temp.path(), SaveType::F32).unwrap();
    assert!(!temp.path().join("value_head.safetensors").exists());
    let config = std::fs::read_to_string(temp.path().join("config.json")).unwrap();
    assert!(config.contains("LlamaForSequenceClassification"), "{config}");
    assert_eq!(load(temp.path(), heads, 1).unwrap().params(), model.params());

    model.save(temp.path(), SaveType::Bf16).unwrap();
    let once = load(temp.path(), heads, 1).unwrap();
    // Eight bits of mantissa: half a unit in the last place is 2⁻⁹ of the value.
    for (a, b) in once.params().iter().zip(model.params()) {
        assert!((a - b).abs() <= b.abs() / 256.0, "{a} is not {b} in bfloat16");
    }
    once.save(temp.path(), SaveType::Bf16).unwrap();
    assert_eq!(load(temp.path(), heads, 1).unwrap().params(), once.params());
}

#[test]
fn a_missing_tensor_is_named() {
    let temp = copy("tiny-llama");
    let gone = "model.layers.1.mlp.up_proj.weight";
    rewrite(temp.path(), |name, _, _| name != gone);
    refused(temp.path(), &[gone, "missing", "[80, 48]", &temp.path().display().to_string()]);
}

#[test]
fn a_wrong_shape_is_named() {
    let temp = copy("tiny-llama");
    let cut = "model.layers.0.self_attn.k_proj.weight";
    rewrite(temp.path(), |name, shape, data| {
        if name == cut {
            shape[0] -= 1;
            data.truncate(4 * shape.iter().product::<usize>());
        }
        true
    });
    refused(temp.path(), &[cut, "[23, 48]", "[24, 48]"]);
}

#[test]
fn a_truncated_file_is_named() {
    let temp = copy("tiny-llama");
    let path = temp.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for keep in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..keep]).unwrap();
        refused(temp.path(), &["model.safetensors", "not a valid safetensors file"]);
    }
    std::fs::remove_file(path).unwrap();
    refused(temp.path(), &["model.safetensors", "missing"]);
}

#[test]
fn an_unknown_architecture_is_named() {
    let temp = copy("tiny-llama");
    let path = temp.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("LlamaForCausalLM", "MambaForCausalLM")).unwrap();
    refused(temp.path(), &["config.json", "`MambaForCausalLM`", "LlamaForCausalLM"]);
    std::fs::remove_file(path).unwrap();
    refused(temp.path(), &["config.json", "missing"]);
}

#[test]
fn ids_beyond_the_embedding_are_named() {
    let temp = copy("tiny-llama");
    let path = temp.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut added = json["added_tokens"][0].clone();
    added["id"] = 320.into();
    added["content"] = "<beyond>".into();
    json["added_tokens"].as_array_mut().unwrap().push(added);
    std::fs::write(&path, json.to_string()).unwrap();

    let model = load(temp.path(), LM, 0).unwrap();
    let tokenizer = Tokenizer::load(&ModelFiles::dir(temp.path()).unwrap(), &model.config().eos).unwrap();
    assert_eq!((tokenizer.max_id(), model.config().vocab), (320, 320));
    let tokens = tokenizer.encode("<beyond>", false).unwrap();
    assert!(tokens.contains(&320), "{tokens:?}");
    let row = Row { tokens: &tokens, lm: 0..0, scalar: 0..0 };
    let message = model.forward(&Engine::new(1), &[row], 1.0).unwrap_err().to_string();
    assert!(message.contains("token id 320") && message.contains("320 tokens"), "{message}");
}
