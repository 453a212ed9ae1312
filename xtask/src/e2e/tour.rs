//! `docs/tour.md`, run as it stands: what a reader copies is what is checked.
//!
//! - A `toml` or `jsonl` block whose first line is `# file: NAME` is written to NAME, JSON without that line.
//! - In `sh` blocks every line is a command of `tether`, one after the other in one directory; a backslash at its end
//!   joins it with the next. A line must succeed, or exit as its comment says: `# exits 1`.
//! - In a `text` block every line but `…` must be part of what the commands of the last `sh` block wrote, spaces aside.

use super::checks::Checks;
use super::tether::Tether;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::fs;

/// A block of the page between two fences.
#[derive(Debug, PartialEq, Eq)]
struct Block<'p> {
    language: &'p str,
    text: String,
    /// The line of the page that it starts at.
    line: usize,
}

/// Runs the page.
pub(super) fn check(checks: &mut Checks, tether: &Tether) {
    checks.check("tour: docs/tour.md, every command", || {
        let path = crate::process::root().join("docs").join("tour.md");
        let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut said = String::new();
        let mut commands = 0;
        for block in blocks(&page) {
            let place = format!("docs/tour.md, line {}", block.line);
            match block.language {
                "toml" => write(tether, &block.text, true).context(place)?,
                "jsonl" => write(tether, &block.text, false).context(place)?,
                "sh" => {
                    said.clear();
                    for line in lines(&block.text) {
                        said += &run(tether, &line).with_context(|| place.clone())?;
                        commands += 1;
                    }
                }
                "text" => compare(&block.text, &said).context(place)?,
                _ => {}
            }
        }
        ensure!(commands > 0, "the page has no command");
        Ok(())
    });
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (i, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some(Block { language, text: String::new(), line: i + 2 }),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text += line;
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    blocks
}

fn write(tether: &Tether, text: &str, whole: bool) -> Result<()> {
    let Some((first, rest)) = text.split_once('\n') else { return Ok(()) };
    let Some(name) = first.strip_prefix("# file: ") else { return Ok(()) };
    ensure!(!name.contains(['/', '\\']), "{name} is not a plain name");
    let text = if whole { text } else { rest };
    fs::write(tether.path(name), text).with_context(|| format!("cannot write {name}"))
}

/// The commands of a block.
fn lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    joined
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn run(tether: &Tether, line: &str) -> Result<String> {
    let (command, comment) = line.split_once(" # ").unwrap_or((line, ""));
    let expected = match comment.trim().strip_prefix("exits ") {
        Some(code) => code.split_whitespace().next().and_then(|c| c.parse().ok()).context("exits what?")?,
        None => 0,
    };
    let words = words(command)?;
    ensure!(words.first().is_some_and(|w| w == "tether"), "`{command}` is no command of tether");
    let args: Vec<OsString> = words[1..].iter().map(OsString::from).collect();
    let outcome = tether.run(&args)?;
    let found = outcome.status.code();
    if found != Some(expected) || outcome.panicked() {
        bail!("`{command}` exited with {found:?}, not {expected}\n{}", outcome.text);
    }
    Ok(outcome.text)
}

/// Words between spaces; single and double quotes keep spaces.
fn words(command: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    ensure!(quote.is_none(), "`{command}` has an open quote");
    words.extend(word);
    Ok(words)
}

fn compare(expected: &str, said: &str) -> Result<()> {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said_plain = plain(said);
    for line in expected.lines().map(plain).filter(|l| !l.is_empty() && l != "…") {
        if !said_plain.contains(&line) {
            bail!("the output does not have `{line}`\n{said}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_taken_apart() {
        let page = "text\n```toml\n# file: a.toml\nx = 1\n```\nmore\n```sh\ntether run a \\\n  --out 'b c' # exits 3\n\
                    # a comment\ntether list\n```\n";
        let found = blocks(page);
        assert_eq!(found.iter().map(|b| (b.language, b.line)).collect::<Vec<_>>(), [("toml", 3), ("sh", 8)]);
        let commands = lines(&found[1].text);
        assert_eq!(commands, ["tether run a    --out 'b c' # exits 3", "tether list"]);
        assert_eq!(
            words("tether run a --out 'b c' \"\"").unwrap(),
            ["tether", "run", "a", "--out", "b c", ""]
        );
        assert!(words("tether 'a").is_err());
    }

    #[test]
    fn what_a_page_shows_must_be_said() {
        let said = "policy   a\nstage    production\n";
        assert!(compare("policy a\n…\nstage production\n", said).is_ok());
        assert!(compare("stage canary\n", said).is_err());
    }
}
