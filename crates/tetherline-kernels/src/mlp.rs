//! Non-linearities of the feed-forward block, forward and backward.

use crate::cap::tanh;
use crate::simd::{exp, fma};
use crate::spec::Activation;

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

const GELU_A: f32 = 0.797_884_6; // √(2/π)
const GELU_B: f32 = 0.044_715;

/// Φ(x), the normal distribution function, through erfc with a relative error below 1.2e-7 (Press et al.,
/// Numerical Recipes, 2nd ed., section 6.2).
#[inline(always)]
fn normal_cdf<const FMA: bool>(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / fma::<FMA>(0.5, z, 1.0);
    let mut p = 0.170_872_77;
    for c in [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = fma::<FMA>(p, t, c);
    }
    let upper = 0.5 * t * exp::<FMA>(fma::<FMA>(-z, z, p)); // Φ(−|x|)
    if x < 0.0 { upper } else { 1.0 - upper }
}

/// The normal density.
#[inline(always)]
fn normal_pdf<const FMA: bool>(x: f32) -> f32 {
    0.398_942_3 * exp::<FMA>(-0.5 * x * x)
}

simd_fn! {
    fn silu_gated(gate: &[f32], up: &[f32], y: &mut [f32]) {
        let n = y.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            y[i] = gate[i] * sigmoid::<FMA>(gate[i]) * up[i];
        }
    }
}

simd_fn! {
    fn gelu_gated(gate: &[f32], up: &[f32], y: &mut [f32]) {
        let n = y.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            let x = gate[i];
            y[i] = 0.5 * x * (1.0 + tanh::<FMA>(GELU_A * (x + GELU_B * x * x * x))) * up[i];
        }
    }
}

simd_fn! {
    /// Replaces (gate, up) by their gradients.
    fn silu_gated_backward(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        let n = dy.len();
        let (gate, up) = (&mut gate[..n], &mut up[..n]);
        for i in 0..n {
            let (g, u, d) = (gate[i], up[i], dy[i]);
            let s = sigmoid::<FMA>(g);
            gate[i] = d * u * s * (1.0 + g * (1.0 - s));
            up[i] = d * g * s;
        }
    }
}

simd_fn! {
    /// Replaces (gate, up) by their gradients.
    fn gelu_gated_backward(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        let n = dy.len();
        let (gate, up) = (&mut gate[..n], &mut up[..n]);
        for i in 0..n {
            let (x, u, d) = (gate[i], up[i], dy[i]);
            let t = tanh::<FMA>(GELU_A * (x + GELU_B * x * x * x));
            let dt = (1.0 - t * t) * GELU_A * (1.0 + 3.0 * GELU_B * x * x);
            gate[i] = d * u * (0.5 * (1.0 + t) + 0.5 * x * dt);
            up[i] = d * 0.5 * x * (1.0 + t);
        }
    }
}

simd_fn! {
    fn silu_plain(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x * sigmoid::<FMA>(*x);
        }
    }
}

simd_fn! {
    fn gelu_plain(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = 0.5 * x * (1.0 + tanh::<FMA>(GELU_A * (x + GELU_B * x * x * x)));
        }
    }
}

simd_fn! {
    fn silu_plain_backward(x: &mut [f32], dy: &[f32]) {
        for (x, d) in x.iter_mut().zip(dy) {
            let s = sigmoid::<FMA>(*x);
            *x = d * s * (1.0 + *x * (1.0 - s));
        }
    }
}

simd_fn! {
    fn gelu_plain_backward(v: &mut [f32], dy: &[f32]) {
        for (v, d) in v.iter_mut().zip(dy) {
            let x = *v;
            let t = tanh::<FMA>(GELU_A * (x + GELU_B * x * x * x));
            let dt = (1.0 - t * t) * GELU_A * (1.0 + 3.0 * GELU_B * x * x);
            *v = d * (0.5 * (1.0 + t) + 0.5 * x * dt);
        }
    }
}

simd_fn! {
    fn gelu_erf(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal_cdf::<FMA>(x);
        }
    }
}

simd_fn! {
    fn gelu_erf_backward(v: &mut [f32], dy: &[f32]) {
        for (v, d) in v.iter_mut().zip(dy) {
            let x = *v;
            *v = d * fma::<FMA>(x, normal_pdf::<FMA>(x), normal_cdf::<FMA>(x));
        }
    }
}

simd_fn! {
    fn gelu_erf_gated(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for (y, (&x, u)) in y.iter_mut().zip(gate.iter().zip(up)) {
            *y = x * normal_cdf::<FMA>(x) * u;
        }
    }
}

