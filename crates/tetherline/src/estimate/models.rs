//! The models of a recipe as their configurations describe them, and who shares what with whom.

use crate::Error;
use crate::ppo::POLICY_HEADS;
use crate::recipe::{Recipe, ValueModel};
use crate::scoring::REWARD_HEADS;
use crate::sources;
use tetherline_models::{Heads, ModelFiles, ModelShape};

/// Where the reference comes from.
#[derive(Clone, Debug)]
pub(super) enum Reference {
    /// A copy of the policy before PPO; with an adapter its base alone, shared.
    Copy,
    /// A directory.
    Other(Box<ModelShape>),
}

/// The shapes of all models of a recipe.
#[derive(Clone, Debug)]
pub(super) struct Models {
    pub(super) files: ModelFiles,
    /// What RL starts from.
    pub(super) start: ModelShape,
    /// The policy with its heads.
    pub(super) policy: ModelShape,
    pub(super) reference: Reference,
    /// Whether the reference moves.
    pub(super) moves: bool,
    /// The value model, if it has its own network; and whether its frozen part is the policy's.
    pub(super) value: Option<(ModelShape, bool)>,
    /// The reward model, if there is one; and whether its frozen part is the policy's.
    pub(super) reward: Option<(ModelShape, bool)>,
    /// How many reward models there are that are decoders, all taken to be like the first.
    pub(super) members: usize,
    /// With `[cost]`: the cost model, if there is one, and the critic of costs.
    pub(super) cost: Option<(Option<ModelShape>, ModelShape)>,
}

/// Whether a model is an encoder.
fn is_encoder(text: &str) -> Result<bool, Error> {
    sources::open_model(text)?.is_encoder().map_err(|e| Error::input(format!("the model {text}"), e))
}

/// As trained: with the recipe's adapter, or its lowest blocks frozen.
fn trained(recipe: &Recipe, shape: ModelShape, what: &str) -> Result<ModelShape, Error> {
    let section = &recipe.model;
    match &section.adapter {
        Some(adapter) => shape.with_adapter(adapter.config(sources::base_name(&section.policy))),
        None if section.freeze_layers > 0 => shape.freeze_layers(section.freeze_layers),
        None => Ok(shape),
    }
    .map_err(|e| Error::input(what, e))
}

/// A reward model that the value model starts as: frozen as the policy, unless something of it is frozen already.
fn frozen_like(recipe: &Recipe, shape: ModelShape) -> Result<ModelShape, Error> {
    if shape.spec().frozen > 0 {
        return Ok(shape);
    }
    trained(recipe, shape, "the reward model")
}

impl Models {
    pub(super) fn of(recipe: &Recipe) -> Result<Self, Error> {
        let section = &recipe.model;
        let open = |text: &str, heads: Heads| -> Result<(ModelFiles, ModelShape), Error> {
            let files = sources::open_model(text)?;
            let shape =
                ModelShape::load(&files, heads).map_err(|e| Error::input(format!("the model {text}"), e))?;
            Ok((files, shape))
        };
        let (files, plain) = open(&section.policy, POLICY_HEADS)?;
        let start = trained(recipe, plain, "the policy")?;
        let critic = recipe.ppo.advantages.needs_critic();
        let shared = critic && section.value == ValueModel::Shared;
        let fail = |e: tetherline_models::ModelError| Error::input("the policy", e);
        let policy = start.with_heads(Heads { lm: true, scalar: shared }).map_err(fail)?;
        let reference = match &section.reference {
            None => Reference::Copy,
            Some(text) => Reference::Other(Box::new(open(text, POLICY_HEADS)?.1)),
        };
        let given = section.reward.iter().flat_map(|given| &given.0);
        let of_all: Vec<_> = given.map(|text| Ok((is_encoder(text)?, text))).collect::<Result<_, Error>>()?;
        let decoders: Vec<_> = of_all.iter().filter(|(encoder, _)| !encoder).map(|(_, text)| *text).collect();
        // The value function starts as the first of all, unless that is an encoder.
        let leads = of_all.first().is_none_or(|(encoder, _)| !encoder);
        let reward = match (&section.reward, recipe.uses_reward_model()) {
            (_, false) => None,
            // One that is trained by this run stands on the policy's frozen weights.
            (None, true) => Some((start.with_heads(REWARD_HEADS).map_err(fail)?, true)),
            // Encoders are counted beside these (`judges.rs`).
            (Some(_), true) => match decoders.first() {
                Some(text) => Some((open(text, REWARD_HEADS)?.1, false)),
                None => None,
            },
        };
        let value = match (&reward, shared) {
            _ if !critic => None,
            (_, true) => None,
            // It starts as the reward model, if that has the policy's tokenizer, as most have.
            (Some((shape, same)), false) if leads => Some((frozen_like(recipe, shape.clone())?, *same)),
            (_, false) => Some((start.with_heads(REWARD_HEADS).map_err(fail)?, true)),
        };
        // Then the reward model itself lies over those frozen weights.
        let reward = match (&value, reward) {
            (Some((value, same)), Some(_)) if leads => Some((value.clone(), *same)),
            (_, reward) => reward,
        };
        let cost = recipe.cost.as_ref().map(|_| -> Result<_, Error> {
            let given = match &section.cost {
                Some(text) if !is_encoder(text)? => Some(open(text, REWARD_HEADS)?),
                _ => None,
            };
            // The critic starts as the cost model, as the value model does as the reward model.
            let critic = match &given {
                Some((_, shape)) => frozen_like(recipe, shape.clone())?,
                None => start.with_heads(REWARD_HEADS).map_err(fail)?,
            };
            Ok((given.map(|(_, shape)| shape), critic))
        });
        let moves = recipe.kl.reference.is_some_and(|r| r.moves());
        let members = if section.reward.is_some() { decoders.len() } else { recipe.reward_members() };
        let cost = cost.transpose()?;
        Ok(Self { files, start, policy, reference, moves, value, reward, members, cost })
    }
}
