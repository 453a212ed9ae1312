//! From a scored rollout to advantages and returns.
//!
//! Per row: KL (`shaping.rs`) → rewards (whitened over the batch if configured, mean kept) → GAE
//! (`gae.rs`); then the advantages of all rows are whitened together. The order is that of Huang et al.
//! 2024 and TRL. Only tokens the policy wrote take part in a mean.
//!
//! Without a critic ([`Advantage`]) rewards to go or scores less a baseline take the place of GAE; rows then come in groups
//! of `samples_per_prompt`, and no values are needed. Where the KL penalty stands in the loss, rewards have none.
//!
//! Lengths: `kl`, `advantages` one per response token; `rewards`, `returns` one more in a row whose
//! score sits after EOS (see [`ScoreAt`](crate::ScoreAt)).

use crate::group::{group_advantages, is_uniform, mean_and_std};
use crate::shaping::{kl_k1, score_slot, shape_row};
use crate::{Advantage, GroupKl, PpoConfig, PpoError, gae_row, whiten};
use std::borrow::Cow;
use tetherline_core::{Advantages, Ragged, Rollout, ScoredRollout, StopReason};
use tetherline_kl::KlEstimator;

/// Shapes with k1 and the KL coefficient of each row, then estimates advantages.
///
/// `beta_per_row` is in score units per nat.
///
/// # Errors
/// [`PpoError`] when row lengths differ, a number is not finite, or a value after EOS is missing.
pub fn advantages(
    scored: &ScoredRollout,
    beta_per_row: &[f64],
    config: &PpoConfig,
) -> Result<Advantages, PpoError> {
    let rollout = &scored.rollout;
    rollout.logprobs.check_same_rows("logprobs", &rollout.ref_logprobs, "ref_logprobs")?;
    check_tokens("log-prob", &rollout.logprobs)?;
    check_tokens("reference log-prob", &rollout.ref_logprobs)?;
    let penalty = |p: f32, r: f32| match config.kl_reward {
        KlEstimator::K1 => kl_k1(p, r),
        other => other.per_token(f64::from(p), f64::from(r)).0,
    };
    let kl = Ragged::from_rows((0..rollout.logprobs.len()).map(|row| {
        let written = rollout.written.as_ref().map(|w| w.row(row));
        let pairs = rollout.logprobs.row(row).iter().zip(rollout.ref_logprobs.row(row)).enumerate();
        pairs
            .map(
                move |(t, (&p, &r))| {
                    if written.is_none_or(|w| w.get(t) == Some(&true)) { penalty(p, r) } else { 0.0 }
                },
            )
            .collect::<Vec<f64>>()
    }));
    advantages_with_kl(scored, &kl, beta_per_row, config)
}

/// Same, with a KL term per token (nats) of the caller's choosing in the reward.
///
/// `kl` becomes `Advantages::kl`. Anything but k1 here changes what the penalty's gradient is: see
/// `shaping.rs`.
///
/// # Errors
/// As [`advantages`].
pub fn advantages_with_kl(
    scored: &ScoredRollout,
    kl: &Ragged<f64>,
    beta_per_row: &[f64],
    config: &PpoConfig,
) -> Result<Advantages, PpoError> {
    let rollout = &scored.rollout;
    let rows = rollout.responses.len();
    check_rollout(scored, kl, beta_per_row, config)?;
    // What the reward pays.
    let beta = |row: usize| if config.kl_in.reward() { beta_per_row[row] } else { 0.0 };
    let counted = counted(rollout, config);
    let estimates = match config.advantages {
        Advantage::Gae => with_critic(scored, kl, &beta, counted.as_ref(), config)?,
        _ => without_critic(scored, kl, &beta, config)?,
    };
    let Estimates { rewards, mut advantages, returns } = estimates;
    if config.whitens() {
        let masks: Vec<Option<Vec<bool>>> =
            (0..rows).map(|row| counted.as_ref().map(|c| c.row(row).to_vec())).collect();
        whiten_where(&mut advantages, &masks, config, false)?;
    }
    let narrow = |rows: &[Vec<f64>]| Ragged::from_rows(rows.iter().map(|r| r.iter().map(|&x| x as f32)));
    Ok(Advantages {
        kl: kl.map(|&x| x as f32),
        rewards: narrow(&rewards),
        advantages: narrow(&advantages),
        returns: narrow(&returns),
        kl_coef: beta_per_row.to_vec(),
        counted,
        weights: None,
    })
}

