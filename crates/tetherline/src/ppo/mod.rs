//! PPO on a tether: sample, score, shape, update; the controller sets β.
//!
//! ```text
//! for step in 1..=steps:
//!     rollout    = policy.generate(prompts)                 log π_old, entropy, values on the way
//!     reference  → log π_ref and exact KL on the same tokens
//!     score      = reward model + rules                     named parts
//!     advantages = GAE(−β·k1 + score)                       β of the controller, per row
//!     decision   = controller.observe(KL of this rollout)   next β and a verdict
//!     update     = clipped surrogate, `epochs` times over `minibatches`
//!     trials     → accept, scale back, reject, roll back or halt (`guarded.rs`), where the recipe has a guard
//! ```

mod constraint;
mod extras;
mod faults;
mod guarded;
mod held_out;
mod linked;
mod log;
mod loss;
mod observe;
mod reference;
mod rollback;
mod self_test;
mod shard;
mod state;
#[cfg(test)]
mod trl_update;
mod update;

use crate::audit::checkpoints::{Files, Recorded, saved};
use crate::checkpoint::Checkpoints;
use crate::codec::Codec;
use crate::conversation::{self, Conversations};
use crate::recipe::{ModelSection, Recipe, ValueModel};
use crate::rounds::{DriftLedger, Spending};
use crate::rows::{encode_prompts, full_rows, lm_rows, measure_kl, samples, scalar_rows, select};
use crate::run_dir::{RunDir, RunLogs};
use crate::scoring::{REWARD_HEADS, RewardTokens, Scorer};
use crate::train::Trainer;
use crate::{Error, audit, sources};
use constraint::{Constraint, Costs};
use faults::Presence;
use guarded::{Guarded, Judged};
use log::{Measured, StepOutput};
use rollback::RolledBack;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{Event, Observer, PromptBatch, Ragged, Rollout, Schedule, Stage, UpdateStats};
use tetherline_kl::{ALL, ControlDecision, KlController, KlPolicy, ReferenceLedger, Verdict};
use tetherline_models::optim::AdamWConfig;
use tetherline_models::{Engine, Heads, Model};
use tetherline_ppo::{PpoConfig, PpoError, ScoreAt, advantages, score_rollout};
use tetherline_reward::Environment;
use tetherline_rollout::StreamName;

/// The heads of a policy.
pub const POLICY_HEADS: Heads = Heads { lm: true, scalar: false };

/// Standard deviation of a fresh value head on a trunk of its own, as `transformers` initialises one. A head
/// of zero learns late: the trunk gets no gradient through it. A larger one makes the trunk's steps too large.
const VALUE_HEAD_SD: f64 = 0.02;

/// A reward model with the recipe's adapter or its lowest blocks frozen, as the policy, unless it has an adapter.
fn frozen_like(
    section: &ModelSection,
    model: Model,
    seed: u64,
) -> Result<Model, tetherline_models::ModelError> {
    match &section.adapter {
        Some(adapter) if model.adapter().is_none() => adapter.add_to(model, (String::new(), None), seed),
        None if section.freeze_layers > 0 && model.frozen().is_empty() => {
            model.freeze_layers(section.freeze_layers)
        }
        _ => Ok(model),
    }
}

/// A reward model as a critic: of several heads it keeps the first.
fn first_head(model: &Model, seed: u64) -> Result<Model, tetherline_models::ModelError> {
    match model.config().scores {
        1 => Ok(model.clone()),
        _ => model.with_scores(REWARD_HEADS, 1, seed),
    }
}

