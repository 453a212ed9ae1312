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
    /// How the policy's tokens become this model's.
    pub tokens: RewardTokens,
}

/// How a reward model comes by its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewardTokens {
    /// It has the policy's tokenizer and chat template, so it reads the policy's tokens as they are.
    Shared,
    /// Prompt and response are encoded anew, with the model's own tokenizer and chat template. A response
    /// that ends with one of these tokens of the policy ends with the model's end-of-sequence token.
    Encoded {
        /// The policy's end-of-sequence tokens.
        policy_eos: Vec<u32>,
    },
}

impl RewardModel {
    /// Loads a reward-model directory, for sequences of its own tokens.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn load(files: &ModelFiles) -> Result<Self, Error> {
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
        Ok(Self { model, codec, norm, tokens: RewardTokens::Shared })
    }

    /// The same model, to score responses of a policy with codec `policy`.
    #[must_use]
    pub fn for_policy(mut self, policy: &Codec) -> Self {
        if policy.wraps_plain_prompts() {
            self.codec = self.codec.wrapping_plain_prompts();
        }
        self.codec = self.codec.with_variables_of(policy);
        if !self.codec.same_as(policy) {
            self.tokens = RewardTokens::Encoded { policy_eos: policy.tokenizer.eos().to_vec() };
        }
        self
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

    /// Normalised scores of samples.
    pub(crate) fn scores(&self, engine: &Engine, samples: &[TextSample<'_>]) -> Result<Vec<f32>, Error> {
        let raw = self.raw_scores(engine, &self.sequences(samples)?)?;
        Ok(raw.into_iter().map(|x| self.norm.apply(x)).collect())
    }

    /// Token sequences of samples.
    fn sequences(&self, samples: &[TextSample<'_>]) -> Result<Vec<Vec<u32>>, Error> {
        samples
            .iter()
            .map(|s| {
                let RewardTokens::Encoded { policy_eos } = &self.tokens else {
                    return Ok([s.prompt_tokens, s.response_tokens].concat());
                };
                let prompt = match s.messages {
                    [] => Text::Plain(s.prompt.to_owned()),
                    messages => Text::Messages(messages.to_vec()),
                };
                let ended = s.response_tokens.last().is_some_and(|t| policy_eos.contains(t));
                Ok(self.codec.example(&prompt, s.response, ended)?.tokens)
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
    /// The scorers of a recipe for a policy with codec `policy`; `trained` is the directory of a reward model
    /// trained by this run.
    ///
    /// # Errors
    /// If a model or a rule cannot be used.
    pub fn new(recipe: &Recipe, policy: &Codec, trained: &Path) -> Result<Self, Error> {
        let reward = if recipe.uses_reward_model() {
            let files = match &recipe.model.reward {
                Some(text) => crate::sources::open_model(text)?,
                None if trained.is_dir() => {
                    crate::sources::open_dir(trained).map_err(|e| Error::input("the reward model", e))?
                }
                None => {
                    let problem =
                        "there is none yet: run `tether reward` with the same recipe and --out first";
                    return Err(Error::input(format!("the reward model {}", trained.display()), problem));
                }
            };
            Some((RewardModel::load(&files)?.for_policy(policy), recipe.reward.model_weight))
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
            let scores = rm.scores(engine, samples)?;
            let values = scores.into_iter().map(|x| (f64::from(x) * weight) as f32).collect();
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
