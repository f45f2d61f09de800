//! The WebSocket protocol as far as a sidecar needs it: the opening handshake (RFC 6455 §4) and the
//! borders of frames (§5).
//!
//! Sans-I/O: bytes and heads come in, verdicts go out. These modules never touch a socket, and
//! never read what a message says.

pub mod frame;
pub mod handshake;
