//! `tether kl control | replay`.

use crate::cli::{ControlArgs, ReplayArgs};
use crate::output;
use std::io::{BufRead, Write};
use std::path::Path;
use tetherline::Error;
use tetherline::control::{Stream, load_config};
use tetherline::replay::replay;
use tetherline_kl::{ControlDecision, KlConfig, Verdict};

/// Columns of a terminal that every table fits.
const COLUMNS: usize = 80;

/// Says what is allowed in a section but probably not meant.
pub(super) fn warn(config: &KlConfig, episodes_per_update: Option<u64>) {
    for warning in config.warnings(episodes_per_update) {
        output::line(&format!("warning: kl.{warning}"));
    }
}

/// Writes a file that was asked for.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })
}

/// Answers every line of stdin at once.
pub(crate) fn control(args: &ControlArgs) -> anyhow::Result<()> {
    let config = load_config(&args.config)?;
    // How many sequences an update has, only the observations say.
    warn(&config, None);
    let mut stream = Stream::new(&config, args.state.clone())?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().split(b'\n') {
        // What is not UTF-8 is a malformed line like any other: it is answered, and the stream goes on.
        if let Some(answer) = stream.answer(&String::from_utf8_lossy(&line?))? {
            writeln!(out, "{answer}")?;
            out.flush()?;
        }
    }
    Ok(())
}

/// Shows β in the log against β of the controller.
pub(crate) fn replayed(args: &ReplayArgs) -> anyhow::Result<()> {
    let config = load_config(&args.config)?;
    let rows = replay(&config, &args.log, args.episodes)?;
    // The sequences of the log, which are `--episodes` where it does not say.
    warn(&config, rows.iter().flat_map(|r| &r.observation.domains).map(|d| d.n).max());
    if let Some(path) = &args.out {
        let text: String = rows
            .iter()
            .map(|r| serde_json::to_string(&r.decision).map(|line| line + "\n"))
            .collect::<Result<_, _>>()?;
        write(path, &text)?;
    }
    output::result(&format!(
        "{:>8} {:>10} {:>10} {:>10}  {:<9} why",
        "step", "KL", "β logged", "β", "verdict"
    ));
    let stride = rows.len().div_ceil(args.rows.max(1)).max(1);
    let kind = |d: &ControlDecision| (d.verdict, d.reason.code());
    for (i, r) in rows.iter().enumerate() {
        // The same intervention again says nothing new.
        let again = i > 0 && kind(&rows[i - 1].decision) == kind(&r.decision);
        let calm = again || r.decision.verdict == Verdict::Accept;
        if calm && i % stride != 0 && i + 1 != rows.len() {
            continue;
        }
        let kl = r.observation.domains.first().map_or(f64::NAN, |d| d.mean_kl.0);
        let logged = r.logged_beta.map_or_else(|| "-".to_owned(), |b| format!("{b:.5}"));
        let verdict = serde_json::to_value(r.decision.verdict)?;
        output::result(&format!(
            "{:>8} {kl:>10.4} {logged:>10} {:>10.5}  {:<9} {}",
            r.observation.step,
            r.decision.beta_for(tetherline_kl::ALL),
            verdict.as_str().unwrap_or_default(),
            r.decision.reason.code().as_str()
        ));
        if !calm {
            output::result(&wrapped(&r.decision.reason.to_string(), 10));
        }
    }
    Ok(())
}

/// A text broken at spaces into lines of a terminal, each indented.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let column = lines.last().map_or(0, |l| l.chars().count());
        if column > 0 && indent + column + 1 + word.chars().count() > COLUMNS {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    let indented: Vec<_> = lines.iter().map(|line| format!("{:indent$}{line}", "")).collect();
    indented.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_broken_at_spaces() {
        let long = "β ".repeat(50) + &"x".repeat(90);
        let lines: Vec<_> = wrapped(&long, 10).lines().map(|l| l.chars().count()).collect();
        assert_eq!(lines, [79, 39, 100]);
        assert_eq!(wrapped("", 2), "  ");
    }
}
