//! A running KL estimate across sequences: mean, variance, standard error, confidence interval.
//!
//! Weighted one-pass update (West 1979): W += w; δ = x − μ; μ += δ·w/W; S += w·δ·(x − μ). The variance is
//! S / (W − Σw²/W), which is the sample variance (n − 1) where all weights are 1. The standard error is
//! sqrt(variance / n_eff) with n_eff = W²/Σw², the effective sample size under importance weights.
//! All values are nats per sequence. A NaN that comes in makes the mean NaN: it must reach the
//! controller, which holds β, and not be averaged away.

use crate::observation::{ALL, DomainKl, KlObservation};
use crate::units::{NatsPerSequence, NatsPerToken};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Mean and spread of KL across sequences (nats per sequence), mergeable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KlEstimate {
    count: u64,
    tokens: u64,
    sum_w: f64,
    sum_w2: f64,
    mean: f64,
    spread: f64,
}

impl KlEstimate {
    /// Adds one sequence: its KL and its number of response tokens.
    pub fn push(&mut self, kl: NatsPerSequence, tokens: usize) {
        self.push_weighted(kl, tokens, 1.0);
    }

    /// Adds one sequence with an importance weight. A weight of zero only counts its tokens; a
    /// negative or non-finite weight makes the estimate NaN.
    pub fn push_weighted(&mut self, kl: NatsPerSequence, tokens: usize, weight: f64) {
        self.count += 1;
        self.tokens += tokens as u64;
        if weight == 0.0 {
            return;
        }
        let weight = if weight > 0.0 && weight.is_finite() { weight } else { f64::NAN };
        self.sum_w += weight;
        self.sum_w2 += weight * weight;
        let delta = kl.0 - self.mean;
        self.mean += delta * weight / self.sum_w;
        self.spread += weight * delta * (kl.0 - self.mean);
    }

    /// Adds all sequences of another estimate.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let total = self.sum_w + other.sum_w;
        if total != 0.0 {
            let delta = other.mean - self.mean;
            self.spread += other.spread + delta * delta * self.sum_w * other.sum_w / total;
            self.mean += delta * other.sum_w / total;
        }
        self.count += other.count;
        self.tokens += other.tokens;
        self.sum_w = total;
        self.sum_w2 += other.sum_w2;
    }

    /// Sequences seen.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Response tokens seen.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Mean KL; NaN before the first sequence.
    #[must_use]
    pub fn mean(&self) -> NatsPerSequence {
        NatsPerSequence(if self.sum_w == 0.0 { f64::NAN } else { self.mean })
    }

    /// Mean KL divided by the mean response length; NaN where there are no tokens.
    #[must_use]
    pub fn mean_per_token(&self) -> NatsPerToken {
        self.mean().per_token(self.tokens as f64 / self.count as f64)
    }

    /// Variance across sequences (nats² per sequence); NaN below two sequences.
    #[must_use]
    pub fn variance(&self) -> f64 {
        if self.count < 2 || self.sum_w == 0.0 {
            return f64::NAN;
        }
        let freedom = self.sum_w - self.sum_w2 / self.sum_w;
        if freedom > 0.0 { (self.spread / freedom).max(0.0) } else { f64::NAN }
    }

    /// (Σw)²/Σw²: how many equally weighted sequences this is worth; the count where all weights are 1.
    #[must_use]
    pub fn effective_sample_size(&self) -> f64 {
        if self.sum_w == 0.0 { 0.0 } else { self.sum_w * self.sum_w / self.sum_w2 }
    }

    /// Standard error of the mean; NaN below two sequences.
    #[must_use]
    pub fn stderr(&self) -> NatsPerSequence {
        NatsPerSequence((self.variance() / self.effective_sample_size()).sqrt())
    }

    /// mean ± z standard errors; z = 1.96 covers 95 % for a few dozen sequences and more.
    #[must_use]
    pub fn confidence_interval(&self, z: f64) -> (NatsPerSequence, NatsPerSequence) {
        let (mean, half) = (self.mean().0, z * self.stderr().0);
        (NatsPerSequence(mean - half), NatsPerSequence(mean + half))
    }

    /// This estimate as one domain of an observation. Its `n` is the effective sample size, rounded down and at least
    /// 1: sequences that weigh nothing measure nothing. Where that is below the count the standard error is sent as
    /// well; below 2 the variance is unknown, and NaN.
    #[must_use]
    pub fn domain(&self, id: impl Into<String>) -> DomainKl {
        // Equal weights other than 1 give the count only up to rounding.
        let size = self.effective_sample_size() * (1.0 + 1e-9);
        let n =
            if size.is_finite() { (size as u64).clamp(self.count.min(1), self.count) } else { self.count };
        let mut domain = DomainKl::new(id, self.mean(), self.variance(), n);
        if n < self.count {
            if size < 2.0 {
                domain.var = f64::NAN;
            } else {
                domain.stderr = Some(self.stderr()).filter(|s| s.0.is_finite());
            }
        }
        domain
    }
}

