//! Linear layers over packed weights.

use crate::gemm::{A, Init, Panels, gemm};
use crate::simd::add_assign;
use crate::spec::{DecoderSpec, Layout, LinearSpec};

/// The weights of every linear layer in the two panel layouts the kernels read: once for y = x·W, once
/// (only if trained) for dx = dy·Wᵀ. Must be refreshed whenever the flat parameters change.
#[derive(Clone, Debug)]
pub struct PackedWeights {
    layers: Vec<PackedLinear>,
    train: bool,
}

#[derive(Clone, Debug, Default)]
struct PackedLinear {
    forward: Panels,
    backward: Panels,
}

impl PackedWeights {
    /// Packs every linear layer of `spec`; `train` also packs what the backward pass needs.
    pub fn new(spec: &DecoderSpec, flat: &[f32], train: bool, threads: usize) -> Self {
        let mut packed = Self { layers: vec![PackedLinear::default(); spec.linears().len()], train };
        packed.refresh(spec, flat, threads);
        packed
    }

    /// Packs again after the parameters changed.
    pub fn refresh(&mut self, spec: &DecoderSpec, flat: &[f32], threads: usize) {
        let train = self.train;
        let linears = spec.linears();
        let pack = |packed: &mut PackedLinear, l: &LinearSpec| {
            let w = &flat[l.weight..];
            let (over_in, over_out) = match l.layout {
                Layout::OutIn => (1, l.stride),
                Layout::InOut => (l.stride, 1),
            };
            packed.forward.pack(w, over_in, over_out, l.n_in, l.n_out);
            if train {
                packed.backward.pack(w, over_out, over_in, l.n_out, l.n_in);
            }
        };
        let per_thread = linears.len().div_ceil(threads.max(1));
        if threads <= 1 {
            for (p, l) in self.layers.iter_mut().zip(linears) {
                pack(p, l);
            }
            return;
        }
        std::thread::scope(|s| {
            for (ps, ls) in self.layers.chunks_mut(per_thread).zip(linears.chunks(per_thread)) {
                s.spawn(move || {
                    for (p, l) in ps.iter_mut().zip(ls) {
                        pack(p, l);
                    }
                });
            }
        });
    }

    /// y\[rows × n_out\] = init + x\[rows × n_in\]·W + b, row strides `ldx` and `ldy`.
    pub(crate) fn forward(
        &self,
        l: &LinearSpec,
        flat: &[f32],
        rows: usize,
        x: &[f32],
        ldx: usize,
        y: &mut [f32],
        ldy: usize,
        init: Init<'_>,
    ) {
        let b = self.layers[l.id].forward.view();
        gemm(rows, l.n_out, l.n_in, A::rows(x, ldx), b, y, ldy, init);
        if let Some(bias) = l.bias {
            let bias = &flat[bias..bias + l.n_out];
            for row in y.chunks_mut(ldy).take(rows) {
                add_assign(&mut row[..l.n_out], bias);
            }
        }
    }

    /// dx\[rows × n_in\] = init + dy\[rows × n_out\]·Wᵀ.
    pub(crate) fn backward_input(
        &self,
        l: &LinearSpec,
        rows: usize,
        dy: &[f32],
        ldy: usize,
        dx: &mut [f32],
        ldx: usize,
        init: Init<'_>,
    ) {
        assert!(self.train, "backward on weights that were packed for inference");
        let b = self.layers[l.id].backward.view();
        gemm(rows, l.n_in, l.n_out, A::rows(dy, ldy), b, dx, ldx, init);
    }
}

/// dW += dyᵀ·x (in the layer's own layout) and db += Σ dy, into the flat gradient.
pub(crate) fn backward_weight(
    l: &LinearSpec,
    rows: usize,
    x: &[f32],
    ldx: usize,
    dy: &[f32],
    ldy: usize,
    grad: &mut [f32],
    panels: &mut Panels,
) {
    let dw = &mut grad[l.weight..];
    match l.layout {
        Layout::OutIn => {
            panels.pack(x, ldx, 1, rows, l.n_in);
            gemm(l.n_out, l.n_in, rows, A::transposed(dy, ldy), panels.view(), dw, l.stride, Init::Own);
        }
        Layout::InOut => {
            panels.pack(dy, ldy, 1, rows, l.n_out);
            gemm(l.n_in, l.n_out, rows, A::transposed(x, ldx), panels.view(), dw, l.stride, Init::Own);
        }
    }
    if let Some(bias) = l.bias {
        let db = &mut grad[bias..bias + l.n_out];
        for row in dy.chunks(ldy).take(rows) {
            add_assign(db, &row[..l.n_out]);
        }
    }
}
