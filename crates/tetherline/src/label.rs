//! `tether label`: preference pairs from two policies, judged by people.
//!
//! ```text
//! prompts ──two policies──▶ queue (NAME.queue.jsonl) ──labeler──▶ journal (NAME.labels.jsonl) ──▶ pairs (NAME.jsonl)
//!                 └─ensemble of reward models: what they disagree about most comes first
//! ```
//!
//! The queue is drawn once; who comes later, or comes back, goes on with it. The journal holds every choice, undone ones
//! too, in the order they were made. The pairs are what `tether reward` reads: ties and skips are not among them. Which
//! policy stands on the left is drawn for each labeler and pair, and not shown.

mod journal;
mod queue;
mod stats;

pub use journal::{Answer, Entry, Label, read_journal};
pub use queue::{Candidate, LabelOptions, QueueFile, make_queue, read_queue};
pub use stats::{LabelStats, LabelerStats, stats};

use crate::Error;
use crate::checkpoint::save_file;
use journal::Journal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tetherline_core::seeds::{Purpose, stream};
use tetherline_data::Text;

/// A labeler at work on a queue.
#[derive(Debug)]
pub struct Session {
    queue: QueueFile,
    journal: Journal,
    labeler: String,
    out: PathBuf,
    /// Skipped since the session began: they come back in the next one.
    skipped: BTreeSet<String>,
}

/// A pair as the labeler sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown<'a> {
    /// The pair.
    pub candidate: &'a Candidate,
    /// The response on the left.
    pub left: &'a str,
    /// The response on the right.
    pub right: &'a str,
    /// Whether the first policy's is on the left.
    pub first_on_left: bool,
}

/// The files beside the pairs in `out`: queue and journal.
pub fn files_beside(out: &Path) -> (PathBuf, PathBuf) {
    let stem = out.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    (out.with_file_name(format!("{stem}.queue.jsonl")), out.with_file_name(format!("{stem}.labels.jsonl")))
}

/// FNV-1a over bytes: names a labeler's stream, and a pair.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

impl Session {
    /// Opens the queue beside `out` for a labeler.
    ///
    /// # Errors
    /// [`Error::Input`] where the labeler has no name, or queue or journal are damaged.
    pub fn open(out: &Path, labeler: &str) -> Result<Self, Error> {
        if labeler.trim().is_empty() {
            return Err(Error::input("the labeler", "a labeler needs a name: give --labeler NAME"));
        }
        let (queue, journal) = files_beside(out);
        Ok(Self {
            queue: read_queue(&queue)?,
            journal: Journal::open(&journal)?,
            labeler: labeler.trim().to_owned(),
            out: out.to_owned(),
            skipped: BTreeSet::new(),
        })
    }

    /// Labels in force, by labeler and pair.
    pub fn labels(&self) -> &BTreeMap<(String, String), Label> {
        self.journal.labels()
    }

    /// What the labeler has judged (skipped pairs are not), and how many pairs there are.
    pub fn progress(&self) -> (usize, usize) {
        let judged = |c: &&Candidate| self.label(&c.pair).is_some_and(|l| l.answer != Answer::Skip);
        (self.queue.candidates.iter().filter(judged).count(), self.queue.candidates.len())
    }

    fn label(&self, pair: &str) -> Option<&Label> {
        self.journal.labels().get(&(self.labeler.clone(), pair.to_owned()))
    }

    /// The next pair to judge; `None` when there is none left.
    pub fn next(&self) -> Option<Shown<'_>> {
        let open = |c: &&Candidate| match self.label(&c.pair) {
            None => true,
            Some(l) => l.answer == Answer::Skip && !self.skipped.contains(&c.pair),
        };
        self.queue.candidates.iter().find(open).map(|c| self.shown(c))
    }

    fn shown<'a>(&self, candidate: &'a Candidate) -> Shown<'a> {
        let name = (hash(&self.labeler), hash(&candidate.pair));
        let first_on_left = stream(self.queue.seed, Purpose::Shuffle, name.0, name.1, 0).uniform() < 0.5;
        let (a, b) = (candidate.first.as_str(), candidate.second.as_str());
        let (left, right) = if first_on_left { (a, b) } else { (b, a) };
        Shown { candidate, left, right, first_on_left }
    }

    /// Writes the answer to the pair that [`Session::next`] shows.
    ///
    /// # Errors
    /// If it cannot be written, or there is no pair left.
    pub fn answer(&mut self, answer: Answer, reason: Option<&str>) -> Result<(), Error> {
        let Some(shown) = self.next() else {
            return Err(Error::input("the answer", "there is no pair left to judge"));
        };
        let pair = shown.candidate.pair.clone();
        let label = Label {
            pair: pair.clone(),
            labeler: self.labeler.clone(),
            answer,
            first_on_left: shown.first_on_left,
            reason: reason.map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned),
        };
        self.journal.write(&Entry::Label(label))?;
        if answer == Answer::Skip {
            self.skipped.insert(pair);
        }
        self.save()
    }

    /// Takes the labeler's last answer back, also one of an earlier session. False where there is none.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn undo(&mut self) -> Result<bool, Error> {
        let Some(pair) = self.journal.last_of(&self.labeler) else { return Ok(false) };
        self.journal.write(&Entry::Undo { undo: pair.clone(), labeler: self.labeler.clone() })?;
        self.skipped.remove(&pair);
        self.save()?;
        Ok(true)
    }

    /// Writes the pairs of all labelers, whole or not at all.
    fn save(&self) -> Result<(), Error> {
        let by_pair: BTreeMap<&str, &Candidate> =
            self.queue.candidates.iter().map(|c| (c.pair.as_str(), c)).collect();
        let mut text = String::new();
        for label in self.journal.labels().values() {
            if let Some(row) = by_pair.get(label.pair.as_str()).and_then(|c| self.preference(c, label)) {
                text += &format!("{row}\n");
            }
        }
        Ok(save_file(&self.out, text.as_bytes())?)
    }

    /// A row for the reward trainer; none of a tie or a skip.
    fn preference(&self, c: &Candidate, label: &Label) -> Option<Value> {
        let first = label.prefers_first()?;
        let policies = (&self.queue.first, &self.queue.second);
        let (chosen, rejected) = if first { (&c.first, &c.second) } else { (&c.second, &c.first) };
        let (by, not) = if first { policies } else { (policies.1, policies.0) };
        let answer = |text: &str| match &c.prompt {
            Text::Plain(_) => json!(text),
            Text::Messages(_) => json!([{"role": "assistant", "content": text}]),
        };
        let prompt = match &c.prompt {
            Text::Plain(text) => json!(text),
            Text::Messages(messages) => json!(messages),
        };
        let mut row = json!({"prompt": prompt, "chosen": answer(chosen), "rejected": answer(rejected),
            "domain": c.domain, "labeler": label.labeler, "pair": c.pair, "chosen_by": by, "rejected_by": not});
        if !c.user.is_empty() {
            row["user"] = json!(c.user);
        }
        if let Some(reason) = &label.reason {
            row["reason"] = json!(reason);
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests;
