//! `tether compare A B [C…]`: policies on the same prompts with the same random streams, paired.
//!
//! Every prompt is answered by every policy from the stream (seed, evaluation, prompt, sample), scored by one scorer, and
//! judged against the answer of the first policy; [`tetherline_eval::ab`] tests while the answers come in and says when to
//! stop. Prompts come in an order of their own (a file may be sorted), `LOOK` at a time.
//!
//! What the policies are compared on (prompts, reward, reference, sampling, seed) is a recipe's: one that is given, else that
//! of the first run directory named. Its reward model is trained by that run where the recipe trains one, and its reference
//! is what that run started PPO from.

mod judge;

pub use judge::Judge;
pub use tetherline_eval::ab::{AbResult, Metric};
pub use tetherline_eval::report::ab_page;

use crate::codec::Codec;
use crate::evaluate::{Responses, respond};
use crate::ppo::POLICY_HEADS;
use crate::recipe::Recipe;
use crate::run_dir::RunDir;
use crate::scoring::Scorer;
use crate::{Error, pipeline, sources};
use judge::Judging;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{Event, Metrics, Observer, PromptBatch, PromptRef, Stage};
use tetherline_eval::ab::{AbTest, Pair};
use tetherline_models::{Model, ModelError, ModelFiles};

/// Prompts between two looks at the test.
const LOOK: usize = 16;

/// The step in the name of the stream that orders the prompts: no pass over training prompts has it.
const ORDER: u64 = u64::MAX;

/// What to compare, and how.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Run directories, model directories, hub ids or `"frontdesk"`; the first is the baseline.
    pub policies: Vec<String>,
    /// What they are compared on; without one, the recipe of the first run directory among them.
    pub recipe: Option<Recipe>,
    /// Who decides who wins.
    pub judge: Judge,
    /// Most prompts; 0: all held-out prompts.
    pub prompts: usize,
    /// Answers to each; 0: `eval.samples` of the recipe.
    pub samples: usize,
    /// Probability of any false claim.
    pub alpha: f64,
    /// The metric whose decision ends the comparison.
    pub decide_on: Metric,
    /// Answer every prompt, whatever is decided before.
    pub all: bool,
    /// Worker threads; 0: every core.
    pub threads: usize,
}

/// A policy that was named on the command line.
struct Named {
    name: String,
    /// The run directory, if it is one.
    run: Option<PathBuf>,
    files: ModelFiles,
}

/// Opens what a policy is called: the aligned policy of a run directory, or a model.
fn open(text: &str) -> Result<Named, Error> {
    let dir = Path::new(text);
    if !dir.join("config.toml").is_file() {
        return Ok(Named { name: text.to_owned(), run: None, files: sources::open_model(text)? });
    }
    let policy = dir.join("policy");
    if !policy.is_dir() {
        let problem = "it has no policy/ yet: finish the run with `tether run … --resume` first";
        return Err(Error::input(format!("the run {text}"), problem));
    }
    let files = sources::open_dir(policy).map_err(|e| Error::input(format!("the policy of {text}"), e))?;
    Ok(Named { name: text.trim_end_matches('/').to_owned(), run: Some(dir.to_owned()), files })
}

/// What the policies are compared on.
struct Setting {
    recipe: Recipe,
    run: Option<PathBuf>,
}

impl Setting {
    /// The model that a run of the recipe starts PPO from: its reference, where it names no other.
    fn reference_files(&self) -> Result<ModelFiles, Error> {
        if let Some(text) = &self.recipe.model.reference {
            return sources::open_model(text);
        }
        if !self.recipe.runs_sft() {
            return sources::open_model(&self.recipe.model.policy);
        }
        let sft = self.run.as_ref().map(|run| run.join("sft")).filter(|dir| dir.is_dir());
        let Some(sft) = sft else {
            let problem = "the recipe has an [sft] stage whose result is the reference: name a run of it, or set \
                           model.reference";
            return Err(Error::input("the reference", problem));
        };
        sources::open_dir(sft).map_err(|e| Error::input("the reference", e))
    }

