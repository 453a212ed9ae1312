//! Mean with standard error and 95 % interval, clustered by prompt.
//!
//! With responses `x_i` in `G` prompts (clusters) and mean `m` over all `n` responses,
//! `se² = G/(G−1) · Σ_g (Σ_{i∈g} (x_i − m))² / n²` (Liang & Zeger 1986, intercept-only model). One
//! response per prompt gives the usual `sd²/n`; several samples of a prompt are not counted as
//! independent. The interval is `m ± t_{0.975, G−1} · se`. Units are those of the data.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A mean and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Number of values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Standard deviation of the values (n − 1 in the denominator); 0 for one value.
    pub sd: f64,
    /// Standard error of the mean, clustered by prompt. `None` where there is only one prompt.
    pub se: Option<f64>,
    /// 95 % confidence interval of the mean. `None` where there is only one prompt.
    pub ci: Option<(f64, f64)>,
}

impl Estimate {
    /// From values that are independent of each other. `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let each: Vec<(u64, f64)> = values.iter().enumerate().map(|(i, &x)| (i as u64, x)).collect();
        Self::clustered(&each)
    }

    /// From (prompt id, value) pairs. `None` if there are none.
    pub fn clustered(values: &[(u64, f64)]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().map(|v| v.1).sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v.1 - mean).powi(2)).sum();
        let sd = if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        let mut sums: BTreeMap<u64, f64> = BTreeMap::new();
        for &(prompt, x) in values {
            *sums.entry(prompt).or_default() += x - mean;
        }
        let g = sums.len();
        let se = (g > 1).then(|| {
            let between: f64 = sums.values().map(|s| s * s).sum();
            (g as f64 / (g as f64 - 1.0) * between).sqrt() / n
        });
        let ci = se.map(|se| {
            let half = t_975(g - 1) * se;
            (mean - half, mean + half)
        });
        Some(Self { n: values.len(), mean, sd, se, ci })
    }
}

/// The 97.5 % quantile of Student's t with `df ≥ 1` degrees of freedom.
///
/// Tabulated for 1 to 3, else the Cornish–Fisher expansion about the normal quantile (Abramowitz & Stegun
/// 26.7.5, four terms), within 1e-3 from 4 on.
pub fn t_975(df: usize) -> f64 {
    const Z: f64 = 1.959_963_984_540_054;
    match df {
        0 => f64::INFINITY,
        1 => 12.706_204_736,
        2 => 4.302_652_730,
        3 => 3.182_446_305,
        _ => {
            let v = df as f64;
            let (z3, z5, z7, z9) = (Z.powi(3), Z.powi(5), Z.powi(7), Z.powi(9));
            Z + (z3 + Z) / (4.0 * v)
                + (5.0 * z5 + 16.0 * z3 + 3.0 * Z) / (96.0 * v.powi(2))
                + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * Z) / (384.0 * v.powi(3))
                + (79.0 * z9 + 776.0 * z7 + 1482.0 * z5 - 1920.0 * z3 - 945.0 * Z) / (92160.0 * v.powi(4))
        }
    }
}

/// The `q`-quantile (0..=1) of `values`, linear between order statistics (type 7). `None` if empty.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(low + (high - low) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_values() {
        // 2, 4, 4, 4, 5, 5, 7, 9: mean 5, Σ(x−5)² = 32.
        let e = Estimate::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!((e.n, e.mean), (8, 5.0));
        assert!((e.sd - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert!((e.se.unwrap() - (32.0f64 / 56.0).sqrt()).abs() < 1e-12);
        // t_{0.975, 7} = 2.36462 from the printed table.
        let (low, high) = e.ci.unwrap();
        assert!((low - (5.0 - 2.36462 * 0.755_928_9)).abs() < 1e-3 && (high + low - 10.0).abs() < 1e-12);
    }

    #[test]
    fn copies_of_a_prompt_add_no_evidence() {
        let once = Estimate::clustered(&[(1, 0.0), (2, 1.0), (3, 5.0)]).unwrap();
        let twice: Vec<_> = [(1, 0.0), (2, 1.0), (3, 5.0)].into_iter().flat_map(|v| [v, v]).collect();
        let twice = Estimate::clustered(&twice).unwrap();
        assert!((once.se.unwrap() - twice.se.unwrap()).abs() < 1e-12);
        assert!((once.ci.unwrap().0 - twice.ci.unwrap().0).abs() < 1e-12);
    }

    #[test]
    fn one_prompt_has_no_interval() {
        let e = Estimate::of(&[3.0]).unwrap();
        assert_eq!((e.mean, e.sd, e.se, e.ci), (3.0, 0.0, None, None));
        assert!(Estimate::of(&[]).is_none());
    }

    #[test]
    fn t_quantiles_agree_with_the_printed_table() {
        for (df, want) in
            [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (29, 2.0452), (120, 1.9799)]
        {
            assert!((t_975(df) - want).abs() < 1e-3, "df {df}: {} for {want}", t_975(df));
        }
    }

    #[test]
    fn quantiles_are_linear_between_values() {
        let v = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&v, 0.5), Some(2.5));
        assert_eq!(quantile(&v, 1.0), Some(4.0));
        assert!((quantile(&v, 0.95).unwrap() - 3.85).abs() < 1e-12);
        assert_eq!(quantile(&[], 0.5), None);
    }
}
