//! Cached decoding on the graph: keys and values as one tensor per layer, (rows, groups, capacity, head_dim).
//!
//! A row's new keys are written at its own length, and a mask hides what lies beyond it, so rows of any
//! length decode together. Rows that join wait for the next step and are read in together, padded.

use super::batch::token_budget;
use super::decoder::{Decoder, Kv, Pass};
use super::{Net, to_host};
use crate::error::Result;
use candle_core::{DType, Tensor};

/// Rows that decode together. Rows may join and leave at any step.
#[derive(Debug)]
pub(crate) struct CachedRows<'a> {
    net: Net<'a>,
    capacity: usize,
    /// Tokens in the cache of each row.
    lens: Vec<usize>,
    layers: Vec<Kv>,
    /// Rows that joined since the last step.
    joining: Vec<Vec<u32>>,
    logits: Vec<f32>,
    scalars: Vec<f32>,
}

impl<'a> CachedRows<'a> {
    /// An empty batch whose rows may grow to `capacity` tokens.
    pub(crate) fn new(net: Net<'a>, capacity: usize) -> Self {
        let capacity = capacity.min(net.spec.max_positions).max(1);
        Self {
            net,
            capacity,
            lens: Vec::new(),
            layers: Vec::new(),
            joining: Vec::new(),
            logits: Vec::new(),
            scalars: Vec::new(),
        }
    }

    /// Adds a row; length and tokens have been checked.
    pub(crate) fn push(&mut self, tokens: &[u32]) {
        self.joining.push(tokens.to_vec());
    }

    /// Removes the rows for which `keep` is false.
    pub(crate) fn retain(&mut self, keep: &[bool]) -> Result<()> {
        self.join()?;
        if !keep.contains(&false) {
            return Ok(());
        }
        let mut flags = keep.iter();
        self.lens.retain(|_| flags.next() == Some(&true));
        if self.lens.is_empty() {
            self.layers.clear();
            return Ok(());
        }
        let kept: Vec<u32> = (0..).zip(keep).filter(|(_, k)| **k).map(|(i, _)| i).collect();
        let kept = Tensor::new(kept, &self.net.uploaded.device)?;
        for (k, v) in &mut self.layers {
            (*k, *v) = (k.index_select(&kept, 0)?, v.index_select(&kept, 0)?);
        }
        Ok(())
    }

    /// Reads the rows that joined into the cache.
    fn join(&mut self) -> Result<()> {
        let joining = std::mem::take(&mut self.joining);
        let budget = token_budget(self.net.spec);
        let mut from = 0;
        while from < joining.len() {
            // As many rows as fit, in order.
            let (mut to, mut width) = (from, 0);
            while to < joining.len() {
                let wider = width.max(joining[to].len());
                if to > from && wider * (to - from + 1) > budget {
                    break;
                }
                (to, width) = (to + 1, wider);
            }
            let read = self.prefill(&joining[from..to], width)?;
            self.layers = if self.lens.is_empty() {
                read
            } else {
                let both =
                    |(a, b): (&Kv, &Kv)| Ok((Tensor::cat(&[&a.0, &b.0], 0)?, Tensor::cat(&[&a.1, &b.1], 0)?));
                self.layers.iter().zip(&read).map(both).collect::<Result<_>>()?
            };
            self.lens.extend(joining[from..to].iter().map(Vec::len));
            from = to;
        }
        Ok(())
    }

    /// Keys and values of fresh rows, padded to the capacity.
    fn prefill(&self, rows: &[Vec<u32>], width: usize) -> Result<Vec<Kv>> {
        let (s, device) = (self.net.spec, &self.net.uploaded.device);
        if width == 0 {
            let empty =
                || Tensor::zeros((rows.len(), s.kv_heads, self.capacity, s.head_dim), DType::F32, device);
            return s.layers.iter().map(|_| Ok((empty()?, empty()?))).collect();
        }
        let mut ids = Vec::with_capacity(rows.len() * width);
        for row in rows {
            ids.extend(row);
            ids.resize(ids.len() + width - row.len(), 0);
        }
        let pass = Pass::whole(rows.len(), width, device);
        let mut layers = Vec::with_capacity(s.layers.len());
        let spare = self.capacity - width;
        Decoder::new(&self.net, false).hidden(ids, &pass, |_, (k, v)| {
            layers.push((k.pad_with_zeros(2, 0, spare)?, v.pad_with_zeros(2, 0, spare)?));
            Ok((k, v))
        })?;
        Ok(layers)
    }

    /// Feeds one token to every row, none of which is full; (logits, rows × vocab, and scalars) of the next position.
    pub(crate) fn step(&mut self, tokens: &[u32]) -> Result<(&mut [f32], &[f32])> {
        self.join()?;
        let (s, device) = (self.net.spec, &self.net.uploaded.device);
        let longest = self.lens.iter().max().map_or(0, |n| n + 1);
        (self.logits, self.scalars) = (Vec::new(), Vec::new());
        if tokens.is_empty() {
            return Ok((&mut self.logits, &self.scalars));
        }
        let pass = Pass::step(&self.lens, longest, device)?;
        let each = s.kv_heads * s.head_dim;
        let places: Vec<u32> = self.lens.iter().flat_map(|&n| std::iter::repeat_n(n as u32, each)).collect();
        let places = Tensor::from_vec(places, (self.lens.len(), s.kv_heads, 1, s.head_dim), device)?;
        let layers = &self.layers;
        let decoder = Decoder::new(&self.net, false);
        let hidden = decoder.hidden(tokens.to_vec(), &pass, |l, (k, v)| {
            let (keys, values) = &layers[l];
            keys.scatter_set(&places, &k, 2)?;
            values.scatter_set(&places, &v, 2)?;
            Ok((keys.narrow(2, 0, longest)?, values.narrow(2, 0, longest)?))
        })?;
        let logits = s.lm_head.as_ref().map(|h| decoder.logits(h, &hidden)).transpose()?;
        let scalars = s.scalar_head.as_ref().map(|h| decoder.linear(h, &hidden)).transpose()?;
        self.logits = to_host(logits.as_ref())?;
        self.scalars = to_host(scalars.as_ref())?;
        self.lens.iter_mut().for_each(|n| *n += 1);
        Ok((&mut self.logits, &self.scalars))
    }
}
