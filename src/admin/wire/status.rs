//! `GET /v1/status`: the state of the agent.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::hold::{OverrideStatus, PendingStatus};
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::query::none;
use crate::admin::wire::report::DiagnosticReport;
use crate::admin::wire::words::{ListenerProtocol, ReloadCause, WarningKind};

/// A request for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRequest;

impl AdminRequest for StatusRequest {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/v1/status";
    type Answer = StatusAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn parse(query: &str) -> Result<Self, String> {
        none(query, Self::PATH).map(|()| StatusRequest)
    }
}

/// The state of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusAnswer {
    /// The version of the agent's program.
    pub version: String,
    /// The process id of the agent.
    pub pid: u32,
    /// The agent's clock.
    pub now: Time,
    /// The path of `sidegate.toml`.
    pub config: String,
    /// The number of the running generation.
    pub generation: u64,
    /// The digest of all files of that generation.
    pub digest: String,
    /// When that generation was published.
    pub since: Time,
    /// Whether a drain has begun.
    pub draining: bool,
    /// Number of open tunnels.
    pub tunnels: u64,
    /// Number of open exchanges of plain HTTP.
    pub exchanges: u64,
    /// Number of bans in force.
    pub bans: u64,
    /// Saved files that count only after `sidegate reload`. `null`: none.
    #[serde(deserialize_with = "nullable")]
    pub pending: Option<PendingStatus>,
    /// The failed tests of the running policies that are overridden.
    pub overrides: Vec<OverrideStatus>,
    /// The last reload. `null`: none since the start.
    #[serde(deserialize_with = "nullable")]
    pub last_reload: Option<LastReload>,
    /// The listeners.
    pub listeners: Vec<ListenerStatus>,
    /// The routes, in the order of the file.
    pub routes: Vec<RouteStatus>,
    /// The policies by name, the baseline included.
    pub policies: Vec<PolicyStatus>,
    /// The certificates that are served, the default first.
    pub certificates: Vec<CertificateStatus>,
    /// The lists of all policies.
    pub lists: Vec<ListStatus>,
    /// Warnings about the files of the running generation.
    pub diagnostics: Vec<DiagnosticReport>,
    /// Warnings about the agent's state.
    pub warnings: Vec<Warning>,
}

impl AdminAnswer for StatusAnswer {}

/// How the last reload went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LastReload {
    /// The outcome of the reload.
    pub outcome: LastOutcome,
    /// The event that triggered it.
    pub cause: ReloadCause,
    /// When it ended.
    pub at: Time,
    /// The errors that rejected it; empty unless it was rejected.
    pub diagnostics: Vec<DiagnosticReport>,
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum LastOutcome {
    /// A new generation runs.
    Published,
    /// The files match the running generation.
    Unchanged,
    /// The running generation stays.
    Rejected,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// The address that is bound.
    pub address: String,
    /// The protocol that it serves. `null`: it is about to be closed by a reload.
    #[serde(deserialize_with = "nullable")]
    pub speaks: Option<ListenerProtocol>,
    /// Open connections. `null`: not yet counted.
    #[serde(deserialize_with = "nullable")]
    pub connections: Option<u64>,
    /// Maximum number of connections. `null`: not yet known.
    #[serde(deserialize_with = "nullable")]
    pub limit: Option<u64>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RouteStatus {
    /// Its name.
    pub name: String,
    /// Its host pattern. `null`: the route is about to be removed by a reload.
    #[serde(deserialize_with = "nullable")]
    pub host: Option<String>,
    /// Its path pattern.
    pub path: String,
    /// Its policy.
    pub policy: String,
    /// Its backends.
    pub backends: Vec<BackendStatus>,
    /// Number of open tunnels.
    pub tunnels: u64,
    /// Counts since the start.
    pub totals: RouteCounts,
    /// Rates of the last minute. `null`: the route is a second old or younger.
    #[serde(deserialize_with = "nullable")]
    pub per_second: Option<RouteRates>,
}

/// A backend of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BackendStatus {
    /// Its URL.
    pub address: String,
    /// Whether the last dial succeeded.
    pub up: bool,
    /// The addresses of its name. `null`: it is no name.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Option<Vec<String>>,
    /// Why its name does not resolve; `addresses` are older then. `null`: it does, or is no name.
    #[serde(deserialize_with = "nullable")]
    pub unresolved: Option<String>,
}

/// What a route has done since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RouteCounts {
    /// Tunnels opened.
    pub opened: u64,
    /// Requests refused, or failed at the backend.
    pub refused: u64,
    /// Data sent by clients through tunnels.
    pub from_client: TrafficCount,
    /// Data sent by backends through tunnels.
    pub from_backend: TrafficCount,
}

/// Messages and bytes in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TrafficCount {
    /// Messages.
    pub messages: u64,
    /// Bytes of their payload.
    pub bytes: u64,
}

/// What a route does each second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RouteRates {
    /// The seconds that the rates are an average of: a minute, or less for a young route.
    pub over_seconds: u64,
    /// Tunnels opened each second.
    pub opened: f64,
    /// Requests refused each second, or failed at the backend.
    pub refused: f64,
    /// Data sent by clients through tunnels each second.
    pub from_client: TrafficRate,
    /// Data sent by backends through tunnels each second.
    pub from_backend: TrafficRate,
}

/// Messages and bytes each second in one direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TrafficRate {
    /// Messages each second.
    pub messages: f64,
    /// Bytes each second.
    pub bytes: f64,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PolicyStatus {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Open tunnels under this policy.
    pub tunnels: u64,
    /// Maximum number of tunnels, `connections.total`. `null`: unlimited.
    #[serde(deserialize_with = "nullable")]
    pub limit: Option<u64>,
    /// Its candidate. `null`: there is none.
    #[serde(deserialize_with = "nullable")]
    pub candidate: Option<CandidateStatus>,
}

/// How the decisions of a candidate differ from those of its policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CandidateStatus {
    /// Its file.
    pub file: String,
    /// Requests since the start that it alone would refuse.
    pub would_refuse: u64,
    /// Requests since the start that it alone would admit.
    pub would_admit: u64,
    /// Open tunnels that it would close. `null`: not yet known.
    #[serde(deserialize_with = "nullable")]
    pub would_revoke: Option<u64>,
}

/// Days before its expiry from which a certificate is a warning, wherever it is shown.
pub const EXPIRY_WARNING_DAYS: i64 = 14;

/// A certificate that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CertificateStatus {
    /// The file of its chain, as configured.
    pub chain: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// When it expires.
    pub not_after: Time,
    /// Whole days until then, below zero once it has expired.
    pub days_left: i64,
}

/// A list of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ListStatus {
    /// Its name.
    pub name: String,
    /// The policy that names it.
    pub policy: String,
    /// The file that has its entries.
    pub file: String,
    /// Number of its entries.
    pub entries: u64,
    /// Number of entries that lapse within 30 days.
    pub lapsing_30d: u64,
    /// When its file was written. `null`: the entries are in the policy itself.
    #[serde(deserialize_with = "nullable")]
    pub modified: Option<Time>,
    /// The age of its file in seconds. `null`: the entries are in the policy itself.
    #[serde(deserialize_with = "nullable")]
    pub age_seconds: Option<u64>,
}

/// Warnings about the agent's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Warning {
    /// The identifier of the warning.
    pub word: WarningKind,
    /// The warning as a sentence.
    pub sentence: String,
}
