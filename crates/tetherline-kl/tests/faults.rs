//! What happens to β when the measurement is broken: it stays finite and where it was.

use tetherline_kl::law::{
    Adaptive, AutoPi, AutoPiState, Dual, Law, LawState, Pid, PidLagrangian, PidLagrangianState, PidState,
    Ziegler,
};
use tetherline_kl::{
    ControllerState, DomainKl, KlConfig, KlObservation, NatsPerSequence, ReasonCode, STATE_VERSION,
    StateError, Verdict,
};

fn configs() -> Vec<KlConfig> {
    vec![
        KlConfig::fixed(0.2),
        Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(6.0), 1e4)).into(),
        Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 1e4)).into(),
    ]
}

fn one(step: u64, kl: f64, var: f64, n: u64) -> KlObservation {
    KlObservation::rollout(step, vec![DomainKl::new("all", NatsPerSequence(kl), var, n)])
}

#[test]
fn nonfinite_measurements_hold_beta_and_reject() {
    for config in configs() {
        let mut c = config.build().unwrap();
        c.observe(&one(0, 9.0, 18.0, 512));
        let before = c.beta("all");
        for (step, (kl, var)) in [
            (f64::NAN, 1.0),
            (f64::INFINITY, 1.0),
            (f64::NEG_INFINITY, 1.0),
            (9.0, f64::INFINITY),
            (9.0, -1.0),
        ]
        .into_iter()
        .enumerate()
        {
            let d = c.observe(&one(1 + step as u64, kl, var, 512));
            assert_eq!((d.verdict, d.reason.code()), (Verdict::Reject, ReasonCode::NotFinite), "{config:?}");
            assert_eq!(d.beta_for("all").to_bits(), before.to_bits(), "{config:?} moved on {kl} {var}");
        }
        // The next good measurement goes on from there.
        assert_eq!(c.observe(&one(9, 9.0, 18.0, 512)).verdict, Verdict::Accept);
    }
}

#[test]
fn impossible_kl_holds_all_but_the_published_form() {
    for config in configs() {
        let mut c = config.build().unwrap();
        let d = c.observe(&one(0, -1.0, 0.5, 512));
        assert_eq!((d.verdict, d.reason.code()), (Verdict::Reject, ReasonCode::NegativeKl));
        assert!(d.reason.text().contains("-1.0000"));
        let followed = matches!(config.law, Law::Ziegler(_));
        assert_eq!(d.beta_for("all") != 0.2, followed, "{config:?}");
    }
    // Slightly negative is noise: it counts as zero, the same move as KL = 0.
    let adaptive = Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 1e4));
    let (mut a, mut b) =
        (KlConfig::from(adaptive.clone()).build().unwrap(), KlConfig::from(adaptive).build().unwrap());
    let (noisy, zero) = (a.observe(&one(0, -0.01, 1.0, 512)), b.observe(&one(0, 0.0, 1.0, 512)));
    assert_eq!(noisy.verdict, Verdict::Accept);
    assert_eq!(noisy.beta_for("all"), zero.beta_for("all"));
    assert!(zero.beta_for("all") < 0.2);
}

#[test]
fn absent_domains_are_held_and_only_all_absent_halts() {
    for config in configs() {
        let mut c = config.build().unwrap();
        let two = |step, n| {
            KlObservation::rollout(
                step,
                vec![
                    DomainKl::new("a", NatsPerSequence(9.0), 18.0, 512),
                    DomainKl::new("b", NatsPerSequence(f64::NAN), f64::NAN, n),
                ],
            )
        };
        let d = c.observe(&two(0, 0));
        assert_eq!((d.verdict, d.beta_for("b")), (Verdict::Accept, 0.2));
        assert_eq!(d.beta.len(), 2);
        let betas = c
            .observe(&KlObservation::rollout(1, vec![DomainKl::new("a", NatsPerSequence(9.0), 18.0, 512)]))
            .beta;
        assert_eq!(betas["b"], 0.2, "a domain that is not even listed is held too");
        let d = c.observe(&one(2, 5.0, 1.0, 0));
        assert_eq!((d.verdict, d.reason.code()), (Verdict::Halt, ReasonCode::AllAbsent));
        let d = c.observe(&KlObservation::rollout(3, vec![]));
        assert_eq!(d.verdict, Verdict::Halt);
        assert!(d.beta_for("a").is_finite());
    }
}

