//! Bugs of other trainers that are not reproduced: each test shows what the peer does, as far as a formula or a golden can,
//! and what happens here. The list with sources is in `docs/algorithms.md`.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use tetherline_core::{NamedScore, Ragged, Rollout, ScoredRollout, StopReason};
use tetherline_kl::law::{Adaptive, Law, Ziegler};
use tetherline_kl::placement::{PenaltyForm, Placement, WrongGradient, check_placement};
use tetherline_kl::{ALL, DomainKl, KlConfig, KlController, KlObservation, KlPolicy, NatsPerSequence};
use tetherline_ppo::{
    Advantage, Aggregation, GroupKl, KlLoss, MinibatchTotals, MissingEos, PolicyRow, PpoConfig,
    WhitenVariance, advantages, gae_row, group_advantages, kl_term, policy_loss_row, score_rollout,
    shape_row, whiten,
};
use tetherline_reward::{PairTarget, pair_loss};

fn kl(step: u64, n: u64, kl: f64) -> KlObservation {
    KlObservation::rollout(step, vec![DomainKl::new(ALL, NatsPerSequence(kl), 1.0, n)])
}

fn adaptive() -> KlPolicy {
    let law: KlConfig = toml::from_str("adaptive = { init = 0.001, target = 6.0, horizon = 10000 }").unwrap();
    assert!(matches!(law.law, Law::Adaptive(Adaptive { .. })));
    KlPolicy::new(law).unwrap()
}

/// verl, OpenRLHF, lm-human-preferences: β·(1 + e·n/horizon) is negative once n/horizon ≥ 5 and KL is low: a KL bonus.
#[test]
fn a_large_batch_does_not_turn_the_penalty_into_a_bonus() {
    let published: KlConfig = toml::from_str("ziegler = { init = 0.001, target = 6.0 }").unwrap();
    assert!(matches!(published.law, Law::Ziegler(Ziegler { .. })));
    let mut peer = KlPolicy::new(published).unwrap();
    assert!(peer.observe(&kl(1, 65_536, 0.0)).beta_for(ALL) < 0.0, "as published");
    let mut ours = adaptive();
    assert!(ours.observe(&kl(1, 65_536, 0.0)).beta_for(ALL) > 0.0);
}

/// The same classes: one KL that is not a number makes β NaN for good.
#[test]
fn a_kl_that_is_not_a_number_leaves_beta_alone() {
    let mut ours = adaptive();
    let before = ours.observe(&kl(1, 64, 6.0)).beta_for(ALL);
    assert_eq!(ours.observe(&kl(2, 64, f64::NAN)).beta_for(ALL), before);
    assert!(ours.observe(&kl(3, 64, 30.0)).beta_for(ALL) > before, "and it goes on after it");
}

/// OpenRLHF: a target or horizon of 0 ends in inf or a division by zero in the middle of a run.
#[test]
fn a_target_or_horizon_of_zero_is_refused_at_load() {
    for text in
        ["adaptive = { init = 0.1, target = 0.0 }", "adaptive = { init = 0.1, target = 6.0, horizon = 0 }"]
    {
        let config: Result<KlConfig, _> = toml::from_str(text);
        assert!(config.is_err() || KlPolicy::new(config.unwrap()).is_err(), "{text}");
    }
}

/// verl: `k1+`, `k3+`, `low_var_kl+` (value of one estimator, gradient of k2) raise NotImplementedError. The value and
/// gradient that they promise are those of `corrected` on fresh samples.
#[test]
fn the_straight_through_estimator_is_there() {
    for l in [-2.0f64, -0.1, 0.3, 4.0] {
        let term = kl_term(KlLoss::Corrected, l, 0.0);
        assert!((term.loss - ((-l).exp() - 1.0 + l)).abs() < 1e-12 && term.grad == l, "{l}: {term:?}");
    }
}

/// TRL's PPO calls k3 in the reward "strictly better", OpenRLHF and verl take it in silence: its gradient nearly vanishes
/// near the reference. GRPO's k3 in the loss is the gradient of another divergence, k1 there of none.
#[test]
fn estimators_are_refused_where_their_gradient_is_not_that_of_the_kl() {
    for (form, place) in [
        (PenaltyForm::K3, Placement::InReward),
        (PenaltyForm::K2, Placement::InReward),
        (PenaltyForm::K1, Placement::InLoss),
        (PenaltyForm::K3, Placement::InLoss),
    ] {
        assert!(check_placement(form, place, WrongGradient::Refuse).is_err(), "{form:?} {place:?}");
    }
    for kl_loss in [KlLoss::K1, KlLoss::K3, KlLoss::Abs] {
        let config = PpoConfig { kl_in: tetherline_ppo::KlIn::Loss, kl_loss, ..PpoConfig::default() };
        let error = config.validate().unwrap_err();
        assert_eq!(error.field, "kl_loss", "{error:?}");
    }
}

