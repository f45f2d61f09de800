//! Sidegate, a WebSocket sidecar: it terminates TLS, decides who may open a WebSocket, relays to a
//! local backend, and swaps routing, policy and certificates atomically when their files change.
//!
//! [`Agent`] runs it in a process: `agent` wires the two planes together, `data` serves
//! connections, and `control` turns changed files into the next generation.
//!
//! ```text
//!            data plane: one thread for each CPU
//!          ┌──────────────────────────────────────────────────────┐
//! client ──┼─▶ listener ─▶ connection ─▶ judge ─▶ charge ─▶ dial ─┼─▶ backend
//!          │                 (TLS, head)   ▲                 │101  │      ▲
//!          │                               │              tunnel ◀┼──────┘
//!          └───────────────────────────────┼─────────────────▲────┘
//!                        one load a request│                 │new rules, revoke
//!                                  running snapshot    table of tunnels
//!                                          ▲publish          ▲reconcile
//!          ┌───────────────────────────────┴─────────────────┴────┐
//!  files ──┼─▶ watch ─▶ reload: read ─▶ prepare ─▶ bind           │
//!          └──────────────────────────────────────────────────────┘
//!            control plane: one thread
//! ```
//!
//! `docs/architecture.md` is the map of the source, `docs/spec/` the specification of the files and
//! of the wire.

pub mod addresses;
pub mod admin;
mod agent;
pub mod close;
pub mod connect_fault;
pub mod control;
pub mod data;
pub mod handover;
pub mod inherited_sockets;
pub mod lifecycle;
pub mod observe;
pub mod policy;
pub mod refusal;
pub mod snapshot;
pub mod socket_file;
mod sync;
pub mod trace_context;
pub mod tunnels;

pub use crate::agent::{Agent, StartError};
