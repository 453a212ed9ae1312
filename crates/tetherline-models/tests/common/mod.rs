//! Reads goldens: which directories there are, tensors by name, rows without their padding.

use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tetherline_models::Row;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

/// The given fixtures, and those of the oracle's models that are there.
pub(crate) fn dirs(own: &[&str], oracle: &[&str]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = own.iter().map(|name| fixtures().join(name)).collect();
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle");
    let root = std::env::var_os("TETHER_ORACLE").map_or(default, PathBuf::from).join("models");
    for name in oracle {
        let dir = root.join(name);
        if dir.is_dir() {
            found.push(dir);
        } else {
            eprintln!("SKIPPED: oracle not found at {} (set TETHER_ORACLE)", dir.display());
        }
    }
    found
}

/// A safetensors file of goldens, and the directory's name for messages.
pub(crate) struct Golden {
    bytes: Vec<u8>,
    pub(crate) dir: String,
}

impl Golden {
    pub(crate) fn open(dir: &Path, file: &str) -> Option<Self> {
        let bytes = std::fs::read(dir.join(file)).ok()?;
        Some(Self { bytes, dir: dir.file_name().unwrap().to_string_lossy().into_owned() })
    }

    pub(crate) fn of(dir: &Path) -> Self {
        Self::open(dir, "golden.safetensors").unwrap()
    }

    pub(crate) fn names(&self) -> BTreeSet<String> {
        SafeTensors::deserialize(&self.bytes).unwrap().names().iter().map(|n| (*n).to_owned()).collect()
    }

    pub(crate) fn f32(&self, name: &str) -> Option<Vec<f32>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).ok()?;
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        Some(view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
    }

    /// Integers as rows of the last dimension.
    pub(crate) fn ints(&self, name: &str) -> Option<Vec<Vec<u32>>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).ok()?;
        assert_eq!(view.dtype(), Dtype::I64, "{name}");
        let all: Vec<u32> = view
            .data()
            .chunks_exact(8)
            .map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap())
            .collect();
        Some(all.chunks(*view.shape().last().unwrap()).map(<[u32]>::to_vec).collect())
    }

    /// The rows of a padding side without their padding; none if the golden lacks that side.
    pub(crate) fn rows(&self, side: &str) -> Vec<GoldenRow> {
        let Some(all) = self.ints(&format!("{side}.input_ids")) else { return Vec::new() };
        let masks = self.ints(&format!("{side}.attention_mask")).unwrap();
        let cont = self.ints(&format!("{side}.cont_mask"));
        let width = all[0].len();
        let row = |b: usize| {
            let start = masks[b].iter().position(|&m| m == 1).unwrap();
            let len = masks[b].iter().filter(|&&m| m == 1).count();
            assert!(masks[b][start..start + len].iter().all(|&m| m == 1), "a mask with holes");
            let scored =
                cont.as_ref().map(|c| c[b][start..start + len - 1].iter().map(|&m| m == 1).collect());
            GoldenRow {
                tokens: all[b][start..start + len].to_vec(),
                scored: scored.unwrap_or_default(),
                at: b * width + start,
                at_next: b * (width - 1) + start,
            }
        };
        (0..all.len()).map(row).collect()
    }

    pub(crate) fn close(&self, what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
        assert_eq!(found.len(), expected.len(), "{}: length of {what}", self.dir);
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            // Written so that a NaN fails.
            assert!((a - b).abs() <= tolerance, "{}: {what}[{i}] is {a}, expected {b}", self.dir);
        }
    }
}

/// One row without padding.
pub(crate) struct GoldenRow {
    pub(crate) tokens: Vec<u32>,
    /// Whether the token after each position belongs to the continuation.
    pub(crate) scored: Vec<bool>,
    /// Index of the first real token in a flat (batch × width) tensor,
    pub(crate) at: usize,
    /// and in a flat (batch × (width − 1)) one.
    pub(crate) at_next: usize,
}

impl GoldenRow {
    pub(crate) fn lm(&self) -> Row<'_> {
        Row { tokens: &self.tokens, lm: 0..self.tokens.len() - 1, scalar: 0..0 }
    }
}
