//! The loss whose gradients the goldens hold.

use crate::common::GoldenRow;
use tetherline_models::{RowGrad, RowOutput, UnitLoss};

/// Mean negative log-prob over the continuation's tokens; a unit's statistic is its share of the sum.
pub(crate) struct MeanNll<'a> {
    pub(crate) rows: &'a [GoldenRow],
    pub(crate) count: f32,
}

impl UnitLoss for MeanNll<'_> {
    type Stats = f64;

    fn unit(&self, unit: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> f64 {
        let mut sum = 0.0;
        for (j, _) in self.rows[unit].scored.iter().enumerate().filter(|(_, s)| **s) {
            grads[0].logprobs[j] = -1.0 / self.count;
            sum -= f64::from(rows[0].logprobs[j]);
        }
        sum / f64::from(self.count)
    }
}
