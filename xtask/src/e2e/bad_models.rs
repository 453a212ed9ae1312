//! Model directories that are broken, each in one way.

use super::bad_input::Setup;
use super::checks::Checks;
use super::compare::copy_dir;
use super::safetensors::{File, shard};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A way to break a model directory.
struct Break {
    name: &'static str,
    how: fn(&Path) -> Result<()>,
    /// What the message must hold.
    words: &'static [&'static str],
}

const BREAKS: &[Break] = &[
    Break {
        name: "no weights",
        how: |dir| Ok(fs::remove_file(dir.join(WEIGHTS))?),
        words: &["model.safetensors"],
    },
    Break {
        name: "truncated weights",
        how: |dir| {
            let bytes = fs::read(dir.join(WEIGHTS))?;
            Ok(fs::write(dir.join(WEIGHTS), &bytes[..bytes.len() / 2])?)
        },
        words: &["model.safetensors"],
    },
    Break {
        name: "corrupt weights",
        how: |dir| {
            let mut bytes = fs::read(dir.join(WEIGHTS))?;
            bytes[..64].fill(0xff);
            Ok(fs::write(dir.join(WEIGHTS), bytes)?)
        },
        words: &["model.safetensors"],
    },
    Break {
        name: "a tensor of the wrong shape",
        how: |dir| {
            edit_weights(dir, |file| {
                let tensor = file.header.get_mut(TENSOR).context("no such tensor")?;
                tensor["shape"] = json!([24, 96]);
                Ok(())
            })
        },
        words: &[TENSOR, "24, 96", "48, 48"],
    },
    Break {
        name: "a missing tensor",
        how: |dir| {
            edit_weights(dir, |file| {
                let others: Vec<_> = file.names().into_iter().filter(|name| name != TENSOR).collect();
                *file = file.pick(&others)?;
                Ok(())
            })
        },
        words: &[TENSOR, "48, 48"],
    },
    Break {
        name: "an unknown architecture",
        how: |dir| {
            edit_json(&dir.join("config.json"), |config| {
                config["architectures"] = json!(["ParrotForCausalLM"]);
                config["model_type"] = json!("parrot");
            })
        },
        words: &["parrot", "llama", "gpt2"],
    },
    Break {
        name: "a mixture of experts",
        how: |dir| {
            edit_json(&dir.join("config.json"), |config| {
                config["architectures"] = json!(["MixtralForCausalLM"]);
                config["num_local_experts"] = json!(8);
            })
        },
        words: &["config.json", "MixtralForCausalLM", "mixture of experts", "dense model"],
    },
    Break {
        name: "a model with eyes",
        how: |dir| {
            edit_json(&dir.join("config.json"), |config| {
                config["architectures"] = json!(["Gemma3ForConditionalGeneration"]);
                config["vision_config"] = json!({});
            })
        },
        words: &["config.json", "Gemma3ForConditionalGeneration", "multimodal", "text model"],
    },
    Break {
        name: "quantised weights",
        how: |dir| {
            edit_json(&dir.join("config.json"), |config| {
                config["quantization_config"] = json!({ "quant_method": "gptq", "bits": 4 });
            })
        },
        words: &["config.json", "quantization_config", "gptq", "made from"],
    },
    Break {
        name: "GGUF instead of weights",
        how: |dir| Ok(fs::rename(dir.join(WEIGHTS), dir.join("tiny-q4.gguf"))?),
        words: &["tiny-q4.gguf", "cannot be trained", "save_pretrained"],
    },
    Break {
        name: "pickle instead of weights",
        how: |dir| Ok(fs::rename(dir.join(WEIGHTS), dir.join("pytorch_model.bin"))?),
        words: &["pytorch_model.bin", "pickle", "save_pretrained"],
    },
    Break {
        name: "a missing shard",
        how: |dir| {
            shard(dir)?;
            Ok(fs::remove_file(dir.join("model-00002-of-00002.safetensors"))?)
        },
        words: &["model.safetensors.index.json", "model-00002-of-00002.safetensors", "missing"],
    },
    Break {
        name: "an index of other shards",
        how: |dir| {
            shard(dir)?;
            edit_json(&dir.join("model.safetensors.index.json"), |index| {
                index["weight_map"]["model.layers.7.mlp.up_proj.weight"] =
                    json!("model-00002-of-00002.safetensors");
            })
        },
        words: &["model.safetensors.index.json", "model.layers.7.mlp.up_proj.weight", "does not have it"],
    },
    Break {
        name: "no config",
        how: |dir| Ok(fs::remove_file(dir.join("config.json"))?),
        words: &["config.json"],
    },
    Break {
        name: "a config that is no JSON",
        how: |dir| Ok(fs::write(dir.join("config.json"), "{")?),
        words: &["config.json"],
    },
    Break {
        name: "a tokenizer larger than the embedding",
        how: |dir| {
            edit_json(&dir.join("tokenizer.json"), |tokenizer| {
                let token = json!({ "id": 320, "content": "<extra>", "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true });
                if let Some(added) = tokenizer["added_tokens"].as_array_mut() {
                    added.push(token);
                }
            })
        },
        words: &["tokenizer", "320"],
    },
    Break {
        name: "no tokenizer",
        how: |dir| Ok(fs::remove_file(dir.join("tokenizer.json"))?),
        words: &["tokenizer.json"],
    },
];

const WEIGHTS: &str = "model.safetensors";
/// A square matrix of tiny-llama.
const TENSOR: &str = "model.layers.1.self_attn.o_proj.weight";

pub(super) fn check(checks: &mut Checks, s: &Setup<'_>) {
    // The words are about a Llama.
    let llama = s.model.dir.with_file_name("tiny-llama");
    for (i, case) in BREAKS.iter().enumerate() {
        checks.check(&format!("bad input: {}", case.name), || {
            let dir = s.tether.path(&format!("model-{i}"));
            copy_dir(&llama, &dir)?;
            (case.how)(&dir)?;
            s.expect_error(&s.generate(&dir), case.words)
        });
    }
}

fn edit_weights(dir: &Path, edit: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let path = dir.join(WEIGHTS);
    let mut file = File::read(&path)?;
    edit(&mut file)?;
    file.write(&path)
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) -> Result<()> {
    let mut value = serde_json::from_str(&fs::read_to_string(path)?)?;
    edit(&mut value);
    Ok(fs::write(path, value.to_string())?)
}
