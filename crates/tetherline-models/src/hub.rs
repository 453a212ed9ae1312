//! Models from the Hugging Face Hub. The only code that touches the network.
//!
//! Cache, tokens and endpoint come from the standard places (`HF_HOME`, `HF_TOKEN` or the token file,
//! `HF_ENDPOINT`), through the hf-hub client.

use crate::error::{ModelError, Result};
use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Repo, RepoType};
use std::path::PathBuf;

/// Files worth having, besides the weights.
const OPTIONAL: [&str; 6] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "value_head.safetensors",
    "reward_norm.json",
];

/// Downloads (or finds in the cache) `id`, written `org/name` or `org/name@revision`, and returns its
/// snapshot directory.
///
/// # Errors
/// [`ModelError::Hub`], in plain words for a missing, private or gated repository.
pub fn fetch(id: &str) -> Result<PathBuf> {
    let (name, revision) = id.split_once('@').unwrap_or((id, "main"));
    let fail = |problem: String| ModelError::Hub { id: id.to_owned(), problem };
    let mut builder = ApiBuilder::from_env().with_progress(false);
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|t| !t.trim().is_empty()) {
        builder = builder.with_token(Some(token.trim().to_owned()));
    }
    let api = builder.build().map_err(|e| fail(e.to_string()))?;
    let repo = api.repo(Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned()));
    let info = repo.info().map_err(|e| fail(explain(&e)))?;
    let has = |f: &str| info.siblings.iter().any(|s| s.rfilename == f);
    let get = |f: &str| repo.get(f).map_err(|e| fail(format!("{f}: {}", explain(&e))));
    if !has("config.json") {
        return Err(fail("the repository has no config.json; it is not a transformers model".into()));
    }
    let config = get("config.json")?;
    if !has("tokenizer.json") {
        return Err(fail("the repository has no tokenizer.json (a fast tokenizer is needed)".into()));
    }
    get("tokenizer.json")?;
    for f in OPTIONAL.into_iter().filter(|f| has(f)) {
        get(f)?;
    }
    let index = "model.safetensors.index.json";
    if has(index) {
        get(index)?;
        for s in info.siblings.iter().filter(|s| s.rfilename.ends_with(".safetensors")) {
            if s.rfilename.starts_with("model-") {
                get(&s.rfilename)?;
            }
        }
    } else if has("model.safetensors") {
        get("model.safetensors")?;
    } else {
        return Err(fail("the repository has no safetensors weights".into()));
    }
    config.parent().map(PathBuf::from).ok_or_else(|| fail("the cache path has no parent".into()))
}

/// A client error in plain words.
fn explain(e: &ApiError) -> String {
    if let ApiError::RequestError(inner) = e
        && let ureq::Error::StatusCode(code) = inner.as_ref()
    {
        return match code {
            401 => "401: the repository is private or gated, or does not exist; set HF_TOKEN to a token \
                    that may read it"
                .into(),
            403 => "403: access is gated; accept its conditions on the hub and set HF_TOKEN".into(),
            404 => "404: no such repository, revision or file; check the id (org/name@revision)".into(),
            429 => "429: the hub asks to slow down; wait a minute and try again".into(),
            500..=599 => format!("{code}: the hub has a problem; try again later"),
            _ => format!("HTTP status {code}"),
        };
    }
    e.to_string()
}
