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
    __m128, __m512, __mmask16, _CMP_LT_OQ, _mm_storeu_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512,
    _mm512_castps256_ps512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_div_ps, _mm512_extractf32x4_ps,
    _mm512_fmadd_ps, _mm512_insertf32x8, _mm512_loadu_ps, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_min_ps,
    _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
    _mm512_shuffle_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps, _mm512_unpackhi_ps,
    _mm512_unpacklo_ps,
};

/// The size of a head that this file is for.
pub(super) const HEAD: usize = 8;

/// What both directions read: a block of 16 queries against the keys they see.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// Queries from the first on, keys and values; `ld` floats from row to row.
    pub(super) q: &'a [f32],
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) ld: usize,
    /// The first query, how many there are, and the keys up to the last one of them.
    pub(super) q0: usize,
    pub(super) queries: usize,
    pub(super) seen: usize,
    pub(super) scale: f32,
}

/// Whether `x` holds `rows` rows of a head.
fn holds(x: &[f32], rows: usize, ld: usize) -> bool {
    rows == 0 || x.len() >= (rows - 1) * ld + HEAD
}

impl Panel<'_> {
    fn check(&self, p: &[f32]) {
        let last = (self.seen - 1) * self.ld + HEAD;
        assert!(self.keys.len() >= last && self.values.len() >= last, "attention: keys too short");
        assert!(holds(self.q, self.queries, self.ld) && self.queries <= NR, "attention: queries");
        assert!(p.len() >= (self.seen - 1) * BLOCK + NR, "attention: scratch too short");
    }

    /// The queries, transposed.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
    unsafe fn load(&self) -> [__m512; HEAD] {
        // SAFETY: the caller has called `check`.
        unsafe { load(self.q.as_ptr(), self.ld, self.queries) }
    }

    /// The lanes whose query comes before this key and does not see it.
    #[inline(always)]
    fn hidden(&self, key: usize) -> __mmask16 {
        if key > self.q0 { ((1_u32 << (key - self.q0)) - 1) as __mmask16 } else { 0 }
    }
}

/// eˣ, operation by operation that of [`crate::simd::exp`].
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(super) fn exp(x: __m512) -> __m512 {
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

/// `rows` ≤ 16 rows of a head, transposed: a register for each dimension; 0 in the lanes without a row.
///
/// # Safety
/// The rows are there.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn load(x: *const f32, ld: usize, rows: usize) -> [__m512; HEAD] {
    let row = |i: usize| {
        // SAFETY: the caller's.
        if i < rows { unsafe { _mm256_loadu_ps(x.add(i * ld)) } } else { _mm256_setzero_ps() }
    };
    // Quarters of a register: rows 0–3 | 4–7 and 8–11 | 12–15, each first for dimensions 0–3, then for 4–7.
    let pair = |i: usize, j: usize| _mm512_insertf32x8::<1>(_mm512_castps256_ps512(row(i)), row(j));
    let [a0, a1, a2, a3] = square([pair(0, 4), pair(1, 5), pair(2, 6), pair(3, 7)]);
    let [b0, b1, b2, b3] = square([pair(8, 12), pair(9, 13), pair(10, 14), pair(11, 15)]);
    [
        _mm512_shuffle_f32x4::<0x88>(a0, b0),
        _mm512_shuffle_f32x4::<0x88>(a1, b1),
        _mm512_shuffle_f32x4::<0x88>(a2, b2),
        _mm512_shuffle_f32x4::<0x88>(a3, b3),
        _mm512_shuffle_f32x4::<0xDD>(a0, b0),
        _mm512_shuffle_f32x4::<0xDD>(a1, b1),
        _mm512_shuffle_f32x4::<0xDD>(a2, b2),
        _mm512_shuffle_f32x4::<0xDD>(a3, b3),
    ]
}

