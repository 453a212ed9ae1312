//! `tether gate`.

use super::kl::write;
use super::run::seconds;
use crate::cli::{GateArgs, TimingArgs};
use crate::exit_codes::Refused;
use crate::output;
use std::path::Path;
use tetherline::audit::check_results;
use tetherline::gate::{GateOptions, Verdict, judge};
use tetherline::latency::Timing;

pub(crate) fn run(args: &GateArgs) -> anyhow::Result<()> {
    let mut doubts = Vec::new();
    for run in std::iter::once(&args.candidate).chain(&args.baseline).filter(|path| is_run(path)) {
        doubts.extend(audited(run).map_err(Refused)?);
    }
    let mut verdict = judge(&GateOptions {
        candidate: args.candidate.clone(),
        baseline: args.baseline.clone(),
        gates: args.gates.clone(),
        metrics: args.metrics.clone(),
        baseline_metrics: args.baseline_metrics.clone(),
        timing: Some(timing(&args.timing)),
    })?;
    verdict.warnings.extend(doubts);
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

/// Whether it is a run directory; what is neither that nor a file has an error of its own.
fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file()
}

/// What the audit of a run does not cover. Where the chain is broken or missing, or the numbers are others than it recorded,
/// why the run is not judged: the gates would hold what nobody measured.
pub(super) fn audited(run: &Path) -> Result<Option<String>, String> {
    let refused = |why: String| {
        format!(
            "{}: {why}. Its numbers are not those that its audit recorded, and are not judged",
            run.display()
        )
    };
    let path = run.join("audit.jsonl");
    if !path.is_file() {
        return Err(format!(
            "{}: there is no such file, so nothing says that the numbers of this run are those that were measured; put it back, \
             or give numbers of another origin as a JSON file",
            path.display()
        ));
    }
    let checked = check_results(run).map_err(|e| refused(e.to_string()))?;
    if !checked.problems.is_empty() {
        return Err(refused(checked.problems.join("; ")));
    }
    let open = "its audit has no end (the run was killed, or is going on): its logs are not covered";
    Ok((!checked.ended).then(|| format!("{}: {open}", run.display())))
}

/// How latencies are measured, on this machine.
pub(super) fn timing(args: &TimingArgs) -> Timing {
    Timing {
        clock: seconds,
        machine: machine(),
        threads: args.threads,
        answers: args.latency_answers as usize,
    }
}

/// What the processor calls itself, where the system says so.
fn machine() -> String {
    let name = |text: String| {
        let line = text.lines().find(|l| l.starts_with("model name"))?.split_once(':')?.1.trim().to_owned();
        (!line.is_empty()).then_some(line)
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(name);
    let cpu = cpu.unwrap_or_else(|| "an unnamed processor".to_owned());
    format!("{cpu} ({} {})", std::env::consts::OS, std::env::consts::ARCH)
}

/// The table, and what makes it doubtful.
pub(super) fn show(verdict: &Verdict) {
    output::result(&format!("candidate: {}\nbaseline:  {}\n", verdict.candidate, verdict.baseline));
    output::result(verdict.report.table().trim_end());
    if let Some(latency) = &verdict.latency {
        output::result(&latency.text());
    }
    for warning in &verdict.warnings {
        output::line(&format!("warning: {warning}"));
    }
}
