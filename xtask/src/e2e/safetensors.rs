//! Just enough of the safetensors format to break a file in a chosen way, or to split one into shards.
//!
//! A file is the header's length (u64, little endian), the header (a JSON object: tensor name → dtype,
//! shape and `data_offsets`), and the tensors' bytes.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// A file taken apart.
pub(super) struct File {
    pub(super) header: Map<String, Value>,
    pub(super) data: Vec<u8>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (length, rest) = bytes.split_first_chunk::<8>().context("shorter than its header's length")?;
        let length = usize::try_from(u64::from_le_bytes(*length))?;
        if length > rest.len() {
            bail!("{} is shorter than its header", path.display());
        }
        let (header, data) = rest.split_at(length);
        let Value::Object(header) = serde_json::from_slice(header)? else { bail!("the header is no object") };
        Ok(Self { header, data: data.to_vec() })
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut header = serde_json::to_vec(&self.header)?;
        // Tensors begin at a multiple of eight; spaces after the header are part of it.
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(&self.data);
        fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Where a tensor's bytes lie.
    pub(super) fn span(&self, tensor: &str) -> Result<std::ops::Range<usize>> {
        let offsets =
            &self.header.get(tensor).with_context(|| format!("no tensor {tensor}"))?["data_offsets"];
        let at = |i: usize| offsets[i].as_u64().and_then(|n| usize::try_from(n).ok());
        at(0).zip(at(1)).map(|(start, end)| start..end).with_context(|| format!("bad offsets {offsets}"))
    }

    /// Its tensors' names.
    pub(super) fn names(&self) -> Vec<String> {
        self.header.keys().filter(|name| *name != "__metadata__").cloned().collect()
    }

    /// The numbers of an F32 tensor.
    pub(super) fn floats(&self, tensor: &str) -> Result<Vec<f64>> {
        Ok(self.elements::<4>(tensor, "F32")?.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect())
    }

    /// The numbers of an I64 tensor.
    pub(super) fn integers(&self, tensor: &str) -> Result<Vec<i64>> {
        Ok(self.elements::<8>(tensor, "I64")?.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }

    fn elements<const N: usize>(&self, tensor: &str, kind: &str) -> Result<&[[u8; N]]> {
        let span = self.span(tensor)?;
        if self.header[tensor]["dtype"] != kind {
            bail!("{tensor} is {}, expected {kind}", self.header[tensor]["dtype"]);
        }
        Ok(self.data[span].as_chunks().0)
    }

    /// A file with some of the tensors.
    pub(super) fn pick(&self, names: &[String]) -> Result<Self> {
        let mut picked = Self { header: Map::new(), data: Vec::new() };
        for name in names {
            let bytes = &self.data[self.span(name)?];
            let mut entry = self.header[name].clone();
            entry["data_offsets"] = json!([picked.data.len(), picked.data.len() + bytes.len()]);
            picked.data.extend(bytes);
            picked.header.insert(name.clone(), entry);
        }
        Ok(picked)
    }
}

/// Splits `dir/model.safetensors` into two shards and an index, as large models are stored.
pub(super) fn shard(dir: &Path) -> Result<()> {
    let whole = dir.join("model.safetensors");
    let file = File::read(&whole)?;
    let names = file.names();
    let mut map = Map::new();
    for (i, part) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let shard = format!("model-{:05}-of-00002.safetensors", i + 1);
        file.pick(part)?.write(&dir.join(&shard))?;
        map.extend(part.iter().map(|name| (name.clone(), json!(shard))));
    }
    let index = json!({ "metadata": { "total_size": file.data.len() }, "weight_map": map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string())?;
    fs::remove_file(whole)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixture_survives_a_round_trip_and_a_split() {
        let dir = std::env::temp_dir().join(format!("xtask-{}-shards", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let source = crate::process::root().join("fixtures/models/tiny-llama/model.safetensors");
        let file = File::read(&source).unwrap();
        assert_eq!(file.names().len(), 21);
        assert_eq!(file.span("lm_head.weight").unwrap().len(), 320 * 48 * 4);
        let copy = dir.join("model.safetensors");
        file.write(&copy).unwrap();
        assert_eq!(File::read(&copy).unwrap().data, file.data);
        shard(&dir).unwrap();
        let parts = ["00001", "00002"]
            .map(|n| File::read(&dir.join(format!("model-{n}-of-00002.safetensors"))).unwrap());
        assert_eq!(parts.iter().map(|p| p.names().len()).sum::<usize>(), 21);
        let norm = "model.norm.weight";
        let part = parts.iter().find(|p| p.header.contains_key(norm)).unwrap();
        assert_eq!(part.data[part.span(norm).unwrap()], file.data[file.span(norm).unwrap()]);
        fs::remove_dir_all(dir).unwrap();
    }
}
