//! The arguments of `cargo xtask bench`.

use super::machine::cores;
use super::works::{WORKS, Work};
use anyhow::{Context, Result, bail, ensure};

const USAGE: &str = "\
usage: cargo xtask bench [--peers | --compare REV | --scaling | --redraw | --save] [OPTION…]

  (nothing)       our side alone, beside the stored baseline
  --save          the same, and store it as this machine's baseline
  --peers         beside TRL, transformers, torch and llama.cpp (made under target/bench)
  --compare REV   beside another revision of this repository
  --scaling       time and memory against size, batch, length, vocabulary and threads, and the
                  roofline: writes docs/scaling.md and its figures (about five minutes)
  --redraw        writes them again from what --scaling and the last --peers measured

  --only WORD     only the works with WORD in their name: ppo, sampling, llama, train-step,
                  reward-step, gemm-peak, and time-to-reward, which runs only when named
  --threads LIST  numbers of threads (default 1,2)
  --repeat N      processes of each kind (default 3)
  --model S|M     only this model
  --dtype bf16    our side in bf16 too
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
    /// Nothing: other sizes of the work.
    Scaling,
    /// The same from what was measured before.
    Redraw,
}

pub(super) struct Options {
    pub(super) mode: Mode,
    pub(super) only: Option<String>,
    pub(super) threads: Vec<usize>,
    pub(super) repeat: usize,
    pub(super) models: Vec<String>,
    /// Whether our side is measured in bf16 too.
    pub(super) bf16: bool,
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
            bf16: false,
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
                "--scaling" => options.mode = Mode::Scaling,
                "--redraw" => options.mode = Mode::Redraw,
                "--dtype" => options.bf16 = dtype(value()?)?,
                "--only" => options.only = Some(value()?.to_owned()),
                "--threads" => options.threads = numbers(value()?)?,
                "--repeat" => options.repeat = numbers(value()?)?[0],
                "--quiet" => options.quiet = numbers(value()?)?[0],
                "--model" => options.models = vec![model(value()?)?],
                other => bail!("unknown option {other:?}\n\n{USAGE}"),
            }
            let is_mode = matches!(flag, "--peers" | "--save" | "--compare" | "--scaling" | "--redraw");
            modes += usize::from(is_mode);
        }
        ensure!(
            modes <= 1,
            "--peers, --compare, --scaling, --redraw and --save exclude each other\n\n{USAGE}"
        );
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

    /// Whether a work is asked for on a model.
    pub(super) fn wants(&self, work: &Work, model: &str) -> bool {
        let named = self.only.as_ref().map(|word| work.name.contains(word.as_str()));
        let measured = !work.again || matches!(self.mode, Mode::Peers);
        measured && work.models.contains(&model) && named.unwrap_or(!work.named)
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

/// Whether it is bf16; f32 is what is measured in any case.
fn dtype(text: &str) -> Result<bool> {
    ensure!(matches!(text, "f32" | "bf16"), "there is no dtype {text:?}; there are f32 and bf16");
    Ok(text == "bf16")
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
        assert!(parse("--scaling --dtype bf16").unwrap().bf16);
    }

    #[test]
    fn what_takes_minutes_has_to_be_named() {
        let wants = |text: &str, model: &str| {
            let o = parse(text).unwrap();
            WORKS.iter().filter(|w| o.wants(w, model)).map(|w| w.name).collect::<Vec<_>>()
        };
        assert_eq!(wants("", "S"), ["ppo", "sampling", "train-step", "reward-step", "gemm-peak"]);
        assert_eq!(wants("--peers --only s", "M"), ["sampling", "train-step", "reward-step"]);
        assert_eq!(wants("--peers --only llama", "M"), ["llama"]);
        assert_eq!(wants("--only reward", "S"), ["reward-step", "time-to-reward"]);
        assert_eq!(wants("--only reward", "M"), ["reward-step"]);
    }

    #[test]
    fn wrong_options_are_refused() {
        for bad in [
            "--peers --save",
            "--threads 0",
            "--threads",
            "--only nothing",
            "--model L",
            "--dtype f8",
            "--fast",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
