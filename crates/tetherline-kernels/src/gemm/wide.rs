//! Tiles for the thirty-two registers of sixteen floats of AVX-512.
//!
//! Intrinsics, since an accumulator that the compiler keeps in memory costs half the speed; a last panel that is
//! not full is read and written under a mask.

use super::{NR, Shape, Tile};
use std::arch::x86_64::{
    __mmask16, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_ps, _mm512_setzero_ps,
};

/// At most 9 rows × 3 panels: 27 accumulators, 3 registers of B and one of A.
pub(super) struct Wide;

impl Shape for Wide {
    const ROWS: usize = 9;

    #[inline(always)]
    fn panels(rows: usize, left: usize) -> usize {
        let most = match rows {
            1 => 8,
            2 | 3 => 6,
            4 => 5,
            5 | 6 => 4,
            _ => 3,
        };
        match left {
            _ if left <= most => left,
            // A last tile of one panel reads more than it multiplies.
            _ if left == most + 1 => most - 1,
            _ => most,
        }
    }

    #[inline(always)]
    unsafe fn tile<const FMA: bool>(rows: usize, panels: usize, t: &Tile) {
        // SAFETY: the caller's.
        unsafe { dispatch(rows, panels, t) }
    }
}

/// Calls `$run::<rows, panels>($t)`, for every tile that fits the registers.
macro_rules! tiles {
    ($run:ident, $rows:expr, $panels:expr, $t:expr) => {
        tiles!($run, $rows, $panels, $t;
            1: 1 2 3 4 5 6 7 8;
            2: 1 2 3 4 5 6;
            3: 1 2 3 4 5 6;
            4: 1 2 3 4 5;
            5: 1 2 3 4;
            6: 1 2 3 4;
            7: 1 2 3;
            8: 1 2 3;
            9: 1 2 3;
        )
    };
    ($run:ident, $rows:expr, $panels:expr, $t:expr; $($r:literal: $($p:literal)*;)*) => {
        match ($rows, $panels) {
            $($(($r, $p) => tiles!(@ $run, $r, $p, $t),)*)*
            (rows, panels) => unreachable!("no tile of {rows} rows and {panels} panels"),
        }
    };
    (@ $run:ident, $r:literal, $p:literal, $t:expr) => { $run::<$r, $p>($t) };
}
pub(super) use tiles;

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn dispatch(rows: usize, panels: usize, t: &Tile) {
    // SAFETY: the caller's.
    unsafe { tiles!(run, rows, panels, t) }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn run<const MR: usize, const NP: usize>(tile: &Tile) {
    let Tile { k, a, ars, acs, b, brs, bps, from, c, ldc, cols } = *tile;
    let last = (0xFFFF_u32 >> (NP * NR - cols)) as __mmask16;
    let mask = |q: usize| if q + 1 == NP { last } else { 0xFFFF };
    let mut t = [[_mm512_setzero_ps(); NP]; MR];
    // SAFETY: rows and columns inside the matrices by the caller's checks; only `cols` columns of C are touched.
    unsafe {
        if !from.is_null() {
            for r in 0..MR {
                for q in 0..NP {
                    t[r][q] = _mm512_maskz_loadu_ps(mask(q), from.add(r * ldc + q * NR));
                }
            }
        }
        for p in 0..k {
            let mut bv = [_mm512_setzero_ps(); NP];
            for q in 0..NP {
                bv[q] = _mm512_loadu_ps(b.add(q * bps + p * brs));
            }
            for r in 0..MR {
                let av = _mm512_set1_ps(*a.add(r * ars + p * acs));
                for q in 0..NP {
                    t[r][q] = _mm512_fmadd_ps(av, bv[q], t[r][q]);
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
