//! Detects what looks like drift and is not: a bug in how KL is measured.
//!
//! A true KL is never negative, and it is zero where the policy starts as its reference. What violates
//! this has a cause outside learning; each finding names the likely ones.

use crate::estimate::KlEstimate;
use crate::estimator::ClampReport;

/// Something wrong with the measurement.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// The mean is below −3 standard errors.
    NegativeKl {
        /// Mean, nats per sequence.
        mean: f64,
        /// Standard error.
        stderr: f64,
    },
    /// KL is not zero before the first update, though the policy starts as its reference.
    NonZeroAtStart {
        /// Mean of |KL| per token over the batch, nats per token.
        per_token: f64,
        /// What was allowed.
        tolerance: f64,
    },
    /// The sampler's log-probs and the trainer's disagree.
    SamplerMismatch {
        /// Mean of (sampler − trainer) log-probs per token, nats.
        mean: f64,
        /// Its standard error.
        stderr: f64,
    },
    /// The sampler's log-probs are the trainer's, moved by some tokens.
    MaskMismatch {
        /// Tokens by which the trainer's stand later than the sampler's.
        shift: i64,
        /// Mean |sampler − trainer| at that shift, nats per token.
        aligned: f64,
        /// The same where they stand now.
        unaligned: f64,
    },
    /// The sampler's log-probs fit the trainer's distribution at another temperature.
    TemperatureMismatch {
        /// Estimated sampling temperature over scoring temperature.
        ratio: f64,
    },
    /// Numbers that are not finite.
    NotFinite {
        /// Tokens with a log-prob or an estimate that is not finite.
        tokens: u64,
    },
    /// A mean that is not a number.
    MeanNotFinite {
        /// Sequences in it.
        sequences: u64,
    },
    /// The clamp bit often enough to bias the estimate.
    Clamped {
        /// Share of tokens clamped.
        fraction: f64,
    },
}

impl Finding {
    /// The likely causes, most likely first.
    #[must_use]
    pub fn causes(&self) -> &'static [&'static str] {
        match self {
            Self::NegativeKl { .. } => &[
                "the mask counts prompt or padding tokens",
                "sampled at one temperature (or with top-p/top-k) and scored at another",
                "dropout is on in one of the two models",
                "log-probs come from another engine or precision than the trainer's",
                "policy and reference log-probs are swapped",
            ],
            Self::NonZeroAtStart { .. } => &[
                "the reference is not the checkpoint the policy starts from",
                "dropout is on",
                "the two models compute in different precisions or with different attention kernels",
                "an adapter is already merged, or not initialised to zero",
                "the mask or the position ids differ between the two forward passes",
            ],
            Self::SamplerMismatch { .. } => &[
                "the sampler runs older weights than the trainer",
                "the sampler's engine or precision differs",
                "log-probs were captured after top-k/top-p or before the temperature",
                "the mask is off by one",
            ],
            Self::MaskMismatch { .. } => &[
                "the mask begins one token early or late: the log-prob of token t comes from the logits at t − 1",
                "the prompt's last token, or the token after the end, is counted as part of the response",
                "left padding is counted by one of the two and not by the other",
            ],
            Self::TemperatureMismatch { .. } => &[
                "the sampler divides logits by a temperature that the scorer does not use",
                "log-probs were captured before the temperature was applied",
            ],
            Self::NotFinite { .. } | Self::MeanNotFinite { .. } => &[
                "a log-prob is −∞ under both models (a token that top-k/top-p removed)",
                "a NaN in the weights or the logits",
            ],
            Self::Clamped { .. } => &[
                "the policy puts its weight where the reference has next to none",
                "policy and reference have different vocabularies or tokenizers",
            ],
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NegativeKl { mean, stderr } => {
                write!(f, "KL is {mean:.4} ± {stderr:.4} nats per sequence; a KL is never negative")?;
            }
            Self::NonZeroAtStart { per_token, tolerance } => write!(
                f,
                "|KL| is {per_token:.2e} nats per token before the first update, above {tolerance:.0e}, though the policy starts as its reference"
            )?,
            Self::SamplerMismatch { mean, stderr } => {
                write!(
                    f,
                    "the sampler's log-probs differ from the trainer's by {mean:.4} ± {stderr:.4} nats per token"
                )?;
            }
            Self::MaskMismatch { shift, aligned, unaligned } => write!(
                f,
                "the trainer's log-probs are the sampler's moved by {shift} tokens: |difference| is {unaligned:.4} nats per token as they stand and {aligned:.4} moved back"
            )?,
            Self::TemperatureMismatch { ratio } => {
                write!(
                    f,
                    "tokens were sampled at about {ratio:.3} times the temperature they are scored at"
                )?;
            }
            Self::NotFinite { tokens } => write!(f, "{tokens} tokens have a log-prob that is not finite")?,
            Self::MeanNotFinite { sequences } => {
                write!(f, "the mean KL of {sequences} sequences is not a number")?;
            }
            Self::Clamped { fraction } => write!(f, "{:.1} % of the tokens were clamped", 100.0 * fraction)?,
        }
        write!(f, "; likely causes: {}", self.causes().join("; "))
    }
}

