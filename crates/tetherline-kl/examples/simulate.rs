//! Every law on the synthetic plant: overshoot, settling, share of updates in band, bias.
//!
//! `cargo run --release -p tetherline-kl --example simulate`
#![expect(clippy::print_stdout, reason = "an example prints")]

use tetherline_kl::law::{Adaptive, AutoPi, Dual, Law, Pid, PidLagrangian, PpoAdaptive, Ziegler};
use tetherline_kl::sim::{Scenario, median, simulate, summarise};
use tetherline_kl::{KlConfig, KlConfigError, NatsPerSequence, TrustRegion};

const TARGET: f64 = 6.0;
const SEEDS: u64 = 20;

fn main() -> Result<(), KlConfigError> {
    let b_ff = 1.0 / (2.0 * TARGET).sqrt();
    let with_cap = |law: Law| KlConfig { trust_region: Some(TrustRegion::default()), ..law.into() };
    let arms: Vec<(&str, KlConfig)> = vec![
        ("fixed 0.2", KlConfig::fixed(0.2)),
        ("fixed β*", KlConfig::fixed(b_ff)),
        ("ziegler", Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(TARGET), 1e4)).into()),
        ("adaptive", Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(TARGET), 1e4)).into()),
        ("ppo_adaptive", Law::PpoAdaptive(PpoAdaptive::new(0.2, NatsPerSequence(TARGET))).into()),
        ("pid", Law::Pid(Pid::new(0.2, NatsPerSequence(TARGET))).into()),
        ("pid_lagrangian", Law::PidLagrangian(PidLagrangian::new(0.2, NatsPerSequence(TARGET))).into()),
        ("dual", Law::Dual(Dual::new(0.2, NatsPerSequence(TARGET))).into()),
        ("dual lr .01", Law::Dual(Dual { lr: 0.01, ..Dual::new(0.2, NatsPerSequence(TARGET)) }).into()),
        ("auto_pi", Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(TARGET))).into()),
        ("auto_pi init 0.1", Law::AutoPi(AutoPi::new(0.1, NatsPerSequence(TARGET))).into()),
        ("auto_pi init 2", Law::AutoPi(AutoPi::new(2.0, NatsPerSequence(TARGET))).into()),
        ("auto_pi b_ff", Law::AutoPi(AutoPi::new(b_ff, NatsPerSequence(TARGET))).into()),
        ("auto_pi + cap", with_cap(Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(TARGET))))),
    ];
    println!("Medians over {SEEDS} seeds; target {TARGET} nats per sequence, n = 512.\n");
    println!(
        "{:<18} {:>5} {:>10} {:>8} {:>8} {:>7}",
        "controller", "τ", "overshoot%", "settled", "in band%", "bias%"
    );
    for (name, config) in arms {
        for tau in [17.0, 69.0, 277.0] {
            let updates = if tau > 100.0 { 6000 } else { 3000 };
            let scenario = Scenario::single(tau, TARGET, updates);
            let mut figures = Vec::new();
            for seed in 0..SEEDS {
                figures.push(summarise(&simulate(&config, &scenario, seed)?, 0, TARGET, 0));
            }
            let settled = median(figures.iter().map(|s| s.settled.map_or(f64::INFINITY, |u| u as f64)));
            println!(
                "{name:<18} {tau:>5} {:>10.1} {settled:>8.0} {:>8.1} {:>7.2}",
                median(figures.iter().map(|s| s.overshoot)),
                median(figures.iter().map(|s| s.in_band)),
                median(figures.iter().map(|s| s.bias)),
            );
        }
    }
    Ok(())
}