    fn load(&self, files: &ModelFiles, name: &str) -> Result<(Model, Codec), Error> {
        let fail = |e: ModelError| Error::input(format!("the policy {name}"), e);
        let model = Model::load(files, POLICY_HEADS, self.recipe.seed).map_err(fail)?;
        let model = model.with_context(self.recipe.model.max_context).map_err(fail)?;
        let codec = Codec::load(files, &model)?.with_variables(&self.recipe.data.chat.variables)?;
        // The prompts of the embedded world are what users say.
        let world = self.recipe.data.world.is_some();
        Ok((model, if world { codec.wrapping_plain_prompts() } else { codec }))
    }
}

/// Compares policies.
///
/// # Errors
/// [`Error::Input`] where a policy, the reward or the judge cannot be used, where the policies do not share a tokenizer or
/// where no recipe says what to compare on; [`Error::Interrupted`].
pub fn compare(options: &CompareOptions, observer: &mut dyn Observer) -> Result<AbResult, Error> {
    if options.policies.len() < 2 {
        return Err(Error::input("the policies", "a comparison needs two or more"));
    }
    let named = options.policies.iter().map(|text| open(text)).collect::<Result<Vec<_>, _>>()?;
    let run = named.iter().find_map(|n| n.run.clone());
    let recipe = match (&options.recipe, &run) {
        (Some(recipe), _) => recipe.clone(),
        (None, Some(run)) => RunDir::read(run)?.recipe()?,
        (None, None) => {
            let problem = "none of the policies is a run directory, whose recipe would say on which prompts and by which \
                           reward to compare; give one with --recipe";
            return Err(Error::input("the policies", problem));
        }
    };
    let engine = pipeline::training_engine(&recipe, options.threads)?;
    let setting = Setting { recipe, run };
    let recipe = &setting.recipe;
    let (first, codec) = setting.load(&named[0].files, &named[0].name)?;
    let mut models = vec![first];
    for other in &named[1..] {
        let (model, own) = setting.load(&other.files, &other.name)?;
        if !own.same_as(&codec) {
            let problem = format!("it has another tokenizer or chat template than {}", named[0].name);
            return Err(Error::input(format!("the policy {}", other.name), problem));
        }
        models.push(sources::sharing(model, &models[0], &engine)?);
    }
    let reference = setting.load(&setting.reference_files()?, "the reference")?.0;
    let reference = sources::sharing(reference, &models[0], &engine)?;
    let trained = setting.run.as_ref().map_or_else(PathBuf::new, |run| run.join("reward"));
    let mut scorer = Scorer::new(recipe, &codec, &trained)?;
    scorer = scorer.with_norms_of(setting.run.as_deref().unwrap_or(Path::new("")))?;
    let mut judge = Judging::open(&options.judge, &codec)?;

    let prompts = prompts(recipe, &codec, models[0].context(), options, observer)?;
    let names: Vec<String> = distinct(&named);
    let mut test = AbTest::new(&names[1..], options.alpha, options.decide_on);
    let total = prompts.len() as u64;
    observer.on_event(&Event::StageStarted { stage: Stage::Eval, done: 0, total });
    for look in prompts.chunks(LOOK) {
        if observer.stop_requested() {
            return Err(Error::Interrupted {
                stage: Stage::Eval,
                step: test.prompts() as u64,
                checkpoint: None,
            });
        }
        let mut batch = PromptBatch::default();
        look.iter().for_each(|prompt| (0..prompt.len()).for_each(|i| batch.push(prompt.get(i))));
        let mut answers = Vec::with_capacity(models.len());
        for model in &models {
            answers.push(respond(recipe, model, &reference, &codec, &mut scorer, &engine, batch.clone())?);
        }
        let (baseline, candidates) = answers.split_at(1);
        for (i, candidate) in candidates.iter().enumerate() {
            let wins = judge.wins(&engine, &baseline[0], candidate)?;
            pairs(&baseline[0], candidate, &wins).into_iter().for_each(|pair| test.push(i, pair));
        }
        let step = test.prompts() as u64;
        observer.on_event(&Event::Step { stage: Stage::Eval, step, total, metrics: &Metrics::new() });
        if test.decided() && !options.all {
            break;
        }
    }
    observer.on_event(&Event::StageFinished { stage: Stage::Eval });
    Ok(test.result(&names[0], &options.judge.to_string(), prompts.len(), recipe.seed))
}

