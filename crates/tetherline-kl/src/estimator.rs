//! Per-token KL estimators from the log-probabilities of the sampled token.
//!
//! With x ~ π and l = ln π(x) − ln ref(x):
//!
//! | name | formula | bias for KL(π‖ref) |
//! | --- | --- | --- |
//! | k1 | l | none; a single value may be negative |
//! | k2 | l² / 2 | second order in l |
//! | k3 | e^(−l) − 1 + l | none where supp(ref) ⊆ supp(π); never negative; heavy right tail |
//! | abs | \|l\| | large; a dashboard number only |
//!
//! Values are nats per token. k3 has less variance than k1 only below about 0.63 nats, so it is for
//! tokens, never for a whole sequence's log-ratio. Source: Schulman, "Approximating KL divergence"
//! (2020); peers: verl `core_algos.kl_penalty`, OpenRLHF `compute_approx_kl`.

use crate::exact::RowError;
use crate::units::{NatsPerSequence, NatsPerToken};
use serde::{Deserialize, Serialize};

/// A KL estimator that needs only the sampled token's log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// l: unbiased, may be negative.
    K1,
    /// l²/2.
    K2,
    /// e^(−l) − 1 + l: unbiased, never negative.
    K3,
    /// |l|.
    Abs,
}

/// Bounds that keep an estimator from overflowing. Every clamp biases the estimate, so how often it
/// bites is reported (see [`ClampReport`]), never hidden.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clamp {
    /// The log-ratio is limited to ± this before the formula, in nats per token.
    pub log_ratio: f64,
    /// The result is limited to ± this after the formula, in nats per token.
    pub value: f64,
}

impl Clamp {
    /// Only overflow is prevented: e^700 is the last power that fits comfortably in an `f64`.
    pub const SAFE: Self = Self { log_ratio: 700.0, value: f64::MAX };
    /// verl's k3: log-ratio ±20, value ±10.
    pub const VERL_K3: Self = Self { log_ratio: 20.0, value: 10.0 };
    /// OpenRLHF's, for every estimator: value ±10.
    pub const OPENRLHF: Self = Self { log_ratio: 700.0, value: 10.0 };

    fn apply(value: f64, bound: f64, clamped: &mut bool) -> f64 {
        if value > bound {
            *clamped = true;
            bound
        } else if value < -bound {
            *clamped = true;
            -bound
        } else {
            value // NaN passes through: it must stay visible
        }
    }
}

impl Default for Clamp {
    fn default() -> Self {
        Self::SAFE
    }
}

/// How often a clamp changed a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClampReport {
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens whose log-ratio or value was clamped.
    pub clamped: u64,
    /// Tokens whose result is NaN (both log-probs −∞, or a NaN came in).
    pub not_finite: u64,
}

impl ClampReport {
    /// Share of tokens that were clamped, in 0..=1; 0 where there were none.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.clamped as f64 / self.tokens as f64 }
    }

    fn count(&mut self, value: NatsPerToken, clamped: bool) {
        self.tokens += 1;
        self.clamped += u64::from(clamped);
        self.not_finite += u64::from(value.0.is_nan());
    }

    /// Adds the counts of another report.
    pub fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.clamped += other.clamped;
        self.not_finite += other.not_finite;
    }
}

impl KlEstimator {
    /// The estimate for one token, with [`Clamp::SAFE`].
    #[must_use]
    pub fn per_token(self, logprob: f64, ref_logprob: f64) -> NatsPerToken {
        self.clamped(logprob, ref_logprob, Clamp::SAFE).0
    }

    /// The estimate for one token and whether the clamp changed it.
    #[must_use]
    pub fn clamped(self, logprob: f64, ref_logprob: f64, clamp: Clamp) -> (NatsPerToken, bool) {
        let mut clamped = false;
        let l = Clamp::apply(logprob - ref_logprob, clamp.log_ratio, &mut clamped);
        let value = match self {
            Self::K1 => l,
            Self::K2 => 0.5 * l * l,
            Self::K3 => k3(l),
            Self::Abs => l.abs(),
        };
        (NatsPerToken(Clamp::apply(value, clamp.value, &mut clamped)), clamped)
    }