#[test]
fn before_any_domain_is_known_the_decision_has_the_initial_beta() {
    let mut c = KlConfig::fixed(0.3).build().unwrap();
    assert_eq!((c.beta("anything"), c.beta("all")), (0.3, 0.3));
    assert_eq!(c.observe(&KlObservation::rollout(0, vec![])).beta_for("anything"), 0.3);
}

#[test]
fn noise_above_the_target_holds() {
    let mut c =
        KlConfig::from(Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(1.0), 100.0))).build().unwrap();
    let d = c.observe(&one(0, 3.0, 18.0, 4)); // stderr 2.1 against a target of 1
    assert_eq!((d.verdict, d.reason.code(), d.beta_for("all")), (Verdict::Accept, ReasonCode::TooNoisy, 0.2));
    let mut c =
        KlConfig::from(Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(1.0), 100.0))).build().unwrap();
    let d = c.observe(&one(0, 0.5, f64::NAN, 1)); // one sample: sd from the tilt, sqrt(2·0.5) = 1, not above 1
    assert_eq!(d.reason.code(), ReasonCode::BetaLowered);
}

#[test]
fn steps_never_repeat_nor_run_backwards() {
    for config in configs() {
        let mut c = config.build().unwrap();
        let first = c.observe(&one(5, 9.0, 18.0, 512));
        let again = c.observe(&one(5, 1.0, 2.0, 512));
        assert_eq!(
            (again.beta.clone(), again.reason.code()),
            (first.beta.clone(), ReasonCode::DuplicateStep)
        );
        let back = c.observe(&one(4, 1.0, 2.0, 512));
        assert_eq!((back.beta, back.reason.code()), (first.beta, ReasonCode::StepBackwards));
        assert_eq!(c.state().last_step, Some(5));
    }
}

#[test]
fn a_rejected_step_that_comes_again_is_rejected_again() {
    let mut c = configs()[2].build().unwrap();
    assert_eq!(c.observe(&one(0, f64::NAN, 1.0, 9)).verdict, Verdict::Reject);
    let state = c.state();
    let again = c.observe(&one(0, 6.0, 1.0, 9));
    assert_eq!((again.verdict, again.reason.code()), (Verdict::Reject, ReasonCode::DuplicateStep));
    let mut resumed = configs()[2].build().unwrap();
    resumed.restore(&state).unwrap();
    assert_eq!(resumed.observe(&one(0, 6.0, 1.0, 9)).verdict, Verdict::Reject);
}

#[test]
fn a_blow_up_is_not_taken_for_noise() {
    let mut c = configs()[2].build().unwrap();
    let d = c.observe(&one(0, 200.0, 600.0, 9)); // stderr 8.2 against a target of 6
    assert_eq!(d.reason.code(), ReasonCode::BetaRaised);
}

#[test]
fn the_published_form_crosses_zero_and_says_so_and_never_overflows() {
    let mut c = KlConfig::from(Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(6.0), 100.0))).build().unwrap();
    let d = c.observe(&one(0, 0.1, 0.2, 1000)); // 1 − 0.2·10 = −1
    assert!((d.beta_for("all") + 0.2).abs() < 1e-15);
    assert_eq!(d.reason.code(), ReasonCode::CrossedZero);
    assert!(d.reason.text().contains("-0.2"));
    let mut c = KlConfig::from(Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(6.0), 1.0))).build().unwrap();
    let mut last = None;
    for step in 0..400 {
        let d = c.observe(&one(step, 60.0, 2.0, 1000));
        assert!(d.beta_for("all").is_finite());
        last = Some(d);
    }
    assert_eq!(last.unwrap().reason.code(), ReasonCode::Overflow);
    let bounded = Ziegler {
        beta_min: Some(0.01),
        beta_max: Some(0.5),
        ..Ziegler::new(0.2, NatsPerSequence(6.0), 100.0)
    };
    let mut c = KlConfig::from(Law::Ziegler(bounded)).build().unwrap();
    assert_eq!(c.observe(&one(0, 0.1, 0.2, 1000)).beta_for("all"), 0.01);
    let d = c.observe(&one(1, 60.0, 2.0, 100_000));
    assert_eq!((d.beta_for("all"), d.reason.code()), (0.5, ReasonCode::AtBound));
}

