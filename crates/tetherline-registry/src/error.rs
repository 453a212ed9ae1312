//! Why the registry refuses.

/// Error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The database cannot be opened.
    #[error("cannot open the registry {place}: {why}")]
    Open {
        /// Where it is, without a password.
        place: String,
        /// Why.
        why: String,
    },
    /// The database refused a statement.
    #[error("the registry failed: {0}")]
    Database(String),
    /// The database was made by a newer version.
    #[error("the registry has schema {found}, and this version knows up to {known}: use a newer tether")]
    Newer {
        /// Its schema.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
    /// What was asked for is not there, or not the only one.
    #[error("{0}")]
    Unknown(String),
    /// What was asked for is against the rules.
    #[error("{0}")]
    Refused(String),
    /// The audit in the registry is broken.
    #[error("the audit of the registry: {0}")]
    Audit(#[from] tetherline_audit::Broken),
}

impl RegistryError {
    /// Whether it is an answer (a rule, a name that is not there) and not a failure.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Refused(_) | Self::Audit(_))
    }
}
