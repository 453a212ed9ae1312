//! The newest position of a row against its cache, for heads of eight with AVX-512: eight heads and two positions to
//! a register.
//!
//! With a head to itself, a register of scores has to be summed and searched across, once per head, and half of a
//! register of values is empty. Here no number crosses a register but between its halves, once per block of heads. The
//! sums are those of the general path, in the same order, so the bits are the same.
//!
//! Keys are kept by pairs of positions: for each pair and dimension the heads of the first, then those of the second.
//! Values are kept by position: the heads one after the other.

use super::narrow::{HEAD, exp, load};
use crate::gemm::NR;
use crate::spec::DecoderSpec;
use std::arch::x86_64::{
    __m512, __m512i, _mm256_storeu_ps, _mm512_add_ps, _mm512_castps512_ps256, _mm512_div_ps,
    _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_blend_ps,
    _mm512_max_ps, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_sub_ps,
};

/// Query heads of a register.
const LANES: usize = 8;

/// Registers of partial sums: the general path sums keys by their index mod 16.
const SUMS: usize = NR / 2;

/// Registers of outputs: two heads each.
const OUT: usize = LANES / 2;

/// Floats behind the last key that a load may touch.
const SLACK: usize = NR;

/// Whether these heads fit: whole registers of queries, and couples of key/value heads for each.
pub(super) fn holds(s: &DecoderSpec) -> bool {
    s.heads.is_multiple_of(LANES) && s.kv_heads <= LANES && [1, 2, 4].contains(&(s.heads / s.kv_heads))
}

/// Keeps the keys and values of `kv_heads` heads at position `t`.
pub(crate) fn store(kv_heads: usize, t: usize, k: &[f32], v: &[f32], keys: &mut [f32], values: &mut [f32]) {
    let pair = &mut keys[t / 2 * 2 * kv_heads * HEAD..][..2 * kv_heads * HEAD];
    for (g, k) in k.as_chunks::<HEAD>().0.iter().enumerate() {
        for (d, x) in k.iter().enumerate() {
            pair[(2 * d + t % 2) * kv_heads + g] = *x;
        }
    }
    values[t * kv_heads * HEAD..][..kv_heads * HEAD].copy_from_slice(v);
}

/// A row's newest position and what it sees, that position included.
#[derive(Clone, Copy)]
pub(crate) struct Newest<'a> {
    /// Queries of all heads.
    pub(crate) q: &'a [f32],
    /// Keys and values as [`store`] keeps them, with 16 floats more after the keys.
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
    pub(crate) seen: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) scale: f32,
}

