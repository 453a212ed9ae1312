//! Why a run drifted: where, what each update contributed, what the reward explains, what was decided meanwhile.
//!
//! [`Explanation`] holds the numbers; `tetherline::explain` makes them of a run directory.

mod contribution;
mod html;
mod text;

pub use contribution::{Anchor, Contribution, Fate, Logged, contributions};

use crate::drift::{Drift, TextStyle};
use crate::regression::Regression;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the JSON that [`Explanation`] is written as.
pub const SCHEMA: u32 = 1;

/// Everything about the updates `from + 1` to `to` of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the run.
    pub run: String,
    /// Updates done where the stretch begins.
    pub from: u64,
    /// Updates done where it ends.
    pub to: u64,
    /// Which policies [`Explanation::drift`] compares, in words.
    pub compared: String,
    /// The two-policy part; `None` where a policy was not kept.
    pub drift: Option<Drift>,
    /// What the updates contributed.
    pub updates: Updates,
    /// The log-ratio of the responses regressed on the parts of the reward.
    pub reward: Option<RewardFit>,
    /// What was decided.
    pub decisions: Decisions,
    /// How the logged metrics moved.
    pub moves: Vec<Move>,
    /// What is missing, and why.
    pub notes: Vec<String>,
}

/// What the updates of the stretch contributed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Updates {
    /// KL to the reference where the stretch begins, nats per sequence.
    pub kl_nats_before: f64,
    /// And where it ends.
    pub kl_nats_after: f64,
    /// Where the KL was measured on the same prompts, and by what.
    pub anchors: Vec<SourcedAnchor>,
    /// One per update, in order; they add up to the difference.
    pub each: Vec<Update>,
    /// The KL that the log has of the policy after so many updates.
    pub logged: Vec<(u64, f64)>,
}

impl Updates {
    /// KL at the end less KL at the beginning.
    pub fn total_nats(&self) -> f64 {
        self.kl_nats_after - self.kl_nats_before
    }
}

/// An anchor and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourcedAnchor {
    /// Updates and KL.
    #[serde(flatten)]
    pub anchor: Anchor,
    /// `start`, `checkpoint`, `policy`, `held-out log` or `step log`.
    pub source: String,
}

/// One update and what was in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// What it contributed.
    #[serde(flatten)]
    pub contribution: Contribution,
    /// Mean over the rows of the β that shaped it, score units per nat.
    pub beta: Option<f64>,
    /// Learning rate.
    pub lr: Option<f64>,
    /// Mean score of its batch.
    pub score: Option<f64>,
    /// Verdicts other than accept, of the rollout and of trials.
    pub verdicts: Vec<String>,
    /// Budgets whose KL was over their target in its batch.
    pub over_budget: Vec<String>,
}

/// The log-ratio of a response (nats per sequence) explained by its reward.
///
/// At the optimum of E\[r\] − β·KL the log-ratio is r/β less a constant of the prompt, so within a prompt it would be all
/// explained, with the coefficient 1/β. Over prompts, the constants are in the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RewardFit {
    /// On the parts of the reward, over all responses.
    pub pooled: Option<Regression>,
    /// The same with an intercept per prompt; where prompts have several responses.
    pub within_prompts: Option<Regression>,
    /// R² of the length in tokens alone.
    pub length_r_squared: Option<f64>,
    /// R² of length and parts together.
    pub with_length_r_squared: Option<f64>,
    /// 1/β of the last update, nats per score unit.
    pub inverse_beta: Option<f64>,
}

/// What was decided during the stretch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decisions {
    /// The controller's law.
    pub law: String,
    /// Its target, nats per sequence.
    pub target_nats: Option<f64>,
    /// By id of β: first, last, least and largest in the stretch, score units per nat.
    pub betas: BTreeMap<String, BetaRange>,
    /// Budgets of the recipe: id, target in nats per sequence, and the metrics that they are linked to.
    pub budgets: Vec<BudgetInForce>,
    /// How often each verdict was given.
    pub verdicts: BTreeMap<String, usize>,
    /// Decisions other than to accept, and events; for a single update all of its decisions.
    pub lines: Vec<DecisionLine>,
}

/// One β over the stretch, score units per nat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BetaRange {
    /// At its first update.
    pub first: f64,
    /// At its last.
    pub last: f64,
    /// Least.
    pub least: f64,
    /// Largest.
    pub largest: f64,
}

/// A budget of the recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BudgetInForce {
    /// Domain, user or `all`.
    pub id: String,
    /// Target, nats per sequence.
    pub target_nats: f64,
    /// Its metrics, as `name: warn … limit`.
    pub metrics: Vec<String>,
}

/// A decision or an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DecisionLine {
    /// PPO step.
    pub step: u64,
    /// `rollout`, `trial` or `event`. Over several updates all trials of one are one line.
    pub phase: String,
    /// Verdict (of several trials the last), or name of the event.
    pub what: String,
    /// Shares of the update that were tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<f64>,
    /// β decided, score units per nat.
    pub beta: BTreeMap<String, f64>,
    /// KL that was seen, nats per sequence, over all domains.
    pub kl_nats: Option<f64>,
    /// Why.
    pub text: String,
}

/// A logged metric over the stretch: means of its first and its last tenth (at least one step).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// Key of `metrics.jsonl`.
    pub key: String,
    /// Mean at the beginning.
    pub before: f64,
    /// Mean at the end.
    pub after: f64,
}

/// How `series` moved, by key; keys that are not in both ends are left out. One step alone has no two ends.
pub fn moves(series: &[BTreeMap<String, f64>], keys: impl Fn(&str) -> bool) -> Vec<Move> {
    if series.len() < 2 {
        return Vec::new();
    }
    let n = series.len().div_ceil(10);
    let (first, last) = (&series[..n.min(series.len())], &series[series.len() - n..]);
    let mean = |rows: &[BTreeMap<String, f64>], key: &str| {
        let values: Vec<f64> = rows.iter().filter_map(|m| m.get(key).copied()).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let names: std::collections::BTreeSet<&String> =
        series.iter().flat_map(BTreeMap::keys).filter(|k| keys(k)).collect();
    let one =
        |key: &String| Some(Move { key: key.clone(), before: mean(first, key)?, after: mean(last, key)? });
    names.into_iter().filter_map(one).collect()
}

impl Explanation {
    /// Tables for a terminal, at most 100 columns wide.
    pub fn text(&self, style: TextStyle) -> String {
        text::render(self, style)
    }

    /// One self-contained HTML page.
    pub fn html(&self) -> String {
        html::render(self)
    }

    /// Updates by the size of what they contributed, the largest first.
    fn largest(&self) -> Vec<&Update> {
        let mut all: Vec<&Update> = self.updates.each.iter().collect();
        all.sort_by(|a, b| b.contribution.nats.abs().total_cmp(&a.contribution.nats.abs()));
        all
    }

    /// The stretch in words.
    fn stretch(&self) -> String {
        match self.to - self.from {
            1 => format!("update {}", self.to),
            _ => format!("updates {} to {}", self.from + 1, self.to),
        }
    }
}

/// Verdicts in a row, with those that repeat told once.
fn folded(verdicts: &[String]) -> String {
    let of_a_kind = verdicts.chunk_by(|a, b| a == b);
    let one = |same: &[String]| match same {
        [] => String::new(),
        [one] => one.clone(),
        [first, ..] => format!("{first} ×{}", same.len()),
    };
    of_a_kind.map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