/// Advantages under a constraint on costs (PPO-Lagrangian; Dai et al. 2023, Safe-RLHF): (A_R − λ·A_C)/(1 + λ), whitened
/// together if configured. Returns them with the returns of the rewards, and those of the costs.
///
/// `costs` is the same rollout with costs for scores and the values of the cost critic. The KL penalty counts against both,
/// in the reward as −β·k1 and in the cost as +β·k1, so that it stays β whatever λ is.
///
/// # Errors
/// As [`advantages`], of either.
pub fn constrained_advantages(
    scored: &ScoredRollout,
    costs: &ScoredRollout,
    beta_per_row: &[f64],
    lambda: f64,
    config: &PpoConfig,
) -> Result<(Advantages, Advantages), PpoError> {
    let raw = PpoConfig { whiten_advantages: Some(false), ..config.clone() };
    let mut of_rewards = advantages(scored, beta_per_row, &raw)?;
    let against: Vec<f64> = beta_per_row.iter().map(|beta| -beta).collect();
    let of_costs = advantages(costs, &against, &raw)?;
    let both = of_rewards
        .advantages
        .zip_map(&of_costs.advantages, |&r, &c| (f64::from(r) - lambda * f64::from(c)) / (1.0 + lambda))?;
    let mut rows: Vec<Vec<f64>> = both.rows().map(<[f64]>::to_vec).collect();
    if config.whitens() {
        let counted = of_rewards.counted.as_ref();
        let masks: Vec<Option<Vec<bool>>> =
            (0..rows.len()).map(|row| counted.map(|c| c.row(row).to_vec())).collect();
        whiten_where(&mut rows, &masks, config, false)?;
    }
    of_rewards.advantages = Ragged::from_rows(rows.iter().map(|r| r.iter().map(|&x| x as f32)));
    Ok((of_rewards, of_costs))
}

/// Rows of per-token numbers, before whitening.
struct Estimates {
    rewards: Vec<Vec<f64>>,
    advantages: Vec<Vec<f64>>,
    returns: Vec<Vec<f64>>,
}

/// Tokens that enter the losses; None: all.
fn counted(rollout: &Rollout, config: &PpoConfig) -> Option<Ragged<bool>> {
    if !config.mask_truncated {
        return rollout.written.clone();
    }
    Some(Ragged::from_rows((0..rollout.responses.len()).map(|row| {
        let takes_part = rollout.stop[row] != StopReason::Length;
        let written = rollout.written.as_ref().map(|w| w.row(row));
        (0..rollout.responses.row_len(row)).map(move |t| takes_part && written.is_none_or(|w| w[t]))
    })))
}

/// GAE over the values of the rollout.
fn with_critic(
    scored: &ScoredRollout,
    kl: &Ragged<f64>,
    beta: &dyn Fn(usize) -> f64,
    counted: Option<&Ragged<bool>>,
    config: &PpoConfig,
) -> Result<Estimates, PpoError> {
    let rollout = &scored.rollout;
    let rows = rollout.responses.len();
    let mut rewards = Vec::with_capacity(rows);
    let mut values = Vec::with_capacity(rows);
    let mut written: Vec<Option<Vec<bool>>> = Vec::with_capacity(rows);
    let mut in_mean: Vec<Option<Vec<bool>>> = Vec::with_capacity(rows);
    for row in 0..rows {
        let slot = score_slot(rollout.stop[row], config.score_at);
        let mask = rollout.written.as_ref().map(|w| w.row(row));
        let mut row_values: Vec<f64> = rollout.values.row(row).iter().map(|&v| f64::from(v)).collect();
        if slot {
            let after = rollout.bootstrap_values.as_ref().ok_or(PpoError::MissingBootstrap)?[row];
            if !after.is_finite() {
                let value = f64::from(after);
                return Err(PpoError::NonFiniteRow { what: "value after EOS", row, value });
            }
            row_values.push(f64::from(after));
        }
        let score = f64::from(scored.scores[row]);
        rewards.push(shape_row(kl.row(row), mask, beta(row), score, slot));
        values.push(row_values);
        let with_slot = |w: &[bool]| w.iter().copied().chain(slot.then_some(true)).collect::<Vec<bool>>();
        written.push(mask.map(with_slot));
        in_mean.push(counted.map(|c| with_slot(c.row(row))));
    }
    if config.whiten_rewards {
        whiten_where(&mut rewards, &in_mean, config, true)?;
    }
    let (mut advantages, returns): (Vec<_>, Vec<_>) = (0..rows)
        .map(|i| gae_row(&rewards[i], &values[i], written[i].as_deref(), config.gamma, config.lam))
        .unzip();
    for (row, of_row) in advantages.iter_mut().enumerate() {
        of_row.truncate(rollout.responses.row_len(row));
    }
    Ok(Estimates { rewards, advantages, returns })
}

