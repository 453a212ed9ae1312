//! `tether gate`.

use super::kl::write;
use super::run::seconds;
use crate::cli::{GateArgs, TimingArgs};
use crate::exit_codes::Refused;
use crate::output;
use tetherline::gate::{GateOptions, Verdict, judge};
use tetherline::latency::Timing;

pub(crate) fn run(args: &GateArgs) -> anyhow::Result<()> {
    let verdict = judge(&GateOptions {
        candidate: args.candidate.clone(),
        baseline: args.baseline.clone(),
        gates: args.gates.clone(),
        metrics: args.metrics.clone(),
        baseline_metrics: args.baseline_metrics.clone(),
        timing: Some(timing(&args.timing)),
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
