//! Which part of the CPU multiplies bf16.

use std::sync::OnceLock;

/// What multiplies panels of bf16. The three give different bits; a process uses one of them throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// The tiles of Intel AMX: 16 × 32 by 32 × 16 in one instruction.
    #[cfg(target_arch = "x86_64")]
    Tiles,
    /// Pairs in the lanes of AVX-512 (AVX512-BF16).
    #[cfg(target_arch = "x86_64")]
    Pairs,
    /// None: the weights are widened to f32 and the other operand stays what it is.
    Widened,
}

/// The fastest of the running CPU. Intel's lanes of pairs are slower than its f32 (57 against 80 GFLOP/s on Sapphire
/// Rapids), AMD's twice as fast.
pub(crate) fn unit() -> Unit {
    static UNIT: OnceLock<Unit> = OnceLock::new();
    *UNIT.get_or_init(|| {
        let fast = |unit: &Unit| match unit {
            #[cfg(target_arch = "x86_64")]
            Unit::Pairs => made_by_amd(),
            _ => true,
        };
        all().into_iter().find(fast).unwrap_or(Unit::Widened)
    })
}

#[cfg(target_arch = "x86_64")]
fn made_by_amd() -> bool {
    let vendor = cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

/// All that the running CPU has, the best first.
pub(crate) fn all() -> Vec<Unit> {
    let mut units = Vec::new();
    #[cfg(target_arch = "x86_64")]
    if crate::simd::has_avx512() && std::arch::is_x86_feature_detected!("avx512bf16") {
        if super::tiles::allowed() {
            units.push(Unit::Tiles);
        }
        units.push(Unit::Pairs);
    }
    units.push(Unit::Widened);
    units
}

/// What the CPU says of itself under `leaf`, which is 0 where it has none.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::allow_attributes, reason = "older compilers call these functions unsafe, newer ones do not")]
#[allow(unused_unsafe, reason = "older compilers call these functions unsafe, newer ones do not")]
pub(super) fn cpuid(leaf: u32) -> std::arch::x86_64::CpuidResult {
    use std::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
    // SAFETY: every x86-64 CPU has `cpuid`.
    unsafe {
        if leaf > __cpuid(0).eax {
            return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
        }
        __cpuid_count(leaf, 0)
    }
}
