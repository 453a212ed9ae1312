//! Products with bf16 weights: half the memory, half of what a decode step reads, and the CPU's own bf16 arithmetic.
//!
//! A bf16 is the upper half of an f32. Panels keep the weights of two inner indices in one word, as every unit that
//! multiplies bf16 reads them ([`Unit`]): the tiles of AMX and the lanes of AVX512-BF16 round the other operand too and
//! sum in f32; where neither is used, a few panels at a time are widened into a buffer that fits the caches, and a
//! product has the bits that f32 panels of the rounded weights give. A row of a product never depends on the rows beside
//! it, so the sampler and the trainer agree to the bit on every CPU; two CPUs need not agree.

#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod unit;

use super::{A, B, NR, gemm_at};
use std::cell::RefCell;
pub(crate) use unit::{Unit, unit};

/// Floats that are widened at once: 128 KiB.
const WIDENED: usize = 32 * 1024;

/// Inner indices are padded with zeros to a multiple of this: what a tile takes at once.
const BLOCK: usize = 32;

/// Pairs of bf16, the first in the low half: of sixteen columns at two inner indices, or of one row at 32.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u32; NR]);

const ZERO: Line = Line([0; NR]);

/// B packed into zero-padded panels of bf16: element (2p + h, 16j + c) is half h of word c of line p of panel j.
#[derive(Clone, Debug, Default)]
pub(crate) struct HalfPanels {
    data: Vec<Line>,
    k: usize,
}

/// A rounded to bf16: rows of ⌈k/32⌉ lines.
#[derive(Debug, Default)]
pub(crate) struct HalfRows {
    data: Vec<Line>,
}

/// The nearest bf16, ties to even, in the upper half; the lower half is not cleared.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    // Rounding could carry a NaN over into a number.
    if bits & 0x7FFF_FFFF > 0x7F80_0000 { bits | 0x40_0000 } else { up }
}

/// Two numbers, rounded, in a word.
#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    (rounded(second) & 0xFFFF_0000) | (rounded(first) >> 16)
}

simd_fn! {
    /// A panel from sixteen columns that are contiguous: column c from b\[c·cs\] on, `k` long. A square of words at a time.
    fn pack_columns(b: &[f32], cs: usize, k: usize, out: &mut [Line]) {
        for (p0, out) in (0..k).step_by(BLOCK).zip(out.chunks_mut(NR)) {
            let mut square = [ZERO; NR];
            for (c, square) in square.iter_mut().enumerate() {
                let column = &b[c * cs + p0..c * cs + k];
                let mut whole = [0.0f32; BLOCK];
                match column.first_chunk::<BLOCK>() {
                    Some(here) => whole = *here,
                    None => whole[..column.len()].copy_from_slice(column),
                }
                for (word, two) in square.0.iter_mut().zip(whole.as_chunks::<2>().0) {
                    *word = pair(two[0], two[1]);
                }
            }
            for (p, out) in out.iter_mut().enumerate() {
                for c in 0..NR {
                    out.0[c] = square[c].0[p];
                }
            }
        }
    }
}

simd_fn! {
    /// A panel from rows of sixteen columns, `rs` floats from row to row.
    fn pack_rows(b: &[f32], rs: usize, k: usize, out: &mut [Line]) {
        out[k.div_ceil(2)..].fill(ZERO);
        for (p, out) in (0..k).step_by(2).zip(out) {
            let first = b[p * rs..].first_chunk::<NR>();
            let second = if p + 1 < k { b[(p + 1) * rs..].first_chunk::<NR>() } else { Some(&[0.0; NR]) };
            if let (Some(first), Some(second)) = (first, second) {
                for c in 0..NR {
                    out.0[c] = pair(first[c], second[c]);
                }
            }
        }
    }
}

simd_fn! {
    /// Lines of pairs to rows of f32.
    fn widen(from: &[Line], to: &mut [f32]) {
        for (to, from) in to.as_chunks_mut::<{ 2 * NR }>().0.iter_mut().zip(from) {
            for c in 0..NR {
                to[c] = f32::from_bits(from.0[c] << 16);
                to[NR + c] = f32::from_bits(from.0[c] & 0xFFFF_0000);
            }
        }
    }
}

