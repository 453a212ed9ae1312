//! Which parameters of a model are trained: all, the upper blocks, or an adapter; and what models with the same frozen
//! parameters share.

use super::{Freeze, Model, own};
use crate::error::{ModelError, Result};
use crate::graph::DeviceCopy;
use crate::layout::{Heads, SCORE, Slot, build};
use crate::lora::{self, LoraConfig};
use std::sync::{Arc, OnceLock};
use tetherline_kernels::{DecoderSpec, Floats, PackedWeights};

impl Freeze {
    /// Slots and decoder with `self` frozen.
    pub(super) fn apply(&self, slots: &mut Vec<Slot>, spec: &mut DecoderSpec) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Base(config) => lora::attach(config, slots, spec)?,
            Self::Layers(n) => {
                let first = |l: &tetherline_kernels::LayerSpec| {
                    l.norm1.as_ref().map_or(l.attention.q.weight, |n| n.weight)
                };
                spec.frozen = spec.layers.get(*n).map_or(spec.final_norm.weight, first);
            }
        }
        Ok(())
    }
}

/// Refuses to freeze more blocks than there are, or any beside an adapter.
pub(super) fn check_freezable(has_adapter: bool, blocks: usize, layers: usize) -> Result<()> {
    let problem = match (has_adapter, layers > blocks) {
        (true, _) => "it has an adapter, which freezes every block".to_owned(),
        (_, true) => format!("{layers} blocks cannot be frozen: it has {blocks}"),
        _ => return Ok(()),
    };
    Err(ModelError::ConfigField { path: "the model".into(), field: "freeze_layers".into(), problem })
}

impl Model {
    /// Freezes the model and adds an adapter: A as `peft` draws it (streams `(seed, Init, 1)`), B zero, so that at
    /// first nothing changes. Only the adapter and a scalar head are trained from now on.
    ///
    /// # Errors
    /// If the model has an adapter already, no module is meant, a name means none, or an embedding is.
    pub fn with_adapter(mut self, config: LoraConfig, seed: u64) -> Result<Self> {
        if self.adapter().is_some() {
            let problem =
                "it has an adapter already, which goes on being trained; leave this one out".to_owned();
            return Err(ModelError::ConfigField {
                path: "the model".into(),
                field: "adapter".into(),
                problem,
            });
        }
        let config = config.with_modules();
        lora::check_names(&config, &self.slots, &self.spec)?;
        self.adapt(config)?;
        lora::init(&self.slots, self.spec.frozen, own(&mut self.trained), seed);
        Ok(self)
    }

    /// Adds an adapter of zeros.
    pub(super) fn adapt(&mut self, config: LoraConfig) -> Result<()> {
        let (mut slots, mut spec) = build(&self.config, self.heads);
        let freeze = Freeze::Base(Arc::new(config));
        let base = spec.n_params;
        freeze.apply(&mut slots, &mut spec)?;
        let flat = self.take_flat();
        let (frozen, trained) = flat.split_at(spec.frozen);
        self.trained = Arc::new(Floats::of(&[trained, &vec![0.0; spec.n_params - base]]));
        self.frozen = Arc::new(Floats::of(&[frozen]));
        (self.slots, self.spec, self.freeze) = (slots, spec, freeze);
        self.forget_copies();
        Ok(())
    }

    /// Freezes the embeddings and the lowest `layers` blocks (0: nothing).
    ///
    /// # Errors
    /// If the model has fewer blocks, or an adapter.
    pub fn freeze_layers(mut self, layers: usize) -> Result<Self> {
        check_freezable(self.adapter().is_some(), self.spec.layers.len(), layers)?;
        let freeze = if layers == 0 { Freeze::Nothing } else { Freeze::Layers(layers) };
        let (mut slots, mut spec) = build(&self.config, self.heads);
        freeze.apply(&mut slots, &mut spec)?;
        let flat = self.take_flat();
        let (frozen, trained) = flat.split_at(spec.frozen);
        (self.frozen, self.trained) = (Arc::new(Floats::of(&[frozen])), Arc::new(Floats::of(&[trained])));
        (self.slots, self.spec, self.freeze) = (slots, spec, freeze);
        self.forget_copies();
        Ok(self)
    }

    /// All parameters in one vector, taken out of the model.
    fn take_flat(&mut self) -> Floats {
        let trained = Arc::unwrap_or_clone(std::mem::take(&mut self.trained));
        if self.spec.frozen == 0 { trained } else { Floats::of(&[self.frozen(), &trained]) }
    }

    fn forget_copies(&mut self) {
        self.version += 1;
        (self.packed, self.on_device) = (OnceLock::new(), DeviceCopy::default());
    }

