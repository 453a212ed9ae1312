//! Trust region, guard, budgets, ledger and schedules through the controller.

use tetherline_kl::law::{Adaptive, AutoPi, Law, Schedule};
use tetherline_kl::{
    ALL, Budget, Combine, ControlDecision, ControllerState, DomainKl, DomainState, Guard, KlConfig,
    KlController, KlObservation, KlPolicy, Ledger, MetricLimit, MetricValue, NatsPerSequence, ReasonCode,
    Shape, StateError, TargetSchedule, TrustRegion, Verdict,
};

fn adaptive() -> KlConfig {
    Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 10_000.0)).into()
}

/// Exact measurement: no noise to add to the cap.
fn exact(kl: f64) -> DomainKl {
    DomainKl { stderr: Some(NatsPerSequence(0.0)), ..DomainKl::new(ALL, NatsPerSequence(kl), 2.0 * kl, 512) }
}

fn rollout(c: &mut impl KlController, step: u64, kl: f64) -> ControlDecision {
    c.observe(&KlObservation::rollout(step, vec![exact(kl)]))
}

fn trial(c: &mut impl KlController, step: u64, j: u32, kl: f64) -> ControlDecision {
    c.observe(&KlObservation::trial(step, j, vec![exact(kl)]))
}

fn code(d: &ControlDecision) -> (Verdict, ReasonCode) {
    (d.verdict, d.reason.code())
}

#[test]
fn a_step_above_the_cap_is_scaled_until_it_fits() {
    let config = KlConfig { trust_region: Some(TrustRegion::default()), ..adaptive() };
    let mut c = KlPolicy::new(config).unwrap();
    let beta = rollout(&mut c, 0, 2.0).beta_for(ALL);
    // d from 2 to 4 (KL 8), the cap of 6.9 at d = 3.715: 85.7 % would do, backtracking says at most 80 %.
    let d = trial(&mut c, 0, 0, 8.0);
    assert_eq!((code(&d), d.scale), ((Verdict::Scale, ReasonCode::AboveCap), 0.8));
    assert_eq!(d.beta_for(ALL), beta, "a trial never moves β");
    let d = trial(&mut c, 0, 1, 7.0);
    assert_eq!(d.verdict, Verdict::Scale);
    assert!((d.scale - 0.64).abs() < 1e-12, "of the whole update: {}", d.scale);
    let again = trial(&mut c, 0, 1, 7.0);
    assert_eq!((code(&again), again.scale), ((Verdict::Scale, ReasonCode::DuplicateTrial), d.scale));
    let d = trial(&mut c, 0, 2, 6.5);
    assert_eq!(code(&d), (Verdict::Accept, ReasonCode::InsideCaps));
    assert!((d.scale - 0.64).abs() < 1e-12);
    let again = trial(&mut c, 0, 2, 6.5);
    assert_eq!(again.verdict, Verdict::Accept);
}

#[test]
fn ten_scalings_that_do_not_help_reject() {
    let config =
        KlConfig { trust_region: Some(TrustRegion { z: 0.0, ..TrustRegion::default() }), ..adaptive() };
    let mut c = KlPolicy::new(config).unwrap();
    rollout(&mut c, 0, 2.0);
    // √KL falls towards the cap of 6.9, and just not far enough.
    let mut last = 1.0;
    for j in 0..10 {
        let d = trial(&mut c, 0, j, 6.9 * f64::powi(1.0 - 1e-9 + 2.0 * last, 2));
        assert_eq!(code(&d), (Verdict::Scale, ReasonCode::AboveCap), "trial {j}");
        assert!(d.scale < last && d.scale > 0.0);
        last = d.scale;
    }
    let d = trial(&mut c, 0, 10, 60.0);
    assert_eq!((code(&d), d.scale), ((Verdict::Reject, ReasonCode::CapReject), 1.0));
    assert_eq!(trial(&mut c, 0, 10, 60.0).verdict, Verdict::Reject);
    // The next step starts afresh.
    rollout(&mut c, 1, 2.0);
    assert_eq!(trial(&mut c, 1, 0, 2.1).verdict, Verdict::Accept);
}

