//! A model in memory: configuration, flat parameters with named spans, and the decoder that runs them.

mod adapt;
mod io;
mod shape;

pub use shape::ModelShape;

use crate::config::ModelConfig;
use crate::engine::{DecodeBatch, Engine, Rows, Run};
use crate::error::{ModelError, Result};
use crate::graph::{self, CachedRows, DeviceCopy, GraphDevice, Net};
use crate::layout::{Heads, SCORE, Slot, build};
use crate::lora::LoraConfig;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use tetherline_core::seeds::{Purpose, stream};
use tetherline_kernels::{DecoderSpec, Floats, PackedWeights, PairRow, Params, Row, RowResult, UnitLoss};

const LONG_ROPE: &str = "past it LongRoPE rotates the whole sequence otherwise, which cached decoding and the graph \
                         cannot follow; shorten the prompt or max_new_tokens";

/// A model in memory.
///
/// The flat parameters are the truth: frozen ones, which clones share, then trained ones. What an engine computes
/// with are copies made when one first needs them: panels for the kernels, variables on a device for the graph.
/// Clones share those of frozen parameters too, and trained parameters until one of them changes.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    heads: Heads,
    slots: Vec<Slot>,
    spec: DecoderSpec,
    /// The first `spec.frozen` are this model's; another head's may follow.
    frozen: Arc<Floats>,
    /// Shared between clones until one of them changes.
    trained: Arc<Floats>,
    freeze: Freeze,
    /// Counts the changes of `trained`; a device copy knows which it was made from.
    version: u64,
    packed: OnceLock<PackedWeights>,
    on_device: DeviceCopy,
    trainable: bool,
    limit: usize,
    assets: Vec<(&'static str, Cow<'static, [u8]>)>,
    /// (name, text) of chat templates that have files of their own.
    templates: Vec<(String, String)>,
}

/// What is frozen, and what is trained in its place.
#[derive(Clone, Debug)]
enum Freeze {
    Nothing,
    /// The embedding and this many blocks.
    Layers(usize),
    /// All but the scalar head, with an adapter added.
    Base(Arc<LoraConfig>),
}

/// Trained parameters of one model alone: copied if a clone has them too.
fn own(trained: &mut Arc<Floats>) -> &mut [f32] {
    Arc::<Floats>::make_mut(trained)
}

impl Model {
    fn assemble(
        config: ModelConfig,
        heads: Heads,
        (slots, spec): (Vec<Slot>, DecoderSpec),
        freeze: Freeze,
        (frozen, trained): (Arc<Floats>, Floats),
    ) -> Self {
        Self {
            limit: config.max_positions,
            config,
            heads,
            slots,
            spec,
            frozen,
            trained: Arc::new(trained),
            freeze,
            version: 0,
            packed: OnceLock::new(),
            on_device: DeviceCopy::default(),
            trainable: false,
            assets: Vec::new(),
            templates: Vec::new(),
        }
    }

    /// A model with random weights: N(0, 0.02²) matrices (residual projections divided by √(2·layers)),
    /// zero biases, unit norms, as GPT-2.
    pub fn random(config: ModelConfig, heads: Heads, seed: u64) -> Self {
        let (slots, spec) = build(&config, heads);
        let mut flat = Floats::zeros(spec.n_params);
        let residual = 0.02 / (2.0 * config.layers.len() as f64).sqrt();
        let unit = if config.norms.plus_one { 0.0 } else { 1.0 };
        for (i, s) in slots.iter().enumerate() {
            let values = &mut flat[s.range()];
            if s.shape.len() == 1 {
                values.fill(if s.name.ends_with("bias") { 0.0 } else { unit });
                continue;
            }
            let into_residual = ["o_proj", "down_proj", "c_proj", "attention.dense", "4h_to_h"]
                .iter()
                .any(|n| s.name.contains(n));
            let sd = if into_residual { residual } else { 0.02 };
            let mut r = stream(seed, Purpose::Init, 0, i as u64, 0);
            values.iter_mut().for_each(|x| *x = (r.normal() * sd) as f32);
        }
        let parts = (Arc::default(), flat);
        let mut model = Self::assemble(config, heads, (slots, spec), Freeze::Nothing, parts);
        if heads.scalar {
            model.init_scalar(SCORE, seed);
        }
        model
    }