simd_fn! {
    /// Replaces (gate, up) by their gradients.
    fn gelu_erf_gated_backward(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        for (d, (gate, up)) in dy.iter().zip(gate.iter_mut().zip(up)) {
            let (x, u) = (*gate, *up);
            let cdf = normal_cdf::<FMA>(x);
            *gate = d * u * fma::<FMA>(x, normal_pdf::<FMA>(x), cdf);
            *up = d * x * cdf;
        }
    }
}

simd_fn! {
    fn relu(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if x > 0.0 { x } else { 0.0 };
        }
    }
}

simd_fn! {
    fn relu_backward(x: &mut [f32], dy: &[f32]) {
        for (x, d) in x.iter_mut().zip(dy) {
            *x = if *x > 0.0 { *d } else { 0.0 };
        }
    }
}

simd_fn! {
    fn relu_gated(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for (y, (&x, u)) in y.iter_mut().zip(gate.iter().zip(up)) {
            *y = if x > 0.0 { x * u } else { 0.0 };
        }
    }
}

simd_fn! {
    /// Replaces (gate, up) by their gradients.
    fn relu_gated_backward(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        for (d, (gate, up)) in dy.iter().zip(gate.iter_mut().zip(up)) {
            let (x, u) = (*gate, *up);
            *gate = if x > 0.0 { d * u } else { 0.0 };
            *up = if x > 0.0 { d * x } else { 0.0 };
        }
    }
}

/// y = act(gate) ⊙ up.
pub(crate) fn gated(act: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    match act {
        Activation::Silu => silu_gated(gate, up, y),
        Activation::GeluTanh => gelu_gated(gate, up, y),
        Activation::GeluErf => gelu_erf_gated(gate, up, y),
        Activation::Relu => relu_gated(gate, up, y),
    }
}

/// Gradients of [`gated`], in place of its inputs.
pub(crate) fn gated_backward(act: Activation, gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    match act {
        Activation::Silu => silu_gated_backward(gate, up, dy),
        Activation::GeluTanh => gelu_gated_backward(gate, up, dy),
        Activation::GeluErf => gelu_erf_gated_backward(gate, up, dy),
        Activation::Relu => relu_gated_backward(gate, up, dy),
    }
}

/// y = act(x).
pub(crate) fn plain(act: Activation, x: &[f32], y: &mut [f32]) {
    match act {
        Activation::Silu => silu_plain(x, y),
        Activation::GeluTanh => gelu_plain(x, y),
        Activation::GeluErf => gelu_erf(x, y),
        Activation::Relu => relu(x, y),
    }
}

/// Gradient of [`plain`], in place of its input.
pub(crate) fn plain_backward(act: Activation, x: &mut [f32], dy: &[f32]) {
    match act {
        Activation::Silu => silu_plain_backward(x, dy),
        Activation::GeluTanh => gelu_plain_backward(x, dy),
        Activation::GeluErf => gelu_erf_backward(x, dy),
        Activation::Relu => relu_backward(x, dy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_match_finite_differences() {
        for act in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::Relu] {
            for x in [-3.1f32, -0.4, 0.05, 0.7, 2.9] {
                let f = |x: f32| {
                    let mut y = [0.0];
                    plain(act, &[x], &mut y);
                    f64::from(y[0])
                };
                let want = (f(x + 1e-2) - f(x - 1e-2)) / 2e-2;
                let mut g = [x];
                plain_backward(act, &mut g, &[1.0]);
                assert!((f64::from(g[0]) - want).abs() < 1e-4, "{act:?} at {x}: {} vs {want}", g[0]);
                let (mut gate, mut up) = ([x], [1.7]);
                gated_backward(act, &mut gate, &mut up, &[1.0]);
                assert!((f64::from(gate[0]) - 1.7 * want).abs() < 2e-4);
                assert!((f64::from(up[0]) - f(x)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn gelu_has_the_values_of_the_normal_distribution() {
        // scipy.stats.norm.cdf(x)·x, SciPy 1.14.
        let known = [
            (-4.0f32, -1.266_85e-4),
            (-1.0, -0.158_655_25),
            (0.0, 0.0),
            (0.5, 0.345_731_23),
            (3.0, 2.995_950_3),
        ];
        for (x, want) in known {
            let mut y = [0.0];
            plain(Activation::GeluErf, &[x], &mut y);
            assert!((y[0] - want).abs() < 4e-7, "gelu({x}) = {} vs {want}", y[0]);
        }
    }
}
