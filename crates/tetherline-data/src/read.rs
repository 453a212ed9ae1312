//! Reading whole files of one kind of row.

use crate::error::BadRow;
use crate::fields::Fields;
use crate::source::{Record, Records};
use crate::{ComparisonRow, DataError, PairRow, PromptRow, ScoreRow, SftRow, parse};
use serde_json::{Map, Value};
use std::path::Path;

/// How to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Keep going after a bad row and list it in [`Loaded::skipped`]. A broken file (truncated gzip, an
    /// array that never ends) is an error all the same.
    pub skip_bad_lines: bool,
}

/// The rows of a file.
#[derive(Debug)]
pub struct Loaded<T> {
    /// Good rows, in file order. Never empty.
    pub rows: Vec<T>,
    /// Bad rows that were skipped, each with its file, line and field.
    pub skipped: Vec<DataError>,
}

/// Reads prompts: rows with `prompt`, or the prompts of demonstrations and pairs.
///
/// # Errors
/// An unreadable or empty file; the first bad row unless they are skipped.
pub fn read_prompts(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Loaded<PromptRow>, DataError> {
    load(Records::open(path.as_ref())?, options, parse::prompt)
}

/// [`read_prompts`] from memory; `name` stands for the file in errors.
///
/// # Errors
/// As [`read_prompts`].
pub fn read_prompts_str(
    name: &str,
    text: &str,
    options: &ReadOptions,
) -> Result<Loaded<PromptRow>, DataError> {
    load(Records::new(name.to_owned(), text.as_bytes())?, options, parse::prompt)
}

/// Reads demonstrations: `prompt` + `response`, or `messages` ending with the assistant.
///
/// # Errors
/// An unreadable or empty file; the first bad row unless they are skipped.
pub fn read_sft(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Loaded<SftRow>, DataError> {
    load(Records::open(path.as_ref())?, options, parse::sft)
}

/// [`read_sft`] from memory; `name` stands for the file in errors.
///
/// # Errors
/// As [`read_sft`].
pub fn read_sft_str(name: &str, text: &str, options: &ReadOptions) -> Result<Loaded<SftRow>, DataError> {
    load(Records::new(name.to_owned(), text.as_bytes())?, options, parse::sft)
}

/// Reads preference pairs: `prompt` + `chosen` + `rejected`, or whole conversations whose shared prompt
/// is cut at the last shared turn boundary.
///
/// # Errors
/// An unreadable or empty file; the first bad row unless they are skipped.
pub fn read_pairs(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Loaded<PairRow>, DataError> {
    load(Records::open(path.as_ref())?, options, parse::pair)
}

/// [`read_pairs`] from memory; `name` stands for the file in errors.
///
/// # Errors
/// As [`read_pairs`].
pub fn read_pairs_str(name: &str, text: &str, options: &ReadOptions) -> Result<Loaded<PairRow>, DataError> {
    load(Records::new(name.to_owned(), text.as_bytes())?, options, parse::pair)
}

/// Reads preferences of either kind: pairs (as [`read_pairs`]), or `prompt` + `responses` with their `ranks`.
///
/// # Errors
/// An unreadable or empty file; the first bad row unless they are skipped.
pub fn read_comparisons(
    path: impl AsRef<Path>,
    options: &ReadOptions,
) -> Result<Loaded<ComparisonRow>, DataError> {
    load(Records::open(path.as_ref())?, options, parse::comparison)
}

/// [`read_comparisons`] from memory; `name` stands for the file in errors.
///
/// # Errors
/// As [`read_comparisons`].
pub fn read_comparisons_str(
    name: &str,
    text: &str,
    options: &ReadOptions,
) -> Result<Loaded<ComparisonRow>, DataError> {
    load(Records::new(name.to_owned(), text.as_bytes())?, options, parse::comparison)
}

/// Reads rows to score: `prompt` + `response`, `messages`, or `input_ids` + `prompt_len`.
///
/// # Errors
/// An unreadable or empty file; the first bad row unless they are skipped.
pub fn read_scores(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Loaded<ScoreRow>, DataError> {
    load(Records::open(path.as_ref())?, options, parse::score)
}

/// [`read_scores`] from memory; `name` stands for the file in errors.
///
/// # Errors
/// As [`read_scores`].
pub fn read_scores_str(name: &str, text: &str, options: &ReadOptions) -> Result<Loaded<ScoreRow>, DataError> {
    load(Records::new(name.to_owned(), text.as_bytes())?, options, parse::score)
}

fn load<T>(
    records: Records<'_>,
    options: &ReadOptions,
    parse: fn(Fields<'_>, usize) -> Result<T, BadRow>,
) -> Result<Loaded<T>, DataError> {
    let name = records.name().to_owned();
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    for record in records {
        match row(&name, &record?, |object, line| parse(Fields(object), line)) {
            Ok(row) => rows.push(row),
            Err(bad) if options.skip_bad_lines => skipped.push(bad),
            Err(bad) => return Err(bad),
        }
    }
    if rows.is_empty() {
        let first = skipped.first().map(DataError::to_string);
        return Err(DataError::Empty { file: name, bad: skipped.len(), first });
    }
    Ok(Loaded { rows, skipped })
}

/// Turns one record into a row, and a bad one into an error with its place.
pub(crate) fn row<T>(
    file: &str,
    record: &Record,
    parse: impl FnOnce(&Map<String, Value>, usize) -> Result<T, BadRow>,
) -> Result<T, DataError> {
    let parsed =
        parse::object(&record.bytes).and_then(|object| parse(&object, record.line).map_err(|bad| (0, bad)));
    parsed.map_err(|(below, bad)| DataError::Row {
        file: file.to_owned(),
        line: record.line + below,
        element: record.element,
        field: bad.field,
        problem: bad.problem,
    })
}
