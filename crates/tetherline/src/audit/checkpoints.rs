//! Whether the files of a checkpoint are those that the audit has.
//!
//! A `checkpoint` record has the SHA-256 of each file, and is on disk before the directory gets its name: a process that is
//! killed in between leaves a record without a checkpoint, which is no harm, and never a checkpoint without a record. The
//! first process of this version in a directory records what it finds there (`checkpoints` of `start` or `resume`), so that the
//! checkpoints of an earlier version, or of a chain that was moved away, are known too from then on.
//!
//! A checkpoint is the run's own if its files are those of a record of it. There may be several: a step that was lost is made
//! again, and the one at which a halt is released is saved twice. One that no record knows was put there by somebody else.

use super::{Record, event, read};
use crate::Error;
use crate::checkpoint::{CheckpointError, Checkpoints, Restored};
use crate::run_dir::RunDir;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use tetherline_audit::{AuditLog, file_sha256, files_sha256};
use tetherline_core::BoxError;

/// SHA-256 by file.
pub(crate) type Files = BTreeMap<String, String>;

/// How the directory of a checkpoint begins.
const STEP: &str = "step-";

/// Digits of a hash that a message has.
const SHOWN: usize = 12;

/// Records a checkpoint whose files are all in `dir`, and waits until the record is on disk. `body` says which one it is.
pub(crate) fn saved(log: &mut AuditLog, dir: &Path, mut body: Value) -> Result<Files, BoxError> {
    let files = files_sha256(dir)?;
    body["sha256"] = json!(files);
    super::append(log, body)?;
    log.sync()?;
    Ok(files)
}

/// What the audit of a run has of its checkpoints.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// `checkpoints/` of the run.
    root: PathBuf,
    /// Whether every checkpoint is in it.
    complete: bool,
    /// By directory in `checkpoints/`, what its files were each time.
    known: BTreeMap<String, Vec<Files>>,
}

impl Recorded {
    /// Reads it from the audit of a run; nothing where there is none.
    pub(crate) fn read(run: &RunDir) -> Result<Self, Error> {
        let path = run.audit();
        let records = if path.is_file() { read(&path, None)?.1 } else { Vec::new() };
        Ok(Self::of(run.root(), &records))
    }

