//! Arguments of the commands that judge and record: gates, audit, registry.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct GateArgs {
    /// A run directory, or a JSON file of metrics by name
    #[arg(long, value_name = "RUN")]
    pub(crate) candidate: PathBuf,
    /// The same of the baseline [default: the policy that the candidate's run started from]
    #[arg(long, value_name = "RUN")]
    pub(crate) baseline: Option<PathBuf>,
    /// What the candidate must show (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) gates: PathBuf,
    /// More metrics of the candidate (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Option<PathBuf>,
    /// More metrics of the baseline (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline_metrics: Option<PathBuf>,
    /// Also write the verdict as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Also write it as JUnit XML, for CI
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) timing: TimingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TimingArgs {
    /// Where a gate asks for a latency: answers of each policy, one at a time and in turn
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) latency_answers: u32,
    /// Worker threads for that [default: every core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) threads: usize,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Find any edited, removed or moved byte of an audit, and print its head
    #[command(after_help = AUDIT_HELP)]
    Verify(AuditVerifyArgs),
    /// Recompute every controller decision of a run and compare it to the last bit
    #[command(after_help = AUDIT_HELP)]
    Replay(AuditReplayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AuditVerifyArgs {
    /// A run directory, or an audit (JSON lines)
    #[arg(value_name = "RUN")]
    pub(crate) path: PathBuf,
    /// A head that was kept elsewhere: the audit must contain it
    #[arg(long, value_name = "RECORDS:HASH")]
    pub(crate) head: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditReplayArgs {
    /// A run directory
    pub(crate) run: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Register the policy of a finished run, or a model directory, with all it came from
    #[command(after_help = POLICY_HELP)]
    Add(AddArgs),
    /// List policies with their stages and tags
    #[command(after_help = POLICY_HELP)]
    List(ListArgs),
    /// Show one policy: where it is, what was decided on it, notes
    #[command(after_help = POLICY_HELP)]
    Show(PolicyShowArgs),
    /// Show what a policy came from, back to its base
    #[command(after_help = POLICY_HELP)]
    Lineage(PolicyShowArgs),
    /// Show where two policies differ: recipe, data, models, evaluation
    #[command(after_help = POLICY_HELP)]
    Diff(DiffArgs),
    /// Run the gates against what is in production, and promote a policy that passes
    #[command(after_help = POLICY_HELP)]
    Promote(PromoteArgs),
    /// Put back what was in production before
    #[command(after_help = POLICY_HELP)]
    Rollback(RollbackArgs),
    /// Take a candidate or canary out of use
    #[command(after_help = POLICY_HELP)]
    Retire(RetireArgs),
    /// Tag a policy
    #[command(after_help = POLICY_HELP)]
    Tag(TagArgs),
    /// Note something on a policy
    #[command(after_help = POLICY_HELP)]
    Note(NoteArgs),
    /// Show or set what a promotion to production takes
    #[command(after_help = POLICY_HELP)]
    Rules(RulesArgs),
    /// Verify the registry's own audit, replay it against the tables, and print its head
    #[command(after_help = POLICY_HELP)]
    Audit(RegistryAuditArgs),
}

/// The line of a policy where none is named.
pub(crate) const LINE: &str = "default";

/// Which registry, and who acts.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// A file (SQLite) or postgres://… [default: $TETHER_REGISTRY, else registry.db]
    #[arg(long, value_name = "URL")]
    pub(crate) registry: Option<String>,
    /// The line: each has one policy in production
    #[arg(long, value_name = "NAME", default_value = LINE)]
    pub(crate) line: String,
    /// Who does it [default: the user's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// A run directory, or a model directory
    #[arg(value_name = "RUN")]
    pub(crate) path: PathBuf,
    /// What to call the policy [default: name of the recipe or directory, digits of the hash]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Also those that others started from
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyShowArgs {
    /// Its name, a tag, the first digits of its hash, or production or canary
    pub(crate) policy: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// One policy, named as for `show`
    pub(crate) a: String,
    /// The other
    pub(crate) b: String,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    /// The policy, named as for `show`
    pub(crate) policy: String,
    /// The stage
    #[arg(long, value_name = "STAGE", default_value = "production", value_parser = ["canary", "production"])]
    pub(crate) to: String,
    /// What it must show (TOML), as for `tether gate`
    #[arg(long, value_name = "FILE")]
    pub(crate) gates: PathBuf,
    /// More metrics of it (JSON); all of them where it has no run
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Option<PathBuf>,
    /// More metrics of what is in production (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline_metrics: Option<PathBuf>,
    /// Approve it under this name; with a rule of N approvals the Nth person's command promotes
    #[arg(long, value_name = "NAME")]
    pub(crate) approve_as: Option<String>,
    #[command(flatten)]
    pub(crate) timing: TimingArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Do not ask that its files are here and are those that were registered
    #[arg(long)]
    pub(crate) unchecked: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    /// The policy, named as for `show`
    pub(crate) policy: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The policy, named as for `show`
    pub(crate) policy: String,
    /// The tag
    pub(crate) tag: String,
    /// Take it away
    #[arg(long)]
    pub(crate) remove: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NoteArgs {
    /// The policy, named as for `show`
    pub(crate) policy: String,
    /// What to note
    pub(crate) text: String,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RulesArgs {
    /// People who have to approve a promotion to production; 2 is the two-person rule
    #[arg(long, value_name = "N")]
    pub(crate) approvals: Option<i64>,
    /// The only gate file that counts, by its contents
    #[arg(long, value_name = "FILE", conflicts_with = "any_gates")]
    pub(crate) gates: Option<PathBuf>,
    /// Any gate file counts
    #[arg(long)]
    pub(crate) any_gates: bool,
    /// Approve the change under this name: another number of approvals takes as many people as the larger of the two
    /// numbers, other gates as many as the rules ask for
    #[arg(long, value_name = "NAME")]
    pub(crate) approve_as: Option<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RegistryAuditArgs {
    /// A head that was kept elsewhere: the audit must contain it
    #[arg(long, value_name = "RECORDS:HASH")]
    pub(crate) head: Option<String>,
    /// Also write it (JSON lines)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

pub(crate) const GATE_HELP: &str = "\
Example:
  tether gate --candidate runs/b --baseline runs/a --gates gates.toml --junit gates.xml
  where gates.toml holds for example
      [kl]
      max = 8.0              # nats per sequence
      [kl.domains]
      \"*\" = 10.0
      [gold]
      min_change = 0.0       # no worse than the baseline
      [safety]
      margin = 0.01          # one point more of wrong answers at most
      [[metric]]
      name = \"p95_ms\"        # from --metrics FILE
      max = 400.0

Exit code 0: every gate passed; 1: one did not, or a run's numbers are not those of its
audit. A bound has to keep the limit, not the number itself, and what was not measured
does not pass.";

pub(crate) const AUDIT_HELP: &str = "\
Examples:
  tether audit verify runs/a
      Whether audit.jsonl is whole and the rest of the run is what it says. Keep the head that is
      printed elsewhere: with it, a later check also sees an end that was cut off.
  tether audit verify runs/a --head 212:9f2c...
  tether audit replay runs/a
      Every decision again, from the observations in control.jsonl.

Exit code 0: whole, reproduced; 1: not.";

pub(crate) const POLICY_HELP: &str = "\
Examples:
  tether policy add runs/b
      The policy of a run, with its recipe, data, base, reward model and evaluation.
  tether policy promote quickstart-1a2b3c --gates gates.toml --approve-as ann
      Against what is in production; nothing happens unless every gate passes.
  tether policy rules --approvals 2 --approve-as ann
      From now on production takes two people, once the second one has said so too.
  tether policy rollback --reason \"answers in French\"
  tether policy show production --json
      What to deploy: `location`.

A registry is a file (SQLite), or PostgreSQL by URL in a build with that feature.";
