//! What a recipe names, opened: models and data, from disk, the hub or the embedded world.

use crate::Error;
use crate::recipe::{ModelSource, Recipe};
use std::path::{Path, PathBuf};
use tetherline_core::BoxError;
use tetherline_data::{ComparisonRow, Loaded, PromptRow, ReadOptions, SftRow};
use tetherline_models::{Engine, Model, ModelError, ModelFiles};

/// Opens the files of a model named as in a recipe.
///
/// # Errors
/// If there is no such model, or it cannot be downloaded.
pub fn open_model(text: &str) -> Result<ModelFiles, Error> {
    let input = |e: tetherline_core::BoxError| Error::input(format!("the model {text}"), e);
    match ModelSource::parse(text).map_err(|e| input(e.into()))? {
        ModelSource::Frontdesk => {
            Ok(ModelFiles::Embedded { name: "frontdesk", files: &tetherline_frontdesk::BASE_POLICY })
        }
        ModelSource::Dir(dir) => open_dir(dir).map_err(input),
        ModelSource::Hub { id, revision } => hub(&id, revision.as_deref())
            .map_err(|e| input(format!("there is no directory {id}, and {e}").into()))
            .and_then(|d| open_named(d, text).map_err(input)),
    }
}

/// Opens a model directory; one of an adapter together with its base, a directory (also relative to the adapter's) or
/// a hub id.
///
/// # Errors
/// If it is no directory, or the base cannot be opened.
pub(crate) fn open_dir(dir: impl Into<PathBuf>) -> Result<ModelFiles, BoxError> {
    let dir = dir.into();
    let called = dir.display().to_string();
    open_named(dir, &called)
}

/// As [`open_dir`], of a directory that whoever named it `called` so.
fn open_named(dir: PathBuf, called: &str) -> Result<ModelFiles, BoxError> {
    let files = ModelFiles::dir(dir)?;
    let (ModelFiles::Dir(dir), Some((name, revision))) = (&files, files.adapter_base()?) else {
        return Ok(files);
    };
    let beside = dir.join(&name);
    let name =
        if beside.is_dir() { std::path::absolute(beside)?.to_string_lossy().into_owned() } else { name };
    let failed = |e: BoxError| format!("the base {name} of the adapter {called}: {e}");
    let base = match base_source(&name).map_err(|e| failed(e.into()))? {
        ModelSource::Frontdesk => open_model(&name)?,
        ModelSource::Dir(base) => ModelFiles::dir(base).map_err(|e| failed(e.into()))?,
        ModelSource::Hub { id, revision: own } => {
            let fetched = hub(&id, own.or(revision).as_deref()).map_err(failed)?;
            ModelFiles::dir(fetched).map_err(|e| failed(e.into()))?
        }
    };
    Ok(ModelFiles::adapter(dir.clone(), name, base)?)
}

/// What `base_model_name_or_path` of an adapter means. Unlike a recipe it may name an old model of the hub, which has no
/// owner (`gpt2`).
fn base_source(name: &str) -> Result<ModelSource, String> {
    let bare = !name.is_empty() && !name.contains(['/', '\\', '.', '@']) && !Path::new(name).exists();
    if bare && name != "frontdesk" {
        return Ok(ModelSource::Hub { id: name.to_owned(), revision: None });
    }
    ModelSource::parse(name).map_err(|e| {
        format!("{e}; write where it is, or its hub id, into base_model_name_or_path of adapter_config.json")
    })
}

/// A model that is not trained, with the frozen parameters of `other` in place of its own where they are the same: a
/// base and an adapter over it hold the base once.
pub(crate) fn sharing(mut model: Model, other: &Model, engine: &Engine) -> Result<Model, Error> {
    if other.adapter().is_none() {
        return Ok(model);
    }
    let fail = |e: ModelError| Error::input("the model", e);
    other.prepare(engine).map_err(fail)?;
    if model.frozen().is_empty() {
        let blocks = model.config().layers.len();
        model = model.freeze_layers(blocks).map_err(fail)?;
    }
    model.share_frozen(other);
    Ok(model)
}

/// How an adapter on the model named `text` calls its base: name and revision.
pub(crate) fn base_name(text: &str) -> (String, Option<String>) {
    match ModelSource::parse(text) {
        Ok(ModelSource::Hub { id, revision }) => (id, revision),
        Ok(ModelSource::Dir(dir)) => {
            (std::path::absolute(&dir).unwrap_or(dir).to_string_lossy().into_owned(), None)
        }
        _ => (text.to_owned(), None),
    }
}

