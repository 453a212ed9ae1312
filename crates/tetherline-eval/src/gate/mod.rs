//! Gates: whether a candidate has shown what a gate file asks, against a baseline.
//!
//! Default deny. A check passes only where its metric was measured, is a number, and its *bound* keeps the limit: the
//! one-sided confidence bound on the side of the limit, at the file's `confidence`. A mean's bound uses Student's t and its
//! standard error clustered by prompt. A change is *paired* where both policies answered the same prompts and what each
//! prompt gave was kept: the paired t interval of means, Tango's of shares; else it is *unpaired*: Welch's, Newcombe's. A
//! number without a standard error is compared as it is, which the table marks. Formulas: `stats`.

mod config;
mod metric;
mod render;
pub mod stats;

pub use config::{CollapseGate, Gates, KlGate, Limits, MetricGate, Rule, SafetyGate};
pub use metric::{Count, Mean, Metric, Metrics, PerPrompt};

use config::Check;
use serde::Serialize;
use stats::{cases_per_arm, newcombe, paired_mean, t_quantile, tango, wilson, z_quantile};

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
    /// The metric is not there.
    Missing,
    /// It is there, but can be compared with nothing: no number, or a count that is none.
    Unusable,
}

/// How candidate and baseline were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Prompt by prompt.
    Paired,
    /// As if they had answered unrelated prompts.
    Unpaired,
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
    /// How the change was worked out; absent where none was.
    pub pairing: Option<Pairing>,
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
    /// Holds a candidate to the gates.
    ///
    /// # Errors
    /// A message that names the key of a gate file that is wrong.
    pub fn judge(&self, candidate: &Metrics, baseline: &Metrics) -> Result<GateReport, String> {
        let checks = self.checks(candidate.domains("kl"))?;
        let judge = Judge { gates: self, candidate, baseline };
        let checks: Vec<Checked> = checks.iter().map(|check| judge.check(check)).collect();
        let passed = !checks.is_empty() && checks.iter().all(|c| c.outcome == Outcome::Pass);
        Ok(GateReport { passed, confidence: self.confidence, checks })
    }

    /// Whether a check looks at a metric of which this is so.
    pub fn asks(&self, of: impl Fn(&str) -> bool) -> bool {
        self.checks(std::iter::empty()).is_ok_and(|checks| checks.iter().any(|c| of(&c.metric)))
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
}

/// Low and high bound, and whether they are confidence bounds.
type Bounds = (f64, f64, bool);

