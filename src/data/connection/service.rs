//! The state that the requests of one connection share, and how it is booked when they end.
//!
//! It decides nothing: `decide` does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use http::header::{CONTENT_LENGTH, TRAILER};
use http::{Response, Version};
use jiff::Timestamp;

use crate::data::connection::request_log::{ConnectionInfo, RequestLog};
use crate::data::context::ThreadContext;
use crate::data::http::body::ResponseBody;
use crate::data::http::deadlines::HttpDeadlines;
use crate::data::http::in_flight::{BodyKind, InFlightExchange};
use crate::data::http::reply::Persistence;
use crate::observe::log::decision::ConnectionRefusal;
use crate::observe::metrics::ConnectionEnd;
use crate::policy::network::Client;
use crate::policy::request::Request;
use crate::refusal::{HeadError, Refusal};
use crate::snapshot::Permit;
use crate::snapshot::route::RouteTimeouts;
use crate::sync::lock;

/// The state that the requests of one connection share.
pub struct HttpService {
    /// The thread that serves the connection.
    pub thread: Arc<ThreadContext>,
    /// The listener, the peer and the TLS of the connection.
    pub connection: Arc<ConnectionInfo>,
    /// The connection's deadlines, which count it among the connections of its client.
    pub deadlines: HttpDeadlines,
    /// Whether an answer of ours closes the connection.
    is_closing: AtomicBool,
    /// Whether a head came that cannot be read.
    has_bad_head: AtomicBool,
    /// Whether a request was answered on it.
    has_answered: AtomicBool,
    /// The client of the latest request in which a listed peer has named one. `None` means that the
    /// connection has only its own.
    latest_client: Mutex<Option<Client>>,
    /// How the connection ends, since a request was refused without an answer.
    dropped: OnceLock<ConnectionEnd>,
    /// Requests whose client had ended its side before the answer: delivery decides about them.
    deferred: Mutex<Vec<RequestLog>>,
}

impl HttpService {
    /// Starts without any request, for one connection.
    pub fn new(
        thread: Arc<ThreadContext>,
        connection: ConnectionInfo,
        deadlines: HttpDeadlines,
    ) -> Self {
        HttpService {
            thread,
            connection: Arc::new(connection),
            deadlines,
            is_closing: AtomicBool::new(false),
            has_bad_head: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            latest_client: Mutex::default(),
            dropped: OnceLock::new(),
            deferred: Mutex::default(),
        }
    }

    /// Notes that there is an answer: its route bounds how long the client may take to take it. The
    /// bounds of an earlier request never do.
    pub fn routed(&self, log: &RequestLog) {
        match &log.route {
            Some(route) => self.deadlines.set_route_timeouts(&route.timeouts),
            None => self.deadlines.set_route_timeouts(&RouteTimeouts::default()),
        }
    }

    /// Keeps a request whose delivery decides how it is booked.
    pub fn defer_log(&self, log: Box<RequestLog>) {
        if log.deferred_status.is_some() {
            lock(&self.deferred).push(*log);
        }
    }

    /// Books the requests that wait for the end of the connection: as answered if all was
    /// `delivered`, and else, by their drop, as left by the client.
    pub fn log_deferred(&self, delivered: bool) {
        let unsettled = std::mem::take(&mut *lock(&self.deferred));
        for mut log in unsettled {
            if let Some(status) = log.deferred_status.filter(|_| delivered) {
                log.log_permitted(status);
            }
        }
    }

    /// Enters a permitted request into the table of exchanges.
    pub fn begin_exchange(
        &self,
        permit: &Permit,
        request: Request,
        log: &RequestLog,
        repeatable: bool,
    ) -> InFlightExchange {
        let (tunnels, from) = (&self.thread.plane.tunnels, log.origination(None));
        let exchange = tunnels.begin_exchange(permit, request, from, Timestamp::now);
        let metrics = self.thread.metrics.route(permit.route());
        // A reference for exported ones alone: the count is shared by all threads.
        let is_exported = exchange.entry.trace.is_some_and(|trace| trace.exported().is_some());
        let spans = is_exported.then(|| Arc::clone(&self.thread.plane.spans));
        InFlightExchange::new(exchange, metrics, self.deadlines.clone(), repeatable)
            .with_spans(spans)
    }