/// Where KL hardly falls with the share, the weights before the update are measured: above the cap, no share can help.
#[test]
fn an_update_whose_start_is_above_the_cap_is_refused_at_once() {
    let region = TrustRegion { cap: Some(NatsPerSequence(6.0)), ..TrustRegion::default() };
    let config = KlConfig { trust_region: Some(region), guard: Some(Guard::default()), ..adaptive() };
    let start = |config: &KlConfig| {
        let mut c = KlPolicy::new(config.clone()).unwrap();
        rollout(&mut c, 0, 5.5);
        let first = trial(&mut c, 0, 0, 7.0);
        assert_eq!(code(&first), (Verdict::Scale, ReasonCode::AboveCap));
        // From √7.0 at 1 to √6.9 at this share: at 0 still above √6.
        let zero = trial(&mut c, 0, 1, 6.9);
        assert_eq!((code(&zero), zero.scale), ((Verdict::Scale, ReasonCode::CheckBefore), 0.0));
        let again = trial(&mut c, 0, 1, 6.9);
        assert_eq!((again.verdict, again.scale), (Verdict::Scale, 0.0));
        (c, first.scale)
    };
    let (mut c, _) = start(&config);
    // In the middle of it a state is whole.
    let mut c = {
        let state: ControllerState =
            serde_json::from_str(&serde_json::to_string(&c.state()).unwrap()).unwrap();
        let mut other = KlPolicy::new(config.clone()).unwrap();
        other.restore(&state).unwrap();
        assert_eq!(other.state(), c.state());
        std::mem::replace(&mut c, other)
    };
    let d = trial(&mut c, 0, 2, 6.2);
    assert_eq!(code(&d), (Verdict::Reject, ReasonCode::AboveBefore));
    assert!(d.reason.text().contains("up to 6.2000 even before the update"), "{}", d.reason);
    assert_eq!(d.lr_factor, 1.0, "the update is not to blame");
    assert_eq!(trial(&mut c, 0, 3, 1.0).reason.code(), ReasonCode::StepClosed);
    // Below the cap, it goes on with less than the last share, and looks no second time.
    let (mut c, share) = start(&config);
    let d = trial(&mut c, 0, 2, 5.9);
    assert_eq!(code(&d), (Verdict::Scale, ReasonCode::BeforeInside));
    assert!(d.scale > 0.0 && d.scale < share, "{} of {share}", d.scale);
    let less = trial(&mut c, 0, 3, 6.8);
    assert_eq!(code(&less), (Verdict::Scale, ReasonCode::AboveCap));
    assert!(less.scale < d.scale);
    let d = trial(&mut c, 0, 4, 5.8);
    assert_eq!((code(&d), d.scale), ((Verdict::Accept, ReasonCode::InsideCaps), less.scale));
    // What is no number stays what it is.
    let (mut c, _) = start(&config);
    assert_eq!(trial(&mut c, 0, 2, f64::NAN).reason.code(), ReasonCode::NotFinite);
}

#[test]
fn a_tightened_target_does_not_deadlock() {
    let config = KlConfig { trust_region: Some(TrustRegion::default()), ..adaptive() };
    let mut c = KlPolicy::new(config).unwrap();
    rollout(&mut c, 0, 9.0); // already above the cap of 6.9
    assert_eq!(trial(&mut c, 0, 0, 8.9).verdict, Verdict::Accept);
    rollout(&mut c, 1, 8.9);
    let d = trial(&mut c, 1, 0, 9.1);
    assert_eq!(code(&d), (Verdict::Reject, ReasonCode::CapReject), "no share of a rising step helps");
}

