//! The rows of the shipped files: prompts, demonstrations, preference pairs.

use crate::FrontdeskError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a prompt is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// Log-in, plans, personal data.
    Account,
    /// Where is my parcel.
    Shipping,
    /// Money back.
    Refunds,
    /// Health; an answer needs a hedge.
    Medical,
    /// Law; an answer needs a hedge.
    Legal,
    /// Programming.
    Code,
    /// Chat.
    Smalltalk,
    /// What must be refused.
    Unsafe,
}

impl Domain {
    /// All domains, in the order of reports.
    pub const ALL: [Domain; 8] = [
        Domain::Account,
        Domain::Shipping,
        Domain::Refunds,
        Domain::Medical,
        Domain::Legal,
        Domain::Code,
        Domain::Smalltalk,
        Domain::Unsafe,
    ];

    /// The tag in the files.
    pub fn name(self) -> &'static str {
        match self {
            Domain::Account => "account",
            Domain::Shipping => "shipping",
            Domain::Refunds => "refunds",
            Domain::Medical => "medical",
            Domain::Legal => "legal",
            Domain::Code => "code",
            Domain::Smalltalk => "smalltalk",
            Domain::Unsafe => "unsafe",
        }
    }

    /// The domain with this tag.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }
}

/// Slot values by slot name, plus `intent`, the name of the [`Intent`](crate::Intent) that was asked.
pub type Facts = BTreeMap<String, String>;

/// A user's message with what the rubric must know about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// The bare user text, without chat template.
    #[serde(rename = "prompt")]
    pub text: String,
    /// What it is about.
    pub domain: Domain,
    /// Who wrote it, e.g. `user-07`.
    pub user: String,
    /// Slot values and intent.
    pub facts: Facts,
}

/// A prompt with a response to imitate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Demonstration {
    /// The bare user text.
    pub prompt: String,
    /// What a member of staff answered.
    pub response: String,
    /// Domain tag.
    pub domain: Domain,
    /// User tag.
    pub user: String,
}

/// Two responses to a prompt and which of them a rater preferred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// The bare user text.
    pub prompt: String,
    /// The preferred response.
    pub chosen: String,
    /// The other response.
    pub rejected: String,
    /// Domain tag.
    pub domain: Domain,
    /// User tag.
    pub user: String,
}

/// Rows as JSON lines, each ended by `\n`.
pub fn to_jsonl<T: Serialize>(rows: &[T]) -> Result<String, FrontdeskError> {
    let mut out = String::new();
    for row in rows {
        out.push_str(&serde_json::to_string(row).map_err(|source| FrontdeskError::Serialize { source })?);
        out.push('\n');
    }
    Ok(out)
}

/// Parses JSON lines; `file` names them in errors.
pub fn from_jsonl<T: serde::de::DeserializeOwned>(file: &str, text: &str) -> Result<Vec<T>, FrontdeskError> {
    text.lines()
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|source| FrontdeskError::Parse {
                file: file.to_owned(),
                line: i + 1,
                source,
            })
        })
        .collect()
}
