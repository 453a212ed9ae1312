//! What a block computes at each position by itself, forward and backward: norms, projections and the feed-forward
//! part. Attention between positions is in between, and differs for whole sequences and for cached decoding.

use crate::chunk::Net;
use crate::gemm::{Init, Panels};
use crate::linear::Output;
use crate::mlp;
use crate::norm;
use crate::params::{Grad, Params};
use crate::simd::add_assign;
use crate::spec::{DecoderSpec, LayerSpec, Layout, LinearSpec, MlpSpec, NormSpec};

/// Activations of one block, n positions.
#[derive(Debug, Default)]
pub(crate) struct Acts {
    pub(crate) x: Vec<f32>,   // residual stream entering the block (n, dim)
    stats1: Vec<f32>,         // (n, 2)
    h1: Vec<f32>,             // norm1(x) (n, dim); empty without that norm
    raw: Vec<f32>,            // queries and keys before their norms (n, q + kv); empty without them
    raw_stats: Vec<f32>,      // of those norms: of all queries, then of all keys
    pub(crate) qkv: Vec<f32>, // (n, qkv_dim)
    pub(crate) att: Vec<f32>, // (n, att_dim)
    att_out: Vec<f32>,        // what post1 normalises (n, dim)
    stats_att: Vec<f32>,
    mid: Vec<f32>, // residual stream after attention (n, dim)
    stats2: Vec<f32>,
    h2: Vec<f32>,      // (n, dim); empty without norm2
    gate: Vec<f32>,    // (n, hidden); empty for a plain feed-forward block
    up: Vec<f32>,      // (n, hidden)
    act: Vec<f32>,     // (n, hidden)
    mlp_out: Vec<f32>, // what post2 normalises (n, dim)
    stats_mlp: Vec<f32>,
}

/// Gradients of one block, reused from block to block.
#[derive(Debug, Default)]
pub(crate) struct Grads {
    d_h: Vec<f32>,
    d_mlp: Vec<f32>,
    d_out: Vec<f32>,
    d_act: Vec<f32>,
    d_raw: Vec<f32>,
    pub(crate) d_att: Vec<f32>,
    pub(crate) d_qkv: Vec<f32>,
    pub(crate) panels: Panels,
}

impl Acts {
    /// Floats of all of these for `n` positions.
    pub(crate) fn floats(s: &DecoderSpec, layer: &LayerSpec, n: usize) -> usize {
        let norm = |n: &Option<NormSpec>| if n.is_some() { s.dim + 2 } else { 0 };
        let norms = [&layer.norm1, &layer.post1, &layer.norm2, &layer.post2].map(norm).iter().sum::<usize>();
        let of_heads = match (&layer.attention.q_norm, &layer.attention.k_norm) {
            (Some(q), Some(k)) => {
                let (q_dim, kv_dim) = (s.q_dim(), s.kv_dim());
                q_dim + kv_dim + 2 * (q_dim / q.dim + kv_dim / k.dim)
            }
            _ => 0,
        };
        let wide = if matches!(layer.mlp, MlpSpec::Gated { .. }) { 3 } else { 2 };
        // x and mid; queries, keys and values; heads; up, act and gate.
        n * (2 * s.dim + norms + of_heads + s.qkv_dim() + s.att_dim() + wide * layer.mlp.hidden())
    }
}

impl Grads {
    /// Bytes of all of these for `n` positions of any block of `s`.
    pub(crate) fn bytes(s: &DecoderSpec, n: usize) -> usize {
        let of = |layer: &LayerSpec| {
            let out = if layer.post1.is_some() || layer.post2.is_some() { s.dim } else { 0 };
            let raw = if layer.attention.q_norm.is_some() { s.q_dim() + s.kv_dim() } else { 0 };
            n * (2 * s.dim + out + layer.mlp.hidden() + raw + s.att_dim() + s.qkv_dim())
        };
        // The right operand of a weight's gradient: the inputs, or, of a matrix stored the other way, the outputs.
        let operand = |l: &LinearSpec| match l.layout {
            Layout::OutIn => l.n_in,
            Layout::InOut => l.n_out,
        };
        let widest = s.layers.iter().flat_map(LayerSpec::linears).map(operand).max().unwrap_or(0);
        s.layers.iter().map(of).max().unwrap_or(0) * size_of::<f32>() + Panels::bytes(n, widest.max(s.dim))
    }
}