/// Everything PPO works with.
pub struct Ppo<'a> {
    recipe: &'a Recipe,
    config: &'a PpoConfig,
    engine: &'a Engine,
    codec: &'a Codec,
    clock: fn() -> f64,
    policy: Trainer,
    value: Option<Trainer>,
    reference: Model,
    reference_ledger: ReferenceLedger,
    scorer: Scorer,
    environment: Option<Environment>,
    prompts: PromptBatch,
    held_out: Option<PromptBatch>,
    controller: KlPolicy,
    decision: ControlDecision,
    guarded: Option<Guarded>,
    presence: Presence,
    /// What the audit has of the checkpoints.
    recorded: Recorded,
    /// The checkpoint of the last rollback.
    went_back: Option<u64>,
    constraint: Option<Constraint>,
    costs: Option<Costs>,
    /// Weight of the entropy bonus, which may follow a target, and what of it is in force this step.
    entropy_coef: f64,
    entropy_bonus: f64,
    /// What the last step logged of metrics that budgets are linked to.
    linked: BTreeMap<String, f64>,
    halted: Option<String>,
    /// Whether the policy comes from an earlier run, so that this run's reference is not the first.
    later_round: bool,
    /// What earlier runs spent of the ledger, nats per sequence.
    spent_before: f64,
    done: u64,
    episodes: u64,
}

/// What the loop runs on: threads, and the seconds that only `time/*` metrics show.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// Threads and their buffers.
    pub engine: &'a Engine,
    /// Seconds since any fixed moment.
    pub clock: fn() -> f64,
}

fn stage<E: Into<tetherline_core::BoxError>>(e: E) -> Error {
    Error::stage(Stage::Ppo)(e)
}

impl<'a> Ppo<'a> {
    /// Sets up the loop before its first step.
    ///
    /// # Errors
    /// If prompts, reward or controller cannot be used.
    pub fn new(
        recipe: &'a Recipe,
        start: &Model,
        reference: Model,
        codec: &'a Codec,
        mut scorer: Scorer,
        machine: Machine<'a>,
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let Machine { engine, clock } = machine;
        let config = &recipe.ppo;
        let fail = |e: tetherline_models::ModelError| Error::input("the policy", e);
        let critic = config.advantages.needs_critic();
        let shared = critic && recipe.model.value == ValueModel::Shared;
        let policy = if shared {
            let mut m = start.with_heads(Heads { lm: true, scalar: true }, recipe.seed).map_err(fail)?;
            m.init_scalar_head(0.0, recipe.seed);
            m
        } else {
            start.with_heads(POLICY_HEADS, recipe.seed).map_err(fail)?
        };
        let value = if shared || !critic {
            None
        } else {
            // Huang et al.: the value model starts as the reward model, head included.
            Some(match scorer.reward.as_mut().and_then(|(rm, _)| rm.decoder_mut()) {
                Some(rm) if rm.tokens == RewardTokens::Shared => {
                    // Over frozen weights of its own, if it is no adapter over the policy's; its scores stay the same.
                    rm.model = frozen_like(&recipe.model, rm.model.clone(), recipe.seed).map_err(fail)?;
                    if !rm.model.frozen().is_empty() {
                        rm.model.make_trainable();
                        rm.model.prepare(engine).map_err(fail)?;
                    }
                    first_head(&rm.model, recipe.seed).map_err(fail)?
                }
                _ => {
                    let heads = Heads { lm: false, scalar: true };
                    let mut m = start.with_heads(heads, recipe.seed).map_err(fail)?;
                    m.init_scalar_head(VALUE_HEAD_SD, recipe.seed);
                    m
                }
            })
        };
        if recipe.kl.reference.is_some_and(|r| r.moves()) {
            // By nothing: to see now whether it can follow the policy.
            let followed = reference.clone().mix(engine, &policy, 0.0);
            followed.map_err(|e| {
                Error::input("kl.reference moves, and the reference cannot follow the policy", e)
            })?;
        }
        let adam = AdamWConfig {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.adam_eps,
            weight_decay: config.weight_decay,
        };
        let loaded = sources::prompts(recipe)?.ok_or_else(|| Error::input("data.prompts", "missing"))?;
        crate::sft::note_skipped(observer, "data.prompts", loaded.skipped.len());
        let context = policy.context();
        let prompts = encode_prompts(recipe, codec, &loaded.rows, context, "data.prompts", observer)?;
        let held_out = match recipe.eval.every.min(recipe.eval.prompts as u64) {
            0 => None,
            _ => Some(crate::evaluate::prompts(recipe, codec, context, observer)?),
        };
        for warning in config.warnings() {
            observer.on_event(&Event::Warning(&warning));
        }
        linked::check_metrics(recipe)?;
        let constraint = Constraint::new(recipe, codec, start, adam)?;
        let critics: Vec<&Model> = value.iter().chain(constraint.iter().map(|c| &c.critic.model)).collect();
        let models = (&policy, &critics[..], &reference);
        let guarded = Guarded::new(recipe, codec, models, observer)?;
        let controller = KlPolicy::new(recipe.kl.clone()).map_err(|e| Error::input("the kl section", e))?;
        for warning in recipe.kl.warnings(Some(config.batch_size as u64)) {
            observer.on_event(&Event::Warning(&warning));
        }
        for fault in &recipe.fault {
            let (first, last) = (fault.at, fault.at + (fault.steps - 1));
            observer
                .on_event(&Event::Warning(&format!("a fault from step {first} to {last}: {:?}", fault.what)));
        }
        let mut decision = ControlDecision::empty();
        decision.beta = BTreeMap::from([(ALL.to_owned(), controller.beta(ALL))]);
        Ok(Self {
            recipe,
            config,
            engine,
            codec,
            clock,
            policy: Trainer::new(policy, adam),
            value: value.map(|m| Trainer::new(m, adam)),
            reference,
            reference_ledger: ReferenceLedger::default(),
            scorer,
            environment: recipe.environment.clone().map(Environment::new),
            prompts,
            held_out,
            controller,
            decision,
            guarded,
            presence: Presence::default(),
            recorded: Recorded::default(),
            went_back: None,
            constraint,
            costs: None,
            entropy_coef: config.entropy_coef,
            entropy_bonus: config.entropy_coef,
            linked: BTreeMap::new(),
            halted: None,
            later_round: false,
            spent_before: 0.0,
            done: 0,
            episodes: 0,
        })
    }

