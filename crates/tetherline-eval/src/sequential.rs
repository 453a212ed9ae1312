//! Tests that may be looked at after every prompt, and stopped at any look.
//!
//! Both keep an *e-process* E₁, E₂, …: under the null hypothesis a non-negative process with E\[E_τ\] ≤ 1 at every stopping
//! time τ, so that P(ever E_n ≥ 1/α) ≤ α (Ville 1939). `p` = 1 / max E is then a p-value that is valid at every look, and
//! the parameters that are not rejected at level α form a *confidence sequence*: an interval that covers at all looks at once.
//!
//! - [`TTest`], for differences without bounds (scores): the anytime-valid t-test. The effect δ = μ/σ has the prior N(0, c),
//!   σ the right Haar prior; with SS = Σ (x − x̄)²
//!
//!   ```text
//!   E_n = (1 + nc)^(−1/2) · [ (SS + n x̄²) / (SS + n x̄²/(1 + nc)) ]^(n/2)
//!   ```
//!
//!   This is the t-test's Bayes factor of Gönen, Johnson, Lu & Westfall (2005, *Am. Stat.* 59, 252–257); that it is an
//!   e-process for every σ at once is Pérez-Ortiz, Lardy, de Heide & Grünwald (2024, *Ann. Stat.* 52, 1410–1432). For many
//!   prompts it is the mixture SPRT of Robbins (1970) as used by Johari, Koomen, Pekelis & Walsh (2022, *Oper. Res.* 70,
//!   1806–1821) with the variance estimated. Exact for normal differences. For others it leans on the central limit theorem,
//!   so nothing counts before [`SETTLED`] differences (`docs/compare.md` has simulations).
//! - [`BoundedMean`], for numbers in 0..=1 (wins, ties ½): betting. For each λ of a grid the capital Π (1 + λ·(x_i − m)) is a
//!   non-negative martingale if the mean is m; E is their average (Waudby-Smith & Ramdas 2024, *J. R. Stat. Soc. B* 86, 1–27,
//!   "discretised Kelly"). Exact for every distribution in 0..=1.

use std::collections::BTreeMap;

/// Standard deviation of the prior on μ/σ: effects of about a fifth of a standard deviation are looked for.
pub const EFFECT: f64 = 0.2;

/// Differences before the t-test may reject: fewer of a skewed kind do not have the t distribution that it assumes.
pub const SETTLED: usize = 100;

/// The anytime-valid t-test of H₀: μ = 0.
#[derive(Clone, Debug)]
pub struct TTest {
    /// Variance c of the prior on μ/σ.
    prior: f64,
    n: f64,
    mean: f64,
    squares: f64,
    best: f64,
}

impl TTest {
    /// Before the first number. `effect` is the standard deviation of the prior on μ/σ, chosen before any data.
    pub fn new(effect: f64) -> Self {
        Self { prior: effect * effect, n: 0.0, mean: 0.0, squares: 0.0, best: 0.0 }
    }

    /// Takes one difference.
    pub fn push(&mut self, x: f64) {
        self.n += 1.0;
        let before = x - self.mean;
        self.mean += before / self.n;
        self.squares += before * (x - self.mean);
        if self.n() >= SETTLED {
            self.best = self.best.max(self.log_e());
        }
    }

    /// Differences seen.
    pub fn n(&self) -> usize {
        self.n as usize
    }

    /// ln E_n.
    pub fn log_e(&self) -> f64 {
        if self.n < 2.0 {
            return 0.0;
        }
        let spread = 1.0 + self.n * self.prior;
        let signal = self.n * self.mean * self.mean;
        let (with, without) = (self.squares + signal, self.squares + signal / spread);
        let ratio = if without > 0.0 { with / without } else { 1.0 };
        0.5 * self.n * ratio.ln() - 0.5 * spread.ln()
    }

    /// The always-valid p-value: of the looks from [`SETTLED`] differences on.
    pub fn p(&self) -> f64 {
        (-self.best).exp().min(1.0)
    }

    /// The 1 − α confidence sequence for μ at this look; `None` while it is the whole line, or said nothing of by [`SETTLED`].
    pub fn interval(&self, alpha: f64) -> Option<(f64, f64)> {
        if self.n() < SETTLED {
            return None;
        }
        // E(μ) = 1/α solved for u = n(x̄ − μ)²/SS.
        let spread = 1.0 + self.n * self.prior;
        let q = (2.0 / self.n * (0.5 * spread.ln() - alpha.ln())).exp();
        if q >= spread {
            return None;
        }
        let u = (q - 1.0) / (1.0 - q / spread);
        let half = (u * self.squares / self.n).sqrt();
        Some((self.mean - half, self.mean + half))
    }
}

/// A test by betting of H₀: mean = m, of numbers in 0..=1.
#[derive(Clone, Debug)]
pub struct BoundedMean {
    null: f64,
    /// How often each value came, by its bits: the order of bits of non-negative numbers is that of the numbers.
    counts: BTreeMap<u64, f64>,
    best: f64,
}

/// Shares of the largest stake, for either side.
const STAKES: usize = 20;

/// Places of a confidence sequence's grid.
const PLACES: usize = 400;

impl BoundedMean {
    /// Before the first number; `null` is m, inside 0..1.
    pub fn new(null: f64) -> Self {
        Self { null: null.clamp(1e-6, 1.0 - 1e-6), counts: BTreeMap::new(), best: 0.0 }
    }

