//! Products of bf16 by AVX512-BF16: sixteen columns at a time, two inner indices at once.
//!
//! `vdpbf16ps` adds to a lane the product of the second indices of a pair and then that of the first, each rounded to
//! f32. A row of C depends on its row of A alone.

use super::{BLOCK, Line};
use crate::gemm::NR;
use crate::gemm::Shape;
use crate::gemm::wide::{Wide, tiles};
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::mem::transmute;

/// What one tile reads and writes.
#[derive(Clone, Copy)]
struct Tile {
    pairs: usize,
    a: *const u32,
    lda: usize,
    b: *const Line,
    panel: usize,
    from: *const f32,
    c: *mut f32,
    ldc: usize,
    cols: usize,
}

/// C = D + A·B with `pairs` pairs of inner indices: a row of A has `lda` pairs, a panel of B `panel` lines.
///
/// # Safety
/// The CPU has AVX512-BF16; A has m rows, B ⌈n/16⌉ panels, C and D (null for none) are as in
/// [`gemm_at`](crate::gemm::gemm_at).
pub(super) unsafe fn product(
    (m, n, pairs): (usize, usize, usize),
    (a, lda): (*const u32, usize),
    (b, panel): (*const Line, usize),
    from: *const f32,
    c: *mut f32,
    ldc: usize,
) {
    let panels = n.div_ceil(NR);
    // Strips of like height, instead of full ones and a low rest.
    let strips = m.div_ceil(Wide::ROWS);
    let (low, higher) = (m / strips, m % strips);
    let mut j = 0;
    while j < panels {
        let np = Wide::panels(low + usize::from(higher > 0), panels - j);
        let mut i = 0;
        for strip in 0..strips {
            let height = low + usize::from(strip < higher);
            let at = i * ldc + j * NR;
            // SAFETY: inside the matrices by the caller's sizes.
            unsafe {
                let t = Tile {
                    pairs,
                    a: a.add(i * lda),
                    lda,
                    b: b.add(j * panel),
                    panel,
                    from: if from.is_null() { from } else { from.add(at) },
                    c: c.add(at),
                    ldc,
                    cols: (np * NR).min(n - j * NR),
                };
                dispatch(height, np, &t);
            }
            i += height;
        }
        j += np;
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
unsafe fn dispatch(rows: usize, panels: usize, t: &Tile) {
    // SAFETY: the caller's.
    unsafe { tiles!(run, rows, panels, t) }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
unsafe fn run<const MR: usize, const NP: usize>(tile: &Tile) {
    let Tile { pairs, a, lda, b, panel, from, c, ldc, cols } = *tile;
    let last = (0xFFFF_u32 >> (NP * NR - cols)) as __mmask16;
    let mask = |q: usize| if q + 1 == NP { last } else { 0xFFFF };
    let mut t = [[_mm512_setzero_ps(); NP]; MR];
    // SAFETY: rows and columns inside the matrices by the caller's sizes; only `cols` columns of C are touched. The
    // vector types are 64 bytes of any contents.
    unsafe {
        if !from.is_null() {
            for r in 0..MR {
                for q in 0..NP {
                    t[r][q] = _mm512_maskz_loadu_ps(mask(q), from.add(r * ldc + q * NR));
                }
            }
        }
        for p in 0..pairs {
            let mut bv = [transmute::<__m512, __m512bh>(_mm512_setzero_ps()); NP];
            for q in 0..NP {
                bv[q] = transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.add(q * panel + p).cast()));
            }
            for r in 0..MR {
                let av = _mm512_set1_epi32((*a.add(r * lda + p)).cast_signed());
                let av = transmute::<__m512i, __m512bh>(av);
                for q in 0..NP {
                    t[r][q] = _mm512_dpbf16_ps(t[r][q], av, bv[q]);
                }
            }
        }
        for r in 0..MR {
            for q in 0..NP {
                _mm512_mask_storeu_ps(c.add(r * ldc + q * NR), mask(q), t[r][q]);
            }
        }
    }
}

/// 32 numbers rounded to bf16, the first in the lowest bits; denormal numbers become 0.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
fn round(first: __m512, second: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of any contents.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
}

/// `x`, rounded, in order; what is left of the lines is 0.
///
/// # Safety
/// The CPU has AVX512-BF16; the lines have room for `x`.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn round_row(x: &[f32], out: &mut [Line]) {
    for (i, out) in out.iter_mut().enumerate() {
        let left = x.len().saturating_sub(32 * i);
        let at = |skip: usize| {
            let n = left.saturating_sub(skip).min(16);
            let from = x.as_ptr().wrapping_add(32 * i + skip);
            // SAFETY: only the `n` numbers that are there are read.
            unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as __mmask16, from) }
        };
        // SAFETY: a line is 64 bytes.
        unsafe { _mm512_storeu_si512(out.0.as_mut_ptr().cast(), round(at(0), at(16))) };
    }
}

