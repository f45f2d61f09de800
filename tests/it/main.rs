//! The end-to-end tests: real sockets, real files, one agent per test.

#![allow(clippy::unwrap_used, reason = "a test that is surprised fails")]

#[allow(dead_code, reason = "a vocabulary; not every word is in use")]
mod harness;

mod forward;
mod gate;
mod policy;
mod upgrade;
