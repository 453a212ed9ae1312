//! Which policy is in production, how it came there and from what.
//!
//! A registry is a database: SQLite in a file, or PostgreSQL (feature `postgres`) by URL. It knows *artifacts* by the
//! SHA-256 of their contents (policies, reward models, datasets, recipes, runs, evaluations), the edges between them
//! (a policy was made by a run, a run used a recipe, data and a base), the *stage* of each policy and every decision that
//! changed one.
//!
//! ```text
//! base ── candidate ──▶ canary ──▶ production ──▶ retired
//!             └────────────────────────▲ │  ▲          │
//!                                        └──┴──────────┘ rollback
//! ```
//!
//! - A *line* (`default`, or the name of a product) has at most one policy in production and one in canary. The database
//!   itself refuses a second one.
//! - Whatever changes something is one transaction under a lock of the whole registry, with its record of the audit in it:
//!   a crash at any moment leaves the old state, and any number of processes may work at once.
//! - With a rule of N approvals, a promotion to production takes N people who approve this very policy by name, and so does
//!   a change of the rules that does not make them stricter. Names are not authenticated here: who
//!   can reach the database can write any.
//!
//! No clock: the time of an action is handed in.

mod action;
mod artifact;
mod db;
mod error;
#[cfg(feature = "postgres")]
mod pg;
mod policy;
mod registry;
mod replay;
mod rules;
mod schema;
mod sqlite;
mod store;

pub use action::{Actor, Evidence, Promotion, RuleChange, Rules};
pub use artifact::{Artifact, Edge, Kind, Registration};
pub use error::RegistryError;
pub use policy::{Decision, Details, Listed, Note, Stage};
pub use registry::Registry;
pub use replay::CheckedAudit;
