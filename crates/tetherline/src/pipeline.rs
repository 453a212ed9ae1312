//! The stages in order, each on what the last one left in the run directory: sft → reward → ppo (or dpo) → eval →
//! report. A finished stage is a directory or file that is there whole; a resumed run skips it.

use crate::checkpoint::{save_dir, save_file};
use crate::codec::Codec;
use crate::evaluate::{self, evaluate};
use crate::inputs::ModelHashes;
use crate::ppo::{Machine, POLICY_HEADS, Ppo};
use crate::recipe::{Dtype, Recipe};
use crate::rounds::{self, DriftLedger, FirstReference, Round, Spending};
use crate::run_dir::{RunDir, member_name};
use crate::scoring::{RewardModel, Scorer};
use crate::{
    Error, RunOptions, RunSummary, Stages, audit, card, dpo, report, reward, score_norms, sft, sources,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use tetherline_audit::sha256;
use tetherline_core::seeds::Purpose;
use tetherline_core::{BoxError, Event, Observer, Rollout, Stage};
use tetherline_eval::report::{SamplePair, sample_pairs};
use tetherline_eval::{Comparison, PromptRow, ResponseRecord};
use tetherline_models::{Device, Engine, Model, ModelError, ModelFiles, Precision, SaveType};
use tetherline_reward::RewardNorm;
use tetherline_rollout::{StreamName, generate};

/// What the evaluation stage leaves in `evaluation.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct EvaluationFile {
    /// Baseline against aligned policy.
    pub comparison: Comparison,
    /// Responses before and after.
    pub samples: Vec<SamplePair>,
    /// What each prompt gave, so that another run on the same prompts can be paired with this one.
    #[serde(default)]
    pub by_prompt: ByPrompt,
}

/// What each prompt of an evaluation gave. No text.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ByPrompt {
    /// SHA-256 of the prompts: of a line of JSON per prompt, its number, domain and text.
    pub prompts: String,
    /// The policy before, by prompt.
    pub baseline: Vec<PromptRow>,
    /// The policy after.
    pub aligned: Vec<PromptRow>,
}

impl ByPrompt {
    fn of(baseline: &[ResponseRecord], aligned: &[ResponseRecord]) -> Self {
        let prompts: BTreeMap<u64, &ResponseRecord> = aligned.iter().map(|r| (r.prompt_id, r)).collect();
        let line = |(id, r): (&u64, &&ResponseRecord)| format!("{}\n", json!([id, r.domain, r.prompt]));
        let text: String = prompts.iter().map(line).collect();
        Self {
            prompts: sha256(text.as_bytes()),
            baseline: PromptRow::all(baseline),
            aligned: PromptRow::all(aligned),
        }
    }
}

/// Runs the stages of a recipe in a run directory.
///
/// # Errors
/// [`Error`], sorted by [`Error::kind`].
pub fn run(recipe: &Recipe, options: &RunOptions, observer: &mut dyn Observer) -> Result<RunSummary, Error> {
    // Reads every file once: bad data is refused before anything is written.
    crate::plan(recipe, options.stages)?;
    let engine = training_engine(recipe, options.threads)?;
    // A single stage continues what earlier ones left; a whole run continues only when told to.
    let one_stage = options.stages != crate::Stages::All;
    let known = options.out.join("config.toml").is_file();
    let inputs = crate::inputs::hashes(recipe)?;
    let dir = RunDir::open(&options.out, recipe, &inputs, options.resume || (one_stage && known))?;
    let models = ModelHashes::of(recipe);
    let run = Run { recipe, options, dir, engine, models };
    let mut summary = RunSummary::default();

    if let Some(note) = run.nothing_to_do() {
        summary.notes.push(note);
        return Ok(summary);
    }
    // A report is of a run that ended, and this one goes on; in the end it is drawn anew.
    let had_report = report::remove(&run.dir)?;
    audit::started(&run.dir, recipe)?;
    let outcome = run.stages(&mut summary, observer);
    // What ended the run matters more than that its end could not be recorded.
    let recorded = audit::models(&run.dir, &run.models);
    let recorded = recorded.and_then(|()| audit::ended(&run.dir, outcome.as_ref().err()));
    let stopped = matches!(outcome, Err(Error::Halted { .. } | Error::NotFinite { .. }));
    let recorded = recorded.and_then(|()| {
        if had_report || stopped || !summary.table.is_empty() {
            summary.report = Some(report::write(run.dir.root())?);
        }
        Ok(())
    });
    if let (true, Some(report)) = (stopped, &summary.report) {
        observer.on_event(&Event::Note(&format!("the report of the run that stopped: {}", report.display())));
    }
    outcome?;
    recorded?;
    Ok(summary)
}

