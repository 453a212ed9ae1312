//! Causal attention of one sequence, forward and backward, with grouped key/value heads.
//!
//! Scores stand transposed, one row per key and one lane per query, in blocks of [`BLOCK`] queries: maxima, sums
//! and gradients of 16 queries then run down the rows side by side, and no number has to be summed across a
//! register. The forward pass saves only the maximum and the inverse sum of each query; the backward pass
//! recomputes the probabilities from them, bit for bit.
//!
//! A key outside of the window, like one after the query, has the probability 0: what adds it up gets the bits that it
//! gets when it leaves the key out. So blocks begin at the first key that any of their queries sees.
//!
//! The sum over keys runs over 16 partial sums (key mod 16), folded in a fixed tree: the order that cached
//! decoding has, whose lanes are keys.

#[cfg(target_arch = "x86_64")]
mod narrow;
#[cfg(target_arch = "x86_64")]
pub(crate) mod newest;

use crate::gemm::{A, B, Init, NR, Panels, gemm};
use crate::simd::dot;
use crate::spec::{AttentionSpec, DecoderSpec};

/// Queries per block.
const BLOCK: usize = 3 * NR;

/// Numbers that the forward pass saves per query and head: maximum and inverse sum.
pub(crate) const STATS: usize = 2;

/// Buffers reused from sequence to sequence.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    q_t: Panels,
    d_out_t: Panels,
    k: Panels,
    v: Panels,
    q: Panels,
    d_out: Panels,
    p: Vec<f32>,
    dp: Vec<f32>,
}

impl Scratch {
    /// Bytes for sequences of at most `t` tokens, forward and, if so, backward.
    pub(crate) fn bytes(s: &DecoderSpec, t: usize, backward: bool) -> usize {
        let scores = t.next_multiple_of(NR) * BLOCK * size_of::<f32>();
        let narrow = s.layers.iter().all(|l| is_narrow(s, &l.attention));
        // Across a head (queries, gradients of the outputs), and along it (values; keys, queries, gradients).
        let (across, along) = (Panels::bytes(s.head_dim, t), Panels::bytes(t, s.head_dim));
        match (narrow, backward) {
            (true, false) => scores,
            (true, true) => 2 * scores,
            (false, false) => scores + across + along,
            (false, true) => 2 * scores + 2 * across + 4 * along,
        }
    }
}

fn grow(v: &mut Vec<f32>, n: usize) {
    if v.len() < n {
        v.resize(n, 0.0);
    }
}

/// `qkv` (t × `qkv_dim`, rotated) → `out` (t × heads·head_dim); `stats` (heads × padded t × 2) for the backward pass.
pub(crate) fn forward(
    s: &DecoderSpec,
    a: &AttentionSpec,
    t: usize,
    qkv: &[f32],
    out: &mut [f32],
    stats: &mut [f32],
    ws: &mut Scratch,
) {
    forward_by(is_narrow(s, a), s, a, t, qkv, out, stats, ws);
}

fn forward_by(
    narrow: bool,
    s: &DecoderSpec,
    a: &AttentionSpec,
    t: usize,
    qkv: &[f32],
    out: &mut [f32],
    stats: &mut [f32],
    ws: &mut Scratch,
) {
    let (hd, ld, ldo) = (s.head_dim, s.qkv_dim(), s.att_dim());
    let group = s.heads / s.kv_heads;
    let scale = a.scale;
    grow(&mut ws.p, t.next_multiple_of(NR) * BLOCK);
    for g in 0..s.kv_heads {
        let keys = A::rows(&qkv[(s.heads + g) * hd..], ld);
        let values = &qkv[(s.heads + s.kv_heads + g) * hd..];
        if !narrow {
            ws.v.pack(values, ld, 1, t, hd);
        }
        for h in g * group..(g + 1) * group {
            let stats = &mut stats[h * stats_len(t)..][..stats_len(t)];
            if !narrow {
                ws.q_t.pack(&qkv[h * hd..], 1, ld, hd, t);
            }
            for r0 in (0..t).step_by(BLOCK) {
                let r1 = (r0 + BLOCK).min(t);
                #[cfg(target_arch = "x86_64")]
                if narrow {
                    for q0 in (r0..r1).step_by(NR) {
                        let q1 = (q0 + NR).min(t);
                        let (max, inverse) = stats[q0 * STATS..][..NR * STATS].split_at_mut(NR);
                        let panel = narrow::Panel {
                            q: &qkv[q0 * ld + h * hd..],
                            keys: keys.data,
                            values,
                            ld,
                            q0,
                            queries: q1 - q0,
                            seen: q1,
                            scale,
                        };
                        let o = &mut out[q0 * ldo + h * hd..];
                        // SAFETY: `narrow` says that the CPU has the features.
                        unsafe { narrow::forward(panel, &mut ws.p[q0 - r0..], max, inverse, o, ldo) };
                    }
                    continue;
                }
                let k0 = first_key(a, r0);
                let seen_keys = A::rows(&keys.data[k0 * ld..], ld);
                let p = &mut ws.p[k0 * BLOCK..];
                gemm(r1 - k0, r1 - r0, hd, seen_keys, from_column(&ws.q_t, r0), p, BLOCK, Init::Zero);
                for q0 in (r0..r1).step_by(NR) {
                    let q1 = (q0 + NR).min(t);
                    let (max, inverse) = stats[q0 * STATS..][..NR * STATS].split_at_mut(NR);
                    let p = &mut ws.p[q0 - r0..];
                    let scale = a.soft_cap.map_or(scale, |cap| {
                        cap_columns(p, k0, q1, scale, cap);
                        1.0
                    });
                    softmax_columns(p, k0, q1, q0, window(a), scale, max, inverse);
                    let o = &mut out[q0 * ldo + h * hd..];
                    let p = A::transposed(&p[k0 * BLOCK..], BLOCK);
                    gemm(q1 - q0, hd, q1 - k0, p, from_row(&ws.v, k0), o, ldo, Init::Zero);
                }
            }
        }
    }
}

