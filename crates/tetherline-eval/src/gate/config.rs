//! The gate file: what a candidate must show against a baseline.
//!
//! Every section is optional, but a file without a single gate is refused: nothing would be asked. What is asked and not
//! measured fails.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A gate file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// One-sided confidence of every bound, above ½ and below 1.
    pub confidence: f64,
    /// KL, nats per sequence.
    pub kl: Option<KlGate>,
    /// The proxy score.
    pub score: Option<Limits>,
    /// The gold score.
    pub gold: Option<Limits>,
    /// How often the candidate wins against the baseline, a share.
    pub win_rate: Option<Limits>,
    /// Non-inferiority of refusals.
    pub safety: Option<SafetyGate>,
    /// Signs of a collapse.
    pub collapse: Option<CollapseGate>,
    /// Length, tokens per response.
    pub length: Option<Limits>,
    /// Latency, ms per generated token of answers made one at a time.
    pub latency: Option<Limits>,
    /// Any other number.
    pub metric: Vec<MetricGate>,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            confidence: 0.95,
            kl: None,
            score: None,
            gold: None,
            win_rate: None,
            safety: None,
            collapse: None,
            length: None,
            latency: None,
            metric: Vec::new(),
        }
    }
}

/// Limits of one number. A bound, not the number itself, has to keep each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The upper bound is at most this.
    pub max: Option<f64>,
    /// The lower bound is at least this.
    pub min: Option<f64>,
    /// The upper bound of candidate − baseline is at most this.
    pub max_change: Option<f64>,
    /// The lower bound of candidate − baseline is at least this.
    pub min_change: Option<f64>,
    /// The candidate's upper bound is at most this many times the baseline's value.
    pub max_ratio: Option<f64>,
    /// The candidate's lower bound is at least this many times the baseline's value.
    pub min_ratio: Option<f64>,
}

/// Upper bounds of the KL of an evaluation, nats per sequence.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KlGate {
    /// Of all responses, to the reference.
    pub max: Option<f64>,
    /// Of all responses, to the first reference, which never moves.
    pub max_first_reference: Option<f64>,
    /// By domain; `"*"` is every domain that is not named. A domain without either fails.
    pub domains: BTreeMap<String, f64>,
}

/// The candidate refuses unsafe prompts no less often than the baseline, and benign ones no more often, each by less than a
/// margin.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SafetyGate {
    /// The margin of both, a share: 0.01 is one point.
    pub margin: f64,
    /// Another margin for benign prompts.
    #[serde(default)]
    pub benign_margin: Option<f64>,
    /// The rate of wrong answers that the needed counts are worked out at; the baseline's own where that is larger.
    #[serde(default = "two_percent")]
    pub base_rate: f64,
}

fn two_percent() -> f64 {
    0.02
}

/// Signs of a collapse, over the held-out responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollapseGate {
    /// Distinct unigrams / unigrams, pooled.
    pub min_distinct_1: Option<f64>,
    /// Distinct bigrams / bigrams, pooled.
    pub min_distinct_2: Option<f64>,
    /// Share of responses that are unlike every other.
    pub min_unique_share: Option<f64>,
    /// Entropy, nats per token.
    pub min_entropy: Option<f64>,
    /// Share of 4-grams that are repeated within a response.
    pub max_repeated_4grams: Option<f64>,
    /// Share of responses that end by themselves.
    pub min_eos_share: Option<f64>,
}

/// Limits of any number by name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MetricGate {
    /// The metric, as in a metrics file, or one of the run's own.
    pub name: String,
    /// Its limits.
    #[serde(flatten)]
    pub limits: MetricLimits,
}

/// [`Limits`] beside a name. (Flattened fields cannot refuse unknown ones; what is left over is kept to be refused.)
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct MetricLimits {
    #[serde(flatten)]
    keys: BTreeMap<String, f64>,
}

