//! What changes a registry: who, on what evidence, under which rules.

use crate::{RegistryError, Stage};
use serde::Serialize;
use serde_json::Value;

/// Who acts, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// A name.
    pub who: String,
    /// The time, as it shall be stored.
    pub at: String,
}

impl Actor {
    /// A name is needed, and is one line.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] for an empty one, or one with characters that cannot be seen: two names that look alike
    /// would be two people.
    pub fn new(who: &str, at: &str) -> Result<Self, RegistryError> {
        let who = who.trim();
        let seen = |c: char| c.is_alphanumeric() || c == ' ' || c.is_ascii_graphic();
        if let Some(c) = who.chars().find(|c| !seen(*c)) {
            let problem = format!("a name is one line of letters, digits and ASCII signs, without {c:?}");
            return Err(RegistryError::Refused(problem));
        }
        if who.is_empty() {
            return Err(RegistryError::Refused("a name must be one line that is not empty".into()));
        }
        Ok(Self { who: who.to_owned(), at: at.to_owned() })
    }

    /// The person behind a name: `Ann` and ` ann ` are the same.
    pub(crate) fn person(&self) -> String {
        person(&self.who)
    }
}

/// The person behind a name.
pub(crate) fn person(who: &str) -> String {
    who.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// What the gates said of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Whether it passed.
    pub passed: bool,
    /// SHA-256 of the gate file.
    pub gates: String,
    /// The whole verdict.
    pub verdict: Value,
    /// The policy in production that it was judged against, if there was one.
    pub against: Option<String>,
}

/// What became of a promotion.
#[derive(Clone, Debug, PartialEq)]
pub enum Promotion {
    /// It is done.
    Done {
        /// The policy that had to leave the stage.
        displaced: Option<String>,
    },
    /// The approval is noted; others are needed.
    Waiting {
        /// Who has approved so far.
        approvers: Vec<String>,
        /// How many it takes.
        needed: i64,
    },
}

/// What became of a change of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleChange {
    /// It is in force.
    Done,
    /// The approval is noted; others are needed.
    Waiting {
        /// Who has approved so far.
        approvers: Vec<String>,
        /// How many it takes.
        needed: i64,
    },
}

/// What a promotion to production takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rules {
    /// People who have to approve.
    pub approvals: i64,
    /// SHA-256 of the only gate file that counts; any where it is empty.
    pub gates: String,
}

impl Rules {
    /// How many people have to approve a change from `old` to these: as many as the larger number of approvals, where that
    /// number changes; as many as the rules ask for, where gates that counted would not count any more; else none.
    pub fn people(&self, old: &Self) -> i64 {
        match () {
            () if self.approvals != old.approvals => self.approvals.max(old.approvals),
            () if old.gates.is_empty() || self.gates == old.gates => 0,
            () => old.approvals,
        }
    }
}

/// Refuses a promotion that cannot be.
pub(crate) fn check_move(from: Stage, to: Stage) -> Result<(), RegistryError> {
    if from.may_become(to) {
        return Ok(());
    }
    let hint = match (from, to) {
        (Stage::Base, _) => "; it is the base of others: `tether policy add` makes it a candidate",
        (Stage::Retired, _) => "; `tether policy rollback` brings back what was in production before",
        _ => "",
    };
    Err(RegistryError::Refused(format!("a policy that is {from} cannot be promoted to {to}{hint}")))
}
