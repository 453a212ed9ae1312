//! Attention of heads of eight with AVX-512: what is between the scores and the output stays in registers.
//!
//! A product with an inner dimension of 8, or with 8 columns, spends more time on its tiles than on its sums. Here
//! the 16 queries of a register meet one key after the other: 8 multiply-adds make their scores, 8 more add its
//! value. The sums are those of the general path, in the same order, so the bits are the same.
//!
//! Intrinsics, since the compiler keeps arrays of this shape in memory.

use super::BLOCK;
use crate::gemm::NR;
use crate::simd::EXP_CUT;
use std::arch::x86_64::{
    __m512, __mmask16, _CMP_LT_OQ, _mm_add_ps, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_storeu_ps, _mm512_add_epi32, _mm512_add_ps,
    _mm512_castps_si512, _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_div_ps,
    _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_blend_ps, _mm512_max_ps,
    _mm512_min_ps, _mm512_mul_ps, _mm512_reduce_max_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

/// The size of a head that this file is for.
pub(super) const HEAD: usize = 8;

/// What both directions read: a block of 16 queries against the keys they see.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// Queries, transposed: HEAD × 16.
    pub(super) q: &'a [f32],
    /// Keys and values, `ld` floats from row to row.
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) ld: usize,
    /// The first query, how many there are, and the keys up to the last one of them.
    pub(super) q0: usize,
    pub(super) queries: usize,
    pub(super) seen: usize,
    pub(super) scale: f32,
}

impl Panel<'_> {
    fn check(&self, p: &[f32]) {
        let last = (self.seen - 1) * self.ld + HEAD;
        assert!(self.keys.len() >= last && self.values.len() >= last, "attention: keys too short");
        assert!(self.q.len() >= HEAD * NR && self.queries <= NR, "attention: queries");
        assert!(p.len() >= (self.seen - 1) * BLOCK + NR, "attention: scratch too short");
    }

    /// The lanes whose query comes before this key and does not see it.
    #[inline(always)]
    fn hidden(&self, key: usize) -> __mmask16 {
        if key > self.q0 { ((1_u32 << (key - self.q0)) - 1) as __mmask16 } else { 0 }
    }
}

/// eˣ, operation by operation that of [`crate::simd::exp`].
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn exp(x: __m512) -> __m512 {
    let set = _mm512_set1_ps;
    let magic = set(12_582_912.0);
    // Of two operands one of which is NaN, the second comes out.
    let c = _mm512_max_ps(set(EXP_CUT), _mm512_min_ps(set(88.0), x));
    let shifted = _mm512_fmadd_ps(c, set(std::f32::consts::LOG2_E), magic);
    let n = _mm512_sub_ps(shifted, magic);
    let r = _mm512_fmadd_ps(n, set(-0.693_359_4), c);
    let r = _mm512_fmadd_ps(n, set(2.121_944_4e-4), r);
    let mut p = set(1.987_569_1e-4);
    for next in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = _mm512_fmadd_ps(p, r, set(next));
    }
    let y = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), set(1.0));
    let bits = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127 - 0x4B40_0000));
    let y = _mm512_mul_ps(y, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(bits)));
    _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, set(EXP_CUT)), y, _mm512_setzero_ps())
}

/// Eight registers of 16 numbers.
///
/// # Safety
/// The slice holds 128.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn load(x: &[f32]) -> [__m512; HEAD] {
    // SAFETY: the caller's.
    std::array::from_fn(|d| unsafe { _mm512_loadu_ps(x.as_ptr().add(d * NR)) })
}

/// Σ over the head for 16 queries: eight multiply-adds in order, from zero.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn along_head(x: *const f32, q: &[__m512; HEAD]) -> __m512 {
    let mut s = _mm512_setzero_ps();
    for (d, q) in q.iter().enumerate() {
        // SAFETY: the caller's row has HEAD numbers.
        s = _mm512_fmadd_ps(unsafe { _mm512_set1_ps(*x.add(d)) }, *q, s);
    }
    s
}

