//! Figures of merit of a simulated run.

use super::Trace;

/// Figures of one domain of one run. KL is the plant's true KL.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Largest KL above the target, percent of it.
    pub overshoot: f64,
    /// First update after which the 25-update moving median stays within ±10 % of the target; `None` where
    /// it never does.
    pub settled: Option<u64>,
    /// Share of the updates in the second half within ±10 %, percent.
    pub in_band: f64,
    /// Mean KL in the second half against the target, percent.
    pub bias: f64,
    /// Last β.
    pub beta: f64,
}

/// Figures of domain `k` against `target`, over the updates from `from` on.
#[must_use]
pub fn summarise(trace: &Trace, k: usize, target: f64, from: usize) -> Summary {
    let kl: Vec<f64> = trace.kl.iter().skip(from).map(|row| row[k]).collect();
    let inside = |kl: f64| (kl / target - 1.0).abs() <= 0.1;
    let peak = kl.iter().copied().fold(0.0, f64::max);
    let half = &kl[kl.len() / 2..];
    let count = half.len().max(1) as f64;
    let medians: Vec<f64> = kl.windows(25).map(|w| median(w.iter().copied())).collect();
    let settled = match medians.iter().rposition(|m| !inside(*m)) {
        None => Some(0),
        Some(last) if last + 1 < medians.len() => Some(last as u64 + 1),
        Some(_) => None,
    };
    Summary {
        overshoot: 100.0 * (peak / target - 1.0).max(0.0),
        settled,
        in_band: 100.0 * half.iter().filter(|kl| inside(**kl)).count() as f64 / count,
        bias: 100.0 * (half.iter().sum::<f64>() / count / target - 1.0),
        beta: trace.beta.last().map_or(f64::NAN, |b| b[k]),
    }
}

/// The median; NaN of nothing.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut v: Vec<f64> = values.into_iter().collect();
    v.sort_unstable_by(f64::total_cmp);
    match v.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => v[n / 2],
        n => 0.5 * (v[n / 2 - 1] + v[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(kl: impl IntoIterator<Item = f64>) -> Trace {
        let kl: Vec<_> = kl.into_iter().map(|k| vec![k]).collect();
        Trace { beta: vec![vec![0.5]; kl.len()], kl, ..Trace::default() }
    }

    #[test]
    fn figures_of_a_made_up_run() {
        // 50 updates of charging at 1, one peak of 9, then on target 6.
        let t = trace((0..50).map(|_| 1.0).chain([9.0]).chain((0..149).map(|_| 6.0)));
        let s = summarise(&t, 0, 6.0, 0);
        assert!((s.overshoot - 50.0).abs() < 1e-9);
        assert_eq!((s.in_band, s.beta), (100.0, 0.5));
        assert!(s.bias.abs() < 1e-9);
        // The window centred on the change has 13 of 25 at or above 6 when it starts at 50 − 12.
        assert_eq!(s.settled, Some(38));
        assert_eq!(summarise(&trace((0..100).map(|_| 9.0)), 0, 6.0, 0).settled, None);
    }

    #[test]
    fn medians() {
        assert_eq!((median([3.0, 1.0, 2.0]), median([4.0, 1.0])), (2.0, 2.5));
        assert!(median([]).is_nan());
    }
}
