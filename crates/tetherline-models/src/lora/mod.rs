//! LoRA (Hu et al. 2021): y = W·x + s·B·(A·x), with the base W frozen and only A (`r × n_in`) and B (`n_out × r`)
//! trained; s = α/r, or α/√r with rsLoRA (Kalajdzievski 2023).
//!
//! A model with an adapter is its base, then the scalar head, then A and B of each adapted module. A module that is
//! stored as one matrix but computed as several linear layers (fused queries, keys and values) has one A, and each
//! layer its own rows of B: what `peft` does, which sees the one module.

mod merge;
mod peft;
mod targets;

pub use targets::TargetModules;

use crate::error::{ModelError, Result};
use crate::layout::{SCORE, Slot};
use std::collections::BTreeMap;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_kernels::{AdapterSpec, DecoderSpec, Layout};

pub(crate) use merge::merge;
pub(crate) use peft::{CONFIG, WEIGHTS, base_of, is_classifier, read_config, read_weights, write};

/// What is added to which modules of which base.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// r, the inner dimension.
    pub rank: usize,
    /// α.
    pub alpha: f64,
    /// Which modules.
    pub target_modules: TargetModules,
    /// Modules that are left out after all.
    pub exclude_modules: Option<TargetModules>,
    /// The factor is α/√r instead of α/r.
    pub use_rslora: bool,
    /// Blocks, from 0; all if none are named.
    pub layers_to_transform: Option<Vec<usize>>,
    /// What stands before the number of a block in a module's name; anything if empty.
    pub layers_pattern: Vec<String>,
    /// Ranks of modules whose names end with a pattern.
    pub rank_pattern: BTreeMap<String, usize>,
    /// α of modules whose names end with a pattern.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// The base: a directory or a hub id.
    pub base: String,
    /// The base's revision on the hub.
    pub revision: Option<String>,
}

/// What the names of A and B end with.
pub(crate) const A: &str = ".lora_A.weight";
pub(crate) const B: &str = ".lora_B.weight";

impl LoraConfig {
    /// An adapter of `rank` on every linear layer but the head, with α = 2·rank.
    pub fn new(rank: usize) -> Self {
        Self {
            rank,
            alpha: 2.0 * rank as f64,
            target_modules: TargetModules::AllLinear,
            exclude_modules: None,
            use_rslora: false,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            base: String::new(),
            revision: None,
        }
    }

    /// The same with each module as transformers 5 calls it.
    #[must_use]
    pub(crate) fn with_modules(self) -> Self {
        let exclude_modules = self.exclude_modules.map(TargetModules::into_modules);
        Self { target_modules: self.target_modules.into_modules(), exclude_modules, ..self }
    }

    /// Rank and factor of a module.
    fn of(&self, module: &str) -> std::result::Result<(usize, f32), String> {
        let rank = targets::by_pattern(&self.rank_pattern, module)?.unwrap_or(self.rank);
        let alpha = targets::by_pattern(&self.alpha_pattern, module)?.unwrap_or(self.alpha);
        let below = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, (alpha / below) as f32))
    }
}

fn refused(field: &str, problem: impl Into<String>) -> ModelError {
    ModelError::ConfigField { path: "the adapter".into(), field: field.into(), problem: problem.into() }
}

/// Modules that could have an adapter: the weights of linear layers, without `.weight`.
fn linear_modules<'s>(slots: &'s [Slot], spec: &DecoderSpec) -> Vec<(&'s str, &'s Slot)> {
    let matrices = slots.iter().filter(|s| s.shape.len() == 2 && s.name != SCORE && s.offset != spec.embed);
    let matrices = matrices.filter(|s| Some(s.offset) != spec.positions);
    matrices.filter_map(|s| Some((module(s.name.strip_suffix(".weight")?), s))).collect()
}

/// A module as transformers calls it, which is not always what its weight is called in files: GPT-NeoX's head.
fn module(name: &str) -> &str {
    if name == "embed_out" { "lm_head" } else { name }
}

