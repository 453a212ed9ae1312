//! Directories that appear whole or not at all.
//!
//! A save fills a hidden directory beside its target (`.tmp-…`), forces every file and directory to
//! disk, and renames. Renaming within a directory is atomic, so `step-000040/` is either absent or
//! complete, whatever happens (full disk, kill −9, power loss). A removal renames first, for the same
//! reason. What a killed process left behind is cleaned when the directory is next opened.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use tetherline_core::{BoxError, Event, Observer};

/// Why a checkpoint could not be saved, found or removed. The previous checkpoint is intact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// `create`, `rename`, …
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The contents could not be written.
    #[error("cannot save {path} (what was there before is intact): {source}", path = path.display())]
    Fill {
        /// The directory that was to be saved.
        path: PathBuf,
        /// Why.
        source: BoxError,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { action, path, source }
}

const TEMP: &str = ".tmp-";
const OLD: &str = ".old-";

/// Fills a new directory through `fill` and puts it in the place of `target` in one step.
///
/// `fill` is given an empty directory beside `target`. When it fails, or anything after it does, that
/// directory is removed and whatever was at `target` stays.
///
/// # Errors
/// [`CheckpointError`], naming `target`.
pub fn save_dir(
    target: &Path,
    fill: impl FnOnce(&Path) -> Result<(), BoxError>,
) -> Result<(), CheckpointError> {
    let parent = target.parent().unwrap_or(Path::new("."));
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temp = parent.join(format!("{TEMP}{name}"));
    let old = parent.join(format!("{OLD}{name}"));
    fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    remove_if_there(&temp)?;
    fs::create_dir(&temp).map_err(io_error("create", &temp))?;

    let filled = fill(&temp)
        .and_then(|()| sync_tree(&temp).map_err(BoxError::from))
        .map_err(|source| CheckpointError::Fill { path: target.to_owned(), source });
    let placed = filled.and_then(|()| {
        if target.exists() {
            remove_if_there(&old)?;
            fs::rename(target, &old).map_err(io_error("replace", target))?;
        }
        fs::rename(&temp, target).map_err(|e| {
            // Put the old one back before reporting.
            let _ = fs::rename(&old, target);
            io_error("rename a finished save to", target)(e)
        })
    });
    if let Err(e) = placed {
        let _ = fs::remove_dir_all(&temp);
        return Err(e);
    }
    sync_dir(parent).map_err(io_error("flush", parent))?;
    remove_if_there(&old)
}

/// Writes a file in one step, through a temporary file beside it.
///
/// # Errors
/// [`CheckpointError::Io`], naming `target`.
pub fn save_file(target: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let parent = target.parent().unwrap_or(Path::new("."));
    let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temp = parent.join(format!("{TEMP}{name}"));
    let written = fs::write(&temp, bytes)
        .and_then(|()| File::options().write(true).open(&temp)?.sync_all())
        .and_then(|()| fs::rename(&temp, target));
    if let Err(source) = written {
        let _ = fs::remove_file(&temp);
        return Err(CheckpointError::Io { action: "write", path: target.to_owned(), source });
    }
    sync_dir(parent).map_err(io_error("flush", parent))
}

/// Removes what an interrupted [`save_dir`], [`save_file`] or [`Checkpoints::prune`] left in `parent`,
/// and puts back a directory that was moved aside but not yet replaced.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn clean(parent: &Path) -> Result<(), CheckpointError> {
    if !parent.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(parent).map_err(io_error("list", parent))? {
        let path = entry.map_err(io_error("list", parent))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if name.starts_with(TEMP) {
            remove_if_there(&path)?;
        } else if let Some(original) = name.strip_prefix(OLD) {
            let target = parent.join(original);
            if target.exists() {
                remove_if_there(&path)?;
            } else {
                fs::rename(&path, &target).map_err(io_error("restore", &target))?;
            }
        }
    }
    Ok(())
}

/// The checkpoints of a run: `step-000040/` and so on.
#[derive(Debug)]
pub struct Checkpoints {
    root: PathBuf,
}

/// One complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Steps done when it was taken.
    pub step: u64,
    /// Its directory.
    pub path: PathBuf,
}

