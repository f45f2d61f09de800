//! The parts of the overview that count traffic, clients and refusals.

use serde::{Deserialize, Serialize};

use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::status::RouteRates;

/// What the agent does each second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ActivityRates {
    /// The seconds that these rates are an average of.
    pub over_seconds: f64,
    /// Connections accepted each second.
    pub connections: f64,
    /// Tunnels opened each second.
    pub opened: f64,
    /// Requests refused or failed, and connections refused, each second.
    pub refused: f64,
    /// Plain requests each second that were not refused.
    pub plain: f64,
    /// Bytes from clients through tunnels each second.
    pub bytes_from_client: f64,
    /// Bytes from backends through tunnels each second.
    pub bytes_from_backend: f64,
}

/// The rates of one interval of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ActivityPoint {
    /// The end of the interval.
    pub at: Time,
    /// Number of open tunnels at that time.
    pub tunnels: u64,
    /// The rates of the interval. It is longer than 5 s where the agent was too busy to look.
    pub rates: ActivityRates,
}

/// A route with its tunnels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RouteActivity {
    /// Name of the route.
    pub name: String,
    /// Name of its policy.
    pub policy: String,
    /// Number of open tunnels.
    pub tunnels: u64,
    /// Rates of the last minute. `null`: the route is a second old or younger.
    #[serde(deserialize_with = "nullable")]
    pub per_second: Option<RouteRates>,
}

/// How often a reason refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReasonCount {
    /// The word of the reason.
    pub reason: String,
    /// Number of refusals since the start.
    pub refused: u64,
    /// Number of refusals in the last fifteen minutes.
    pub recently: u64,
}

/// A client with its open tunnels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BusyClient {
    /// Its address or its /64, or a network where clients are shortened.
    pub client: String,
    /// The identity of its certificate. `null`: it has none, or several, or clients are shortened.
    #[serde(deserialize_with = "nullable")]
    pub identity: Option<String>,
    /// Number of its open tunnels.
    pub tunnels: u64,
    /// Bytes from the client through those tunnels.
    pub bytes_from_client: u64,
    /// Bytes from backends through those tunnels.
    pub bytes_from_backend: u64,
}

/// The clients that were refused most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RefusedOverview {
    /// The time from which refusals are counted here: fifteen minutes, or less after many.
    pub since: Time,
    /// Number of refusals since then.
    pub refused: u64,
    /// Number of refused clients.
    pub client_count: u64,
    /// The clients with the most refusals.
    pub clients: Vec<RefusedRow>,
}

/// A refused client, with the rule of its last refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RefusedRow {
    /// Its address or its /64, or a network where clients are shortened.
    pub client: String,
    /// The identity of its certificate. `null`: it has none, or clients are shortened.
    #[serde(deserialize_with = "nullable")]
    pub identity: Option<String>,
    /// Number of its refusals.
    pub refused: u64,
    /// When it was refused last.
    pub last: Time,
    /// The reason at that time.
    pub reason: String,
    /// The policy that refused it then. `null`: no policy judged it.
    #[serde(deserialize_with = "nullable")]
    pub policy: Option<String>,
    /// The place of the rule, as `file:line`. `null`: no rule refused it.
    #[serde(deserialize_with = "nullable")]
    pub rule_at: Option<String>,
    /// The entry by which the rule refused. `null`: no entry holds the client.
    #[serde(deserialize_with = "nullable")]
    pub entry: Option<String>,
    /// The place of the entry, as `file:line`. `null`: no entry holds the client.
    #[serde(deserialize_with = "nullable")]
    pub entry_at: Option<String>,
    /// The id of its last refused request. `null`: it was a connection before its first request,
    /// or clients are shortened.
    #[serde(deserialize_with = "nullable")]
    pub request_id: Option<String>,
}

/// A candidate with what it would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CandidateHits {
    /// Name of its policy.
    pub policy: String,
    /// File of the candidate.
    pub file: String,
    /// Requests since the start that it alone would refuse.
    pub would_refuse: u64,
    /// Requests since the start that it alone would admit.
    pub would_admit: u64,
    /// Open tunnels that it would close. `null`: not yet known.
    #[serde(deserialize_with = "nullable")]
    pub would_revoke: Option<u64>,
    /// Number of clients whose tunnels it would close, or whose requests it would refuse.
    pub client_count: u64,
    /// Those clients: the most tunnels first, then the most requests.
    pub clients: Vec<HitClient>,
}

/// A client that a candidate would refuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HitClient {
    /// Its address or its /64, or a network where clients are shortened.
    pub client: String,
    /// Number of its open tunnels that the candidate would close.
    pub tunnels: u64,
    /// Number of its requests that the candidate alone would refuse. Of a candidate, the first
    /// 1000 clients are counted.
    pub requests: u64,
}
