//! `tether compare`.

use super::kl::write;
use crate::cli::{Cli, CompareArgs};
use crate::exit_codes::UsageError;
use crate::progress::{Progress, Show};
use crate::{interrupt, output};
use tetherline::Recipe;
use tetherline::compare::{CompareOptions, Judge, ab_page, compare};

pub(crate) fn run(cli: &Cli, args: &CompareArgs) -> anyhow::Result<()> {
    let judge = match &args.judge_command {
        None => Judge::parse(&args.judge),
        Some(command) => {
            let argv: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            if argv.is_empty() {
                return Err(UsageError("--judge-command: names no program".to_owned()).into());
            }
            Judge::Command(argv)
        }
    };
    let recipe = args.recipe.as_ref().map(|source| Recipe::load(source, &args.sets)).transpose()?;
    let options = CompareOptions {
        policies: args.policies.clone(),
        recipe,
        judge,
        prompts: args.prompts.unwrap_or(0),
        samples: args.samples.unwrap_or(0),
        alpha: args.alpha,
        decide_on: args.decide_on.into(),
        all: args.all,
        threads: args.threads,
    };
    interrupt::install();
    let mut progress = Progress::new(Show::choose(cli.quiet, cli.verbose), None);
    let result = compare(&options, &mut progress);
    drop(progress);
    let result = result?;
    output::result(&result.table());
    if let Some(path) = &args.out {
        write(path, &(serde_json::to_string_pretty(&result)? + "\n"))?;
    }
    if let Some(path) = &args.html {
        write(path, &ab_page("Tetherline comparison", &result))?;
        output::result(&format!("page: {}", path.display()));
    }
    Ok(())
}
