//! What a report is made of. Everything but the title may be missing.

use crate::{Comparison, ResponseRecord, by_domain};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tetherline_core::Metrics;

/// All that [`super::render`] can show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportData {
    /// Small line above the headline, e.g. the recipe's title.
    pub title: String,
    /// Name of the run.
    pub run_name: String,
    /// Step and reason of a halt after which the run did not go on.
    pub halted: Option<(u64, String)>,
    /// Where it ended on a number that is not finite.
    pub not_finite: Option<NotFinite>,
    /// Stages done, in order.
    pub stages: Vec<StageNote>,
    /// Baseline against aligned policy on held-out prompts.
    pub comparison: Option<Comparison>,
    /// The lines of `metrics.jsonl`: one map per PPO step. `step` is the x axis where present.
    pub series: Vec<Metrics>,
    /// Target of the KL controller, nats per sequence.
    pub kl_target: Option<f64>,
    /// Targets of domains that have their own, nats per sequence.
    pub domain_targets: BTreeMap<String, f64>,
    /// The lines of `control.jsonl`; those with a `verdict` are decisions, others are passed over.
    pub control: Vec<serde_json::Value>,
    /// Supervised fine-tuning loss, nats per token.
    pub sft: Vec<LossPoint>,
    /// Reward-model loss, nats per pair.
    pub reward_loss: Vec<LossPoint>,
    /// The reward model on held-out pairs.
    pub reward_model: Option<RewardModelReport>,
    /// Responses before and after.
    pub samples: Vec<SamplePair>,
    /// The resolved recipe as TOML text.
    pub recipe: String,
}

/// How a run ended on a number that is not finite.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NotFinite {
    /// In which stage.
    pub stage: String,
    /// At which step, from 1.
    pub step: u64,
    /// What was not finite.
    pub what: String,
    /// The last good checkpoint, if there was one.
    pub checkpoint: Option<String>,
}

/// A stage and what to say of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageNote {
    /// Name of the stage.
    pub name: String,
    /// For example `300 steps, 41 s`.
    pub detail: String,
}

/// A point of a loss curve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossPoint {
    /// Optimizer step.
    pub step: f64,
    /// Training loss.
    pub train: f64,
    /// Loss on held-out data, where measured at this step.
    pub held_out: Option<f64>,
}

/// A reward model on held-out pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RewardModelReport {
    /// Pairs.
    pub n: usize,
    /// Share of pairs where the chosen response scores higher.
    pub accuracy: f64,
    /// Mean of score(chosen) − score(rejected).
    pub margin: f64,
    /// Expected calibration error of σ(margin).
    pub ece: Option<f64>,
    /// Reliability bins.
    pub bins: Vec<ReliabilityBin>,
    /// Accuracy within domains.
    pub domains: BTreeMap<String, DomainAccuracy>,
    /// Correlation of score with length in tokens.
    pub length_correlation: Option<f64>,
    /// Accuracy by how many tokens the better answer is longer, in order.
    pub by_length: Vec<GroupAccuracy>,
    /// Accuracy by the share of labelers who agree, in order.
    pub by_agreement: Vec<GroupAccuracy>,
    /// Share of labelers who agree with the label, on average: what a perfect model would reach.
    pub noise_ceiling: Option<f64>,
    /// Whether training pairs favour the longer answer, and the accuracy of that rule.
    pub length_only: Option<(bool, f64)>,
    /// Accuracy of a bag of words.
    pub bag_of_words: Option<f64>,
    /// Accuracy of each member of an ensemble.
    pub members: Vec<f64>,
    /// Mean standard deviation between members, in units of their own spread.
    pub disagreement: Option<f64>,
}

/// Accuracy in a group of pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupAccuracy {
    /// What the group is.
    pub group: String,
    /// Pairs.
    pub n: usize,
    /// Share of pairs ordered rightly.
    pub accuracy: f64,
}

/// Pairs whose predicted probability falls in one bin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Mean predicted probability.
    pub confidence: f64,
    /// Share of pairs for which the prediction came true.
    pub accuracy: f64,
    /// Pairs.
    pub n: usize,
}

/// Accuracy in a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainAccuracy {
    /// Pairs.
    pub n: usize,
    /// Share of pairs ordered rightly.
    pub accuracy: f64,
}

/// One prompt answered by both policies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplePair {
    /// The prompt.
    pub prompt: String,
    /// Its domain.
    pub domain: String,
    /// Answer of the baseline policy.
    pub baseline: SampleSide,
    /// Answer of the aligned policy.
    pub aligned: SampleSide,
}

/// An answer and its scores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleSide {
    /// Response text.
    pub response: String,
    /// Proxy score.
    pub score: f64,
    /// Gold score, where there is one.
    pub gold: Option<f64>,
}

/// The first response to each of the first `per_domain` prompts of every domain that both policies
/// answered; domains take turns, so that the head of the list shows them all. Nothing is picked by score.
pub fn sample_pairs(
    baseline: &[ResponseRecord],
    aligned: &[ResponseRecord],
    per_domain: usize,
) -> Vec<SamplePair> {
    let side = |r: &ResponseRecord| SampleSide { response: r.response.clone(), score: r.score, gold: r.gold };
    let mut pairs: Vec<(usize, SamplePair)> = Vec::new();
    for (domain, rows) in by_domain(baseline) {
        let mut seen = std::collections::BTreeSet::new();
        let firsts = rows.into_iter().filter(|r| seen.insert(r.prompt_id));
        let both = firsts.filter_map(|b| Some((b, aligned.iter().find(|a| a.prompt_id == b.prompt_id)?)));
        for (turn, (b, a)) in both.take(per_domain).enumerate() {
            let pair = SamplePair {
                prompt: b.prompt.clone(),
                domain: domain.clone(),
                baseline: side(b),
                aligned: side(a),
            };
            pairs.push((turn, pair));
        }
    }
    pairs.sort_by_key(|p| p.0);
    pairs.into_iter().map(|p| p.1).collect()
}
