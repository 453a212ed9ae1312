//! Rows that are longer than the model's context: refused with their file and line, or, where bad lines may
//! be skipped, left out, counted and reported.

use crate::Error;
use tetherline_core::{Event, Observer};

/// Judges the rows of one file.
pub(crate) struct Fit {
    /// The file, for people.
    file: String,
    /// Tokens that fit.
    room: usize,
    /// Where that number comes from, for people.
    why: String,
    skip: bool,
    skipped: usize,
}

impl Fit {
    /// Rows of `file` may have `room` tokens; `why` says where that number comes from.
    pub(crate) fn new(file: impl Into<String>, room: usize, why: impl Into<String>, skip: bool) -> Self {
        Self { file: file.into(), room, why: why.into(), skip, skipped: 0 }
    }

    /// Whether the row of `line` is kept.
    ///
    /// # Errors
    /// [`Error::Input`] with file and line, where bad lines are not to be skipped.
    pub(crate) fn keeps(&mut self, line: usize, tokens: usize) -> Result<bool, Error> {
        let problem = match tokens {
            0 => "it has no tokens".to_owned(),
            n if n > self.room => format!("it has {n} tokens, and {} fit ({})", self.room, self.why),
            _ => return Ok(true),
        };
        self.refuse(line, &problem).map(|()| false)
    }

    /// Leaves out the row of `line` because of `problem`.
    ///
    /// # Errors
    /// As [`Fit::keeps`].
    pub(crate) fn refuse(&mut self, line: usize, problem: &str) -> Result<(), Error> {
        if !self.skip {
            let advice = "shorten or remove the row, or let such rows be left out with skip_bad_lines";
            return Err(Error::input(format!("{} line {line}", self.file), format!("{problem}; {advice}")));
        }
        self.skipped += 1;
        Ok(())
    }

    /// How many rows were left out.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped
    }

    /// Says how many rows were left out, if any.
    pub(crate) fn report(&self, observer: &mut dyn Observer) {
        if self.skipped > 0 {
            let (n, room, why) = (self.skipped, self.room, &self.why);
            let rows = if n == 1 { "row was" } else { "rows were" };
            observer.on_event(&Event::Warning(&format!(
                "{}: {n} {rows} left out: empty, or longer than the {room} tokens that fit ({why})",
                self.file
            )));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_row_is_named_or_counted() {
        let mut strict = Fit::new("a.jsonl", 10, "context 12 less 2", false);
        assert!(strict.keeps(1, 10).unwrap());
        let error = strict.keeps(7, 11).unwrap_err().to_string();
        assert!(error.contains("a.jsonl line 7") && error.contains("11 tokens, and 10 fit"), "{error}");
        assert!(strict.keeps(8, 0).is_err());
        let mut lenient = Fit::new("a.jsonl", 10, "", true);
        assert!(
            !lenient.keeps(1, 11).unwrap() && !lenient.keeps(2, 0).unwrap() && lenient.keeps(3, 1).unwrap()
        );
        assert_eq!(lenient.skipped(), 2);
    }
}