/// Attention of [`Newest`]: `out` gets heads × 8 numbers; `scores` is scratch of 8 × `seen` rounded up to pairs.
///
/// # Safety
/// The CPU has the features, and `holds` is true of these heads.
///
/// # Panics
/// If a slice is too short.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
pub(crate) unsafe fn attend(n: Newest<'_>, scores: &mut [f32], out: &mut [f32]) {
    let Newest { q, keys, values, seen, heads, kv_heads, .. } = n;
    let (pairs, row, group) = (seen.div_ceil(2), kv_heads * HEAD, heads / kv_heads);
    assert!(
        seen > 0 && heads.is_multiple_of(LANES) && kv_heads <= LANES && group <= LANES / 2,
        "attention: heads"
    );
    assert!(keys.len() >= pairs * 2 * row + SLACK && values.len() >= seen * row, "attention: cache");
    assert!(q.len() >= heads * HEAD && out.len() >= heads * HEAD, "attention: queries");
    assert!(scores.len() >= pairs * NR, "attention: scratch too short");
    let scale = _mm512_set1_ps(n.scale);
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    for h0 in (0..heads).step_by(LANES) {
        let lanes = Lanes::of(h0, group, kv_heads);
        let s = scores.as_mut_ptr();
        // SAFETY: the lengths were checked above.
        unsafe {
            let q = load(q.as_ptr().add(h0 * HEAD), HEAD, LANES).map(|q| both(q));
            let mut most = lowest;
            for pair in 0..pairs {
                let k = keys.as_ptr().add(pair * 2 * row);
                let mut z = _mm512_setzero_ps();
                for (d, q) in q.iter().enumerate() {
                    let k = _mm512_permutexvar_ps(lanes.keys, _mm512_loadu_ps(k.add(d * 2 * kv_heads)));
                    z = _mm512_fmadd_ps(*q, k, z);
                }
                if 2 * pair + 1 == seen {
                    z = _mm512_mask_blend_ps(0xFF00, z, lowest);
                }
                most = _mm512_max_ps(z, most);
                _mm512_storeu_ps(s.add(pair * NR), z);
            }
            let most = _mm512_max_ps(swapped(most), most);
            let mut sums = [_mm512_setzero_ps(); SUMS];
            for first in (0..pairs).step_by(SUMS) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    if first + i < pairs {
                        let at = s.add((first + i) * NR);
                        let e = exp(_mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(at), most), scale));
                        _mm512_storeu_ps(at, e);
                        *sum = _mm512_add_ps(*sum, e);
                    }
                }
            }
            let [a, b, c, d, e, f, g, h] = sums;
            let (a, b) = (_mm512_add_ps(a, e), _mm512_add_ps(b, f));
            let (c, d) = (_mm512_add_ps(c, g), _mm512_add_ps(d, h));
            let sum = _mm512_add_ps(_mm512_add_ps(a, c), _mm512_add_ps(b, d));
            let sum = _mm512_add_ps(sum, swapped(sum));
            let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), sum);
            let mut o = [_mm512_setzero_ps(); OUT];
            for pair in 0..pairs {
                let p = _mm512_mul_ps(_mm512_loadu_ps(s.add(pair * NR)), inverse);
                let v = values.as_ptr().add(pair * 2 * row);
                for (i, o) in o.iter_mut().enumerate() {
                    let v = _mm512_loadu_ps(v.add(lanes.values[i]));
                    *o = _mm512_fmadd_ps(_mm512_permutexvar_ps(lanes.even[i], p), v, *o);
                }
                if 2 * pair + 1 == seen {
                    break;
                }
                for (i, o) in o.iter_mut().enumerate() {
                    let v = _mm512_loadu_ps(v.add(row + lanes.values[i]));
                    *o = _mm512_fmadd_ps(_mm512_permutexvar_ps(lanes.odd[i], p), v, *o);
                }
            }
            for (o, [low, high]) in o.into_iter().zip(lanes.heads) {
                let out = out.as_mut_ptr();
                _mm256_storeu_ps(out.add((h0 + low) * HEAD), _mm512_castps512_ps256(o));
                _mm256_storeu_ps(out.add((h0 + high) * HEAD), _mm512_extractf32x8_ps::<1>(o));
            }
        }
    }
}

/// Which lanes belong to whom in a block of eight heads.
struct Lanes {
    /// From a load of keys to eight heads of one position and eight of the next.
    keys: __m512i,
    /// The two heads, within the block, of each register of outputs: of neighbouring key/value heads.
    heads: [[usize; 2]; OUT],
    /// Where the values of both stand in a row.
    values: [usize; OUT],
    /// From the weights of a pair of positions to those of the two heads, for either position.
    even: [__m512i; OUT],
    odd: [__m512i; OUT],
}

impl Lanes {
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
    fn of(h0: usize, group: usize, kv_heads: usize) -> Self {
        let keys = std::array::from_fn(|i| (i / LANES * kv_heads + (h0 + i % LANES) / group) as i32);
        let couple = |i: usize| i / group * 2 * group + i % group;
        let heads: [[usize; 2]; OUT] = std::array::from_fn(|i| [couple(i), couple(i) + group]);
        let weights =
            |i: usize, odd: usize| indices(std::array::from_fn(|x| (heads[i][x / LANES] + odd) as i32));
        Self {
            keys: indices(keys),
            heads,
            values: heads.map(|[low, _]| (h0 + low) / group * HEAD),
            even: std::array::from_fn(|i| weights(i, 0)),
            odd: std::array::from_fn(|i| weights(i, LANES)),
        }
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn indices(x: [i32; NR]) -> __m512i {
    // SAFETY: sixteen numbers.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The lower half, twice.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn both(x: __m512) -> __m512 {
    _mm512_shuffle_f32x4::<0x44>(x, x)
}

/// The halves in each other's place.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn swapped(x: __m512) -> __m512 {
    _mm512_shuffle_f32x4::<0x4E>(x, x)
}
