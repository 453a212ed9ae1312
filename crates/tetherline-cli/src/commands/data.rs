//! `tether data check FILE`.

use crate::cli::CheckArgs;
use crate::exit_codes::InputError;
use crate::output;

pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let report = tetherline_data::check(&args.file)?;
    output::result(report.to_string().trim_end());
    if report.is_clean() {
        return Ok(());
    }
    let (bad, good) = (report.bad.len(), report.total());
    Err(InputError(format!("{}: {bad} bad rows, {good} good ones", args.file.display())).into())
}
