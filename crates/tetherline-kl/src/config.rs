//! The `[kl]` section of a recipe: one law, by name, and optional parts beside it.
//!
//! ```toml
//! [kl.adaptive]      # or fixed, ziegler, …
//! init = 0.2         # reward units per nat
//! target = 6.0       # nats per sequence
//! horizon = 10000    # episodes
//! ```
//!
//! Beside the law may stand `[kl.target_schedule]`, `[[kl.budget]]`, `[kl.trust_region]`, `[kl.guard]`,
//! `[kl.ledger]` and `[kl.reference.SCHEDULE]`.
//!
//! The facade parses TOML; this crate derives serde and validates.

use crate::budget::{self, Budget};
use crate::controller::KlController;
use crate::guard::Guard;
use crate::law::{Adaptive, AutoPi, Dual, Fixed, Law, Pid, PidLagrangian, PpoAdaptive, Schedule, Ziegler};
use crate::ledger::Ledger;
use crate::policy::KlPolicy;
use crate::reference::{ReferenceLedger, ReferenceMove, ReferenceSchedule};
use crate::target_schedule::TargetSchedule;
use crate::trust_region::TrustRegion;
use crate::units::NatsPerSequence;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A KL controller's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Sections", into = "Sections")]
pub struct KlConfig {
    /// The law that moves β.
    pub law: Law,
    /// A schedule of every target.
    pub target_schedule: Option<TargetSchedule>,
    /// Budgets; with any, a row's β is the sum over the budgets it falls under.
    pub budgets: Vec<Budget>,
    /// Sequences at which a budgeted domain's own measurement weighs one half (default 32; 0: no shrinkage).
    pub shrink: f64,
    /// Caps on the result of an update.
    pub trust_region: Option<TrustRegion>,
    /// Alarms and their consequences.
    pub guard: Option<Guard>,
    /// A limit on cumulative drift.
    pub ledger: Option<Ledger>,
    /// When the reference moves; `None` is never. The controller does not move it: the trainer asks
    /// [`Self::reference_after_update`].
    pub reference: Option<ReferenceSchedule>,
}

/// A configuration value that is out of range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
#[non_exhaustive]
pub struct KlConfigError {
    /// Dotted path inside `[kl]`, e.g. `adaptive.horizon`; empty where it is the section itself.
    pub field: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl KlConfigError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

pub(crate) fn require(
    ok: bool,
    field: &str,
    value: impl std::fmt::Display,
    range: &str,
) -> Result<(), KlConfigError> {
    if ok { Ok(()) } else { Err(KlConfigError::new(field, format!("must be {range}, got {value}"))) }
}

pub(crate) fn positive(value: f64, field: &str) -> Result<(), KlConfigError> {
    require(value.is_finite() && value > 0.0, field, value, "finite and > 0")
}

/// What a target may be, in nats per sequence, and a share of one. No response has less or more, and with the squares
/// and ratios that the laws take of it nothing overflows.
pub(crate) fn target(value: f64, field: &str) -> Result<(), KlConfigError> {
    // `Debug` writes 1e-315 as such and not with its 315 digits.
    require((1e-9..=1e9).contains(&value), field, format_args!("{value:?}"), "from 1e-9 to 1e9")
}

/// Largest bound of β: with a gain of 1e6 and a KL of 1e12 it still gives finite steps.
const MOST_BETA: f64 = 1e9;

/// An upper bound of β.
pub(crate) fn beta_max(value: f64, field: &str) -> Result<(), KlConfigError> {
    require(value > 0.0 && value <= MOST_BETA, field, format_args!("{value:?}"), "> 0 and at most 1e9")
}

/// 0 < beta_min ≤ init ≤ beta_max ≤ 1e9.
pub(crate) fn beta_bounds(law: &str, init: f64, min: f64, max: f64) -> Result<(), KlConfigError> {
    positive(init, &format!("{law}.init"))?;
    positive(min, &format!("{law}.beta_min"))?;
    beta_max(max, &format!("{law}.beta_max"))?;
    require(min <= max, &format!("{law}.beta_min"), min, &format!("≤ beta_max ({max})"))?;
    let range = format!("between beta_min ({min}) and beta_max ({max})");
    require((min..=max).contains(&init), &format!("{law}.init"), init, &range)
}

impl From<Law> for KlConfig {
    fn from(law: Law) -> Self {
        Self {
            law,
            target_schedule: None,
            budgets: Vec::new(),
            shrink: DEFAULT_SHRINK,
            trust_region: None,
            guard: None,
            ledger: None,
            reference: None,
        }
    }
}

impl KlConfig {
    /// A constant β.
    #[must_use]
    pub fn fixed(init: f64) -> Self {
        Law::Fixed(Fixed { init }).into()
    }

