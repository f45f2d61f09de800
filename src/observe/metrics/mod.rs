//! The counters of the process, and the scrape that reports them.
//!
//! Each data-plane thread has a set of its own ([`ThreadMetrics`]); rare events are counted in
//! [`Metrics`]. Facts that a snapshot or a limiter holds are not stored again: a scrape reads them
//! there. Labels carry words from the configuration and fixed words only, never an address, a path
//! or a header off the wire.

mod activity;
mod counter;
mod crowdsec;
mod exposition;
mod family;
mod identity;
mod labels;
mod process;
mod registry;
mod scrape;
mod thread;

pub use self::activity::ActivityTotals;
pub use self::crowdsec::CrowdsecFigures;
pub use self::family::{Family, MetricKind, table};
pub use self::identity::{Collapse, IdentityCounts, LOOK_INTERVAL as IDENTITY_LOOK_INTERVAL};
pub use self::labels::{
    CandidateDifference, ConnectionEnd, Direction, DiscardEnd, NO_ROUTE, RefusalDelivery,
    ReloadResult, RequestKind, RequestResult, TlsResult,
};
pub use self::registry::{BackendMetrics, Metrics};
pub use self::scrape::{RouteTotals, ScrapeFacts};
pub use self::thread::{ListenerMetrics, RouteMetrics, ThreadMetrics};
