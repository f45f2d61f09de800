//! The WebSocket protocol as far as a sidecar needs it: the opening handshake
//! (RFC 6455 §4) and the borders of frames (§5).
//!
//! Sans-I/O: bytes and heads come in, verdicts go out. It never touches a
//! socket, and never reads what a message says.

pub mod frame;
pub mod handshake;
