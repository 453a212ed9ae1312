//! A model without its weights: what `config.json` says of it, with what is frozen and added, to know how large
//! something will be before it is there.

use super::adapt::check_freezable;
use super::{Freeze, Model};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::files::ModelFiles;
use crate::layout::{Heads, Slot, build};
use crate::lora::{self, LoraConfig};
use std::sync::Arc;
use tetherline_kernels::{DecoderSpec, Split};

/// Bytes of a parameter in memory.
const FLOAT: usize = size_of::<f32>();

/// Configuration, heads, and which parameters are trained.
#[derive(Clone, Debug)]
pub struct ModelShape {
    config: ModelConfig,
    heads: Heads,
    freeze: Freeze,
    slots: Vec<Slot>,
    spec: DecoderSpec,
}

impl ModelShape {
    /// A model of this configuration, all of it trained.
    pub fn new(config: ModelConfig, heads: Heads) -> Self {
        let (slots, spec) = build(&config, heads);
        Self { config, heads, freeze: Freeze::Nothing, slots, spec }
    }

    /// Reads the configuration of a directory, and that of its adapter if it is one; no weights.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn load(files: &ModelFiles, heads: Heads) -> Result<Self> {
        let shape = Self::new(ModelConfig::load(files)?, heads);
        if matches!(files, ModelFiles::Adapter { .. }) {
            return shape.frozen_by(Freeze::Base(Arc::new(lora::read_config(files)?)));
        }
        Ok(shape)
    }

    fn frozen_by(self, freeze: Freeze) -> Result<Self> {
        let (mut slots, mut spec) = build(&self.config, self.heads);
        freeze.apply(&mut slots, &mut spec)?;
        Ok(Self { freeze, slots, spec, ..self })
    }

    /// As [`Model::with_adapter`].
    ///
    /// # Errors
    /// As there, but that a model which has an adapter keeps it.
    pub fn with_adapter(self, config: LoraConfig) -> Result<Self> {
        if self.has_adapter() {
            return Ok(self);
        }
        let config = config.with_modules();
        lora::check_names(&config, &self.slots, &self.spec)?;
        self.frozen_by(Freeze::Base(Arc::new(config)))
    }

    /// As [`Model::freeze_layers`].
    ///
    /// # Errors
    /// As there.
    pub fn freeze_layers(self, layers: usize) -> Result<Self> {
        check_freezable(self.has_adapter(), self.config.layers.len(), layers)?;
        self.frozen_by(if layers == 0 { Freeze::Nothing } else { Freeze::Layers(layers) })
    }

    /// As [`Model::with_heads`].
    ///
    /// # Errors
    /// If the adapter does not fit what is left.
    pub fn with_heads(&self, heads: Heads) -> Result<Self> {
        let freeze = self.freeze.clone();
        Self { heads, ..self.clone() }.frozen_by(freeze)
    }

    /// Whether there is an adapter.
    pub fn has_adapter(&self) -> bool {
        self.adapter().is_some()
    }

    /// The adapter's configuration, if there is one.
    pub fn adapter(&self) -> Option<&LoraConfig> {
        match &self.freeze {
            Freeze::Base(config) => Some(config),
            _ => None,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The decoder, which says what it needs ([`DecoderSpec::panel_bytes`] and its neighbours).
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Bytes of the parameters.
    pub fn weight_bytes(&self) -> Split {
        Split { frozen: FLOAT * self.spec.frozen, trained: FLOAT * self.spec.n_trained() }
    }
}

impl Model {
    /// Its shape.
    pub fn shape(&self) -> ModelShape {
        let (config, freeze) = (self.config.clone(), self.freeze.clone());
        ModelShape { config, heads: self.heads, freeze, slots: self.slots.clone(), spec: self.spec.clone() }
    }
}
