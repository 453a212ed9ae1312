//! The PPO losses and their gradients in closed form, one row at a time.
//!
//! ```text
//! policy   Σ_t w_t · max(−A_t·ρ_t, −A_t·clip(ρ_t, 1 − ε, 1 + ε))        ρ_t = exp(log π_new − log π_old)
//! value    vf_coef · Σ_t u_t · ½·max((V_t − R_t)², (clip(V_t, V_old ± c) − R_t)²)
//! entropy  −entropy_coef · Σ_t w_t · H_t
//! ```
//!
//! (Schulman et al. 2017, eq. 7 and 9; the value clipping and its ½ are those of OpenAI's
//! lm-human-preferences.) With `dual_clip` c > 1 the policy loss of a token with A < 0 is at most −A·c
//! (Ye et al. 2020, eq. 5).
//!
//! log ρ is held to ±20 (verl, OpenRLHF): a token beyond that keeps the loss finite and gives no gradient.
//!
//! w_t and u_t come from [`MinibatchTotals`]: they depend on how many tokens or rows the whole minibatch
//! has, so that adding up rows, in micro-batches of any size, gives the loss of the minibatch.
//!
//! Where two branches of a `max` are equal (every ratio inside the clip range) the gradient is that of
//! the unclipped branch, as in PyTorch, whose two half gradients agree there.

use crate::{Aggregation, LossSums, PpoConfig, PpoError};
use tetherline_core::{Advantages, Ragged};

/// Bound on |log π_new − log π_old| in the surrogate, nats.
pub const MAX_LOG_RATIO: f64 = 20.0;

/// Clip range of the ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Lower bound is 1 − low.
    pub low: f64,
    /// Upper bound is 1 + high.
    pub high: f64,
    /// Bound on ratio × |A| / |A| for A < 0.
    pub dual: Option<f64>,
}

impl Clip {
    /// The clip range of a configuration.
    pub fn new(config: &PpoConfig) -> Self {
        let high = config.clip_range_high.unwrap_or(config.clip_range);
        Self { low: config.clip_range, high, dual: config.dual_clip }
    }
}

/// Policy loss of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SurrogateTerm {
    /// The loss.
    pub loss: f64,
    /// d loss / d log π_new.
    pub grad: f64,
    /// The importance ratio.
    pub ratio: f64,
    /// The clipped branch is strictly the larger.
    pub clipped: bool,
    /// The dual clip is active.
    pub dual_clipped: bool,
}

/// Clipped surrogate of one token; `log_ratio` = log π_new − log π_old, nats.
pub fn clipped_surrogate(log_ratio: f64, advantage: f64, clip: Clip) -> SurrogateTerm {
    let ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp();
    let held = log_ratio.abs() > MAX_LOG_RATIO;
    let plain = -advantage * ratio;
    let bounded = -advantage * ratio.clamp(1.0 - clip.low, 1.0 + clip.high);
    let clipped = bounded > plain;
    // d(−A·ρ)/d log π = −A·ρ: the gradient equals the loss.
    let (mut loss, mut grad) = if clipped { (bounded, 0.0) } else { (plain, plain) };
    if held {
        grad = 0.0;
    }
    let mut dual_clipped = false;
    if let Some(c) = clip.dual
        && advantage < 0.0
        && loss > -advantage * c
    {
        (loss, grad, dual_clipped) = (-advantage * c, 0.0, true);
    }
    SurrogateTerm { loss, grad, ratio, clipped, dual_clipped }
}

/// Value loss of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueTerm {
    /// The loss, with its ½ and without `vf_coef`.
    pub loss: f64,
    /// d loss / d value.
    pub grad: f64,
    /// The clipped branch is strictly the larger.
    pub clipped: bool,
}

/// Clipped squared error of one value; `range` None: no clipping.
pub fn clipped_value(value: f64, old: f64, target: f64, range: Option<f64>) -> ValueTerm {
    let error = value - target;
    let bounded = range.map_or(error, |c| value.clamp(old - c, old + c) - target);
    let clipped = bounded * bounded > error * error;
    if clipped {
        ValueTerm { loss: 0.5 * bounded * bounded, grad: 0.0, clipped }
    } else {
        ValueTerm { loss: 0.5 * error * error, grad: error, clipped }
    }
}

/// How much there is in a minibatch: what the token weights are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MinibatchTotals {
    /// Rows with at least one token that counts.
    pub rows: usize,
    /// Tokens the policy wrote.
    pub tokens: usize,
    /// Values that have a return: the tokens, and one more per row whose score sits after EOS.
    pub values: usize,
    /// Rows with at least one such value.
    pub value_rows: usize,
}

