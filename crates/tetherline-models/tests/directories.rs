//! Model directories on disk: saved ones load to the same bits, broken ones are refused by name.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use safetensors::tensor::{SafeTensors, TensorView};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tetherline_models::{Engine, Heads, Model, ModelFiles, Row, SaveOptions, SaveType, Tokenizer};

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
        let bits = |m: &Model| m.trained().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
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
    assert_eq!(load(temp.path(), heads, 1).unwrap().trained(), model.trained());

    model.save(temp.path(), SaveType::Bf16).unwrap();
    let once = load(temp.path(), heads, 1).unwrap();
    // Eight bits of mantissa: half a unit in the last place is 2⁻⁹ of the value.
    for (a, b) in once.trained().iter().zip(model.trained()) {
        assert!((a - b).abs() <= b.abs() / 256.0, "{a} is not {b} in bfloat16");
    }
    once.save(temp.path(), SaveType::Bf16).unwrap();
    assert_eq!(load(temp.path(), heads, 1).unwrap().trained(), once.trained());
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

/// Small shards, so that a tiny model has several.
fn shards() -> SaveOptions {
    SaveOptions { dtype: SaveType::F32, max_shard_bytes: 40_000 }
}

fn file_names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|n| n.starts_with("model")).collect();
    names.sort();
    names
}

#[test]
fn a_sharded_model_is_the_same_model_and_leaves_no_old_files() {
    let model = load(&fixture("tiny-llama"), LM, 0).unwrap();
    let temp = tempfile::tempdir().unwrap();
    model.save(temp.path(), SaveType::F32).unwrap();
    assert_eq!(file_names(temp.path()), ["model.safetensors"]);
    model.save(temp.path(), shards()).unwrap();
    let names = file_names(temp.path());
    assert!(names.len() > 3, "{names:?}");
    let n = names.len() - 1;
    for i in 1..=n {
        let name = format!("model-{i:05}-of-{n:05}.safetensors");
        assert!(names.contains(&name), "{names:?}");
        let bytes = std::fs::read(temp.path().join(name)).unwrap();
        let shard = SafeTensors::deserialize(&bytes).unwrap();
        // A shard above the limit holds one tensor.
        assert!(shard.len() == 1 || shard.iter().map(|(_, v)| v.data().len()).sum::<usize>() <= 40_000);
    }
    let index = std::fs::read(temp.path().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], 4 * model.n_params());
    assert_eq!(index["weight_map"].as_object().unwrap().len(), model.slots().len());
    let again = load(temp.path(), LM, 0).unwrap();
    assert!(again.trained().iter().zip(model.trained()).all(|(a, b)| a.to_bits() == b.to_bits()));
    model.save(temp.path(), SaveType::Bf16).unwrap();
    assert_eq!(file_names(temp.path()), ["model.safetensors"]);
}

