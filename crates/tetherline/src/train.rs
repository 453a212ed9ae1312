//! What every training loop shares: a model with its optimizer, and the log-likelihood loss.

use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use tetherline_core::BoxError;
use tetherline_models::optim::{AdamW, AdamWConfig, AdamWState, clip_factor, grad_norm};
use tetherline_models::{Engine, Model, Row, RowGrad, RowOutput, UnitLoss};

/// A model, its gradient and its optimizer.
#[derive(Debug)]
pub struct Trainer {
    /// The model.
    pub model: Model,
    adam: AdamW,
    /// Empty before anything has accumulated, so that models which are trained in turn need one between them.
    grad: Vec<f32>,
    /// Hash of the frozen parameters: a checkpoint holds the trained ones alone.
    base: u64,
}

/// A gradient that is not finite.
#[derive(Debug, thiserror::Error)]
#[error("the gradient norm is {0}; nothing was changed by this step")]
pub struct NonFiniteGradient(pub f64);

/// Bytes before the floats of a checkpoint: steps, number of parameters, hash of the frozen ones.
const HEADER: usize = 24;

/// FNV-1a over the bits of each number.
fn hash(values: &[f32]) -> u64 {
    values
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, x| (h ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3))
}

impl Trainer {
    /// A trainer whose optimizer starts fresh.
    pub fn new(mut model: Model, adam: AdamWConfig) -> Self {
        model.make_trainable();
        let n = model.n_trained();
        let base = hash(model.frozen());
        Self { model, adam: AdamW::new(n, adam), grad: Vec::new(), base }
    }

    /// The optimizer's moments and its count of steps.
    pub fn moments(&self) -> &AdamWState {
        self.adam.state()
    }

    /// Goes back to parameters and moments of before, bit for bit, and drops what gradient has accumulated.
    ///
    /// # Errors
    /// If they are those of another model; nothing is changed then.
    pub fn put_back(
        &mut self,
        engine: &Engine,
        params: &[f32],
        moments: &AdamWState,
    ) -> Result<(), BoxError> {
        self.check_size(params)?;
        self.adam.restore(moments.clone()).map_err(|e| e.to_string())?;
        self.model.update(engine, |own| own.copy_from_slice(params));
        self.grad = Vec::new();
        Ok(())
    }

    /// Keeps a share of what happened since parameters and moments of before: x ← x₀ + share·(x − x₀) for parameters and
    /// both moments alike. The count of optimizer steps, which corrects the moments' bias, stays.
    ///
    /// # Errors
    /// If they are those of another model; nothing is changed then.
    pub fn keep_share(
        &mut self,
        engine: &Engine,
        params: &[f32],
        moments: &AdamWState,
        share: f64,
    ) -> Result<(), BoxError> {
        self.check_size(params)?;
        let towards = |now: &mut [f32], before: &[f32]| {
            for (x, x0) in now.iter_mut().zip(before) {
                *x = x0 + share as f32 * (*x - x0);
            }
        };
        let mut state = self.adam.state().clone();
        towards(&mut state.m, &moments.m);
        towards(&mut state.v, &moments.v);
        self.adam.restore(state).map_err(|e| e.to_string())?;
        self.model.update(engine, |own| towards(own, params));
        Ok(())
    }

    fn check_size(&self, params: &[f32]) -> Result<(), BoxError> {
        let (got, n) = (params.len(), self.model.n_trained());
        if got == n {
            Ok(())
        } else {
            Err(format!("{got} parameters of before, and the model has {n}").into())
        }
    }

    /// Makes the accumulated gradient one that is not finite: a fault, injected.
    pub(crate) fn spoil_gradient(&mut self) {
        if let Some(first) = self.grad.first_mut() {
            *first = f32::NAN;
        }
    }

    /// Makes every trained weight one that is not finite: a fault, injected.
    pub(crate) fn spoil_weights(&mut self, engine: &Engine) {
        self.model.update(engine, |own| own.fill(f32::NAN));
    }

    /// Forgets the optimizer's moments and its count of steps.
    pub fn reset_optimizer(&mut self) {
        self.adam.reset();
    }

