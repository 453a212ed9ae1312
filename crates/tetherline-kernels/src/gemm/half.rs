//! Panels of bf16 weights: half the memory, and half of what a decode step reads; all arithmetic stays f32.
//!
//! A bf16 is the upper half of an f32, so a weight widens exactly, and a product has the bits that f32 panels of the
//! rounded weights give. A few panels at a time are widened into a buffer of the thread that fits its caches. CPUs that
//! multiply bf16 themselves (AVX512-BF16) round the other operand too, and do so in pairs: that would be other bits for
//! the sampler and the trainer, and is not used.

use super::{A, B, NR, Panels, gemm_at};
use std::cell::RefCell;

/// Floats that are widened at once: 128 KiB.
const WIDENED: usize = 32 * 1024;

/// B packed into zero-padded panels of bf16.
#[derive(Clone, Debug, Default)]
pub(crate) struct HalfPanels {
    data: Vec<[u16; NR]>,
    k: usize,
}

simd_fn! {
    /// Rounds to the nearest bf16, ties to even.
    fn narrow(from: &[f32], to: &mut [u16]) {
        for (to, from) in to.iter_mut().zip(from) {
            let bits = from.to_bits();
            let rounded = (bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16) as u16;
            // Rounding could carry a NaN over into a number.
            *to = if bits & 0x7FFF_FFFF > 0x7F80_0000 { (bits >> 16) as u16 | 0x40 } else { rounded };
        }
    }
}

simd_fn! {
    fn widen(from: &[u16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(*from) << 16);
        }
    }
}

impl HalfPanels {
    /// As [`Panels::pack`], rounded.
    pub(crate) fn pack(&mut self, b: &[f32], rs: usize, cs: usize, k: usize, n: usize) {
        self.k = k;
        self.data.resize(n.div_ceil(NR) * k, [0; NR]);
        let mut panel = Panels::default();
        for (j, out) in self.data.chunks_exact_mut(k.max(1)).enumerate() {
            let columns = NR.min(n - j * NR);
            panel.pack(&b[j * NR * cs..], rs, cs, k, columns);
            narrow(&panel.view().data[..k * NR], out.as_flattened_mut());
        }
    }

    /// As [`gemm_at`] with the `n` columns from panel `first` on.
    ///
    /// # Safety
    /// As [`gemm_at`].
    pub(crate) unsafe fn multiply(
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
        assert!(k == self.k, "gemm: B of another size");
        let group = (WIDENED / (k.max(1) * NR)).max(1);
        WIDE.with_borrow_mut(|wide| {
            let mut j = 0;
            while j * NR < n {
                let panels = group.min(n.div_ceil(NR) - j);
                let half = self.data[(first + j) * k..(first + j + panels) * k].as_flattened();
                if wide.len() < half.len() {
                    wide.resize(half.len(), 0.0);
                }
                widen(half, wide);
                let b = B { data: &wide[..half.len()], row: NR, panel: k * NR };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{Init, gemm};

    #[test]
    fn rounds_to_the_nearest_even() {
        // The crate `half` gives the same: 1 + 2⁻⁸ is half way between 1 and 1 + 2⁻⁷.
        let from = [1.0f32, 1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), -0.1, 0.0, f32::MIN_POSITIVE];
        let mut to = [0u16; 6];
        narrow(&from, &mut to);
        assert_eq!(to, [0x3F80, 0x3F80, 0x3F82, 0xBDCD, 0, 0x0080]);
        for bits in [0x7FFF_FFFFu32, 0xFFFF_8000, 0x7F80_0001] {
            let mut to = [0u16];
            narrow(&[f32::from_bits(bits)], &mut to);
            assert!(f32::from_bits(u32::from(to[0]) << 16).is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn a_product_has_the_bits_of_rounded_weights() {
        let noise = |n: usize, a: f32| (0..n).map(|i| (i as f32 * a).sin()).collect::<Vec<f32>>();
        for (m, n, k) in [(1, 150, 130), (3, 16, 2500), (40, 333, 64), (2, 5, 1)] {
            let (x, w, d) = (noise(m * k, 0.7), noise(k * n, 1.3), noise(m * n, 0.3));
            let rounded: Vec<f32> = w
                .iter()
                .map(|x| {
                    let mut half = [0];
                    narrow(&[*x], &mut half);
                    f32::from_bits(u32::from(half[0]) << 16)
                })
                .collect();
            assert!(rounded != w && rounded.iter().zip(&w).all(|(a, b)| (a - b).abs() <= b.abs() / 256.0));
            let (mut half, mut full) = (HalfPanels::default(), Panels::default());
            half.pack(&w, n, 1, k, n);
            full.pack(&rounded, n, 1, k, n);
            let (mut c, mut want) = (vec![0.0; m * n], vec![0.0; m * n]);
            gemm(m, n, k, A::rows(&x, k), full.view(), &mut want, n, Init::From(&d));
            // SAFETY: `c` and `d` are of that size.
            unsafe { half.multiply(0, (m, n, k), A::rows(&x, k), (c.as_mut_ptr(), c.len()), n, d.as_ptr()) };
            assert!(c.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()), "{m}×{n}×{k}");
        }
    }
}
