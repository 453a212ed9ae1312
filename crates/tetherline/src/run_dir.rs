//! The directory of a run: what lies where, and whose it is.
//!
//! ```text
//! config.toml               the resolved recipe
//! inputs.txt                a hash of every data file and model it started from
//! sft.jsonl  reward.jsonl   one object per step of these stages
//! reward_held_out.json      the reward model on pairs it has not seen
//! metrics.jsonl             one object per step of PPO
//! control.jsonl             every KL observation and every decision
//! samples.jsonl             prompts and responses, a few of each step
//! events.jsonl              every verdict with what it was made on, and what followed
//! audit.jsonl               what was decided, on what and from what, hash-chained; never cut
//! checkpoints/step-000040/  the whole state of PPO
//! checkpoints/sft/  …       of a stage that is under way
//! sft/  reward/  policy/    Hugging Face directories; policy/README.md is a model card
//! evaluation.json           baseline policy against aligned policy
//! report.html
//! ```
//!
//! A directory belongs to one recipe and, while a run is going, to one process (`.lock`).

use crate::checkpoint::{self, CheckpointError, Checkpoints};
use crate::jsonl::{JsonlError, JsonlWriter};
use crate::recipe::{Difference, Recipe, RecipeError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tetherline_audit::{AuditError, AuditLog};
use tetherline_core::Stage;

/// Why a run directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// `create`, `list`, …
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A new run was asked for where something is already.
    #[error(
        "{path} is not empty: continue the run in it with --resume, or choose another directory with --out",
        path = path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A run was to be continued where there is none.
    #[error("{path} is not a run directory (it has no config.toml)", path = path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another recipe.
    #[error(
        "{path} belongs to another recipe; nothing was changed. It differs in:\n{list}\n(here = the recipe \
         now, there = the run directory)",
        path = path.display(),
        list = list(differences)
    )]
    OtherRecipe {
        /// The directory.
        path: PathBuf,
        /// Where the two recipes differ.
        differences: Vec<Difference>,
    },
    /// A file that the run was started on is another one now.
    #[error(
        "{path} was started on other contents of {list}; nothing was changed. Put the old files back, or start \
         a new run with another --out",
        path = path.display(),
        list = keys.join(", ")
    )]
    OtherInputs {
        /// The directory.
        path: PathBuf,
        /// Keys of the recipe that name them.
        keys: Vec<String>,
    },
    /// A run was to be continued where there is no directory.
    #[error(
        "there is no run to resume: {path} does not exist; check --out, or leave --resume out to start one",
        path = path.display()
    )]
    NothingToResume {
        /// The directory.
        path: PathBuf,
    },
    /// Another process is running in the directory.
    #[error("another process is using {path}", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The recipe in the directory cannot be read.
    #[error("the run directory's own recipe is damaged: {0}")]
    Recipe(#[from] RecipeError),
    /// A file or checkpoint in it could not be handled.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A log in it could not be handled.
    #[error(transparent)]
    Jsonl(#[from] JsonlError),
    /// The audit in it is broken or cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

fn list(differences: &[Difference]) -> String {
    differences.iter().map(|d| format!("  {d}")).collect::<Vec<_>>().join("\n")
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
    let path = path.to_owned();
    move |source| RunDirError::Io { action, path, source }
}

const CONFIG: &str = "config.toml";
const INPUTS: &str = "inputs.txt";
const LOCK: &str = ".lock";

/// Key → hash in the file `recorded`; none if there is no such file.
fn recorded_inputs(recorded: &Path) -> Result<BTreeMap<String, String>, RunDirError> {
    let text = match fs::read_to_string(recorded) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.map_err(io_error("read", recorded))?,
    };
    Ok(text.lines().filter_map(|l| l.split_once(' ')).map(|(k, h)| (k.to_owned(), h.to_owned())).collect())
}

/// Keys whose hash in the file `recorded` is another one than in `now`.
fn other_inputs(recorded: &Path, now: &BTreeMap<String, String>) -> Result<Vec<String>, RunDirError> {
    let then = recorded_inputs(recorded)?;
    Ok(then.into_iter().filter(|(k, h)| now.get(k).is_some_and(|n| n != h)).map(|(k, _)| k).collect())
}

/// The directory of a run.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    /// Held while a run is going; the system lets go of it when the process ends, however it ends.
    _lock: Option<File>,
}

