//! The log lines of a step; keys as in `docs/metrics.md`.

use super::Ppo;
use serde_json::json;
use tetherline_core::{Advantages, Metrics, NamedScore, ScoredRollout, StopReason, UpdateStats};
use tetherline_kl::{ControlDecision, KlByDomain, KlObservation, Verdict};

/// What a step measured, for its log lines.
pub(super) struct Measured<'a> {
    pub(super) scored: &'a ScoredRollout,
    pub(super) adv: &'a Advantages,
    pub(super) k1: &'a KlByDomain,
    pub(super) exact: &'a KlByDomain,
    pub(super) used: &'a ControlDecision,
    pub(super) observation: &'a KlObservation,
    pub(super) stats: &'a UpdateStats,
    pub(super) lr: f64,
    pub(super) times: [f64; 3],
}

pub(super) struct StepOutput {
    pub(super) metrics: Metrics,
    pub(super) line: serde_json::Value,
    pub(super) control: Vec<serde_json::Value>,
    pub(super) samples: Vec<serde_json::Value>,
    pub(super) events: Vec<serde_json::Value>,
    pub(super) halted: bool,
}

impl Ppo<'_> {
    /// The lines of a step for the logs; keys as in `docs/metrics.md`.
    pub(super) fn report(&self, step: u64, measured: &Measured<'_>) -> StepOutput {
        let Measured { scored, adv, k1, exact, used, observation, stats, lr, times } = *measured;
        let r = &scored.rollout;
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
        if self.reference_moves() {
            put("kl/reference_moves", self.reference_ledger.moves as f64);
            put("kl/reference_forgiven", self.reference_ledger.forgiven);
        }
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
