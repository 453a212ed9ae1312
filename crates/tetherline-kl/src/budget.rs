//! KL budgets: a target per domain, per user and overall, tightened by metrics.
//!
//! Each budget has a controller of its own. A row's β is the sum over the budgets it falls under: the dual
//! of max E[r] subject to KL_k ≤ T_k for all k at once (KL.md §2.3), whose multipliers add up.
//!
//! **Shrinkage.** A domain with few sequences is noisy, so its *relative* KL r_k = KL_k/T_k is drawn
//! towards the batch's mean, r̄ = Σ n_k r_k / Σ n_k. Its own value weighs n_k/(n_k + `shrink`), or, where the
//! domains differ by more than their noise, v/(v + se_k²) with v the variance between them (James–Stein), if
//! that is more: a domain above its target must not look below it because another one is. Relative, because the
//! only point where all shrunken r_k are 1 is the one where all r_k are 1; drawing the KL itself towards
//! a mean KL would hold every domain off its own target.
//!
//! **Metrics.** T_k is multiplied by Π_j clip((limit_j − u_j)/(limit_j − warn_j), 0, 1), not below
//! `target_min`, with u_j the metric's upper bound (lower, where limit < warn: more is better).
//! Tightening is at once; relaxing takes `clean` observations in a row at or inside `warn`-given room and
//! then at most 5 % per observation. A metric that is missing or not finite neither relaxes nor tightens.

use crate::config::{KlConfigError, require, target};
use crate::observation::{ALL, MetricValue};
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};

/// A budget: the KL target of the rows with this id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// A domain, `user:…`, or `all`; a trailing `*` stands for any ending (the longest match counts).
    pub id: String,
    /// Target KL.
    pub target: NatsPerSequence,
    /// Metrics never tighten the target below this (default: a fifth of it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_min: Option<NatsPerSequence>,
    /// Metrics this budget is linked to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricLimit>,
}

/// A metric's two marks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricLimit {
    /// Name of the metric in the observation.
    pub id: String,
    /// From here on the budget tightens.
    pub warn: f64,
    /// Here it is at its minimum; below `warn` where more is better.
    pub limit: f64,
}

/// State of one budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetState {
    /// The budget's id, to notice a changed configuration.
    pub id: String,
    /// Share of the target in force, in (0, 1].
    pub share: f64,
    /// Observations in a row that would allow relaxing.
    pub clean: u32,
    /// Which of its metrics were ever measured.
    pub met: Vec<bool>,
}

/// Observations in a row before a budget relaxes.
const CLEAN: u32 = 5;
/// Largest relaxation per observation.
const RELAX: f64 = 1.05;

/// The kind of group an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Global,
    Domain,
    User,
}

pub(crate) fn level(id: &str) -> Level {
    match id {
        ALL => Level::Global,
        id if id.starts_with("user:") => Level::User,
        _ => Level::Domain,
    }
}

/// The budget that an id falls under: an exact id, else the longest matching pattern, else, for a domain
/// or user on a level that has budgets, the strictest of that level.
pub(crate) fn find(budgets: &[Budget], id: &str) -> Option<usize> {
    let of_level = |b: &Budget| level(&b.id) == level(id);
    if let Some(exact) = budgets.iter().position(|b| b.id == id) {
        return Some(exact);
    }
    if level(id) == Level::Global {
        return None;
    }
    let matching = budgets.iter().enumerate().filter(|(_, b)| b.names(id));
    let longest = matching.max_by_key(|(i, b)| (b.id.len(), usize::MAX - i)).map(|(i, _)| i);
    longest.or_else(|| {
        let same = budgets.iter().enumerate().filter(|(_, b)| of_level(b));
        same.min_by(|(_, a), (_, b)| a.target.0.total_cmp(&b.target.0)).map(|(i, _)| i)
    })
}

pub(crate) fn validate(budgets: &[Budget]) -> Result<(), KlConfigError> {
    for (i, b) in budgets.iter().enumerate() {
        let field = |name: &str| format!("budget[{i}].{name}");
        require(!b.id.is_empty(), &field("id"), "\"\"", "a domain, `user:…` or `all`")?;
        let twice = budgets[..i].iter().any(|other| other.id == b.id);
        require(!twice, &field("id"), &b.id, "given once")?;
        target(b.target.0, &field("target"))?;
        if let Some(min) = b.target_min {
            target(min.0, &field("target_min"))?;
            require(min <= b.target, &field("target_min"), min.0, &format!("≤ target ({})", b.target.0))?;
        }
        for (j, m) in b.metrics.iter().enumerate() {
            let field = |name: &str| format!("budget[{i}].metrics[{j}].{name}");
            require(m.warn.is_finite(), &field("warn"), m.warn, "finite")?;
            let apart = m.limit.is_finite() && m.limit != m.warn;
            require(apart, &field("limit"), m.limit, "finite and different from warn")?;
        }
    }
    Ok(())
}

