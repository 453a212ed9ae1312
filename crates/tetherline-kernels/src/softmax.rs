//! Softmax over one row, and what is read off it. Natural logs, nats.
//!
//! Sums run over 16 fixed lanes and fold in a fixed tree, so a row gives the same bits wherever it is
//! computed.

use crate::simd::{exp, fma, fold};

/// max of a row.
#[inline(always)]
fn row_max(z: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let whole = z.len() - z.len() % 16;
    for c in z[..whole].chunks_exact(16) {
        for i in 0..16 {
            lanes[i] = if c[i] > lanes[i] { c[i] } else { lanes[i] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(&z[whole..]) {
        *lane = if x > *lane { x } else { *lane };
    }
    // A tree: one after the other, sixteen comparisons would wait for each other.
    let mut w = 8;
    while w > 0 {
        for i in 0..w {
            lanes[i] = if lanes[i + w] > lanes[i] { lanes[i + w] } else { lanes[i] };
        }
        w /= 2;
    }
    lanes[0]
}

simd_fn! {
    /// In place p = softmax(scale·z) of the first `visible` of a row's numbers, 0 behind them up to the next
    /// multiple of 16.
    ///
    /// # Panics
    /// If the row is not that long.
    pub(crate) fn softmax_in_place(row: &mut [f32], visible: usize, scale: f32) {
        // Whole lanes only: what is not visible is −∞, whose exponential is 0.
        let z = &mut row[..visible.next_multiple_of(16)];
        z[visible..].fill(f32::NEG_INFINITY);
        let max = row_max(z);
        let mut lanes = [0.0f32; 16];
        for c in z.chunks_exact_mut(16) {
            for i in 0..16 {
                c[i] = exp::<FMA>((c[i] - max) * scale);
                lanes[i] += c[i];
            }
        }
        let sum = fold(lanes);
        let inv = 1.0 / sum;
        for x in z.iter_mut() {
            *x *= inv;
        }
    }
}

simd_fn! {
    /// (log Σ exp(scale·z), entropy) of a row of logits.
    pub(crate) fn lse_entropy(z: &[f32], scale: f32) -> (f32, f32) {
        let max = row_max(z);
        let mut sums = [0.0f32; 16];
        let mut dots = [0.0f32; 16];
        let whole = z.len() - z.len() % 16;
        for c in z[..whole].chunks_exact(16) {
            for i in 0..16 {
                let y = (c[i] - max) * scale;
                let e = exp::<FMA>(y);
                sums[i] += e;
                dots[i] = fma::<FMA>(e, y, dots[i]);
            }
        }
        for (i, &x) in z[whole..].iter().enumerate() {
            let y = (x - max) * scale;
            let e = exp::<FMA>(y);
            sums[i] += e;
            // e·y is 0·(−∞) for an excluded token.
            dots[i] += if e > 0.0 { e * y } else { 0.0 };
        }
        let sum = fold(sums);
        let log_sum = sum.ln();
        (max * scale + log_sum, log_sum - fold(dots) / sum)
    }
}

simd_fn! {
    /// Gradient of g_lp·log p\[target\] + g_h·H with respect to the logits, in place of the logits:
    /// scale·( g_lp·(1\[j = target\] − pⱼ) − g_h·pⱼ·(log pⱼ + H) ).
    pub(crate) fn logits_gradient(
        z: &mut [f32], scale: f32, lse: f32, entropy: f32, target: usize, g_lp: f32, g_h: f32,
    ) {
        if g_h == 0.0 {
            let w = -g_lp * scale;
            for x in z.iter_mut() {
                *x = w * exp::<FMA>(fma::<FMA>(*x, scale, -lse));
            }
        } else {
            for x in z.iter_mut() {
                let lp = fma::<FMA>(*x, scale, -lse);
                let p = exp::<FMA>(lp);
                *x = -scale * p * (g_lp + g_h * (lp + entropy));
            }
        }
        z[target] += g_lp * scale;
    }
}

simd_fn! {
    /// KL(p‖q) = Σ p·(log p − log q) of two rows of logits with their log-sums, nats per token.
    pub(crate) fn kl_of_logits(zp: &[f32], lse_p: f32, zq: &[f32], lse_q: f32, scale: f32) -> f32 {
        let mut lanes = [0.0f32; 16];
        let n = zp.len().min(zq.len());
        let whole = n - n % 16;
        for (a, b) in zp[..whole].chunks_exact(16).zip(zq[..whole].chunks_exact(16)) {
            for i in 0..16 {
                let lp = fma::<FMA>(a[i], scale, -lse_p);
                let lq = fma::<FMA>(b[i], scale, -lse_q);
                // p·log(p/q) − p + q is ≥ 0 term by term and has the same sum, so rounding
                // cannot make a tiny divergence negative.
                let p = exp::<FMA>(lp);
                let q = exp::<FMA>(lq);
                lanes[i] += fma::<FMA>(p, lp - lq, q - p);
            }
        }
        for i in whole..n {
            let lp = fma::<FMA>(zp[i], scale, -lse_p);
            let lq = fma::<FMA>(zq[i], scale, -lse_q);
            let p = exp::<FMA>(lp);
            let q = exp::<FMA>(lq);
            lanes[i - whole] += fma::<FMA>(p, lp - lq, q - p);
        }
        fold(lanes)
    }
}

/// In place log-softmax of `z / temperature`; returns the entropy in nats. The one function that turns
/// a row of logits into log-probs outside a training step (the sampler uses it).
pub fn log_softmax_in_place(z: &mut [f32], temperature: f32) -> f32 {
    let scale = 1.0 / temperature;
    let (lse, entropy) = lse_entropy(z, scale);
    shift(z, scale, lse);
    entropy
}

/// The first token at which the running sum of probabilities exceeds u·Σp, for u in [0, 1): a draw from a row of
/// log-probs. The last one with any mass where rounding falls short.
pub fn draw(logprobs: &[f32], u: f64) -> usize {
    let block = |at: usize| &logprobs[at..(at + DRAWN).min(logprobs.len())];
    // Of a large vocabulary several blocks stand together, and those of the one that is drawn are summed again.
    let together = logprobs.len().div_ceil(DRAWN).div_ceil(SUMS).max(1);
    let mut sums = [0.0f64; SUMS];
    let sums = &mut sums[..logprobs.len().div_ceil(DRAWN).div_ceil(together)];
    let blocks = |i: usize| {
        (i * together..(i + 1) * together).map(|b| b * DRAWN).take_while(|at| *at < logprobs.len())
    };
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = blocks(i).map(|at| f64::from(mass(block(at)))).sum();
    }
    let goal = u * sums.iter().sum::<f64>();
    let (mut sum, mut last) = (0.0, 0);
    for (i, here) in sums.iter().copied().enumerate() {
        if here > 0.0 {
            last = i;
        }
        if sum + here > goal {
            last = i;
            break;
        }
        sum += here;
    }
    let mut found = last * together * DRAWN;
    let mut p = [0.0; DRAWN];
    for at in blocks(last) {
        let block = block(at);
        exps(block, &mut p);
        for (i, p) in p[..block.len()].iter().enumerate() {
            sum += f64::from(*p);
            if *p > 0.0 {
                found = at + i;
            }
            if sum > goal {
                return found;
            }
        }
    }
    found
}

/// Tokens whose probabilities [`draw`] sums at once.
const DRAWN: usize = 64;

/// Sums that it keeps.
const SUMS: usize = 128;

simd_fn! {
    /// Σ exp(x).
    fn mass(logprobs: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 16];
        for c in logprobs.chunks(16) {
            for (lane, x) in lanes.iter_mut().zip(c) {
                *lane += exp::<FMA>(*x);
            }
        }
        fold(lanes)
    }
}

simd_fn! {
    fn exps(logprobs: &[f32], p: &mut [f32; DRAWN]) {
        for (p, x) in p.iter_mut().zip(logprobs) {
            *p = exp::<FMA>(*x);
        }
    }
}

simd_fn! {
    /// z = scale·z − lse.
    fn shift(z: &mut [f32], scale: f32, lse: f32) {
        for x in z.iter_mut() {
            *x = fma::<FMA>(*x, scale, -lse);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Vec<f32> {
        (0..37).map(|i| ((i * 7919 % 101) as f32) * 0.07 - 3.0).collect()
    }

    fn exact(z: &[f32], t: f64) -> (Vec<f64>, f64) {
        let s: Vec<f64> = z.iter().map(|&x| f64::from(x) / t).collect();
        let m = s.iter().copied().fold(f64::MIN, f64::max);
        let lse = m + s.iter().map(|x| (x - m).exp()).sum::<f64>().ln();
        let lp: Vec<f64> = s.iter().map(|x| x - lse).collect();
        let h = -lp.iter().map(|l| l * l.exp()).sum::<f64>();
        (lp, h)
    }

    #[test]
    fn log_softmax_and_entropy_match_f64() {
        for t in [1.0, 0.7] {
            let (want, h) = exact(&row(), t);
            let mut z = row();
            let got_h = log_softmax_in_place(&mut z, t as f32);
            assert!((f64::from(got_h) - h).abs() < 1e-5);
            for (a, b) in z.iter().zip(&want) {
                assert!((f64::from(*a) - b).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_draw_is_where_the_cumulative_distribution_passes() {
        let z: Vec<f32> = (0..1000).map(|i| ((i * 7919 % 101) as f32) * 0.07 - 3.0).collect();
        let (mut lp, _) = exact(&z, 1.0);
        lp[70] = f64::NEG_INFINITY;
        lp[999] = f64::NEG_INFINITY;
        let row: Vec<f32> = lp.iter().map(|&x| x as f32).collect();
        let total: f64 = lp.iter().map(|x| x.exp()).sum();
        for i in 0..2000 {
            let u = f64::from(i) / 2000.0;
            let found = draw(&row, u);
            // By f64: the sum up to the token is beyond u, and without it not, but for rounding.
            let up_to = |n: usize| lp[..n].iter().map(|x| x.exp()).sum::<f64>() / total;
            assert!(up_to(found) < u + 1e-5 && up_to(found + 1) > u - 1e-5, "{u}: {found}");
            assert!(row[found].is_finite());
        }
        assert_eq!(draw(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 0.999_999_999_9), 1);
        assert_eq!(draw(&[0.0], 0.0), 0);
    }

    #[test]
    fn logits_gradient_matches_finite_differences() {
        let (t, target, g_lp, g_h) = (0.7, 5, 0.8, -0.3);
        let f = |z: &[f32]| {
            let (lp, h) = exact(z, t);
            g_lp * lp[target] + g_h * h
        };
        let z = row();
        let (lse, h) = lse_entropy(&z, 1.0 / t as f32);
        let mut g = z.clone();
        logits_gradient(&mut g, 1.0 / t as f32, lse, h, target, g_lp as f32, g_h as f32);
        for j in 0..z.len() {
            let (mut up, mut down) = (z.clone(), z.clone());
            up[j] += 1e-2;
            down[j] -= 1e-2;
            let fd = (f(&up) - f(&down)) / f64::from(up[j] - down[j]);
            assert!((f64::from(g[j]) - fd).abs() < 1e-4, "{j}: {} vs {fd}", g[j]);
        }
    }

    #[test]
    fn kl_matches_f64_and_is_zero_for_equal_rows() {
        let p = row();
        let q: Vec<f32> = p.iter().enumerate().map(|(i, x)| x + (i as f32 * 0.9).sin()).collect();
        let (lp, _) = exact(&p, 1.0);
        let (lq, _) = exact(&q, 1.0);
        let want: f64 = lp.iter().zip(&lq).map(|(a, b)| a.exp() * (a - b)).sum();
        let (a, b) = (lse_entropy(&p, 1.0).0, lse_entropy(&q, 1.0).0);
        assert!((f64::from(kl_of_logits(&p, a, &q, b, 1.0)) - want).abs() < 1e-5);
        assert_eq!(kl_of_logits(&p, a, &p, a, 1.0), 0.0);
    }
}
