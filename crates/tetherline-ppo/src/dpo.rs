//! The `[dpo]` section of a recipe and its losses: preferences without a reward model or sampling.
//!
//! ```text
//! h = Σ_t (ln π(y_w) − ln π_ref(y_w)) − Σ_t (ln π(y_l) − ln π_ref(y_l))        y_w preferred to y_l
//! sigmoid   −(1 − ε)·ln σ(β·h) − ε·ln σ(−β·h)                                  Rafailov et al. 2023, eq. 7; ε: cDPO
//! ipo       (h̄ − 1/(2β))², h̄ as h with means over tokens                      TRL
//! ipo_sum   (h − 1/(2β))²                                                      Azar et al. 2023, eq. 17
//! ```
//!
//! TRL averages log-probs over the tokens of an answer for IPO, and after a talk with its authors calls that the paper's; the
//! equation itself sums. `ipo` is the average, since a gap of 1/(2β) in all does not depend on the length only per token.
//! Gradients are with respect to each token's ln π, in closed form.

use serde::{Deserialize, Serialize};
use std::fmt;
use tetherline_core::{FieldError, LrSchedule};

/// Which loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// The Bradley–Terry likelihood of the preference (DPO).
    #[default]
    Sigmoid,
    /// Squared distance of the mean log-ratio to 1/(2β) (IPO as in TRL).
    Ipo,
    /// Squared distance of the summed log-ratio to 1/(2β) (IPO as printed).
    IpoSum,
}

impl fmt::Display for DpoLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Direct preference optimisation. Defaults are TRL's, but for a rate that falls on a cosine as in the other stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// Which loss.
    pub loss: DpoLoss,
    /// β, the strength of the tether to the reference: per nat for `sigmoid`; half the inverse of the gap for `ipo`.
    pub beta: f64,
    /// Share ε of preferences that are taken to be wrong (`sigmoid` alone).
    pub label_smoothing: f64,
    /// Passes over the pairs.
    pub epochs: usize,
    /// Optimizer steps; None: as many as `epochs` need. Where both bind, the smaller wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Pairs per optimizer step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// How the learning rate falls.
    pub lr_schedule: LrSchedule,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradient norm at which gradients are scaled down; 0: never.
    pub max_grad_norm: f64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            loss: DpoLoss::Sigmoid,
            beta: 0.1,
            label_smoothing: 0.0,
            epochs: 1,
            steps: None,
            batch_size: 64,
            lr: 1e-6,
            lr_schedule: LrSchedule::Cosine,
            warmup_steps: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }
}

impl DpoConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        let need = |ok: bool, field: &str, value: &dyn std::fmt::Display, range: &str| {
            FieldError::require(ok, field, value, range)
        };
        let positive = |field: &str, x: f64| need(x.is_finite() && x > 0.0, field, &x, "a number above 0");
        positive("beta", self.beta)?;
        positive("lr", self.lr)?;
        let smoothing = self.label_smoothing;
        need((0.0..0.5).contains(&smoothing), "label_smoothing", &smoothing, "in [0, 0.5)")?;
        if smoothing > 0.0 && self.loss != DpoLoss::Sigmoid {
            let problem =
                format!("goes with loss = \"sigmoid\"; loss = \"{}\" has no likelihood to mix", self.loss);
            return Err(FieldError::new("label_smoothing", problem));
        }
        need(self.epochs > 0, "epochs", &self.epochs, "at least 1")?;
        need(self.steps != Some(0), "steps", &0, "at least 1")?;
        need(self.batch_size > 0, "batch_size", &self.batch_size, "at least 1")?;
        let decay = self.weight_decay;
        need(decay >= 0.0 && decay.is_finite(), "weight_decay", &decay, "0 or above")?;
        let norm = self.max_grad_norm;
        need(norm >= 0.0 && norm.is_finite(), "max_grad_norm", &norm, "0 (never) or above")
    }
}

/// Log-ratios of one answer: Σ_t ln π − ln π_ref, nats, and its tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnswerRatio {
    /// The sum.
    pub sum: f64,
    /// How many tokens.
    pub tokens: usize,
}

impl AnswerRatio {
    /// Of the log-probs of policy and reference, token by token.
    pub fn of(policy: &[f32], reference: &[f32]) -> Self {
        let sum = policy.iter().zip(reference).map(|(&p, &r)| f64::from(p) - f64::from(r)).sum();
        Self { sum, tokens: policy.len() }
    }
}

/// Loss of one pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpoTerm {
    /// The loss.
    pub loss: f64,
    /// d loss / d ln π of each token of the chosen answer.
    pub d_chosen: f64,
    /// d loss / d ln π of each token of the rejected answer.
    pub d_rejected: f64,
}

/// ln(1 + e^x) and its derivative σ(x), without overflow.
fn softplus(x: f64) -> (f64, f64) {
    let small = (-x.abs()).exp();
    (x.max(0.0) + small.ln_1p(), if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) })
}

