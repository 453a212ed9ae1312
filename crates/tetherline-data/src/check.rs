//! What a data file holds: counts, lengths, repeats and every bad row. Backs `tether data check FILE`.
//!
//! The file is read once, row by row, and every row is checked by the same code that reads it for
//! training, so a file that checks clean also loads.

use crate::fields::Fields;
use crate::read::row;
use crate::source::Records;
use crate::{DataError, Message, PairRow, ScoreInput, Text, parse};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// What a row is, told from its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RowKind {
    /// `prompt` alone, or `messages` that end with the user.
    Prompt,
    /// `prompt` + `response`, or `messages` that end with the assistant.
    Demonstration,
    /// `chosen` + `rejected`.
    Pair,
    /// `responses`, ranked.
    Ranking,
    /// `input_ids` + `prompt_len`.
    Tokens,
}

impl RowKind {
    /// A word for `count` of them.
    pub fn noun(self, count: usize) -> &'static str {
        match (self, count) {
            (Self::Prompt, 1) => "prompt",
            (Self::Prompt, _) => "prompts",
            (Self::Demonstration, 1) => "demonstration",
            (Self::Demonstration, _) => "demonstrations",
            (Self::Pair, 1) => "preference pair",
            (Self::Pair, _) => "preference pairs",
            (Self::Ranking, 1) => "ranking",
            (Self::Ranking, _) => "rankings",
            (Self::Tokens, 1) => "row of token ids",
            (Self::Tokens, _) => "rows of token ids",
        }
    }
}

/// Shortest, middle and longest of some texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// The shortest.
    pub min: usize,
    /// The median (of an even number, the lower of the middle two).
    pub median: usize,
    /// The longest.
    pub max: usize,
}

/// What [`check`] found. Displays as a table at most 80 columns wide.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The file as the caller named it.
    pub file: String,
    /// Whether it is gzipped.
    pub gzipped: bool,
    /// Whether it is one JSON array (otherwise JSON lines).
    pub array: bool,
    /// Good rows of each kind.
    pub rows: BTreeMap<RowKind, usize>,
    /// Good rows of each domain; rows that name none count as `all`.
    pub domains: BTreeMap<String, usize>,
    /// Different users named.
    pub users: usize,
    /// For `prompt`, `response`, `chosen`, `rejected` (in characters) and `input_ids` (in tokens), those
    /// that occur, in this order.
    pub lengths: Vec<(&'static str, Lengths)>,
    /// Different prompts (text or message rows).
    pub distinct_prompts: usize,
    /// Good rows whose texts repeat an earlier row.
    pub duplicates: usize,
    /// Prompts, responses and answers that are empty or white space alone.
    pub blank_texts: usize,
    /// Pairs whose two answers are the same.
    pub identical_pairs: usize,
    /// Pairs whose prompt ended inside an answer ([`PairRow::recut`]).
    pub recut: usize,
    /// Pairs with a margin.
    pub margins: usize,
    /// Pairs with a soft label.
    pub labels: usize,
    /// Pairs that say how far labelers agree.
    pub agreements: usize,
    /// Fields that no row uses, and in how many good rows each occurs.
    pub extra_fields: BTreeMap<String, usize>,
    /// Bad rows, in file order.
    pub bad: Vec<DataError>,
}

impl CheckReport {
    /// Number of good rows.
    pub fn total(&self) -> usize {
        self.rows.values().sum()
    }

    /// Whether every row is good.
    pub fn is_clean(&self) -> bool {
        self.bad.is_empty()
    }
}

/// Reads a whole file and says what it holds.
///
/// # Errors
/// A file that cannot be read to its end, or that has no row at all. Bad rows are no error: they are in
/// [`CheckReport::bad`].
pub fn check(path: impl AsRef<Path>) -> Result<CheckReport, DataError> {
    check_records(Records::open(path.as_ref())?)
}

/// [`check`] of text in memory; `name` stands for the file.
///
/// # Errors
/// As [`check`].
pub fn check_str(name: &str, text: &str) -> Result<CheckReport, DataError> {
    check_records(Records::new(name.to_owned(), text.as_bytes())?)
}

fn check_records(records: Records<'_>) -> Result<CheckReport, DataError> {
    let file = records.name().to_owned();
    let mut tally = Tally::default();
    let mut report = CheckReport {
        file: file.clone(),
        gzipped: records.gzipped(),
        array: records.is_array(),
        ..CheckReport::default()
    };
    for record in records {
        let parsed = row(&file, &record?, |object, line| {
            let found = classify(Fields(object), line)?;
            tally.extra(object);
            Ok(found)
        });
        match parsed {
            Ok(found) => tally.add(found),
            Err(bad) => report.bad.push(bad),
        }
    }
    tally.finish(&mut report);
    if report.total() == 0 && report.bad.is_empty() {
        return Err(DataError::Empty { file, bad: 0, first: None });
    }
    Ok(report)
}