/// Names that tell the policies apart: without the parts of their paths that all have in common.
fn distinct(named: &[Named]) -> Vec<String> {
    let parts: Vec<Vec<&str>> = named.iter().map(|n| n.name.split('/').collect()).collect();
    let shortest = parts.iter().map(Vec::len).min().unwrap_or(0);
    let same = |at: &dyn Fn(&Vec<&str>) -> String| parts.iter().all(|p| at(p) == at(&parts[0]));
    let front = (0..shortest.saturating_sub(1)).take_while(|&i| same(&|p| p[i].to_owned())).count();
    let left = shortest.saturating_sub(1 + front);
    let back = (0..left).take_while(|&i| same(&|p| p[p.len() - 1 - i].to_owned())).count();
    parts.iter().map(|p| p[front..p.len() - back].join("/")).collect()
}

/// The held-out prompts in an order of their own, one batch of samples each.
fn prompts(
    recipe: &Recipe,
    codec: &Codec,
    context: usize,
    options: &CompareOptions,
    observer: &mut dyn Observer,
) -> Result<Vec<PromptBatch>, Error> {
    let loaded =
        sources::eval_prompts(recipe)?.ok_or_else(|| Error::input("data.eval_prompts", "missing"))?;
    crate::sft::note_skipped(observer, "data.eval_prompts", loaded.skipped.len());
    let all =
        crate::rows::encode_prompts(recipe, codec, &loaded.rows, context, "data.eval_prompts", observer)?;
    let mut order: Vec<usize> = (0..all.len()).collect();
    stream(recipe.seed, Purpose::Prompts, ORDER, 0, 0).shuffle(&mut order);
    if options.prompts > 0 {
        order.truncate(options.prompts);
    }
    let samples = if options.samples > 0 { options.samples } else { recipe.eval.samples.max(1) };
    let of_one = |i: &usize| {
        let mut batch = PromptBatch::default();
        (0..samples).for_each(|k| batch.push(PromptRef { sample: k as u32, ..all.get(*i) }));
        batch
    };
    Ok(order.iter().map(of_one).collect())
}

/// Candidate minus baseline, means over the samples of each prompt, in the order in which the prompts came.
fn pairs(baseline: &Responses, candidate: &Responses, wins: &[f64]) -> Vec<Pair> {
    let mut by_prompt: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    let mut order = Vec::new();
    for (i, record) in candidate.records.iter().enumerate() {
        let rows = by_prompt.entry(record.prompt_id).or_default();
        if rows.is_empty() {
            order.push(record.prompt_id);
        }
        rows.push(i);
    }
    let pair = |prompt_id: u64| {
        let rows = &by_prompt[&prompt_id];
        let (a, b) = (&baseline.records, &candidate.records);
        let mean = |of: &dyn Fn(usize) -> f64| rows.iter().map(|&i| of(i)).sum::<f64>() / rows.len() as f64;
        let golds = rows.iter().all(|&i| a[i].gold.is_some() && b[i].gold.is_some());
        let gold = |i: usize| b[i].gold.unwrap_or(0.0) - a[i].gold.unwrap_or(0.0);
        let kl = |i: usize| b[i].kl_exact.unwrap_or(0.0) - a[i].kl_exact.unwrap_or(0.0);
        Pair {
            prompt_id,
            win: mean(&|i| wins[i]),
            score: mean(&|i| b[i].score - a[i].score),
            gold: golds.then(|| mean(&gold)),
            length: mean(&|i| b[i].tokens.len() as f64 - a[i].tokens.len() as f64),
            kl: mean(&kl),
        }
    };
    order.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_out_what_all_have_in_common() {
        let files = || sources::open_model("frontdesk").unwrap();
        let of = |names: &[&str]| {
            let named = |name: &&str| Named { name: (*name).to_owned(), run: None, files: files() };
            distinct(&names.iter().map(named).collect::<Vec<_>>())
        };
        assert_eq!(of(&["runs/a", "runs/b"]), ["a", "b"]);
        assert_eq!(of(&["s/regimes/x/seed-1", "s/regimes/y/seed-1"]), ["x", "y"]);
        assert_eq!(of(&["runs/a", "runs/a/policy", "base"]), ["runs/a", "runs/a/policy", "base"]);
        assert_eq!(of(&["a", "a"]), ["a", "a"]);
    }
}
