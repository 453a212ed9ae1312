//! The row losses' gradients against central differences, and laws that hold for any batch.

#![expect(clippy::unwrap_used, reason = "a test helper may fail the test")]

use tetherline_core::seeds::{Purpose, Stream, stream};
use tetherline_ppo::{
    Aggregation, Clip, LossSums, MinibatchTotals, PolicyRow, PpoConfig, ValueRow, clipped_surrogate,
    clipped_value, policy_loss_row, value_loss_row,
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
            written: None,
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
