//! Starting the `tether` binary and reading what it said.

use anyhow::{Context, Result, bail};
use std::cell::Cell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longer than any command on a tiny model may take, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// A list of arguments from anything that is like a string or a path.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { Vec::from([$(std::ffi::OsString::from(&$arg)),*]) };
}
pub(super) use args;

/// The binary under test, with a directory of its own to work in.
pub(super) struct Tether {
    exe: PathBuf,
    dir: PathBuf,
    env: Vec<(&'static str, OsString)>,
    count: Cell<usize>,
}

/// What a command did.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: ExitStatus,
    /// Standard output and standard error, as they came.
    pub(super) text: String,
    line: String,
}

/// A command that is still running.
pub(super) struct Running {
    pub(super) child: Child,
    log: PathBuf,
    line: String,
}

impl Tether {
    pub(super) fn new(exe: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { exe: exe.to_owned(), dir: dir.to_owned(), env: Vec::new(), count: Cell::new(0) })
    }

    /// The same, with more environment variables.
    pub(super) fn with_env(&self, env: &[(&'static str, OsString)]) -> Self {
        let env = self.env.iter().chain(env).cloned().collect();
        Self { exe: self.exe.clone(), dir: self.dir.clone(), env, count: Cell::new(self.count.get() + 1000) }
    }

    /// A path in the directory where its commands run.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts a command.
    pub(super) fn spawn(&self, args: &[OsString]) -> Result<Running> {
        self.spawn_as(Command::new(&self.exe).args(args), args)
    }

    /// Starts a command under a limit on the size of any file it writes, in kilobytes; a write beyond it
    /// fails, as on a full disk. `None` where the system has no such limit.
    pub(super) fn run_with_file_limit(&self, args: &[OsString], kilobytes: u32) -> Option<Result<Outcome>> {
        if !cfg!(unix) {
            return None;
        }
        // dash counts 512 bytes where bash counts 1024: the limit is at most `kilobytes`. With the signal
        // ignored, the write itself reports the error.
        let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(&self.exe).args(args);
        Some(self.spawn_as(&mut command, args).and_then(Running::wait))
    }

    fn spawn_as(&self, command: &mut Command, args: &[OsString]) -> Result<Running> {
        let n = self.count.get() + 1;
        self.count.set(n);
        let words: Vec<_> = args.iter().map(|a| a.to_string_lossy()).collect();
        let line = format!("tether {}", words.join(" "));
        let log = self.dir.join(format!("log-{n:03}-{}.txt", words.first().map_or("", |w| w)));
        let out = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = command
            .current_dir(&self.dir)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", self.exe.display()))?;
        Ok(Running { child, log, line })
    }

    /// Runs a command to its end, however it ends.
    pub(super) fn run(&self, args: &[OsString]) -> Result<Outcome> {
        self.spawn(args)?.wait()
    }

    /// Runs a command that must succeed; its output.
    pub(super) fn ok(&self, args: &[OsString]) -> Result<String> {
        self.run(args)?.expect_success()
    }
}

impl Running {
    /// Waits for the end; stops the command when it takes too long.
    pub(super) fn wait(mut self) -> Result<Outcome> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if start.elapsed() > PATIENCE {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} took longer than {} s\n{}", self.line, PATIENCE.as_secs(), self.text());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = self.text();
        Ok(Outcome { status, text, line: self.line })
    }

    /// Waits until `is_there`, looking often.
    ///
    /// # Errors
    /// When the command ends before that, or it takes too long.
    pub(super) fn wait_until(&mut self, what: &str, is_there: impl Fn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !is_there() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before there were {what}\n{}", self.line, self.text());
            }
            if start.elapsed() > PATIENCE {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{}: no {what} after {} s", self.line, PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Outcome {
    /// Its output, where it succeeded.
    pub(super) fn expect_success(self) -> Result<String> {
        if !self.status.success() || self.panicked() {
            bail!("{}\nended with {}\n{}", self.line, self.status, self.text);
        }
        Ok(self.text)
    }

    /// Checks that it failed as a program should: a code that is not 0, a message that holds every one of
    /// `words` (whatever their case), no panic.
    pub(super) fn expect_error(&self, words: &[&str]) -> Result<()> {
        let told =
            |problem: &str| format!("{}\n{problem}; it ended with {}\n{}", self.line, self.status, self.text);
        if self.panicked() {
            bail!(told("panicked"));
        }
        match self.status.code() {
            None => bail!(told("was ended by a signal")),
            Some(0) => bail!(told("succeeded where it should have failed")),
            Some(_) => {}
        }
        let text = self.text.to_lowercase();
        if let Some(missing) = words.iter().find(|word| !text.contains(&word.to_lowercase())) {
            bail!(told(&format!("does not say {missing:?}")));
        }
        Ok(())
    }

    pub(super) fn panicked(&self) -> bool {
        self.text.contains("panicked at")
    }
}
