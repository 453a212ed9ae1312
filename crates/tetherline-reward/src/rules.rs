//! All rules of a recipe as one scorer: each rule is one named part.

use crate::{
    CommandRule, ExactRule, HttpRule, KeywordRule, LengthRule, ProgramRule, RegexRule, RewardError,
    RuleConfig,
};
use tetherline_core::{BoxError, Fallback, FieldError, NamedScore, Score, TextSample};

/// Rules in the order of the recipe.
#[derive(Default)]
pub struct Rules {
    rules: Vec<Box<dyn Score>>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rules({})", self.rules.len())
    }
}

impl Rules {
    /// Builds every rule.
    ///
    /// # Errors
    /// [`RewardError::Field`] for the first one that is not valid.
    pub fn new(configs: &[RuleConfig]) -> Result<Self, RewardError> {
        let rules = configs.iter().map(RuleConfig::build).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// Rules that are built already, in the order of their parts.
    pub fn of(rules: Vec<Box<dyn Score>>) -> Self {
        Self { rules }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl RuleConfig {
    /// Builds the rule.
    ///
    /// # Errors
    /// [`RewardError::Field`] when a value is out of range; and of an encoder, which needs a library of tensors: whoever has
    /// one builds it.
    pub fn build(&self) -> Result<Box<dyn Score>, RewardError> {
        self.validate()?;
        Ok(match self.clone() {
            Self::Keyword(c) => Box::new(KeywordRule::new(c)),
            Self::Regex(c) => Box::new(RegexRule::new(c)?),
            Self::Length(c) => Box::new(LengthRule::new(c)),
            Self::Command(c) => Box::new(CommandRule::new(c)),
            Self::Http(c) => Box::new(HttpRule::new(c)?),
            Self::Exact(c) => Box::new(ExactRule::new(c)?),
            Self::Program(c) => Box::new(ProgramRule::new(c)?),
            Self::Encoder(_) => {
                let problem =
                    "is not run by this crate: tetherline_models::Encoder gives the logits for Readout";
                return Err(FieldError::new("encoder", problem).into());
            }
        })
    }
}

impl Score for Rules {
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let mut parts = Vec::new();
        for rule in &mut self.rules {
            parts.extend(rule.score(samples)?);
        }
        Ok(parts)
    }

    fn fallbacks(&self) -> Vec<Fallback> {
        self.rules.iter().flat_map(|rule| rule.fallbacks()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RewardConfig;

    #[test]
    fn every_rule_is_a_named_part() {
        let config: RewardConfig = toml::from_str(
            "[[rule]]\nkeyword = { name = \"cheer\", words = [\"joy\"], weight = 2 }\n\
             [[rule]]\nregex = { pattern = '!' }\n[[rule]]\nlength = { max = 2, unit = \"words\" }",
        )
        .unwrap();
        let sample = |response| TextSample {
            prompt: "p",
            messages: &[],
            response,
            prompt_tokens: &[],
            response_tokens: &[],
            domain: "all",
            answer: "",
            rendered: "",
        };
        let mut rules = Rules::new(&config.rule).unwrap();
        let parts = rules.score(&[sample("joy to the world!"), sample("no")]).unwrap();
        let by_name: Vec<_> = parts.iter().map(|p| (p.name.as_str(), p.values.as_slice())).collect();
        assert_eq!(
            by_name,
            [
                ("rule.cheer", &[2.0, 0.0][..]),
                ("rule.regex", &[1.0, 0.0][..]),
                ("rule.length", &[-2.0, 0.0][..])
            ]
        );
    }
}
