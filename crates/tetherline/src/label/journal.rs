//! Every choice of every labeler, one JSON object per line, in the order they were made.
//!
//! ```json
//! {"pair": "9e1f…", "labeler": "ann", "answer": "left", "first_on_left": true, "reason": "politer"}
//! {"undo": "9e1f…", "labeler": "ann"}
//! ```

use crate::Error;
use crate::jsonl::JsonlWriter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What a labeler says of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The left one is better.
    Left,
    /// The right one is.
    Right,
    /// Neither is.
    Tie,
    /// No judgement now.
    Skip,
}

/// A choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// The pair.
    pub pair: String,
    /// Who.
    pub labeler: String,
    /// What.
    pub answer: Answer,
    /// Whether the first policy's response stood on the left.
    pub first_on_left: bool,
    /// Why, where the labeler said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Label {
    /// Whether the first policy's response was preferred; `None` of a tie or a skip.
    pub fn prefers_first(&self) -> Option<bool> {
        match self.answer {
            Answer::Left => Some(self.first_on_left),
            Answer::Right => Some(!self.first_on_left),
            Answer::Tie | Answer::Skip => None,
        }
    }
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// A choice; a later one of the same labeler on the same pair replaces it.
    Label(Label),
    /// A choice taken back.
    Undo {
        /// The pair.
        undo: String,
        /// Who.
        labeler: String,
    },
}

/// Reads a journal; empty where there is none. A last line without its end is one that a killed process left.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] with the line that is none of a journal.
pub fn read_journal(path: &Path) -> Result<Vec<Entry>, Error> {
    Ok(read(path)?.0)
}

/// The entries, and how many bytes they take.
fn read(path: &Path) -> Result<(Vec<Entry>, u64), Error> {
    let text = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(source) => return Err(Error::Io { action: "read", path: path.to_owned(), source }),
        Ok(text) => text,
    };
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    let entry = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|_| {
            let problem = "expected {\"pair\", \"labeler\", \"answer\", \"first_on_left\"} or {\"undo\", \"labeler\"}, as \
                           `tether label` writes them";
            Error::input(format!("{} line {}", path.display(), i + 1), problem)
        })
    };
    let lines = text[..whole].lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    Ok((lines.map(entry).collect::<Result<_, _>>()?, whole as u64))
}

/// Labeler and pair.
pub(super) type Key = (String, String);

/// Labels by labeler and pair.
pub(super) type Labels = BTreeMap<Key, Label>;

/// Labels in force after `entries`, by labeler and pair, and the order in which each labeler made them.
pub(super) fn in_force(entries: &[Entry]) -> (Labels, Vec<Key>) {
    let (mut labels, mut order) = (Labels::new(), Vec::<Key>::new());
    for entry in entries {
        match entry {
            Entry::Label(label) => {
                let key = (label.labeler.clone(), label.pair.clone());
                order.retain(|k| *k != key);
                order.push(key.clone());
                labels.insert(key, label.clone());
            }
            Entry::Undo { undo, labeler } => {
                let key = (labeler.clone(), undo.clone());
                order.retain(|k| *k != key);
                labels.remove(&key);
            }
        }
    }
    (labels, order)
}

/// A journal, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    writer: JsonlWriter,
    entries: Vec<Entry>,
    labels: Labels,
    order: Vec<Key>,
}

impl Journal {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let (entries, bytes) = read(path)?;
        let (labels, order) = in_force(&entries);
        Ok(Self { writer: JsonlWriter::open(path, bytes)?, entries, labels, order })
    }

    pub(super) fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The pair of the labeler's last label in force.
    pub(super) fn last_of(&self, labeler: &str) -> Option<String> {
        self.order.iter().rev().find(|(who, _)| who == labeler).map(|(_, pair)| pair.clone())
    }

    /// Appends a line and waits until it is on disk.
    pub(super) fn write(&mut self, entry: &Entry) -> Result<(), Error> {
        self.writer.write(entry)?;
        self.writer.sync()?;
        self.entries.push(entry.clone());
        (self.labels, self.order) = in_force(&self.entries);
        Ok(())
    }
}