impl RunDir {
    /// Opens `root` for running `recipe`: a new run where there is nothing yet, the same run continued
    /// with `resume`. With `resume` and an empty directory a new run starts, so a run that was killed
    /// before its first checkpoint needs no other command than one killed after it. A single stage goes
    /// on in the directory that an earlier stage of the recipe left, so it too passes `resume`. `inputs` are
    /// the hashes of what the run reads.
    ///
    /// # Errors
    /// [`RunDirError::NotEmpty`] without `resume`; with it [`RunDirError::NothingToResume`], and
    /// [`RunDirError::OtherRecipe`] or [`RunDirError::OtherInputs`] when recipe or inputs differ;
    /// [`RunDirError::InUse`]; [`RunDirError::Io`].
    pub fn open(
        root: impl Into<PathBuf>,
        recipe: &Recipe,
        inputs: &BTreeMap<String, String>,
        resume: bool,
    ) -> Result<Self, RunDirError> {
        let root = root.into();
        if resume && !root.exists() {
            return Err(RunDirError::NothingToResume { path: root });
        }
        let is_new = is_empty(&root)?;
        let config = root.join(CONFIG);
        if !is_new {
            if !resume {
                return Err(RunDirError::NotEmpty { path: root });
            }
            if !config.is_file() {
                return Err(RunDirError::NotARun { path: root });
            }
            let theirs = Recipe::read_resolved(&config)?;
            let differences = recipe.differences(&theirs);
            if !differences.is_empty() {
                return Err(RunDirError::OtherRecipe { path: root, differences });
            }
            let keys = other_inputs(&root.join(INPUTS), inputs)?;
            if !keys.is_empty() {
                return Err(RunDirError::OtherInputs { path: root, keys });
            }
        }
        fs::create_dir_all(&root).map_err(io_error("create", &root))?;
        let lock = lock(&root)?;
        checkpoint::clean(&root)?;
        if is_new {
            let text: String = inputs.iter().map(|(k, h)| format!("{k} {h}\n")).collect();
            checkpoint::save_file(&root.join(INPUTS), text.as_bytes())?;
            checkpoint::save_file(&config, recipe.to_toml().as_bytes())?;
        }
        Ok(Self { root, _lock: Some(lock) })
    }

    /// Opens a run only to read it, for the report.
    ///
    /// # Errors
    /// [`RunDirError::NotARun`].
    pub fn read(root: impl Into<PathBuf>) -> Result<Self, RunDirError> {
        let root = root.into();
        if root.join(CONFIG).is_file() {
            Ok(Self { root, _lock: None })
        } else {
            Err(RunDirError::NotARun { path: root })
        }
    }

    /// The recipe the directory belongs to.
    ///
    /// # Errors
    /// [`RunDirError::Recipe`].
    pub fn recipe(&self) -> Result<Recipe, RunDirError> {
        Ok(Recipe::read_resolved(&self.config())?)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.root.join(CONFIG)
    }

