//! What a run was started on: a hash of every data file and model.
//!
//! Two kinds. [`hashes`] (`inputs.txt`) keep a run from being continued on others; they are known before anything starts, so
//! files up to 8 MiB are hashed whole, larger ones (weights) by their length and 64 KiB of every MiB, with FNV-1a of 64 bits:
//! against mistakes, not against an adversary. [`ModelHashes`], for the audit, are SHA-256 of every byte of the models,
//! worked out on a thread of their own while the models are loaded.

use crate::Error;
use crate::recipe::{ModelSource, Recipe};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tetherline_audit::dir_sha256;
use tetherline_models::ModelFiles;

const WHOLE: u64 = 8 << 20;
const BLOCK: usize = 64 << 10;
const STRIDE: u64 = 1 << 20;

/// Key of the recipe → hash, 16 hex digits. Models from the hub and the embedded world are named by the
/// recipe itself.
///
/// # Errors
/// [`Error::Io`] where a file cannot be read.
pub(crate) fn hashes(recipe: &Recipe) -> Result<BTreeMap<String, String>, Error> {
    let mut out = BTreeMap::new();
    for (key, files) in files(recipe) {
        let mut hash = 0xcbf2_9ce4_8422_2325;
        for path in files {
            hash = hash_file(hash, &path).map_err(|source| Error::Io { action: "read", path, source })?;
        }
        out.insert(key, format!("{hash:016x}"));
    }
    Ok(out)
}

/// The key of entry `i` of a list: that of the list itself for the first, which may be the only one.
pub(crate) fn numbered(key: &str, i: usize) -> String {
    if i == 0 { key.to_owned() } else { format!("{key}[{i}]") }
}

fn files(recipe: &Recipe) -> Vec<(String, Vec<PathBuf>)> {
    let mut out: Vec<_> =
        recipe.data.files().map(|(key, path)| (key.to_owned(), vec![path.clone()])).collect();
    let of = |dirs: Vec<PathBuf>| dirs.iter().flat_map(|dir| model_files(dir)).collect();
    out.extend(model_dirs(recipe).into_iter().map(|(key, dirs)| (key, of(dirs))));
    out
}

/// Key of the recipe → the directory of a model that it names, and that of an adapter's base, which it is nothing without.
fn model_dirs(recipe: &Recipe) -> Vec<(String, Vec<PathBuf>)> {
    let mut out = Vec::new();
    let mut seen = BTreeMap::new();
    for (key, encoder) in recipe.encoders() {
        if let Ok(ModelSource::Dir(dir)) = ModelSource::parse(&encoder.model) {
            out.push((key, vec![dir]));
        }
    }
    for (key, text) in recipe.model.named() {
        let count: &mut usize = seen.entry(key).or_default();
        let name = numbered(key, *count);
        *count += 1;
        if let Ok(ModelSource::Dir(dir)) = ModelSource::parse(text) {
            let opened = crate::sources::open_dir(&dir);
            let mut dirs = vec![dir];
            if let Ok(opened @ ModelFiles::Adapter { .. }) = opened
                && let ModelFiles::Dir(base) = opened.base()
            {
                dirs.push(base.clone());
            }
            out.push((name, dirs));
        }
    }
    out
}

/// SHA-256 of the model directories of a recipe, as a registry knows them ([`tetherline_audit::dir_sha256`]), by key; an
/// adapter's base as `KEY.base`. By default none.
#[derive(Default)]
pub(crate) struct ModelHashes(RefCell<Option<Working>>);

type Working = JoinHandle<Result<BTreeMap<String, String>, (PathBuf, io::Error)>>;

impl ModelHashes {
    /// Begins.
    pub(crate) fn of(recipe: &Recipe) -> Self {
        let dirs = model_dirs(recipe);
        let hash = move || {
            let mut known: BTreeMap<PathBuf, String> = BTreeMap::new();
            let mut out = BTreeMap::new();
            for (key, dirs) in dirs {
                for (dir, suffix) in dirs.into_iter().zip(["", ".base"]) {
                    let hash = match known.get(&dir) {
                        Some(hash) => hash.clone(),
                        None => dir_sha256(&dir).map_err(|e| (dir.clone(), e))?,
                    };
                    known.insert(dir, hash.clone());
                    out.insert(format!("{key}{suffix}"), hash);
                }
            }
            Ok(out)
        };
        Self(RefCell::new(Some(std::thread::spawn(hash))))
    }

    /// Waits for them. `None` where they were asked for before.
    ///
    /// # Errors
    /// [`Error::Io`] where something cannot be read.
    pub(crate) fn wait(&self) -> Result<Option<BTreeMap<String, String>>, Error> {
        let Some(working) = self.0.take() else { return Ok(None) };
        match working.join() {
            Ok(Ok(hashes)) => Ok(Some(hashes)),
            Ok(Err((path, source))) => Err(Error::Io { action: "read", path, source }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// The JSON files and weights of a model directory, sorted.
fn model_files(dir: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let counts = |p: &PathBuf| {
        p.is_file() && p.extension().is_some_and(|e| e == "json" || e == "safetensors" || e == "jinja")
    };
    let mut files: Vec<_> = listed.filter(counts).collect();
    files.sort();
    files
}

fn hash_file(mut hash: u64, path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    hash = fnv(hash, &length.to_le_bytes());
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    loop {
        let n = file.read(&mut block)?;
        if n == 0 {
            return Ok(hash);
        }
        hash = fnv(hash, &block[..n]);
        at += STRIDE;
        if length > WHOLE {
            file.seek(SeekFrom::Start(at))?;
        }
    }
}

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_byte_or_a_lost_one_shows() {
        let dir = tempfile::tempdir().unwrap();
        let hash = |bytes: &[u8]| {
            let path = dir.path().join("f");
            std::fs::write(&path, bytes).unwrap();
            hash_file(1, &path).unwrap()
        };
        let text = vec![7u8; 3 * BLOCK + 5];
        let whole = hash(&text);
        assert_eq!(whole, hash(&text));
        assert_ne!(whole, hash(&text[1..]));
        let mut other = text.clone();
        other[2 * BLOCK + 3] = 8;
        assert_ne!(whole, hash(&other));
        // FNV-1a of the empty input is its offset; of "a" 0xaf63dc4c8601ec8c (the authors' test vectors).
        assert_eq!(fnv(0xcbf2_9ce4_8422_2325, b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
