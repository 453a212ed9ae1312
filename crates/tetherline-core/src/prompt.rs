//! Prompts on their way to the sampler.

use crate::Ragged;
use serde::{Deserialize, Serialize};

/// A token id.
pub type TokenId = u32;

/// A batch of encoded prompts, one row per *sample* (a prompt that is sampled four times has four rows).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptBatch {
    /// Token ids, specials included.
    pub tokens: Ragged<TokenId>,
    /// Stable id of each prompt (its index in the prompt file). Keys the row's sampling stream.
    pub ids: Vec<u64>,
    /// Which sample of the prompt this row is.
    pub sample: Vec<u32>,
    /// Domain tag of each row; `"all"` where the data names none.
    pub domains: Vec<String>,
    /// User tag of each row; empty where the data names none.
    pub users: Vec<String>,
    /// The prompt as text, for reward rules, gold rubrics and reports.
    pub texts: Vec<String>,
}

impl PromptBatch {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Appends a row.
    pub fn push(
        &mut self,
        tokens: impl IntoIterator<Item = TokenId>,
        id: u64,
        sample: u32,
        domain: &str,
        user: &str,
        text: &str,
    ) {
        self.tokens.push_row(tokens);
        self.ids.push(id);
        self.sample.push(sample);
        self.domains.push(domain.to_owned());
        self.users.push(user.to_owned());
        self.texts.push(text.to_owned());
    }
}
