//! The decoder as a graph: token ids to hidden states, over rows padded on the right.
//!
//! Padding needs no mask of its own. It stands after the tokens of a row, so the causal mask keeps every
//! token from seeing it, and what it computes itself is never read.

use super::Net;
use super::ops;
use candle_core::{Device, Result, Tensor};
use std::cell::RefCell;
use tetherline_kernels::{AttentionSpec, Layout, LinearSpec, MlpSpec, NormSpec};

/// Keys and values of a layer, (rows, groups, tokens, head_dim) each.
pub(super) type Kv = (Tensor, Tensor);

/// What differs between a pass over whole rows and a step of cached decoding.
pub(super) struct Pass {
    rows: usize,
    /// Tokens per row.
    width: usize,
    places: Places,
    device: Device,
    /// One per window: 0 where a query may look and −∞ where not; broadcasts to (rows, heads, queries, keys).
    masks: RefCell<Vec<(Option<usize>, Tensor)>>,
}

enum Places {
    /// Every row stands at positions 0, 1, 2, …
    FromStart,
    /// One token per row, at these positions, of this many keys.
    At { positions: Tensor, each: Vec<usize>, keys: usize },
}

impl Pass {
    fn new(rows: usize, width: usize, places: Places, device: &Device) -> Self {
        Self { rows, width, places, device: device.clone(), masks: RefCell::default() }
    }

    /// Whole rows, padded to `width`.
    pub(super) fn whole(rows: usize, width: usize, device: &Device) -> Self {
        Self::new(rows, width, Places::FromStart, device)
    }

    /// One token per row at `positions`, which sees the first `positions[r] + 1` of `keys` cached ones.
    pub(super) fn step(positions: &[usize], keys: usize, device: &Device) -> Result<Self> {
        let at: Vec<u32> = positions.iter().map(|&p| p as u32).collect();
        let tensor = Tensor::from_vec(at, positions.len(), device)?;
        let places = Places::At { positions: tensor, each: positions.to_vec(), keys };
        Ok(Self::new(positions.len(), 1, places, device))
    }