/// The last part of each module's name, once.
fn short_names(modules: &[(&str, &Slot)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (module, _) in modules {
        let short = module.rsplit('.').next().unwrap_or(module);
        if !names.contains(&short) {
            names.push(short);
        }
    }
    names.join(", ")
}

/// Adds A and B of each adapted module behind `slots`, tells the linear layers of `spec`, and freezes everything
/// before the scalar head.
///
/// # Errors
/// If no module is meant, or one that cannot have an adapter.
pub(crate) fn attach(config: &LoraConfig, slots: &mut Vec<Slot>, spec: &mut DecoderSpec) -> Result<()> {
    let targets = config.compile().map_err(|(field, problem)| refused(field, problem))?;
    let modules = linear_modules(slots, spec);
    let named = |offset: usize| {
        let slot = slots.iter().find(|s| s.offset == offset)?;
        slot.name.strip_suffix(".weight").filter(|m| targets.names(m))
    };
    if let Some(module) = named(spec.embed).or(spec.positions.and_then(named)) {
        return Err(refused("target_modules", format!("`{module}` is an embedding; only linear layers can")));
    }
    let tied = spec.lm_head.as_ref().is_some_and(|h| h.weight == spec.embed);
    if tied && targets.names("lm_head") {
        return Err(refused(
            "target_modules",
            "`lm_head` shares the embedding, which cannot have an adapter",
        ));
    }
    let mut added: Vec<Slot> = Vec::new();
    let mut at = spec.n_params;
    let mut parts: Vec<(std::ops::Range<usize>, AdapterSpec)> = Vec::new();
    for (module, slot) in &modules {
        if !targets.matches(module) {
            continue;
        }
        let (rank, scale) = config.of(module).map_err(|e| refused("rank_pattern", e))?;
        let spans = spec.linears().into_iter().filter(|l| slot.range().contains(&l.weight));
        let Some((n_in, layout)) = spans.map(|l| (l.n_in, l.layout)).next() else { continue };
        let n_out = slot.shape[if layout == Layout::OutIn { 0 } else { 1 }];
        // Of a higher rank it is larger than the matrix; a broken file must not ask for all memory.
        let most = n_in.max(n_out).max(1024);
        if rank == 0 || rank > most {
            return Err(refused("r", format!("the rank of `{module}` must be from 1 to {most}, not {rank}")));
        }
        let a = Slot {
            name: format!("{module}{A}"),
            offset: at,
            shape: vec![rank, n_in],
            alternating_heads: None,
        };
        let b = Slot {
            name: format!("{module}{B}"),
            offset: a.range().end,
            shape: vec![n_out, rank],
            alternating_heads: slot.alternating_heads,
        };
        at = b.range().end;
        parts.push((slot.range(), AdapterSpec { a: a.offset, b: b.offset, rank, scale }));
        added.extend([a, b]);
    }
    if added.is_empty() {
        let known = short_names(&modules);
        return Err(refused("target_modules", format!("no module is meant; this model has {known}")));
    }
    for linear in spec.linears_mut() {
        let Some((range, adapter)) = parts.iter().find(|(range, _)| range.contains(&linear.weight)) else {
            continue;
        };
        let within = linear.weight - range.start;
        let row = match linear.layout {
            Layout::OutIn => within / linear.stride,
            Layout::InOut => within % linear.stride,
        };
        linear.adapter = Some(AdapterSpec { b: adapter.b + row * adapter.rank, ..*adapter });
    }
    spec.frozen = spec.scalar_head.as_ref().map_or(spec.n_params, |h| h.weight);
    spec.n_params = at;
    slots.extend(added);
    Ok(())
}

/// Every name that a recipe lists must mean a module.
///
/// # Errors
/// The first that means none, with those there are.
pub(crate) fn check_names(config: &LoraConfig, slots: &[Slot], spec: &DecoderSpec) -> Result<()> {
    let TargetModules::Names(names) = &config.target_modules else { return Ok(()) };
    let modules = linear_modules(slots, spec);
    for name in names {
        if !modules.iter().any(|(module, _)| targets::ends_with(module, name)) {
            let known = short_names(&modules);
            return Err(refused(
                "target_modules",
                format!("`{name}` is no linear layer of this model: {known}"),
            ));
        }
    }
    Ok(())
}

/// Draws A of each module as peft does, uniform in ±1/√n_in (Kaiming with a = √5), stream `(seed, Init, 1)`; B stays 0.
pub(crate) fn init(slots: &[Slot], frozen: usize, trained: &mut [f32], seed: u64) {
    for (i, slot) in slots.iter().filter(|s| s.name.ends_with(A)).enumerate() {
        let bound = 1.0 / (slot.shape[1] as f64).sqrt();
        let mut r = stream(seed, Purpose::Init, 1, i as u64, 0);
        let from = slot.offset - frozen;
        for x in &mut trained[from..from + slot.len()] {
            *x = ((2.0 * r.uniform() - 1.0) * bound) as f32;
        }
    }
}
