//! Safetensors files in and out of the flat parameters.

use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::files::ModelFiles;
use crate::layout::{SCORE, Slot};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Element type of saved weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveType {
    /// Exact.
    F32,
    /// Half the size; rounds to nearest even.
    Bf16,
}

impl SaveType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// Fills the flat parameters from the directory's weights. Returns the names of slots that the files do not
/// have and that may be initialised instead (only the scalar head).
pub(crate) fn load(
    files: &ModelFiles,
    config: &ModelConfig,
    slots: &[Slot],
    flat: &mut [f32],
) -> Result<Vec<String>> {
    let by_name: BTreeMap<&str, &Slot> = slots.iter().map(|s| (s.name.as_str(), s)).collect();
    let mut seen = BTreeSet::new();
    let mut unexpected = None;
    for file in weight_files(files)? {
        let path = files.path(&file);
        let bytes = files.read(&file)?.ok_or_else(|| ModelError::NotAModel {
            path: files.root(),
            problem: format!("{file} is missing"),
        })?;
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|e| ModelError::Corrupt { path: path.clone(), problem: e.to_string() })?;
        for (name, view) in tensors.iter() {
            let Some(slot) = find(&by_name, name) else {
                if ignorable(name) {
                    continue;
                }
                unexpected.get_or_insert((name.to_owned(), view.shape().to_vec()));
                continue;
            };
            if view.shape() != slot.shape {
                return Err(ModelError::WrongShape {
                    path: files.root(),
                    name: name.to_owned(),
                    found: view.shape().to_vec(),
                    expected: slot.shape.clone(),
                });
            }
            decode(&view, &mut flat[slot.range()]).map_err(|found| ModelError::WrongType {
                path: files.root(),
                name: name.to_owned(),
                found,
            })?;
            slot.order(&mut flat[slot.range()]);
            if !flat[slot.range()].iter().all(|x| x.is_finite()) {
                return Err(ModelError::NotFiniteTensor { path: files.root(), name: name.to_owned() });
            }
            seen.insert(slot.name.as_str());
        }
    }
    let mut absent = Vec::new();
    for slot in slots {
        if seen.contains(slot.name.as_str()) {
            continue;
        }
        if slot.name == SCORE && !config.sequence_classification {
            absent.push(slot.name.clone());
            continue;
        }
        if config.sequence_classification && [LM_HEAD, "embed_out.weight"].contains(&slot.name.as_str()) {
            return Err(ModelError::NoVocabulary(config.arch.name()));
        }
        return Err(ModelError::MissingTensor {
            path: files.root(),
            name: slot.name.clone(),
            shape: slot.shape.clone(),
            instead: unexpected.map_or_else(String::new, |(name, shape)| {
                format!("; there is `{name}` with shape {shape:?}, which this architecture does not have")
            }),
        });
    }
    if let Some((name, shape)) = unexpected {
        let arch = config.arch.name();
        return Err(ModelError::UnexpectedTensor { path: files.root(), name, shape, arch });
    }
    Ok(absent)
}

/// `model.safetensors`, or the shards named by its index.
fn weight_files(files: &ModelFiles) -> Result<Vec<String>> {
    if let Some(index) = files.json("model.safetensors.index.json")? {
        let map = index.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| ModelError::Corrupt {
            path: files.path("model.safetensors.index.json"),
            problem: "no `weight_map` object".into(),
        })?;
        let shards: BTreeSet<String> = map.values().filter_map(|v| v.as_str()).map(str::to_owned).collect();
        return Ok(shards.into_iter().collect());
    }
    if files.read("model.safetensors")?.is_some() {
        return Ok(vec!["model.safetensors".into()]);
    }
    let problem = if files.read("pytorch_model.bin")?.is_some() {
        "it has only pytorch_model.bin, a pickle file, which is not safe to read; convert it with Python: \
         AutoModel.from_pretrained(DIR).save_pretrained(DIR, safe_serialization=True)"
    } else {
        "model.safetensors (or model.safetensors.index.json) is missing"
    };
    Err(ModelError::NotAModel { path: files.root(), problem: problem.into() })
}

/// The slot of a tensor name, with or without the prefix of the trunk; GPT-NeoX's head has two names.
fn find<'s>(by_name: &BTreeMap<&str, &'s Slot>, name: &str) -> Option<&'s Slot> {
    let prefixed = |prefix: &str| by_name.get(format!("{prefix}{name}").as_str());
    by_name
        .get(name)
        .or_else(|| ["model.", "transformer.", "gpt_neox."].into_iter().find_map(prefixed))
        .or_else(|| by_name.get("embed_out.weight").filter(|_| name == LM_HEAD))
        .copied()
}

/// The head's usual name.
const LM_HEAD: &str = "lm_head.weight";

/// Tensors that are no parameters here: buffers, a tied head written out, heads not asked for.
fn ignorable(name: &str) -> bool {
    let buffers = [
        ".attn.bias",
        ".attn.masked_bias",
        ".attention.bias",
        ".attention.masked_bias",
        "rotary_emb.inv_freq",
    ];
    buffers.iter().any(|b| name.ends_with(b)) || [SCORE, LM_HEAD, "embed_out.weight"].contains(&name)
}

fn decode(view: &TensorView<'_>, out: &mut [f32]) -> std::result::Result<(), String> {
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        Dtype::BF16 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                *o = half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        Dtype::F16 => {
            for (o, b) in out.iter_mut().zip(data.chunks_exact(2)) {
                *o = half::f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        other => return Err(format!("{other:?}")),
    }
    Ok(())
}

/// Writes the slots to one safetensors file.
pub(crate) fn save(path: &Path, slots: &[&Slot], flat: &[f32], dtype: SaveType) -> Result<()> {
    let data: Vec<Vec<u8>> = slots
        .iter()
        .map(|s| {
            let values = s.to_file(&flat[s.range()]);
            match dtype {
                SaveType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                SaveType::Bf16 => {
                    values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect()
                }
            }
        })
        .collect();
    let kind = if dtype == SaveType::F32 { Dtype::F32 } else { Dtype::BF16 };
    let mut views = Vec::with_capacity(slots.len());
    for (slot, bytes) in slots.iter().zip(&data) {
        let view = TensorView::new(kind, slot.shape.clone(), bytes)
            .map_err(|e| ModelError::Corrupt { path: path.to_owned(), problem: e.to_string() })?;
        views.push((slot.name.as_str(), view));
    }
    let meta = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(meta))
        .map_err(|e| ModelError::Corrupt { path: path.to_owned(), problem: e.to_string() })?;
    std::fs::write(path, bytes).map_err(|source| ModelError::Write { path: path.to_owned(), source })
}
