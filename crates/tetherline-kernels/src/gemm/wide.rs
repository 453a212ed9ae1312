//! Tiles for the thirty-two registers of sixteen floats of AVX-512.
//!
//! Intrinsics, since an accumulator that the compiler keeps in memory costs half the speed; a last panel that is
//! not full is read and written under a mask.

use super::{Columns, NR, Shape, Tile};
use std::arch::x86_64::{
    __m512, __mmask16, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

/// Inner indices between two rounds of fetching: a cache line of a row of A.
const ROUND: usize = 16;

/// Lower tiles are no work to fetch behind.
const HIGH: usize = 7;

/// The same where B alone is fetched. Below, the CPU's own prefetching does better.
const STREAMING: usize = 4;

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
    let Tile { k, a, ars, acs, b, brs, bps, from, c, ldc, cols, next } = *tile;
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
        let mut done = 0;
        if MR >= STREAMING && next.rows == usize::MAX {
            // A single strip: what is multiplied is read once, by and by.
            for p in 0..k {
                for q in 0..NP {
                    _mm_prefetch::<_MM_HINT_T0>(next.b.wrapping_add(q * bps + p * brs).cast());
                }
                add(&mut t, (a, ars, acs), (b, brs, bps), p);
            }
            done = k;
        } else if MR >= HIGH && NP == 3 && k >= ROUND && !next.c.is_null() {
            let share = next.rows.div_ceil(k / ROUND);
            for round in 0..k / ROUND {
                fetch::<MR, NP>(tile, round, share);
                for p in done..done + ROUND {
                    add(&mut t, (a, ars, acs), (b, brs, bps), p);
                }
                done += ROUND;
            }
        }
        for p in done..k {
            add(&mut t, (a, ars, acs), (b, brs, bps), p);
        }
        for r in 0..MR {
            for q in 0..NP {
                _mm512_mask_storeu_ps(c.add(r * ldc + q * NR), mask(q), t[r][q]);
            }
        }
    }
}

/// The columns of one row: x times each of the panels.
///
/// # Safety
/// The CPU has the features; x has `k` numbers, every panel `k` rows, and every place room for its columns.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(super) unsafe fn row(k: usize, x: *const f32, columns: &[Columns]) {
    // SAFETY: the caller's.
    unsafe {
        match *columns {
            [] => {}
            [a] => of_row(k, x, [a]),
            [a, b] => of_row(k, x, [a, b]),
            [a, b, c] => of_row(k, x, [a, b, c]),
            [a, b, c, d] => of_row(k, x, [a, b, c, d]),
            [a, b, c, d, e] => of_row(k, x, [a, b, c, d, e]),
            [a, b, c, d, e, f] => of_row(k, x, [a, b, c, d, e, f]),
            [a, b, c, d, e, f, g] => of_row(k, x, [a, b, c, d, e, f, g]),
            [a, b, c, d, e, f, g, h, ..] => {
                of_row(k, x, [a, b, c, d, e, f, g, h]);
                row(k, x, &columns[8..]);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn of_row<const NP: usize>(k: usize, x: *const f32, columns: [Columns; NP]) {
    let mut t = [_mm512_setzero_ps(); NP];
    // SAFETY: the caller's.
    unsafe {
        for p in 0..k {
            let x = _mm512_set1_ps(*x.add(p));
            for q in 0..NP {
                t[q] = _mm512_fmadd_ps(x, _mm512_loadu_ps(columns[q].b.add(p * NR)), t[q]);
            }
        }
        for (t, to) in t.into_iter().zip(columns) {
            _mm512_mask_storeu_ps(to.c, (0xFFFF_u32 >> (NR - to.count)) as __mmask16, t);
        }
    }
}

/// t += the products of inner index `p`; B by its rows and panels.
///
/// # Safety
/// As [`run`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn add<const MR: usize, const NP: usize>(
    t: &mut [[__m512; NP]; MR],
    (a, ars, acs): (*const f32, usize, usize),
    (b, brs, bps): (*const f32, usize, usize),
    p: usize,
) {
    let mut bv = [_mm512_setzero_ps(); NP];
    // SAFETY: the caller's.
    unsafe {
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
}

/// Asks for a part of what the next tiles need: of A the columns of this round, `share` rows of B, a row of C.
/// A large server's last-level cache gives a core 10 to 20 GB/s, with a latency of hundreds of cycles; a tile takes
/// thousands. The loops over A and C have constant counts: with counts of each tile they cost as much as they gain.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
#[expect(clippy::allow_attributes, reason = "older compilers call a prefetch unsafe, newer ones do not")]
#[allow(unused_unsafe, reason = "older compilers call a prefetch unsafe, newer ones do not")]
fn fetch<const MR: usize, const NP: usize>(t: &Tile, round: usize, share: usize) {
    let next = &t.next;
    // SAFETY: a prefetch reads nothing that the program sees, whatever the address.
    unsafe {
        if !next.a.is_null() && t.acs == 1 {
            for r in 0..MR {
                _mm_prefetch::<_MM_HINT_T1>(next.a.wrapping_add(r * t.ars + round * ROUND).cast());
            }
        } else if !next.a.is_null() {
            for p in round * ROUND..(round + 1) * ROUND {
                _mm_prefetch::<_MM_HINT_T1>(next.a.wrapping_add(p * t.acs).cast());
            }
        }
        for row in (round * share..(round + 1) * share).take_while(|row| *row < next.rows) {
            for q in 0..NP {
                _mm_prefetch::<_MM_HINT_T0>(next.b.wrapping_add(q * t.bps + row * t.brs).cast());
            }
        }
        if round < MR {
            for q in 0..NP {
                _mm_prefetch::<_MM_HINT_T0>(next.c.wrapping_add(round * t.ldc + q * NR).cast());
            }
        }
    }
}
