//! Identities of the KL-regularised objective on distributions small enough to sum (KL.md §7, experiments
//! 1–4, 6, 12, 14).

use tetherline_kl::divergence::{chi_squared, forward_kl, jensen_shannon, renyi, total_variation};
use tetherline_kl::sim::Noise;
use tetherline_kl::{KlEstimator, exact_kl, rao_blackwell_kl, top_k_lower_bound, top_k_with_sampled_tail};

const REF: [f64; 3] = [0.5, 0.3, 0.2];
const R: [f64; 3] = [0.0, 1.0, 2.0];

fn tilt(beta: f64) -> ([f64; 3], f64) {
    let w: [f64; 3] = std::array::from_fn(|i| REF[i] * (R[i] / beta).exp());
    let z: f64 = w.iter().sum();
    (w.map(|w| w / z), beta * z.ln())
}

/// KL through this crate's exact estimator, whose rows are `f32`.
fn kl(p: &[f64; 3], q: &[f64; 3]) -> f64 {
    let row = |p: &[f64; 3]| p.map(|p| p.ln() as f32);
    exact_kl(&row(p), &row(q)).expect("rows of one length").0
}

#[test]
fn the_tilt_and_its_value() {
    let (p, value) = tilt(1.0);
    for (p, golden) in p.iter().zip([0.179_000, 0.291_944, 0.529_056]) {
        assert!((p - golden).abs() < 1e-6);
    }
    assert!((kl(&p, &REF) - 0.322_834).abs() < 1e-5);
    assert!((value - 1.027_222).abs() < 1e-6);
}

#[test]
fn the_gap_to_the_optimum_is_beta_times_kl_to_it() {
    let mut noise = Noise::new(1);
    for beta in [0.3, 1.0, 3.0] {
        let (best, value) = tilt(beta);
        for _ in 0..300 {
            let w: [f64; 3] = std::array::from_fn(|_| noise.uniform() + 0.01);
            let z: f64 = w.iter().sum();
            let p = w.map(|w| w / z);
            let j = p.iter().zip(R).map(|(p, r)| p * r).sum::<f64>() - beta * kl(&p, &REF);
            assert!((value - j - beta * kl(&p, &best)).abs() < 5e-6 * beta.max(1.0));
        }
    }
}

#[test]
fn kl_falls_as_beta_rises() {
    for (beta, golden) in [(4.0, 0.020_262), (1.0, 0.322_834), (0.5, 0.915_475), (0.25, 1.468_126)] {
        assert!((kl(&tilt(beta).0, &REF) - golden).abs() < 2e-5, "{beta}");
    }
}

#[test]
fn best_of_n_spends_ln_n_less_its_share() {
    // The best of n of a uniform distribution over many distinct rewards, by its exact probabilities.
    let points = 20_000;
    for (n, golden) in [(2, 0.193_147), (4, 0.636_294), (16, 1.835_089), (64, 3.174_508)] {
        let cumulative = |k: usize| (k as f64 / points as f64).powi(n);
        let rows = (0..points).map(|k| (cumulative(k + 1) - cumulative(k)).ln() as f32).collect::<Vec<_>>();
        let uniform = vec![(1.0 / points as f64).ln() as f32; points];
        let kl = exact_kl(&rows, &uniform).unwrap().0;
        assert!((kl - golden).abs() < 1e-3, "n {n}: {kl}");
    }
}

fn softmax<const N: usize>(z: &[f64; N]) -> [f64; N] {
    let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
    z.map(|z| (z - top).exp() / sum)
}

fn total_variation_of(p: &[f64], q: &[f64]) -> f64 {
    0.5 * p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum::<f64>()
}

/// Experiment 1: gradient ascent on E[r − β·k1] with k1 inside the reward ends at the tilt.
#[test]
fn k1_in_the_reward_leads_to_the_tilt() {
    let beta = 1.0;
    let (best, _) = tilt(beta);
    let mut z = REF.map(f64::ln);
    for _ in 0..4000 {
        let p = softmax(&z);
        let reward: [f64; 3] =
            std::array::from_fn(|x| R[x] - beta * KlEstimator::K1.per_token(p[x].ln(), REF[x].ln()).0);
        let mean: f64 = (0..3).map(|x| p[x] * reward[x]).sum();
        z = std::array::from_fn(|x| z[x] + 0.5 * p[x] * (reward[x] - mean));
    }
    assert!(total_variation_of(&softmax(&z), &best) < 1e-3);
}

