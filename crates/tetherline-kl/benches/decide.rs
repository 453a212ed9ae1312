//! One decision, and one estimator over a million tokens.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tetherline_kl::law::{Adaptive, AutoPi, Law};
use tetherline_kl::{
    Budget, Clamp, ControlDecision, DomainKl, Guard, KlConfig, KlController, KlEstimator, KlObservation,
    KlPolicy, NatsPerSequence, TrustRegion,
};

fn decisions(c: &mut Criterion) {
    let three =
        || ["code", "legal", "medical"].map(|id| DomainKl::new(id, NatsPerSequence(5.0), 10.0, 128)).to_vec();
    let composed = KlConfig {
        budgets: ["code", "legal", "medical"].map(|id| Budget::new(id, NatsPerSequence(6.0))).to_vec(),
        trust_region: Some(TrustRegion::default()),
        guard: Some(Guard::default()),
        ..Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(6.0))).into()
    };
    let ids: Vec<String> = (0..1000).map(|i| format!("user:{i:04}")).collect();
    let crowd = KlConfig {
        budgets: vec![Budget::new("user:*", NatsPerSequence(6.0)), Budget::new("all", NatsPerSequence(6.0))],
        ..composed.clone()
    };
    let arms = [
        (
            "budgets(auto_pi) + trust_region + guard, a thousand users",
            crowd,
            ids.iter().map(|id| DomainKl::new(id, NatsPerSequence(5.0), 10.0, 8)).collect(),
        ),
        (
            "adaptive, one domain",
            KlConfig::from(Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 1e4))),
            vec![DomainKl::new("all", NatsPerSequence(5.0), 10.0, 512)],
        ),
        ("budgets(auto_pi) + trust_region + guard, three domains", composed, three()),
    ];
    for (name, config, domains) in arms {
        let mut controller = KlPolicy::new(config).expect("a valid configuration");
        let mut decision = ControlDecision::empty();
        let mut observation = KlObservation::rollout(0, domains);
        c.bench_function(name, |b| {
            b.iter(|| {
                observation.step += 1;
                controller.observe_into(black_box(&observation), &mut decision);
                black_box(decision.beta_for("all"))
            });
        });
    }
}

fn estimators(c: &mut Criterion) {
    let tokens = 1_000_000;
    let lp: Vec<f32> = (0..tokens).map(|i| -1.0 - (i % 97) as f32 / 50.0).collect();
    let rlp: Vec<f32> = (0..tokens).map(|i| -1.0 - (i % 89) as f32 / 50.0).collect();
    let mut group = c.benchmark_group("a million tokens");
    group.throughput(Throughput::Elements(tokens as u64));
    for estimator in [KlEstimator::K1, KlEstimator::K3] {
        group.bench_function(format!("{estimator:?}"), |b| {
            b.iter(|| estimator.sequence(black_box(&lp), black_box(&rlp), Clamp::SAFE));
        });
    }
    group.finish();
}

criterion_group!(benches, decisions, estimators);
criterion_main!(benches);