    fn init_scalar(&mut self, name: &str, seed: u64) {
        let sd = 1.0 / ((self.config.dim + 1) as f64).sqrt();
        let mut r = stream(seed, Purpose::Init, 0, u64::MAX, 0);
        self.set_scalar(name, |_| (r.normal() * sd) as f32);
    }

    fn set_scalar(&mut self, name: &str, mut value: impl FnMut(usize) -> f32) {
        let Some(slot) = self.slots.iter().find(|s| s.name == name) else { return };
        let (from, len) = (slot.offset - self.spec.frozen, slot.len());
        for (i, x) in own(&mut self.trained)[from..from + len].iter_mut().enumerate() {
            *x = value(i);
        }
        self.version += 1;
        match self.packed.get_mut() {
            // Panels of frozen layers may be shared.
            Some(packed) if self.spec.frozen > 0 => {
                let params = Params { frozen: &self.frozen[..self.spec.frozen], trained: &self.trained };
                packed.refresh(&self.spec, params, 1);
            }
            _ => drop(self.packed.take()),
        }
    }

    /// Sets the scalar head to N(0, `sd`²), stream `(seed, Init)`; with 0 it starts by predicting nothing.
    pub fn init_scalar_head(&mut self, sd: f64, seed: u64) {
        let mut r = stream(seed, Purpose::Init, 0, u64::MAX, 1);
        self.set_scalar(SCORE, |_| (r.normal() * sd) as f32);
    }

    /// The same model with its context cut to `tokens` (0: unchanged).
    ///
    /// # Errors
    /// If the model's own context is shorter.
    pub fn with_context(mut self, tokens: usize) -> Result<Self> {
        if tokens > self.config.max_positions {
            return Err(ModelError::TooLong {
                tokens,
                context: self.config.max_positions,
                hint: "model.max_context cannot exceed the model's own context",
            });
        }
        if tokens > 0 {
            self.limit = tokens;
        }
        Ok(self)
    }

    /// Longest sequence accepted.
    pub fn context(&self) -> usize {
        self.limit
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The heads.
    pub fn heads(&self) -> Heads {
        self.heads
    }

    /// The decoder.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Named spans of the parameters, in storage order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// All parameters: frozen, then trained.
    pub(crate) fn params(&self) -> Params<'_> {
        Params { frozen: &self.frozen[..self.spec.frozen], trained: &self.trained }
    }

    /// The parameters that training changes: the last [`Model::n_trained`] of all.
    pub fn trained(&self) -> &[f32] {
        &self.trained
    }

    /// The parameters that never change: the first ones, shared between clones. Empty where everything is trained.
    pub fn frozen(&self) -> &[f32] {
        self.params().frozen
    }

    /// Whether two models have their frozen parameters in the same memory.
    pub fn shares_frozen_with(&self, other: &Self) -> bool {
        self.spec.frozen > 0 && Arc::ptr_eq(&self.frozen, &other.frozen)
    }

    /// Number of parameters.
    pub fn n_params(&self) -> usize {
        self.spec.n_params
    }

    /// Number of parameters that are trained.
    pub fn n_trained(&self) -> usize {
        self.trained.len()
    }

    /// Where the gradient of a slot lies among those of the trained parameters; none if it is frozen.
    pub fn gradient_range(&self, slot: &Slot) -> Option<std::ops::Range<usize>> {
        slot.offset.checked_sub(self.spec.frozen).map(|from| from..from + slot.len())
    }

