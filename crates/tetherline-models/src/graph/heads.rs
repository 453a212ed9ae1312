//! The two heads at the positions that are asked for, and the KL between two vocabularies' worth of logits.

use super::batch::Batch;
use super::decoder::{Decoder, Pass};
use super::{Net, ops};
use candle_core::{D, Result, Tensor};

/// Outputs of a batch, flat over its rows, still on the device.
pub(super) struct Outputs {
    /// log p over the vocabulary at each scored position, (scored, vocab).
    pub(super) all: Option<Tensor>,
    /// log p of each scored token, nats.
    pub(super) logprobs: Option<Tensor>,
    /// Scalars at the wanted positions.
    pub(super) scalars: Option<Tensor>,
}

impl Outputs {
    /// Runs the decoder over a batch; `scale` is 1 / temperature. A head that the decoder lacks, or that no
    /// row asks for, gives nothing.
    pub(super) fn of(net: &Net<'_>, batch: &Batch, scale: f32, train: bool) -> Result<Self> {
        let device = &net.uploaded.device;
        let lm = net.spec.lm_head.as_ref().filter(|_| !batch.scored.is_empty());
        let scalar = net.spec.scalar_head.as_ref().filter(|_| !batch.wanted.is_empty());
        let mut out = Self { all: None, logprobs: None, scalars: None };
        if lm.is_none() && scalar.is_none() {
            return Ok(out);
        }
        let decoder = Decoder::new(net, train);
        let pass = Pass::whole(batch.rows, batch.width, device);
        let hidden = decoder.hidden(batch.ids.clone(), &pass, |_, kv| Ok(kv))?;
        let pick = |places: &[u32]| hidden.index_select(&Tensor::new(places, device)?, 0);
        if let Some(head) = lm {
            let logits = decoder.logits(head, &pick(&batch.scored)?)?;
            let all = ops::log_softmax(&(logits * f64::from(scale))?)?;
            let targets = Tensor::new(&batch.targets[..], device)?.unsqueeze(1)?;
            out.logprobs = Some(all.gather(&targets, 1)?.squeeze(1)?);
            out.all = Some(all);
        }
        if let Some(head) = scalar {
            out.scalars = Some(decoder.linear(head, &pick(&batch.wanted)?)?.flatten_all()?);
        }
        Ok(out)
    }

    /// Entropy −Σ p·log p at each scored position, nats.
    pub(super) fn entropy(&self) -> Result<Option<Tensor>> {
        self.all.as_ref().map(entropy).transpose()
    }
}

/// Entropy of each row of log-probs. A token with log p = −∞ adds nothing, and nothing to the gradient:
/// its log-prob is replaced before the product and after it, since 0·∞ in either place would give a NaN.
fn entropy(all: &Tensor) -> Result<Tensor> {
    let possible = all.ne(f32::NEG_INFINITY)?;
    let finite = possible.where_cond(all, &all.zeros_like()?)?;
    let terms = (finite.exp()? * &finite)?;
    possible.where_cond(&terms, &terms.zeros_like()?)?.sum(D::Minus1)?.neg()
}

/// KL(p‖q) of each row of log-probs, nats per token: Σ p·(log p − log q) + q − p, whose terms are all
/// non-negative. A token with p = 0 adds q, whatever its log-probs.
pub(super) fn exact_kl(log_p: &Tensor, log_q: &Tensor) -> Result<Tensor> {
    let (p, q) = (log_p.exp()?, log_q.exp()?);
    let along = (&p * (log_p - log_q)?)?;
    let along = p.gt(0f32)?.where_cond(&along, &along.zeros_like()?)?;
    ((along + q)? - p)?.sum(D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn row(p: &[f32]) -> Var {
        let log: Vec<f32> = p.iter().map(|p| p.ln()).collect();
        Var::from_slice(&log, (1, p.len()), &Device::Cpu).unwrap()
    }

    fn scalar(t: &Tensor) -> f32 {
        t.sum_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn entropy_of_known_distributions_with_an_impossible_token() {
        let log = row(&[0.5, 0.25, 0.25, 0.0]);
        let h = entropy(log.as_tensor()).unwrap();
        assert!((scalar(&h) - 1.5 * 2f32.ln()).abs() < 1e-6);
        // ∂/∂log p of −Σ p·log p is −p·(log p + 1).
        let grads = h.sum_all().unwrap().backward().unwrap();
        let g: Vec<f32> = grads.get(log.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let want = |p: f32| if p > 0.0 { -p * (p.ln() + 1.0) } else { 0.0 };
        for (g, p) in g.iter().zip([0.5, 0.25, 0.25, 0.0]) {
            assert!((g - want(p)).abs() < 1e-6, "{g} vs {}", want(p));
        }
    }

    #[test]
    fn kl_in_closed_form() {
        let kl = |p: &[f32], q: &[f32]| scalar(&exact_kl(row(p).as_tensor(), row(q).as_tensor()).unwrap());
        let want = 0.5 * (0.5f32 / 0.9).ln() + 0.5 * (0.5f32 / 0.1).ln();
        assert!((kl(&[0.5, 0.5], &[0.9, 0.1]) - want).abs() < 1e-6);
        assert_eq!(kl(&[0.3, 0.7], &[0.3, 0.7]), 0.0);
        // Neither can draw the second token; only the policy can draw it.
        assert!((kl(&[1.0, 0.0], &[1.0, 0.0])).abs() < 1e-6);
        assert!((kl(&[1.0, 0.0], &[0.5, 0.5]) - 2f32.ln()).abs() < 1e-6);
        assert_eq!(kl(&[0.5, 0.5], &[1.0, 0.0]), f32::INFINITY);
    }
}
