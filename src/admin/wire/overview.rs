//! `GET /v1/overview`: what happens now and happened in the last fifteen minutes, on one page.

use http::Method;
use serde::{Deserialize, Serialize};

use crate::admin::wire::ban::BanStatus;
use crate::admin::wire::field::{Time, nullable};
use crate::admin::wire::lapsing::LapsingEntry;
use crate::admin::wire::message::{AdminAnswer, AdminRequest};
use crate::admin::wire::overview_activity::{
    ActivityPoint, ActivityRates, BusyClient, CandidateHits, ReasonCount, RefusedOverview,
    RouteActivity,
};
use crate::admin::wire::query::{pairs, unknown};
use crate::admin::wire::report::DiagnosticReport;
use crate::admin::wire::status::{BackendStatus, CertificateStatus, LastReload, Warning};
use crate::admin::wire::words::{FilesState, StageWord};

/// The rows of each table where the request has no `rows`.
pub const DEFAULT_ROWS: usize = 20;

/// The most rows of each table.
pub const MAX_ROWS: usize = 200;

/// A question about everything that an operator watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OverviewRequest {
    /// Maximum number of rows in each table, 1 to 200. The default is 20.
    pub rows: usize,
    /// Whether clients are named as /24 and /48 networks only, without users and certificates.
    pub short: bool,
}

impl Default for OverviewRequest {
    fn default() -> Self {
        OverviewRequest { rows: DEFAULT_ROWS, short: false }
    }
}

impl AdminRequest for OverviewRequest {
    const METHOD: Method = Method::GET;
    const PATH: &'static str = "/v1/overview";
    type Answer = OverviewAnswer;

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let rows = (self.rows != DEFAULT_ROWS).then(|| ("rows", self.rows.to_string()));
        let short = self.short.then(|| ("short", "true".into()));
        rows.into_iter().chain(short).collect()
    }

    fn parse(query: &str) -> Result<Self, String> {
        let mut request = OverviewRequest::default();
        for (name, value) in pairs(query)? {
            match name {
                "rows" => {
                    let rows = value.parse().ok().filter(|rows| (1..=MAX_ROWS).contains(rows));
                    let wrong = || format!("`rows` is a number from 1 to {MAX_ROWS}");
                    request.rows = rows.ok_or_else(wrong)?;
                }
                "short" => {
                    request.short = value.parse().map_err(|_| "`short` is true or false")?;
                }
                _ => return Err(unknown(name, "rows and short")),
            }
        }
        Ok(request)
    }
}

/// What happens now, and what happened in the last fifteen minutes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OverviewAnswer {
    /// The time by the agent's clock.
    pub now: Time,
    /// The name of the host.
    pub host: String,
    /// The version of the agent's program.
    pub version: String,
    /// The stage of the process.
    pub stage: StageWord,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// The number of the running generation.
    pub generation: u64,
    /// The digest of all files of that generation.
    pub digest: String,
    /// When that generation was published.
    pub since: Time,
    /// Whether the files match the running generation.
    pub files: FilesState,
    /// Number of errors that rejected the last reload.
    pub error_count: u64,
    /// The last reload. `null`: none since the start.
    #[serde(deserialize_with = "nullable")]
    pub last_reload: Option<LastReload>,
    /// Rates of the last seconds. `null`: the agent started a moment ago.
    #[serde(deserialize_with = "nullable")]
    pub rates: Option<ActivityRates>,
    /// The rates of the last fifteen minutes, the oldest first; fewer after a start.
    pub history: Vec<ActivityPoint>,
    /// Number of open tunnels.
    pub tunnels: u64,
    /// Number of open exchanges of plain HTTP.
    pub exchanges: u64,
    /// Number of all routes.
    pub route_count: u64,
    /// The routes with the most open tunnels.
    pub routes: Vec<RouteActivity>,
    /// Number of backends of all routes.
    pub backend_count: u64,
    /// Number of backends that are down.
    pub backends_down: u64,
    /// The backends, each once; backends that are down come first.
    pub backends: Vec<BackendStatus>,
    /// Requests refused or failed, and connections refused, since the start.
    pub refused: u64,
    /// Number of those in the last fifteen minutes.
    pub refused_recently: u64,
    /// Their reasons: the most in the last fifteen minutes first.
    pub reasons: Vec<ReasonCount>,
    /// Number of clients with open tunnels. IPv6 clients of one /64 are one.
    pub client_count: u64,
    /// The clients with the most open tunnels.
    pub most_tunnels: Vec<BusyClient>,
    /// The clients whose open tunnels have carried the most bytes.
    pub most_bytes: Vec<BusyClient>,
    /// The clients that were refused most in the last fifteen minutes. `null`: decisions are not
    /// kept.
    #[serde(deserialize_with = "nullable")]
    pub refused_clients: Option<RefusedOverview>,
    /// Number of all candidates.
    pub candidate_count: u64,
    /// The candidates, with what they would change.
    pub candidates: Vec<CandidateHits>,
    /// Number of certificates that are served.
    pub certificate_count: u64,
    /// The certificates; the first to expire is first.
    pub certificates: Vec<CertificateStatus>,
    /// Number of bans in force.
    pub ban_count: u64,
    /// The bans; the first to end is first.
    pub bans: Vec<BanStatus>,
    /// Number of entries of lists that lapse within 30 days.
    pub lapsing_count: u64,
    /// Those entries, the earliest first.
    pub lapsing: Vec<LapsingEntry>,
    /// Number of warnings about the files of the running generation.
    pub diagnostic_count: u64,
    /// Warnings about the files of the running generation.
    pub diagnostics: Vec<DiagnosticReport>,
    /// Number of warnings about the agent's state.
    pub warning_count: u64,
    /// Warnings about the agent's state.
    pub warnings: Vec<Warning>,
}

impl AdminAnswer for OverviewAnswer {
    fn contradiction(&self) -> Option<&'static str> {
        let tables = [
            (self.routes.len(), self.route_count),
            (self.backends.len(), self.backend_count),
            (self.candidates.len(), self.candidate_count),
            (self.certificates.len(), self.certificate_count),
            (self.bans.len(), self.ban_count),
            (self.lapsing.len(), self.lapsing_count),
            (self.diagnostics.len(), self.diagnostic_count),
            (self.warnings.len(), self.warning_count),
        ];
        let is_longer = tables.into_iter().any(|(rows, count)| rows as u64 > count);
        is_longer.then_some("a table has more rows than are counted")
    }
}