/// What [`Checkpoints::restore`] found.
#[derive(Debug)]
pub struct Restored<T> {
    /// What was made of it.
    pub value: T,
    /// The checkpoint.
    pub path: PathBuf,
    /// What is wrong with each newer checkpoint.
    pub damaged: Vec<String>,
}

impl<T> Restored<T> {
    /// Says which checkpoints were passed over.
    pub(crate) fn report(&self, observer: &mut dyn Observer) {
        for problem in &self.damaged {
            let path = self.path.display();
            observer.on_event(&Event::Warning(&format!("{problem}; going on from {path}")));
        }
    }
}

impl Checkpoints {
    /// Opens the directory of checkpoints, creating it if need be and cleaning incomplete saves.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, CheckpointError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(io_error("create", &root))?;
        clean(&root)?;
        Ok(Self { root })
    }

    /// The checkpoints of a run that may be going: nothing is created or cleaned.
    pub(crate) fn reading(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the checkpoint of `step` is or would be.
    pub fn path(&self, step: u64) -> PathBuf {
        self.root.join(format!("step-{step:06}"))
    }

    /// Saves the checkpoint of `step`; `fill` writes its files into the directory it is given.
    ///
    /// # Errors
    /// [`CheckpointError`]; every older checkpoint is intact.
    pub fn save(
        &self,
        step: u64,
        fill: impl FnOnce(&Path) -> Result<(), BoxError>,
    ) -> Result<PathBuf, CheckpointError> {
        let path = self.path(step);
        save_dir(&path, fill)?;
        Ok(path)
    }

    /// All complete checkpoints, oldest first.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn all(&self) -> Result<Vec<Checkpoint>, CheckpointError> {
        if !self.root.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(io_error("list", &self.root))? {
            let path = entry.map_err(io_error("list", &self.root))?.path();
            let step = path
                .file_name()
                .and_then(|n| n.to_str()?.strip_prefix("step-")?.parse().ok())
                .filter(|_| path.is_dir());
            if let Some(step) = step {
                found.push(Checkpoint { step, path });
            }
        }
        found.sort_by_key(|c| c.step);
        Ok(found)
    }

    /// Restores the newest checkpoint that can be read: its path, what `restore` made of it, and what was
    /// wrong with each newer one. `None` where there is no checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError::Io`]; what is wrong with the newest one, where none can be read.
    pub fn restore<T, E: From<CheckpointError> + std::fmt::Display>(
        &self,
        mut restore: impl FnMut(&Path) -> Result<T, E>,
    ) -> Result<Option<Restored<T>>, E> {
        let mut first = None;
        let mut damaged = Vec::new();
        for c in self.all()?.into_iter().rev() {
            match restore(&c.path) {
                Ok(value) => return Ok(Some(Restored { value, path: c.path, damaged })),
                Err(e) => {
                    damaged.push(e.to_string());
                    first.get_or_insert(e);
                }
            }
        }
        first.map_or(Ok(None), Err)
    }

    /// Removes all but the newest `keep` checkpoints of at most `step`, the one just saved (at least it stays).
    /// Newer ones go too: the run went on from before them because they are damaged, and they must not count
    /// in the place of good ones. Those of the steps `also` stay whatever their age.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn prune(&self, step: u64, keep: usize, also: &[u64]) -> Result<(), CheckpointError> {
        let (good, damaged): (Vec<_>, Vec<_>) = self.all()?.into_iter().partition(|c| c.step <= step);
        let surplus = good.len().saturating_sub(keep.max(1));
        let old = good[..surplus].iter().filter(|c| !also.contains(&c.step));
        for old in old.chain(&damaged) {
            // Half a removed checkpoint must not look like a whole one.
            let doomed = self.root.join(format!("{TEMP}delete-{:06}", old.step));
            remove_if_there(&doomed)?;
            fs::rename(&old.path, &doomed).map_err(io_error("remove", &old.path))?;
            remove_if_there(&doomed)?;
        }
        Ok(())
    }
}

