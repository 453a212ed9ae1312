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
//! ```

use crate::codec::Codec;
use crate::ppo_loss::{Part, PpoLoss};
use crate::recipe::{Recipe, ValueModel};
use crate::rows::{encode_prompts, full_rows, lm_rows, measure_kl, samples, scalar_rows, select};
use crate::run_dir::{LogOffsets, RunDir};
use crate::scoring::Scorer;
use crate::train::Trainer;
use crate::{Error, sources};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_core::{
    Advantages, Event, Metrics, NamedScore, Observer, PromptBatch, Ragged, Rollout, ScoredRollout, Stage,
    StopReason, UpdateStats,
};
use tetherline_kl::{ALL, ControlDecision, ControllerState, KlByDomain, KlController, Verdict};
use tetherline_models::optim::{AdamWConfig, Decay, Schedule};
use tetherline_models::{Engine, Heads, Model, Row};
use tetherline_ppo::{
    LossSums, LrSchedule, MinibatchTotals, PpoConfig, PpoError, ScoreAt, advantages, explained_variance,
    old_values_row, score_rollout,
};
use tetherline_rollout::{StreamName, generate};

/// The heads of a policy.
pub const POLICY_HEADS: Heads = Heads { lm: true, scalar: false };

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
    scorer: Scorer,
    prompts: PromptBatch,
    controller: Box<dyn KlController + Send>,
    decision: ControlDecision,
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

/// What a step measured, for its log lines.
struct Measured<'a> {
    scored: &'a ScoredRollout,
    adv: &'a Advantages,
    k1: &'a KlByDomain,
    exact: &'a KlByDomain,
    used: &'a ControlDecision,
    observation: &'a tetherline_kl::KlObservation,
    stats: &'a UpdateStats,
    lr: f64,
    times: [f64; 3],
}