/// The same from samples, with a step that decays.
#[test]
fn sampled_policy_gradient_with_k1_in_the_reward_leads_to_the_tilt() {
    let beta = 1.0;
    let (best, _) = tilt(beta);
    let mut noise = Noise::new(4);
    let mut z = REF.map(f64::ln);
    for step in 0..3000 {
        let p = softmax(&z);
        let mut gradient = [0.0; 3];
        let draws: [(usize, f64); 256] = std::array::from_fn(|_| {
            let u = noise.uniform();
            let x = if u < p[0] {
                0
            } else if u < p[0] + p[1] {
                1
            } else {
                2
            };
            (x, R[x] - beta * KlEstimator::K1.per_token(p[x].ln(), REF[x].ln()).0)
        });
        let mean = draws.iter().map(|d| d.1).sum::<f64>() / 256.0;
        for (x, reward) in draws {
            for (k, g) in gradient.iter_mut().enumerate() {
                *g += (reward - mean) * (f64::from(u8::from(k == x)) - p[k]) / 256.0;
            }
        }
        let rate = 0.5 * (1.0 - f64::from(step) / 3000.0);
        z = std::array::from_fn(|k| z[k] + rate * gradient[k]);
    }
    let p = softmax(&z);
    assert!(total_variation_of(&p, &best) < 0.02, "{p:?} vs {best:?}");
    assert!((kl(&p, &REF) / kl(&best, &REF) - 1.0).abs() < 0.03);
}

/// Experiment 4: 10⁶ samples of π = N(0, 1) against ref = N(√m, 1), whose moments are known.
#[test]
fn estimators_have_their_gaussian_moments() {
    // (m, sd of k1/KL, k2's bias/KL and sd/KL, sd of k3/KL); KL = m/2. Closed forms of KL.md §1.
    for (m, k1_sd, k2_bias, k2_sd, k3_sd) in [
        (0.01, 20.0, 0.0025, 1.418, Some(1.417)),
        (1.0, 2.0, 0.25, 1.732, Some(1.695)),
        (9.0, 0.667, 2.25, 3.317, None),
    ] {
        let truth = 0.5 * m;
        let n = 1_000_000;
        for (estimator, bias, sd) in [
            (KlEstimator::K1, 0.0, Some(k1_sd)),
            (KlEstimator::K2, k2_bias, Some(k2_sd)),
            (KlEstimator::K3, 0.0, k3_sd),
        ] {
            let mut noise = Noise::new(9);
            let (mut sum, mut square) = (0.0, 0.0);
            for _ in 0..n {
                let x = noise.normal();
                let v = estimator.per_token(-0.5 * x * x, -0.5 * (x - f64::sqrt(m)).powi(2)).0;
                sum += v;
                square += v * v;
            }
            let mean = sum / f64::from(n);
            let found = (square / f64::from(n) - mean * mean).sqrt();
            let stderr = found / f64::from(n).sqrt();
            // k3 at KL 4.5 has no usable standard error: its tail is never sampled.
            let Some(sd) = sd else { continue };
            assert!((mean - truth * (1.0 + bias)).abs() < 4.0 * stderr, "{estimator:?} m {m}: {mean}");
            assert!((found / truth / sd - 1.0).abs() < 0.03, "{estimator:?} m {m}: sd {}", found / truth);
        }
    }
}

/// A chain of two tokens: logits of the first, and of the second after each first one.
struct Chain([f64; 2], [[f64; 2]; 2]);

impl Chain {
    fn first(&self) -> [f64; 2] {
        softmax(&self.0)
    }

    fn second(&self, x: usize) -> [f64; 2] {
        softmax(&self.1[x])
    }
}

/// Logits of a first and a second token, far enough from the reference below that the two gradients differ.
const POLICY: Chain = Chain([0.4, -0.1], [[0.5, -0.3], [-0.2, 0.9]]);
const REFERENCE: Chain = Chain([0.0, 0.0], [[0.1, 0.2], [0.3, -0.2]]);

fn log(p: [f64; 2]) -> [f64; 2] {
    p.map(f64::ln)
}

fn chain_kl(policy: &Chain) -> f64 {
    let mut sum = 0.0;
    for x in 0..2 {
        for y in 0..2 {
            let (p, q) =
                (policy.first()[x] * policy.second(x)[y], REFERENCE.first()[x] * REFERENCE.second(x)[y]);
            sum += p * (p / q).ln();
        }
    }
    sum
}

