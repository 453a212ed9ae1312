//! C (+)= A·B for f32, single-threaded, with a summation order that never changes.
//!
//! A is read in place with any strides (so a transposed A costs nothing), B is read in panels of
//! [`NR`] columns. Every element of C is one chain of multiply-adds over the inner index in ascending
//! order: the tile size, the number of rows and the blocking of the inner dimension do not show in the
//! bits. A block boundary stores and reloads an f32 accumulator, which is exact.

mod half;
mod narrow;
#[cfg(target_arch = "x86_64")]
mod wide;

use crate::floats::{LINE, Line, floats};
pub(crate) use half::{HalfGrad, HalfPanels, HalfRows, Unit, unit};
use narrow::Narrow;
use std::mem::MaybeUninit;
#[cfg(target_arch = "x86_64")]
use wide::Wide;

/// Columns of a panel of B: a cache line.
pub(crate) const NR: usize = LINE;
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
    data: Vec<Line>,
    k: usize,
    n: usize,
}

impl Panels {
    /// Packs element (p, j) from `b[p·rs + j·cs]`, for p < k, j < n.
    pub(crate) fn pack(&mut self, b: &[f32], rs: usize, cs: usize, k: usize, n: usize) {
        self.k = k;
        self.n = n;
        let panels = n.div_ceil(NR);
        if self.data.len() < panels * k {
            self.data.resize(panels * k, Line([0.0; NR]));
        }
        if k == 0 {
            return;
        }
        for (j, out) in self.data.chunks_exact_mut(k).take(panels).enumerate() {
            let cols = NR.min(n - j * NR);
            if cs == 1 && cols == NR {
                for (p, dst) in out.iter_mut().enumerate() {
                    // Of a length that the compiler knows: a call to memcpy would take longer than the copy.
                    if let Some(src) = b[p * rs + j * NR..].first_chunk::<NR>() {
                        dst.0 = *src;
                    }
                }
            } else if cs == 1 {
                for (p, dst) in out.iter_mut().enumerate() {
                    dst.0[..cols].copy_from_slice(&b[p * rs + j * NR..][..cols]);
                    dst.0[cols..].fill(0.0);
                }
            } else if rs == 1 && cols == NR {
                transpose(&b[j * NR * cs..], cs, out);
            } else {
                out.fill(Line([0.0; NR]));
                for c in 0..cols {
                    let column = &b[(j * NR + c) * cs..];
                    for (p, out) in out.iter_mut().enumerate() {
                        out.0[c] = column[p * rs];
                    }
                }
            }
        }
    }

    pub(crate) fn view(&self) -> B<'_> {
        B { data: floats(&self.data), row: NR, panel: self.k * NR }
    }
}