impl MinibatchTotals {
    /// Counts over the rows of one minibatch.
    pub fn of(advantages: &Advantages, written: Option<&Ragged<bool>>, rows: &[usize]) -> Self {
        let mut totals = Self::default();
        for &row in rows {
            let length = advantages.advantages.row_len(row);
            let tokens = written.map_or(length, |w| w.row(row).iter().filter(|&&x| x).count());
            let values = tokens + advantages.returns.row_len(row) - length;
            totals.tokens += tokens;
            totals.rows += usize::from(tokens > 0);
            totals.values += values;
            totals.value_rows += usize::from(values > 0);
        }
        totals
    }

    /// Weight w of each policy token in a row with `row_tokens` tokens that count.
    pub fn token_weight(&self, aggregation: Aggregation, row_tokens: usize) -> f64 {
        weight(aggregation, self.tokens, self.rows, row_tokens)
    }

    /// Weight u of each value in a row with `row_values` values that count.
    pub fn value_weight(&self, aggregation: Aggregation, row_values: usize) -> f64 {
        weight(aggregation, self.values, self.value_rows, row_values)
    }
}

fn weight(aggregation: Aggregation, all: usize, rows: usize, of_row: usize) -> f64 {
    let inverse = |n: usize| if n == 0 { 0.0 } else { 1.0 / n as f64 };
    match aggregation {
        Aggregation::TokenMean => inverse(all),
        Aggregation::SeqMeanTokenSum => inverse(rows),
        Aggregation::SeqMeanTokenMean => inverse(rows) * inverse(of_row),
    }
}

/// The numbers of one row that the policy loss is made of; one entry per response token.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRow<'a> {
    /// log π_new, nats.
    pub logprobs: &'a [f32],
    /// Entropy of the new distribution, nats.
    pub entropy: &'a [f32],
    /// log π_old, nats.
    pub old_logprobs: &'a [f32],
    /// Advantages.
    pub advantages: &'a [f32],
    /// Tokens the policy wrote; None: all.
    pub written: Option<&'a [bool]>,
}

/// The numbers of one row that the value loss is made of; one entry per return.
#[derive(Clone, Copy, Debug)]
pub struct ValueRow<'a> {
    /// New values.
    pub values: &'a [f32],
    /// Values at rollout time ([`crate::old_values_row`]).
    pub old_values: &'a [f32],
    /// Returns.
    pub returns: &'a [f32],
    /// Tokens the policy wrote; None: all. The place after EOS, beyond its end, always counts.
    pub written: Option<&'a [bool]>,
}

/// Policy loss and entropy bonus of one row.
///
/// Writes d loss / d log-prob and d loss / d entropy of **every** token (0 where not written) and adds to
/// `sums`.
///
/// # Errors
/// [`PpoError::Length`] when slices differ in length; [`PpoError::NonFiniteLoss`] when a loss or gradient
/// is not finite (in f32).
pub fn policy_loss_row(
    row: &PolicyRow<'_>,
    totals: &MinibatchTotals,
    config: &PpoConfig,
    d_logprobs: &mut [f32],
    d_entropy: &mut [f32],
    sums: &mut LossSums,
) -> Result<(), PpoError> {
    let n = row.logprobs.len();
    same_length(n, "entropy", row.entropy.len())?;
    same_length(n, "old log-probs", row.old_logprobs.len())?;
    same_length(n, "advantages", row.advantages.len())?;
    same_length(n, "the written mask", row.written.map_or(n, <[bool]>::len))?;
    same_length(n, "the log-prob gradient", d_logprobs.len())?;
    same_length(n, "the entropy gradient", d_entropy.len())?;
    d_logprobs.fill(0.0);
    d_entropy.fill(0.0);

    let counts = |t: usize| row.written.is_none_or(|w| w[t]);
    let weight = totals.token_weight(config.aggregation, (0..n).filter(|&t| counts(t)).count());
    let clip = Clip::new(config);
    for t in (0..n).filter(|&t| counts(t)) {
        let log_ratio = f64::from(row.logprobs[t]) - f64::from(row.old_logprobs[t]);
        let term = clipped_surrogate(log_ratio, f64::from(row.advantages[t]), clip);
        let entropy = f64::from(row.entropy[t]);
        d_logprobs[t] = (weight * term.grad) as f32;
        d_entropy[t] = (-config.entropy_coef * weight) as f32;
        if !(term.loss.is_finite() && d_logprobs[t].is_finite() && entropy.is_finite()) {
            return Err(PpoError::NonFiniteLoss {
                what: "the policy loss",
                token: t,
                new: row.logprobs[t],
                old: row.old_logprobs[t],
            });
        }
        sums.add_policy(&term, weight, log_ratio, entropy);
    }
    Ok(())
}