/// Lines of a panel of `k` inner indices.
fn lines(k: usize) -> usize {
    k.div_ceil(BLOCK) * (BLOCK / 2)
}

impl HalfPanels {
    /// Bytes of the panels of a k × n matrix.
    pub(crate) fn bytes(k: usize, n: usize) -> usize {
        n.div_ceil(NR) * lines(k) * size_of::<Line>()
    }

    /// As [`Panels::pack`](super::Panels::pack), rounded.
    pub(crate) fn pack(&mut self, b: &[f32], rs: usize, cs: usize, k: usize, n: usize) {
        self.k = k;
        let panel = lines(k);
        self.data.resize(n.div_ceil(NR) * panel, ZERO);
        for (j, out) in self.data.chunks_exact_mut(panel.max(1)).enumerate() {
            let columns = NR.min(n - j * NR);
            let b = &b[j * NR * cs..];
            match (columns, rs, cs) {
                (NR, 1, _) => pack_columns(b, cs, k, out),
                (NR, _, 1) => pack_rows(b, rs, k, out),
                _ => {
                    let at = |p: usize, c: usize| if p < k && c < columns { b[p * rs + c * cs] } else { 0.0 };
                    for (p, out) in out.iter_mut().enumerate() {
                        out.0 = std::array::from_fn(|c| pair(at(2 * p, c), at(2 * p + 1, c)));
                    }
                }
            }
        }
    }

    /// As [`HalfPanels::pack`] from rows, for a product on a unit that rounds what it multiplies.
    #[cfg(target_arch = "x86_64")]
    fn pack_activations(&mut self, x: &[f32], ld: usize, k: usize, n: usize) {
        self.k = k;
        let panel = lines(k);
        self.data.resize(n.div_ceil(NR) * panel, ZERO);
        for (j, out) in self.data.chunks_exact_mut(panel.max(1)).enumerate() {
            // SAFETY: the unit was found on this CPU.
            unsafe { pairs::round_panel(&x[j * NR..], ld, k, n - j * NR, out) };
        }
    }

    /// As [`gemm_at`] with the `n` columns from panel `first` on.
    ///
    /// # Safety
    /// As [`gemm_at`].
    pub(crate) unsafe fn multiply(
        &self,
        first: usize,
        size: (usize, usize, usize),
        a: A<'_>,
        c: (*mut f32, usize),
        ldc: usize,
        from: *const f32,
    ) {
        // SAFETY: the caller's.
        unsafe { self.multiply_on(unit(), first, size, a, c, ldc, from) };
    }

    /// # Safety
    /// As [`gemm_at`].
    unsafe fn multiply_on(
        &self,
        unit: Unit,
        first: usize,
        (m, n, k): (usize, usize, usize),
        a: A<'_>,
        (c, len): (*mut f32, usize),
        ldc: usize,
        from: *const f32,
    ) {
        assert!(k == self.k, "gemm: B of another size");
        if m == 0 || n == 0 {
            return;
        }
        if unit == Unit::Widened || k == 0 {
            // SAFETY: the caller's.
            unsafe { self.widened(first, (m, n, k), a, (c, len), ldc, from) };
            return;
        }
        thread_local! {
            static LEFT: RefCell<HalfRows> = const { RefCell::new(HalfRows { data: Vec::new() }) };
        }
        LEFT.with_borrow_mut(|left| {
            left.round(a, m, k);
            // SAFETY: the caller's.
            unsafe { self.product(unit, left, first, (m, n), (c, len), ldc, from) };
        });
    }

