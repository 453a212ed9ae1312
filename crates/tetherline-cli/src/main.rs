//! `tether`: the Tetherline command line.
//!
//! This crate alone reads the environment, the clock and the terminal. What a command does lives in the
//! `tetherline` crate; what it is called lives in `cli.rs`; how it ends lives in `exit_codes.rs`.

mod cli;
mod commands;
#[cfg(feature = "hub")]
mod downloads;
mod exit_codes;
mod interrupt;
mod output;
mod progress;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    tetherline::give_back_freed_blocks();
    let cli = cli::Cli::parse();
    output::start_tracing(cli.verbose);
    #[cfg(feature = "hub")]
    downloads::show(progress::Show::choose(cli.quiet, cli.verbose));
    match commands::dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            output::error(&e);
            ExitCode::from(exit_codes::of(&e))
        }
    }
}
