//! Whose turn it is: trials against their rollout, updates against the ledger, and what a step leaves behind.

use tetherline_kl::law::{Adaptive, AutoPi, Law};
use tetherline_kl::{
    ALL, BudgetState, ControlDecision, ControllerState, DomainKl, Guard, KlConfig, KlController,
    KlObservation, KlPolicy, Ledger, NatsPerSequence, Pending, ReasonCode, StateError, TrustRegion, Verdict,
};

fn policy(change: impl FnOnce(&mut KlConfig)) -> KlPolicy {
    let mut config = KlConfig::from(Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 1e4)));
    change(&mut config);
    KlPolicy::new(config).expect("a valid configuration")
}

fn capped() -> KlPolicy {
    policy(|c| c.trust_region = Some(TrustRegion::default()))
}

fn of(id: &str, kl: f64) -> DomainKl {
    DomainKl { stderr: Some(NatsPerSequence(0.0)), ..DomainKl::new(id, NatsPerSequence(kl), 1.0, 100) }
}

fn moved(id: &str, kl_old: f64) -> DomainKl {
    DomainKl { kl_old: Some(NatsPerSequence(kl_old)), ..of(id, 3.0) }
}

fn rollout(c: &mut KlPolicy, step: u64, domains: Vec<DomainKl>) -> ControlDecision {
    c.observe(&KlObservation::rollout(step, domains))
}

fn trial(c: &mut KlPolicy, step: u64, j: u32, domains: Vec<DomainKl>) -> ControlDecision {
    c.observe(&KlObservation::trial(step, j, domains))
}

fn answer(d: &ControlDecision) -> (Verdict, ReasonCode) {
    (d.verdict, d.reason.code())
}

#[test]
fn a_trial_belongs_to_the_rollout_before_it() {
    let mut c = capped();
    assert_eq!(answer(&trial(&mut c, 0, 0, vec![of(ALL, 2.0)])), (Verdict::Reject, ReasonCode::TrialAhead));
    rollout(&mut c, 5, vec![of(ALL, 2.0)]);
    let before = c.state();
    assert_eq!(answer(&trial(&mut c, 900, 0, vec![of(ALL, 2.0)])), (Verdict::Reject, ReasonCode::TrialAhead));
    assert_eq!(c.state(), before, "it leaves no trace");
    assert_eq!(answer(&trial(&mut c, 5, 0, vec![of(ALL, 2.0)])).0, Verdict::Accept);
    assert_eq!(rollout(&mut c, 6, vec![of(ALL, 2.0)]).verdict, Verdict::Accept, "the stream goes on");
}

#[test]
fn one_update_is_judged_per_rollout() {
    let mut c = capped();
    rollout(&mut c, 0, vec![of(ALL, 2.0)]);
    assert_eq!(trial(&mut c, 0, 0, vec![of(ALL, 3.0)]).verdict, Verdict::Accept);
    assert_eq!(
        answer(&trial(&mut c, 0, 0, vec![of(ALL, 3.0)])),
        (Verdict::Accept, ReasonCode::DuplicateTrial)
    );
    assert_eq!(answer(&trial(&mut c, 0, 1, vec![of(ALL, 3.0)])), (Verdict::Reject, ReasonCode::StepClosed));
    // After a rejected rollout there is no update to judge.
    assert_eq!(rollout(&mut c, 1, vec![of(ALL, f64::NAN)]).verdict, Verdict::Reject);
    assert_eq!(answer(&trial(&mut c, 1, 0, vec![of(ALL, 3.0)])), (Verdict::Reject, ReasonCode::StepClosed));
    // A step that was scaled back and left there is not closed.
    rollout(&mut c, 2, vec![of(ALL, 2.0)]);
    assert_eq!(trial(&mut c, 2, 0, vec![of(ALL, 60.0)]).verdict, Verdict::Scale);
    assert_eq!(trial(&mut c, 2, 1, vec![of(ALL, 6.0)]).verdict, Verdict::Accept);
}

#[test]
fn a_trial_measures_every_domain_of_its_rollout() {
    let both = |b: f64| vec![of("a", 2.0), of("b", b)];
    let mut c = capped();
    rollout(&mut c, 0, both(2.0));
    // b would have been above its cap.
    let d = trial(&mut c, 0, 0, vec![of("a", 2.0)]);
    assert_eq!(answer(&d), (Verdict::Reject, ReasonCode::DomainMissing));
    assert!(d.reason.text().contains(" measured b "), "{}", d.reason);
    rollout(&mut c, 1, both(2.0));
    let empty = DomainKl { n: 0, ..of("b", 2.0) };
    assert_eq!(trial(&mut c, 1, 0, vec![of("a", 2.0), empty]).reason.code(), ReasonCode::DomainMissing);
    // A domain that the rollout did not measure is not asked for.
    rollout(&mut c, 2, vec![of("a", 2.0)]);
    assert_eq!(trial(&mut c, 2, 0, vec![of("a", 2.0)]).verdict, Verdict::Accept);
    // What is broken is the graver news.
    rollout(&mut c, 3, both(2.0));
    assert_eq!(trial(&mut c, 3, 0, vec![of("a", f64::NAN)]).reason.code(), ReasonCode::NotFinite);
    // Without a trust region nothing is judged, so nothing is missing.
    let mut c = policy(|_| ());
    rollout(&mut c, 0, both(2.0));
    assert_eq!(answer(&trial(&mut c, 0, 0, vec![of("a", 2.0)])), (Verdict::Accept, ReasonCode::NotJudged));
}