/// What a checkpoint says besides weights and moments.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    step: u64,
    episodes: u64,
    decision: ControlDecision,
    controller: ControllerState,
    offsets: LogOffsets,
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
        scorer: Scorer,
        machine: Machine<'a>,
        observer: &mut dyn Observer,
    ) -> Result<Self, Error> {
        let Machine { engine, clock } = machine;
        let config = &recipe.ppo;
        if recipe.kl.trust_region.is_some() || recipe.kl.guard.is_some() {
            return Err(Error::input(
                "kl.trust_region and kl.guard",
                "the training loop measures once per rollout and cannot undo an update; remove these sections",
            ));
        }
        let fail = |e: tetherline_models::ModelError| Error::input("the policy", e);
        let shared = recipe.model.value == ValueModel::Shared;
        let policy = if shared {
            let mut m = start.with_heads(Heads { lm: true, scalar: true }, recipe.seed).map_err(fail)?;
            m.zero_scalar_head();
            m
        } else {
            start.with_heads(POLICY_HEADS, recipe.seed).map_err(fail)?
        };
        let value = if shared {
            None
        } else {
            // Huang et al.: the value model starts as the reward model, head included.
            Some(match &scorer.reward {
                Some((rm, _)) if rm.shares_tokens => rm.model.clone(),
                _ => {
                    let heads = Heads { lm: false, scalar: true };
                    let mut m = start.with_heads(heads, recipe.seed).map_err(fail)?;
                    m.zero_scalar_head();
                    m
                }
            })
        };
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
        let controller = recipe.kl.build().map_err(|e| Error::input("the kl section", e))?;
        for warning in recipe.kl.warnings(Some(config.batch_size as u64)) {
            observer.on_event(&Event::Warning(&warning));
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
            scorer,
            prompts,
            controller,
            decision,
            done: 0,
            episodes: 0,
        })
    }

    /// Runs (or goes on with) all steps; returns the aligned policy and the scorer.
    ///
    /// # Errors
    /// A failed self-test, a number that is not finite, a halt, an interruption, or a write that failed.
    pub fn run(mut self, run: &RunDir, observer: &mut dyn Observer) -> Result<(Model, Scorer), Error> {
        let checkpoints = run.checkpoints()?;
        let total = self.config.steps;
        let mut offsets = None;
        let mut last_checkpoint = None;
        match checkpoints.latest()? {
            Some(c) => {
                offsets = Some(self.restore(&c.path)?);
                last_checkpoint = Some(c.path);
            }
            None => self.self_test(observer)?,
        }
        let mut logs = run.logs(offsets)?;
        observer.on_event(&Event::StageStarted { stage: Stage::Ppo, done: self.done, total });
        while self.done < total {
            let step = self.done + 1;
            let out = self.step(step).map_err(|e| with_checkpoint(e, step, last_checkpoint.as_ref()))?;
            self.done = step;
            logs.metrics.write(&out.line)?;
            for line in &out.control {
                logs.control.write(line)?;
            }
            for line in &out.samples {
                logs.samples.write(line)?;
            }
            for line in &out.events {
                logs.events.write(line)?;
            }
            observer.on_event(&Event::Step { stage: Stage::Ppo, step, total, metrics: &out.metrics });
            let stop = observer.stop_requested() && step < total;
            let every = self.recipe.checkpoint.every;
            if stop || step == total || (every > 0 && step.is_multiple_of(every)) {
                let offsets = logs.sync()?;
                let path = checkpoints.save(step, |dir| self.save(dir, offsets))?;
                checkpoints.prune(self.recipe.checkpoint.keep)?;
                observer.on_event(&Event::CheckpointSaved { step, path: &path });
                last_checkpoint = Some(path);
            }
            if stop {
                return Err(Error::Interrupted { stage: Stage::Ppo, step, checkpoint: last_checkpoint });
            }
            if out.halted {
                let reason = self.decision.reason.text();
                return Err(Error::Halted { stage: Stage::Ppo, step, reason });
            }
        }
        observer.on_event(&Event::StageFinished { stage: Stage::Ppo });
        Ok((self.policy.model, self.scorer))
    }

    fn save(&self, dir: &std::path::Path, offsets: LogOffsets) -> Result<(), tetherline_core::BoxError> {
        std::fs::write(dir.join("policy.bin"), self.policy.to_bytes())?;
        if let Some(v) = &self.value {
            std::fs::write(dir.join("value.bin"), v.to_bytes())?;
        }
        let saved = Saved {
            step: self.done,
            episodes: self.episodes,
            decision: self.decision.clone(),
            controller: self.controller.state(),
            offsets,
        };
        std::fs::write(dir.join("state.json"), serde_json::to_vec_pretty(&saved)?)?;
        Ok(())
    }

    fn restore(&mut self, dir: &std::path::Path) -> Result<LogOffsets, Error> {
        let what = || format!("the checkpoint {}", dir.display());
        let read = |name: &str| std::fs::read(dir.join(name)).map_err(|e| Error::input(what(), e));
        let saved: Saved =
            serde_json::from_slice(&read("state.json")?).map_err(|e| Error::input(what(), e))?;
        self.policy.restore(self.engine, &read("policy.bin")?).map_err(|e| Error::input(what(), e))?;
        if let Some(v) = &mut self.value {
            v.restore(self.engine, &read("value.bin")?).map_err(|e| Error::input(what(), e))?;
        }
        self.controller.restore(&saved.controller).map_err(|e| Error::input(what(), e))?;
        self.decision = saved.decision;
        self.done = saved.step;
        self.episodes = saved.episodes;
        Ok(saved.offsets)
    }

    /// Before any update: sampler and trainer must agree (first ratio 1 ± 1e-4), and a policy that starts
    /// from its reference must have no KL to it.
    fn self_test(&mut self, observer: &mut dyn Observer) -> Result<(), Error> {
        observer.on_event(&Event::StageStarted { stage: Stage::SelfTest, done: 0, total: 1 });
        let rows: Vec<usize> = (0..self.prompts.len().min(8)).collect();
        let batch = select(&self.prompts, &rows, 1);
        let name = StreamName { seed: self.recipe.seed, purpose: Purpose::Eval, step: 0 };
        let threads = self.engine.threads();
        let model = &self.policy.model;
        let rollout = generate(model, &self.codec.tokenizer, batch, &self.recipe.sampling, name, threads, 0)
            .map_err(stage)?;
        let full = full_rows(&rollout);
        let pairs = model
            .forward_pair(&self.reference, self.engine, &lm_rows(&full, &rollout), rollout.temperature)
            .map_err(stage)?;
        let mut worst = 0.0f64;
        let mut kl = 0.0f64;
        for (i, p) in pairs.iter().enumerate() {
            for (new, old) in p.policy.logprobs.iter().zip(rollout.logprobs.row(i)) {
                let ratio = (f64::from(*new) - f64::from(*old)).exp();
                worst = if ratio.is_finite() { worst.max((ratio - 1.0).abs()) } else { f64::INFINITY };
            }
            kl += p.kl_exact.iter().map(|&k| f64::from(k)).sum::<f64>() / pairs.len() as f64;
        }
        if worst > 1e-4 {
            let cause = format!(
                "the first importance ratio is off by {worst:.2e} (allowed 1e-4): the sampler and the trainer \
                 compute different log-probs for the same tokens; likely causes: weights that are not finite or \
                 very large, a temperature applied on one side only, a prompt cut differently"
            );
            return Err(Error::SelfTest { cause });
        }
        if self.recipe.model.reference.is_none() && kl.abs() > 1e-4 {
            let cause = format!(
                "the policy starts from its reference, yet its KL to it is {kl:.3e} nats per sequence: the two \
                 were not loaded from the same weights"
            );
            return Err(Error::SelfTest { cause });
        }
        observer.on_event(&Event::Note(&format!(
            "self-test passed: first ratio off by at most {worst:.1e}, KL to the reference {kl:.2e} nats per sequence"
        )));
        observer.on_event(&Event::StageFinished { stage: Stage::SelfTest });
        Ok(())
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
        select(&self.prompts, &rows, k)
    }

    fn step(&mut self, step: u64) -> Result<StepOutput, Error> {
        let clock = self.clock;
        let t0 = clock();
        // 1. Sample.
        let name = StreamName { seed: self.recipe.seed, purpose: Purpose::Sampling, step };
        let threads = self.engine.threads();
        let mut rollout = generate(
            &self.policy.model,
            &self.codec.tokenizer,
            self.batch(step),
            &self.recipe.sampling,
            name,
            threads,
            step - 1,
        )
        .map_err(stage)?;
        let t1 = clock();
        // 2. Reference and values on the same tokens; score.
        let full = full_rows(&rollout);
        self.add_reference_and_values(&mut rollout, &full)?;
        let parts = self.scorer.score(self.engine, &samples(&rollout))?;
        let scored =
            score_rollout(rollout, parts, self.config.missing_eos_penalty).map_err(not_finite(step))?;
        // 3. Shape and estimate advantages with the β in force.
        let rows = scored.rollout.responses.len();
        let betas: Vec<f64> = (0..rows).map(|i| self.beta_of(&scored.rollout.prompts.domains[i])).collect();
        let adv = advantages(&scored, &betas, self.config).map_err(not_finite(step))?;
        // 4. The controller sees the KL and decides on the next β and on this batch.
        let (k1, exact) = measure_kl(&scored.rollout, &adv);
        let observation = if self.recipe.kl.budgets.is_empty() {
            exact.observe_overall(step)
        } else {
            exact.observe_domains(step)
        };
        let used = std::mem::replace(&mut self.decision, self.controller.observe(&observation));
        let t2 = clock();
        // 5. Update.
        let skip = matches!(self.decision.verdict, Verdict::Reject | Verdict::Halt);
        let schedule = Schedule {
            peak: self.config.lr,
            warmup: self.config.warmup_steps,
            total: self.config.steps,
            decay: match self.config.lr_schedule {
                LrSchedule::Constant => Decay::Constant,
                LrSchedule::Linear => Decay::Linear,
                LrSchedule::Cosine => Decay::Cosine,
            },
        };
        let lr = schedule.at(step - 1) * self.decision.lr_factor;
        let stats = if skip { UpdateStats::default() } else { self.update(step, &scored, &adv, &full, lr)? };
        let t3 = clock();
        self.episodes += rows as u64;
        let times = [t1 - t0, t2 - t1, t3 - t2];
        Ok(self.report(
            step,
            &Measured {
                scored: &scored,
                adv: &adv,
                k1: &k1,
                exact: &exact,
                used: &used,
                observation: &observation,
                stats: &stats,
                lr,
                times,
            },
        ))
    }

    fn beta_of(&self, domain: &str) -> f64 {
        let id = if self.recipe.kl.budgets.is_empty() { ALL } else { domain };
        self.decision.beta_for(id)
    }

    fn add_reference_and_values(&mut self, rollout: &mut Rollout, full: &[Vec<u32>]) -> Result<(), Error> {
        let rows = lm_rows(full, rollout);
        let pairs = self
            .policy
            .model
            .forward_pair(&self.reference, self.engine, &rows, rollout.temperature)
            .map_err(stage)?;
        rollout.ref_logprobs = Ragged::from_rows(pairs.iter().map(|p| p.ref_logprobs.iter().copied()));
        rollout.kl_exact = Some(Ragged::from_rows(pairs.iter().map(|p| p.kl_exact.iter().copied())));
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
        Ok(())
    }

    fn update(
        &mut self,
        step: u64,
        scored: &ScoredRollout,
        adv: &Advantages,
        full: &[Vec<u32>],
        lr: f64,
    ) -> Result<UpdateStats, Error> {
        let rollout = &scored.rollout;
        let lm = lm_rows(full, rollout);
        let scalar = scalar_rows(full, rollout, self.config.score_at == ScoreAt::AfterEos);
        let n = lm.len();
        let (mut sums, mut norms, mut steps) = (LossSums::default(), 0.0, 0u64);
        'epochs: for epoch in 0..self.config.epochs {
            let mut order: Vec<usize> = (0..n).collect();
            stream(self.recipe.seed, Purpose::Shuffle, step, epoch as u64, 0).shuffle(&mut order);
            let mut of_epoch = LossSums::default();
            for minibatch in order.chunks(n / self.config.minibatches) {
                let totals = MinibatchTotals::of(adv, rollout.written.as_ref(), minibatch);
                for micro in minibatch.chunks(self.config.micro_batch.unwrap_or(n)) {
                    let loss = PpoLoss {
                        rows: micro,
                        rollout,
                        adv,
                        totals: &totals,
                        config: self.config,
                        what: Part::Policy,
                    };
                    if let Some(value) = &mut self.value {
                        let stats = accumulate(&mut self.policy, self.engine, micro, &lm, &loss, rollout)?;
                        merge(&mut of_epoch, stats, step)?;
                        let loss = PpoLoss { what: Part::Value, ..loss };
                        let stats = accumulate(value, self.engine, micro, &scalar, &loss, rollout)?;
                        merge(&mut of_epoch, stats, step)?;
                    } else {
                        let both: Vec<Row<'_>> = lm
                            .iter()
                            .zip(&scalar)
                            .map(|(l, s)| Row { scalar: s.scalar.clone(), ..l.clone() })
                            .collect();
                        let loss = PpoLoss { what: Part::Both, ..loss };
                        let stats = accumulate(&mut self.policy, self.engine, micro, &both, &loss, rollout)?;
                        merge(&mut of_epoch, stats, step)?;
                    }
                }
                let not_finite = |e: crate::train::NonFiniteGradient| Error::NotFinite {
                    stage: Stage::Ppo,
                    step,
                    what: e.to_string(),
                    last_checkpoint: None,
                };
                norms += self.policy.step(self.engine, lr, self.config.max_grad_norm).map_err(not_finite)?;
                if let Some(value) = &mut self.value {
                    value.step(self.engine, lr, self.config.max_grad_norm).map_err(not_finite)?;
                }
                steps += 1;
            }
            let stop = self.config.stops_early(of_epoch.approx_kl_mean());
            sums.merge(&of_epoch);
            if stop {
                break 'epochs;
            }
        }
        let mut stats = sums.means(steps);
        stats.grad_norm = norms / steps.max(1) as f64;
        let (mut returns, mut values) = (Vec::new(), Vec::new());
        for i in 0..n {
            let v = old_values_row(rollout, adv, i);
            returns.extend_from_slice(&adv.returns.row(i)[..v.len()]);
            values.extend_from_slice(&v);
        }
        stats.explained_variance = explained_variance(&returns, &values);
        Ok(stats)
    }

    /// The lines of a step for the logs; keys as in `docs/metrics.md`.
    fn report(&self, step: u64, measured: &Measured<'_>) -> StepOutput {
        let Measured { scored, adv, k1, exact, used, observation, stats, lr, times } = *measured;
        let r = &scored.rollout;
        let rows = r.responses.len();
        let mean = |v: &mut dyn Iterator<Item = f64>| v.sum::<f64>() / rows as f64;
        let sum = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>();
        let tokens = r.responses.total();
        let mut m = Metrics::new();
        let mut put = |k: &str, v: f64| {
            if v.is_finite() {
                m.insert(k.to_owned(), v);
            }
        };
        put("objective/kl", k1.overall.mean().0);
        put("objective/kl_stderr", k1.overall.stderr().0);
        put("objective/kl_exact", exact.overall.mean().0);
        put("objective/kl_exact_stderr", exact.overall.stderr().0);
        put("objective/kl_coef", mean(&mut adv.kl_coef.iter().copied()));
        put("objective/scores", mean(&mut scored.scores.iter().map(|&x| f64::from(x))));
        put("objective/scores_raw", mean(&mut scored.raw_scores.iter().map(|&x| f64::from(x))));
        put("objective/rlhf_reward", mean(&mut adv.rewards.rows().map(sum)));
        put("objective/non_score_reward", mean(&mut (0..rows).map(|i| -adv.kl_coef[i] * sum(adv.kl.row(i)))));
        put("objective/entropy", mean(&mut r.logprobs.rows().map(|x| -sum(x))));
        put(
            "policy/entropy_avg",
            if stats.optimizer_steps > 0 { stats.entropy } else { sum(r.entropy.flat()) / tokens as f64 },
        );
        put("policy/approxkl_avg", stats.approx_kl);
        put("policy/clipfrac_avg", stats.clip_frac);
        put("loss/policy_avg", stats.policy_loss);
        put("loss/value_avg", stats.value_loss);
        put("val/clipfrac_avg", stats.value_clip_frac);
        put("val/ratio", stats.ratio_mean);
        put("val/ratio_max", stats.ratio_max);
        put("val/explained_variance", stats.explained_variance);
        put("grad_norm", stats.grad_norm);
        put("lr", lr);
        put("response/length", tokens as f64 / rows as f64);
        put(
            "response/eos_share",
            mean(&mut r.stop.iter().map(|s| f64::from(u8::from(*s != StopReason::Length)))),
        );
        put("tokens/generated", tokens as f64);
        put("time/rollout_s", times[0]);
        put("time/score_s", times[1]);
        put("time/update_s", times[2]);
        let golds: Vec<Option<f64>> =
            (0..rows).map(|i| self.scorer.gold(&r.prompts.texts[i], &r.texts[i])).collect();
        if golds.iter().all(Option::is_some) {
            put("eval/gold", mean(&mut golds.iter().flatten().copied()));
        }
        if exact.domains.len() > 1 {
            for (id, kl) in &exact.domains {
                let of: Vec<usize> = (0..rows).filter(|&i| r.prompts.domains[i] == *id).collect();
                let score = of.iter().map(|&i| f64::from(scored.scores[i])).sum::<f64>() / of.len() as f64;
                put(&format!("domain/{id}/kl"), kl.mean().0);
                put(&format!("domain/{id}/score"), score);
                put(&format!("domain/{id}/kl_coef"), adv.kl_coef[of[0]]);
            }
        }
        for NamedScore { name, values } in &scored.parts {
            put(&format!("score/{name}"), sum(values) / rows as f64);
        }
        let mut line = serde_json::Map::new();
        line.insert("step".into(), step.into());
        line.insert("episode".into(), self.episodes.into());
        line.extend(m.iter().map(|(k, v)| (k.clone(), json!(v))));
        let mut decision = json!(self.decision);
        if let Some(reason) = decision.get_mut("reason") {
            *reason = json!({"code": self.decision.reason.code(), "text": self.decision.reason.text()});
        }
        let control = vec![json!(observation), decision];
        let events = if self.decision.verdict == Verdict::Accept {
            Vec::new()
        } else {
            vec![json!({"step": step, "event": "verdict", "verdict": self.decision.verdict,
                "text": self.decision.reason.text(), "beta": used.beta})]
        };
        let samples = (0..rows.min(3))
            .map(|i| {
                json!({"step": step, "prompt_id": r.prompts.ids[i], "domain": r.prompts.domains[i],
                    "prompt": r.prompts.texts[i], "response": r.texts[i], "score": scored.scores[i],
                    "kl": sum(adv.kl.row(i)), "stop_reason": r.stop[i], "gold": golds[i]})
            })
            .collect();
        let halted = self.decision.verdict == Verdict::Halt;
        StepOutput { metrics: m, line: line.into(), control, samples, events, halted }
    }
}

