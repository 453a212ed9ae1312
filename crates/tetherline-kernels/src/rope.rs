//! Rotary position embedding in the Hugging Face "half" form.
//!
//! For each pair (x₁, x₂) = (x\[i\], x\[i + r/2\]) of the first r dimensions of a head, position p and
//! frequency fᵢ: x₁' = x₁·cos(p·fᵢ) − x₂·sin(p·fᵢ), x₂' = x₂·cos(p·fᵢ) + x₁·sin(p·fᵢ).

use std::sync::OnceLock;

/// Positions whose angles are computed together, when one of them is first needed.
const BLOCK: usize = 256;

/// cos and sin of the angles of every position.
#[derive(Clone, Debug)]
pub struct RopeTable {
    inv_freq: Vec<f32>,
    factor: f32,
    /// cos and sin of [`BLOCK`] positions each.
    blocks: Vec<OnceLock<(Vec<f32>, Vec<f32>)>>,
}

impl RopeTable {
    /// Tables for `positions` positions; `factor` multiplies cos and sin (1 except for YaRN-like scalings).
    pub fn new(inv_freq: Vec<f32>, factor: f32, positions: usize) -> Self {
        Self { inv_freq, factor, blocks: vec![OnceLock::new(); positions.div_ceil(BLOCK)] }
    }

    /// The frequencies fᵢ in radians per position.
    pub fn inv_freq(&self) -> &[f32] {
        &self.inv_freq
    }

    /// The factor on cos and sin.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    fn angles(&self, block: usize) -> (Vec<f32>, Vec<f32>) {
        let positions = block * BLOCK..(block + 1) * BLOCK;
        // f32 on purpose: transformers computes angles in f32.
        let angles = positions.flat_map(|p| self.inv_freq.iter().map(move |f| p as f32 * f));
        angles.map(|a| (a.cos() * self.factor, a.sin() * self.factor)).unzip()
    }

    /// Rotates `heads` consecutive heads of width `head_dim` in `x` as position `p`; `back` rotates back. Only the
    /// first 2·frequencies dimensions of a head turn.
    pub(crate) fn rotate(&self, x: &mut [f32], heads: usize, head_dim: usize, p: usize, back: bool) {
        let h = self.inv_freq.len();
        let (cos, sin) = self.blocks[p / BLOCK].get_or_init(|| self.angles(p / BLOCK));
        let at = p % BLOCK * h..(p % BLOCK + 1) * h;
        let (cos, sin) = (&cos[at.clone()], &sin[at]);
        let heads = &mut x[..heads * head_dim];
        match (cos.first_chunk(), sin.first_chunk()) {
            (Some(cos), Some(sin)) if head_dim == 2 * NARROW && h == NARROW => {
                turn_narrow(heads, cos, sin, if back { -1.0 } else { 1.0 });
            }
            _ => turn(heads, head_dim, cos, sin, if back { -1.0 } else { 1.0 }),
        }
    }
}

/// Half of the smallest head that has a loop of its own: its halves are narrower than a register.
const NARROW: usize = 4;

simd_fn! {
    /// Turns heads by angles of which `sin` is multiplied with `sign`.
    fn turn(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32) {
        let h = cos.len();
        for head in heads.chunks_exact_mut(head_dim) {
            let (a, b) = head.split_at_mut(h);
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let (x1, x2) = (*a, *b);
                let s = sin * sign;
                *a = x1 * cos - x2 * s;
                *b = x2 * cos + x1 * s;
            }
        }
    }
}

simd_fn! {
    /// [`turn`] for heads of eight that turn as a whole.
    fn turn_narrow(heads: &mut [f32], cos: &[f32; NARROW], sin: &[f32; NARROW], sign: f32) {
        let [c0, c1, c2, c3] = *cos;
        let [s0, s1, s2, s3] = sin.map(|s| s * sign);
        let cos = [c0, c1, c2, c3, c0, c1, c2, c3];
        let sin = [-s0, -s1, -s2, -s3, s0, s1, s2, s3];
        for x in heads.as_chunks_mut::<{ 2 * NARROW }>().0 {
            let other = [x[4], x[5], x[6], x[7], x[0], x[1], x[2], x[3]];
            for i in 0..2 * NARROW {
                x[i] = x[i] * cos[i] + other[i] * sin[i];
            }
        }
    }
}

/// A rotary embedding whose frequencies may be others for long sequences (LongRoPE).
#[derive(Clone, Debug)]
pub struct Rope {
    /// For every sequence, or for those of at most `long.0` tokens.
    pub table: RopeTable,
    /// For longer ones.
    pub long: Option<(usize, RopeTable)>,
}

impl Rope {
    /// The table for a sequence of `tokens` tokens.
    pub fn of(&self, tokens: usize) -> &RopeTable {
        match &self.long {
            Some((original, table)) if tokens > *original => table,
            _ => &self.table,
        }
    }
}