/// A good row of some kind.
struct Found {
    kind: RowKind,
    /// Its texts, by name.
    texts: Vec<(&'static str, Text)>,
    /// Token ids instead of texts.
    ids: Option<Vec<u32>>,
    domain: String,
    user: String,
    recut: bool,
    margin: bool,
    label: bool,
    agreement: bool,
}

fn classify(fields: Fields<'_>, line: usize) -> Result<Found, crate::error::BadRow> {
    let found = |kind, texts, domain, user| Found {
        kind,
        texts,
        ids: None,
        domain,
        user,
        recut: false,
        margin: false,
        label: false,
        agreement: false,
    };
    if fields.has("responses") {
        let row = parse::comparison(fields, line)?;
        let answers = row.answers.into_iter().map(|a| ("response", a));
        let texts = std::iter::once(("prompt", row.prompt)).chain(answers).collect();
        return Ok(found(RowKind::Ranking, texts, row.domain, row.user));
    }
    if fields.has("chosen") || fields.has("rejected") {
        let PairRow { prompt, chosen, rejected, margin, label, agreement, recut, domain, user, .. } =
            parse::pair(fields, line)?;
        let texts = vec![("prompt", prompt), ("chosen", chosen), ("rejected", rejected)];
        return Ok(Found {
            recut,
            margin: margin.is_some(),
            label: label.is_some(),
            agreement: agreement.is_some(),
            ..found(RowKind::Pair, texts, domain, user)
        });
    }
    let unanswered = || Ok(!fields.messages()?.last().is_some_and(Message::is_assistant));
    if !fields.has("input_ids")
        && !fields.has("response")
        && if fields.has("messages") { unanswered()? } else { fields.has("prompt") }
    {
        let row = parse::prompt(fields, line)?;
        return Ok(found(RowKind::Prompt, vec![("prompt", row.prompt)], row.domain, row.user));
    }
    let row = parse::score(fields, line)?;
    Ok(match row.input {
        ScoreInput::Text { prompt, response } => {
            let texts = vec![("prompt", prompt), ("response", Text::Plain(response))];
            found(RowKind::Demonstration, texts, row.domain, row.user)
        }
        ScoreInput::Tokens { input_ids, .. } => {
            Found { ids: Some(input_ids), ..found(RowKind::Tokens, Vec::new(), row.domain, row.user) }
        }
    })
}

/// Names of the things measured, in the order of the report.
const MEASURED: [&str; 5] = ["prompt", "response", "chosen", "rejected", "input_ids"];

/// Running totals. Texts are remembered as 64-bit hashes and lengths alone.
#[derive(Default)]
struct Tally {
    report: CheckReport,
    users: BTreeSet<String>,
    lengths: BTreeMap<&'static str, Vec<usize>>,
    seen_rows: BTreeSet<u64>,
    seen_prompts: BTreeSet<u64>,
}

impl Tally {
    fn extra(&mut self, object: &Map<String, Value>) {
        for name in object.keys().filter(|k| !parse::KNOWN_FIELDS.contains(&k.as_str())) {
            *self.report.extra_fields.entry(name.clone()).or_default() += 1;
        }
    }

    fn add(&mut self, found: Found) {
        let report = &mut self.report;
        *report.rows.entry(found.kind).or_default() += 1;
        report.recut += usize::from(found.recut);
        report.margins += usize::from(found.margin);
        report.labels += usize::from(found.label);
        report.agreements += usize::from(found.agreement);
        report.duplicates += usize::from(!self.seen_rows.insert(hash(&(&found.texts, &found.ids))));
        *report.domains.entry(found.domain).or_default() += 1;
        if !found.user.is_empty() {
            self.users.insert(found.user);
        }
        if let [_, (_, chosen), (_, rejected)] = &found.texts[..] {
            report.identical_pairs += usize::from(chosen == rejected);
        }
        for (name, text) in &found.texts {
            report.blank_texts += usize::from(is_blank(text));
            self.lengths.entry(name).or_default().push(text.chars());
            if *name == "prompt" {
                self.seen_prompts.insert(hash(text));
            }
        }
        if let Some(ids) = &found.ids {
            self.lengths.entry("input_ids").or_default().push(ids.len());
        }
    }

    fn finish(mut self, report: &mut CheckReport) {
        let (file, gzipped, array) = (std::mem::take(&mut report.file), report.gzipped, report.array);
        let bad = std::mem::take(&mut report.bad);
        let lengths = MEASURED.iter().filter_map(|&name| Some((name, summary(self.lengths.get_mut(name)?))));
        *report = CheckReport {
            file,
            gzipped,
            array,
            bad,
            users: self.users.len(),
            distinct_prompts: self.seen_prompts.len(),
            lengths: lengths.collect(),
            ..self.report
        };
    }
}

fn is_blank(text: &Text) -> bool {
    match text {
        Text::Plain(s) => s.trim().is_empty(),
        Text::Messages(m) => m.iter().all(|m| m.content.trim().is_empty()),
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// `lengths` is never empty.
fn summary(lengths: &mut [usize]) -> Lengths {
    lengths.sort_unstable();
    Lengths { min: lengths[0], median: lengths[(lengths.len() - 1) / 2], max: lengths[lengths.len() - 1] }
}