    pub(super) fn of(run: &Path, records: &[Record]) -> Self {
        let mut out = Self { root: run.join("checkpoints"), ..Self::default() };
        fn hash<'a>((name, hash): (&'a String, &Value)) -> Option<(&'a str, String)> {
            Some((name.as_str(), hash.as_str()?.to_owned()))
        }
        for record in records {
            let body = &record.body;
            if let Some(Value::Object(found)) = body.get("checkpoints") {
                out.complete = true;
                let mut by_dir: BTreeMap<&str, Files> = BTreeMap::new();
                for (path, hash) in found.iter().filter_map(hash) {
                    let Some((dir, file)) = dir_and_file(path) else { continue };
                    by_dir.entry(dir).or_default().insert(file.to_owned(), hash);
                }
                by_dir.into_iter().for_each(|(dir, files)| out.add(dir, files));
            }
            if let ("checkpoint", Some(Value::Object(files))) = (event(record), body.get("sha256")) {
                let step = format!("{STEP}{:06}", body["step"].as_u64().unwrap_or_default());
                let dir = body.get("of").and_then(Value::as_str).map(|of| format!("{of}/{step}"));
                let files = files.iter().filter_map(hash).map(|(name, hash)| (name.to_owned(), hash));
                out.add(&dir.unwrap_or(step), files.collect());
            }
        }
        out
    }

    /// The files of the checkpoint that was just saved at `path`.
    pub(crate) fn saved(&mut self, path: &Path, files: Files) {
        self.add(&self.name(path), files);
    }

    fn add(&mut self, dir: &str, files: Files) {
        self.known.entry(dir.to_owned()).or_default().push(files);
    }

    /// What `path` is called in `checkpoints/`.
    fn name(&self, path: &Path) -> String {
        let own = path.strip_prefix(&self.root).unwrap_or(path);
        own.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
    }

    /// What the files at `path` were each time; none where nothing is known of them.
    fn of_dir(&self, path: &Path) -> Result<Option<&[Files]>, Error> {
        match self.known.get(&self.name(path)) {
            Some(all) => Ok(Some(all)),
            None if self.complete => {
                Err(refused(path, "the audit has no record of it: the run did not save it"))
            }
            None => Ok(None),
        }
    }

    /// Refuses a checkpoint that is not as the run saved it.
    ///
    /// # Errors
    /// [`Error::Input`] naming the first file that is another one, with the beginnings of both hashes; [`Error::Io`].
    pub(crate) fn check(&self, path: &Path) -> Result<(), Error> {
        let Some(all) = self.of_dir(path)? else { return Ok(()) };
        let now = files_sha256(path).map_err(unreadable(path))?;
        if all.contains(&now) {
            return Ok(());
        }
        let last = all.last().cloned().unwrap_or_default();
        let other = last.keys().chain(now.keys()).find(|name| last.get(*name) != now.get(*name));
        let name = other.map_or("", String::as_str);
        Err(refused(path, &difference(name, last.get(name), now.get(name))))
    }

    /// The same of one file.
    pub(crate) fn check_file(&self, path: &Path, name: &str) -> Result<(), Error> {
        let Some(all) = self.of_dir(path)? else { return Ok(()) };
        let file = path.join(name);
        let now = file_sha256(&file).map_err(unreadable(&file))?;
        if all.iter().any(|files| files.get(name) == Some(&now)) {
            return Ok(());
        }
        let was = all.last().and_then(|files| files.get(name));
        Err(refused(path, &difference(name, was, Some(&now))))
    }

    /// What is wrong with each checkpoint that is there. One that goes away meanwhile is no problem.
    pub(super) fn problems(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten().map(|e| e.path());
        let stage =
            |p: &PathBuf| p.is_dir() && !self.name(p).starts_with('.') && !self.name(p).starts_with(STEP);
        let mut dirs: Vec<PathBuf> =
            std::iter::once(self.root.clone()).chain(entries.filter(stage)).collect();
        dirs.sort();
        let all = dirs.into_iter().flat_map(|dir| Checkpoints::reading(dir).all().unwrap_or_default());
        let wrong = all.filter_map(|c| Some((self.check(&c.path).err()?, c.path)));
        wrong.filter(|(_, path)| path.is_dir()).map(|(e, _)| e.to_string()).collect()
    }

    /// Restores the newest checkpoint that is as the run saved it and can be read.
    ///
    /// # Errors
    /// What is wrong with the newest one, where none can be used.
    pub(crate) fn restore<T>(
        &self,
        checkpoints: &Checkpoints,
        mut restore: impl FnMut(&Path) -> Result<T, Error>,
    ) -> Result<Option<Restored<T>>, Error> {
        let found = checkpoints.restore(|path| {
            self.check(path)?;
            restore(path)
        });
        found.map_err(|e| match e {
            Error::Input { what, source } => Error::Input { what, source: todo(&source).into() },
            e => e,
        })
    }
}

fn todo(problem: &BoxError) -> String {
    format!(
        "{problem}. No older one can be used either: put back what the run saved, or remove its checkpoints to start this \
         stage anew"
    )
}

fn refused(path: &Path, problem: &str) -> Error {
    Error::input(format!("the checkpoint {}", path.display()), problem)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action: "read", path, source }
}

/// The directory of a checkpoint and a file in it, of a path in `checkpoints/`.
fn dir_and_file(path: &str) -> Option<(&str, &str)> {
    let start = if path.starts_with(STEP) { 0 } else { path.find(&format!("/{STEP}"))? + 1 };
    let end = start + path[start..].find('/')?;
    Some((&path[..end], &path[end + 1..]))
}

/// What has become of a file.
fn difference(name: &str, was: Option<&String>, now: Option<&String>) -> String {
    let start = |hash: &String| hash.chars().take(SHOWN).collect::<String>();
    match (was.map(start), now.map(start)) {
        (Some(was), Some(now)) => {
            format!("{name} is not what the run saved: its SHA-256 is {now}…, in the audit {was}…")
        }
        (Some(was), None) => format!("{name} is gone (SHA-256 in the audit {was}…)"),
        (None, now) => {
            format!("{name} (SHA-256 {}…) is not among the files that the run saved", now.unwrap_or_default())
        }
    }
}

/// What a process finds in `checkpoints/` when the audit does not know it yet.
pub(super) fn inventory(run: &RunDir) -> Result<Files, Error> {
    let root = run.root().join("checkpoints");
    if !root.is_dir() {
        return Ok(Files::new());
    }
    // What a killed process left is put in order first.
    let checkpoints: Result<_, CheckpointError> = Checkpoints::open(&root);
    checkpoints?;
    files_sha256(&root).map_err(unreadable(&root))
}