/// sum[d] += x[d]·p.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn accumulate(sum: &mut [__m512; HEAD], x: *const f32, p: __m512) {
    for (d, sum) in sum.iter_mut().enumerate() {
        // SAFETY: the caller's row has HEAD numbers.
        *sum = _mm512_fmadd_ps(unsafe { _mm512_set1_ps(*x.add(d)) }, p, *sum);
    }
}

/// Writes 16 queries that stand side by side as rows; those past the end are left out.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn scatter(o: &[__m512; HEAD], out: &mut [f32], ld: usize, queries: usize) {
    let mut side = [[0.0f32; NR]; HEAD];
    for (side, o) in side.iter_mut().zip(o) {
        // SAFETY: sixteen numbers each.
        unsafe { _mm512_storeu_ps(side.as_mut_ptr(), *o) };
    }
    for (i, out) in out.chunks_mut(ld).take(queries).enumerate() {
        for (out, side) in out[..HEAD].iter_mut().zip(&side) {
            *out = side[i];
        }
    }
}

/// Softmax attention of a panel; `p` is scratch. Saves the maxima and inverse sums.
///
/// # Safety
/// The CPU has the features.
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn forward(
    panel: Panel<'_>,
    p: &mut [f32],
    max: &mut [f32],
    inverse: &mut [f32],
    out: &mut [f32],
    ldo: usize,
) {
    panel.check(p);
    assert!(max.len() >= NR && inverse.len() >= NR, "attention: statistics");
    let Panel { keys, values, ld, seen, .. } = panel;
    let scale = _mm512_set1_ps(panel.scale);
    // SAFETY: the lengths were checked above.
    unsafe {
        let p = p.as_mut_ptr();
        let q = load(panel.q);
        let mut most = _mm512_set1_ps(f32::NEG_INFINITY);
        for key in 0..seen {
            let s = along_head(keys.as_ptr().add(key * ld), &q);
            let s = _mm512_mask_blend_ps(panel.hidden(key), s, _mm512_set1_ps(f32::NEG_INFINITY));
            most = _mm512_max_ps(s, most);
            _mm512_storeu_ps(p.add(key * BLOCK), s);
        }
        let mut sums = [_mm512_setzero_ps(); NR];
        for key in 0..seen {
            let at = p.add(key * BLOCK);
            let e = exp(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(at), most), scale));
            _mm512_storeu_ps(at, e);
            sums[key % NR] = _mm512_add_ps(sums[key % NR], e);
        }
        let mut w = NR / 2;
        while w > 0 {
            for a in 0..w {
                sums[a] = _mm512_add_ps(sums[a], sums[a + w]);
            }
            w /= 2;
        }
        let inv = _mm512_div_ps(_mm512_set1_ps(1.0), sums[0]);
        let mut o = [_mm512_setzero_ps(); HEAD];
        for key in 0..seen {
            let weight = _mm512_mul_ps(_mm512_loadu_ps(p.add(key * BLOCK)), inv);
            accumulate(&mut o, values.as_ptr().add(key * ld), weight);
        }
        scatter(&o, out, ldo, panel.queries);
        _mm512_storeu_ps(max.as_mut_ptr(), most);
        _mm512_storeu_ps(inverse.as_mut_ptr(), inv);
    }
}

