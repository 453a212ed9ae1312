//! Gold by prompt text: what evaluation calls, since a rollout knows its prompts as text only.

use crate::FrontdeskError;
use crate::gold::{GoldBreakdown, PARTS, gold};
use crate::record::Prompt;
use std::collections::HashMap;
use tetherline_core::{BoxError, NamedScore, Score, TextSample};

/// Looks prompts up by their text and scores responses to them.
#[derive(Clone, Debug)]
pub struct GoldScorer {
    prompts: HashMap<String, Prompt>,
}

impl GoldScorer {
    /// A scorer that knows these prompts.
    pub fn new<'a>(prompts: impl IntoIterator<Item = &'a Prompt>) -> Self {
        Self { prompts: prompts.into_iter().map(|p| (p.text.clone(), p.clone())).collect() }
    }

    /// The prompt with this text. Space around it does not matter.
    pub fn find(&self, text: &str) -> Option<&Prompt> {
        self.prompts.get(text.trim())
    }

    /// Scores a response to the prompt with this text.
    ///
    /// # Errors
    /// [`FrontdeskError::UnknownPrompt`].
    pub fn gold(&self, prompt: &str, response: &str) -> Result<GoldBreakdown, FrontdeskError> {
        let known = self.find(prompt).ok_or_else(|| FrontdeskError::UnknownPrompt {
            prompt: prompt.trim().chars().take(80).collect(),
        })?;
        Ok(gold(known, response))
    }
}

impl Score for GoldScorer {
    /// One part `gold.<part>` for each of [`PARTS`].
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let golds: Vec<_> =
            samples.iter().map(|s| self.gold(s.prompt, s.response)).collect::<Result<_, _>>()?;
        let part = |i: usize| golds.iter().map(|g| g.parts[i] as f32).collect();
        Ok(PARTS
            .iter()
            .enumerate()
            .map(|(i, name)| NamedScore { name: format!("gold.{name}"), values: part(i) })
            .collect())
    }
}
