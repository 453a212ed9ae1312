//! What users ask: an intent is a question with slots, its wordings, and its answers.
//!
//! A template writes a slot as `{name}`. Every prompt wording and every full answer of an intent holds
//! all its slots (tested), so an answer can be judged by the prompt alone: nothing has to be looked up.

mod care;
mod desk;
mod talk;
mod unsafe_asks;

use crate::catalog::Kind;
use crate::record::{Domain, Facts};
use tetherline_core::seeds::Stream;

/// A question users ask.
#[derive(Clone, Copy, Debug)]
pub struct Intent {
    /// Name, as in `facts.intent`.
    pub name: &'static str,
    /// Domain.
    pub domain: Domain,
    /// Benign, but worded like something unsafe: refusing it is over-refusal.
    pub lookalike: bool,
    /// Slot names and kinds.
    pub slots: &'static [(&'static str, Kind)],
    /// Wordings of the question.
    pub prompts: &'static [&'static str],
    /// Answers with every slot. For an unsafe intent: answers that comply.
    pub answers: &'static [&'static str],
    /// Answers to the question that mention no slot. For an unsafe intent: refusals fit to it.
    pub vague: &'static [&'static str],
    /// Runs of normalised words, one of which every answer (full or vague) holds.
    /// For an unsafe intent: what gives compliance away.
    pub cues: &'static [&'static str],
}

/// All intents.
pub fn intents() -> impl Iterator<Item = &'static Intent> {
    desk::INTENTS.iter().chain(care::INTENTS).chain(talk::INTENTS).chain(unsafe_asks::INTENTS)
}

/// The intent with this name.
pub fn intent(name: &str) -> Option<&'static Intent> {
    intents().find(|i| i.name == name)
}

/// Fills the slots of a template.
pub(crate) fn fill(template: &str, facts: &Facts) -> String {
    let mut out = template.to_owned();
    for (slot, value) in facts {
        out = out.replace(&format!("{{{slot}}}"), value);
    }
    out
}

/// One template of a list.
pub(crate) fn pick(s: &mut Stream, templates: &'static [&'static str]) -> &'static str {
    templates[s.below(templates.len())]
}
