//! What is configured and cannot be enforced says so: nothing is switched off in silence.

use tetherline_kl::law::{Adaptive, KlTo, Law, PpoAdaptive, Ziegler};
use tetherline_kl::{
    ALL, Budget, ControlDecision, DomainKl, Guard, KlConfig, KlController, KlObservation, KlPolicy, Ledger,
    MetricLimit, MetricValue, NatsPerSequence, ReasonCode, TrustRegion, Verdict,
};

fn policy(change: impl FnOnce(&mut KlConfig)) -> KlPolicy {
    let mut config = KlConfig::from(Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 1e4)));
    change(&mut config);
    KlPolicy::new(config).expect("a valid configuration")
}

fn nats(kl: f64) -> Option<NatsPerSequence> {
    Some(NatsPerSequence(kl))
}

fn of(id: &str, kl: f64) -> DomainKl {
    DomainKl { stderr: nats(0.0), ..DomainKl::new(id, NatsPerSequence(kl), 1.0, 100) }
}

fn rollout(c: &mut KlPolicy, step: u64, domains: Vec<DomainKl>) -> ControlDecision {
    c.observe(&KlObservation::rollout(step, domains))
}

fn trial(c: &mut KlPolicy, step: u64, domains: Vec<DomainKl>) -> ControlDecision {
    c.observe(&KlObservation::trial(step, 0, domains))
}

fn answer(d: &ControlDecision) -> (Verdict, ReasonCode) {
    (d.verdict, d.reason.code())
}

#[test]
fn caps_without_trials_are_named_and_halt_once_passed() {
    let mut c = policy(|c| c.trust_region = Some(TrustRegion::default()));
    let codes: Vec<_> = (0..18).map(|step| rollout(&mut c, step, vec![of(ALL, 5.0)]).reason.code()).collect();
    let named: Vec<_> = (0..18).filter(|i| codes[*i] == ReasonCode::NoTrials).collect();
    assert_eq!(named, [4, 8, 16], "after 4 updates that were not judged, and at every doubling");
    let d = rollout(&mut c, 18, vec![of(ALL, 7.0)]);
    assert_eq!(answer(&d), (Verdict::Halt, ReasonCode::CapUnjudged), "6.9 is the cap");
    assert!(d.reason.text().contains("send a trial"), "{}", d.reason);
    // The first reference has its own cap.
    let mut c =
        policy(|c| c.trust_region = Some(TrustRegion { ref0_cap: nats(7.0), ..TrustRegion::default() }));
    let far = || vec![DomainKl { kl_ref0: nats(500.0), ..of(ALL, 3.0) }];
    assert_eq!(rollout(&mut c, 0, far()).verdict, Verdict::Accept, "no update of this run came before it");
    let d = rollout(&mut c, 1, far());
    assert_eq!(answer(&d), (Verdict::Halt, ReasonCode::CapUnjudged));
    assert!(d.reason.text().contains("the first reference is 500"), "{}", d.reason);
    // Where trials judge, a rollout above the cap is noise or a tightened target, and the trials deal with it.
    let mut c = policy(|c| c.trust_region = Some(TrustRegion::default()));
    rollout(&mut c, 0, vec![of(ALL, 6.0)]);
    trial(&mut c, 0, vec![of(ALL, 6.5)]);
    assert_eq!(rollout(&mut c, 1, vec![of(ALL, 7.2)]).verdict, Verdict::Accept);
    // Noise alone does not halt.
    let mut c = policy(|c| c.trust_region = Some(TrustRegion::default()));
    let noisy = |step| KlObservation::rollout(step, vec![DomainKl { stderr: nats(0.5), ..of(ALL, 7.5) }]);
    c.observe(&noisy(0));
    assert_eq!(c.observe(&noisy(1)).verdict, Verdict::Accept);
}

