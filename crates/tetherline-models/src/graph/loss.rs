//! A loss that is a candle expression.

use candle_core::{Result, Tensor, Var};
use tetherline_kernels::{RowGrad, RowOutput, UnitLoss};

/// What a loss sees of a row, each a tensor of one dimension on the CPU through which it can go backward.
#[derive(Clone, Debug)]
pub struct CandleRow {
    /// log p of each scored token, nats.
    pub logprobs: Tensor,
    /// Entropy of each of those distributions, nats per token.
    pub entropy: Tensor,
    /// Scalars at the wanted positions: of each position as many as the scalar head has outputs.
    pub scalars: Tensor,
}

/// Makes a candle expression a [`UnitLoss`], for [`crate::Model::step`] on any engine: to candle the whole decoder is one operation, from
/// parameters to log-probs, entropies and scalars, whose backward pass the engine knows.
///
/// The function is handed the number of a unit and its rows and returns a tensor of one number. Candle differentiates it with respect to
/// what it was handed; the engine goes on from there. A loss with a gradient of its own ([`UnitLoss`]) is spared the tensors.
///
/// ```
/// use tetherline_models::{CandleLoss, CandleRow};
///
/// // −Σ log p of every scored token of a unit.
/// let nll = CandleLoss::new(|_unit, rows: &[CandleRow]| rows[0].logprobs.sum_all()?.neg());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CandleLoss<F>(F);

impl<F: Fn(usize, &[CandleRow]) -> Result<Tensor> + Sync> CandleLoss<F> {
    /// The loss that `expression` computes.
    pub fn new(expression: F) -> Self {
        Self(expression)
    }

    fn differentiate(&self, unit: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> Result<f64> {
        let var = |x: &[f32]| Var::from_slice(x, x.len(), &candle_core::Device::Cpu);
        let mut vars = Vec::new();
        for row in rows {
            vars.push([var(row.logprobs)?, var(row.entropy)?, var(row.scalars)?]);
        }
        let rows: Vec<CandleRow> = vars
            .iter()
            .map(|[logprobs, entropy, scalars]| CandleRow {
                logprobs: logprobs.as_tensor().clone(),
                entropy: entropy.as_tensor().clone(),
                scalars: scalars.as_tensor().clone(),
            })
            .collect();
        let loss = (self.0)(unit, &rows)?.flatten_all()?.squeeze(0)?;
        // Of one number, or nothing is differentiated.
        let value = f64::from(loss.to_scalar::<f32>()?);
        let found = loss.backward()?;
        for (vars, grad) in vars.iter().zip(grads) {
            for (var, to) in vars.iter().zip([&mut *grad.logprobs, grad.entropy, grad.scalars]) {
                // What the expression does not use has no gradient.
                if let Some(g) = found.get(var) {
                    to.copy_from_slice(&g.flatten_all()?.to_vec1::<f32>()?);
                }
            }
        }
        Ok(value)
    }
}

impl<F: Fn(usize, &[CandleRow]) -> Result<Tensor> + Sync> UnitLoss for CandleLoss<F> {
    /// The loss of a unit, or why candle could not compute it; its gradient is zero then.
    type Stats = Result<f64>;

    fn unit(&self, unit: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> Result<f64> {
        self.differentiate(unit, rows, grads)
    }
}
