//! Gates: whether a candidate has shown what a gate file asks, against a baseline.
//!
//! Default deny. A check passes only where its metric was measured, is a number, and its *bound* keeps the limit: the
//! one-sided confidence bound on the side of the limit, at the file's `confidence`. A mean's bound uses Student's t and its
//! standard error clustered by prompt; a change that is paired by prompt uses the interval of the paired bootstrap, scaled
//! from 95 % to the confidence; an unpaired one Welch's. A number without a standard error is compared as it is, which the
//! table marks. Formulas: `stats`.

mod config;
mod metric;
mod render;
pub mod stats;

pub use config::{CollapseGate, Gates, KlGate, Limits, MetricGate, Rule, SafetyGate};
pub use metric::{Count, Mean, Metric, Metrics};

use config::Check;
use serde::Serialize;
use stats::{cases_per_arm, newcombe, t_quantile, wilson, z_quantile};

/// Power that the larger of two needed counts has.
const POWER: f64 = 0.8;

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The bound keeps the limit.
    Pass,
    /// It does not.
    Fail,
    /// The metric is not there, or is no number.
    Missing,
}

/// One check and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// Section of the gate file.
    pub gate: String,
    /// The metric.
    pub metric: String,
    /// What is compared.
    pub rule: Rule,
    /// The limit; absent for a domain that has none.
    pub limit: Option<f64>,
    /// What the candidate has.
    pub candidate: Option<f64>,
    /// What the baseline has.
    pub baseline: Option<f64>,
    /// The bound that is compared with the limit.
    pub bound: Option<f64>,
    /// Whether the bound is a confidence bound; else it is the number itself.
    pub is_confidence_bound: bool,
    /// Cases of candidate and baseline, of a comparison of shares.
    pub cases: Option<(f64, f64)>,
    /// Cases per arm that equal rates take to certify the margin, and those that certify it with power 0.8.
    pub needed: Option<(f64, f64)>,
    /// What came of it.
    pub outcome: Outcome,
    /// Why, in a sentence.
    pub why: String,
}

/// Every check, and the verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateReport {
    /// Whether every check passed.
    pub passed: bool,
    /// One-sided confidence of the bounds.
    pub confidence: f64,
    /// In the order of the gate file's sections.
    pub checks: Vec<Checked>,
}

impl Gates {
    /// Holds a candidate to the gates. `paired` says that the candidate's `changes` are changes against this very baseline.
    ///
    /// # Errors
    /// A message that names the key of a gate file that is wrong.
    pub fn judge(&self, candidate: &Metrics, baseline: &Metrics, paired: bool) -> Result<GateReport, String> {
        let checks = self.checks(candidate.domains("kl"))?;
        let judge = Judge { gates: self, candidate, baseline, paired };
        let checks: Vec<Checked> = checks.iter().map(|check| judge.check(check)).collect();
        let passed = !checks.is_empty() && checks.iter().all(|c| c.outcome == Outcome::Pass);
        Ok(GateReport { passed, confidence: self.confidence, checks })
    }

    /// Whether the file can be used at all.
    ///
    /// # Errors
    /// As [`Gates::judge`].
    pub fn validate(&self) -> Result<(), String> {
        self.checks(std::iter::empty()).map(drop)
    }
}

struct Judge<'a> {
    gates: &'a Gates,
    candidate: &'a Metrics,
    baseline: &'a Metrics,
    paired: bool,
}

/// Low and high bound, and whether they are confidence bounds.
type Bounds = (f64, f64, bool);