/// A recipe in its directory.
pub(crate) struct Run<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) options: &'a RunOptions,
    pub(crate) dir: RunDir,
    pub(crate) engine: Engine,
    pub(crate) models: ModelHashes,
}

impl Run<'_> {
    /// The stages that were asked for and are not done yet.
    fn stages(&self, summary: &mut RunSummary, observer: &mut dyn Observer) -> Result<(), Error> {
        let (recipe, wanted) = (self.recipe, self.options.stages);
        if wanted.include(Stage::Sft) && recipe.runs_sft() && !self.sft_dir().is_dir() {
            self.sft(observer)?;
            self.done(Stage::Sft, &self.sft_dir())?;
        }
        if wanted.include(Stage::Reward) && recipe.trains_reward_model() && !self.dir.reward().is_dir() {
            self.reward(observer)?;
            self.done(Stage::Reward, &self.dir.reward())?;
        }
        let aligned = if recipe.dpo.is_some() { Stage::Dpo } else { Stage::Ppo };
        if wanted.include(aligned) && !self.dir.policy().is_dir() {
            match aligned {
                Stage::Dpo => self.dpo(observer)?,
                _ => self.ppo(observer)?,
            }
            self.done(aligned, &self.dir.policy())?;
        }
        if wanted.include(Stage::Eval) && recipe.eval.prompts > 0 {
            let file = self.eval(observer)?;
            audit::models(&self.dir, &self.models)?;
            audit::evaluated(&self.dir, &self.dir.root().join(report::EVALUATION))?;
            summary.table = format!("{}\n{}", file.comparison.table(), file.comparison.domain_table());
            summary.samples = sample_text(&file.samples);
        }
        Ok(())
    }

    /// A stage has left its directory.
    fn done(&self, stage: Stage, dir: &std::path::Path) -> Result<(), Error> {
        audit::models(&self.dir, &self.models)?;
        audit::stage_done(&self.dir, stage, dir)
    }

    /// Why a single stage has nothing to do, if so.
    fn nothing_to_do(&self) -> Option<String> {
        let Stages::Only(stage) = self.options.stages else { return None };
        let (wanted, key, done) = match stage {
            Stage::Sft => (self.recipe.runs_sft(), "no [sft] section", self.sft_dir()),
            Stage::Reward => {
                (self.recipe.trains_reward_model(), "no reward model to train", self.dir.reward())
            }
            Stage::Ppo => {
                (self.recipe.dpo.is_none(), "[dpo], which stands in place of PPO", self.dir.policy())
            }
            Stage::Dpo => (self.recipe.dpo.is_some(), "no [dpo] section", self.dir.policy()),
            _ => (self.recipe.eval.prompts > 0, "eval.prompts = 0", self.dir.root().join("no such file")),
        };
        if !wanted {
            return Some(format!("nothing to do: the recipe has {key}"));
        }
        done.is_dir().then(|| format!("nothing to do: {} is there already", done.display()))
    }

    fn sft_dir(&self) -> std::path::PathBuf {
        self.dir.root().join("sft")
    }

    /// The model that RL starts from: the fine-tuned one where SFT is part of the recipe.
    pub(crate) fn start_files(&self) -> Result<ModelFiles, Error> {
        if self.recipe.runs_sft() {
            let dir = self.sft_dir();
            if !dir.is_dir() {
                let problem = "there is none yet: run `tether sft` with the same recipe and --out first";
                return Err(Error::input(format!("the fine-tuned policy {}", dir.display()), problem));
            }
            return sources::open_dir(dir).map_err(|e| Error::input("the fine-tuned policy", e));
        }
        sources::open_model(&self.recipe.model.policy)
    }

    fn load_model(&self, files: &ModelFiles) -> Result<Model, Error> {
        let what = || format!("the model {}", files.root().display());
        let model =
            Model::load(files, POLICY_HEADS, self.recipe.seed).map_err(|e| Error::input(what(), e))?;
        model.with_context(self.recipe.model.max_context).map_err(|e| Error::input(what(), e))
    }

    pub(crate) fn load(&self, files: &ModelFiles) -> Result<(Model, Codec), Error> {
        let model = self.load_model(files)?;
        let codec = Codec::load(files, &model)?.with_variables(&self.recipe.data.chat.variables)?;
        // The prompts of the embedded world are what users say.
        let world = self.recipe.data.world.is_some();
        Ok((model, if world { codec.wrapping_plain_prompts() } else { codec }))
    }

    /// A model to train: with the recipe's adapter, or its lowest blocks frozen.
    pub(crate) fn load_to_train(&self, files: &ModelFiles) -> Result<(Model, Codec), Error> {
        let (model, codec) = self.load(files)?;
        let section = &self.recipe.model;
        let model = match &section.adapter {
            Some(adapter) => adapter.add_to(model, sources::base_name(&section.policy), self.recipe.seed),
            None if section.freeze_layers > 0 => model.freeze_layers(section.freeze_layers),
            None => Ok(model),
        };
        let mut model =
            model.map_err(|e| Error::input(format!("the model {}", files.root().display()), e))?;
        if !model.frozen().is_empty() {
            // Copies made from now on share what is frozen.
            model.make_trainable();
            model.prepare(&self.engine).map_err(|e| Error::input("the model", e))?;
        }
        Ok((model, codec))
    }

    pub(crate) fn reference(&self, start: &Model) -> Result<Model, Error> {
        match &self.recipe.model.reference {
            None => Ok(start.clone()),
            Some(text) => {
                sources::sharing(self.load_model(&sources::open_model(text)?)?, start, &self.engine)
            }
        }
    }

    fn sft(&self, observer: &mut dyn Observer) -> Result<(), Error> {
        let (model, codec) = self.load_to_train(&sources::open_model(&self.recipe.model.policy)?)?;
        let (model, log) = sft::sft(self.recipe, model, &codec, &self.engine, &self.dir, observer)?;
        self.write_log("sft.jsonl", &log)?;
        save_dir(&self.sft_dir(), |d| Ok(model.save(d, SaveType::F32)?))?;
        Ok(self.dir.clear_stage_checkpoints(Stage::Sft, 0)?)
    }

    fn reward(&self, observer: &mut dyn Observer) -> Result<(), Error> {
        let files = self.start_files()?;
        let (start, codec) = self.load_to_train(&files)?;
        let data = reward::Preferences::load(self.recipe, &codec, start.context(), observer)?;
        let ensemble = &self.recipe.reward.ensemble;
        let samples = self.norm_samples(&start, &codec, observer)?;
        let samples = samples.as_ref().map(crate::rows::full_rows).unwrap_or_default();
        let mut members = Vec::new();
        // The first one last: with its directory the stage is done.
        for i in (0..ensemble.members).rev() {
            let dir = self.dir.reward_member(i);
            if dir.is_dir() {
                let files = sources::open_dir(&dir).map_err(|e| Error::input("the reward model", e))?;
                let rm = RewardModel::load(&files)?;
                let heads = reward::held_out_scores(&data, &rm.model, &self.engine)?;
                members.extend(heads.into_iter().zip(rm.norms).rev());
                continue;
            }
            if ensemble.members > 1 {
                let done = members.len() + 1;
                observer.on_event(&Event::Note(&format!("reward model {done} of {}", ensemble.members)));
            }
            let (model, log) =
                reward::train(self.recipe, &start, &data, i, &self.engine, &self.dir, observer)?;
            self.write_log(&format!("{}.jsonl", member_name("reward", i)), &log)?;
            let heads = reward::held_out_scores(&data, &model, &self.engine)?;
            let norms = self.fit_norms(&samples, model.clone(), &files)?;
            members.extend(heads.into_iter().zip(norms.clone()).rev());
            if i == 0 {
                self.held_out_report(&data, &members, observer)?;
            }
            save_dir(&dir, |d| reward::save(d, &model, &norms))?;
            self.dir.clear_stage_checkpoints(Stage::Reward, i)?;
        }
        Ok(())
    }

    fn held_out_report(
        &self,
        data: &reward::Preferences,
        members: &[reward::held_out::Member],
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        // In the order of the directories.
        let members: Vec<_> = members.iter().rev().cloned().collect();
        let report = reward::held_out::measure_members(data, &members, &self.recipe.reward.ensemble)?;
        if let Some(report) = report {
            let text = serde_json::to_vec_pretty(&report).map_err(Error::stage(Stage::Reward))?;
            save_file(&self.dir.root().join("reward_held_out.json"), &text)?;
            observer.on_event(&Event::Note(&reward::held_out::one_line(&report)));
        }
        Ok(())
    }

    /// Responses of the reference policy to the first prompts, with them; none where scores are not normalised.
    fn norm_samples(
        &self,
        start: &Model,
        codec: &Codec,
        observer: &mut dyn Observer,
    ) -> Result<Option<Rollout>, Error> {
        let wanted = self.recipe.reward.normalize_samples;
        let Some(rows) = sources::prompts(self.recipe)?.filter(|_| wanted > 0) else { return Ok(None) };
        let context = start.context();
        let rows = &rows.rows[..rows.rows.len().min(wanted)];
        let prompts =
            crate::rows::encode_prompts(self.recipe, codec, rows, context, "data.prompts", observer)?;
        let reference = self.reference(start)?;
        let name = StreamName { seed: self.recipe.seed, purpose: Purpose::Eval, step: 2 };
        let engine = &self.engine;
        generate(&reference, &codec.tokenizer, prompts, &self.recipe.sampling, name, engine, 0)
            .map(Some)
            .map_err(Error::stage(Stage::Reward))
    }

    /// Measures sources on the reference policy's samples, or reads what was measured before (`reward.normalize`).
    fn normalise(
        &self,
        scorer: &mut Scorer,
        (start, codec): (&Model, &Codec),
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        if !scorer.needs_norms() {
            return Ok(());
        }
        let norms = match score_norms::read(self.dir.root())? {
            Some(known) => known,
            None => {
                let missing =
                    || Error::input("reward.normalize", "there are no prompts to sample the reference on");
                let r = self.norm_samples(start, codec, observer)?.ok_or_else(missing)?;
                let parts = scorer.score(&self.engine, &crate::rows::samples(&r))?;
                let norms = score_norms::fit(self.recipe, &parts, &scorer.fallbacks())?;
                let text = serde_json::to_vec_pretty(&norms).map_err(Error::stage(Stage::Ppo))?;
                save_file(&self.dir.root().join(score_norms::FILE), &text)?;
                for (name, norm) in &norms {
                    let text = format!(
                        "the source `{name}` scores the reference policy {:.4} on average, with a standard deviation of \
                         {:.4}: mean 0 and 1 from now on",
                        norm.mean, norm.std
                    );
                    observer.on_event(&Event::Note(&text));
                }
                norms
            }
        };
        scorer.normalise(norms);
        Ok(())
    }

    /// Mean and standard deviation of each head's raw scores of the reference policy's own samples.
    fn fit_norms(
        &self,
        samples: &[Vec<u32>],
        model: Model,
        files: &ModelFiles,
    ) -> Result<Vec<RewardNorm>, Error> {
        let heads = model.config().scores;
        if samples.is_empty() {
            return Ok(vec![RewardNorm::IDENTITY; heads]);
        }
        let scores = reward::as_scorer(model, files)?.raw_scores(&self.engine, samples)?;
        let of = |k: usize| RewardNorm::fit(&scores.iter().map(|s| s[k]).collect::<Vec<_>>());
        (0..heads).map(of).collect::<Result<_, _>>().map_err(Error::stage(Stage::Reward))
    }

    fn ppo(&self, observer: &mut dyn Observer) -> Result<(), Error> {
        let (start, codec) = self.load_to_train(&self.start_files()?)?;
        let reference = self.reference(&start)?;
        let mut scorer = Scorer::new(self.recipe, &codec, &self.dir.reward())?;
        for rm in scorer.models_mut() {
            rm.model.share_frozen(&start);
        }
        self.normalise(&mut scorer, (&start, &codec), observer)?;
        let measured = self.recipe.reward.normalize.iter().any(|name| name == "reward_model");
        if !measured && scorer.is_raw() {
            observer.on_event(&Event::Note(
                "the reward model's scores are not normalised (it has no reward_norm.json): β counts in its units",
            ));
        }
        let machine = Machine { engine: &self.engine, clock: self.options.clock };
        let mut ppo = Ppo::new(self.recipe, &start, reference, &codec, scorer, machine, observer)?;
        let past = DriftLedger::of(&sources::open_model(&self.recipe.model.policy)?)?;
        if let Some(past) = &past {
            let first = past.open_first(self.recipe);
            let first =
                first.and_then(|m| sources::sharing(m, &start, &self.engine).map_err(|e| e.to_string()));
            if let Err(problem) = &first {
                let text = format!("the distance to the first reference is not known: {problem}");
                observer.on_event(&Event::Warning(&text));
            }
            ppo = ppo.after(past, first.ok())?;
        }
        // Before PPO opens the audit for itself, and long before its first checkpoint.
        audit::models(&self.dir, &self.models)?;
        let (policy, spending) = ppo.run(&self.dir, self.options.after_halt, observer)?;
        let drift = self.drift(past, (&start, &policy), &codec, spending, observer)?;
        let card = card::text(self.recipe, &self.dir)?;
        save_dir(&self.dir.policy(), |d| {
            policy.save(d, SaveType::F32)?;
            std::fs::write(d.join(rounds::FILE), serde_json::to_vec_pretty(&drift)?)?;
            Ok(std::fs::write(d.join(card::CARD), card)?)
        })?;
        Ok(())
    }

    /// The drift of this run's result, after that of the runs before.
    fn drift(
        &self,
        past: Option<DriftLedger>,
        (start, policy): (&Model, &Model),
        codec: &Codec,
        spending: Spending,
        observer: &mut dyn Observer,
    ) -> Result<DriftLedger, Error> {
        let recipe = self.recipe;
        let reference = self.reference(start)?;
        let spent_before = past.as_ref().map_or(0.0, DriftLedger::spent);
        // Opened anew: what is not capped is not kept in memory while training.
        let first = past.as_ref().map(|past| past.open_first(recipe).ok());
        let mut others = vec![&reference];
        others.extend(first.iter().flatten());
        let kl = rounds::measure(recipe, policy, &others, codec, &self.engine, observer)?;
        let to_first = match &first {
            None => Some(&kl[0]),
            Some(None) => None,
            Some(Some(_)) => Some(&kl[1]),
        };
        let mut drift = past.unwrap_or_else(|| DriftLedger {
            first: FirstReference { model: self.reference_name(), hash: rounds::hash_of(&reference) },
            rounds: Vec::new(),
        });
        let moves = recipe.kl.reference.is_some_and(|r| r.moves());
        drift.rounds.push(Round {
            name: recipe.name.clone(),
            steps: recipe.ppo.steps,
            responses: kl[0].count(),
            kl_first: to_first.map(|kl| kl.mean().0),
            kl_first_stderr: to_first.map(|kl| kl.stderr().0),
            kl_reference: (!moves).then(|| kl[0].mean().0),
            forgiven: spending.forgiven,
            spent: spending.spent.map(|spent| spent - spent_before),
        });
        if let (Some(kl), true) = (to_first, drift.rounds.len() > 1) {
            let text = format!(
                "after {} rounds {:.2} ± {:.2} nats per sequence to the first reference, {}",
                drift.rounds.len(),
                kl.mean().0,
                kl.stderr().0,
                drift.first.model
            );
            observer.on_event(&Event::Note(&text));
        }
        Ok(drift)
    }

    /// What this run's reference is called, for runs after it.
    fn reference_name(&self) -> String {
        let name = match &self.recipe.model.reference {
            Some(text) => text.clone(),
            // Relative: two runs of one recipe leave the same bytes, wherever they are.
            None if self.recipe.runs_sft() => return "../sft".to_owned(),
            None => self.recipe.model.policy.clone(),
        };
        let dir = Path::new(&name);
        if dir.is_dir() {
            return std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string();
        }
        name
    }

    fn dpo(&self, observer: &mut dyn Observer) -> Result<(), Error> {
        let (start, codec) = self.load_to_train(&self.start_files()?)?;
        let reference = self.reference(&start)?;
        let trained = dpo::dpo(self.recipe, start, &reference, &codec, &self.engine, &self.dir, observer)?;
        self.write_log("dpo.jsonl", &trained.log)?;
        if let Some(held_out) = &trained.held_out {
            let text = serde_json::to_vec_pretty(held_out).map_err(Error::stage(Stage::Dpo))?;
            save_file(&self.dir.root().join("dpo_held_out.json"), &text)?;
        }
        let card = card::text(self.recipe, &self.dir)?;
        save_dir(&self.dir.policy(), |d| {
            trained.model.save(d, SaveType::F32)?;
            Ok(std::fs::write(d.join(card::CARD), card)?)
        })?;
        Ok(self.dir.clear_stage_checkpoints(Stage::Dpo, 0)?)
    }

    fn eval(&self, observer: &mut dyn Observer) -> Result<EvaluationFile, Error> {
        let (baseline, codec) = self.load(&self.start_files()?)?;
        let policy_dir = self.dir.policy();
        if !policy_dir.is_dir() {
            let stage = if self.recipe.dpo.is_some() { "dpo" } else { "ppo" };
            let problem =
                format!("there is none yet: run `tether {stage}` with the same recipe and --out first");
            return Err(Error::input(format!("the aligned policy {}", policy_dir.display()), problem));
        }
        let files = sources::open_dir(policy_dir).map_err(|e| Error::input("the aligned policy", e))?;
        let aligned = self.load(&files)?.0;
        let baseline = sources::sharing(baseline, &aligned, &self.engine)?;
        let reference = self.reference(&baseline)?;
        let mut scorer = Scorer::new(self.recipe, &codec, &self.dir.reward())?;
        for rm in scorer.models_mut() {
            rm.model.share_frozen(&aligned);
        }
        self.normalise(&mut scorer, (&baseline, &codec), observer)?;
        observer.on_event(&Event::StageStarted { stage: Stage::Eval, done: 0, total: 2 });
        let context = baseline.context();
        let prompts = evaluate::prompts(self.recipe, &codec, context, observer)?;
        let mut records: Vec<Vec<ResponseRecord>> = Vec::new();
        for (i, policy) in [&baseline, &aligned].into_iter().enumerate() {
            let (engine, prompts) = (&self.engine, prompts.clone());
            records.push(evaluate(self.recipe, policy, &reference, &codec, &mut scorer, engine, prompts)?);
            evaluate::progress(observer, i as u64 + 1, 2);
        }
        let comparison = Comparison::paired(&records[0], &records[1], self.recipe.seed)
            .map_err(Error::stage(Stage::Eval))?;
        let samples = sample_pairs(&records[0], &records[1], 3);
        let by_prompt = ByPrompt::of(&records[0], &records[1]);
        let file = EvaluationFile { comparison, samples, by_prompt };
        let text = serde_json::to_vec_pretty(&file).map_err(Error::stage(Stage::Eval))?;
        save_file(&self.dir.root().join(report::EVALUATION), &text)?;
        let card = card::text(self.recipe, &self.dir)?;
        save_file(&self.dir.policy().join(card::CARD), card.as_bytes())?;
        observer.on_event(&Event::StageFinished { stage: Stage::Eval });
        Ok(file)
    }

    fn write_log(&self, name: &str, rows: &[serde_json::Value]) -> Result<(), Error> {
        let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
        Ok(save_file(&Path::new(self.dir.root()).join(name), text.as_bytes())?)
    }
}

