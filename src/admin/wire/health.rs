//! `/livez` and `/readyz` of the metrics listener, where JSON is accepted.

use serde::{Deserialize, Serialize};

use crate::admin::wire::field::nullable;

/// Whether the process runs its loops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LivezAnswer {
    /// `alive` (200), or `stalled: ` and the names of the stalled threads (503).
    pub status: String,
}

/// Whether to send clients here, and what needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReadyzAnswer {
    /// Whether to send clients here.
    pub status: ReadyState,
    /// The number of the running generation.
    pub generation: u64,
    /// The digest of its files.
    pub digest: String,
    /// When it was published.
    pub since: String,
    /// The errors of the last reload; empty unless it was rejected.
    pub last_reload_rejected: Vec<String>,
    /// Warnings about the files of the running generation.
    pub warnings: Vec<String>,
    /// Whether files are polled, because watching them failed.
    pub watch_degraded: bool,
    /// Backends whose last dial failed.
    pub backends_down: Vec<String>,
    /// Names of backends that do not resolve, each with the reason and the addresses in use.
    pub names_unresolved: Vec<String>,
    /// Sentences about listeners whose clients cannot be told apart.
    pub identity_collapsed: Vec<String>,
    /// Sentences about revocation lists of client certificates that have expired.
    pub crls_expired: Vec<String>,
    /// Which saved files wait for `sidegate reload`, and what it would do. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub pending: Option<String>,
    /// Sentences about bans or published files that are not kept over a restart, or whose file was
    /// damaged.
    pub state_faults: Vec<String>,
    /// Log lines that were dropped since the start.
    pub log_drops: u64,
    /// Connections that a bug ended since the start.
    pub panics: u64,
}

/// Whether to send clients here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ReadyState {
    /// A generation serves (200).
    Ready,
    /// A drain has begun (503).
    Draining,
}