/// Value loss of one row, times `vf_coef`.
///
/// Writes d loss / d value of **every** entry (0 where not written) and adds to `sums`.
///
/// # Errors
/// As [`policy_loss_row`].
pub fn value_loss_row(
    row: &ValueRow<'_>,
    totals: &MinibatchTotals,
    config: &PpoConfig,
    d_values: &mut [f32],
    sums: &mut LossSums,
) -> Result<(), PpoError> {
    let n = row.values.len();
    same_length(n, "old values", row.old_values.len())?;
    same_length(n, "returns", row.returns.len())?;
    same_length(n, "the value gradient", d_values.len())?;
    d_values.fill(0.0);

    let counts = |t: usize| row.written.and_then(|w| w.get(t).copied()).unwrap_or(true);
    let weight = totals.value_weight(config.aggregation, (0..n).filter(|&t| counts(t)).count());
    for t in (0..n).filter(|&t| counts(t)) {
        let (value, old) = (f64::from(row.values[t]), f64::from(row.old_values[t]));
        let term = clipped_value(value, old, f64::from(row.returns[t]), config.value_clip_range);
        d_values[t] = (config.vf_coef * weight * term.grad) as f32;
        if !(term.loss.is_finite() && d_values[t].is_finite()) {
            return Err(PpoError::NonFiniteLoss {
                what: "the value loss",
                token: t,
                new: row.values[t],
                old: row.old_values[t],
            });
        }
        sums.add_value(&term, weight);
    }
    Ok(())
}

fn same_length(expected: usize, what: &'static str, got: usize) -> Result<(), PpoError> {
    if got == expected { Ok(()) } else { Err(PpoError::Length { what, got, expected, per: "token" }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIP: Clip = Clip { low: 0.2, high: 0.2, dual: Some(3.0) };

    #[test]
    fn the_four_corners_of_the_clip() {
        let term = |ratio: f64, a: f64| clipped_surrogate(ratio.ln(), a, CLIP);
        // A > 0: pushing the ratio above 1.2 earns nothing more; below 0.8 it still pulls back.
        let up = term(2.0, 1.0);
        assert!((up.loss + 1.2).abs() < 1e-12 && up.grad == 0.0 && up.clipped);
        let down = term(0.5, 1.0);
        assert!((down.loss + 0.5).abs() < 1e-12 && (down.grad + 0.5).abs() < 1e-12 && !down.clipped);
        // A < 0: the mirror image.
        let down = term(0.5, -1.0);
        assert!((down.loss - 0.8).abs() < 1e-12 && down.grad == 0.0 && down.clipped);
        let up = term(2.0, -1.0);
        assert!((up.loss - 2.0).abs() < 1e-12 && (up.grad - 2.0).abs() < 1e-12 && !up.clipped);
        // … until the dual clip.
        let far = term(5.0, -1.0);
        assert!((far.loss - 3.0).abs() < 1e-12 && far.grad == 0.0 && far.dual_clipped);
    }

    #[test]
    fn an_absurd_ratio_stays_finite_and_gives_no_gradient() {
        let far = clipped_surrogate(1000.0, -1.0, Clip { dual: None, ..CLIP });
        assert_eq!((far.loss, far.grad), (20f64.exp(), 0.0));
        let near = clipped_surrogate(19.0, -1.0, Clip { dual: None, ..CLIP });
        assert_eq!(near.grad, 19f64.exp());
        assert_eq!(clipped_surrogate(-1000.0, 1.0, CLIP).grad, 0.0);
    }

    #[test]
    fn a_nan_is_an_error_that_names_the_token() {
        let row = PolicyRow {
            logprobs: &[-1.0, f32::NAN],
            entropy: &[1.0; 2],
            old_logprobs: &[-1.0; 2],
            advantages: &[-1.0; 2],
            written: None,
        };
        let totals = MinibatchTotals { rows: 1, tokens: 2, values: 2, value_rows: 1 };
        let (mut a, mut b) = ([0.0; 2], [0.0; 2]);
        let mut sums = LossSums::default();
        let error = policy_loss_row(&row, &totals, &PpoConfig::default(), &mut a, &mut b, &mut sums);
        let text = error.unwrap_err().to_string();
        assert!(text.contains("policy loss at token 1"), "{text}");
        let row = ValueRow { values: &[f32::INFINITY], old_values: &[0.0], returns: &[0.0], written: None };
        let error = value_loss_row(
            &row,
            &totals,
            &PpoConfig { value_clip_range: None, ..PpoConfig::default() },
            &mut [0.0],
            &mut sums,
        );
        let text = error.unwrap_err().to_string();
        assert!(text.contains("value loss at token 0"), "{text}");
    }

    #[test]
    fn lengths_are_checked() {
        let row = PolicyRow {
            logprobs: &[0.0; 2],
            entropy: &[0.0; 2],
            old_logprobs: &[0.0],
            advantages: &[0.0; 2],
            written: None,
        };
        let (mut a, mut b) = ([0.0; 2], [0.0; 2]);
        let error = policy_loss_row(
            &row,
            &MinibatchTotals::default(),
            &PpoConfig::default(),
            &mut a,
            &mut b,
            &mut LossSums::default(),
        );
        assert!(error.unwrap_err().to_string().contains("old log-probs has 1 entries, expected 2"));
    }
}
