//! What can go wrong with a data file or a chat template, said so that a person can fix it.

use std::io;

/// An error from reading data or rendering a chat template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file could not be opened.
    #[error("{file}: cannot open: {source}")]
    Open {
        /// The file as the caller named it.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// Reading stopped in the middle, for example in a truncated gzip stream.
    #[error("{file}:{line}: cannot read on: {source}{}", read_hint(.source))]
    Read {
        /// The file.
        file: String,
        /// The line being read, 1-based.
        line: usize,
        /// Why.
        source: io::Error,
    },
    /// The file as a whole is not JSON lines or a JSON array, or the array is broken.
    #[error("{file}:{line}: {problem}")]
    Format {
        /// The file.
        file: String,
        /// Where it shows, 1-based.
        line: usize,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// One row is bad. The only kind that [`ReadOptions::skip_bad_lines`](crate::ReadOptions) skips.
    #[error("{file}:{line}: {}{problem}", row_prefix(*.element, .field))]
    Row {
        /// The file.
        file: String,
        /// Line on which the row (or the syntax error in it) stands, 1-based.
        line: usize,
        /// In a JSON array: which element, counted from 1.
        element: Option<usize>,
        /// The field, e.g. `chosen[1].content`; empty when the row as a whole is bad.
        field: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// There is no usable row.
    #[error("{file}: no rows{}", empty_hint(*.bad, .first))]
    Empty {
        /// The file.
        file: String,
        /// Bad rows that were skipped.
        bad: usize,
        /// The first of them, as text.
        first: Option<String>,
    },
    /// A chat template does not compile, refuses the conversation, or its configuration is malformed.
    #[error("chat template: {0}")]
    Template(String),
}

impl DataError {
    /// The file it is about, if any.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Open { file, .. }
            | Self::Read { file, .. }
            | Self::Format { file, .. }
            | Self::Row { file, .. }
            | Self::Empty { file, .. } => Some(file),
            Self::Template(_) => None,
        }
    }

    /// The line it is about (1-based), if any.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Read { line, .. } | Self::Format { line, .. } | Self::Row { line, .. } => Some(*line),
            _ => None,
        }
    }

    /// The field it is about, e.g. `messages[2].role`, if any.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Row { field, .. } if !field.is_empty() => Some(field),
            _ => None,
        }
    }

    /// Whether the rest of the file can still be read (a bad row, as opposed to a broken file).
    pub fn is_bad_row(&self) -> bool {
        matches!(self, Self::Row { .. })
    }
}

/// What is wrong with one row, before it is known which file and line the row came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadRow {
    /// Field path; empty for the whole row.
    pub(crate) field: String,
    /// What was expected and found.
    pub(crate) problem: String,
}

impl BadRow {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

fn read_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => " (the compressed file is truncated; fetch it again)",
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            " (the compressed file is damaged; fetch it again)"
        }
        _ => "",
    }
}

fn row_prefix(element: Option<usize>, field: &str) -> String {
    let mut out = String::new();
    if let Some(n) = element {
        out.push_str(&format!("element {n}: "));
    }
    if !field.is_empty() {
        out.push_str(&format!("field `{field}`: "));
    }
    out
}

fn empty_hint(bad: usize, first: &Option<String>) -> String {
    match first {
        Some(first) => format!(" left: all {bad} are bad; the first: {first}"),
        None => ": expected at least one JSON object".to_owned(),
    }
}
