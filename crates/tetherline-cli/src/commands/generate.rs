//! `tether generate`.

use crate::cli::{Cli, GenerateArgs};
use crate::exit_codes::UsageError;
use crate::output;
use crate::progress::{Progress, Show};
use tetherline::generate::{GenerateOptions, generate};
use tetherline_rollout::SamplingConfig;

pub(crate) fn run(cli: &Cli, args: &GenerateArgs) -> anyhow::Result<()> {
    let sampling = SamplingConfig {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        max_new_tokens: args.max_new_tokens,
        ignore_eos: false,
        stop: args.stop.clone(),
    };
    sampling.validate().map_err(|e| UsageError(format!("--{}: {}", e.field.replace('_', "-"), e.problem)))?;
    let options = GenerateOptions {
        model: args.model.clone(),
        prompts: args.prompts.clone(),
        out: args.out.clone(),
        sampling,
        seed: args.seed,
        num_samples: args.num_samples,
        batch_size: args.batch.batch_size,
        threads: args.batch.threads,
        device: args.batch.device,
        skip_bad_lines: args.batch.skip_bad_lines,
        input_ids: args.input_ids,
    };
    let mut progress = Progress::new(Show::choose(cli.quiet, cli.verbose), None);
    let done = generate(&options, &mut progress)?;
    if !cli.quiet {
        let (rows, tokens, out) = (done.rows, done.tokens, args.out.display());
        output::line(&format!("{rows} responses, {tokens} tokens: {out}"));
    }
    super::say_skipped(done.skipped);
    Ok(())
}