    /// The estimates of a response's tokens, written over `out`.
    ///
    /// # Shapes
    /// `logprobs`, `ref_logprobs` and `out` hold one value per response token; none of an empty response.
    ///
    /// # Errors
    /// [`RowError::Tokens`] where their lengths differ: one of them has a token too many, usually the prompt's last or
    /// the one after the end. `out` is then untouched.
    pub fn tokens(
        self,
        logprobs: &[f32],
        ref_logprobs: &[f32],
        clamp: Clamp,
        out: &mut [NatsPerToken],
    ) -> Result<ClampReport, RowError> {
        one_each(logprobs, ref_logprobs, out.len())?;
        let mut report = ClampReport::default();
        for ((&lp, &rlp), slot) in logprobs.iter().zip(ref_logprobs).zip(out.iter_mut()) {
            let (value, clamped) = self.clamped(f64::from(lp), f64::from(rlp), clamp);
            *slot = value;
            report.count(value, clamped);
        }
        Ok(report)
    }

    /// The sum over a response's tokens, and the clamp report; 0 of an empty response.
    ///
    /// # Errors
    /// [`RowError::Tokens`] where the lengths differ, as in [`Self::tokens`].
    pub fn sequence(
        self,
        logprobs: &[f32],
        ref_logprobs: &[f32],
        clamp: Clamp,
    ) -> Result<(NatsPerSequence, ClampReport), RowError> {
        one_each(logprobs, ref_logprobs, logprobs.len())?;
        let mut report = ClampReport::default();
        let mut sum = 0.0;
        for (&lp, &rlp) in logprobs.iter().zip(ref_logprobs) {
            let (value, clamped) = self.clamped(f64::from(lp), f64::from(rlp), clamp);
            sum += value.0;
            report.count(value, clamped);
        }
        Ok((NatsPerSequence(sum), report))
    }
}

fn one_each(logprobs: &[f32], ref_logprobs: &[f32], out: usize) -> Result<(), RowError> {
    let (policy, reference) = (logprobs.len(), ref_logprobs.len());
    let same = policy == reference && policy == out;
    if same { Ok(()) } else { Err(RowError::Tokens { policy, reference, out }) }
}