/// A batch whose mean KL is not a number, or below −3 standard errors. One sequence has no spread of its own; its
/// variance is then taken as 2·|KL|, that of the log-ratio along the tilt of the reference.
#[must_use]
pub fn check_sign(estimate: &KlEstimate) -> Option<Finding> {
    let (mean, sequences) = (estimate.mean().0, estimate.count());
    if sequences > 0 && !mean.is_finite() {
        return Some(Finding::MeanNotFinite { sequences });
    }
    let stderr = if sequences < 2 { (2.0 * mean.abs()).sqrt() } else { estimate.stderr().0 };
    let stderr = stderr.max(1e-9);
    (mean < -3.0 * stderr).then_some(Finding::NegativeKl { mean, stderr })
}

/// A first batch, before any update, of a policy that starts as its reference: k1 per token must be zero
/// to numerical accuracy. `tolerance` in nats per token; 1e-4 fits `f32`.
///
/// # Shapes
/// One log-prob per response token in both.
#[must_use]
pub fn check_start(logprobs: &[f32], ref_logprobs: &[f32], tolerance: f64) -> Option<Finding> {
    let n = logprobs.len().min(ref_logprobs.len());
    if n == 0 {
        return None;
    }
    if let Some(found) = not_finite(logprobs.iter().zip(ref_logprobs)) {
        return Some(found);
    }
    let sum: f64 =
        logprobs.iter().zip(ref_logprobs).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum();
    let per_token = sum / n as f64;
    (per_token > tolerance).then_some(Finding::NonZeroAtStart { per_token, tolerance })
}

/// The sampler's captured log-probs against the trainer's of the same tokens and weights: their mean
/// difference must be within 3 standard errors of zero, or below `tolerance` nats per token.
///
/// # Shapes
/// One log-prob per response token in both.
#[must_use]
pub fn check_sampler(sampler: &[f32], trainer: &[f32], tolerance: f64) -> Option<Finding> {
    if let Some(found) = not_finite(sampler.iter().zip(trainer)) {
        return Some(found);
    }
    let mut e = KlEstimate::default();
    for (s, t) in sampler.iter().zip(trainer) {
        e.push(crate::units::NatsPerSequence(f64::from(*s) - f64::from(*t)), 1);
    }
    let (mean, stderr) = (e.mean().0, e.stderr().0);
    if e.count() < 2 || mean.abs() <= tolerance {
        return None;
    }
    (mean.abs() > 3.0 * stderr).then_some(Finding::SamplerMismatch { mean, stderr })
}