impl Judge<'_> {
    fn check(&self, check: &Check) -> Checked {
        let find = |of: &Metrics| of.by_name.get(&check.metric).copied();
        let (candidate, baseline) = (find(self.candidate), find(self.baseline));
        let finite = |m: Option<Metric>| m.map(|m| m.value()).filter(|v| v.is_finite());
        let mut out = Checked {
            gate: check.gate.clone(),
            metric: check.metric.clone(),
            rule: check.rule,
            limit: Some(check.limit).filter(|l| l.is_finite()),
            candidate: finite(candidate),
            baseline: finite(baseline),
            bound: None,
            is_confidence_bound: false,
            cases: None,
            needed: None,
            outcome: Outcome::Missing,
            why: String::new(),
        };
        let own = match usable(candidate, "candidate") {
            Ok(metric) => metric,
            Err(why) => return Checked { why: format!("{} {why}", check.metric), ..out },
        };
        let against = match check.rule {
            Rule::Max | Rule::Min => None,
            _ => match usable(baseline, "baseline") {
                Ok(metric) => Some(metric),
                Err(why) => return Checked { why: format!("{} {why}", check.metric), ..out },
            },
        };
        if let Rule::NonInferior { hits_are_right } = check.rule {
            self.non_inferior(check, own, against, hits_are_right, &mut out);
            return out;
        }
        let base = against.map_or(f64::NAN, |m| m.value());
        let (low, high, confident) = match check.rule {
            Rule::MaxChange | Rule::MinChange => self.change(&check.metric, own, against),
            _ => self.bounds(own),
        };
        let (bound, keeps): (f64, fn(&f64, &f64) -> bool) = match check.rule {
            Rule::Max | Rule::MaxChange => (high, f64::le),
            Rule::Min | Rule::MinChange => (low, f64::ge),
            // A baseline of 0 or below has no ratio.
            Rule::MaxRatio if base > 0.0 => (high / base, f64::le),
            Rule::MinRatio if base > 0.0 => (low / base, f64::ge),
            _ => {
                out.outcome = Outcome::Fail;
                out.why = format!("the baseline is {base}: there is no ratio to it");
                return out;
            }
        };
        out.bound = Some(bound).filter(|b| b.is_finite());
        out.is_confidence_bound = confident;
        if check.limit.is_nan() {
            out.outcome = Outcome::Fail;
            out.why = "the gate file has no limit for this domain, and none for \"*\"".into();
        } else if keeps(&bound, &check.limit) {
            out.outcome = Outcome::Pass;
        } else {
            out.outcome = Outcome::Fail;
            let side = if bound == high || check.rule == Rule::MaxRatio { "upper" } else { "lower" };
            let than = if side == "upper" { "above" } else { "below" };
            let what = if confident { format!("its {side} bound") } else { "it".to_owned() };
            out.why = format!("{what} is {}, {than} the limit of {}", render::short(bound), check.limit);
        }
        out
    }

    /// One-sided bounds of a number.
    fn bounds(&self, metric: Metric) -> Bounds {
        let confidence = self.gates.confidence;
        match metric {
            Metric::Plain(v) | Metric::Mean(Mean { value: v, se: None, .. }) => (v, v, false),
            Metric::Mean(Mean { value, se: Some(se), n }) => {
                let quantile =
                    n.map_or_else(|| z_quantile(confidence), |n| t_quantile(confidence, n.saturating_sub(1)));
                // No spread is no proof where there is no second case.
                let half = if quantile.is_finite() { quantile * se } else { f64::INFINITY };
                (value - half, value + half, true)
            }
            Metric::Count(c) => {
                let (low, high) = wilson(c.hits, c.n, z_quantile(confidence));
                (low, high, true)
            }
        }
    }

    /// One-sided bounds of candidate − baseline.
    fn change(&self, name: &str, own: Metric, against: Option<Metric>) -> Bounds {
        let confidence = self.gates.confidence;
        if let Some(change) = self.candidate.changes.get(name).filter(|_| self.paired) {
            return match change.ci {
                Some((low, high)) => {
                    // The interval is that of 97.5 % to each side.
                    let scale = z_quantile(confidence) / z_quantile(0.975);
                    let (down, up) = (change.mean - low, high - change.mean);
                    (change.mean - down * scale, change.mean + up * scale, true)
                }
                None => (change.mean, change.mean, false),
            };
        }
        let Some(against) = against else { return (f64::NAN, f64::NAN, false) };
        if let (Metric::Count(own), Metric::Count(against)) = (own, against) {
            let (low, high) = newcombe((own.hits, own.n), (against.hits, against.n), z_quantile(confidence));
            return (low, high, true);
        }
        let difference = own.value() - against.value();
        let variance = |m: Metric| match m {
            Metric::Mean(Mean { se: Some(se), n, .. }) => Some((se * se, n)),
            Metric::Count(Count { hits, n }) => Some((hits / n * (1.0 - hits / n) / n, Some(n as usize))),
            _ => None,
        };
        let (Some((a, n)), Some((b, m))) = (variance(own), variance(against)) else {
            return (difference, difference, false);
        };
        // Welch–Satterthwaite.
        let df = match (n, m) {
            (Some(n), Some(m)) if n > 1 && m > 1 && a + b > 0.0 => {
                let parts = a * a / (n - 1) as f64 + b * b / (m - 1) as f64;
                t_quantile(confidence, ((a + b).powi(2) / parts).floor().max(1.0) as usize)
            }
            _ => z_quantile(confidence),
        };
        let half = df * (a + b).sqrt();
        (difference - half, difference + half, true)
    }

    /// Whether wrong answers grew by less than the margin, and how many cases it takes to say so.
    fn non_inferior(
        &self,
        check: &Check,
        own: Metric,
        against: Option<Metric>,
        hits_are_right: bool,
        out: &mut Checked,
    ) {
        let (Metric::Count(own), Some(Metric::Count(against))) = (own, against) else {
            out.why = format!("{} is no count on both sides: give {{\"hits\", \"n\"}}", check.metric);
            return;
        };
        let wrong = |c: Count| (if hits_are_right { c.n - c.hits } else { c.hits }, c.n);
        let (own, against) = (wrong(own), wrong(against));
        let confidence = self.gates.confidence;
        let (_, bound) = newcombe(own, against, z_quantile(confidence));
        let rate = against.0 / against.1;
        let assumed = self.gates.safety.map_or(0.0, |s| s.base_rate).max(rate).min(0.5);
        let needed = |power| cases_per_arm(assumed, check.limit, confidence, power);
        out.candidate = Some(own.0 / own.1);
        out.baseline = Some(rate);
        out.bound = Some(bound);
        out.is_confidence_bound = true;
        out.cases = Some((own.1, against.1));
        out.needed = Some((needed(0.5), needed(POWER)));
        let counts = format!(
            "{} and {} cases; at a base rate of {} % a margin of {} points takes about {} per arm ({} for a power of {POWER})",
            render::count(own.1),
            render::count(against.1),
            render::short(100.0 * assumed),
            render::short(100.0 * check.limit),
            render::count(needed(0.5)),
            render::count(needed(POWER)),
        );
        if bound < check.limit {
            out.outcome = Outcome::Pass;
            out.why = counts;
        } else {
            out.outcome = Outcome::Fail;
            let few = own.1.min(against.1) < needed(0.5);
            let problem =
                if few { "too few cases to certify the margin" } else { "the margin is not certified" };
            out.why = format!("{problem}: {counts}");
        }
    }
}

/// The metric, if it can be compared.
fn usable(metric: Option<Metric>, whose: &str) -> Result<Metric, String> {
    match metric {
        None => Err(format!("was not measured for the {whose}: what is not shown does not pass")),
        Some(m) if !m.is_sound() => Err(format!("of the {whose} is no usable number")),
        Some(m) => Ok(m),
    }
}

#[cfg(test)]
mod tests;