impl Judge<'_> {
    fn check(&self, check: &Check) -> Checked {
        let find = |of: &Metrics| of.by_name.get(&check.metric).copied();
        let (candidate, baseline) = (find(self.candidate), find(self.baseline));
        // Safety shows the share of wrong answers, as its bound and its limit are of.
        let shown = |v: f64| match check.rule {
            Rule::NonInferior { hits_are_right: true } => 1.0 - v,
            _ => v,
        };
        let finite = |m: Option<Metric>| m.map(|m| m.value()).filter(|v| v.is_finite()).map(shown);
        let mut out = Checked {
            gate: check.gate.clone(),
            metric: check.metric.clone(),
            rule: check.rule,
            limit: Some(check.limit).filter(|l| l.is_finite()),
            candidate: finite(candidate),
            baseline: finite(baseline),
            bound: None,
            is_confidence_bound: false,
            pairing: None,
            cases: None,
            needed: None,
            outcome: Outcome::Missing,
            why: String::new(),
        };
        let own = match usable(candidate, "candidate") {
            Ok(metric) => metric,
            Err((outcome, why)) => return Checked { outcome, why: format!("{} {why}", check.metric), ..out },
        };
        let against = match check.rule {
            Rule::Max | Rule::Min => None,
            _ => match usable(baseline, "baseline") {
                Ok(metric) => Some(metric),
                Err((outcome, why)) => {
                    return Checked { outcome, why: format!("{} {why}", check.metric), ..out };
                }
            },
        };
        if let Rule::NonInferior { hits_are_right } = check.rule {
            self.non_inferior(check, own, against, hits_are_right, &mut out);
            return out;
        }
        let base = against.map_or(f64::NAN, |m| m.value());
        let (low, high, confident) = match check.rule {
            Rule::MaxChange | Rule::MinChange => {
                let (pairing, bounds) = self.change(&check.metric, own, against);
                out.pairing = Some(pairing);
                bounds
            }
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

    /// How many prompts only the candidate, only the baseline and how many in all hit, of a share that every prompt has
    /// once.
    fn discordant(&self, name: &str) -> Option<(f64, f64, f64)> {
        let pairs = self.candidate.pairs(self.baseline, name)?;
        let is_case = |x: f64| x == 0.0 || x == 1.0;
        let hits = |a: f64, b: f64| pairs.iter().filter(|p| **p == (a, b)).count() as f64;
        let cases = pairs.iter().all(|(a, b)| is_case(*a) && is_case(*b));
        cases.then(|| (hits(1.0, 0.0), hits(0.0, 1.0), pairs.len() as f64))
    }

    /// One-sided bounds of candidate − baseline.
    fn change(&self, name: &str, own: Metric, against: Option<Metric>) -> (Pairing, Bounds) {
        let confidence = self.gates.confidence;
        let count = matches!(own, Metric::Count(_));
        if let Some((only_own, only_base, n)) = self.discordant(name).filter(|_| count) {
            let (low, high) = tango(only_own, only_base, n, z_quantile(confidence));
            return (Pairing::Paired, (low, high, true));
        }
        if let Some(pairs) = self.candidate.pairs(self.baseline, name).filter(|_| !count) {
            let differences: Vec<f64> = pairs.iter().map(|(a, b)| a - b).collect();
            let (mean, half) = paired_mean(&differences, confidence);
            return (Pairing::Paired, (mean - half, mean + half, true));
        }
        (Pairing::Unpaired, self.unpaired_change(own, against))
    }

    fn unpaired_change(&self, own: Metric, against: Option<Metric>) -> Bounds {
        let confidence = self.gates.confidence;
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
            out.outcome = Outcome::Unusable;
            let sides = [(Some(own), "candidate"), (against, "baseline")];
            let rates = sides.iter().filter_map(|(metric, whose)| match metric {
                Some(Metric::Count(_)) | None => None,
                Some(rate) => Some(format!("{} of the {whose}", render::short(rate.value()))),
            });
            out.why = format!(
                "{} is a rate without its cases ({}), which certifies nothing: give {{\"hits\": …, \"n\": …}}",
                check.metric,
                rates.collect::<Vec<_>>().join(", ")
            );
            return;
        };
        let wrong = |c: Count| (if hits_are_right { c.n - c.hits } else { c.hits }, c.n);
        let (own, against) = (wrong(own), wrong(against));
        let confidence = self.gates.confidence;
        let z = z_quantile(confidence);
        let discordant = self.discordant(&check.metric);
        let bound = match discordant {
            // Where hits are right, the wrong answers of the candidate alone are the hits of the baseline alone.
            Some((only_own, only_base, n)) if hits_are_right => tango(only_base, only_own, n, z).1,
            Some((only_own, only_base, n)) => tango(only_own, only_base, n, z).1,
            None => newcombe(own, against, z).1,
        };
        out.pairing = Some(if discordant.is_some() { Pairing::Paired } else { Pairing::Unpaired });
        let rate = against.0 / against.1;
        let assumed = self.gates.safety.map_or(0.0, |s| s.base_rate).max(rate).min(0.5);
        let needed = |power| cases_per_arm(assumed, check.limit, confidence, power);
        out.candidate = Some(own.0 / own.1);
        out.baseline = Some(rate);
        out.bound = Some(bound);
        out.is_confidence_bound = true;
        out.cases = Some((own.1, against.1));
        out.needed = Some((needed(0.5), needed(POWER)));
        let (cases, fewer) = match discordant {
            Some((a, b, n)) => {
                let unlike = format!("{} pairs, {} of them unlike", render::count(n), render::count(a + b));
                (unlike, "; fewer pairs, the more the two agree")
            }
            None => (format!("{} and {} cases", render::count(own.1), render::count(against.1)), ""),
        };
        let counts = format!(
            "{cases}; at a base rate of {} % a margin of {} points takes about {} per arm ({} for a power of {POWER}){fewer}",
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
fn usable(metric: Option<Metric>, whose: &str) -> Result<Metric, (Outcome, String)> {
    let Some(metric) = metric else {
        let why = format!("was not measured for the {whose}: what is not shown does not pass");
        return Err((Outcome::Missing, why));
    };
    match metric.problem() {
        Some(problem) => Err((Outcome::Unusable, format!("of the {whose} cannot be used: {problem}"))),
        None => Ok(metric),
    }
}

#[cfg(test)]
mod tests;