simd_fn! {
    /// A panel from sixteen columns that are contiguous: out\[p·16 + c\] = b\[c·cs + p\], in squares of whole cache lines.
    fn transpose(b: &[f32], cs: usize, out: &mut [Line]) {
        let k = out.len();
        for (p0, out) in (0..k).step_by(NR).zip(out.chunks_mut(NR)) {
            let mut square = [[0.0f32; NR]; NR];
            for (c, square) in square.iter_mut().enumerate() {
                let column = &b[c * cs + p0..c * cs + k];
                match column.first_chunk::<NR>() {
                    Some(whole) => *square = *whole,
                    None => square[..column.len()].copy_from_slice(column),
                }
            }
            for (p, out) in out.iter_mut().enumerate() {
                for c in 0..NR {
                    out.0[c] = square[c][p];
                }
            }
        }
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

/// What a product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Init<'a> {
    /// Nothing: C = A·B.
    Zero,
    /// What C holds: C += A·B.
    Own,
    /// Another matrix with the strides of C: C = D + A·B.
    From(&'a [f32]),
}

/// C\[m×n\] = init + A\[m×k\]·B\[k×n\]; `c` has `ldc` floats from row to row.
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
    init: Init<'_>,
) {
    let (own, len) = (c.as_mut_ptr(), c.len());
    let from = match init {
        Init::Zero => std::ptr::null(),
        Init::Own => own.cast_const(),
        Init::From(d) => {
            assert!(m == 0 || d.len() >= (m - 1) * ldc + n, "gemm: D too short");
            d.as_ptr()
        }
    };
    // SAFETY: C is borrowed, and D is as long as needed.
    unsafe { gemm_at(m, n, k, a, b, (own, len), ldc, from) };
}

/// As [`gemm`], C by its address and length, and D by its address (null for none).
///
/// # Safety
/// No one else touches the m × n elements of C meanwhile, and D has as many with the strides of C.
///
/// # Panics
/// If another slice is too short for its sizes and strides.
pub(crate) unsafe fn gemm_at(
    m: usize,
    n: usize,
    k: usize,
    a: A<'_>,
    b: B<'_>,
    (c, len): (*mut f32, usize),
    ldc: usize,
    from: *const f32,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(len >= (m - 1) * ldc + n && n <= ldc, "gemm: C too short");
    if k == 0 {
        for i in 0..m {
            // SAFETY: inside C and D by the checks above.
            unsafe {
                let row = c.add(i * ldc);
                if from.is_null() {
                    row.write_bytes(0, n);
                } else {
                    std::ptr::copy(from.add(i * ldc), row, n);
                }
            }
        }
        return;
    }
    assert!(a.data.len() > (m - 1) * a.row + (k - 1) * a.col, "gemm: A too short");
    let panels = n.div_ceil(NR);
    assert!(b.data.len() >= (panels - 1) * b.panel + (k - 1) * b.row + NR, "gemm: B too short");
    let g = Gemm { m, n, k, a, b, ldc };
    if a.col != 1 && n > NR && m > COLUMNS / 2 && k.min(KC) * a.col > IN_PLACE {
        // SAFETY: the sizes were checked above.
        unsafe { on_this_cpu::<true>(g, from, c) };
    } else {
        // SAFETY: as above.
        unsafe { on_this_cpu::<false>(g, from, c) };
    }
}

/// A panel of some matrix, and where the columns of a row that it gives stand.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    b: *const f32,
    c: *mut f32,
    count: usize,
}

impl Columns {
    /// Of panel `j` of B, which has `n` columns; `c` is where the row stands.
    pub(crate) fn of(b: &Panels, j: usize, c: *mut f32) -> Self {
        let panel = &b.data[j * b.k..(j + 1) * b.k];
        Self { b: panel.as_ptr().cast(), c: c.wrapping_add(j * NR), count: NR.min(b.n - j * NR) }
    }

    /// What is in the place of columns that are not there.
    pub(crate) const NONE: Self = Self { b: std::ptr::null(), c: std::ptr::null_mut(), count: 0 };
}

/// How many panels [`one_row`] takes at once: with fewer, a sum waits for itself.
pub(crate) const AT_ONCE: usize = 8;

/// One row x times panels of any matrices of as many rows: the bits of [`gemm`] from zero.
///
/// # Safety
/// x has as many numbers as the panels rows; every place has room for its columns and is no one else's meanwhile.
pub(crate) unsafe fn one_row(x: &[f32], columns: &[Columns]) {
    #[cfg(target_arch = "x86_64")]
    if crate::simd::has_avx512() {
        // SAFETY: the CPU has the features; the rest is the caller's.
        unsafe { wide::row(x.len(), x.as_ptr(), columns) };
        return;
    }
    for to in columns {
        // SAFETY: the caller's.
        unsafe {
            let b = B { data: std::slice::from_raw_parts(to.b, x.len() * NR), row: NR, panel: 0 };
            gemm_at(
                1,
                to.count,
                x.len(),
                A::rows(x, x.len()),
                b,
                (to.c, to.count),
                to.count,
                std::ptr::null(),
            );
        }
    }
}