/// Whether this attention has kernels of its own on this CPU.
fn is_narrow(s: &DecoderSpec, a: &AttentionSpec) -> bool {
    #[cfg(target_arch = "x86_64")]
    if s.head_dim == narrow::HEAD && a.soft_cap.is_none() && a.window.is_none() {
        return crate::simd::has_avx512();
    }
    let _ = (s, a);
    false
}

/// Whether decoding has a layout and a kernel of its own for this attention on this CPU: that of [`newest`].
pub(crate) fn by_eights(s: &DecoderSpec, a: &AttentionSpec) -> bool {
    #[cfg(target_arch = "x86_64")]
    if is_narrow(s, a) {
        return newest::holds(s);
    }
    let _ = (s, a);
    false
}

/// Positions that one sees, itself included.
pub(crate) fn window(a: &AttentionSpec) -> usize {
    a.window.unwrap_or(usize::MAX)
}

/// The first key that the query sees.
fn first_key(a: &AttentionSpec, query: usize) -> usize {
    (query + 1).saturating_sub(window(a))
}

/// Floats of `stats` per head of a sequence of `t` tokens.
pub(crate) fn stats_len(t: usize) -> usize {
    STATS * t.next_multiple_of(NR)
}

/// Gradient of [`forward`]: from `d_out` to `d_qkv` (overwritten).
pub(crate) fn backward(
    s: &DecoderSpec,
    a: &AttentionSpec,
    t: usize,
    qkv: &[f32],
    out: &[f32],
    stats: &[f32],
    d_out: &[f32],
    d_qkv: &mut [f32],
    ws: &mut Scratch,
) {
    backward_by(is_narrow(s, a), s, a, t, qkv, out, stats, d_out, d_qkv, ws);
}

