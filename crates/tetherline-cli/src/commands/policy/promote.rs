//! `tether policy promote | rollback`.

use super::{actor, called, digits, find, told};
use crate::cli::{PromoteArgs, RollbackArgs};
use crate::commands::gate::{audited, show, timing};
use crate::exit_codes::{Refused, UsageError};
use crate::output;
use serde_json::json;
use std::path::{Path, PathBuf};
use tetherline::gate::{GateOptions, judge};
use tetherline_registry::{Artifact, Evidence, Kind, Promotion, Registry, Stage};

/// Runs the gates against what is in production, and promotes a policy that passes.
pub(super) fn promote(registry: &mut Registry, args: &PromoteArgs) -> anyhow::Result<()> {
    let policy = find(registry, &args.policy, &args.registry)?;
    let to = Stage::of(&args.to).ok_or_else(|| UsageError("--to: must be canary or production".into()))?;
    expect_unchanged(&policy.artifact)?;
    let now = registry.list().map_err(told)?;
    let now = now.into_iter().find(|p| p.line == policy.line && p.stage == Stage::Production);
    let timing = Some(timing(&args.timing));
    let mut options = GateOptions { gates: args.gates.clone(), timing, ..GateOptions::default() };
    // A policy without a run has only what a file says of it.
    let mut doubts = Vec::new();
    for side in std::iter::once(&policy.artifact).chain(now.as_ref().map(|p| &p.artifact)) {
        doubts.extend(expect_audited(side)?);
    }
    (options.candidate, options.metrics) = match (run_of(&policy.artifact), &args.metrics) {
        (Some(run), metrics) => (run, metrics.clone()),
        (None, Some(metrics)) => (metrics.clone(), None),
        (None, None) => return Err(no_numbers(&policy.artifact, "--metrics")),
    };
    if let Some(now) = &now {
        (options.baseline, options.baseline_metrics) = match (run_of(&now.artifact), &args.baseline_metrics) {
            (Some(run), metrics) => (Some(run), metrics.clone()),
            (None, Some(metrics)) => (Some(metrics.clone()), None),
            (None, None) => return Err(no_numbers(&now.artifact, "--baseline-metrics")),
        };
    } else {
        options.baseline_metrics = args.baseline_metrics.clone();
    }
    let mut verdict = judge(&options)?;
    verdict.warnings.extend(doubts);
    show(&verdict);
    let evidence = Evidence {
        passed: verdict.report.passed,
        gates: verdict.gates_sha256.clone(),
        verdict: json!(verdict),
        against: now.map(|p| p.artifact.id),
    };
    let by = actor(&args.registry, args.approve_as.as_deref())?;
    let approves = args.approve_as.is_some();
    match registry.promote(&policy.artifact.id, to, &evidence, approves, &by).map_err(told)? {
        Promotion::Done { displaced } => {
            let gone = match displaced {
                Some(id) => format!(", in place of {}", name_of(registry, &id)?),
                None => String::new(),
            };
            output::result(&format!("{} is in {to}{gone}", called(&policy.artifact)));
            Ok(())
        }
        Promotion::Waiting { approvers, needed } => Err(Refused(format!(
            "not promoted yet: it takes {needed} people, and {} approved so far ({}); another one has to give the same \
             command with --approve-as",
            approvers.len(),
            approvers.join(", ")
        ))
        .into()),
    }
}

/// Puts back what was in production before. Where its files are gone or were edited, nothing happens.
pub(super) fn roll_back(registry: &mut Registry, args: &RollbackArgs) -> anyhow::Result<()> {
    let by = actor(&args.registry, None)?;
    let id = registry.before_production(&args.registry.line).map_err(told)?;
    if let (false, Some(back)) = (args.unchecked, registry.artifact(Kind::Policy, &id).map_err(told)?) {
        expect_unchanged(&back).map_err(|e| {
            Refused(format!(
                "{e}. Nothing was changed; where the policy is deployed from somewhere else, --unchecked rolls back all the same"
            ))
        })?;
    }
    let (back, gone) = registry.roll_back(&args.registry.line, &args.reason, &by).map_err(told)?;
    let (back, gone) = (registry.artifact(Kind::Policy, &back).map_err(told)?, name_of(registry, &gone)?);
    let Some(back) = back else { return Ok(()) };
    output::result(&format!("{} is in production again, {gone} is retired", called(&back)));
    Ok(())
}

fn name_of(registry: &mut Registry, id: &str) -> anyhow::Result<String> {
    let artifact = registry.artifact(Kind::Policy, id).map_err(told)?;
    Ok(artifact.as_ref().map_or_else(|| digits(id).to_owned(), called))
}

/// The run that made a policy, if it is still there.
pub(super) fn run_of(policy: &Artifact) -> Option<PathBuf> {
    policy.detail["run"].as_str().map(PathBuf::from).filter(|p| p.is_dir())
}

fn no_numbers(policy: &Artifact, flag: &str) -> anyhow::Error {
    let text = format!("{} has no run directory here: give its numbers with {flag} FILE", called(policy));
    UsageError(text).into()
}

/// Refuses a policy whose files are not those that were registered.
fn expect_unchanged(policy: &Artifact) -> anyhow::Result<()> {
    let dir = Path::new(&policy.location);
    if !dir.is_dir() {
        return Err(Refused(format!("{}: there is no directory {}", called(policy), policy.location)).into());
    }
    if tetherline::lineage::policy_hash(dir)? != policy.id {
        let text = format!(
            "{}: the files in {} are not those that were registered",
            called(policy),
            policy.location
        );
        return Err(Refused(text).into());
    }
    Ok(())
}

/// Refuses a policy whose run has other numbers than its audit recorded; what that does not cover.
fn expect_audited(policy: &Artifact) -> anyhow::Result<Option<String>> {
    let Some(run) = run_of(policy) else { return Ok(None) };
    Ok(audited(&run).map_err(|why| Refused(format!("{}: {why}", called(policy))))?)
}
