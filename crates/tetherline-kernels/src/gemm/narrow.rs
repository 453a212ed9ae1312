//! Tiles for sixteen registers of eight floats (AVX2) and for whatever else the compiler vectorises for.

use super::{NR, Shape, Tile};
use crate::simd::fma;

/// At most 6 rows × 1 panel: twelve accumulators.
pub(super) struct Narrow;

impl Shape for Narrow {
    const ROWS: usize = 6;

    #[inline(always)]
    fn panels(rows: usize, left: usize) -> usize {
        // Few rows cannot hide the latency of the multiply-adds: take several panels at once.
        match rows {
            1 if left >= 4 => 4,
            2 | 3 if left >= 2 => 2,
            _ => 1,
        }
    }

    #[inline(always)]
    unsafe fn tile<const FMA: bool>(rows: usize, panels: usize, t: &Tile) {
        // SAFETY: the caller's.
        unsafe {
            match (rows, panels) {
                (1, 1) => run::<1, 1, FMA>(t),
                (1, _) => run::<1, 4, FMA>(t),
                (2, 1) => run::<2, 1, FMA>(t),
                (2, _) => run::<2, 2, FMA>(t),
                (3, 1) => run::<3, 1, FMA>(t),
                (3, _) => run::<3, 2, FMA>(t),
                (4, _) => run::<4, 1, FMA>(t),
                (5, _) => run::<5, 1, FMA>(t),
                _ => run::<6, 1, FMA>(t),
            }
        }
    }
}

#[inline(always)]
unsafe fn run<const MR: usize, const NP: usize, const FMA: bool>(tile: &Tile) {
    let Tile { from, c, ldc, cols, .. } = *tile;
    let mut t = [[[0.0f32; NR]; NP]; MR];
    // SAFETY: rows and columns inside the matrices by the caller's checks; only `cols` columns of C are touched.
    unsafe {
        if !from.is_null() {
            if cols == NP * NR {
                for r in 0..MR {
                    for q in 0..NP {
                        t[r][q] = from.add(r * ldc + q * NR).cast::<[f32; NR]>().read_unaligned();
                    }
                }
            } else {
                for r in 0..MR {
                    for x in 0..cols {
                        t[r][x / NR][x % NR] = *from.add(r * ldc + x);
                    }
                }
            }
        }
        for p in 0..tile.k {
            for q in 0..NP {
                let bv = tile.b.add(q * tile.bps + p * tile.brs).cast::<[f32; NR]>().read_unaligned();
                for r in 0..MR {
                    let av = *tile.a.add(r * tile.ars + p * tile.acs);
                    for x in 0..NR {
                        t[r][q][x] = fma::<FMA>(av, bv[x], t[r][q][x]);
                    }
                }
            }
        }
        if cols == NP * NR {
            for r in 0..MR {
                for q in 0..NP {
                    c.add(r * ldc + q * NR).cast::<[f32; NR]>().write_unaligned(t[r][q]);
                }
            }
        } else {
            for r in 0..MR {
                for x in 0..cols {
                    *c.add(r * ldc + x) = t[r][x / NR][x % NR];
                }
            }
        }
    }
}