#[test]
fn drift_from_the_first_reference_is_capped_though_the_reference_moves() {
    let region = TrustRegion { ref0_cap: Some(NatsPerSequence(20.0)), ..TrustRegion::default() };
    let mut c = KlPolicy::new(KlConfig { trust_region: Some(region), ..adaptive() }).unwrap();
    let with = |kl: f64, ref0: Option<f64>| DomainKl { kl_ref0: ref0.map(NatsPerSequence), ..exact(kl) };
    c.observe(&KlObservation::rollout(0, vec![with(1.0, Some(19.0))]));
    let d = c.observe(&KlObservation::trial(0, 0, vec![with(1.0, Some(25.0))]));
    assert_eq!(code(&d), (Verdict::Scale, ReasonCode::AboveCap));
    assert!(d.reason.text().contains("the first reference"));
    let d = c.observe(&KlObservation::trial(0, 1, vec![with(1.0, None)]));
    assert_eq!(code(&d), (Verdict::Reject, ReasonCode::Unmeasured));
    assert!(d.reason.text().contains("kl_ref0"));
}

#[test]
fn broken_trials_are_rejected_and_stale_ones_too() {
    let config =
        KlConfig { trust_region: Some(TrustRegion::default()), guard: Some(Guard::default()), ..adaptive() };
    let mut c = KlPolicy::new(config).unwrap();
    rollout(&mut c, 5, 2.0);
    let d = trial(&mut c, 5, 0, f64::NAN);
    assert_eq!(code(&d), (Verdict::Reject, ReasonCode::NotFinite));
    assert_eq!(d.lr_factor, 0.5, "a rejected update throttles the learning rate");
    assert_eq!(code(&trial(&mut c, 4, 0, 2.0)), (Verdict::Reject, ReasonCode::StepBackwards));
    rollout(&mut c, 6, 2.0);
    let d = c.observe(&KlObservation::trial(6, 0, vec![]));
    assert_eq!(code(&d), (Verdict::Reject, ReasonCode::AllAbsent));
    let mut plain = KlPolicy::new(adaptive()).unwrap();
    rollout(&mut plain, 0, 2.0);
    assert_eq!(code(&trial(&mut plain, 0, 0, 99.0)), (Verdict::Accept, ReasonCode::NotJudged));
}

#[test]
fn broken_in_a_row_rolls_back_then_halts_for_good() {
    let config = KlConfig { guard: Some(Guard::default()), ..adaptive() };
    let mut c = KlPolicy::new(config).unwrap();
    rollout(&mut c, 0, 6.0);
    let checkpoint = c.state();
    let verdicts: Vec<_> = (1..6).map(|step| rollout(&mut c, step, f64::NAN)).collect();
    let of: Vec<_> = verdicts.iter().map(|d| d.verdict).collect();
    use Verdict::{Halt, Reject, Rollback};
    assert_eq!(of, [Reject, Reject, Rollback, Reject, Halt]);
    assert!((verdicts[2].beta_for(ALL) - 0.3).abs() < 1e-12, "β is boosted by 1.5");
    let d = rollout(&mut c, 6, 6.0);
    assert_eq!(code(&d), (Halt, ReasonCode::Halted));
    assert_eq!(trial(&mut c, 6, 0, 6.0).verdict, Halt);
    // Rolling the law back does not rewind the guard.
    c.roll_back(&checkpoint).unwrap();
    assert_eq!(
        (c.state().guard.rollbacks, c.state().guard.halted, c.state().last_step),
        (1, Some(5), Some(5))
    );
}

