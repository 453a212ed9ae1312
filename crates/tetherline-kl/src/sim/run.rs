//! One simulated run of a controller on a plant.

use super::{Noise, Plant, PlantKind};
use crate::config::{KlConfig, KlConfigError};
use crate::decision::{ControlDecision, Verdict};
use crate::observation::{DomainKl, KlObservation};
use crate::ramp::Shape;
use crate::target_schedule::TargetSchedule;
use crate::units::NatsPerSequence;
use std::collections::VecDeque;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The plant's kind.
    pub kind: PlantKind,
    /// Time constant at the target, updates.
    pub tau: f64,
    /// Domains: id, target (nats per sequence), reward scale.
    pub domains: Vec<(String, f64, f64)>,
    /// d = √(2·KL) of every domain before the first update: 0 for a policy that starts as its reference, more for a
    /// new controller on one that has drifted already. At β it rests at d = reward scale/β.
    pub start: f64,
    /// Share of the gradient common to all domains.
    pub mixing: f64,
    /// Sequences measured per update and domain.
    pub n: u64,
    /// Updates between a measurement and the β it leads to being used.
    pub delay: usize,
    /// Updates.
    pub updates: u64,
    /// What happens on the way.
    pub disturbances: Vec<Disturbance>,
    /// From this update on (> 0) every target is multiplied by this, as `[kl.target_schedule]` with the shape
    /// `step` does it.
    pub target_step: Option<(u64, f64)>,
    /// Share of observations that are NaN.
    pub nan_rate: f64,
    /// Whether the measurement after an update is as noisy as the rollout's; else it is exact.
    pub noisy_trials: bool,
}

/// Something that happens at an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disturbance {
    /// At this update.
    pub at: u64,
    /// The reward is multiplied by this from then on.
    pub reward: f64,
}

impl Scenario {
    /// One domain `all` on the design plant: n = 512, no delay, no disturbance.
    #[must_use]
    pub fn single(tau: f64, target: f64, updates: u64) -> Self {
        Self {
            kind: PlantKind::FirstOrder,
            tau,
            domains: vec![("all".to_owned(), target, 1.0)],
            start: 0.0,
            mixing: 0.0,
            n: 512,
            delay: 0,
            updates,
            disturbances: Vec::new(),
            target_step: None,
            nan_rate: 0.0,
            noisy_trials: true,
        }
    }

    /// The configuration with the change of target; an open-loop law has no target that could change.
    fn retarget(&self, config: &KlConfig) -> Result<KlConfig, KlConfigError> {
        let mut config = config.clone();
        if let Some((steps, to)) = self.target_step.filter(|_| config.target().is_some()) {
            if config.target_schedule.is_some() {
                let problem = "moves the target already: leave it out, or the scenario's step of the target";
                return Err(KlConfigError::new("target_schedule", problem));
            }
            config.target_schedule = Some(TargetSchedule { from: 1.0, to, steps, shape: Shape::Step });
        }
        Ok(config)
    }

    /// The share of the targets in force at an update.
    fn share(&self, schedule: Option<TargetSchedule>, step: u64) -> f64 {
        match (schedule, self.target_step) {
            (Some(schedule), _) => schedule.at(step),
            (None, Some((at, share))) if step >= at => share,
            _ => 1.0,
        }
    }
}

/// What happened: one entry per update, and per domain within it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// True KL after the update, nats per sequence.
    pub kl: Vec<Vec<f64>>,
    /// β used in the update.
    pub beta: Vec<Vec<f64>>,
    /// Target in force, nats per sequence.
    pub target: Vec<Vec<f64>>,
    /// Verdict on the rollout (or on the update, where that was graver).
    pub verdict: Vec<Verdict>,
    /// Share of the update that was kept.
    pub kept: Vec<f64>,
}

