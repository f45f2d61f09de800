//! Admission of connections: caps, the places of one client, the rate of TLS handshakes, and
//! protocols that a listener does not speak. It reads no HTTP head and judges no request.

pub mod cap;
pub mod discarding;
pub(super) mod handshake_queue;
pub(super) mod pending;
pub(super) mod refused_upgrades;
pub(super) mod sniff;
