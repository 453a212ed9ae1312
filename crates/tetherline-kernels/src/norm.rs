//! RMSNorm and LayerNorm, forward and backward, row by row.
//!
//! RMS: y = x·r·w with r = 1/√(mean x² + ε). Layer: y = (x − μ)·r·w + b. The scale w is what is stored plus a constant.

use crate::params::{Grad, Params};
use crate::simd::{fma, fold};
use crate::spec::{NormKind, NormSpec};

/// y = norm(x) for rows of `n.dim`; keeps (μ, r) of each row in `stats`.
pub(crate) fn forward(n: &NormSpec, params: Params<'_>, x: &[f32], y: &mut [f32], stats: &mut [f32]) {
    let b = n.bias.map_or(&[][..], |b| params.at(b, n.dim));
    forward_rows(n, params.at(n.weight, n.dim), b, x, y, stats);
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
    let dw = grad.at(n.weight, dim).unwrap_or_default();
    backward_rows(n, params.at(n.weight, dim), x, stats, dy, dx, dw);
    if let Some(db) = n.bias.and_then(|b| grad.at(b, dim)) {
        for dy in dy.chunks_exact(dim) {
            crate::simd::add_assign(db, dy);
        }
    }
}

simd_fn! {
    fn forward_rows(n: &NormSpec, w: &[f32], b: &[f32], x: &[f32], y: &mut [f32], stats: &mut [f32]) {
        let dim = n.dim;
        for ((x, y), st) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)).zip(stats.chunks_exact_mut(2)) {
            let mean = match n.kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => lanes_of(x, |x, sum| sum + x) / dim as f32,
            };
            let var = lanes_of(x, |x, sum| fma::<FMA>(x - mean, x - mean, sum)) / dim as f32;
            let r = 1.0 / (var + n.eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = (x - mean) * r * (w + n.plus);
            }
            for (y, b) in y.iter_mut().zip(b) {
                *y += *b;
            }
            st[0] = mean;
            st[1] = r;
        }
    }
}

simd_fn! {
    /// `dw` is empty where the scale is frozen.
    fn backward_rows(
        n: &NormSpec, w: &[f32], x: &[f32], stats: &[f32], dy: &[f32], dx: &mut [f32], dw: &mut [f32],
    ) {
        let dim = n.dim;
        let rows = x.chunks_exact(dim).zip(dy.chunks_exact(dim)).zip(dx.chunks_exact_mut(dim));
        for (((x, dy), dx), stats) in rows.zip(stats.chunks_exact(2)) {
            let (mean, r) = (stats[0], stats[1]);
            for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
                *dw = fma::<FMA>((x - mean) * r, *dy, *dw);
            }
            // Mean of x̂·w·dy.
            let along =
                lanes_of3(x, dy, w, |x, dy, w, sum| fma::<FMA>((x - mean) * dy, w + n.plus, sum)) * r / dim as f32;
            let offset = match n.kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => {
                    let scaled = lanes_of3(dy, w, w, |dy, w, _, sum| fma::<FMA>(dy, w, sum));
                    let plus = if n.plus == 0.0 { 0.0 } else { n.plus * lanes_of(dy, |dy, sum| sum + dy) };
                    (scaled + plus) / dim as f32
                }
            };
            for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
                let g = fma::<FMA>(*dy, w + n.plus, -offset);
                let xhat = (x - mean) * r;
                *dx = fma::<FMA>(r, fma::<FMA>(-xhat, along, g), *dx);
            }
        }
    }
}

/// A sum over 16 fixed lanes, folded in a fixed tree; `add(xᵢ, sum)` adds a term.
#[inline(always)]
fn lanes_of(x: &[f32], add: impl Fn(f32, f32) -> f32) -> f32 {
    lanes_of3(x, x, x, |x, _, _, sum| add(x, sum))
}

/// The same over three slices of one length.
#[inline(always)]
fn lanes_of3(x: &[f32], y: &[f32], z: &[f32], add: impl Fn(f32, f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let ((x, x_rest), (y, y_rest), (z, z_rest)) =
        (x.as_chunks::<16>(), y.as_chunks::<16>(), z.as_chunks::<16>());
    for ((x, y), z) in x.iter().zip(y).zip(z) {
        for i in 0..16 {
            lanes[i] = add(x[i], y[i], z[i], lanes[i]);
        }
    }
    for (((x, y), z), lane) in x_rest.iter().zip(y_rest).zip(z_rest).zip(&mut lanes) {
        *lane = add(*x, *y, *z, *lane);
    }
    fold(lanes)
}
