//! A frozen encoder as a source of scores (`[[reward.rule]] encoder = { … }`): response, or prompt and response as a pair, as
//! text, through the encoder's own tokenizer.

use crate::recipe::Recipe;
use crate::{Error, sources};
use tetherline_core::{BoxError, NamedScore, Score, TextSample};
use tetherline_models::Encoder;
use tetherline_reward::{EncoderConfig, Readout, RuleConfig, Rules};

/// The rules of a section, encoders loaded; `what` names the section for messages.
pub(crate) fn rules(configs: &[RuleConfig], what: &'static str) -> Result<Rules, Error> {
    let build = |config: &RuleConfig| -> Result<Box<dyn Score>, Error> {
        match config {
            RuleConfig::Encoder(encoder) => Ok(Box::new(EncoderRule::load(encoder.clone())?)),
            other => other.build().map_err(|e| Error::input(what, e)),
        }
    };
    Ok(Rules::of(configs.iter().map(build).collect::<Result<_, _>>()?))
}

impl Recipe {
    /// Models of encoder rules, each with its dotted key.
    pub fn encoders(&self) -> impl Iterator<Item = (String, &EncoderConfig)> {
        let rewards =
            self.reward.rule.iter().enumerate().map(|(i, rule)| (format!("reward.rule[{i}]"), rule));
        let costs = self.cost.iter().flat_map(|c| c.rule.iter().enumerate());
        let costs = costs.map(|(i, rule)| (format!("cost.rule[{i}]"), rule));
        rewards.chain(costs).filter_map(|(key, rule)| match rule {
            RuleConfig::Encoder(encoder) => Some((format!("{key}.encoder.model"), encoder)),
            _ => None,
        })
    }
}

struct EncoderRule {
    config: EncoderConfig,
    encoder: Encoder,
    readout: Readout,
}

impl EncoderRule {
    fn load(config: EncoderConfig) -> Result<Self, Error> {
        let what = || format!("the encoder {} of rule {}", config.model, config.name);
        let files = sources::open_model(&config.model)?;
        let encoder = Encoder::load(&files).map_err(|e| Error::input(what(), e))?;
        let readout = Readout::new(&config, encoder.labels(), encoder.multi_label());
        let readout = readout.map_err(|e| Error::input(what(), e))?;
        Ok(Self { config, encoder, readout })
    }
}

impl Score for EncoderRule {
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let text = |s: &TextSample<'_>| match self.config.pair {
            true => (s.prompt.to_owned(), Some(s.response.to_owned())),
            false => (s.response.to_owned(), None),
        };
        let texts: Vec<_> = samples.iter().map(text).collect();
        let texts: Vec<_> = texts.iter().map(|(a, b)| (a.as_str(), b.as_deref())).collect();
        let logits = self.encoder.logits(&texts)?;
        let values = logits.iter().map(|z| (self.config.weight * self.readout.score(z)) as f32).collect();
        Ok(vec![NamedScore { name: format!("rule.{}", self.config.name), values }])
    }
}
