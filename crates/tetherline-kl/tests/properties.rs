//! Invariants over arbitrary observations: β finite, non-negative, inside its bounds, slew-limited, and a
//! function of the log alone.

use proptest::prelude::*;
use tetherline_kl::law::{Adaptive, AutoPi, Dual, Law, Pid, PidLagrangian, PpoAdaptive, Ziegler};
use tetherline_kl::{
    Budget, ControllerState, DomainKl, Guard, KlConfig, KlController, KlEstimator, KlObservation, KlPolicy,
    Ledger, NatsPerSequence, TrustRegion, exact_kl, top_k_lower_bound,
};

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => 0.0..40.0f64,
        1 => -5.0..0.0f64,
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(1e300), Just(-1e300)],
    ]
}

fn domain() -> impl Strategy<Value = DomainKl> {
    let id = prop_oneof![Just("all"), Just("code"), Just("legal"), Just("user:ann")];
    let n = prop_oneof![Just(0u64), Just(1), 2..1000u64, Just(u64::MAX)];
    (id, number(), number(), n, proptest::option::of(number()), proptest::option::of(number())).prop_map(
        |(id, kl, var, n, stderr, kl_old)| DomainKl {
            stderr: stderr.map(NatsPerSequence),
            kl_old: kl_old.map(NatsPerSequence),
            reward_sd: Some(1.0),
            ..DomainKl::new(id, NatsPerSequence(kl), var, n)
        },
    )
}

fn observations() -> impl Strategy<Value = Vec<KlObservation>> {
    let one = (0..80u64, proptest::option::of(0..3u32), proptest::collection::vec(domain(), 0..4));
    proptest::collection::vec(one, 1..80).prop_map(|list| {
        let make = |(i, (step, trial, domains)): (usize, (u64, Option<u32>, Vec<DomainKl>))| {
            // Mostly in order, sometimes repeated or backwards.
            let step = if step % 8 == 0 { step } else { i as u64 };
            match trial {
                Some(t) => KlObservation::trial(step, t, domains),
                None => KlObservation::rollout(step, domains),
            }
        };
        list.into_iter().enumerate().map(make).collect()
    })
}

fn config() -> impl Strategy<Value = KlConfig> {
    let law = prop_oneof![
        Just(Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 100.0))),
        Just(Law::PpoAdaptive(PpoAdaptive::new(0.2, NatsPerSequence(6.0)))),
        Just(Law::Pid(Pid::new(0.2, NatsPerSequence(6.0)))),
        Just(Law::PidLagrangian(PidLagrangian::new(0.2, NatsPerSequence(6.0)))),
        Just(Law::Dual(Dual::new(0.2, NatsPerSequence(6.0)))),
        Just(Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(6.0)))),
        Just(Law::AutoPi(AutoPi { feed_forward: true, ..AutoPi::new(0.2, NatsPerSequence(6.0)) })),
        Just(Law::Ziegler(Ziegler {
            beta_min: Some(0.01),
            beta_max: Some(4.0),
            ..Ziegler::new(0.2, NatsPerSequence(6.0), 100.0)
        })),
    ];
    (law, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(law, budgets, region, guard)| KlConfig {
        budgets: if budgets {
            vec![
                Budget::new("code", NatsPerSequence(2.0)),
                Budget::new("user:*", NatsPerSequence(4.0)),
                Budget::new("all", NatsPerSequence(6.0)),
            ]
        } else {
            vec![]
        },
        trust_region: region.then(TrustRegion::default),
        guard: guard.then(Guard::default),
        ledger: (guard && region).then_some(Ledger { limit: NatsPerSequence(30.0) }),
        ..law.into()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn beta_is_finite_and_inside_its_bounds(config in config(), list in observations()) {
        let (lo, hi) = config.law.bounds().unwrap();
        let mut c = KlPolicy::new(config).unwrap();
        for obs in &list {
            let d = c.observe(obs);
            for (id, beta) in &d.beta {
                prop_assert!(beta.is_finite() && *beta >= lo.max(0.0) && *beta <= hi, "{id}: {beta}");
            }
            prop_assert!(!d.beta.is_empty());
            prop_assert!(d.beta_for("never seen").is_finite());
            prop_assert!(d.scale > 0.0 && d.scale <= 1.0 && d.lr_factor > 0.0 && d.lr_factor <= 1.0);
            prop_assert!(!d.reason.text().is_empty());
        }
    }

    #[test]
    fn decisions_are_a_function_of_the_log(config in config(), list in observations(), cut in 0..80usize) {
        let mut whole = KlPolicy::new(config.clone()).unwrap();
        let mut first = KlPolicy::new(config.clone()).unwrap();
        let cut = cut.min(list.len());
        for obs in &list[..cut] {
            let mut reversed = obs.clone();
            reversed.domains.reverse();
            let (a, b) = (whole.observe(obs), first.observe(&reversed));
            prop_assert_eq!(a, b);
        }
        // Saved and restored through JSON, it goes on as if nothing had happened.
        let mut resumed = KlPolicy::new(config).unwrap();
        let json = serde_json::to_string(&whole.state()).unwrap();
        resumed.restore(&serde_json::from_str::<ControllerState>(&json).unwrap()).unwrap();
        prop_assert_eq!(resumed.state(), whole.state());
        for obs in &list[cut..] {
            prop_assert_eq!(whole.observe(obs), resumed.observe(obs));
        }
    }

    #[test]
    fn the_rate_limit_holds(kl in proptest::collection::vec(0.0..60.0f64, 1..100), which in 0..2) {
        let law = if which == 0 { Law::Pid(Pid::new(0.2, NatsPerSequence(6.0))) } else { Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(6.0))) };
        let mut c = KlPolicy::new(law.into()).unwrap();
        let mut before = 0.2f64;
        for (step, kl) in kl.into_iter().enumerate() {
            let beta = c.observe(&KlObservation::rollout(step as u64, vec![DomainKl::new("all", NatsPerSequence(kl), 2.0 * kl, 512)])).beta_for("all");
            prop_assert!((beta / before).ln().abs() <= 0.2 + 1e-9);
            before = beta;
        }
    }

    /// The published update, written out anew, over random inputs (KL.md §7, experiment 9).
    #[test]
    fn the_linear_form_is_the_published_formula(list in proptest::collection::vec((0.0..80.0f64, 1..4096u64), 25)) {
        let (target, horizon) = (6.0, 1e4);
        let mut c = KlPolicy::new(Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(target), horizon)).into()).unwrap();
        let mut value = 0.2f64;
        for (step, (kl, n)) in list.into_iter().enumerate() {
            let proportional_error = if kl > 1.2 * target { 0.2 } else if kl < 0.8 * target { -0.2 } else { kl / target - 1.0 };
            value *= 1.0 + proportional_error * n as f64 / horizon;
            let obs = KlObservation::rollout(step as u64, vec![DomainKl::new("all", NatsPerSequence(kl), 2.0 * kl, n)]);
            let beta = c.observe(&obs).beta_for("all");
            prop_assert!((beta / value - 1.0).abs() <= 1e-12);
        }
    }

    #[test]
    fn on_target_nothing_moves(target in 0.1..50.0f64, n in 2..5000u64) {
        for law in [Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(target), 1e4)), Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(target), 1e4)), Law::Dual(Dual::new(0.2, NatsPerSequence(target)))] {
            let mut c = KlPolicy::new(law.into()).unwrap();
            let mut d = DomainKl::new("all", NatsPerSequence(target), 0.0, n);
            d.stderr = Some(NatsPerSequence(0.0));
            let beta = c.observe(&KlObservation::rollout(0, vec![d])).beta_for("all");
            prop_assert!((beta - 0.2).abs() < 1e-12);
        }
    }

    #[test]
    fn estimators_keep_their_laws(lp in -60.0..0.0f64, rlp in -60.0..0.0f64) {
        let of = |e: KlEstimator| e.per_token(lp, rlp).0;
        let (k1, k2, k3) = (of(KlEstimator::K1), of(KlEstimator::K2), of(KlEstimator::K3));
        prop_assert!(k2 >= 0.0 && k3 >= 0.0 && k3 >= k1 - 1.0);
        prop_assert_eq!(of(KlEstimator::Abs), k1.abs());
        prop_assert_eq!(KlEstimator::K1.per_token(rlp, lp).0, -k1);
        for e in [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3, KlEstimator::Abs] {
            prop_assert_eq!(e.per_token(lp, lp).0, 0.0);
        }
    }

    #[test]
    fn exact_kl_is_never_negative_and_bounds_its_head(a in proptest::collection::vec(-2.0..2.0f32, 8), b in proptest::collection::vec(-2.0..2.0f32, 8), k in 0..8usize) {
        let normalise = |z: &[f32]| {
            let sum: f64 = z.iter().map(|z| f64::from(*z).exp()).sum();
            z.iter().map(|z| (f64::from(*z) - sum.ln()) as f32).collect::<Vec<_>>()
        };
        let (p, r) = (normalise(&a), normalise(&b));
        let kl = exact_kl(&p, &r).unwrap().0;
        prop_assert!(kl >= 0.0);
        prop_assert!(top_k_lower_bound(&p[..k], &r[..k]).unwrap().0 <= kl + 1e-4);
    }
}

