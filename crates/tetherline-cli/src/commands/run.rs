//! `tether run|sft|reward|ppo|eval RECIPE`.

use crate::cli::{Cli, RunArgs};
use crate::progress::{Progress, Show};
use crate::{interrupt, output};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Instant;
use tetherline::{Error, Recipe, RunOptions, Stages};
use tetherline_core::Stage;

pub(crate) fn run(cli: &Cli, args: &RunArgs, stages: Stages) -> anyhow::Result<()> {
    let mut recipe = Recipe::load(&args.recipe, &args.sets)?;
    if recipe.name.is_empty() {
        recipe.name = stem(&args.recipe);
    }
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    if args.dry_run {
        return dry_run(&recipe, stages, &out);
    }
    recipe.check(stages)?;
    // Of the stages that leave a policy.
    let registry = match stages {
        Stages::All | Stages::Only(Stage::Ppo | Stage::Dpo) => {
            super::policy::for_a_run(args.registry.as_deref())?
        }
        Stages::Only(_) => None,
    };
    interrupt::install();
    let options = RunOptions {
        out: out.clone(),
        resume: args.resume,
        after_halt: args.after_halt,
        stages,
        threads: recipe.threads,
        clock: seconds,
    };
    let target = recipe.kl.overall_target().map(|t| t.0);
    let mut progress = Progress::new(Show::choose(cli.quiet, cli.verbose), target);
    let outcome = tetherline::run(&recipe, &options, &mut progress);
    drop(progress);
    match outcome {
        Ok(summary) => {
            for text in [&summary.table, &summary.samples].into_iter().filter(|t| !t.is_empty()) {
                output::result(text);
            }
            for note in &summary.notes {
                output::result(note);
            }
            if let Some(report) = &summary.report {
                output::result(&format!("report: {}", report.display()));
            }
            if let Some(registry) = &registry {
                super::policy::register_run(&out, registry)?;
            }
            Ok(())
        }
        Err(e) => {
            if let Error::Interrupted { checkpoint, .. } = &e {
                say_how_to_resume(checkpoint.as_deref(), &out);
            }
            Err(e.into())
        }
    }
}

fn dry_run(recipe: &Recipe, stages: Stages, out: &Path) -> anyhow::Result<()> {
    let plan = tetherline::plan(recipe, stages)?;
    output::result(&format!("# {} in {}", recipe.name, out.display()));
    for planned in plan {
        output::result(&format!("#   {:<6} {}", planned.stage.name(), planned.what));
    }
    output::result(&format!("\n{}", recipe.to_toml()));
    Ok(())
}

pub(super) fn say_how_to_resume(checkpoint: Option<&Path>, out: &Path) {
    if let Some(path) = checkpoint {
        output::line(&format!("the state is saved in {}", path.display()));
    }
    let command = resume_command(std::env::args().collect(), out);
    output::line(&format!("to go on:\n  {command}"));
}

/// The command that was given, with `--out` and `--resume`.
fn resume_command(mut args: Vec<String>, out: &Path) -> String {
    if !args.iter().any(|a| a == "--out" || a.starts_with("--out=")) {
        args.extend(["--out".to_owned(), out.display().to_string()]);
    }
    if !args.iter().any(|a| a == "--resume") {
        args.push("--resume".to_owned());
    }
    args.iter().map(|a| quoted(a)).collect::<Vec<_>>().join(" ")
}

/// As a shell would need it.
fn quoted(arg: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,@+%".contains(c);
    if !arg.is_empty() && arg.chars().all(is_plain) {
        arg.to_owned()
    } else {
        format!("'{}'", arg.replace('\'', "'\\''"))
    }
}

/// The name of a recipe without one.
pub(super) fn stem(recipe: &str) -> String {
    let path = PathBuf::from(recipe);
    path.file_stem().map_or_else(|| "run".to_owned(), |s| s.to_string_lossy().into_owned())
}

/// Seconds since the program first asked.
pub(super) fn seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resume_command_can_be_pasted() {
        let args = |text: &[&str]| text.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        let given = args(&["tether", "run", "my recipe.toml", "--set", "kl.fixed.init=0.1"]);
        let expected = "tether run 'my recipe.toml' --set kl.fixed.init=0.1 --out runs/x --resume";
        assert_eq!(resume_command(given, Path::new("runs/x")), expected);
        let given = args(&["tether", "run", "a", "--out=b", "--resume"]);
        assert_eq!(resume_command(given, Path::new("b")), "tether run a --out=b --resume");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
