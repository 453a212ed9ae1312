//! A chain in a file.
//!
//! Nothing that was written is ever cut: a process that goes on after another one was killed appends to what that one
//! left. Only a last line without an end, which is no record, is removed, and its length is said.

use crate::chain::{Broken, Head, seal, verify};
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Why an audit log cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
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
    /// The chain in the file is broken.
    #[error("{path}: {broken}", path = path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        broken: Broken,
    },
    /// A record cannot be written as one.
    #[error("{path}: {problem}", path = path.display())]
    Body {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// An audit log, open for appending. One process at a time.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: File,
    head: Head,
    offset: u64,
    torn: usize,
}

impl AuditLog {
    /// Opens the log at `path`, or starts one. A last line without an end is removed ([`AuditLog::torn`]).
    ///
    /// # Errors
    /// [`AuditError::Broken`] where the chain in the file is broken: nothing is appended to such a file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, AuditError> {
        let path = path.into();
        let io = |action| {
            let path = path.clone();
            move |source| AuditError::Io { action, path, source }
        };
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(io("read"))?,
        };
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let (head, _) = verify(&bytes[..whole], None)
            .map_err(|broken| AuditError::Broken { path: path.clone(), broken })?;
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(io("open"))?;
        if bytes.len() > whole {
            file.set_len(whole as u64).map_err(io("truncate"))?;
        }
        file.seek(SeekFrom::End(0)).map_err(io("seek in"))?;
        Ok(Self { path, file, head, offset: whole as u64, torn: bytes.len() - whole })
    }

    /// Appends a record, with a single write. A full disk leaves the file as it was before.
    ///
    /// # Errors
    /// [`AuditError::Io`]; [`AuditError::Body`] for an empty record or one with a key of the chain's own.
    pub fn append(&mut self, body: &Map<String, Value>) -> Result<&Head, AuditError> {
        let sealed = seal(&self.head, body);
        let (mut line, head) =
            sealed.map_err(|problem| AuditError::Body { path: self.path.clone(), problem })?;
        line.push('\n');
        if let Err(source) = self.file.write_all(line.as_bytes()) {
            // Best effort: the error that matters is the one above.
            let _ = self.file.set_len(self.offset);
            let _ = self.file.seek(SeekFrom::Start(self.offset));
            return Err(AuditError::Io { action: "write", path: self.path.clone(), source });
        }
        self.offset += line.len() as u64;
        self.head = head;
        Ok(&self.head)
    }

    /// Waits until everything written is on disk.
    ///
    /// # Errors
    /// [`AuditError::Io`].
    pub fn sync(&mut self) -> Result<(), AuditError> {
        let flushed = self.file.sync_data();
        flushed.map_err(|source| AuditError::Io { action: "flush", path: self.path.clone(), source })
    }

    /// The end of the chain.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes of a last line without an end that were removed on opening.
    pub fn torn(&self) -> usize {
        self.torn
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(n: u64) -> Map<String, Value> {
        Map::from_iter([("event".to_owned(), json!("x")), ("n".to_owned(), json!(n))])
    }

    #[test]
    fn a_log_goes_on_where_it_was_left_and_a_torn_line_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = AuditLog::open(&path).unwrap();
        log.append(&body(0)).unwrap();
        log.append(&body(1)).unwrap();
        log.sync().unwrap();
        let head = log.head().clone();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"seq\":2,\"pr"].concat()).unwrap();
        assert!(verify(&std::fs::read(&path).unwrap(), None).is_err());
        let mut log = AuditLog::open(&path).unwrap();
        assert_eq!((log.head(), log.torn()), (&head, 12));
        log.append(&body(2)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.starts_with(&whole));
        assert_eq!(verify(&bytes, Some(&head)).unwrap().0, *log.head());
        assert_eq!(log.head().records, 3);
    }

    #[test]
    fn a_broken_log_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        AuditLog::open(&path).unwrap().append(&body(7)).unwrap();
        let edited = std::fs::read_to_string(&path).unwrap().replace("\"n\":7", "\"n\":8");
        std::fs::write(&path, &edited).unwrap();
        let error = AuditLog::open(&path).unwrap_err().to_string();
        assert!(error.contains("audit.jsonl: line 1 was edited"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), edited);
    }
}
