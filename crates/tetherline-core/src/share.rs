//! Wilson's interval of a share.

/// Wilson (1927), 95 %: `(p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)`, z = 1.96, for `hits` (which need not be
/// whole) of `n` cases. It stays inside 0..=1 and has width where the share is 0 or 1. None for no cases.
pub fn wilson(hits: f64, n: usize) -> Option<(f64, f64)> {
    const Z2: f64 = 1.959_963_984_540_054 * 1.959_963_984_540_054;
    if n == 0 {
        return None;
    }
    let m = n as f64;
    let p = hits / m;
    let centre = p + Z2 / (2.0 * m);
    let half = (Z2 * (p * (1.0 - p) / m + Z2 / (4.0 * m * m))).sqrt();
    let scale = 1.0 + Z2 / m;
    Some((((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0)))
}

#[cfg(test)]
mod tests {
    use super::wilson;

    /// statsmodels' `proportion_confint(1, 10, method="wilson")`, and the closed forms at 0 and all.
    #[test]
    fn known_values() {
        let (low, high) = wilson(1.0, 10).unwrap();
        assert!((low - 0.017_876_21).abs() < 1e-6 && (high - 0.404_150_03).abs() < 1e-6, "{low} {high}");
        let z2 = 1.959_963_984_540_054f64.powi(2);
        let (low, high) = wilson(0.0, 5).unwrap();
        assert!(low == 0.0 && (high - z2 / (5.0 + z2)).abs() < 1e-12);
        assert_eq!(wilson(0.0, 0), None);
    }
}
