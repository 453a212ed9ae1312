//! A hand-written trainer with a trust region, a rollback and per-domain budgets: what each verdict asks for.
//!
//! The "model" is one number per domain, its √(2·KL); a real trainer has weights in its place.
#![expect(clippy::print_stdout, reason = "an example prints")]

use tetherline_kl::law::{AutoPi, Law};
use tetherline_kl::{
    Budget, DomainKl, Guard, KlConfig, KlConfigError, KlObservation, NatsPerSequence, TrustRegion, Verdict,
};

const DOMAINS: [(&str, f64); 2] = [("chat", 6.0), ("medical", 2.0)];

fn measure(weights: &[f64; 2]) -> Vec<DomainKl> {
    let domain =
        |(id, _): &(&str, f64), d: &f64| DomainKl::new(*id, NatsPerSequence(0.5 * d * d), d * d, 256);
    DOMAINS.iter().zip(weights).map(|(name, d)| domain(name, d)).collect()
}

fn main() -> Result<(), KlConfigError> {
    let config = KlConfig {
        budgets: DOMAINS.iter().map(|(id, target)| Budget::new(*id, NatsPerSequence(*target))).collect(),
        trust_region: Some(TrustRegion::default()),
        guard: Some(Guard::default()),
        ..Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(6.0))).into()
    };
    let mut controller = config.build()?;
    let mut weights = [0.0, 0.0];
    let mut checkpoint = (weights, controller.state());
    for step in 0..300 {
        // 1. Roll out, measure KL per domain, ask for β and a verdict.
        let decision = controller.observe(&KlObservation::rollout(step, measure(&weights)));
        match decision.verdict {
            Verdict::Halt => break,
            Verdict::Reject => continue,
            Verdict::Rollback => {
                weights = checkpoint.0;
                // The law goes back with the weights; step and guard counters stay.
                controller.roll_back(&checkpoint.1).expect("this controller wrote it");
                continue;
            }
            Verdict::Accept | Verdict::Throttle | Verdict::Scale => {}
        }
        // 2. Update with β per row and the learning rate times `lr_factor`.
        let before = weights;
        let lr = 0.05 * decision.lr_factor;
        let mut proposed = weights;
        for (d, (id, _)) in proposed.iter_mut().zip(DOMAINS) {
            *d += lr * (1.0 - decision.beta_for(id) * *d);
        }
        weights = proposed;
        // 3. Measure again; scale the update back until it is inside the caps.
        for trial in 0.. {
            let verdict = controller.observe(&KlObservation::trial(step, trial, measure(&weights)));
            match verdict.verdict {
                Verdict::Scale => {
                    weights = std::array::from_fn(|k| before[k] + verdict.scale * (proposed[k] - before[k]));
                }
                Verdict::Accept => break,
                _ => {
                    weights = before;
                    break;
                }
            }
        }
        if step % 50 == 0 {
            checkpoint = (weights, controller.state());
            println!(
                "step {step:>3}: KL {:.2} {:.2}; {}",
                0.5 * weights[0].powi(2),
                0.5 * weights[1].powi(2),
                decision.reason
            );
        }
    }
    Ok(())
}
