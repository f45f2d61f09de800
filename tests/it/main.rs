//! The end-to-end tests: real sockets, real files, one agent per test.

#![allow(clippy::unwrap_used, reason = "a test that is surprised fails")]

mod harness;

mod activation;
mod admin;
mod apps;
mod backend_tls;
mod backends;
mod blocking;
mod candidate;
mod check;
mod cli;
mod cookbook;
mod deadlines;
mod demo;
mod difference;
mod drain;
mod exchanges;
mod explain;
mod forward;
mod gate;
mod gates;
mod handshakes;
mod heads;
mod import;
mod init;
mod keepalive;
mod language;
mod layers;
mod limits;
mod linger;
mod log;
mod metrics;
mod mishap;
mod operations;
mod origins;
mod pending;
mod policy;
mod readme;
mod rebind;
mod reload;
mod reuse;
mod schema;
mod secrets;
mod silence;
mod slash;
mod status;
mod systemd;
mod targets;
mod tls;
mod tls_edge;
mod tunnel;
mod units;
mod upgrade;
mod watch;
