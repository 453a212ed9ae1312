//! Controllers on the synthetic plants: the goals that hold for the recommended law.

use tetherline_kl::law::{AutoPi, Law, Ziegler};
use tetherline_kl::sim::{Disturbance, PlantKind, Scenario, Summary, median, simulate, summarise};
use tetherline_kl::{Budget, Guard, KlConfig, NatsPerSequence, Shape, TargetSchedule, TrustRegion, Verdict};

const TARGET: f64 = 6.0;

fn auto_pi() -> KlConfig {
    Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(TARGET))).into()
}

fn capped() -> KlConfig {
    KlConfig { trust_region: Some(TrustRegion::default()), ..auto_pi() }
}

fn runs(config: &KlConfig, scenario: &Scenario, from: usize, target: f64) -> Vec<Summary> {
    (0..20)
        .map(|seed| {
            summarise(&simulate(config, scenario, seed).expect("a valid configuration"), 0, target, from)
        })
        .collect()
}

fn mid(runs: &[Summary], of: impl Fn(&Summary) -> f64) -> f64 {
    median(runs.iter().map(of))
}

#[test]
fn auto_pi_meets_its_goals_over_a_sixteenfold_range_of_plants() {
    for tau in [17.0, 69.0, 277.0] {
        let scenario = Scenario::single(tau, TARGET, (12.0 * tau) as u64 + 1000);
        for (config, most) in [(auto_pi(), 20.0), (capped(), 15.0)] {
            let runs = runs(&config, &scenario, 0, TARGET);
            assert!(mid(&runs, |s| s.in_band) >= 95.0, "τ {tau}");
            assert!(mid(&runs, |s| s.overshoot) <= most, "τ {tau}: {}", mid(&runs, |s| s.overshoot));
            assert!(mid(&runs, |s| s.bias.abs()) <= 1.0, "τ {tau}");
            let settled = mid(&runs, |s| s.settled.map_or(f64::INFINITY, |u| u as f64));
            assert!(settled <= 3.0 * tau + 100.0, "τ {tau}: {settled}");
        }
    }
}

#[test]
fn an_initial_beta_ten_times_too_large_does_not_hold_it_back() {
    let config = Law::AutoPi(AutoPi::new(2.0, NatsPerSequence(TARGET))).into();
    let runs = runs(&config, &Scenario::single(69.0, TARGET, 2000), 0, TARGET);
    assert!(mid(&runs, |s| s.in_band) >= 95.0);
    assert!(mid(&runs, |s| s.overshoot) <= 20.0, "{}", mid(&runs, |s| s.overshoot));
}

#[test]
fn a_reward_jump_is_back_in_band_within_fifty_updates() {
    let mut scenario = Scenario::single(69.0, TARGET, 1600);
    scenario.disturbances = vec![Disturbance { at: 1000, reward: 1.5 }];
    let runs = runs(&auto_pi(), &scenario, 1000, TARGET);
    let settled = mid(&runs, |s| s.settled.map_or(f64::INFINITY, |u| u as f64));
    assert!(settled <= 50.0, "{settled}");
}

#[test]
fn a_halved_target_is_reached() {
    let halve = TargetSchedule { from: 1.0, to: 0.5, steps: 1000, shape: Shape::Step };
    let config = KlConfig { target_schedule: Some(halve), ..capped() };
    let runs = runs(&config, &Scenario::single(69.0, TARGET, 1600), 1000, 3.0);
    let settled = mid(&runs, |s| s.settled.map_or(f64::INFINITY, |u| u as f64));
    assert!(settled <= 60.0, "{settled}");
    assert!(mid(&runs, |s| s.in_band) >= 95.0);
}

#[test]
fn two_percent_nan_leave_beta_finite_and_kl_on_target() {
    let scenario = Scenario { nan_rate: 0.02, ..Scenario::single(69.0, TARGET, 2000) };
    for seed in 0..5 {
        let trace = simulate(&capped(), &scenario, seed).unwrap();
        assert!(trace.beta.iter().flatten().all(|b| b.is_finite() && *b > 0.0));
        assert!(summarise(&trace, 0, TARGET, 0).in_band >= 95.0);
    }
}

/// The whole composition, with a learning rate that follows the guard, on a target that is halved: noise
/// refuses steps above the cap, and that must not freeze the policy there.
#[test]
fn a_guard_beside_the_cap_does_not_deadlock_a_halved_target() {
    let halve = TargetSchedule { from: 1.0, to: 0.5, steps: 700, shape: Shape::Step };
    let config = KlConfig { guard: Some(Guard::default()), target_schedule: Some(halve), ..capped() };
    for n in [64, 512] {
        for seed in 0..5 {
            let scenario = Scenario { n, ..Scenario::single(69.0, TARGET, 2500) };
            let trace = simulate(&config, &scenario, seed).unwrap();
            let end = median(trace.kl[2000..].iter().map(|row| row[0]));
            assert!(end < 1.15 * 3.0, "n {n}, seed {seed}: {end}");
            assert!(!trace.verdict.contains(&Verdict::Halt), "n {n}, seed {seed}");
        }
    }
}

