//! KL estimators and controllers for RLHF: no tensors, no tokens, no files.
//!
//! A controller holds the KL divergence between a policy and its reference at a target by moving the
//! penalty coefficient β. It is a pure state machine, `observe(&KlObservation) -> ControlDecision`,
//! with no clock and no randomness: the same observations give the same decisions, bit for bit.
//!
//! Units are in the types: a target is [`NatsPerSequence`] (the log-ratio summed over the tokens of a
//! response, averaged over responses); a value per token is [`NatsPerToken`] and becomes the other only
//! with a length.
//!
//! ```
//! use tetherline_kl::{DomainKl, KlConfig, KlObservation, NatsPerSequence, law::Adaptive, law::Law};
//!
//! let config = KlConfig::from(Law::Adaptive(Adaptive::new(0.2, NatsPerSequence(6.0), 10_000.0)));
//! let mut controller = config.build()?;
//! let decision = controller.observe(&KlObservation::rollout(0, vec![DomainKl::new("all", NatsPerSequence(9.0), 18.0, 512)]));
//! assert!(decision.beta_for("all") > 0.2); // KL is above its target, so the tether tightens
//! # Ok::<(), tetherline_kl::KlConfigError>(())
//! ```
//!
//! **Architecture invariant**: this crate depends on `serde` and `thiserror` and on nothing else, not
//! even on its own workspace.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod budget;
mod config;
mod controller;
mod decision;
pub mod detector;
pub mod divergence;
mod estimate;
mod estimator;
mod exact;
mod guard;
pub mod law;
mod ledger;
mod number;
mod observation;
pub mod placement;
mod policy;
mod ramp;
mod reading;
mod reason;
mod reference;
pub mod sim;
mod state;
mod target_schedule;
mod topk;
mod trust_region;
mod units;

pub use budget::{Budget, BudgetState, MetricLimit};
pub use config::{KlConfig, KlConfigError};
pub use controller::KlController;
pub use decision::{Combine, ControlDecision, Verdict};
pub use estimate::{KlByDomain, KlEstimate};
pub use estimator::{Clamp, ClampReport, KlEstimator};
pub use exact::{RowError, entropy, exact_kl, rao_blackwell_kl};
pub use guard::{Guard, GuardState};
pub use ledger::{Ledger, LedgerState};
pub use observation::{ALL, DomainKl, KlObservation, MetricValue, Phase};
pub use policy::KlPolicy;
pub use ramp::Shape;
pub use reason::{Reason, ReasonCode, RollbackCause};
pub use reference::{ReferenceLedger, ReferenceMove, ReferenceSchedule};
pub use state::{ControllerState, DomainState, Pending, STATE_VERSION, StateError};
pub use target_schedule::TargetSchedule;
pub use topk::{top_k_lower_bound, top_k_with_sampled_tail};
pub use trust_region::{Before, CapOf, TrustRegion, TrustRegionState};
pub use units::{NatsPerSequence, NatsPerToken};
