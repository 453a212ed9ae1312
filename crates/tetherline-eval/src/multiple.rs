//! Several hypotheses at once: Holm's step-down correction.
//!
//! With p₍₁₎ ≤ … ≤ p₍ₘ₎ the adjusted p₍ᵢ₎ = max_{j ≤ i} min(1, (m − j + 1)·p₍ⱼ₎) (Holm 1979, *Scand. J. Stat.* 6, 65–70).
//! Rejecting where it is ≤ α keeps the probability of any false rejection ≤ α, however the p-values depend on each other.
//! Of always-valid p-values it does so at any stopping time.

/// Holm's adjusted p-values, in the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut out = vec![1.0; p.len()];
    let mut worst = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        worst = worst.max((p.len() - rank) as f64 * p[i]).min(1.0);
        out[i] = worst;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_r_adjusts() {
        // R 4: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") = 0.03 0.06 0.06 0.02
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (got, want) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((got - want).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