/// Experiment 6: the gradient of the sequence KL in the first token's logit.
#[test]
fn reward_to_go_of_k1_is_the_sequences_gradient_and_a_loss_over_tokens_is_not() {
    let with = |z: f64| Chain([z, POLICY.0[1]], POLICY.1);
    let h = 1e-6;
    let truth = (chain_kl(&with(POLICY.0[0] + h)) - chain_kl(&with(POLICY.0[0] - h))) / (2.0 * h);
    let (p, r) = (POLICY.first(), REFERENCE.first());
    let k1 = |lp: f64, rlp: f64| KlEstimator::K1.per_token(lp, rlp).0;
    // ∂ln π(x)/∂z₀ = 1[x = 0] − π(0); l₁ + l₂ is the reward-to-go of the first token.
    let mut in_reward = 0.0;
    let mut token_loss = 0.0;
    for x in 0..2 {
        let score = f64::from(u8::from(x == 0)) - p[0];
        let (second, ref_second) = (POLICY.second(x), REFERENCE.second(x));
        for y in 0..2 {
            let to_go = k1(p[x].ln(), r[x].ln()) + k1(second[y].ln(), ref_second[y].ln());
            in_reward += p[x] * second[y] * to_go * score;
        }
        // A loss over tokens differentiates each token's own term only: k2 is exact for that one.
        token_loss += p[x] * k1(p[x].ln(), r[x].ln()) * score;
    }
    assert!((in_reward - truth).abs() < 1e-6, "{in_reward} vs {truth}");
    assert!((token_loss - truth).abs() > 0.02, "the effect on the second token is missing: {token_loss}");
}

/// Experiment 6 once more: the exact KL in the reward is the half that the exact KL in the loss, or k2 token by token in
/// it, leaves out; k2 of the whole sequence's log-ratio is both.
#[test]
fn the_exact_kls_two_halves_are_the_sequences_gradient() {
    // The chain of KL.md §7, whose reference is uniform: 0.0761 in all, 0.1175 of the first token's own.
    let chain = Chain([0.5, 0.0], [[0.4, 0.0], [-1.4, 0.0]]);
    let (p, r) = (chain.first(), [0.5; 2]);
    let kl = |p: [f64; 2], r: [f64; 2]| (0..2).map(|x| p[x] * (p[x] / r[x]).ln()).sum::<f64>();
    let first = |z: f64| softmax(&[z, chain.0[1]]);
    let slope = |f: &dyn Fn(f64) -> f64| (f(chain.0[0] + 1e-6) - f(chain.0[0] - 1e-6)) / 2e-6;
    let l = |p: f64, r: f64| (p / r).ln();
    let k2 = |l: f64| KlEstimator::K2.per_token(l, 0.0).0;
    let immediate = slope(&|z| kl(first(z), r));
    let (mut now, mut later, mut by_token, mut by_sequence) = (0.0, 0.0, 0.0, 0.0);
    for x in 0..2 {
        let score = f64::from(u8::from(x == 0)) - p[0];
        now += p[x] * kl(p, r) * score;
        later += p[x] * kl(chain.second(x), [0.5; 2]) * score;
        by_token += p[x] * slope(&|z| k2(l(first(z)[x], r[x])));
        for y in 0..2 {
            let second = l(chain.second(x)[y], 0.5);
            by_sequence += p[x] * chain.second(x)[y] * slope(&|z| k2(l(first(z)[x], r[x]) + second));
        }
    }
    assert!(now.abs() < 1e-12, "the reward of the token itself: {now}");
    assert!((immediate - 0.1175).abs() < 5e-6, "{immediate}");
    assert!((by_token - immediate).abs() < 1e-8, "{by_token}");
    assert!((immediate + later - 0.0761).abs() < 5e-6, "{later}");
    assert!((by_sequence - 0.0761).abs() < 5e-6, "{by_sequence}");
}

