//! Rotary position embedding in the Hugging Face "half" form.
//!
//! For each pair (x₁, x₂) = (x\[i\], x\[i + r/2\]) of the first r dimensions of a head, position p and
//! frequency fᵢ: x₁' = x₁·cos(p·fᵢ) − x₂·sin(p·fᵢ), x₂' = x₂·cos(p·fᵢ) + x₁·sin(p·fᵢ).

/// cos and sin of every position.
#[derive(Clone, Debug)]
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    inv_freq: Vec<f32>,
    factor: f32,
}

impl RopeTable {
    /// Tables for `positions` positions; `factor` multiplies cos and sin (1 except for YaRN-like scalings).
    pub fn new(inv_freq: Vec<f32>, factor: f32, positions: usize) -> Self {
        let half = inv_freq.len();
        let (mut cos, mut sin) = (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
        for p in 0..positions {
            for f in &inv_freq {
                // f32 on purpose: transformers computes angles in f32.
                let angle = p as f32 * f;
                cos.push(angle.cos() * factor);
                sin.push(angle.sin() * factor);
            }
        }
        Self { half, cos, sin, inv_freq, factor }
    }

    /// The frequencies fᵢ in radians per position.
    pub fn inv_freq(&self) -> &[f32] {
        &self.inv_freq
    }

    /// The factor on cos and sin.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Rotates `heads` consecutive heads of width `head_dim` in `x` as position `p`; `back` rotates back.
    pub(crate) fn rotate(&self, x: &mut [f32], heads: usize, head_dim: usize, p: usize, back: bool) {
        let h = self.half;
        let cos = &self.cos[p * h..(p + 1) * h];
        let sin = &self.sin[p * h..(p + 1) * h];
        let sign = if back { -1.0 } else { 1.0 };
        for head in x.chunks_exact_mut(head_dim).take(heads) {
            let (a, b) = head.split_at_mut(h);
            for i in 0..h {
                let (x1, x2) = (a[i], b[i]);
                let s = sin[i] * sign;
                a[i] = x1 * cos[i] - x2 * s;
                b[i] = x2 * cos[i] + x1 * s;
            }
        }
    }
}
