//! What the experiments share: their options, running recipes and reading their logs, tables with intervals, figures, and the
//! measured part of a page in `docs/experiments`.
//!
//! An experiment is one example. It trains what its page says, prints the tables, and leaves in `--out` the run directories,
//! `NAME.json` with every number that went into a table or a figure, and the figures. A run that is there already is read and
//! not repeated, so that an experiment that was interrupted goes on, and one that is done is redrawn in seconds.

pub(crate) mod figure;
pub(crate) mod page;
pub(crate) mod runs;

use std::path::PathBuf;
use tetherline_core::BoxError;

/// The options of an experiment.
pub(crate) struct Args {
    /// Steps of each run, where they are not the experiment's own.
    pub(crate) steps: Option<u64>,
    /// Seeds, counted from 0.
    pub(crate) seeds: u64,
    /// Where runs, numbers and figures go.
    pub(crate) out: PathBuf,
    /// Runs side by side, each on one thread.
    pub(crate) jobs: usize,
    /// A few steps of a few runs, to see that everything still works; the numbers mean nothing.
    pub(crate) quick: bool,
    /// Write the page's measured part and its figures into `docs/experiments`.
    pub(crate) docs: bool,
}

impl Args {
    /// Those of the command line.
    ///
    /// # Errors
    /// On an option that is not known or a value that is no number.
    pub(crate) fn parse(experiment: &str, seeds: u64) -> Result<Self, BoxError> {
        let mut args = Self {
            steps: None,
            seeds,
            out: std::env::temp_dir().join(format!("tetherline-{experiment}")),
            jobs: 1,
            quick: false,
            docs: false,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--steps" => args.steps = Some(value()?.parse()?),
                "--seeds" => args.seeds = value()?.parse()?,
                "--out" => args.out = PathBuf::from(value()?),
                "--jobs" => args.jobs = value()?.parse()?,
                "--quick" => args.quick = true,
                "--docs" => args.docs = true,
                _ => {
                    let usage = "[--steps N] [--seeds N] [--out DIR] [--jobs N] [--quick] [--docs]";
                    return Err(format!("there is no option {word}; usage: {experiment} {usage}").into());
                }
            }
        }
        if args.quick && args.docs {
            return Err("--quick measures nothing that a page could show: leave out --docs".into());
        }
        if args.quick {
            args.out = args.out.join("quick");
        }
        std::fs::create_dir_all(&args.out)?;
        Ok(args)
    }
}
