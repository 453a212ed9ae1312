//! A configuration value that is out of range.

/// Says which field is wrong and what would be right; the recipe loader adds the file and line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldError {
    /// Dotted path of the field inside its section, e.g. `clip_range`.
    pub field: String,
    /// What is wrong and what is allowed, e.g. `must be in (0, 1), got 3`.
    pub problem: String,
}

impl FieldError {
    /// A new error.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// Fails with `must be {range}, got {value}` unless `ok`.
    ///
    /// # Errors
    /// The error itself.
    pub fn require(ok: bool, field: &str, value: impl std::fmt::Display, range: &str) -> Result<(), Self> {
        if ok { Ok(()) } else { Err(Self::new(field, format!("must be {range}, got {value}"))) }
    }
}
