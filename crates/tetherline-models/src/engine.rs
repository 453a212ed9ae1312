//! What runs a model: the CPU kernels or the candle graph, behind the same methods of [`crate::Model`].

use crate::device::Device;
use crate::error::{ModelError, Result};
use crate::graph::{self, CachedRows, GraphDevice};
use tetherline_kernels::{Precision, Team};

/// Where and with how many threads models run. One engine serves any number of models.
#[derive(Debug)]
pub struct Engine {
    device: Device,
    threads: usize,
    precision: Precision,
    pub(crate) run: Run,
}

/// The two implementations.
#[derive(Debug)]
pub(crate) enum Run {
    /// The CPU kernels.
    Kernels(tetherline_kernels::Engine),
    /// The candle graph on a device.
    Graph(GraphDevice),
}

impl Engine {
    /// The CPU kernels on at most `threads` threads.
    pub fn new(threads: usize) -> Self {
        let kernels = tetherline_kernels::Engine::new(threads);
        Self {
            device: Device::Cpu,
            threads: kernels.threads(),
            precision: Precision::F32,
            run: Run::Kernels(kernels),
        }
    }

    /// An engine on `device`. The graph leaves its own threads to candle; `threads` is then for what stays
    /// on the host.
    ///
    /// # Errors
    /// [`ModelError::Device`] if the program was built without the device, or there is none.
    pub fn on(device: Device, threads: usize) -> Result<Self> {
        let kernels = Self::new(threads);
        Ok(match graph::open(device)? {
            None => kernels,
            Some(opened) => Self { device, run: Run::Graph(opened), ..kernels },
        })
    }

    /// The same, but that training computes activations again instead of keeping them
    /// ([`tetherline_kernels::Engine::with_gradient_checkpointing`]).
    ///
    /// # Errors
    /// [`ModelError::Device`] for the graph, which keeps what candle's autograd needs.
    pub fn with_gradient_checkpointing(self) -> Result<Self> {
        match self.run {
            Run::Kernels(k) => Ok(Self { run: Run::Kernels(k.with_gradient_checkpointing()), ..self }),
            Run::Graph(_) => Err(ModelError::Device {
                device: self.device,
                problem: "gradient checkpointing is for the kernels alone; set device = \"cpu\" or \
                          model.gradient_checkpointing = false"
                    .into(),
            }),
        }
    }

    /// The same, but that linear layers compute with weights rounded to bf16: half the memory that a decode step
    /// reads. Parameters, activations, log-probs and gradients stay f32; sampler and trainer see the same rounded weights.
    ///
    /// # Errors
    /// [`ModelError::Device`] for the graph.
    pub fn with_precision(self, precision: Precision) -> Result<Self> {
        match (&self.run, precision) {
            (Run::Graph(_), Precision::Bf16) => Err(ModelError::Device {
                device: self.device,
                problem:
                    "bf16 weights are for the kernels alone; set device = \"cpu\" or model.dtype = \"f32\""
                        .into(),
            }),
            _ => Ok(Self { precision, ..self }),
        }
    }

    /// Takes a gradient of [`crate::Model::step`] that has been used: the next step needs no new one.
    pub fn recycle(&self, gradient: Vec<f32>) {
        if let Run::Kernels(kernels) = &self.run {
            kernels.recycle(gradient);
        }
    }

    /// What linear layers compute with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Threads used on the host.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where models run.
    pub fn device(&self) -> Device {
        self.device
    }
}

/// Rows that decode together, one token each per step; rows may join and leave at any step.
#[derive(Debug)]
pub struct DecodeBatch<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) vocab: usize,
    pub(crate) capacity: usize,
    /// Tokens of each row, for the checks.
    pub(crate) lens: Vec<usize>,
}

#[derive(Debug)]
pub(crate) enum Rows<'a> {
    Kernels(Box<tetherline_kernels::DecodeBatch<'a>>),
    Graph(CachedRows<'a>),
}

/// What a step produced, one entry per row of the batch.
#[derive(Debug)]
pub struct DecodeOutput<'b> {
    /// Raw logits, rows × vocab; the caller may overwrite them.
    pub logits: &'b mut [f32],
    /// The scalar head at the position just read; empty without that head.
    pub scalars: &'b [f32],
}