#[test]
fn a_broken_rollout_does_not_hide_the_update_before_it() {
    let mut c = policy(|c| c.trust_region = Some(TrustRegion::default()));
    rollout(&mut c, 0, vec![of(ALL, 3.0)]);
    assert_eq!(rollout(&mut c, 1, vec![of(ALL, f64::NAN)]).verdict, Verdict::Reject);
    assert_eq!(answer(&rollout(&mut c, 2, vec![of(ALL, 90.0)])), (Verdict::Halt, ReasonCode::CapUnjudged));
    // A trial that accepts knows the weights again.
    let mut c = policy(|c| c.trust_region = Some(TrustRegion::default()));
    rollout(&mut c, 0, vec![of(ALL, 3.0)]);
    rollout(&mut c, 1, vec![of(ALL, 3.0)]);
    trial(&mut c, 1, vec![of(ALL, 3.0)]);
    rollout(&mut c, 2, vec![of(ALL, f64::NAN)]);
    assert_eq!(rollout(&mut c, 3, vec![of(ALL, 7.5)]).verdict, Verdict::Accept);
    // The ledger enters what is measured, though something else is broken, and does not forget what is not.
    let fed = |mean: f64, old: f64| vec![DomainKl { kl_old: nats(old), ..of(ALL, mean) }];
    let mut c = policy(|c| c.ledger = Some(Ledger { limit: NatsPerSequence(5.0) }));
    rollout(&mut c, 0, fed(3.0, 0.0));
    assert_eq!(rollout(&mut c, 1, fed(f64::NAN, 50.0)).verdict, Verdict::Halt);
    assert_eq!(c.ledger().unwrap().spent, 50.0);
    let mut c = policy(|c| c.ledger = Some(Ledger { limit: NatsPerSequence(500.0) }));
    let verdicts: Vec<_> = (0..9).map(|step| rollout(&mut c, step, vec![of(ALL, 3.0)]).verdict).collect();
    use Verdict::{Accept, Halt, Reject};
    // Every second one follows an update; the fourth of those halts.
    assert_eq!(verdicts, [Accept, Reject, Accept, Reject, Accept, Reject, Accept, Halt, Halt]);
}

#[test]
fn after_a_rollback_a_domain_that_came_later_is_judged_from_what_is_measured() {
    let mut c = policy(|c| c.trust_region = Some(TrustRegion::default()));
    rollout(&mut c, 0, vec![of("a", 3.0)]);
    trial(&mut c, 0, vec![of("a", 3.1)]);
    let checkpoint = c.state();
    rollout(&mut c, 1, vec![of("a", 3.0), of("b", 30.0)]);
    trial(&mut c, 1, vec![of("a", 3.0), of("b", 29.0)]);
    c.roll_back(&checkpoint).unwrap();
    rollout(&mut c, 2, vec![of("a", 3.0), of("b", 1.0)]);
    assert_eq!(
        trial(&mut c, 2, vec![of("a", 3.0), of("b", 20.0)]).verdict,
        Verdict::Scale,
        "20 is no fall from 29"
    );
}

#[test]
fn metrics_count_though_every_domain_is_absent() {
    let mut c = linked();
    let mut obs = with_metrics(0, &[("unsafe", 0.9, None)]);
    obs.domains[0].n = 0;
    assert_eq!(c.observe(&obs).verdict, Verdict::Halt);
    assert!((c.target(ALL).unwrap().0 - 1.2).abs() < 1e-12);
}

#[test]
fn a_first_reference_that_is_capped_but_not_known_is_asked_for() {
    let mut c =
        policy(|c| c.trust_region = Some(TrustRegion { ref0_cap: nats(10.0), ..TrustRegion::default() }));
    let with = |kl: f64, first: f64| vec![DomainKl { kl_ref0: nats(first), ..of(ALL, kl) }];
    let d = rollout(&mut c, 0, vec![of(ALL, 3.0)]);
    assert_eq!(answer(&d), (Verdict::Accept, ReasonCode::BeforeUnknown));
    assert_eq!(trial(&mut c, 0, with(3.0, 4.0)).verdict, Verdict::Accept);
    assert_ne!(
        rollout(&mut c, 1, vec![of(ALL, 3.0)]).reason.code(),
        ReasonCode::BeforeUnknown,
        "known from the trial"
    );
    // With it, a policy above the cap comes back.
    let mut c =
        policy(|c| c.trust_region = Some(TrustRegion { ref0_cap: nats(10.0), ..TrustRegion::default() }));
    let mut first = 12.0;
    for step in 0..20 {
        rollout(&mut c, step, with(3.0, first));
        if trial(&mut c, step, with(3.0, first - 0.3)).verdict == Verdict::Accept {
            first -= 0.3;
        }
    }
    assert!(first < 10.0, "{first}");
}

