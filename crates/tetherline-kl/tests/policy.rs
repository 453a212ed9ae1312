//! How the parts work together, in numbers worked out by hand: shrinkage, marks of the guard, which reason is
//! given, what a trial is compared with, and what a ledger enters.

use tetherline_kl::law::{Adaptive, Law, Schedule};
use tetherline_kl::{
    ALL, Budget, ControlDecision, DomainKl, Guard, KlConfig, KlController, KlObservation, KlPolicy, Ledger,
    MetricLimit, MetricValue, NatsPerSequence, Phase, ReasonCode, Shape, TrustRegion, Verdict,
};

const HORIZON: f64 = 1e4;

fn law() -> Law {
    Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), HORIZON))
}

fn policy(change: impl FnOnce(&mut KlConfig)) -> KlPolicy {
    let mut config = law().into();
    change(&mut config);
    KlPolicy::new(config).expect("a valid configuration")
}

fn of(id: &str, kl: f64, stderr: f64, n: u64) -> DomainKl {
    DomainKl { stderr: Some(NatsPerSequence(stderr)), ..DomainKl::new(id, NatsPerSequence(kl), 1.0, n) }
}

fn all(kl: f64, stderr: f64) -> Vec<DomainKl> {
    vec![of(ALL, kl, stderr, 100)]
}

fn rollout(c: &mut KlPolicy, step: u64, domains: Vec<DomainKl>) -> ControlDecision {
    c.observe(&KlObservation::rollout(step, domains))
}

fn trial(c: &mut KlPolicy, step: u64, j: u32, domains: Vec<DomainKl>) -> ControlDecision {
    c.observe(&KlObservation::trial(step, j, domains))
}

/// The error that moved β: ln(β/init) = e·n/horizon.
fn error(decision: &ControlDecision, id: &str, init: f64, n: f64) -> f64 {
    (decision.beta[id] / init).ln() * HORIZON / n
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
}

fn budgeted(shrink: f64, ids: &[(&str, f64)]) -> KlPolicy {
    policy(|c| {
        c.shrink = shrink;
        c.budgets = ids.iter().map(|(id, t)| Budget::new(*id, NatsPerSequence(*t))).collect();
    })
}

#[test]
fn shrinkage_within_the_noise_weighs_by_sequences() {
    // r = 1.02 (n 100) and 0.98 (n 300) differ by less than their noise of 0.05: weight n/(n + 100), towards
    // the mean of 0.99 by sequences.
    let mut c = budgeted(100.0, &[("code", 2.0), ("legal", 8.0)]);
    let d = rollout(&mut c, 0, vec![of("code", 2.04, 0.1, 100), of("legal", 7.84, 0.4, 300)]);
    close(error(&d, "code", 0.2, 100.0), 0.5 * 1.02 + 0.5 * 0.99 - 1.0);
    close(error(&d, "legal", 0.2, 300.0), 0.75 * 0.98 + 0.25 * 0.99 - 1.0);
}

#[test]
fn shrinkage_beyond_the_noise_weighs_by_the_spread() {
    // r = 1.1 and 0.95: their mean is 0.9875, Σnr²/Σn 0.979375 and the noise of 0.01 in r is 0.0001.
    let mut c = budgeted(1e9, &[("code", 2.0), ("legal", 8.0)]);
    let d = rollout(&mut c, 0, vec![of("code", 2.2, 0.02, 100), of("legal", 7.6, 0.08, 300)]);
    let between: f64 = (0.25 * 1.21 + 0.75 * 0.9025) - 0.0001 - 0.9875 * 0.9875;
    let weight = between / (between + 0.0001);
    close(error(&d, "code", 0.2, 100.0), weight * 1.1 + (1.0 - weight) * 0.9875 - 1.0);
    close(error(&d, "legal", 0.2, 300.0), weight * 0.95 + (1.0 - weight) * 0.9875 - 1.0);
}

#[test]
fn shrinkage_leaves_out_the_whole_and_what_has_no_budget() {
    // `all` is neither drawn nor drawn to; an id without a budget is not drawn to.
    let mut c = budgeted(100.0, &[("user:ann", 2.0), (ALL, 5.0)]);
    let observed = || vec![of("user:ann", 2.2, 0.5, 100), of(ALL, 5.5, 0.5, 100), of("code", 0.1, 0.5, 900)];
    let d = rollout(&mut c, 0, observed());
    close(error(&d, ALL, 0.1, 100.0), 0.1);
    close(error(&d, "user:ann", 0.1, 100.0), 0.1);
    // With shrinkage off, each stands for itself.
    let mut c = budgeted(0.0, &[("code", 2.0), ("legal", 8.0)]);
    let d = rollout(&mut c, 0, vec![of("code", 2.2, 0.5, 10), of("legal", 7.6, 0.5, 10)]);
    close(error(&d, "code", 0.2, 10.0), 0.1);
    close(error(&d, "legal", 0.2, 10.0), -0.05);
}