/// Rewards to go, less the baseline of the estimator; `returns` are the rewards to go.
fn without_critic(
    scored: &ScoredRollout,
    kl: &Ragged<f64>,
    beta: &dyn Fn(usize) -> f64,
    config: &PpoConfig,
) -> Result<Estimates, PpoError> {
    let rollout = &scored.rollout;
    let rows = rollout.responses.len();
    let mask = |row: usize| rollout.written.as_ref().map(|w| w.row(row));
    // Discounted sums of what is still to come: GAE with λ = 1 and values of 0.
    let to_go = |row: usize, rewards: &[f64]| {
        gae_row(rewards, &vec![0.0; rewards.len()], mask(row), config.gamma, 1.0).1
    };
    let score = |row: usize| f64::from(scored.scores[row]);
    let rewards: Vec<Vec<f64>> =
        (0..rows).map(|i| shape_row(kl.row(i), mask(i), beta(i), score(i), false)).collect();
    let returns: Vec<Vec<f64>> = rewards.iter().enumerate().map(|(i, r)| to_go(i, r)).collect();
    let less = |row: usize, of: &[f64], baseline: f64| -> Vec<f64> {
        let counts = |t: usize| mask(row).is_none_or(|w| w[t]);
        of.iter().enumerate().map(|(t, &x)| if counts(t) { x - baseline } else { 0.0 }).collect()
    };
    let advantages = match config.advantages {
        Advantage::Gae | Advantage::ReinforcePlusPlus => returns.clone(),
        Advantage::Remax => {
            let baselines = scored.baselines.as_ref().ok_or(PpoError::MissingBaseline)?;
            let (got, expected) = (baselines.len(), rows);
            if got != expected {
                return Err(PpoError::Length { what: "the greedy scores", got, expected, per: "response" });
            }
            (0..rows).map(|i| less(i, &returns[i], f64::from(baselines[i]))).collect()
        }
        kind => {
            let scores: Vec<f64> = match config.group_kl {
                GroupKl::ToGo => (0..rows).map(score).collect(),
                GroupKl::InScore => (0..rows)
                    .map(|i| {
                        score(i) + shape_row(kl.row(i), mask(i), beta(i), 0.0, false).iter().sum::<f64>()
                    })
                    .collect(),
            };
            let of_rows = of_groups(kind, &scores, scored, config)?;
            (0..rows)
                .map(|i| match config.group_kl {
                    GroupKl::ToGo => {
                        let penalty = shape_row(kl.row(i), mask(i), beta(i), 0.0, false);
                        less(i, &to_go(i, &penalty), -of_rows[i])
                    }
                    GroupKl::InScore => less(i, &vec![0.0; kl.row_len(i)], -of_rows[i]),
                })
                .collect()
        }
    };
    Ok(Estimates { rewards, advantages, returns })
}

/// Advantages of the responses, `samples_per_prompt` in a row being those to one prompt.
fn of_groups(
    kind: Advantage,
    scores: &[f64],
    scored: &ScoredRollout,
    config: &PpoConfig,
) -> Result<Vec<f64>, PpoError> {
    let (rows, size) = (scores.len(), config.samples_per_prompt);
    if !rows.is_multiple_of(size) {
        return Err(PpoError::Groups { rows, size });
    }
    let rollout = &scored.rollout;
    let length = |row: usize| match &rollout.written {
        Some(w) => w.row(row).iter().filter(|&&w| w).count(),
        None => rollout.responses.row_len(row),
    };
    let lengths: Vec<usize> = (0..rows).map(length).collect();
    let mut out = Vec::with_capacity(rows);
    for (scores, lengths) in scores.chunks(size).zip(lengths.chunks(size)) {
        out.extend(group_advantages(kind, scores, lengths)?);
    }
    Ok(out)
}

