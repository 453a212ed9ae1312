//! Flat parameters into safetensors files: one, or shards with an index. A tensor is turned into bytes when it is
//! written, so saving needs memory for the largest tensor only.

use super::{INDEX, SINGLE};
use crate::error::{ModelError, Result};
use crate::layout::Slot;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use tetherline_kernels::Params;

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

    fn bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }
}

/// How a model is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveOptions {
    /// Element type.
    pub dtype: SaveType,
    /// Bytes of tensors that one file holds at most; a larger model is written as shards
    /// `model-00001-of-0000N.safetensors` with an index. A single tensor that is larger has a shard of its own.
    pub max_shard_bytes: u64,
}

impl SaveOptions {
    /// Five gigabytes, as transformers had it for long and much of the hub has it.
    pub const DEFAULT_SHARD: u64 = 5_000_000_000;
}

impl From<SaveType> for SaveOptions {
    fn from(dtype: SaveType) -> Self {
        Self { dtype, max_shard_bytes: Self::DEFAULT_SHARD }
    }
}

/// Writes the slots to `dir`, as one file or as shards, and removes what an earlier save of another size left there.
pub(crate) fn save_sharded(
    dir: &Path,
    slots: &[&Slot],
    params: Params<'_>,
    options: SaveOptions,
) -> Result<()> {
    let write = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Write { path, source }
    };
    let bytes = |s: &Slot| (s.len() * options.dtype.bytes()) as u64;
    let mut shards: Vec<&[&Slot]> = Vec::new();
    let (mut from, mut size) = (0, 0);
    for (i, slot) in slots.iter().enumerate() {
        if i > from && size + bytes(slot) > options.max_shard_bytes {
            shards.push(&slots[from..i]);
            (from, size) = (i, 0);
        }
        size += bytes(slot);
    }
    shards.push(&slots[from..]);
    let single = shards.len() == 1;
    let name = |i: usize| match single {
        true => SINGLE.to_owned(),
        false => format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len()),
    };
    for entry in std::fs::read_dir(dir).map_err(write(dir))?.flatten() {
        let old = entry.file_name().to_string_lossy().into_owned();
        let is_shard = old.starts_with("model-") && old.ends_with(".safetensors") && old.contains("-of-");
        let mine = (0..shards.len()).any(|i| name(i) == old);
        if (is_shard || old == SINGLE || old == INDEX) && !mine {
            std::fs::remove_file(entry.path()).map_err(write(&entry.path()))?;
        }
    }
    let mut map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        save(&dir.join(name(i)), "", shard, params, options.dtype)?;
        map.extend(shard.iter().map(|s| (s.name.clone(), name(i).into())));
    }
    if single {
        return Ok(());
    }
    let total: u64 = slots.iter().map(|s| bytes(s)).sum();
    let parameters: usize = slots.iter().map(|s| s.len()).sum();
    let index = json!({
        "metadata": { "total_parameters": parameters, "total_size": total },
        "weight_map": map,
    });
    let path = dir.join(INDEX);
    std::fs::write(&path, format!("{index:#}\n")).map_err(write(&path))
}

/// Writes the slots to one safetensors file, each name after `prefix`: the header's length, the header (JSON), the
/// tensors by name.
pub(crate) fn save(
    path: &Path,
    prefix: &str,
    slots: &[&Slot],
    params: Params<'_>,
    dtype: SaveType,
) -> Result<()> {
    let mut slots = slots.to_vec();
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    let kind = if dtype == SaveType::F32 { "F32" } else { "BF16" };
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut at = 0;
    for slot in &slots {
        let end = at + slot.len() * dtype.bytes();
        let entry = json!({ "dtype": kind, "shape": slot.shape, "data_offsets": [at, end] });
        header.insert(format!("{prefix}{}", slot.name), entry);
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Tensors begin at a multiple of eight; spaces after the header are part of it.
    header.resize(header.len().next_multiple_of(8), b' ');
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for slot in &slots {
            let values = slot.to_file(params.at(slot.offset, slot.len()));
            for x in &*values {
                match dtype {
                    SaveType::F32 => out.write_all(&x.to_le_bytes())?,
                    SaveType::Bf16 => out.write_all(&half::bf16::from_f32(*x).to_le_bytes())?,
                }
            }
        }
        out.flush()
    };
    write().map_err(|source| ModelError::Write { path: path.to_owned(), source })
}