/// TRL's GRPO before its correction, verl, OpenRLHF: without a ratio k2 in the loss is biased after the first step. Tokens
/// drawn from the old policy, summed over a vocabulary of three.
#[test]
fn the_penalty_in_the_loss_is_exact_off_policy_too() {
    let (new, old, reference) = ([0.5f64, 0.3, 0.2], [0.4f64, 0.4, 0.2], [0.2f64, 0.5, 0.3]);
    // d ln π(x)/d logit_v = [x = v] − π(v); ∇KL by the same chain.
    let expected = |grad: &dyn Fn(usize) -> f64| -> Vec<f64> {
        let of = |v: usize| -> f64 {
            (0..3).map(|x| old[x] * grad(x) * (f64::from(u8::from(x == v)) - new[v])).sum()
        };
        (0..3).map(of).collect()
    };
    let l = |x: usize| (new[x] / reference[x]).ln();
    let total: f64 = (0..3).map(|x| new[x] * l(x)).sum();
    let truth: Vec<f64> = (0..3).map(|v| new[v] * (l(v) - total)).collect();
    let far = |form| {
        let got = expected(&|x| kl_term(form, l(x), (new[x] / old[x]).ln()).grad);
        got.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    assert!(far(KlLoss::Corrected) < 1e-12);
    assert!(far(KlLoss::K2) > 1e-2 && far(KlLoss::K3) > 1e-2 && far(KlLoss::K1) > 1e-2);
}

/// verl and OpenRLHF clamp: beyond it a token that is far from the reference is not pulled back.
#[test]
fn a_token_far_from_the_reference_still_has_a_gradient() {
    for l in [9.5, -12.0, 19.0] {
        assert_eq!(kl_term(KlLoss::Corrected, l, 0.0).grad, l);
    }
    assert!(
        kl_term(KlLoss::K3, -1000.0, 0.0).loss.is_finite()
            && kl_term(KlLoss::Corrected, 1e4, 0.0).loss.is_finite()
    );
}

/// OpenRLHF sets V and A to 0 at tokens of a tool, so that the token before it is judged against a value of 0.
#[test]
fn tokens_that_the_policy_did_not_write_are_skipped_and_not_zeroed() {
    let (rewards, values) = ([0.0, 0.0, 1.0], [0.5, 9.0, 0.3]);
    let (ours, _) = gae_row(&rewards, &values, Some(&[true, false, true]), 1.0, 1.0);
    let (without, _) = gae_row(&[0.0, 1.0], &[0.5, 0.3], None, 1.0, 1.0);
    assert_eq!([ours[0], ours[2]], [without[0], without[1]]);
    let (zeroed, _) = gae_row(&rewards, &[0.5, 0.0, 0.3], None, 1.0, 0.5);
    let (skipped, _) = gae_row(&rewards, &values, Some(&[true, false, true]), 1.0, 0.5);
    assert!((zeroed[0] - skipped[0]).abs() > 0.05, "the two differ: {} {}", zeroed[0], skipped[0]);
}

/// torchtune adds the mean back when it is to be taken out, so its advantages are never centred.
#[test]
fn whitened_advantages_are_centred() {
    let mut x = [3.0, 5.0, 4.5, 7.0];
    whiten(&mut x, WhitenVariance::Unbiased, false).unwrap();
    assert!(x.iter().sum::<f64>().abs() < 1e-12, "{x:?}");
}

fn scored(scores: &[f32], kl: f32) -> ScoredRollout {
    let rows = scores.len();
    let rollout = Rollout {
        responses: Ragged::from_rows(vec![vec![1, 2]; rows]),
        stop: vec![StopReason::Eos; rows],
        logprobs: Ragged::from_rows(vec![vec![-1.0, -1.0]; rows]),
        ref_logprobs: Ragged::from_rows(vec![vec![-1.0 - kl, -1.0 - kl]; rows]),
        ..Rollout::default()
    };
    let parts = vec![NamedScore { name: "rule".into(), values: scores.to_vec() }];
    score_rollout(rollout, parts, MissingEos::None).unwrap()
}

/// verl: the KL is part of the score that is divided by the group's standard deviation, so that β is β/σ.
#[test]
fn the_penalty_of_a_group_does_not_depend_on_how_far_its_scores_spread() {
    let pays = |spread: f32, group_kl| {
        let config = PpoConfig {
            advantages: Advantage::GroupStd,
            samples_per_prompt: 4,
            batch_size: 4,
            group_kl,
            ..PpoConfig::default()
        };
        // Only the first response is away from the reference, by 0.5 nats at both tokens.
        let mut of = scored(&[1.0, 2.0, 3.0, 4.0].map(|s| s * spread), 0.0);
        of.rollout.ref_logprobs.row_mut(0).fill(-1.5);
        let of = |beta: f64| f64::from(advantages(&of, &[beta; 4], &config).unwrap().advantages.row(0)[1]);
        of(0.0) - of(0.1)
    };
    let ours = [1.0, 100.0].map(|spread| pays(spread, GroupKl::ToGo));
    assert!(ours.iter().all(|x| (x - 0.05).abs() < 1e-6), "{ours:?}");
    let verl = [1.0, 100.0].map(|spread| pays(spread, GroupKl::InScore));
    assert!(verl[0] > 20.0 * verl[1], "{verl:?}");
}

/// verl's GRPO and RLOO give a response alone its raw score, its vectorised RLOO gives 0.
#[test]
fn a_group_of_one_is_refused_and_not_guessed() {
    assert!(group_advantages(Advantage::LeaveOneOut, &[2.0], &[3]).is_err());
    let config = PpoConfig { advantages: Advantage::LeaveOneOut, ..PpoConfig::default() };
    assert_eq!(config.validate().unwrap_err().field, "samples_per_prompt");
}

/// verl's `seq-mean-token-sum-norm` is no mean over sequences: its gradient doubles with the batch.
#[test]
fn a_constant_length_divides_by_the_sequences_too() {
    let grad = |aggregation, rows: usize| {
        let totals = MinibatchTotals { rows, tokens: 2 * rows, values: 0, value_rows: 0 };
        totals.token_weight(aggregation, 2) * rows as f64
    };
    let (ours, verl) = (Aggregation::SeqMeanConstant(8), Aggregation::SumConstant(8));
    assert_eq!(grad(ours, 4), grad(ours, 8));
    assert_eq!(2.0 * grad(verl, 4), grad(verl, 8));
}

/// OpenRLHF's `compute_reward` drops a penalty with β ≤ 0 and its `LogExpLoss` the margin.
#[test]
fn nothing_that_was_given_is_dropped() {
    assert_eq!(shape_row(&[0.5], None, -0.1, 0.0, false), [0.05]);
    let margin = PairTarget { margin: 2.0, ..PairTarget::default() };
    let without = pair_loss(-1.0, 0.0, &PairTarget::default()).loss;
    assert!((pair_loss(1.0, 0.0, &margin).loss - without).abs() < 1e-12);
}

/// TRL's `policy/approxkl_avg` and `val/ratio` are means over pads too, and INVALID_LOGPROB = 1 at pads made
/// `objective/entropy` negative for short responses before 1.12. There are no pads here; a masked token counts nowhere.
#[test]
fn tokens_that_do_not_count_are_in_no_mean() {
    let written = [true, true, false, false];
    let row = PolicyRow {
        logprobs: &[-1.0, -2.0, 1.0, 1.0],
        entropy: &[0.5, 0.7, 99.0, 99.0],
        old_logprobs: &[-1.1, -2.2, 9.0, 9.0],
        advantages: &[1.0, -1.0, 50.0, 50.0],
        written: Some(&written),
        ..PolicyRow::default()
    };
    let totals = MinibatchTotals { rows: 1, tokens: 2, values: 0, value_rows: 0 };
    let mut sums = tetherline_ppo::LossSums::default();
    let (mut a, mut b) = ([9.0; 4], [9.0; 4]);
    policy_loss_row(&row, &totals, &PpoConfig::default(), &mut a, &mut b, &mut sums).unwrap();
    let means = sums.means(1);
    assert!((means.entropy - 0.6).abs() < 1e-6 && (means.approx_kl - 0.0125).abs() < 1e-6, "{means:?}");
    assert_eq!((a[2], a[3], b[2], b[3]), (0.0, 0.0, 0.0, 0.0));
}
