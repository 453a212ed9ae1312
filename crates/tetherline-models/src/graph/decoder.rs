//! The decoder as a graph: token ids to hidden states, over rows padded on the right.
//!
//! Padding needs no mask of its own. It stands after the tokens of a row, so the causal mask keeps every
//! token from seeing it, and what it computes itself is never read.

use super::Net;
use super::ops;
use candle_core::{Device, Result, Tensor};
use tetherline_kernels::{LayerSpec, Layout, LinearSpec, MlpSpec, NormSpec, Positions};

/// Keys and values of a layer, (rows, groups, tokens, head_dim) each.
pub(super) type Kv = (Tensor, Tensor);

/// What differs between a pass over whole rows and a step of cached decoding.
pub(super) struct Pass {
    rows: usize,
    /// Tokens per row.
    width: usize,
    places: Places,
    /// 0 where a query may look and −∞ where not; broadcasts to (rows, heads, queries, keys).
    mask: Tensor,
}

enum Places {
    /// Every row stands at positions 0, 1, 2, …
    FromStart,
    /// One token per row, at these positions.
    At(Tensor),
}

impl Pass {
    /// Whole rows, padded to `width`.
    pub(super) fn whole(rows: usize, width: usize, device: &Device) -> Result<Self> {
        let visible = |q: usize, k: usize| if k <= q { 0.0 } else { f32::NEG_INFINITY };
        let mask: Vec<f32> = (0..width).flat_map(|q| (0..width).map(move |k| visible(q, k))).collect();
        let mask = Tensor::from_vec(mask, (1, 1, width, width), device)?;
        Ok(Self { rows, width, places: Places::FromStart, mask })
    }

    /// One token per row at `positions`, which sees the first `positions[r] + 1` of `keys` cached ones.
    pub(super) fn step(positions: &[usize], keys: usize, device: &Device) -> Result<Self> {
        let visible = |k: usize, p: usize| if k <= p { 0.0 } else { f32::NEG_INFINITY };
        let mask: Vec<f32> = positions.iter().flat_map(|&p| (0..keys).map(move |k| visible(k, p))).collect();
        let mask = Tensor::from_vec(mask, (positions.len(), 1, 1, keys), device)?;
        let at: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
        let places = Places::At(Tensor::from_vec(at, positions.len(), device)?);
        Ok(Self { rows: positions.len(), width: 1, places, mask })
    }
}

/// The parameters as tensors: tracked for a backward pass, or not.
pub(super) struct Decoder<'n> {
    net: &'n Net<'n>,
    tensors: Vec<Tensor>,
}

impl<'n> Decoder<'n> {
    /// With `train`, outputs remember how they were made.
    pub(super) fn new(net: &'n Net<'n>, train: bool) -> Self {
        let of = |v: &candle_core::Var| if train { v.as_tensor().clone() } else { v.as_detached_tensor() };
        Self { net, tensors: net.uploaded.vars.iter().map(of).collect() }
    }

    /// The tensor that holds the parameter at `offset`, and where in it.
    fn at(&self, offset: usize) -> (&Tensor, usize) {
        let i = self.net.slot_of(offset);
        (&self.tensors[i], offset - self.net.slots[i].offset)
    }

    /// A vector of `n` parameters at `offset`.
    fn vector(&self, offset: usize, n: usize) -> Result<Tensor> {
        let (t, from) = self.at(offset);
        t.narrow(0, from, n)
    }

    /// y = x·W + b; x (n, n_in), y (n, n_out).
    pub(super) fn linear(&self, l: &LinearSpec, x: &Tensor) -> Result<Tensor> {
        let (t, from) = self.at(l.weight);
        let w = match l.layout {
            Layout::OutIn => t.narrow(0, from / l.stride, l.n_out)?.t()?,
            // Columns of a fused matrix: BLAS backends want rows without gaps.
            Layout::InOut => t.narrow(1, from % l.stride, l.n_out)?.contiguous()?,
        };
        let y = x.matmul(&w)?;
        match l.bias {
            None => Ok(y),
            Some(b) => y.broadcast_add(&self.vector(b, l.n_out)?),
        }
    }