#[test]
fn a_ledger_that_is_not_fed_rejects() {
    let mut c = policy(|c| c.ledger = Some(Ledger { limit: NatsPerSequence(9.0) }));
    rollout(&mut c, 0, vec![of(ALL, 3.0)]);
    let d = rollout(&mut c, 1, vec![of(ALL, 3.0)]);
    assert_eq!(answer(&d), (Verdict::Reject, ReasonCode::Unmeasured));
    assert!(d.reason.text().contains("kl_old"), "{}", d.reason);
    // After a rejected rollout there is no update to enter.
    assert_eq!(rollout(&mut c, 2, vec![of(ALL, 3.0)]).verdict, Verdict::Accept);
    // `all` without the number does not hide the domains that have it; a domain without it does.
    let moved = |id: &str, old: f64| DomainKl { kl_old: nats(old), ..of(id, 3.0) };
    let mut c = policy(|c| c.ledger = Some(Ledger { limit: NatsPerSequence(9.0) }));
    rollout(&mut c, 0, vec![of(ALL, 3.0)]);
    rollout(&mut c, 1, vec![of(ALL, 3.0), moved("a", 0.25), moved("b", 0.75)]);
    assert_eq!(c.ledger().unwrap().spent, 0.5);
    assert_eq!(
        rollout(&mut c, 2, vec![moved("a", 0.25), of("b", 3.0)]).reason.code(),
        ReasonCode::Unmeasured
    );
}

fn linked() -> KlPolicy {
    policy(|c| {
        let metrics = vec![MetricLimit { id: "unsafe".into(), warn: 0.01, limit: 0.03 }];
        c.budgets = vec![Budget { metrics, ..Budget::new(ALL, NatsPerSequence(6.0)) }];
    })
}

fn with_metrics(step: u64, metrics: &[(&str, f64, Option<f64>)]) -> KlObservation {
    let mut obs = KlObservation::rollout(step, vec![of(ALL, 6.0)]);
    obs.metrics = metrics
        .iter()
        .map(|(id, value, ucb)| MetricValue { id: (*id).into(), value: *value, ucb: *ucb })
        .collect();
    obs
}

#[test]
fn a_metric_cannot_be_talked_out_of_its_limit() {
    // Each of these is 0.9 against a limit of 0.03: the target falls to its floor of a fifth.
    let cases: [&[(&str, f64, Option<f64>)]; 4] = [
        &[("unsafe", 0.9, Some(f64::NAN))],
        &[("unsafe", 0.9, Some(0.0))],
        &[("unsafe", 0.0, Some(0.0)), ("unsafe", 0.9, None)],
        &[("unsafe", 0.9, None), ("unsafe", 0.0, Some(0.0))],
    ];
    for metrics in cases {
        let mut c = linked();
        c.observe(&with_metrics(0, metrics));
        assert!((c.target(ALL).unwrap().0 - 1.2).abs() < 1e-12, "{metrics:?}");
    }
    // Without a value there is nothing to go by.
    let mut c = linked();
    c.observe(&with_metrics(0, &[("unsafe", f64::NAN, Some(0.9))]));
    assert_eq!(c.target(ALL), nats(6.0));
}

#[test]
fn a_metric_that_never_comes_is_named() {
    let mut c = linked();
    let named: Vec<_> = (0..20)
        .filter(|step| {
            c.observe(&with_metrics(*step, &[("unsave", 0.9, None)])).reason.code()
                == ReasonCode::MetricUnseen
        })
        .collect();
    assert_eq!(named, [7, 15]);
    let mut c = linked();
    c.observe(&with_metrics(0, &[("unsafe", 0.0, None)]));
    assert!(
        (1..20).all(|s| c.observe(&with_metrics(s, &[])).reason.code() != ReasonCode::MetricUnseen),
        "it came once"
    );
}

#[test]
fn budgets_none_of_which_is_met_are_named_at_once() {
    let mut c =
        policy(|c| c.budgets = ["code", "chat"].map(|id| Budget::new(id, NatsPerSequence(6.0))).to_vec());
    let d = rollout(&mut c, 0, vec![of(ALL, 9.0)]);
    assert_eq!(answer(&d), (Verdict::Accept, ReasonCode::BudgetUnseen));
    assert_ne!(rollout(&mut c, 1, vec![of("code", 6.0)]).reason.code(), ReasonCode::BudgetUnseen);
}