#[test]
fn shrinking_shrinks_the_standard_error_too() {
    // β rests at its bound. KL 2.2 against 2 with a standard error of 0.3 says nothing; at half of both it does.
    let mut c = policy(|c| {
        c.shrink = 100.0;
        c.law =
            Law::Adaptive(Adaptive { beta_max: 0.2, ..Adaptive::new(0.2, NatsPerSequence(6.0), HORIZON) });
        c.budgets =
            vec![Budget::new("code", NatsPerSequence(2.0)), Budget::new("legal", NatsPerSequence(2.0))];
    });
    for step in 0..11 {
        rollout(&mut c, step, vec![of("code", 2.2, 0.3, 100), of("legal", 2.2, 0.3, 100)]);
    }
    let d = rollout(&mut c, 11, vec![of("code", 2.2, 0.3, 100), of("legal", 2.2, 0.3, 100)]);
    assert_eq!(d.reason.code(), ReasonCode::Infeasible, "2.2 − 0.15 > 2");
}

#[test]
fn after_a_cut_the_law_follows_the_bound_that_the_cap_judged() {
    let mut c = policy(|c| c.trust_region = Some(TrustRegion::default()));
    rollout(&mut c, 0, all(6.0, 0.5));
    assert_eq!(trial(&mut c, 0, 0, all(6.5, 0.5)).verdict, Verdict::Scale);
    let d = rollout(&mut c, 1, all(5.6, 0.5));
    close(error(&d, ALL, 0.2, 100.0), (5.6 + 1.645 * 0.5) / 6.0 - 1.0);
}

#[test]
fn a_bound_counts_as_infeasible_only_beyond_noise() {
    let at_bound = || {
        policy(|c| {
            c.law = Law::Adaptive(Adaptive {
                beta_max: 0.2,
                ..Adaptive::new(0.2, NatsPerSequence(6.0), HORIZON)
            });
        })
    };
    for (kl, stderr, expected) in
        [(6.3, 0.5, ReasonCode::AtBound), (6.5, 0.5, ReasonCode::AtBound), (6.6, 0.5, ReasonCode::Infeasible)]
    {
        let mut c = at_bound();
        let last = (0..12).map(|step| rollout(&mut c, step, all(kl, stderr))).last().unwrap();
        assert_eq!(last.reason.code(), expected, "{kl} ± {stderr}");
    }
}

#[test]
fn the_reason_says_what_the_law_did() {
    let code = |law: Law, kl: f64| {
        let mut c = KlPolicy::new(law.into()).unwrap();
        rollout(&mut c, 0, all(kl, 0.0)).reason.code()
    };
    assert_eq!(code(law(), 7.0), ReasonCode::BetaRaised);
    assert_eq!(code(law(), 5.0), ReasonCode::BetaLowered);
    assert_eq!(code(law(), 6.0), ReasonCode::BetaHeld);
    assert_eq!(code(KlConfig::fixed(0.1).law, 6.0), ReasonCode::Fixed);
    let constant = Schedule { init: 0.1, end: 0.1, steps: 5, shape: Shape::Constant, warmup: 0 };
    assert_eq!(code(Law::Schedule(constant), 6.0), ReasonCode::Scheduled);
}

#[test]
fn a_note_comes_before_a_plain_move_and_the_first_id_before_the_second() {
    let noisy = of("b", 6.0, 7.0, 100);
    let mut c = policy(|_| ());
    let d = rollout(&mut c, 0, vec![of("a", 7.0, 0.1, 100), noisy]);
    assert_eq!(d.reason.code(), ReasonCode::TooNoisy);
    for reversed in [false, true] {
        let mut domains = vec![of("a", 7.0, 0.1, 100), of("b", 8.0, 0.1, 100)];
        if reversed {
            domains.reverse();
        }
        let mut c = policy(|_| ());
        assert!(rollout(&mut c, 0, domains).reason.text().starts_with("KL of a "));
    }
}