    fn norm(&self, n: &NormSpec, x: &Tensor) -> Result<Tensor> {
        let dim = self.net.spec.dim;
        let b = n.bias.map(|b| self.vector(b, dim)).transpose()?;
        ops::norm(n.kind, x, &self.vector(n.weight, dim)?, b.as_ref(), n.eps)
    }

    /// Hidden states after the final norm, (rows · width, dim), of `ids` (rows · width, padded).
    ///
    /// `cache(layer, kv)` is handed the new keys and values of each layer and returns those to attend to.
    pub(super) fn hidden(
        &self,
        ids: Vec<u32>,
        pass: &Pass,
        mut cache: impl FnMut(usize, Kv) -> Result<Kv>,
    ) -> Result<Tensor> {
        let s = self.net.spec;
        let n = ids.len();
        let ids = Tensor::from_vec(ids, n, &self.net.uploaded.device)?;
        let mut x = self.at(s.embed).0.index_select(&ids, 0)?;
        if let Positions::Learned(table) = s.positions {
            let table = self.at(table).0;
            x = match &pass.places {
                Places::At(positions) => (x + table.index_select(positions, 0)?)?,
                Places::FromStart => x
                    .reshape((pass.rows, pass.width, s.dim))?
                    .broadcast_add(&table.narrow(0, 0, pass.width)?)?
                    .reshape((n, s.dim))?,
            };
        }
        let rope = self.rope(pass)?;
        for (l, layer) in s.layers.iter().enumerate() {
            let h = self.norm(&layer.norm1, &x)?;
            let att = self.attention(layer, &h, pass, rope.as_ref(), |kv| cache(l, kv))?;
            x = (x + self.linear(&layer.out, &att)?)?;
            let h = self.norm(&layer.norm2, &x)?;
            x = (x + self.mlp(&layer.mlp, &h)?)?;
        }
        self.norm(&s.final_norm, &x)
    }

    /// cos and sin at the positions of a pass, (tokens, d/2) or (rows, 1, 1, d/2).
    fn rope(&self, pass: &Pass) -> Result<Option<(Tensor, Tensor)>> {
        let Some((cos, sin)) = &self.net.uploaded.rope else { return Ok(None) };
        let pick = |t: &Tensor| match &pass.places {
            Places::FromStart => t.narrow(0, 0, pass.width),
            Places::At(positions) => t.index_select(positions, 0)?.reshape((pass.rows, 1, 1, t.dim(1)?)),
        };
        Ok(Some((pick(cos)?, pick(sin)?)))
    }

    /// The heads' outputs side by side, (n, heads · head_dim).
    fn attention(
        &self,
        layer: &LayerSpec,
        h: &Tensor,
        pass: &Pass,
        rope: Option<&(Tensor, Tensor)>,
        cache: impl FnOnce(Kv) -> Result<Kv>,
    ) -> Result<Tensor> {
        let s = self.net.spec;
        let split = |l: &LinearSpec, heads: usize| {
            self.linear(l, h)?.reshape((pass.rows, pass.width, heads, s.head_dim))?.transpose(1, 2)
        };
        let turn = |x: Tensor| match rope {
            None => x.contiguous(),
            Some((cos, sin)) => ops::rotate(&x, cos, sin)?.contiguous(),
        };
        let q = turn(split(&layer.q, s.heads)?)?;
        let k = turn(split(&layer.k, s.kv_heads)?)?;
        let v = split(&layer.v, s.kv_heads)?.contiguous()?;
        let (k, v) = cache((k, v))?;
        let out = ops::attention(&q, &k, &v, &pass.mask)?;
        out.transpose(1, 2)?.reshape((pass.rows * pass.width, s.heads * s.head_dim))
    }

    fn mlp(&self, mlp: &MlpSpec, h: &Tensor) -> Result<Tensor> {
        match mlp {
            MlpSpec::Gated { gate, up, down, act } => {
                let gated = (ops::activate(*act, &self.linear(gate, h)?)? * self.linear(up, h)?)?;
                self.linear(down, &gated)
            }
            MlpSpec::Plain { up, down, act } => {
                self.linear(down, &ops::activate(*act, &self.linear(up, h)?)?)
            }
        }
    }
}
