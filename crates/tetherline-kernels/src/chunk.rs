//! A few whole sequences through all layers, forward and backward, in one reused workspace.

use crate::attention::{self, Scratch};
use crate::engine::Row;
use crate::gemm::{Init, Panels};
use crate::head::{LmState, scalar_backward, scalar_forward};
use crate::linear::{PackedWeights, backward_weight};
use crate::mlp;
use crate::norm;
use crate::spec::{DecoderSpec, MlpSpec, Positions};

/// A decoder with its weights, ready to run.
#[derive(Clone, Copy)]
pub(crate) struct Net<'a> {
    pub(crate) spec: &'a DecoderSpec,
    pub(crate) flat: &'a [f32],
    pub(crate) packed: &'a PackedWeights,
}

/// Activations of one layer.
#[derive(Debug, Default)]
struct LayerActs {
    x: Vec<f32>,      // residual stream entering the layer (n, dim)
    stats1: Vec<f32>, // (n, 2)
    h1: Vec<f32>,     // norm1(x) (n, dim)
    qkv: Vec<f32>,    // rotated (n, qkv_dim)
    stats: Vec<f32>,  // of attention, per sequence
    att: Vec<f32>,    // (n, att_dim)
    mid: Vec<f32>,    // residual stream after attention (n, dim)
    stats2: Vec<f32>,
    h2: Vec<f32>,
    gate: Vec<f32>, // (n, hidden); empty for a plain block
    up: Vec<f32>,   // (n, hidden)
    act: Vec<f32>,  // (n, hidden)
}

/// Buffers of a thread, reused from chunk to chunk and from step to step.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// (first row, length) of each sequence of the chunk.
    spans: Vec<(usize, usize)>,
    tokens: Vec<usize>,
    layers: Vec<LayerActs>,
    last: Vec<f32>, // residual stream after the last layer
    final_stats: Vec<f32>,
    pub(crate) hidden: Vec<f32>, // after the final norm
    pub(crate) lm: LmState,
    scalar_rows: Vec<usize>,
    pub(crate) scalars: Vec<f32>,
    scratch: Scratch,
    panels: Panels,
    d_x: Vec<f32>,
    d_h: Vec<f32>,
    d_qkv: Vec<f32>,
    d_att: Vec<f32>,
    d_act: Vec<f32>,
    // Per-token gradients of the loss, filled by the caller between forward and backward.
    pub(crate) g_logprobs: Vec<f32>,
    pub(crate) g_entropy: Vec<f32>,
    pub(crate) g_scalars: Vec<f32>,
}

/// Grows `v` to at least `n` floats and returns exactly `n`; contents are whatever they were.
fn sized(v: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if v.len() < n {
        v.resize(n, 0.0);
    }
    &mut v[..n]
}

