//! The names of commands and flags. They are a contract.

mod analyse;
mod compare;
mod govern;

use crate::exit_codes;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::sync::LazyLock;
use tetherline::Device;

pub(crate) use analyse::{DriftArgs, ExplainArgs, Judge, LabelArgs, ShowArgs};
pub(crate) use compare::{CompareArgs, SweepArgs};
pub(crate) use govern::*;

/// Align language models under a KL controller.
#[derive(Debug, Parser)]
#[command(name = "tether", version, after_help = HELP.as_str(), disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Show results, warnings and errors only
    #[arg(short, long, global = true, display_order = 1000)]
    pub(crate) quiet: bool,

    /// Log what happens inside (-vv: more)
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = 1001)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every stage of a recipe: SFT, reward model, PPO, evaluation, report
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Predict memory and time of a recipe and of its alternatives, before anything is loaded
    #[command(after_help = PLAN_HELP)]
    Plan(PlanArgs),
    /// Print the objective that a recipe comes to, as formulas with their numbers
    #[command(after_help = EXPLAIN_CONFIG_HELP)]
    ExplainConfig(ExplainConfigArgs),
    /// Run only the supervised fine-tuning of a recipe
    #[command(after_help = SFT_HELP)]
    Sft(RunArgs),
    /// Run only the reward-model training of a recipe
    #[command(after_help = REWARD_HELP)]
    Reward(RunArgs),
    /// Run only the PPO of a recipe
    #[command(after_help = PPO_HELP)]
    Ppo(RunArgs),
    /// Run only the direct preference optimisation of a recipe with [dpo]
    #[command(after_help = DPO_HELP)]
    Dpo(RunArgs),
    /// Run only the evaluation of a recipe
    #[command(after_help = EVAL_HELP)]
    Eval(RunArgs),
    /// Sample responses from a model
    #[command(after_help = GENERATE_HELP)]
    Generate(GenerateArgs),
    /// Score given responses: log-probs, KL to a reference, reward
    #[command(after_help = SCORE_HELP)]
    Score(ScoreArgs),
    /// Take apart how far a policy is from a reference: where, which words, side by side
    #[command(after_help = analyse::DRIFT_HELP)]
    Drift(DriftArgs),
    /// Explain why a run drifted: which updates, decisions, rewards, and where it shows
    #[command(after_help = analyse::EXPLAIN_HELP)]
    Explain(ExplainArgs),
    /// Judge pairs of responses in the terminal: preferences for the reward model
    #[command(after_help = analyse::LABEL_HELP)]
    Label(LabelArgs),
    /// Fold an adapter (LoRA) into plain weights
    #[command(after_help = EXPORT_HELP)]
    Export(ExportArgs),
    /// Look at data files
    #[command(subcommand, after_help = CHECK_HELP)]
    Data(DataCommand),
    /// KL controllers for other trainers: decide, replay a log, simulate
    #[command(subcommand, after_help = CONTROL_HELP)]
    Kl(KlCommand),
    /// Hold a candidate to what a gate file asks of it, against a baseline
    #[command(after_help = GATE_HELP)]
    Gate(GateArgs),
    /// Verify what a run recorded of itself, and recompute its decisions
    #[command(subcommand, after_help = AUDIT_HELP)]
    Audit(AuditCommand),
    /// Which policy is in production, how it came there and from what
    #[command(subcommand, after_help = POLICY_HELP)]
    Policy(PolicyCommand),
    /// Test policies against each other on the same prompts: win rate, score, gold
    #[command(after_help = compare::COMPARE_HELP)]
    Compare(CompareArgs),
    /// Run a recipe under several regimes and draw reward against KL
    #[command(after_help = compare::SWEEP_HELP)]
    Sweep(SweepArgs),
    /// Write the report of a run again
    #[command(after_help = REPORT_HELP)]
    Report(ReportArgs),
    /// Write a commented recipe to start from
    #[command(after_help = INIT_HELP)]
    Init(InitArgs),
}

