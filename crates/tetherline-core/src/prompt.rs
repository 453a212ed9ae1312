//! Prompts on their way to the sampler.

use crate::{Message, Ragged};
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
    /// The prompt as messages; empty where it is plain text.
    pub messages: Vec<Vec<Message>>,
    /// What a verifiable check of the response needs: the expected answer, or tests; empty where there is none.
    #[serde(default)]
    pub answers: Vec<String>,
}

/// One row of a [`PromptBatch`]; its fields are the columns there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptRef<'a> {
    /// Token ids.
    pub tokens: &'a [TokenId],
    /// Id of the prompt.
    pub id: u64,
    /// Which sample of the prompt.
    pub sample: u32,
    /// Domain tag.
    pub domain: &'a str,
    /// User tag.
    pub user: &'a str,
    /// The prompt as text.
    pub text: &'a str,
    /// The prompt as messages.
    pub messages: &'a [Message],
    /// What a check needs; empty: nothing.
    pub answer: &'a str,
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
    pub fn push(&mut self, row: PromptRef<'_>) {
        self.tokens.push_row(row.tokens.iter().copied());
        self.ids.push(row.id);
        self.sample.push(row.sample);
        self.domains.push(row.domain.to_owned());
        self.users.push(row.user.to_owned());
        self.texts.push(row.text.to_owned());
        self.messages.push(row.messages.to_vec());
        self.answers.push(row.answer.to_owned());
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn get(&self, i: usize) -> PromptRef<'_> {
        PromptRef {
            tokens: self.tokens.row(i),
            id: self.ids[i],
            sample: self.sample[i],
            domain: &self.domains[i],
            user: &self.users[i],
            text: &self.texts[i],
            messages: &self.messages[i],
            answer: self.answers.get(i).map_or("", String::as_str),
        }
    }
}
