//! Truncated importance weights, for rollouts that another engine sampled.
//!
//! A sampler in other arithmetic (another engine, lower precision, weights one update old) draws from μ, while the trainer
//! computes π_old for the same tokens. Weighted by min(π_old/μ, C) the expectation is again over π_old, with a bias that
//! only the truncated tokens have (TIS, Yao et al. 2025; verl `rollout_corr`, TRL `vllm_importance_sampling`).
//!
//! The weights are constants: no gradient flows through them.

use crate::{Correction, PpoError};

/// log π_old − log μ beyond which a weight is held, nats (verl).
pub const MAX_LOG_WEIGHT: f64 = 20.0;

/// One weight per token of a response; 1 where `written` is false.
///
/// # Errors
/// [`PpoError::Length`] when slices differ in length.
pub fn correction_weights(
    trainer: &[f32],
    sampler: &[f32],
    written: Option<&[bool]>,
    correction: Correction,
) -> Result<Vec<f32>, PpoError> {
    let n = trainer.len();
    for (what, got) in
        [("the sampler's log-probs", sampler.len()), ("the written mask", written.map_or(n, <[bool]>::len))]
    {
        if got != n {
            return Err(PpoError::Length { what, got, expected: n, per: "token" });
        }
    }
    let counts = |t: usize| written.is_none_or(|w| w[t]);
    let log = |t: usize| f64::from(trainer[t]) - f64::from(sampler[t]);
    let weight = |log: f64, cap: f64| log.clamp(-MAX_LOG_WEIGHT, MAX_LOG_WEIGHT).exp().min(cap) as f32;
    let of_sequence = |cap| weight((0..n).filter(|&t| counts(t)).map(log).sum(), cap);
    Ok(match correction {
        Correction::Token(cap) => (0..n).map(|t| if counts(t) { weight(log(t), cap) } else { 1.0 }).collect(),
        Correction::Sequence(cap) => {
            let of_all = of_sequence(cap);
            (0..n).map(|t| if counts(t) { of_all } else { 1.0 }).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_ratios_up_to_the_cap() {
        let ln = |x: f64| x.ln() as f32;
        let (trainer, sampler) = ([ln(0.5), ln(0.2), ln(0.9)], [ln(0.25), ln(0.4), ln(0.1)]);
        let of = |c| correction_weights(&trainer, &sampler, Some(&[true, true, false]), c).unwrap();
        let close = |a: Vec<f32>, b: [f32; 3]| {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
        };
        close(of(Correction::Token(5.0)), [2.0, 0.5, 1.0]);
        close(of(Correction::Token(1.5)), [1.5, 0.5, 1.0]);
        close(of(Correction::Sequence(5.0)), [1.0, 1.0, 1.0]);
        let all = correction_weights(&trainer, &sampler, None, Correction::Sequence(5.0)).unwrap();
        close(all, [5.0; 3]);
        assert!(correction_weights(&trainer, &sampler[1..], None, Correction::Token(2.0)).is_err());
    }

    /// Tokens drawn from μ and weighted have the mean of π (closed form over four tokens); truncation lowers it.
    #[test]
    fn the_weighted_mean_over_the_sampler_is_the_mean_over_the_trainer() {
        let (pi, mu) = ([0.4f64, 0.3, 0.2, 0.1], [0.1f64, 0.2, 0.3, 0.4]);
        let f = [1.0, -2.0, 3.0, 0.5];
        let logs = |p: &[f64; 4]| p.map(|p| p.ln() as f32);
        let mean = |cap| {
            let w = correction_weights(&logs(&pi), &logs(&mu), None, Correction::Token(cap)).unwrap();
            (0..4).map(|x| mu[x] * f64::from(w[x]) * f[x]).sum::<f64>()
        };
        let exact: f64 = (0..4).map(|x| pi[x] * f[x]).sum();
        assert!((mean(10.0) - exact).abs() < 1e-6);
        assert!((mean(2.0) - (exact - (4.0 - 2.0) * 0.1 * 1.0)).abs() < 1e-6, "one token is truncated");
    }
}