/// A recipe and what to change about it.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A recipe file, or the name of an embedded recipe (quickstart, trl-parity, word-reward, chat)
    pub(crate) recipe: String,

    /// Change a value of the recipe, e.g. --set ppo.lr=1e-5 (repeatable; paths are relative to here)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) sets: Vec<(String, String)>,

    /// The run directory [default: runs/<name of the recipe>]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Continue the run in the run directory from its last checkpoint
    #[arg(long)]
    pub(crate) resume: bool,

    /// With --resume: go on although the guard halted the run; its counters start anew
    #[arg(long, requires = "resume")]
    pub(crate) after_halt: bool,

    /// Check everything cheap, print the plan and the resolved recipe, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Register the policy in the end, as `tether policy add` does [default: $TETHER_REGISTRY, else not at all]
    #[arg(long, value_name = "URL")]
    pub(crate) registry: Option<String>,
}

/// A recipe to plan.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A recipe file, or the name of an embedded recipe (quickstart, trl-parity, word-reward, chat)
    pub(crate) recipe: String,

    /// Change a value of the recipe, e.g. --set model.value=shared (repeatable; paths are relative to here)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) sets: Vec<(String, String)>,

    /// Tokens of a response on average [default: sampling.max_new_tokens, the most there can be]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) response_tokens: Option<usize>,

    /// Print one JSON object, in bytes and seconds, with every part
    #[arg(long)]
    pub(crate) json: bool,
}

/// A recipe to explain.
#[derive(Debug, Args)]
pub(crate) struct ExplainConfigArgs {
    /// A recipe file, or the name of an embedded recipe (quickstart, trl-parity, word-reward, chat)
    pub(crate) recipe: String,

    /// Change a value of the recipe, e.g. --set ppo.kl_in=loss (repeatable; paths are relative to here)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) sets: Vec<(String, String)>,
}

/// `key=value` in two.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("must be KEY=VALUE, for example ppo.lr=1e-5".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// A Hugging Face directory, a hub id (owner/name[@revision]), or "frontdesk"
    #[arg(long, value_name = "DIR")]
    pub(crate) model: String,
    /// JSON lines with "prompt" or "messages"
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,
    /// Where the responses go (JSON lines)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Longest response, in tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) max_new_tokens: usize,
    /// Divide the logits by this; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) temperature: f64,
    /// Draw from the K most likely tokens; 0: from all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: usize,
    /// Draw from the smallest set of tokens with probability P; 1: from all
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) top_p: f64,
    /// Also end a response at this text (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Root of the random streams: the same seed gives the same responses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Also write input_ids and prompt_len, so that `tether score` scores these very tokens
    #[arg(long)]
    pub(crate) input_ids: bool,
    /// Responses per prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) num_samples: u32,
    #[command(flatten)]
    pub(crate) batch: BatchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// A causal model (gives logprobs), a reward model or an encoder (give score)
    #[arg(long, value_name = "DIR")]
    pub(crate) model: String,
    /// A second causal model: also gives ref_logprobs, kl_k1 and kl_exact
    #[arg(long, value_name = "DIR")]
    pub(crate) reference: Option<String>,
    /// JSON lines with "prompt" and "response", "messages", or "input_ids" and "prompt_len"
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Where the scores go (JSON lines, one row per input row)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Add the end-of-sequence token to text responses
    #[arg(long)]
    pub(crate) append_eos: bool,
    #[command(flatten)]
    pub(crate) batch: BatchArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A directory with adapter_config.json and adapter_model.safetensors, or a hub id of one
    #[arg(long, value_name = "DIR")]
    pub(crate) merge: String,
    /// The Hugging Face directory to write; must not be there yet
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Write weights in bf16, half the size, rounded to nearest; f32 otherwise
    #[arg(long)]
    pub(crate) bf16: bool,
}

/// How rows are read and run, the same for every command without a recipe.
#[derive(Debug, Args)]
pub(crate) struct BatchArgs {
    /// Rows run together; does not change the results
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    pub(crate) batch_size: usize,
    /// Worker threads; 0: every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// What computes: cpu; graph, cuda, cuda:N or metal in a build with that feature
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    pub(crate) device: Device,
    /// Skip and count malformed or over-long lines instead of stopping
    #[arg(long)]
    pub(crate) skip_bad_lines: bool,
}