impl MetricLimits {
    /// The limits, if every key is one.
    fn limits(&self, section: &str) -> Result<Limits, String> {
        let mut out = Limits::default();
        for (key, value) in &self.keys {
            let slot = match key.as_str() {
                "max" => &mut out.max,
                "min" => &mut out.min,
                "max_change" => &mut out.max_change,
                "min_change" => &mut out.min_change,
                "max_ratio" => &mut out.max_ratio,
                "min_ratio" => &mut out.min_ratio,
                other => {
                    return Err(format!(
                        "{section}.{other}: unknown field `{other}`, expected name, max, min, max_change, min_change, max_ratio or min_ratio"
                    ));
                }
            };
            *slot = Some(*value);
        }
        Ok(out)
    }
}

/// What one check compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Upper bound ≤ limit.
    Max,
    /// Lower bound ≥ limit.
    Min,
    /// Upper bound of the change ≤ limit.
    MaxChange,
    /// Lower bound of the change ≥ limit.
    MinChange,
    /// Upper bound / baseline ≤ limit.
    MaxRatio,
    /// Lower bound / baseline ≥ limit.
    MinRatio,
    /// The wrong answers of the candidate exceed those of the baseline by less than the limit.
    NonInferior {
        /// Whether the hits of the metric are the right answers.
        hits_are_right: bool,
    },
}

/// One check: a metric, a rule, a limit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Check {
    /// Where the limit stands in the file, as a dotted key.
    pub(super) key: String,
    pub(super) gate: String,
    pub(super) metric: String,
    pub(super) rule: Rule,
    pub(super) limit: f64,
}

impl Limits {
    fn checks(&self, section: &str, gate: &str, metric: &str) -> impl Iterator<Item = Check> {
        let rules = [
            ("max", self.max, Rule::Max),
            ("min", self.min, Rule::Min),
            ("max_change", self.max_change, Rule::MaxChange),
            ("min_change", self.min_change, Rule::MinChange),
            ("max_ratio", self.max_ratio, Rule::MaxRatio),
            ("min_ratio", self.min_ratio, Rule::MinRatio),
        ];
        let (section, gate, metric) = (section.to_owned(), gate.to_owned(), metric.to_owned());
        rules.into_iter().filter_map(move |(name, limit, rule)| {
            let key = format!("{section}.{name}");
            Some(Check { key, gate: gate.clone(), metric: metric.clone(), rule, limit: limit? })
        })
    }
}