    /// The same for a policy that earlier runs have trained: the ledger counts on from what they spent, and the first
    /// reference, where it can be had, is theirs.
    ///
    /// # Errors
    /// If the first reference cannot be compared with the policy, or is to be capped and cannot be had.
    pub fn after(mut self, past: &DriftLedger, first: Option<Model>) -> Result<Self, Error> {
        let capped = self.recipe.kl.trust_region.is_some_and(|region| region.ref0_cap.is_some());
        if capped && first.is_none() {
            let problem = format!(
                "it caps KL to the first reference of all rounds, {}, which cannot be opened; put it back, or leave \
                 the cap out",
                past.first.model
            );
            return Err(Error::input("kl.trust_region.ref0_cap", problem));
        }
        if let Some(guarded) = self.guarded.as_mut().filter(|_| capped) {
            guarded.first = first;
        }
        self.later_round = true;
        self.spent_before = past.spent();
        if self.recipe.kl.ledger.is_some() {
            let mut state = self.controller.state();
            state.ledger.spent += self.spent_before;
            self.controller.restore(&state).map_err(stage)?;
        }
        Ok(self)
    }

    /// Runs (or goes on with) all steps; returns the aligned policy and what it spent. A run that was halted goes on only
    /// `after_halt`.
    ///
    /// # Errors
    /// A failed self-test, a number that is not finite, a halt, an interruption, or a write that failed.
    pub fn run(
        mut self,
        run: &RunDir,
        after_halt: bool,
        observer: &mut dyn Observer,
    ) -> Result<(Model, Spending), Error> {
        let checkpoints = run.checkpoints()?;
        let total = self.config.steps;
        let recorded = Recorded::read(run)?;
        let found = recorded.restore(&checkpoints, |path| self.restore(path))?;
        self.recorded = recorded;
        let (mut last_checkpoint, mut offsets, mut halt) = (None, None, None);
        match found {
            Some(found) => {
                found.report(observer);
                (last_checkpoint, offsets) = (Some(found.path), Some(found.value.offsets));
                halt = found.value.halted;
            }
            None => self.self_test(observer)?,
        }
        if let Some(reason) = halt.as_ref().filter(|_| !after_halt) {
            let reason = format!("{reason}; look into it, then go on with --resume --after-halt");
            return Err(Error::Halted { stage: Stage::Ppo, step: self.done, reason });
        }
        let mut logs = run.logs(offsets)?;
        audit::append(&mut logs.audit, json!({"event": "restored", "step": self.done}))?;
        if halt.is_some() {
            let release = self.release_halt(&checkpoints)?;
            release.write(&mut logs)?;
            let to = release.to();
            let released = json!({"event": "halt_released", "step": self.done, "to": to});
            audit::append(&mut logs.audit, released)?;
            // Saved at once: who released a halt is not asked again.
            last_checkpoint = Some(self.save_checkpoint(&checkpoints, &mut logs, observer)?);
        }
        if offsets.is_none() && self.recipe.kl.guard.is_some() {
            last_checkpoint = Some(self.save_checkpoint(&checkpoints, &mut logs, observer)?);
        }
        observer.on_event(&Event::StageStarted { stage: Stage::Ppo, done: self.done, total });
        while self.done < total {
            let step = self.done + 1;
            let mut out = self.step(step).map_err(|e| with_checkpoint(e, step, last_checkpoint.as_ref()))?;
            self.done = step;
            if out.verdict == Verdict::Rollback {
                match self.roll_back(step, &checkpoints) {
                    Ok(RolledBack { to, line }) => {
                        out.control.push(json!({"rollback": to}));
                        out.events.push(line);
                    }
                    Err(reason) => out.halt(step, reason),
                }
            }
            self.add_held_out(step, &mut out)?;
            self.keep_linked(&out.metrics);
            out.write(&mut logs)?;
            out.tell(observer);
            observer.on_event(&Event::Step { stage: Stage::Ppo, step, total, metrics: &out.metrics });
            self.halted = (out.verdict == Verdict::Halt).then(|| out.reason.clone());
            let stop = observer.stop_requested() && step < total;
            let every = self.recipe.checkpoint.every;
            let due = step == total || (every > 0 && step.is_multiple_of(every));
            if stop || due || self.halted.is_some() {
                last_checkpoint = Some(self.save_checkpoint(&checkpoints, &mut logs, observer)?);
            }
            if let Some(reason) = self.halted.take() {
                return Err(Error::Halted { stage: Stage::Ppo, step, reason });
            }
            if stop {
                return Err(Error::Interrupted { stage: Stage::Ppo, step, checkpoint: last_checkpoint });
            }
        }
        observer.on_event(&Event::StageFinished { stage: Stage::Ppo });
        let spent = self.controller.ledger().map(|ledger| ledger.spent);
        Ok((self.policy.model, Spending { forgiven: self.reference_ledger.forgiven, spent }))
    }

