//! A policy's place: its stage, and what was decided on it.

use crate::Artifact;
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// The stage of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Something else started from it.
    Base,
    /// Registered, not in use.
    Candidate,
    /// In use for a part.
    Canary,
    /// In use.
    Production,
    /// No longer in use.
    Retired,
}

impl Stage {
    /// As it stands in the database and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Candidate => "candidate",
            Self::Canary => "canary",
            Self::Production => "production",
            Self::Retired => "retired",
        }
    }

    /// The stage of this name.
    pub fn of(name: &str) -> Option<Self> {
        let all = [Self::Base, Self::Candidate, Self::Canary, Self::Production, Self::Retired];
        all.into_iter().find(|s| s.name() == name)
    }

    /// Whether a promotion may lead from here to there.
    pub(crate) fn may_become(self, to: Stage) -> bool {
        matches!(
            (self, to),
            (Self::Candidate, Self::Canary) | (Self::Candidate | Self::Canary, Self::Production)
        )
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A policy in a list.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The policy.
    #[serde(flatten)]
    pub artifact: Artifact,
    /// Its line.
    pub line: String,
    /// Its stage.
    pub stage: Stage,
    /// Its tags, sorted.
    pub tags: Vec<String>,
}

/// What was decided on a policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Its number; later ones are larger.
    pub id: i64,
    /// The policy.
    pub policy: String,
    /// Its line.
    pub line: String,
    /// `register`, `promote`, `refuse` (the gates did not pass), `rollback`, `retire`.
    pub action: String,
    /// The stage before.
    pub from: String,
    /// The stage after.
    pub to: String,
    /// The policy that had to leave the stage.
    pub displaced: Option<String>,
    /// Who did it.
    pub who: String,
    /// Who had approved it.
    pub approvers: Vec<String>,
    /// SHA-256 of the gate file; empty without one.
    pub gates: String,
    /// The verdict of the gates, or a reason.
    pub evidence: Value,
    /// When.
    pub created: String,
}

/// A note on a policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Note {
    /// Who wrote it.
    pub who: String,
    /// What it says.
    pub text: String,
    /// When.
    pub created: String,
}

/// Everything on one policy.
#[derive(Clone, Debug, Serialize)]
pub struct Details {
    /// The policy.
    #[serde(flatten)]
    pub listed: Listed,
    /// Decisions, oldest first.
    pub decisions: Vec<Decision>,
    /// Approvals that no promotion has used yet: stage, person, time.
    pub approvals: Vec<(String, String, String)>,
    /// Notes, oldest first.
    pub notes: Vec<Note>,
}
