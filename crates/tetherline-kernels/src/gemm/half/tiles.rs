//! Products of bf16 by the tile registers of Intel AMX.
//!
//! A tile is 16 rows of 64 bytes. `tdpbf16ps` adds to C (16 × 16 f32) the product of A (16 rows × 32 bf16) and B (16
//! pairs of rows × 16 columns): per element the products of the even indices in order, those of the odd ones in order,
//! and their sum, each rounded to f32. So a row of C depends on its row of A alone, whatever else is in the tile.
//!
//! The instructions are written as assembly, since Rust has no stable intrinsics for them. They keep their
//! contents from one block of assembly to the next, which rests on the compiler never using tile registers itself and
//! keeping the order of blocks; the tests below `half` would see it.

use super::{BLOCK, Line};
use crate::gemm::NR;
use std::arch::asm;

/// Rows of a tile.
const ROWS: usize = 16;
/// Bytes of a row of a tile.
const ROW: usize = 64;
/// Panels of about this many bytes, four at least, are kept at hand while all rows pass.
const GROUP: usize = 512 * 1024;

/// Whether the CPU has tiles for bf16 and the kernel lets this process use them.
#[cfg(target_os = "linux")]
pub(super) fn allowed() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let features = super::unit::cpuid(7).edx;
    if features & (1 << 22) == 0 || features & (1 << 24) == 0 {
        return false;
    }
    let refused: i64;
    // SAFETY: the call changes nothing but what this process may use; `syscall` overwrites rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => refused,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    refused == 0
}

