//! What the registry knows by its contents, and how one thing came from another.

use serde::Serialize;
use serde_json::Value;

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A causal model.
    Policy,
    /// A reward model.
    RewardModel,
    /// A data file.
    Dataset,
    /// A resolved recipe.
    Recipe,
    /// A run.
    Run,
    /// An evaluation.
    Evaluation,
}

impl Kind {
    /// As it stands in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::RewardModel => "reward_model",
            Self::Dataset => "dataset",
            Self::Recipe => "recipe",
            Self::Run => "run",
            Self::Evaluation => "evaluation",
        }
    }

    /// The kind of this name.
    pub fn of(name: &str) -> Option<Self> {
        let all = [Self::Policy, Self::RewardModel, Self::Dataset, Self::Recipe, Self::Run, Self::Evaluation];
        all.into_iter().find(|k| k.name() == name)
    }
}

/// One thing, known by its contents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Artifact {
    /// What it is.
    pub kind: Kind,
    /// SHA-256 of its contents, 64 hex digits.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Where it was when it was registered.
    pub location: String,
    /// Anything else worth keeping (a JSON object).
    pub detail: Value,
    /// When it was registered; as the caller says.
    pub created: String,
    /// By whom.
    pub who: String,
}

impl Artifact {
    /// One to be registered.
    pub fn new(
        kind: Kind,
        id: impl Into<String>,
        name: impl Into<String>,
        location: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            id: id.into(),
            name: name.into(),
            location: location.into(),
            detail: Value::Object(serde_json::Map::new()),
            created: String::new(),
            who: String::new(),
        }
    }

    /// The same with details.
    #[must_use]
    pub fn with_detail(self, detail: Value) -> Self {
        Self { detail, ..self }
    }
}

/// `child` came from `parent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// What came.
    pub child: (Kind, String),
    /// In which role the other served: `made_by`, `base`, `reference`, `recipe`, `reward`, `data.prompts`, `evaluated_by`, …
    pub role: String,
    /// From what.
    pub parent: (Kind, String),
}

/// Things to register together, with the edges between them.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// The things. The policies among them that are not in `bases` become candidates.
    pub artifacts: Vec<Artifact>,
    /// How they came from each other.
    pub edges: Vec<Edge>,
    /// Policies (by id) that something started from: they get the stage `base`, unless they have one.
    pub bases: Vec<String>,
    /// The line of the new policies.
    pub line: String,
}