/// How the scores of the groups of a rollout spread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupSpread {
    /// Groups.
    pub groups: usize,
    /// Groups whose scores are all alike: they teach nothing.
    pub uniform: usize,
    /// Mean over groups of the standard deviation of scores (n − 1), score units.
    pub std: f64,
}

impl GroupSpread {
    /// Of `scores`, `size` in a row being a group. A rest that is no whole group is left out.
    pub fn of(scores: &[f32], size: usize) -> Self {
        let mut out = Self::default();
        for group in scores.chunks_exact(size.max(1)) {
            let group: Vec<f64> = group.iter().map(|&s| f64::from(s)).collect();
            out.groups += 1;
            out.uniform += usize::from(is_uniform(&group));
            out.std += mean_and_std(&group).1;
        }
        out.std /= out.groups.max(1) as f64;
        out
    }
}

/// The values a row's returns are measured against: one per response token, and the value after EOS
/// where the row has `returns` one longer than that.
///
/// # Panics
/// If `returns` is longer and the rollout has no `bootstrap_values`.
pub fn old_values_row<'a>(rollout: &'a Rollout, advantages: &Advantages, row: usize) -> Cow<'a, [f32]> {
    let values = rollout.values.row(row);
    match (advantages.returns.row_len(row) > values.len(), &rollout.bootstrap_values) {
        (true, Some(after)) => Cow::Owned(values.iter().copied().chain([after[row]]).collect()),
        (true, None) => panic!("row {row} has a return after EOS but the rollout has no value there"),
        (false, _) => Cow::Borrowed(values),
    }
}

fn whiten_where(
    rows: &mut [Vec<f64>],
    written: &[Option<Vec<bool>>],
    config: &PpoConfig,
    keep_mean: bool,
) -> Result<(), PpoError> {
    let counts = |row: usize, t: usize| written[row].as_ref().is_none_or(|w: &Vec<bool>| w[t]);
    let mut flat = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        flat.extend(row.iter().enumerate().filter(|&(t, _)| counts(i, t)).map(|(_, &x)| x));
    }
    whiten(&mut flat, config.whiten_variance, keep_mean)?;
    let mut whitened = flat.into_iter();
    for (i, row) in rows.iter_mut().enumerate() {
        for (t, x) in row.iter_mut().enumerate() {
            if counts(i, t) {
                *x = whitened.next().unwrap_or(*x);
            }
        }
    }
    Ok(())
}

fn check_rollout(
    scored: &ScoredRollout,
    kl: &Ragged<f64>,
    beta: &[f64],
    config: &PpoConfig,
) -> Result<(), PpoError> {
    let rollout = &scored.rollout;
    let responses = &rollout.responses;
    let rows = responses.len();
    responses.check_same_rows("responses", kl, "kl")?;
    if config.advantages.needs_critic() {
        responses.check_same_rows("responses", &rollout.values, "values")?;
        check_tokens("value", &rollout.values)?;
    }
    if let Some(written) = &rollout.written {
        responses.check_same_rows("responses", written, "written")?;
    }
    let after = rollout.bootstrap_values.as_ref().map_or(rows, Vec::len);
    for (what, got) in [
        ("stop", rollout.stop.len()),
        ("scores", scored.scores.len()),
        ("the KL coefficient", beta.len()),
        ("bootstrap_values", after),
    ] {
        if got != rows {
            return Err(PpoError::Length { what, got, expected: rows, per: "response" });
        }
    }
    check_tokens("KL", kl)?;
    let scores = scored.scores.iter().map(|&x| f64::from(x)).enumerate();
    for (what, row, value) in scores
        .map(|(row, x)| ("score", row, x))
        .chain(beta.iter().enumerate().map(|(row, &x)| ("KL coefficient", row, x)))
    {
        if !value.is_finite() {
            return Err(PpoError::NonFiniteRow { what, row, value });
        }
    }
    Ok(())
}

