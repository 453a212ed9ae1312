//! Non-linearities of the feed-forward block, forward and backward.

use crate::simd::exp;
use crate::spec::Activation;

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

const GELU_A: f32 = 0.797_884_6; // √(2/π)
const GELU_B: f32 = 0.044_715;

/// tanh(x) through the vectorisable exponential.
#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0)
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

/// y = act(gate) ⊙ up.
pub(crate) fn gated(act: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    match act {
        Activation::Silu => silu_gated(gate, up, y),
        Activation::GeluTanh => gelu_gated(gate, up, y),
    }
}

/// Gradients of [`gated`], in place of its inputs.
pub(crate) fn gated_backward(act: Activation, gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    match act {
        Activation::Silu => silu_gated_backward(gate, up, dy),
        Activation::GeluTanh => gelu_gated_backward(gate, up, dy),
    }
}

/// y = act(x).
pub(crate) fn plain(act: Activation, x: &[f32], y: &mut [f32]) {
    match act {
        Activation::Silu => silu_plain(x, y),
        Activation::GeluTanh => gelu_plain(x, y),
    }
}

/// Gradient of [`plain`], in place of its input.
pub(crate) fn plain_backward(act: Activation, x: &mut [f32], dy: &[f32]) {
    match act {
        Activation::Silu => silu_plain_backward(x, dy),
        Activation::GeluTanh => gelu_plain_backward(x, dy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_match_finite_differences() {
        for act in [Activation::Silu, Activation::GeluTanh] {
            for x in [-3.1f32, -0.4, 0.0, 0.7, 2.9] {
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
}
