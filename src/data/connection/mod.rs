//! The story of a connection: TLS, the heads that it sends, and the tunnel that it becomes.
//!
//! A connection ends in exactly one way, which is counted when its [`OpenGuard`] is dropped.

mod accepted_upgrade;
mod decide;
mod derive;
#[cfg(test)]
mod differential;
mod direct;
mod ending;
mod handshake;
mod http1;
mod identify;
mod linger;
mod open_guard;
mod pending_tunnel;
mod plain;
mod refused_upgrade;
mod refusing;
mod request_log;
mod served;
mod service;
mod timed_stream;
mod timers;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::close::CloseReason;
use crate::data::admission::cap::CapGuards;
use crate::data::admission::pending::PendingGuard;
use crate::data::connection::accepted_upgrade::AcceptedUpgrade;
use crate::data::connection::ending::{HttpOutcome, UpgradedConnection};
use crate::data::connection::handshake::{EarlyEnd, HandshakeBounds, SecuredStream, accept_tls};
use crate::data::connection::http1::serve_http;
use crate::data::connection::identify::{Identified, Unidentified};
use crate::data::connection::linger::{Lingering, linger};
use crate::data::connection::open_guard::OpenGuard;
use crate::data::connection::request_log::{ConnectionInfo, OpeningMoments};
use crate::data::connection::service::HttpService;
use crate::data::context::ThreadContext;
use crate::data::http::deadlines::HttpDeadlines;
use crate::data::http::forward::ForwardedFacts;
use crate::data::stream::socket::Socket;
use crate::data::tunnel::{Tunnel, TunnelOutcome};
use crate::observe::log::decision::{self, LogContext};
use crate::observe::metrics::{ConnectionEnd, ListenerMetrics};
use crate::observe::spans::FinishedSpan;
use crate::policy::certificate::ClientCertificate;
use crate::policy::network::{Client, Peer};
use crate::policy::proxied::Endpoints;
use crate::policy::subject::{Credentials, Ingress, Subject};
use crate::snapshot::ListenerRules;
use crate::snapshot::route::RouteTimeouts;
use crate::tunnels::TunnelEnding;

pub use self::identify::Admission;

/// A connection as it was accepted.
pub struct AcceptedConnection {
    /// The socket; with `TCP_NODELAY`, if it is a TCP socket.
    pub stream: Socket,
    /// The address or the user at its other end.
    pub peer: Peer,
    /// What the peer has proved about itself. `None` means nothing.
    pub credentials: Option<Arc<Credentials>>,
    /// Both ends of it, where a route tells them to its backends. `None` means that none does, or
    /// that it came over a Unix socket.
    pub endpoints: Option<Box<Endpoints>>,
    /// The local port that it came to; 0 means that it came over a Unix socket.
    pub port: u16,
    /// The listener's rules at the accept.
    pub rules: ListenerRules,
    /// The counters of its listener.
    pub metrics: Arc<ListenerMetrics>,
    /// Its places under the listener's cap and the process'.
    pub places: CapGuards,
    /// How it comes to count among the connections of its client.
    pub admission: Admission,
    /// Cancelled when its listener is gone or speaks otherwise, and with the process' `closing`.
    pub closing: CancellationToken,
}

/// Serves one connection to its end.
pub async fn serve(thread: Arc<ThreadContext>, accepted: AcceptedConnection) {
    // In whole: a struct with fields that were left in it would take its room in the task.
    let AcceptedConnection {
        stream,
        peer,
        credentials,
        endpoints,
        port,
        rules,
        metrics,
        places,
        admission,
        closing,
    } = accepted;
    let mut open_guard = OpenGuard::new(&thread, metrics, places);

    // One deadline for the header, the wait and the handshake: a client that displaces another gets
    // no more time.
    let deadline = Instant::now() + rules.listener.timeouts.tls;
    let unidentified = Unidentified { stream: &stream, rules: &rules, peer, deadline };
    let identified = unidentified.identify(admission, &closing, &mut open_guard).await;
    let Some(Identified { client, guard, proxied, is_exempt }) = identified else { return };
    let listener = &rules.listener.name;
    let log_context = LogContext { listener, client, peer, proxied: proxied.as_deref() };
    let bounds = HandshakeBounds { deadline, closing: &closing, is_exempt };
    let secured =
        match accept_tls(&thread, &mut open_guard, &rules, stream, log_context, bounds).await {
            Ok(stream) => stream,
            Err(EarlyEnd { end, answered }) => {
                open_guard.end = end;
                let Some(socket) = answered else { return };
                let deadlines = deadlines_of(&rules, guard);
                let lingering = Lingering { socket, discarded: 0, deadlines };
                thread.tracker.spawn(linger(lingering, open_guard, client.key()));
                return;
            }
        };
    // The credentials are the peer's: no client that a header names has them.
    let credentials = credentials.filter(|_| client == Client::of_peer(peer));
    let SecuredStream { stream, served, certificate, verified_by } = secured;
    let subject = Subject { client, credentials, ingress: None };
    let of_header = proxied.as_ref().and_then(|proxied| proxied.endpoints);
    // The peer's own connections, as its checks, need no one else's word.
    let named_by = of_header.map(|_| peer);
    let subject = on_connection(subject, &rules, named_by, certificate, verified_by);
    let (tls, public_port) = (rules.tls.is_some(), rules.listener.public_port);
    let connection = ConnectionInfo {
        listener: Arc::clone(&rules.listener.name),
        protocol: rules.listener.protocol,
        max_fields: rules.listener.max_fields,
        max_head: rules.listener.max_head,
        forwarded: ForwardedFacts::new(subject, tls, port, public_port),
        metrics: Arc::clone(&open_guard.listener),
        accepted: Arc::clone(&rules.listener),
        peer,
        endpoints: of_header.or(endpoints.map(|both| *both)),
        tls_version: stream.tls_version(),
        proxied,
        served,
        opening: opening(&thread, deadline - rules.listener.timeouts.tls),
        closing,
    };
    let deadlines = deadlines_of(&rules, guard);
    let service = Arc::new(HttpService::new(Arc::clone(&thread), connection, deadlines));
    let outcome = serve_http(&thread, &rules, stream, Arc::clone(&service)).await;
    // A connection that lingers does so for its last answer.
    let client = service.latest_client();
    drop(service);
    conclude(&thread, outcome, open_guard, client);
}