impl Workspace {
    /// Forward through all layers and the heads that `rows` ask for. With `keep` the activations of every
    /// layer stay for [`Workspace::backward`]; otherwise one layer's buffers serve all. `on_qkv(layer, qkv)`
    /// sees each layer's rotated queries, keys and values.
    pub(crate) fn forward(
        &mut self,
        net: Net<'_>,
        rows: &[&Row<'_>],
        scale: f32,
        keep: bool,
        mut on_qkv: impl FnMut(usize, &[f32]),
    ) {
        let s = net.spec;
        self.spans.clear();
        self.tokens.clear();
        for row in rows {
            self.spans.push((self.tokens.len(), row.tokens.len()));
            self.tokens.extend(row.tokens.iter().map(|&t| t as usize));
        }
        let n = self.tokens.len();
        let slots = if keep { s.layers.len() } else { 1 };
        if self.layers.len() < slots {
            self.layers.resize_with(slots, LayerActs::default);
        }
        self.embed(net, n);
        for (l, layer) in s.layers.iter().enumerate() {
            let slot = if keep { l } else { 0 };
            let a = &mut self.layers[slot];
            let (dim, ldq, lda) = (s.dim, s.qkv_dim(), s.att_dim());
            // The residual stream arrives in `last` and leaves in `last`; this layer keeps it as its input.
            std::mem::swap(&mut a.x, &mut self.last);
            let x = &a.x[..n * dim];
            let h1 = sized(&mut a.h1, n * dim);
            norm::forward(&layer.norm1, net.flat, dim, x, h1, sized(&mut a.stats1, 2 * n));
            let qkv = sized(&mut a.qkv, n * ldq);
            let (q_dim, kv_dim) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
            net.packed.forward(&layer.q, net.flat, n, h1, dim, qkv, ldq, Init::Zero);
            net.packed.forward(&layer.k, net.flat, n, h1, dim, &mut qkv[q_dim..], ldq, Init::Zero);
            net.packed.forward(&layer.v, net.flat, n, h1, dim, &mut qkv[q_dim + kv_dim..], ldq, Init::Zero);
            rotate(s, &self.spans, qkv, false);
            on_qkv(l, qkv);
            let att = sized(&mut a.att, n * lda);
            let total = self.spans.iter().map(|&(_, t)| s.heads * attention::stats_len(t)).sum();
            let mut stats = sized(&mut a.stats, total);
            for &(r, t) in &self.spans {
                let (here, rest) = stats.split_at_mut(s.heads * attention::stats_len(t));
                stats = rest;
                let out = &mut att[r * lda..(r + t) * lda];
                attention::forward(s, t, &qkv[r * ldq..(r + t) * ldq], out, here, &mut self.scratch);
            }
            let mid = sized(&mut a.mid, n * dim);
            net.packed.forward(&layer.out, net.flat, n, att, lda, mid, dim, Init::From(x));
            let h2 = sized(&mut a.h2, n * dim);
            norm::forward(&layer.norm2, net.flat, dim, mid, h2, sized(&mut a.stats2, 2 * n));
            let hidden = layer.mlp.hidden();
            let up_out = sized(&mut a.up, n * hidden);
            let act_out = sized(&mut a.act, n * hidden);
            let down = match &layer.mlp {
                MlpSpec::Gated { gate, up, down, act } => {
                    let gate_out = sized(&mut a.gate, n * hidden);
                    net.packed.forward(gate, net.flat, n, h2, dim, gate_out, hidden, Init::Zero);
                    net.packed.forward(up, net.flat, n, h2, dim, up_out, hidden, Init::Zero);
                    mlp::gated(*act, gate_out, up_out, act_out);
                    down
                }
                MlpSpec::Plain { up, down, act } => {
                    net.packed.forward(up, net.flat, n, h2, dim, up_out, hidden, Init::Zero);
                    mlp::plain(*act, up_out, act_out);
                    down
                }
            };
            let out = sized(&mut self.last, n * dim);
            net.packed.forward(down, net.flat, n, act_out, hidden, out, dim, Init::From(mid));
        }
        let hidden = sized(&mut self.hidden, n * s.dim);
        let stats = sized(&mut self.final_stats, 2 * n);
        norm::forward(&s.final_norm, net.flat, s.dim, &self.last[..n * s.dim], hidden, stats);
        self.heads(net, rows, scale);
    }

    fn embed(&mut self, net: Net<'_>, n: usize) {
        let (s, d) = (net.spec, net.spec.dim);
        let x = sized(&mut self.last, n * d);
        for (row, &t) in x.chunks_exact_mut(d).zip(&self.tokens) {
            row.copy_from_slice(&net.flat[s.embed + t * d..s.embed + (t + 1) * d]);
        }
        if let Positions::Learned(table) = s.positions {
            for &(r, t) in &self.spans {
                crate::simd::add_assign(&mut x[r * d..(r + t) * d], &net.flat[table..table + t * d]);
            }
        }
    }

    fn heads(&mut self, net: Net<'_>, rows: &[&Row<'_>], scale: f32) {
        let d = net.spec.dim;
        self.lm.positions.clear();
        self.lm.targets.clear();
        self.scalar_rows.clear();
        for (row, &(start, _)) in rows.iter().zip(&self.spans) {
            self.lm.positions.extend(row.lm.clone().map(|p| start + p));
            self.lm.targets.extend(row.lm.clone().map(|p| row.tokens[p + 1] as usize));
            self.scalar_rows.extend(row.scalar.clone().map(|p| start + p));
        }
        self.scalars.clear();
        if let Some(head) = &net.spec.lm_head {
            self.lm.forward(net.spec, head, net.flat, net.packed, &self.hidden, scale);
        }
        if let Some(head) = &net.spec.scalar_head {
            let hidden = &self.hidden;
            let at = |&p: &usize| scalar_forward(head, net.flat, &hidden[p * d..(p + 1) * d]);
            self.scalars.extend(self.scalar_rows.iter().map(at));
        }
    }

