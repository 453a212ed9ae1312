//! `tether export`.

use crate::cli::{Cli, ExportArgs};
use crate::output;
use tetherline::export::{ExportOptions, export};

pub(crate) fn run(cli: &Cli, args: &ExportArgs) -> anyhow::Result<()> {
    let options = ExportOptions { merge: args.merge.clone(), out: args.out.clone(), bf16: args.bf16 };
    let done = export(&options)?;
    if !cli.quiet {
        let (adapter, all, out) = (done.adapter, done.parameters, args.out.display());
        output::line(&format!("{adapter} parameters folded into the {all} of {}: {out}", done.base));
    }
    Ok(())
}