impl Gates {
    /// Every check, in the order of the sections; those by domain for the domains given.
    ///
    /// # Errors
    /// A message that names the key: no gate at all, an empty section, a number out of range.
    pub(super) fn checks<'a>(&'a self, domains: impl Iterator<Item = &'a str>) -> Result<Vec<Check>, String> {
        if !(self.confidence > 0.5 && self.confidence < 1.0) {
            return Err(format!("confidence: must be above 0.5 and below 1, got {}", self.confidence));
        }
        let one = |key: &str, gate: &str, metric: &str, rule, limit| Check {
            key: key.to_owned(),
            gate: gate.to_owned(),
            metric: metric.to_owned(),
            rule,
            limit,
        };
        let mut out = Vec::new();
        if let Some(kl) = &self.kl {
            let before = out.len();
            out.extend(kl.max.map(|limit| one("kl.max", "kl", "kl", Rule::Max, limit)));
            let first = kl.max_first_reference;
            let named = ("kl.max_first_reference", "kl.first_reference", "kl_first_reference");
            out.extend(first.map(|limit| one(named.0, named.1, named.2, Rule::Max, limit)));
            for (domain, limit) in &kl.domains {
                finite(&format!("kl.domains.{domain}"), *limit)?;
            }
            if !kl.domains.is_empty() {
                let named = kl.domains.keys().map(String::as_str).filter(|d| *d != "*");
                let all: std::collections::BTreeSet<&str> = named.chain(domains).collect();
                for domain in all {
                    // Without a bound there is none that could be kept.
                    let limit = kl.domains.get(domain).or_else(|| kl.domains.get("*"));
                    let limit = limit.copied().unwrap_or(f64::NAN);
                    let (key, gate) = (format!("kl.domains.{domain}"), format!("kl.{domain}"));
                    out.push(one(&key, &gate, &format!("kl/{domain}"), Rule::Max, limit));
                }
            }
            filled("kl", &out, before, !kl.domains.is_empty())?;
        }
        for (gate, metric, limits) in [
            ("score", "score", self.score),
            ("gold", "gold", self.gold),
            ("win_rate", "win_rate", self.win_rate),
        ] {
            add(&mut out, gate, gate, metric, limits)?;
        }
        if let Some(safety) = self.safety {
            let benign = safety.benign_margin.unwrap_or(safety.margin);
            for (key, value) in
                [("margin", safety.margin), ("benign_margin", benign), ("base_rate", safety.base_rate)]
            {
                if !(value > 0.0 && value < 1.0) {
                    return Err(format!("safety.{key}: must be above 0 and below 1, got {value}"));
                }
            }
            let (right, wrong) =
                (Rule::NonInferior { hits_are_right: true }, Rule::NonInferior { hits_are_right: false });
            out.push(one("safety.margin", "safety.unsafe_answered", "refuses_unsafe", right, safety.margin));
            out.push(one("safety.benign_margin", "safety.benign_refused", "refuses_benign", wrong, benign));
        }
        if let Some(c) = self.collapse {
            let before = out.len();
            for (name, limit, rule) in [
                ("distinct_1", c.min_distinct_1, Rule::Min),
                ("distinct_2", c.min_distinct_2, Rule::Min),
                ("unique_share", c.min_unique_share, Rule::Min),
                ("entropy", c.min_entropy, Rule::Min),
                ("repeated_4grams", c.max_repeated_4grams, Rule::Max),
                ("eos_share", c.min_eos_share, Rule::Min),
            ] {
                let side = if rule == Rule::Max { "max" } else { "min" };
                let (key, gate) = (format!("collapse.{side}_{name}"), format!("collapse.{name}"));
                out.extend(limit.map(|limit| one(&key, &gate, name, rule, limit)));
            }
            filled("collapse", &out, before, false)?;
        }
        add(&mut out, "length", "length", "length_tokens", self.length)?;
        add(&mut out, "latency", "latency", "latency", self.latency)?;
        for (i, gate) in self.metric.iter().enumerate() {
            let section = format!("metric[{i}]");
            let limits = gate.limits.limits(&section)?;
            add(&mut out, &section, &gate.name, &gate.name, Some(limits))?;
        }
        if out.is_empty() {
            return Err(
                "there is no gate in it, so everything would pass: ask for something, e.g. [kl] max = 8.0"
                    .into(),
            );
        }
        // The limit of a domain without one is no number on purpose; those that are given were checked.
        let mut given = out.iter().filter(|c| !c.metric.starts_with("kl/"));
        given.try_for_each(|c| finite(&c.key, c.limit))?;
        Ok(out)
    }
}

fn finite(key: &str, limit: f64) -> Result<(), String> {
    match limit.is_finite() {
        true => Ok(()),
        false => Err(format!("{key}: the limit must be a finite number, got {limit}")),
    }
}

fn add(
    out: &mut Vec<Check>,
    section: &str,
    gate: &str,
    metric: &str,
    limits: Option<Limits>,
) -> Result<(), String> {
    let Some(limits) = limits else { return Ok(()) };
    let before = out.len();
    out.extend(limits.checks(section, gate, metric));
    filled(section, out, before, false)
}

fn filled(section: &str, out: &[Check], before: usize, more: bool) -> Result<(), String> {
    if out.len() > before || more {
        return Ok(());
    }
    Err(format!("{section}: the section asks for nothing; give it a limit, or leave it out"))
}
