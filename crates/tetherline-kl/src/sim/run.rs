//! One simulated run of a controller on a plant.

use super::{Noise, Plant, PlantKind};
use crate::config::{KlConfig, KlConfigError};
use crate::decision::{ControlDecision, Verdict};
use crate::observation::{DomainKl, KlObservation};
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
            mixing: 0.0,
            n: 512,
            delay: 0,
            updates,
            disturbances: Vec::new(),
            nan_rate: 0.0,
            noisy_trials: true,
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
    let mut controller = config.build()?;
    let mut noise = Noise::new(seed);
    let ids: Vec<&str> = scenario.domains.iter().map(|(id, ..)| id.as_str()).collect();
    let shapes: Vec<_> = scenario.domains.iter().map(|(_, target, c)| (*target, *c)).collect();
    let mut plant = Plant::coupled(scenario.kind, scenario.tau, &shapes, scenario.mixing);
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