#[test]
fn a_ledger_enters_every_update_once_whatever_the_steps_are() {
    let ledger = || policy(|c| c.ledger = Some(Ledger { limit: NatsPerSequence(9.0) }));
    let spent = |c: &KlPolicy| c.ledger().map(|l| (l.spent, l.entries)).unwrap();
    // Judged by trials: the rollout after it does not enter the same update again, however many steps later.
    let mut c = ledger();
    rollout(&mut c, 0, vec![moved(ALL, 0.0)]);
    trial(&mut c, 0, 0, vec![moved(ALL, 0.25)]);
    rollout(&mut c, 10, vec![moved(ALL, 0.25)]);
    assert_eq!(spent(&c), (0.25, 1));
    trial(&mut c, 10, 0, vec![moved(ALL, 0.5)]);
    rollout(&mut c, 11, vec![moved(ALL, 0.5)]);
    assert_eq!(spent(&c), (0.75, 2));
    // Not judged: the rollout enters it. Nothing came before the first one.
    let mut c = ledger();
    rollout(&mut c, 7, vec![moved(ALL, 0.25)]);
    assert_eq!(spent(&c), (0.0, 0));
    rollout(&mut c, 20, vec![moved(ALL, 0.25)]);
    rollout(&mut c, 21, vec![moved(ALL, 0.5)]);
    assert_eq!(spent(&c), (0.75, 2));
    // Scaled back and left there: what became of it shows in the next rollout.
    let mut c = policy(|c| {
        c.ledger = Some(Ledger { limit: NatsPerSequence(9.0) });
        c.trust_region = Some(TrustRegion::default());
    });
    rollout(&mut c, 0, vec![moved(ALL, 0.0)]);
    let far = DomainKl { kl_old: Some(NatsPerSequence(5.0)), ..of(ALL, 60.0) };
    assert_eq!(trial(&mut c, 0, 0, vec![far]).verdict, Verdict::Scale);
    rollout(&mut c, 1, vec![moved(ALL, 0.25)]);
    assert_eq!(spent(&c), (0.25, 1));
    // No update follows a rejected rollout, so none is entered.
    let mut c = ledger();
    rollout(&mut c, 0, vec![moved(ALL, 0.0)]);
    rollout(&mut c, 1, vec![DomainKl { mean_kl: NatsPerSequence(f64::NAN), ..moved(ALL, 0.125) }]);
    rollout(&mut c, 2, vec![moved(ALL, 0.25)]);
    assert_eq!(
        spent(&c),
        (0.125, 1),
        "the update before the broken rollout is entered, and none came after it"
    );
}

#[test]
fn a_budget_that_meets_nobody_is_named() {
    let mut c = policy(|c| {
        c.budgets = ["code", "medcal", "user:*"]
            .map(|id| tetherline_kl::Budget::new(id, NatsPerSequence(6.0)))
            .to_vec();
    });
    let named: Vec<_> = (0..70)
        .filter_map(|step| {
            let d = rollout(&mut c, step, vec![of("code", 6.0), of("medical", 6.0), of("user:ann", 6.0)]);
            (d.reason.code() == ReasonCode::BudgetUnseen).then(|| (step + 1, d.reason.text()))
        })
        .collect();
    assert_eq!(named.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [8, 16, 32, 64]);
    assert!(named[0].1.contains("medcal") && named[0].1.contains("8 rollouts"), "{}", named[0].1);
    // Listed without a sequence is not met; met once is.
    let mut c = policy(|c| c.budgets = vec![tetherline_kl::Budget::new("code", NatsPerSequence(6.0))]);
    let empty = || vec![of(ALL, 6.0), DomainKl { n: 0, ..of("code", 6.0) }];
    let last = (0..8).map(|step| rollout(&mut c, step, empty())).last().unwrap();
    assert_eq!(last.reason.code(), ReasonCode::BudgetUnseen);
    rollout(&mut c, 8, vec![of("code", 6.0)]);
    let last = (9..16).map(|step| rollout(&mut c, step, empty())).last().unwrap();
    assert_ne!(last.reason.code(), ReasonCode::BudgetUnseen);
}

