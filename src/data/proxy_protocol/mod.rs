//! The PROXY protocol (haproxy.org/download/3.2/doc/proxy-protocol.txt): a header in front of a
//! connection, by which a proxy names the client that it connects for.
//!
//! `header` parses the header of a listed peer, `read` takes it off the socket and leaves the bytes
//! behind it there, and `write` makes the header that a backend gets. The listener says whose
//! headers count, and `connection` decides about the client.

mod fault;
pub mod header;
pub mod read;
mod tlv;
pub mod write;