#[test]
fn doubling_on_the_old_policy_is_judged_by_that_kl_throughout() {
    let config = |c: &mut KlConfig| {
        c.law =
            Law::PpoAdaptive(PpoAdaptive { of: KlTo::Old, ..PpoAdaptive::new(0.2, NatsPerSequence(0.05)) });
        c.guard = Some(Guard::default());
        c.trust_region = Some(TrustRegion { old_cap: nats(0.3), ..TrustRegion::default() });
    };
    let with = |old: f64| vec![DomainKl { kl_old: nats(old), ..of(ALL, 5.0) }];
    let mut c = policy(config);
    for step in 0..30 {
        assert_eq!(rollout(&mut c, step, with(0.05)).verdict, Verdict::Accept, "step {step}");
        assert_eq!(
            trial(&mut c, step, with(0.05)).verdict,
            Verdict::Accept,
            "5 nats to the reference have no cap"
        );
    }
    assert_eq!(c.beta(ALL), 0.2);
    rollout(&mut c, 30, with(0.2));
    assert_eq!(c.beta(ALL), 0.4);
    // A blow-up is one of that KL.
    let mut c = policy(config);
    let asked: Vec<_> = (0..3)
        .map(|step| rollout(&mut c, step, vec![DomainKl { kl_old: nats(9.0), ..of(ALL, 5.0) }]).verdict)
        .collect();
    assert_eq!(asked[2], Verdict::Rollback);
    let mut c = policy(config);
    assert_eq!(answer(&rollout(&mut c, 0, vec![of(ALL, 5.0)])), (Verdict::Reject, ReasonCode::Unmeasured));
}

#[test]
fn a_rare_domain_is_controlled_on_what_comes_together() {
    // One sequence a step, ten times the target; its standard error alone is six times the target.
    for shrink in [0.0, 32.0] {
        let mut c = policy(|c| {
            c.shrink = shrink;
            c.budgets =
                vec![Budget::new("rare", NatsPerSequence(0.5)), Budget::new("common", NatsPerSequence(6.0))];
        });
        for step in 0..500 {
            let rare = DomainKl::new("rare", NatsPerSequence(5.0), f64::NAN, 1);
            rollout(&mut c, step, vec![rare, DomainKl::new("common", NatsPerSequence(6.0), 12.0, 500)]);
        }
        assert!(c.beta("rare") > 0.2, "shrink {shrink}: {}", c.beta("rare"));
    }
    // Taken together by sequences: (2·1 + 6·3)/8 = 5 with √((2·0.9)² + (6·0.3)²)/8.
    let noisy = |kl: f64, stderr: f64, n| DomainKl {
        stderr: nats(stderr),
        ..DomainKl::new(ALL, NatsPerSequence(kl), 1.0, n)
    };
    let mut c = policy(|c| c.law = Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(0.2), 1e4)));
    let d = rollout(&mut c, 0, vec![noisy(1.0, 0.9, 2)]);
    assert_eq!(d.reason.code(), ReasonCode::TooNoisy);
    let pending = c.state().domains[ALL].pending.unwrap();
    assert_eq!((pending.n, pending.mean, pending.stderr), (2, 1.0, 0.9));
    let d = rollout(&mut c, 1, vec![noisy(3.0, 0.3, 6)]);
    assert_eq!(d.reason.code(), ReasonCode::BetaRaised);
    // e is clipped at 0.2; the step is that of all eight sequences.
    assert!(((d.beta_for(ALL) / 0.2).ln() - 0.2 * 8.0 / 1e4).abs() < 1e-12);
    assert_eq!(c.state().domains[ALL].pending, None);
    let mut c = policy(|c| c.law = Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(0.2), 1e4)));
    rollout(&mut c, 0, vec![noisy(1.0, 0.9, 2)]);
    rollout(&mut c, 1, vec![noisy(0.2, 0.3, 6)]);
    let pending = c.state().domains[ALL].pending.unwrap();
    assert_eq!(pending.n, 8);
    assert!((pending.mean - (2.0 + 1.2) / 8.0).abs() < 1e-12);
    assert!((pending.stderr - (1.8f64.powi(2) + 1.8f64.powi(2)).sqrt() / 8.0).abs() < 1e-12);
}

