//! Prompt, demonstration and preference files: reading, checking, chat templates.
//!
//! * [`read_prompts`], [`read_sft`], [`read_pairs`], [`read_comparisons`], [`read_scores`] read JSON lines or a JSON array,
//!   plain or gzipped, record by record; each has a `_str` variant for text in memory.
//! * [`check`] says what a file holds; it backs `tether data check FILE`.
//! * [`ChatTemplate`] renders messages as Hugging Face does.
//!
//! A bad row is an error that names file, line and field and says what was expected. Text goes in
//! as it is; the only thing ever moved is the end of a prompt that stops in the middle of an answer
//! ([`PairRow::recut`]).
//!
//! ```
//! use tetherline_data::{ReadOptions, Text, read_pairs_str};
//!
//! let rows = r#"{"chosen": "\n\nHuman: Hi\n\nAssistant: I am.", "rejected": "\n\nHuman: Hi\n\nAssistant: It is."}"#;
//! let pair = &read_pairs_str("pairs.jsonl", rows, &ReadOptions::default())?.rows[0];
//! assert_eq!(pair.prompt, Text::Plain("\n\nHuman: Hi\n\nAssistant:".into()));
//! assert_eq!(pair.chosen, Text::Plain(" I am.".into()));
//!
//! let error = read_pairs_str("pairs.jsonl", r#"{"prompt": "Hi", "chosen": 3, "rejected": ""}"#, &ReadOptions::default());
//! assert_eq!(
//!     error.unwrap_err().to_string(),
//!     "pairs.jsonl:1: field `chosen`: expected a string or a list of messages, found the number 3"
//! );
//! # Ok::<(), tetherline_data::DataError>(())
//! ```

mod chat;
mod chat_incremental;
mod chat_marks;
mod chat_python;
mod chat_source;
mod check;
mod check_table;
mod date;
mod error;
mod fields;
mod parse;
mod read;
mod row;
mod source;
mod transcript;

pub use chat::{ChatTemplate, Split};
pub use chat_marks::{Piece, Rendered};
pub use check::{CheckReport, Lengths, RowKind, check, check_str};
pub use date::Date;
pub use error::DataError;
pub use read::{
    Loaded, ReadOptions, read_comparisons, read_comparisons_str, read_pairs, read_pairs_str, read_prompts,
    read_prompts_str, read_scores, read_scores_str, read_sft, read_sft_str,
};
pub use row::{ComparisonRow, DEFAULT_DOMAIN, PairRow, PromptRow, ScoreInput, ScoreRow, SftRow, Text};
pub use tetherline_core::Message;