/// Grows `v` to at least `n` floats and returns exactly `n`; contents are whatever they were.
pub(crate) fn sized(v: &mut Vec<f32>, n: usize) -> &mut [f32] {
    if v.len() < n {
        v.resize(n, 0.0);
    }
    &mut v[..n]
}

/// Zeroed floats in a reused buffer.
fn cleared(v: &mut Vec<f32>, n: usize) -> &mut [f32] {
    let v = sized(v, n);
    v.fill(0.0);
    v
}

/// norm(x), or x itself where there is no norm.
fn normed<'h>(
    net: Net<'_>,
    norm: Option<&NormSpec>,
    x: &'h [f32],
    h: &'h mut Vec<f32>,
    stats: &mut Vec<f32>,
) -> &'h [f32] {
    let Some(n) = norm else { return x };
    let h = sized(h, x.len());
    net.norm(n, x, h, sized(stats, x.len() / n.dim * 2));
    h
}

/// Norms of parts of the rows of `raw` to the same parts of the rows of `out`.
fn norm_parts(
    n: &NormSpec,
    params: Params<'_>,
    (raw, ld_raw): (&[f32], usize),
    (out, ld_out): (&mut [f32], usize),
    width: usize,
    stats: &mut [f32],
) {
    let rows = raw.chunks(ld_raw).zip(out.chunks_mut(ld_out));
    for ((raw, out), stats) in rows.zip(stats.chunks_exact_mut(width / n.dim * 2)) {
        norm::forward(n, params, &raw[..width], &mut out[..width], stats);
    }
}

impl DecoderSpec {
    fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl Acts {
    /// From the residual stream to queries, keys and values, not yet rotated.
    pub(crate) fn project(&mut self, net: Net<'_>, layer: &LayerSpec, n: usize) {
        let (s, a) = (net.spec, &layer.attention);
        let (q_dim, kv_dim, ldq) = (s.q_dim(), s.kv_dim(), s.qkv_dim());
        let x = &self.x[..n * s.dim];
        let h = normed(net, layer.norm1.as_ref(), x, &mut self.h1, &mut self.stats1);
        let qkv = sized(&mut self.qkv, n * ldq);
        let (Some(q_norm), Some(k_norm)) = (&a.q_norm, &a.k_norm) else {
            let layers = &[(&a.q, 0), (&a.k, q_dim), (&a.v, q_dim + kv_dim)];
            net.linears(n, h, s.dim, &mut [Output { y: qkv, ldy: ldq, layers }]);
            return;
        };
        let ld = q_dim + kv_dim;
        let raw = sized(&mut self.raw, n * ld);
        let of_raw = Output { y: raw, ldy: ld, layers: &[(&a.q, 0), (&a.k, q_dim)] };
        let values = Output { y: qkv, ldy: ldq, layers: &[(&a.v, q_dim + kv_dim)] };
        net.linears(n, h, s.dim, &mut [of_raw, values]);
        let of_q = n * (q_dim / q_norm.dim) * 2;
        let stats = sized(&mut self.raw_stats, of_q + n * (kv_dim / k_norm.dim) * 2);
        let (stats_q, stats_k) = stats.split_at_mut(of_q);
        norm_parts(q_norm, net.params, (raw, ld), (qkv, ldq), q_dim, stats_q);
        norm_parts(k_norm, net.params, (&raw[q_dim..], ld), (&mut qkv[q_dim..], ldq), kv_dim, stats_k);
    }

    /// From the heads' outputs to the residual stream that leaves the block.
    pub(crate) fn finish(&mut self, net: Net<'_>, layer: &LayerSpec, n: usize, out: &mut Vec<f32>) {
        let (dim, params, hidden) = (net.spec.dim, net.params, layer.mlp.hidden());
        let x = &self.x[..n * dim];
        let (att, lda) = (&self.att[..], net.spec.att_dim());
        let add = |l: &LinearSpec, y: &[f32], ldy: usize, post: Post<'_>, to: &mut [f32], from: &[f32]| {
            let Some(norm) = post.norm else {
                net.linear(l, n, y, ldy, to, dim, Init::From(from));
                return;
            };
            let raw = sized(post.raw, n * dim);
            net.linear(l, n, y, ldy, raw, dim, Init::Zero);
            norm::forward(norm, params, raw, to, sized(post.stats, 2 * n));
            add_assign(to, from);
        };
        let mid = sized(&mut self.mid, n * dim);
        let post = Post { norm: layer.post1.as_ref(), raw: &mut self.att_out, stats: &mut self.stats_att };
        add(&layer.attention.out, att, lda, post, mid, x);
        let mid = &*mid;
        let source = if layer.parallel { x } else { mid };
        let h = normed(net, layer.norm2.as_ref(), source, &mut self.h2, &mut self.stats2);
        let up_out = sized(&mut self.up, n * hidden);
        let act_out = sized(&mut self.act, n * hidden);
        let down = match &layer.mlp {
            MlpSpec::Gated { gate, up, down, act } => {
                let gate_out = sized(&mut self.gate, n * hidden);
                let of_gate = Output { y: &mut *gate_out, ldy: hidden, layers: &[(gate, 0)] };
                let of_up = Output { y: &mut *up_out, ldy: hidden, layers: &[(up, 0)] };
                net.linears(n, h, dim, &mut [of_gate, of_up]);
                net.gated(*act, gate_out, up_out, act_out);
                down
            }
            MlpSpec::Plain { up, down, act } => {
                net.linear(up, n, h, dim, up_out, hidden, Init::Zero);
                mlp::plain(*act, up_out, act_out);
                down
            }
        };
        let post = Post { norm: layer.post2.as_ref(), raw: &mut self.mlp_out, stats: &mut self.stats_mlp };
        add(down, act_out, hidden, post, sized(out, n * dim), mid);
    }

