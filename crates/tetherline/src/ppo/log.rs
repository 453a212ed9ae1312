//! The log lines of a step; keys as in `docs/metrics.md`.

use super::Ppo;
use super::guarded::{Judged, verdict_event};
use crate::conversation::Conversations;
use crate::rows::{mean_written, sum_written};
use crate::run_dir::RunLogs;
use crate::{Error, audit};
use serde_json::json;
use tetherline_core::{
    Advantages, Event, Metrics, NamedScore, Observer, ScoredRollout, StopReason, UpdateStats,
};
use tetherline_kl::{ControlDecision, KlByDomain, KlController, KlObservation, Verdict};
use tetherline_ppo::{GroupSpread, PpoConfig};

/// What a step measured, for its log lines.
pub(super) struct Measured<'a> {
    pub(super) scored: &'a ScoredRollout,
    pub(super) adv: &'a Advantages,
    pub(super) k1: &'a KlByDomain,
    pub(super) exact: &'a KlByDomain,
    pub(super) used: &'a ControlDecision,
    pub(super) observation: &'a KlObservation,
    pub(super) judged: &'a Judged,
    /// With an environment: what came of the conversations.
    pub(super) conversations: Option<&'a Conversations>,
    /// What of the batch was not finite, and how many of each.
    pub(super) broken: [(&'static str, usize); 2],
    pub(super) lr: f64,
    pub(super) times: [f64; 3],
}

pub(super) struct StepOutput {
    pub(super) metrics: Metrics,
    pub(super) line: serde_json::Value,
    pub(super) control: Vec<serde_json::Value>,
    pub(super) samples: Vec<serde_json::Value>,
    pub(super) events: Vec<serde_json::Value>,
    /// The last verdict of the step, and why.
    pub(super) verdict: Verdict,
    pub(super) reason: String,
}

impl StepOutput {
    /// Ends the run after this step, although the controller did not ask for it.
    pub(super) fn halt(&mut self, step: u64, reason: String) {
        self.events.push(json!({"step": step, "event": "verdict", "verdict": Verdict::Halt, "text": reason}));
        (self.verdict, self.reason) = (Verdict::Halt, reason);
    }

    /// Writes the step's lines.
    pub(super) fn write(&self, logs: &mut RunLogs) -> Result<(), Error> {
        logs.metrics.write(&self.line)?;
        self.control.iter().try_for_each(|line| logs.control.write(line))?;
        self.samples.iter().try_for_each(|line| logs.samples.write(line))?;
        self.events.iter().try_for_each(|line| logs.events.write(line))?;
        let mut records = audit::decisions(&self.control).into_iter();
        records.try_for_each(|record| audit::append(&mut logs.audit, record))
    }

    /// Says on the terminal what the step's events are: a warning where something was undone or is missing. That it was
    /// accepted stands in the step's own line.
    pub(super) fn tell(&self, observer: &mut dyn Observer) {
        let is_scale = |line: &serde_json::Value| line["verdict"] == "scale";
        let scales: Vec<&serde_json::Value> = self.events.iter().filter(|l| is_scale(l)).collect();
        for line in &self.events {
            let text = |key: &str| line[key].as_str().unwrap_or_default();
            // Backtracking is one line, whatever it took.
            let again = is_scale(line) && scales.first().is_some_and(|first| !std::ptr::eq(*first, line));
            if text("verdict") == "accept" || again {
                continue;
            }
            let what = if text("event") == "verdict" { text("verdict") } else { text("event") };
            let mut message = format!("step {}: {what}: {}", line["step"], text("text"));
            // A share of 0 is a look at the weights before the update.
            let shares: Vec<f64> = scales.iter().skip(1).filter_map(|l| l["scale"].as_f64()).collect();
            let smaller: Vec<f64> = shares.into_iter().filter(|share| *share > 0.0).collect();
            if let (true, Some(last)) = (is_scale(line), smaller.last()) {
                let times = if smaller.len() == 1 { "time" } else { "times" };
                message += &format!(" ({} more {times}, down to {last:.4})", smaller.len());
            }
            let grave =
                matches!(what, "rollback" | "rolled_back" | "halt" | "domain_absent" | "score_fallback");
            match grave {
                true => observer.on_event(&Event::Warning(&message)),
                false if text("text").is_empty() => {}
                false => observer.on_event(&Event::Note(&message)),
            }
        }
    }
}

impl Ppo<'_> {
    /// The lines of a step for the logs; keys as in `docs/metrics.md`.
    pub(super) fn report(&self, step: u64, measured: &Measured<'_>) -> StepOutput {
        let Measured { scored, adv, k1, exact, used, observation, judged, conversations, broken, lr, times } =
            *measured;
        let (r, stats) = (&scored.rollout, &judged.stats);
        let rows = r.responses.len();
        let mean = |v: &mut dyn Iterator<Item = f64>| v.sum::<f64>() / rows as f64;
        // Around the first, so that one β for all rows is logged as it is.
        let first = adv.kl_coef.first().copied().unwrap_or(0.0);
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
        put("objective/kl_coef", first + mean(&mut adv.kl_coef.iter().map(|b| b - first)));
        put("objective/scores", mean(&mut scored.scores.iter().map(|&x| f64::from(x))));
        put("objective/scores_raw", mean(&mut scored.raw_scores.iter().map(|&x| f64::from(x))));
        put("objective/rlhf_reward", mean(&mut adv.rewards.rows().map(sum)));
        if self.config.kl_in.reward() {
            let paid = |i: usize| -adv.kl_coef[i] * sum(adv.kl.row(i));
            put("objective/non_score_reward", mean(&mut (0..rows).map(paid)));
        }
        let written = |i: usize| r.written.as_ref().map(|w| w.row(i));
        let surprise = |i: usize| -sum_written(r.logprobs.row(i), written(i)).0;
        put("objective/entropy", mean(&mut (0..rows).map(surprise)));
        let learnt = stats.optimizer_steps > 0 && step > self.config.critic_warmup;
        let sampled = mean_written(&r.entropy, r.written.as_ref());
        put("policy/entropy_avg", if learnt { stats.entropy } else { sampled });
        if self.config.entropy_target.is_some() {
            put("policy/entropy_coef", self.entropy_coef);
        }
        self.put_costs(&mut put);
        if self.config.advantages.needs_group() {
            let spread = GroupSpread::of(&scored.scores, self.config.samples_per_prompt);
            put("group/std", spread.std);
            put("group/uniform_share", spread.uniform as f64 / spread.groups.max(1) as f64);
        }
        if let Some(baselines) = &scored.baselines {
            put("objective/greedy_scores", mean(&mut baselines.iter().map(|&s| f64::from(s))));
        }
        if let Some(overlong) = self.config.overlong {
            let limit = self.recipe.sampling.max_new_tokens;
            let pays = |i: usize| overlong.of(r.responses.row_len(i), limit);
            put("response/overlong_penalty", mean(&mut (0..rows).map(pays)));
        }
        if stats.optimizer_steps > 0 {
            put_update(stats, self.config, &mut put);
        }
        if let Some(weights) = &adv.weights {
            put("val/correction_mean", sum(weights.flat()) / tokens.max(1) as f64);
            put("val/correction_max", weights.flat().iter().fold(0.0, |m: f64, &w| m.max(f64::from(w))));
        }
        if self.reference_moves() {
            put("kl/reference_moves", self.reference_ledger.moves as f64);
            put("kl/reference_forgiven", self.reference_ledger.forgiven);
        }
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
        if let Some(guarded) = &self.guarded {
            put_judged(judged, &mut put);
            put("guard/rejected", guarded.rejected as f64);
            put("time/trial_s", judged.trial_s);
        }
        if self.recipe.kl.guard.is_some() {
            let guard = self.controller.state().guard;
            put("guard/rollbacks", f64::from(guard.rollbacks));
            put("guard/boost", guard.ln_boost.exp());
            put("guard/lr_factor", guard.lr_factor);
        }
        for (id, target) in self.linked_targets() {
            put(&format!("budget/{id}/target"), target);
        }
        for metric in observation.metrics.iter().filter(|m| m.id.starts_with("refusal/")) {
            put(&metric.id, metric.value);
        }
        if let Some(ledger) = self.controller.ledger() {
            put("kl/ledger_spent", ledger.spent);
        }
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
        let apart = self.scorer.disagreement();
        if !apart.is_empty() {
            put("reward/disagreement", sum(apart) / rows as f64);
        }
        if let Some(c) = conversations {
            put("environment/turns", c.mean_turns());
            put("environment/tokens", c.tokens as f64 / rows as f64);
            put("environment/full_share", c.full as f64 / rows as f64);
        }
        let mut fallbacks = self.scorer.fallbacks();
        fallbacks.extend(conversations.and_then(|c| c.fallback.clone()));
        for f in &fallbacks {
            put(&format!("fallback/{}", f.source), f.rows.len() as f64 / rows as f64);
        }
        let verdicts = || judged.trials.iter().map(|(_, decision)| decision.verdict);
        let mut all = std::iter::once(self.decision.verdict).chain(verdicts());
        put("control/accepted", f64::from(u8::from(all.all(|verdict| verdict == Verdict::Accept))));
        let mut line = serde_json::Map::new();
        line.insert("step".into(), step.into());
        line.insert("episode".into(), self.episodes.into());
        line.extend(m.iter().map(|(k, v)| (k.clone(), json!(v))));
        let mut control = vec![json!(observation), json!(self.decision)];
        control.extend(judged.trials.iter().flat_map(|(seen, decision)| [json!(seen), json!(decision)]));
        let broken = broken.into_iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}"));
        let broken: Vec<String> = broken.collect();
        let cause =
            if broken.is_empty() { String::new() } else { format!("not finite: {}", broken.join(", ")) };
        let mut events = vec![verdict_event(observation, &self.decision, used, &cause)];
        events.extend(judged.events(used));
        events.extend(fallbacks.iter().map(|f| {
            let text = format!("{} of {rows} scores of {} are stand-ins: {}", f.rows.len(), f.source, f.why);
            json!({"step": step, "event": "score_fallback", "source": f.source, "rows": f.rows, "text": text})
        }));
        let samples = (0..rows.min(3))
            .map(|i| {
                let mut sample = json!({"step": step, "prompt_id": r.prompts.ids[i], "domain": r.prompts.domains[i],
                    "prompt": r.prompts.texts[i], "response": r.texts[i], "score": scored.scores[i],
                    "kl": sum(adv.kl.row(i)), "stop_reason": r.stop[i], "gold": golds[i]});
                if let Some(c) = conversations {
                    sample["turns"] = json!(c.turns[i]);
                }
                if let Some(apart) = apart.get(i) {
                    sample["disagreement"] = json!(apart);
                }
                sample
            })
            .collect();
        // The gravest: without an update there are no trials, and a rollout that lets it happen is grave no more.
        let last = judged.trials.last().map_or(&self.decision, |(_, decision)| decision);
        let (verdict, reason) = (last.verdict, last.reason.text());
        StepOutput { metrics: m, line: line.into(), control, samples, events, verdict, reason }
    }
}