fn remove_if_there(path: &Path) -> Result<(), CheckpointError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Forces every file below `dir`, and the directories themselves, to disk.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::options().write(true).open(&path)?.sync_all()?;
        }
    }
    sync_dir(dir)
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Elsewhere a directory cannot be opened as a file; the rename itself is journalled.
#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &'static str) -> impl FnOnce(&Path) -> Result<(), BoxError> {
        move |dir| {
            fs::create_dir(dir.join("policy"))?;
            fs::write(dir.join("policy/weights"), text)?;
            Ok(())
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_checkpoint_is_saved_found_and_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let c = Checkpoints::open(dir.path().join("checkpoints")).unwrap();
        assert_eq!(c.all().unwrap().pop(), None);
        for step in [20, 40, 1_000_000] {
            c.save(step, fill("w")).unwrap();
        }
        let latest = c.all().unwrap().pop().unwrap();
        assert_eq!((latest.step, latest.path), (1_000_000, c.path(1_000_000)));
        c.prune(1_000_000, 2, &[]).unwrap();
        assert_eq!(names(&dir.path().join("checkpoints")), ["step-000040", "step-1000000"]);
        c.prune(1_000_000, 0, &[]).unwrap();
        assert_eq!(c.all().unwrap().len(), 1, "the newest checkpoint is never removed");
        // Went on from before a damaged one: the checkpoint just saved is the one that stays.
        c.save(50, fill("w")).unwrap();
        c.prune(50, 1, &[]).unwrap();
        assert_eq!(names(&dir.path().join("checkpoints")), ["step-000050"]);
        c.save(60, fill("w")).unwrap();
        c.save(70, fill("w")).unwrap();
        c.prune(70, 1, &[50]).unwrap();
        assert_eq!(names(&dir.path().join("checkpoints")), ["step-000050", "step-000070"]);
    }

    #[test]
    fn a_full_disk_leaves_the_old_checkpoint_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let c = Checkpoints::open(dir.path()).unwrap();
        c.save(40, fill("old")).unwrap();
        for step in [40, 60] {
            let e = c
                .save(step, |d| {
                    fs::write(d.join("weights"), "half")?;
                    Err(io::Error::from(io::ErrorKind::StorageFull).into())
                })
                .unwrap_err()
                .to_string();
            assert!(e.contains(&format!("step-0000{step}")) && e.contains("intact"), "{e}");
        }
        assert_eq!(names(dir.path()), ["step-000040"]);
        assert_eq!(fs::read_to_string(c.path(40).join("policy/weights")).unwrap(), "old");
    }

    #[test]
    fn a_damaged_checkpoint_falls_back_to_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let c = Checkpoints::open(dir.path()).unwrap();
        let read = |path: &Path| -> Result<String, CheckpointError> {
            fs::read_to_string(path.join("policy/weights")).map_err(io_error("read", path))
        };
        assert!(c.restore(read).unwrap().is_none());
        for (step, text) in [(20, "twenty"), (40, "forty")] {
            c.save(step, fill(text)).unwrap();
        }
        assert_eq!(c.restore(read).unwrap().unwrap().value, "forty");
        fs::remove_file(c.path(40).join("policy/weights")).unwrap();
        let found = c.restore(read).unwrap().unwrap();
        assert_eq!((found.value.as_str(), found.damaged.len()), ("twenty", 1));
        assert!(found.damaged[0].contains("step-000040"));
        fs::remove_file(c.path(20).join("policy/weights")).unwrap();
        assert!(c.restore(read).unwrap_err().to_string().contains("step-000040"));
    }

    #[test]
    fn saving_again_replaces_the_whole_directory() {
        let dir = tempfile::tempdir().unwrap();
        let c = Checkpoints::open(dir.path()).unwrap();
        c.save(40, |d| Ok(fs::write(d.join("stale"), "x")?)).unwrap();
        c.save(40, fill("new")).unwrap();
        assert_eq!(names(dir.path()), ["step-000040"]);
        assert_eq!(names(&c.path(40)), ["policy"]);
    }

    #[test]
    fn what_a_killed_process_left_is_cleaned() {
        let dir = tempfile::tempdir().unwrap();
        // Killed while filling step 60, and between the two renames of a second save of step 40.
        fs::create_dir_all(dir.path().join(".tmp-step-000060")).unwrap();
        fs::create_dir_all(dir.path().join(".old-step-000040")).unwrap();
        fs::write(dir.path().join(".old-step-000040/w"), "whole").unwrap();
        let c = Checkpoints::open(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["step-000040"]);
        assert_eq!(fs::read_to_string(c.path(40).join("w")).unwrap(), "whole");
    }
}
