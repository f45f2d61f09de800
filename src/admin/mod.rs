//! The admin endpoints: `/metrics`, `/livez` and `/readyz`, read-only, on the metrics listener;
//! every change on the admin socket only.
//!
//! Both are plain HTTP on the control plane. A few connections at a time, each with a deadline,
//! keep slow or frequent callers harmless.

mod answer;
mod bans;
mod client_form;
mod close;
mod command;
mod connection;
mod connection_cap;
mod crowdsec;
mod decisions;
mod diff;
mod difference;
mod explain;
mod explain_arrival;
mod explain_forwarded;
mod health;
mod history;
mod hold;
pub mod lapsing;
mod linger;
mod log_level;
mod metrics;
mod metrics_listener;
mod overview;
mod overview_clients;
mod page;
mod rates;
mod socket;
mod socket_path;
mod staged;
mod state;
mod status;
mod swappable;
mod tunnel_filter;
mod tunnels;
mod upgrade;
pub mod wire;

pub use self::client_form::ClientForm;
pub use self::diff::offline_diff;
pub use self::explain::ExplainQuery;
pub use self::history::ActivityHistory;
pub use self::metrics_listener::MetricsListener;
pub use self::page::PageListener;
pub use self::rates::RateHistory;
pub use self::socket::AdminListener;
pub use self::socket_path::socket_paths;
pub use self::state::AdminContext;
pub use self::swappable::{AdminService, SwappableListener};
