//! The end-to-end tests: real sockets, real files, one agent per test.

#![allow(clippy::unwrap_used, reason = "a test that is surprised fails")]

mod harness;

mod upgrade;
