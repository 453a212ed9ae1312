//! `tether gate`.

use super::kl::write;
use crate::cli::GateArgs;
use crate::exit_codes::Refused;
use crate::output;
use tetherline::gate::{GateOptions, Verdict, judge};

pub(crate) fn run(args: &GateArgs) -> anyhow::Result<()> {
    let verdict = judge(&GateOptions {
        candidate: args.candidate.clone(),
        baseline: args.baseline.clone(),
        gates: args.gates.clone(),
        metrics: args.metrics.clone(),
        baseline_metrics: args.baseline_metrics.clone(),
    })?;
    if let Some(path) = &args.json {
        write(path, &(serde_json::to_string_pretty(&verdict)? + "\n"))?;
    }
    if let Some(path) = &args.junit {
        write(path, &verdict.report.junit())?;
    }
    show(&verdict);
    match verdict.report.passed {
        true => Ok(()),
        false => Err(Refused(format!("{} did not show what the gates ask", verdict.candidate)).into()),
    }
}

/// The table, and what makes it doubtful.
pub(super) fn show(verdict: &Verdict) {
    output::result(&format!("candidate: {}\nbaseline:  {}\n", verdict.candidate, verdict.baseline));
    output::result(verdict.report.table().trim_end());
    for warning in &verdict.warnings {
        output::line(&format!("warning: {warning}"));
    }
}
