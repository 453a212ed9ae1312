//! Paired bootstrap over prompts: the interval of a change between two policies.
//!
//! Prompts, not responses, are drawn with replacement (Efron & Tibshirani 1993, chapter 8; Koehn 2004),
//! since two policies answer the same prompts and a prompt's difficulty is common to both. The interval
//! is the 2.5 % and 97.5 % percentile of the resampled means. Units are those of the data.

use crate::estimate::quantile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tetherline_core::seeds::{Purpose, stream};

/// Resamples that [`crate::Comparison`] uses.
pub const RESAMPLES: u32 = 10_000;

/// A change, aligned minus baseline, and its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Mean change.
    pub mean: f64,
    /// 95 % interval; `None` where one prompt says too little.
    pub ci: Option<(f64, f64)>,
}

impl Change {
    /// The interval lies above 0 (`Greater`), below (`Less`), or does not tell (`Equal`).
    pub fn direction(&self) -> std::cmp::Ordering {
        match self.ci {
            Some((low, _)) if low > 0.0 => std::cmp::Ordering::Greater,
            Some((_, high)) if high < 0.0 => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Equal,
        }
    }
}

/// The mean of per-prompt `differences` with its bootstrap interval. `None` if there are none.
///
/// The draws come from the stream (seed, bootstrap, 0, `name`, 0): give every quantity its own `name`.
pub fn paired_bootstrap(differences: &[f64], resamples: u32, seed: u64, name: u64) -> Option<Change> {
    let n = differences.len();
    if n == 0 {
        return None;
    }
    let mean = differences.iter().sum::<f64>() / n as f64;
    if n == 1 || resamples == 0 {
        return Some(Change { mean, ci: None });
    }
    let mut random = stream(seed, Purpose::Bootstrap, 0, name, 0);
    let means: Vec<f64> = (0..resamples)
        .map(|_| (0..n).map(|_| differences[random.below(n)]).sum::<f64>() / n as f64)
        .collect();
    Some(Change { mean, ci: quantile(&means, 0.025).zip(quantile(&means, 0.975)) })
}

/// The same interval for any statistic: `of` is given the prompts drawn, by index below `n`, and says nothing of draws on
/// which the statistic is not defined. `None` with fewer than two prompts.
pub fn bootstrap_of(
    n: usize,
    resamples: u32,
    seed: u64,
    name: u64,
    of: impl Fn(&[usize]) -> Option<f64>,
) -> Option<(f64, f64)> {
    if n < 2 {
        return None;
    }
    let mut random = stream(seed, Purpose::Bootstrap, 0, name, 0);
    let mut drawn = vec![0; n];
    let values: Vec<f64> = (0..resamples)
        .filter_map(|_| {
            drawn.iter_mut().for_each(|i| *i = random.below(n));
            of(&drawn)
        })
        .collect();
    quantile(&values, 0.025).zip(quantile(&values, 0.975))
}

/// A ratio of two sums and its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Σ numerators / Σ denominators.
    pub mean: f64,
    /// 95 % interval; `None` where one cluster says too little.
    pub ci: Option<(f64, f64)>,
}

