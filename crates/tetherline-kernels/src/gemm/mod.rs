//! C (+)= A·B for f32, single-threaded, with a summation order that never changes.
//!
//! A is read in place with any strides (so a transposed A costs nothing), B is read in panels of
//! [`NR`] columns. Every element of C is one chain of multiply-adds over the inner index in ascending
//! order: the tile size, the number of rows and the blocking of the inner dimension do not show in the
//! bits. A block boundary stores and reloads an f32 accumulator, which is exact.

mod narrow;
#[cfg(target_arch = "x86_64")]
mod wide;

use narrow::Narrow;
#[cfg(target_arch = "x86_64")]
use wide::Wide;

/// Columns of a panel of B.
pub(crate) const NR: usize = 16;
/// Inner indices per block: a block of a panel (32 KiB) stays in the first-level cache.
const KC: usize = 512;

/// B as the micro-kernel reads it: element (p, 16j + c) at `data[j·panel + p·row + c]`.
#[derive(Clone, Copy)]
pub(crate) struct B<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) panel: usize,
}

/// B packed into zero-padded panels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panels {
    data: Vec<f32>,
    k: usize,
    n: usize,
}

impl Panels {
    /// Packs element (p, j) from `b[p·rs + j·cs]`, for p < k, j < n.
    pub(crate) fn pack(&mut self, b: &[f32], rs: usize, cs: usize, k: usize, n: usize) {
        self.k = k;
        self.n = n;
        let panels = n.div_ceil(NR);
        let len = panels * k * NR;
        if self.data.len() < len {
            self.data.resize(len, 0.0);
        }
        for j in 0..panels {
            let cols = NR.min(n - j * NR);
            let out = &mut self.data[j * k * NR..(j + 1) * k * NR];
            if cs == 1 {
                for p in 0..k {
                    let src = &b[p * rs + j * NR..][..cols];
                    let dst = &mut out[p * NR..(p + 1) * NR];
                    dst[..cols].copy_from_slice(src);
                    dst[cols..].fill(0.0);
                }
            } else {
                out.fill(0.0);
                for c in 0..cols {
                    let column = &b[(j * NR + c) * cs..];
                    for p in 0..k {
                        out[p * NR + c] = column[p * rs];
                    }
                }
            }
        }
    }

    pub(crate) fn view(&self) -> B<'_> {
        B { data: &self.data, row: NR, panel: self.k * NR }
    }
}

/// A as the micro-kernel reads it: element (i, p) at `data[i·row + p·col]`.
#[derive(Clone, Copy)]
pub(crate) struct A<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) col: usize,
}

impl<'a> A<'a> {
    /// Row-major A with `row` floats from row to row.
    pub(crate) fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, col: 1 }
    }

    /// The transpose of a row-major matrix with `row` floats from row to row.
    pub(crate) fn transposed(data: &'a [f32], row: usize) -> Self {
        Self { data, row: 1, col: row }
    }
}

/// C\[m×n\] = A\[m×k\]·B\[k×n\], or += when `accumulate`; `c` has `ldc` floats from row to row.
///
/// # Panics
/// If a slice is too short for its sizes and strides.
pub(crate) fn gemm(
    m: usize,
    n: usize,
    k: usize,
    a: A<'_>,
    b: B<'_>,
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(c.len() > (m - 1) * ldc + n - 1 && n <= ldc, "gemm: C too short");
    if k == 0 {
        if !accumulate {
            for row in c.chunks_mut(ldc).take(m) {
                row[..n].fill(0.0);
            }
        }
        return;
    }
    assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.col, "gemm: A too short");
    let panels = n.div_ceil(NR);
    assert!(b.data.len() >= (panels - 1) * b.panel + (k - 1) * b.row + NR, "gemm: B too short");
    let g = Gemm { m, n, k, a, b, ldc, accumulate };
    let c = c.as_mut_ptr();
    #[cfg(target_arch = "x86_64")]
    if crate::simd::has_avx512() {
        // SAFETY: the CPU has the features; the sizes were checked above.
        unsafe { avx512(g, c) };
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if crate::simd::has_avx2_fma() {
        // SAFETY: the CPU has the features; the sizes were checked above.
        unsafe { avx2(g, c) };
        return;
    }
    // SAFETY: the sizes were checked above.
    unsafe { g.run::<Narrow, { crate::simd::BASELINE_FMA }>(c) };
}