/// `COPY`: copies a transposed A into strips, which needs much stack.
unsafe fn on_this_cpu<const COPY: bool>(g: Gemm<'_>, from: *const f32, c: *mut f32) {
    #[cfg(target_arch = "x86_64")]
    if crate::simd::has_avx512() {
        // SAFETY: the CPU has the features; the sizes are the caller's.
        unsafe { avx512::<COPY>(g, from, c) };
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if crate::simd::has_avx2_fma() {
        // SAFETY: the CPU has the features; the sizes are the caller's.
        unsafe { avx2::<COPY>(g, from, c) };
        return;
    }
    // SAFETY: the caller's sizes.
    unsafe { g.run::<Narrow, { crate::simd::BASELINE_FMA }, COPY>(from, c) };
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
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
unsafe fn avx512<const COPY: bool>(g: Gemm<'_>, from: *const f32, c: *mut f32) {
    // SAFETY: the caller's sizes.
    unsafe { g.run::<Wide, true, COPY>(from, c) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const COPY: bool>(g: Gemm<'_>, from: *const f32, c: *mut f32) {
    // SAFETY: the caller's sizes.
    unsafe { g.run::<Narrow, true, COPY>(from, c) };
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
    unsafe fn tile<const FMA: bool>(rows: usize, panels: usize, t: &Tile);
}

/// One tile: what it reads of A and B, and where it stands in C.
struct Tile {
    k: usize,
    a: *const f32,
    ars: usize,
    acs: usize,
    b: *const f32,
    brs: usize,
    bps: usize,
    /// What the sums start from; null for zero.
    from: *const f32,
    c: *mut f32,
    ldc: usize,
    /// Columns of C inside the tile.
    cols: usize,
    next: Next,
}

/// What the tiles after one will read and write: to be fetched while it is computed, where it comes from beyond the
/// second-level cache. What nothing is known of is null.
#[derive(Clone, Copy)]
struct Next {
    /// The strip of A below, where no tile has read it yet.
    a: *const f32,
    /// A share of the panels of B after these: from which row, and how many; `usize::MAX` for all, where there is one
    /// strip.
    b: *const f32,
    rows: usize,
    /// The next tile of C.
    c: *const f32,
}

impl Next {
    const UNKNOWN: Self = Self { a: std::ptr::null(), b: std::ptr::null(), rows: 0, c: std::ptr::null() };
}

/// A product that touches fewer floats has them at hand, or is too short to fetch behind.
const NEAR: usize = 16 * 1024;

/// Columns of a transposed A that are copied at once: whole strips of either shape, in few cache lines.
const COLUMNS: usize = 72;

/// A transposed A of more floats than this is copied: its rows are on more pages than a CPU keeps at hand.
const IN_PLACE: usize = 96 * 1024;

impl Gemm<'_> {
    #[inline(always)]
    unsafe fn run<S: Shape, const FMA: bool, const COPY: bool>(self, from: *const f32, c: *mut f32) {
        let mut p0 = 0;
        while p0 < self.k {
            let kc = KC.min(self.k - p0);
            let from = if p0 == 0 { from } else { c.cast_const() };
            // SAFETY: the caller's sizes.
            unsafe {
                if COPY {
                    self.transposed::<S, FMA>(p0, kc, from, c);
                } else {
                    let a = self.a.data.as_ptr().add(p0 * self.a.col);
                    self.block::<S, FMA>(0..self.m, (a, self.a.row, self.a.col), p0, kc, from, c);
                }
            }
            p0 += kc;
        }
    }

    /// Copies a few columns of a transposed A at a time into rows: read in place, every element of it would come
    /// from another page.
    #[inline(always)]
    unsafe fn transposed<S: Shape, const FMA: bool>(
        self,
        p0: usize,
        kc: usize,
        from: *const f32,
        c: *mut f32,
    ) {
        let mut strip = MaybeUninit::<[[f32; COLUMNS]; KC]>::uninit();
        let rows = strip.as_mut_ptr().cast::<[f32; COLUMNS]>();
        let mut i = 0;
        while i < self.m {
            let columns = COLUMNS.min(self.m - i);
            for p in 0..kc {
                let row = &self.a.data[(p0 + p) * self.a.col + i..];
                assert!(row.len() >= columns, "gemm: A too short");
                // SAFETY: kc ≤ KC rows of COLUMNS floats each; what is not written is not read, since the block
                // below has `columns` rows.
                unsafe {
                    match row.first_chunk::<COLUMNS>() {
                        Some(whole) => rows.add(p).write(*whole),
                        None => rows.add(p).cast::<f32>().copy_from_nonoverlapping(row.as_ptr(), columns),
                    }
                }
            }
            let strip = (rows.cast::<f32>().cast_const(), 1, COLUMNS);
            // SAFETY: the caller's sizes.
            unsafe { self.block::<S, FMA>(i..i + columns, strip, p0, kc, from, c) };
            i += columns;
        }
    }

    /// Rows `rows` of C, over `kc` inner indices from `p0`: panels of B, and strips of A against each.
    /// `a` is where A stands for these rows and indices, with its strides.
    #[inline(always)]
    unsafe fn block<S: Shape, const FMA: bool>(
        self,
        rows: std::ops::Range<usize>,
        (a, ars, acs): (*const f32, usize, usize),
        p0: usize,
        kc: usize,
        from: *const f32,
        c: *mut f32,
    ) {
        let Self { m, n, k, b, ldc, .. } = self;
        let panels = n.div_ceil(NR);
        // Strips of like height, instead of full ones and a low rest.
        let strips = rows.len().div_ceil(S::ROWS);
        let (low, higher) = (rows.len() / strips, rows.len() % strips);
        let far = m * k + (m + k) * n > NEAR;
        let share = kc.div_ceil(strips);
        let mut j = 0;
        while j < panels {
            let np = S::panels(low + usize::from(higher > 0), panels - j);
            let mut i = 0;
            for strip in 0..strips {
                let height = low + usize::from(strip < higher);
                let at = (rows.start + i) * ldc + j * NR;
                let mut next = Next::UNKNOWN;
                if far {
                    let (below, p) = (i + height, strip * share);
                    next.c = c.wrapping_add(rows.start * ldc + (j + np) * NR);
                    if strip + 1 < strips {
                        next.c = c.wrapping_add((rows.start + below) * ldc + j * NR);
                        if j == 0 {
                            next.a = a.wrapping_add(below * ars);
                        }
                    }
                    if j + 2 * np <= panels && p < kc {
                        next.b = b.data.as_ptr().wrapping_add((j + np) * b.panel + (p0 + p) * b.row);
                        next.rows = if strips == 1 { usize::MAX } else { share.min(kc - p) };
                    }
                }
                // SAFETY: in bounds by the checks in `gemm`.
                unsafe {
                    let t = Tile {
                        k: kc,
                        a: a.add(i * ars),
                        ars,
                        acs,
                        b: b.data.as_ptr().add(j * b.panel + p0 * b.row),
                        brs: b.row,
                        bps: b.panel,
                        from: if from.is_null() { from } else { from.add(at) },
                        c: c.add(at),
                        ldc,
                        cols: (np * NR).min(n - j * NR),
                        next,
                    };
                    S::tile::<FMA>(height, np, &t);
                }
                i += height;
            }
            j += np;
        }
    }
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
        // The last ones are large enough to fetch early.
        for &(m, n, k) in &[
            (1, 1, 1),
            (1, 70, 33),
            (2, 17, 5),
            (3, 40, 129),
            (7, 16, 600),
            (13, 31, 1100),
            (64, 48, 7),
            (300, 400, 7),
            (300, 400, 16),
            (190, 310, 145),
        ] {
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
            gemm(m, n, k, A::rows(&a, k), panels.view(), &mut c, n, Init::Zero);
            let bt: Vec<f32> = (0..n * k).map(|x| b[(x % k) * n + x / k]).collect();
            let at: Vec<f32> = (0..k * m).map(|x| a[(x % m) * k + x / m]).collect();
            let mut panels_t = Panels::default();
            panels_t.pack(&bt, 1, k, k, n);
            let mut d = vec![1.0f32; m * n];
            gemm(m, n, k, A::transposed(&at, m), panels_t.view(), &mut d, n, Init::Own);
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
        gemm(32, n, k, A::rows(&a, k), panels.view(), &mut all, n, Init::Zero);
        for m in [1, 2, 3, 4, 5, 7, 11] {
            let mut few = vec![0.0f32; m * n];
            gemm(m, n, k, A::rows(&a, k), panels.view(), &mut few, n, Init::Zero);
            assert_eq!(&few[..], &all[..m * n], "batch {m}");
        }
    }

    #[test]
    fn a_transposed_operand_gives_the_same_bits_copied_and_in_place() {
        let (m, n, k, wide) = (80, 40, 200, 600);
        assert!(k * m <= IN_PLACE && k * wide > IN_PLACE);
        let a = noise(k * wide, 5);
        let narrow: Vec<f32> = a.chunks_exact(wide).flat_map(|row| &row[..m]).copied().collect();
        let b = noise(k * n + NR, 6);
        let mut panels = Panels::default();
        panels.pack(&b, n, 1, k, n);
        let product = |a: A<'_>, b: B<'_>| {
            let mut c = noise(m * n, 7);
            gemm(m, n, k, a, b, &mut c, n, Init::Own);
            c
        };
        let want = product(A::transposed(&narrow, m), panels.view());
        assert_eq!(product(A::transposed(&a, wide), panels.view()), want);
        // And a right operand where it lies: what is behind its columns is read, and left out.
        let in_place = B { data: &b, row: n, panel: NR };
        assert_eq!(product(A::transposed(&a, wide), in_place), want);
    }
}