/// More sequences than any update has.
const MOST_EPISODES: u64 = 1_000_000_000;

/// A number in a range; NaN is in none.
fn within(text: &str, low: f64, high: f64) -> Result<f64, String> {
    match text.trim().parse() {
        Ok(x) if (low..=high).contains(&x) => Ok(x),
        _ => Err(format!("must be a number between {low} and {high}")),
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("must be a whole number above 0".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Say what a data file holds and list its bad lines
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// JSON lines or a JSON array, plain or gzipped
    pub(crate) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KlCommand {
    /// Read one KL observation a line on stdin, answer one decision a line on stdout
    #[command(after_help = CONTROL_HELP)]
    Control(ControlArgs),
    /// Show what a controller would have decided on the KL that a run logged
    #[command(after_help = REPLAY_HELP)]
    Replay(ReplayArgs),
    /// Try a controller, or every law, on a synthetic trainer
    #[command(after_help = SIMULATE_HELP)]
    Simulate(SimulateArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    /// TOML with a [kl] section: a file of its own, or a recipe
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Go on from this file where it exists, and save to it after every line
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// metrics.jsonl of Tetherline, TRL or verl, trainer_state.json, control.jsonl, or observations
    pub(crate) log: PathBuf,
    /// TOML with a [kl] section: a file of its own, or a recipe
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Sequences per update, where the log does not say
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(1..=MOST_EPISODES))]
    pub(crate) episodes: u64,
    /// About how many lines to show; the first of each kind of intervention in a row is always shown
    #[arg(long, value_name = "N", default_value_t = 20, allow_negative_numbers = true, value_parser = positive)]
    pub(crate) rows: usize,
    /// Also write every decision (JSON lines)
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// TOML with a [kl] section [default: every law with its defaults]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How KL answers to β
    #[arg(long, value_name = "KIND", default_value = "first-order",
          value_parser = ["first-order", "second-order", "saturating", "regime-switch", "floor"])]
    pub(crate) plant: String,
    /// Time constant at the target, updates
    #[arg(long, value_name = "N", default_value_t = 69.0, allow_negative_numbers = true,
          value_parser = |t: &str| within(t, 1.0, 1e6))]
    pub(crate) tau: f64,
    /// Target without --config, nats per sequence
    #[arg(long, value_name = "NATS", default_value_t = 6.0, allow_negative_numbers = true,
          value_parser = |t: &str| within(t, 1e-3, 1e6))]
    pub(crate) target: f64,
    /// Initial β without --config
    #[arg(long, value_name = "BETA", default_value_t = 0.2, allow_negative_numbers = true,
          value_parser = |t: &str| within(t, 1e-6, 1e6))]
    pub(crate) init: f64,
    /// Updates
    #[arg(long, value_name = "N", default_value_t = 3000, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    pub(crate) updates: u64,
    /// Sequences measured per update
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(1..=MOST_EPISODES))]
    pub(crate) n: u64,
    /// Updates between a measurement and the use of the β it leads to
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) delay: usize,
    /// Share of the gradient that the domains of [[kl.budget]] have in common
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, allow_negative_numbers = true,
          value_parser = |t: &str| within(t, 0.0, 1.0))]
    pub(crate) mixing: f64,
    /// Multiply the reward by this half way
    #[arg(long, value_name = "X", allow_negative_numbers = true,
          value_parser = |t: &str| within(t, 1e-3, 1e3))]
    pub(crate) jump: Option<f64>,
    /// Multiply every target by this half way
    #[arg(long, value_name = "X", allow_negative_numbers = true,
          value_parser = |t: &str| within(t, 1e-3, 1e3))]
    pub(crate) target_step: Option<f64>,
    /// Share of observations that are NaN
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, allow_negative_numbers = true,
          value_parser = |t: &str| within(t, 0.0, 1.0))]
    pub(crate) nan_rate: f64,
    /// Measure without noise after an update, for [kl.trust_region]
    #[arg(long)]
    pub(crate) exact_trials: bool,
    /// Runs to take the median of
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: u64,
    /// Draw KL and β of the (last) controller as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// A run directory
    pub(crate) run: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Which recipe: quickstart, trl-parity, word-reward, chat
    #[arg(long, value_name = "NAME", default_value = "quickstart")]
    pub(crate) preset: String,
    /// Where to write it [default: <NAME>.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Examples, then what the exit codes mean.