/// The product to compute; sizes checked against the slices.
#[derive(Clone, Copy)]
struct Gemm<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: A<'a>,
    b: B<'a>,
    ldc: usize,
    accumulate: bool,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn avx512(g: Gemm<'_>, c: *mut f32) {
    // SAFETY: the caller's sizes.
    unsafe { g.run::<Wide, true>(c) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(g: Gemm<'_>, c: *mut f32) {
    // SAFETY: the caller's sizes.
    unsafe { g.run::<Narrow, true>(c) };
}

/// How many accumulators the registers hold, and so the shapes of the tiles.
trait Shape {
    /// Rows of the tallest tile.
    const ROWS: usize;

    /// Panels of a tile of `rows` rows where `left` panels are left.
    fn panels(rows: usize, left: usize) -> usize;

    /// Computes one tile.
    ///
    /// # Safety
    /// The tile lies inside the matrices.
    unsafe fn tile<const FMA: bool>(
        rows: usize,
        panels: usize,
        t: &Tile,
        c: *mut f32,
        ldc: usize,
        cols: usize,
        acc: bool,
    );
}

impl Gemm<'_> {
    /// Loops over blocks of the inner dimension, panels of B and rows of A.
    #[inline(always)]
    unsafe fn run<S: Shape, const FMA: bool>(self, c: *mut f32) {
        let Self { m, n, k, a, b, ldc, accumulate } = self;
        let panels = n.div_ceil(NR);
        // Tiles of like height, instead of full ones and a low rest.
        let strips = m.div_ceil(S::ROWS);
        let (low, higher) = (m / strips, m % strips);
        let mut p0 = 0;
        while p0 < k {
            let kc = KC.min(k - p0);
            let acc = accumulate || p0 > 0;
            let mut j = 0;
            while j < panels {
                let np = S::panels(low + usize::from(higher > 0), panels - j);
                let cols = (np * NR).min(n - j * NR);
                let mut i = 0;
                for strip in 0..strips {
                    let rows = low + usize::from(strip < higher);
                    // SAFETY: in bounds by the checks in `gemm`.
                    unsafe {
                        let t = Tile {
                            k: kc,
                            a: a.data.as_ptr().add(i * a.row + p0 * a.col),
                            ars: a.row,
                            acs: a.col,
                            b: b.data.as_ptr().add(j * b.panel + p0 * b.row),
                            brs: b.row,
                            bps: b.panel,
                        };
                        S::tile::<FMA>(rows, np, &t, c.add(i * ldc + j * NR), ldc, cols, acc);
                    }
                    i += rows;
                }
                j += np;
            }
            p0 += kc;
        }
    }
}

/// One tile: the rows of A and the panels of B that it reads.
struct Tile {
    k: usize,
    a: *const f32,
    ars: usize,
    acs: usize,
    b: *const f32,
    brs: usize,
    bps: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        (0..n)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / (1u32 << 24) as f32 - 0.5
            })
            .collect()
    }

    #[test]
    fn agrees_with_f64_for_odd_sizes_and_both_layouts() {
        for &(m, n, k) in
            &[(1, 1, 1), (1, 70, 33), (2, 17, 5), (3, 40, 129), (7, 16, 600), (13, 31, 1100), (64, 48, 7)]
        {
            let a = noise(m * k, 1);
            let b = noise(k * n, 2);
            let mut want = vec![0.0f64; m * n];
            for i in 0..m {
                for j in 0..n {
                    want[i * n + j] = (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j])).sum();
                }
            }
            let mut panels = Panels::default();
            panels.pack(&b, n, 1, k, n);
            let mut c = vec![7.0f32; m * n];
            gemm(m, n, k, A::rows(&a, k), panels.view(), &mut c, n, false);
            let bt: Vec<f32> = (0..n * k).map(|x| b[(x % k) * n + x / k]).collect();
            let at: Vec<f32> = (0..k * m).map(|x| a[(x % m) * k + x / m]).collect();
            let mut panels_t = Panels::default();
            panels_t.pack(&bt, 1, k, k, n);
            let mut d = vec![1.0f32; m * n];
            gemm(m, n, k, A::transposed(&at, m), panels_t.view(), &mut d, n, true);
            for x in 0..m * n {
                assert!(
                    (f64::from(c[x]) - want[x]).abs() < 1e-4,
                    "({m},{n},{k}) at {x}: {} vs {}",
                    c[x],
                    want[x]
                );
                assert!((f64::from(d[x]) - 1.0 - want[x]).abs() < 1e-4, "({m},{n},{k}) transposed at {x}");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_every_batch() {
        let (n, k) = (53, 700);
        let a = noise(32 * k, 3);
        let b = noise(k * n, 4);
        let mut panels = Panels::default();
        panels.pack(&b, n, 1, k, n);
        let mut all = vec![0.0f32; 32 * n];
        gemm(32, n, k, A::rows(&a, k), panels.view(), &mut all, n, false);
        for m in [1, 2, 3, 4, 5, 7, 11] {
            let mut few = vec![0.0f32; m * n];
            gemm(m, n, k, A::rows(&a, k), panels.view(), &mut few, n, false);
            assert_eq!(&few[..], &all[..m * n], "batch {m}");
        }
    }
}
