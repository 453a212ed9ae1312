//! Repository chores, run as `cargo xtask COMMAND`. See [`USAGE`].
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks on its terminal")]

mod bench;
mod ci;
mod e2e;
mod fixtures;
mod process;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  ci [STEP…]            everything CI checks, cheapest first: fmt tidy clippy test doc e2e
  tidy                  the layer table and the rules that no compiler checks
  e2e [OPTION…]         every stage through the real `tether` binary, on the models in fixtures/models
      --hub             also load a model from the real hub (needs a network)
      --tether PATH     use this binary instead of building one
      --only WORD       only the groups with WORD in their name: a model, \"bad input\", hub
  bench [OPTION…]       how fast our crates are, beside a stored baseline; --save stores one
      --peers           beside TRL, transformers, torch and llama.cpp
      --scaling         against size, batch, length, vocabulary and threads: writes docs/scaling.md
      --compare REV     beside another revision
      --only WORD, --threads 1,2, --repeat N, --model S|M, --dtype bf16, --quiet N
  fixtures [--text]     write fixtures/ anew; --text leaves out what has to be trained";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let result = match args.first().map(String::as_str) {
        Some("ci") => ci::run(rest),
        Some("bench") => bench::run(rest),
        Some("tidy") => tidy::run(rest),
        Some("e2e") => e2e::run(rest),
        Some("fixtures") => fixtures::run(rest),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(other) => Err(anyhow::anyhow!("there is no command {other:?}\n\n{USAGE}")),
        None => Err(anyhow::anyhow!("which command?\n\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
