//! Models from files and to files: Hugging Face directories, and adapters in the format of `peft` over one.

use super::{Freeze, Model, own};
use crate::config::{Architecture, ModelConfig};
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::layout::{Heads, SCORE, Slot, build};
use crate::lora::{self, LoraConfig};
use crate::weights::{self, SaveOptions, SaveType};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tetherline_kernels::Floats;

/// Files that travel with a model unchanged.
pub(super) const ASSETS: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    GENERATION,
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
];

/// Those that name a padding token.
const PADDED: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// The directory of chat templates with names.
pub(crate) const TEMPLATES: &str = "additional_chat_templates";

/// How a model generates by default.
const GENERATION: &str = "generation_config.json";

/// The value head of a policy that shares its trunk, saved beside the policy.
const VALUE_HEAD: &str = "value_head.safetensors";

impl Model {
    /// Loads a directory with the given heads; an adapter over its base. A scalar head that the files do not have is
    /// initialised from N(0, 1/(dim + 1)) (standard deviation 1/√(dim + 1)), stream `(seed, Init)`.
    ///
    /// # Errors
    /// Whatever is wrong with the directory, naming file, tensor or field.
    pub fn load(files: &ModelFiles, heads: Heads, seed: u64) -> Result<Self> {
        let config = ModelConfig::load(files)?;
        let (slots, spec) = build(&config, heads);
        let mut flat = Floats::try_zeros(spec.n_params).ok_or_else(|| ModelError::NotAModel {
            path: files.root(),
            problem: format!(
                "config.json describes {} parameters, for which there is no memory",
                spec.n_params
            ),
        })?;
        // An adapter's base may itself be one of a causal model, whose head a classifier lacks.
        let base = ModelConfig::load(files.base())?;
        let mut absent = weights::load(files.base(), &base, &slots, &mut flat)?;
        let parts = (Arc::default(), flat);
        let mut model = Self::assemble(config, heads, (slots, spec), Freeze::Nothing, parts);
        if let ModelFiles::Adapter { name, .. } = files {
            if heads.lm && model.config.sequence_classification {
                return Err(ModelError::NoVocabulary(model.config.arch.name()));
            }
            let adapter = LoraConfig { base: name.clone(), ..lora::read_config(files)? };
            model.adapt(adapter).map_err(|e| match e {
                ModelError::ConfigField { field, problem, .. } => {
                    ModelError::ConfigField { path: files.path(lora::CONFIG), field, problem }
                }
                e => e,
            })?;
            let arch = model.config.arch.name();
            let frozen = model.spec.frozen;
            let had_score =
                lora::read_weights(files, &model.slots, frozen, own(&mut model.trained), (arch, heads.lm))?;
            if had_score {
                absent.clear();
            } else if heads.scalar && model.config.sequence_classification && !absent.is_empty() {
                return Err(ModelError::MissingTensor {
                    path: files.path(lora::WEIGHTS),
                    name: SCORE.to_owned(),
                    shape: vec![1, model.config.dim],
                    instead: String::new(),
                });
            }
        }
        for name in absent {
            if !model.load_value_head(files)? {
                model.init_scalar(&name, seed);
            }
        }
        for name in ASSETS {
            if let Some(bytes) = files.read(name)? {
                model.assets.push((name, bytes));
            }
        }
        model.templates = files.named_templates()?;
        Ok(model)
    }

