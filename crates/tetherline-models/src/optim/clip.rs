//! Gradient clipping by global norm, as `torch.nn.utils.clip_grad_norm_`.
//!
//! ```text
//! norm = √(Σ g²)        g ← g · min(1, max / (norm + 1e-6))
//! ```
//!
//! The sum is taken in f64, over blocks of a fixed size that are added up in order. The optimizer multiplies by the factor as
//! it reads a gradient ([`super::AdamW::step`]).

use tetherline_kernels::{on_threads, sum_of_squares, worth};

/// Numbers of a block.
const BLOCK: usize = 1 << 15;

/// L2 norm, on at most `threads` threads: their count does not show in the bits.
pub fn grad_norm(grads: &[f32], threads: usize) -> f64 {
    let mut sums = vec![0.0; grads.len().div_ceil(BLOCK)];
    let each = sums.len().div_ceil(worth(threads, grads.len())).max(1);
    on_threads(sums.chunks_mut(each).zip(grads.chunks(each * BLOCK)), |(sums, grads)| {
        for (sum, block) in sums.iter_mut().zip(grads.chunks(BLOCK)) {
            *sum = sum_of_squares(block);
        }
    });
    sums.iter().sum::<f64>().sqrt()
}

/// By what gradients of norm `norm` are multiplied so that it is at most `max`: min(1, max / (norm + 1e-6)), and 1 where the norm is
/// not finite, on which nobody must step.
pub fn clip_factor(norm: f64, max: f64) -> f32 {
    let factor = max / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 { factor as f32 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_gradients_are_shortened_and_short_ones_kept() {
        assert_eq!(grad_norm(&[3.0, -4.0], 1), 5.0);
        assert!((5.0 * clip_factor(5.0, 1.0) - 1.0).abs() < 1e-6);
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!((grad_norm(&[], 4), clip_factor(0.0, 1.0)), (0.0, 1.0));
        assert_eq!(clip_factor(1e30, f64::INFINITY), 1.0);
    }

    /// A square of 1e-30 underflows in f32, and 2²⁴ + 1 is lost there.
    #[test]
    fn the_sum_is_f64() {
        assert!((grad_norm(&[1e-30, 0.0], 1) - 1e-30).abs() < 1e-37);
        let mut g = vec![1.0f32; 1000];
        g[0] = 4096.0;
        assert!((grad_norm(&g, 1) - (4096.0f64 * 4096.0 + 999.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn threads_do_not_show_in_the_bits() {
        for n in [0, 1, BLOCK, 50 * BLOCK + 7] {
            let grads: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let expected = grads.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let one = grad_norm(&grads, 1);
            assert!((one - expected).abs() <= 1e-11 * expected, "{n}: {one} {expected}");
            for threads in [2, 3, 64] {
                assert_eq!(grad_norm(&grads, threads).to_bits(), one.to_bits(), "{n}, {threads} threads");
            }
        }
    }

    #[test]
    fn a_norm_that_is_not_finite_changes_nothing() {
        let norm = grad_norm(&[1.0, f32::NAN, 9.0], 1);
        assert!(norm.is_nan());
        assert_eq!((clip_factor(norm, 1.0), clip_factor(f64::INFINITY, 1.0)), (1.0, 1.0));
    }
}