    fn save_checkpoint(
        &mut self,
        checkpoints: &Checkpoints,
        logs: &mut RunLogs,
        observer: &mut dyn Observer,
    ) -> Result<PathBuf, Error> {
        let step = self.done;
        if self.recipe.kl.guard.is_some() && self.passed() {
            // As in the stream of `tether kl control`, so that a replay of the log can follow a rollback.
            logs.control.write(&json!({"checkpoint": step}))?;
        }
        let offsets = logs.sync()?;
        let mut files = Files::new();
        let path = checkpoints.save(step, |dir| {
            self.save(dir, offsets)?;
            files = saved(&mut logs.audit, dir, json!({"event": "checkpoint", "step": step}))?;
            Ok(())
        })?;
        self.recorded.saved(&path, files);
        checkpoints.prune(step, self.recipe.checkpoint.keep, &self.last_resorts(checkpoints)?)?;
        observer.on_event(&Event::CheckpointSaved { step, path: &path });
        Ok(path)
    }

    /// The prompts of a step: every prompt once per pass over the file, in an order of the pass's own.
    fn batch(&self, step: u64) -> PromptBatch {
        let k = self.config.samples_per_prompt;
        let per_step = (self.config.batch_size / k) as u64;
        let n = self.prompts.len() as u64;
        let mut order: (u64, Vec<usize>) = (u64::MAX, Vec::new());
        let mut rows = Vec::new();
        for at in (step - 1) * per_step..step * per_step {
            if order.0 != at / n {
                order = (at / n, (0..n as usize).collect());
                stream(self.recipe.seed, Purpose::Prompts, at / n, 0, 0).shuffle(&mut order.1);
            }
            rows.push(order.1[(at % n) as usize]);
        }
        self.lose_domains(step, &mut rows);
        select(&self.prompts, &rows, k)
    }

