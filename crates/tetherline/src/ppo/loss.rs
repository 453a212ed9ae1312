//! The PPO loss as the engine sees it: one row at a time, everything but the new outputs a constant.

use tetherline_core::{Advantages, Rollout};
use tetherline_models::{RowGrad, RowOutput, UnitLoss};
use tetherline_ppo::{
    LossSums, MinibatchTotals, PolicyRow, PpoConfig, PpoError, ValueRow, old_values_row, policy_loss_row,
    value_loss_row,
};

/// Which outputs of the forward pass a loss is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Log-probs and entropies, of the policy.
    Policy,
    /// Values, of a separate value model.
    Value,
    /// Both, of one shared trunk.
    Both,
}

/// The PPO loss of a micro-batch: row `rows[unit]` of the rollout.
#[derive(Clone, Copy)]
pub(crate) struct PpoLoss<'a> {
    pub(crate) rows: &'a [usize],
    pub(crate) rollout: &'a Rollout,
    pub(crate) adv: &'a Advantages,
    pub(crate) totals: &'a MinibatchTotals,
    pub(crate) config: &'a PpoConfig,
    pub(crate) what: Part,
}

impl UnitLoss for PpoLoss<'_> {
    type Stats = Result<LossSums, PpoError>;

    fn unit(&self, u: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> Self::Stats {
        let (i, out, grad) = (self.rows[u], rows[0], &mut grads[0]);
        let mut sums = LossSums::default();
        let written = self.adv.counted.as_ref().map(|w| w.row(i));
        if self.what != Part::Value {
            let row = PolicyRow {
                logprobs: out.logprobs,
                entropy: out.entropy,
                old_logprobs: self.rollout.logprobs.row(i),
                advantages: self.adv.advantages.row(i),
                written,
                kl: Some((self.rollout.ref_logprobs.row(i), self.adv.kl_coef[i])),
                weights: self.adv.weights.as_ref().map(|w| w.row(i)),
            };
            policy_loss_row(&row, self.totals, self.config, grad.logprobs, grad.entropy, &mut sums)?;
        }
        if self.what != Part::Policy {
            let n = self.adv.returns.row_len(i);
            let old = old_values_row(self.rollout, self.adv, i);
            let row = ValueRow {
                values: &out.scalars[..n],
                old_values: &old[..n],
                returns: self.adv.returns.row(i),
                written,
            };
            value_loss_row(&row, self.totals, self.config, &mut grad.scalars[..n], &mut sums)?;
        }
        Ok(sums)
    }
}
