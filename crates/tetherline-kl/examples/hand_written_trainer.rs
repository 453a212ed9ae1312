//! The smallest trainer under a KL controller: policy gradient on a bandit, KL held at a target.
//!
//! `cargo run -p tetherline-kl --example hand_written_trainer`
//!
//! Sixteen arms, reward rising with the arm; the policy is a softmax over logits. Everything that knows about
//! KL is marked.
#![expect(clippy::print_stdout, reason = "an example prints")]

use tetherline_kl::law::{AutoPi, Law};
use tetherline_kl::sim::Noise;
use tetherline_kl::{KlByDomain, KlConfig, KlConfigError, KlEstimator, NatsPerSequence, Verdict};

const ARMS: usize = 16;
const BATCH: usize = 512;

fn log_softmax(logits: &[f64; ARMS]) -> [f64; ARMS] {
    let z = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
    logits.map(|l| l - z)
}

fn main() -> Result<(), KlConfigError> {
    // KL: hold half a nat per sequence. (A "sequence" of this bandit is one draw.)
    let law = AutoPi::new(1.0, NatsPerSequence(0.5));
    let mut controller = KlConfig::from(Law::AutoPi(law)).build()?;
    let reference = log_softmax(&[0.0; ARMS]);
    let mut logits = [0.0; ARMS];
    let mut noise = Noise::new(1);
    for step in 0..300 {
        let policy = log_softmax(&logits);
        let mut kl = KlByDomain::default();
        let rollout: Vec<(usize, f64)> = (0..BATCH)
            .map(|_| {
                let mut u = noise.uniform();
                let past = |l: &f64| {
                    u -= l.exp();
                    u < 0.0
                };
                let arm = policy.iter().position(past).unwrap_or(ARMS - 1);
                // KL: the log-ratio of what was drawn, summed over the tokens of a response.
                let log_ratio = KlEstimator::K1.per_token(policy[arm], reference[arm]).0;
                kl.push("all", NatsPerSequence(log_ratio), 1);
                (arm, log_ratio)
            })
            .collect();
        // KL: what was measured goes in, β and a verdict come out.
        let decision = controller.observe(&kl.observe_overall(step));
        if decision.verdict == Verdict::Halt {
            println!("{}", decision.reason);
            break;
        }
        let beta = decision.beta_for("all");
        // KL: the penalty stands in the reward, r − β·log-ratio.
        let reward = |(arm, log_ratio): &(usize, f64)| *arm as f64 / ARMS as f64 - beta * log_ratio;
        let score = rollout.iter().map(|(arm, _)| *arm as f64).sum::<f64>() / (ARMS * BATCH) as f64;
        let mean = rollout.iter().map(reward).sum::<f64>() / BATCH as f64;
        for draw in &rollout {
            let advantage = reward(draw) - mean;
            for (arm, logit) in logits.iter_mut().enumerate() {
                let score = f64::from(u8::from(arm == draw.0)) - policy[arm].exp();
                *logit += 2.0 * advantage * score / BATCH as f64;
            }
        }
        if step % 30 == 0 {
            println!("step {step:>3}  score {score:.3}  {}", decision.reason);
        }
    }
    Ok(())
}