    /// Backward from the per-token gradients through all layers, adding to `grad`.
    pub(crate) fn backward(&mut self, net: Net<'_>, scale: f32, grad: &mut [f32]) {
        let (s, d, n) = (net.spec, net.spec.dim, self.tokens.len());
        let (ldq, lda) = (s.qkv_dim(), s.att_dim());
        let d_h = sized(&mut self.d_h, n * d);
        d_h.fill(0.0);
        if let (Some(head), false) = (&s.lm_head, self.lm.positions.is_empty()) {
            let (gl, ge) = (&self.g_logprobs, &self.g_entropy);
            self.lm.backward(s, head, net.packed, scale, gl, ge, d_h, grad, &mut self.panels);
        }
        if let Some(head) = &s.scalar_head {
            for (&p, &g) in self.scalar_rows.iter().zip(&self.g_scalars) {
                let at = p * d..(p + 1) * d;
                scalar_backward(head, net.flat, &self.hidden[at.clone()], g, &mut d_h[at], grad);
            }
        }
        let d_x = sized(&mut self.d_x, n * d);
        d_x.fill(0.0);
        norm::backward(&s.final_norm, net.flat, d, &self.last[..n * d], &self.final_stats, d_h, d_x, grad);

        for (layer, a) in s.layers.iter().zip(&mut self.layers).rev() {
            // Feed-forward block: d_x is the gradient of its output and, through the residual, of its input.
            let hidden = layer.mlp.hidden();
            let d_act = sized(&mut self.d_act, n * hidden);
            let (MlpSpec::Gated { down, .. } | MlpSpec::Plain { down, .. }) = &layer.mlp;
            net.packed.backward_input(down, n, d_x, d, d_act, hidden, Init::Zero);
            backward_weight(down, n, &a.act, hidden, d_x, d, grad, &mut self.panels);
            let up_buf = &mut a.up[..n * hidden];
            let d_h = sized(&mut self.d_h, n * d);
            match &layer.mlp {
                MlpSpec::Gated { gate, up, act, .. } => {
                    let gate_buf = &mut a.gate[..n * hidden];
                    mlp::gated_backward(*act, gate_buf, up_buf, d_act);
                    net.packed.backward_input(gate, n, gate_buf, hidden, d_h, d, Init::Zero);
                    net.packed.backward_input(up, n, up_buf, hidden, d_h, d, Init::Own);
                    backward_weight(gate, n, &a.h2, d, gate_buf, hidden, grad, &mut self.panels);
                    backward_weight(up, n, &a.h2, d, up_buf, hidden, grad, &mut self.panels);
                }
                MlpSpec::Plain { up, act, .. } => {
                    mlp::plain_backward(*act, up_buf, d_act);
                    net.packed.backward_input(up, n, up_buf, hidden, d_h, d, Init::Zero);
                    backward_weight(up, n, &a.h2, d, up_buf, hidden, grad, &mut self.panels);
                }
            }
            norm::backward(&layer.norm2, net.flat, d, &a.mid[..n * d], &a.stats2, d_h, d_x, grad);

            // Attention block.
            let d_att = sized(&mut self.d_att, n * lda);
            net.packed.backward_input(&layer.out, n, d_x, d, d_att, lda, Init::Zero);
            backward_weight(&layer.out, n, &a.att, lda, d_x, d, grad, &mut self.panels);
            let d_qkv = sized(&mut self.d_qkv, n * ldq);
            let mut stats = &a.stats[..];
            for &(r, t) in &self.spans {
                let (here, rest) = stats.split_at(s.heads * attention::stats_len(t));
                stats = rest;
                attention::backward(
                    s,
                    t,
                    &a.qkv[r * ldq..(r + t) * ldq],
                    &a.att[r * lda..(r + t) * lda],
                    here,
                    &d_att[r * lda..(r + t) * lda],
                    &mut d_qkv[r * ldq..(r + t) * ldq],
                    &mut self.scratch,
                );
            }
            rotate(s, &self.spans, d_qkv, true);
            let (q_dim, kv_dim) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
            let parts = [
                (&layer.q, 0, Init::Zero),
                (&layer.k, q_dim, Init::Own),
                (&layer.v, q_dim + kv_dim, Init::Own),
            ];
            for (lin, off, init) in parts {
                net.packed.backward_input(lin, n, &d_qkv[off..], ldq, d_h, d, init);
                backward_weight(lin, n, &a.h1, d, &d_qkv[off..], ldq, grad, &mut self.panels);
            }
            norm::backward(&layer.norm1, net.flat, d, &a.x[..n * d], &a.stats1, d_h, d_x, grad);
        }

        for (row, &t) in d_x.chunks_exact(d).zip(&self.tokens) {
            crate::simd::add_assign(&mut grad[s.embed + t * d..s.embed + (t + 1) * d], row);
        }
        if let Positions::Learned(table) = s.positions {
            for &(r, t) in &self.spans {
                crate::simd::add_assign(&mut grad[table..table + t * d], &d_x[r * d..(r + t) * d]);
            }
        }
    }
}

/// Rotates queries and keys of every sequence (or rotates their gradients back).
fn rotate(s: &DecoderSpec, spans: &[(usize, usize)], qkv: &mut [f32], back: bool) {
    let Positions::Rope(table) = &s.positions else { return };
    let ld = s.qkv_dim();
    for &(r, t) in spans {
        for p in 0..t {
            table.rotate(&mut qkv[(r + p) * ld..], s.heads + s.kv_heads, s.head_dim, p, back);
        }
    }
}
