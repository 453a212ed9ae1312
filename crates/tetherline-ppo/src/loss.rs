//! The PPO losses and their gradients in closed form, one row at a time.
//!
//! ```text
//! policy   Σ_t w_t · v_t · max(−A_t·ρ_t, −A_t·clip(ρ_t, 1 − ε, 1 + ε))      ρ_t = exp(log π_new − log π_old)
//! KL       Σ_t w_t · β · kl_t                                               where the recipe puts it in the loss
//! value    vf_coef · Σ_t u_t · ½·max((V_t − R_t)², (clip(V_t, V_old ± c) − R_t)²)
//! entropy  −entropy_coef · Σ_t w_t · H_t
//! ```
//!
//! (Schulman et al. 2017, eq. 7 and 9; the value clipping and its ½ are those of OpenAI's
//! lm-human-preferences.) With `dual_clip` c > 1 the policy loss of a token with A < 0 is at most −A·c
//! (Ye et al. 2020, eq. 5). The other surrogates and ratios are said at [`Surrogate`] and [`Ratio`], the KL terms at
//! [`KlLoss`]; v_t are the weights of `weights.rs`, 1 where there are none.
//!
//! log ρ is held to ±20 (verl, OpenRLHF): a token beyond that keeps the loss finite and gives no gradient. The log of a
//! sequence's ratio, which is a mean over tokens, is held to at most 10 (verl).
//!
//! w_t and u_t come from [`MinibatchTotals`]: they depend on how many tokens or rows the whole minibatch
//! has, so that adding up rows, in micro-batches of any size, gives the loss of the minibatch.
//!
//! Where two branches of a `max` are equal (every ratio inside the clip range) the gradient is that of
//! the unclipped branch, as in PyTorch, whose two half gradients agree there.

use crate::{Aggregation, KlLoss, LossSums, PpoConfig, PpoError, Ratio, Surrogate};
use tetherline_core::{Advantages, Ragged};

/// Bound on |log π_new − log π_old| in the surrogate, nats.
pub const MAX_LOG_RATIO: f64 = 20.0;

/// Upper bound on the log of a sequence's ratio, nats per token.
pub const MAX_LOG_SEQUENCE_RATIO: f64 = 10.0;

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
    /// The clipped branch is strictly the larger (of `cispo`: the ratio is outside the range).
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

/// −sg(clip ρ)·A·log π of one token, `logprob` = log π_new; `lower`: clip from below too.
pub fn cispo_surrogate(
    log_ratio: f64,
    logprob: f64,
    advantage: f64,
    clip: Clip,
    lower: bool,
) -> SurrogateTerm {
    let ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp();
    let low = if lower { 1.0 - clip.low } else { 0.0 };
    let held = ratio.clamp(low, 1.0 + clip.high);
    let grad = -held * advantage;
    SurrogateTerm { loss: grad * logprob, grad, ratio, clipped: held != ratio, dual_clipped: false }
}

/// The ratio that all tokens of a row share, as the log of it: their mean log-ratio, held to at most
/// [`MAX_LOG_SEQUENCE_RATIO`]; and whether that bound held it.
///
/// `log_ratios` are those of the tokens that count.
pub fn sequence_log_ratio(log_ratios: &[f64]) -> (f64, bool) {
    let mean = log_ratios.iter().sum::<f64>() / log_ratios.len().max(1) as f64;
    (mean.min(MAX_LOG_SEQUENCE_RATIO), mean > MAX_LOG_SEQUENCE_RATIO)
}

/// The geometric-mean surrogate of a row (GMPO): −Ā·exp(mean_t ln ρ_t), where a log-ratio beyond [−ε, ε_high] counts as
/// the bound where that lowers the objective, and then has no gradient.
///
/// One term per token that counts, each with the loss of the whole row: with weights 1/(N·n_i) they add up to it.
pub fn geometric_surrogate(log_ratios: &[f64], advantages: &[f64], clip: Clip) -> Vec<SurrogateTerm> {
    let n = log_ratios.len().max(1) as f64;
    let advantage = advantages.iter().sum::<f64>() / n;
    let bounded: Vec<f64> = log_ratios
        .iter()
        .zip(advantages)
        .map(|(&x, &a)| {
            let held = x.clamp(-clip.low, clip.high);
            if a > 0.0 {
                x.min(held)
            } else if a < 0.0 {
                x.max(held)
            } else {
                0.0
            }
        })
        .collect();
    let ratio = (bounded.iter().sum::<f64>() / n).min(MAX_LOG_RATIO).exp();
    let loss = -advantage * ratio;
    let of = |(&x, &b): (&f64, &f64)| {
        let clipped = x != b;
        SurrogateTerm { loss, grad: if clipped { 0.0 } else { loss }, ratio, clipped, dual_clipped: false }
    };
    log_ratios.iter().zip(&bounded).map(of).collect()
}

/// The KL penalty of one token in the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlTerm {
    /// The value, nats.
    pub loss: f64,
    /// d value / d log π_new.
    pub grad: f64,
}

