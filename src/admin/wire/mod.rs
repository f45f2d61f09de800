//! The wire form of the admin API: a type for every request and every answer, shared by the agent,
//! the commands and the tests.
//!
//! docs/admin.md and docs/spec/admin.schema.json are generated from these types. Nothing here opens
//! a socket or knows how a question is answered.

mod ban;
mod bans;
mod close;
mod config;
mod crowdsec;
mod decisions;
mod diff;
#[cfg(test)]
mod docs;
mod drain;
mod envelope;
mod explain;
mod field;
mod health;
mod hold;
mod lapsing;
mod log_level;
mod message;
mod overview;
mod overview_activity;
mod pause;
mod query;
mod reading;
mod refused;
mod reload;
mod report;
mod staged;
mod status;
#[cfg(test)]
mod tests;
mod tunnel_selector;
mod tunnels;
mod unban;
mod upgrade;
mod widening;
mod words;

pub use self::ban::{BanAnswer, BanConflict, BanRequest, BanStatus};
pub use self::bans::{BansAnswer, BansRequest};
pub use self::close::{CloseAnswer, CloseRequest, DEFAULT_CLOSE_REASON, close_code, close_reason};
pub use self::config::{ConfigAnswer, ConfigRequest};
pub use self::crowdsec::{
    CrowdsecAnswer, CrowdsecRequest, HeldBanReport, RefusedDecisionReport, RefusedDecisions,
};
pub use self::decisions::{DecisionReport, DecisionsAnswer, DecisionsRequest, MAX_DECISIONS};
pub use self::diff::{
    Changes, DiffAnswer, DiffRequest, KeyChange, ListChange, RevocationCount, RevokedTunnel,
    StreamChanges, TunnelChanges,
};
pub use self::drain::{DrainAnswer, DrainRequest, Draining, ShutdownTimes};
pub use self::envelope::{JSON_SCHEMA, PRODUCT, SCHEMA, encode, encode_pretty};
pub use self::explain::{
    CandidateVerdict, DeliveryVerdict, EntryVerdict, ExplainAnswer, ExplainRequest, LimitVerdict,
    ListVerdict, RuleVerdict,
};
pub use self::field::Time;
pub use self::health::{LivezAnswer, ReadyState, ReadyzAnswer};
pub use self::hold::{OverrideStatus, PendingStatus};
pub use self::lapsing::{LapsingAnswer, LapsingEntry, LapsingRequest, MAX_LAPSING};
pub use self::log_level::{LogLevelAnswer, LogLevelRequest};
pub use self::message::{AdminAnswer, AdminRequest, ErrorAnswer};
pub use self::overview::{DEFAULT_ROWS, MAX_ROWS, OverviewAnswer, OverviewRequest};
pub use self::overview_activity::{
    ActivityPoint, ActivityRates, BusyClient, CandidateHits, HitClient, ReasonCount,
    RefusedOverview, RefusedRow, RouteActivity,
};
pub use self::pause::{PauseAnswer, PauseRequest};
pub use self::query::encode_query;
pub use self::reading::{ReadError, Received, read};
pub use self::refused::{
    DEFAULT_TOP, MAX_TOP, RefusalsRequest, RefusedAnswer, RefusedClient, RefusedReason, RefusedRule,
};
pub use self::reload::{RecentReload, ReloadAnswer, ReloadRequest, is_digest};
pub use self::report::{DiagnosticReport, Severity};
pub use self::staged::{MAX_STAGED_BYTES, StagedFile, StagedFiles};
pub use self::status::{
    BackendStatus, CandidateStatus, CertificateStatus, EXPIRY_WARNING_DAYS, LastOutcome,
    LastReload, ListStatus, ListenerStatus, PolicyStatus, RouteCounts, RouteRates, RouteStatus,
    StatusAnswer, StatusRequest, TrafficCount, TrafficRate, Warning,
};
pub use self::tunnel_selector::TunnelSelector;
pub use self::tunnels::{
    MAX_PAGE_TUNNELS, TunnelOrder, TunnelStatus, TunnelsAnswer, TunnelsRequest,
};
pub use self::unban::{UnbanAnswer, UnbanRequest};
pub use self::upgrade::{UpgradeAnswer, UpgradeRequest};
pub use self::widening::{WidenedClients, WidenedRule, WideningChanges};
pub use self::words::{
    DecisionResult, DeliveryForm, EntryKind, ExplainedKind, FilesState, ListenerProtocol,
    ReloadCause, RuleName, StageWord, UnknownWord, WarningKind,
};
