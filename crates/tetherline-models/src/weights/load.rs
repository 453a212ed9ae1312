//! Weights of a directory into the flat parameters: one file or shards, f32, f16 or bf16, with or without the prefix of
//! the trunk. What is missing, unexpected, doubled or of another shape is named.

use super::{INDEX, LM_HEAD, SINGLE};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::files::{ModelFiles, Weights, gguf};
use crate::layout::{SCORE, Slot};
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};

/// A tensor of a file.
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Bytes of the file.
    span: std::ops::Range<usize>,
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
    let shards = Shards::of(files)?;
    // Slot → the name and file that filled it.
    let mut seen: BTreeMap<&str, (String, &str)> = BTreeMap::new();
    let mut unexpected: Vec<(String, Vec<usize>)> = Vec::new();
    let mut tied_head = None;
    for file in &shards.files {
        let weights = shards.open(files, file)?;
        let tensors = header(files, file, &weights)?;
        shards.check(files, file, &tensors)?;
        for tensor in tensors {
            let Some(slot) = find(&by_name, &tensor.name) else {
                if config.tied && is_head(&tensor.name) {
                    tied_head = Some((file, tensor));
                } else if !ignorable(&tensor.name) {
                    unexpected.push((tensor.name, tensor.shape));
                }
                continue;
            };
            fill(files, &weights, &tensor, slot, &mut flat[slot.range()])?;
            if let Some((other, from)) = seen.insert(&slot.name, (tensor.name.clone(), file)) {
                let problem =
                    format!("`{other}` of {from} and `{}` of {file} are the same weight", tensor.name);
                return Err(ModelError::Doubled { path: files.root(), problem });
            }
        }
    }
    if let (Some((file, tensor)), Some(embed)) = (tied_head, slots.first()) {
        let weights = shards.open(files, file)?;
        if seen.contains_key(embed.name.as_str()) {
            check_tied(files, &weights, &tensor, embed, flat)?;
        } else {
            // The head stands for both.
            fill(files, &weights, &tensor, embed, &mut flat[embed.range()])?;
            seen.insert(&embed.name, (tensor.name.clone(), file));
        }
    }
    let mut absent = Vec::new();
    for slot in slots {
        if seen.contains_key(slot.name.as_str()) {
            continue;
        }
        if slot.name == SCORE && !config.sequence_classification {
            absent.push(slot.name.clone());
            continue;
        }
        if config.sequence_classification && is_head(&slot.name) {
            return Err(ModelError::NoVocabulary(config.arch.name()));
        }
        return Err(ModelError::MissingTensor {
            path: files.root(),
            name: slot.name.clone(),
            shape: slot.shape.clone(),
            instead: instead_of(slot, &unexpected),
        });
    }
    if let Some((name, shape)) = unexpected.into_iter().next() {
        let arch = config.arch.name();
        return Err(ModelError::UnexpectedTensor { path: files.root(), name, shape, arch });
    }
    Ok(absent)
}

/// What might have been meant by a missing tensor, for people: one of its shape, else any.
fn instead_of(slot: &Slot, unexpected: &[(String, Vec<usize>)]) -> String {
    let alike = unexpected.iter().find(|(_, shape)| *shape == slot.shape);
    alike.or_else(|| unexpected.first()).map_or_else(String::new, |(name, shape)| {
        format!("; there is `{name}` with shape {shape:?}, which this architecture does not have")
    })
}

/// The weights files of a directory.
struct Shards {
    files: Vec<String>,
    /// Tensor → file, where there is an index.
    index: BTreeMap<String, String>,
}

impl Shards {
    /// `model.safetensors`, or the shards named by its index. With both the one file counts, as in transformers: saving a
    /// model anew may leave the index of its old shards.
    fn of(files: &ModelFiles) -> Result<Self> {
        if files.weights(SINGLE)?.is_some() {
            return Ok(Self { files: vec![SINGLE.into()], index: BTreeMap::new() });
        }
        if let Some(json) = files.json(INDEX)? {
            let wrong = |problem: String| ModelError::Index { path: files.path(INDEX), problem };
            let map = json.get("weight_map").and_then(|m| m.as_object());
            let map = map.ok_or_else(|| wrong("no `weight_map` object".into()))?;
            let entry = |(name, file): (&String, &serde_json::Value)| match file.as_str() {
                Some(file) => Ok((name.clone(), file.to_owned())),
                None => Err(wrong(format!("`weight_map`: `{name}`: expected a file name, found {file}"))),
            };
            let index = map.iter().map(entry).collect::<Result<BTreeMap<_, _>>>()?;
            let shards: BTreeSet<&String> = index.values().collect();
            return Ok(Self { files: shards.into_iter().cloned().collect(), index });
        }
        Err(ModelError::NotAModel { path: files.root(), problem: other_formats(files) })
    }

