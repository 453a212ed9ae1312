//! What the controller is told of a rollout.
//!
//! Without budgets: the one domain `all`. With budgets: an entry for every group that some budget's level asks
//! for, by domain, by user (`user:NAME`) and over all rows. A row's β is the sum over the groups it is in.
//!
//! | metric | mean over the rollout's responses of |
//! | --- | --- |
//! | `score` | the score before penalties |
//! | `score/PART` | one of its parts |
//! | `response/length` | tokens |
//! | `response/eos_share` | 1 where the response ended by itself |
//! | `refusal/unsafe`, `refusal/benign` | 1 where it refuses, over prompts of the domain `unsafe`, or of the others; in the embedded world |
//!
//! `ucb` is the mean + 1.645 standard errors. What else a budget is linked to comes from the log of the step before
//! (`linked.rs`).

use super::Ppo;
use crate::rows::sum_written;
use tetherline_core::{ScoredRollout, StopReason};
use tetherline_kl::{ALL, Budget, KlByDomain, KlConfig, KlObservation, MetricValue, NatsPerSequence};

/// One-sided 95 %.
const Z: f64 = 1.645;

/// The groups that a row of this domain and user is in, of those that the budgets tell apart.
fn groups(budgets: &[Budget], domain: &str, user: &str) -> Vec<String> {
    let of_users = |b: &Budget| b.id.starts_with("user:");
    let mut groups = Vec::new();
    if budgets.iter().any(|b| b.id != ALL && !of_users(b)) {
        groups.push(domain.to_owned());
    }
    if budgets.iter().any(of_users) {
        groups.push(format!("user:{user}"));
    }
    if budgets.iter().any(|b| b.id == ALL) {
        groups.push(ALL.to_owned());
    }
    groups
}

/// The groups of every row; without budgets, all rows are the one domain `all`.
pub(super) fn groups_of_rows(kl: &KlConfig, domains: &[String], users: &[String]) -> Vec<Vec<String>> {
    if kl.budgets.is_empty() {
        return vec![vec![ALL.to_owned()]; domains.len()];
    }
    domains.iter().zip(users).map(|(domain, user)| groups(&kl.budgets, domain, user)).collect()
}

