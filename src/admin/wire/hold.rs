//! Saved files that are held back, and tests whose failure is overridden.

use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::report::DiagnosticReport;

/// Saved files that count only after `sidegate reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PendingStatus {
    /// The number that the generation would get.
    pub generation: u64,
    /// The digest of the saved files.
    pub digest: String,
    /// Since when files have been pending.
    pub since: Time,
    /// The files that differ from the running generation, relative to the folder of
    /// `sidegate.toml`.
    pub changed: Vec<String>,
    /// Open tunnels and streams that it would close, as of the last look. `null`: the files have
    /// errors.
    #[serde(deserialize_with = "nullable")]
    pub would_revoke: Option<u64>,
    /// Whether a reload without further options would be rejected.
    pub rejected: bool,
    /// Why it would be rejected, then warnings.
    pub diagnostics: Vec<DiagnosticReport>,
}

/// A failed test that is overridden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OverrideStatus {
    /// The policy's file, relative to the folder of `sidegate.toml`.
    pub file: String,
    /// The name of the test.
    pub test: String,
    /// When it was ordered.
    pub since: Time,
}