/// The moments of a connection that was accepted then, and is ready for its first request now.
/// `None` means that no spans are exported.
fn opening(thread: &ThreadContext, accepted: Instant) -> Option<OpeningMoments> {
    let exports = thread.plane.live.load().traces.exports;
    exports.then(|| OpeningMoments {
        accepted,
        secured: Instant::now(),
        has_request: AtomicBool::new(false),
    })
}

/// The subject of a connection's requests, with what the connection shows. `named_by` is the peer
/// whose PROXY header names the client; `verified_by` is the number of the certificate's verifier.
fn on_connection(
    subject: Subject,
    rules: &ListenerRules,
    named_by: Option<Peer>,
    certificate: Option<Arc<ClientCertificate>>,
    verified_by: u64,
) -> Subject {
    if named_by.is_none() && certificate.is_none() {
        return Subject { ingress: Some(Arc::clone(&rules.ingress)), ..subject };
    }
    let ingress = Ingress {
        listener: Arc::clone(&rules.listener.name),
        named_by,
        certificate: certificate.clone(),
        verified_by: verified_by.into(),
    };
    let subject = match certificate {
        Some(certificate) => subject.with_certificate(certificate),
        None => subject,
    };
    Subject { ingress: Some(Arc::new(ingress)), ..subject }
}

/// Records how the HTTP part of a connection ended, and spawns whatever follows it.
fn conclude(
    thread: &Arc<ThreadContext>,
    outcome: HttpOutcome,
    mut open_guard: OpenGuard,
    client: Client,
) {
    match outcome {
        HttpOutcome::Ended(end) => open_guard.end = end,
        HttpOutcome::Linger(end, lingering) => {
            open_guard.end = end;
            thread.tracker.spawn(linger(lingering, open_guard, client.key()));
        }
        HttpOutcome::Empty => open_guard.listener.probed(),
        HttpOutcome::Upgraded(upgraded) => {
            let UpgradedConnection { client: stream, early, accepted } = upgraded;
            // Always there: nothing has taken the stream back before.
            let Some((stream, unread)) = stream.into_parts() else { return };
            // A copy: hyper's whole buffer would live as long as the tunnel.
            let said = [early, unread].concat().into();
            match accepted {
                AcceptedUpgrade::Tunnel(pending) => {
                    open_guard.end = ConnectionEnd::Upgraded;
                    let tunnel = pending.open(thread, stream, said);
                    // The struct itself: an async block around it would triple the task.
                    thread.tracker.spawn(RecordedTunnel { tunnel, open_guard, over: false });
                }
                AcceptedUpgrade::Refused(refused) => {
                    open_guard.end = ConnectionEnd::Refused;
                    let closed = refused.close(stream, said, open_guard, client.key());
                    thread.tracker.spawn(closed);
                }
            }
        }
    }
}

/// The timers of a connection from its first head on.
fn deadlines_of(rules: &ListenerRules, guard: PendingGuard) -> HttpDeadlines {
    // The default `write_stall` holds until a request has a route, which may have its own.
    HttpDeadlines::new(rules.listener.timeouts, RouteTimeouts::default().write_stall, guard)
}

/// A tunnel whose ending is recorded: in the log, in the metrics, and by giving back its places.
struct RecordedTunnel {
    tunnel: Tunnel,
    open_guard: OpenGuard,
    over: bool,
}

impl RecordedTunnel {
    fn record(&mut self, ended: TunnelOutcome) {
        self.over = true;
        let TunnelOutcome { closed, refusal } = ended;
        let entry = self.tunnel.entry();
        let route = &self.tunnel.route().name;
        self.tunnel.metrics().tunnel_closed(&closed, refusal);
        // Before its place is given back, which reports it to a newer process.
        let _ = entry.ending.set(Box::new(TunnelEnding { closed, refusal }));
        decision::log_tunnel_closed(route, entry, &closed, refusal);
        let span = FinishedSpan::of_end(route, entry, &closed, refusal);
        self.open_guard.thread.plane.spans.keep(span);
    }
}

impl Future for RecordedTunnel {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ended = ready!(Pin::new(&mut self.tunnel).poll(cx));
        self.record(ended);
        Poll::Ready(())
    }
}

impl Drop for RecordedTunnel {
    /// A panic, or a runtime that ends, must not take an ending off the books.
    fn drop(&mut self) {
        if !self.over {
            let reason =
                if std::thread::panicking() { CloseReason::Panic } else { CloseReason::Cut };
            let ended = self.tunnel.ended(reason);
            self.record(ended);
            if reason == CloseReason::Cut {
                self.open_guard.end = ConnectionEnd::Drain;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::data::connection::{AcceptedConnection, serve};
    use crate::data::context::ThreadContext;

    /// Most bytes of the task of a connection without a tunnel. Rare cases are boxed.
    const MAX_TASK: usize = 5 * 1024 + 256;

    fn size<F: Future>(_: impl FnOnce(Arc<ThreadContext>, AcceptedConnection) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn task_of_a_connection_is_small() {
        assert!(size(serve) <= MAX_TASK, "{} bytes", size(serve));
    }
}
