//! The PROXY protocol (haproxy.org/download/3.2/doc/proxy-protocol.txt): a header in front of a
//! connection, by which a proxy names the client that it connects for.
//!
//! `header` parses what a listed peer sends, `read` takes it off the socket and leaves the bytes
//! behind it there, and `write` makes the header that a backend gets. Whose headers count is the listener's, and what becomes of the client is
//! `connection`'s.

mod fault;
pub mod header;
pub mod read;
mod tlv;
pub mod write;