    /// Adds the gradient of `loss` over `units`; returns each unit's statistics.
    ///
    /// # Errors
    /// If a row does not fit the model.
    pub fn accumulate<L: UnitLoss>(
        &mut self,
        engine: &Engine,
        units: &[Vec<Row<'_>>],
        temperature: f32,
        loss: &L,
    ) -> Result<Vec<L::Stats>, BoxError> {
        Ok(self.model.step(engine, units, temperature, loss, &mut self.grad)?)
    }

    /// Clips the accumulated gradient, takes an optimizer step and gives the gradient back to the engine. Returns the norm
    /// before clipping. Where nothing has accumulated, the gradient is zero.
    ///
    /// # Errors
    /// [`NonFiniteGradient`], with parameters and moments untouched.
    pub fn step(
        &mut self,
        engine: &Engine,
        lr: f64,
        max_norm: Option<f64>,
    ) -> Result<f64, NonFiniteGradient> {
        let (mut grad, threads) = (std::mem::take(&mut self.grad), engine.threads());
        grad.resize(self.model.n_trained(), 0.0);
        let norm = grad_norm(&grad, threads);
        if norm.is_finite() {
            let factor = clip_factor(norm, max_norm.unwrap_or(f64::INFINITY));
            let adam = &mut self.adam;
            self.model.update(engine, |params| adam.step(params, &grad, factor, lr, threads));
        }
        engine.recycle(grad);
        if norm.is_finite() { Ok(norm) } else { Err(NonFiniteGradient(norm)) }
    }

    /// Writes trained parameters and their moments as little-endian bytes, for a checkpoint.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let state = self.adam.state();
        let mut file = std::fs::File::create(path)?;
        for word in [state.step, self.model.n_trained() as u64, self.base] {
            file.write_all(&word.to_le_bytes())?;
        }
        // A piece at a time: a second copy of all of it would be the peak of a run's memory.
        let mut piece = Vec::new();
        for v in [self.model.trained(), &state.m, &state.v] {
            for numbers in v.chunks(1 << 16) {
                piece.clear();
                piece.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
                file.write_all(&piece)?;
            }
        }
        Ok(())
    }

    /// Continues from the bytes that [`Trainer::save`] wrote.
    ///
    /// # Errors
    /// If the bytes are of another model, or of an adapter for another one.
    pub fn restore(&mut self, engine: &Engine, bytes: &[u8]) -> Result<(), BoxError> {
        let n = self.model.n_trained();
        let word =
            |i: usize| bytes.get(8 * i..8 * i + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        if word(1) != Some(n as u64) || bytes.len() != HEADER + 12 * n {
            let (got, expected) = (bytes.len(), HEADER + 12 * n);
            return Err(format!(
                "the saved weights have {got} bytes, and a model of {n} trained parameters has {expected}: the file \
                 is damaged, or of another model"
            )
            .into());
        }
        if word(2) != Some(self.base) {
            return Err("the saved weights were trained on other frozen weights than this model has".into());
        }
        let floats = |k: usize| -> Vec<f32> {
            let part = &bytes[HEADER + 4 * n * k..][..4 * n];
            part.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let params = floats(0);
        self.adam
            .restore(AdamWState { step: word(0).unwrap_or(0), m: floats(1), v: floats(2) })
            .map_err(|e| e.to_string())?;
        self.model.update(engine, |p| p.copy_from_slice(&params));
        self.grad = Vec::new();
        Ok(())
    }
}

/// A tokenised demonstration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Prompt and response.
    pub tokens: Vec<u32>,
    /// How many tokens are prompt; the loss is over the rest.
    pub prompt_len: usize,
}

impl Example {
    /// Tokens the loss is over. The first token of a sequence has nothing before it to predict it from.
    pub fn targets(&self) -> usize {
        self.tokens.len() - self.prompt_len.max(1)
    }

    /// The row of a forward pass.
    pub fn row(&self) -> Row<'_> {
        Row { tokens: &self.tokens, lm: self.prompt_len.max(1) - 1..self.tokens.len() - 1, scalar: 0..0 }
    }
}

/// A tokenised conversation whose answers are all demonstrated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EveryTurn {
    /// The whole; its prompt ends where the first answer begins.
    pub example: Example,
    /// For each token behind that prompt (and the first of the sequence), whether the assistant wrote it.
    pub written: Vec<bool>,
}

impl From<Example> for EveryTurn {
    /// The response alone.
    fn from(example: Example) -> Self {
        let written = vec![true; example.targets()];
        Self { example, written }
    }
}

impl EveryTurn {
    /// Tokens the loss is over.
    pub fn targets(&self) -> usize {
        self.written.iter().filter(|w| **w).count()
    }
}

/// Mean negative log-likelihood, nats per target token: −(1/N)·Σ log p.
#[derive(Clone, Copy, Debug)]
pub struct Nll<'a> {
    /// N, the target tokens of the batch.
    pub tokens: usize,
    /// For each unit, which of its scored tokens are targets; nothing for a unit, or for all: each is one.
    pub targets: &'a [&'a [bool]],
}