/// Transposes the four squares of 4 × 4 numbers that stand in the quarters of four registers.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn square([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    [
        _mm512_shuffle_ps::<0x44>(ab, cd),
        _mm512_shuffle_ps::<0xEE>(ab, cd),
        _mm512_shuffle_ps::<0x44>(ab_high, cd_high),
        _mm512_shuffle_ps::<0xEE>(ab_high, cd_high),
    ]
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
///
/// # Panics
/// If `out` has no room for the rows.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn scatter(o: &[__m512; HEAD], out: &mut [f32], ld: usize, queries: usize) {
    assert!(holds(out, queries, ld), "attention: output too short");
    let (low, high) = (square([o[0], o[1], o[2], o[3]]), square([o[4], o[5], o[6], o[7]]));
    let out = out.as_mut_ptr();
    for i in 0..4 {
        let put = |query: usize, low: __m128, high: __m128| {
            if query < queries {
                // SAFETY: `out` holds the rows of all queries.
                unsafe {
                    _mm_storeu_ps(out.add(query * ld), low);
                    _mm_storeu_ps(out.add(query * ld + 4), high);
                }
            }
        };
        let (low, high) = (low[i], high[i]);
        put(i, _mm512_extractf32x4_ps::<0>(low), _mm512_extractf32x4_ps::<0>(high));
        put(i + 4, _mm512_extractf32x4_ps::<1>(low), _mm512_extractf32x4_ps::<1>(high));
        put(i + 8, _mm512_extractf32x4_ps::<2>(low), _mm512_extractf32x4_ps::<2>(high));
        put(i + 12, _mm512_extractf32x4_ps::<3>(low), _mm512_extractf32x4_ps::<3>(high));
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
        let q = panel.load();
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

/// Probabilities into `p`, score gradients into `ds` and the gradient of the queries into `dq`. `out` and `d_out` are
/// the rows of these queries, `ldo` floats apart.
///
/// # Safety
/// The CPU has the features.
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn backward(
    panel: Panel<'_>,
    (out, d_out, ldo): (&[f32], &[f32], usize),
    (max, inverse): (&[f32], &[f32]),
    p: &mut [f32],
    ds: &mut [f32],
    dq: &mut [f32],
) {
    panel.check(p);
    panel.check(ds);
    let Panel { keys, values, ld, queries, seen, .. } = panel;
    assert!(holds(out, queries, ldo) && holds(d_out, queries, ldo), "attention: outputs");
    assert!(max.len() >= NR && inverse.len() >= NR, "attention: statistics");
    let scale = _mm512_set1_ps(panel.scale);
    // SAFETY: the lengths were checked above.
    unsafe {
        let (p, ds) = (p.as_mut_ptr(), ds.as_mut_ptr());
        let (max, inverse) = (_mm512_loadu_ps(max.as_ptr()), _mm512_loadu_ps(inverse.as_ptr()));
        // Two passes: one alone needs more registers than there are.
        let q = panel.load();
        for key in 0..seen {
            let s = along_head(keys.as_ptr().add(key * ld), &q);
            let s = _mm512_mask_blend_ps(panel.hidden(key), s, _mm512_set1_ps(f32::NEG_INFINITY));
            let e = _mm512_mul_ps(exp(_mm512_mul_ps(_mm512_sub_ps(s, max), scale)), inverse);
            _mm512_storeu_ps(p.add(key * BLOCK), e);
        }
        let d_out = load(d_out.as_ptr(), ldo, queries);
        let along = {
            let out = load(out.as_ptr(), ldo, queries);
            // In the tree of `crate::simd::fold`.
            let x: [__m512; HEAD] = std::array::from_fn(|d| _mm512_mul_ps(d_out[d], out[d]));
            let (a, b) = (_mm512_add_ps(x[0], x[4]), _mm512_add_ps(x[1], x[5]));
            let (c, d) = (_mm512_add_ps(x[2], x[6]), _mm512_add_ps(x[3], x[7]));
            _mm512_add_ps(_mm512_add_ps(a, c), _mm512_add_ps(b, d))
        };
        let mut sum = [_mm512_setzero_ps(); HEAD];
        for key in 0..seen {
            let dp = along_head(values.as_ptr().add(key * ld), &d_out);
            let e = _mm512_loadu_ps(p.add(key * BLOCK));
            let g = _mm512_mul_ps(_mm512_mul_ps(e, _mm512_sub_ps(dp, along)), scale);
            _mm512_storeu_ps(ds.add(key * BLOCK), g);
            accumulate(&mut sum, keys.as_ptr().add(key * ld), g);
        }
        scatter(&sum, dq, ld, queries);
    }
}

/// Keys whose gradients are summed side by side. A divisor of 16, so that all of them have been met by whichever 16
/// queries have met the first.
const KEYS: usize = 8;

/// A block of queries of one head from `q0` on, and the keys up to the last of them.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// Probabilities and score gradients, one row of [`BLOCK`] per key.
    pub(super) p: &'a [f32],
    pub(super) ds: &'a [f32],
    /// Queries, `ld` floats from row to row, and the gradient of the outputs, `ldo`.
    pub(super) q: &'a [f32],
    pub(super) ld: usize,
    pub(super) d_out: &'a [f32],
    pub(super) ldo: usize,
    pub(super) q0: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// Whether no other head has added to the gradients of these keys and values yet.
    pub(super) first: bool,
}

