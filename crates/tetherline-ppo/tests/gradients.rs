//! The row losses' gradients against central differences, and laws that hold for any batch.

#![expect(clippy::unwrap_used, reason = "a test helper may fail the test")]

use tetherline_core::seeds::{Purpose, Stream, stream};
use tetherline_ppo::{
    Aggregation, Clip, KlIn, KlLoss, LossSums, MinibatchTotals, PolicyRow, PpoConfig, Ratio, ValueRow,
    cispo_surrogate, clipped_surrogate, clipped_value, policy_loss_row, value_loss_row,
};

const N: usize = 40;

fn draw(s: &mut Stream, scale: f64) -> Vec<f32> {
    (0..N).map(|_| (scale * s.normal()) as f32).collect()
}

fn configs() -> Vec<PpoConfig> {
    let mut out = Vec::new();
    for aggregation in [Aggregation::TokenMean, Aggregation::SeqMeanTokenSum, Aggregation::SeqMeanTokenMean] {
        for (dual_clip, value_clip_range, clip_range_high) in
            [(None, Some(0.2), None), (Some(1.5), None, Some(0.28))]
        {
            out.push(PpoConfig {
                aggregation,
                dual_clip,
                value_clip_range,
                clip_range_high,
                entropy_coef: 0.01,
                vf_coef: 0.3,
                ..PpoConfig::default()
            });
        }
    }
    out
}

/// Total loss of one row and its three gradients.
fn total(
    config: &PpoConfig,
    new: [&[f32]; 3],
    old: [&[f32]; 4],
    written: &[bool],
) -> (f64, Vec<f32>, Vec<f32>, Vec<f32>) {
    let count = written.iter().filter(|&&w| w).count();
    let totals = MinibatchTotals { rows: 3, tokens: 100, values: 100, value_rows: 3 };
    let (mut d_logprobs, mut d_entropy, mut d_values) = (vec![0.0; N], vec![0.0; N], vec![0.0; N]);
    let mut sums = LossSums::default();
    let policy = PolicyRow {
        logprobs: new[0],
        entropy: new[1],
        old_logprobs: old[0],
        advantages: old[1],
        written: Some(written),
        ..PolicyRow::default()
    };
    policy_loss_row(&policy, &totals, config, &mut d_logprobs, &mut d_entropy, &mut sums).unwrap();
    let value = ValueRow { values: new[2], old_values: old[2], returns: old[3], written: Some(written) };
    value_loss_row(&value, &totals, config, &mut d_values, &mut sums).unwrap();
    let entropy = totals.token_weight(config.aggregation, count) * sums.entropy;
    let loss = sums.policy_loss + config.vf_coef * sums.value_loss - config.entropy_coef * entropy;
    (loss, d_logprobs, d_entropy, d_values)
}

#[test]
fn row_gradients_are_the_derivatives_of_the_row_loss() {
    let mut s = stream(3, Purpose::Init, 0, 0, 0);
    for config in configs() {
        let mut new = [draw(&mut s, 0.3), draw(&mut s, 1.0), draw(&mut s, 0.4)];
        let old: Vec<Vec<f32>> = [0.3, 1.0, 0.4, 1.0].map(|x| draw(&mut s, x)).into();
        let written: Vec<bool> = (0..N).map(|_| s.uniform() < 0.8).collect();
        let old_refs = [&old[0][..], &old[1][..], &old[2][..], &old[3][..]];
        let loss = |new: &[Vec<f32>; 3]| total(&config, [&new[0], &new[1], &new[2]], old_refs, &written).0;
        let (_, a, b, c) = total(&config, [&new[0], &new[1], &new[2]], old_refs, &written);
        let step = 1.0f32 / 1024.0;
        for (which, grads) in [a, b, c].iter().enumerate() {
            for t in 0..N {
                let x = new[which][t];
                new[which][t] = x + step;
                let (up, above) = (loss(&new), new[which][t]);
                new[which][t] = x - step;
                let (down, below) = (loss(&new), new[which][t]);
                new[which][t] = x;
                let slope = (up - down) / f64::from(above - below);
                let got = f64::from(grads[t]);
                // A kink of the clip inside the step spoils at most one difference; it is not near here.
                assert!((slope - got).abs() < 2e-5 * (1.0 + slope.abs()), "{which} {t}: {slope} {got}");
                assert!(written[t] || got == 0.0);
            }
        }
    }
}