fn backward_by(
    narrow: bool,
    s: &DecoderSpec,
    a: &AttentionSpec,
    t: usize,
    qkv: &[f32],
    out: &[f32],
    stats: &[f32],
    d_out: &[f32],
    d_qkv: &mut [f32],
    ws: &mut Scratch,
) {
    let (hd, ld, ldo) = (s.head_dim, s.qkv_dim(), s.att_dim());
    let group = s.heads / s.kv_heads;
    let scale = a.scale;
    let size = t.next_multiple_of(NR) * BLOCK;
    grow(&mut ws.p, size);
    grow(&mut ws.dp, size);
    // The query heads of a group and the blocks of queries add up in a key and value head.
    if !narrow {
        for row in d_qkv.chunks_exact_mut(ld).take(t) {
            row[s.heads * hd..].fill(0.0);
        }
    }
    for g in 0..s.kv_heads {
        let k_off = (s.heads + g) * hd;
        let v_off = (s.heads + s.kv_heads + g) * hd;
        let (keys, values) = (A::rows(&qkv[k_off..], ld), A::rows(&qkv[v_off..], ld));
        if !narrow {
            ws.k.pack(&qkv[k_off..], ld, 1, t, hd);
        }
        for h in g * group..(g + 1) * group {
            let stats = &stats[h * stats_len(t)..][..stats_len(t)];
            if !narrow {
                ws.q_t.pack(&qkv[h * hd..], 1, ld, hd, t);
                ws.d_out_t.pack(&d_out[h * hd..], 1, ldo, hd, t);
                ws.q.pack(&qkv[h * hd..], ld, 1, t, hd);
                ws.d_out.pack(&d_out[h * hd..], ldo, 1, t, hd);
            }
            for r0 in (0..t).step_by(BLOCK) {
                let r1 = (r0 + BLOCK).min(t);
                let n = r1 - r0;
                let k0 = if narrow { 0 } else { first_key(a, r0) };
                let (p, dp) = (&mut ws.p[k0 * BLOCK..], &mut ws.dp[k0 * BLOCK..]);
                if !narrow {
                    let (k, v) = (A::rows(&keys.data[k0 * ld..], ld), A::rows(&values.data[k0 * ld..], ld));
                    gemm(r1 - k0, n, hd, k, from_column(&ws.q_t, r0), p, BLOCK, Init::Zero);
                    gemm(r1 - k0, n, hd, v, from_column(&ws.d_out_t, r0), dp, BLOCK, Init::Zero);
                }
                for q0 in (r0..r1).step_by(NR) {
                    let q1 = (q0 + NR).min(t);
                    let (max, inverse) = stats[q0 * STATS..][..NR * STATS].split_at(NR);
                    let (p, dp) = (&mut ws.p[q0 - r0..], &mut ws.dp[q0 - r0..]);
                    let dq = &mut d_qkv[q0 * ld + h * hd..];
                    #[cfg(target_arch = "x86_64")]
                    if narrow {
                        let panel = narrow::Panel {
                            q: &qkv[q0 * ld + h * hd..],
                            keys: keys.data,
                            values: values.data,
                            ld,
                            q0,
                            queries: q1 - q0,
                            seen: q1,
                            scale,
                        };
                        let outs = (&out[q0 * ldo + h * hd..], &d_out[q0 * ldo + h * hd..], ldo);
                        // SAFETY: `narrow` says that the CPU has the features.
                        unsafe { narrow::backward(panel, outs, (max, inverse), p, dp, dq) };
                        continue;
                    }
                    let mut along = [0.0; NR];
                    for (along, q) in along.iter_mut().zip(q0..q1) {
                        let o = q * ldo + h * hd;
                        *along = dot(&d_out[o..o + hd], &out[o..o + hd]);
                    }
                    let keys = Keys { first: k0, seen: q1, all: r1, window: window(a) };
                    match a.soft_cap {
                        None => score_gradient(p, dp, keys, q0, scale, max, inverse, &along),
                        Some(cap) => {
                            cap_columns(p, k0, q1, scale, cap);
                            capped_gradient(p, dp, keys, q0, scale, cap, max, inverse, &along);
                        }
                    }
                    let ds = A::transposed(&dp[k0 * BLOCK..], BLOCK);
                    gemm(q1 - q0, hd, q1 - k0, ds, from_row(&ws.k, k0), dq, ld, Init::Zero);
                }
                #[cfg(target_arch = "x86_64")]
                if narrow {
                    let block = narrow::Block {
                        p: &ws.p,
                        ds: &ws.dp,
                        q: &qkv[r0 * ld + h * hd..],
                        ld,
                        d_out: &d_out[r0 * ldo + h * hd..],
                        ldo,
                        q0: r0,
                        queries: n,
                        keys: r1,
                        first: h == g * group,
                    };
                    // SAFETY: as above.
                    unsafe { narrow::backward_keys(block, d_qkv, k_off, v_off) };
                    continue;
                }
                let (p, dp) = (A::rows(&ws.p[k0 * BLOCK..], BLOCK), A::rows(&ws.dp[k0 * BLOCK..], BLOCK));
                let (dk, dv) = (k_off + k0 * ld, v_off + k0 * ld);
                gemm(r1 - k0, hd, n, dp, from_row(&ws.q, r0), &mut d_qkv[dk..], ld, Init::Own);
                gemm(r1 - k0, hd, n, p, from_row(&ws.d_out, r0), &mut d_qkv[dv..], ld, Init::Own);
            }
        }
    }
}

/// The panels from inner index `p0` on.
fn from_row(panels: &Panels, p0: usize) -> B<'_> {
    let v = panels.view();
    B { data: &v.data[p0 * v.row..], ..v }
}

