//! The controller itself: one law per domain, with the checks every measurement passes first.
//!
//! Order of a rollout observation: step order → all absent → per domain, in the order of the ids:
//! absent (β held) → not finite (β held, reject) → impossible (β held, reject) → too noisy (β held) →
//! the law. The decision's reason is the gravest of them; among equals, of the first domain by id.

use crate::config::{KlConfig, KlConfigError};
use crate::controller::KlController;
use crate::decision::{Combine, ControlDecision, Verdict};
use crate::law::{LawState, Note};
use crate::observation::{ALL, DomainKl, KlObservation, Phase};
use crate::reading::{Checked, Reading};
use crate::reason::Reason;
use crate::state::{ControllerState, DomainState, STATE_VERSION, StateError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A law over any number of domains.
#[derive(Clone, Debug)]
pub struct KlPolicy {
    config: KlConfig,
    last_step: Option<u64>,
    domains: BTreeMap<Arc<str>, LawState>,
}

/// How grave a reason is; the gravest is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gravity {
    Moved,
    Noted,
    Alarm,
}

impl KlPolicy {
    /// Validates the configuration and starts from its initial β.
    ///
    /// # Errors
    /// As [`KlConfig::validate`].
    pub fn new(config: KlConfig) -> Result<Self, KlConfigError> {
        config.validate()?;
        Ok(Self { config, last_step: None, domains: BTreeMap::new() })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &KlConfig {
        &self.config
    }

    fn rollout(&mut self, obs: &KlObservation, out: &mut ControlDecision) {
        if let Some(last) = self.last_step.filter(|&last| obs.step <= last) {
            out.reason = if obs.step == last {
                Reason::DuplicateStep { step: last }
            } else {
                Reason::StepBackwards { step: obs.step, last }
            };
            return;
        }
        self.last_step = Some(obs.step);
        if obs.domains.iter().all(|d| d.n == 0) {
            out.verdict = Verdict::Halt;
            out.reason = Reason::AllAbsent {};
            return;
        }
        let mut gravest: Option<(Gravity, Reason)> = None;
        // Domains are independent of each other here, so only the choice among equal reasons depends on
        // the order; "first by id" is kept by comparing ids, not by sorting.
        let mut of: Option<&str> = None;
        for domain in &obs.domains {
            let Some((gravity, reason)) = self.domain(domain) else { continue };
            let first = of.is_none_or(|id| domain.id.as_str() < id);
            let replace = gravest.as_ref().is_none_or(|(g, _)| gravity > *g || (gravity == *g && first));
            if replace {
                gravest = Some((gravity, reason));
                of = Some(&domain.id);
            }
        }
        if let Some((gravity, reason)) = gravest {
            if gravity == Gravity::Alarm {
                out.verdict = Verdict::Reject;
            }
            out.reason = reason;
        }
    }

    /// One domain's measurement: moves its β and says why.
    fn domain(&mut self, domain: &DomainKl) -> Option<(Gravity, Reason)> {
        let id = match self.domains.get_key_value(domain.id.as_str()) {
            Some((id, _)) => id.clone(),
            None => {
                let id: Arc<str> = domain.id.as_str().into();
                self.domains.insert(id.clone(), self.config.law.start());
                id
            }
        };
        let reading = match Reading::check(domain) {
            Checked::Absent => return None,
            Checked::Invalid(field) => {
                return Some((Gravity::Alarm, Reason::NotFinite { domain: id, field }));
            }
            Checked::Usable(reading) => reading,
        };
        let law = &self.config.law;
        let mut alarm = None;
        if reading.impossible() {
            alarm = Some(Reason::NegativeKl { domain: id.clone(), kl: reading.mean, stderr: reading.stderr });
        }
        let Some(target) = law.target() else {
            let held = (Gravity::Moved, Reason::Fixed { beta: law.init() });
            return Some(alarm.map_or(held, |reason| (Gravity::Alarm, reason)));
        };
        if !law.takes_everything_finite() {
            if let Some(reason) = alarm {
                return Some((Gravity::Alarm, reason));
            }
            if reading.stderr > target {
                return Some((
                    Gravity::Noted,
                    Reason::TooNoisy { domain: id, stderr: reading.stderr, target },
                ));
            }
        }
        let state = self.domains.get_mut(&id)?;
        let from = law.beta(state);
        let note = law.update(state, &reading, target);
        let to = law.beta(state);
        let kl = reading.mean;
        let noted = match note {
            _ if alarm.is_some() => return alarm.map(|reason| (Gravity::Alarm, reason)),
            Note::AtBound => Reason::AtBound { domain: id, kl, target, beta: to },
            Note::CrossedZero => Reason::CrossedZero { domain: id, beta: to, n: reading.n },
            Note::Overflow => Reason::Overflow { domain: id, beta: to },
            Note::Plain => {
                let reason = if to > from {
                    Reason::BetaRaised { domain: id, kl, target, from, to }
                } else if to < from {
                    Reason::BetaLowered { domain: id, kl, target, from, to }
                } else {
                    Reason::BetaHeld { domain: id, kl, target, beta: to }
                };
                return Some((Gravity::Moved, reason));
            }
        };
        Some((Gravity::Noted, noted))
    }

    fn write_betas(&self, out: &mut ControlDecision) {
        let law = &self.config.law;
        if self.domains.is_empty() {
            set(&mut out.beta, ALL, law.init());
        }
        if out.beta.len() != self.domains.len().max(1)
            || !self.domains.keys().all(|k| out.beta.contains_key(&**k))
        {
            out.beta.retain(|id, _| self.domains.contains_key(id.as_str()));
            if self.domains.is_empty() {
                set(&mut out.beta, ALL, law.init());
            }
        }
        for (id, state) in &self.domains {
            set(&mut out.beta, id, law.beta(state));
        }
    }
}

/// Sets a map's value without allocating where the key exists.
fn set(map: &mut BTreeMap<String, f64>, id: &str, value: f64) {
    match map.get_mut(id) {
        Some(slot) => *slot = value,
        None => {
            map.insert(id.to_owned(), value);
        }
    }
}

impl KlController for KlPolicy {
    fn observe_into(&mut self, obs: &KlObservation, out: &mut ControlDecision) {
        out.step = obs.step;
        out.combine = Combine::Own;
        out.verdict = Verdict::Accept;
        out.scale = 1.0;
        out.lr_factor = 1.0;
        out.reason = Reason::Start {};
        match obs.phase {
            Phase::Rollout => self.rollout(obs, out),
            Phase::Trial => out.reason = Reason::NotJudged { trial: obs.trial.unwrap_or(0) },
        }
        self.write_betas(out);
    }

