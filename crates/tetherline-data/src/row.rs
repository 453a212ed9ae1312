//! The rows that data files hold, after checking.
//!
//! Every row carries its `domain` (`"all"` where the file names none), its `user` (empty where the file
//! names none) and the line it came from, so that later stages can report per domain and point back.

use serde::{Deserialize, Serialize};
use tetherline_core::{Message, TokenId};

/// The domain of rows that name none.
pub const DEFAULT_DOMAIN: &str = "all";

/// Text as it goes to the tokenizer, or messages that a chat template turns into such text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Text {
    /// Text, used as it is. Prompt and answer are joined without a separator.
    Plain(String),
    /// Messages, never empty.
    Messages(Vec<Message>),
}

impl Text {
    /// Length in characters (Unicode scalar values); the contents alone for messages.
    pub fn chars(&self) -> usize {
        match self {
            Text::Plain(s) => s.chars().count(),
            Text::Messages(m) => m.iter().map(|m| m.content.chars().count()).sum(),
        }
    }

    /// The messages; none where it is plain text.
    pub fn messages(&self) -> &[Message] {
        match self {
            Text::Plain(_) => &[],
            Text::Messages(m) => m,
        }
    }

    /// The plain text, or the last message's content: what rules and reports show of it.
    pub fn last_text(&self) -> &str {
        match self {
            Text::Plain(s) => s,
            Text::Messages(m) => m.last().map_or("", |m| &m.content),
        }
    }
}

/// A prompt to sample from.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptRow {
    /// The prompt.
    pub prompt: Text,
    /// What a verifiable check of the response needs: the expected answer, or tests to run. Empty where the row has none.
    pub answer: String,
    /// Domain tag.
    pub domain: String,
    /// User tag.
    pub user: String,
    /// Line in the file, 1-based.
    pub line: usize,
}

/// A demonstration.
#[derive(Clone, Debug, PartialEq)]
pub struct SftRow {
    /// What comes before the response.
    pub prompt: Text,
    /// What the assistant wrote: the text to learn. After a message prompt it is the content of one
    /// assistant message.
    pub response: String,
    /// Domain tag.
    pub domain: String,
    /// User tag.
    pub user: String,
    /// Line in the file, 1-based.
    pub line: usize,
}

/// A human preference between two answers to one prompt. All three texts are of the same variant.
#[derive(Clone, Debug, PartialEq)]
pub struct PairRow {
    /// The shared prompt.
    pub prompt: Text,
    /// The preferred answer, without the prompt.
    pub chosen: Text,
    /// The other answer, without the prompt.
    pub rejected: Text,
    /// By how much it is preferred, in units of score; finite.
    pub margin: Option<f64>,
    /// `p_chosen`: probability (or share of labelers) that `chosen` is the better one, in [0, 1]; ½ is a tie. None: it is.
    pub label: Option<f64>,
    /// Share of labelers who chose as the row says, in [½, 1]: for reports, no influence on training.
    pub agreement: Option<f64>,
    /// The file's `prompt` column ended inside an assistant turn (a character-prefix cut) and was moved
    /// back to the turn boundary; the moved text is now in both answers.
    pub recut: bool,
    /// Domain tag.
    pub domain: String,
    /// User tag.
    pub user: String,
    /// Line in the file, 1-based.
    pub line: usize,
}

/// Two or more answers to one prompt and how somebody ranked them: what a reward model learns from.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparisonRow {
    /// The shared prompt.
    pub prompt: Text,
    /// At least two answers, without the prompt; of a pair first the chosen one.
    pub answers: Vec<Text>,
    /// Rank of each answer, 1 the best; equal ranks are ties. Of a pair 1 and 2.
    pub ranks: Vec<u32>,
    /// Of a pair: [`PairRow::label`].
    pub label: Option<f64>,
    /// Of a pair: [`PairRow::margin`].
    pub margin: Option<f64>,
    /// Of a pair: [`PairRow::agreement`].
    pub agreement: Option<f64>,
    /// Domain tag.
    pub domain: String,
    /// User tag.
    pub user: String,
    /// Line in the file, 1-based.
    pub line: usize,
}

impl From<PairRow> for ComparisonRow {
    fn from(row: PairRow) -> Self {
        let PairRow { prompt, chosen, rejected, margin, label, agreement, recut: _, domain, user, line } =
            row;
        let (answers, ranks) = (vec![chosen, rejected], vec![1, 2]);
        Self { prompt, answers, ranks, label, margin, agreement, domain, user, line }
    }
}

/// What to score.
#[derive(Clone, Debug, PartialEq)]
pub enum ScoreInput {
    /// Text, to be encoded jointly.
    Text {
        /// The prompt.
        prompt: Text,
        /// The response.
        response: String,
    },
    /// Token ids, used as they are.
    Tokens {
        /// Prompt and response.
        input_ids: Vec<TokenId>,
        /// How many of them are the prompt: at least 1, at most all.
        prompt_len: usize,
    },
}

/// A response to score.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRow {
    /// What to score.
    pub input: ScoreInput,
    /// Domain tag.
    pub domain: String,
    /// User tag.
    pub user: String,
    /// Line in the file, 1-based.
    pub line: usize,
}
