//! RMSNorm and LayerNorm, forward and backward, row by row.
//!
//! RMS: y = x·r·w with r = 1/√(mean x² + ε). Layer: y = (x − μ)·r·w + b. The scale w is what is stored plus a constant.

use crate::params::{Grad, Params};
use crate::simd::{dot, fma, fold};
use crate::spec::{NormKind, NormSpec};

/// y = norm(x) for rows of `n.dim`; keeps (μ, r) of each row in `stats`.
pub(crate) fn forward(n: &NormSpec, params: Params<'_>, x: &[f32], y: &mut [f32], stats: &mut [f32]) {
    let dim = n.dim;
    let w = params.at(n.weight, dim);
    let b = n.bias.map_or(&[][..], |b| params.at(b, dim));
    for ((x, y), st) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)).zip(stats.chunks_exact_mut(2)) {
        let mean = match n.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => sum(x) / dim as f32,
        };
        let var = centred_square_mean(x, mean);
        let r = 1.0 / (var + n.eps).sqrt();
        scale_shift(x, mean, r, w, n.plus, b, y);
        st[0] = mean;
        st[1] = r;
    }
}

/// dx += ∂norm/∂xᵀ·dy; dw, db += into the flat gradient, of what is not frozen.
pub(crate) fn backward(
    n: &NormSpec,
    params: Params<'_>,
    x: &[f32],
    stats: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    grad: &mut Grad<'_>,
) {
    let dim = n.dim;
    let w = params.at(n.weight, dim);
    for (i, (x, dy)) in x.chunks_exact(dim).zip(dy.chunks_exact(dim)).enumerate() {
        let (mean, r) = (stats[2 * i], stats[2 * i + 1]);
        if let Some(dw) = grad.at(n.weight, dim) {
            weight_gradient(x, mean, r, dy, dw);
        }
        if let Some(db) = n.bias.and_then(|b| grad.at(b, dim)) {
            crate::simd::add_assign(db, dy);
        }
        let along = triple_dot(x, mean, dy, w, n.plus) * r / dim as f32; // mean of x̂·w·dy
        let offset = match n.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => (dot(dy, w) + if n.plus == 0.0 { 0.0 } else { n.plus * sum(dy) }) / dim as f32,
        };
        input_gradient(x, mean, r, dy, w, n.plus, along, offset, &mut dx[i * dim..(i + 1) * dim]);
    }
}

simd_fn! {
    fn sum(x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 16];
        for c in x.chunks(16) {
            for (l, v) in lanes.iter_mut().zip(c) {
                *l += *v;
            }
        }
        fold(lanes)
    }
}

simd_fn! {
    fn centred_square_mean(x: &[f32], mean: f32) -> f32 {
        let mut lanes = [0.0f32; 16];
        for c in x.chunks(16) {
            for (l, v) in lanes.iter_mut().zip(c) {
                let d = *v - mean;
                *l = fma::<FMA>(d, d, *l);
            }
        }
        fold(lanes) / x.len() as f32
    }
}

simd_fn! {
    fn scale_shift(x: &[f32], mean: f32, r: f32, w: &[f32], plus: f32, b: &[f32], y: &mut [f32]) {
        let n = y.len();
        let (x, w) = (&x[..n], &w[..n]);
        for i in 0..n {
            y[i] = (x[i] - mean) * r * (w[i] + plus);
        }
        for (y, b) in y.iter_mut().zip(b) {
            *y += *b;
        }
    }
}

simd_fn! {
    fn weight_gradient(x: &[f32], mean: f32, r: f32, dy: &[f32], dw: &mut [f32]) {
        let n = dw.len();
        let (x, dy) = (&x[..n], &dy[..n]);
        for i in 0..n {
            dw[i] = fma::<FMA>((x[i] - mean) * r, dy[i], dw[i]);
        }
    }
}

simd_fn! {
    fn triple_dot(x: &[f32], mean: f32, dy: &[f32], w: &[f32], plus: f32) -> f32 {
        let mut lanes = [0.0f32; 16];
        for ((x, dy), w) in x.chunks(16).zip(dy.chunks(16)).zip(w.chunks(16)) {
            for i in 0..x.len() {
                lanes[i] = fma::<FMA>((x[i] - mean) * dy[i], w[i] + plus, lanes[i]);
            }
        }
        fold(lanes)
    }
}

simd_fn! {
    fn input_gradient(
        x: &[f32], mean: f32, r: f32, dy: &[f32], w: &[f32], plus: f32, along: f32, offset: f32, dx: &mut [f32],
    ) {
        let n = dx.len();
        let (x, dy, w) = (&x[..n], &dy[..n], &w[..n]);
        for i in 0..n {
            let g = fma::<FMA>(dy[i], w[i] + plus, -offset);
            let xhat = (x[i] - mean) * r;
            dx[i] = fma::<FMA>(r, fma::<FMA>(-xhat, along, g), dx[i]);
        }
    }
}