impl<'a> DecodeBatch<'a> {
    /// The same, its work shared by a team of threads (on the kernels); the same bits.
    #[must_use]
    pub fn with_team(self, team: &'a Team<'a>) -> Self {
        let rows = match self.rows {
            Rows::Kernels(rows) => Rows::Kernels(Box::new(rows.with_team(team))),
            graph @ Rows::Graph(_) => graph,
        };
        Self { rows, ..self }
    }

    /// Rows in the batch.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    fn check(&self, tokens: &[u32], len: usize) -> Result<()> {
        if let Some(i) = tokens.iter().position(|&t| t as usize >= self.vocab) {
            return Err(ModelError::TokenOutOfRange { id: tokens[i], position: i, vocab: self.vocab });
        }
        if len > self.capacity {
            let hint = "a row of a decode batch cannot outgrow the capacity it was made with";
            return Err(ModelError::TooLong { tokens: len, context: self.capacity, hint });
        }
        Ok(())
    }

    /// Adds a row whose cache holds all of `tokens`; the next [`DecodeBatch::step`] continues after them.
    ///
    /// To get logits after a prompt, push all but its last token and feed that one to `step`.
    ///
    /// # Errors
    /// If the tokens exceed the capacity or the vocabulary, or the device fails.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        self.push_all(&[tokens], false)
    }

    /// As [`DecodeBatch::push`] of each in turn; the kernels read them together, and equal neighbours once. `again` says
    /// that the last of them comes again, in the next call.
    ///
    /// # Errors
    /// As [`DecodeBatch::push`].
    pub fn push_all(&mut self, prompts: &[&[u32]], again: bool) -> Result<()> {
        for tokens in prompts {
            self.check(tokens, tokens.len())?;
        }
        match &mut self.rows {
            Rows::Kernels(rows) => rows.push_all(prompts, again),
            Rows::Graph(rows) => prompts.iter().for_each(|tokens| rows.push(tokens)),
        }
        self.lens.extend(prompts.iter().map(|tokens| tokens.len()));
        Ok(())
    }

    /// Removes the rows for which `keep` is false, keeping the order of the rest.
    ///
    /// # Errors
    /// If the device fails.
    pub fn retain(&mut self, keep: impl FnMut(usize) -> bool) -> Result<()> {
        let keep: Vec<bool> = (0..self.lens.len()).map(keep).collect();
        match &mut self.rows {
            Rows::Kernels(rows) => rows.retain(|i| keep[i]),
            Rows::Graph(rows) => rows.retain(&keep)?,
        }
        let mut flags = keep.iter();
        self.lens.retain(|_| flags.next() == Some(&true));
        Ok(())
    }

    /// Feeds one token to every row and returns the logits of the next one.
    ///
    /// # Errors
    /// If `tokens` is not one per row, a token is outside the vocabulary, a row is full, or the device fails.
    pub fn step(&mut self, tokens: &[u32]) -> Result<DecodeOutput<'_>> {
        if tokens.len() != self.lens.len() {
            return Err(ModelError::OneTokenPerRow { tokens: tokens.len(), rows: self.lens.len() });
        }
        self.check(tokens, self.lens.iter().max().map_or(0, |n| n + 1))?;
        self.lens.iter_mut().for_each(|n| *n += 1);
        match &mut self.rows {
            Rows::Kernels(rows) => {
                let out = rows.step(tokens);
                Ok(DecodeOutput { logits: out.logits, scalars: out.scalars })
            }
            Rows::Graph(rows) => {
                let (logits, scalars) = rows.step(tokens)?;
                Ok(DecodeOutput { logits, scalars })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    fn a_device_that_was_not_built_in_says_how_to_build_it() {
        let message = |d: Device| Engine::on(d, 1).map(|_| ()).unwrap_err().to_string();
        assert!(message(Device::Cuda(1)).starts_with("device cuda:1: "), "{}", message(Device::Cuda(1)));
        assert!(message(Device::Cuda(0)).contains("--features cuda`"));
        assert!(message(Device::Metal(0)).contains("--features metal`"));
        #[cfg(not(feature = "graph"))]
        assert!(message(Device::Graph).contains("--features graph`"));
    }
}