#[test]
fn blow_ups_roll_back_and_the_boost_decays_within_bounds() {
    let config = KlConfig { guard: Some(Guard { max_rollbacks: 2, ..Guard::default() }), ..adaptive() };
    let mut c = KlPolicy::new(config).unwrap();
    let checkpoint = c.state();
    let mut verdicts = Vec::new();
    for step in 0..9 {
        let d = rollout(&mut c, step, 20.0);
        if d.verdict == Verdict::Rollback {
            c.roll_back(&checkpoint).unwrap();
        }
        verdicts.push(d.verdict);
    }
    let asked: Vec<_> =
        verdicts.iter().enumerate().filter(|(_, v)| **v == Verdict::Rollback).map(|(i, _)| i).collect();
    assert_eq!((asked, verdicts[8]), (vec![2, 5], Verdict::Halt));
    let mut c = KlPolicy::new(KlConfig { guard: Some(Guard::default()), ..adaptive() }).unwrap();
    (0..3).for_each(|s| drop(rollout(&mut c, s, 20.0)));
    let boosted = c.beta(ALL);
    let law_only = 0.2 * (3.0 * 0.2 * 512.0 / 1e4f64).exp();
    assert!((boosted / law_only - 1.5).abs() < 1e-9, "{boosted} {law_only}");
    (3..200).for_each(|s| drop(rollout(&mut c, s, 6.0)));
    assert!((c.beta(ALL) / law_only - 1.0).abs() < 1e-6);
}

#[test]
fn a_fast_rise_close_to_the_cap_throttles() {
    let mut c = KlPolicy::new(KlConfig { guard: Some(Guard::default()), ..adaptive() }).unwrap();
    rollout(&mut c, 0, 5.0);
    let d = rollout(&mut c, 1, 6.5); // the cap is 6.9
    assert_eq!((code(&d), d.lr_factor), ((Verdict::Throttle, ReasonCode::FastRise), 0.5));
    let d = rollout(&mut c, 2, 6.5);
    assert_eq!(d.verdict, Verdict::Accept);
    assert!((d.lr_factor - 0.55).abs() < 1e-12, "it recovers by a tenth");
}

#[test]
fn budgets_add_up_and_shrinkage_leaves_their_targets_alone() {
    let budgets = vec![
        Budget::new("code", NatsPerSequence(2.0)),
        Budget::new("legal", NatsPerSequence(8.0)),
        Budget::new(ALL, NatsPerSequence(5.0)),
    ];
    let mut c = KlPolicy::new(KlConfig { budgets, ..adaptive() }).unwrap();
    assert_eq!(["code", "legal", ALL].map(|id| c.target(id).unwrap().0), [2.0, 8.0, 5.0]);
    // All on target: nothing moves, however small the samples.
    let on = |id: &str, kl: f64, n| DomainKl {
        stderr: Some(NatsPerSequence(0.01)),
        ..DomainKl::new(id, NatsPerSequence(kl), 2.0 * kl, n)
    };
    let d = c.observe(&KlObservation::rollout(
        0,
        vec![on("code", 2.0, 3), on("legal", 8.0, 40), on(ALL, 5.0, 43)],
    ));
    assert_eq!(d.combine, Combine::Sum);
    for id in ["code", "legal", ALL] {
        assert!((d.beta[id] - 0.1).abs() < 1e-12, "{id}: init is shared by the two levels");
    }
    assert!((d.beta_for("code") - 0.2).abs() < 1e-12);
    assert!((d.beta_for("chat") - 0.2).abs() < 1e-12, "an unknown domain is not free");
    // A domain above its target is drawn to the mean by 32/(n + 32): it moves, but less with fewer.
    let step = |n| {
        let budgets =
            vec![Budget::new("code", NatsPerSequence(2.0)), Budget::new("legal", NatsPerSequence(8.0))];
        let mut config = KlConfig { budgets, ..adaptive() };
        config.shrink = 32.0;
        let mut c = KlPolicy::new(config).unwrap();
        let obs = KlObservation::rollout(0, vec![on("code", 2.2, n), on("legal", 8.0, 100_000)]);
        (c.observe(&obs).beta["code"] / 0.2).ln() / n as f64 * 1e4
    };
    // e = weight·0.1 (+ the mean's own, ~0), and ln β moves by e·n/horizon.
    assert!((step(32) - 0.05).abs() < 1e-3, "{}", step(32));
    assert!((step(3200) - 0.1).abs() < 0.005, "{}", step(3200));
}