/// The Rao-Blackwellised KL has k1's mean, by enumeration, and a small share of its variance.
#[test]
fn rao_blackwell_keeps_the_mean_and_loses_the_variance() {
    let (p, r) = (POLICY.first(), REFERENCE.first());
    let row = |z: [f64; 2]| log(z).map(|l| l as f32);
    let (mut rb, mut k1) = ((0.0, 0.0), (0.0, 0.0));
    for x in 0..2 {
        let (second, ref_second) = (POLICY.second(x), REFERENCE.second(x));
        let rows = [(row(p), row(r)), (row(second), row(ref_second))];
        let value = rao_blackwell_kl(rows.iter().map(|(a, b)| (&a[..], &b[..]))).unwrap().0;
        for y in 0..2 {
            let weight = p[x] * second[y];
            let sampled = KlEstimator::K1.per_token(p[x].ln(), r[x].ln()).0
                + KlEstimator::K1.per_token(second[y].ln(), ref_second[y].ln()).0;
            for (moments, v) in [(&mut rb, value), (&mut k1, sampled)] {
                moments.0 += weight * v;
                moments.1 += weight * v * v;
            }
        }
    }
    let truth = chain_kl(&POLICY);
    assert!((rb.0 - truth).abs() < 1e-6 && (k1.0 - truth).abs() < 1e-12);
    let ratio = (rb.1 - rb.0 * rb.0) / (k1.1 - k1.0 * k1.0);
    assert!(ratio > 0.0 && ratio < 0.06, "{ratio}");
    assert_eq!(rao_blackwell_kl([]).unwrap().0, 0.0);
    assert!(rao_blackwell_kl([(&[0.0f32][..], &[][..])]).is_err());
}

/// Experiment 14: what is sampled at one temperature and scored at another is no KL.
#[test]
fn a_temperature_or_a_nucleus_that_scoring_does_not_know_is_no_kl() {
    let tempered = |p: &[f64], t: f64| {
        let z: f64 = p.iter().map(|p| p.powf(1.0 / t)).sum();
        p.iter().map(|p| p.powf(1.0 / t) / z).collect::<Vec<_>>()
    };
    let k1 = |p: f64, r: f64| KlEstimator::K1.per_token(p.ln(), r.ln()).0;
    let k3 = |p: f64, r: f64| KlEstimator::K3.per_token(p.ln(), r.ln()).0;
    let (p, r) = ([0.9, 0.1], [0.5, 0.5]);
    let (hot, hot_ref) = (tempered(&p, 4.0), tempered(&r, 4.0));
    let mixed: f64 = (0..2).map(|x| hot[x] * k1(p[x], r[x])).sum();
    let both: f64 = (0..2).map(|x| hot[x] * k1(hot[x], hot_ref[x])).sum();
    assert!((mixed + 0.216_453).abs() < 1e-6 && (both - 0.036_341).abs() < 1e-6, "{mixed} {both}");
    let (p, r) = ([0.5, 0.3, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1]);
    let nucleus = [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95];
    let cut = |of: &dyn Fn(f64, f64) -> f64| (0..3).map(|x| nucleus[x] * of(p[x], r[x])).sum::<f64>();
    let full: f64 = (0..4).map(|x| p[x] * k1(p[x], r[x])).sum();
    assert!(
        (full - 0.0338).abs() < 1e-4 && (cut(&k1) - 0.0720).abs() < 1e-4 && (cut(&k3) - 0.0194).abs() < 1e-4
    );
}

/// A policy that is its reference has KL exactly 0 by every estimator and divergence.
#[test]
fn the_reference_itself_is_at_zero() {
    let row = [0.6f64, 0.25, 0.1, 0.05].map(|p| p.ln() as f32);
    for e in [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3, KlEstimator::Abs] {
        assert!(row.iter().all(|lp| e.per_token(f64::from(*lp), f64::from(*lp)).0 == 0.0));
    }
    assert_eq!(exact_kl(&row, &row).unwrap().0, 0.0);
    assert_eq!(forward_kl(&row, &row).unwrap().0, 0.0);
    assert_eq!(jensen_shannon(&row, &row).unwrap().0, 0.0);
    assert_eq!(total_variation(&row, &row).unwrap(), 0.0);
    assert_eq!(top_k_lower_bound(&row[..2], &row[..2]).unwrap().0, 0.0);
    assert_eq!(top_k_with_sampled_tail(&row[..2], &row[..2], Some((row[3], row[3]))).unwrap().0, 0.0);
    // These two sum probabilities of f32 rows, which add up to one only to seven digits.
    assert!(renyi(&row, &row, 2.0).unwrap().0.abs() < 1e-6 && chi_squared(&row, &row).unwrap().abs() < 1e-6);
}