/// Runs a controller on a scenario. The learning rate follows `lr_factor`; a rollback returns to the last of
/// the checkpoints that are taken every 50 updates. A halt stops the plant, not the
/// clock: the trace goes on unchanged.
///
/// # Errors
/// [`KlConfigError`] where the configuration is not valid.
pub fn simulate(config: &KlConfig, scenario: &Scenario, seed: u64) -> Result<Trace, KlConfigError> {
    let config = scenario.retarget(config)?;
    let mut controller = config.build()?;
    let mut noise = Noise::new(seed);
    let ids: Vec<&str> = scenario.domains.iter().map(|(id, ..)| id.as_str()).collect();
    let shapes: Vec<_> = scenario.domains.iter().map(|(_, target, c)| (*target, *c)).collect();
    let mut plant =
        Plant::coupled(scenario.kind, scenario.tau, &shapes, scenario.mixing).drifted(scenario.start);
    let first: Vec<f64> = ids.iter().map(|id| controller.beta(id)).collect();
    let mut pipeline: VecDeque<Vec<f64>> = std::iter::repeat_n(first, scenario.delay).collect();
    let mut trace = Trace::default();
    let mut boost = 1.0;
    let mut decision = ControlDecision::empty();
    let mut halted = false;
    let eta = plant.eta;
    let mut saved = (plant.clone(), controller.state());
    for step in 0..scenario.updates {
        for d in scenario.disturbances.iter().filter(|d| d.at == step) {
            boost *= d.reward;
        }
        let broken = noise.uniform() < scenario.nan_rate;
        let domains = measure(&ids, &plant.kl(), scenario.n, true, broken, &mut noise);
        controller.observe_into(&KlObservation::rollout(step, domains), &mut decision);
        pipeline.push_back(ids.iter().map(|id| decision.beta_for(id)).collect());
        let beta = pipeline.pop_front().unwrap_or_default();
        let mut verdict = decision.verdict;
        halted |= verdict == Verdict::Halt;
        let mut kept = 0.0;
        if verdict == Verdict::Rollback {
            plant = saved.0.clone();
            controller.roll_back(&saved.1).unwrap_or_default();
        }
        plant.eta = eta * decision.lr_factor;
        if !halted && !matches!(verdict, Verdict::Reject | Verdict::Rollback) {
            let proposed = plant.propose(&beta, boost, &mut noise);
            kept = 1.0;
            if config.trust_region.is_some() {
                for trial in 0.. {
                    let after = plant.kl_between(&proposed, kept);
                    let domains = measure(&ids, &after, scenario.n, scenario.noisy_trials, false, &mut noise);
                    controller.observe_into(&KlObservation::trial(step, trial, domains), &mut decision);
                    match decision.verdict {
                        Verdict::Scale => kept = decision.scale,
                        Verdict::Accept | Verdict::Throttle => break,
                        graver => {
                            verdict = graver;
                            kept = 0.0;
                            break;
                        }
                    }
                }
            }
            plant.take(&proposed, kept);
            if step.is_multiple_of(50) && kept > 0.0 {
                saved = (plant.clone(), controller.state());
            }
        }
        trace.kl.push(plant.kl());
        trace.beta.push(beta);
        let share = scenario.share(config.target_schedule, step);
        trace.target.push(shapes.iter().map(|(target, _)| share * target).collect());
        trace.verdict.push(verdict);
        trace.kept.push(kept);
    }
    Ok(trace)
}

/// Measurements by k1 over `n` sequences: its variance along the tilt is 2·KL.
fn measure(ids: &[&str], kl: &[f64], n: u64, noisy: bool, broken: bool, noise: &mut Noise) -> Vec<DomainKl> {
    ids.iter()
        .zip(kl)
        .map(|(id, kl)| {
            let stderr = (2.0 * kl / n as f64).sqrt();
            let error = if noisy { stderr * noise.normal() } else { 0.0 };
            let mean = if broken { f64::NAN } else { kl + error };
            let mut domain = DomainKl::new(*id, NatsPerSequence(mean), 2.0 * kl, n);
            domain.reward_sd = Some(1.0);
            if !noisy {
                domain.stderr = Some(NatsPerSequence(0.0));
            }
            domain
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::{AutoPi, Law};
    use crate::sim::summarise;

    fn auto_pi() -> KlConfig {
        Law::AutoPi(AutoPi::new(0.2, NatsPerSequence(6.0))).into()
    }

    #[test]
    fn a_target_that_steps_is_followed() {
        let scenario = Scenario { target_step: Some((1000, 0.5)), ..Scenario::single(69.0, 6.0, 1600) };
        let trace = simulate(&auto_pi(), &scenario, 3).unwrap();
        assert_eq!((trace.target[999][0], trace.target[1000][0]), (6.0, 3.0));
        let quiet = simulate(&auto_pi(), &Scenario::single(69.0, 6.0, 1600), 3).unwrap();
        assert_eq!(trace.kl[..1000], quiet.kl[..1000], "nothing happens before");
        assert!(summarise(&trace, 0, 3.0, 1000).in_band > 90.0);
        // The same by the configuration's own schedule.
        let halve = TargetSchedule { from: 1.0, to: 0.5, steps: 1000, shape: Shape::Step };
        let scheduled = KlConfig { target_schedule: Some(halve), ..auto_pi() };
        assert_eq!(simulate(&scheduled, &Scenario::single(69.0, 6.0, 1600), 3).unwrap(), trace);
        assert_eq!(simulate(&scheduled, &scenario, 3).unwrap_err().field, "target_schedule");
    }

    #[test]
    fn an_open_loop_law_has_no_target_to_step() {
        let scenario = Scenario { target_step: Some((10, 2.0)), ..Scenario::single(69.0, 6.0, 20) };
        let trace = simulate(&KlConfig::fixed(0.2), &scenario, 0).unwrap();
        assert_eq!((trace.target[9][0], trace.target[10][0], trace.beta[19][0]), (6.0, 12.0, 0.2));
    }
}
