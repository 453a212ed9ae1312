//! Causal attention of one sequence, forward and backward, with grouped key/value heads.
//!
//! Row blocks of queries keep the score matrix small in the forward pass, which saves only the log-sum of
//! each row; the backward pass recomputes the probabilities from it.

use crate::gemm::{A, B, Init, NR, Panels, gemm};
use crate::simd::dot;
use crate::softmax::{exp_scaled_in_place, softmax_in_place};
use crate::spec::DecoderSpec;

/// Queries per block.
const BLOCK: usize = 48;

/// Buffers reused from sequence to sequence.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    k_t: Panels,
    v: Panels,
    k: Panels,
    v_t: Panels,
    q: Panels,
    d_out: Panels,
    p: Vec<f32>,
    dp: Vec<f32>,
}

fn grow(v: &mut Vec<f32>, n: usize) {
    if v.len() < n {
        v.resize(n, 0.0);
    }
}

/// `qkv` (t × `qkv_dim`, rotated) → `out` (t × heads·head_dim); log-sums into `lse` (heads × t).
pub(crate) fn forward(
    s: &DecoderSpec,
    t: usize,
    qkv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
    ws: &mut Scratch,
) {
    let (hd, ld, ldo) = (s.head_dim, s.qkv_dim(), s.att_dim());
    let group = s.heads / s.kv_heads;
    let scale = 1.0 / (hd as f32).sqrt();
    let width = t.next_multiple_of(NR);
    grow(&mut ws.p, BLOCK * width);
    for g in 0..s.kv_heads {
        let k_off = (s.heads + g) * hd;
        let v_off = (s.heads + s.kv_heads + g) * hd;
        ws.k_t.pack(&qkv[k_off..], 1, ld, hd, t);
        ws.v.pack(&qkv[v_off..], ld, 1, t, hd);
        for h in g * group..(g + 1) * group {
            for r0 in (0..t).step_by(BLOCK) {
                let r1 = (r0 + BLOCK).min(t);
                let q = A::rows(&qkv[r0 * ld + h * hd..], ld);
                gemm(r1 - r0, r1, hd, q, ws.k_t.view(), &mut ws.p, width, Init::Zero);
                for (i, row) in ws.p.chunks_exact_mut(width).take(r1 - r0).enumerate() {
                    let visible = r0 + i + 1;
                    lse[h * t + r0 + i] = softmax_in_place(row, visible, scale);
                    let done = visible.next_multiple_of(NR).min(r1);
                    row[done..r1].fill(0.0);
                }
                let o = &mut out[r0 * ldo + h * hd..];
                gemm(r1 - r0, hd, r1, A::rows(&ws.p, width), ws.v.view(), o, ldo, Init::Zero);
            }
        }
    }
}

/// Gradient of [`forward`]: from `d_out` to `d_qkv` (overwritten).
pub(crate) fn backward(
    s: &DecoderSpec,
    t: usize,
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    d_out: &[f32],
    d_qkv: &mut [f32],
    ws: &mut Scratch,
) {
    let (hd, ld, ldo) = (s.head_dim, s.qkv_dim(), s.att_dim());
    let group = s.heads / s.kv_heads;
    let scale = 1.0 / (hd as f32).sqrt();
    let width = t.next_multiple_of(NR);
    grow(&mut ws.p, t * width);
    grow(&mut ws.dp, t * width);
    for g in 0..s.kv_heads {
        let k_off = (s.heads + g) * hd;
        let v_off = (s.heads + s.kv_heads + g) * hd;
        ws.k_t.pack(&qkv[k_off..], 1, ld, hd, t);
        ws.k.pack(&qkv[k_off..], ld, 1, t, hd);
        ws.v_t.pack(&qkv[v_off..], 1, ld, hd, t);
        for h in g * group..(g + 1) * group {
            ws.q.pack(&qkv[h * hd..], ld, 1, t, hd);
            ws.d_out.pack(&d_out[h * hd..], ldo, 1, t, hd);
            for r0 in (0..t).step_by(BLOCK) {
                let r1 = (r0 + BLOCK).min(t);
                let p = &mut ws.p[r0 * width..];
                let dp = &mut ws.dp[r0 * width..];
                gemm(
                    r1 - r0,
                    r1,
                    hd,
                    A::rows(&qkv[r0 * ld + h * hd..], ld),
                    ws.k_t.view(),
                    p,
                    width,
                    Init::Zero,
                );
                gemm(
                    r1 - r0,
                    r1,
                    hd,
                    A::rows(&d_out[r0 * ldo + h * hd..], ldo),
                    ws.v_t.view(),
                    dp,
                    width,
                    Init::Zero,
                );
                for i in 0..r1 - r0 {
                    let (row, visible) = (r0 + i, r0 + i + 1);
                    let p = &mut p[i * width..i * width + r1];
                    let dp = &mut dp[i * width..i * width + r1];
                    exp_scaled_in_place(&mut p[..visible], scale, lse[h * t + row]);
                    p[visible..].fill(0.0);
                    let o = row * ldo + h * hd;
                    let along = dot(&d_out[o..o + hd], &out[o..o + hd]);
                    score_gradient(&mut dp[..visible], &p[..visible], along, scale);
                    dp[visible..].fill(0.0);
                }
                let dq = &mut d_qkv[r0 * ld + h * hd..];
                gemm(r1 - r0, hd, r1, A::rows(dp, width), ws.k.view(), dq, ld, Init::Zero);
            }
            // The query heads of a group add up in its key and value head.
            let sum = if h == g * group { Init::Zero } else { Init::Own };
            for c0 in (0..t).step_by(BLOCK) {
                let c1 = (c0 + BLOCK).min(t);
                // Keys c0..c1 are seen by queries c0..t only.
                let from = c0 * width + c0;
                let dk = &mut d_qkv[c0 * ld + k_off..];
                gemm(
                    c1 - c0,
                    hd,
                    t - c0,
                    A::transposed(&ws.dp[from..], width),
                    below(&ws.q, c0),
                    dk,
                    ld,
                    sum,
                );
                let dv = &mut d_qkv[c0 * ld + v_off..];
                gemm(
                    c1 - c0,
                    hd,
                    t - c0,
                    A::transposed(&ws.p[from..], width),
                    below(&ws.d_out, c0),
                    dv,
                    ld,
                    sum,
                );
            }
        }
    }
}

/// The panels from inner index `p0` on.
fn below(panels: &Panels, p0: usize) -> B<'_> {
    let v = panels.view();
    B { data: &v.data[p0 * v.row..], ..v }
}

simd_fn! {
    /// ds = p·(dp − along)·scale, in place of dp.
    fn score_gradient(dp: &mut [f32], p: &[f32], along: f32, scale: f32) {
        for (d, p) in dp.iter_mut().zip(p) {
            *d = *p * (*d - along) * scale;
        }
    }
}
