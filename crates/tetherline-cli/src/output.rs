//! Everything that reaches the terminal goes through here: results to stdout, the rest to stderr.

use std::io::{IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// A result, to stdout. A closed pipe (`| head`) is no error.
pub(crate) fn result(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line for the person watching, to stderr.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Why the command ends. Messages are complete in themselves; causes are part of them.
pub(crate) fn error(error: &anyhow::Error) {
    line(&format!("error: {error}"));
}

/// Whether a person is watching stderr.
pub(crate) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Logs to stderr: warnings, with `-v` info, with `-vv` debug; `TETHER_LOG` overrides.
pub(crate) fn start_tracing(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("TETHER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal())
        .without_time()
        .init();
}