    /// Backward of [`Acts::finish`] up to the heads' outputs: `d_x` is the gradient of the stream that leaves the block
    /// and becomes that of the stream between its halves (of a parallel block: stays); the gradient of the heads'
    /// outputs goes to `g.d_att`.
    pub(crate) fn finish_backward(
        &mut self,
        net: Net<'_>,
        layer: &LayerSpec,
        n: usize,
        d_x: &mut [f32],
        g: &mut Grads,
        grad: &mut Grad<'_>,
    ) {
        let (dim, params, hidden, lda) = (net.spec.dim, net.params, layer.mlp.hidden(), net.spec.att_dim());
        let (MlpSpec::Gated { down, .. } | MlpSpec::Plain { down, .. }) = &layer.mlp;
        let d_act = sized(&mut g.d_act, n * hidden);
        let d_out = match &layer.post2 {
            None => &*d_x,
            Some(post) => {
                let d_out = cleared(&mut g.d_out, n * dim);
                norm::backward(post, params, &self.mlp_out[..n * dim], &self.stats_mlp, d_x, d_out, grad);
                d_out
            }
        };
        net.packed.backward_input(down, net.params, n, d_out, dim, d_act, hidden, Init::Zero);
        net.packed.backward_weight(down, n, &self.act, hidden, d_out, dim, grad, &mut g.panels);
        let source = if layer.parallel { &self.x[..n * dim] } else { &self.mid[..n * dim] };
        let h = if layer.norm2.is_some() { &self.h2[..] } else { source };
        let up_buf = &mut self.up[..n * hidden];
        let d_h = sized(&mut g.d_mlp, n * dim);
        match &layer.mlp {
            MlpSpec::Gated { gate, up, act, .. } => {
                let gate_buf = &mut self.gate[..n * hidden];
                mlp::gated_backward(*act, gate_buf, up_buf, d_act);
                net.packed.backward_input(gate, net.params, n, gate_buf, hidden, d_h, dim, Init::Zero);
                net.packed.backward_input(up, net.params, n, up_buf, hidden, d_h, dim, Init::Own);
                let both: [(_, &[f32], _); 2] = [(gate, gate_buf, hidden), (up, up_buf, hidden)];
                net.packed.backward_weights(&both, n, h, dim, grad, &mut g.panels);
            }
            MlpSpec::Plain { up, act, .. } => {
                mlp::plain_backward(*act, up_buf, d_act);
                net.packed.backward_input(up, net.params, n, up_buf, hidden, d_h, dim, Init::Zero);
                net.packed.backward_weight(up, n, h, dim, up_buf, hidden, grad, &mut g.panels);
            }
        }
        if !layer.parallel {
            through_norm(layer.norm2.as_ref(), params, source, &self.stats2, d_h, d_x, grad);
        }
        let d_out = match &layer.post1 {
            None => &*d_x,
            Some(post) => {
                let d_out = cleared(&mut g.d_out, n * dim);
                norm::backward(post, params, &self.att_out[..n * dim], &self.stats_att, d_x, d_out, grad);
                d_out
            }
        };
        let d_att = sized(&mut g.d_att, n * lda);
        let out = &layer.attention.out;
        net.packed.backward_input(out, net.params, n, d_out, dim, d_att, lda, Init::Zero);
        net.packed.backward_weight(out, n, &self.att, lda, d_out, dim, grad, &mut g.panels);
    }

