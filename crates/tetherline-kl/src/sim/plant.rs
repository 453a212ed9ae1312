//! The plants: the one the laws were designed on, and four that they were not.

use super::Noise;

/// How KL answers to β.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantKind {
    /// d' = η(cS − βd): the design plant.
    FirstOrder,
    /// The same force through momentum 0.9, as an optimiser with momentum applies it.
    SecondOrder,
    /// The reward saturates with drift: S falls as 1/(1 + (d/6)²), so the plant is not linear in d.
    Saturating,
    /// S jumps by a random factor between 0.5 and 2 every 400 updates.
    RegimeSwitch,
    /// A KL floor: sampling noise of the update itself keeps KL ≥ 0.3.
    Floor,
}

/// A synthetic trainer with one or more coupled domains.
#[derive(Clone, Debug)]
pub struct Plant {
    /// Its kind.
    pub kind: PlantKind,
    /// Reward standard deviation.
    pub reward_sd: f64,
    /// Learning speed η per update.
    pub eta: f64,
    /// Share of the gradient that is common to all domains, 0..1.
    pub mixing: f64,
    /// Process noise per update, in units of η.
    pub process_noise: f64,
    scale: Vec<f64>,
    d: Vec<f64>,
    velocity: Vec<f64>,
    regime: f64,
    updates: u64,
}

impl Plant {
    /// One domain whose time constant at `target` (nats per sequence) is `tau` updates.
    #[must_use]
    pub fn new(kind: PlantKind, tau: f64, target: f64) -> Self {
        Self::coupled(kind, tau, &[(target, 1.0)], 0.0)
    }

    /// Several domains of (target, reward scale), with a common share of the gradient. τ holds for the
    /// first domain.
    #[must_use]
    pub fn coupled(kind: PlantKind, tau: f64, domains: &[(f64, f64)], mixing: f64) -> Self {
        let (target, c) = domains.first().copied().unwrap_or((1.0, 1.0));
        let beta_at_target = c / (2.0 * target).sqrt();
        Self {
            kind,
            reward_sd: 1.0,
            eta: 1.0 / (tau * beta_at_target),
            mixing,
            process_noise: 0.2,
            scale: domains.iter().map(|(_, c)| *c).collect(),
            d: vec![0.0; domains.len()],
            velocity: vec![0.0; domains.len()],
            regime: 1.0,
            updates: 0,
        }
    }

    /// Begins with every domain at this d = √(2·KL): a policy that has drifted already.
    #[must_use]
    pub fn drifted(mut self, d: f64) -> Self {
        self.d.fill(d);
        self
    }

    /// True KL of every domain, nats per sequence.
    #[must_use]
    pub fn kl(&self) -> Vec<f64> {
        self.d.iter().map(|d| self.kl_of(*d)).collect()
    }

    fn kl_of(&self, d: f64) -> f64 {
        let floor = if self.kind == PlantKind::Floor { 0.3 } else { 0.0 };
        floor + 0.5 * d * d
    }

    /// √(2·KL) of every domain.
    #[must_use]
    pub fn state(&self) -> &[f64] {
        &self.d
    }

    /// KL of a state between the current one and `proposed`.
    #[must_use]
    pub fn kl_between(&self, proposed: &[f64], share: f64) -> Vec<f64> {
        self.d.iter().zip(proposed).map(|(a, b)| self.kl_of(a + share * (b - a))).collect()
    }

    /// The state after one update with these β, not yet taken. `boost` scales the reward.
    pub fn propose(&mut self, beta: &[f64], boost: f64, noise: &mut Noise) -> Vec<f64> {
        if self.kind == PlantKind::RegimeSwitch && self.updates > 0 && self.updates.is_multiple_of(400) {
            self.regime = 2f64.powf(2.0 * noise.uniform() - 1.0);
        }
        self.updates += 1;
        let force: Vec<f64> = (0..self.d.len())
            .map(|k| {
                let fade = match self.kind {
                    PlantKind::Saturating => 1.0 / (1.0 + (self.d[k] / 6.0).powi(2)),
                    _ => 1.0,
                };
                self.scale[k] * self.reward_sd * boost * self.regime * fade - beta[k] * self.d[k]
            })
            .collect();
        let mean = force.iter().sum::<f64>() / force.len() as f64;
        (0..self.d.len())
            .map(|k| {
                let mixed = (1.0 - self.mixing) * force[k] + self.mixing * mean;
                let push = self.eta * (mixed + self.process_noise * noise.normal());
                let step = if self.kind == PlantKind::SecondOrder {
                    self.velocity[k] = 0.9 * self.velocity[k] + 0.1 * push;
                    self.velocity[k]
                } else {
                    push
                };
                (self.d[k] + step).max(0.0)
            })
            .collect()
    }

    /// Takes this share of a proposed step; a rejected one (0) also stops the momentum.
    pub fn take(&mut self, proposed: &[f64], share: f64) {
        for ((d, to), v) in self.d.iter_mut().zip(proposed).zip(&mut self.velocity) {
            *d += share * (to - *d);
            *v *= share;
        }
    }
}
