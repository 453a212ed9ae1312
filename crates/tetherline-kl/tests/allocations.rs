//! A decision allocates nothing once every domain has been seen.

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use tetherline_kl::law::{Adaptive, AutoPi, Dual, Fixed, Law, Pid, PidLagrangian, PpoAdaptive, Ziegler};
use tetherline_kl::{
    Budget, ControlDecision, DomainKl, Guard, KlConfig, KlConfigError, KlController, KlObservation, KlPolicy,
    Ledger, MetricLimit, MetricValue, NatsPerSequence, TrustRegion,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

// Without the test harness: the counter is the process's, and the harness has a thread that allocates.
fn main() -> Result<(), KlConfigError> {
    let laws = [
        Law::Fixed(Fixed { init: 0.2 }),
        Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(6.0), 1e4)),
        Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 1e4)),
        Law::PpoAdaptive(PpoAdaptive::new(0.2, NatsPerSequence(6.0))),
        Law::Pid(Pid::new(0.2, NatsPerSequence(6.0))),
        Law::PidLagrangian(PidLagrangian::new(0.2, NatsPerSequence(6.0))),
        Law::Dual(Dual::new(0.2, NatsPerSequence(6.0))),
        Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(6.0))),
    ];
    for law in laws {
        let closed_loop = law.target().is_some();
        let ids = ["code", "legal", "medical"];
        let mut config =
            KlConfig { guard: Some(Guard { max_rollbacks: u32::MAX, ..Guard::default() }), ..law.into() };
        config.ledger = Some(Ledger { limit: NatsPerSequence(1e9) });
        if closed_loop {
            let metrics = || vec![MetricLimit { id: "unsafe_rate".into(), warn: 0.01, limit: 0.03 }];
            config.budgets =
                ids.map(|id| Budget { metrics: metrics(), ..Budget::new(id, NatsPerSequence(6.0)) }).to_vec();
            config.trust_region = Some(TrustRegion::default());
        }
        let mut controller = KlPolicy::new(config.clone())?;
        let mut decision = ControlDecision::empty();
        let domains = |kl: f64| {
            let kl_old = Some(NatsPerSequence(0.01 * kl));
            ids.map(|id| DomainKl { kl_old, ..DomainKl::new(id, NatsPerSequence(kl), 10.0, 128) }).to_vec()
        };
        // Below, at and above the target, beyond every cap, and broken.
        let mut rollouts = [1.0, 6.0, 7.5, 40.0, f64::NAN].map(|kl| KlObservation::rollout(0, domains(kl)));
        for (i, rollout) in rollouts.iter_mut().enumerate() {
            // Tightening, held and clean, in turn.
            let ucb = Some([0.02, 0.02, 0.0, 0.0, 0.0][i]);
            rollout.metrics = vec![MetricValue { id: "unsafe_rate".into(), value: 0.0, ucb }];
        }
        let mut trials = [1.0, 40.0].map(|kl| KlObservation::trial(0, 0, domains(kl)));
        let first = Region::new(ALLOCATOR);
        controller.observe_into(&rollouts[0], &mut decision);
        assert!(first.change().allocations > 0, "the counter counts");
        let region = Region::new(ALLOCATOR);
        for step in 1..200u64 {
            let rollout = &mut rollouts[(step % 5) as usize];
            rollout.step = step;
            controller.observe_into(rollout, &mut decision);
            let trial = &mut trials[(step % 2) as usize];
            trial.step = step;
            controller.observe_into(trial, &mut decision);
        }
        let change = region.change();
        assert_eq!((change.allocations, change.reallocations), (0, 0), "{}", config.law.name());
    }
    Ok(())
}