    /// Key of the recipe → hash of what it named when the run started (`inputs.txt`).
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn inputs(&self) -> Result<BTreeMap<String, String>, RunDirError> {
        recorded_inputs(&self.root.join(INPUTS))
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// `control.jsonl`.
    pub fn control(&self) -> PathBuf {
        self.root.join("control.jsonl")
    }

    /// `samples.jsonl`.
    pub fn samples(&self) -> PathBuf {
        self.root.join("samples.jsonl")
    }

    /// `events.jsonl`.
    pub fn events(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    /// `audit.jsonl`.
    pub fn audit(&self) -> PathBuf {
        self.root.join("audit.jsonl")
    }

    /// `policy/`, the final policy.
    pub fn policy(&self) -> PathBuf {
        self.root.join("policy")
    }

    /// `reward/`, the trained reward model.
    pub fn reward(&self) -> PathBuf {
        self.root.join("reward")
    }

    /// The directory of member `i` (from 0) of an ensemble of trained reward models: `reward/`, `reward-2/`, `reward-3/`, …
    pub fn reward_member(&self, i: usize) -> PathBuf {
        self.root.join(member_name("reward", i))
    }

    /// `report.html`.
    pub fn report(&self) -> PathBuf {
        self.root.join("report.html")
    }

    /// The checkpoints.
    ///
    /// # Errors
    /// [`RunDirError::Checkpoint`].
    pub fn checkpoints(&self) -> Result<Checkpoints, RunDirError> {
        Ok(Checkpoints::open(self.root.join("checkpoints"))?)
    }

    /// The checkpoints of a stage before PPO, while it is under way.
    ///
    /// # Errors
    /// [`RunDirError::Checkpoint`].
    pub fn stage_checkpoints(&self, stage: Stage, member: usize) -> Result<Checkpoints, RunDirError> {
        Ok(Checkpoints::open(self.stage_checkpoint_dir(stage, member))?)
    }

    /// Removes the checkpoints of a stage whose result is saved.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn clear_stage_checkpoints(&self, stage: Stage, member: usize) -> Result<(), RunDirError> {
        let dir = self.stage_checkpoint_dir(stage, member);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &dir)(e)),
            _ => Ok(()),
        }
    }

    fn stage_checkpoint_dir(&self, stage: Stage, member: usize) -> PathBuf {
        self.root.join("checkpoints").join(member_name(stage.name(), member))
    }

    /// The four logs, cut back to what a checkpoint recorded (`None`: emptied, for a run that starts), and the audit, which
    /// is never cut.
    ///
    /// # Errors
    /// [`RunDirError::Jsonl`], [`RunDirError::Audit`].
    pub fn logs(&self, at: Option<LogOffsets>) -> Result<RunLogs, RunDirError> {
        let at = at.unwrap_or_default();
        Ok(RunLogs {
            metrics: JsonlWriter::open(self.metrics(), at.metrics)?,
            control: JsonlWriter::open(self.control(), at.control)?,
            samples: JsonlWriter::open(self.samples(), at.samples)?,
            events: JsonlWriter::open(self.events(), at.events)?,
            audit: AuditLog::open(self.audit())?,
        })
    }
}

/// Lengths of the four logs in bytes, as a checkpoint records them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogOffsets {
    /// Of `metrics.jsonl`.
    pub metrics: u64,
    /// Of `control.jsonl`.
    pub control: u64,
    /// Of `samples.jsonl`.
    pub samples: u64,
    /// Of `events.jsonl`.
    pub events: u64,
}

/// The logs of a run, open for appending.
#[derive(Debug)]
pub struct RunLogs {
    /// `metrics.jsonl`.
    pub metrics: JsonlWriter,
    /// `control.jsonl`.
    pub control: JsonlWriter,
    /// `samples.jsonl`.
    pub samples: JsonlWriter,
    /// `events.jsonl`.
    pub events: JsonlWriter,
    /// `audit.jsonl`.
    pub audit: AuditLog,
}

impl RunLogs {
    /// Waits until everything is on disk and says how long each log but the audit is: to be stored in a checkpoint.
    ///
    /// # Errors
    /// [`RunDirError::Jsonl`], [`RunDirError::Audit`].
    pub fn sync(&mut self) -> Result<LogOffsets, RunDirError> {
        self.audit.sync()?;
        for log in [&mut self.metrics, &mut self.control, &mut self.samples, &mut self.events] {
            log.sync()?;
        }
        Ok(LogOffsets {
            metrics: self.metrics.offset(),
            control: self.control.offset(),
            samples: self.samples.offset(),
            events: self.events.offset(),
        })
    }
}

