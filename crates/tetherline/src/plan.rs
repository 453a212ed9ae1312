//! What a recipe would do, found out without loading a model: for `--dry-run`.

use crate::recipe::{ModelSource, Recipe};
use crate::{Error, Stages};
use std::path::Path;
use tetherline_core::Stage;
use tetherline_data::{DataError, Loaded, ReadOptions};
use tetherline_models::{EncoderShape, ModelConfig, ModelFiles};

/// One stage of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStage {
    /// Which.
    pub stage: Stage,
    /// What it would do, in one line.
    pub what: String,
}

/// Lists what the stages would do. Reads every data file that is given, so a malformed line shows here.
///
/// # Errors
/// [`Error::Recipe`] where something is missing, [`Error::Input`] where a data file or a model directory
/// cannot be used.
pub fn plan(recipe: &Recipe, stages: Stages) -> Result<Vec<PlannedStage>, Error> {
    recipe.check(stages)?;
    let data = &recipe.data;
    let options = ReadOptions { skip_bad_lines: data.skip_bad_lines };
    for (_, text) in recipe.model.named() {
        check_model(text)?;
    }
    for (_, encoder) in recipe.encoders() {
        check_model(&encoder.model)?;
    }
    // Fails at once where the build or the machine has no such device.
    crate::pipeline::training_engine(recipe, 1)?;
    if stages.include(Stage::Ppo) || stages.include(Stage::Eval) {
        check_room(recipe)?;
    }
    let sft_rows = rows(&data.sft, |p| tetherline_data::read_sft(p, &options))?;
    let pairs = rows(&data.pairs, |p| tetherline_data::read_comparisons(p, &options))?;
    let held_out_pairs = rows(&data.pairs_eval, |p| tetherline_data::read_comparisons(p, &options))?;
    let prompts = rows(&data.prompts, |p| tetherline_data::read_prompts(p, &options))?;
    let held_out = rows(&data.eval_prompts, |p| tetherline_data::read_prompts(p, &options))?;

    let mut plan = Vec::new();
    if let Some(sft) = recipe.sft.as_ref().filter(|s| !s.is_skipped()) {
        let length = match sft.steps {
            0 => format!("{} epochs", sft.epochs),
            n => format!("{n} steps"),
        };
        let what = format!("{length} of {} over {}", sft.batch_size, named(sft_rows, "demonstrations"));
        plan.push(PlannedStage { stage: Stage::Sft, what });
    }
    if recipe.trains_reward_model() {
        let mut what = format!("on {}", named(pairs, "pairs"));
        match held_out_pairs {
            Some(n) => what += &format!(", tested on {n}"),
            None if data.world.is_none() => what += ", a tenth of them held out for testing",
            None => {}
        }
        plan.push(PlannedStage { stage: Stage::Reward, what });
    }
    let ppo = &recipe.ppo;
    if let Some(dpo) = &recipe.dpo {
        let what = format!(
            "{} loss, β = {}, {} of {} over {}",
            dpo.loss,
            dpo.beta,
            dpo.steps.map_or_else(|| format!("{} epoch(s)", dpo.epochs), |n| format!("{n} steps")),
            dpo.batch_size,
            named(pairs, "pairs")
        );
        plan.push(PlannedStage { stage: Stage::Dpo, what });
    }
    let of_ppo = PlannedStage {
        stage: Stage::Ppo,
        what: format!(
            "{} steps of {} responses of up to {} tokens, from {}; {}",
            ppo.steps,
            ppo.batch_size,
            recipe.sampling.max_new_tokens,
            named(prompts, "prompts"),
            kl(recipe)
        ),
    };
    plan.extend(recipe.dpo.is_none().then_some(of_ppo));
    if recipe.eval.prompts > 0 {
        let what = format!(
            "before and after, {} prompts × {} samples, from {}",
            recipe.eval.prompts,
            recipe.eval.samples,
            named(held_out.or(prompts), "prompts")
        );
        plan.push(PlannedStage { stage: Stage::Eval, what });
    }
    plan.retain(|p| stages.include(p.stage));
    Ok(plan)
}

fn kl(recipe: &Recipe) -> String {
    let budgets = &recipe.kl.budgets;
    if !budgets.is_empty() {
        let all: Vec<String> = budgets.iter().map(|b| format!("{} {}", b.id, b.target.0)).collect();
        return format!("KL budgets {} nats per sequence, β from {}", all.join(", "), recipe.kl.init());
    }
    match recipe.kl.target() {
        Some(target) => format!("KL target {} nats per sequence, β from {}", target.0, recipe.kl.init()),
        None => format!("β fixed at {}", recipe.kl.init()),
    }
}

/// "120 pairs", or where they come from if they were not counted.
fn named(count: Option<usize>, what: &str) -> String {
    match count {
        Some(n) => format!("{n} {what}"),
        None => format!("the embedded world's {what}"),
    }
}

fn rows<T>(
    path: &Option<std::path::PathBuf>,
    read: impl FnOnce(&Path) -> Result<Loaded<T>, DataError>,
) -> Result<Option<usize>, Error> {
    match path {
        Some(path) => read(path)
            .map(|loaded| Some(loaded.rows.len()))
            .map_err(|e| Error::input(path.display().to_string(), e)),
        None => Ok(None),
    }
}

/// A response must leave room for a prompt in the policy's context, where that is known without a download.
fn check_room(recipe: &Recipe) -> Result<(), Error> {
    let text = &recipe.model.policy;
    if let Ok(ModelSource::Frontdesk | ModelSource::Dir(_)) = ModelSource::parse(text) {
        let files = crate::sources::open_model(text)?;
        let config = ModelConfig::load(&files).map_err(|e| Error::input(format!("the model {text}"), e))?;
        let new = recipe.longest_response();
        if new >= config.max_positions {
            let problem = format!(
                "{new} leaves no room for a prompt in the context of {} tokens of {text}",
                config.max_positions
            );
            return Err(Error::input("sampling.max_new_tokens", problem));
        }
    }
    Ok(())
}

fn check_model(text: &str) -> Result<(), Error> {
    match ModelSource::parse(text) {
        Ok(ModelSource::Dir(dir)) if dir.join("adapter_config.json").is_file() => {
            crate::sources::open_model(text).map(drop)
        }
        // An encoder in a build without them, or one of a kind that is not known.
        Ok(ModelSource::Dir(dir)) if ModelFiles::dir(&dir).and_then(|f| f.is_encoder()).unwrap_or(false) => {
            let what = format!("the encoder {text}");
            let files = crate::sources::open_model(text)?;
            EncoderShape::load(&files).map(drop).map_err(|e| Error::input(what, e))
        }
        Ok(ModelSource::Dir(dir)) if !dir.join("config.json").is_file() => Err(Error::input(
            format!("the model directory {}", dir.display()),
            "it has no config.json (a Hugging Face directory has config.json, model.safetensors and \
             tokenizer.json)",
        )),
        Ok(_) => Ok(()),
        Err(e) => Err(Error::input(format!("the model {text}"), e)),
    }
}
