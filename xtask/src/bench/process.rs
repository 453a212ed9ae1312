//! One measurement: a fresh process that prints one line of JSON.

use super::options::Options;
use super::works::Work;
use crate::process::{root, run};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Our binary, and where benchmarks keep their files: `target/bench`.
pub(super) struct Bench {
    pub(super) ours: PathBuf,
    pub(super) dir: PathBuf,
}

/// One side of a comparison.
pub(super) struct Side {
    /// As in the results: `ours`, `bf16`, `peer` or `base`.
    pub(super) name: &'static str,
    pub(super) program: Program,
}

/// What a side runs.
pub(super) enum Program {
    /// A build of `ours`.
    Ours(PathBuf),
    /// The same, told to compute in bf16.
    Bf16(PathBuf),
    /// Scripts of `benches/peers`.
    Python(super::peers::Environment),
}

/// A process to start.
pub(super) enum Run<'a> {
    Ours { program: &'a Path, work: &'static str, bf16: bool },
    Peer { python: &'a super::peers::Environment, script: &'static str },
}

impl Side {
    /// What this side starts for a work.
    pub(super) fn runs<'a>(&'a self, work: &'static Work) -> Vec<Run<'a>> {
        match &self.program {
            Program::Ours(program) => ours(program, work.ours, false),
            Program::Bf16(program) if work.has_bf16() => ours(program, work.ours, true),
            Program::Bf16(_) => Vec::new(),
            Program::Python(python) => work
                .peer
                .iter()
                .filter(|script| python.has(script))
                .map(|script| Run::Peer { python, script })
                .collect(),
        }
    }
}

fn ours<'a>(program: &'a Path, works: &'static [&'static str], bf16: bool) -> Vec<Run<'a>> {
    works.iter().map(|work| Run::Ours { program, work, bf16 }).collect()
}

impl Run<'_> {
    /// The work, as the results name it: a subcommand of `ours` or a script.
    pub(super) fn work(&self) -> &'static str {
        match self {
            Run::Ours { work, .. } => work,
            Run::Peer { script, .. } => script,
        }
    }
}

impl fmt::Display for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Run::Ours { work, .. } => f.write_str(work),
            Run::Peer { script, .. } => f.write_str(script),
        }
    }
}

impl Bench {
    /// The directory of a model, as `ours prepare` writes it.
    pub(super) fn model(&self, name: &str) -> PathBuf {
        self.dir.join("models").join(name)
    }

    /// Our side, in f32 and where it is asked for in bf16.
    pub(super) fn our_sides(&self, options: &Options) -> Vec<Side> {
        let mut sides = vec![Side { name: "ours", program: Program::Ours(self.ours.clone()) }];
        if options.bf16 {
            sides.push(Side { name: "bf16", program: Program::Bf16(self.ours.clone()) });
        }
        sides
    }

    /// Writes the models that the options ask for.
    pub(super) fn prepare(&self, options: &Options) -> Result<()> {
        for name in &options.models {
            let mut command = Command::new(&self.ours);
            command.args(["prepare", "--size", name, "--model"]).arg(self.model(name));
            run(&mut command)?;
        }
        Ok(())
    }

    /// `model.json` of a model.
    pub(super) fn about(&self, model: &str) -> Result<Value> {
        let path = self.model(model).join("model.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Starts a process and returns what it measured. Works that draw by chance take `seed`.
    pub(super) fn measure(&self, what: &Run<'_>, model: &str, threads: usize, seed: usize) -> Result<Value> {
        let mut command = match what {
            Run::Ours { program, work, bf16 } => {
                let mut command = Command::new(program);
                command.arg(work);
                if *bf16 {
                    command.args(["--dtype", "bf16"]);
                }
                command
            }
            Run::Peer { python, script } => {
                let mut command = python.command(script);
                command.arg(root().join("benches/peers").join(script));
                command
            }
        };
        command.arg("--model").arg(self.model(model)).args(["--threads", &threads.to_string()]);
        command.env("TETHER_BENCH_SEED", seed.to_string());
        self.line(command, &format!("{}-{model}", what.work()))
    }

    /// The line of JSON that a process prints. What it prints on standard error goes to `logs/NAME.log`.
    pub(super) fn line(&self, mut command: Command, name: &str) -> Result<Value> {
        let logs = self.dir.join("logs");
        fs::create_dir_all(&logs)?;
        let log = logs.join(format!("{name}.log"));
        let log_file = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file).current_dir(&self.dir);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let out = command
            .env("TETHER_BENCH_STARTED_NS", now.to_string())
            .output()
            .with_context(|| format!("cannot start {command:?}"))?;
        let text = String::from_utf8_lossy(&out.stdout);
        let line = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default();
        match serde_json::from_str(line) {
            Ok(value) if out.status.success() => Ok(value),
            _ => {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("no message");
                bail!("{} ({last}; all of it in {})", out.status, log.display())
            }
        }
    }
}