impl BudgetState {
    pub(crate) fn damage(&self, config: &Budget) -> Option<String> {
        if self.met.len() != config.metrics.len() {
            return Some(format!(
                "it has {} metrics, the configuration {}",
                self.met.len(),
                config.metrics.len()
            ));
        }
        let possible = self.share > 0.0 && self.share <= 1.0;
        (!possible).then(|| format!("the share of its target in force is {}", self.share))
    }
}

/// What a budget's metrics did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Moved {
    No,
    /// Tightened by this metric (index), whose bound is this.
    Tightened {
        metric: usize,
        bound: f64,
    },
    Relaxed,
}

impl Budget {
    /// A budget without metrics.
    #[must_use]
    pub fn new(id: impl Into<String>, target: NatsPerSequence) -> Self {
        Self { id: id.into(), target, target_min: None, metrics: Vec::new() }
    }

    /// Whether this id is meant by name or by pattern.
    pub(crate) fn names(&self, id: &str) -> bool {
        let pattern = || self.id.strip_suffix('*').is_some_and(|prefix| id.starts_with(prefix));
        self.id == id || (level(&self.id) == level(id) && pattern())
    }

    pub(crate) fn start(&self) -> BudgetState {
        BudgetState { id: self.id.clone(), share: 1.0, clean: 0, met: vec![false; self.metrics.len()] }
    }

    fn min_share(&self) -> f64 {
        self.target_min.map_or(0.2, |min| min.0 / self.target.0)
    }

    /// Moves the share of the target in force by one observation's metrics.
    pub(crate) fn follow(&self, s: &mut BudgetState, metrics: &[MetricValue]) -> Moved {
        let mut allowed = 1.0;
        let mut worst = None;
        let mut complete = true;
        for (i, limit) in self.metrics.iter().enumerate() {
            let room_at = |bound: f64| ((limit.limit - bound) / (limit.limit - limit.warn)).clamp(0.0, 1.0);
            // Of one that is listed twice the worse counts, whatever the order.
            let measured = metrics.iter().filter(|m| m.id == limit.id).filter_map(|m| limit.bound(m));
            let Some(bound) = measured.min_by(|a, b| room_at(*a).total_cmp(&room_at(*b))) else {
                complete = false;
                continue;
            };
            s.met[i] = true;
            let room = room_at(bound);
            allowed *= room;
            if room < 1.0 && worst.is_none_or(|(_, least, _)| room < least) {
                worst = Some((i, room, bound));
            }
        }
        let allowed = f64::max(allowed, self.min_share());
        if allowed < s.share {
            s.share = allowed;
            s.clean = 0;
            return worst.map_or(Moved::No, |(metric, _, bound)| Moved::Tightened { metric, bound });
        }
        if !complete || allowed == s.share {
            // Nothing to relax, or no proof that one may.
            s.clean = 0;
            return Moved::No;
        }
        s.clean += 1;
        if s.clean < CLEAN {
            return Moved::No;
        }
        s.share = (s.share * RELAX).min(allowed);
        Moved::Relaxed
    }
}