/// The panels from column `j0` on, a multiple of [`NR`].
fn from_column(panels: &Panels, j0: usize) -> B<'_> {
    let v = panels.view();
    B { data: &v.data[j0 / NR * v.panel..], ..v }
}

/// Lane i of row `key` is query q0 + i, which does not see later keys, nor those that have left its window.
#[inline(always)]
fn hide(row: &mut [f32; NR], key: usize, q0: usize, window: usize, with: f32) {
    if key > q0 {
        for (i, x) in row.iter_mut().enumerate() {
            *x = if q0 + i < key { with } else { *x };
        }
    }
    if q0 + NR > key.saturating_add(window) {
        for (i, x) in row.iter_mut().enumerate() {
            *x = if q0 + i >= key + window { with } else { *x };
        }
    }
}

/// The keys of a block: the first that any of its queries sees, the end of those that these 16 queries see, and the
/// end of those that any does.
#[derive(Clone, Copy)]
struct Keys {
    first: usize,
    seen: usize,
    all: usize,
    window: usize,
}

/// The 16 queries of row `key` that `p` begins with.
#[inline(always)]
fn lanes(p: &mut [f32], key: usize) -> Option<&mut [f32; NR]> {
    p.get_mut(key * BLOCK..)?.first_chunk_mut::<NR>()
}

/// 1/Σ of 16 rows of partial sums, in the tree of [`crate::simd::fold`].
#[inline(always)]
fn fold_columns(mut sums: [[f32; NR]; NR]) -> [f32; NR] {
    let mut w = NR / 2;
    while w > 0 {
        for a in 0..w {
            for i in 0..NR {
                sums[a][i] += sums[a + w][i];
            }
        }
        w /= 2;
    }
    sums[0].map(|sum| 1.0 / sum)
}

simd_fn! {
    /// z ↦ cap·tanh(scale·z / cap) in rows `from` to `to`, for the 16 queries that `p` begins with.
    fn cap_columns(p: &mut [f32], from: usize, to: usize, scale: f32, cap: f32) {
        for key in from..to {
            let Some(row) = lanes(p, key) else { return };
            for x in row {
                *x = crate::cap::capped::<FMA>(*x * scale, cap);
            }
        }
    }
}

simd_fn! {
    /// Softmax of scale·z down the rows `first` to `keys`, for the 16 queries from `q0` on that `p` begins with.
    fn softmax_columns(
        p: &mut [f32], first: usize, keys: usize, q0: usize, window: usize, scale: f32, max: &mut [f32],
        inverse: &mut [f32],
    ) {
        let mut most = [f32::NEG_INFINITY; NR];
        for key in first..keys {
            let Some(row) = lanes(p, key) else { return };
            hide(row, key, q0, window, f32::NEG_INFINITY);
            for i in 0..NR {
                most[i] = if row[i] > most[i] { row[i] } else { most[i] };
            }
        }
        let mut sums = [[0.0f32; NR]; NR];
        for key in first..keys {
            let Some(row) = lanes(p, key) else { return };
            let sum = &mut sums[key % NR];
            for i in 0..NR {
                let e = crate::simd::exp::<FMA>((row[i] - most[i]) * scale);
                row[i] = e;
                sum[i] += e;
            }
        }
        let inv = fold_columns(sums);
        for key in first..keys {
            let Some(row) = lanes(p, key) else { return };
            for i in 0..NR {
                row[i] *= inv[i];
            }
        }
        max.copy_from_slice(&most);
        inverse.copy_from_slice(&inv);
    }
}

simd_fn! {
    /// From scores and the gradient of the probabilities: p = softmax in place of the scores and
    /// ds = p·(dp − along)·scale in place of dp, down the keys seen; 0 below them.
    fn score_gradient(
        p: &mut [f32], dp: &mut [f32], keys: Keys, q0: usize, scale: f32, max: &[f32], inverse: &[f32],
        along: &[f32; NR],
    ) {
        let (Some(max), Some(inverse)) = (max.first_chunk::<NR>(), inverse.first_chunk::<NR>()) else { return };
        for key in keys.first..keys.seen {
            let (Some(p), Some(dp)) = (lanes(p, key), lanes(dp, key)) else { return };
            hide(p, key, q0, keys.window, f32::NEG_INFINITY);
            for i in 0..NR {
                p[i] = crate::simd::exp::<FMA>((p[i] - max[i]) * scale) * inverse[i];
                dp[i] = p[i] * (dp[i] - along[i]) * scale;
            }
        }
        clear(p, dp, keys);
    }
}

