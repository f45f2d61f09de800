//! The counters of the process, and the scrape that reports them.
//!
//! Each data-plane thread has a set of its own ([`CoreMetrics`]); rare events are counted in
//! [`Metrics`]. Facts that a snapshot or a limiter holds are not stored again: a scrape reads them
//! there. Labels carry words from the configuration and fixed words only, never an address, a path
//! or a header off the wire.

mod core;
mod count;
mod family;
mod page;
mod process;
mod registry;
mod scrape;
mod words;

pub use self::core::{CoreMetrics, ListenerMetrics, RouteMetrics};
pub use self::family::{Family, Kind, table};
pub use self::registry::{BackendMetrics, Metrics};
pub use self::scrape::{Facts, RouteTotals};
pub use self::words::{
    ConnectionEnd, Difference, Direction, DiscardEnd, NO_ROUTE, ReloadResult, RequestKind,
    RequestResult, TlsResult,
};