#[test]
fn adaptive_stays_in_its_bounds() {
    let mut c = KlConfig::from(Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 1.0))).build().unwrap();
    for step in 0..50 {
        let d = c.observe(&one(step, if step < 25 { 99.0 } else { 0.0 }, 1.0, 100_000));
        assert!((1e-4..=10.0).contains(&d.beta_for("all")));
        // After 12 observations at the upper bound with KL above the target the budget is infeasible.
        let expected = if (11..25).contains(&step) { ReasonCode::Infeasible } else { ReasonCode::AtBound };
        assert_eq!(d.reason.code(), expected, "step {step}");
    }
}

#[test]
fn state_survives_json_exactly() {
    for config in configs() {
        let kl = |step: u64| 3.0 + ((step * 7919) % 97) as f64 / 11.0;
        let mut whole = config.build().unwrap();
        let mut half = config.build().unwrap();
        for step in 0..40 {
            whole.observe(&one(step, kl(step), 11.0, 512));
            half.observe(&one(step, kl(step), 11.0, 512));
        }
        let text = serde_json::to_string(&half.state()).unwrap();
        let saved: ControllerState = serde_json::from_str(&text).unwrap();
        let mut resumed = config.build().unwrap();
        resumed.restore(&saved).unwrap();
        for step in 40..80 {
            let obs = one(step, kl(step), 11.0, 512);
            assert_eq!(whole.observe(&obs), resumed.observe(&obs), "{config:?} at {step}");
        }
        assert_eq!(whole.state(), resumed.state());
    }
}

