//! Models from the Hugging Face Hub. The only code that touches the network.
//!
//! The client is hf-hub, with its cache. Around it stands what it
//! lacks: the token goes to no other host that a file is redirected to; the revision is resolved to a commit once, so that all files are of one commit; only the files that are
//! needed are fetched; names and headers from the server are checked before they become paths; sizes and hashes are compared;
//! what may pass (429, 5xx, a broken connection) is tried again; a server that falls silent is given up.
//! The cache is the one of Python's `huggingface_hub`, in both directions.

mod client;
mod hash;
mod select;
mod settings;
mod transfer;

use crate::error::{ModelError, Result};
use client::{Client, Trouble};
pub use settings::Settings;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What happens while a model is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Download<'a> {
    /// A file begins: its name and size, and how much of it is there from an earlier attempt.
    Start {
        /// The file.
        file: &'a str,
        /// Its size.
        bytes: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// So many bytes more have come.
    Advance(u64),
    /// The file is complete.
    End,
    /// Something that a person should know: a pause before another attempt, a cached model in place of one that
    /// cannot be reached.
    Note(&'a str),
}

type Hook = Box<dyn Fn(Download<'_>) + Send + Sync>;
static HOOK: OnceLock<Hook> = OnceLock::new();

/// Who is told of every [`Download`] of this process. The first call counts.
pub fn on_download(hook: impl Fn(Download<'_>) + Send + Sync + 'static) {
    // A second observer finds the first in its place.
    let _ = HOOK.set(Box::new(hook));
}

pub(crate) fn tell(event: Download<'_>) {
    if let Some(hook) = HOOK.get() {
        hook(event);
    }
}

/// Downloads (or finds in the cache) `id`, written `org/name` or `org/name@revision`, and returns its
/// snapshot directory. Settings come from the environment, see [`Settings::from_env`].
///
/// # Errors
/// [`ModelError::Hub`], in plain words for a missing, private or gated repository.
pub fn fetch(id: &str) -> Result<PathBuf> {
    let settings = Settings::from_env().map_err(|problem| ModelError::Hub { id: id.to_owned(), problem })?;
    fetch_with(id, &settings)
}

/// As [`fetch`], with the settings given.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_with(id: &str, settings: &Settings) -> Result<PathBuf> {
    // No message may show the token, whoever wrote it.
    let fail = |problem: String| ModelError::Hub { id: id.to_owned(), problem: settings.redact(&problem) };
    let (name, revision) = select::parse_id(id).map_err(&fail)?;
    let client = Client::new(settings, name, revision).map_err(&fail)?;
    if settings.offline {
        return cached(&client).map_err(|why| {
            fail(format!("HF_HUB_OFFLINE is set, and {why}; unset it, or fetch the model beforehand"))
        });
    }
    let info = match client.info() {
        Ok(info) => info,
        Err(trouble) => {
            // A model that was fetched before is as good without a network.
            if matches!(trouble, Trouble::Unreachable(_))
                && let Ok(dir) = cached(&client)
            {
                let note = format!("{id}: {}; using the cached model", client.explain(&trouble, None));
                tell(Download::Note(&settings.redact(&note)));
                return Ok(dir);
            }
            return Err(fail(client.explain(&trouble, None)));
        }
    };
    select::commit(&info.sha).map_err(&fail)?;
    let get = |file: &str| {
        client.get(&info.sha, file).map_err(|t| fail(format!("{file}: {}", client.explain(&t, Some(file)))))
    };
    let listed: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
    let chosen = select::files(&listed).map_err(&fail)?;
    for file in &chosen.files {
        get(file)?;
    }
    let dir = client.snapshot(&info.sha);
    if let Some(index) = chosen.index {
        for shard in select::shards(&dir, index, |f| listed.iter().any(|l| l == f)).map_err(&fail)? {
            get(&shard)?;
        }
    }
    client.remember(&info.sha).map_err(|e| fail(format!("cannot write to the cache: {e}")))?;
    Ok(dir)
}

/// The snapshot of the revision as the cache has it, if it is complete.
fn cached(client: &Client<'_>) -> std::result::Result<PathBuf, String> {
    let dir = client.cached_snapshot().ok_or("the cache does not have the model")?;
    let there = |file: &str| dir.join(file).is_file();
    let lacks = |file: &str| format!("the cached model lacks {file}");
    if there("adapter_config.json") && !there("config.json") {
        return if there("adapter_model.safetensors") { Ok(dir) } else { Err(lacks("its weights")) };
    }
    for file in ["config.json", "tokenizer.json"] {
        if !there(file) {
            return Err(lacks(file));
        }
    }
    if there("model.safetensors") {
        return Ok(dir);
    }
    if !there(select::INDEX) {
        return Err(lacks("its weights"));
    }
    let shards = select::shards(&dir, select::INDEX, |_| true)?;
    match shards.iter().find(|s| !there(s)) {
        Some(shard) => Err(lacks(shard)),
        None => Ok(dir),
    }
}

/// The size of a file, or 0.
fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}
