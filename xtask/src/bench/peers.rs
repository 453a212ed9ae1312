//! `cargo xtask bench --peers`: a Python environment, and both sides in turn.

use super::options::Options;
use super::process::{Bench, Program, Side};
use super::works::WORKS;
use super::{llama, measure, summary, table};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The peers. All but one TRL live in one environment.
const PACKAGES: &[&str] = &["torch==2.15.*", "transformers==5.23.*", "trl==1.16.*", "datasets", "accelerate"];
/// The last TRL with a PPO trainer, in a directory of its own: it runs on the same packages.
const PPO_PACKAGE: &str = "trl==1.12.0";
/// The scripts that want it.
const PPO_SCRIPTS: &[&str] = &["ppo.py", "time_to_reward.py"];
/// The script that times llama.cpp.
const LLAMA_SCRIPT: &str = "llama.py";

/// A Python with the peers.
pub(super) struct Environment {
    python: PathBuf,
    ppo_trl: PathBuf,
    /// The program that [`LLAMA_SCRIPT`] starts, if it could be built.
    llama: Option<PathBuf>,
}

impl Environment {
    /// The interpreter, ready to be given `script`.
    pub(super) fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.python);
        if PPO_SCRIPTS.contains(&script) {
            command.env("PYTHONPATH", &self.ppo_trl);
        } else {
            command.env_remove("PYTHONPATH");
        }
        if let Some(llama) = &self.llama {
            command.env("TETHER_BENCH_LLAMA", llama);
        }
        command
    }

    /// Whether `script` can run.
    pub(super) fn has(&self, script: &str) -> bool {
        script != LLAMA_SCRIPT || self.llama.is_some()
    }

    /// Makes the environment, or takes the one that is there.
    fn open(dir: &Path) -> Result<Self> {
        let venv = dir.join("venv");
        let bin = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
        let environment = Self { python: venv.join(bin), ppo_trl: dir.join("trl-ppo"), llama: None };
        let wanted = format!("{} {PPO_PACKAGE}\n", PACKAGES.join(" "));
        let stamp = venv.join("tetherline-bench.txt");
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(environment);
        }
        let python = ["python3", "python"].into_iter().find(|p| answers(p)).context("there is no Python")?;
        println!("making a Python environment in {} (some gigabytes, once)", venv.display());
        crate::process::run(Command::new(python).args(["-m", "venv"]).arg(&venv))?;
        let log = dir.join("pip.log");
        let file = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let pip = |args: &[&str], target: Option<&Path>| -> Result<()> {
            let mut command = Command::new(&environment.python);
            command.args(["-m", "pip", "install"]).args(args);
            if let Some(target) = target {
                command.arg("--target").arg(target);
            }
            let status = command.stdout(file.try_clone()?).stderr(file.try_clone()?).status()?;
            if !status.success() {
                bail!("pip ended with {status} (no network? its output is in {})", log.display());
            }
            Ok(())
        };
        pip(PACKAGES, None)?;
        if environment.ppo_trl.is_dir() {
            fs::remove_dir_all(&environment.ppo_trl)?;
        }
        pip(&["--no-deps", PPO_PACKAGE], Some(&environment.ppo_trl))?;
        fs::write(&stamp, wanted)?;
        Ok(environment)
    }
}

/// Whether a program is there and is a Python 3 with venv.
fn answers(python: &str) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

pub(super) fn run(bench: &Bench, options: &Options) -> Result<()> {
    let mut sides = Vec::new();
    match Environment::open(&bench.dir) {
        Ok(mut environment) => {
            if WORKS.iter().any(|w| w.peer == Some(LLAMA_SCRIPT) && options.wants(w, &options.models[0])) {
                match llama::open(&bench.dir, &environment.python) {
                    Ok(program) => environment.llama = Some(program),
                    Err(error) => println!("llama.cpp cannot be run: {error:#}"),
                }
            }
            sides.push(Side { name: "peer", program: Program::Python(environment) });
        }
        Err(error) => println!("the peers cannot be run: {error:#}\nmeasuring our side alone"),
    }
    sides.extend(bench.our_sides(options));
    let path = bench.dir.join("peers.json");
    // Written after every process, so that an interrupted run leaves what it has.
    let results = measure(bench, options, &sides, |results| results.write(&path))?;
    println!("\n{}", results.machine);
    if let Some(versions) = results.versions() {
        println!("{versions}");
    }
    for model in &options.models {
        let about = bench.about(model)?;
        println!("\n{model}: {}, {} parameters", about["name"].as_str().unwrap_or("?"), about["params"]);
        table::print(&results, model, &options.threads, table::PEER);
        summary::print(&results, model, &about, &options.threads, table::PEER);
    }
    println!("\nall numbers: {}", path.display());
    Ok(())
}