    fn open(&self, files: &ModelFiles, file: &str) -> Result<Weights> {
        files.weights(file)?.ok_or_else(|| ModelError::Index {
            path: files.path(INDEX),
            problem: format!(
                "it names the shard {file}, which is missing; download it, or save the model again"
            ),
        })
    }

    /// Every tensor that the index puts into `file` must be there.
    fn check(&self, files: &ModelFiles, file: &str, tensors: &[Stored]) -> Result<()> {
        let there: BTreeSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        let lost = self.index.iter().find(|(name, f)| *f == file && !there.contains(name.as_str()));
        lost.map_or(Ok(()), |(name, _)| {
            Err(ModelError::Index {
                path: files.path(INDEX),
                problem: format!(
                    "it puts `{name}` into {file}, which does not have it; index and shards do not belong \
                     together: download or save the model again"
                ),
            })
        })
    }
}

/// The class of transformers that reads a model with its own head.
fn class(files: &ModelFiles) -> &'static str {
    let config = files.json("config.json").ok().flatten().unwrap_or_default();
    let classes = config["architectures"].as_array().into_iter().flatten().filter_map(|c| c.as_str());
    match classes.into_iter().any(|c| c.ends_with("ForSequenceClassification")) {
        true => "AutoModelForSequenceClassification",
        false => "AutoModelForCausalLM",
    }
}

/// What to say of a directory without safetensors.
fn other_formats(files: &ModelFiles) -> String {
    let names = files.names();
    let found = |ends: &[&str]| names.iter().find(|n| ends.iter().any(|e| n.to_lowercase().ends_with(e)));
    if let Some(name) = found(&[".gguf"]) {
        return gguf(name);
    }
    let dir = files.root().display().to_string().replace('\\', "\\\\").replace('\'', "\\'");
    let convert = format!(
        "python -c \"from transformers import {} as M; M.from_pretrained('{dir}').save_pretrained('{dir}')\"",
        class(files)
    );
    // A program's own state beside the weights (optimizer.pt) is no model.
    let pickles = [
        "model.bin",
        "model.bin.index.json",
        "weights.bin",
        "model.pt",
        "model.pth",
        "model.ckpt",
        "consolidated.pth",
        "consolidated.00.pth",
    ];
    if let Some(name) = found(&pickles) {
        return format!(
            "it has only {name}, a pickle file, which is not safe to read; convert it with Python, where you trust its \
             source: {convert}"
        );
    }
    if let Some(name) = found(&[".h5", ".msgpack", ".onnx"]) {
        return format!("it has only {name}; safetensors are read: save it from PyTorch with {convert}");
    }
    format!("{SINGLE} (or {INDEX}) is missing")
}

/// The tensors of a weights file, in the order of their bytes.
fn header(files: &ModelFiles, file: &str, weights: &Weights) -> Result<Vec<Stored>> {
    let whole = weights.span(0..weights.len()?)?;
    // Looks at the header alone, and compares the file's length with it.
    let (length, metadata): (usize, Metadata) = SafeTensors::read_metadata(&whole)
        .map_err(|e| ModelError::Corrupt { path: files.path(file), problem: e.to_string() })?;
    let start = 8 + length;
    let mut tensors: Vec<Stored> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| Stored {
            name,
            dtype: info.dtype,
            shape: info.shape.clone(),
            span: start + info.data_offsets.0..start + info.data_offsets.1,
        })
        .collect();
    tensors.sort_by(|a, b| (a.span.start, &a.name).cmp(&(b.span.start, &b.name)));
    Ok(tensors)
}

/// Fills `values` from one file; `place` says into which slot a tensor goes by name and shape, and where that begins.
/// Returns whether there is such a file.
pub(crate) fn load_file<'s>(
    files: &ModelFiles,
    file: &str,
    values: &mut [f32],
    mut place: impl FnMut(&str, &[usize]) -> Result<Option<(&'s Slot, usize)>>,
) -> Result<bool> {
    let Some(weights) = files.weights(file)? else { return Ok(false) };
    for tensor in header(files, file, &weights)? {
        if let Some((slot, from)) = place(&tensor.name, &tensor.shape)? {
            fill(files, &weights, &tensor, slot, &mut values[from..from + slot.len()])?;
        }
    }
    Ok(true)
}

