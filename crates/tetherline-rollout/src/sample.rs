//! One draw from a row of log-probs: top-k, then top-p, then the inverse of the cumulative distribution.
//!
//! The log-prob that a rollout keeps is that of the tempered distribution *before* top-k and top-p, so that
//! policy, reference and trainer speak of the same distribution.

use crate::SamplingConfig;
use tetherline_core::seeds::Stream;
use tetherline_models::draw as draw_any;

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
        return draw_any(logprobs, u);
    }
    let p = |i: &u32| f64::from(logprobs[*i as usize]).exp();
    let most = if config.top_k > 0 { config.top_k.min(logprobs.len()) } else { logprobs.len() };
    if config.top_p >= 1.0 {
        best(logprobs, most, order);
    } else {
        // The nucleus is of the top-k where both are given.
        best(logprobs, most.min(NUCLEUS), order);
        let total: f64 = match most == logprobs.len() {
            true => (0..most as u32).map(|i| p(&i)).sum(),
            false => {
                best(logprobs, most, order);
                order.iter().map(p).sum()
            }
        };
        loop {
            let mut mass = 0.0;
            let keep = order.iter().take_while(|i| {
                let more = mass < config.top_p * total;
                mass += p(i);
                more
            });
            let keep = keep.count();
            if keep < order.len() || order.len() == most {
                order.truncate(keep.max(1));
                break;
            }
            best(logprobs, most.min(4 * order.len()), order);
        }
    }
    let total: f64 = order.iter().map(p).sum();
    walk(order.iter().map(|i| (*i as usize, p(i))), u * total)
}

/// Tokens that are first tried as the nucleus: sorting the vocabulary for it would take longer than the model.
const NUCLEUS: usize = 64;

/// The `n` most likely tokens, in order; of equals the first ones.
fn best(logprobs: &[f32], n: usize, order: &mut Vec<u32>) {
    order.clear();
    order.extend(0..logprobs.len() as u32);
    let key = |i: &u32| logprobs[*i as usize];
    let before = |a: &u32, b: &u32| key(b).total_cmp(&key(a)).then(a.cmp(b));
    if n < order.len() {
        order.select_nth_unstable_by(n, before);
        order.truncate(n);
    }
    order.sort_unstable_by(before);
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

    /// A nucleus larger than what is tried first: the tokens drawn are those of a full sort.
    #[test]
    fn a_large_nucleus_is_that_of_a_full_sort() {
        let z: Vec<f64> = (0..300).map(|i| f64::from(i * 7919 % 307) * 5e-3).collect();
        let norm = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        let lp: Vec<f32> = z.iter().map(|z| (z - norm) as f32).collect();
        let mut sorted: Vec<usize> = (0..300).collect();
        sorted.sort_by(|a, b| z[*b].total_cmp(&z[*a]));
        for (top_k, top_p) in [(0, 0.05), (0, 0.5), (0, 0.9), (200, 0.9), (100, 1.0)] {
            let kept = &sorted[..if top_k > 0 { top_k } else { 300 }];
            let total: f64 = kept.iter().map(|i| f64::from(lp[*i]).exp()).sum();
            let mut mass = 0.0;
            let more = |i: &&usize| {
                let more = mass < top_p * total;
                mass += f64::from(lp[**i]).exp();
                more
            };
            let mut expected: Vec<usize> = kept.iter().take_while(more).copied().collect();
            expected.sort_unstable();
            let config = SamplingConfig { top_k, top_p, ..SamplingConfig::default() };
            let mut s = stream(1, Purpose::Sampling, 0, 0, 0);
            let draws = (0..12_000).map(|_| draw(&lp, &config, &mut s, &mut Vec::new()));
            let found: std::collections::BTreeSet<usize> = draws.collect();
            assert_eq!(found.into_iter().collect::<Vec<_>>(), expected, "top-k {top_k}, top-p {top_p}");
        }
    }
}