fn check_tokens<T: Copy + Into<f64>>(what: &'static str, tokens: &Ragged<T>) -> Result<(), PpoError> {
    for (row, values) in tokens.rows().enumerate() {
        for (token, &x) in values.iter().enumerate() {
            let value: f64 = x.into();
            if !value.is_finite() {
                return Err(PpoError::NonFiniteToken { what, row, token, value });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScoreAt;
    use tetherline_core::StopReason;

    fn scored() -> ScoredRollout {
        let rollout = Rollout {
            responses: Ragged::from_rows([vec![1, 2, 3], vec![4, 5]]),
            stop: vec![StopReason::Eos, StopReason::Length],
            logprobs: Ragged::from_rows([vec![-1.0, -2.0, -3.0], vec![-0.5, -0.25]]),
            ref_logprobs: Ragged::from_rows([vec![-1.5, -2.0, -2.0], vec![-0.5, -1.25]]),
            values: Ragged::from_rows([vec![0.5, 0.4, 0.3], vec![0.0, 0.0]]),
            ..Rollout::default()
        };
        ScoredRollout {
            rollout,
            raw_scores: vec![1.0, 2.0],
            scores: vec![1.0, 2.0],
            parts: vec![],
            penalized: vec![false; 2],
            baselines: None,
        }
    }

    fn raw() -> PpoConfig {
        PpoConfig { whiten_advantages: Some(false), ..PpoConfig::default() }
    }

    #[test]
    fn each_row_is_shaped_with_its_own_coefficient() {
        let a = advantages(&scored(), &[0.0, 0.5], &raw()).unwrap();
        assert_eq!(a.kl, Ragged::from_rows([vec![0.5, 0.0, -1.0], vec![0.0, 1.0]]));
        assert_eq!(a.rewards, Ragged::from_rows([vec![0.0, 0.0, 1.0], vec![0.0, 1.5]]));
        for (got, want) in a.advantages.row(0).iter().zip([0.43675, 0.565, 0.7]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
        assert_eq!(a.advantages.row(1), [1.425, 1.5]);
        assert_eq!(a.kl_coef, [0.0, 0.5]);
    }

    #[test]
    fn whitened_advantages_have_mean_zero_over_the_batch() {
        let a = advantages(&scored(), &[0.1, 0.1], &PpoConfig::default()).unwrap();
        let sum: f32 = a.advantages.flat().iter().sum();
        let squares: f32 = a.advantages.flat().iter().map(|x| x * x).sum();
        assert!(sum.abs() < 1e-5 && (squares / 4.0 - 1.0).abs() < 1e-5, "{sum} {squares}");
    }

    #[test]
    fn unwritten_tokens_are_left_out_of_every_mean() {
        let mut with = scored();
        with.rollout.written = Some(Ragged::from_rows([vec![true, false, true], vec![true, true]]));
        with.rollout.values.row_mut(0)[1] = 1e6;
        with.rollout.ref_logprobs.row_mut(0)[1] = 1e6;
        let mut without = scored();
        without.rollout.responses = Ragged::from_rows([vec![1, 3], vec![4, 5]]);
        without.rollout.logprobs = Ragged::from_rows([vec![-1.0, -3.0], vec![-0.5, -0.25]]);
        without.rollout.ref_logprobs = Ragged::from_rows([vec![-1.5, -2.0], vec![-0.5, -1.25]]);
        without.rollout.values = Ragged::from_rows([vec![0.5, 0.3], vec![0.0, 0.0]]);
        let config = PpoConfig { whiten_rewards: true, ..PpoConfig::default() };
        let a = advantages(&with, &[0.1, 0.1], &config).unwrap();
        let b = advantages(&without, &[0.1, 0.1], &config).unwrap();
        assert_eq!(a.advantages.row(0), [b.advantages.row(0)[0], 0.0, b.advantages.row(0)[1]]);
        assert_eq!(a.advantages.row(1), b.advantages.row(1));
        assert_eq!(a.returns.row(1), b.returns.row(1));
        assert_eq!(a.kl.row(0)[1], 0.0);
    }

    fn without_critic(advantages: Advantage) -> PpoConfig {
        PpoConfig {
            advantages,
            samples_per_prompt: 2,
            batch_size: 2,
            whiten_advantages: Some(false),
            ..raw()
        }
    }

    /// Scores 1 and 2: ∓0.5 around the mean. k1 is 0.5, 0, −1 and 0, 1; a token pays for what is still to come.
    #[test]
    fn a_token_pays_for_the_kl_to_come_or_the_response_for_all_of_it() {
        let mut s = scored();
        s.rollout.values = Ragged::new();
        let config = without_critic(Advantage::GroupMean);
        let a = advantages(&s, &[0.1, 0.1], &config).unwrap();
        let close = |a: &Ragged<f32>, b: [&[f32]; 2]| {
            let want: Vec<f32> = b.concat();
            assert!(a.flat().iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {want:?}");
        };
        close(&a.advantages, [&[-0.5 + 0.05, -0.5 + 0.1, -0.5 + 0.1], &[0.5 - 0.1, 0.5 - 0.1]]);
        // In the score: 1 + 0.05 and 2 − 0.1, so ∓0.425.
        let a =
            advantages(&s, &[0.1, 0.1], &PpoConfig { group_kl: GroupKl::InScore, ..config.clone() }).unwrap();
        close(&a.advantages, [&[-0.425; 3], &[0.425; 2]]);
        // In the loss: scores alone, and β is still told.
        let config = PpoConfig { kl_in: crate::KlIn::Loss, ..config };
        let a = advantages(&s, &[0.1, 0.1], &config).unwrap();
        close(&a.advantages, [&[-0.5; 3], &[0.5; 2]]);
        assert_eq!((a.kl_coef, a.kl.row(1)[1]), (vec![0.1, 0.1], 1.0));
        assert!(matches!(
            advantages(&s, &[0.1, 0.1], &without_critic(Advantage::Remax)),
            Err(PpoError::MissingBaseline)
        ));
        let odd = PpoConfig { samples_per_prompt: 3, ..config };
        assert!(matches!(advantages(&s, &[0.1, 0.1], &odd), Err(PpoError::Groups { rows: 2, size: 3 })));
    }

    /// GAE is linear: the combination is GAE of (S − λ·C)/(1 + λ) − β·k1 over (V_R − λ·V_C)/(1 + λ).
    #[test]
    fn constrained_advantages_are_those_of_the_combined_reward() {
        let rewards = scored();
        let mut costs = scored();
        costs.scores = vec![-2.0, 5.0];
        costs.rollout.values = Ragged::from_rows([vec![1.0, -0.5, 0.25], vec![2.0, 3.0]]);
        for lambda in [0.0, 0.5, 4.0] {
            let mix = |r: f32, c: f32| (r - lambda as f32 * c) / (1.0 + lambda as f32);
            let mut both = scored();
            both.scores = vec![mix(1.0, -2.0), mix(2.0, 5.0)];
            both.rollout.values =
                rewards.rollout.values.zip_map(&costs.rollout.values, |&r, &c| mix(r, c)).unwrap();
            let beta = [0.3, 0.2];
            for config in [raw(), PpoConfig::default()] {
                let (a, of_costs) = constrained_advantages(&rewards, &costs, &beta, lambda, &config).unwrap();
                let want = advantages(&both, &beta, &config).unwrap();
                for (a, b) in a.advantages.flat().iter().zip(want.advantages.flat()) {
                    assert!((a - b).abs() < 1e-5, "{lambda}: {a} {b}");
                }
                assert_eq!(a.returns, advantages(&rewards, &beta, &raw()).unwrap().returns);
                assert_eq!(of_costs.rewards.row(1), [0.0, 5.0 + 0.2]);
            }
        }
    }

    #[test]
    fn responses_that_were_cut_off_count_nowhere_when_masked() {
        let mut s = scored();
        s.rollout.written = Some(Ragged::from_rows([vec![true, false, true], vec![true, true]]));
        let config = PpoConfig { mask_truncated: true, ..PpoConfig::default() };
        let a = advantages(&s, &[0.0, 0.0], &config).unwrap();
        assert_eq!(a.counted, Some(Ragged::from_rows([vec![true, false, true], vec![false, false]])));
        // Whitened over the two tokens that are left: ±1/√2.
        let row = a.advantages.row(0);
        assert!((row[0] + row[2]).abs() < 1e-6 && (row[0].abs() - 0.5f32.sqrt()).abs() < 1e-4, "{row:?}");
        let totals = crate::MinibatchTotals::of(&a, a.counted.as_ref(), &[0, 1]);
        assert_eq!((totals.rows, totals.tokens, totals.values), (1, 2, 2));
    }

    #[test]
    fn groups_are_counted_by_how_they_spread() {
        let spread = GroupSpread::of(&[1.0, 1.0, 1.0, 3.0, 9.0], 2);
        assert_eq!(spread, GroupSpread { groups: 2, uniform: 1, std: 2f64.sqrt() / 2.0 });
    }

    #[test]
    fn the_place_after_eos_needs_a_value() {
        let config = PpoConfig { score_at: ScoreAt::AfterEos, ..raw() };
        let error = advantages(&scored(), &[0.0, 0.0], &config).unwrap_err();
        assert!(matches!(error, PpoError::MissingBootstrap), "{error}");
        let mut s = scored();
        s.rollout.bootstrap_values = Some(vec![0.25, f32::NAN]);
        let a = advantages(&s, &[0.0, 0.0], &config).unwrap();
        assert_eq!(a.rewards, Ragged::from_rows([vec![0.0, 0.0, 0.0, 1.0], vec![0.0, 2.0]]));
        assert_eq!((a.returns.row_len(0), a.advantages.row_len(0), a.returns.row_len(1)), (4, 3, 2));
        assert_eq!(old_values_row(&s.rollout, &a, 0).as_ref(), [0.5, 0.4, 0.3, 0.25]);
        assert_eq!(old_values_row(&s.rollout, &a, 1).as_ref(), [0.0, 0.0]);
    }

    #[test]
    fn bad_numbers_are_named() {
        let mut s = scored();
        s.rollout.values.row_mut(1)[1] = f32::INFINITY;
        let error = advantages(&s, &[0.0; 2], &raw()).unwrap_err().to_string();
        assert!(error.contains("value of row 1, token 1"), "{error}");
        let mut s = scored();
        s.scores[0] = f32::NAN;
        assert!(advantages(&s, &[0.0; 2], &raw()).unwrap_err().to_string().contains("score of row 0"));
        let error = advantages(&scored(), &[0.0], &raw()).unwrap_err().to_string();
        assert!(error.contains("1 entries, expected 2"), "{error}");
        let mut s = scored();
        s.rollout.ref_logprobs = Ragged::new();
        assert!(matches!(advantages(&s, &[0.0; 2], &raw()), Err(PpoError::Rows(_))));
    }

    /// l = ½ and −½: k1 ½, −½; k2 ⅛, ⅛; k3 e^(−½) − ½, e^(½) − 3/2.
    #[test]
    fn the_penalty_in_the_reward_is_the_declared_one() {
        let mut s = scored();
        s.rollout.logprobs = s.rollout.logprobs.map(|_| -1.0);
        s.rollout.ref_logprobs = Ragged::from_rows([vec![-1.5, -0.5, -1.0], vec![-1.0, -1.0]]);
        let e = 0.5f64.exp();
        for (kind, want) in [
            (KlEstimator::K1, [0.5, -0.5]),
            (KlEstimator::K2, [0.125, 0.125]),
            (KlEstimator::K3, [1.0 / e - 0.5, e - 1.5]),
            (KlEstimator::Abs, [0.5, 0.5]),
        ] {
            let config = PpoConfig { kl_reward: kind, ..PpoConfig::default() };
            let adv = advantages(&s, &[2.0, 2.0], &config).unwrap();
            for (t, want) in want.into_iter().enumerate() {
                let (kl, reward) = (f64::from(adv.kl.row(0)[t]), f64::from(adv.rewards.row(0)[t]));
                assert!(
                    (kl - want).abs() < 1e-6 && (reward + 2.0 * want).abs() < 1e-6,
                    "{kind:?} {kl} {reward}"
                );
            }
        }
    }
}