/// A sharded copy of tiny-llama with its index changed by `edit`.
fn broken_index(edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> TempDir {
    let temp = tempfile::tempdir().unwrap();
    load(&fixture("tiny-llama"), LM, 0).unwrap().save(temp.path(), shards()).unwrap();
    edit_index(temp.path(), edit);
    temp
}

fn edit_index(dir: &Path, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = dir.join("model.safetensors.index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(index["weight_map"].as_object_mut().unwrap());
    std::fs::write(&path, index.to_string()).unwrap();
}

#[test]
fn shards_that_do_not_fit_their_index_are_named() {
    let index = "model.safetensors.index.json";
    let intact = broken_index(|_| {});
    load(intact.path(), LM, 0).unwrap();
    let first = file_names(intact.path()).remove(0);
    std::fs::remove_file(intact.path().join(&first)).unwrap();
    refused(intact.path(), &[index, &first, "missing", "download"]);

    let moved = broken_index(|map| map["model.norm.weight"] = map["model.embed_tokens.weight"].clone());
    refused(moved.path(), &[index, "`model.norm.weight`", "does not have it"]);

    let phantom = broken_index(|map| {
        let file = map["model.norm.weight"].clone();
        map.insert("model.layers.2.input_layernorm.weight".into(), file);
    });
    refused(phantom.path(), &[index, "`model.layers.2.input_layernorm.weight`", "does not have it"]);

    let number = broken_index(|map| map["model.norm.weight"] = 3.into());
    refused(number.path(), &[index, "`model.norm.weight`", "expected a file name, found 3"]);

    let outside = broken_index(|map| map["model.norm.weight"] = "../model.safetensors".into());
    refused(outside.path(), &["leaves the directory"]);

    // A tensor in two shards: another shard is a copy of the one with the embedding.
    let doubled = broken_index(|_| {});
    let names = file_names(doubled.path());
    let holds = |name: &String| {
        let bytes = std::fs::read(doubled.path().join(name)).unwrap();
        name.ends_with("tensors")
            && SafeTensors::deserialize(&bytes).unwrap().tensor("model.norm.weight").is_ok()
    };
    let from = names.iter().find(|n| holds(n)).unwrap();
    let path = doubled.path().join("model-00099-of-00099.safetensors");
    std::fs::copy(doubled.path().join(from), &path).unwrap();
    edit_index(doubled.path(), |map| map["model.norm.weight"] = "model-00099-of-00099.safetensors".into());
    refused(doubled.path(), &["are the same weight", from, "00099-of-00099"]);
}

#[test]
fn a_weight_under_two_names_is_refused_and_buffers_are_not_read() {
    let temp = copy("tiny-llama");
    let path = temp.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let with = |more: &[&str]| {
        let norm = file.tensor("model.norm.weight").unwrap();
        let mut views: Vec<(String, TensorView<'_>)> = file.tensors();
        views.extend(more.iter().map(|n| ((*n).to_owned(), norm.clone())));
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    with(&["model.layers.0.self_attn.rotary_emb.inv_freq", "transformer.h.0.attn.masked_bias"]);
    load(temp.path(), LM, 0).unwrap();
    with(&["norm.weight"]);
    refused(temp.path(), &["`model.norm.weight`", "`norm.weight`", "are the same weight"]);
    with(&["model.layers.0.self_attn.q_norm.weight"]);
    refused(temp.path(), &["unexpected tensor `model.layers.0.self_attn.q_norm.weight`", "[48]", "Llama"]);
}

#[test]
fn a_missing_tensor_is_named_beside_one_of_its_shape() {
    let temp = copy("tiny-llama");
    let path = temp.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let renamed = |name: String| match name.as_str() {
        "model.layers.0.mlp.up_proj.weight" => "model.layers.0.mlp.w3.weight".to_owned(),
        _ => name,
    };
    let views: Vec<_> = file.tensors().into_iter().map(|(n, v)| (renamed(n), v)).collect();
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let parts =
        ["`model.layers.0.mlp.up_proj.weight`", "[80, 48] is missing", "`model.layers.0.mlp.w3.weight`"];
    refused(temp.path(), &parts);
}

#[test]
fn a_tied_head_in_the_file_is_the_embedding_or_refused() {
    let tied = |change: fn(&mut Vec<u8>), keep_embedding: bool| {
        let temp = copy("tiny-gpt2");
        let path = temp.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let embed = file.tensor("transformer.wte.weight").unwrap();
        let mut head = embed.data().to_vec();
        change(&mut head);
        let head = TensorView::new(embed.dtype(), embed.shape().to_vec(), &head).unwrap();
        let mut views = file.tensors();
        views.retain(|(n, _)| keep_embedding || n != "transformer.wte.weight");
        views.push(("lm_head.weight".to_owned(), head));
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        temp
    };
    let plain = load(&fixture("tiny-gpt2"), LM, 0).unwrap();
    for keep_embedding in [true, false] {
        // transformers ties what it finds, whichever of the two it is.
        let temp = tied(|_| {}, keep_embedding);
        assert_eq!(load(temp.path(), LM, 0).unwrap().trained(), plain.trained());
    }
    let temp = tied(|head| head[0] ^= 1, true);
    refused(temp.path(), &["`lm_head.weight` differs from `transformer.wte.weight`", "tie_word_embeddings"]);
}

#[test]
fn half_precision_weights_load_to_their_values() {
    let temp = copy("tiny-llama");
    let path = temp.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let plain = load(&fixture("tiny-llama"), LM, 0).unwrap();
    let halves = |v: &TensorView<'_>| -> Vec<u8> {
        let numbers = v.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        numbers.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect()
    };
    let stored: Vec<_> =
        file.tensors().into_iter().map(|(n, v)| (n, v.shape().to_vec(), halves(&v))).collect();
    let views =
        stored.iter().map(|(n, s, d)| (n, TensorView::new(safetensors::Dtype::F16, s.clone(), d).unwrap()));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let half = load(temp.path(), LM, 0).unwrap();
    for (a, b) in half.trained().iter().zip(plain.trained()) {
        // Ten bits of mantissa; below 2^-14 steps of 2^-24.
        assert!((a - b).abs() <= b.abs() / 2048.0 + 3e-8, "{a} is not {b} in float16");
    }
}

#[test]
fn other_formats_are_refused_with_what_to_do() {
    let with = |files: &[&str], config: bool| {
        let temp = copy("tiny-llama");
        std::fs::remove_file(temp.path().join("model.safetensors")).unwrap();
        if !config {
            std::fs::remove_file(temp.path().join("config.json")).unwrap();
        }
        files.iter().for_each(|f| std::fs::write(temp.path().join(f), "x").unwrap());
        temp
    };
    let gguf = ["llama-Q4_K_M.gguf", "quantised for inference", "gguf_file=", "save_pretrained"];
    refused(with(&["llama-Q4_K_M.gguf"], true).path(), &gguf);
    refused(with(&["llama-Q4_K_M.gguf"], false).path(), &gguf);
    let file = with(&["a.gguf"], false);
    let message = ModelFiles::dir(file.path().join("a.gguf")).unwrap_err().to_string();
    assert!(message.contains("a.gguf is a GGUF file"), "{message}");
    for pickle in ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pth"] {
        refused(with(&[pickle, "optimizer.pt"], true).path(), &[pickle, "pickle", "save_pretrained"]);
    }
    refused(with(&["tf_model.h5"], true).path(), &["tf_model.h5", "safetensors are read"]);
    refused(with(&["optimizer.pt"], true).path(), &["model.safetensors (or", "missing"]);
}

/// The message for a fixture whose `config.json` was changed.
fn refusal(name: &str, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> String {
    let path = fixture("architectures").join(name).join("config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let raw = json.as_object_mut().unwrap();
    edit(raw);
    let config = tetherline_models::ModelConfig::from_map(raw.clone(), "dir/config.json".into());
    let message = config.map(|_| ()).unwrap_err().to_string();
    assert!(message.starts_with("dir/config.json: field `") && !message.contains('\n'), "{message}");
    message
}

#[test]
fn configurations_that_cannot_be_trained_name_the_field_and_what_was_found() {
    use serde_json::json;
    let cases = [
        ("llama", "quantization_config", json!({"quant_method": "gptq", "bits": 4}), "gptq"),
        ("llama", "quantization_config", json!({"quant_method": "awq"}), "awq"),
        (
            "qwen2",
            "quantization_config",
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            "bitsandbytes",
        ),
        ("llama", "hidden_act", json!("swiglu"), "\"swiglu\" is not supported; supported: silu"),
        ("gemma3", "use_bidirectional_attention", json!(true), "take a causal model"),
        ("gpt2", "add_cross_attention", json!(true), "take a decoder alone"),
        ("gemma2", "layer_types", json!(["full_attention"]), "expected a list of"),
        ("gemma2", "layer_types", json!("full_attention"), "found \"full_attention\""),
        ("qwen3", "num_hidden_layers", json!(0), "found 0"),
        ("llama", "num_key_value_heads", json!(3), "cannot share 3 key/value heads"),
        ("llama", "hidden_size", json!(-8), "found -8"),
        ("llama", "vocab_size", json!(null), "missing"),
        ("llama-reward", "id2label", json!({"0": "a", "1": "b"}), "one label"),
        ("smollm3", "no_rope_layers", json!([1]), "found one of 1"),
    ];
    for (name, field, value, part) in cases {
        let message = refusal(name, |raw| {
            raw.insert(field.into(), value.clone());
        });
        assert!(message.contains(part), "{name}: {message}");
    }
    for (name, kind, part) in [
        ("llama", json!({"rope_type": "mrope"}), "`mrope` is not supported; supported: default, dynamic"),
        ("phi3", json!({"rope_type": "linear", "factor": 2.0}), "`linear` is not supported"),
        (
            "phi3",
            json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
            "found one of 1",
        ),
        (
            "llama",
            json!({"rope_type": "llama3", "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
            "must differ",
        ),
        ("llama", json!({"rope_type": "yarn", "factor": -1.0}), "expected a positive number, found -1"),
        (
            "gpt-neox-odd-rotary",
            json!({"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.25}),
            "odd number of rotary dimensions (3)",
        ),
    ] {
        let message = refusal(name, |raw| {
            raw.insert("rope_parameters".into(), kind.clone());
        });
        assert!(message.contains(part), "{name}: {message}");
    }
    for (class, part) in [
        ("Qwen3MoeForCausalLM", "mixture of experts"),
        ("OlmoeForCausalLM", "mixture of experts"),
        ("MixtralForCausalLM", "mixture of experts"),
        ("Gemma3ForConditionalGeneration", "multimodal"),
        ("LlavaForConditionalGeneration", "multimodal"),
        ("BertForMaskedLM", "an encoder"),
    ] {
        let message = refusal("llama", |raw| {
            raw.insert("architectures".into(), json!([class]));
            if class.contains("Gemma3") {
                raw.insert("vision_config".into(), json!({}));
            }
        });
        assert!(message.contains(part) && message.contains(class), "{message}");
    }
}

#[test]
fn a_language_model_gets_a_generation_config_and_keeps_the_one_it_has() {
    let temp = tempfile::tempdir().unwrap();
    let bare = load(&fixture("architectures").join("gemma2"), LM, 0).unwrap();
    bare.save(temp.path(), SaveType::F32).unwrap();
    let read = |dir: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(dir.join("generation_config.json")).unwrap()).unwrap()
    };
    let written = read(temp.path());
    assert_eq!((&written["bos_token_id"], &written["eos_token_id"]), (&1.into(), &2.into()), "{written}");
    let temp = tempfile::tempdir().unwrap();
    load(&fixture("tiny-llama"), LM, 0).unwrap().save(temp.path(), SaveType::F32).unwrap();
    assert_eq!(read(temp.path()), read(&fixture("tiny-llama")));
}

fn json(dir: &Path, file: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap()
}

fn change(dir: &Path, file: &str, edit: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let mut value = json(dir, file);
    edit(value.as_object_mut().unwrap());
    std::fs::write(dir.join(file), value.to_string()).unwrap();
}

/// transformers scores the last token that is no padding: with the end of sequence as padding that would be the one before.
#[test]
fn a_new_classifier_is_not_padded_with_what_its_rows_end_with() {
    const SCORE: Heads = Heads { lm: false, scalar: true };
    // The padding id of config.json, what tokenizer_config.json has (the tokens are <unk> 0, <s> 1, </s> 2), what is saved.
    let no_start = serde_json::json!({"eos_token": "</s>", "pad_token": "</s>"});
    let cases = [
        (
            Some(2),
            serde_json::json!({"eos_token": "</s>", "pad_token": "</s>", "bos_token": "<s>"}),
            Some((1, "<s>")),
        ),
        (None, serde_json::json!({"eos_token": "</s>", "bos_token": {"content": "<s>"}}), Some((1, "<s>"))),
        (None, serde_json::json!({"eos_token": "</s>", "pad_token": "<unk>"}), Some((0, "<unk>"))),
        (Some(0), no_start.clone(), Some((0, "<unk>"))),
        (Some(2), no_start, None),
    ];
    for (pad, tokenizer, expected) in cases {
        let dir = copy("tiny-llama");
        change(dir.path(), "config.json", |c| {
            c["pad_token_id"] = pad.into();
            c.insert("num_labels".into(), 2.into());
        });
        std::fs::write(dir.path().join("tokenizer_config.json"), tokenizer.to_string()).unwrap();
        let model = load(dir.path(), LM, 0).unwrap().with_heads(SCORE, 0).unwrap();
        let out = tempfile::tempdir().unwrap();
        model.save(out.path(), SaveType::F32).unwrap();
        let saved = json(out.path(), "config.json")["pad_token_id"].clone();
        assert_eq!(saved, serde_json::json!(expected.map(|(id, _)| id)), "{tokenizer}");
        if let Some((_, token)) = expected {
            assert_eq!(json(out.path(), "tokenizer_config.json")["pad_token"], token);
        }
        // A number of labels that the base had would contradict the one label.
        let again = load(out.path(), SCORE, 0).unwrap();
        assert_eq!(again.config().score_position(&[5, 6, 2]), 2);
    }
}

#[test]
fn a_classifier_that_pads_with_its_end_of_sequence_scores_the_token_before() {
    let dir = copy("tiny-llama-reward");
    change(dir.path(), "config.json", |c| c["pad_token_id"] = 2.into());
    let model = load(dir.path(), Heads { lm: false, scalar: true }, 0).unwrap();
    assert_eq!(model.config().score_position(&[5, 6, 2]), 1);
    assert_eq!(model.config().score_position(&[5, 6]), 1);
    assert_eq!(model.config().score_position(&[2, 2]), 0);
    let out = tempfile::tempdir().unwrap();
    model.save(out.path(), SaveType::F32).unwrap();
    assert_eq!(json(out.path(), "config.json")["pad_token_id"], 2);
}

#[test]
fn one_file_counts_before_the_index_of_shards_that_were_there() {
    let model = load(&fixture("tiny-llama"), LM, 0).unwrap();
    let dir = broken_index(|_| {});
    std::fs::copy(fixture("tiny-llama").join("model.safetensors"), dir.path().join("model.safetensors"))
        .unwrap();
    for name in file_names(dir.path()).iter().filter(|n| n.starts_with("model-0")) {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert_eq!(load(dir.path(), LM, 0).unwrap().trained(), model.trained());
}

#[test]
fn chat_templates_with_names_travel_with_the_model() {
    let dir = copy("tiny-llama");
    let templates = dir.path().join("additional_chat_templates");
    std::fs::create_dir(&templates).unwrap();
    std::fs::write(templates.join("default.jinja"), "{{ messages }}").unwrap();
    let out = tempfile::tempdir().unwrap();
    load(dir.path(), LM, 0).unwrap().save(out.path(), SaveType::F32).unwrap();
    let saved = Tokenizer::load(&ModelFiles::dir(out.path()).unwrap(), &[]).unwrap();
    assert_eq!(saved.named_templates(), [("default".to_owned(), "{{ messages }}".to_owned())]);
}

#[test]
fn windows_are_where_transformers_has_them() {
    use serde_json::json;
    let windows = |name: &str, edit: serde_json::Value| {
        let path = fixture("architectures").join(name).join("config.json");
        let mut raw: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let raw = raw.as_object_mut().unwrap();
        let n = raw["num_hidden_layers"].as_u64().unwrap() as usize;
        let types: Vec<&str> = ["full_attention", "sliding_attention"].into_iter().cycle().take(n).collect();
        raw.insert("layer_types".into(), json!(types));
        raw.insert("sliding_window".into(), 5.into());
        raw.extend(edit.as_object().unwrap().clone());
        let config = tetherline_models::ModelConfig::from_map(raw.clone(), "config.json".into()).unwrap();
        config.layers.iter().take(2).map(|l| l.window).collect::<Vec<_>>()
    };
    assert_eq!(windows("mistral-window", json!({})), [None, Some(5)]);
    assert_eq!(windows("smollm3", json!({"use_sliding_window": false})), [None, Some(5)]);
    // Qwen's flag counts whatever the types say.
    assert_eq!(windows("qwen2", json!({"use_sliding_window": false})), [None, None]);
}

#[test]
fn the_command_that_converts_a_pickle_reads_the_head_that_is_there() {
    for (name, class) in
        [("tiny-llama", "AutoModelForCausalLM"), ("tiny-llama-reward", "AutoModelForSequenceClassification")]
    {
        let dir = copy(name);
        std::fs::rename(dir.path().join("model.safetensors"), dir.path().join("pytorch_model.bin")).unwrap();
        let heads = Heads { lm: name == "tiny-llama", scalar: name != "tiny-llama" };
        let message = load(dir.path(), heads, 0).map(|_| ()).unwrap_err();
        let here = dir.path().display();
        assert!(message.contains(&format!("import {class} as M; M.from_pretrained('{here}')")), "{message}");
    }
}