#[test]
fn metrics_tighten_the_target_in_force() {
    let limit = MetricLimit { id: "unsafe_rate".into(), warn: 0.01, limit: 0.03 };
    let budget = Budget { metrics: vec![limit], ..Budget::new(ALL, NatsPerSequence(6.0)) };
    let mut c = KlPolicy::new(KlConfig { budgets: vec![budget], ..adaptive() }).unwrap();
    let mut obs = KlObservation::rollout(0, vec![exact(6.0)]);
    obs.metrics = vec![MetricValue { id: "unsafe_rate".into(), value: 0.015, ucb: Some(0.02) }];
    let d = c.observe(&obs);
    assert_eq!(code(&d), (Verdict::Accept, ReasonCode::BudgetTightened));
    assert!(d.reason.text().contains("unsafe_rate"));
    assert!((c.target(ALL).unwrap().0 - 3.0).abs() < 1e-12);
    assert!(d.beta_for(ALL) > 0.2, "on the old target, above the new one");
}

#[test]
fn an_infeasible_budget_is_named_within_fifty_observations_then_rolled_back_and_halts() {
    let budgets = vec![Budget::new("code", NatsPerSequence(2.0)), Budget::new("legal", NatsPerSequence(8.0))];
    let law = Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(6.0)));
    let mut c = KlPolicy::new(KlConfig {
        budgets,
        guard: Some(Guard { blow_up: 9.0, max_rollbacks: 2, ..Guard::default() }),
        ..law.into()
    })
    .unwrap();
    let start = c.state();
    let mut verdicts: Vec<(Verdict, u64)> = Vec::new();
    let mut named = None;
    for step in 0..250 {
        let domains = vec![
            DomainKl::new("code", NatsPerSequence(4.0), 8.0, 512),
            DomainKl::new("legal", NatsPerSequence(8.0), 16.0, 512),
        ];
        let d = c.observe(&KlObservation::rollout(step, domains));
        if d.verdict == Verdict::Rollback {
            assert!(!c.is_infeasible(), "it is asked once");
            c.roll_back(&start).unwrap();
        }
        if d.reason.code() == ReasonCode::Infeasible {
            assert!(d.reason.text().contains("budget of code"), "{}", d.reason);
            match verdicts.last_mut() {
                Some((verdict, n)) if *verdict == d.verdict => *n += 1,
                _ => verdicts.push((d.verdict, 1)),
            }
            assert!(*named.get_or_insert(step) < 50, "named within fifty observations");
        }
    }
    use Verdict::{Halt, Rollback, Throttle};
    // From the 12th observation at the bound on it is named, at the 40th asked to go back, twice; then it halts for good.
    let expected = [(Throttle, 28), (Rollback, 1), (Throttle, 28), (Rollback, 1), (Throttle, 28), (Halt, 1)];
    assert_eq!(verdicts, expected);
}

/// With 1.645 standard errors the cap's bound bites while the mean is still below the target. The law then
/// follows that bound; on the mean it would lower β for ever while every update is refused.
#[test]
fn a_noisy_cap_does_not_deadlock_the_law() {
    let config = KlConfig { trust_region: Some(TrustRegion::default()), ..adaptive() };
    let mut c = KlPolicy::new(config).unwrap();
    let noisy = || vec![DomainKl::new(ALL, NatsPerSequence(5.8), 11.6, 16)]; // stderr 0.85, bound 7.2, cap 6.9
    let before = c.observe(&KlObservation::rollout(0, noisy())).beta_for(ALL);
    assert!(before < 0.2, "the mean is below the target");
    assert_eq!(c.observe(&KlObservation::trial(0, 0, noisy())).verdict, Verdict::Reject);
    let after = c.observe(&KlObservation::rollout(1, noisy())).beta_for(ALL);
    assert!(after > before, "{before} {after}");
    assert!(c.observe(&KlObservation::rollout(2, noisy())).beta_for(ALL) < after, "once per cut");
}

