//! Gradient clipping by global norm, as `torch.nn.utils.clip_grad_norm_`.
//!
//! ```text
//! norm = √(Σ g²)        g ← g · min(1, max / (norm + 1e-6))
//! ```
//!
//! The sum is taken in f64, over 16 partial sums (place mod 16) that are added up in order: a single one would wait for
//! each addition.

/// L2 norm.
pub fn grad_norm(grads: &[f32]) -> f64 {
    let mut sums = [0.0f64; 16];
    let (whole, rest) = grads.as_chunks::<16>();
    for g in whole {
        for (sum, &g) in sums.iter_mut().zip(g) {
            *sum += f64::from(g) * f64::from(g);
        }
    }
    for (sum, &g) in sums.iter_mut().zip(rest) {
        *sum += f64::from(g) * f64::from(g);
    }
    sums.iter().sum::<f64>().sqrt()
}

/// Scales `grads` down to norm `max` and returns the norm they had.
///
/// Where the norm is not finite the gradients stay as they are: the caller must not step on them.
pub fn clip_grad_norm(grads: &mut [f32], max: f64) -> f64 {
    let norm = grad_norm(grads);
    let scale = max / (norm + 1e-6);
    if norm.is_finite() && scale < 1.0 {
        let scale = scale as f32;
        grads.iter_mut().for_each(|g| *g *= scale);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_gradients_are_shortened_and_short_ones_kept() {
        let mut g = [3.0f32, -4.0];
        assert_eq!(clip_grad_norm(&mut g, 1.0), 5.0);
        assert!((g[0] - 0.6).abs() < 1e-6 && (g[1] + 0.8).abs() < 1e-6, "{g:?}");
        let mut g = [0.3f32, -0.4];
        assert!((clip_grad_norm(&mut g, 1.0) - 0.5).abs() < 1e-7);
        assert_eq!(g, [0.3, -0.4]);
        assert_eq!(clip_grad_norm(&mut [], 1.0), 0.0);
    }

    /// A square of 1e-30 underflows in f32, and 2²⁴ + 1 is lost there.
    #[test]
    fn the_sum_is_f64() {
        assert!((grad_norm(&[1e-30, 0.0]) - 1e-30).abs() < 1e-37);
        let mut g = vec![1.0f32; 1000];
        g[0] = 4096.0;
        assert!((grad_norm(&g) - (4096.0f64 * 4096.0 + 999.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn a_nan_is_reported_and_touches_nothing() {
        let mut g = [1.0f32, f32::NAN, 9.0];
        assert!(clip_grad_norm(&mut g, 1.0).is_nan());
        assert_eq!((g[0], g[2]), (1.0, 9.0));
    }
}