/// e^(−l) − 1 + l without the cancellation that makes the plain form negative near zero.
fn k3(l: f64) -> f64 {
    if l.abs() < 1e-2 {
        // l²/2 − l³/6 + l⁴/24 − l⁵/120 + l⁶/720 − l⁷/5040; the next term is below 1e-16 of the first.
        let tail = 1.0 / 120.0 - l * (1.0 / 720.0 - l / 5040.0);
        l * l * (0.5 - l * (1.0 / 6.0 - l * (1.0 / 24.0 - l * tail)))
    } else {
        (-l).exp_m1() + l
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Exact expectations under a categorical: KL.md's golden vector, computed independently.
    const PI: [f64; 3] = [0.5, 0.3, 0.2];
    const REF: [f64; 3] = [0.2, 0.5, 0.3];

    fn moments(estimator: KlEstimator) -> (f64, f64) {
        let values: Vec<f64> =
            PI.iter().zip(REF).map(|(&p, r): (&f64, f64)| estimator.per_token(p.ln(), r.ln()).0).collect();
        let mean: f64 = PI.iter().zip(&values).map(|(p, v)| p * v).sum();
        let var: f64 = PI.iter().zip(&values).map(|(p, v)| p * (v - mean).powi(2)).sum();
        (mean, var.sqrt())
    }

    #[test]
    fn golden_vector_means_and_deviations() {
        for (estimator, mean, sd) in [
            (KlEstimator::K1, 0.223_804_657_2, 0.693_45),
            (KlEstimator::K2, 0.265_478_794_4, 0.155_22),
            (KlEstimator::K3, 0.223_804_657_2, 0.094_89),
        ] {
            let (m, s) = moments(estimator);
            assert!((m - mean).abs() < 1e-9, "{estimator:?} mean {m}");
            assert!((s - sd).abs() < 1e-5, "{estimator:?} sd {s}");
        }
    }

    #[test]
    fn k3_series_meets_the_closed_form_and_is_never_negative() {
        // Values of e^(-l) - 1 + l to 20 digits (Python: decimal, 40 digits).
        assert!((k3(1e-2) - 4.983_374_916_805_357e-5).abs() < 1e-18);
        assert!((k3(9.999e-3) - 4.982_379_949_682_782_5e-5).abs() < 1e-19);
        assert!(k3(1e-9) > 0.0 && k3(-1e-9) > 0.0);
        assert_eq!(k3(0.0), 0.0);
        assert!((k3(-2.0) - (2f64.exp() - 3.0)).abs() < 1e-14);
    }

    #[test]
    fn extreme_ratios_stay_finite_and_are_reported() {
        let lp = [-1.0f32, -1.0, -2000.0, f32::NEG_INFINITY];
        let rlp = [-1.5f32, -2000.0, -1.0, f32::NEG_INFINITY];
        let mut out = [NatsPerToken(0.0); 4];
        let report = KlEstimator::K3.tokens(&lp, &rlp, Clamp::SAFE, &mut out).unwrap();
        assert_eq!((report.tokens, report.clamped, report.not_finite), (4, 2, 1));
        assert!((report.fraction() - 0.5).abs() < 1e-12);
        assert!(out[..3].iter().all(|v| v.0.is_finite()));
        assert!(out[3].0.is_nan(), "nonsense must stay visible");
    }

    #[test]
    fn clamps_bite_on_both_sides_and_not_at_the_bound() {
        let of = |l: f64| KlEstimator::K1.clamped(l, 0.0, Clamp { log_ratio: 2.0, value: 1.0 });
        for (l, value, clamped) in [
            (3.0, 1.0, true),
            (-3.0, -1.0, true),
            (1.5, 1.0, true),
            (-1.5, -1.0, true),
            (1.0, 1.0, false),
            (-1.0, -1.0, false),
        ] {
            assert_eq!(of(l), (NatsPerToken(value), clamped), "{l}");
        }
        let k2 = KlEstimator::K2.clamped(-2.0, 0.0, Clamp { log_ratio: 2.0, value: 9.0 });
        assert_eq!(k2, (NatsPerToken(2.0), false), "at the bound nothing is changed");
    }

    #[test]
    fn reports_add_up() {
        let mut a = ClampReport { tokens: 3, clamped: 2, not_finite: 1 };
        a.merge(&ClampReport { tokens: 10, clamped: 4, not_finite: 5 });
        assert_eq!(a, ClampReport { tokens: 13, clamped: 6, not_finite: 6 });
    }

    #[test]
    fn a_sequence_is_the_sum_of_its_tokens() {
        let (sum, report) = KlEstimator::K1.sequence(&[-1.0, -2.0], &[-1.5, -1.0], Clamp::SAFE).unwrap();
        assert_eq!((sum, report.tokens, report.clamped), (NatsPerSequence(-0.5), 2, 0));
        assert_eq!(ClampReport::default().fraction(), 0.0);
        let (empty, report) = KlEstimator::K1.sequence(&[], &[], Clamp::SAFE).unwrap();
        assert_eq!((empty.0, report.tokens), (0.0, 0));
    }

    #[test]
    fn a_token_too_many_is_an_error_and_not_cut_off() {
        let of = |lp: &[f32], rlp: &[f32]| KlEstimator::K1.sequence(lp, rlp, Clamp::SAFE).unwrap_err();
        assert_eq!(of(&[-1.0, -2.0], &[-1.0]), RowError::Tokens { policy: 2, reference: 1, out: 2 });
        assert_eq!(of(&[], &[-1.0]), RowError::Tokens { policy: 0, reference: 1, out: 0 });
        assert!(of(&[-1.0], &[]).to_string().contains("1 log-probs of the policy, 0 of the reference"));
        let mut out = [NatsPerToken(7.0); 2];
        let short = KlEstimator::K1.tokens(&[-1.0], &[-2.0], Clamp::SAFE, &mut out);
        assert_eq!(short, Err(RowError::Tokens { policy: 1, reference: 1, out: 2 }));
        assert_eq!(out, [NatsPerToken(7.0); 2]);
    }
}