    fn step(&mut self, step: u64) -> Result<StepOutput, Error> {
        let clock = self.clock;
        let t0 = clock();
        // 1. Sample.
        let name = StreamName { seed: self.recipe.seed, purpose: Purpose::Sampling, step };
        let batch = self.batch(step);
        let (mut rollout, conversations) = conversation::sample(
            self.environment.as_mut(),
            &self.policy.model,
            self.codec,
            batch,
            &self.recipe.sampling,
            name,
            self.engine,
            (step - 1, Stage::Ppo),
        )?;
        let t1 = clock();
        // 2. Reference and values on the same tokens; score.
        let full = full_rows(&rollout);
        let weights = self.add_reference_and_values(&mut rollout, &full)?;
        let mut parts = self.scorer.score(self.engine, &samples(&rollout))?;
        parts.extend(conversations.as_ref().map(Conversations::part));
        let broken_values = self.check_values(&mut rollout);
        let broken_scores = self.check_scores(step, &rollout, &mut parts);
        let mut scored = score_rollout(rollout, parts, self.penalties()).map_err(not_finite(step))?;
        scored.baselines = self.greedy_scores(step, &scored.rollout)?;
        // 3. Shape and estimate advantages with the β in force.
        let rows = scored.rollout.responses.len();
        let prompts = &scored.rollout.prompts;
        let groups = observe::groups_of_rows(&self.recipe.kl, &prompts.domains, &prompts.users);
        let betas = self.betas(&groups);
        let mut adv = match self.constrained(step, &scored, &full, &betas)? {
            Some(adv) => adv,
            None => advantages(&scored, &betas, self.config).map_err(not_finite(step))?,
        };
        adv.weights = weights;
        // 4. The controller sees the KL and decides on the next β and on this batch.
        let (k1, exact) = measure_kl(&scored.rollout, &adv);
        let mut observation = observe::observe(step, &scored, &groups, self.recipe.data.world.is_some());
        self.add_linked(&mut observation);
        if broken_scores + broken_values > 0 {
            observe::mark_broken_scores(&mut observation);
        }
        let used = std::mem::replace(&mut self.decision, self.controller.observe(&observation));
        let next_entropy_coef = self.set_entropy_bonus(&scored.rollout);
        self.reference.rest();
        self.scorer.rest();
        let t2 = clock();
        // 5. Update, and judge what it did.
        let skip = matches!(self.decision.verdict, Verdict::Reject | Verdict::Rollback | Verdict::Halt);
        let schedule = Schedule {
            peak: self.config.lr,
            warmup: self.config.warmup_steps,
            total: self.config.steps,
            decay: self.config.lr_schedule,
        };
        let lr = schedule.at(step - 1) * self.decision.lr_factor * self.faulty_lr(step);
        let judged = if skip {
            Judged::without_trials(UpdateStats::default(), 0.0)
        } else {
            self.judged_update(step, &scored, &adv, &full, &groups, lr)?
        };
        let t3 = clock() - judged.trial_s;
        self.episodes += rows as u64;
        let times = [t1 - t0, t2 - t1, t3 - t2];
        let moved =
            if judged.kept == 0.0 { None } else { self.move_reference(step, &scored.rollout, &full)? };
        let mut out = self.report(
            step,
            &Measured {
                scored: &scored,
                adv: &adv,
                k1: &k1,
                exact: &exact,
                used: &used,
                observation: &observation,
                judged: &judged,
                conversations: conversations.as_ref(),
                broken: [("scores", broken_scores), ("values of the value model", broken_values)],
                lr,
                times,
            },
        );
        self.entropy_coef = next_entropy_coef;
        out.events.extend(moved);
        out.events.extend(self.presence.watch(step, &scored.rollout.prompts, &self.prompts));
        Ok(out)
    }

