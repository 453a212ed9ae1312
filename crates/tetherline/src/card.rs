//! The model card of an aligned policy, `policy/README.md`: what it came from, how far it was allowed to drift and how far
//! it did, and what the evaluation found.
//!
//! It names files and directories by their last part: paths of one machine do not belong into what is published. It says
//! nothing that differs between two runs of one recipe.

use crate::Error;
use crate::pipeline::{EvaluationFile, read_json};
use crate::recipe::{ModelSource, Recipe, ValueModel};
use crate::report::{EVALUATION, lines};
use crate::run_dir::RunDir;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use tetherline_eval::Comparison;
use tetherline_kl::KlConfig;

/// The file's name in a Hugging Face directory.
pub(crate) const CARD: &str = "README.md";

/// The card of the run in `run` as it stands: with the evaluation where there is one already.
///
/// # Errors
/// If a file of the run cannot be read.
pub(crate) fn text(recipe: &Recipe, run: &RunDir) -> Result<String, Error> {
    let evaluation: Option<EvaluationFile> = read_json(&run.root().join(EVALUATION))?;
    let facts = Facts {
        inputs: run.inputs()?,
        steps: lines(&run.metrics())?,
        comparison: evaluation.map(|e| e.comparison),
    };
    Ok(write(recipe, &facts))
}

/// The card of an adapter's weights folded into its base: what the adapter's own card says, and that it was merged.
pub(crate) fn merged(adapter: Option<&str>, base: &str, classifier: bool) -> String {
    let local = Path::new(base).is_dir();
    let note = format!(
        "\n## Merged\n\nThese are plain weights: an adapter was folded into those of its base, `{}`, by Tetherline {} \
         (W + s·B·A). No peft is needed to load them.\n",
        if local { last(Path::new(base)) } else { base.to_owned() },
        env!("CARGO_PKG_VERSION")
    );
    if let Some(card) = adapter {
        let card = card.replacen("library_name: peft\n", "library_name: transformers\n", 1);
        return format!("{}\n{note}", card.trim_end());
    }
    let of_hub = if local { String::new() } else { format!("base_model: {base}\n") };
    let task = if classifier { "text-classification" } else { "text-generation" };
    format!("---\nlibrary_name: transformers\n{of_hub}pipeline_tag: {task}\ntags:\n- tetherline\n---\n{note}")
}

/// What the card tells besides the recipe.
struct Facts {
    /// Key of the recipe → hash.
    inputs: BTreeMap<String, String>,
    /// Lines of `metrics.jsonl`.
    steps: Vec<Value>,
    comparison: Option<Comparison>,
}

fn write(recipe: &Recipe, facts: &Facts) -> String {
    let library = if recipe.model.adapter.is_some() { "peft" } else { "transformers" };
    let mut out = format!("---\nlibrary_name: {library}\n");
    if let Ok(ModelSource::Hub { id, .. }) = ModelSource::parse(&recipe.model.policy) {
        let _ = writeln!(out, "base_model: {id}");
    }
    let (tag, how) = match &recipe.dpo {
        Some(_) => ("dpo", "on preference pairs"),
        None => ("ppo", "against a reward under a KL controller"),
    };
    let _ = write!(out, "pipeline_tag: text-generation\ntags:\n- tetherline\n- rlhf\n- {tag}\n---\n\n");
    let _ = writeln!(
        out,
        "# {}\n\nA policy trained {how}, by Tetherline {}.\n",
        recipe.name,
        env!("CARGO_PKG_VERSION")
    );
    lineage(&mut out, recipe, &facts.inputs);
    regime(&mut out, recipe, &facts.steps);
    out.push_str("## Evaluation\n\n");
    match &facts.comparison {
        Some(c) => {
            let domains = c.domain_table();
            let _ = writeln!(
                out,
                "The policy that RL started from (baseline) beside this one, on held-out prompts.\n\n```text\n{}\n```",
                format!("{}\n{domains}", c.table()).trim_end()
            );
        }
        None => out.push_str("None was made yet (`tether eval`).\n"),
    }
    out
}

/// A table of what went in, with the hashes that the run directory has of it.
fn lineage(out: &mut String, recipe: &Recipe, inputs: &BTreeMap<String, String>) {
    out.push_str("## Lineage\n\n| | from | hash |\n| --- | --- | --- |\n");
    let mut row = |what: &str, from: &str, key: &str| {
        let hash = inputs.get(key).map_or("–".to_owned(), |h| format!("`{h}`"));
        let _ = writeln!(out, "| {what} | {from} | {hash} |");
    };
    let model = |text: &str| match ModelSource::parse(text) {
        Ok(ModelSource::Dir(dir)) => format!("directory `{}`", last(&dir)),
        Ok(ModelSource::Frontdesk) => "the embedded base policy".to_owned(),
        _ => format!("`{text}`"),
    };
    row("base policy", &model(&recipe.model.policy), "model.policy");
    match &recipe.model.reference {
        Some(text) => row("reference of the KL", &model(text), "model.reference"),
        None if recipe.runs_sft() => row("reference of the KL", "the policy after fine-tuning", ""),
        None => row("reference of the KL", "the base policy", ""),
    }
    match &recipe.model.reward {
        Some(given) => {
            for (i, text) in given.0.iter().enumerate() {
                row("reward model", &model(text), &crate::inputs::numbered("model.reward", i));
            }
        }
        None if recipe.trains_reward_model() => row("reward model", "trained on the pairs below", ""),
        None => row("reward", "rules alone", ""),
    }
    if recipe.data.world.is_some() {
        row("data not named below", "the embedded front desk", "");
    }
    for (key, path) in recipe.data.files() {
        row(&format!("`{key}`"), &format!("`{}`", last(path)), key);
    }
    out.push_str(
        "\nHashes are 64-bit FNV-1a of the contents, as in the run's `inputs.txt`: they tell files apart, and are no \
         protection against forgery.\n\n",
    );
}