/// A law with bounds, fast enough to cross them within the test.
fn bounded(which: usize, init: f64, beta_min: f64, beta_max: f64) -> Law {
    let target = NatsPerSequence(2.0);
    match which {
        0 => Law::Adaptive(Adaptive { beta_min, beta_max, ..Adaptive::new(init, target, 100.0) }),
        1 => Law::PpoAdaptive(PpoAdaptive { beta_min, beta_max, ..PpoAdaptive::new(init, target) }),
        2 => Law::Pid(Pid { beta_min, beta_max, ..Pid::new(init, target) }),
        3 => Law::Dual(Dual { beta_min, beta_max, lr: 10.0, ..Dual::new(init, target) }),
        4 => Law::AutoPi(AutoPi { beta_min, beta_max, ..AutoPi::new(init, target) }),
        5 => {
            let (beta_min, beta_max) = (Some(beta_min), Some(beta_max));
            Law::Ziegler(Ziegler { beta_min, beta_max, ..Ziegler::new(init, target, 100.0) })
        }
        // Its lower bound is 0, whatever is asked for.
        _ => Law::PidLagrangian(PidLagrangian { beta_max, ki: 0.1, ..PidLagrangian::new(init, target) }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Where KL stays far from its target β arrives at the bound itself, not within a rounding of it: only so is an
    /// infeasible budget seen to be one.
    #[test]
    fn bounds_are_reached_to_the_last_digit(which in 0..7usize, max in 0.5..50.0f64, share in 0.001..0.9f64, start in 0.0..=1.0f64) {
        let min = max * share;
        let law = bounded(which, min + start * (max - min), min, max);
        let (lo, hi) = law.bounds().unwrap();
        for (kl, bound) in [(400.0, hi), (0.0, lo)] {
            let mut c = KlPolicy::new(law.clone().into()).unwrap();
            let mut beta = f64::NAN;
            for step in 0..1000 {
                let seen = DomainKl::new("all", NatsPerSequence(kl), 2.0 * kl, 512);
                beta = c.observe(&KlObservation::rollout(step, vec![seen])).beta_for("all");
            }
            prop_assert_eq!(beta, bound, "{:?} at KL {}", &law, kl);
        }
    }
}
