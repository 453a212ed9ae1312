//! For the benchmarks alone, and no part of the interface: how fast this CPU multiplies and adds.
//!
//! Multiply-adds on registers only, at the widest vectors that the CPU has: the rate that no matrix product can
//! exceed. There are enough independent chains to hide the latency of one.

use std::hint::black_box;

/// Independent chains.
const CHAINS: usize = 12;

/// Takes `rounds` × 12 vector multiply-adds; returns the floating-point operations done and a number that
/// depends on all of them.
pub fn multiply_adds(rounds: u64) -> (u64, f32) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU was just asked for the feature.
            return (operations(rounds, 16), unsafe { avx512(rounds) });
        }
        if crate::simd::has_avx2_fma() {
            // SAFETY: the CPU was just asked for the features.
            return (operations(rounds, 8), unsafe { avx2(rounds) });
        }
    }
    (operations(rounds, 4), baseline(rounds))
}

fn operations(rounds: u64, lanes: u64) -> u64 {
    2 * rounds * CHAINS as u64 * lanes
}

/// Near 1 and near 0, so that no chain overflows or becomes denormal; hidden from the compiler, which would
/// otherwise find out where a chain ends.
fn factor_and_summand() -> (f32, f32) {
    black_box((0.999_9, 1e-4))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(rounds: u64) -> f32 {
    use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let (a, b) = factor_and_summand();
    let (a, b) = (_mm512_set1_ps(a), _mm512_set1_ps(b));
    let mut x = black_box([1.0; CHAINS]).map(|x| _mm512_set1_ps(x));
    for _ in 0..rounds {
        for x in &mut x {
            *x = _mm512_fmadd_ps(*x, a, b);
        }
    }
    _mm512_reduce_add_ps(x.into_iter().fold(_mm512_set1_ps(0.0), |s, x| _mm512_add_ps(s, x)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(rounds: u64) -> f32 {
    use std::arch::x86_64::{_mm256_add_ps, _mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let (a, b) = factor_and_summand();
    let (a, b) = (_mm256_set1_ps(a), _mm256_set1_ps(b));
    let mut x = black_box([1.0; CHAINS]).map(|x| _mm256_set1_ps(x));
    for _ in 0..rounds {
        for x in &mut x {
            *x = _mm256_fmadd_ps(*x, a, b);
        }
    }
    // All lanes are alike.
    _mm256_cvtss_f32(x.into_iter().fold(_mm256_set1_ps(0.0), |s, x| _mm256_add_ps(s, x)))
}

fn baseline(rounds: u64) -> f32 {
    let (a, b) = factor_and_summand();
    let mut x = black_box([[1.0f32; 4]; CHAINS]);
    for _ in 0..rounds {
        for x in x.iter_mut().flatten() {
            *x = crate::simd::fma::<{ crate::simd::BASELINE_FMA }>(*x, a, b);
        }
    }
    x.iter().flatten().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chains_are_computed() {
        let (operations, sum) = multiply_adds(1000);
        assert!(operations >= 2 * 1000 * 12 * 4);
        // 1 is where x·0.9999 + 0.0001 rests.
        let lanes = sum / CHAINS as f32;
        assert!([1.0, 4.0, 16.0].iter().any(|n| (lanes / n - 1.0).abs() < 1e-3), "{lanes}");
    }
}
