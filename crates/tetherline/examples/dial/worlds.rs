//! The two worlds of the dial, and a run of each.

use crate::support::runs::{Job, stage};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tetherline::Recipe;
use tetherline::codec::Codec;
use tetherline::evaluate::{evaluate, prompts};
use tetherline::pipeline::EvaluationFile;
use tetherline::scoring::Scorer;
use tetherline_core::{BoxError, Silent, Stage};
use tetherline_models::{Engine, Heads, Model, ModelFiles};

/// A world.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum World {
    /// The embedded one, with a learnt reward and gold.
    Frontdesk,
    /// A model of 260 k parameters that writes stories; the reward counts happy words.
    Stories {
        /// The model.
        model: PathBuf,
        /// Prompts, JSON lines.
        prompts: PathBuf,
    },
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Steps of SFT.
    pub(crate) sft: u64,
    /// Steps of PPO on frontdesk.
    pub(crate) frontdesk: u64,
    /// Steps of PPO on the stories.
    pub(crate) stories: u64,
    /// Held-out prompts of an evaluation.
    pub(crate) prompts: usize,
    /// Answers to each.
    pub(crate) answers: usize,
    /// Prompts of the prediction.
    pub(crate) tilt_prompts: usize,
    /// Answers of the reference to each.
    pub(crate) tilt_answers: usize,
}

impl World {
    /// The stories under an oracle directory, with their prompts written to `out`; what is missing where they are not there.
    pub(crate) fn stories(oracle: &Path, out: &Path) -> Result<Result<Self, String>, BoxError> {
        let model = oracle.join("models/stories260k");
        let file = oracle.join("peers_ppo_run/prompts.json");
        if !model.is_dir() || !file.is_file() {
            return Ok(Err(format!("SKIPPED: oracle not found at {} (set TETHER_ORACLE)", oracle.display())));
        }
        let read: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let texts = read["texts"].as_array().ok_or("prompts.json has no list `texts`")?;
        let mut lines = String::new();
        for text in texts {
            writeln!(lines, "{}", json!({"prompt": text}))?;
        }
        let prompts = out.join("stories-prompts.jsonl");
        std::fs::create_dir_all(out)?;
        std::fs::write(&prompts, lines)?;
        Ok(Ok(Self::Stories { model: std::path::absolute(model)?, prompts: std::path::absolute(prompts)? }))
    }

    /// Its name, also of its directory.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Frontdesk => "frontdesk",
            Self::Stories { .. } => "stories260k",
        }
    }

    /// The recipe of everything before PPO; only frontdesk has such stages.
    fn before(&self, seed: u64, size: Size) -> Option<Job> {
        let job = Job::new(String::new(), "quickstart", &[("eval.prompts", "0")]).set("seed", seed);
        (*self == Self::Frontdesk).then(|| job.set("sft.steps", size.sft))
    }

    /// A run under a fixed β.
    fn job(&self, start: &Path, (beta, seed): (f64, u64), size: Size) -> Job {
        let job = match self {
            Self::Frontdesk => Job::new(String::new(), "quickstart", &[("sft.steps", "0")])
                .set("model.policy", start.join("sft").display())
                .set("model.reward", start.join("reward").display())
                .set("ppo.steps", size.frontdesk),
            Self::Stories { model, prompts } => Job::new(String::new(), "word-reward", &[])
                .set("model.policy", model.display())
                .set("data.prompts", prompts.display())
                .set("ppo.steps", size.stories),
        };
        job.set("seed", seed)
            .set("kl", format!("{{ fixed = {{ init = {beta:?} }} }}"))
            .set("eval.prompts", size.prompts)
            .set("eval.samples", size.answers)
    }

    fn start(&self, out: &Path, seed: u64) -> PathBuf {
        out.join(self.name()).join("start").join(format!("seed-{seed}"))
    }

    fn run_dir(&self, out: &Path, beta: f64, seed: u64) -> PathBuf {
        out.join(self.name()).join(format!("beta-{beta}")).join(format!("seed-{seed}"))
    }

    /// SFT and reward model of a seed, common to every β; then the run itself. What is finished is left as it is.
    pub(crate) fn train(&self, out: &Path, (beta, seed): (f64, u64), size: Size) -> Result<(), BoxError> {
        let start = self.start(out, seed);
        if let Some(job) = self.before(seed, size) {
            stage(&job, &start, Stage::Sft)?;
            stage(&job, &start, Stage::Reward)?;
        }
        let dir = self.run_dir(out, beta, seed);
        if !dir.join("evaluation.json").is_file() {
            let job = self.job(&start, (beta, seed), size);
            stage(&job, &dir, Stage::Ppo)?;
            stage(&job, &dir, Stage::Eval)?;
        }
        Ok(())
    }

    /// What a run came to; `None` where it has not finished.
    pub(crate) fn result(
        &self,
        out: &Path,
        beta: f64,
        seed: u64,
    ) -> Result<Option<EvaluationFile>, BoxError> {
        let path = self.run_dir(out, beta, seed).join("evaluation.json");
        if !path.is_file() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&std::fs::read(path)?)?))
    }

    /// (prompt, score) of answers of the reference, as PPO is paid for them (missing ends included).
    pub(crate) fn reference_scores(
        &self,
        out: &Path,
        seed: u64,
        size: Size,
    ) -> Result<Vec<(u64, f64)>, BoxError> {
        let path = out.join(self.name()).join(format!("reference-seed-{seed}.json"));
        if path.is_file() {
            return Ok(serde_json::from_slice(&std::fs::read(path)?)?);
        }
        let start = self.start(out, seed);
        let job = self.job(&start, (1.0, seed), size);
        let mut recipe = Recipe::load(&job.recipe, &job.sets)?;
        (recipe.eval.prompts, recipe.eval.samples) = (size.tilt_prompts, size.tilt_answers);
        let engine = Engine::new(1);
        let files = ModelFiles::dir(&recipe.model.policy)?;
        let model = Model::load(&files, Heads { lm: true, scalar: false }, seed)?;
        let codec = Codec::load(&files, &model)?;
        let codec = if recipe.data.world.is_some() { codec.wrapping_plain_prompts() } else { codec };
        let mut scorer = Scorer::new(&recipe, &codec, &start.join("reward"))?;
        let batch = prompts(&recipe, &codec, model.context(), &mut Silent)?;
        let records = evaluate(&recipe, &model, &model, &codec, &mut scorer, &engine, batch)?;
        // `missing_eos_penalty = { replace = −3 }` of quickstart; the stories never end.
        let paid = |r: &tetherline::eval::ResponseRecord| match self {
            Self::Frontdesk if !r.stopped_by_eos => -3.0,
            _ => r.score,
        };
        let scores: Vec<(u64, f64)> = records.iter().map(|r| (r.prompt_id, paid(r))).collect();
        std::fs::write(path, serde_json::to_vec(&scores)?)?;
        Ok(scores)
    }
}