    /// Backward of [`Acts::project`] from the gradient of queries, keys and values in `g.d_qkv`, rotated back: `d_x`
    /// becomes the gradient of the stream that enters the block.
    pub(crate) fn project_backward(
        &mut self,
        net: Net<'_>,
        layer: &LayerSpec,
        n: usize,
        d_x: &mut [f32],
        g: &mut Grads,
        grad: &mut Grad<'_>,
    ) {
        let (s, a, dim) = (net.spec, &layer.attention, net.spec.dim);
        let (q_dim, kv_dim, ldq) = (s.q_dim(), s.kv_dim(), s.qkv_dim());
        let x = &self.x[..n * dim];
        if layer.parallel {
            through_norm(layer.norm2.as_ref(), net.params, x, &self.stats2, &g.d_mlp[..n * dim], d_x, grad);
        }
        let h = if layer.norm1.is_some() { &self.h1[..] } else { x };
        let d_qkv = &g.d_qkv[..n * ldq];
        let mut of_qk = (d_qkv, ldq);
        if let (Some(q_norm), Some(k_norm)) = (&a.q_norm, &a.k_norm) {
            let ld = q_dim + kv_dim;
            let d_raw = cleared(&mut g.d_raw, n * ld);
            let (stats_q, stats_k) = self.raw_stats.split_at(n * (q_dim / q_norm.dim) * 2);
            for (norm, at, width, stats) in [(q_norm, 0, q_dim, stats_q), (k_norm, q_dim, kv_dim, stats_k)] {
                let rows = self.raw.chunks(ld).zip(d_qkv.chunks(ldq)).zip(d_raw.chunks_mut(ld));
                for (((raw, dy), dx), stats) in rows.zip(stats.chunks_exact(width / norm.dim * 2)) {
                    let span = at..at + width;
                    let (raw, dy, dx) = (&raw[span.clone()], &dy[span.clone()], &mut dx[span]);
                    norm::backward(norm, net.params, raw, stats, dy, dx, grad);
                }
            }
            of_qk = (d_raw, ld);
        }
        let d_h = sized(&mut g.d_h, n * dim);
        let parts = [
            (&a.q, of_qk.0, of_qk.1, Init::Zero),
            (&a.k, &of_qk.0[q_dim..], of_qk.1, Init::Own),
            (&a.v, &d_qkv[q_dim + kv_dim..], ldq, Init::Own),
        ];
        for (l, dy, ld, init) in parts {
            net.packed.backward_input(l, net.params, n, dy, ld, d_h, dim, init);
        }
        let parts = parts.map(|(l, dy, ld, _)| (l, dy, ld));
        net.packed.backward_weights(&parts, n, h, dim, grad, &mut g.panels);
        through_norm(layer.norm1.as_ref(), net.params, x, &self.stats1, d_h, d_x, grad);
    }
}

/// A norm of what a half of a block adds to the stream, and what it keeps.
struct Post<'p> {
    norm: Option<&'p NormSpec>,
    raw: &'p mut Vec<f32>,
    stats: &'p mut Vec<f32>,
}

/// d_x += ∂norm/∂xᵀ·d_h, or += d_h where there is no norm.
fn through_norm(
    norm: Option<&NormSpec>,
    params: Params<'_>,
    x: &[f32],
    stats: &[f32],
    d_h: &[f32],
    d_x: &mut [f32],
    grad: &mut Grad<'_>,
) {
    match norm {
        Some(n) => norm::backward(n, params, x, stats, d_h, d_x, grad),
        None => add_assign(d_x, d_h),
    }
}
