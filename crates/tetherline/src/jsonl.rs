//! Append-only JSON-lines files that can be cut back to where a checkpoint left them.
//!
//! One object per line, written with a single system call, so a killed process leaves at most one torn
//! line, and that line lies after the offset that the last checkpoint recorded. A resumed run truncates
//! to the offset and writes the lost lines again.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Why a JSON-lines file could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonlError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// `open`, `write`, …
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is shorter than the checkpoint says it was.
    #[error(
        "{path} has {found} bytes, but the checkpoint was taken when it had {recorded}: it was edited or \
         truncated; start a new run, or resume from an older checkpoint",
        path = path.display()
    )]
    Shorter {
        /// Which file.
        path: PathBuf,
        /// Bytes now.
        found: u64,
        /// Bytes the checkpoint recorded.
        recorded: u64,
    },
    /// A row could not be turned into JSON.
    #[error("cannot write a row of {path} as JSON: {source}", path = path.display())]
    Encode {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Writes one JSON object per line at the end of a file.
#[derive(Debug)]
pub struct JsonlWriter {
    path: PathBuf,
    file: File,
    offset: u64,
}

impl JsonlWriter {
    /// Opens `path`, cut to its first `offset` bytes (0 for a new run).
    ///
    /// # Errors
    /// [`JsonlError::Shorter`] when the file has fewer than `offset` bytes; [`JsonlError::Io`] otherwise.
    pub fn open(path: impl Into<PathBuf>, offset: u64) -> Result<Self, JsonlError> {
        let path = path.into();
        let io = |action| {
            let path = path.clone();
            move |source| JsonlError::Io { action, path, source }
        };
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(io("open"))?;
        let found = file.metadata().map_err(io("open"))?.len();
        if found < offset {
            return Err(JsonlError::Shorter { path, found, recorded: offset });
        }
        file.set_len(offset).map_err(io("truncate"))?;
        file.seek(SeekFrom::Start(offset)).map_err(io("seek in"))?;
        Ok(Self { path, file, offset })
    }

    /// Appends one row. A full disk leaves the file as it was before the row.
    ///
    /// # Errors
    /// [`JsonlError::Encode`] or [`JsonlError::Io`].
    pub fn write(&mut self, row: &impl serde::Serialize) -> Result<(), JsonlError> {
        let mut line = serde_json::to_vec(row)
            .map_err(|source| JsonlError::Encode { path: self.path.clone(), source })?;
        line.push(b'\n');
        if let Err(source) = self.file.write_all(&line) {
            // Best effort: the error that matters is the one above.
            let _ = self.file.set_len(self.offset);
            let _ = self.file.seek(SeekFrom::Start(self.offset));
            return Err(JsonlError::Io { action: "write", path: self.path.clone(), source });
        }
        self.offset += line.len() as u64;
        Ok(())
    }

    /// Bytes written so far: what a checkpoint records. Call [`JsonlWriter::sync`] first.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Waits until everything written is on disk.
    ///
    /// # Errors
    /// [`JsonlError::Io`].
    pub fn sync(&mut self) -> Result<(), JsonlError> {
        self.file.sync_data().map_err(|source| JsonlError::Io {
            action: "flush",
            path: self.path.clone(),
            source,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn row(step: u64) -> BTreeMap<&'static str, u64> {
        BTreeMap::from([("step", step)])
    }

    #[test]
    fn resuming_cuts_back_to_the_recorded_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut w = JsonlWriter::open(&path, 0).unwrap();
        w.write(&row(1)).unwrap();
        let offset = w.offset();
        w.write(&row(2)).unwrap();
        drop(w);
        // A torn line, as a killed process leaves it.
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"{\"step\":");
        std::fs::write(&path, torn).unwrap();

        let mut w = JsonlWriter::open(&path, offset).unwrap();
        w.write(&row(9)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":9}\n");
        assert_eq!(w.offset(), 22);
    }

    #[test]
    fn a_file_shorter_than_recorded_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, "{}\n").unwrap();
        let e = JsonlWriter::open(&path, 100).unwrap_err().to_string();
        assert!(e.contains("has 3 bytes") && e.contains("had 100"), "{e}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}\n");
    }
}