    /// Adds log π_ref, exact KL and values. Returns the weights of `rollout_correction`; log π_old is then the trainer's.
    fn add_reference_and_values(
        &mut self,
        rollout: &mut Rollout,
        full: &[Vec<u32>],
    ) -> Result<Option<Ragged<f32>>, Error> {
        let rows = lm_rows(full, rollout);
        let pairs = self
            .policy
            .model
            .forward_pair(&self.reference, self.engine, &rows, rollout.temperature)
            .map_err(stage)?;
        rollout.ref_logprobs = Ragged::from_rows(pairs.iter().map(|p| p.ref_logprobs.iter().copied()));
        rollout.kl_exact = Some(Ragged::from_rows(pairs.iter().map(|p| p.kl_exact.iter().copied())));
        let weights = match self.config.rollout_correction {
            None => None,
            Some(correction) => Some(self.correct_rollout(rollout, &pairs, correction)?),
        };
        if !self.config.advantages.needs_critic() {
            return Ok(weights);
        }
        let after = self.config.score_at == ScoreAt::AfterEos;
        let value_rows = scalar_rows(full, rollout, after);
        let model = self.value.as_ref().map_or(&self.policy.model, |v| &v.model);
        if self.value.is_some() || after {
            let out = model.forward(self.engine, &value_rows, rollout.temperature).map_err(stage)?;
            let n = |i: usize| rollout.responses.row_len(i);
            rollout.values =
                Ragged::from_rows(out.iter().enumerate().map(|(i, r)| r.scalars[..n(i)].iter().copied()));
            if after {
                rollout.bootstrap_values =
                    Some(out.iter().map(|r| r.scalars.last().copied().unwrap_or(0.0)).collect());
            }
        }
        Ok(weights)
    }
}

/// What the controller is told of KL in a rollout: mean and variance per group.
#[cfg(test)]
pub(crate) fn observed(
    scored: &tetherline_core::ScoredRollout,
    groups: &[Vec<String>],
) -> Vec<tetherline_kl::DomainKl> {
    observe::observe(1, scored, groups, false).domains
}

fn not_finite(step: u64) -> impl Fn(PpoError) -> Error {
    move |e| match e {
        PpoError::NonFiniteLoss { .. } | PpoError::NonFiniteRow { .. } | PpoError::NonFiniteToken { .. } => {
            Error::NotFinite { stage: Stage::Ppo, step, what: e.to_string(), last_checkpoint: None }
        }
        other => stage(other),
    }
}

fn with_checkpoint(e: Error, at: u64, last: Option<&PathBuf>) -> Error {
    match e {
        Error::NotFinite { stage, what, .. } => {
            Error::NotFinite { stage, step: at, what, last_checkpoint: last.cloned() }
        }
        Error::Stage { stage: Stage::Ppo, source } if source.to_string().contains("not finite") => {
            let what = source.to_string();
            Error::NotFinite { stage: Stage::Ppo, step: at, what, last_checkpoint: last.cloned() }
        }
        other => other,
    }
}