impl UnitLoss for Nll<'_> {
    type Stats = f64;

    fn unit(&self, unit: usize, rows: &[RowOutput<'_>], grads: &mut [RowGrad<'_>]) -> f64 {
        let w = 1.0 / self.tokens.max(1) as f64;
        let targets = self.targets.get(unit).copied().unwrap_or_default();
        let is_target = |i: usize| targets.is_empty() || targets[i];
        let mut loss = 0.0;
        for (row, grad) in rows.iter().zip(grads) {
            for (i, grad) in grad.logprobs.iter_mut().enumerate().filter(|(i, _)| is_target(*i)) {
                *grad = -w as f32;
                loss -= f64::from(row.logprobs[i]) * w;
            }
        }
        loss
    }
}

/// Adds the gradient of the mean negative log-likelihood of `batch`; returns the loss, nats per target token.
///
/// # Errors
/// If a row does not fit the model.
pub fn nll(trainer: &mut Trainer, engine: &Engine, batch: &[&Example]) -> Result<f64, BoxError> {
    let tokens = batch.iter().map(|e| e.targets()).sum();
    let units: Vec<Vec<Row<'_>>> = batch.iter().map(|e| vec![e.row()]).collect();
    Ok(trainer.accumulate(engine, &units, 1.0, &Nll { tokens, targets: &[] })?.iter().sum())
}

/// As [`nll`], of conversations: over every token that the assistant wrote.
///
/// # Errors
/// As [`nll`].
pub fn nll_of_turns(trainer: &mut Trainer, engine: &Engine, batch: &[&EveryTurn]) -> Result<f64, BoxError> {
    let tokens = batch.iter().map(|e| e.targets()).sum();
    let units: Vec<Vec<Row<'_>>> = batch.iter().map(|e| vec![e.example.row()]).collect();
    let targets: Vec<&[bool]> = batch.iter().map(|e| e.written.as_slice()).collect();
    Ok(trainer.accumulate(engine, &units, 1.0, &Nll { tokens, targets: &targets })?.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_models::{Device, ModelFiles};

    /// −Σ log p / N over both answers is what each answer alone gives, weighted by its tokens; gradients too.
    #[test]
    fn the_loss_of_every_turn_is_that_of_its_turns() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny-llama");
        let files = ModelFiles::dir(dir).unwrap();
        let engine = Engine::on(Device::Cpu, 1).unwrap();
        let model = Model::load(&files, crate::ppo::POLICY_HEADS, 0).unwrap();
        let adam = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-5, weight_decay: 0.0 };
        let trainer = || Trainer::new(model.clone(), adam);
        let tokens: Vec<u32> = (0..12).map(|i| (i * 7 + 3) % 40).collect();
        // Prompt of 3, an answer of 2, three tokens of the user, an answer of 4.
        let first = Example { tokens: tokens[..5].to_vec(), prompt_len: 3 };
        let second = Example { tokens: tokens.clone(), prompt_len: 8 };
        let written = [true, true, false, false, false, true, true, true, true].to_vec();
        let both = EveryTurn { example: Example { tokens, prompt_len: 3 }, written };
        let mut one = trainer();
        let loss = nll_of_turns(&mut one, &engine, &[&both]).unwrap();
        let (mut a, mut b) = (trainer(), trainer());
        let apart = [nll(&mut a, &engine, &[&first]).unwrap(), nll(&mut b, &engine, &[&second]).unwrap()];
        let mean = (2.0 * apart[0] + 4.0 * apart[1]) / 6.0;
        assert!((loss - mean).abs() < 1e-6 * mean && (apart[0] - apart[1]).abs() > 1e-3, "{loss} {apart:?}");
        let wanted = a.grad.iter().zip(&b.grad).map(|(a, b)| (2.0 * a + 4.0 * b) / 6.0);
        let far = one.grad.iter().zip(wanted).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
        let most = one.grad.iter().fold(0.0_f32, |m, g| m.max(g.abs()));
        assert!(far < 1e-5 * most && most > 0.0, "{far} of {most}");
        // The response alone is what it always was.
        let (mut c, mut d) = (trainer(), trainer());
        let alone = EveryTurn::from(second.clone());
        assert_eq!(
            nll_of_turns(&mut c, &engine, &[&alone]).unwrap().to_bits(),
            nll(&mut d, &engine, &[&second]).unwrap().to_bits()
        );
        assert_eq!(c.grad, d.grad);
    }
}