/// Only Linux is asked for the permission to use tiles.
#[cfg(not(target_os = "linux"))]
pub(super) fn allowed() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// Shapes for strips of `rows` rows, 32 at most. Up to 16: sums in tiles 0 to 3, A in 4, B in 5 to 7. Above: sums of the
/// first 16 rows in 0 and 1, of the others in 2 and 3, A in 4 and 5, B in 6 and 7.
///
/// # Safety
/// [`allowed`] has said yes.
unsafe fn configure(rows: usize) {
    let (first, second) = (rows.min(ROWS) as u8, rows.saturating_sub(ROWS) as u8);
    let (c2, a2) = if second == 0 { (first, ROWS as u8) } else { (second, second) };
    let mut config = Config { palette: 1, start: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
    config.bytes[..8].fill(ROW as u16);
    config.rows[..8].copy_from_slice(&[first, first, c2, c2, first, a2, ROWS as u8, ROWS as u8]);
    // SAFETY: a valid configuration; the tiles hold nothing yet.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}

/// One strip of rows: where it stands in A, and the strides.
#[derive(Clone, Copy)]
struct Strip {
    rows: usize,
    a: *const u8,
    /// Blocks of 32 inner indices.
    blocks: usize,
}

macro_rules! load {
    ($tile:tt, $at:expr, $stride:expr) => {
        asm!(concat!("tileloadd ", $tile, ", [{at} + {stride}*1]"), at = in(reg) $at, stride = in(reg) $stride,
            out($tile) _, options(nostack, readonly))
    };
}

macro_rules! store {
    ($tile:tt, $at:expr, $stride:expr) => {
        asm!(concat!("tilestored [{at} + {stride}*1], ", $tile), at = in(reg) $at, stride = in(reg) $stride,
            options(nostack))
    };
}

/// Sums start from `from` (null: zero).
macro_rules! start {
    ($from:expr, $ldc:expr; $($tile:tt at $offset:expr),*) => {
        if $from.is_null() {
            asm!($(concat!("tilezero ", $tile)),*, $(out($tile) _),*, options(nostack, nomem))
        } else {
            $(load!($tile, $from.wrapping_add($offset), $ldc * 4);)*
        }
    };
}

/// The sums of `NP` neighbouring panels from `b` on, for at most 16 rows.
///
/// # Safety
/// The tiles are configured for the strip; everything read and written lies inside the matrices.
unsafe fn low<const NP: usize>(s: Strip, b: *const u8, from: *const f32, c: *mut f32, ldc: usize) {
    let (a, panel) = (s.a, s.blocks * ROWS * ROW);
    let row = s.blocks * ROW;
    // SAFETY: the caller's. Panels that are not there are not read: what would lie behind the last is the last again.
    unsafe {
        let at = |q: usize| b.add(q.min(NP - 1) * panel);
        match NP {
            1 => start!(from, ldc; "tmm0" at 0),
            2 => start!(from, ldc; "tmm0" at 0, "tmm1" at NR),
            3 => start!(from, ldc; "tmm0" at 0, "tmm1" at NR, "tmm2" at 2 * NR),
            _ => start!(from, ldc; "tmm0" at 0, "tmm1" at NR, "tmm2" at 2 * NR, "tmm3" at 3 * NR),
        }
        macro_rules! sum {
            ($($line:literal),*) => {
                asm!(
                    "2:",
                    "tileloadd tmm4, [{a} + {row}*1]",
                    $($line,)*
                    "add {a}, 64",
                    "add {p}, 1024",
                    "dec {left}",
                    "jnz 2b",
                    a = inout(reg) a => _,
                    row = in(reg) row,
                    p = inout(reg) at(0) => _,
                    q1 = in(reg) at(1).offset_from(at(0)),
                    q2 = in(reg) at(2).offset_from(at(0)),
                    q3 = in(reg) at(3).offset_from(at(0)),
                    t = out(reg) _,
                    stride = in(reg) ROW,
                    left = inout(reg) s.blocks => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                    out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly),
                )
            };
        }
        match NP {
            1 => sum!(
                "tileloadd tmm5, [{p} + {stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm5",
                "/* {t} {q1} {q2} {q3} */"
            ),
            2 => sum!(
                "tileloadd tmm5, [{p} + {stride}*1]",
                "lea {t}, [{p} + {q1}]",
                "tdpbf16ps tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{t} + {stride}*1]",
                "tdpbf16ps tmm1, tmm4, tmm6",
                "/* {q2} {q3} */"
            ),
            3 => sum!(
                "tileloadd tmm5, [{p} + {stride}*1]",
                "lea {t}, [{p} + {q1}]",
                "tdpbf16ps tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{t} + {stride}*1]",
                "lea {t}, [{p} + {q2}]",
                "tdpbf16ps tmm1, tmm4, tmm6",
                "tileloadd tmm7, [{t} + {stride}*1]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "/* {q3} */"
            ),
            _ => sum!(
                "tileloadd tmm5, [{p} + {stride}*1]",
                "lea {t}, [{p} + {q1}]",
                "tdpbf16ps tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{t} + {stride}*1]",
                "lea {t}, [{p} + {q2}]",
                "tdpbf16ps tmm1, tmm4, tmm6",
                "tileloadd tmm7, [{t} + {stride}*1]",
                "lea {t}, [{p} + {q3}]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tileloadd tmm5, [{t} + {stride}*1]",
                "tdpbf16ps tmm3, tmm4, tmm5"
            ),
        }
        store!("tmm0", c, ldc * 4);
        if NP > 1 {
            store!("tmm1", c.add(NR), ldc * 4);
        }
        if NP > 2 {
            store!("tmm2", c.add(2 * NR), ldc * 4);
        }
        if NP > 3 {
            store!("tmm3", c.add(3 * NR), ldc * 4);
        }
    }
}

/// The sums of one or two neighbouring panels, for 17 to 32 rows.
///
/// # Safety
/// As [`low`].
unsafe fn high<const NP: usize>(s: Strip, b: *const u8, from: *const f32, c: *mut f32, ldc: usize) {
    let (a, panel) = (s.a, s.blocks * ROWS * ROW);
    let row = s.blocks * ROW;
    let below = ROWS * ldc;
    // SAFETY: the caller's.
    unsafe {
        match NP {
            1 => start!(from, ldc; "tmm0" at 0, "tmm2" at below),
            _ => start!(from, ldc; "tmm0" at 0, "tmm1" at NR, "tmm2" at below, "tmm3" at below + NR),
        }
        macro_rules! sum {
            ($($line:literal),*) => {
                asm!(
                    "2:",
                    "tileloadd tmm4, [{a} + {row}*1]",
                    "tileloadd tmm6, [{p} + {stride}*1]",
                    $($line,)*
                    "add {a}, 64",
                    "add {a1}, 64",
                    "add {p}, 1024",
                    "add {p1}, 1024",
                    "dec {left}",
                    "jnz 2b",
                    a = inout(reg) a => _,
                    a1 = inout(reg) a.add(ROWS * row) => _,
                    row = in(reg) row,
                    p = inout(reg) b => _,
                    p1 = inout(reg) b.wrapping_add(panel) => _,
                    stride = in(reg) ROW,
                    left = inout(reg) s.blocks => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                    out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly),
                )
            };
        }
        match NP {
            1 => sum!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6"
            ),
            _ => sum!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{p1} + {stride}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a1} + {row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7"
            ),
        }
        store!("tmm0", c, ldc * 4);
        store!("tmm2", c.add(below), ldc * 4);
        if NP > 1 {
            store!("tmm1", c.add(NR), ldc * 4);
            store!("tmm3", c.add(below + NR), ldc * 4);
        }
    }
}