#[test]
fn broken_trials_alarm_though_rollouts_are_fine() {
    let mut c = policy(|c| {
        c.trust_region = Some(TrustRegion::default());
        c.guard = Some(Guard::default());
    });
    let verdicts: Vec<_> = (0..5)
        .map(|step| {
            rollout(&mut c, step, vec![of(ALL, 5.0)]);
            trial(&mut c, step, vec![of(ALL, f64::NAN)]).verdict
        })
        .collect();
    use Verdict::{Halt, Reject, Rollback};
    assert_eq!(verdicts, [Reject, Reject, Rollback, Reject, Halt]);
    // One that is judged, well or badly, ends the row.
    let mut c = policy(|c| {
        c.trust_region = Some(TrustRegion::default());
        c.guard = Some(Guard::default());
    });
    for step in 0..20 {
        rollout(&mut c, step, vec![of(ALL, 5.0)]);
        let kl = if step % 3 == 2 { 5.1 } else { f64::NAN };
        assert!(
            matches!(trial(&mut c, step, vec![of(ALL, kl)]).verdict, Verdict::Reject | Verdict::Accept),
            "{step}"
        );
    }
}

#[test]
fn a_trial_that_is_sent_again_gets_its_gravest_verdict_again() {
    let mut c = policy(|c| {
        c.trust_region = Some(TrustRegion::default());
        c.guard = Some(Guard { rollback_after: 1, ..Guard::default() });
    });
    rollout(&mut c, 0, vec![of(ALL, 5.0)]);
    assert_eq!(trial(&mut c, 0, vec![of(ALL, f64::NAN)]).verdict, Verdict::Rollback);
    let again = trial(&mut c, 0, vec![of(ALL, f64::NAN)]);
    assert_eq!(answer(&again), (Verdict::Rollback, ReasonCode::DuplicateTrial));
    assert_eq!(c.state().guard.rollbacks, 1);
}

#[test]
fn an_id_without_a_budget_has_no_cap_by_ratio() {
    let mut c = policy(|c| {
        c.budgets = ["a", "b"].map(|id| Budget::new(id, NatsPerSequence(12.0))).to_vec();
        c.trust_region = Some(TrustRegion::default());
    });
    let observed = |kl: f64| vec![of("a", kl), of("b", kl), of(ALL, kl)];
    rollout(&mut c, 0, observed(7.0));
    assert_eq!(
        trial(&mut c, 0, observed(8.0)).verdict,
        Verdict::Accept,
        "`all` is watched only; 13.8 is the cap of a and b"
    );
    // A cap in nats is everybody's.
    let mut c = policy(|c| {
        c.budgets = vec![Budget::new("a", NatsPerSequence(12.0))];
        c.trust_region = Some(TrustRegion { cap: nats(7.5), ..TrustRegion::default() });
    });
    rollout(&mut c, 0, observed(7.0));
    assert_eq!(trial(&mut c, 0, vec![of("a", 7.0), of("b", 7.0), of(ALL, 8.0)]).verdict, Verdict::Scale);
}

#[test]
fn a_row_never_pays_an_infinite_sum() {
    // The published linear form has no bounds: three of its β near the largest number would add up to infinity.
    let mut c = policy(|c| {
        c.law = Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(6.0), 1.0));
        c.budgets = ["a", "user:*", ALL].map(|id| Budget::new(id, NatsPerSequence(6.0))).to_vec();
    });
    let mut last = None;
    for step in 0..400 {
        last = Some(rollout(&mut c, step, vec![of("a", 1e9), of("user:x", 1e9), of(ALL, 1e9)]));
    }
    let d = last.unwrap();
    assert!(d.beta["a"] > 1e307 && d.beta[ALL] > 1e307);
    assert!(d.beta_for("a").is_finite() && d.beta_for_row(&["a", "user:x", ALL]).is_finite());
}

#[test]
fn a_step_out_of_turn_is_rejected_and_an_enormous_one_is_no_observation() {
    let mut c = policy(|_| ());
    rollout(&mut c, 5, vec![of(ALL, 5.0)]);
    assert_eq!(answer(&rollout(&mut c, 4, vec![of(ALL, 5.0)])), (Verdict::Reject, ReasonCode::StepBackwards));
    let line =
        |step: &str| format!(r#"{{"step":{step},"domains":[{{"id":"all","mean_kl":1,"var":1,"n":3}}]}}"#);
    let read = |step: &str| serde_json::from_str::<KlObservation>(&line(step));
    assert!(read("9007199254740992").is_ok());
    let error = read("18446744073709551615").unwrap_err().to_string();
    assert!(error.contains("`step`") && error.contains("2^53"), "{error}");
}
