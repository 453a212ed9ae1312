//! The controller: one law per domain, and the optional parts around it, in one declared order.
//!
//! A rollout observation passes: step order → all absent → per domain (absent: β held; broken: β held,
//! reject; too noisy: β held) → metrics tighten or relax budgets → the laws → infeasibility → guard.
//! A trial observation passes: broken → trust region → ledger → guard. The verdict is the gravest asked
//! for: **halt > rollback > reject > scale > throttle > accept**; its reason is the one given, and among
//! equally grave ones that of the first domain by id.

mod answer;
mod entries;
mod rollout;
mod trial;

use crate::budget::{self, BudgetState};
use crate::config::{KlConfig, KlConfigError};
use crate::controller::KlController;
use crate::decision::{Combine, ControlDecision, Verdict, set};
use crate::guard::GuardState;
use crate::law::LawState;
use crate::ledger::LedgerState;
use crate::observation::{ALL, KlObservation, Phase};
use crate::reason::Reason;
use crate::state::{ControllerState, DomainState, Pending, STATE_VERSION, StateError};
use crate::trust_region::{Before, TrustRegionState};
use crate::units::NatsPerSequence;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A law over any number of domains, with optional budgets, trust region, guard and ledger.
#[derive(Clone, Debug)]
pub struct KlPolicy {
    config: KlConfig,
    last_step: Option<u64>,
    last_verdict: Verdict,
    rollouts: u64,
    unjudged: u64,
    domains: BTreeMap<Arc<str>, Domain>,
    budgets: Vec<BudgetState>,
    trust_region: TrustRegionState,
    guard: GuardState,
    ledger: LedgerState,
    /// Levels of budgets (overall, domain, user) that a row may fall under, at least 1.
    levels: usize,
    /// Memory reused from observation to observation; no part of the state.
    scratch: Vec<usize>,
}

/// One domain of a running controller.
#[derive(Clone, Debug)]
struct Domain {
    law: LawState,
    /// Which budget it falls under; without budgets, none.
    budget: Option<usize>,
    /// Observations in a row with β at its upper bound and KL still above the target.
    stuck: u32,
    /// Last usable rollout measurement of KL to the reference, and its standard error.
    seen: Option<f64>,
    seen_stderr: f64,
    /// Where the weights are, for the trust region.
    at: Before,
    /// Whether a cap on KL to the reference cut this domain's last update.
    capped: bool,
    /// The last rollout that measured it.
    measured: Option<u64>,
    /// Measurements too noisy to act on, taken together.
    pending: Option<Pending>,
}