#[test]
fn while_a_budget_is_infeasible_the_learning_rate_does_not_recover() {
    let mut c = policy(|c| {
        c.law = Law::Adaptive(Adaptive { beta_max: 0.2, ..Adaptive::new(0.2, NatsPerSequence(6.0), 1e4) });
        c.guard = Some(Guard::default());
    });
    let factors: Vec<_> = (0..39).map(|step| rollout(&mut c, step, vec![of(ALL, 9.0)])).collect();
    assert_eq!((factors[10].verdict, factors[10].lr_factor), (Verdict::Accept, 1.0));
    for (at, factor) in [(11, 0.5), (22, 0.5), (23, 0.25), (35, 0.125), (38, 0.125)] {
        assert_eq!((answer(&factors[at]).1, factors[at].lr_factor), (ReasonCode::Infeasible, factor), "{at}");
    }
    assert_eq!(rollout(&mut c, 39, vec![of(ALL, 9.0)]).verdict, Verdict::Rollback);
    let mut c = policy(|c| {
        c.law = Law::Adaptive(Adaptive { beta_max: 0.2, ..Adaptive::new(0.2, NatsPerSequence(6.0), 1e4) });
        c.guard = Some(Guard::default());
    });
    (0..12).for_each(|step| drop(rollout(&mut c, step, vec![of(ALL, 9.0)])));
    assert!(
        (rollout(&mut c, 12, vec![of(ALL, 5.0)]).lr_factor - 0.55).abs() < 1e-12,
        "feasible: it recovers"
    );
}

#[test]
fn a_feed_forward_beta_is_shared_by_the_levels_of_budgets() {
    let law = AutoPi { feed_forward: true, ..AutoPi::new(0.2, NatsPerSequence(8.0)) };
    let beta = |ids: &[&str]| {
        let budgets = ids.iter().map(|id| tetherline_kl::Budget::new(*id, NatsPerSequence(8.0))).collect();
        let mut c = KlPolicy::new(KlConfig { budgets, ..Law::AutoPi(law).into() }).unwrap();
        let sd = |id: &str| DomainKl { reward_sd: Some(2.0), ..of(id, 0.5) };
        rollout(&mut c, 0, vec![sd("code"), sd("user:ann"), sd(ALL)]).beta_for_row(&["code", "user:ann", ALL])
    };
    // sd/√(2·8) = 0.5 for the row, whatever the number of its budgets.
    for ids in [&["code"][..], &["code", ALL], &["code", "user:*", ALL]] {
        assert!((beta(ids) - 0.5).abs() < 1e-12, "{ids:?}: {}", beta(ids));
    }
}

#[test]
fn damaged_parts_are_refused_by_their_name() {
    let mut c = policy(|c| {
        c.budgets = vec![tetherline_kl::Budget::new("code", NatsPerSequence(6.0))];
        c.trust_region = Some(TrustRegion::default());
        c.guard = Some(Guard::default());
        c.ledger = Some(Ledger { limit: NatsPerSequence(9.0) });
    });
    rollout(&mut c, 0, vec![moved("code", 0.1)]);
    trial(&mut c, 0, 0, vec![moved("code", 0.1)]);
    let good = c.state();
    let mut refused = |change: &dyn Fn(&mut ControllerState)| {
        let mut state = good.clone();
        change(&mut state);
        match c.restore(&state) {
            Err(StateError::Damaged { part, .. }) => part,
            other => panic!("{other:?}"),
        }
    };
    let code = "domain `code`";
    assert_eq!(refused(&|s| s.domains.get_mut("code").unwrap().kl = Some(-1.0)), code);
    assert_eq!(refused(&|s| s.domains.get_mut("code").unwrap().kl = Some(f64::NAN)), code);
    assert_eq!(refused(&|s| s.domains.get_mut("code").unwrap().stderr = -1.0), code);
    assert_eq!(refused(&|s| s.domains.get_mut("code").unwrap().at.stderr = -1.0), code);
    assert_eq!(refused(&|s| s.domains.get_mut("code").unwrap().at.reference = Some(-1.0)), code);
    assert_eq!(refused(&|s| s.domains.get_mut("code").unwrap().at.ref0 = Some(f64::INFINITY)), code);
    for share in [0.0, 1.5, f64::NAN] {
        let part = refused(&|s| s.budgets = vec![BudgetState { share, ..s.budgets[0].clone() }]);
        assert_eq!(part, "budget `code`");
    }
    for scale in [-0.1, 1.1, f64::NAN] {
        assert_eq!(refused(&|s| s.trust_region.scale = scale), "trust_region");
    }
    for factor in [0.0, 1.1, f64::NAN] {
        assert_eq!(refused(&|s| s.guard.lr_factor = factor), "guard");
    }
    for boost in [-0.1, 2.1, f64::NAN] {
        assert_eq!(refused(&|s| s.guard.ln_boost = boost), "guard");
    }
    for spent in [-0.1, f64::INFINITY] {
        assert_eq!(refused(&|s| s.ledger.spent = spent), "ledger");
    }
    for (n, mean, stderr) in [(0, 1.0, 1.0), (1, f64::NAN, 1.0), (1, 1.0, -1.0)] {
        let pending = Some(Pending { n, mean, stderr });
        assert_eq!(refused(&|s| s.domains.get_mut("code").unwrap().pending = pending), code);
    }
    assert_eq!(refused(&|s| s.budgets[0].met.push(true)), "budget `code`");
    assert!(c.restore(&good).is_ok());
}
