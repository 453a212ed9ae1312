//! `tether explain-config RECIPE`.

use crate::cli::ExplainConfigArgs;
use crate::commands::run::stem;
use crate::output;
use tetherline::{Recipe, objective};

pub(crate) fn run(args: &ExplainConfigArgs) -> anyhow::Result<()> {
    let mut recipe = Recipe::load(&args.recipe, &args.sets)?;
    if recipe.name.is_empty() {
        recipe.name = stem(&args.recipe);
    }
    output::result(objective(&recipe).trim_end());
    Ok(())
}