/// The KL term of one token: `l` = log π_new − log π_ref, `log_ratio` = log π_new − log π_old, both nats.
///
/// l is held to ±20 before an exponential, and gives no gradient beyond.
pub fn kl_term(form: KlLoss, l: f64, log_ratio: f64) -> KlTerm {
    let held = l.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO);
    let inside = held == l;
    let k3 = (-held).exp_m1() + held;
    match form {
        KlLoss::Corrected => {
            let ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp();
            let inside = inside && log_ratio.abs() <= MAX_LOG_RATIO;
            // d(ρ·k3) = ρ·k3 + ρ·(1 − e^(−l)) = ρ·l.
            KlTerm { loss: ratio * k3, grad: if inside { ratio * l } else { 0.0 } }
        }
        KlLoss::K1 => KlTerm { loss: l, grad: 1.0 },
        KlLoss::K2 => KlTerm { loss: 0.5 * l * l, grad: l },
        KlLoss::K3 => KlTerm { loss: k3, grad: if inside { -(-held).exp_m1() } else { 0.0 } },
        KlLoss::Abs => KlTerm { loss: l.abs(), grad: if l == 0.0 { 0.0 } else { l.signum() } },
    }
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
        Aggregation::SeqMeanConstant(length) => inverse(rows) * inverse(length),
        Aggregation::SumConstant(length) => inverse(length),
    }
}

/// The numbers of one row that the policy loss is made of; one entry per response token.
#[derive(Clone, Copy, Debug, Default)]
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
    /// log π_ref, nats, and β, for a KL penalty in the loss.
    pub kl: Option<(&'a [f32], f64)>,
    /// Constant weights of the tokens (`weights.rs`); None: 1.
    pub weights: Option<&'a [f32]>,
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

/// Policy loss, entropy bonus and the KL penalty of one row.
///
/// Writes d loss / d log-prob and d loss / d entropy of **every** token (0 where not written) and adds to
/// `sums`. The KL penalty is there where the row has `kl` and the recipe puts it in the loss.
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
    same_length(n, "reference log-probs", row.kl.map_or(n, |(r, _)| r.len()))?;
    same_length(n, "the weights", row.weights.map_or(n, <[f32]>::len))?;
    same_length(n, "the log-prob gradient", d_logprobs.len())?;
    same_length(n, "the entropy gradient", d_entropy.len())?;
    d_logprobs.fill(0.0);
    d_entropy.fill(0.0);

    let counted: Vec<usize> = (0..n).filter(|&t| row.written.is_none_or(|w| w[t])).collect();
    let weight = totals.token_weight(config.aggregation, counted.len());
    let log_ratio = |t: usize| f64::from(row.logprobs[t]) - f64::from(row.old_logprobs[t]);
    let kl = row.kl.filter(|&(_, beta)| config.kl_in.loss() && beta != 0.0);
    for (term, &t) in surrogate_terms(row, &counted, config).iter().zip(&counted) {
        let factor = row.weights.map_or(1.0, |w| f64::from(w[t]));
        let entropy = f64::from(row.entropy[t]);
        let mut grad = factor * term.grad;
        let mut penalty = 0.0;
        if let Some((reference, beta)) = kl {
            let l = f64::from(row.logprobs[t]) - f64::from(reference[t]);
            let kl = kl_term(config.kl_loss, l, log_ratio(t));
            grad += beta * kl.grad;
            penalty = beta * kl.loss;
        }
        d_logprobs[t] = (weight * grad) as f32;
        d_entropy[t] = (-config.entropy_coef * weight) as f32;
        let finite = (factor * term.loss).is_finite() && penalty.is_finite();
        if !(finite && d_logprobs[t].is_finite() && entropy.is_finite()) {
            return Err(PpoError::NonFiniteLoss {
                what: "the policy loss",
                token: t,
                new: row.logprobs[t],
                old: row.old_logprobs[t],
            });
        }
        sums.add_policy(term, weight, factor, log_ratio(t), entropy);
        sums.kl_loss += weight * penalty;
    }
    Ok(())
}

/// One term per token of `counted`.
fn surrogate_terms(row: &PolicyRow<'_>, counted: &[usize], config: &PpoConfig) -> Vec<SurrogateTerm> {
    let clip = Clip::new(config);
    let ratios: Vec<f64> =
        counted.iter().map(|&t| f64::from(row.logprobs[t]) - f64::from(row.old_logprobs[t])).collect();
    let advantages: Vec<f64> = counted.iter().map(|&t| f64::from(row.advantages[t])).collect();
    let of_token = |(i, &t): (usize, &usize)| {
        let (x, a, logprob) = (ratios[i], advantages[i], f64::from(row.logprobs[t]));
        match config.surrogate {
            Surrogate::Clipped => clipped_surrogate(x, a, clip),
            Surrogate::Cispo => cispo_surrogate(x, logprob, a, clip, true),
            Surrogate::CispoUpper => cispo_surrogate(x, logprob, a, clip, false),
            Surrogate::Reinforce => SurrogateTerm {
                loss: -a * logprob,
                grad: -a,
                ratio: x.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(),
                clipped: false,
                dual_clipped: false,
            },
        }
    };
    match config.ratio {
        Ratio::Token => counted.iter().enumerate().map(of_token).collect(),
        Ratio::Sequence => {
            let (shared, held) = sequence_log_ratio(&ratios);
            let of = |&a: &f64| {
                let term = clipped_surrogate(shared, a, clip);
                SurrogateTerm { grad: if held { 0.0 } else { term.grad }, ..term }
            };
            advantages.iter().map(of).collect()
        }
        Ratio::GeometricMean => geometric_surrogate(&ratios, &advantages, clip),
    }
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
            ..PolicyRow::default()
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
            ..PolicyRow::default()
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
