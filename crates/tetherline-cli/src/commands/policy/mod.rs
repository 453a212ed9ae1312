//! `tether policy …`: the registry from the command line.

mod clock;
mod diff;
mod promote;
mod show;

use crate::cli::{LINE, PolicyCommand, RegistryArgs};
use crate::exit_codes::{InputError, Refused, UsageError};
use crate::output;
use anyhow::Context as _;
use std::path::Path;
use tetherline::lineage::{Known, Lineage};
use tetherline_registry::{
    Actor, Artifact, CheckedAudit, Edge, Kind, Listed, Registration, Registry, RegistryError, RuleChange,
    Rules,
};

/// Where the registry is, unless something says otherwise.
const DEFAULT: &str = "registry.db";

/// Digits of a hash that are shown.
const DIGITS: usize = 12;

pub(crate) fn run(command: &PolicyCommand) -> anyhow::Result<()> {
    match command {
        PolicyCommand::Add(a) => {
            let mut registry = open(&a.registry)?;
            let new = add(&mut registry, &a.path, a.name.as_deref(), &a.registry)?;
            output::result(&new);
            Ok(())
        }
        PolicyCommand::List(a) => show::list(&mut open(&a.registry)?, a),
        PolicyCommand::Show(a) => show::one(&mut open(&a.registry)?, a),
        PolicyCommand::Lineage(a) => show::lineage(&mut open(&a.registry)?, a),
        PolicyCommand::Diff(a) => diff::diff(&mut open(&a.registry)?, a),
        PolicyCommand::Promote(a) => promote::promote(&mut open(&a.registry)?, a),
        PolicyCommand::Rollback(a) => promote::roll_back(&mut open(&a.registry)?, a),
        PolicyCommand::Retire(a) => {
            let mut registry = open(&a.registry)?;
            let policy = find(&mut registry, &a.policy, &a.registry)?;
            registry.retire(&policy.artifact.id, &a.reason, &actor(&a.registry, None)?).map_err(told)?;
            output::result(&format!("{} is retired", called(&policy.artifact)));
            Ok(())
        }
        PolicyCommand::Tag(a) => {
            let mut registry = open(&a.registry)?;
            let policy = find(&mut registry, &a.policy, &a.registry)?;
            let by = actor(&a.registry, None)?;
            registry.tag(&policy.artifact.id, &a.tag, !a.remove, &by).map_err(told)
        }
        PolicyCommand::Note(a) => {
            let mut registry = open(&a.registry)?;
            let policy = find(&mut registry, &a.policy, &a.registry)?;
            registry.note(&policy.artifact.id, &a.text, &actor(&a.registry, None)?).map_err(told)
        }
        PolicyCommand::Rules(a) => {
            let mut registry = open(&a.registry)?;
            let mut rules = registry.rules().map_err(told)?;
            let gates = a.gates.as_deref().map(tetherline::gate::load).transpose()?;
            let changed = a.approvals.is_some() || gates.is_some() || a.any_gates;
            rules = Rules {
                approvals: a.approvals.unwrap_or(rules.approvals),
                gates: match gates {
                    Some((_, hash)) => hash,
                    None if a.any_gates => String::new(),
                    None => rules.gates,
                },
            };
            if changed {
                let by = actor(&a.registry, a.approve_as.as_deref())?;
                let done = registry.set_rules(&rules, a.approve_as.is_some(), &by).map_err(told)?;
                if let RuleChange::Waiting { approvers, needed } = done {
                    return Err(Refused(format!(
                        "not changed yet: it takes {needed} people, and {} approved so far ({}); another one has to give \
                         the same command with --approve-as",
                        approvers.len(),
                        approvers.join(", ")
                    ))
                    .into());
                }
            }
            let gates =
                if rules.gates.is_empty() { "any".to_owned() } else { format!("SHA-256 {}", rules.gates) };
            output::result(&format!("approvals for production: {}\ngate file: {gates}", rules.approvals));
            Ok(())
        }
        PolicyCommand::Audit(a) => {
            let kept = super::audit::kept(a.head.as_deref())?;
            let CheckedAudit { text, head, differences } =
                open(&a.registry)?.checked_audit(kept.as_ref()).map_err(told)?;
            if let Some(path) = &a.out {
                super::kl::write(path, &text)?;
            }
            output::result(&format!("the chain is whole: {} records\nhead: {head}", head.records));
            if differences.is_empty() {
                output::result("the tables are what it says");
                return Ok(());
            }
            let n = differences.len();
            let list = differences.iter().map(|d| format!("\n  {d}")).collect::<String>();
            let text =
                format!("the tables of the registry are not what its audit says, in {n} places:{list}");
            Err(Refused(text).into())
        }
    }
}