/// C = D + A·B: `a` has `blocks` lines in a row, `b` sixteen times as many in a panel.
///
/// # Safety
/// [`allowed`] has said yes; A has m rows, B ⌈n/16⌉ panels, C and D (null for none) are as in
/// [`gemm_at`](crate::gemm::gemm_at).
pub(super) unsafe fn product(
    (m, n, blocks): (usize, usize, usize),
    a: *const Line,
    b: *const Line,
    from: *const f32,
    c: *mut f32,
    ldc: usize,
) {
    let panel = blocks * BLOCK / 2;
    let (full, rest) = (n / NR, n % NR);
    let panels = full + usize::from(rest > 0);
    let group = (GROUP / (panel.max(1) * ROW)).next_multiple_of(4).max(4);
    let d = |at: usize| if from.is_null() { from } else { from.wrapping_add(at) };
    let mut j0 = 0;
    while j0 < panels {
        let end = (j0 + group).min(panels);
        let mut i = 0;
        while i < m {
            let rows = (m - i).min(2 * ROWS);
            // SAFETY: inside the matrices by the caller's sizes.
            unsafe {
                configure(rows);
                let s = Strip { rows, a: a.add(i * blocks).cast(), blocks };
                let mut j = j0;
                while j < end {
                    let at = i * ldc + j * NR;
                    let b = b.add(j * panel).cast();
                    let left = end.min(full) - j.min(full);
                    j += match (left, rows > ROWS) {
                        (0, _) => {
                            edge(s, rest, b, d(at), c.add(at), ldc);
                            1
                        }
                        (1, false) => {
                            low::<1>(s, b, d(at), c.add(at), ldc);
                            1
                        }
                        (2, false) => {
                            low::<2>(s, b, d(at), c.add(at), ldc);
                            2
                        }
                        (3, false) => {
                            low::<3>(s, b, d(at), c.add(at), ldc);
                            3
                        }
                        (_, false) => {
                            low::<4>(s, b, d(at), c.add(at), ldc);
                            4
                        }
                        (1, true) => {
                            high::<1>(s, b, d(at), c.add(at), ldc);
                            1
                        }
                        (_, true) => {
                            high::<2>(s, b, d(at), c.add(at), ldc);
                            2
                        }
                    };
                }
            }
            i += rows;
        }
        j0 = end;
    }
    // SAFETY: gives the tiles back, so that a switch of threads need not save them.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// The last panel where it has `cols` columns only: through a tile of its own, since tiles are written whole.
///
/// # Safety
/// As [`low`].
unsafe fn edge(s: Strip, cols: usize, b: *const u8, from: *const f32, c: *mut f32, ldc: usize) {
    let mut own = [[0.0f32; NR]; 2 * ROWS];
    // SAFETY: the caller's sizes; `own` has room for the rows of a strip.
    unsafe {
        let mut start = std::ptr::null();
        if !from.is_null() {
            for (r, own) in own.iter_mut().enumerate().take(s.rows) {
                from.add(r * ldc).copy_to_nonoverlapping(own.as_mut_ptr(), cols);
            }
            start = own.as_ptr().cast();
        }
        let sums = own.as_mut_ptr().cast();
        if s.rows > ROWS {
            high::<1>(s, b, start, sums, NR)
        } else {
            low::<1>(s, b, start, sums, NR)
        }
        for (r, own) in own.iter().enumerate().take(s.rows) {
            own.as_ptr().copy_to_nonoverlapping(c.add(r * ldc), cols);
        }
    }
}