/// Whether the sampler's captured log-probs and the trainer's of the same responses are the same numbers some
/// tokens apart: a mask that is off by one, not drift. Moving by up to `reach` tokens must explain at least
/// nine tenths of their mean difference, over at least 16 tokens.
///
/// # Shapes
/// One pair of slices per response: the log-probs of its tokens as each of the two has them; lengths may
/// differ.
#[must_use]
pub fn check_mask(responses: &[(&[f32], &[f32])], reach: usize) -> Option<Finding> {
    if let Some(found) = not_finite(responses.iter().flat_map(|(s, t)| s.iter().zip(*t))) {
        return Some(found);
    }
    let difference = |shift: i64| {
        let (mut sum, mut count) = (0.0, 0usize);
        for (sampler, trainer) in responses {
            let skip = shift.unsigned_abs() as usize;
            let (s, t) = if shift >= 0 { (0, skip) } else { (skip, 0) };
            for (a, b) in sampler.iter().skip(s).zip(trainer.iter().skip(t)) {
                sum += (f64::from(*a) - f64::from(*b)).abs();
                count += 1;
            }
        }
        (count >= 16).then(|| sum / count as f64)
    };
    let unaligned = difference(0)?;
    let reach = reach as i64;
    let moved = (-reach..=reach).filter(|s| *s != 0).filter_map(|s| Some((s, difference(s)?)));
    let (shift, aligned) = moved.min_by(|a, b| a.1.total_cmp(&b.1))?;
    (aligned < 0.1 * unaligned).then_some(Finding::MaskMismatch { shift, aligned, unaligned })
}

/// Whether tokens were sampled at the temperature they are scored at.
///
/// Where they were, the mean surprise of the sampled tokens, −ln π(x), equals the mean entropy of π. Where
/// the sampler was hotter by a factor r = 1 + δ, the surprise exceeds it by about δ·Var_π(ln π), so
/// r ≈ 1 + Σ(−ln π(x) − H)/Σ Var_π(ln π). A finding needs both 3 standard errors and 5 %.
///
/// # Shapes
/// One entry per response token: the scored log-prob of the sampled token, and entropy and variance of
/// ln π under π at that position (see [`surprise_moments`]).
#[must_use]
pub fn check_temperature(logprobs: &[f32], moments: &[(f64, f64)]) -> Option<Finding> {
    let broken = |(lp, (h, v)): &(&f32, &(f64, f64))| !lp.is_finite() || !h.is_finite() || !v.is_finite();
    let tokens = logprobs.iter().zip(moments).filter(broken).count() as u64;
    if tokens > 0 {
        return Some(Finding::NotFinite { tokens });
    }
    let (mut excess, mut variance) = (0.0, 0.0);
    for (lp, (entropy, var)) in logprobs.iter().zip(moments) {
        excess += -f64::from(*lp) - entropy;
        variance += var;
    }
    if variance <= 0.0 {
        return None;
    }
    let real = excess.abs() > 3.0 * variance.sqrt();
    let ratio = 1.0 + excess / variance;
    (real && (ratio - 1.0).abs() > 0.05).then_some(Finding::TemperatureMismatch { ratio })
}

/// Entropy and variance of ln π under π, from a full-vocabulary row of log-probs; nats, nats².
#[must_use]
pub fn surprise_moments(logprobs: &[f32]) -> (f64, f64) {
    let (mut first, mut second) = (0.0, 0.0);
    for lp in logprobs.iter().map(|lp| f64::from(*lp)).filter(|lp| lp.is_finite()) {
        let p = lp.exp();
        first += p * lp;
        second += p * lp * lp;
    }
    (-first, (second - first * first).max(0.0))
}

/// The tokens of which one of the two log-probs is not finite, if any.
fn not_finite<'a>(tokens: impl Iterator<Item = (&'a f32, &'a f32)>) -> Option<Finding> {
    let tokens = tokens.filter(|(a, b)| !a.is_finite() || !b.is_finite()).count() as u64;
    (tokens > 0).then_some(Finding::NotFinite { tokens })
}

