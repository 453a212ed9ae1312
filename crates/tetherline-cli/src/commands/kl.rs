//! `tether kl control | replay`.

use super::simulate::{cut, short};
use crate::cli::{ControlArgs, ReplayArgs};
use crate::output;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use tetherline::Error;
use tetherline::control::{Stream, load_config};
use tetherline::replay::{Entry, Replayed, replay};
use tetherline_kl::{Combine, DomainKl, KlConfig, Verdict};

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

/// Shows β in the log against β of the controller, a row per domain.
pub(crate) fn replayed(args: &ReplayArgs) -> anyhow::Result<()> {
    let config = load_config(&args.config)?;
    let entries = replay(&config, &args.log, args.episodes)?;
    let observed = |entry: &Entry| match entry {
        Entry::Observed(r) => Some(r.observation.domains.len().max(1)),
        _ => None,
    };
    // The sequences of the log, which are `--episodes` where it does not say.
    let of = |entry: &Entry| match entry {
        Entry::Observed(r) => r.observation.domains.iter().map(|d| d.n).max(),
        _ => None,
    };
    warn(&config, entries.iter().filter_map(of).max());
    if let Some(path) = &args.out {
        let decisions = entries.iter().filter_map(|entry| match entry {
            Entry::Observed(r) => Some(&r.decision),
            _ => None,
        });
        let lines = decisions.map(|d| serde_json::to_string(d).map(|line| line + "\n"));
        write(path, &lines.collect::<Result<String, _>>()?)?;
    }
    output::result(&format!(
        "{:>8} {:<12} {:>9} {:>9} {:>9}  {:<8} why",
        "step", "domain", "KL", "β logged", "β", "verdict"
    ));
    let all = entries.iter().filter_map(observed).sum::<usize>();
    let stride = all.div_ceil(args.rows.max(1)).max(1);
    let (mut before, mut lines, mut due, mut summed) = (None, 0, 0, false);
    let last = entries.iter().filter(|e| observed(e).is_some()).count();
    let mut seen = 0;
    for entry in &entries {
        let replayed = match entry {
            Entry::Observed(replayed) => replayed,
            Entry::Checkpoint(_) => continue,
            Entry::RolledBack(step) => {
                output::result(&format!("{:>8} the trainer went back to its checkpoint of step {step}", ""));
                continue;
            }
            Entry::Released(step) => {
                output::result(&format!("{:>8} a person released the halt at step {step}", ""));
                continue;
            }
        };
        seen += 1;
        summed |= replayed.decision.combine == Combine::Sum;
        // The same intervention again says nothing new.
        let kind = (replayed.decision.verdict, replayed.decision.reason.code());
        let calm = before.replace(kind) == Some(kind) || replayed.decision.verdict == Verdict::Accept;
        let turn = lines >= due;
        if turn {
            due = (lines / stride + 1) * stride;
        }
        lines += replayed.observation.domains.len().max(1);
        if !calm || turn || seen == last {
            output::result(&rows(replayed)?);
        }
        if !calm {
            output::result(&wrapped(&replayed.decision.reason.to_string(), 10));
        }
    }
    if summed {
        output::result("\nβ is that of each id; a row's β is the sum over the ids it belongs to.");
    }
    Ok(())
}

/// An observation's domains: KL of each beside its own β. Verdict and reason are of the whole observation.
fn rows(replayed: &Replayed) -> anyhow::Result<String> {
    let Replayed { observation, logged_beta, decision, .. } = replayed;
    let verdict = serde_json::to_value(decision.verdict)?;
    let (verdict, why) = (verdict.as_str().unwrap_or_default(), decision.reason.code().as_str());
    let number = |x: f64, digits| if x.is_finite() { short(x, 9, digits) } else { format!("{x}") };
    let beta =
        |map: &BTreeMap<String, f64>, id: &str| map.get(id).map_or_else(|| "-".to_owned(), |b| number(*b, 5));
    let step = observation.step;
    let mut domains: Vec<_> = observation.domains.iter().collect();
    domains.sort_by(|a, b| a.id.cmp(&b.id));
    if domains.is_empty() {
        return Ok(format!("{step:>8} {:<12} {:>9} {:>9} {:>9}  {verdict:<8} {why}", "-", "-", "-", "-"));
    }
    let row = |(i, d): (usize, &&DomainKl)| {
        let kl = if d.n == 0 { "-".to_owned() } else { number(d.mean_kl.0, 4) };
        let (logged, now) = (beta(logged_beta, &d.id), beta(&decision.beta, &d.id));
        let line = format!("{step:>8} {:<12} {kl:>9} {logged:>9} {now:>9}", cut(&d.id, 12));
        if i == 0 { format!("{line}  {verdict:<8} {why}") } else { line }
    };
    Ok(domains.iter().enumerate().map(row).collect::<Vec<_>>().join("\n"))
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