/// Probabilities into `p` and score gradients into `ds`, zero in rows `seen..rows`, and the gradient of the queries
/// into `dq`.
///
/// # Safety
/// The CPU has the features.
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn backward(
    panel: Panel<'_>,
    d_out: &[f32],
    (max, inverse, along): (&[f32], &[f32], &[f32; NR]),
    rows: usize,
    p: &mut [f32],
    ds: &mut [f32],
    dq: &mut [f32],
) {
    panel.check(p);
    panel.check(ds);
    let last = (rows - 1) * BLOCK + NR;
    assert!(rows >= panel.seen && p.len() >= last && ds.len() >= last, "attention: scratch too short");
    assert!(d_out.len() >= HEAD * NR && max.len() >= NR && inverse.len() >= NR, "attention: statistics");
    let Panel { keys, values, ld, seen, .. } = panel;
    let scale = _mm512_set1_ps(panel.scale);
    // SAFETY: the lengths were checked above.
    unsafe {
        let (p, ds) = (p.as_mut_ptr(), ds.as_mut_ptr());
        let (max, inverse) = (_mm512_loadu_ps(max.as_ptr()), _mm512_loadu_ps(inverse.as_ptr()));
        let along = _mm512_loadu_ps(along.as_ptr());
        // Two passes: one alone needs more registers than there are.
        let q = load(panel.q);
        for key in 0..seen {
            let s = along_head(keys.as_ptr().add(key * ld), &q);
            let s = _mm512_mask_blend_ps(panel.hidden(key), s, _mm512_set1_ps(f32::NEG_INFINITY));
            let e = _mm512_mul_ps(exp(_mm512_mul_ps(_mm512_sub_ps(s, max), scale)), inverse);
            _mm512_storeu_ps(p.add(key * BLOCK), e);
        }
        let d_out = load(d_out);
        let mut sum = [_mm512_setzero_ps(); HEAD];
        for key in 0..seen {
            let dp = along_head(values.as_ptr().add(key * ld), &d_out);
            let e = _mm512_loadu_ps(p.add(key * BLOCK));
            let g = _mm512_mul_ps(_mm512_mul_ps(e, _mm512_sub_ps(dp, along)), scale);
            _mm512_storeu_ps(ds.add(key * BLOCK), g);
            accumulate(&mut sum, keys.as_ptr().add(key * ld), g);
        }
        for key in seen..rows {
            _mm512_storeu_ps(p.add(key * BLOCK), _mm512_setzero_ps());
            _mm512_storeu_ps(ds.add(key * BLOCK), _mm512_setzero_ps());
        }
        scatter(&sum, dq, ld, panel.queries);
    }
}

/// Sums 16 lanes in the tree of [`crate::simd::fold`].
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn fold(x: __m512) -> f32 {
    let x = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ps(x, _mm_shuffle_ps::<1>(x, x)))
}

/// The newest position of one row against its cache of `seen` keys, that position included.
#[derive(Clone, Copy)]
pub(crate) struct Newest<'a> {
    /// Queries of all heads.
    pub(crate) q: &'a [f32],
    /// Keys, transposed: kv_heads × HEAD × `cap`.
    pub(crate) keys: &'a [f32],
    /// Values in rows padded to 16: kv_heads × `cap` × 16.
    pub(crate) values: &'a [f32],
    /// Room for keys, a multiple of 16.
    pub(crate) cap: usize,
    pub(crate) seen: usize,
    /// Query heads, and how many of them share a key and value head.
    pub(crate) heads: usize,
    pub(crate) group: usize,
    pub(crate) scale: f32,
}

/// Query heads whose values are summed side by side: one sum alone would wait for itself.
const TOGETHER: usize = 8;