#[test]
fn a_domain_above_its_target_never_looks_below_it() {
    let budgets =
        vec![Budget::new("chat", NatsPerSequence(6.0)), Budget::new("medical", NatsPerSequence(2.0))];
    let mut c = KlPolicy::new(KlConfig { budgets, ..adaptive() }).unwrap();
    let domains = vec![
        DomainKl::new("chat", NatsPerSequence(2.0), 4.0, 256),
        DomainKl::new("medical", NatsPerSequence(2.1), 4.2, 256),
    ];
    let d = c.observe(&KlObservation::rollout(0, domains));
    assert!(d.beta["medical"] > 0.2 && d.beta["chat"] < 0.2, "{:?}", d.beta);
}

#[test]
fn a_ledger_refuses_what_exceeds_it_and_never_gives_back() {
    let config = KlConfig { ledger: Some(Ledger { limit: NatsPerSequence(1.0) }), ..adaptive() };
    let mut c = KlPolicy::new(config).unwrap();
    let moved = |old| vec![DomainKl { kl_old: Some(NatsPerSequence(old)), ..exact(3.0) }];
    rollout(&mut c, 0, 3.0);
    assert_eq!(c.observe(&KlObservation::trial(0, 0, moved(0.7))).verdict, Verdict::Accept);
    rollout(&mut c, 1, 3.0);
    let d = c.observe(&KlObservation::trial(1, 0, moved(0.4)));
    assert_eq!(code(&d), (Verdict::Reject, ReasonCode::LedgerExhausted));
    assert!((c.ledger().unwrap().spent - 0.7).abs() < 1e-12);
    rollout(&mut c, 2, 3.0);
    assert_eq!(trial(&mut c, 2, 0, 3.0).reason.code(), ReasonCode::Unmeasured);
    let checkpoint =
        KlPolicy::new(KlConfig { ledger: Some(Ledger { limit: NatsPerSequence(1.0) }), ..adaptive() })
            .unwrap()
            .state();
    c.roll_back(&checkpoint).unwrap();
    assert!((c.ledger().unwrap().spent - 0.7).abs() < 1e-12);
    // Without trials the next rollout's KL to the old policy is entered.
    let mut c =
        KlPolicy::new(KlConfig { ledger: Some(Ledger { limit: NatsPerSequence(1.0) }), ..adaptive() })
            .unwrap();
    c.observe(&KlObservation::rollout(0, moved(9.0)));
    c.observe(&KlObservation::rollout(1, moved(0.25)));
    assert_eq!(c.ledger().unwrap().spent, 0.25);
    // There is no trial to refuse: once the limit is passed the run halts.
    assert_eq!(c.observe(&KlObservation::rollout(2, moved(0.75))).verdict, Verdict::Accept);
    let d = c.observe(&KlObservation::rollout(3, moved(0.01)));
    assert_eq!(code(&d), (Verdict::Halt, ReasonCode::LedgerExhausted));
}

#[test]
fn only_what_falls_under_a_budget_has_a_beta_and_stale_entries_go() {
    let config = KlConfig { budgets: vec![Budget::new("user:*", NatsPerSequence(4.0))], ..adaptive() };
    let mut c = KlPolicy::new(config).unwrap();
    let of = |id: &str| DomainKl::new(id, NatsPerSequence(9.0), 18.0, 512);
    let mut out = ControlDecision::empty();
    out.beta = [("ghost".to_owned(), 9.0)].into();
    c.observe_into(&KlObservation::rollout(0, vec![of("code"), of("user:ann")]), &mut out);
    assert_eq!(out.beta.keys().collect::<Vec<_>>(), ["user:ann"]);
    assert!(out.beta_for("user:ann") > 0.2);
    out.beta = [("ghost".to_owned(), 9.0), ("phantom".to_owned(), 1.0)].into();
    c.observe_into(&KlObservation::rollout(1, vec![of("code"), of("user:ann")]), &mut out);
    assert_eq!(out.beta.keys().collect::<Vec<_>>(), ["user:ann"]);
    assert_eq!(
        c.target("code"),
        Some(NatsPerSequence(6.0)),
        "without a budget of its level the law's target stands"
    );
}

