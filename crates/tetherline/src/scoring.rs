//! The score of a response: a reward model, rules, or both, as named and weighted parts; and gold, where
//! the world has one.

use crate::codec::Codec;
use crate::rater::Rater;
use crate::recipe::Recipe;
use crate::score_norms::{self, ScoreNorms};
use crate::{Error, encoder};
use std::path::Path;
use tetherline_core::{Fallback, NamedScore, Score, Stage, TextSample};
use tetherline_data::Text;
use tetherline_frontdesk::{GoldScorer, World};
use tetherline_models::{Engine, Heads, Model, ModelFiles, Row, Tokenizer};
use tetherline_reward::{EnsembleConfig, RewardNorm, RuleConfig, Rules};

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
    /// Mean and standard deviation on the reference policy's samples, of each head.
    pub norms: Vec<RewardNorm>,
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
        let norms = norms_of(files, model.config().scores)?;
        Ok(Self { model, codec, norms, tokens: RewardTokens::Shared })
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

    /// Raw scores (before normalisation) of whole token sequences, one for each head: the scalars at the last token
    /// ([`tetherline_models::ModelConfig::score_position`]).
    ///
    /// # Errors
    /// If a sequence does not fit the model.
    pub fn raw_scores(&self, engine: &Engine, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Error> {
        let config = self.model.config();
        let at = |t: &[u32]| config.score_position(t);
        let rows: Vec<Row<'_>> =
            rows.iter().map(|t| Row { tokens: t, lm: 0..0, scalar: at(t)..at(t) + 1 }).collect();
        let out = self.model.forward(engine, &rows, 1.0).map_err(|e| Error::input("the reward model", e))?;
        Ok(out.into_iter().map(|r| r.scalars).collect())
    }

    /// Raw scores of the heads, each on its scale.
    pub(crate) fn normalised(&self, raw: &[f32]) -> Vec<f32> {
        raw.iter().zip(&self.norms).map(|(&x, norm)| norm.apply(x)).collect()
    }

    /// Token sequences of samples.
    pub(crate) fn sequences(&self, samples: &[TextSample<'_>]) -> Result<Vec<Vec<u32>>, Error> {
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

/// Mean and standard deviation of each of `heads` heads, from beside a model; those that change nothing where there is no file.
pub(crate) fn norms_of(files: &ModelFiles, heads: usize) -> Result<Vec<RewardNorm>, Error> {
    let what = || format!("the reward model {}", files.root().display());
    let norms = match files.json(NORM_FILE).map_err(|e| Error::input(what(), e))? {
        Some(json @ serde_json::Value::Array(_)) => serde_json::from_value(json),
        Some(json) => serde_json::from_value(json).map(|norm| vec![norm]),
        None => Ok(vec![RewardNorm::IDENTITY; heads]),
    };
    let norms = norms.map_err(|e| Error::input(what(), e))?;
    if norms.len() != heads {
        let problem = format!("{NORM_FILE} is of {} heads, and it has {heads}", norms.len());
        return Err(Error::input(what(), problem));
    }
    Ok(norms)
}

/// The files of a reward model that this run trained: `trained` is the directory of the first.
fn trained_member(trained: &Path, i: usize) -> Result<ModelFiles, Error> {
    let name = trained.file_name().unwrap_or_default().to_string_lossy();
    let dir = trained.with_file_name(crate::run_dir::member_name(&name, i));
    if !dir.is_dir() {
        let problem = "there is none yet: run `tether reward` with the same recipe and --out first";
        return Err(Error::input(format!("the reward model {}", dir.display()), problem));
    }
    crate::sources::open_dir(dir).map_err(|e| Error::input("the reward model", e))
}

/// Everything that scores, with weights.
pub struct Scorer {
    /// The reward model (of an ensemble the first member) and its weight.
    pub reward: Option<(Rater, f64)>,
    /// The other members.
    others: Vec<Rater>,
    ensemble: EnsembleConfig,
    /// How far members were apart on each sample of the last call.
    disagreement: Vec<f32>,
    rules: Rules,
    /// The policy's tokenizer, where a rule wants prompts as the policy reads them.
    renders: Option<Tokenizer>,
    gold: Option<GoldScorer>,
    /// What `reward.normalize` measured, once it has, and the weights of those sources.
    norms: Option<ScoreNorms>,
    normalised: Vec<(String, f64)>,
}

impl Scorer {
    /// [`Model::rest`] of every reward model.
    pub(crate) fn rest(&mut self) {
        let raters = self.reward.iter_mut().map(|(rater, _)| rater).chain(&mut self.others);
        raters.filter_map(Rater::decoder_mut).for_each(|reward| reward.model.rest());
    }

    /// The scorers of a recipe for a policy with codec `policy`; `trained` is the directory of a reward model
    /// trained by this run.
    ///
    /// # Errors
    /// If a model or a rule cannot be used.
    pub fn new(recipe: &Recipe, policy: &Codec, trained: &Path) -> Result<Self, Error> {
        let mut models = Vec::new();
        for i in 0..recipe.reward_members() {
            let files = match &recipe.model.reward {
                Some(given) => crate::sources::open_model(&given.0[i])?,
                None => trained_member(trained, i)?,
            };
            models.push(Rater::load(&files)?.for_policy(policy));
        }
        let others = models.split_off(models.len().min(1));
        let reward = models.pop().map(|first| (first, recipe.reward.model_weight));
        let ensemble = recipe.reward.ensemble;
        let rules = encoder::rules(&recipe.reward.rule, "the reward rules")?;
        let renders =
            recipe.reward.rule.iter().any(RuleConfig::wants_rendered).then(|| policy.tokenizer.clone());
        let gold = match recipe.data.world {
            Some(_) => {
                let world = World::embedded().map_err(|e| Error::input("the embedded world", e))?;
                Some(GoldScorer::new(world.prompts()))
            }
            None => None,
        };
        let normalised = score_norms::weights(recipe);
        let disagreement = Vec::new();
        Ok(Self { reward, others, ensemble, disagreement, rules, renders, gold, norms: None, normalised })
    }

    /// What responses cost, by `model.cost` and the rules of `[cost]`; nothing where a recipe has no such section.
    ///
    /// # Errors
    /// If the model or a rule cannot be used.
    pub fn of_costs(recipe: &Recipe, policy: &Codec) -> Result<Option<Self>, Error> {
        let Some(cost) = &recipe.cost else { return Ok(None) };
        let reward = match &recipe.model.cost {
            Some(text) => {
                let files = crate::sources::open_model(text)?;
                Some((Rater::load(&files)?.for_policy(policy), cost.model_weight))
            }
            None => None,
        };
        let rules = encoder::rules(&cost.rule, "the cost rules")?;
        let renders = cost.rule.iter().any(RuleConfig::wants_rendered).then(|| policy.tokenizer.clone());
        let (others, ensemble, disagreement) = (Vec::new(), recipe.reward.ensemble, Vec::new());
        let (gold, norms, normalised) = (None, None, Vec::new());
        Ok(Some(Self { reward, others, ensemble, disagreement, rules, renders, gold, norms, normalised }))
    }

    /// One part per scorer, weights applied.
    ///
    /// # Errors
    /// If a scorer fails.
    pub fn score(&mut self, engine: &Engine, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, Error> {
        let mut parts = Vec::new();
        if let Some((rm, weight)) = &self.reward {
            let mut members = rm.scores(engine, samples)?;
            for other in &self.others {
                let scores = other.scores(engine, samples)?;
                members.iter_mut().zip(scores).for_each(|(all, heads)| all.extend(heads));
            }
            self.disagreement.clear();
            let mut values = Vec::with_capacity(members.len());
            for all in &members {
                let score = match all[..] {
                    [one] => one,
                    _ => {
                        let (combined, apart) = self.ensemble.combine(all);
                        self.disagreement.push(apart);
                        combined
                    }
                };
                values.push((f64::from(score) * weight) as f32);
            }
            parts.push(NamedScore { name: "reward_model".into(), values });
        }
        if !self.rules.is_empty() {
            let rendered = self.rendered(samples)?;
            let mut whole = samples.to_vec();
            for (sample, text) in whole.iter_mut().zip(rendered.iter().flatten()) {
                sample.rendered = text;
            }
            parts.extend(self.rules.score(&whole).map_err(Error::stage(Stage::Ppo))?);
        }
        if let Some(norms) = &self.norms {
            score_norms::apply(&self.normalised, norms, &mut parts);
        }
        Ok(parts)
    }

    /// Whether the recipe normalises sources that were not measured yet.
    pub fn needs_norms(&self) -> bool {
        !self.normalised.is_empty() && self.norms.is_none()
    }

    /// Scores are on these scales from now on.
    pub fn normalise(&mut self, norms: ScoreNorms) {
        self.norms = Some(norms);
    }

    /// The same with the scales that were measured in the run directory `dir`.
    ///
    /// # Errors
    /// Where the recipe normalises sources and nothing was measured there.
    pub fn with_norms_of(mut self, dir: &Path) -> Result<Self, Error> {
        if self.needs_norms() {
            let problem = "its sources are measured when a run begins, and there is no score_norms.json here; give the \
                           directory of a run";
            let found = score_norms::read(dir)?.ok_or_else(|| Error::input("reward.normalize", problem))?;
            self.normalise(found);
        }
        Ok(self)
    }

    /// Every reward model that is a decoder.
    pub fn models_mut(&mut self) -> impl Iterator<Item = &mut RewardModel> {
        let all = self.reward.iter_mut().map(|(rm, _)| rm).chain(&mut self.others);
        all.filter_map(Rater::decoder_mut)
    }

    /// Whether any reward model's scores are as they come.
    pub fn is_raw(&self) -> bool {
        self.reward.iter().map(|(rm, _)| rm).chain(&self.others).any(Rater::is_raw)
    }

    /// Standard deviation between the members' normalised scores, for each sample of the last call; empty without an
    /// ensemble.
    pub fn disagreement(&self) -> &[f32] {
        &self.disagreement
    }

    /// The prompts of conversations with template and special tokens written out, where a rule wants them.
    fn rendered(&self, samples: &[TextSample<'_>]) -> Result<Option<Vec<String>>, Error> {
        let Some(tokenizer) = &self.renders else { return Ok(None) };
        let of = |s: &TextSample<'_>| match s.messages {
            [] => Ok(String::new()),
            _ => tokenizer.decode(s.prompt_tokens, false),
        };
        let all = samples.iter().map(of).collect::<Result<_, _>>();
        all.map(Some).map_err(|e| Error::input("a prompt", e))
    }

    /// The samples of the last call whose score is a declared stand-in, per rule.
    pub fn fallbacks(&self) -> Vec<Fallback> {
        self.rules.fallbacks()
    }

    /// Gold of each sample, where the world has gold for its prompt.
    pub fn gold(&self, prompt: &str, response: &str) -> Option<f64> {
        Some(self.gold.as_ref()?.gold(prompt, response).ok()?.total)
    }
}