fn last(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// How long the tether was and how much of it was used.
fn regime(out: &mut String, recipe: &Recipe, steps: &[Value]) {
    #[derive(Serialize)]
    struct Section<'a> {
        kl: &'a KlConfig,
    }
    let ppo = &recipe.ppo;
    if let Some(dpo) = &recipe.dpo {
        let _ = writeln!(
            out,
            "## Training\n\nDirect preference optimisation, {} loss with β = {}, learning rate {:e}, {} pairs a step.\n",
            dpo.loss, dpo.beta, dpo.lr, dpo.batch_size
        );
        return;
    }
    let value = match recipe.model.value {
        _ if !ppo.advantages.needs_critic() => "no value function",
        ValueModel::Separate => "a value model of its own",
        ValueModel::Shared => "a value head on the policy's trunk",
    };
    let _ = writeln!(
        out,
        "## Training and KL regime\n\n{} of {} PPO steps, {} responses each, {value}, learning rate {:e}, temperature {}.",
        steps.len(),
        ppo.steps,
        ppo.batch_size,
        ppo.lr,
        recipe.sampling.temperature,
    );
    if let Some(a) = &recipe.model.adapter {
        let over = if a.rslora { "√rank" } else { "rank" };
        let (rank, alpha) = (a.rank, a.alpha);
        let _ = writeln!(
            out,
            "\nA LoRA adapter of rank {rank}, factor {alpha}/{over}, over the frozen base policy."
        );
    }
    let section = toml::to_string(&Section { kl: &recipe.kl }).unwrap_or_default();
    let _ = writeln!(out, "\n```toml\n{}\n```\n", section.trim_end());
    let number = |line: &Value, key: &str| line.get(key).and_then(Value::as_f64);
    let Some(end) = steps.last() else { return };
    out.push_str("| budget | used | |\n| --- | --- | --- |\n");
    let kl = |key: &str| steps.iter().filter_map(|l| number(l, key)).fold(f64::NEG_INFINITY, f64::max);
    if let Some(used) = number(end, "objective/kl_exact") {
        let error = number(end, "objective/kl_exact_stderr").unwrap_or(0.0);
        let target = recipe.kl.overall_target().map_or_else(
            || "no target".to_owned(),
            |t| format!("of a target of {:.3}: {:.0} %", t.0, 100.0 * used / t.0),
        );
        let _ = writeln!(
            out,
            "| KL to the reference, nats per sequence, last step | {used:.3} ± {error:.3} | {target} |"
        );
        let _ = writeln!(out, "| largest of any step | {:.3} | |", kl("objective/kl_exact"));
    }
    for budget in &recipe.kl.budgets {
        let key = format!("domain/{}/kl", budget.id);
        if let Some(used) = number(end, &key) {
            let target = budget.target.0;
            let share = 100.0 * used / target;
            let _ = writeln!(
                out,
                "| domain `{}`, last step | {used:.3} | of a target of {target:.3}: {share:.0} % |",
                budget.id
            );
        }
    }
    if let Some(beta) = number(end, "objective/kl_coef") {
        let _ = writeln!(out, "| β, score units per nat, last step | {beta:.4} | |");
    }
    out.push_str("\nKL is exact over the vocabulary and averaged over responses.\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_card_says_where_the_policy_came_from_and_how_far_it_went() {
        let mut recipe = Recipe { name: "polite".into(), ..Recipe::default() };
        recipe.model.policy = "someone/base@v2".into();
        recipe.data.prompts = Some("deep/inside/prompts.jsonl".into());
        recipe.kl = toml::from_str("[adaptive]\ninit = 0.1\ntarget = 4.0\nhorizon = 100").unwrap();
        let facts = Facts {
            inputs: BTreeMap::from([("data.prompts".to_owned(), "00ff".to_owned())]),
            steps: vec![
                json!({"objective/kl_exact": 5.0, "objective/kl_coef": 0.1}),
                json!({"objective/kl_exact": 3.0, "objective/kl_exact_stderr": 0.25, "objective/kl_coef": 0.2}),
            ],
            comparison: None,
        };
        let card = write(&recipe, &facts);
        for part in [
            "base_model: someone/base\n",
            "# polite\n",
            "| base policy | `someone/base@v2` | – |",
            "| `data.prompts` | `prompts.jsonl` | `00ff` |",
            "[kl.adaptive]",
            "| 3.000 ± 0.250 | of a target of 4.000: 75 % |",
            "| largest of any step | 5.000 | |",
            "last step | 0.2000 | |",
            "None was made yet",
        ] {
            assert!(card.contains(part), "no {part:?} in\n{card}");
        }
        assert!(!card.contains("deep/inside"), "{card}");
        assert!(card.starts_with("---\n") && card.contains("\n---\n\n#"), "{card}");
    }
}