#[test]
fn plants_that_it_was_not_designed_on() {
    for kind in [PlantKind::SecondOrder, PlantKind::Saturating, PlantKind::Floor] {
        let scenario = Scenario { kind, ..Scenario::single(69.0, TARGET, 2500) };
        let runs = runs(&capped(), &scenario, 0, TARGET);
        assert!(mid(&runs, |s| s.in_band) >= 90.0, "{kind:?}: {}", mid(&runs, |s| s.in_band));
        assert!(mid(&runs, |s| s.overshoot) <= 25.0, "{kind:?}: {}", mid(&runs, |s| s.overshoot));
    }
}

#[test]
fn three_coupled_budgets_are_held_at_once() {
    let domains = [("a", 2.0, 1.0), ("b", 6.0, 0.7), ("c", 12.0, 1.3)];
    for mixing in [0.0, 0.3, 0.6] {
        let budgets = domains.iter().map(|(id, t, _)| Budget::new(*id, NatsPerSequence(*t))).collect();
        let config = KlConfig { budgets, ..auto_pi() };
        let scenario = Scenario {
            domains: domains.iter().map(|(id, t, c)| ((*id).to_owned(), *t, *c)).collect(),
            mixing,
            n: 128,
            ..Scenario::single(69.0, 2.0, 3000)
        };
        for seed in 0..5 {
            let trace = simulate(&config, &scenario, seed).unwrap();
            let half = &trace.kl[1500..];
            let inside = half
                .iter()
                .filter(|row| row.iter().zip(&domains).all(|(kl, (_, t, _))| (kl / t - 1.0).abs() <= 0.1))
                .count();
            let share = 100.0 * inside as f64 / half.len() as f64;
            assert!(share >= 95.0, "mixing {mixing}, seed {seed}: {share}");
        }
    }
}

/// The linear form is an integrator of ln β on a first-order plant: ζ = √(aH/8n) gives its overshoot in d
/// after a small step, exp(−πζ/√(1−ζ²)). Tested where e is not clipped: a 5 % step of the reward.
#[test]
fn zieglers_overshoot_is_what_its_damping_predicts() {
    let tau = 69.0;
    for zeta in [0.375f64, 0.188] {
        // e is relative in KL, twice that in d.
        let horizon = zeta * zeta * 8.0 * 512.0 * tau;
        let config: KlConfig = Law::Ziegler(Ziegler::new(0.288_675, NatsPerSequence(TARGET), horizon)).into();
        let mut scenario = Scenario::single(tau, TARGET, 3000);
        scenario.n = 512;
        scenario.disturbances =
            vec![Disturbance { at: 0, reward: 1.0 }, Disturbance { at: 2000, reward: 1.04 }];
        // Averaged over seeds, since process noise is of the size of the step.
        let mut mean = vec![0.0; 3000];
        for seed in 0..200 {
            let trace = simulate(&config, &scenario, seed).unwrap();
            for (m, row) in mean.iter_mut().zip(&trace.kl) {
                *m += (2.0 * row[0]).sqrt() / 200.0;
            }
        }
        let d_star = (2.0 * TARGET).sqrt();
        let after = &mean[2000..];
        let up = after.iter().copied().fold(0.0, f64::max) - d_star;
        let down = d_star - after.iter().copied().fold(f64::INFINITY, f64::min);
        // A disturbance's response swings up, then down by exp(−πζ/√(1−ζ²)) of it.
        let predicted = (-std::f64::consts::PI * zeta / (1.0 - zeta * zeta).sqrt()).exp();
        assert!((down / up - predicted).abs() < 0.06, "ζ {zeta}: {} vs {predicted}", down / up);
    }
}

/// A new controller on a policy that has drifted already to where its β holds it, S/β below the target: nothing rises,
/// so all that the law sees is noise. It must find out, for little noise and for much, and must not overshoot for it.
#[test]
fn a_start_at_its_own_equilibrium_is_left() {
    for init in [0.4, 0.6, 1.0, 2.0] {
        for (tau, n) in [(17.0, 512), (69.0, 64), (69.0, 512), (69.0, 8192), (277.0, 512)] {
            let config: KlConfig = Law::AutoPi(AutoPi::new(init, NatsPerSequence(TARGET))).into();
            let scenario =
                Scenario { start: 1.0 / init, n, ..Scenario::single(tau, TARGET, 800 + 4 * tau as u64) };
            let mut over = Vec::new();
            for seed in 0..10 {
                let trace = simulate(&config, &scenario, seed).unwrap();
                let arrived = trace.kl.iter().any(|row| (row[0] / TARGET - 1.0).abs() <= 0.1);
                assert!(arrived, "init {init}, τ {tau}, n {n}, seed {seed}");
                over.push(summarise(&trace, 0, TARGET, 0).overshoot);
            }
            assert!(median(over) <= 25.0, "init {init}, τ {tau}, n {n}");
        }
    }
}