/// The registry of this shell.
fn from_environment() -> Option<String> {
    std::env::var("TETHER_REGISTRY").ok().filter(|url| !url.is_empty())
}

/// Where a run is registered when it has finished: `registry`, else `TETHER_REGISTRY`. That it can be is found out before.
pub(super) fn for_a_run(registry: Option<&str>) -> anyhow::Result<Option<RegistryArgs>> {
    let Some(url) = registry.map(str::to_owned).or_else(from_environment) else { return Ok(None) };
    let args = RegistryArgs { registry: Some(url), line: LINE.to_owned(), by: None };
    open(&args)?;
    actor(&args, None)?;
    Ok(Some(args))
}

/// Registers the policy of a finished run.
pub(super) fn register_run(run: &Path, args: &RegistryArgs) -> anyhow::Result<()> {
    let done = open(args).and_then(|mut registry| add(&mut registry, run, None, args));
    let told = done.with_context(|| {
        format!("the run is finished, but not registered; to do so: tether policy add {}", run.display())
    })?;
    output::result(&told);
    Ok(())
}

/// Opens the registry that the arguments, else `TETHER_REGISTRY`, name.
fn open(args: &RegistryArgs) -> anyhow::Result<Registry> {
    let url = args.registry.clone().or_else(from_environment).unwrap_or_else(|| DEFAULT.to_owned());
    Registry::open(&url).map_err(told)
}

/// Who acts: `approve_as`, else `--by`, else the user's name.
fn actor(args: &RegistryArgs, approve_as: Option<&str>) -> anyhow::Result<Actor> {
    let user = || ["USER", "USERNAME", "LOGNAME"].iter().find_map(|key| std::env::var(key).ok());
    // Containers often set none of them.
    let asked = || {
        let out = std::process::Command::new("whoami").output().ok()?;
        String::from_utf8(out.stdout).ok().filter(|_| out.status.success())
    };
    let given = approve_as.map(str::to_owned).or_else(|| args.by.clone());
    let who = given.or_else(user).or_else(asked).unwrap_or_default();
    Actor::new(&who, &clock::now())
        .map_err(|_| UsageError("say who you are: --by NAME, or set USER".to_owned()).into())
}

fn find(registry: &mut Registry, text: &str, args: &RegistryArgs) -> anyhow::Result<Listed> {
    registry.find(text, &args.line).map_err(told)
}

/// An error of the registry as the command line's: what it refuses is an answer.
fn told(e: RegistryError) -> anyhow::Error {
    match e {
        e if e.is_refusal() => Refused(e.to_string()).into(),
        e @ (RegistryError::Open { .. } | RegistryError::Newer { .. }) => InputError(e.to_string()).into(),
        e => e.into(),
    }
}

/// Registers a run or a model directory; a sentence on it.
pub(super) fn add(
    registry: &mut Registry,
    path: &Path,
    name: Option<&str>,
    args: &RegistryArgs,
) -> anyhow::Result<String> {
    let lineage = tetherline::lineage::of(path, name)?;
    let what = registration(&lineage, &args.line);
    let new = registry.register(&what, &actor(args, None)?).map_err(told)?;
    let policy = what.artifacts.first().map(called).unwrap_or_default();
    if !new.is_empty() {
        return Ok(format!("registered {policy} as a candidate of the line {:?}", args.line));
    }
    // Under the name that it has there, whatever this one is.
    let id = what.artifacts.first().map(|a| a.id.clone()).unwrap_or_default();
    let known = registry.artifact(Kind::Policy, &id).map_err(told)?;
    Ok(format!("{} is registered already", known.as_ref().map_or(policy, called)))
}

/// As the registry takes it.
fn registration(lineage: &Lineage, line: &str) -> Registration {
    let kind = |k: &Known| Kind::of(k.kind).unwrap_or(Kind::Run);
    let artifact =
        |k: &Known| Artifact::new(kind(k), &k.id, &k.name, &k.location).with_detail(k.detail.clone());
    let key = |i: usize| (kind(&lineage.known[i]), lineage.known[i].id.clone());
    let edge = |(child, role, parent): &(usize, String, usize)| Edge {
        child: key(*child),
        role: role.clone(),
        parent: key(*parent),
    };
    Registration {
        artifacts: lineage.known.iter().map(artifact).collect(),
        edges: lineage.edges.iter().map(edge).collect(),
        bases: lineage.bases.iter().map(|i| lineage.known[*i].id.clone()).collect(),
        line: line.to_owned(),
    }
}

/// Name and the first digits of the hash.
fn called(a: &Artifact) -> String {
    format!("{} ({})", a.name, digits(&a.id))
}

fn digits(hash: &str) -> &str {
    hash.get(..DIGITS).unwrap_or(hash)
}