/// One estimate per domain and one over everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KlByDomain {
    /// Over all sequences.
    pub overall: KlEstimate,
    /// By domain id.
    pub domains: BTreeMap<String, KlEstimate>,
}

impl KlByDomain {
    /// Adds one sequence of a domain.
    pub fn push(&mut self, domain: &str, kl: NatsPerSequence, tokens: usize) {
        self.overall.push(kl, tokens);
        match self.domains.get_mut(domain) {
            Some(estimate) => estimate.push(kl, tokens),
            None => {
                let mut estimate = KlEstimate::default();
                estimate.push(kl, tokens);
                self.domains.insert(domain.to_owned(), estimate);
            }
        }
    }

    /// Adds all sequences of another.
    pub fn merge(&mut self, other: &Self) {
        self.overall.merge(&other.overall);
        for (id, estimate) in &other.domains {
            self.domains.entry(id.clone()).or_default().merge(estimate);
        }
    }

    /// An observation with the single domain `all`: one β for every row.
    #[must_use]
    pub fn observe_overall(&self, step: u64) -> KlObservation {
        KlObservation::rollout(step, vec![self.overall.domain(ALL)])
    }

    /// An observation with one entry per domain: one β each.
    #[must_use]
    pub fn observe_domains(&self, step: u64) -> KlObservation {
        KlObservation::rollout(step, self.domains.iter().map(|(id, e)| e.domain(id.as_str())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> KlEstimate {
        let mut e = KlEstimate::default();
        values.iter().for_each(|&v| e.push(NatsPerSequence(v), 4));
        e
    }

    #[test]
    fn mean_variance_and_interval_of_a_hand_computed_sample() {
        let e = of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]); // mean 5, Σ(x−5)² = 32
        assert_eq!(e.mean(), NatsPerSequence(5.0));
        assert!((e.variance() - 32.0 / 7.0).abs() < 1e-12);
        assert!((e.stderr().0 - (32.0f64 / 56.0).sqrt()).abs() < 1e-12);
        let (lo, hi) = e.confidence_interval(2.0);
        assert!((hi.0 - lo.0 - 4.0 * e.stderr().0).abs() < 1e-12);
        assert_eq!((e.count(), e.tokens()), (8, 32));
        assert!((e.mean_per_token().0 - 1.25).abs() < 1e-12);
        assert!((e.effective_sample_size() - 8.0).abs() < 1e-12);
    }

    #[test]
    fn merging_equals_pushing() {
        let (mut a, b) = (of(&[1.0, 2.0, 6.0]), of(&[-1.0, 3.5]));
        a.merge(&b);
        a.merge(&KlEstimate::default());
        let whole = of(&[1.0, 2.0, 6.0, -1.0, 3.5]);
        assert!((a.mean().0 - whole.mean().0).abs() < 1e-12);
        assert!((a.variance() - whole.variance()).abs() < 1e-12);
        assert_eq!((a.count(), a.tokens()), (5, 20));
        let mut empty = KlEstimate::default();
        empty.merge(&whole);
        assert_eq!(empty.mean(), whole.mean());
    }

    #[test]
    fn weights_give_the_effective_sample_size() {
        let mut e = KlEstimate::default();
        e.push_weighted(NatsPerSequence(1.0), 1, 1.0);
        e.push_weighted(NatsPerSequence(5.0), 1, 3.0);
        e.push_weighted(NatsPerSequence(99.0), 1, 0.0);
        assert!((e.mean().0 - 4.0).abs() < 1e-12);
        assert!((e.effective_sample_size() - 16.0 / 10.0).abs() < 1e-12);
        // S = 1·9 + 3·1 = 12; freedom = 4 − 10/4 = 1.5
        assert!((e.variance() - 8.0).abs() < 1e-12);
        // Worth 1.6 sequences, of which no variance is known.
        let domain = e.domain("x");
        assert_eq!((domain.n, domain.stderr), (1, None));
        assert!(domain.var.is_nan());
    }

    #[test]
    fn a_domain_counts_what_its_weights_are_worth() {
        let weighted = |some: u64, of: u64, weight: f64| {
            let mut e = KlEstimate::default();
            (0..of).for_each(|i| {
                let weight = if i < some { weight } else { 0.0 };
                e.push_weighted(NatsPerSequence((i % 2) as f64), 1, weight);
            });
            e.domain("x")
        };
        // Ten sequences of 0 and 1 in turn: variance 10/36, standard error √(10/360).
        let domain = weighted(10, 512, 1.0);
        assert_eq!((domain.n, domain.mean_kl.0), (10, 0.5));
        assert!((domain.var - 10.0 / 36.0).abs() < 1e-12);
        assert!((domain.stderr.unwrap().0 - (10.0f64 / 360.0).sqrt()).abs() < 1e-12);
        let one = weighted(1, 512, 1.0);
        assert_eq!((one.n, one.stderr), (1, None));
        assert!(one.var.is_nan() && one.mean_kl.0 == 0.0);
        // Equal weights, whatever they are, are worth the count, and var and n say it all.
        for weight in [1.0, 0.3, 1e-3, 7.7] {
            let domain = weighted(512, 512, weight);
            assert_eq!((domain.n, domain.stderr), (512, None), "{weight}");
        }
        let none = weighted(0, 512, 1.0);
        assert!(none.n == 1 && none.mean_kl.0.is_nan(), "a broken measurement, not an absent domain");
        assert_eq!(KlEstimate::default().domain("x").n, 0);
        // Weights 3, 1, 1 are worth 25/11 sequences.
        let mut e = KlEstimate::default();
        for (kl, w) in [(1.0, 3.0), (2.0, 1.0), (3.0, 1.0)] {
            e.push_weighted(NatsPerSequence(kl), 1, w);
        }
        let domain = e.domain("x");
        assert_eq!(domain.n, 2);
        assert!((domain.stderr.unwrap().0 - (domain.var / (25.0 / 11.0)).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn too_few_sequences_and_nan_are_visible() {
        let empty = KlEstimate::default();
        assert!(empty.mean().0.is_nan() && empty.stderr().0.is_nan());
        let one = of(&[3.0]);
        assert_eq!(one.mean().0, 3.0);
        assert!(one.variance().is_nan());
        assert!(of(&[1.0, f64::NAN, 2.0]).mean().0.is_nan());
        let mut bad = of(&[1.0]);
        bad.push_weighted(NatsPerSequence(1.0), 1, -1.0);
        assert!(bad.mean().0.is_nan());
        let mut infinite = of(&[1.0]);
        infinite.push_weighted(NatsPerSequence(1.0), 1, f64::INFINITY);
        assert!(infinite.effective_sample_size().is_nan(), "no weight is infinite");
        let mut weightless = KlEstimate::default();
        (0..2).for_each(|_| weightless.push_weighted(NatsPerSequence(1.0), 1, 0.0));
        assert!(weightless.variance().is_nan() && weightless.mean().0.is_nan());
        assert_eq!((weightless.count(), weightless.effective_sample_size()), (2, 0.0));
        assert_eq!(of(&[1.0, 3.0]).variance(), 2.0, "two sequences are enough");
        let mut one_counts = of(&[1.0]);
        one_counts.push_weighted(NatsPerSequence(9.0), 1, 0.0);
        assert!(one_counts.variance().is_nan(), "one weighted sequence has no variance");
    }

    #[test]
    fn domains_and_overall_agree() {
        let mut k = KlByDomain::default();
        k.push("a", NatsPerSequence(1.0), 2);
        k.push("b", NatsPerSequence(3.0), 2);
        k.push("a", NatsPerSequence(2.0), 2);
        let mut twice = k.clone();
        twice.merge(&k);
        assert_eq!(twice.overall.count(), 6);
        let obs = k.observe_domains(4);
        assert_eq!(obs.domains.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(obs.domains[0].mean_kl.0, 1.5);
        assert_eq!(k.observe_overall(4).domains[0].mean_kl.0, 2.0);
    }
}
