//! `tether drift`.

use crate::cli::{Cli, DriftArgs, Judge, ShowArgs};
use crate::exit_codes::{OverLimit, UsageError};
use crate::output;
use crate::progress::{Progress, Show};
use std::io::IsTerminal;
use std::path::Path;
use tetherline::drift::{DriftOptions, drift};
use tetherline::eval::bootstrap::Ratio;
use tetherline::eval::drift::TextStyle;
use tetherline_rollout::SamplingConfig;

/// Pairs of responses that a page and JSON show.
const PAIRS: usize = 24;

pub(crate) fn run(cli: &Cli, args: &DriftArgs) -> anyhow::Result<()> {
    let sampling = SamplingConfig {
        temperature: args.temperature,
        max_new_tokens: args.max_new_tokens,
        ..SamplingConfig::default()
    };
    sampling.validate().map_err(|e| UsageError(format!("--{}: {}", e.field.replace('_', "-"), e.problem)))?;
    if sampling.is_greedy() {
        let problem = "--temperature: must be above 0, got 0: a greedy policy has no distribution to measure";
        return Err(UsageError(problem.to_owned()).into());
    }
    let options = DriftOptions {
        policy: args.policy.clone(),
        reference: args.reference.clone(),
        prompts: args.prompts.clone(),
        given: args.given,
        append_eos: args.append_eos,
        chat: args.chat,
        sampling,
        seed: args.seed,
        num_samples: args.num_samples,
        reference_answers: !args.no_reference_answers,
        pairs: PAIRS,
        batch_size: args.batch.batch_size,
        threads: args.batch.threads,
        device: args.batch.device,
        skip_bad_lines: args.batch.skip_bad_lines,
    };
    let mut progress = Progress::new(Show::choose(cli.quiet, cli.verbose), None);
    let done = drift(&options, &mut progress)?;
    let d = &done.drift;
    super::say_skipped(done.skipped);
    if let Some(path) = &args.show.html {
        write(path, &d.html())?;
    }
    output::result(&match args.show.json {
        true => serde_json::to_string(d)?,
        false => d.text(style(&args.show)).trim_end().to_owned(),
    });
    for (limit, measured, unit) in [
        (args.limit, d.kl_nats_per_sequence, "nats per sequence"),
        (args.limit_per_token, d.kl_nats_per_token, "nats per token"),
    ] {
        let (value, what) = judged(measured, args.judge);
        if let Some(limit) = limit.filter(|limit| value > *limit) {
            let kl = format!("{what} is {value:.4} {unit}");
            return Err(OverLimit(format!("{kl}, above the limit of {limit}")).into());
        }
    }
    Ok(())
}

/// The number that is held against a limit. With one prompt there is no interval, and its ends are the mean.
fn judged(r: Ratio, judge: Judge) -> (f64, &'static str) {
    let (low, high) = r.ci.unwrap_or((r.mean, r.mean));
    match judge {
        Judge::Mean => (r.mean, "KL(policy ‖ reference)"),
        Judge::Lower => (low, "the lower end of KL(policy ‖ reference)"),
        Judge::Upper => (high, "the upper end of KL(policy ‖ reference)"),
    }
}

/// Tables for the terminal; colours only where a terminal shows them, and `NO_COLOR` is not set.
pub(super) fn style(show: &ShowArgs) -> TextStyle {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    TextStyle { colour, rows: show.rows, pairs: show.pairs }
}

/// Writes a file whole.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    tetherline::checkpoint::save_file(path, text.as_bytes()).map_err(tetherline::Error::from)?;
    output::line(&format!("wrote {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_the_interval_may_be_judged() {
        let r = Ratio { mean: 2.0, ci: Some((1.0, 4.0)) };
        assert_eq!([Judge::Mean, Judge::Lower, Judge::Upper].map(|j| judged(r, j).0), [2.0, 1.0, 4.0]);
        assert_eq!(judged(Ratio { mean: 2.0, ci: None }, Judge::Lower).0, 2.0);
    }
}