    fn beta(&self, domain: &str) -> f64 {
        let law = &self.config.law;
        let of = |id: &str| self.domains.get(id).map(|s| law.beta(s));
        of(domain)
            .or_else(|| of(ALL))
            .or_else(|| self.domains.values().map(|s| law.beta(s)).max_by(f64::total_cmp))
            .unwrap_or_else(|| law.init())
    }

    fn state(&self) -> ControllerState {
        ControllerState {
            version: STATE_VERSION,
            law: self.config.law.name().to_owned(),
            last_step: self.last_step,
            domains: self
                .domains
                .iter()
                .map(|(id, law)| (id.to_string(), DomainState { law: law.clone() }))
                .collect(),
        }
    }

    fn restore(&mut self, state: &ControllerState) -> Result<(), StateError> {
        if state.version != STATE_VERSION {
            return Err(StateError::Version { found: state.version, supported: STATE_VERSION });
        }
        let expected = self.config.law.name();
        if state.law != expected {
            return Err(StateError::OtherLaw { found: state.law.clone(), expected: expected.to_owned() });
        }
        for (domain, d) in &state.domains {
            if let Some(problem) = self.config.law.damage(&d.law) {
                return Err(StateError::Damaged { domain: domain.clone(), problem });
            }
        }
        self.last_step = state.last_step;
        self.domains = state.domains.iter().map(|(id, d)| (id.as_str().into(), d.law.clone())).collect();
        Ok(())
    }
}