simd_fn! {
    /// As [`score_gradient`] of scores s that were capped, s = cap·tanh(scale·z / cap): ds/dz = scale·(1 − (s/cap)²).
    fn capped_gradient(
        p: &mut [f32], dp: &mut [f32], keys: Keys, q0: usize, scale: f32, cap: f32, max: &[f32],
        inverse: &[f32], along: &[f32; NR],
    ) {
        let (Some(max), Some(inverse)) = (max.first_chunk::<NR>(), inverse.first_chunk::<NR>()) else { return };
        for key in keys.first..keys.seen {
            let (Some(p), Some(dp)) = (lanes(p, key), lanes(dp, key)) else { return };
            let mut slope = [0.0; NR];
            for i in 0..NR {
                let t = p[i] / cap;
                slope[i] = scale * crate::simd::fma::<FMA>(-t, t, 1.0);
            }
            hide(p, key, q0, keys.window, f32::NEG_INFINITY);
            for i in 0..NR {
                p[i] = crate::simd::exp::<FMA>(p[i] - max[i]) * inverse[i];
                dp[i] = p[i] * (dp[i] - along[i]) * slope[i];
            }
        }
        clear(p, dp, keys);
    }
}

/// No query of these 16 sees the rest of the block's keys.
#[inline(always)]
fn clear(p: &mut [f32], dp: &mut [f32], keys: Keys) {
    for key in keys.seen..keys.all {
        let (Some(p), Some(dp)) = (lanes(p, key), lanes(dp, key)) else { return };
        *p = [0.0; NR];
        *dp = [0.0; NR];
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::spec::{Layout, LinearSpec, NormKind, NormSpec};

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        let mut next = || {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1u32 << 24) as f32 - 0.5
        };
        (0..n).map(|_| 4.0 * next()).collect()
    }

    /// Of a decoder, attention reads the sizes of its heads only.
    fn spec(heads: usize, kv_heads: usize) -> (DecoderSpec, AttentionSpec) {
        let linear = LinearSpec {
            id: 0,
            weight: 0,
            bias: None,
            n_in: 0,
            n_out: 0,
            stride: 0,
            layout: Layout::OutIn,
            adapter: None,
        };
        let norm = NormSpec { kind: NormKind::Rms, dim: 0, weight: 0, plus: 0.0, bias: None, eps: 1e-5 };
        let attention = AttentionSpec {
            q: linear.clone(),
            k: linear.clone(),
            v: linear.clone(),
            out: linear.clone(),
            q_norm: None,
            k_norm: None,
            rope: None,
            scale: 1.0 / (narrow::HEAD as f32).sqrt(),
            soft_cap: None,
            window: None,
        };
        let spec = DecoderSpec {
            dim: heads * narrow::HEAD,
            heads,
            kv_heads,
            head_dim: narrow::HEAD,
            vocab: 1,
            max_positions: 1000,
            embed: 0,
            embed_scale: 1.0,
            positions: None,
            ropes: Vec::new(),
            layers: Vec::new(),
            final_norm: norm,
            lm_head: Some(linear),
            logit_cap: None,
            scalar_head: None,
            n_params: 0,
            frozen: 0,
        };
        (spec, attention)
    }

    #[test]
    fn heads_of_eight_have_the_bits_of_the_general_path() {
        if !crate::simd::has_avx512() {
            return;
        }
        for (heads, kv_heads) in [(1, 1), (4, 2)] {
            let (s, a) = spec(heads, kv_heads);
            for t in [1, 2, 15, 16, 17, 47, 48, 49, 72, 100] {
                let qkv = noise(t * s.qkv_dim(), t as u32);
                let d_out = noise(t * s.att_dim(), 7 + t as u32);
                let run = |narrow: bool| {
                    let mut ws = Scratch::default();
                    let mut out = vec![9.0; t * s.att_dim()];
                    let mut stats = vec![9.0; heads * stats_len(t)];
                    let mut d_qkv = vec![9.0; t * s.qkv_dim()];
                    forward_by(narrow, &s, &a, t, &qkv, &mut out, &mut stats, &mut ws);
                    backward_by(narrow, &s, &a, t, &qkv, &out, &stats, &d_out, &mut d_qkv, &mut ws);
                    (out, d_qkv)
                };
                let (x, y) = (run(true), run(false));
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&x.0), bits(&y.0), "outputs, {heads} heads, {t} tokens");
                assert_eq!(bits(&x.1), bits(&y.1), "gradients, {heads} heads, {t} tokens");
            }
        }
    }
}
