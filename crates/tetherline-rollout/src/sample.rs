//! One draw from a row of log-probs: top-k, then top-p, then the inverse of the cumulative distribution.
//!
//! The log-prob that a rollout keeps is that of the tempered distribution *before* top-k and top-p, so that
//! policy, reference and trainer speak of the same distribution.

use crate::SamplingConfig;
use tetherline_core::seeds::Stream;

/// The index of the largest log-prob; the first of equals.
pub(crate) fn greedy(logprobs: &[f32]) -> usize {
    let mut best = 0;
    for (i, x) in logprobs.iter().enumerate() {
        if *x > logprobs[best] {
            best = i;
        }
    }
    best
}

/// Draws a token. `order` is scratch space.
pub(crate) fn draw(
    logprobs: &[f32],
    config: &SamplingConfig,
    stream: &mut Stream,
    order: &mut Vec<u32>,
) -> usize {
    let u = stream.uniform();
    if config.top_k == 0 && config.top_p >= 1.0 {
        // Σp is 1 up to rounding; scaling u by the actual sum keeps the last token reachable only fairly.
        let total: f64 = logprobs.iter().map(|&x| f64::from(x).exp()).sum();
        return walk(logprobs.iter().enumerate().map(|(i, &x)| (i, f64::from(x).exp())), u * total);
    }
    order.clear();
    order.extend(0..logprobs.len() as u32);
    let key = |i: &u32| logprobs[*i as usize];
    order.sort_unstable_by(|a, b| key(b).total_cmp(&key(a)).then(a.cmp(b)));
    if config.top_k > 0 {
        order.truncate(config.top_k);
    }
    if config.top_p < 1.0 {
        let total: f64 = order.iter().map(|i| f64::from(key(i)).exp()).sum();
        let mut mass = 0.0;
        let mut keep = 0;
        while keep < order.len() && mass < config.top_p * total {
            mass += f64::from(key(&order[keep])).exp();
            keep += 1;
        }
        order.truncate(keep.max(1));
    }
    let total: f64 = order.iter().map(|i| f64::from(key(i)).exp()).sum();
    walk(order.iter().map(|i| (*i as usize, f64::from(key(i)).exp())), u * total)
}

/// The first item at which the running sum exceeds `u`; the last one with any mass if rounding falls short.
fn walk(items: impl Iterator<Item = (usize, f64)>, u: f64) -> usize {
    let (mut sum, mut last) = (0.0, 0);
    for (i, p) in items {
        sum += p;
        if p > 0.0 {
            last = i;
        }
        if sum > u {
            return i;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_core::seeds::{Purpose, stream};

    fn counts(top_k: usize, top_p: f64) -> Vec<f64> {
        let lp: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let config = SamplingConfig { top_k, top_p, ..SamplingConfig::default() };
        let mut s = stream(1, Purpose::Sampling, 0, 0, 0);
        let mut n = vec![0.0; 4];
        for _ in 0..40_000 {
            n[draw(&lp, &config, &mut s, &mut Vec::new())] += 1.0 / 40_000.0;
        }
        n
    }

    #[test]
    fn draws_follow_the_filtered_distribution() {
        for (k, p, want) in [
            (0, 1.0, [0.5, 0.3, 0.15, 0.05]),
            (2, 1.0, [0.625, 0.375, 0.0, 0.0]),
            (0, 0.9, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0]),
            (3, 0.6, [0.625, 0.375, 0.0, 0.0]),
        ] {
            for (got, want) in counts(k, p).iter().zip(want) {
                assert!((got - want).abs() < 0.012, "top_k {k} top_p {p}: {got} vs {want}");
            }
        }
        assert_eq!(greedy(&[-1.0, -0.5, -0.5]), 1);
    }
}
