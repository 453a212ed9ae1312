//! The loss of a batch of preferences, as the trainer asks for it: the mean over pairs and rankings, and over heads.
//!
//! ```text
//! loss = (1/B) Σ_i (1/K) Σ_k n_ik·ℓ(r_k of comparison i)
//! ```
//!
//! n_ik is 1, or with `bootstrap` how often head k has drawn comparison i: Poisson(1), the online bootstrap of Oza & Russell
//! 2001, the same in every pass over the data.

use super::data::Comparison;
use tetherline_core::Stage;
use tetherline_core::seeds::{Purpose, stream};
use tetherline_models::{RowGrad, RowOutput, UnitLoss};
use tetherline_reward::{
    EnsembleConfig, PairTarget, RankingTarget, RewardConfig, length_feature, pair_loss, ranking_loss,
};

pub(super) struct PreferenceLoss<'a> {
    pub(super) batch: &'a [&'a Comparison],
    /// n_ik, of each comparison.
    pub(super) times: &'a [&'a [f64]],
    pub(super) config: &'a RewardConfig,
    /// γ of the length term; 0 without debiasing.
    pub(super) gamma: f64,
}

/// What a comparison adds to the log.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    /// Its share of the loss.
    pub(super) loss: f64,
    /// Share of its pairs that are ordered rightly.
    pub(super) right: f64,
    /// 1; 0 where it has nothing but ties.
    pub(super) ordered: f64,
}

/// n_ik of `items` comparisons.
pub(super) fn drawn(ensemble: &EnsembleConfig, items: usize, seed: u64) -> Vec<Vec<f64>> {
    let draw = |i: usize, k: usize| match ensemble.bootstrap && ensemble.heads > 1 {
        true => poisson(stream(seed, Purpose::Bootstrap, Stage::Reward as u64, i as u64, k as u32).uniform()),
        false => 1.0,
    };
    (0..items).map(|i| (0..ensemble.heads).map(|k| draw(i, k)).collect()).collect()
}

/// The Poisson(1) quantile of u in [0, 1).
fn poisson(u: f64) -> f64 {
    let (mut n, mut p) = (0.0, (-1f64).exp());
    let mut below = p;
    while u >= below && n < 20.0 {
        n += 1.0;
        p /= n;
        below += p;
    }
    n
}

impl UnitLoss for PreferenceLoss<'_> {
    type Stats = Part;

    fn unit(&self, u: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> Part {
        let comparison = self.batch[u];
        let share = 1.0 / self.batch.len() as f64;
        let times = self.times[u];
        let heads = times.len() as f64;
        let (mut loss, mut scores) = (0.0, vec![0.0; rows.len()]);
        for (k, n) in times.iter().enumerate() {
            let of_head: Vec<f64> = rows.iter().map(|r| f64::from(r.scalars[k])).collect();
            let (l, grad) = self.of(comparison, &of_head);
            let weight = n / heads;
            loss += weight * l;
            for (row, g) in grads.iter_mut().zip(&grad) {
                row.scalars[k] = (share * weight * g) as f32;
            }
            scores.iter_mut().zip(&of_head).for_each(|(sum, x)| *sum += x / heads);
        }
        let (mut right, mut n) = (0.0, 0.0);
        for (i, j, label) in comparison.pairs().into_iter().filter(|p| p.2 != 0.5) {
            let (better, other) = if label > 0.5 { (scores[i], scores[j]) } else { (scores[j], scores[i]) };
            right += if better == other { 0.5 } else { f64::from(u8::from(better > other)) };
            n += 1.0;
        }
        let ordered = f64::from(u8::from(n > 0.0));
        Part { loss: share * loss, right: right / f64::max(n, 1.0), ordered }
    }
}

impl PreferenceLoss<'_> {
    /// Loss in nats and its gradient with respect to each score.
    fn of(&self, comparison: &Comparison, scores: &[f64]) -> (f64, Vec<f64>) {
        let (smoothing, center) = (self.config.label_smoothing, self.config.center_coef);
        let length = |i: usize| self.gamma * length_feature(comparison.answers[i].len);
        if scores.len() == 2 {
            let target = PairTarget {
                label: comparison.label,
                margin: comparison.margin,
                length: if self.gamma == 0.0 { 0.0 } else { length(0) - length(1) },
                smoothing,
                center,
            };
            let pair = pair_loss(scores[0], scores[1], &target);
            return (pair.loss, vec![pair.d_chosen, pair.d_rejected]);
        }
        let lengths: Vec<f64> =
            if self.gamma == 0.0 { Vec::new() } else { (0..scores.len()).map(length).collect() };
        let target = RankingTarget {
            ranks: &comparison.ranks,
            lengths: &lengths,
            smoothing,
            center,
            kind: self.config.ranking,
        };
        ranking_loss(scores, &target)
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::Answer;
    use super::*;

    /// Cumulative Poisson(1): 0.3679, 0.7358, 0.9197, 0.9810.
    #[test]
    fn draws_are_poisson_and_each_heads_own() {
        let quantiles = [0.0, 0.36, 0.37, 0.73, 0.74, 0.91, 0.92, 0.98, 0.99].map(poisson);
        assert_eq!(quantiles, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0]);
        let ensemble = EnsembleConfig { heads: 3, ..EnsembleConfig::default() };
        let all = drawn(&ensemble, 2000, 7);
        for k in 0..3 {
            let of = |k: usize| all.iter().map(|n| n[k]).collect::<Vec<_>>();
            let mean = of(k).iter().sum::<f64>() / 2000.0;
            assert!((mean - 1.0).abs() < 0.1, "{mean}");
            assert_ne!(of(k), of((k + 1) % 3));
        }
        assert_eq!(all, drawn(&ensemble, 2000, 7));
        let plain = EnsembleConfig { bootstrap: false, ..ensemble };
        assert_eq!(drawn(&plain, 2, 7), vec![vec![1.0; 3]; 2]);
    }

    /// Two heads on one pair, the second drawn twice: half of σ(−x) of the first, and all of that of the second.
    #[test]
    fn each_head_has_the_gradient_of_its_own_margin() {
        let answer = || Answer { tokens: vec![1], len: 1, text: String::new() };
        let pair = Comparison {
            answers: vec![answer(), answer()],
            ranks: vec![1, 2],
            label: 1.0,
            margin: 0.0,
            agreement: None,
            domain: "all".into(),
        };
        let config = RewardConfig::default();
        let loss = PreferenceLoss { batch: &[&pair], times: &[&[1.0, 2.0]], config: &config, gamma: 0.0 };
        let scores = [[1.0f32, -0.5], [0.0, 0.25]];
        let outs = scores.each_ref().map(|s| RowOutput { logprobs: &[], entropy: &[], scalars: s });
        let mut found = [[0f32; 2]; 2];
        let mut grads: Vec<RowGrad<'_>> =
            found.iter_mut().map(|g| RowGrad { logprobs: &mut [], entropy: &mut [], scalars: g }).collect();
        let part = loss.unit(0, &outs, &mut grads);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        // Margins 1 and −0.75.
        let want = [-0.5 * sigmoid(-1.0), -sigmoid(0.75)];
        for k in 0..2 {
            assert!((f64::from(found[0][k]) - want[k]).abs() < 1e-6, "{found:?} {want:?}");
            assert_eq!(found[1][k], -found[0][k]);
        }
        let total = -0.5 * sigmoid(1.0).ln() - sigmoid(-0.75).ln();
        assert!((part.loss - total).abs() < 1e-6);
        // The mean of the heads orders the pair: 0.25 against 0.125.
        assert_eq!(part.right, 1.0);
    }
}