#[test]
fn foreign_states_are_refused_by_name_and_change_nothing() {
    let mut a = KlConfig::fixed(0.2).build().unwrap();
    let z = configs()[1].build().unwrap();
    let error = a.restore(&z.state()).unwrap_err();
    assert!(matches!(error, StateError::OtherLaw { .. }));
    assert!(error.to_string().contains("ziegler") && error.to_string().contains("fixed"));
    let mut old = a.state();
    old.version = 0;
    assert!(a.restore(&old).unwrap_err().to_string().contains("version 0"));
    // Of a later release: the version is the reason, not the field that this build does not know.
    let later = r#"{"version":7,"law":"fixed","novelty":true}"#;
    let error = serde_json::from_str::<ControllerState>(later).unwrap_err().to_string();
    assert!(
        error.contains("version 7") && error.contains(&format!("reads version {STATE_VERSION}")),
        "{error}"
    );
    let mut c = configs()[2].build().unwrap();
    c.observe(&one(0, 9.0, 18.0, 512));
    let before = c.state();
    let text = serde_json::to_string(&before).unwrap().replace(r#""beta":0."#, r#""beta":-0."#);
    let damaged: ControllerState = serde_json::from_str(&text).unwrap();
    assert!(matches!(c.restore(&damaged), Err(StateError::Damaged { .. })));
    assert_eq!(c.state(), before);
}

#[test]
fn states_that_no_controller_could_have_written_are_refused() {
    let refused = |law: Law, change: &dyn Fn(&mut LawState)| {
        let mut c = KlConfig::from(law).build().unwrap();
        c.observe(&one(0, 6.0, 11.0, 512));
        let mut state = c.state();
        c.restore(&state).expect("its own state");
        change(&mut state.domains.get_mut("all").unwrap().law);
        matches!(c.restore(&state), Err(StateError::Damaged { part, .. }) if part == "domain `all`")
    };
    let auto_pi = |change: &dyn Fn(&mut AutoPiState)| {
        refused(Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(6.0))), &|law| match law {
            LawState::AutoPi(s) => change(s),
            other => panic!("{other:?}"),
        })
    };
    assert!(!auto_pi(&|_| ()));
    assert!(auto_pi(&|s| s.integral = f64::NAN));
    assert!(auto_pi(&|s| s.fit[3] = f64::INFINITY));
    assert!(auto_pi(&|s| s.began = f64::NAN));
    assert!(auto_pi(&|s| s.halfway = f64::NAN));
    assert!(auto_pi(&|s| s.tau = Some(f64::NAN)));
    assert!(auto_pi(&|s| s.d = Some(f64::INFINITY)));
    assert!(auto_pi(&|s| s.d_target = Some(f64::NAN)));
    assert!(auto_pi(&|s| s.beta = f64::NAN));
    let lagrangian = |change: &dyn Fn(&mut PidLagrangianState)| {
        let law = PidLagrangian { delay: 2, ..PidLagrangian::new(0.2, NatsPerSequence(6.0)) };
        refused(Law::PidLagrangian(law), &|law| match law {
            LawState::PidLagrangian(s) => change(s),
            other => panic!("{other:?}"),
        })
    };
    assert!(lagrangian(&|s| s.history = vec![0.0; 3]));
    assert!(!lagrangian(&|s| s.history = vec![0.0; 2]));
    assert!(lagrangian(&|s| s.oldest = 2));
    assert!(!lagrangian(&|s| s.oldest = 1));
    assert!(lagrangian(&|s| s.beta = -0.1));
    assert!(lagrangian(&|s| s.beta = 10.1));
    assert!(lagrangian(&|s| s.integral = -0.1));
    assert!(lagrangian(&|s| s.integral = 10.1));
    assert!(lagrangian(&|s| s.violation = f64::NAN));
    assert!(lagrangian(&|s| s.history = vec![-1.0]));
    assert!(auto_pi(&|s| s.beta = 11.0));
    assert!(auto_pi(&|s| s.integral = 11f64.ln()));
    assert!(auto_pi(&|s| s.integral = 0.9e-3f64.ln()));
    assert!(auto_pi(&|s| s.fit[0] = -1.0));
    assert!(auto_pi(&|s| s.tau = Some(0.0)));
    assert!(auto_pi(&|s| s.d_target = Some(0.0)));
    assert!(auto_pi(&|s| s.d = Some(-1.0)));
    let dual = |recent: Vec<(f64, u64)>| {
        refused(Law::Dual(Dual::new(0.2, NatsPerSequence(6.0))), &|law| match law {
            LawState::Dual(s) => s.recent = recent.clone(),
            other => panic!("{other:?}"),
        })
    };
    assert!(!dual(vec![(1.0, 1)]));
    assert!(dual(vec![(1.0, 1), (-1.0, 1)]));
    assert!(dual(vec![(f64::NAN, 1)]));
    assert!(dual(vec![(1.0, 0)]));
    let pid = |change: &dyn Fn(&mut PidState)| {
        refused(Law::Pid(Pid::new(0.2, NatsPerSequence(6.0))), &|law| match law {
            LawState::Pid(s) => change(s),
            other => panic!("{other:?}"),
        })
    };
    assert!(!pid(&|s| s.integral = -1.0));
    assert!(pid(&|s| s.integral = f64::NAN));
    assert!(pid(&|s| s.d = Some(-0.1)));
    assert!(pid(&|s| s.beta = 0.9e-4));
    // The published linear form alone may stand below zero.
    let law = Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(6.0), 100.0));
    let negative = |beta: f64| {
        refused(law.clone(), &|law| match law {
            LawState::Ziegler(s) => s.beta = beta,
            other => panic!("{other:?}"),
        })
    };
    assert!(!negative(-0.2) && negative(f64::NAN) && negative(f64::NEG_INFINITY));
    // β = 0 is the untethered run, not damage.
    let mut free = KlConfig::fixed(0.0).build().unwrap();
    free.observe(&one(0, 6.0, 11.0, 512));
    let state = free.state();
    assert!(free.restore(&state).is_ok());
}

#[test]
fn the_order_of_domains_does_not_matter() {
    for config in configs() {
        let mut a = config.build().unwrap();
        let mut b = config.build().unwrap();
        let mut domains = vec![
            DomainKl::new("x", NatsPerSequence(f64::NAN), 1.0, 9),
            DomainKl::new("y", NatsPerSequence(9.0), 18.0, 512),
            DomainKl::new("z", NatsPerSequence(f64::NAN), 1.0, 9),
            DomainKl::new("w", NatsPerSequence(-4.0), 0.1, 512),
        ];
        let one = a.observe(&KlObservation::rollout(0, domains.clone()));
        domains.reverse();
        assert_eq!(one, b.observe(&KlObservation::rollout(0, domains)));
        assert_eq!(one.verdict, Verdict::Reject);
    }
}
