//! `tether export`: an adapter folded into plain weights, W + s·B·A.

use crate::checkpoint::save_dir;
use crate::ppo::POLICY_HEADS;
use crate::scoring::{NORM_FILE, REWARD_HEADS};
use crate::{Error, card, sources};
use std::path::PathBuf;
use tetherline_models::{Heads, Model, ModelConfig, ModelFiles, SaveType};

/// What to merge, into which directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOptions {
    /// A directory with an adapter, or a hub id of one.
    pub merge: String,
    /// The directory to write.
    pub out: PathBuf,
    /// bf16 weights, f32 otherwise.
    pub bf16: bool,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportSummary {
    /// Parameters of the merged model.
    pub parameters: usize,
    /// Those of the adapter.
    pub adapter: usize,
    /// The base that it was for.
    pub base: String,
}

/// Writes the merged model as a Hugging Face directory, with tokenizer, model card and, where the adapter has them
/// beside it, value head and reward normalisation.
///
/// # Errors
/// [`Error::Input`] where there is no adapter, its base cannot be opened, or `out` is there already.
pub fn export(options: &ExportOptions) -> Result<ExportSummary, Error> {
    let input = |e: tetherline_core::BoxError| Error::input(format!("the adapter {}", options.merge), e);
    let files = sources::open_model(&options.merge)?;
    let ModelFiles::Adapter { name, .. } = &files else {
        return Err(input("it has no adapter_config.json: there is nothing to merge".into()));
    };
    if options.out.exists() {
        return Err(Error::input(options.out.display().to_string(), "it is there already"));
    }
    let config = ModelConfig::load(&files).map_err(|e| input(e.into()))?;
    let shared = files.read("value_head.safetensors").map_err(|e| input(e.into()))?.is_some();
    let heads = match config.sequence_classification {
        true => REWARD_HEADS,
        false => Heads { scalar: shared, ..POLICY_HEADS },
    };
    let model = Model::load(&files, heads, 0).map_err(|e| input(e.into()))?;
    let merged = model.merged();
    let dtype = if options.bf16 { SaveType::Bf16 } else { SaveType::F32 };
    let norm = files.read(NORM_FILE).map_err(|e| input(e.into()))?;
    let before = files.read(card::CARD).map_err(|e| input(e.into()))?;
    let before = before.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let card = card::merged(before.as_deref(), name, config.sequence_classification);
    save_dir(&options.out, |dir| {
        merged.save(dir, dtype)?;
        if let Some(norm) = &norm {
            std::fs::write(dir.join(NORM_FILE), norm)?;
        }
        Ok(std::fs::write(dir.join(card::CARD), card)?)
    })?;
    Ok(ExportSummary {
        parameters: merged.n_params(),
        adapter: model.n_params() - merged.n_params(),
        base: name.clone(),
    })
}