/// A few before/after pairs as plain text.
fn sample_text(samples: &[SamplePair]) -> String {
    let score = |s: &tetherline_eval::report::SampleSide| match s.gold {
        Some(g) => format!("score {:+.2}, gold {g:+.2}", s.score),
        None => format!("score {:+.2}", s.score),
    };
    let one = |s: &SamplePair| {
        let lines = [
            format!("[{}] {}", s.domain, s.prompt),
            format!("  before ({}): {}", score(&s.baseline), s.baseline.response),
            format!("  after  ({}): {}", score(&s.aligned), s.aligned.response),
        ];
        lines.map(|l| wrap(&l, 80, "    ")).join("")
    };
    samples.iter().take(4).map(one).collect::<Vec<_>>().join("\n")
}

/// An engine on `device` with `threads` threads, or one per core for 0.
pub(crate) fn engine(device: Device, threads: usize) -> Result<Engine, Error> {
    let every = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { every() } else { threads };
    Engine::on(device, threads).map_err(|e| match e {
        ModelError::Device { problem, .. } => Error::input(format!("device {device}"), problem),
        e => Error::input(format!("device {device}"), e),
    })
}

/// [`engine`], set up as the recipe wants it for training.
pub(crate) fn training_engine(recipe: &Recipe, threads: usize) -> Result<Engine, Error> {
    let mut engine = engine(recipe.device, threads)?;
    let refused = |e: ModelError| match e {
        ModelError::Device { problem, .. } => Error::input(format!("device {}", recipe.device), problem),
        e => Error::input("model", e),
    };
    if recipe.model.gradient_checkpointing {
        engine = engine.with_gradient_checkpointing().map_err(refused)?;
    }
    let precision = match recipe.model.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
    };
    engine.with_precision(precision).map_err(refused)
}

/// `text` in lines of at most `width` characters, broken at spaces; every line after the first is indented.
fn wrap(text: &str, width: usize, indent: &str) -> String {
    let start = text.len() - text.trim_start().len();
    let (mut out, mut column) = (text[..start].to_owned(), start);
    for (i, word) in text[start..].split_whitespace().enumerate() {
        let n = word.chars().count();
        if i > 0 && column + 1 + n > width {
            out.push('\n');
            out.push_str(indent);
            column = indent.len();
        } else if i > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += n;
    }
    out.push('\n');
    out
}

/// Reads a JSON file of a run.
///
/// # Errors
/// If it cannot be read or is not what it should be.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { action: "read", path: path.to_owned(), source }),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::input(path.display().to_string(), BoxError::from(e))),
    }
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn long_lines_break_at_spaces_and_are_indented() {
        assert_eq!(wrap("  after: one two three", 13, "    "), "  after: one\n    two three\n");
        assert_eq!(wrap("", 9, "    "), "\n");
        assert_eq!(wrap("incomprehensibilities a", 9, "  "), "incomprehensibilities\n  a\n");
    }
}
