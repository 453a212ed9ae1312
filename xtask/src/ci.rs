//! `cargo xtask ci`: everything CI checks, cheapest first, so that a slip is found early.
//!
//! Stops at the first step that fails. Ends with a table of the steps and, from the captured output of
//! the tests, how many were skipped and why (a test that cannot run prints `SKIPPED: reason`).

use crate::process;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// (name, what it runs).
type Step = (&'static str, fn() -> Command);

/// The candle graph, frozen encoders and PostgreSQL, which the default build leaves out, are checked too.
const OPTIONAL: &str =
    "tetherline-cli/graph,tetherline-rollout/graph,tetherline-cli/encoders,tetherline-cli/postgres";

const STEPS: &[Step] = &[
    ("fmt", || process::cargo(&["fmt", "--all", "--check"])),
    ("tidy", || xtask("tidy")),
    ("clippy", || {
        let what = ["clippy", "--workspace", "--all-targets", "--features", OPTIONAL, "--", "-D", "warnings"];
        process::cargo(&what)
    }),
    // --show-output, because cargo hides what passing tests print, and a skipped test passes.
    ("test", || {
        let what = ["test", "--workspace", "--no-fail-fast", "--features", OPTIONAL, "--", "--show-output"];
        process::cargo(&what)
    }),
    ("doc", || {
        let mut command = process::cargo(&["doc", "--workspace", "--no-deps", "--features", OPTIONAL]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        command
    }),
    ("e2e", || xtask("e2e")),
];

/// This program again, with another command.
fn xtask(command: &str) -> Command {
    let mut again = match std::env::current_exe() {
        Ok(exe) if exe.is_file() => Command::new(exe),
        _ => process::cargo(&["xtask"]),
    };
    again.arg(command).current_dir(process::root());
    again
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(unknown) = args.iter().find(|a| !STEPS.iter().any(|(name, _)| name == a)) {
        let known: Vec<_> = STEPS.iter().map(|(name, _)| *name).collect();
        bail!("ci has no step {unknown:?}; it has {}", known.join(", "));
    }
    let logs = process::target_dir()?.join("ci");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;

    let start = Instant::now();
    let mut table = Vec::new();
    let mut skipped = BTreeMap::new();
    let mut failed = None;
    for (name, command) in STEPS {
        if !args.is_empty() && !args.iter().any(|a| a == name) {
            continue;
        }
        if failed.is_some() {
            table.push(format!("  {name:<8} not run"));
            continue;
        }
        println!("\n== {name}");
        let step_start = Instant::now();
        let log = logs.join(format!("{name}.log"));
        let passed = run_step(&mut command(), &log, *name == "test")?;
        let verdict = if passed { "ok" } else { "FAILED" };
        table.push(format!("  {name:<8} {verdict:<7} {:>7.1} s", step_start.elapsed().as_secs_f64()));
        count_skips(&fs::read_to_string(&log)?, &mut skipped);
        if !passed {
            failed = Some((*name, log));
        }
    }

    println!("\n== summary\n{}\n  in all {:>15.1} s", table.join("\n"), start.elapsed().as_secs_f64());
    println!("  skipped  {} tests", skipped.values().sum::<usize>());
    for (reason, count) in &skipped {
        println!("    {count} × {reason}");
    }
    match failed {
        None => Ok(()),
        Some((name, log)) => bail!(
            "ci stopped at {name}; compiler messages are above, all else it printed is in {}",
            log.display()
        ),
    }
}

/// Runs a step, what it prints on standard output into `log`. Shows all of it, or of tests only the gist.
fn run_step(command: &mut Command, log: &Path, gist: bool) -> Result<bool> {
    let mut file = fs::File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    // Compiler messages come on standard error and are shown as they come.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut in_failures = false;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end_matches('\r').to_owned();
        writeln!(file, "{line}")?;
        // `failures:` opens the part of a test binary's output that says what went wrong.
        in_failures = match line.as_str() {
            "failures:" => true,
            l => in_failures && !l.starts_with("running "),
        };
        if !gist || in_failures || line.starts_with("test result:") || line.ends_with("FAILED") {
            println!("{line}");
        }
    }
    Ok(child.wait()?.success())
}

/// Counts the `SKIPPED: reason` lines of a log by reason.
fn count_skips(log: &str, into: &mut BTreeMap<String, usize>) {
    for line in log.lines() {
        if let Some((_, reason)) = line.split_once("SKIPPED: ") {
            *into.entry(reason.trim().to_owned()).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_are_counted_by_reason() {
        let log =
            "---- a stdout ----\nSKIPPED: no oracle\n\nSKIPPED: no oracle\r\ntest x ... SKIPPED: no sh\nok\n";
        let mut found = BTreeMap::new();
        count_skips(log, &mut found);
        let found: Vec<_> = found.iter().map(|(r, n)| (r.as_str(), *n)).collect();
        assert_eq!(found, [("no oracle", 2), ("no sh", 1)]);
    }
}
