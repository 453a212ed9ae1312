//! Metrics that budgets are linked to by name (`[[kl.budget]] metrics`).
//!
//! Some are measured on the rollout itself, with a bound (`observe.rs`). Any other key of `metrics.jsonl` is the value that the
//! step before logged, without a bound; one that is not logged at every step (`heldout/…`) counts at the step after it was.

use super::Ppo;
use crate::Error;
use crate::recipe::Recipe;
use std::collections::BTreeMap;
use tetherline_core::Metrics;
use tetherline_kl::{KlConfig, KlController, KlObservation, MetricValue};

/// Keys that every step logs and that do not depend on a clock.
const LOGGED: [&str; 25] = [
    "objective/kl",
    "objective/kl_stderr",
    "objective/kl_exact",
    "objective/kl_exact_stderr",
    "objective/kl_coef",
    "objective/scores",
    "objective/scores_raw",
    "objective/rlhf_reward",
    "objective/non_score_reward",
    "objective/entropy",
    "policy/entropy_avg",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/clipfrac_avg",
    "val/ratio",
    "val/ratio_max",
    "val/explained_variance",
    "grad_norm",
    "lr",
    "tokens/generated",
    "trial/kl",
    "trial/kl_old",
    "trial/kept",
];

/// Keys of the held-out prompts, logged every `eval.every` steps.
const HELD_OUT: [&str; 5] =
    ["heldout/score", "heldout/gold", "heldout/kl_exact", "heldout/entropy", "heldout/length"];

/// Refuses budgets that are linked to a metric which the loop does not measure.
pub(super) fn check_metrics(recipe: &Recipe) -> Result<(), Error> {
    let model = recipe.uses_reward_model().then(|| "reward_model".to_owned());
    let rules = recipe.reward.rule.iter().map(|rule| format!("rule.{}", rule.name()));
    let parts = model.into_iter().chain(rules).map(|part| format!("score/{part}"));
    let mut known: Vec<String> = ["score", "response/length", "response/eos_share"]
        .into_iter()
        .map(String::from)
        .chain(parts)
        .collect();
    if recipe.data.world.is_some() {
        known.extend(["refusal/unsafe", "refusal/benign"].map(String::from));
    }
    let world = recipe.data.world.is_some().then_some("eval/gold");
    let held_out = HELD_OUT.into_iter().filter(|_| recipe.eval.every > 0 && recipe.eval.prompts > 0);
    let logged: Vec<&str> = LOGGED.into_iter().chain(world).chain(held_out).collect();
    linked_to_known(&recipe.kl, &known, &logged)
}

fn linked_to_known(kl: &KlConfig, measured: &[String], logged: &[&str]) -> Result<(), Error> {
    let of_domain = |id: &str| {
        id.strip_prefix("domain/").is_some_and(|rest| {
            ["/kl", "/score", "/kl_coef"].iter().any(|end| rest.len() > end.len() && rest.ends_with(end))
        })
    };
    let known = |id: &str| measured.iter().any(|m| m == id) || logged.contains(&id) || of_domain(id);
    for (budget, metric) in kl.budgets.iter().flat_map(|b| b.metrics.iter().map(move |m| (b, m))) {
        if !known(&metric.id) {
            let problem = format!(
                "the budget `{}` is linked to `{}`, which training does not measure; it measures {}, and logs {}, \
                 domain/ID/kl, domain/ID/score",
                budget.id,
                metric.id,
                measured.join(", "),
                logged.join(", ")
            );
            return Err(Error::input("kl.budget.metrics", problem));
        }
    }
    Ok(())
}

impl Ppo<'_> {
    /// Keeps what this step logged of the metrics that budgets are linked to.
    pub(super) fn keep_linked(&mut self, metrics: &Metrics) {
        let linked = self.recipe.kl.budgets.iter().flat_map(|budget| &budget.metrics);
        self.linked = linked.filter_map(|m| Some((m.id.clone(), *metrics.get(&m.id)?))).collect();
    }

    /// Adds to an observation what the step before logged, where the rollout itself does not measure it.
    pub(super) fn add_linked(&self, observation: &mut KlObservation) {
        for (id, &value) in &self.linked {
            if observation.metrics.iter().all(|m| m.id != *id) {
                observation.metrics.push(MetricValue { id: id.clone(), value, ucb: None });
            }
        }
    }

    /// The target in force of every budget that is linked to a metric, by its id.
    pub(super) fn linked_targets(&self) -> BTreeMap<String, f64> {
        let shares = self.controller.state().budgets;
        let budgets =
            self.recipe.kl.budgets.iter().zip(shares).filter(|(budget, _)| !budget.metrics.is_empty());
        budgets.map(|(budget, state)| (budget.id.clone(), budget.target.0 * state.share)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_kl::{Budget, MetricLimit, NatsPerSequence};

    #[test]
    fn a_metric_that_is_not_measured_is_named() {
        let link = |id: &str| MetricLimit { id: id.into(), warn: 0.1, limit: 0.2 };
        let mut budget = Budget::new("code", NatsPerSequence(3.0));
        budget.metrics =
            ["score", "score/happy", "policy/entropy_avg", "domain/code/score"].map(link).to_vec();
        let kl = KlConfig { budgets: vec![budget], ..KlConfig::fixed(0.1) };
        let (plain, happy) = ("score".to_owned(), "score/happy".to_owned());
        assert!(linked_to_known(&kl, &[plain.clone(), happy], &LOGGED).is_ok());
        let error = linked_to_known(&kl, &[plain], &LOGGED).unwrap_err().to_string();
        assert!(
            error.contains("`code`") && error.contains("score/happy") && error.contains("grad_norm"),
            "{error}"
        );
        // A time is another in every run.
        assert!(!LOGGED.iter().any(|key| key.starts_with("time/")));
    }
}
