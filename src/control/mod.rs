//! The control plane: from files to generations.
//!
//! Watches, loads, compiles, publishes and reconciles, on a runtime of its own, so that a
//! million-line list delays no byte. Never touches a connection.

pub mod bans;
pub mod compile;
pub mod config;
pub mod crl_watch;
pub mod crowdsec;
mod dropped_tests;
pub mod file_trust;
pub mod guards;
pub mod identity_watch;
pub mod lint;
pub mod malloc_trim;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod overrides;
pub mod policy_tests;
pub mod published;
pub mod reconcile;
pub mod reload;
pub mod resolve;
pub mod revoke;
mod state_claim;
pub mod state_dir;
pub mod systemd;
pub mod unfinished;
pub mod watch;