    /// Takes one number, held to 0..=1.
    pub fn push(&mut self, x: f64) {
        *self.counts.entry(x.clamp(0.0, 1.0).to_bits()).or_default() += 1.0;
        self.best = self.best.max(self.log_e(self.null));
    }

    /// ln E_n of the hypothesis that the mean is `m`.
    fn log_e(&self, m: f64) -> f64 {
        // Stakes up to what cannot lose more than all: λ in (−1/(1−m), 1/m).
        let capital = |share: f64| {
            let stake = if share > 0.0 { share / m } else { share / (1.0 - m) };
            self.counts.iter().map(|(x, n)| n * (stake * (f64::from_bits(*x) - m)).ln_1p()).sum::<f64>()
        };
        let shares = (1..=STAKES).flat_map(|k| {
            let share = k as f64 / (STAKES as f64 + 1.0);
            [share, -share]
        });
        let logs: Vec<f64> = shares.map(capital).collect();
        let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        top + (logs.iter().map(|l| (l - top).exp()).sum::<f64>() / logs.len() as f64).ln()
    }

    /// The always-valid p-value.
    pub fn p(&self) -> f64 {
        (-self.best).exp().min(1.0)
    }

    /// The 1 − α confidence sequence for the mean at this look, on a grid of 0.0025 and rounded outwards.
    pub fn interval(&self, alpha: f64) -> (f64, f64) {
        let step = 1.0 / PLACES as f64;
        let kept = (0..PLACES).map(|i| (i as f64 + 0.5) * step).filter(|m| self.log_e(*m) < -alpha.ln());
        let ends = kept.fold(None, |ends: Option<(f64, f64)>, m| Some((ends.map_or(m, |e| e.0), m)));
        match ends {
            Some((low, high)) => ((low - step).max(0.0), (high + step).min(1.0)),
            None => {
                let (sum, n) =
                    self.counts.iter().fold((0.0, 0.0), |t, (x, n)| (t.0 + n * f64::from_bits(*x), t.1 + n));
                let mean = sum / f64::max(n, 1.0);
                ((mean - step).max(0.0), (mean + step).min(1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bayes_factor_of_gonen_et_al() {
        // Under the alternative t/√(1 + nc) is Student's, so the factor is a ratio of two of its densities.
        let (n, t, c) = (100.0f64, 2.03f64, 1.0f64 / 3.0);
        let mut test = TTest::new(c.sqrt());
        // Numbers with mean t/√n and variance 1.
        let spread = ((n - 1.0) / n).sqrt();
        for i in 0..100 {
            test.push(t / n.sqrt() + if i % 2 == 0 { spread } else { -spread });
        }
        let student = |t: f64| (1.0 + t * t / (n - 1.0)).powf(-n / 2.0);
        let wide = (1.0 + n * c).sqrt();
        let by_densities = student(t / wide) / wide / student(t);
        assert!((test.log_e() - by_densities.ln()).abs() < 1e-9, "{} {by_densities}", test.log_e().exp());
    }

    #[test]
    fn the_interval_is_where_the_test_does_not_reject() {
        let x: Vec<f64> = (0..110).map(|i| 0.4 + ((i * 37) % 23) as f64 / 11.0 - 1.0).collect();
        let at = |mu: f64| {
            let mut test = TTest::new(EFFECT);
            x.iter().for_each(|x| test.push(x - mu));
            test
        };
        let (low, high) = at(0.0).interval(0.05).unwrap();
        for end in [low, high] {
            assert!((at(end).log_e() - 20f64.ln()).abs() < 1e-9, "{}", at(end).log_e());
        }
        assert!(at(0.5 * (low + high)).log_e() < 0.0);
        assert_eq!(TTest::new(EFFECT).interval(0.05), None);
    }

    #[test]
    fn numbers_that_never_differ_are_the_strongest_evidence_and_zeros_none() {
        let (mut same, mut zero) = (TTest::new(EFFECT), TTest::new(EFFECT));
        for _ in 0..SETTLED {
            same.push(0.25);
            zero.push(0.0);
        }
        assert!(same.p() < 1e-6 && zero.p() == 1.0, "{} {}", same.p(), zero.p());
    }

    #[test]
    fn bets_by_hand() {
        // One win: E is the average of 1 + λ/2 over λ = ±2k/21, which is 1. A second: of (1 + λ/2)² = 1 + mean (k/21)².
        let mut test = BoundedMean::new(0.5);
        test.push(1.0);
        assert!(test.log_e(0.5).abs() < 1e-12);
        test.push(1.0);
        let mean = (1..=20).map(|k| (f64::from(k) / 21.0).powi(2)).sum::<f64>() / 20.0;
        assert!((test.log_e(0.5) - (1.0 + mean).ln()).abs() < 1e-12);
        (0..40).for_each(|_| test.push(1.0));
        let (low, high) = test.interval(0.05);
        assert!(test.p() < 1e-6 && low > 0.8 && high == 1.0, "{} {low}", test.p());
        let mut ties = BoundedMean::new(0.5);
        (0..1000).for_each(|_| ties.push(0.5));
        assert_eq!(ties.p(), 1.0);
        let (low, high) = ties.interval(0.05);
        assert!(low > 0.45 && low < 0.5 && high > 0.5 && high < 0.55, "{low} {high}");
    }
}