/// The order that puts the numbers of two rounded rows side by side.
const SIDE_BY_SIDE: [u16; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 16 {
        order[2 * i] = i as u16;
        order[2 * i + 1] = 16 + i as u16;
        i += 1;
    }
    order
};

/// Rows `p` and `p + 1` of the first `columns` columns of `x`, rounded, in pairs: row `p` in the low halves. A row from
/// `k` on is 0.
///
/// # Safety
/// The CPU has AVX512-BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
unsafe fn two_rows(x: &[f32], ld: usize, p: usize, k: usize, columns: usize) -> __m512i {
    let row = |p: usize| {
        if p >= k {
            return _mm512_setzero_ps();
        }
        let from = &x[p * ld..][..columns];
        // SAFETY: `columns` floats, at most sixteen.
        unsafe { _mm512_maskz_loadu_ps((0xFFFF_u32 >> (NR - columns)) as __mmask16, from.as_ptr()) }
    };
    // SAFETY: the order has 32 entries.
    let order = unsafe { _mm512_loadu_si512(SIDE_BY_SIDE.as_ptr().cast()) };
    _mm512_permutexvar_epi16(order, round(row(p), row(p + 1)))
}

/// A panel of `columns` columns from rows, `ld` floats from row to row.
///
/// # Safety
/// The CPU has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn round_panel(x: &[f32], ld: usize, k: usize, columns: usize, out: &mut [Line]) {
    let columns = columns.min(NR);
    for (p, out) in out.iter_mut().enumerate() {
        // SAFETY: a line is 64 bytes.
        unsafe { _mm512_storeu_si512(out.0.as_mut_ptr().cast(), two_rows(x, ld, 2 * p, k, columns)) };
    }
}

/// The first `m` columns of `x`, each as a row of `out` of `blocks` lines: `k` rows, `ld` floats from row to row.
///
/// # Safety
/// The CPU has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn round_columns(
    x: &[f32],
    ld: usize,
    (m, k): (usize, usize),
    blocks: usize,
    out: &mut [Line],
) {
    for i in (0..m).step_by(NR) {
        let columns = NR.min(m - i);
        for block in 0..blocks {
            let mut square = [_mm512_setzero_si512(); NR];
            for (p, line) in square.iter_mut().enumerate() {
                // SAFETY: the caller's.
                *line = unsafe { two_rows(&x[i..], ld, BLOCK * block + 2 * p, k, columns) };
            }
            for (r, line) in turned(square).into_iter().enumerate().take(columns) {
                let to = &mut out[(i + r) * blocks + block];
                // SAFETY: a line is 64 bytes.
                unsafe { _mm512_storeu_si512(to.0.as_mut_ptr().cast(), line) };
            }
        }
    }
}

/// The transpose of sixteen words by sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")]
fn turned(r: [__m512i; NR]) -> [__m512i; NR] {
    let mut t = r;
    for i in (0..NR).step_by(2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    // Now words of four rows, which every 128-bit lane has for four columns.
    let mut u = t;
    for i in (0..NR).step_by(4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // u[4q + c] has rows 4q to 4q + 3 of the columns c, c + 4, c + 8, c + 12, one in each lane.
    let mut out = u;
    for c in 0..4 {
        let [a, b, d, e] = [u[c], u[4 + c], u[8 + c], u[12 + c]];
        let low = [_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(d, e)];
        let high = [_mm512_shuffle_i32x4::<0xEE>(a, b), _mm512_shuffle_i32x4::<0xEE>(d, e)];
        out[c] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
        out[4 + c] = _mm512_shuffle_i32x4::<0xDD>(low[0], low[1]);
        out[8 + c] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
        out[12 + c] = _mm512_shuffle_i32x4::<0xDD>(high[0], high[1]);
    }
    out
}