/// Ratios of whole responses, the KL term in the loss and constant weights: f64 differences of the row's loss, in which every
/// token's log-prob moves all of it. One advantage per response, as with a baseline of a group.
#[test]
fn gradients_of_sequence_ratios_and_of_the_kl_in_the_loss() {
    let mut s = stream(6, Purpose::Init, 0, 0, 0);
    let totals = MinibatchTotals { rows: 3, tokens: 100, values: 100, value_rows: 3 };
    let entropy = [1.0; N];
    let base =
        PpoConfig { aggregation: Aggregation::SeqMeanTokenMean, kl_in: KlIn::Loss, ..PpoConfig::default() };
    let mut checked = 0;
    for (ratio, kl_loss, a) in [
        (Ratio::Sequence, KlLoss::Corrected, 0.7f32),
        (Ratio::Sequence, KlLoss::K2, -0.7),
        (Ratio::GeometricMean, KlLoss::K3, 0.7),
        (Ratio::GeometricMean, KlLoss::Corrected, -0.7),
        (Ratio::Token, KlLoss::Corrected, 0.7),
        (Ratio::Token, KlLoss::K1, -0.7),
        (Ratio::Token, KlLoss::Abs, 0.7),
    ] {
        let config = PpoConfig { ratio, kl_loss, ..base.clone() };
        let mut new = draw(&mut s, 0.3);
        let (old, reference) = (draw(&mut s, 0.3), draw(&mut s, 0.3));
        let weights: Vec<f32> = (0..N).map(|_| 1.0).collect();
        let run = |new: &[f32]| {
            let row = PolicyRow {
                logprobs: new,
                entropy: &entropy,
                old_logprobs: &old,
                advantages: &[a; N],
                written: None,
                kl: Some((&reference, 0.3)),
                weights: Some(&weights),
            };
            let (mut d, mut e) = (vec![0.0; N], vec![0.0; N]);
            let mut sums = LossSums::default();
            policy_loss_row(&row, &totals, &config, &mut d, &mut e, &mut sums).unwrap();
            (sums.policy_loss + sums.kl_loss, d, sums.clipped)
        };
        let (_, grads, clipped) = run(&new);
        let step = 1.0f32 / 4096.0;
        for t in 0..N {
            let x = new[t];
            new[t] = x + step;
            let (up, above, at_up) = (run(&new).0, new[t], run(&new).2);
            new[t] = x - step;
            let (down, below, at_down) = (run(&new).0, new[t], run(&new).2);
            new[t] = x;
            let kink = (x - reference[t]).abs() < 2.0 * step && kl_loss == KlLoss::Abs;
            if at_up != clipped || at_down != clipped || kink {
                continue;
            }
            checked += 1;
            let (slope, got) = ((up - down) / f64::from(above - below), f64::from(grads[t]));
            assert!((slope - got).abs() < 1e-6 + 1e-4 * slope.abs(), "{ratio} {kl_loss} {t}: {slope} {got}");
        }
    }
    assert!(checked > 6 * N, "few differences were near a kink: {checked}");
}

/// CISPO holds the ratio constant: the gradient is −clip(ρ)·A, also where the clip is active.
#[test]
fn cispo_keeps_the_gradient_of_clipped_tokens() {
    let clip = Clip { low: 0.2, high: 0.5, dual: None };
    for (ratio, both, above) in [(0.5f64, 0.8, 0.5), (1.1, 1.1, 1.1), (3.0, 1.5, 1.5)] {
        for a in [2.0, -2.0] {
            for (lower, held) in [(true, both), (false, above)] {
                let term = cispo_surrogate(ratio.ln(), -1.3, a, clip, lower);
                assert!((term.grad + held * a).abs() < 1e-12 && (term.loss - 1.3 * held * a).abs() < 1e-12);
                assert_eq!(term.clipped, held != ratio && (held - ratio).abs() > 1e-12);
            }
        }
    }
}

