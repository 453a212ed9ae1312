//! `tether plan RECIPE`.

use crate::cli::PlanArgs;
use crate::commands::run::{seconds, stem};
use crate::output;
use tetherline::Recipe;
use tetherline::estimate::{EstimateOptions, estimate};

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let mut recipe = Recipe::load(&args.recipe, &args.sets)?;
    if recipe.name.is_empty() {
        recipe.name = stem(&args.recipe);
    }
    let options = EstimateOptions { response_tokens: args.response_tokens, clock: seconds, held: resident };
    let estimate = estimate(&recipe, &options)?;
    output::result(&if args.json { serde_json::to_string(&estimate)? } else { estimate.text() });
    Ok(())
}

/// Bytes of memory that this process holds, where `/proc` says so.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}