    /// Notes whether one of sidegate's own answers closes the connection, which discards the rest
    /// of the request's body.
    pub fn closes_after(&self, after: Persistence) {
        if after == Persistence::Close {
            // Relaxed suffices: one task writes and reads these flags.
            self.is_closing.store(true, Ordering::Relaxed);
            self.deadlines.discard_body(None);
        }
    }

    /// Books a head that hyper refused by itself, or that came too late.
    pub fn malformed(&self, error: &str) -> ConnectionEnd {
        let refusal = Refusal::Head(HeadError::Malformed);
        let log_context = self.connection.log_context();
        let refused = ConnectionRefusal { error: Some(error), ..ConnectionRefusal::new(refusal) };
        self.thread.refuse_connection(log_context, refused);
        ConnectionEnd::Head
    }

    /// Notes the client that a listed peer has named.
    pub fn set_latest_client(&self, client: Client) {
        *lock(&self.latest_client) = Some(client);
    }

    /// The client to which the end of the connection belongs: that of the latest request.
    pub fn latest_client(&self) -> Client {
        let latest = *lock(&self.latest_client);
        latest.unwrap_or(self.connection.forwarded.subject.client)
    }

    /// Notes that an answer closes the connection.
    pub fn closes(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// Notes that a request was answered.
    pub fn has_answer(&self) {
        self.deadlines.set_answered();
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// Whether a request was answered.
    pub fn has_answers(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Notes that a request is refused without an answer.
    pub fn drops(&self, refusal: Refusal) {
        let end = match refusal {
            Refusal::Proxy => ConnectionEnd::Proxy,
            Refusal::Banned => ConnectionEnd::Banned,
            _ => ConnectionEnd::Network,
        };
        // The first one counts: nothing is served behind it.
        let _ = self.dropped.set(end);
    }

    /// How the connection ends, if a request was refused without an answer.
    pub fn dropped(&self) -> Option<ConnectionEnd> {
        self.dropped.get().copied()
    }

    /// Whether the connection opens no tunnel any more: its listener is gone, or speaks otherwise.
    /// A client that connected before is still served its first request, which it came for.
    pub fn is_retired(&self) -> bool {
        self.connection.closing.is_cancelled() && self.has_answers()
    }

    /// Whether the connection closes behind an answer that begins now.
    pub fn is_last_answer(&self) -> bool {
        // After an upgrade too: the client's next connection is one to the new process.
        let is_released = || self.thread.plane.lifecycle.released().is_cancelled();
        self.connection.closing.is_cancelled() || is_released()
    }

    /// Notes a head that cannot be read.
    pub fn bad_head(&self) {
        self.has_bad_head.store(true, Ordering::Relaxed);
    }

    /// Whether a head that could not be read ends the connection.
    pub fn has_bad_head(&self) -> bool {
        self.has_bad_head.load(Ordering::Relaxed)
    }

    /// Whether an answer of ours closed the connection.
    pub fn has_closed(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }
}

/// Notes what the answer's head says of its body. Trailers are announced only to a client that
/// takes them, as `trailers` says, and gets chunks.
pub fn check_answer(
    mut answer: Response<ResponseBody>,
    in_flight: &mut InFlightExchange,
    version: Version,
    trailers: bool,
) -> Response<ResponseBody> {
    let has_length = answer.headers().contains_key(CONTENT_LENGTH);
    // Only a body in chunks can have trailers (RFC 9112 §7.1.2).
    if !trailers || has_length {
        answer.headers_mut().remove(TRAILER);
    }
    let headers = answer.headers();
    in_flight
        .note_head(BodyKind::from_headers(headers), !has_length && version == Version::HTTP_11);
    answer
}

/// Books an answer of the backend's: at once, or, where the client has ended its side already and
/// may be gone, once it is known whether the answer was delivered.
pub fn answered_with(log: &mut RequestLog, status: u16, deadlines: &HttpDeadlines) {
    if deadlines.has_client_eof() {
        log.deferred_status = Some(status);
        deadlines.require_delivery();
    } else {
        log.log_permitted(status);
    }
}