#[test]
fn of_two_budgets_that_tighten_the_first_is_named_with_its_new_target() {
    let mut c = policy(|c| {
        let metrics = || vec![MetricLimit { id: "unsafe".into(), warn: 0.0, limit: 1.0 }];
        c.budgets = ["x", "y"]
            .map(|id| Budget { metrics: metrics(), ..Budget::new(id, NatsPerSequence(8.0)) })
            .to_vec();
    });
    let mut obs = KlObservation::rollout(0, vec![of("x", 8.0, 0.1, 100)]);
    obs.metrics = vec![MetricValue { id: "unsafe".into(), value: 0.25, ucb: None }];
    let text = c.observe(&obs).reason.text();
    assert!(text.contains("the budget x tightens to 6.0000"), "{text}");
}

#[test]
fn a_blow_up_is_beyond_twice_the_target_by_two_standard_errors() {
    for (kl, stderr, asks) in [(13.0, 0.6, false), (13.0, 0.5, false), (13.3, 0.6, true), (10.0, 0.0, false)]
    {
        let mut c = policy(|c| c.guard = Some(Guard { blow_up_for: 1, ..Guard::default() }));
        let d = rollout(&mut c, 0, all(kl, stderr));
        assert_eq!(d.verdict == Verdict::Rollback, asks, "{kl} ± {stderr}");
    }
}

#[test]
fn a_fast_rise_is_close_to_the_cap_and_beyond_the_noise_of_both() {
    // The cap is 6.9; nine tenths of it are 6.21. Standard errors of 0.3 and 0.4 make 0.5.
    for (before, after, throttles) in
        [(5.6, 6.5, false), (5.6, 6.7, true), (1.0, 5.0, false), (4.0, 6.2, false), (4.0, 6.3, true)]
    {
        let mut c = policy(|c| c.guard = Some(Guard::default()));
        rollout(&mut c, 0, all(before, 0.4));
        let d = rollout(&mut c, 1, all(after, 0.3));
        assert_eq!(d.verdict == Verdict::Throttle, throttles, "{before} to {after}");
    }
    for reversed in [false, true] {
        let mut c = policy(|c| c.guard = Some(Guard::default()));
        let both = |kl: f64| vec![of("a", kl, 0.1, 100), of("b", kl + 0.1, 0.1, 100)];
        rollout(&mut c, 0, both(4.0));
        let mut domains = both(6.5);
        if reversed {
            domains.reverse();
        }
        let text = rollout(&mut c, 1, domains).reason.text();
        assert!(text.starts_with("KL of a has risen to 6.5"), "{text}");
    }
}

#[test]
fn only_broken_trials_count_as_broken() {
    let guarded = || {
        policy(|c| {
            c.trust_region = Some(TrustRegion { max_trials: 1, ..TrustRegion::default() });
            c.guard = Some(Guard { rollback_after: 1, ..Guard::default() });
        })
    };
    let mut c = guarded();
    rollout(&mut c, 0, all(2.0, 0.0));
    assert_eq!(trial(&mut c, 0, 0, all(f64::NAN, 0.0)).verdict, Verdict::Rollback);
    let mut c = guarded();
    rollout(&mut c, 0, all(2.0, 0.0));
    trial(&mut c, 0, 0, all(60.0, 0.0));
    assert_eq!(trial(&mut c, 0, 1, all(60.0, 0.0)).verdict, Verdict::Reject);
}

/// Another sample of the same weights must not move the bar: noise above the cap would pass for a policy above
/// it, whose next rise then looks like a fall.
#[test]
fn a_trial_is_compared_with_the_last_accepted_one() {
    let capped = || policy(|c| c.trust_region = Some(TrustRegion::default()));
    let mut c = capped();
    rollout(&mut c, 0, all(6.0, 0.0));
    assert_eq!(trial(&mut c, 0, 0, all(6.8, 0.0)).verdict, Verdict::Accept);
    rollout(&mut c, 1, all(7.5, 0.0));
    assert_eq!(trial(&mut c, 1, 0, all(7.2, 0.0)).verdict, Verdict::Scale);
    // Nor does a step without an update, after a broken rollout.
    let mut c = capped();
    rollout(&mut c, 0, all(6.0, 0.0));
    trial(&mut c, 0, 0, all(6.8, 0.0));
    assert_eq!(rollout(&mut c, 1, all(f64::NAN, 0.0)).verdict, Verdict::Reject);
    rollout(&mut c, 2, all(7.5, 0.0));
    assert_eq!(trial(&mut c, 2, 0, all(7.2, 0.0)).verdict, Verdict::Scale);
    // Where nothing was judged in between, the rollout is all there is.
    let mut c = capped();
    rollout(&mut c, 0, all(9.0, 0.0));
    rollout(&mut c, 1, all(3.0, 0.0));
    assert_eq!(trial(&mut c, 1, 0, all(8.0, 0.0)).verdict, Verdict::Scale);
    rollout(&mut c, 2, all(3.0, 0.0));
    trial(&mut c, 2, 0, all(3.1, 0.0));
    rollout(&mut c, 3, all(7.0, 0.5)); // its update is not judged
    rollout(&mut c, 4, all(7.0, 0.5));
    assert_eq!(trial(&mut c, 4, 0, all(6.9, 0.5)).verdict, Verdict::Accept, "lower than it was");
    // Of a domain that was not there, the next rollout tells.
    let mut c = capped();
    let two = |a: f64, b: f64| vec![of("a", a, 0.0, 9), of("b", b, 0.0, 9)];
    rollout(&mut c, 0, vec![of("a", 2.0, 0.0, 9)]);
    trial(&mut c, 0, 0, vec![of("a", 2.0, 0.0, 9)]);
    rollout(&mut c, 1, two(2.0, 9.0));
    assert_eq!(trial(&mut c, 1, 0, two(2.0, 8.0)).verdict, Verdict::Accept);
}

