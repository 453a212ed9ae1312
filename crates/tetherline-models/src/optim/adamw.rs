//! AdamW (Loshchilov and Hutter 2019), with the semantics of `torch.optim.AdamW`.
//!
//! ```text
//! p ← p·(1 − lr·wd)                                   decoupled, before the step
//! m ← β₁·m + (1 − β₁)·g        v ← β₂·v + (1 − β₂)·g²
//! p ← p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
//! ```
//!
//! ε is added outside the bias-corrected square root. (TensorFlow 1, which OpenAI's 2019 code used, adds
//! it to the uncorrected one and so takes smaller early steps.) Scalars are computed in f64, elements in
//! f32; a gradient that is clipped is multiplied by its factor as it is read.

use std::ops::Range;
use tetherline_kernels::{AdamWStep, adamw, on_threads, worth};

/// Hyperparameters; the learning rate is an argument of [`AdamW::step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
}

/// All that an optimizer remembers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdamWState {
    /// Steps taken.
    pub step: u64,
    /// First moments, one per parameter.
    pub m: Vec<f32>,
    /// Second moments, one per parameter.
    pub v: Vec<f32>,
}

/// A restored state does not fit the parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateMismatch {
    /// Parameters of the model.
    pub parameters: usize,
    /// First moments in the state.
    pub m: usize,
    /// Second moments in the state.
    pub v: usize,
}

impl std::fmt::Display for StateMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { parameters, m, v } = self;
        write!(
            f,
            "optimizer state has {m} first and {v} second moments, the model has {parameters} parameters"
        )
    }
}

impl std::error::Error for StateMismatch {}

/// AdamW over one flat parameter vector.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    state: AdamWState,
    /// Ranges that weight decay applies to; None: all.
    decay: Option<Vec<Range<usize>>>,
}

impl AdamW {
    /// An optimizer for `parameters` numbers, all of which decay.
    pub fn new(parameters: usize, config: AdamWConfig) -> Self {
        let state = AdamWState { step: 0, m: vec![0.0; parameters], v: vec![0.0; parameters] };
        Self { config, state, decay: None }
    }

    /// Restricts weight decay to these ranges (usually all but norms and biases).
    ///
    /// # Panics
    /// If a range reaches beyond the parameters.
    #[must_use]
    pub fn with_decay_ranges(mut self, ranges: Vec<Range<usize>>) -> Self {
        let n = self.state.m.len();
        assert!(ranges.iter().all(|r| r.end <= n), "a decay range ends beyond {n} parameters");
        self.decay = Some(ranges);
        self
    }

    /// Forgets moments and steps, as if it were new.
    pub fn reset(&mut self) {
        self.state.step = 0;
        self.state.m.fill(0.0);
        self.state.v.fill(0.0);
    }

    /// What to save in a checkpoint.
    pub fn state(&self) -> &AdamWState {
        &self.state
    }

    /// Continues from a saved state.
    ///
    /// # Errors
    /// [`StateMismatch`] when the moments are not one per parameter; the optimizer is unchanged then.
    pub fn restore(&mut self, state: AdamWState) -> Result<(), StateMismatch> {
        let parameters = self.state.m.len();
        if state.m.len() != parameters || state.v.len() != parameters {
            return Err(StateMismatch { parameters, m: state.m.len(), v: state.v.len() });
        }
        self.state = state;
        Ok(())
    }