impl MetricLimit {
    /// The conservative bound: upper where less is better, lower (mirrored) where more is; never on the harmless side
    /// of the value itself, which stands alone where the bound is not finite. `None` without a finite value.
    fn bound(&self, m: &MetricValue) -> Option<f64> {
        let value = Some(m.value).filter(|v| v.is_finite())?;
        let above = (m.ucb.unwrap_or(value) - value).max(0.0);
        let above = if above.is_finite() { above } else { 0.0 };
        Some(if self.limit > self.warn { value + above } else { value - above })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(value: f64, ucb: f64) -> Vec<MetricValue> {
        vec![MetricValue { id: "unsafe".into(), value, ucb: Some(ucb) }]
    }

    fn linked() -> Budget {
        let limit = MetricLimit { id: "unsafe".into(), warn: 0.01, limit: 0.03 };
        Budget {
            metrics: vec![limit],
            target_min: Some(NatsPerSequence(1.0)),
            ..Budget::new("all", NatsPerSequence(4.0))
        }
    }

    #[test]
    fn tightens_at_once_and_relaxes_slowly() {
        let b = linked();
        let mut s = b.start();
        assert_eq!(b.follow(&mut s, &metric(0.005, 0.01)), Moved::No);
        // UCB half way between warn and limit: half the target.
        assert_eq!(b.follow(&mut s, &metric(0.01, 0.02)), Moved::Tightened { metric: 0, bound: 0.02 });
        assert!((s.share - 0.5).abs() < 1e-12);
        b.follow(&mut s, &metric(0.05, 0.06));
        assert_eq!(s.share, 0.25, "target_min is the floor");
        for _ in 0..4 {
            assert_eq!(b.follow(&mut s, &metric(0.0, 0.005)), Moved::No);
        }
        assert_eq!(b.follow(&mut s, &metric(0.0, 0.005)), Moved::Relaxed);
        assert!((s.share - 0.2625).abs() < 1e-12);
        for _ in 0..100 {
            b.follow(&mut s, &metric(0.0, 0.005));
        }
        assert_eq!(s.share, 1.0);
    }

    #[test]
    fn missing_and_nonfinite_metrics_neither_relax_nor_tighten() {
        let b = linked();
        let mut s = b.start();
        b.follow(&mut s, &metric(0.01, 0.02));
        for _ in 0..20 {
            assert_eq!(b.follow(&mut s, &[]), Moved::No);
            assert_eq!(b.follow(&mut s, &metric(f64::NAN, f64::NAN)), Moved::No);
        }
        assert!((s.share - 0.5).abs() < 1e-12);
    }

    #[test]
    fn where_more_is_better_the_lower_bound_counts() {
        let limit = MetricLimit { id: "unsafe".into(), warn: 0.8, limit: 0.6 };
        let b = Budget { metrics: vec![limit], ..Budget::new("all", NatsPerSequence(4.0)) };
        let mut s = b.start();
        b.follow(&mut s, &metric(0.85, 0.875)); // lower bound 0.825
        assert_eq!(s.share, 1.0);
        b.follow(&mut s, &metric(0.75, 0.8)); // lower bound 0.7: half way
        assert!((s.share - 0.5).abs() < 1e-12);
        b.follow(&mut s, &metric(0.5, 0.6));
        assert!((s.share - 0.2).abs() < 1e-12, "a fifth is the default floor");
    }

    #[test]
    fn exact_then_longest_pattern_then_strictest_of_the_level() {
        let budgets = [
            Budget::new("legal", NatsPerSequence(2.0)),
            Budget::new("med*", NatsPerSequence(3.0)),
            Budget::new("medical-kids*", NatsPerSequence(1.0)),
            Budget::new("user:*", NatsPerSequence(9.0)),
        ];
        let of = |id| find(&budgets, id).map(|i| budgets[i].target.0);
        assert_eq!(of("legal"), Some(2.0));
        assert_eq!(of("medical"), Some(3.0));
        assert_eq!(of("medical-kids-1"), Some(1.0));
        assert_eq!(of("code"), Some(1.0), "an unmatched domain gets the strictest budget");
        assert_eq!(of("user:ann"), Some(9.0));
        assert_eq!(of("all"), None);
        assert_eq!(find(&budgets[..3], "user:ann"), None);
    }

    #[test]
    fn of_two_patterns_of_one_length_the_first_counts() {
        let budgets = [
            Budget::new("b*", NatsPerSequence(2.0)),
            Budget::new("*d", NatsPerSequence(9.0)),
            Budget::new("b*", NatsPerSequence(3.0)),
        ];
        assert_eq!(find(&budgets, "bad"), Some(0));
    }

    #[test]
    fn the_worst_metric_is_the_one_that_is_named() {
        let limit = |id: &str| MetricLimit { id: id.into(), warn: 0.0, limit: 1.0 };
        let b = Budget {
            metrics: ["a", "b", "c"].map(limit).to_vec(),
            ..Budget::new("all", NatsPerSequence(4.0))
        };
        let metrics = |values: [f64; 3]| -> Vec<MetricValue> {
            let named = ["a", "b", "c"].iter().zip(values);
            named.map(|(id, value)| MetricValue { id: (*id).into(), value, ucb: None }).collect()
        };
        let mut s = b.start();
        assert_eq!(b.follow(&mut s, &metrics([0.1, 0.3, 0.2])), Moved::Tightened { metric: 1, bound: 0.3 });
        assert!((s.share - 0.9 * 0.7 * 0.8).abs() < 1e-12, "the rooms multiply");
        let mut s = b.start();
        assert_eq!(b.follow(&mut s, &metrics([0.0, 0.2, 0.2])), Moved::Tightened { metric: 1, bound: 0.2 });
        // The same room again neither tightens nor counts as a step towards relaxing.
        assert_eq!((b.follow(&mut s, &metrics([0.0, 0.2, 0.2])), s.clean), (Moved::No, 0));
        // Relaxing ends at what the metrics allow.
        for _ in 0..40 {
            b.follow(&mut s, &metrics([0.0, 0.1, 0.1]));
        }
        assert!((s.share - 0.81).abs() < 1e-12, "{}", s.share);
    }

    #[test]
    fn wrong_budgets_name_their_field() {
        let field = |b: Vec<Budget>| validate(&b).unwrap_err().field;
        assert_eq!(field(vec![Budget::new("", NatsPerSequence(1.0))]), "budget[0].id");
        assert_eq!(
            field(vec![Budget::new("a", NatsPerSequence(1.0)), Budget::new("a", NatsPerSequence(1.0))]),
            "budget[1].id"
        );
        assert_eq!(field(vec![Budget::new("a", NatsPerSequence(0.0))]), "budget[0].target");
        assert_eq!(
            field(vec![Budget { target_min: Some(NatsPerSequence(5.0)), ..linked() }]),
            "budget[0].target_min"
        );
        let mut b = linked();
        b.metrics[0].limit = 0.01;
        assert_eq!(field(vec![b]), "budget[0].metrics[0].limit");
        assert!(validate(&[linked()]).is_ok());
    }
}
