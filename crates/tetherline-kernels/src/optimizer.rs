//! What an optimizer does with every number.

/// The numbers of one step of AdamW that are the same for every parameter (`tetherline_models::optim` has the formula).
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// What of a parameter stays: 1 − lr·wd.
    pub keep: f32,
    /// By which a gradient is multiplied first: clipping.
    pub factor: f32,
    /// 1 − β₁.
    pub rest1: f32,
    /// β₂.
    pub beta2: f32,
    /// 1 − β₂.
    pub rest2: f32,
    /// lr / (1 − β₁ᵗ).
    pub step_size: f32,
    /// √(1 − β₂ᵗ).
    pub root_correction: f32,
    /// Added to the denominator.
    pub eps: f32,
}

simd_fn! {
    /// A step of AdamW over as many parameters as all four have. No number depends on another, and none is fused, so every
    /// CPU gives the same bits.
    pub fn adamw(params: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32], step: AdamWStep) {
        let AdamWStep { keep, factor, rest1, beta2, rest2, step_size, root_correction, eps } = step;
        for (((p, &g), m), v) in params.iter_mut().zip(grads).zip(m).zip(v) {
            let g = g * factor;
            *m += (g - *m) * rest1;
            *v = *v * beta2 + rest2 * g * g;
            *p = *p * keep - step_size * (*m / (v.sqrt() / root_correction + eps));
        }
    }
}

/// Partial sums of [`sum_of_squares`]: a single one would wait for each addition.
const SUMS: usize = 32;

simd_fn! {
    /// Σ x² in f64: partial sums over places mod 32, added up in order.
    pub fn sum_of_squares(x: &[f32]) -> f64 {
        let mut sums = [0.0f64; SUMS];
        let (whole, rest) = x.as_chunks::<SUMS>();
        for x in whole {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(x) * f64::from(x);
        }
        sums.iter().sum::<f64>()
    }
}
