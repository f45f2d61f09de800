//! Observability: the metrics, and one log line for each decision and each ending.
//!
//! Other modules return facts and hand them in here. Nothing here decides.

pub mod heartbeat;
pub mod log;
pub mod metrics;
pub mod printable;
pub mod recent;
pub mod spans;
