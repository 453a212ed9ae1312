//! The flags of `tether compare` and `tether sweep`.

use super::{key_value, positive, within};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use tetherline::compare::Metric;
use tetherline::sweep::{Axis, parse_axis};

/// Policies to compare.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Two or more run directories, model directories, hub ids or "frontdesk"; the first is the baseline
    #[arg(required = true, num_args = 2.., value_name = "POLICY")]
    pub(crate) policies: Vec<String>,
    /// The recipe that says on which prompts and by which reward [default: that of the first run directory]
    #[arg(long, value_name = "RECIPE")]
    pub(crate) recipe: Option<String>,
    /// Change a value of --recipe, e.g. --set eval.temperature=0.7 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value, requires = "recipe")]
    pub(crate) sets: Vec<(String, String)>,
    /// Who decides who wins: score, score/PART (as in the logs), gold, or another reward model
    #[arg(long, value_name = "JUDGE", default_value = "score")]
    pub(crate) judge: String,
    /// A program as the judge; reads {"prompt", "a", "b"}, writes how far b is better: 0, 0.5, 1 (split at spaces)
    #[arg(long, value_name = "COMMAND", conflicts_with = "judge")]
    pub(crate) judge_command: Option<String>,
    /// Most prompts [default: all held-out prompts]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) prompts: Option<usize>,
    /// Answers per prompt [default: eval.samples of the recipe]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) samples: Option<usize>,
    /// Allowed probability of any false claim
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = |t: &str| within(t, 1e-6, 0.5))]
    pub(crate) alpha: f64,
    /// The metric whose decision ends the comparison
    #[arg(long, value_name = "METRIC", default_value = "win-rate")]
    pub(crate) decide_on: DecideOn,
    /// Answer every prompt, whatever is decided before
    #[arg(long)]
    pub(crate) all: bool,
    /// Also write the result (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Also write a page with tables and figures
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Worker threads; 0: every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
}

/// A metric that is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DecideOn {
    WinRate,
    Score,
    Gold,
}

impl From<DecideOn> for Metric {
    fn from(metric: DecideOn) -> Self {
        match metric {
            DecideOn::WinRate => Metric::WinRate,
            DecideOn::Score => Metric::Score,
            DecideOn::Gold => Metric::Gold,
        }
    }
}

/// A recipe and the regimes to run it under.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// A recipe file, or the name of an embedded recipe (quickstart, trl-parity, word-reward, chat)
    pub(crate) recipe: String,
    /// A key and its values, e.g. --grid kl.target=2,4,8 (repeatable: grids multiply)
    #[arg(long = "grid", value_name = "KEY=A,B,C", value_parser = parse_axis, required = true)]
    pub(crate) grid: Vec<Axis>,
    /// Change a value of the recipe for every regime (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) sets: Vec<(String, String)>,
    /// Runs per regime, each with a seed of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) seeds: u64,
    /// Runs at a time [default: as many as there are cores]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) jobs: Option<usize>,
    /// The directory of the sweep [default: sweeps/<name of the recipe>]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the sweep in that directory
    #[arg(long)]
    pub(crate) resume: bool,
}

pub(crate) const COMPARE_HELP: &str = "\
Examples:
  tether compare runs/a runs/b
      Does b beat a? Both answer held-out prompts of a's recipe with the same random
      streams; the reward of a's run decides who wins. Stops as soon as it is decided.
  tether compare runs/a runs/b runs/c --judge gold --all --html ab.html
      Two candidates, judged by the world's gold rubric, on every prompt.
  tether compare base runs/a/policy --recipe my.toml --judge-command \"python judge.py\"
      Models without a run; a program compares each pair in both orders.

p-values and intervals are valid whenever one stops; Holm's method corrects over all
metrics and candidates.";

pub(crate) const SWEEP_HELP: &str = "\
Examples:
  tether sweep quickstart --grid kl.target=2,4,8
      Three runs, side by side; sweeps/quickstart/frontier.html shows reward against KL
      and names the regimes that another one beats in both.
  tether sweep my.toml --grid kl.fixed.init=0.02,0.1 --grid ppo.lr=1e-5,3e-5 --seeds 3
      Twelve runs; intervals over the seeds.
  tether sweep my.toml --grid kl.target=2,4,8 --resume
      Go on after an interrupt: finished runs are read, others go on from their checkpoint.

kl.target and kl.init mean those of the recipe's law. SFT and reward model are trained
once per seed where the grid does not concern them.";