    /// The parameters of one tensor, in the order of the flat parameters ([`Slot::to_file`]).
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        self.slots.iter().find(|s| s.name == name).map(|s| self.params().at(s.offset, s.len()))
    }

    /// Replaces a file that travels with the model (a tokenizer for a model made in memory, say).
    pub fn set_asset(&mut self, name: &str, bytes: Vec<u8>) {
        if let Some(known) = io::ASSETS.iter().find(|a| **a == name) {
            self.assets.retain(|(n, _)| n != known);
            self.assets.push((known, Cow::Owned(bytes)));
        }
    }

    /// Changes the trained parameters; the copies that engines compute with follow.
    pub fn update(&mut self, engine: &Engine, change: impl FnOnce(&mut [f32])) {
        change(own(&mut self.trained));
        self.version += 1;
        match &engine.run {
            Run::Kernels(_) => {
                let params = Params { frozen: &self.frozen[..self.spec.frozen], trained: &self.trained };
                if let Some(packed) = self.packed.get_mut() {
                    packed.refresh(&self.spec, params, engine.threads());
                }
            }
            Run::Graph(_) => drop(self.packed.take()),
        }
    }

    /// Trained parameters ← (1 − `share`)·own + `share`·those of `other` with the same names: a reference that follows a
    /// policy. With 1 they become `other`'s, bit for bit.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] or [`ModelError::WrongShape`] if `other` has not all of them,
    /// [`ModelError::CannotFollow`] if `other` trains more, or over other frozen parameters; nothing is changed then.
    pub fn mix(&mut self, engine: &Engine, other: &Self, share: f32) -> Result<()> {
        let mut parts = Vec::new();
        for slot in &self.slots {
            let Some(own) = self.gradient_range(slot) else { continue };
            let path = || std::path::PathBuf::from("the model to follow");
            let Some(theirs) = other.slots.iter().find(|o| o.name == slot.name) else {
                let (name, shape) = (slot.name.clone(), slot.shape.clone());
                return Err(ModelError::MissingTensor { path: path(), name, shape, instead: String::new() });
            };
            if theirs.shape != slot.shape {
                return Err(ModelError::WrongShape {
                    path: path(),
                    name: slot.name.clone(),
                    found: theirs.shape.clone(),
                    expected: slot.shape.clone(),
                });
            }
            parts.push((own, other.params().at(theirs.offset, theirs.len())));
        }
        let n = self.spec.frozen;
        let same_frozen = n <= other.spec.frozen
            && (Arc::ptr_eq(&self.frozen, &other.frozen) || self.frozen() == &other.frozen()[..n]);
        let moves_more = |o: &Slot| {
            o.name != SCORE && o.offset >= other.spec.frozen && !self.slots.iter().any(|s| s.name == o.name)
        };
        if !same_frozen || other.slots.iter().any(moves_more) {
            return Err(ModelError::CannotFollow);
        }
        self.update(engine, |own| {
            for (span, theirs) in parts {
                for (x, y) in own[span].iter_mut().zip(theirs) {
                    *x = if share == 1.0 { *y } else { *x + share * (*y - *x) };
                }
            }
        });
        Ok(())
    }

    /// The same parameters without the copies that an engine computed with, for one of another precision.
    pub fn without_panels(&self) -> Self {
        Self { packed: OnceLock::new(), ..self.clone() }
    }

    /// For a model that waits while another is trained: gives back the panels that the kernels compute with, if they are large
    /// and no other model can have them too. The next pass makes them again, which is little beside it.
    pub fn rest(&mut self) {
        if !self.trainable && self.spec.frozen == 0 && self.spec.is_large() {
            self.packed.take();
        }
    }

    /// The decoder as the kernels run it; the first engine's precision is that of the panels.
    fn kernels(&self, engine: &Engine) -> tetherline_kernels::Net<'_> {
        let (threads, precision) = (engine.threads(), engine.precision());
        let (spec, params) = (&self.spec, self.params());
        let packed =
            self.packed.get_or_init(|| PackedWeights::new(spec, params, self.trainable, precision, threads));
        tetherline_kernels::Net::new(spec, params, packed)
    }

    /// The decoder on a device of the graph.
    pub(crate) fn net(&self, device: &GraphDevice) -> Result<Net<'_>> {
        let uploaded = self.on_device.get(device, self.version, &self.spec, &self.slots, self.params())?;
        Ok(Net { spec: &self.spec, slots: &self.slots, uploaded })
    }

    /// Makes what `engine` computes with, so that clones made from now on share what is frozen of it.
    ///
    /// # Errors
    /// If the parameters cannot be brought to the device.
    pub fn prepare(&self, engine: &Engine) -> Result<()> {
        if let Run::Graph(device) = &engine.run {
            self.net(device)?;
        } else {
            self.kernels(engine);
        }
        Ok(())
    }

    /// Prepares for [`Model::step`]: keeps the second packed copy that the backward pass reads.
    pub fn make_trainable(&mut self) {
        if !self.trainable {
            self.trainable = true;
            self.packed.take();
        }
    }

    /// Checks one sequence against vocabulary and context.
    ///
    /// # Errors
    /// [`ModelError::TokenOutOfRange`] or [`ModelError::TooLong`].
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        if tokens.len() > self.limit {
            return Err(ModelError::TooLong {
                tokens: tokens.len(),
                context: self.limit,
                hint: "shorten the prompt or max_new_tokens",
            });
        }
        match tokens.iter().position(|&t| t as usize >= self.config.vocab) {
            None => Ok(()),
            Some(position) => {
                Err(ModelError::TokenOutOfRange { id: tokens[position], position, vocab: self.config.vocab })
            }
        }
    }

    /// Checks tokens and positions of one row.
    fn check_row(&self, engine: &Engine, row: &Row<'_>) -> Result<()> {
        self.check_tokens(row.tokens)?;
        let tokens = row.tokens.len();
        if let (Run::Graph(_), Some(context)) = (&engine.run, self.original_context().filter(|n| tokens > *n))
        {
            return Err(ModelError::TooLong { tokens, context, hint: LONG_ROPE });
        }
        // The last token has no next one to score.
        let beyond =
            |r: &std::ops::Range<usize>, end: usize| (!r.is_empty() && r.end > end).then(|| r.end - 1);
        match beyond(&row.lm, tokens.saturating_sub(1)).or(beyond(&row.scalar, tokens)) {
            None => Ok(()),
            Some(position) => Err(ModelError::PositionOutOfRange { position, tokens }),
        }
    }

    /// Outputs of every row at `temperature`.
    ///
    /// # Errors
    /// If a row does not pass [`Model::check_tokens`], asks for a position it does not have, or the device
    /// fails.
    pub fn forward(&self, engine: &Engine, rows: &[Row<'_>], temperature: f32) -> Result<Vec<RowResult>> {
        rows.iter().try_for_each(|r| self.check_row(engine, r))?;
        match &engine.run {
            Run::Kernels(k) => Ok(k.forward(self.kernels(engine), rows, temperature)),
            Run::Graph(device) => graph::forward(&self.net(device)?, rows, temperature),
        }
    }

    /// This model as policy and `reference` on the same rows, with their exact KL (nats per token).
    ///
    /// # Errors
    /// As [`Model::forward`], for both; if one has no vocabulary head, or the vocabularies differ.
    pub fn forward_pair(
        &self,
        reference: &Model,
        engine: &Engine,
        rows: &[Row<'_>],
        temperature: f32,
    ) -> Result<Vec<PairRow>> {
        if self.config.vocab != reference.config.vocab {
            return Err(ModelError::NotAModel {
                path: "reference".into(),
                problem: format!(
                    "its vocabulary has {} tokens, the policy's {}; KL needs one vocabulary",
                    reference.config.vocab, self.config.vocab
                ),
            });
        }
        for (model, name) in [(self, "the policy"), (reference, "the reference")] {
            if !model.heads.lm {
                return Err(ModelError::NoVocabulary(name));
            }
            rows.iter().try_for_each(|r| model.check_row(engine, r))?;
        }
        match &engine.run {
            Run::Kernels(k) => {
                Ok(k.forward_pair(self.kernels(engine), reference.kernels(engine), rows, temperature))
            }
            Run::Graph(device) => {
                graph::forward_pair(&self.net(device)?, &reference.net(device)?, rows, temperature)
            }
        }
    }

    /// Hidden states and logits of one sequence, (t × dim) and (t × vocab).
    ///
    /// # Errors
    /// If it does not pass [`Model::check_tokens`], or the device fails.
    pub fn hidden_and_logits(&self, engine: &Engine, tokens: &[u32]) -> Result<(Vec<f32>, Vec<f32>)> {
        self.check_tokens(tokens)?;
        match &engine.run {
            Run::Kernels(k) => Ok(k.hidden_and_logits(self.kernels(engine), tokens)),
            Run::Graph(device) => graph::hidden_and_logits(&self.net(device)?, tokens),
        }
    }

    /// Forward, loss and backward; the gradient is added to `grad`, which has one float per trained parameter, or is empty and
    /// will have.
    ///
    /// # Errors
    /// As [`Model::forward`]; on the graph also [`ModelError::NoGradient`].
    pub fn step<L: UnitLoss>(
        &self,
        engine: &Engine,
        units: &[Vec<Row<'_>>],
        temperature: f32,
        loss: &L,
        grad: &mut Vec<f32>,
    ) -> Result<Vec<L::Stats>> {
        units.iter().flatten().try_for_each(|r| self.check_row(engine, r))?;
        match &engine.run {
            Run::Kernels(k) => Ok(k.step(self.kernels(engine), units, temperature, loss, grad)),
            Run::Graph(device) => {
                grad.resize(self.n_trained(), 0.0);
                graph::step(&self.net(device)?, units, temperature, loss, grad)
            }
        }
    }

    /// The length past which a model with LongRoPE rotates all of a sequence otherwise.
    fn original_context(&self) -> Option<usize> {
        self.spec.ropes.iter().filter_map(|r| r.long.as_ref().map(|(n, _)| *n)).min()
    }

    /// An empty batch of rows that decode together, each up to `capacity` tokens.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] if rows could outgrow the original context of a model with LongRoPE, which changes the
    /// positions of what is cached; if the parameters cannot be brought to the device.
    pub fn decode_batch<'a>(&'a self, engine: &'a Engine, capacity: usize) -> Result<DecodeBatch<'a>> {
        let capacity = capacity.min(self.spec.max_positions);
        if let Some(context) = self.original_context().filter(|n| capacity > *n) {
            return Err(ModelError::TooLong { tokens: capacity, context, hint: LONG_ROPE });
        }
        let rows = match &engine.run {
            Run::Kernels(k) => {
                let batch = tetherline_kernels::DecodeBatch::new(self.kernels(engine), capacity).of(k);
                Rows::Kernels(Box::new(batch))
            }
            Run::Graph(device) => Rows::Graph(CachedRows::new(self.net(device)?, capacity)),
        };
        Ok(DecodeBatch { rows, vocab: self.config.vocab, capacity, lens: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::ModelFiles;
    use std::path::Path;

    #[test]
    fn a_large_frozen_model_rests_without_its_panels() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny-llama");
        let config = ModelConfig::load(&ModelFiles::dir(dir).unwrap()).unwrap();
        let engine = Engine::new(2);
        let mut large = config.clone();
        large.vocab = 5_000_000 / config.dim;
        for (config, trainable, rests) in
            [(config, false, false), (large.clone(), true, false), (large, false, true)]
        {
            let mut model = Model::random(config, Heads { lm: true, scalar: false }, 1);
            if trainable {
                model.make_trainable();
            }
            let tokens = [5, 2, 7, 1, 3];
            let row = || Row { tokens: &tokens, lm: 0..4, scalar: 0..0 };
            let before = model.forward(&engine, &[row()], 1.0).unwrap();
            model.rest();
            assert_eq!(model.packed.get().is_none(), rests, "{} parameters", model.n_params());
            assert_eq!(model.forward(&engine, &[row()], 1.0).unwrap(), before);
        }
    }
}
