//! `tether score`.

use crate::cli::{Cli, ScoreArgs};
use crate::output;
use crate::progress::{Progress, Show};
use tetherline::score::{ScoreOptions, score};

pub(crate) fn run(cli: &Cli, args: &ScoreArgs) -> anyhow::Result<()> {
    let options = ScoreOptions {
        model: args.model.clone(),
        reference: args.reference.clone(),
        data: args.data.clone(),
        out: args.out.clone(),
        append_eos: args.append_eos,
        batch_size: args.batch.batch_size,
        threads: args.batch.threads,
        device: args.batch.device,
        skip_bad_lines: args.batch.skip_bad_lines,
    };
    let mut progress = Progress::new(Show::choose(cli.quiet, cli.verbose), None);
    let done = score(&options, &mut progress)?;
    if !cli.quiet {
        let (rows, tokens, out) = (done.rows, done.tokens, args.out.display());
        output::line(&format!("{rows} rows, {tokens} response tokens: {out}"));
    }
    super::say_skipped(done.skipped);
    Ok(())
}
