//! Sockets, and what every reader and writer of them needs: shared buffers, unsent bytes, TCP's
//! keep-alive, the users behind Unix sockets, and the bounds of a turn. It knows no protocol above
//! TCP and TLS to a backend.

pub(super) mod buffers;
pub(super) mod keepalive;
pub(super) mod listen_socket;
mod peer_user;
pub(super) mod record_stream;
pub(super) mod send_buffer;
pub(super) mod socket;
pub(super) mod turn;
pub mod unacked;
