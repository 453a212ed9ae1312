//! Arguments and help texts of the commands that take a drift apart.

use super::BatchArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct DriftArgs {
    /// A Hugging Face directory (also of an adapter), a hub id (owner/name[@revision]), or "frontdesk"
    #[arg(long, value_name = "DIR")]
    pub(crate) policy: String,
    /// What it is measured against, with the same vocabulary
    #[arg(long, value_name = "DIR")]
    pub(crate) reference: String,
    /// JSON lines with "prompt" or "messages", and perhaps "domain" and "user"
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,
    /// Measure the responses that stand in FILE (a traffic log: "prompt" and "response", "messages", or "input_ids"
    /// and "prompt_len") instead of sampling from the policy
    #[arg(long)]
    pub(crate) given: bool,
    /// With --given: add the end-of-sequence token to text responses
    #[arg(long, requires = "given")]
    pub(crate) append_eos: bool,
    /// Plain prompts are what a user says: put them through the chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// Longest sampled response, in tokens
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = super::positive)]
    pub(crate) max_new_tokens: usize,
    /// Divide the logits of both by this, for sampling and for the KL; above 0
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) temperature: f64,
    /// Root of the random streams: the same seed gives the same responses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Responses per prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) num_samples: u32,
    /// Do not let the reference answer: half the time, but nothing on what gained, lost or changed
    #[arg(long)]
    pub(crate) no_reference_answers: bool,
    /// Exit with code 5 if the KL is above this, in nats per sequence
    #[arg(long, value_name = "NATS", allow_negative_numbers = true, value_parser = |t: &str| super::within(t, 0.0, 1e9))]
    pub(crate) limit: Option<f64>,
    /// Exit with code 5 if the KL is above this, in nats per token
    #[arg(long, value_name = "NATS", allow_negative_numbers = true, value_parser = |t: &str| super::within(t, 0.0, 1e9))]
    pub(crate) limit_per_token: Option<f64>,
    /// What is held against the limits: the mean, or an end of its 95 % interval
    #[arg(long, value_name = "WHAT", default_value = "mean")]
    pub(crate) judge: Judge,
    #[command(flatten)]
    pub(crate) show: ShowArgs,
    #[command(flatten)]
    pub(crate) batch: BatchArgs,
}

/// What is held against a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Judge {
    /// The mean
    Mean,
    /// The lower end: over only where that is certain
    Lower,
    /// The upper end: over unless that is excluded
    Upper,
}

/// What is shown, and how.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write one self-contained HTML page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Rows of each table
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = super::positive)]
    pub(crate) rows: usize,
    /// Pairs of responses in the terminal; the page and JSON have more
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) pairs: usize,
}

pub(super) const DRIFT_HELP: &str = "\
Examples:
  tether drift --policy runs/a/policy --reference base --prompts prompts.jsonl
      Let both answer; exact KL over the vocabulary, where it is, what gained and lost,
      responses side by side (coloured in a terminal).
  tether drift --policy live --reference approved --prompts traffic.jsonl.gz --given \\
      --limit 5 --judge lower --html drift.html
      A log of what was said. Exit code 5 if the KL is certainly above 5 nats per sequence.
  tether drift --policy a --reference b --prompts p.jsonl --json > drift.json
      The same for a program.

The KL of responses that the policy sampled, summed over tokens, estimates the KL of the
two policies; on given responses it is the KL on those texts. Policy and reference answer
with the same random streams: equal policies answer alike.";

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The run directory; it is only read, and may be of a run under way
    pub(crate) run: PathBuf,
    /// Explain this update alone, from 1
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "to"])]
    pub(crate) update: Option<u64>,
    /// Begin after so many updates: the policy then is compared with [default: 0, the reference]
    #[arg(long, value_name = "A")]
    pub(crate) from: Option<u64>,
    /// End after so many updates [default: all]
    #[arg(long, value_name = "B")]
    pub(crate) to: Option<u64>,
    /// Other prompts than the run's held-out ones (JSON lines)
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: Option<PathBuf>,
    /// At most so many prompts [default: eval.prompts of the run]
    #[arg(long, value_name = "N", value_parser = super::positive)]
    pub(crate) max_prompts: Option<usize>,
    /// Responses per prompt; with two or more the reward is also regressed within prompts [default: eval.samples of
    /// the run]
    #[arg(long, value_name = "N", value_parser = super::positive)]
    pub(crate) num_samples: Option<usize>,
    #[command(flatten)]
    pub(crate) show: ShowArgs,
    /// Rows run together; does not change the results
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = super::positive)]
    pub(crate) batch_size: usize,
    /// Worker threads; 0: every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
}

