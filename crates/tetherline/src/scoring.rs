//! The score of a response: a reward model, rules, or both, as named and weighted parts; and gold, where
//! the world has one.

use crate::Error;
use crate::codec::Codec;
use crate::recipe::Recipe;
use std::path::Path;
use tetherline_core::{NamedScore, Score, Stage, TextSample};
use tetherline_data::Text;
use tetherline_frontdesk::{GoldScorer, World};
use tetherline_models::{Engine, Heads, Model, ModelFiles, Row};
use tetherline_reward::{RewardNorm, Rules};

/// The file with mean and standard deviation beside a reward model.
pub const NORM_FILE: &str = "reward_norm.json";

/// The heads of a reward model.
pub const REWARD_HEADS: Heads = Heads { lm: false, scalar: true };

/// A reward model with its normalisation.
#[derive(Debug)]
pub struct RewardModel {
    /// The model.
    pub model: Model,
    /// Its tokenizer and template.
    pub codec: Codec,
    /// Mean and standard deviation on the reference policy's samples.
    pub norm: RewardNorm,
    /// It reads the policy's tokens as they are (it has the policy's tokenizer).
    pub shares_tokens: bool,
}

impl RewardModel {
    /// Loads a reward-model directory.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn load(files: &ModelFiles, shares_tokens: bool) -> Result<Self, Error> {
        let what = || format!("the reward model {}", files.root().display());
        let model = Model::load(files, REWARD_HEADS, 0).map_err(|e| Error::input(what(), e))?;
        if !model.config().sequence_classification {
            let problem = "it is no …ForSequenceClassification model; train one with `tether reward`";
            return Err(Error::input(what(), problem));
        }
        let codec = Codec::load(files, &model)?;
        let norm = match files.json(NORM_FILE).map_err(|e| Error::input(what(), e))? {
            Some(json) => serde_json::from_value(json).map_err(|e| Error::input(what(), e))?,
            None => RewardNorm::IDENTITY,
        };
        Ok(Self { model, codec, norm, shares_tokens })
    }

    /// Raw scores (before normalisation) of whole token sequences: the scalar at the last token.
    ///
    /// # Errors
    /// If a sequence does not fit the model.
    pub fn raw_scores(&self, engine: &Engine, rows: &[Vec<u32>]) -> Result<Vec<f32>, Error> {
        let rows: Vec<Row<'_>> =
            rows.iter().map(|t| Row { tokens: t, lm: 0..0, scalar: t.len() - 1..t.len() }).collect();
        let out = self.model.forward(engine, &rows, 1.0).map_err(|e| Error::input("the reward model", e))?;
        Ok(out.into_iter().map(|r| r.scalars[0]).collect())
    }

    /// Token sequences of samples.
    fn sequences(&self, samples: &[TextSample<'_>]) -> Result<Vec<Vec<u32>>, Error> {
        samples
            .iter()
            .map(|s| {
                if self.shares_tokens {
                    return Ok([s.prompt_tokens, s.response_tokens].concat());
                }
                Ok(self.codec.example(&Text::Plain(s.prompt.to_owned()), s.response, true)?.tokens)
            })
            .collect()
    }
}

/// Everything that scores, with weights.
pub struct Scorer {
    /// The reward model and its weight.
    pub reward: Option<(RewardModel, f64)>,
    rules: Rules,
    gold: Option<GoldScorer>,
}

impl Scorer {
    /// The scorers of a recipe; `trained` is the directory of a reward model trained by this run.
    ///
    /// # Errors
    /// If a model or a rule cannot be used.
    pub fn new(recipe: &Recipe, trained: &Path) -> Result<Self, Error> {
        let reward = if recipe.uses_reward_model() {
            let (files, shares) = match &recipe.model.reward {
                Some(text) => (crate::sources::open_model(text)?, false),
                None if trained.is_dir() => {
                    (ModelFiles::dir(trained).map_err(|e| Error::input("the reward model", e))?, true)
                }
                None => {
                    let problem =
                        "there is none yet: run `tether reward` with the same recipe and --out first";
                    return Err(Error::input(format!("the reward model {}", trained.display()), problem));
                }
            };
            Some((RewardModel::load(&files, shares)?, recipe.reward.model_weight))
        } else {
            None
        };
        let rules = Rules::new(&recipe.reward.rule).map_err(|e| Error::input("the reward rules", e))?;
        let gold = match recipe.data.world {
            Some(_) => {
                let world = World::embedded().map_err(|e| Error::input("the embedded world", e))?;
                Some(GoldScorer::new(world.prompts()))
            }
            None => None,
        };
        Ok(Self { reward, rules, gold })
    }

    /// One part per scorer, weights applied.
    ///
    /// # Errors
    /// If a scorer fails.
    pub fn score(&mut self, engine: &Engine, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, Error> {
        let mut parts = Vec::new();
        if let Some((rm, weight)) = &self.reward {
            let raw = rm.raw_scores(engine, &rm.sequences(samples)?)?;
            let values = raw.into_iter().map(|x| (f64::from(rm.norm.apply(x)) * weight) as f32).collect();
            parts.push(NamedScore { name: "reward_model".into(), values });
        }
        if !self.rules.is_empty() {
            parts.extend(self.rules.score(samples).map_err(Error::stage(Stage::Ppo))?);
        }
        Ok(parts)
    }

    /// Gold of each sample, where the world has gold for its prompt.
    pub fn gold(&self, prompt: &str, response: &str) -> Option<f64> {
        Some(self.gold.as_ref()?.gold(prompt, response).ok()?.total)
    }
}