    /// One step at learning rate `lr` on gradients times `factor` ([`super::clip_factor`], or 1), on at most `threads` threads:
    /// no number depends on another, so their count does not show in the bits.
    ///
    /// # Panics
    /// If `params` or `grads` do not have one entry per parameter.
    pub fn step(&mut self, params: &mut [f32], grads: &[f32], factor: f32, lr: f64, threads: usize) {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        let AdamWState { step, m, v } = &mut self.state;
        assert_eq!(params.len(), m.len(), "parameters and moments");
        assert_eq!(grads.len(), m.len(), "gradients and moments");
        *step += 1;

        let mut keep = (1.0 - lr * weight_decay) as f32;
        if let (Some(ranges), true) = (&self.decay, weight_decay != 0.0) {
            for range in ranges {
                params[range.clone()].iter_mut().for_each(|p| *p *= keep);
            }
            keep = 1.0;
        }

        let t = *step as f64;
        let numbers = AdamWStep {
            keep,
            factor,
            rest1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            step_size: (lr / (1.0 - beta1.powf(t))) as f32,
            root_correction: (1.0 - beta2.powf(t)).sqrt() as f32,
            eps: eps as f32,
        };
        let size = params.len().div_ceil(worth(threads, params.len())).max(1);
        let parts =
            params.chunks_mut(size).zip(grads.chunks(size)).zip(m.chunks_mut(size).zip(v.chunks_mut(size)));
        on_threads(parts, |((params, grads), (m, v))| adamw(params, grads, m, v, numbers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-5, weight_decay: 0.0 };

    /// With a constant gradient both bias corrections cancel: every step is lr·g / (|g| + ε).
    #[test]
    fn a_constant_gradient_moves_at_a_constant_pace() {
        let grads = [0.5f32, -2.0, 1e-5, 0.0];
        let mut params = [1.0f32; 4];
        let mut adam = AdamW::new(4, CONFIG);
        for _ in 0..7 {
            adam.step(&mut params, &grads, 1.0, 0.01, 1);
        }
        for (p, g) in params.iter().zip(grads) {
            let g = f64::from(g);
            let want = 1.0 - 7.0 * 0.01 * g / (g.abs() + 1e-5);
            assert!((f64::from(*p) - want).abs() < 2e-6, "{g}: {p} {want}");
        }
        assert_eq!(adam.state().step, 7);
    }

    /// Two different gradients (1, then −1), by hand with β₁ = ½, β₂ = ¾, ε = 0:
    /// m₁ = ½, v₁ = ¼ ⇒ step 1; m₂ = ¼ − ½ = −¼, m̂ = −¼ / ¾ = −⅓, v₂ = 7/16, v̂ = 1 ⇒ step −⅓.
    #[test]
    fn two_steps_by_hand() {
        let config = AdamWConfig { beta1: 0.5, beta2: 0.75, eps: 0.0, weight_decay: 0.0 };
        let mut adam = AdamW::new(1, config);
        let mut p = [0.0f32];
        adam.step(&mut p, &[1.0], 1.0, 0.3, 1);
        assert!((p[0] + 0.3).abs() < 1e-6, "{p:?}");
        adam.step(&mut p, &[-1.0], 1.0, 0.3, 1);
        assert!((p[0] + 0.2).abs() < 1e-6, "{p:?}");
        assert_eq!(adam.state().m, [-0.25]);
        assert_eq!(adam.state().v, [7.0 / 16.0]);
    }

    /// ε outside the corrected root: from g = ε the first step is lr/2. (The 2019 placement would give
    /// lr·√(1 − β₂)·ε / (√(1 − β₂)·ε + ε), about lr/33.)
    #[test]
    fn eps_is_outside_the_corrected_root() {
        let mut p = [0.0f32];
        AdamW::new(1, CONFIG).step(&mut p, &[1e-5], 1.0, 1.0, 1);
        assert!((p[0] + 0.5).abs() < 1e-3, "{p:?}");
    }

    #[test]
    fn decay_is_decoupled_and_keeps_to_its_ranges() {
        let config = AdamWConfig { weight_decay: 0.1, ..CONFIG };
        let mut p = [2.0f32; 4];
        let mut adam = AdamW::new(4, config).with_decay_ranges(vec![0..1, 2..3]);
        for _ in 0..3 {
            adam.step(&mut p, &[0.0; 4], 1.0, 0.5, 1);
        }
        let decayed = 2.0 * 0.95f32.powi(3);
        for (got, want) in p.iter().zip([decayed, 2.0, decayed, 2.0]) {
            assert!((got - want).abs() < 1e-6, "{p:?}");
        }
        let mut p = [2.0f32];
        AdamW::new(1, config).step(&mut p, &[0.0], 1.0, 0.5, 1);
        assert!((p[0] - 1.9).abs() < 1e-6);
    }

    #[test]
    fn a_restored_optimizer_continues_bit_for_bit() {
        let grad = |t: usize| [0.1 * t as f32 - 0.3, 0.7, -(t as f32)];
        let (mut a, mut p) = (AdamW::new(3, CONFIG), [0.1f32, 0.2, 0.3]);
        for t in 0..3 {
            a.step(&mut p, &grad(t), 1.0, 0.01, 1);
        }
        let (mut b, mut q) = (AdamW::new(3, CONFIG), p);
        b.restore(a.state().clone()).unwrap();
        for t in 3..6 {
            a.step(&mut p, &grad(t), 1.0, 0.01, 1);
            b.step(&mut q, &grad(t), 1.0, 0.01, 1);
        }
        assert_eq!(p, q);
        assert_eq!(a.state(), b.state());
        let error = AdamW::new(2, CONFIG).restore(a.state().clone()).unwrap_err();
        assert!(error.to_string().contains("the model has 2 parameters"), "{error}");
    }

    #[test]
    fn threads_do_not_show_in_the_bits() {
        let n = (3 << 19) + 5;
        let config = AdamWConfig { weight_decay: 0.1, ..CONFIG };
        let grads: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
        let run = |threads: usize| {
            let (mut p, mut adam) = (grads.clone(), AdamW::new(n, config));
            for _ in 0..2 {
                adam.step(&mut p, &grads, 1.0, 0.01, threads);
            }
            (p, adam.state().clone())
        };
        let one = run(1);
        assert_ne!(one.0, grads);
        for threads in [2, 3, 64] {
            assert!(run(threads) == one, "{threads} threads");
        }
    }
}