static HELP: LazyLock<String> = LazyLock::new(|| format!("{EXAMPLES}\n\n{}", exit_codes::HELP));

const EXAMPLES: &str = "\
Examples:
  tether run quickstart
      Align the embedded frontdesk model and write runs/quickstart/report.html.
  tether init --preset chat
      Write chat.toml, a commented recipe for your own model and data.";

const RUN_HELP: &str = "\
Examples:
  tether run quickstart
      Align the embedded frontdesk model; needs no files and no network.
  tether run my.toml --set ppo.lr=1e-5 --set kl.adaptive.target=4 --out runs/try-2
      Your own recipe with two values changed.
  tether run my.toml --out runs/try-2 --resume
      Continue after an interrupt or a crash; the result is the same as without it.

`tether init` writes a recipe to start from. Ctrl-C once saves a checkpoint and
says how to resume; twice stops at once.";

const PLAN_HELP: &str = "\
Examples:
  tether plan my.toml
      Peak memory by stage and part, seconds per step, and the same for other choices:
      shared or separate value function, adapter or frozen blocks, recomputation, bf16,
      kinds of reference.
  tether plan my.toml --set model.value=shared --response-tokens 40
      Another recipe, and responses that end after 40 tokens on average.
  tether plan my.toml --json > plan.json
      The same for a program.

Reads config.json, the tokenizer and the data, but no weights. Speed is measured here,
for some seconds, on a small random decoder of like width: it is that of the machine
as busy as it is now.";

const EXPLAIN_CONFIG_HELP: &str = "\
Examples:
  tether explain-config quickstart
      The loss of the policy, its advantages, the rewards, where the KL penalty stands and
      what moves its coefficient, the loss of the value function.
  tether explain-config my.toml --set ppo.advantages=grpo --set ppo.samples_per_prompt=8
      What a change makes of it; choices that make no sense together are refused.

Nothing is loaded. What there is to choose is in docs/algorithms.md.";

const SFT_HELP: &str = "\
Example:
  tether sft my.toml --out runs/a
      Fine-tunes on the demonstrations; the other stages of the same recipe can
      follow in the same run directory.";

const REWARD_HELP: &str = "\
Example:
  tether reward my.toml --out runs/a
      Trains the reward model on the preference pairs into runs/a/reward.";

const PPO_HELP: &str = "\
Example:
  tether ppo my.toml --out runs/a
      PPO from what `tether sft` and `tether reward` left in runs/a.";

const DPO_HELP: &str = "\
Example:
  tether dpo my.toml --out runs/a
      DPO (or IPO) on the preference pairs, from what `tether sft` left in runs/a. A recipe
      with [dpo] has it in place of PPO.";

const EVAL_HELP: &str = "\
Example:
  tether eval my.toml --out runs/a
      Measures the policy in runs/a against the one it started from.";

const GENERATE_HELP: &str = "\
Example:
  tether generate --model runs/a/policy --prompts prompts.jsonl --out responses.jsonl \\
      --temperature 0.7 --num-samples 4 --seed 1

Each row written has prompt, response, token_ids, logprobs (nats, of the tempered
distribution before top-k and top-p) and stop_reason.

Text that is encoded again may be cut into other tokens. To score exactly what was
sampled, with the same tokenizer:
  tether generate --model m --prompts p.jsonl --input-ids --out r.jsonl
  tether score --model m --data r.jsonl --out s.jsonl";

const EXPORT_HELP: &str = "\
Examples:
  tether export --merge runs/lora/policy --out aligned
      Add the adapter that a run with [model.adapter] trained to its base. The result needs
      neither the base nor peft: `tether`, transformers and others load it like any model.
  tether export --merge runs/lora/policy --out aligned-bf16 --bf16
      The same in half the space.";

