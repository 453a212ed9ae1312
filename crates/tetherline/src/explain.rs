//! `tether explain RUN`: why a run drifted.
//!
//! ```text
//! metrics.jsonl, control.jsonl, events.jsonl ──▶ β, verdicts, budgets, logged KL          (log.rs)
//! start, checkpoints, policy/ ──held-out prompts──▶ KL after so many updates, on the same
//!                                                   prompts with the same streams         (kept.rs)
//! the two policies of the stretch ──▶ shares, words, behaviour, side by side              (tetherline_eval::drift)
//! their responses, scored ──▶ regression of the log-ratio on the reward's parts
//! ```
//!
//! A run is only read: nothing in its directory changes, and it may still be going.

mod kept;
pub(crate) mod log;

use crate::drift::{Measurer, Rows};
use crate::inputs::ModelHashes;
use crate::pipeline::{Run, training_engine};
use crate::recipe::Recipe;
use crate::run_dir::RunDir;
use crate::scoring::Scorer;
use crate::{Error, RunOptions, Stages};
use kept::{Kept, Policies};
use log::RunLog;
use std::path::PathBuf;
use tetherline_core::{Observer, PromptBatch, TextSample};
use tetherline_eval::drift::{Drift, DriftInput, Response};
use tetherline_eval::explain::{
    Anchor, Contribution, Explanation, RewardFit, SCHEMA, SourcedAnchor, Update, Updates, contributions,
    moves,
};
use tetherline_eval::regression::least_squares;
use tetherline_models::Model;
use tetherline_rollout::SamplingConfig;

/// Prompts where the recipe evaluates on none.
const PROMPTS: usize = 64;

/// What to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainOptions {
    /// The run directory.
    pub run: PathBuf,
    /// Updates done where the stretch begins; `None`: 0.
    pub from: Option<u64>,
    /// Updates done where it ends; `None`: the last.
    pub to: Option<u64>,
    /// Other prompts than the held-out ones of the run.
    pub prompts: Option<PathBuf>,
    /// At most so many of them; `None`: as many as the run evaluates on.
    pub max_prompts: Option<usize>,
    /// Responses per prompt; `None`: as many as the run evaluates with.
    pub num_samples: Option<usize>,
    /// Pairs of responses to keep for people.
    pub pairs: usize,
    /// Rows run together. Has no influence on the results.
    pub batch_size: usize,
    /// Worker threads; 0: every core.
    pub threads: usize,
}

/// Explains a run, or a stretch of it.
///
/// # Errors
/// [`Error::RunDir`] where there is no run; [`Error::Input`] where it has no PPO step, or not the updates asked for, or a
/// model or its data cannot be used.
pub fn explain(options: &ExplainOptions, observer: &mut dyn Observer) -> Result<Explanation, Error> {
    let dir = RunDir::read(&options.run)?;
    let mut recipe = dir.recipe()?;
    let log = RunLog::read(&dir)?;
    let what = || options.run.display().to_string();
    let last = log.last().ok_or_else(|| Error::input(what(), "it has no step of PPO to explain"))?;
    let (from, to) = (options.from.unwrap_or(0), options.to.unwrap_or(last));
    if from >= to || to > last {
        let problem = format!(
            "there are updates 1 to {last}, and the stretch from {from} to {to} is none of them: --from A --to B are \
             numbers of updates done, with 0 ≤ A < B"
        );
        return Err(Error::input(what(), problem));
    }
    let own_prompts =
        options.prompts.is_none() && options.max_prompts.is_none() && options.num_samples.is_none();
    let comparable = own_prompts && recipe.eval.prompts > 0 && recipe.eval.temperature > 0.0;
    adapt(&mut recipe, options);
    let root = options.run.clone();
    let run_options = RunOptions {
        out: root.clone(),
        resume: true,
        after_halt: false,
        stages: Stages::All,
        threads: options.threads,
        clock: || 0.0,
    };
    let engine = training_engine(&recipe, options.threads)?;
    let run = Run { recipe: &recipe, options: &run_options, dir, engine, models: ModelHashes::default() };
    let policies = Policies::open(&run, last)?;
    let temperature =
        if recipe.eval.temperature > 0.0 { recipe.eval.temperature } else { recipe.sampling.temperature };
    let sampling = SamplingConfig { temperature, ..recipe.sampling.clone() };
    let measurer = Measurer {
        engine: &run.engine,
        codec: &policies.codec,
        sampling: &sampling,
        seed: recipe.seed,
        batch_size: options.batch_size,
    };
    let prompts = crate::evaluate::prompts(&recipe, &policies.codec, policies.start.context(), observer)?;
    let moving = recipe.kl.reference.is_some_and(|r| r.moves());
    let held_out = if comparable && !moving { log.held_out() } else { Vec::new() };
    let mut out = Explanation {
        schema: SCHEMA,
        run: crate::report::name_of(&options.run, &recipe),
        from,
        to,
        ..Explanation::default()
    };
    if moving {
        out.notes.push(
            "the reference moves in this run: what is measured here is the KL to the first one, and the log's KL has what \
             the moves gave up added"
                .to_owned(),
        );
    }
    let work = Work { measurer: &measurer, policies: &policies, prompts: &prompts };
    let anchors = work.anchors(&mut out, &log, &held_out, observer)?;
    out.updates = updates(&out, &recipe, &log, anchors);
    out.decisions = log.decisions(&recipe, from, out.to);
    out.moves = moves(&log.series(from, out.to), log::shown);
    work.compare(&mut out, options, &recipe, observer)?;
    Ok(out)
}

