//! The admin endpoints: `/metrics`, `/livez` and `/readyz`, read-only, on the metrics listener;
//! every change on the admin socket only.
//!
//! Both are plain HTTP on the control plane. A few connections at a time, each with a deadline,
//! keep slow or frequent callers harmless.

mod answer;
mod command;
mod connection;
mod diff;
mod difference;
mod explain;
mod health;
mod linger;
mod metrics;
mod place;
mod rates;
mod room;
mod scrapes;
mod served;
mod socket;
mod state;
mod status;
mod tunnels;
mod unix;
pub mod wire;

pub use self::explain::Inquiry;
pub use self::place::{others_write, socket_paths};
pub use self::rates::Rates;
pub use self::scrapes::MetricsListener;
pub use self::served::{Serve, Served};
pub use self::socket::AdminListener;
pub use self::state::Admin;
