//! `[trial]`: how an update is measured before it stands, under `kl.trust_region`, `kl.guard` or `kl.ledger`.

use serde::{Deserialize, Serialize};
use tetherline_core::FieldError;

/// The measurement after an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrialConfig {
    /// Held-out prompts that each trial answers and measures; every budget that the batch meets gets at least two.
    pub prompts: usize,
    /// Also measure the update that stands on the batch's own responses (`trial/batch_kl`).
    pub batch: bool,
    /// Every so many steps, also measure the update that stands on other prompts, which decided nothing
    /// (`trial/fresh_kl`); 0: never.
    pub audit_every: u64,
}

impl Default for TrialConfig {
    fn default() -> Self {
        Self { prompts: 64, batch: true, audit_every: 0 }
    }
}

impl TrialConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        FieldError::require(self.prompts >= 2, "prompts", self.prompts, "at least 2: one has no variance")
    }
}
