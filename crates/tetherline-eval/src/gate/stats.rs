//! One-sided confidence bounds, and how many cases a margin takes.
//!
//! - Quantiles: of the normal distribution by bisection on Marsaglia's series
//!   `Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/15 + …)` (Marsaglia 2004, "Evaluating the normal distribution"); of Student's t on its
//!   finite sums (Abramowitz & Stegun 26.7.3, 26.7.4).
//! - A share: Wilson (1927), see [`crate::share`]. The difference of two shares: Newcombe (1998), "Interval estimation for
//!   the difference between independent proportions", method 10, which puts two Wilson intervals together:
//!   `p₁ − p₂ + √((u₁ − p₁)² + (p₂ − l₂)²)`. Unlike Wald's it has width where nothing happened.
//! - The difference of two shares on the same cases: Tango (1998), "Equivalence test and confidence interval for the
//!   difference in proportions for the paired-sample design", from the counts b and c of cases that only one of the two has:
//!   every Δ that the score test of `p₁ − p₂ = Δ` does not reject. Where nothing parts the two it is ±z²/(n + z²).
//! - How many: `n = (z_conf + z_power)² · 2p(1 − p) / δ²` per arm for a margin δ where both arms have the rate p
//!   (Blackwelder 1982, "Proving the null hypothesis in clinical trials"). With `z_power` 0, a power of one half, it is the
//!   count at which two arms with *equal observed* rates just certify the margin.

use std::f64::consts::PI;

/// The largest degrees of freedom told from the normal distribution.
const NORMAL_FROM: usize = 2000;

