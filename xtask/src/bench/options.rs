//! The arguments of `cargo xtask bench`.

use super::machine::cores;
use super::works::WORKS;
use anyhow::{Context, Result, bail, ensure};

const USAGE: &str = "\
usage: cargo xtask bench [--peers | --compare REV | --save] [OPTION…]

  (nothing)       our side alone, beside the stored baseline
  --save          the same, and store it as this machine's baseline
  --peers         beside TRL, transformers and torch (a Python environment under target/bench)
  --compare REV   beside another revision of this repository

  --only WORD     only the works with WORD in their name
  --threads LIST  numbers of threads (default 1,2)
  --repeat N      processes of each kind (default 3)
  --model S|M     only this model
  --quiet N       before each process wait up to N seconds until others leave the CPU alone (Linux)";

/// What our side is put beside.
pub(super) enum Mode {
    /// A stored baseline.
    Alone {
        /// Whether to store a new one.
        save: bool,
    },
    /// The peers.
    Peers,
    /// A revision.
    Compare(String),
}

pub(super) struct Options {
    pub(super) mode: Mode,
    pub(super) only: Option<String>,
    pub(super) threads: Vec<usize>,
    pub(super) repeat: usize,
    pub(super) models: Vec<String>,
    /// Seconds to wait for a quiet machine before each process.
    pub(super) quiet: usize,
}

impl Options {
    pub(super) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self {
            mode: Mode::Alone { save: false },
            only: None,
            threads: if cores() > 1 { vec![1, 2] } else { vec![1] },
            repeat: 3,
            models: vec!["S".to_owned(), "M".to_owned()],
            quiet: 0,
        };
        let mut modes = 0;
        let mut args = args.iter().map(String::as_str);
        while let Some(flag) = args.next() {
            let mut value = || args.next().with_context(|| format!("{flag} takes a value\n\n{USAGE}"));
            match flag {
                "--peers" => options.mode = Mode::Peers,
                "--save" => options.mode = Mode::Alone { save: true },
                "--compare" => options.mode = Mode::Compare(value()?.to_owned()),
                "--only" => options.only = Some(value()?.to_owned()),
                "--threads" => options.threads = numbers(value()?)?,
                "--repeat" => options.repeat = numbers(value()?)?[0],
                "--quiet" => options.quiet = numbers(value()?)?[0],
                "--model" => options.models = vec![model(value()?)?],
                other => bail!("unknown option {other:?}\n\n{USAGE}"),
            }
            modes += usize::from(matches!(flag, "--peers" | "--save" | "--compare"));
        }
        ensure!(modes <= 1, "--peers, --compare and --save exclude each other\n\n{USAGE}");
        if let Some(word) = &options.only {
            let names: Vec<&str> = WORKS.iter().map(|w| w.name).collect();
            ensure!(
                names.iter().any(|n| n.contains(word.as_str())),
                "no work has {word:?} in its name: {}",
                names.join(", ")
            );
        }
        Ok(options)
    }

    /// Whether a work is asked for.
    pub(super) fn wants(&self, work: &str) -> bool {
        self.only.as_ref().is_none_or(|word| work.contains(word.as_str()))
    }
}

/// Positive numbers, separated by commas.
fn numbers(text: &str) -> Result<Vec<usize>> {
    let parse = |part: &str| part.parse().ok().filter(|n| *n > 0);
    text.split(',').map(|p| parse(p).with_context(|| format!("expected a number, found {p:?}"))).collect()
}

fn model(text: &str) -> Result<String> {
    ensure!(matches!(text, "S" | "M"), "there is no model {text:?}; there are S and M");
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read() {
        let o = parse("--peers --only sampl --threads 2,4 --repeat 5 --model M").unwrap();
        assert!(matches!(o.mode, Mode::Peers));
        assert_eq!((o.threads, o.repeat, o.models), (vec![2, 4], 5, vec!["M".to_owned()]));
        assert!(matches!(parse("--compare HEAD~1").unwrap().mode, Mode::Compare(r) if r == "HEAD~1"));
        assert!(matches!(parse("").unwrap().mode, Mode::Alone { save: false }));
    }

    #[test]
    fn wrong_options_are_refused() {
        for bad in ["--peers --save", "--threads 0", "--threads", "--only nothing", "--model L", "--fast"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
