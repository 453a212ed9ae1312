//! A trust region that scales back and rejects, and a guard that rolls back: what each verdict asks for.
//!
//! `cargo run -p tetherline-kl --example trust_region_rollback`
//!
//! The "model" is one number, its √(2·KL). At update 60 a bug makes steps a hundred times too long; from 120
//! to 140 the measurement is broken.
#![expect(clippy::print_stdout, reason = "an example prints")]

use tetherline_kl::law::{AutoPi, Law};
use tetherline_kl::{
    DomainKl, Guard, KlConfig, KlConfigError, KlObservation, NatsPerSequence, TrustRegion, Verdict,
};

fn measure(d: f64) -> Vec<DomainKl> {
    vec![DomainKl::new("all", NatsPerSequence(0.5 * d * d), d * d, 512)]
}

fn main() -> Result<(), KlConfigError> {
    let config = KlConfig {
        trust_region: Some(TrustRegion::default()), // KL at most 1.15 × target after every update
        guard: Some(Guard::default()),
        ..Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(6.0))).into()
    };
    let mut controller = config.build()?;
    let mut weights = 0.0;
    let mut checkpoint = (weights, controller.state());
    for step in 0..200 {
        // 1. Roll out, measure KL, ask for β and a verdict.
        let broken = (120..123).contains(&step);
        let rollout = if broken { measure(f64::NAN) } else { measure(weights) };
        let decision = controller.observe(&KlObservation::rollout(step, rollout));
        if decision.verdict != Verdict::Accept {
            println!("step {step:>3}  {:?}: {}", decision.verdict, decision.reason);
        }
        match decision.verdict {
            Verdict::Halt => break,
            // Do not learn from this batch.
            Verdict::Reject => continue,
            Verdict::Rollback => {
                weights = checkpoint.0;
                // The law goes back with the weights; the step and the guard's counters do not.
                controller.roll_back(&checkpoint.1).expect("a state of this controller");
                continue;
            }
            Verdict::Accept | Verdict::Throttle | Verdict::Scale => {}
        }
        // 2. Update, with the learning rate times `lr_factor`.
        let lr = 0.05 * decision.lr_factor * if step == 60 { 100.0 } else { 1.0 };
        let before = weights;
        let proposed = weights + lr * (1.0 - decision.beta_for("all") * weights);
        // 3. Measure the result; keep the share of the update that the caps allow.
        let mut share = 1.0;
        for trial in 0.. {
            weights = before + share * (proposed - before);
            let answer = controller.observe(&KlObservation::trial(step, trial, measure(weights)));
            if answer.verdict != Verdict::Accept {
                println!("step {step:>3}  trial {trial}: {:?}: {}", answer.verdict, answer.reason);
            }
            match answer.verdict {
                Verdict::Scale => share = answer.scale,
                Verdict::Accept | Verdict::Throttle => break,
                _ => {
                    weights = before;
                    break;
                }
            }
        }
        if step % 50 == 0 {
            checkpoint = (weights, controller.state());
            println!("step {step:>3}  checkpoint at KL {:.2}", 0.5 * weights * weights);
        }
    }
    println!("the end: KL {:.2} nats per sequence", 0.5 * weights * weights);
    Ok(())
}