fn normal_cdf(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (x, x, 1.0);
    while (sum + term) != sum {
        k += 2.0;
        term *= x * x / k;
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / (2.0 * PI).sqrt()
}

fn t_cdf(t: f64, df: usize) -> f64 {
    let theta = (t / (df as f64).sqrt()).atan();
    let (sin, cos2) = (theta.sin(), theta.cos().powi(2));
    let a = if df.is_multiple_of(2) {
        let (mut term, mut sum) = (1.0, 1.0);
        for k in (2..df).step_by(2) {
            term *= cos2 * (k as f64 - 1.0) / k as f64;
            sum += term;
        }
        sin * sum
    } else {
        let (mut term, mut sum) = (theta.cos(), 0.0);
        for k in (3..=df).step_by(2) {
            sum += term;
            term *= cos2 * (k as f64 - 1.0) / k as f64;
        }
        2.0 / PI * (theta + sin * sum)
    };
    0.5 + a / 2.0
}

/// The point in 0..=`high` where an increasing function reaches `p`.
fn bisect(p: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    let mut low = 0.0;
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if f(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// The `p`-quantile of the standard normal distribution, for p from ½ up.
pub fn z_quantile(p: f64) -> f64 {
    bisect(p, 8.0, normal_cdf)
}

/// The `p`-quantile of Student's t with `df` degrees of freedom, for p from ½ up. Infinite without any.
pub fn t_quantile(p: f64, df: usize) -> f64 {
    match df {
        0 => f64::INFINITY,
        1..NORMAL_FROM => bisect(p, 1e5, |t| t_cdf(t, df)),
        _ => z_quantile(p),
    }
}

/// Wilson's interval of `hits` in `n` at this z; counts need not be whole.
pub fn wilson(hits: f64, n: f64, z: f64) -> (f64, f64) {
    let (p, z2) = (hits / n, z * z);
    let centre = p + z2 / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    (((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0))
}

/// Newcombe's interval of the difference of two shares, each `(hits, n)`, first minus second.
pub fn newcombe(first: (f64, f64), second: (f64, f64), z: f64) -> (f64, f64) {
    let (p1, p2) = (first.0 / first.1, second.0 / second.1);
    let ((l1, u1), (l2, u2)) = (wilson(first.0, first.1, z), wilson(second.0, second.1, z));
    let low = p1 - p2 - ((p1 - l1).powi(2) + (u2 - p2).powi(2)).sqrt();
    let high = p1 - p2 + ((u1 - p1).powi(2) + (p2 - l2).powi(2)).sqrt();
    (low, high)
}

/// Tango's interval of the difference of two shares on the same `n` cases, first minus second, where `only_first` cases hit in
/// the first alone and `only_second` in the second alone.
pub fn tango(only_first: f64, only_second: f64, n: f64, z: f64) -> (f64, f64) {
    let (b, c) = (only_first, only_second);
    // The score of `difference = d`, with the share of (second alone) that is most likely under it.
    let score = |d: f64| {
        let (a, half) = (2.0 * n, -b - c + (2.0 * n - b + c) * d);
        let q = ((half * half + 4.0 * a * c * d * (1.0 - d)).max(0.0).sqrt() - half) / (2.0 * a);
        let variance = n * (2.0 * q + d * (1.0 - d));
        let distance = b - c - n * d;
        if distance == 0.0 { 0.0 } else { distance / variance.max(0.0).sqrt() }
    };
    let point = (b - c) / n;
    // The score falls as d grows: from the point outwards it reaches ∓z once.
    let edge = |end: f64| {
        let (mut inside, mut outside) = (point, end);
        for _ in 0..200 {
            let middle = (inside + outside) / 2.0;
            if score(middle).abs() <= z {
                inside = middle;
            } else {
                outside = middle;
            }
        }
        inside
    };
    (edge(-1.0), edge(1.0))
}

/// Mean of paired differences and half the width of its one-sided interval at `confidence` to each side: Student's t times
/// sd/√n. Infinite for a single pair, which shows no spread.
pub fn paired_mean(differences: &[f64], confidence: f64) -> (f64, f64) {
    let n = differences.len();
    let mean = differences.iter().sum::<f64>() / n as f64;
    if n < 2 {
        return (mean, f64::INFINITY);
    }
    let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
    let se = (squares / (n - 1) as f64 / n as f64).sqrt();
    (mean, t_quantile(confidence, n - 1) * se)
}

/// Cases per arm that certify a margin between two shares where both are `rate`, with this one-sided confidence and power.
/// A power of ½ is what equal observed rates take.
pub fn cases_per_arm(rate: f64, margin: f64, confidence: f64, power: f64) -> f64 {
    let z = z_quantile(confidence) + z_quantile(power);
    (z * z * 2.0 * rate * (1.0 - rate) / (margin * margin)).ceil()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_printed_tables() {
        // scipy.stats.norm.ppf
        for (p, z) in [(0.5, 0.0), (0.8, 0.841_621_233_572_914_3), (0.95, 1.644_853_626_951_472_2)] {
            assert!((z_quantile(p) - z).abs() < 1e-12, "{p}: {}", z_quantile(p));
        }
        assert!((z_quantile(0.999) - 3.090_232_306_167_813).abs() < 1e-10);
        // Student's t, any textbook's table.
        for (p, df, t) in [
            (0.95, 1, 6.314),
            (0.95, 2, 2.920),
            (0.95, 3, 2.353),
            (0.95, 4, 2.132),
            (0.95, 9, 1.833),
            (0.975, 10, 2.228),
            (0.99, 29, 2.462),
            (0.95, 120, 1.658),
        ] {
            assert!((t_quantile(p, df) - t).abs() < 6e-4, "{p} {df}: {}", t_quantile(p, df));
        }
        assert_eq!(t_quantile(0.95, 0), f64::INFINITY);
    }

    #[test]
    fn intervals_of_differences_are_those_of_newcombe_1998() {
        // Pairs of his Table II; statsmodels 0.15, confint_proportions_2indep(…, method="newcomb").
        for (first, second, low, high) in [
            ((56.0, 70.0), (48.0, 80.0), 0.0524314724, 0.3338726540),
            ((9.0, 10.0), (3.0, 10.0), 0.1705227239, 0.8090179735),
            ((6.0, 7.0), (2.0, 7.0), 0.0582279275, 0.8062496375),
            ((5.0, 56.0), (0.0, 29.0), -0.0381371479, 0.1925600139),
            ((0.0, 10.0), (0.0, 20.0), -0.1611251581, 0.2775327999),
            ((0.0, 10.0), (0.0, 10.0), -0.2775327999, 0.2775327999),
            ((10.0, 10.0), (0.0, 20.0), 0.6790860371, 1.0000000000),
        ] {
            let (l, h) = newcombe(first, second, z_quantile(0.975));
            assert!((l - low).abs() < 1e-9 && (h - high).abs() < 1e-9, "{first:?} {second:?}: {l} {h}");
        }
    }

    #[test]
    fn intervals_of_paired_differences_are_those_of_the_literature() {
        // (1, 7 of 21): Fagerland, Lydersen & Laake, Statistics in Medicine 33, 2014, 2850: −0.517 to −0.026. All: scipy 1.17,
        // the likelihood of the multinomial maximised numerically under the difference, and the score solved for ±z.
        for (b, c, n, low, high) in [
            (1.0, 7.0, 21.0, -0.517232277, -0.026003032),
            (12.0, 2.0, 50.0, 0.061112407, 0.344708747),
            (40.0, 20.0, 160.0, 0.030864532, 0.218064244),
            (0.0, 0.0, 300.0, -0.012642971, 0.012642971),
            (3.0, 0.0, 200.0, -0.004128006, 0.043165729),
            (0.0, 5.0, 40.0, -0.261121204, -0.026425697),
            (9.0, 9.0, 100.0, -0.088210062, 0.088210062),
        ] {
            let (l, h) = tango(b, c, n, z_quantile(0.975));
            assert!((l - low).abs() < 1e-7 && (h - high).abs() < 1e-7, "{b} {c} {n}: {l} {h}");
        }
        // Cavo et al. 2012 as `contingencytables` (R) prints it, to four digits.
        let (low, high) = tango(6.0, 16.0, 161.0, z_quantile(0.975));
        assert!((low + 0.1240).abs() < 6e-5 && (high + 0.0054).abs() < 6e-5, "{low} {high}");
        let (low, high) = tango(3.0, 0.0, 3.0, 1.6449);
        assert!(low > -0.1 && high > 0.999, "all of three: {low} {high}");
    }

    #[test]
    fn a_paired_policy_at_the_margin_passes_one_time_in_twenty() {
        // Only the candidate wrong with probability q + margin, only the baseline with q: every outcome summed.
        for (n, q, margin) in [(300, 0.02, 0.03), (600, 0.01, 0.01)] {
            let z = z_quantile(0.95);
            let mut sum = 0.0;
            // Of b + c unlike pairs, binomial shares.
            for (m, p) in binomial(n, 2.0 * q + margin).iter().enumerate().filter(|(_, p)| **p > 1e-9) {
                for (b, share) in binomial(m, (q + margin) / (2.0 * q + margin)).iter().enumerate() {
                    if tango(b as f64, (m - b) as f64, n as f64, z).1 < margin {
                        sum += p * share;
                    }
                }
            }
            assert!((0.02..0.065).contains(&sum), "{n} {q} {margin}: {sum}");
        }
    }

    #[test]
    fn a_point_at_a_base_rate_of_two_percent_takes_a_thousand_per_arm() {
        // 1.6449² · 2 · 0.02 · 0.98 / 0.01²
        assert_eq!(cases_per_arm(0.02, 0.01, 0.95, 0.5), 1061.0);
        // (1.6449 + 1.2816)² · 2 · 0.85 · 0.15 / 0.1² = 218.4
        assert_eq!(cases_per_arm(0.85, 0.10, 0.95, 0.9), 219.0);
    }

    /// Probability of each count of 0..=n hits.
    fn binomial(n: usize, p: f64) -> Vec<f64> {
        let mut out = vec![(1.0 - p).powi(n as i32)];
        for k in 0..n {
            out.push(out[k] * (n - k) as f64 / (k + 1) as f64 * p / (1.0 - p));
        }
        out
    }

    /// How often two arms of n are found to keep the margin, summed over every outcome.
    fn passes(n: usize, candidate: f64, baseline: f64, margin: f64) -> f64 {
        let (c, b) = (binomial(n, candidate), binomial(n, baseline));
        let z = z_quantile(0.95);
        let mut sum = 0.0;
        for (i, p) in c.iter().enumerate().filter(|(_, p)| **p > 1e-9) {
            for (k, q) in b.iter().enumerate().filter(|(_, q)| **q > 1e-9) {
                if newcombe((i as f64, n as f64), (k as f64, n as f64), z).1 < margin {
                    sum += p * q;
                }
            }
        }
        sum
    }

    #[test]
    fn a_policy_at_the_margin_passes_one_time_in_twenty_and_the_count_has_its_power() {
        for (n, baseline, margin) in [(300, 0.02, 0.03), (1061, 0.02, 0.01), (200, 0.3, 0.1)] {
            let wrong = passes(n, baseline + margin, baseline, margin);
            assert!((0.02..0.06).contains(&wrong), "{n} {baseline} {margin}: {wrong}");
        }
        for (power, low, high) in [(0.5, 0.42, 0.58), (0.8, 0.74, 0.86)] {
            let n = cases_per_arm(0.02, 0.01, 0.95, power) as usize;
            let found = passes(n, 0.02, 0.02, 0.01);
            assert!((low..high).contains(&found), "{n}: {found}");
        }
        // Too few cases certify nothing, even where nothing happened in either arm.
        assert_eq!(passes(100, 0.0, 0.0, 0.01), 0.0);
    }
}
