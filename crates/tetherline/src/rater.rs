//! What gives the part `reward_model` of a score: a reward model of ours, or a frozen encoder of the hub.
//!
//! A directory that `model.reward`, `tether score`, a judge or `tether label` names is opened as what its `config.json` says.
//! An encoder reads text through its own tokenizer: prompt and response as a pair where it has one label, as preference
//! models are made, else the response alone. What of its logits is the score is the default of `[[reward.rule]] encoder`
//! (`tetherline_reward::Readout`); another label or reading is declared there.

use crate::Error;
use crate::codec::Codec;
use crate::scoring::{RewardModel, norms_of};
use tetherline_core::TextSample;
use tetherline_models::{Encoder, Engine, ModelFiles};
use tetherline_reward::{EncoderConfig, EnsembleConfig, Readout, RewardNorm};

/// A source of the part `reward_model`.
pub enum Rater {
    /// A decoder with one scalar, or several, at the last token.
    Decoder(Box<RewardModel>),
    /// A classifier of the BERT family.
    Encoder(Box<EncoderModel>),
}

/// A frozen encoder as a reward model.
#[derive(Debug)]
pub struct EncoderModel {
    encoder: Encoder,
    readout: Option<Readout>,
    pair: bool,
    norm: RewardNorm,
}

impl Rater {
    /// Opens a directory.
    ///
    /// # Errors
    /// If it cannot be used; of an encoder also where this build has none, or it does not say which label is the score.
    pub fn load(files: &ModelFiles) -> Result<Self, Error> {
        if !files.is_encoder().map_err(|e| Error::input("the reward model", e))? {
            return Ok(Self::Decoder(Box::new(RewardModel::load(files)?)));
        }
        let encoder = EncoderModel::load(files)?;
        if encoder.readout.is_none() {
            let problem = format!(
                "it has the labels {}, and which of them is the score has to be said: use [[reward.rule]] encoder = {{ \
                 model = DIR, label = NAME }}",
                encoder.labels().join(", ")
            );
            return Err(Error::input(format!("the reward model {}", files.root().display()), problem));
        }
        Ok(Self::Encoder(Box::new(encoder)))
    }

    /// The same, to score responses of a policy with codec `policy`.
    #[must_use]
    pub fn for_policy(self, policy: &Codec) -> Self {
        match self {
            Self::Decoder(model) => Self::Decoder(Box::new(model.for_policy(policy))),
            encoder @ Self::Encoder(_) => encoder,
        }
    }

    /// The model, where it is one that can be a value function.
    pub fn decoder_mut(&mut self) -> Option<&mut RewardModel> {
        match self {
            Self::Decoder(model) => Some(model),
            Self::Encoder(_) => None,
        }
    }

    /// Whether its scores are as they come.
    pub(crate) fn is_raw(&self) -> bool {
        match self {
            Self::Decoder(model) => model.norms.contains(&RewardNorm::IDENTITY),
            Self::Encoder(encoder) => encoder.norm == RewardNorm::IDENTITY,
        }
    }

    /// Scores before normalisation of samples, one for each head.
    pub(crate) fn raw_scores(
        &self,
        engine: &Engine,
        samples: &[TextSample<'_>],
    ) -> Result<Vec<Vec<f32>>, Error> {
        match self {
            Self::Decoder(model) => model.raw_scores(engine, &model.sequences(samples)?),
            Self::Encoder(encoder) => {
                let texts: Vec<_> = samples.iter().map(|s| (s.prompt, s.response)).collect();
                let logits = encoder.logits(&texts)?;
                Ok(logits.iter().map(|z| vec![encoder.raw(z).unwrap_or(f32::NAN)]).collect())
            }
        }
    }

    /// Normalised scores of samples, one for each head.
    pub(crate) fn scores(&self, engine: &Engine, samples: &[TextSample<'_>]) -> Result<Vec<Vec<f32>>, Error> {
        let raw = self.raw_scores(engine, samples)?;
        Ok(raw.iter().map(|heads| self.normalised(heads)).collect())
    }

    fn normalised(&self, raw: &[f32]) -> Vec<f32> {
        match self {
            Self::Decoder(model) => model.normalised(raw),
            Self::Encoder(encoder) => raw.iter().map(|&x| encoder.norm.apply(x)).collect(),
        }
    }

    /// Mean of the heads' normalised scores of each sample, where no recipe says how they combine.
    pub(crate) fn mean_scores(&self, engine: &Engine, samples: &[TextSample<'_>]) -> Result<Vec<f32>, Error> {
        let all = self.scores(engine, samples)?;
        Ok(all.iter().map(|heads| EnsembleConfig::default().combine(heads).0).collect())
    }
}

impl EncoderModel {
    /// Loads a directory.
    ///
    /// # Errors
    /// If it cannot be used, or this build has no encoders.
    pub(crate) fn load(files: &ModelFiles) -> Result<Self, Error> {
        let what = || format!("the encoder {}", files.root().display());
        let encoder = Encoder::load(files).map_err(|e| Error::input(what(), e))?;
        let config = EncoderConfig::of_model(files.root().display().to_string());
        let readout = Readout::new(&config, encoder.labels(), encoder.multi_label()).ok();
        let pair = encoder.labels().len() == 1;
        let norm = norms_of(files, 1)?[0];
        Ok(Self { encoder, readout, pair, norm })
    }

    /// Names of the labels, in the order of the logits.
    pub(crate) fn labels(&self) -> &[String] {
        self.encoder.labels()
    }

    /// Logits of prompts and responses, one per label.
    pub(crate) fn logits(&self, texts: &[(&str, &str)]) -> Result<Vec<Vec<f32>>, Error> {
        let text = |&(prompt, response)| if self.pair { (prompt, Some(response)) } else { (response, None) };
        let texts: Vec<_> = texts.iter().map(text).collect();
        self.encoder.logits(&texts).map_err(|e| Error::input("the encoder", e))
    }

    /// The score of logits, where it is clear which label is meant.
    pub(crate) fn raw(&self, logits: &[f32]) -> Option<f32> {
        Some(self.readout.as_ref()?.score(logits) as f32)
    }

    /// The same on the scale of its `reward_norm.json`, where it has one.
    pub(crate) fn score(&self, logits: &[f32]) -> Option<f32> {
        Some(self.norm.apply(self.raw(logits)?))
    }
}
