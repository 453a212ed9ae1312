//! `cargo xtask e2e`: every stage through the real `tether` binary, as a user would run it.
//!
//! For each language model in `fixtures/models` (a Llama and a GPT-2): log-probs and greedy text against
//! the goldens of Python transformers, every stage, a whole run, a run killed in the middle of PPO and
//! continued bit for bit, a disk that fills up; the same with LoRA, whose base must not change; on one of them
//! the other algorithms (`--only algorithms`). Then what a
//! user can get wrong, each of which must end in a clear error, and the loading path from a hub, served on the
//! loopback interface; every command of `docs/tour.md` (`--only tour`); what `tether plan` predicts beside what runs take
//! (`--only plan`). And a short run of one model per
//! architecture (`--only architectures`).
//!
//! Nothing here links the crates under test: what is checked is the command line's contract.

mod algorithms;
mod architectures;
mod bad_input;
mod bad_models;
mod bad_recipes;
mod checks;
mod compare;
mod goldens;
mod govern;
mod guard;
mod http;
mod hub;
mod interrupt;
mod lora;
mod plan;
mod safetensors;
mod stages;
mod tether;
mod tour;
mod world;

use crate::process;
use anyhow::{Context, Result, bail};
use checks::Checks;
use std::fs;
use std::path::{Path, PathBuf};
use tether::Tether;

/// What `cargo xtask e2e` was asked to do.
#[derive(Debug, Default)]
struct Options {
    hub: bool,
    tether: Option<PathBuf>,
    only: String,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--hub" => options.hub = true,
                "--tether" => {
                    let path = args.next().context("--tether needs a path")?;
                    options.tether = Some(std::path::absolute(path)?);
                }
                "--only" => options.only = args.next().context("--only needs a word")?.clone(),
                other => bail!("e2e has no option {other:?}; it has --hub, --tether PATH, --only WORD"),
            }
        }
        Ok(options)
    }
}

/// A model directory in `fixtures/models`.
struct Model {
    name: String,
    dir: PathBuf,
    is_reward: bool,
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let target = process::target_dir()?;
    let exe = match &options.tether {
        Some(path) => path.clone(),
        None => build(&target)?,
    };
    let work = target.join("e2e");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot empty {}", work.display()))?;
    }
    fs::create_dir_all(&work)?;

    let mut checks = Checks::new(&options.only);
    let models = models()?;
    for model in &models {
        let dir = work.join(&model.name);
        let tether = Tether::new(&exe, &dir)?;
        if model.is_reward {
            goldens::check_reward(&mut checks, &tether, model);
        } else {
            goldens::check(&mut checks, &tether, model);
            stages::check(&mut checks, &tether, model);
            interrupt::check(&mut checks, &tether, model);
            guard::check(&mut checks, &tether, model);
            govern::check(&mut checks, &tether, model);
            lora::check(&mut checks, &tether, model);
        }
    }
    let first = models.iter().find(|m| !m.is_reward).context("fixtures/models has no language model")?;
    algorithms::check(&mut checks, &Tether::new(&exe, &work.join("algorithms"))?, first);
    bad_input::check(&mut checks, &Tether::new(&exe, &work.join("bad-input"))?, first)?;
    hub::check(&mut checks, &Tether::new(&exe, &work.join("hub"))?, first)?;
    tour::check(&mut checks, &Tether::new(&exe, &work.join("tour"))?);
    plan::check(&mut checks, &Tether::new(&exe, &work.join("plan"))?);
    architectures::check(&mut checks, &Tether::new(&exe, &work.join("architectures"))?);
    if options.hub {
        hub::check_real(&mut checks, &Tether::new(&exe, &work.join("real-hub"))?);
    } else {
        println!("(the real hub is not asked without --hub)");
    }
    checks.finish()
}

/// Builds the release binary.
fn build(target: &Path) -> Result<PathBuf> {
    process::run(&mut process::cargo(&["build", "--release", "--package", "tetherline-cli"]))?;
    let exe = target.join("release").join(format!("tether{}", std::env::consts::EXE_SUFFIX));
    if !exe.is_file() {
        bail!("cargo build left no {}", exe.display());
    }
    Ok(exe)
}

/// The model directories, in order of their names.
fn models() -> Result<Vec<Model>> {
    let root = process::root().join("fixtures").join("models");
    let entries = fs::read_dir(&root).with_context(|| format!("cannot list {}", root.display()))?;
    let mut models = Vec::new();
    for entry in entries {
        let dir = entry?.path();
        if dir.join("tokenizer.json").is_file() && dir.join("config.json").is_file() {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let config = fs::read_to_string(dir.join("config.json"))?;
            let is_reward = config.contains("ForSequenceClassification");
            models.push(Model { name, dir, is_reward });
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}