    fn mask(&self, window: Option<usize>) -> Result<Tensor> {
        if let Some((_, mask)) = self.masks.borrow().iter().find(|(w, _)| *w == window) {
            return Ok(mask.clone());
        }
        let reach = window.unwrap_or(usize::MAX);
        let visible = |q: usize, k: usize| if k <= q && q - k < reach { 0.0 } else { f32::NEG_INFINITY };
        let (queries, keys, shape): (Vec<usize>, usize, _) = match &self.places {
            Places::FromStart => ((0..self.width).collect(), self.width, (1, 1, self.width, self.width)),
            Places::At { each, keys, .. } => (each.clone(), *keys, (each.len(), 1, 1, *keys)),
        };
        let mask: Vec<f32> = queries.iter().flat_map(|&q| (0..keys).map(move |k| visible(q, k))).collect();
        let mask = Tensor::from_vec(mask, shape, &self.device)?;
        self.masks.borrow_mut().push((window, mask.clone()));
        Ok(mask)
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
        let frozen = net.uploaded.frozen;
        let of = |(i, v): (usize, &candle_core::Var)| {
            if train && i >= frozen { v.as_tensor().clone() } else { v.as_detached_tensor() }
        };
        Self { net, tensors: net.uploaded.vars.iter().enumerate().map(of).collect() }
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

    /// y = x·W + b + s·(x·Aᵀ)·Bᵀ; x (n, n_in), y (n, n_out).
    pub(super) fn linear(&self, l: &LinearSpec, x: &Tensor) -> Result<Tensor> {
        let (t, from) = self.at(l.weight);
        let w = match l.layout {
            Layout::OutIn => t.narrow(0, from / l.stride, l.n_out)?.t()?,
            // Columns of a fused matrix: BLAS backends want rows without gaps.
            Layout::InOut => t.narrow(1, from % l.stride, l.n_out)?.contiguous()?,
        };
        let mut y = x.matmul(&w)?;
        if let Some(s) = l.adapter {
            let a = self.at(s.a).0.t()?;
            let (b, from) = self.at(s.b);
            let b = b.narrow(0, from / s.rank, l.n_out)?.t()?;
            y = (y + (x.matmul(&a)?.matmul(&b)? * f64::from(s.scale))?)?;
        }
        match l.bias {
            None => Ok(y),
            Some(b) => y.broadcast_add(&self.vector(b, l.n_out)?),
        }
    }

    fn norm(&self, n: &NormSpec, x: &Tensor) -> Result<Tensor> {
        let b = n.bias.map(|b| self.vector(b, n.dim)).transpose()?;
        let w = self.vector(n.weight, n.dim)?;
        let w = if n.plus == 0.0 { w } else { (w + f64::from(n.plus))? };
        ops::norm(n.kind, x, &w, b.as_ref(), n.eps)
    }

    /// norm(x), or x where there is none.
    fn normed(&self, n: Option<&NormSpec>, x: &Tensor) -> Result<Tensor> {
        n.map_or_else(|| Ok(x.clone()), |n| self.norm(n, x))
    }

    /// Logits of hidden states, soft cap included.
    pub(super) fn logits(&self, head: &LinearSpec, hidden: &Tensor) -> Result<Tensor> {
        let z = self.linear(head, hidden)?;
        self.net.spec.logit_cap.map_or(Ok(z.clone()), |cap| ops::cap(&z, cap))
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
        if s.embed_scale != 1.0 {
            x = (x * f64::from(s.embed_scale))?;
        }
        if let Some(table) = s.positions {
            let table = self.at(table).0;
            x = match &pass.places {
                Places::At { positions, .. } => (x + table.index_select(positions, 0)?)?,
                Places::FromStart => x
                    .reshape((pass.rows, pass.width, s.dim))?
                    .broadcast_add(&table.narrow(0, 0, pass.width)?)?
                    .reshape((n, s.dim))?,
            };
        }
        let ropes = (0..s.ropes.len()).map(|i| self.rope(i, pass)).collect::<Result<Vec<_>>>()?;
        for (l, layer) in s.layers.iter().enumerate() {
            let h = self.normed(layer.norm1.as_ref(), &x)?;
            let rope = layer.attention.rope.map(|i| &ropes[i]);
            let att = self.attention(&layer.attention, &h, pass, rope, |kv| cache(l, kv))?;
            let added = self.linear(&layer.attention.out, &att)?;
            let mid = (&x + self.normed(layer.post1.as_ref(), &added)?)?;
            let h = self.normed(layer.norm2.as_ref(), if layer.parallel { &x } else { &mid })?;
            let added = self.mlp(&layer.mlp, &h)?;
            x = (mid + self.normed(layer.post2.as_ref(), &added)?)?;
        }
        self.norm(&s.final_norm, &x)
    }

    /// cos and sin at the positions of a pass, (tokens, pairs) or (rows, 1, 1, pairs).
    fn rope(&self, i: usize, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let (cos, sin) = &self.net.uploaded.ropes[i];
        let pick = |t: &Tensor| match &pass.places {
            Places::FromStart => t.narrow(0, 0, pass.width),
            Places::At { positions, .. } => {
                t.index_select(positions, 0)?.reshape((pass.rows, 1, 1, t.dim(1)?))
            }
        };
        Ok((pick(cos)?, pick(sin)?))
    }

    /// The heads' outputs side by side, (n, heads · head_dim).
    fn attention(
        &self,
        a: &AttentionSpec,
        h: &Tensor,
        pass: &Pass,
        rope: Option<&(Tensor, Tensor)>,
        cache: impl FnOnce(Kv) -> Result<Kv>,
    ) -> Result<Tensor> {
        let s = self.net.spec;
        let split =
            |x: &Tensor, heads: usize| x.reshape((pass.rows, pass.width, heads, s.head_dim))?.transpose(1, 2);
        // A norm is as wide as a head, or as all of them.
        let normed = |norm: Option<&NormSpec>, x: Tensor, heads: usize| match norm {
            None => Ok(x),
            Some(n) => {
                let width = heads * s.head_dim;
                let shape = (pass.rows * pass.width, width / n.dim, n.dim);
                self.norm(n, &x.reshape(shape)?)?.reshape((pass.rows * pass.width, width))
            }
        };
        let turn = |x: Tensor| match rope {
            None => x.contiguous(),
            Some((cos, sin)) => ops::rotate(&x, cos, sin)?.contiguous(),
        };
        let q = normed(a.q_norm.as_ref(), self.linear(&a.q, h)?, s.heads)?;
        let k = normed(a.k_norm.as_ref(), self.linear(&a.k, h)?, s.kv_heads)?;
        let (q, k) = (turn(split(&q, s.heads)?)?, turn(split(&k, s.kv_heads)?)?);
        let v = split(&self.linear(&a.v, h)?, s.kv_heads)?.contiguous()?;
        let (k, v) = cache((k, v))?;
        let out = ops::attention(&q, &k, &v, &pass.mask(a.window)?, a.scale, a.soft_cap)?;
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
