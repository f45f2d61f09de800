//! What is counted, by whom, and what a scrape says of it.
//!
//! The data plane counts in sets of its own threads ([`CoreMetrics`]); what happens seldom is
//! counted here. What a snapshot or a limiter knows is not kept twice: a scrape asks it.
//! Labels carry words from the configuration and fixed words only, never an address, a path or
//! a header off the wire.

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
