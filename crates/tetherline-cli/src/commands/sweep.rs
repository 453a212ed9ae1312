//! `tether sweep`.

use super::run::{say_how_to_resume, seconds, stem};
use crate::cli::{Cli, SweepArgs};
use crate::progress::{Progress, Show};
use crate::{interrupt, output};
use std::path::Path;
use tetherline::sweep::{SweepOptions, sweep};
use tetherline::{Error, Recipe};

pub(crate) fn run(cli: &Cli, args: &SweepArgs) -> anyhow::Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.sets)?;
    let name = if recipe.name.is_empty() { stem(&args.recipe) } else { recipe.name };
    let out = args.out.clone().unwrap_or_else(|| Path::new("sweeps").join(name));
    let options = SweepOptions {
        out: out.clone(),
        resume: args.resume,
        seeds: args.seeds,
        jobs: args.jobs.unwrap_or(0),
        threads: recipe.threads,
        clock: seconds,
    };
    interrupt::install();
    let mut progress = Progress::new(Show::choose(cli.quiet, cli.verbose), None);
    let outcome = sweep(&args.recipe, &args.sets, &args.grid, &options, &mut progress);
    drop(progress);
    match outcome {
        Ok(summary) => {
            output::result(summary.frontier.table().trim_end());
            output::result(&format!("report: {}", summary.report.display()));
            Ok(())
        }
        Err(e) => {
            if let Error::Interrupted { .. } = &e {
                say_how_to_resume(None, &out);
            }
            Err(e.into())
        }
    }
}