    /// C = D + A·B on a unit of the CPU, A rounded already.
    ///
    /// # Safety
    /// As [`gemm_at`].
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "no such unit is known there"))]
    unsafe fn product(
        &self,
        unit: Unit,
        left: &HalfRows,
        first: usize,
        (m, n): (usize, usize),
        (c, len): (*mut f32, usize),
        ldc: usize,
        from: *const f32,
    ) {
        let panel = lines(self.k);
        let blocks = panel / (BLOCK / 2);
        assert!(len >= (m - 1) * ldc + n && n <= ldc, "gemm: C too short");
        assert!(left.data.len() >= m * blocks, "gemm: A too short");
        let b = &self.data[first * panel..];
        assert!(b.len() >= n.div_ceil(NR) * panel, "gemm: B too short");
        match unit {
            // SAFETY: the unit was found on this CPU; the sizes were checked.
            #[cfg(target_arch = "x86_64")]
            Unit::Tiles => unsafe {
                tiles::product((m, n, blocks), left.data.as_ptr(), b.as_ptr(), from, c, ldc);
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Unit::Pairs => unsafe {
                let a = (left.data.as_ptr().cast(), blocks * NR);
                pairs::product((m, n, self.k.div_ceil(2)), a, (b.as_ptr(), panel), from, c, ldc);
            },
            Unit::Widened => unreachable!("what is widened is not rounded"),
        }
    }

    /// C = D + A·B in f32.
    ///
    /// # Safety
    /// As [`gemm_at`].
    unsafe fn widened(
        &self,
        first: usize,
        (m, n, k): (usize, usize, usize),
        a: A<'_>,
        (c, len): (*mut f32, usize),
        ldc: usize,
        from: *const f32,
    ) {
        thread_local! {
            static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        let panel = lines(k);
        let group = (WIDENED / (panel.max(1) * 2 * NR)).max(1);
        WIDE.with_borrow_mut(|wide| {
            let mut j = 0;
            while j * NR < n {
                let panels = group.min(n.div_ceil(NR) - j);
                let half = &self.data[(first + j) * panel..(first + j + panels) * panel];
                let room = half.len() * 2 * NR;
                if wide.len() < room {
                    wide.resize(room, 0.0);
                }
                widen(half, wide);
                let b = B { data: &wide[..room], row: NR, panel: panel * 2 * NR };
                let columns = (panels * NR).min(n - j * NR);
                let from = if from.is_null() { from } else { from.wrapping_add(j * NR) };
                assert!(j * NR <= len, "gemm: C too short");
                // SAFETY: the columns of the caller, a few at a time.
                unsafe { gemm_at(m, columns, k, a, b, (c.add(j * NR), len - j * NR), ldc, from) };
                j += panels;
            }
        });
    }
}

impl HalfRows {
    /// Bytes of m rows of k numbers; none where the CPU has no unit that they are rounded for.
    pub(crate) fn bytes(m: usize, k: usize) -> usize {
        if unit() == Unit::Widened { 0 } else { m * k.div_ceil(BLOCK) * size_of::<Line>() }
    }

    /// A\[m×k\], read in place with its strides, one of which is 1.
    #[cfg(target_arch = "x86_64")]
    fn round(&mut self, a: A<'_>, m: usize, k: usize) {
        let blocks = k.div_ceil(BLOCK);
        if self.data.len() < m * blocks {
            self.data.resize(m * blocks, ZERO);
        }
        if a.col == 1 {
            for (i, out) in self.data.chunks_exact_mut(blocks).take(m).enumerate() {
                // SAFETY: the unit was found on this CPU.
                unsafe { pairs::round_row(&a.data[i * a.row..][..k], out) };
            }
            return;
        }
        assert!(a.row == 1, "gemm: A has no contiguous side");
        // SAFETY: the unit was found on this CPU.
        unsafe { pairs::round_columns(a.data, a.col, (m, k), blocks, &mut self.data) };
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn round(&mut self, _: A<'_>, _: usize, _: usize) {}
}

/// Buffers for the gradient of weights on a unit that rounds what it multiplies.
#[derive(Debug, Default)]
pub(crate) struct HalfGrad {
    right: HalfPanels,
    left: HalfRows,
}

impl HalfGrad {
    /// Bytes for the gradient of an n_out × n_in matrix from so many rows.
    pub(crate) fn bytes(rows: usize, n_in: usize, n_out: usize) -> usize {
        if unit() == Unit::Widened {
            return 0;
        }
        HalfPanels::bytes(rows, n_in) + HalfRows::bytes(n_out, rows)
    }

    /// Takes x\[rows × n\], `ld` floats from row to row, as the right operand of the products that follow.
    pub(crate) fn hold(&mut self, x: &[f32], ld: usize, rows: usize, n: usize) {
        #[cfg(target_arch = "x86_64")]
        self.right.pack_activations(x, ld, rows, n);
        #[cfg(not(target_arch = "x86_64"))]
        self.right.pack(x, ld, 1, rows, n);
    }

    /// C\[m × n\] += yᵀ·x for the x that is held, `y` with `ldy` floats from row to row.
    ///
    /// # Panics
    /// If a slice is too short, or the CPU has no such unit.
    pub(crate) fn add(&mut self, (m, n): (usize, usize), y: &[f32], ldy: usize, c: &mut [f32], ldc: usize) {
        if m == 0 || n == 0 || self.right.k == 0 {
            return;
        }
        self.left.round(A::transposed(y, ldy), m, self.right.k);
        let own = c.as_mut_ptr();
        // SAFETY: C is borrowed.
        unsafe { self.right.product(unit(), &self.left, 0, (m, n), (own, c.len()), ldc, own.cast_const()) };
    }
}

#[cfg(test)]
mod tests {
    use super::unit::all;
    use super::*;
    use crate::gemm::{Init, Panels, gemm};

    fn noise(n: usize, a: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * a).sin()).collect()
    }

    /// Small whole numbers, of which bf16 and the sums of f32 lose nothing in whatever order.
    fn whole(n: usize, a: f32) -> Vec<f32> {
        noise(n, a).iter().map(|x| (8.0 * x).round()).collect()
    }

    fn round(x: f32) -> f32 {
        f32::from_bits(rounded(x) & 0xFFFF_0000)
    }

    const SIZES: [(usize, usize, usize); 10] = [
        (1, 150, 130),
        (3, 16, 2500),
        (40, 333, 64),
        (2, 5, 1),
        (17, 48, 33),
        (16, 64, 31),
        (32, 31, 96),
        (33, 17, 172),
        (70, 20, 65),
        (5, 80, 512),
    ];

    fn packed(w: &[f32], k: usize, n: usize) -> HalfPanels {
        let mut half = HalfPanels::default();
        half.pack(w, n, 1, k, n);
        half
    }

    fn product(
        unit: Unit,
        b: &HalfPanels,
        (m, n, k): (usize, usize, usize),
        a: &[f32],
        d: Option<&[f32]>,
    ) -> Vec<f32> {
        let mut c = vec![f32::NAN; m * n];
        let from = d.map_or(std::ptr::null(), <[f32]>::as_ptr);
        // SAFETY: `c` and `d` are of that size.
        unsafe { b.multiply_on(unit, 0, (m, n, k), A::rows(a, k), (c.as_mut_ptr(), c.len()), n, from) };
        c
    }

    #[test]
    fn rounds_to_the_nearest_even() {
        // The crate `half` gives the same: 1 + 2⁻⁸ is half way between 1 and 1 + 2⁻⁷.
        let from = [1.0f32, 1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), -0.1, 0.0, f32::MIN_POSITIVE];
        let want = [0x3F80, 0x3F80, 0x3F82, 0xBDCD, 0, 0x0080];
        assert_eq!(from.map(|x| rounded(x) >> 16), want);
        for bits in [0x7FFF_FFFFu32, 0xFFFF_8000, 0x7F80_0001] {
            assert!(round(f32::from_bits(bits)).is_nan(), "{bits:x}");
        }
        // The CPU's own rounding is the same.
        #[cfg(target_arch = "x86_64")]
        if unit() != Unit::Widened {
            let mut line = [ZERO; 1];
            // SAFETY: the unit was found on this CPU.
            unsafe { pairs::round_row(&from, &mut line) };
            let halves: Vec<u32> = line[0].0.iter().flat_map(|w| [w & 0xFFFF, w >> 16]).collect();
            assert_eq!((&halves[..6], halves[6..].iter().all(|x| *x == 0)), (&want[..], true));
        }
    }

    #[test]
    fn every_unit_multiplies_whole_numbers_exactly() {
        for (m, n, k) in SIZES {
            let (x, w, d) = (whole(m * k, 0.7), whole(k * n, 1.3), whole(m * n, 0.3));
            let want = |i: usize, j: usize| -> f32 {
                (0..k).map(|p| x[i * k + p] as i64 * w[p * n + j] as i64).sum::<i64>() as f32
            };
            let transposed: Vec<f32> = (0..k * n).map(|i| w[i % k * n + i / k]).collect();
            let mut columns = HalfPanels::default();
            columns.pack(&transposed, 1, k, k, n);
            for unit in all() {
                for b in [&packed(&w, k, n), &columns] {
                    let plain = product(unit, b, (m, n, k), &x, None);
                    let added = product(unit, b, (m, n, k), &x, Some(&d));
                    for (i, (plain, added)) in plain.iter().zip(&added).enumerate() {
                        let want = want(i / n, i % n);
                        assert_eq!((*plain, *added), (want, want + d[i]), "{unit:?} {m}×{n}×{k} at {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn sums_are_those_of_rounded_factors_and_rows_do_not_see_each_other() {
        for (m, n, k) in SIZES {
            let (x, w, d) = (noise(m * k, 0.7), noise(k * n, 1.3), noise(m * n, 0.3));
            let b = packed(&w, k, n);
            for unit in all() {
                let c = product(unit, &b, (m, n, k), &x, Some(&d));
                for i in 0..m {
                    let rows = (&x[i * k..(i + 1) * k], &d[i * n..(i + 1) * n]);
                    let alone = product(unit, &b, (1, n, k), rows.0, Some(rows.1));
                    assert!(
                        alone.iter().zip(&c[i * n..]).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{unit:?} {m}×{n}×{k}, row {i}"
                    );
                    for j in 0..n {
                        let left = |p: usize| match unit {
                            Unit::Widened => rows.0[p],
                            _ => round(rows.0[p]),
                        };
                        let terms = (0..k).map(|p| f64::from(left(p)) * f64::from(round(w[p * n + j])));
                        let (sum, size) =
                            terms.fold((f64::from(rows.1[j]), 1.0), |(s, a), t| (s + t, a + t.abs()));
                        let off = (f64::from(alone[j]) - sum).abs();
                        assert!(off <= size * 1e-6, "{unit:?} {m}×{n}×{k} at {i}, {j}: {off}");
                    }
                }
            }
        }
    }

    #[test]
    fn widened_products_have_the_bits_of_f32_panels() {
        for (m, n, k) in SIZES {
            let (x, w, d) = (noise(m * k, 0.7), noise(k * n, 1.3), noise(m * n, 0.3));
            let rounded: Vec<f32> = w.iter().map(|x| round(*x)).collect();
            assert!(w.iter().zip(&rounded).all(|(a, b)| (a - b).abs() <= b.abs() / 256.0));
            let mut full = Panels::default();
            full.pack(&rounded, n, 1, k, n);
            let mut want = vec![0.0f32; m * n];
            gemm(m, n, k, A::rows(&x, k), full.view(), &mut want, n, Init::From(&d));
            let c = product(Unit::Widened, &packed(&w, k, n), (m, n, k), &x, Some(&d));
            assert!(c.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{m}×{n}×{k}");
        }
    }

    #[test]
    fn gradients_of_weights_are_exact_for_whole_numbers() {
        if unit() == Unit::Widened {
            return; // the f32 products are used, which have tests of their own
        }
        let mut buffer = HalfGrad::default();
        // One buffer throughout: nothing of a larger product may show in a smaller one.
        for (m, n, k) in SIZES {
            let (ldx, ldy) = (n + 3, m + 5);
            let (x, y) = (whole(k * ldx, 0.9), whole(k * ldy, 1.7));
            let start = whole(m * n, 0.2);
            let mut c = start.clone();
            buffer.hold(&x, ldx, k, n);
            buffer.add((m, n), &y, ldy, &mut c, n);
            for (i, c) in c.iter().enumerate() {
                let sum: i64 = (0..k).map(|p| y[p * ldy + i / n] as i64 * x[p * ldx + i % n] as i64).sum();
                assert_eq!(*c, start[i] + sum as f32, "{m}×{n}×{k} at {i}");
            }
        }
    }
}