    fn load_value_head(&mut self, files: &ModelFiles) -> Result<bool> {
        let Some(bytes) = files.read(VALUE_HEAD)? else { return Ok(false) };
        let corrupt = |problem: String| ModelError::Corrupt { path: files.path(VALUE_HEAD), problem };
        let tensors = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| corrupt(e.to_string()))?;
        let view = tensors.tensor(SCORE).map_err(|e| corrupt(e.to_string()))?;
        if view.shape() != [1, self.config.dim] || view.dtype() != safetensors::Dtype::F32 {
            return Err(corrupt(format!("`{SCORE}` must be F32 of shape [1, {}]", self.config.dim)));
        }
        let data = view.data().to_vec();
        self.set_scalar(SCORE, |i| {
            f32::from_le_bytes([data[4 * i], data[4 * i + 1], data[4 * i + 2], data[4 * i + 3]])
        });
        Ok(true)
    }

    /// Writes a Hugging Face directory: `config.json`, `generation_config.json`, `model.safetensors` (or shards with
    /// their index, see [`SaveOptions`]), tokenizer files. A model with a scalar head and no vocabulary head is
    /// written as `…ForSequenceClassification`; a value head on a shared trunk goes to `value_head.safetensors`. A model with an adapter is written as `peft` does: the adapter
    /// alone, in f32, and the name of its base.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, dir: &Path, options: impl Into<SaveOptions>) -> Result<()> {
        let options = options.into();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).map_err(|source| ModelError::Write { path, source })
        };
        std::fs::create_dir_all(dir).map_err(|source| ModelError::Write { path: dir.to_owned(), source })?;
        let classifier = self.heads.scalar && !self.heads.lm;
        let padding =
            if classifier && !self.config.sequence_classification { Some(self.padding()) } else { None };
        for (name, bytes) in &self.assets {
            match padding.as_ref().and_then(|pad| pad.as_ref()) {
                Some((_, token)) if PADDED.contains(name) => write(name, &padded_with(bytes, token))?,
                _ => write(name, bytes)?,
            }
        }
        if !self.templates.is_empty() {
            let path = dir.join(TEMPLATES);
            std::fs::create_dir_all(&path).map_err(|source| ModelError::Write { path, source })?;
        }
        for (name, text) in &self.templates {
            write(&format!("{TEMPLATES}/{name}.jinja"), text.as_bytes())?;
        }
        let params = self.params();
        let own = |s: &&Slot| classifier || s.name != SCORE;
        if let Freeze::Base(config) = &self.freeze {
            let trained: Vec<&Slot> =
                self.slots.iter().filter(|s| s.offset >= self.spec.frozen).filter(own).collect();
            let conv1d = self.config.arch == Architecture::Gpt2;
            lora::write(dir, config, (classifier, conv1d), &trained, params)?;
        } else {
            let mut config = self.config.to_json(classifier, options.dtype.name());
            if let Some(pad) = padding {
                config["pad_token_id"] = pad.map(|(id, _)| id).into();
            }
            write("config.json", format!("{config:#}\n").as_bytes())?;
            if self.heads.lm && !self.assets.iter().any(|(name, _)| *name == GENERATION) {
                write(GENERATION, format!("{:#}\n", self.config.generation_json()).as_bytes())?;
            }
            let all: Vec<&Slot> = self.slots.iter().filter(own).collect();
            weights::save_sharded(dir, &all, params, options)?;
        }
        if self.heads.scalar && !classifier {
            let head: Vec<&Slot> = self.slots.iter().filter(|s| s.name == SCORE).collect();
            weights::save(&dir.join(VALUE_HEAD), "", &head, params, SaveType::F32)?;
        }
        Ok(())
    }

    /// A token to pad a new classifier's rows with, which none of them ends with: transformers scores the last token that is
    /// no padding. None where the tokenizer has no such token; transformers then takes one row at a time.
    fn padding(&self) -> Option<(u32, String)> {
        let json = |name: &str| {
            let asset = self.assets.iter().find(|(n, _)| *n == name);
            asset.and_then(|(_, bytes)| serde_json::from_slice::<Value>(bytes).ok()).unwrap_or_default()
        };
        let (tokenizer, config) = (json("tokenizer.json"), json("tokenizer_config.json"));
        let added = || tokenizer["added_tokens"].as_array().into_iter().flatten();
        let id = |text: &str| {
            let added = added().find(|t| t["content"] == text).map(|t| &t["id"]);
            let id = added.unwrap_or(&tokenizer["model"]["vocab"][text]).as_u64();
            id.and_then(|id| u32::try_from(id).ok())
        };
        let named = |key: &str| {
            let token = &config[key];
            token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
        };
        let ends =
            [self.config.eos.clone(), named("eos_token").and_then(|t| id(&t)).into_iter().collect()].concat();
        let of_config = self.config.pad.and_then(|pad| added().find(|t| t["id"] == pad)?["content"].as_str());
        let tokens =
            [named("pad_token"), of_config.map(str::to_owned), named("bos_token"), named("unk_token")];
        let mut known = tokens.into_iter().flatten().filter_map(|t| Some((id(&t)?, t)));
        known.find(|(id, _)| !ends.contains(id) && (*id as usize) < self.config.vocab)
    }
}

/// A tokenizer's settings with another padding token, left as they are where they are no JSON object.
fn padded_with(bytes: &[u8], token: &str) -> Vec<u8> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(mut map)) => {
            map.insert("pad_token".into(), token.into());
            format!("{:#}\n", Value::Object(map)).into_bytes()
        }
        _ => bytes.to_vec(),
    }
}
