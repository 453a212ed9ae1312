//! Where a KL estimator may stand, and what gradient it then has.
//!
//! An estimator that is unbiased for the *value* need not be for the *gradient*. With x ~ π (on-policy),
//! l = ln π(x) − ln ref(x), and the true gradient ∇KL(π‖ref) = E[l·∇ln π]:
//!
//! | estimator | in reward (detached) | in loss (differentiated) |
//! | --- | --- | --- |
//! | k1 | exact | E = 0: no penalty at all |
//! | k2 | biased, E[½l²∇ln π] | exact of a sequence's log-ratio; token by token, for the immediate token only |
//! | k3 | biased and weak, E[k3·∇ln π] | ∇KL(ref‖π): another divergence |
//! | abs | biased, E[\|l\|∇ln π] | ∇E\|l\| without its score term: biased |
//! | exact | the effect on later tokens only | exact for the immediate token only |
//!
//! The last row has two halves. KL(s_t) does not depend on the token sampled at t, so that as a reward it gives
//! E[KL(s_t)·∇ln π(a_t)] = 0 and moves earlier tokens alone; in the loss it is differentiated where it stands and moves
//! that token alone. Their sum, exact in the reward (γ = λ = 1) and exact in the loss, is the gradient of the sequence's
//! KL, with less variance than k1 in the reward.
//!
//! Monitoring takes any of them. Source: Liu et al. 2025 (arXiv 2510.01555), KL.md §1; the table is tested
//! on a distribution small enough to sum, and on a chain of two tokens. Any loss over tokens misses how early tokens
//! change later states, k2's as well: ½(Σ_t l_t)² has the whole gradient, Σ_t ½l_t² the immediate part. Without the sum
//! over a sequence the whole gradient needs reward-to-go, i.e. k1 in reward.

use crate::estimator::KlEstimator;
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// What is being placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PenaltyForm {
    /// k1.
    K1,
    /// k2.
    K2,
    /// k3.
    K3,
    /// Absolute log-ratio.
    Abs,
    /// Full-vocabulary KL.
    Exact,
}

impl fmt::Display for PenaltyForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::K1 => "k1",
            Self::K2 => "k2",
            Self::K3 => "k3",
            Self::Abs => "abs",
            Self::Exact => "exact",
        })
    }
}

impl From<KlEstimator> for PenaltyForm {
    fn from(estimator: KlEstimator) -> Self {
        match estimator {
            KlEstimator::K1 => Self::K1,
            KlEstimator::K2 => Self::K2,
            KlEstimator::K3 => Self::K3,
            KlEstimator::Abs => Self::Abs,
        }
    }
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Subtracted from the reward; no gradient flows through it.
    InReward,
    /// Added to the loss and differentiated.
    InLoss,
    /// Only shown.
    Monitor,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InReward => "in the reward",
            Self::InLoss => "in the loss",
            Self::Monitor => "to look at",
        })
    }
}

/// The expected gradient of a pair, on-policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedGradient {
    /// ∇KL(π‖ref): of a sequence, where k2 in the loss is that of the sequence's log-ratio. Summed token by token it
    /// is [`Self::ImmediateOnly`].
    Exact,
    /// ∇KL(π‖ref) of the immediate token; the effect on later tokens is missing.
    ImmediateOnly,
    /// The effect on later tokens; that of the immediate token is missing. Of a single step it is zero.
    FutureOnly,
    /// Zero.
    Zero,
    /// ∇KL(ref‖π).
    ForwardKl,
    /// Neither zero nor that of a divergence.
    Biased,
    /// No gradient is taken.
    None,
}

/// A pair that does not do what its name says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{form} {placement} is refused: {reason}; instead: {instead}")]
#[non_exhaustive]
pub struct PlacementError {
    /// The estimator.
    pub form: PenaltyForm,
    /// Where it was to stand.
    pub placement: Placement,
    /// Why not.
    pub reason: &'static str,
    /// What to use.
    pub instead: &'static str,
}

/// What to do with a pair whose gradient is not that of KL(π‖ref).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrongGradient {
    /// Refuse it.
    #[default]
    Refuse,
    /// Take it all the same, to reproduce a peer.
    Accept,
}

/// The expected on-policy gradient of a pair.
#[must_use]
pub fn expected_gradient(form: PenaltyForm, placement: Placement) -> ExpectedGradient {
    use PenaltyForm::{Abs, Exact, K1, K2, K3};
    match (placement, form) {
        (Placement::Monitor, _) => ExpectedGradient::None,
        (Placement::InReward, K1) | (Placement::InLoss, K2) => ExpectedGradient::Exact,
        (Placement::InLoss, Exact) => ExpectedGradient::ImmediateOnly,
        (Placement::InReward, Exact) => ExpectedGradient::FutureOnly,
        (Placement::InLoss, K1) => ExpectedGradient::Zero,
        (Placement::InLoss, K3) => ExpectedGradient::ForwardKl,
        (Placement::InReward, K2 | K3 | Abs) | (Placement::InLoss, Abs) => ExpectedGradient::Biased,
    }
}