#[test]
fn without_a_guard_a_throttle_lasts_for_its_decision() {
    let law = Adaptive { beta_max: 0.2, ..Adaptive::new(0.2, NatsPerSequence(6.0), 1e4) };
    let mut c = KlPolicy::new(Law::Adaptive(law).into()).unwrap();
    for step in 0..11 {
        let d = rollout(&mut c, step, 9.0);
        assert_eq!((d.verdict, d.lr_factor), (Verdict::Accept, 1.0), "step {step}");
    }
    let d = rollout(&mut c, 11, 9.0);
    assert_eq!((code(&d), d.lr_factor), ((Verdict::Throttle, ReasonCode::Infeasible), 0.5));
    let d = rollout(&mut c, 12, 5.0);
    assert_eq!((d.verdict, d.lr_factor), (Verdict::Accept, 1.0));
}

#[test]
fn a_rollback_takes_the_law_back_and_nothing_else() {
    let mut c = KlPolicy::new(KlConfig { guard: Some(Guard::default()), ..adaptive() }).unwrap();
    let at = rollout(&mut c, 0, 9.0).beta_for(ALL);
    let checkpoint = c.state();
    (1..20).for_each(|step| drop(rollout(&mut c, step, 9.0)));
    assert!(c.beta(ALL) > at);
    let before = c.state();
    c.roll_back(&checkpoint).unwrap();
    assert_eq!(c.beta(ALL), at);
    let after = c.state();
    assert_eq!(
        (after.last_step, after.rollouts, after.guard),
        (before.last_step, before.rollouts, before.guard)
    );
    let measured = Some(19);
    assert_eq!(after.domains[ALL], DomainState { measured, ..checkpoint.domains[ALL].clone() });
    // A domain that the checkpoint does not know keeps its β.
    let both = |step| {
        KlObservation::rollout(step, vec![exact(9.0), DomainKl::new("new", NatsPerSequence(9.0), 18.0, 512)])
    };
    c.observe(&both(30));
    let known = c.beta("new");
    c.roll_back(&checkpoint).unwrap();
    assert_eq!((c.beta("new"), c.beta(ALL)), (known, at));
    let foreign = KlPolicy::new(KlConfig::fixed(0.1)).unwrap().state();
    assert!(matches!(c.roll_back(&foreign), Err(StateError::OtherLaw { .. })));
}

#[test]
fn schedules_of_beta_and_of_the_target() {
    let schedule = Schedule { init: 0.2, end: 0.1, steps: 2, shape: Shape::Linear, warmup: 0 };
    let mut c = KlPolicy::new(Law::Schedule(schedule).into()).unwrap();
    assert_eq!(c.beta(ALL), 0.2);
    let betas: Vec<_> = (0..3).map(|s| rollout(&mut c, s, 5.0).beta_for(ALL)).collect();
    assert!(betas.iter().zip([0.15, 0.1, 0.1]).all(|(b, e)| (b - e).abs() < 1e-12), "{betas:?}");
    let target = TargetSchedule { from: 0.5, to: 1.0, steps: 2, shape: Shape::Linear };
    let mut c = KlPolicy::new(KlConfig { target_schedule: Some(target), ..adaptive() }).unwrap();
    let targets: Vec<_> = (0..4)
        .map(|s| {
            rollout(&mut c, s, 5.0);
            c.target(ALL).unwrap().0
        })
        .collect();
    assert_eq!(targets, [3.0, 4.5, 6.0, 6.0]);
}