    /// The adapter's configuration, if the model has one.
    pub fn adapter(&self) -> Option<&LoraConfig> {
        match &self.freeze {
            Freeze::Base(config) => Some(config),
            _ => None,
        }
    }

    /// The same model with the adapter folded into the weights, W + s·B·A, and nothing frozen.
    #[must_use]
    pub fn merged(&self) -> Self {
        let (slots, spec) = build(&self.config, self.heads);
        let mut flat = Floats::of(&[self.frozen(), &self.trained[..spec.n_params - self.spec.frozen]]);
        lora::merge(&self.spec, self.params(), &mut flat);
        let parts = (Arc::default(), flat);
        let mut model =
            Self::assemble(self.config.clone(), self.heads, (slots, spec), Freeze::Nothing, parts);
        model.assets.clone_from(&self.assets);
        model.templates.clone_from(&self.templates);
        model.limit = self.limit;
        model
    }

    /// The same trunk with other heads, frozen parameters shared. A scalar head that `self` does not have is
    /// initialised as in [`Model::load`].
    ///
    /// # Errors
    /// If a vocabulary head is asked for that `self` does not have.
    pub fn with_heads(&self, heads: Heads, seed: u64) -> Result<Self> {
        self.with_scores(heads, self.config.scores, seed)
    }

    /// The same with a scalar head of `scores` outputs. One of fewer outputs than `self` has keeps the first ones; of more
    /// is initialised anew.
    ///
    /// # Errors
    /// As [`Model::with_heads`].
    pub fn with_scores(&self, heads: Heads, scores: usize, seed: u64) -> Result<Self> {
        let mut config = self.config.clone();
        config.scores = scores;
        let (mut slots, mut spec) = build(&config, heads);
        self.freeze.apply(&mut slots, &mut spec)?;
        let mut trained = Floats::zeros(spec.n_trained());
        let mut frozen = Arc::clone(&self.frozen);
        // Base slots stand in one order whatever the heads, so what both freeze is a prefix of both.
        let shares = spec.frozen <= self.spec.frozen;
        if !shares {
            frozen = Arc::new(Floats::zeros(spec.frozen));
        }
        let mut fresh_scalar = false;
        for s in slots.iter().filter(|s| !shares || s.offset >= spec.frozen) {
            let enough = |old: &&[f32]| old.len() >= s.len();
            let Some(old) = self.tensor(&s.name).filter(enough).map(|old| &old[..s.len()]) else {
                if s.name == SCORE {
                    fresh_scalar = true;
                    continue;
                }
                return Err(ModelError::MissingTensor {
                    instead: String::new(),
                    path: "model in memory".into(),
                    name: s.name.clone(),
                    shape: s.shape.clone(),
                });
            };
            match s.offset.checked_sub(spec.frozen) {
                Some(from) => trained[from..from + s.len()].copy_from_slice(old),
                None => {
                    let all = Arc::make_mut(&mut frozen);
                    all[s.range()].copy_from_slice(old);
                }
            }
        }
        let (freeze, parts) = (self.freeze.clone(), (frozen, trained));
        let mut model = Self::assemble(config, heads, (slots, spec), freeze, parts);
        model.assets.clone_from(&self.assets);
        model.templates.clone_from(&self.templates);
        model.limit = self.limit;
        if shares && model.spec.frozen > 0 {
            model.share_panels(self);
            model.version = self.version + 1;
            model.on_device = self.on_device.clone();
        }
        if fresh_scalar {
            model.init_scalar(SCORE, seed);
        }
        Ok(model)
    }

    /// Takes the frozen parameters of `other`, if they begin with the same ones: two models over one base, loaded
    /// apart, then hold it once. Returns whether they do.
    pub fn share_frozen(&mut self, other: &Self) -> bool {
        let n = self.spec.frozen;
        let bits = |x: &f32| x.to_bits();
        let same = n > 0 && other.spec.frozen >= n && {
            self.frozen[..n].iter().map(bits).eq(other.frozen[..n].iter().map(bits))
        };
        if same && !self.shares_frozen_with(other) {
            self.frozen = Arc::clone(&other.frozen);
            self.forget_copies();
            self.share_panels(other);
        }
        same
    }

    /// Panels of frozen layers as `other` has them, if it has any.
    fn share_panels(&mut self, other: &Self) {
        if let Some(donor) = other.packed.get() {
            self.trainable |= other.trainable;
            let (spec, params) = (&self.spec, self.params());
            let packed = PackedWeights::sharing(spec, params, self.trainable, 1, (&other.spec, donor));
            self.packed = OnceLock::from(packed);
        }
    }

    /// How many linear layers have the same panels in memory as those of `other`.
    pub fn panels_shared_with(&self, other: &Self) -> usize {
        let (Some(own), Some(others)) = (self.packed.get(), other.packed.get()) else { return 0 };
        own.shared_with(others)
    }
}