struct StepOutput {
    metrics: Metrics,
    line: serde_json::Value,
    control: Vec<serde_json::Value>,
    samples: Vec<serde_json::Value>,
    events: Vec<serde_json::Value>,
    halted: bool,
}

fn accumulate(
    trainer: &mut Trainer,
    engine: &Engine,
    micro: &[usize],
    rows: &[Row<'_>],
    loss: &PpoLoss<'_>,
    rollout: &Rollout,
) -> Result<Vec<Result<LossSums, PpoError>>, Error> {
    let units: Vec<Vec<Row<'_>>> = micro.iter().map(|&i| vec![rows[i].clone()]).collect();
    trainer.accumulate(engine, &units, rollout.temperature, loss).map_err(stage)
}

fn merge(sums: &mut LossSums, rows: Vec<Result<LossSums, PpoError>>, step: u64) -> Result<(), Error> {
    for row in rows {
        sums.merge(&row.map_err(not_finite(step))?);
    }
    Ok(())
}

fn not_finite(step: u64) -> impl Fn(PpoError) -> Error {
    move |e| match e {
        PpoError::NonFiniteLoss { .. } | PpoError::NonFiniteRow { .. } => {
            Error::NotFinite { stage: Stage::Ppo, step, what: e.to_string(), last_checkpoint: None }
        }
        other => stage(other),
    }
}

fn with_checkpoint(e: Error, at: u64, last: Option<&std::path::PathBuf>) -> Error {
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
