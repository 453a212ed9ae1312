//! One body, compiled for several CPU feature levels, chosen at run time.
//!
//! Loops are written so that the compiler vectorises them; `simd_fn!` compiles the same body once for
//! AVX-512, once for AVX2+FMA and once for the baseline. The products and sums of a body are the same sequence of
//! operations on every path that has fused multiply-add, so AVX2 and AVX-512 give the same bits.

/// Feature levels of x86-64, each with all of the one before it.
#[cfg(target_arch = "x86_64")]
mod level {
    pub(super) const BASELINE: u8 = 1;
    pub(super) const AVX2_FMA: u8 = 2;
    pub(super) const AVX512: u8 = 3;
}

/// The level of the running CPU. One load once it is known: kernels ask for every row.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn level() -> u8 {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    #[cold]
    fn detect() -> u8 {
        let avx2 = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
        let avx512 = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vl");
        let level = match (avx2, avx512) {
            (true, true) => level::AVX512,
            (true, false) => level::AVX2_FMA,
            (false, _) => level::BASELINE,
        };
        KNOWN.store(level, Relaxed);
        level
    }
    match KNOWN.load(Relaxed) {
        0 => detect(),
        level => level,
    }
}

/// Whether the running CPU has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_avx2_fma() -> bool {
    level() >= level::AVX2_FMA
}

/// Whether the running CPU has the AVX-512 subsets that the kernels are compiled for.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_avx512() -> bool {
    level() == level::AVX512
}

/// Fused multiply-add is native on the baseline of these targets.
pub(crate) const BASELINE_FMA: bool = cfg!(target_arch = "aarch64");

/// `a·b + c`, fused where the feature level has it (`f32::mul_add` would call libm elsewhere).
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Below this eˣ counts as 0. What it leaves out, 1.6e-28, is lost in every sum with a 1; and products with it would be
/// denormal numbers, each of which costs a CPU as much as a hundred others.
pub(crate) const EXP_CUT: f32 = -64.0;

/// eˣ for f32, within 2 ulp on [−64, 88], 0 below, branch-free so that loops over it vectorise.
///
/// Range reduction x = n·ln 2 + r with a two-part ln 2, then a degree-6 polynomial (Cephes `expf`).
/// NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5·2²³: adding it rounds to an integer in the low mantissa bits
    let c = if x > 88.0 { 88.0 } else { x };
    let c = if c < EXP_CUT { EXP_CUT } else { c };
    let shifted = fma::<FMA>(c, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<FMA>(n, -0.693_359_4, c);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_199_9e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    let y = fma::<FMA>(p, r * r, r) + 1.0;
    let bits = shifted.to_bits().wrapping_sub(0x4B40_0000).wrapping_add(127) << 23;
    let y = y * f32::from_bits(bits);
    if x < EXP_CUT { 0.0 } else { y }
}

/// Defines `fn name(args) -> ret` whose body sees a const generic `FMA` and is compiled per CPU level.
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(unused_variables, clippy::extra_unused_type_parameters, reason = "not every body multiplies")]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                if $crate::simd::has_avx512() {
                    // SAFETY: the CPU was just asked for exactly these features.
                    return unsafe { avx512($($arg),*) };
                }
                if $crate::simd::has_avx2_fma() {
                    // SAFETY: the CPU was just asked for exactly these features.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<{ $crate::simd::BASELINE_FMA }>($($arg),*)
        }
    };
}

simd_fn! {
    /// y += x, element by element.
    pub(crate) fn add_assign(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }
}

simd_fn! {
    /// y += a·x.
    pub(crate) fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = crate::simd::fma::<FMA>(a, *x, *y);
        }
    }
}

simd_fn! {
    /// Σ xᵢ·yᵢ over 16 fixed lanes, folded in a fixed tree.
    pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 16];
        let n = x.len().min(y.len());
        let whole = n - n % 16;
        for (x, y) in x[..whole].chunks_exact(16).zip(y[..whole].chunks_exact(16)) {
            for i in 0..16 {
                lanes[i] = crate::simd::fma::<FMA>(x[i], y[i], lanes[i]);
            }
        }
        for i in whole..n {
            lanes[i - whole] = crate::simd::fma::<FMA>(x[i], y[i], lanes[i - whole]);
        }
        crate::simd::fold(lanes)
    }
}

/// Sums 16 lanes in a fixed tree.
#[inline(always)]
pub(crate) fn fold(mut lanes: [f32; 16]) -> f32 {
    let mut w = 8;
    while w > 0 {
        for i in 0..w {
            lanes[i] += lanes[i + w];
        }
        w /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_of_f64() {
        let mut worst = 0.0f64;
        for i in 0..400_000 {
            let x = EXP_CUT + 152.0 * (i as f32) / 400_000.0;
            let want = f64::from(x).exp();
            let got = f64::from(exp::<BASELINE_FMA>(x));
            let ulp = f64::from((want as f32).next_up() - (want as f32));
            worst = worst.max(((got - want) / ulp).abs());
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(
            (exp::<BASELINE_FMA>(f32::NEG_INFINITY), exp::<BASELINE_FMA>(EXP_CUT.next_down())),
            (0.0, 0.0)
        );
        assert_eq!(exp::<BASELINE_FMA>(0.0), 1.0);
        assert!(exp::<BASELINE_FMA>(f32::NAN).is_nan());
    }

    #[test]
    fn dot_matches_f64() {
        let x: Vec<f32> = (0..77).map(|i| (i as f32 * 0.37).sin()).collect();
        let y: Vec<f32> = (0..77).map(|i| (i as f32 * 0.91).cos()).collect();
        let want: f64 = x.iter().zip(&y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((f64::from(dot(&x, &y)) - want).abs() < 1e-5);
    }
}
