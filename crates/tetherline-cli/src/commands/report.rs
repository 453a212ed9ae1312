//! `tether report RUN`.

use crate::cli::ReportArgs;
use crate::output;

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let path = tetherline::report::write(&args.run)?;
    output::result(&path.display().to_string());
    Ok(())
}