    /// The target KL; `None` for an open-loop law.
    #[must_use]
    pub fn target(&self) -> Option<NatsPerSequence> {
        self.law.target()
    }

    /// What the KL over all rows is held to: the law's target, with budgets that of `all`. `None` for an open-loop law, and
    /// where only budgets of domains or users hold.
    #[must_use]
    pub fn overall_target(&self) -> Option<NatsPerSequence> {
        if self.budgets.is_empty() {
            return self.target();
        }
        self.budgets.iter().find(|b| b.id == crate::observation::ALL).map(|b| b.target)
    }

    /// The initial β, reward units per nat.
    #[must_use]
    pub fn init(&self) -> f64 {
        self.law.init()
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first [`KlConfigError`], with the field's path inside `[kl]`.
    pub fn validate(&self) -> Result<(), KlConfigError> {
        self.law.validate()?;
        let closed_loop = self.law.target().is_some();
        if let Some(schedule) = &self.target_schedule {
            schedule.validate()?;
            require(closed_loop, "target_schedule", self.law.name(), "beside a law with a target")?;
        }
        budget::validate(&self.budgets)?;
        if !self.budgets.is_empty() {
            require(closed_loop, "budget", self.law.name(), "beside a law with a target")?;
        }
        require(self.shrink.is_finite() && self.shrink >= 0.0, "shrink", self.shrink, "finite and ≥ 0")?;
        let of_reference = closed_loop && !self.law.steers_by_old();
        self.trust_region.map_or(Ok(()), |t| t.validate(of_reference))?;
        self.guard.map_or(Ok(()), |g| g.validate())?;
        self.ledger.map_or(Ok(()), |l| l.validate())?;
        self.reference.map_or(Ok(()), |r| r.validate())
    }

    /// What the reference does after the accepted update of a step, entered in the ledger; `kl` is KL to the current
    /// reference. See [`ReferenceSchedule::after_update`].
    pub fn reference_after_update(
        &self,
        step: u64,
        kl: NatsPerSequence,
        ledger: &mut ReferenceLedger,
    ) -> ReferenceMove {
        self.reference.unwrap_or_default().after_update(step, kl, ledger)
    }

    /// What is allowed but probably not meant, in words. Where the episodes per update are not known, the warning
    /// says from how many on.
    #[must_use]
    pub fn warnings(&self, episodes_per_update: Option<u64>) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Law::Ziegler(c) = &self.law
            && c.beta_min.is_none()
        {
            // One step multiplies β by at least 1 − 0.2·n/horizon.
            let remedy = "set beta_min, or use `adaptive`";
            match episodes_per_update {
                Some(n) if 0.2 * n as f64 >= c.horizon => warnings.push(format!(
                    "ziegler.horizon: {n} episodes per update against a horizon of {} can make β zero or negative in \
                     one step; use a horizon above {}, {remedy}",
                    c.horizon,
                    0.2 * n as f64
                )),
                Some(_) => {}
                None => warnings.push(format!(
                    "ziegler: the published form is not bounded, and {} or more episodes in one update can make β zero \
                     or negative; {remedy}",
                    (5.0 * c.horizon).ceil()
                )),
            }
        }
        if self.guard.is_some() && self.law.target().is_none() {
            warnings.push(format!(
                "guard: the law `{}` has no target, so a blow-up of KL is not noticed; broken measurements are",
                self.law.name()
            ));
        }
        let moves = self.reference.is_some_and(|r| r.moves());
        if moves && self.trust_region.is_none_or(|t| t.ref0_cap.is_none()) {
            warnings.push(
                "reference: it moves, and KL to it does not see the drift that each move forgives; watch what the ledger \
                 calls forgiven, or cap the KL to the first reference with trust_region.ref0_cap"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Validates and builds the controller.
    ///
    /// # Errors
    /// As [`Self::validate`].
    pub fn build(&self) -> Result<Box<dyn KlController + Send>, KlConfigError> {
        Ok(Box::new(KlPolicy::new(self.clone())?))
    }
}

/// Default of `shrink`, sequences.
const DEFAULT_SHRINK: f64 = 32.0;

/// The section as it stands in a file: every law is an optional table of which exactly one must be there;
/// the parts stand beside it.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    // Plain values come before tables, as TOML wants them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shrink: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reference: Option<ReferenceSchedule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fixed: Option<Fixed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule: Option<Schedule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ziegler: Option<Ziegler>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adaptive: Option<Adaptive>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ppo_adaptive: Option<PpoAdaptive>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid: Option<Pid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid_lagrangian: Option<PidLagrangian>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dual: Option<Dual>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auto_pi: Option<AutoPi>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_schedule: Option<TargetSchedule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust_region: Option<TrustRegion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guard: Option<Guard>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ledger: Option<Ledger>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    budget: Vec<Budget>,
}

impl TryFrom<Sections> for KlConfig {
    type Error = KlConfigError;

    fn try_from(s: Sections) -> Result<Self, KlConfigError> {
        let mut laws: Vec<Law> = Vec::new();
        laws.extend(s.fixed.map(Law::Fixed));
        laws.extend(s.schedule.map(Law::Schedule));
        laws.extend(s.ziegler.map(Law::Ziegler));
        laws.extend(s.adaptive.map(Law::Adaptive));
        laws.extend(s.ppo_adaptive.map(Law::PpoAdaptive));
        laws.extend(s.pid.map(Law::Pid));
        laws.extend(s.pid_lagrangian.map(Law::PidLagrangian));
        laws.extend(s.dual.map(Law::Dual));
        laws.extend(s.auto_pi.map(Law::AutoPi));
        let law = match laws.len() {
            1 => laws.remove(0),
            0 => {
                let names =
                    "fixed, schedule, ziegler, adaptive, ppo_adaptive, pid, pid_lagrangian, dual or auto_pi";
                return Err(KlConfigError::new("kl", format!("needs one law: {names}")));
            }
            n => {
                let names: Vec<_> = laws.iter().map(Law::name).collect();
                return Err(KlConfigError::new(
                    "kl",
                    format!("has {n} laws ({}): keep one", names.join(", ")),
                ));
            }
        };
        Ok(Self {
            law,
            target_schedule: s.target_schedule,
            budgets: s.budget,
            shrink: s.shrink.unwrap_or(DEFAULT_SHRINK),
            trust_region: s.trust_region,
            guard: s.guard,
            ledger: s.ledger,
            reference: s.reference,
        })
    }
}

impl From<KlConfig> for Sections {
    fn from(config: KlConfig) -> Self {
        let mut s = Self {
            target_schedule: config.target_schedule,
            budget: config.budgets,
            shrink: Some(config.shrink).filter(|s| *s != DEFAULT_SHRINK),
            trust_region: config.trust_region,
            guard: config.guard,
            ledger: config.ledger,
            reference: config.reference,
            ..Self::default()
        };
        match config.law {
            Law::Fixed(c) => s.fixed = Some(c),
            Law::Schedule(c) => s.schedule = Some(c),
            Law::Ziegler(c) => s.ziegler = Some(c),
            Law::Adaptive(c) => s.adaptive = Some(c),
            Law::PpoAdaptive(c) => s.ppo_adaptive = Some(c),
            Law::Pid(c) => s.pid = Some(c),
            Law::PidLagrangian(c) => s.pid_lagrangian = Some(c),
            Law::Dual(c) => s.dual = Some(c),
            Law::AutoPi(c) => s.auto_pi = Some(c),
        }
        s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_read_by_name_and_round_trip() {
        let text = "[adaptive]\ninit = 0.2\ntarget = 6.0\nhorizon = 10000\n";
        let config: KlConfig = toml::from_str(text).unwrap();
        assert_eq!(config, Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 10_000.0)).into());
        assert_eq!(config.target(), Some(NatsPerSequence(6.0)));
        assert_eq!(toml::from_str::<KlConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        let json = serde_json::to_string(&KlConfig::fixed(0.05)).unwrap();
        assert_eq!(json, r#"{"fixed":{"init":0.05}}"#);
        assert_eq!(serde_json::from_str::<KlConfig>(&json).unwrap(), KlConfig::fixed(0.05));
    }

    #[test]
    fn typos_none_and_two_are_refused_in_words() {
        let error = |text: &str| toml::from_str::<KlConfig>(text).unwrap_err().to_string();
        assert!(error("[adaptve]\ninit = 1.0").contains("adaptve"));
        let horizn = error("[adaptive]\ninit = 0.2\ntarget = 6.0\nhorizn = 3");
        assert!(horizn.contains("horizn") && horizn.contains("line 4"), "{horizn}");
        assert!(error("").contains("needs one law"));
        assert!(
            error("[fixed]\ninit = 1.0\n[ziegler]\ninit=1.0\ntarget=1.0\nhorizon=1.0")
                .contains("fixed, ziegler")
        );
    }

    #[test]
    fn values_out_of_range_name_their_field() {
        let field = |law: Law| KlConfig::from(law).validate().unwrap_err().field;
        assert_eq!(field(Law::Fixed(Fixed { init: -0.1 })), "fixed.init");
        assert_eq!(field(Law::Fixed(Fixed { init: f64::NAN })), "fixed.init");
        let good = Adaptive::new(0.2, NatsPerSequence(6.0), 1e4);
        assert_eq!(field(Law::Adaptive(Adaptive { horizon: 0.0, ..good })), "adaptive.horizon");
        assert_eq!(
            field(Law::Adaptive(Adaptive { target: NatsPerSequence(-1.0), ..good })),
            "adaptive.target"
        );
        assert_eq!(field(Law::Adaptive(Adaptive { init: 0.0, ..good })), "adaptive.init");
        assert_eq!(field(Law::Adaptive(Adaptive { init: 11.0, ..good })), "adaptive.init");
        assert_eq!(field(Law::Adaptive(Adaptive { beta_min: 0.0, ..good })), "adaptive.beta_min");
        assert_eq!(field(Law::Adaptive(Adaptive { beta_min: 20.0, ..good })), "adaptive.beta_min");
        assert_eq!(field(Law::Adaptive(Adaptive { beta_max: f64::INFINITY, ..good })), "adaptive.beta_max");
        let z = Ziegler::new(0.2, NatsPerSequence(6.0), 1e4);
        assert_eq!(field(Law::Ziegler(Ziegler { target: NatsPerSequence(0.0), ..z })), "ziegler.target");
        assert_eq!(field(Law::Ziegler(Ziegler { horizon: f64::NAN, ..z })), "ziegler.horizon");
        assert_eq!(field(Law::Ziegler(Ziegler { init: 0.0, ..z })), "ziegler.init");
        assert_eq!(field(Law::Ziegler(Ziegler { beta_min: Some(-1.0), ..z })), "ziegler.beta_min");
        assert_eq!(field(Law::Ziegler(Ziegler { beta_max: Some(0.1), ..z })), "ziegler.beta_max");
        assert!(KlConfig::fixed(0.0).validate().is_ok(), "β = 0 is the untethered run");
        let message = KlConfig::fixed(-1.0).build().unwrap_err().to_string();
        assert_eq!(message, "fixed.init: must be finite and ≥ 0, got -1");
    }

    #[test]
    fn a_reference_schedule_is_part_of_the_section() {
        let law = "[adaptive]\ninit = 0.2\ntarget = 6.0\n";
        let read = |text: &str| toml::from_str::<KlConfig>(text).unwrap();
        let sync = read(&format!("{law}[reference.sync]\nmix = 0.6\nevery = 2\n"));
        assert_eq!(sync.reference, Some(ReferenceSchedule::Sync { mix: 0.6, every: 2 }));
        assert_eq!(toml::from_str::<KlConfig>(&toml::to_string(&sync).unwrap()).unwrap(), sync);
        let mut ledger = ReferenceLedger::default();
        let moves = [4, 5].map(|step| sync.reference_after_update(step, NatsPerSequence(1.0), &mut ledger));
        assert_eq!(moves, [ReferenceMove::Stay, ReferenceMove::Mix { mix: 0.6 }]);
        assert!((ledger.forgiven - 0.84).abs() < 1e-12);
        assert!(sync.warnings(None)[0].contains("ref0_cap"), "{:?}", sync.warnings(None));
        let capped = read(&format!("{law}[reference.ema]\nrate = 0.01\n[trust_region]\nref0_cap = 40.0\n"));
        assert!(capped.warnings(None).is_empty() && capped.validate().is_ok());
        let fixed = read(&format!("reference = \"fixed\"\n{law}"));
        assert_eq!(fixed.reference, Some(ReferenceSchedule::Fixed));
        assert_eq!(toml::from_str::<KlConfig>(&toml::to_string(&fixed).unwrap()).unwrap(), fixed);
        assert!(fixed.warnings(None).is_empty());
        let still =
            read(law).reference_after_update(0, NatsPerSequence(1.0), &mut ReferenceLedger::default());
        assert_eq!(still, ReferenceMove::Stay);
        let field = read(&format!("{law}[reference.reset]\nevery = 0\n")).validate().unwrap_err().field;
        assert_eq!(field, "reference.reset.every");
        let unknown = toml::from_str::<KlConfig>(&format!("{law}[reference.sync]\nmix = 0.6\nevry = 2\n"));
        assert!(unknown.unwrap_err().to_string().contains("evry"));
    }

    #[test]
    fn a_step_too_long_for_the_horizon_warns() {
        let z = KlConfig::from(Law::Ziegler(Ziegler::new(0.2, NatsPerSequence(6.0), 100.0)));
        let blind = KlConfig { guard: Some(Guard::default()), ..KlConfig::fixed(0.1) };
        assert!(blind.warnings(None)[0].contains("no target"), "{:?}", blind.warnings(None));
        assert!(z.warnings(Some(499)).is_empty());
        assert!(z.warnings(Some(500))[0].contains("ziegler.horizon"));
        assert!(z.warnings(None)[0].contains("500 or more episodes"), "{:?}", z.warnings(None));
    }
}