/// What an update that was made says of itself. One that was not (a batch that is not learnt from, a gradient that is not
/// finite) has no losses: zeros would be taken for them.
fn put_update(stats: &UpdateStats, config: &PpoConfig, put: &mut impl FnMut(&str, f64)) {
    put("policy/approxkl_avg", stats.approx_kl);
    put("policy/clipfrac_avg", stats.clip_frac);
    put("loss/policy_avg", stats.policy_loss);
    if config.kl_in.loss() {
        put("loss/kl_avg", stats.kl_loss);
    }
    if config.advantages.needs_critic() {
        put("loss/value_avg", stats.value_loss);
        put("val/clipfrac_avg", stats.value_clip_frac);
        put("val/explained_variance", stats.explained_variance);
    }
    put("val/ratio", stats.ratio_mean);
    put("val/ratio_max", stats.ratio_max);
    put("grad_norm", stats.grad_norm);
}

/// What the trials of a step measured.
fn put_judged(judged: &Judged, put: &mut impl FnMut(&str, f64)) {
    put("trial/count", judged.trials.len() as f64);
    put("trial/kept", judged.kept);
    if let Some(m) = &judged.measured {
        put("trial/kl", m.kl.mean().0);
        put("trial/kl_stderr", m.kl.stderr().0);
        put("trial/kl_old", m.old.mean().0);
    }
    if let Some(m) = &judged.batch {
        put("trial/batch_kl", m.kl.mean().0);
        put("trial/batch_kl_old", m.old.mean().0);
    }
    if let Some(m) = &judged.fresh {
        put("trial/fresh_kl", m.kl.mean().0);
        put("trial/fresh_kl_stderr", m.kl.stderr().0);
    }
}