#[test]
fn trials_without_a_number_are_counted() {
    let mut c = policy(|c| c.trust_region = Some(TrustRegion::default()));
    let next = |step: u64, kl: f64| KlObservation {
        phase: Phase::Trial,
        ..KlObservation::rollout(step, all(kl, 0.0))
    };
    rollout(&mut c, 0, all(2.0, 0.0));
    let d = c.observe(&next(0, 8.0));
    assert_eq!((d.reason.code(), d.scale), (ReasonCode::AboveCap, 0.8));
    let d = c.observe(&next(0, 7.0));
    assert_eq!(d.reason.code(), ReasonCode::AboveCap, "the second one, not the first again");
    assert!(d.reason.text().contains("keep 0.6400"), "{}", d.reason);
    let d = c.observe(&next(0, 6.0));
    assert!(d.reason.text().starts_with("trial 2 keeps every cap with 0.6400"), "{}", d.reason);
    rollout(&mut c, 1, all(6.0, 0.0));
    let d = c.observe(&next(1, 6.0));
    assert!(d.reason.text().starts_with("trial 0 keeps every cap with 1.0000"), "{}", d.reason);
}

#[test]
fn of_two_domains_that_leave_the_same_share_the_first_is_named() {
    for reversed in [false, true] {
        let mut c = policy(|c| c.trust_region = Some(TrustRegion::default()));
        let both = |kl: f64| vec![of("a", kl, 0.0, 9), of("b", kl, 0.0, 9)];
        rollout(&mut c, 0, both(2.0));
        let mut domains = both(8.0);
        if reversed {
            domains.reverse();
        }
        let text = trial(&mut c, 0, 0, domains).reason.text();
        assert!(text.starts_with("KL of a "), "{text}");
    }
}

#[test]
fn a_ledger_enters_the_mean_by_sequences_or_that_of_all() {
    let moved =
        |id: &str, n: u64, old: f64| DomainKl { kl_old: Some(NatsPerSequence(old)), ..of(id, 3.0, 0.1, n) };
    let ledger = || policy(|c| c.ledger = Some(Ledger { limit: NatsPerSequence(9.0) }));
    let mut c = ledger();
    rollout(&mut c, 0, all(3.0, 0.1));
    trial(&mut c, 0, 0, vec![moved("x", 100, 0.2), moved("y", 300, 0.4)]);
    close(c.ledger().unwrap().spent, 0.35);
    let mut c = ledger();
    rollout(&mut c, 0, all(3.0, 0.1));
    trial(&mut c, 0, 0, vec![moved("x", 100, 0.2), moved(ALL, 300, 0.5)]);
    close(c.ledger().unwrap().spent, 0.5);
    let mut c = ledger();
    rollout(&mut c, 0, all(3.0, 0.1));
    assert_eq!(trial(&mut c, 0, 0, vec![of("x", 3.0, 0.1, 9)]).reason.code(), ReasonCode::Unmeasured);
    assert_eq!(c.ledger().unwrap().entries, 0);
    // Without trials, a rollout's KL to the old policy is that of the update before it; one that is listed
    // twice counts for nothing.
    let mut c = ledger();
    rollout(&mut c, 0, vec![moved(ALL, 10, 0.7)]);
    rollout(&mut c, 1, vec![moved(ALL, 10, 0.3)]);
    rollout(&mut c, 2, vec![moved("x", 10, 0.3), moved("x", 10, 0.3)]);
    close(c.ledger().unwrap().spent, 0.3);
}
