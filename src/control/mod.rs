//! The control plane: from files to generations.
//!
//! Watches, loads, compiles, publishes and reconciles, on a runtime of its own, so that a
//! million-line list delays no byte. Never touches a connection.

pub mod compile;
pub mod config;
pub mod lint;
mod rehearsal;
pub mod reload;
pub mod revoke;
pub mod spare;
pub mod systemd;
pub mod watch;