/// Where an anchor comes from that no policy and no held-out log gives.
const STEP_LOG: &str = "step log";

/// The recipe with the prompts that were asked for.
fn adapt(recipe: &mut Recipe, options: &ExplainOptions) {
    if let Some(path) = &options.prompts {
        recipe.data.eval_prompts = Some(path.clone());
    }
    if recipe.eval.prompts == 0 {
        recipe.eval.prompts = PROMPTS;
    }
    if options.prompts.is_some() {
        recipe.eval.prompts = usize::MAX;
    }
    if let Some(n) = options.max_prompts {
        recipe.eval.prompts = n;
    }
    if let Some(n) = options.num_samples {
        recipe.eval.samples = n;
    }
}

/// Contributions between the anchors, each with what was in force.
fn updates(out: &Explanation, recipe: &Recipe, log: &RunLog, anchors: Vec<SourcedAnchor>) -> Updates {
    let logged = log.logged();
    let only: Vec<Anchor> = anchors.iter().map(|a| a.anchor).collect();
    let each = contributions(&only, &logged, |s| log.fate(s));
    let by_log = |after: u64| anchors.iter().any(|a| a.anchor.after == after && a.source == STEP_LOG);
    let update = |mut contribution: Contribution| {
        let step = contribution.update;
        let ends =
            [step.saturating_sub(1), step].map(|s| if by_log(s) { logged.get(&s).copied() } else { None });
        if contribution.measured && ends.iter().any(Option::is_some) {
            // The end was logged on the prompts of its own step, with their noise.
            let [before, after] = ends.map(|l| l.unwrap_or_default().stderr);
            (contribution.measured, contribution.stderr) = (false, Some(before.hypot(after)));
        }
        Update {
            contribution,
            beta: log.metric(step, "objective/kl_coef"),
            lr: log.metric(step, "lr"),
            score: log.metric(step, "objective/scores"),
            verdicts: log.verdicts(step),
            over_budget: log.over_budget(recipe, step),
        }
    };
    let each: Vec<Update> = each.into_iter().map(update).collect();
    let end = |a: Option<&Anchor>| a.map_or(f64::NAN, |a| a.kl_nats);
    Updates {
        kl_nats_before: end(only.first()),
        kl_nats_after: end(only.last()),
        anchors,
        each,
        logged: logged.range(out.from..=out.to).map(|(s, l)| (*s, l.kl_nats)).collect(),
    }
}

struct Work<'a> {
    measurer: &'a Measurer<'a>,
    policies: &'a Policies<'a>,
    prompts: &'a PromptBatch,
}

