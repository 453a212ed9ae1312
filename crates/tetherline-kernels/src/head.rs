//! The two heads: vocabulary log-probs at chosen positions, and one number per chosen position.

use crate::cap::{cap_in_place, multiply, slopes};
use crate::gemm::{Init, Panels};
use crate::linear::PackedWeights;
use crate::params::{Grad, Params};
use crate::simd::{axpy, dot};
use crate::softmax::{logits_gradient, lse_entropy};
use crate::spec::{DecoderSpec, LinearSpec};

/// What the vocabulary head keeps of a chunk.
#[derive(Debug, Default)]
pub(crate) struct LmState {
    /// Rows of the hidden state that predict a scored token.
    pub(crate) positions: Vec<usize>,
    /// The tokens they predict.
    pub(crate) targets: Vec<usize>,
    /// Their hidden states, gathered.
    pub(crate) hidden: Vec<f32>,
    /// Their logits (raw, before the temperature).
    pub(crate) logits: Vec<f32>,
    /// log Σ exp(logits / T) of each.
    pub(crate) lse: Vec<f32>,
    /// log p of each target.
    pub(crate) logprobs: Vec<f32>,
    /// Entropy of each distribution, nats.
    pub(crate) entropy: Vec<f32>,
    /// Derivatives of the soft cap at the logits; empty without a cap.
    slopes: Vec<f32>,
    d_hidden: Vec<f32>,
}

impl LmState {
    /// Floats of `m` scored positions, forward and, if so, backward.
    pub(crate) fn floats(s: &DecoderSpec, m: usize, backward: bool) -> usize {
        let logits = if s.logit_cap.is_some() { 2 * s.vocab } else { s.vocab };
        if s.lm_head.is_none() { 0 } else { m * (s.dim + logits + 3 + if backward { s.dim } else { 0 }) }
    }

    /// Log-probs and entropies of the targets under softmax(logits / T).
    pub(crate) fn forward(
        &mut self,
        spec: &DecoderSpec,
        head: &LinearSpec,
        params: Params<'_>,
        packed: &PackedWeights,
        hidden: &[f32],
        scale: f32,
    ) {
        let (d, v, m) = (spec.dim, spec.vocab, self.positions.len());
        self.hidden.resize(m * d, 0.0);
        for (row, &p) in self.hidden.chunks_exact_mut(d).zip(&self.positions) {
            row.copy_from_slice(&hidden[p * d..(p + 1) * d]);
        }
        self.logits.resize(m * v, 0.0);
        packed.forward(None, head, params, m, &self.hidden, d, &mut self.logits, v, Init::Zero);
        if let Some(cap) = spec.logit_cap {
            cap_in_place(&mut self.logits, 1.0, cap);
            self.slopes.resize(m * v, 0.0);
            slopes(&self.logits, cap, &mut self.slopes);
        }
        self.lse.clear();
        self.entropy.clear();
        self.logprobs.clear();
        for (z, &target) in self.logits.chunks_exact(v).zip(&self.targets) {
            let (lse, entropy) = lse_entropy(z, scale);
            self.lse.push(lse);
            self.entropy.push(entropy);
            // Fused, as everywhere else a logit becomes a log-prob: the bits must agree.
            self.logprobs.push(target_logprob(z[target], scale, lse));
        }
    }

    /// Adds the gradient to `d_hidden_all` (chunk rows × dim) and to the flat gradient. Destroys the logits.
    pub(crate) fn backward(
        &mut self,
        spec: &DecoderSpec,
        head: &LinearSpec,
        params: Params<'_>,
        packed: &PackedWeights,
        scale: f32,
        g_logprobs: &[f32],
        g_entropy: &[f32],
        d_hidden_all: &mut [f32],
        grad: &mut Grad<'_>,
        panels: &mut Panels,
    ) {
        let (d, v, m) = (spec.dim, spec.vocab, self.positions.len());
        for (i, z) in self.logits.chunks_exact_mut(v).take(m).enumerate() {
            logits_gradient(
                z,
                scale,
                self.lse[i],
                self.entropy[i],
                self.targets[i],
                g_logprobs[i],
                g_entropy[i],
            );
        }
        if spec.logit_cap.is_some() {
            multiply(&mut self.logits, &self.slopes);
        }
        self.d_hidden.resize(m * d, 0.0);
        packed.backward_input(head, params, m, &self.logits, v, &mut self.d_hidden, d, Init::Zero);
        for (row, &p) in self.d_hidden.chunks_exact(d).zip(&self.positions) {
            crate::simd::add_assign(&mut d_hidden_all[p * d..(p + 1) * d], row);
        }
        packed.backward_weight(head, m, &self.hidden, d, &self.logits, v, grad, panels);
    }
}

simd_fn! {
    /// log p of one target: scale·z − lse.
    pub(crate) fn target_logprob(z: f32, scale: f32, lse: f32) -> f32 {
        crate::simd::fma::<FMA>(z, scale, -lse)
    }
}

/// w_k·h + b_k at one position, of each of the head's outputs k.
pub(crate) fn scalar_forward(head: &LinearSpec, params: Params<'_>, hidden: &[f32], out: &mut Vec<f32>) {
    for k in 0..head.n_out {
        let w = params.at(head.weight + k * head.n_in, head.n_in);
        out.push(dot(w, hidden) + head.bias.map_or(0.0, |b| params.at(b + k, 1)[0]));
    }
}

/// Gradient of [`scalar_forward`].
pub(crate) fn scalar_backward(
    head: &LinearSpec,
    params: Params<'_>,
    hidden: &[f32],
    g: &[f32],
    d_hidden: &mut [f32],
    grad: &mut Grad<'_>,
) {
    for (k, &g) in g.iter().enumerate() {
        let at = head.weight + k * head.n_in;
        axpy(d_hidden, g, params.at(at, head.n_in));
        if let Some(dw) = grad.at(at, head.n_in) {
            axpy(dw, g, hidden);
        }
        if let Some(db) = head.bias.and_then(|b| grad.at(b + k, 1)) {
            db[0] += g;
        }
    }
}