/// Attention of [`Newest`]: `out` gets heads × HEAD numbers; `scores` is scratch of heads × `cap`.
///
/// # Safety
/// The CPU has the features.
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(crate) unsafe fn attend(n: Newest<'_>, scores: &mut [f32], out: &mut [f32]) {
    let Newest { q, keys, values, cap, seen, heads, group, .. } = n;
    let kv_heads = heads.div_ceil(group);
    assert!(seen > 0 && seen <= cap && cap.is_multiple_of(NR), "attention: cache");
    assert!(keys.len() >= kv_heads * HEAD * cap && values.len() >= kv_heads * cap * NR, "attention: cache");
    assert!(q.len() >= heads * HEAD && out.len() >= heads * HEAD, "attention: queries");
    assert!(scores.len() >= heads * cap, "attention: scratch too short");
    let scale = _mm512_set1_ps(n.scale);
    let whole = seen.next_multiple_of(NR);
    let last = (0xFFFF_u32 >> (whole - seen)) as __mmask16;
    // SAFETY: the lengths were checked above.
    unsafe {
        for h in 0..heads {
            let k = keys.as_ptr().add(h / group * HEAD * cap);
            let s = scores.as_mut_ptr().add(h * cap);
            let mut most = _mm512_set1_ps(f32::NEG_INFINITY);
            for j in (0..whole).step_by(NR) {
                let mut z = _mm512_setzero_ps();
                for d in 0..HEAD {
                    let q = _mm512_set1_ps(*q.as_ptr().add(h * HEAD + d));
                    z = _mm512_fmadd_ps(q, _mm512_loadu_ps(k.add(d * cap + j)), z);
                }
                let visible = if j + NR == whole { last } else { 0xFFFF };
                let z = _mm512_mask_blend_ps(visible, _mm512_set1_ps(f32::NEG_INFINITY), z);
                most = _mm512_max_ps(z, most);
                _mm512_storeu_ps(s.add(j), z);
            }
            let most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
            let mut sum = _mm512_setzero_ps();
            for j in (0..whole).step_by(NR) {
                let e = exp(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(s.add(j)), most), scale));
                _mm512_storeu_ps(s.add(j), e);
                sum = _mm512_add_ps(sum, e);
            }
            let inverse = _mm512_set1_ps(1.0 / fold(sum));
            for j in (0..whole).step_by(NR) {
                _mm512_storeu_ps(s.add(j), _mm512_mul_ps(_mm512_loadu_ps(s.add(j)), inverse));
            }
        }
        for h0 in (0..heads).step_by(TOGETHER) {
            let count = TOGETHER.min(heads - h0);
            let at = |h: usize| (scores.as_ptr().add(h * cap), values.as_ptr().add(h / group * cap * NR));
            let from: [_; TOGETHER] = std::array::from_fn(|i| at(h0 + i.min(count - 1)));
            let mut o = [_mm512_setzero_ps(); TOGETHER];
            for key in 0..seen {
                for (o, (p, v)) in o.iter_mut().zip(&from) {
                    *o = _mm512_fmadd_ps(_mm512_set1_ps(*p.add(key)), _mm512_loadu_ps(v.add(key * NR)), *o);
                }
            }
            for (i, o) in o.iter().take(count).enumerate() {
                _mm256_storeu_ps(out.as_mut_ptr().add((h0 + i) * HEAD), _mm512_castps512_ps256(*o));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_has_the_bits_of_the_portable_one() {
        if !crate::simd::has_avx512() {
            return;
        }
        #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
        fn all(x: &[f32; NR]) -> [f32; NR] {
            let mut y = [0.0; NR];
            // SAFETY: sixteen numbers each.
            unsafe { _mm512_storeu_ps(y.as_mut_ptr(), exp(_mm512_loadu_ps(x.as_ptr()))) };
            y
        }
        let special = [f32::NEG_INFINITY, -64.5, -64.0, 0.0, -0.0, 88.0, 89.0, f32::INFINITY];
        let xs: Vec<f32> = (0..4096).map(|i| -95.0 + i as f32 * 0.045).chain(special).collect();
        for x in xs.as_chunks::<NR>().0 {
            // SAFETY: the CPU was just asked.
            let y = unsafe { all(x) };
            for (x, y) in x.iter().zip(y) {
                assert_eq!(y.to_bits(), crate::simd::exp::<true>(*x).to_bits(), "{x}");
            }
        }
        // SAFETY: the CPU was just asked.
        assert!(unsafe { all(&[f32::NAN; NR]) }[0].is_nan());
    }
}
