//! Folding an adapter into the weights: W ← W + s·B·A.

use tetherline_kernels::{DecoderSpec, Layout, Params};

/// Adds s·B·A of every adapted layer of `spec` to `base`, the parameters before A and B.
pub(crate) fn merge(spec: &DecoderSpec, params: Params<'_>, base: &mut [f32]) {
    for l in spec.linears() {
        let Some(s) = l.adapter else { continue };
        let (a, b) = (params.at(s.a, s.rank * l.n_in), params.at(s.b, l.n_out * s.rank));
        // A row of the stored matrix is an output's weights, or an input's.
        let (rows, width) = match l.layout {
            Layout::OutIn => (l.n_out, l.n_in),
            Layout::InOut => (l.n_in, l.n_out),
        };
        let by_input = transposed(b, l.n_out, s.rank);
        for i in 0..rows {
            let row = &mut base[l.weight + i * l.stride..][..width];
            for k in 0..s.rank {
                let (factor, along) = match l.layout {
                    Layout::OutIn => (b[i * s.rank + k], &a[k * l.n_in..][..width]),
                    Layout::InOut => (a[k * l.n_in + i], &by_input[k * l.n_out..][..width]),
                };
                let factor = factor * s.scale;
                row.iter_mut().zip(along).for_each(|(w, x)| *w += factor * x);
            }
        }
    }
}

fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
}