impl KlPolicy {
    /// Validates the configuration and starts from its initial β.
    ///
    /// # Errors
    /// As [`KlConfig::validate`].
    pub fn new(config: KlConfig) -> Result<Self, KlConfigError> {
        config.validate()?;
        let budgets = config.budgets.iter().map(|b| b.start()).collect();
        let mut levels: Vec<_> = config.budgets.iter().map(|b| budget::level(&b.id)).collect();
        levels.sort_unstable();
        levels.dedup();
        Ok(Self {
            config,
            last_step: None,
            last_verdict: Verdict::Accept,
            rollouts: 0,
            unjudged: 0,
            domains: BTreeMap::new(),
            budgets,
            trust_region: TrustRegionState::default(),
            guard: GuardState::default(),
            ledger: LedgerState::default(),
            levels: levels.len().max(1),
            scratch: Vec::new(),
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &KlConfig {
        &self.config
    }

    /// The target in force for a domain: its budget's (or the law's) times what
    /// metrics and the schedule leave of it; `None` under an open-loop law.
    #[must_use]
    pub fn target(&self, domain: &str) -> Option<NatsPerSequence> {
        let budget =
            self.domains.get(domain).map_or_else(|| budget::find(&self.config.budgets, domain), |d| d.budget);
        self.target_of(budget).map(NatsPerSequence)
    }

    /// The β in force, as a decision lists them: after [`KlController::roll_back`] the last decision's are of before.
    #[must_use]
    pub fn betas(&self) -> BTreeMap<String, f64> {
        let mut out = ControlDecision::empty();
        self.write_betas(&mut out);
        out.beta
    }

    /// Whether a budget is infeasible: β at its upper bound and KL above the target, for 12 rollouts in a row.
    #[must_use]
    pub fn is_infeasible(&self) -> bool {
        self.domains.values().any(|d| d.stuck >= rollout::STUCK)
    }

    /// Starts the guard anew after a halt, once a person has looked at the trainer: what it counted is forgotten, the
    /// boost of β and the learning-rate factor go on decaying, and the ledger stays as it is.
    pub fn release_halt(&mut self) {
        let GuardState { ln_boost, lr_factor, .. } = self.guard;
        self.guard = GuardState { ln_boost, lr_factor, ..GuardState::default() };
        self.domains.values_mut().for_each(|d| d.stuck = 0);
    }

    /// Cumulative KL spent by accepted updates, where a ledger is configured.
    #[must_use]
    pub fn ledger(&self) -> Option<&LedgerState> {
        self.config.ledger.as_ref().map(|_| &self.ledger)
    }

    fn target_of(&self, budget: Option<usize>) -> Option<f64> {
        let base = match budget {
            Some(i) => self.config.budgets[i].target.0 * self.budgets[i].share,
            None => self.config.law.target()?.0,
        };
        let share = self.config.target_schedule.map_or(1.0, |s| s.at(self.rollouts.saturating_sub(1)));
        Some(base * share)
    }

    fn combine(&self) -> Combine {
        if self.config.budgets.is_empty() { Combine::Own } else { Combine::Sum }
    }

    /// Whether an id has a β of its own: every id does, but with budgets only those that fall under one.
    fn controlled(&self, budget: Option<usize>) -> bool {
        self.config.budgets.is_empty() || budget.is_some()
    }

    /// β of a domain: its law's times the guard's boost, inside the law's bounds.
    fn beta_of(&self, domain: &Domain) -> f64 {
        let beta = self.config.law.beta(&domain.law);
        if self.guard.ln_boost == 0.0 {
            return beta;
        }
        let max = self.config.law.bounds().map_or(f64::MAX, |(_, hi)| hi.min(f64::MAX));
        (beta * self.guard.ln_boost.exp()).min(max.max(beta))
    }

    /// The initial β of one budget: the levels of budgets share `init`, since a row adds them up.
    fn init_of_one(&self) -> f64 {
        self.config.law.init() / self.levels as f64
    }

    fn start_domain(&self, id: &str) -> Domain {
        let law = if self.config.budgets.is_empty() {
            self.config.law.start()
        } else {
            self.config.law.with_init(self.init_of_one()).start()
        };
        Domain {
            law,
            budget: budget::find(&self.config.budgets, id),
            stuck: 0,
            seen: None,
            seen_stderr: 0.0,
            at: Before::default(),
            capped: false,
            measured: None,
            pending: None,
        }
    }

    fn write_betas(&self, out: &mut ControlDecision) {
        let listed = |id: &str| self.domains.get(id).is_some_and(|d| self.controlled(d.budget));
        let count = self.domains.values().filter(|d| self.controlled(d.budget)).count();
        if out.beta.len() != count || !out.beta.keys().all(|id| listed(id)) {
            out.beta.retain(|id, _| listed(id));
        }
        for (id, domain) in self.domains.iter().filter(|(_, d)| self.controlled(d.budget)) {
            set(&mut out.beta, id, self.beta_of(domain));
        }
        if count == 0 {
            set(&mut out.beta, ALL, self.config.law.beta(&self.config.law.start()));
        }
    }

    fn check(&self, state: &ControllerState) -> Result<(), StateError> {
        if state.version != STATE_VERSION {
            return Err(StateError::Version { found: state.version, supported: STATE_VERSION });
        }
        let expected = self.config.law.name();
        if state.law != expected {
            return Err(StateError::OtherLaw { found: state.law.clone(), expected: expected.to_owned() });
        }
        let ids = |b: &[BudgetState]| b.iter().map(|b| b.id.clone()).collect::<Vec<_>>().join(", ");
        let (found, expected) = (ids(&state.budgets), ids(&self.budgets));
        if found != expected {
            return Err(StateError::OtherBudgets { found, expected });
        }
        let damaged = |part: String, problem: Option<String>| {
            problem.map_or(Ok(()), |problem| Err(StateError::Damaged { part, problem }))
        };
        for (id, d) in &state.domains {
            let part = || format!("domain `{id}`");
            damaged(part(), self.config.law.damage(&d.law))?;
            damaged(part(), d.damage())?;
        }
        for (b, config) in state.budgets.iter().zip(&self.config.budgets) {
            damaged(format!("budget `{}`", b.id), b.damage(config))?;
        }
        damaged("trust_region".to_owned(), state.trust_region.damage())?;
        damaged("guard".to_owned(), state.guard.damage())?;
        damaged("ledger".to_owned(), state.ledger.damage())?;
        Ok(())
    }
}

impl KlController for KlPolicy {
    fn observe_into(&mut self, obs: &KlObservation, out: &mut ControlDecision) {
        out.step = obs.step;
        out.combine = self.combine();
        out.verdict = Verdict::Accept;
        out.scale = 1.0;
        out.reason = Reason::Start {};
        match obs.phase {
            Phase::Rollout => self.rollout(obs, out),
            Phase::Trial => self.trial(obs, out),
        }
        if self.config.guard.is_some() {
            out.lr_factor = self.guard.lr_factor;
        } else {
            // Without a guard nothing remembers a throttle: it lasts for the decision that asks for it.
            out.lr_factor = if out.verdict == Verdict::Throttle { 0.5 } else { 1.0 };
        }
        self.write_betas(out);
    }

    fn beta(&self, domain: &str) -> f64 {
        if let (Combine::Own, Some(d)) = (self.combine(), self.domains.get(domain)) {
            return self.beta_of(d);
        }
        let mut out = ControlDecision::empty();
        out.combine = self.combine();
        self.write_betas(&mut out);
        out.beta_for(domain)
    }

    fn state(&self) -> ControllerState {
        let domain = |d: &Domain| DomainState {
            law: d.law.clone(),
            stuck: d.stuck,
            kl: d.seen,
            stderr: d.seen_stderr,
            at: d.at,
            capped: d.capped,
            measured: d.measured,
            pending: d.pending,
        };
        ControllerState {
            version: STATE_VERSION,
            law: self.config.law.name().to_owned(),
            last_step: self.last_step,
            last_verdict: self.last_verdict,
            rollouts: self.rollouts,
            unjudged: self.unjudged,
            domains: self.domains.iter().map(|(id, d)| (id.to_string(), domain(d))).collect(),
            budgets: self.budgets.clone(),
            trust_region: self.trust_region,
            guard: self.guard,
            ledger: self.ledger,
        }
    }

    fn restore(&mut self, state: &ControllerState) -> Result<(), StateError> {
        self.check(state)?;
        self.domains.clear();
        for (id, d) in &state.domains {
            let mut domain = self.start_domain(id);
            domain.law = d.law.clone();
            domain.stuck = d.stuck;
            domain.seen = d.kl;
            domain.seen_stderr = d.stderr;
            domain.at = d.at;
            domain.capped = d.capped;
            domain.measured = d.measured;
            domain.pending = d.pending;
            self.domains.insert(id.as_str().into(), domain);
        }
        self.last_step = state.last_step;
        self.last_verdict = state.last_verdict;
        self.rollouts = state.rollouts;
        self.unjudged = state.unjudged;
        self.budgets = state.budgets.clone();
        self.trust_region = state.trust_region;
        self.guard = state.guard;
        self.ledger = state.ledger;
        Ok(())
    }

    fn roll_back(&mut self, checkpoint: &ControllerState) -> Result<(), StateError> {
        self.check(checkpoint)?;
        for (id, domain) in &mut self.domains {
            domain.stuck = 0;
            domain.pending = None;
            // Of a domain that the checkpoint does not know, nothing is known of its weights.
            domain.at = Before::default();
            if let Some(saved) = checkpoint.domains.get(&**id) {
                domain.law = saved.law.clone();
                domain.seen = saved.kl;
                domain.seen_stderr = saved.stderr;
                domain.at = saved.at;
            }
        }
        Ok(())
    }
}