#[test]
fn the_whole_composition_reads_from_toml_and_its_state_is_exact() {
    let text = r#"
        shrink = 16.0
        [auto_pi]
        init = 0.2
        target = 6.0
        [target_schedule]
        from = 0.25
        steps = 20
        shape = "quadratic"
        [[budget]]
        id = "code"
        target = 3.0
        metrics = [{ id = "unsafe_rate", warn = 0.01, limit = 0.03 }]
        [[budget]]
        id = "user:*"
        target = 9.0
        [trust_region]
        ref0_cap = 40.0
        [guard]
        max_rollbacks = 2
        [ledger]
        limit = 50.0
    "#;
    let config: KlConfig = toml::from_str(text).unwrap();
    assert_eq!(
        (config.shrink, config.guard.unwrap().max_rollbacks, config.guard.unwrap().halt_after),
        (16.0, 2, 5)
    );
    let again: KlConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    let observations = |step: u64| {
        let kl = 2.0 + ((step * 7919) % 97) as f64 / 30.0;
        let domain = |id: &str, kl: f64| DomainKl {
            kl_old: Some(NatsPerSequence(0.1)),
            kl_ref0: Some(NatsPerSequence(kl + 1.0)),
            ..DomainKl::new(id, NatsPerSequence(kl), 2.0 * kl, 100)
        };
        let both = |kl: f64| vec![domain("code", kl), domain("user:ann", 2.0 * kl)];
        let mut obs = KlObservation::rollout(step, both(if step == 33 { f64::NAN } else { kl }));
        let ucb = if step.is_multiple_of(9) { 0.02 } else { 0.005 };
        obs.metrics = vec![MetricValue { id: "unsafe_rate".into(), value: 0.01, ucb: Some(ucb) }];
        [obs, KlObservation::trial(step, 0, both(kl * 1.4)), KlObservation::trial(step, 1, both(kl))]
    };
    let mut whole = KlPolicy::new(config.clone()).unwrap();
    let mut half = KlPolicy::new(config.clone()).unwrap();
    for obs in (0..40).flat_map(observations) {
        whole.observe(&obs);
        half.observe(&obs);
    }
    let json = serde_json::to_string(&half.state()).unwrap();
    let mut resumed = KlPolicy::new(config.clone()).unwrap();
    resumed.restore(&serde_json::from_str::<ControllerState>(&json).unwrap()).unwrap();
    for obs in (40..80).flat_map(observations) {
        assert_eq!(whole.observe(&obs), resumed.observe(&obs), "step {}", obs.step);
    }
    assert_eq!(whole.state(), resumed.state());
    let mut fewer = config;
    fewer.budgets.pop();
    let error = KlPolicy::new(fewer).unwrap().restore(&whole.state()).unwrap_err();
    assert!(matches!(error, StateError::OtherBudgets { .. }));
}

#[test]
fn impossible_compositions_are_refused_at_load() {
    let field = |c: KlConfig| c.validate().unwrap_err().field;
    let fixed = KlConfig::fixed(0.1);
    assert_eq!(
        field(KlConfig { budgets: vec![Budget::new("a", NatsPerSequence(1.0))], ..fixed.clone() }),
        "budget"
    );
    assert_eq!(
        field(KlConfig { trust_region: Some(TrustRegion::default()), ..fixed.clone() }),
        "trust_region.cap"
    );
    let target = TargetSchedule { from: 0.5, to: 1.0, steps: 2, shape: Shape::Linear };
    assert_eq!(field(KlConfig { target_schedule: Some(target), ..fixed.clone() }), "target_schedule");
    assert_eq!(field(KlConfig { shrink: -1.0, ..fixed.clone() }), "shrink");
    let capped = TrustRegion { cap: Some(NatsPerSequence(3.0)), ..TrustRegion::default() };
    assert!(KlConfig { trust_region: Some(capped), ..fixed }.validate().is_ok());
}