const SCORE_HELP: &str = "\
Examples:
  tether score --model runs/a/policy --reference base --data rows.jsonl --out scores.jsonl
      logprobs, ref_logprobs, kl_k1 and kl_exact, one number per response token, in nats.
  tether score --model runs/a/reward --data rows.jsonl --out scores.jsonl
      A reward-model directory gives one score per row.

Prompt and response are encoded as one text; a token that straddles the boundary
belongs to the response.";

const CHECK_HELP: &str = "\
Example:
  tether data check pairs.jsonl.gz
      Which kind of rows, how many, domains, and each bad line with what was expected.";

const CONTROL_HELP: &str = "\
Example:
  tether kl control --config kl.toml --state kl-state.json
      < {\"step\": 7, \"domains\": [{\"id\": \"all\", \"mean_kl\": 5.2, \"var\": 11.0, \"n\": 512}]}
      > {\"step\": 7, \"beta\": {\"all\": 0.21}, \"verdict\": \"accept\", ...}
  where kl.toml holds for example
      [kl.auto_pi]
      init = 0.2
      target = 6.0    # nats per sequence

mean_kl is in nats per sequence, var the variance across sequences; numbers that
are not finite are null, or NaN and Infinity as Python writes them. A line that is
no observation is answered with {\"error\": ...} and changes nothing.

The verdict `rollback` asks for a checkpoint of the trainer's. Two more lines keep
the controller in step with it; the newest 8 are kept:
      < {\"checkpoint\": 40}     after the trainer has saved one
      > {\"checkpoint\": 40, \"kept\": [20, 40]}
      < {\"rollback\": 40}       after the trainer has restored it
      > {\"rollback\": 40, \"beta\": {\"all\": 0.23}}
The verdict `halt` stays until someone has looked and says so:
      < {\"release\": 57}
      > {\"release\": 57, \"beta\": {\"all\": 0.23}}";

const REPLAY_HELP: &str = "\
Example:
  tether kl replay runs/a/metrics.jsonl --config kl.toml
      β in the log beside the β this controller would have chosen, and why.

A replay answers for the controller alone: under another β, KL would have been
another one too.";

const SIMULATE_HELP: &str = "\
Examples:
  tether kl simulate --seeds 20
      Every law with its defaults: overshoot, settling, share in band, bias.
  tether kl simulate --config kl.toml --plant second-order --delay 5 --svg trace.svg
      One composition on another plant, drawn.
  tether kl simulate --target-step 0.5 --jump 1.5
      How fast each law follows a change half way.";

const REPORT_HELP: &str = "\
Example:
  tether report runs/quickstart
      Reads the logs in the run directory and writes report.html beside them.";

const INIT_HELP: &str = "\
Example:
  tether init --preset word-reward
      Writes word-reward.toml; edit it, then: tether run word-reward.toml

Presets:
  quickstart   the embedded frontdesk world, SFT to report, under an adaptive KL controller
  trl-parity   PPO with the choices of TRL's PPOTrainer, for comparing curves
  word-reward  any causal model, a keyword rule as the reward, no reward model
  chat         a chat model from your own conversations and preference pairs";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_presets_in_the_help_are_the_embedded_recipes() {
        for e in tetherline::recipe::EMBEDDED {
            assert!(INIT_HELP.contains(&format!("  {:<12} {}", e.name, e.about)), "{}", e.name);
        }
    }

    #[test]
    fn a_number_outside_its_range_is_refused() {
        assert_eq!((within("0", 0.0, 1.0), within("1", 0.0, 1.0)), (Ok(0.0), Ok(1.0)));
        for text in ["NaN", "-0.1", "1.1", "inf", "", "x"] {
            assert_eq!(within(text, 0.0, 1.0), Err("must be a number between 0 and 1".to_owned()), "{text}");
        }
    }

    #[test]
    fn a_set_is_split_at_its_first_equals_sign() {
        assert_eq!(key_value("a.b = x=y"), Ok(("a.b".to_owned(), "x=y".to_owned())));
        assert!(key_value("a.b").is_err() && key_value("=3").is_err());
    }
}
