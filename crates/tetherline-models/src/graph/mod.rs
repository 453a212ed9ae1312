//! The decoder as a candle graph: the second implementation behind [`crate::Model`].
//!
//! It is built from the same [`DecoderSpec`] and the same flat parameters as the kernels and shares no
//! arithmetic with them, so each checks the other; and it runs wherever candle does, which is the way to
//! CUDA and Metal. Gradients come from candle's autograd. A loss is the same [`UnitLoss`]: outputs go to the
//! host, the loss writes the gradient g of each of them, and the graph goes backward through
//!
//! ```text
//! Σ log p·g_logprob + Σ H·g_entropy + Σ scalar·g_scalar      (every g a constant)
//! ```
//!
//! whose gradient is that of the loss. Unlike the kernels, the graph does not promise the same bits for
//! another batch, another device or another number of threads; candle chooses its own threads.

mod batch;
mod decode;
mod decoder;
mod heads;
mod loss;
mod open;
mod ops;
mod step;
mod upload;

pub(crate) use candle_core::Device as GraphDevice;
pub(crate) use decode::CachedRows;
pub use loss::{CandleLoss, CandleRow};
pub(crate) use open::open;
pub(crate) use step::step;
pub(crate) use upload::{DeviceCopy, Uploaded};

use crate::error::Result;
use crate::layout::Slot;
use batch::{Batch, Spans, groups, token_budget};
use candle_core::Tensor;
use decoder::{Decoder, Pass};
use heads::{Outputs, exact_kl};
use std::sync::Arc;
use tetherline_kernels::{DecoderSpec, PairRow, Row, RowResult};

/// A decoder with its parameters on a device, ready to run.
#[derive(Debug)]
pub(crate) struct Net<'a> {
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) slots: &'a [Slot],
    pub(crate) uploaded: Arc<Uploaded>,
}

impl Net<'_> {
    /// Index of the slot that holds the parameter at `offset`.
    fn slot_of(&self, offset: usize) -> usize {
        // Slots lie in order and without gaps.
        self.slots.partition_point(|s| s.offset <= offset).saturating_sub(1)
    }
}

/// The numbers of a tensor on the host; none for None.
fn to_host(t: Option<&Tensor>) -> Result<Vec<f32>> {
    Ok(t.map(|t| t.flatten_all()?.to_vec1()).transpose()?.unwrap_or_default())
}

/// Indices of `rows`, grouped by the token budget.
fn grouped(net: &Net<'_>, rows: &[Row<'_>]) -> Vec<Vec<usize>> {
    let units: Vec<(usize, usize)> = rows.iter().map(|r| (1, r.tokens.len())).collect();
    groups(&units, token_budget(net.spec))
}

/// The outputs of a batch, row by row.
fn results(net: &Net<'_>, rows: &[&Row<'_>], out: &Outputs) -> Result<Vec<RowResult>> {
    let logprobs = to_host(out.logprobs.as_ref())?;
    let entropy = to_host(out.entropy()?.as_ref())?;
    let scalars = to_host(out.scalars.as_ref())?;
    let spans = Spans::of(net.spec, rows);
    let row = |(lm, scalar): (&std::ops::Range<usize>, &std::ops::Range<usize>)| RowResult {
        logprobs: logprobs[lm.clone()].to_vec(),
        entropy: entropy[lm.clone()].to_vec(),
        scalars: scalars[scalar.clone()].to_vec(),
    };
    Ok(spans.lm.iter().zip(&spans.scalar).map(row).collect())
}

/// Outputs of every row, as the kernels' `forward`.
pub(crate) fn forward(net: &Net<'_>, rows: &[Row<'_>], temperature: f32) -> Result<Vec<RowResult>> {
    let mut all = vec![RowResult::default(); rows.len()];
    for group in grouped(net, rows) {
        let picked: Vec<&Row<'_>> = group.iter().map(|&i| &rows[i]).collect();
        let out = Outputs::of(net, &Batch::pad(&picked), 1.0 / temperature, false)?;
        for (&i, row) in group.iter().zip(results(net, &picked, &out)?) {
            all[i] = row;
        }
    }
    Ok(all)
}

/// Policy and reference on the same rows, as the kernels' `forward_pair`.
pub(crate) fn forward_pair(
    policy: &Net<'_>,
    reference: &Net<'_>,
    rows: &[Row<'_>],
    temperature: f32,
) -> Result<Vec<PairRow>> {
    let mut all = vec![PairRow::default(); rows.len()];
    for group in grouped(policy, rows) {
        let picked: Vec<&Row<'_>> = group.iter().map(|&i| &rows[i]).collect();
        let mut batch = Batch::pad(&picked);
        let p = Outputs::of(policy, &batch, 1.0 / temperature, false)?;
        batch.wanted.clear();
        let q = Outputs::of(reference, &batch, 1.0 / temperature, false)?;
        let kl = match (&p.all, &q.all) {
            (Some(p), Some(q)) => Some(exact_kl(p, q)?),
            _ => None,
        };
        let (kl, ref_logprobs) = (to_host(kl.as_ref())?, to_host(q.logprobs.as_ref())?);
        let lm = Spans::of(policy.spec, &picked).lm;
        for ((&i, row), span) in group.iter().zip(results(policy, &picked, &p)?).zip(lm) {
            let ref_logprobs = ref_logprobs[span.clone()].to_vec();
            all[i] = PairRow { policy: row, ref_logprobs, kl_exact: kl[span].to_vec() };
        }
    }
    Ok(all)
}

/// Hidden states (t × dim, after the final norm) and logits (t × vocab) of one sequence.
pub(crate) fn hidden_and_logits(net: &Net<'_>, tokens: &[u32]) -> Result<(Vec<f32>, Vec<f32>)> {
    if tokens.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let decoder = Decoder::new(net, false);
    let pass = Pass::whole(1, tokens.len(), &net.uploaded.device);
    let hidden = decoder.hidden(tokens.to_vec(), &pass, |_, kv| Ok(kv))?;
    let logits = net.spec.lm_head.as_ref().map(|head| decoder.logits(head, &hidden)).transpose()?;
    Ok((to_host(Some(&hidden))?, to_host(logits.as_ref())?))
}