/// A weight of a token multiplies its loss and its gradient, and not the KL term.
#[test]
fn weights_multiply_the_surrogate_alone() {
    let totals = MinibatchTotals { rows: 1, tokens: 2, values: 2, value_rows: 1 };
    let config = PpoConfig { kl_in: KlIn::Loss, kl_loss: KlLoss::K2, ..PpoConfig::default() };
    let run = |weights: Option<&[f32]>, beta: f64| {
        let row = PolicyRow {
            logprobs: &[-1.0, -1.0],
            entropy: &[0.0; 2],
            old_logprobs: &[-1.0, -1.0],
            advantages: &[1.0, -2.0],
            written: None,
            kl: Some((&[-1.5, -1.5], beta)),
            weights,
        };
        let (mut d, mut e) = ([0.0; 2], [0.0; 2]);
        let mut sums = LossSums::default();
        policy_loss_row(&row, &totals, &config, &mut d, &mut e, &mut sums).unwrap();
        (d, sums.policy_loss, sums.kl_loss)
    };
    assert_eq!(run(None, 0.0), ([-0.5, 1.0], 0.5, 0.0));
    assert_eq!(run(Some(&[2.0, 0.5]), 0.0), ([-1.0, 0.5], -0.5, 0.0));
    // β·l/2 of each token, l = 0.5.
    assert_eq!(run(Some(&[2.0, 0.5]), 0.4), ([-0.9, 0.6], -0.5, 0.4 * 0.125));
}

#[test]
fn micro_batches_add_up_to_the_minibatch() {
    let mut s = stream(4, Purpose::Init, 0, 0, 0);
    let (new, old, adv) = (draw(&mut s, 0.3), draw(&mut s, 0.3), draw(&mut s, 1.0));
    let entropy = [1.0; N];
    let totals = MinibatchTotals { rows: 2, tokens: N, values: N, value_rows: 2 };
    let config = PpoConfig::default();
    let run = |range: std::ops::Range<usize>| {
        let row = PolicyRow {
            logprobs: &new[range.clone()],
            entropy: &entropy[range.clone()],
            old_logprobs: &old[range.clone()],
            advantages: &adv[range.clone()],
            ..PolicyRow::default()
        };
        let (mut d, mut e) = (vec![0.0; range.len()], vec![0.0; range.len()]);
        let mut sums = LossSums::default();
        policy_loss_row(&row, &totals, &config, &mut d, &mut e, &mut sums).unwrap();
        (sums, d)
    };
    let (whole, whole_d) = run(0..N);
    let (mut parts, mut d) = run(0..13);
    let (rest, rest_d) = run(13..N);
    parts.merge(&rest);
    d.extend(rest_d);
    assert_eq!(d, whole_d);
    assert!((parts.policy_loss - whole.policy_loss).abs() < 1e-12);
    assert_eq!(
        (parts.clipped, parts.tokens, parts.ratio_max),
        (whole.clipped, whole.tokens, whole.ratio_max)
    );
}

#[test]
fn terms_in_f64_agree_with_central_differences() {
    let mut s = stream(5, Purpose::Init, 0, 0, 0);
    let h = 1e-6;
    for dual in [None, Some(2.0)] {
        let clip = Clip { low: 0.2, high: 0.3, dual };
        for _ in 0..2000 {
            let (x, a) = (0.5 * s.normal(), s.normal());
            let at = |x: f64| clipped_surrogate(x, a, clip);
            let slope = (at(x + h).loss - at(x - h).loss) / (2.0 * h);
            // Away from a kink, where both sides are on the same branch.
            if at(x + h).clipped == at(x - h).clipped && at(x + h).dual_clipped == at(x - h).dual_clipped {
                assert!((slope - at(x).grad).abs() < 1e-8, "{x} {a}: {slope} {}", at(x).grad);
            }
            let (old, target) = (s.normal(), s.normal());
            let v = |x: f64| clipped_value(x, old, target, Some(0.2));
            if v(x + h).clipped == v(x - h).clipped {
                let slope = (v(x + h).loss - v(x - h).loss) / (2.0 * h);
                assert!((slope - v(x).grad).abs() < 1e-8, "{x} {old} {target}");
            }
        }
    }
}
