//! Soft caps: z ↦ c·tanh(z / c), which keeps scores or logits within ±c (Gemma 2, section 2).

use crate::simd::exp;

/// tanh(x) through the vectorisable exponential.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0)
}

/// cap·tanh(z / cap).
#[inline(always)]
pub(crate) fn capped<const FMA: bool>(z: f32, cap: f32) -> f32 {
    cap * tanh::<FMA>(z / cap)
}

simd_fn! {
    /// z ↦ cap·tanh(scale·z / cap), in place.
    pub(crate) fn cap_in_place(z: &mut [f32], scale: f32, cap: f32) {
        for z in z.iter_mut() {
            *z = capped::<FMA>(*z * scale, cap);
        }
    }
}

simd_fn! {
    /// The derivative 1 − (y / cap)² at capped values y.
    pub(crate) fn slopes(y: &[f32], cap: f32, out: &mut [f32]) {
        for (s, y) in out.iter_mut().zip(y) {
            let t = *y / cap;
            *s = crate::simd::fma::<FMA>(-t, t, 1.0);
        }
    }
}

simd_fn! {
    /// y ⊙= x.
    pub(crate) fn multiply(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y *= *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_and_its_slope_match_f64() {
        for (z, cap) in [(-80.0f32, 30.0f32), (-0.3, 30.0), (0.0, 5.0), (7.5, 5.0), (200.0, 50.0)] {
            let mut y = [z];
            cap_in_place(&mut y, 1.0, cap);
            let want = f64::from(cap) * (f64::from(z) / f64::from(cap)).tanh();
            assert!((f64::from(y[0]) - want).abs() < 2e-7 * f64::from(cap), "{z} capped at {cap}: {}", y[0]);
            let mut s = [0.0];
            slopes(&y, cap, &mut s);
            let slope = 1.0 / (f64::from(z) / f64::from(cap)).cosh().powi(2);
            assert!((f64::from(s[0]) - slope).abs() < 1e-6, "slope at {z}: {} vs {slope}", s[0]);
        }
    }
}
