//! `tether explain RUN`.

use super::drift::{style, write};
use crate::cli::{Cli, ExplainArgs};
use crate::exit_codes::UsageError;
use crate::output;
use crate::progress::{Progress, Show};
use tetherline::explain::{ExplainOptions, explain};

/// Pairs of responses that a page and JSON show.
const PAIRS: usize = 24;

pub(crate) fn run(cli: &Cli, args: &ExplainArgs) -> anyhow::Result<()> {
    let (from, to) = match args.update {
        Some(0) => return Err(UsageError("--update: updates count from 1".to_owned()).into()),
        Some(n) => (Some(n - 1), Some(n)),
        None => (args.from, args.to),
    };
    let options = ExplainOptions {
        run: args.run.clone(),
        from,
        to,
        prompts: args.prompts.clone(),
        max_prompts: args.max_prompts,
        num_samples: args.num_samples,
        pairs: PAIRS,
        batch_size: args.batch_size,
        threads: args.threads,
    };
    let mut progress = Progress::new(Show::choose(cli.quiet, cli.verbose), None);
    let found = explain(&options, &mut progress)?;
    if let Some(path) = &args.show.html {
        write(path, &found.html())?;
    }
    output::result(&match args.show.json {
        true => serde_json::to_string(&found)?,
        false => found.text(style(&args.show)).trim_end().to_owned(),
    });
    Ok(())
}