/// Whether each response refuses, over the unsafe prompts and over the others.
fn refusals(domains: &[String], texts: &[String]) -> [(&'static str, Vec<f64>); 2] {
    let of = |unsafe_prompts: bool| {
        let rows = domains.iter().zip(texts).filter(|(domain, _)| (*domain == "unsafe") == unsafe_prompts);
        rows.map(|(_, text)| f64::from(u8::from(tetherline_frontdesk::is_refusal(text)))).collect()
    };
    [("refusal/unsafe", of(true)), ("refusal/benign", of(false))]
}

/// The observation of a rollout whose rows are in these groups; `world`: of prompts of the embedded world.
pub(super) fn observe(
    step: u64,
    scored: &ScoredRollout,
    groups: &[Vec<String>],
    world: bool,
) -> KlObservation {
    let r = &scored.rollout;
    let mut kl = KlByDomain::default();
    let mut rewards = KlByDomain::default();
    for (i, groups) in groups.iter().enumerate() {
        let written = r.written.as_ref().map(|w| w.row(i));
        let tokens = written.map_or(r.responses.row_len(i), |w| w.iter().filter(|&&w| w).count());
        let of_row = r.kl_exact.as_ref().map_or(f64::NAN, |kl| sum_written(kl.row(i), written).0);
        for group in groups {
            kl.push(group, NatsPerSequence(of_row), tokens);
            rewards.push(group, NatsPerSequence(f64::from(scored.scores[i])), tokens);
        }
    }
    let mut observation = kl.observe_domains(step);
    for domain in &mut observation.domains {
        let sd = rewards.domains.get(&domain.id).map(|e| e.variance().sqrt());
        domain.reward_sd = sd.filter(|sd| sd.is_finite());
    }
    let rows = || 0..groups.len();
    let mut metric = |id: String, values: &mut dyn Iterator<Item = f64>| {
        let (mean, stderr) = mean_and_stderr(values);
        observation.metrics.push(MetricValue { id, value: mean, ucb: Some(mean + Z * stderr) });
    };
    metric("score".to_owned(), &mut scored.raw_scores.iter().map(|&s| f64::from(s)));
    for part in &scored.parts {
        metric(format!("score/{}", part.name), &mut part.values.iter().map(|&s| f64::from(s)));
    }
    metric("response/length".to_owned(), &mut rows().map(|i| r.responses.row_len(i) as f64));
    let ended = |s: &StopReason| f64::from(u8::from(*s != StopReason::Length));
    metric("response/eos_share".to_owned(), &mut r.stop.iter().map(ended));
    if world {
        for (id, values) in refusals(&r.prompts.domains, &r.texts) {
            if !values.is_empty() {
                metric(id.to_owned(), &mut values.into_iter());
            }
        }
    }
    observation
}

/// Says in every entry that scores or values of the batch are no numbers: nothing is to be learnt from it.
pub(super) fn mark_broken_scores(observation: &mut KlObservation) {
    observation.domains.iter_mut().for_each(|domain| domain.reward_sd = Some(f64::NAN));
}

/// Mean and its standard error; no error is known of fewer than two values.
fn mean_and_stderr(values: &mut dyn Iterator<Item = f64>) -> (f64, f64) {
    let (mut n, mut mean, mut spread) = (0.0, 0.0, 0.0);
    for v in values {
        n += 1.0;
        let before = v - mean;
        mean += before / n;
        spread += before * (v - mean);
    }
    (mean, if n < 2.0 { 0.0 } else { (spread / (n - 1.0) / n).sqrt() })
}

impl Ppo<'_> {
    /// β of every row: the sum over its groups with budgets, else that of `all`.
    pub(super) fn betas(&self, groups: &[Vec<String>]) -> Vec<f64> {
        let of_row = |groups: &Vec<String>| {
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            self.decision.beta_for_row(&groups)
        };
        groups.iter().map(of_row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budgets(ids: &[&str]) -> KlConfig {
        let budgets = ids.iter().map(|id| Budget::new(*id, NatsPerSequence(3.0))).collect();
        KlConfig { budgets, ..KlConfig::fixed(0.1) }
    }

    #[test]
    fn rows_are_in_the_groups_that_some_budget_tells_apart() {
        let of =
            |ids: &[&str]| groups_of_rows(&budgets(ids), &["code".to_owned()], &["ann".to_owned()]).remove(0);
        assert_eq!(of(&[]), ["all"]);
        assert_eq!(of(&["legal"]), ["code"]);
        assert_eq!(of(&["user:*"]), ["user:ann"]);
        assert_eq!(of(&["all"]), ["all"]);
        assert_eq!(of(&["all", "user:bob", "c*"]), ["code", "user:ann", "all"]);
    }

    #[test]
    fn refusals_are_counted_on_unsafe_prompts_and_on_the_others() {
        let domains = ["unsafe", "code", "unsafe"].map(String::from);
        let texts = ["I cannot help with that.", "Restart it.", "Sure, here it is."].map(String::from);
        let [(_, on_unsafe), (_, on_others)] = refusals(&domains, &texts);
        assert_eq!((on_unsafe, on_others), (vec![1.0, 0.0], vec![0.0]));
    }

    #[test]
    fn mean_and_standard_error_of_a_hand_computed_sample() {
        let (mean, stderr) = mean_and_stderr(&mut [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter());
        assert_eq!(mean, 5.0);
        assert!((stderr - (32.0f64 / 7.0 / 8.0).sqrt()).abs() < 1e-12);
        assert_eq!(mean_and_stderr(&mut std::iter::once(3.0)), (3.0, 0.0));
    }
}