pub(super) const EXPLAIN_HELP: &str = "\
Examples:
  tether explain runs/a --html explain.html
      What each update contributed to the KL, what was decided meanwhile, what the reward
      explains, and where the drift is: domains, users, prompts, positions, tokens, phrases.
  tether explain runs/a --from 20 --to 40
      That stretch; the policies after 20 and 40 updates are compared if they were kept.
  tether explain runs/a --update 17 --json
      One update, with all of its decisions, for a program.

KL is measured on the run's held-out prompts for every policy that was kept (checkpoint.every,
checkpoint.keep) or read from heldout/kl_exact (eval.every); in between the log gives the shape.
Contributions add up to the difference of the KL at the two ends.";

#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// Where the preferences go, for `tether reward` (JSON lines); queue and journal lie beside it
    #[arg(long, value_name = "FILE", required_unless_present = "agreement")]
    pub(crate) out: Option<PathBuf>,
    /// Your name: it stands in every preference, and several people may label one queue
    #[arg(long, value_name = "NAME", required_unless_present = "agreement")]
    pub(crate) labeler: Option<String>,
    /// The first policy (a directory, a hub id, or "frontdesk"); to make a queue, where there is none yet
    #[arg(long, value_name = "DIR", requires_all = ["other", "prompts"])]
    pub(crate) policy: Option<String>,
    /// The second policy; may be the same
    #[arg(long, value_name = "DIR", requires = "policy")]
    pub(crate) other: Option<String>,
    /// JSON lines with "prompt" or "messages"
    #[arg(long, value_name = "FILE", requires = "policy")]
    pub(crate) prompts: Option<PathBuf>,
    /// A reward model; with two or more, pairs that they disagree about most come first (repeatable)
    #[arg(long, value_name = "DIR", requires = "policy")]
    pub(crate) reward: Vec<String>,
    /// At most so many pairs; 0: one per prompt
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) most: usize,
    /// Plain prompts are what a user says: put them through the chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// Longest response, in tokens
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = super::positive)]
    pub(crate) max_new_tokens: usize,
    /// Divide the logits by this; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) temperature: f64,
    /// Root of the random streams
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Only say how far labelers agree: give their journals (NAME.labels.jsonl)
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["out", "labeler", "policy"])]
    pub(crate) agreement: Vec<PathBuf>,
    /// With --agreement: print one JSON object
    #[arg(long, requires = "agreement")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) batch: BatchArgs,
}

pub(super) const LABEL_HELP: &str = "\
Examples:
  tether label --policy runs/a/policy --other base --prompts p.jsonl \\
      --out pairs.jsonl --labeler ann
      Both answer every prompt; ann says which answer is better.
  tether label --out pairs.jsonl --labeler bob
      Another labeler, or ann another day: the same queue goes on where it was left.
  tether label --policy a --other b --prompts p.jsonl --out pairs.jsonl --labeler ann \\
      --reward rm-1 --reward rm-2 --reward rm-3 --most 200
      The 200 pairs that three reward models disagree about most.
  tether label --agreement pairs.labels.jsonl
      Agreement between labelers, and which policy wins.

Keys: 1 or left: the left is better, 2 or right: the right, t tie, s skip (comes back the
next time), u undo, r give a reason for the next choice, q quit. Where standard input is no
terminal, each line is a key (r with its text).";
