//! The check report as a table for people, at most 80 columns wide.

use crate::CheckReport;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

/// Columns of the table.
const WIDTH: usize = 80;
/// Column where values start.
const INDENT: usize = 14;
/// Domains, extra fields and bad rows listed before "and … more".
const SHOWN: usize = 10;

impl Display for CheckReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let format = if self.array { "JSON array" } else { "JSON lines" };
        entry(f, "file", &self.file)?;
        entry(f, "format", &format!("{format}{}", if self.gzipped { ", gzipped" } else { "" }))?;
        let rows: Vec<String> = self.rows.iter().map(|(kind, &n)| format!("{n} {}", kind.noun(n))).collect();
        entry(f, "rows", &if rows.is_empty() { "none that is good".to_owned() } else { rows.join(", ") })?;
        if self.distinct_prompts > 0 {
            entry(f, "prompts", &format!("{} different", self.distinct_prompts))?;
        }
        if !self.domains.is_empty() {
            entry(f, "domains", &most_common(&self.domains))?;
        }
        if self.users > 0 {
            entry(f, "users", &self.users.to_string())?;
        }
        if !self.lengths.is_empty() {
            writeln!(f, "{:<INDENT$}{:>9} {:>9} {:>9}", "length", "min", "median", "max")?;
        }
        for (name, l) in &self.lengths {
            let unit = if *name == "input_ids" { "tokens" } else { "characters" };
            let name = format!("  {name}");
            writeln!(f, "{name:<INDENT$}{:>9} {:>9} {:>9}  {unit}", l.min, l.median, l.max)?;
        }
        let notes = [
            ("margins", self.margins, "with a margin"),
            ("labels", self.labels, "with a soft label or a tie"),
            ("agreement", self.agreements, "with the agreement of labelers"),
            ("duplicates", self.duplicates, "repeating an earlier row"),
            ("blank", self.blank_texts, "empty or white space alone"),
            ("identical", self.identical_pairs, "with the same answer twice: nothing to learn"),
            ("recut", self.recut, "with a prompt ending inside an answer: cut a turn earlier"),
        ];
        for (label, count, text) in notes.into_iter().filter(|n| n.1 > 0) {
            entry(f, label, &format!("{count} {text}"))?;
        }
        if !self.extra_fields.is_empty() {
            entry(f, "left out", &format!("fields {}", most_common(&self.extra_fields)))?;
        }
        if self.bad.is_empty() {
            return entry(f, "bad rows", "none");
        }
        entry(f, "bad rows", &self.bad.len().to_string())?;
        let prefix = format!("{}:", self.file);
        for bad in self.bad.iter().take(SHOWN) {
            let text = bad.to_string();
            entry(f, "", &format!("line {}", text.strip_prefix(&prefix).unwrap_or(&text)))?;
        }
        match self.bad.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => entry(f, "", &format!("… and {more} more")),
        }
    }
}

/// `name count`, the most common first.
fn most_common(counts: &BTreeMap<String, usize>) -> String {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let mut shown: Vec<String> = sorted.iter().take(SHOWN).map(|(name, n)| format!("{name} {n}")).collect();
    if sorted.len() > SHOWN {
        shown.push(format!("… and {} more", sorted.len() - SHOWN));
    }
    shown.join(", ")
}

/// A label and a text that is wrapped at spaces; a word too long for a line is cut.
fn entry(f: &mut Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    let room = WIDTH - INDENT;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        // Names come from the file: no control characters on a terminal.
        let word: String = word.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let length = word.chars().count();
        let last = lines.len() - 1;
        let used = lines[last].chars().count();
        let word = if length > room { word.chars().take(room - 1).chain(['…']).collect() } else { word };
        if used == 0 {
            lines[last] = word;
        } else if used + 1 + length <= room {
            lines[last].push(' ');
            lines[last].push_str(&word);
        } else {
            lines.push(word);
        }
    }
    for (i, line) in lines.iter().enumerate() {
        writeln!(f, "{:<INDENT$}{line}", if i == 0 { label } else { "" })?;
    }
    Ok(())
}