/// Adds a block's part to the gradients of the keys at `dk` and of the values at `dv`, rows of `d_qkv`.
///
/// # Safety
/// The CPU has the features.
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn backward_keys(b: Block<'_>, d_qkv: &mut [f32], dk: usize, dv: usize) {
    let Block { p, ds, keys, queries, q0, .. } = b;
    assert!(keys == q0 + queries && q0.is_multiple_of(KEYS) && queries <= BLOCK, "attention: block");
    assert!(p.len() >= keys * BLOCK && ds.len() >= keys * BLOCK, "attention: scratch too short");
    assert!(holds(b.q, queries, b.ld) && holds(b.d_out, queries, b.ldo), "attention: queries");
    assert!(holds(&d_qkv[dk..], keys, b.ld) && holds(&d_qkv[dv..], keys, b.ld), "attention: gradients");
    let mut key = 0;
    while key < keys {
        let d_qkv = d_qkv.as_mut_ptr();
        // SAFETY: the lengths were checked above.
        unsafe {
            let (dk, dv) = (d_qkv.add(dk + key * b.ld), d_qkv.add(dv + key * b.ld));
            match keys - key {
                1 => some_keys::<1>(b, key, dk, dv),
                2 => some_keys::<2>(b, key, dk, dv),
                3 => some_keys::<3>(b, key, dk, dv),
                4 => some_keys::<4>(b, key, dk, dv),
                5 => some_keys::<5>(b, key, dk, dv),
                6 => some_keys::<6>(b, key, dk, dv),
                7 => some_keys::<7>(b, key, dk, dv),
                _ => some_keys::<KEYS>(b, key, dk, dv),
            }
        }
        key += KEYS;
    }
}

/// [`backward_keys`] for N keys from `key` on: a head fills half a register, which is all that is taken.
///
/// # Safety
/// Keys and queries are inside the block, whose lengths are checked.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn some_keys<const N: usize>(b: Block<'_>, key: usize, dk: *mut f32, dv: *mut f32) {
    let Block { ld, ldo, q0, queries, .. } = b;
    // Earlier queries do not see them; later ones are the first that do.
    let (from, fresh) = (key.saturating_sub(q0), b.first && key >= q0);
    // SAFETY: the caller's.
    unsafe {
        let (p, ds) = (b.p.as_ptr().add(key * BLOCK), b.ds.as_ptr().add(key * BLOCK));
        let (mut k, mut v) = ([_mm256_setzero_ps(); N], [_mm256_setzero_ps(); N]);
        if !fresh {
            for i in 0..N {
                k[i] = _mm256_loadu_ps(dk.add(i * ld));
                v[i] = _mm256_loadu_ps(dv.add(i * ld));
            }
        }
        for query in from..queries {
            let q = _mm256_loadu_ps(b.q.as_ptr().add(query * ld));
            let g = _mm256_loadu_ps(b.d_out.as_ptr().add(query * ldo));
            for i in 0..N {
                k[i] = _mm256_fmadd_ps(_mm256_set1_ps(*ds.add(i * BLOCK + query)), q, k[i]);
                v[i] = _mm256_fmadd_ps(_mm256_set1_ps(*p.add(i * BLOCK + query)), g, v[i]);
            }
        }
        for i in 0..N {
            _mm256_storeu_ps(dk.add(i * ld), k[i]);
            _mm256_storeu_ps(dv.add(i * ld), v[i]);
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
