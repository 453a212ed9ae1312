//! What a controller is told: KL measured in one step, as in the JSON-lines contract.
//!
//! ```json
//! {"step": 7, "phase": "rollout", "domains": [{"id": "all", "mean_kl": 5.2, "var": 11.0, "n": 512}]}
//! ```
//!
//! Unknown keys are refused: a misspelt `kl_old` would otherwise switch a trust region off in silence.

use crate::number;
use crate::units::NatsPerSequence;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// The id of the domain that stands for every row.
pub const ALL: &str = "all";

/// KL per domain at one step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlObservation {
    /// The trainer's step. It never runs backwards, not even after a rollback. In JSON at most 2⁵³, the largest that
    /// every reader keeps: a step that was misread as an enormous one would leave no later one.
    #[serde(deserialize_with = "step")]
    pub step: u64,
    /// Whether this is a rollout's measurement or the check after an update.
    #[serde(default)]
    pub phase: Phase,
    /// One entry per domain (or the single domain `all`); order does not matter.
    pub domains: Vec<DomainKl>,
    /// Named numbers that budgets may be linked to; those of a rollout count, a trial's do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricValue>,
    /// With [`Phase::Trial`]: the number of the trial within this step, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<u32>,
}

/// When the measurement was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// On the rollout, before the update: this is what moves β.
    #[default]
    Rollout,
    /// After an update, on its result: this is what a trust region judges. β does not move.
    Trial,
}

/// KL of one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainKl {
    /// Name of the domain, user or group; not empty.
    #[serde(deserialize_with = "name")]
    pub id: String,
    /// Mean KL(policy‖current reference) across sequences; `null` when not finite.
    #[serde(with = "number")]
    pub mean_kl: NatsPerSequence,
    /// Variance of that KL across sequences, nats²; `null` when unknown.
    #[serde(with = "number")]
    pub var: f64,
    /// Sequences measured; 0 means the domain was absent from this batch.
    pub n: u64,
    /// Standard error of `mean_kl`; `sqrt(var / n)` where absent.
    #[serde(default, with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub stderr: Option<NatsPerSequence>,
    /// Standard deviation of the reward across sequences, in reward units.
    #[serde(default, with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub reward_sd: Option<f64>,
    /// Mean KL(policy‖policy before this update).
    #[serde(default, with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub kl_old: Option<NatsPerSequence>,
    /// Mean KL(policy‖the first reference, which never moves).
    #[serde(default, with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub kl_ref0: Option<NatsPerSequence>,
}

/// A named number with an upper confidence bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricValue {
    /// Name, as budgets refer to it; not empty.
    #[serde(deserialize_with = "name")]
    pub id: String,
    /// The measured value.
    #[serde(with = "number")]
    pub value: f64,
    /// Upper confidence bound of the value; the value itself where absent.
    #[serde(default, with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub ucb: Option<f64>,
}

/// A step that every JSON reader can hold.
fn step<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        huge if huge > 1 << 53 => Err(D::Error::custom("the field `step` must be at most 2^53")),
        step => Ok(step),
    }
}

/// A name that says something: an empty one is a field that was forgotten.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match String::deserialize(deserializer)? {
        empty if empty.is_empty() => Err(D::Error::custom("the field `id` must not be empty")),
        name => Ok(name),
    }
}

impl KlObservation {
    /// A rollout's measurement.
    #[must_use]
    pub fn rollout(step: u64, domains: Vec<DomainKl>) -> Self {
        Self { step, domains, ..Self::default() }
    }

    /// The check after an update: trial `trial` (from 0) of step `step`.
    #[must_use]
    pub fn trial(step: u64, trial: u32, domains: Vec<DomainKl>) -> Self {
        Self { step, phase: Phase::Trial, domains, trial: Some(trial), ..Self::default() }
    }
}

impl DomainKl {
    /// A domain with its mean KL, variance across sequences and count.
    #[must_use]
    pub fn new(id: impl Into<String>, mean_kl: NatsPerSequence, var: f64, n: u64) -> Self {
        Self { id: id.into(), mean_kl, var, n, stderr: None, reward_sd: None, kl_old: None, kl_ref0: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"step": 7, "phase": "trial", "trial": 2,
        "domains": [{"id": "all", "mean_kl": 5.2, "var": 11.0, "n": 512, "stderr": 0.15,
                     "reward_sd": 1.0, "kl_old": 0.01, "kl_ref0": 6.0}],
        "metrics": [{"id": "unsafe_rate", "value": 0.02, "ucb": 0.03}]}"#;

    #[test]
    fn the_contract_line_reads_and_writes() {
        let obs: KlObservation = serde_json::from_str(LINE).unwrap();
        assert_eq!((obs.step, obs.phase, obs.trial), (7, Phase::Trial, Some(2)));
        assert_eq!(obs.domains[0].kl_ref0, Some(NatsPerSequence(6.0)));
        assert_eq!(obs.metrics[0].ucb, Some(0.03));
        let again: KlObservation = serde_json::from_str(&serde_json::to_string(&obs).unwrap()).unwrap();
        assert_eq!(again, obs);
    }

    #[test]
    fn phase_defaults_and_nonfinite_numbers_are_null() {
        let obs: KlObservation =
            serde_json::from_str(r#"{"step":0,"domains":[{"id":"a","mean_kl":null,"var":null,"n":3}]}"#)
                .unwrap();
        assert_eq!(obs.phase, Phase::Rollout);
        assert!(obs.domains[0].mean_kl.0.is_nan());
        let mut out = obs.clone();
        out.domains[0].var = f64::INFINITY;
        assert_eq!(
            serde_json::to_string(&out).unwrap(),
            r#"{"step":0,"phase":"rollout","domains":[{"id":"a","mean_kl":null,"var":null,"n":3}]}"#
        );
    }

    #[test]
    fn a_missing_or_misspelt_key_is_named() {
        let missing =
            serde_json::from_str::<KlObservation>(r#"{"step":0,"domains":[{"id":"a","var":1,"n":3}]}"#);
        assert!(missing.unwrap_err().to_string().contains("mean_kl"));
        let unknown = r#"{"step":0,"domains":[{"id":"a","mean_kl":1,"var":1,"n":3,"kl_old":null}]}"#;
        let read: KlObservation = serde_json::from_str(unknown).unwrap();
        assert!(read.domains[0].kl_old.unwrap().0.is_nan() && read.domains[0].kl_ref0.is_none());
        let nameless = r#"{"step":0,"domains":[{"id":"","mean_kl":1,"var":1,"n":3}]}"#;
        assert!(serde_json::from_str::<KlObservation>(nameless).unwrap_err().to_string().contains("`id`"));
        let typo = r#"{"step":0,"domains":[{"id":"a","mean_kl":1,"var":1,"n":3,"kl_odl":2}]}"#;
        assert!(serde_json::from_str::<KlObservation>(typo).unwrap_err().to_string().contains("kl_odl"));
    }
}