/// Loss and gradient of one pair.
pub fn dpo_pair(chosen: AnswerRatio, rejected: AnswerRatio, config: &DpoConfig) -> DpoTerm {
    let beta = config.beta;
    let squared = |h: f64| (h - 0.5 / beta, (h - 0.5 / beta).powi(2));
    match config.loss {
        DpoLoss::Sigmoid => {
            let x = beta * (chosen.sum - rejected.sum);
            let e = config.label_smoothing;
            // −ln σ(x) = softplus(−x).
            let ((right, d_right), (wrong, d_wrong)) = (softplus(-x), softplus(x));
            let d = beta * (e * d_wrong - (1.0 - e) * d_right);
            DpoTerm { loss: (1.0 - e) * right + e * wrong, d_chosen: d, d_rejected: -d }
        }
        DpoLoss::Ipo => {
            let (n, m) = (chosen.tokens.max(1) as f64, rejected.tokens.max(1) as f64);
            let (off, loss) = squared(chosen.sum / n - rejected.sum / m);
            DpoTerm { loss, d_chosen: 2.0 * off / n, d_rejected: -2.0 * off / m }
        }
        DpoLoss::IpoSum => {
            let (off, loss) = squared(chosen.sum - rejected.sum);
            DpoTerm { loss, d_chosen: 2.0 * off, d_rejected: -2.0 * off }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(sum: f64, tokens: usize) -> AnswerRatio {
        AnswerRatio { sum, tokens }
    }

    fn config(loss: DpoLoss, beta: f64, label_smoothing: f64) -> DpoConfig {
        DpoConfig { loss, beta, label_smoothing, ..DpoConfig::default() }
    }

    /// At the reference h = 0: ln 2, a gradient of β/2 a token; IPO's (1/(2β))². Far off: βh and 0.
    #[test]
    fn values_that_are_known_in_closed_form() {
        let at = |c: &DpoConfig, h: f64| dpo_pair(ratio(h, 4), ratio(0.0, 2), c);
        let sigmoid = config(DpoLoss::Sigmoid, 0.1, 0.0);
        let term = at(&sigmoid, 0.0);
        assert!((term.loss - 2f64.ln()).abs() < 1e-15 && (term.d_chosen + 0.05).abs() < 1e-15, "{term:?}");
        assert_eq!(term.d_rejected, -term.d_chosen);
        // σ(ln 3) = 3/4.
        assert!((at(&sigmoid, 10.0 * 3f64.ln()).loss - (4f64 / 3.0).ln()).abs() < 1e-14);
        assert!((at(&sigmoid, -1e5).loss - 1e4).abs() < 1e-9 && at(&sigmoid, 1e5).loss == 0.0);
        // Half of the labels wrong would be symmetric; with a tenth, h = (1/β)·ln 9 is the optimum.
        let smooth = config(DpoLoss::Sigmoid, 0.1, 0.1);
        assert!(at(&smooth, 10.0 * 9f64.ln()).d_chosen.abs() < 1e-15);
        let sum = config(DpoLoss::IpoSum, 0.25, 0.0);
        assert_eq!((at(&sum, 2.0).loss, at(&sum, 0.0).loss, at(&sum, 0.0).d_chosen), (0.0, 4.0, -4.0));
        let mean = config(DpoLoss::Ipo, 0.25, 0.0);
        assert_eq!(
            (at(&mean, 8.0).loss, at(&mean, 0.0).d_chosen, at(&mean, 0.0).d_rejected),
            (0.0, -1.0, 2.0)
        );
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        let h = 1e-6;
        for c in [
            config(DpoLoss::Sigmoid, 0.3, 0.0),
            config(DpoLoss::Sigmoid, 0.3, 0.2),
            config(DpoLoss::Ipo, 0.2, 0.0),
            config(DpoLoss::IpoSum, 0.2, 0.0),
        ] {
            for (a, b) in [(0.3, -1.0), (-4.0, 2.0), (7.0, 7.5)] {
                let at = |a: f64, b: f64| dpo_pair(ratio(a, 3), ratio(b, 5), &c);
                let slope = |f: &dyn Fn(f64) -> f64| (f(h) - f(-h)) / (2.0 * h);
                let chosen = slope(&|d| at(a + d, b).loss);
                let rejected = slope(&|d| at(a, b + d).loss);
                let term = at(a, b);
                assert!(
                    (chosen - term.d_chosen).abs() < 1e-7 && (rejected - term.d_rejected).abs() < 1e-7,
                    "{c:?}"
                );
            }
        }
    }

    #[test]
    fn ranges_are_checked() {
        for (text, field) in [
            ("beta = 0.0", "beta"),
            ("lr = nan", "lr"),
            ("label_smoothing = 0.5", "label_smoothing"),
            ("loss = \"ipo\"\nlabel_smoothing = 0.1", "label_smoothing"),
            ("epochs = 0", "epochs"),
            ("steps = 0", "steps"),
            ("batch_size = 0", "batch_size"),
            ("weight_decay = -1.0", "weight_decay"),
            ("max_grad_norm = -1.0", "max_grad_norm"),
        ] {
            let c: DpoConfig = toml::from_str(text).unwrap();
            assert_eq!(c.validate().unwrap_err().field, field, "{text}");
        }
        DpoConfig::default().validate().unwrap();
    }
}