impl Work<'_> {
    /// KL to the reference where it can be measured or was logged on the same prompts; always at both ends.
    fn anchors(
        &self,
        out: &mut Explanation,
        log: &RunLog,
        held_out: &[(u64, f64)],
        observer: &mut dyn Observer,
    ) -> Result<Vec<SourcedAnchor>, Error> {
        let mut found: Vec<SourcedAnchor> = Vec::new();
        let mut add = |after: u64, kl_nats: f64, source: &str| {
            if !found.iter().any(|a| a.anchor.after == after) {
                found.push(SourcedAnchor { anchor: Anchor { after, kl_nats }, source: source.to_owned() });
            }
        };
        let within = |s: &u64| (out.from..=out.to).contains(s);
        for (step, kl) in held_out.iter().filter(|(s, _)| within(s)) {
            add(*step, *kl, "held-out log");
        }
        for (step, kept) in self.policies.kept.iter().filter(|(s, _)| within(s)) {
            let known = held_out.iter().any(|(s, _)| s == step);
            if known {
                continue;
            }
            let kl = if *kept == Kept::Start && self.policies.starts_as_reference {
                0.0
            } else {
                let policy = self.policies.load(kept)?;
                self.kl(&policy, observer)?
            };
            add(*step, kl, kept.name());
        }
        // Where the run went back to a policy, it has that policy's KL.
        for (step, to) in log.rollbacks().into_iter().filter(|(s, _)| within(s)) {
            let back = found.iter().find(|a| a.anchor.after == to).map(|a| a.anchor.kl_nats);
            if let Some(kl) = back.filter(|_| !found.iter().any(|a| a.anchor.after == step)) {
                let anchor = Anchor { after: step, kl_nats: kl };
                found.push(SourcedAnchor { anchor, source: format!("rolled back to {to}") });
            }
        }
        let logged = log.logged();
        for end in [out.from, out.to] {
            if found.iter().any(|a| a.anchor.after == end) {
                continue;
            }
            if let Some((step, kept)) = self.kept_as(end, log) {
                let known = |anchors: &[SourcedAnchor]| {
                    let of = anchors.iter().find(|a| a.anchor.after == step).map(|a| a.anchor.kl_nats);
                    of.or_else(|| held_out.iter().find(|(s, _)| *s == step).map(|(_, kl)| *kl))
                };
                let kl_nats = match known(&found) {
                    Some(kl) => kl,
                    None if *kept == Kept::Start && self.policies.starts_as_reference => 0.0,
                    None => self.kl(&self.policies.load(kept)?, observer)?,
                };
                let source = format!("the policy after {step}");
                found.push(SourcedAnchor { anchor: Anchor { after: end, kl_nats }, source });
                continue;
            }
            let known = logged.get(&end).map(|l| (end, *l));
            // Updates that were undone leave the KL what it was.
            let undone = |a: &&SourcedAnchor| {
                let (first, last) = (a.anchor.after.min(end), a.anchor.after.max(end));
                (first + 1..=last).all(|s| log.undone(s))
            };
            let same = found.iter().filter(undone).max_by_key(|a| a.anchor.after).cloned();
            if let Some(mut same) = same {
                same.anchor.after = end;
                found.push(same);
                continue;
            }
            let fallback = known.or_else(|| {
                let before = logged.range(out.from..end).next_back()?;
                (end == out.to && *before.0 > out.from).then_some((*before.0, *before.1))
            });
            let Some((after, value)) = fallback else {
                let problem = format!("neither a policy nor a log says what the KL was after {end} updates");
                return Err(Error::input("the run", problem));
            };
            if after < end {
                out.notes.push(format!(
                    "the policy after {end} updates was not kept and its KL not logged: contributions end at update {after}"
                ));
                out.to = after;
            } else {
                out.notes.push(format!(
                    "the policy after {end} updates was not kept: its KL, {:.3} ± {:.3} nats per sequence, is that of the \
                     next step's own prompts",
                    value.kl_nats, value.stderr
                ));
            }
            let anchor = Anchor { after, kl_nats: value.kl_nats };
            if !found.iter().any(|a| a.anchor.after == after) {
                found.push(SourcedAnchor { anchor, source: STEP_LOG.to_owned() });
            }
        }
        let end = out.to;
        found.retain(|a| a.anchor.after <= end);
        found.sort_by_key(|a| a.anchor.after);
        Ok(found)
    }

    /// The kept policy that is the one after `end` updates, as updates were undone or the run went back since.
    fn kept_as(&self, end: u64, log: &RunLog) -> Option<(u64, &Kept)> {
        let mut step = end;
        loop {
            if let Some((_, kept)) = self.policies.kept.iter().find(|(s, _)| *s == step) {
                return Some((step, kept));
            }
            let back = log.rollbacks().into_iter().find(|(s, _)| *s == step).map(|(_, to)| to);
            step = match back {
                Some(to) if to < step => to,
                _ if step > 0 && log.undone(step) => step - 1,
                _ => return None,
            };
        }
    }

    /// Mean KL to the reference on the prompts, nats per sequence.
    fn kl(&self, policy: &Model, observer: &mut dyn Observer) -> Result<f64, Error> {
        let rows = self.measurer.sample(policy, self.prompts, observer)?;
        let of = self.measurer.responses(policy, &self.policies.reference, &rows, false, observer)?;
        Ok(of.iter().map(Response::kl_nats).sum::<f64>() / of.len().max(1) as f64)
    }

    /// The two-policy part, and what the reward explains of it.
    fn compare(
        &self,
        out: &mut Explanation,
        options: &ExplainOptions,
        recipe: &Recipe,
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        let kept = |step: u64| self.policies.kept.iter().find(|(s, _)| *s == step).map(|(_, k)| k);
        let Some(end) = kept(out.to) else {
            let steps: Vec<String> = self.policies.kept.iter().map(|(s, _)| s.to_string()).collect();
            out.notes.push(format!(
                "the policy after {} updates was not kept, so its text cannot be looked at (kept: after {}; checkpoint.keep \
                 and checkpoint.every keep more)",
                out.to,
                steps.join(", ")
            ));
            return Ok(());
        };
        let policy = self.policies.load(end)?;
        let before = match (out.from, kept(out.from)) {
            (0, _) => None,
            (_, Some(begin)) => Some(self.policies.load(begin)?),
            (_, None) => {
                out.notes.push(format!(
                    "the policy after {} updates was not kept: the policies compared are the one after {} updates and the \
                     reference",
                    out.from, out.to
                ));
                None
            }
        };
        let name = |step: u64| format!("{} after {step} updates", options.run.display());
        let (other, reference) = match &before {
            Some(model) => (model, name(out.from)),
            None => (&self.policies.reference, "the reference of the run".to_owned()),
        };
        out.compared = format!(
            "The policy after {} updates against {}",
            out.to,
            match &before {
                Some(_) => format!("the one after {}", out.from),
                None => reference.clone(),
            }
        );
        let rows = self.measurer.sample(&policy, self.prompts, observer)?;
        let responses = self.measurer.responses(&policy, other, &rows, false, observer)?;
        let other_rows = self.measurer.sample(other, self.prompts, observer)?;
        let reference_responses = self.measurer.responses(other, &policy, &other_rows, true, observer)?;
        match self.reward_fit(recipe, &rows, &responses) {
            Ok(mut fit) => {
                fit.inverse_beta =
                    out.updates.each.last().and_then(|u| u.beta).filter(|b| *b > 0.0).map(|b| 1.0 / b);
                out.reward = Some(fit);
            }
            Err(e) => out.notes.push(format!("the responses could not be scored: {e}")),
        }
        let input = DriftInput {
            policy: name(out.to),
            reference,
            temperature: self.measurer.sampling.temperature,
            given: false,
            responses,
            reference_responses,
            seed: recipe.seed,
            pairs: options.pairs,
        };
        out.drift = Some(Drift::of(&input).map_err(|e| Error::input("the responses", e))?);
        Ok(())
    }

    /// The log-ratio of the responses on the parts of their score.
    fn reward_fit(&self, recipe: &Recipe, rows: &Rows, responses: &[Response]) -> Result<RewardFit, Error> {
        let reward_dir = &self.policies.reward_dir;
        let run = reward_dir.parent().unwrap_or(reward_dir);
        let mut scorer = Scorer::new(recipe, &self.policies.codec, reward_dir)?.with_norms_of(run)?;
        let samples: Vec<TextSample<'_>> = (0..rows.texts.len())
            .map(|i| TextSample {
                prompt: &rows.prompts.texts[i],
                messages: &rows.prompts.messages[i],
                response: &rows.texts[i],
                prompt_tokens: rows.prompts.tokens.row(i),
                response_tokens: rows.responses.row(i),
                domain: &rows.prompts.domains[i],
                answer: rows.prompts.answers.get(i).map_or("", String::as_str),
                rendered: "",
            })
            .collect();
        let parts = scorer.score(self.measurer.engine, &samples)?;
        let values = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let columns: Vec<(String, Vec<f64>)> =
            parts.iter().map(|p| (p.name.clone(), values(&p.values))).collect();
        let y: Vec<f64> = responses.iter().map(Response::log_ratio_nats).collect();
        let lengths: Vec<f64> = responses.iter().map(|r| r.tokens.len() as f64).collect();
        let length = ("length".to_owned(), lengths);
        let with_length = [columns.as_slice(), std::slice::from_ref(&length)].concat();
        let prompts: Vec<u64> = responses.iter().map(|r| r.prompt_id).collect();
        let several = recipe.eval.samples > 1;
        let r_squared =
            |columns: &[(String, Vec<f64>)]| least_squares(&y, columns, None).map(|f| f.r_squared);
        Ok(RewardFit {
            pooled: least_squares(&y, &columns, None),
            within_prompts: several.then(|| least_squares(&y, &columns, Some(&prompts))).flatten(),
            length_r_squared: r_squared(&[length]),
            with_length_r_squared: r_squared(&with_length),
            inverse_beta: None,
        })
    }
}