/// Σx / Σn of (cluster, (x, n)) with the percentile interval of resampled *clusters* (prompts), so that several samples
/// of one prompt are not counted as independent. n = 1 gives a mean per response, n = tokens one per token. `None` if
/// there are none or Σn is 0. The draws come from the stream (seed, bootstrap, 0, `name`, 0).
pub fn clustered_ratio(values: &[(u64, (f64, f64))], resamples: u32, seed: u64, name: u64) -> Option<Ratio> {
    let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for (cluster, (x, n)) in values {
        let sum = sums.entry(*cluster).or_default();
        *sum = (sum.0 + x, sum.1 + n);
    }
    let clusters: Vec<(f64, f64)> = sums.into_values().collect();
    let ratio = |draw: &mut dyn FnMut(usize) -> usize| {
        let add = |sum: (f64, f64), (x, n): (f64, f64)| (sum.0 + x, sum.1 + n);
        let (x, n) = (0..clusters.len()).map(|i| clusters[draw(i)]).fold((0.0, 0.0), add);
        (n > 0.0).then_some(x / n)
    };
    let mean = ratio(&mut |i| i)?;
    if clusters.len() < 2 || resamples == 0 {
        return Some(Ratio { mean, ci: None });
    }
    let mut random = stream(seed, Purpose::Bootstrap, 0, name, 0);
    let draws: Vec<f64> =
        (0..resamples).filter_map(|_| ratio(&mut |_| random.below(clusters.len()))).collect();
    Some(Ratio { mean, ci: quantile(&draws, 0.025).zip(quantile(&draws, 0.975)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_covers_like_the_delta_method() {
        // Var(Σx/Σn) ≈ Σ(x − r·n)² / (Σn)² over clusters (Cochran 1977, equation 6.13).
        let mut r = stream(4, Purpose::World, 0, 0, 0);
        let rows: Vec<(u64, (f64, f64))> = (0..300)
            .map(|i| {
                let n = 5.0 + 10.0 * r.uniform();
                (i, (n * (0.2 + 0.05 * r.normal()), n))
            })
            .collect();
        let (x, n) = rows.iter().fold((0.0, 0.0), |s, r| (s.0 + r.1.0, s.1 + r.1.1));
        let se = rows.iter().map(|r| (r.1.0 - x / n * r.1.1).powi(2)).sum::<f64>().sqrt() / n;
        let found = clustered_ratio(&rows, RESAMPLES, 1, 7).unwrap();
        let (low, high) = found.ci.unwrap();
        assert!((found.mean - x / n).abs() < 1e-12);
        assert!(
            (low - (x / n - 1.96 * se)).abs() < 0.1 * se && (high - (x / n + 1.96 * se)).abs() < 0.1 * se
        );
        // The same rows, each prompt twice, say no more than once.
        let twice: Vec<_> = rows.iter().flat_map(|r| [*r, *r]).collect();
        assert_eq!(clustered_ratio(&twice, 500, 1, 7), clustered_ratio(&rows, 500, 1, 7));
        assert_eq!(clustered_ratio(&rows[..1], 500, 1, 7).unwrap().ci, None);
        assert_eq!(clustered_ratio(&[], 500, 1, 7), None);
    }

    #[test]
    fn covers_like_the_normal_interval_on_normal_data() {
        // The bootstrap of a mean has variance Σ(x−m)²/n², so its interval is m ± 1.96·that, nearly.
        let mut r = stream(3, Purpose::World, 0, 0, 0);
        let x: Vec<f64> = (0..400).map(|_| 1.0 + r.normal()).collect();
        let c = paired_bootstrap(&x, RESAMPLES, 5, 0).unwrap();
        let m = x.iter().sum::<f64>() / 400.0;
        let se = (x.iter().map(|v| (v - m).powi(2)).sum::<f64>()).sqrt() / 400.0;
        let (low, high) = c.ci.unwrap();
        assert!((low - (m - 1.96 * se)).abs() < 0.1 * se, "{low} {}", m - 1.96 * se);
        assert!((high - (m + 1.96 * se)).abs() < 0.1 * se);
        assert_eq!(c.direction(), std::cmp::Ordering::Greater);
    }

    #[test]
    fn of_a_mean_it_is_the_paired_interval() {
        let x = [0.0, 1.0, 5.0, -2.0, 0.3];
        let mean = |drawn: &[usize]| Some(drawn.iter().map(|&i| x[i]).sum::<f64>() / drawn.len() as f64);
        assert_eq!(bootstrap_of(5, 300, 1, 2, mean), paired_bootstrap(&x, 300, 1, 2).unwrap().ci);
        assert_eq!(bootstrap_of(1, 300, 1, 2, mean), None);
    }

    #[test]
    fn the_seed_and_the_name_decide_the_draws() {
        let x = [0.0, 1.0, 5.0, -2.0, 0.3];
        let at = |seed, name| paired_bootstrap(&x, 200, seed, name).unwrap();
        assert_eq!(at(1, 2), at(1, 2));
        assert_ne!(at(1, 2), at(2, 2));
        assert_ne!(at(1, 2), at(1, 3));
        assert_eq!(paired_bootstrap(&[2.0], 200, 1, 1), Some(Change { mean: 2.0, ci: None }));
        assert_eq!(paired_bootstrap(&[], 200, 1, 1), None);
    }
}