/// Whether there is nothing at `root` but perhaps the lock and unfinished saves.
fn is_empty(root: &Path) -> Result<bool, RunDirError> {
    let entries = match fs::read_dir(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries.map_err(io_error("list", root))?,
    };
    for entry in entries {
        let name = entry.map_err(io_error("list", root))?.file_name();
        let name = name.to_string_lossy();
        if name != LOCK && !name.starts_with(".tmp-") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A process that was killed holds its lock until the system has taken its memory back.
const FOR_ONE_THAT_ENDS: Duration = Duration::from_secs(2);

fn lock(root: &Path) -> Result<File, RunDirError> {
    let path = root.join(LOCK);
    let file = File::create(&path).map_err(io_error("create", &path))?;
    let until = Instant::now() + FOR_ONE_THAT_ENDS;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => return Err(RunDirError::InUse { path: root.to_owned() }),
            // Some file systems have no locks; a run is possible there all the same.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
}

/// `name` of the first member (or of what has no members), `name-2` of the next.
pub(crate) fn member_name(name: &str, member: usize) -> String {
    if member == 0 { name.to_owned() } else { format!("{name}-{}", member + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(seed: u64) -> Recipe {
        Recipe { seed, ..Recipe::default() }
    }

    #[test]
    fn other_inputs_and_a_missing_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = |hash: &str| BTreeMap::from([("data.prompts".to_owned(), hash.to_owned())]);
        let root = dir.path().join("run");
        let open = |hash: &str, resume| RunDir::open(&root, &recipe(1), &inputs(hash), resume);
        assert!(matches!(open("1", true), Err(RunDirError::NothingToResume { .. })));
        drop(open("1", false).unwrap());
        drop(open("1", true).unwrap());
        let error = open("2", true).unwrap_err().to_string();
        assert!(error.contains("other contents of data.prompts"), "{error}");
    }

    #[test]
    fn a_new_run_writes_its_recipe_and_refuses_a_second_start() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let run = RunDir::open(&root, &recipe(1), &BTreeMap::new(), false).unwrap();
        assert_eq!(run.recipe().unwrap(), recipe(1));
        drop(run);
        let e = RunDir::open(&root, &recipe(1), &BTreeMap::new(), false).unwrap_err();
        assert!(matches!(&e, RunDirError::NotEmpty { .. }) && e.to_string().contains("--resume"), "{e}");
        RunDir::open(&root, &recipe(1), &BTreeMap::new(), true).unwrap();
    }

    #[test]
    fn another_recipe_is_refused_with_the_keys_that_differ() {
        let dir = tempfile::tempdir().unwrap();
        drop(RunDir::open(dir.path(), &recipe(1), &BTreeMap::new(), false).unwrap());
        let before = fs::read(dir.path().join(CONFIG)).unwrap();
        let e = RunDir::open(dir.path(), &recipe(2), &BTreeMap::new(), true).unwrap_err().to_string();
        assert!(e.contains("\n  seed: 2 here, 1 there\n"), "{e}");
        assert_eq!(fs::read(dir.path().join(CONFIG)).unwrap(), before);
        // A new name is not another recipe.
        let renamed = Recipe { name: "x".into(), threads: 3, ..recipe(1) };
        RunDir::open(dir.path(), &renamed, &BTreeMap::new(), true).unwrap();
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        for resume in [false, true] {
            RunDir::open(dir.path(), &recipe(1), &BTreeMap::new(), resume).unwrap_err();
        }
        assert!(RunDir::read(dir.path()).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_processes_cannot_share_a_run() {
        let dir = tempfile::tempdir().unwrap();
        let _running = RunDir::open(dir.path(), &recipe(1), &BTreeMap::new(), false).unwrap();
        let e = RunDir::open(dir.path(), &recipe(1), &BTreeMap::new(), true).unwrap_err();
        assert!(matches!(e, RunDirError::InUse { .. }), "{e}");
    }

    #[test]
    fn resuming_cuts_every_log() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path(), &recipe(1), &BTreeMap::new(), false).unwrap();
        let mut logs = run.logs(None).unwrap();
        logs.metrics.write(&1).unwrap();
        let at = logs.sync().unwrap();
        assert_eq!(at, LogOffsets { metrics: 2, control: 0, samples: 0, events: 0 });
        logs.metrics.write(&2).unwrap();
        logs.events.write(&"lost").unwrap();
        drop(logs);
        run.logs(Some(at)).unwrap();
        assert_eq!(fs::read_to_string(run.metrics()).unwrap(), "1\n");
        assert_eq!(fs::read_to_string(run.events()).unwrap(), "");
    }
}
