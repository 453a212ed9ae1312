//! `tether audit verify | replay`.

use crate::cli::{AuditReplayArgs, AuditVerifyArgs};
use crate::exit_codes::{Refused, UsageError};
use crate::output;
use tetherline::audit::{check, read, replay_run};
use tetherline_audit::Head;

/// Most differences that are listed.
const SHOWN: usize = 20;

pub(crate) fn verify(args: &AuditVerifyArgs) -> anyhow::Result<()> {
    let kept = kept(args.head.as_deref())?;
    if args.path.is_file() {
        let (head, _) = read(&args.path, kept.as_ref()).map_err(refused)?;
        output::result(&format!("the chain is whole\nhead: {head}"));
        return Ok(());
    }
    let checked = check(&args.path, kept.as_ref()).map_err(refused)?;
    let events: Vec<_> = checked.events.iter().map(|(event, n)| format!("{n} {event}")).collect();
    output::result(&format!("the chain is whole: {}\nhead: {}", events.join(", "), checked.head));
    if !checked.ended {
        output::result("it has no end: the run was killed or is going on, and its logs are not covered yet");
    }
    if checked.problems.is_empty() {
        return Ok(());
    }
    Err(Refused(checked.problems.join("\n  ")).into())
}

/// The head that was given.
pub(super) fn kept(text: Option<&str>) -> anyhow::Result<Option<Head>> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || UsageError(format!("--head: must be RECORDS:HASH as it was printed, got {text}"));
    Ok(Some(Head::parse(text).ok_or_else(wrong)?))
}

/// A broken chain is an answer: the command ends as a check that failed.
fn refused(e: tetherline::Error) -> anyhow::Error {
    match e {
        tetherline::Error::Audit(broken) => Refused(broken.to_string()).into(),
        other => other.into(),
    }
}

pub(crate) fn replay(args: &AuditReplayArgs) -> anyhow::Result<()> {
    let replayed = replay_run(&args.run).map_err(refused)?;
    output::result(&format!(
        "{} decisions of control.jsonl recomputed, {} records of the audit compared",
        replayed.decisions, replayed.audited
    ));
    if replayed.differences.is_empty() {
        output::result("every one is reproduced exactly");
        return Ok(());
    }
    let more = replayed.differences.len().saturating_sub(SHOWN);
    let mut text = replayed.differences[..replayed.differences.len() - more].join("\n  ");
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    Err(Refused(text).into())
}