/// Numbers that are weights of a directory; no more than the headers of its files is read.
#[cfg(feature = "encoders")]
pub(crate) fn count(files: &ModelFiles) -> Result<usize> {
    let (shards, mut all) = (Shards::of(files)?, 0);
    for file in &shards.files {
        let tensors = header(files, file, &shards.open(files, file)?)?;
        let numbers = tensors.iter().filter(|t| is_number(t));
        all += numbers.map(|t| t.shape.iter().product::<usize>()).sum::<usize>();
    }
    Ok(all)
}

/// Buffers of positions, as old files have them, are integers.
#[cfg(feature = "encoders")]
fn is_number(tensor: &Stored) -> bool {
    matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Hands over every tensor of a directory, with its name and shape.
#[cfg(feature = "encoders")]
pub(crate) fn load_all(
    files: &ModelFiles,
    mut take: impl FnMut(&str, Vec<usize>, Vec<f32>) -> Result<()>,
) -> Result<()> {
    let shards = Shards::of(files)?;
    for file in &shards.files {
        let weights = shards.open(files, file)?;
        let tensors = header(files, file, &weights)?;
        shards.check(files, file, &tensors)?;
        for tensor in tensors.iter().filter(|t| is_number(t)) {
            let mut values = vec![0.0; tensor.shape.iter().product()];
            each(files, &weights, tensor, values.iter_mut(), |to, x| *to = x)?;
            if values.iter().any(|x| !x.is_finite()) {
                return Err(ModelError::NotFiniteTensor { path: files.root(), name: tensor.name.clone() });
            }
            take(&tensor.name, tensor.shape.clone(), values)?;
        }
    }
    Ok(())
}

/// Copies a tensor into the values of its slot.
fn fill(
    files: &ModelFiles,
    weights: &Weights,
    tensor: &Stored,
    slot: &Slot,
    values: &mut [f32],
) -> Result<()> {
    if tensor.shape != slot.shape {
        return Err(ModelError::WrongShape {
            path: files.root(),
            name: tensor.name.clone(),
            found: tensor.shape.clone(),
            expected: slot.shape.clone(),
        });
    }
    let mut finite = true;
    each(files, weights, tensor, values.iter_mut(), |to, x| {
        *to = x;
        finite &= x.is_finite();
    })?;
    if !finite {
        return Err(ModelError::NotFiniteTensor { path: files.root(), name: tensor.name.clone() });
    }
    slot.order(values);
    Ok(())
}

/// A head that is written out although it is tied must be the embedding.
fn check_tied(
    files: &ModelFiles,
    weights: &Weights,
    tensor: &Stored,
    embed: &Slot,
    flat: &[f32],
) -> Result<()> {
    let mut same = tensor.shape == embed.shape;
    if same {
        each(files, weights, tensor, flat[embed.range()].iter(), |e, x| same &= *e == x)?;
    }
    if same {
        return Ok(());
    }
    Err(ModelError::TiedHead { path: files.root(), name: tensor.name.clone(), embed: embed.name.clone() })
}

/// Hands over every number of a tensor, as f32, with the place it belongs to.
fn each<T>(
    files: &ModelFiles,
    weights: &Weights,
    tensor: &Stored,
    places: impl Iterator<Item = T>,
    mut take: impl FnMut(T, f32),
) -> Result<()> {
    let data = weights.span(tensor.span.clone())?;
    match tensor.dtype {
        Dtype::F32 => {
            places.zip(data.as_chunks().0).for_each(|(p, b)| take(p, f32::from_le_bytes(*b)));
        }
        Dtype::BF16 => {
            places.zip(data.as_chunks().0).for_each(|(p, b)| take(p, half::bf16::from_le_bytes(*b).to_f32()));
        }
        Dtype::F16 => {
            places.zip(data.as_chunks().0).for_each(|(p, b)| take(p, half::f16::from_le_bytes(*b).to_f32()));
        }
        other => {
            return Err(ModelError::WrongType {
                path: files.root(),
                name: tensor.name.clone(),
                found: format!("{other:?}"),
            });
        }
    }
    Ok(())
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

fn is_head(name: &str) -> bool {
    [LM_HEAD, "embed_out.weight"].contains(&name)
}

/// Tensors that are no parameters here: buffers, heads not asked for.
fn ignorable(name: &str) -> bool {
    let buffers = [
        ".attn.bias",
        ".attn.masked_bias",
        ".attention.bias",
        ".attention.masked_bias",
        "rotary_emb.inv_freq",
    ];
    buffers.iter().any(|b| name.ends_with(b)) || name == SCORE || is_head(name)
}
