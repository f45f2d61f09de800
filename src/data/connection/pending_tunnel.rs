//! The outcome of a permitted attempt: a tunnel that only lacks its client.

use bytes::Bytes;
use http::{Response, response};
use jiff::Timestamp;

use crate::data::backend::Switched;
use crate::data::connection::request_log::RequestLog;
use crate::data::context::ThreadContext;
use crate::data::http::head;
use crate::data::tunnel::tunnel_stream::TunnelStream;
use crate::data::tunnel::{EarlyBytes, Tunnel, TunnelParts, TunnelPlaces};
use crate::policy::request::Request;
use crate::tunnels::{RequestSource, Slot};

/// The parts of the tunnel that an attempt was granted.
pub struct GrantedTunnel {
    /// The backend that has switched.
    pub backend: Box<Switched>,
    /// The tunnel's place under the limits, with the permit that was charged for it.
    pub slot: Slot,
    /// The request that was permitted, as reloads judge it again.
    pub request: Request,
    /// Where the request came from, for the table.
    pub from: RequestSource,
}

/// A tunnel that only lacks its client. Dropped unopened, it books that the client has left.
pub struct PendingTunnel {
    granted: Box<GrantedTunnel>,
    log: Box<RequestLog>,
}

impl PendingTunnel {
    /// The tunnel that the request of `log` was granted.
    pub fn new(granted: Box<GrantedTunnel>, log: Box<RequestLog>) -> Box<Self> {
        Box::new(PendingTunnel { granted, log })
    }

    /// The head of the 101, for a client whose attempt hyper has not read.
    pub fn head(&self) -> Vec<u8> {
        head::write_switched(&self.granted.backend.head, &self.granted.backend.spelling)
    }

    /// Takes the head of the 101, for a client whose attempt hyper has read.
    pub fn take_head(&mut self) -> response::Parts {
        let nothing = Response::new(()).into_parts().0;
        std::mem::replace(&mut self.granted.backend.head, nothing)
    }

    /// Opens the tunnel to `client`, which has `said` something already. Books the attempt, and
    /// enters the table, which orders the end at once if the rules that run now refuse it.
    pub fn open(mut self, thread: &ThreadContext, client: TunnelStream, said: Bytes) -> Tunnel {
        // The 101 has gone out, so the attempt is permitted, whatever the table orders next.
        self.log.log_permitted(101);
        let GrantedTunnel { backend, slot, request, from } = *self.granted;
        let (place, entry) = slot.enter(request, from, Timestamp::now);
        let metrics = thread.metrics.route(&entry.route());
        metrics.tunnel_opened(self.log.began.elapsed());
        let Switched { socket, early, agreed, load, .. } = *backend;
        Tunnel::new(TunnelParts {
            client,
            // Also over TLS: the session of a backend lies inside its `Socket`.
            backend: TunnelStream::clear(socket),
            early: EarlyBytes { client: said, backend: early },
            extensions: agreed.extensions,
            places: TunnelPlaces { table: place, load },
            entry,
            metrics,
        })
    }
}
