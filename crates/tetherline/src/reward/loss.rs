//! The loss of a batch of preferences, as the trainer asks for it: the mean over pairs and rankings.

use super::data::Comparison;
use tetherline_models::{RowGrad, RowOutput, UnitLoss};
use tetherline_reward::{PairTarget, RankingTarget, RewardConfig, length_feature, pair_loss, ranking_loss};

pub(super) struct PreferenceLoss<'a> {
    pub(super) batch: &'a [&'a Comparison],
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

impl UnitLoss for PreferenceLoss<'_> {
    type Stats = Part;

    fn unit(&self, u: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> Part {
        let comparison = self.batch[u];
        let share = 1.0 / self.batch.len() as f64;
        let scores: Vec<f64> = rows.iter().map(|r| f64::from(r.scalars[0])).collect();
        let (loss, grad) = self.of(comparison, &scores);
        for (row, g) in grads.iter_mut().zip(&grad) {
            row.scalars[0] = (share * g) as f32;
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