#[cfg(feature = "hub")]
fn hub(id: &str, revision: Option<&str>) -> Result<std::path::PathBuf, tetherline_core::BoxError> {
    let id = revision.map_or_else(|| id.to_owned(), |r| format!("{id}@{r}"));
    Ok(tetherline_models::hub::fetch(&id)?)
}

#[cfg(not(feature = "hub"))]
fn hub(_: &str, _: Option<&str>) -> Result<std::path::PathBuf, tetherline_core::BoxError> {
    Err("this build has no hub client (feature `hub`); download the model and give its directory".into())
}

/// The file that `key` (e.g. `data.sft`) is read from, for people.
pub(crate) fn file_of(recipe: &Recipe, key: &str) -> String {
    let find = |key| recipe.data.files().find(|(k, _)| *k == key).map(|(_, path)| path);
    // Without prompts of its own or of a world, evaluation reads the training prompts.
    let shared = key == "data.eval_prompts" && recipe.data.world.is_none();
    let fallback = || find("data.prompts").filter(|_| shared);
    find(key).or_else(fallback).map_or_else(|| key.to_owned(), |p| p.display().to_string())
}

/// Where one kind of rows comes from: the recipe's file, or a file of the embedded world.
fn rows<T>(
    recipe: &Recipe,
    path: Option<&std::path::PathBuf>,
    embedded: &str,
    from_file: impl Fn(&std::path::Path, &ReadOptions) -> Result<Loaded<T>, tetherline_data::DataError>,
    from_text: impl Fn(&str, &str, &ReadOptions) -> Result<Loaded<T>, tetherline_data::DataError>,
) -> Result<Option<Loaded<T>>, Error> {
    let options = ReadOptions { skip_bad_lines: recipe.data.skip_bad_lines };
    if let Some(path) = path {
        let loaded = from_file(path, &options).map_err(|e| Error::input(path.display().to_string(), e))?;
        return Ok(Some(loaded));
    }
    if recipe.data.world.is_none() {
        return Ok(None);
    }
    let text = tetherline_frontdesk::embedded_text(embedded)
        .ok_or_else(|| Error::input("the embedded world", format!("it has no {embedded}")))?
        .map_err(|e| Error::input("the embedded world", e))?;
    from_text(embedded, &text, &options).map(Some).map_err(|e| Error::input("the embedded world", e))
}

/// Demonstrations.
///
/// # Errors
/// If the file cannot be used.
pub fn sft(r: &Recipe) -> Result<Option<Loaded<SftRow>>, Error> {
    use tetherline_data::{read_sft, read_sft_str};
    rows(r, r.data.sft.as_ref(), "demonstrations.jsonl.gz", |p, o| read_sft(p, o), read_sft_str)
}

/// Preferences (pairs and rankings) to train on.
///
/// # Errors
/// If the file cannot be used.
pub fn pairs(r: &Recipe) -> Result<Option<Loaded<ComparisonRow>>, Error> {
    use tetherline_data::{read_comparisons, read_comparisons_str};
    let path = r.data.pairs.as_ref();
    rows(r, path, "pairs.train.jsonl.gz", |p, o| read_comparisons(p, o), read_comparisons_str)
}

/// Preferences to test on; `None` where neither the recipe nor a world has any.
///
/// # Errors
/// If the file cannot be used.
pub fn pairs_eval(r: &Recipe) -> Result<Option<Loaded<ComparisonRow>>, Error> {
    use tetherline_data::{read_comparisons, read_comparisons_str};
    let path = r.data.pairs_eval.as_ref();
    rows(r, path, "pairs.validation.jsonl", |p, o| read_comparisons(p, o), read_comparisons_str)
}

/// Prompts for PPO.
///
/// # Errors
/// If the file cannot be used.
pub fn prompts(r: &Recipe) -> Result<Option<Loaded<PromptRow>>, Error> {
    use tetherline_data::{read_prompts, read_prompts_str};
    let path = r.data.prompts.as_ref();
    rows(r, path, "prompts.train.jsonl", |p, o| read_prompts(p, o), read_prompts_str)
}

/// Prompts for evaluation; the training prompts where no others are given.
///
/// # Errors
/// If the file cannot be used.
pub fn eval_prompts(r: &Recipe) -> Result<Option<Loaded<PromptRow>>, Error> {
    use tetherline_data::{read_prompts, read_prompts_str};
    let path = r.data.eval_prompts.as_ref();
    let own = rows(r, path, "prompts.heldout.jsonl", |p, o| read_prompts(p, o), read_prompts_str)?;
    if own.is_some() { Ok(own) } else { prompts(r) }
}