/// Clamps and non-finite values in a batch; `allowed` is the clamped share that passes.
#[must_use]
pub fn check_clamps(report: &ClampReport, allowed: f64) -> Option<Finding> {
    if report.not_finite > 0 {
        return Some(Finding::NotFinite { tokens: report.not_finite });
    }
    let fraction = report.fraction();
    (fraction > allowed).then_some(Finding::Clamped { fraction })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Noise;
    use crate::units::NatsPerSequence;

    #[test]
    fn negative_kl_is_found_only_beyond_noise() {
        let of = |values: &[f64]| {
            let mut e = KlEstimate::default();
            values.iter().for_each(|v| e.push(NatsPerSequence(*v), 1));
            check_sign(&e)
        };
        assert_eq!(of(&[-1.0, 1.0, -0.5, 0.4]), None);
        let found = of(&[-1.0, -1.1, -0.9, -1.0]).unwrap();
        assert!(matches!(found, Finding::NegativeKl { .. }));
        assert!(found.to_string().contains("temperature") || found.to_string().contains("mask"));
        assert_eq!(of(&[]), None);
        // One sequence: a log-ratio of −4 is common noise of √8, one of −20 is not of √40.
        assert_eq!(of(&[-4.0]), None);
        assert_eq!(of(&[-17.0]), None, "3·√(2·17) = 17.5");
        assert!(of(&[-1.0, -1.2]).is_some(), "two sequences have a spread of their own, and it is 0.1");
        assert!(matches!(of(&[-20.0]), Some(Finding::NegativeKl { .. })));
        assert_eq!(of(&[1.0, f64::NAN]), Some(Finding::MeanNotFinite { sequences: 2 }));
        assert_eq!(of(&[f64::INFINITY]), Some(Finding::MeanNotFinite { sequences: 1 }));
    }

    #[test]
    fn what_is_not_finite_is_found_by_every_check() {
        let bad = Some(Finding::NotFinite { tokens: 1 });
        let (a, b) = ([-1.0f32, f32::NAN, -1.0], [-1.0f32; 3]);
        let gone = [-1.0, f32::NEG_INFINITY, -1.0];
        for broken in [a, gone] {
            assert_eq!(check_start(&broken, &b, 1e-4), bad);
            assert_eq!(check_start(&b, &broken, 1e-4), bad);
            assert_eq!(check_sampler(&broken, &b, 1e-4), bad);
            assert_eq!(check_mask(&[(&b, &b), (&b, &broken)], 1), bad);
            assert_eq!(check_temperature(&broken, &[(1.0, 1.0); 3]), bad);
        }
        assert_eq!(
            check_temperature(&b, &[(1.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)]),
            Some(Finding::NotFinite { tokens: 2 })
        );
        assert!(Finding::MeanNotFinite { sequences: 2 }.to_string().contains("NaN in the weights"));
    }

    #[test]
    fn a_start_that_is_not_the_reference() {
        assert_eq!(check_start(&[-1.0, -2.0], &[-1.00001, -2.0], 1e-4), None);
        let found = check_start(&[-1.0, -2.0], &[-1.5, -1.5], 1e-4).unwrap();
        assert_eq!(found, Finding::NonZeroAtStart { per_token: 0.5, tolerance: 1e-4 });
        assert!(found.to_string().contains("dropout"));
        assert_eq!(check_start(&[-1.0], &[-1.5], 0.5), None, "at the tolerance");
        assert!(check_start(&[f32::NAN], &[0.0], 1e-4).is_some());
        assert_eq!(check_start(&[], &[], 1e-4), None);
    }

    #[test]
    fn a_sampler_that_disagrees() {
        let trainer: Vec<f32> = (0..100).map(|i| -1.0 - 0.01 * i as f32).collect();
        let biased: Vec<f32> =
            trainer.iter().enumerate().map(|(i, t)| t + 0.1 + 0.01 * (i % 3) as f32).collect();
        let noisy: Vec<f32> =
            trainer.iter().enumerate().map(|(i, t)| t + if i % 2 == 0 { 0.1 } else { -0.1 }).collect();
        assert!(matches!(check_sampler(&biased, &trainer, 1e-3), Some(Finding::SamplerMismatch { .. })));
        assert_eq!(check_sampler(&noisy, &trainer, 1e-3), None);
        assert_eq!(check_sampler(&biased, &trainer, 0.5), None);
        assert_eq!(check_sampler(&[-1.0], &[-9.0], 1e-3), None, "one token proves nothing");
    }

    #[test]
    fn a_mask_that_is_off_by_one_is_told_from_drift() {
        let mut noise = Noise::new(5);
        let sampler: Vec<f32> = (0..40).map(|_| -3.0 * noise.uniform() as f32).collect();
        let close: Vec<f32> = sampler.iter().map(|s| s + 1e-4).collect();
        assert_eq!(check_mask(&[(&sampler, &close)], 2), None);
        for shift in [1, 2] {
            let late = [vec![-9.0; shift], close.clone()].concat();
            match check_mask(&[(&sampler, &late)], 2) {
                Some(Finding::MaskMismatch { shift: found, aligned, unaligned }) => {
                    assert_eq!(found, shift as i64);
                    assert!((aligned - 1e-4).abs() < 1e-6 && unaligned > 0.5, "{aligned} {unaligned}");
                }
                other => panic!("{other:?}"),
            }
            let early = check_mask(&[(&late, &sampler)], 2);
            assert!(matches!(early, Some(Finding::MaskMismatch { shift: s, .. }) if s == -(shift as i64)));
        }
        let other: Vec<f32> = (0..40).map(|_| -3.0 * noise.uniform() as f32).collect();
        assert_eq!(check_mask(&[(&sampler, &other)], 3), None, "drift is not a shift");
        assert_eq!(check_mask(&[(&sampler[..9], &close[1..10])], 2), None, "too few tokens prove nothing");
        let found = check_mask(&[(&sampler, &[&[-9.0], &close[..]].concat())], 1).unwrap();
        assert!(found.to_string().contains("moved by 1 tokens") && found.to_string().contains("mask"));
    }

    /// KL.md §7, experiment 14: every mismatch in 200 runs is found, at most 1 % false alarms.
    #[test]
    fn temperature_mismatch_is_found_in_every_run_and_matches_alarm_rarely() {
        let logits: Vec<f64> = (0..20).map(|v| -0.3 * f64::from(v)).collect();
        let log_softmax = |t: f64| {
            let scaled: Vec<f64> = logits.iter().map(|l| l / t).collect();
            let z = scaled.iter().map(|l| l.exp()).sum::<f64>().ln();
            scaled.iter().map(|l| (l - z) as f32).collect::<Vec<_>>()
        };
        let scored = log_softmax(1.0);
        let moments = surprise_moments(&scored);
        let run = |temperature: f64, seed: u64| {
            let sampled = log_softmax(temperature);
            let mut noise = Noise::new(seed);
            let tokens: Vec<f32> = (0..2000)
                .map(|_| {
                    let mut u = noise.uniform();
                    let x = sampled.iter().position(|lp| {
                        u -= f64::from(lp.exp());
                        u < 0.0
                    });
                    scored[x.unwrap_or(scored.len() - 1)]
                })
                .collect();
            check_temperature(&tokens, &vec![moments; tokens.len()])
        };
        let found = (0..200).filter(|s| run(1.3, *s).is_some()).count();
        let cold = (0..200).filter(|s| run(0.7, *s).is_some()).count();
        let false_alarms = (0..200).filter(|s| run(1.0, *s).is_some()).count();
        assert_eq!((found, cold), (200, 200));
        assert!(false_alarms <= 2, "{false_alarms}");
        match run(1.1, 3) {
            Some(Finding::TemperatureMismatch { ratio }) => assert!((ratio - 1.1).abs() < 0.1, "{ratio}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(check_temperature(&[-0.0], &[(0.0, 0.0)]), None, "a sure token proves nothing");
    }

    #[test]
    fn clamps_and_nan() {
        let report = ClampReport { tokens: 100, clamped: 2, not_finite: 0 };
        assert_eq!(check_clamps(&report, 0.02), None);
        assert_eq!(check_clamps(&report, 0.01), Some(Finding::Clamped { fraction: 0.02 }));
        let nan = ClampReport { not_finite: 1, ..report };
        assert_eq!(check_clamps(&nan, 1.0), Some(Finding::NotFinite { tokens: 1 }));
        assert!(!Finding::NotFinite { tokens: 1 }.causes().is_empty());
    }
}