/// Refuses the pairs whose gradient is zero, biased, of later tokens alone or another divergence's, unless the caller says
/// [`WrongGradient::Accept`]; returns the gradient that the pair has.
///
/// # Errors
/// [`PlacementError`] with the reason and the exact alternative.
pub fn check_placement(
    form: PenaltyForm,
    placement: Placement,
    wrong: WrongGradient,
) -> Result<ExpectedGradient, PlacementError> {
    let gradient = expected_gradient(form, placement);
    if wrong == WrongGradient::Accept {
        return Ok(gradient);
    }
    let refuse = |reason, instead| Err(PlacementError { form, placement, reason, instead });
    match (gradient, placement) {
        (ExpectedGradient::Exact | ExpectedGradient::ImmediateOnly | ExpectedGradient::None, _) => {
            Ok(gradient)
        }
        (ExpectedGradient::FutureOnly, _) => refuse(
            "it does not depend on the token sampled, so that only its effect on later tokens is left",
            "k1 in the reward, or both halves together: exact in the reward and exact in the loss (accept the first \
             explicitly)",
        ),
        (ExpectedGradient::Zero, _) => refuse(
            "its expected gradient is zero, so it is no penalty",
            "k2 in the loss, or k1 in the reward",
        ),
        (ExpectedGradient::ForwardKl, _) => refuse(
            "its expected gradient is that of KL(ref‖π), another divergence",
            "k2 in the loss (whose gradient is that of KL(π‖ref)), or k1 in the reward",
        ),
        (ExpectedGradient::Biased, Placement::InReward) => {
            refuse("its expected gradient is biased", "k1 in the reward")
        }
        (ExpectedGradient::Biased, _) => refuse("its expected gradient is biased", "k2 in the loss"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PI: [f64; 3] = [0.5, 0.3, 0.2];
    const REF: [f64; 3] = [0.2, 0.5, 0.3];

    fn softmax(z: [f64; 3]) -> [f64; 3] {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        z.map(|z| z.exp() / sum)
    }

    /// Logits of PI.
    fn logits() -> [f64; 3] {
        PI.map(f64::ln)
    }

    /// Expected gradient with respect to the logits, by central differences of `f`, whose sampling
    /// distribution is held at PI (in loss) or whose value is (in reward).
    fn gradient(f: impl Fn([f64; 3]) -> f64) -> [f64; 3] {
        let h = 1e-5;
        std::array::from_fn(|i| {
            let (mut up, mut down) = (logits(), logits());
            up[i] += h;
            down[i] -= h;
            (f(up) - f(down)) / (2.0 * h)
        })
    }

    fn in_loss(e: KlEstimator) -> [f64; 3] {
        gradient(|z| {
            let p = softmax(z);
            (0..3).map(|x| PI[x] * e.per_token(p[x].ln(), REF[x].ln()).0).sum()
        })
    }

    fn in_reward(e: KlEstimator) -> [f64; 3] {
        gradient(|z| {
            let p = softmax(z);
            (0..3).map(|x| p[x] * e.per_token(PI[x].ln(), REF[x].ln()).0).sum()
        })
    }

    /// KL(π‖ref) of the state as the reward of the token sampled in it.
    fn exact_in_reward() -> [f64; 3] {
        let kl: f64 = (0..3).map(|x| PI[x] * (PI[x] / REF[x]).ln()).sum();
        gradient(|z| softmax(z).iter().map(|p| p * kl).sum())
    }

    fn exact_in_loss() -> [f64; 3] {
        gradient(|z| {
            let p = softmax(z);
            (0..3).map(|x| p[x] * (p[x] / REF[x]).ln()).sum()
        })
    }

    fn close(a: [f64; 3], b: [f64; 3], tol: f64) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tol)
    }

    /// KL.md §1, computed independently there.
    #[test]
    fn the_gradient_table() {
        use KlEstimator::{K1, K2, K3};
        let truth = [0.346_243, -0.220_389, -0.125_854];
        for (gradient, golden) in [
            (in_reward(K1), truth),
            (in_loss(K1), [0.0; 3]),
            (in_loss(K2), truth),
            (in_loss(K3), [0.3, -0.2, -0.1]),
            (in_reward(K2), [0.0772, -0.0405, -0.0367]),
            (in_reward(K3), [0.0462, -0.0204, -0.0259]),
            // Of a single step: all of it is immediate.
            (exact_in_reward(), [0.0; 3]),
            (exact_in_loss(), truth),
        ] {
            let digits = if golden[0] == 0.0772 || golden[0] == 0.0462 { 6e-5 } else { 1e-6 };
            assert!(close(gradient, golden, digits), "{gradient:?} vs {golden:?}");
        }
        // k3 in loss is forward KL's gradient, π − ref in the logits.
        assert!(close(in_loss(K3), std::array::from_fn(|i| PI[i] - REF[i]), 1e-9));
    }

    /// Off-policy x ~ μ with w = π/μ: sg(w)·k2, w·k1 and w·k3 (gradient through w) agree with the truth.
    #[test]
    fn off_policy_corrections_agree_and_the_uncorrected_one_does_not() {
        use KlEstimator::{K1, K2, K3};
        let mu = [0.4, 0.4, 0.2];
        let truth = gradient(|z| {
            let p = softmax(z);
            (0..3).map(|x| p[x] * (p[x] / REF[x]).ln()).sum()
        });
        let weighted = |e: KlEstimator, through: bool| {
            gradient(|z| {
                let p = softmax(z);
                let w = |x: usize| if through { p[x] / mu[x] } else { PI[x] / mu[x] };
                (0..3).map(|x| mu[x] * w(x) * e.per_token(p[x].ln(), REF[x].ln()).0).sum()
            })
        };
        for gradient in [weighted(K2, false), weighted(K1, true), weighted(K3, true)] {
            assert!(close(gradient, truth, 1e-8), "{gradient:?} vs {truth:?}");
        }
        let unweighted = gradient(|z| {
            let p = softmax(z);
            (0..3).map(|x| mu[x] * K2.per_token(p[x].ln(), REF[x].ln()).0).sum()
        });
        assert!(!close(unweighted, truth, 1e-2));
    }

    #[test]
    fn the_table_says_what_the_gradients_do() {
        let truth = in_reward(KlEstimator::K1);
        let forward: [f64; 3] = std::array::from_fn(|i| PI[i] - REF[i]);
        for e in [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3, KlEstimator::Abs] {
            for (placement, gradient) in
                [(Placement::InLoss, in_loss(e)), (Placement::InReward, in_reward(e))]
            {
                let expected = match () {
                    () if close(gradient, truth, 1e-6) => ExpectedGradient::Exact,
                    () if close(gradient, [0.0; 3], 1e-6) => ExpectedGradient::Zero,
                    () if close(gradient, forward, 1e-6) => ExpectedGradient::ForwardKl,
                    () => ExpectedGradient::Biased,
                };
                assert_eq!(expected_gradient(e.into(), placement), expected, "{e:?} {placement:?}");
                let accepted = check_placement(e.into(), placement, WrongGradient::Refuse).is_ok();
                assert_eq!(accepted, expected == ExpectedGradient::Exact, "{e:?} {placement:?}");
            }
        }
    }

    #[test]
    fn refusals_name_the_alternative() {
        let check = |form, placement| check_placement(form, placement, WrongGradient::Refuse);
        let error = check(PenaltyForm::K1, Placement::InLoss).unwrap_err().to_string();
        assert!(error.contains("zero") && error.contains("k2 in the loss"), "{error}");
        let error = check(PenaltyForm::K3, Placement::InReward).unwrap_err().to_string();
        assert!(error.contains("k1 in the reward"), "{error}");
        let error = check(PenaltyForm::Abs, Placement::InLoss).unwrap_err().to_string();
        assert!(error.contains("k2 in the loss"), "{error}");
        for form in [PenaltyForm::K1, PenaltyForm::K2, PenaltyForm::K3, PenaltyForm::Abs, PenaltyForm::Exact]
        {
            assert_eq!(check(form, Placement::Monitor), Ok(ExpectedGradient::None));
        }
        assert_eq!(check(PenaltyForm::Exact, Placement::InLoss), Ok(ExpectedGradient::ImmediateOnly));
        let error = check(PenaltyForm::Exact, Placement::InReward).unwrap_err().to_string();
        assert!(error.contains("k1 in the reward") && error.contains("both halves"), "{error}");
        let accepted = check_placement(PenaltyForm::Exact, Placement::InReward, WrongGradient::Accept);
        assert_eq!(accepted, Ok(ExpectedGradient::FutureOnly));
        let accepted = check_placement(PenaltyForm::K1, Placement::InLoss, WrongGradient::Accept);
        assert_eq!(accepted, Ok(ExpectedGradient::Zero), "said explicitly, it is taken, and named");
    }
}
