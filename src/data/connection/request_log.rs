//! The facts about a request on its way, and its one log line and one count.
//!
//! A request is booked exactly once. A request that nothing else has booked is booked when it is
//! dropped: its client left before there was an answer. Nothing is decided here.

use std::cell::LazyCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Method, Response, Uri};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::close::ExchangeReason;
use crate::data::backend::DialRecord;
use crate::data::context::ThreadContext;
use crate::data::http::forward::{ForwardedFacts, RequestNames};
use crate::data::http::reply::{self, Persistence};
use crate::data::proxy_protocol::write::{ClientFacts, TlsFacts, v2_header};
use crate::data::stream::socket::Preamble;
use crate::observe::log::decision::{DecisionRecord, LogContext};
use crate::observe::metrics::{
    CandidateDifference, ListenerMetrics, RefusalDelivery, RequestKind, RequestResult,
};
use crate::observe::recent::RecentDecision;
use crate::observe::spans::{FinishedSpan, HttpFacts, RequestMoments, before};
use crate::policy::Policy;
use crate::policy::ban::Ban;
use crate::policy::forwarded::Derivation;
use crate::policy::network::Peer;
use crate::policy::proxied::{Endpoints, ProxiedConnection};
use crate::policy::request::Request;
use crate::policy::subject::Subject;
use crate::refusal::Refusal;
use crate::snapshot::certificate::ServedCertificate;
use crate::snapshot::listener::{Listener, Protocol};
use crate::snapshot::route::{PathForwarding, Route};
use crate::trace_context::{TraceContext, TraceId};
use crate::tunnels::RequestSource;

/// The listener, the peer and the TLS of a connection.
pub struct ConnectionInfo {
    /// The listener's name, as configured.
    pub listener: Arc<str>,
    /// What the listener does with connections.
    pub protocol: Protocol,
    /// The most fields of a request.
    pub max_fields: usize,
    /// The most bytes of a request's head.
    pub max_head: usize,
    /// The facts about requests in which no listed peer names another client.
    pub forwarded: ForwardedFacts,
    /// The counters of the listener.
    pub metrics: Arc<ListenerMetrics>,
    /// The listener as it was at the accept.
    pub accepted: Arc<Listener>,
    /// The socket's other end.
    pub peer: Peer,
    /// The connection to the proxy in front, as its PROXY header describes it. `None` means that
    /// the peer sent no header.
    pub proxied: Option<Arc<ProxiedConnection>>,
    /// Both ends of the client's connection: with the proxy in front, where its PROXY header names
    /// them, else with this listener. `None` means that no route told them at the accept.
    pub endpoints: Option<Endpoints>,
    /// The version of TLS, in the words of OpenSSL. `None` means a plain listener.
    pub tls_version: Option<&'static str>,
    /// The certificate that its TLS handshake got by a server name. `None` means a plain listener,
    /// or a ClientHello without a server name.
    pub served: Option<ServedCertificate>,
    /// Its moments before the first request. `None` means that no spans are exported.
    pub opening: Option<OpeningMoments>,
    /// Cancelled when the listener is gone or speaks otherwise, and with the process' `closing`.
    pub closing: CancellationToken,
}

/// The moments of a connection before its first request.
#[derive(Debug)]
pub struct OpeningMoments {
    /// When it was accepted.
    pub accepted: Instant,
    /// When its TLS handshake was over.
    pub secured: Instant,
    /// Whether a request has come on it: they belong to the first one.
    pub has_request: AtomicBool,
}

impl ConnectionInfo {
    /// Whose connection it is. A request on it may be another client's.
    pub fn log_context(&self) -> LogContext<'_> {
        LogContext {
            listener: &self.listener,
            client: self.forwarded.subject.client,
            peer: self.peer,
            proxied: self.proxied.as_deref(),
        }
    }
}

impl ConnectionInfo {
    /// The PROXY header for a connection to a backend of `route`, for a request of `subject` to
    /// `host`. Empty means that the route wants none.
    pub fn preamble(&self, route: &Route, subject: &Subject, host: &str) -> Preamble {
        if !route.proxy_protocol {
            return Preamble::default();
        }
        let tls = self.tls_version.map(|version| TlsFacts {
            version: Some(version),
            // A request whose host contradicts the server name is refused before.
            authority: self.served.is_some().then_some(host),
            has_certificate: subject.certificate().is_some(),
            common_name: subject.certificate().and_then(|own| own.common_name.as_deref()),
        });
        let (client, endpoints) = (subject.client, self.endpoints);
        Preamble(v2_header(&ClientFacts { client, endpoints, tls }))
    }
}

/// One request on its way.
pub struct RequestLog {
    thread: Arc<ThreadContext>,
    connection: Arc<ConnectionInfo>,
    recorded: bool,
    /// How the request reached us, and whose it is.
    pub forwarded: ForwardedFacts,
    /// Why the forwarded headers of its peer cannot be read. `None` means that they can, or that
    /// they are not believed.
    fault: Option<Box<Derivation>>,
    /// How a refusal reaches its client. `None` means that it is answered, or that there is none.
    delivery: Option<RefusalDelivery>,
    /// The status of an answer whose delivery decides how the request is booked.
    pub deferred_status: Option<u16>,
    /// Under which id both sides know the request.
    pub id: HeaderValue,
    /// The trace that it belongs to. `None` means that it has none.
    pub trace: Option<TraceContext>,
    /// When its head was whole.
    pub began: Instant,
    /// An upgrade, or plain.
    pub kind: RequestKind,
    /// Whether a body follows the head.
    pub has_body: bool,
    /// Whether the head passed the gate.
    passed_gate: bool,
    host: String,
    path: String,
    origin: Option<Box<str>>,
    /// The route that was found.
    pub route: Option<Arc<Route>>,
    /// The policy that judged.
    pub policy: Option<Arc<Policy>>,
    /// The ban that refused. `None` means that no ban did.
    pub ban: Option<Arc<Ban>>,
    /// What the policy's candidate judged.
    pub candidate: Option<Result<(), Refusal>>,
    /// Under which generation, and when.
    pub judged: Option<(u64, Timestamp)>,
    /// The backend that was tried.
    pub tried: DialRecord,
    /// Whether it is the first request of its connection; only for a span.
    is_first: bool,
    /// Its method; only for a span.
    method: Option<Method>,
    /// When it was put to a backend, and when that had answered; only for a span.
    dialled: Option<Instant>,
    answered: Option<Instant>,
}

impl RequestLog {
    /// A request whose head has come.
    pub fn new(
        thread: Arc<ThreadContext>,
        connection: Arc<ConnectionInfo>,
        has_body: bool,
    ) -> Self {
        let opening = connection.opening.as_ref();
        let is_first =
            opening.is_some_and(|opening| !opening.has_request.swap(true, Ordering::Relaxed));
        let mut id = [0; 32];
        HEXLOWER.encode_mut(&rand::random::<u128>().to_be_bytes(), &mut id);
        RequestLog {
            thread,
            forwarded: connection.forwarded.clone(),
            connection,
            recorded: false,
            fault: None,
            delivery: None,
            deferred_status: None,
            // Hexadecimal digits are always a valid value.
            id: HeaderValue::from_bytes(&id).unwrap_or_else(|_| HeaderValue::from_static("-")),
            trace: None,
            began: Instant::now(),
            kind: RequestKind::Plain,
            has_body,
            passed_gate: false,
            host: String::new(),
            path: String::new(),
            origin: None,
            route: None,
            policy: None,
            ban: None,
            candidate: None,
            judged: None,
            tried: DialRecord::default(),
            is_first,
            method: None,
            dialled: None,
            answered: None,
        }
    }

    /// Notes how the request reached us. A listed peer's id of it is kept, so that the logs of both
    /// have the same.
    pub fn set_facts(&mut self, facts: ForwardedFacts) {
        if let Some(id) = facts.derived.as_ref().and_then(|all| all.report.request_id.as_ref()) {
            self.id = id.clone();
        }
        self.forwarded = facts;
        self.fault = None;
    }

    /// What the backend gets to know the request by.
    pub fn names(&self) -> RequestNames<'_> {
        RequestNames { id: &self.id, trace: self.trace }
    }

    /// Notes that the forwarded headers of a listed peer cannot be read.
    pub fn set_fault(&mut self, derivation: Box<Derivation>) {
        self.fault = Some(derivation);
    }

    /// Notes the trace of the request, and the method for its span.
    pub fn note_trace(&mut self, trace: Option<TraceContext>, method: &Method) {
        self.trace = trace;
        // Copied for a span alone: most requests have none.
        self.method = trace.and_then(|trace| trace.exported()).map(|_| method.clone());
    }

    /// Notes the host and the path of a head that has not passed the gate.
    pub fn note_head(&mut self, headers: &HeaderMap, target: &Uri) {
        // The gate has not passed this head: the host may be any bytes.
        let host = headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
        self.host = host.map(|host| host.into_owned()).unwrap_or_default();
        self.path = target.path().to_owned();
    }

    /// Notes the request of a head that has passed the gate.
    pub fn note_request(&mut self, request: &Request) {
        let is_attempt = request.is_attempt();
        self.kind = if is_attempt { RequestKind::Upgrade } else { RequestKind::Plain };
        self.passed_gate = true;
        self.host = request.host.name().to_owned();
        self.path = request.path.to_string();
        self.origin.clone_from(&request.origin);
    }

    /// Notes the route that was found, if any. Where it passes paths as they are, the request is
    /// known by the path that was sent.
    pub fn note_route(&mut self, request: &Request, route: Option<Arc<Route>>) {
        if route.as_ref().is_some_and(|route| route.paths == PathForwarding::AsIs) {
            self.path = request.path.sent().to_owned();
        }
        self.route = route;
    }

    /// Where the request came from, for the table.
    pub fn origination(&self, subprotocol: Option<Box<str>>) -> RequestSource {
        RequestSource {
            peer: self.connection.peer,
            request_id: self.id().into(),
            trace: self.trace,
            subprotocol,
        }
    }

    /// The verdict of the policy's candidate, charged to budgets of its own. `None` means that no
    /// candidate has judged.
    pub fn candidate(&self) -> Option<Result<(), Refusal>> {
        let (policy, judged, (_, now)) = (self.policy.as_ref()?, self.candidate?, self.judged?);
        let is_plain = self.kind == RequestKind::Plain;
        let tunnels = &self.thread.plane.tunnels;
        tunnels.charge_candidate(policy, &self.forwarded.subject, is_plain, judged, now)
    }

    /// Counts and logs a candidate that would have decided otherwise. It has no other effect.
    pub fn compare(&self, candidate: Option<Result<(), Refusal>>, refusal: Option<Refusal>) {
        let (difference, reason) = match (candidate, refusal) {
            (Some(Err(reason)), None) => (CandidateDifference::WouldRefuse, reason),
            // A drain refuses whatever any policy says.
            (Some(Ok(())), Some(reason)) if reason != Refusal::Draining => {
                (CandidateDifference::WouldAdmit, reason)
            }
            _ => return,
        };
        let Some(policy) = &self.policy else { return };
        let client = self.forwarded.subject.client.key();
        self.thread.plane.metrics.candidate_differs(&policy.name, difference, reason, client);
        let decision = self.decision(RequestResult::Refused, None, Some(reason));
        decision.log_difference(difference, &self.thread.differences);
    }

    /// Books a request that its backend answered with `status`.
    pub fn log_permitted(&mut self, status: u16) {
        self.record(RequestResult::Permitted, Some(status), None, None);
    }

    /// Books a refusal, and makes the answer. Returns what becomes of the connection too.
    pub fn log_refused(&mut self, refusal: Refusal) -> (Response<Bytes>, Persistence) {
        let is_backends = matches!(refusal, Refusal::Backend(_));
        let result = if is_backends { RequestResult::Failed } else { RequestResult::Refused };
        self.thread.metrics.route_or_none(self.route.as_ref()).refused(refusal);
        self.record(result, refusal.status(), Some(refusal), None);
        let after = self.persistence(refusal);
        (reply::refusal_reply(refusal, &self.id, after), after)
    }

    /// Books a refusal that its client gets in a Close, or not at all.
    pub fn log_unanswered(&mut self, refusal: Refusal, delivery: RefusalDelivery) {
        let metrics = self.thread.metrics.route_or_none(self.route.as_ref());
        metrics.refused(refusal);
        metrics.delivered(delivery);
        self.delivery = Some(delivery);
        let status = if delivery == RefusalDelivery::Close { Some(101) } else { None };
        self.record(RequestResult::Refused, status, Some(refusal), None);
    }

    /// Notes that a refusal is answered, since too many attempts are being closed.
    pub fn note_capped(&mut self) {
        let metrics = self.thread.metrics.route_or_none(self.route.as_ref());
        metrics.delivered(RefusalDelivery::Capped);
        self.delivery = Some(RefusalDelivery::Capped);
    }

    /// Books a request that is permitted at `path`, which is its own with a slash behind it, and
    /// makes the answer that sends it there. Returns what becomes of the connection too.
    pub fn log_redirect(
        &mut self,
        path: &str,
        query: Option<&str>,
    ) -> (Response<Bytes>, Persistence) {
        let after = if self.has_body { Persistence::Close } else { Persistence::Keep };
        let answer = reply::slash_redirect(path, query, &self.id, after);
        self.log_permitted(answer.status().as_u16());
        (answer, after)
    }

    /// Books a request that gets no answer, for this reason.
    pub fn log_failed(&mut self, reason: ExchangeReason) {
        self.record(RequestResult::Failed, None, None, Some(reason));
    }

    /// Notes that the request is put to a backend now. A connection that is made for it begins with
    /// `preamble`.
    pub fn note_dial(&mut self, preamble: Preamble) {
        self.tried.preamble = preamble;
        self.dialled = self.trace.and_then(|trace| trace.exported()).map(|_| Instant::now());
    }

    /// Notes that the backend has answered.
    pub fn note_answer(&mut self) {
        self.answered = self.dialled.map(|_| Instant::now());
    }

    /// The moments of the request by the wall clock, which shows `now`.
    fn moments(&self, now: SystemTime) -> RequestMoments {
        let at = |moment: Instant| before(now, moment.elapsed());
        let opening = self.connection.opening.as_ref().filter(|_| self.is_first);
        RequestMoments {
            accepted: opening.map(|opening| at(opening.accepted)),
            secured: opening
                .filter(|_| self.connection.tls_version.is_some())
                .map(|opening| at(opening.secured)),
            read: Some(at(self.began)),
            judged: self.judged.map(|(_, judged)| judged.into()),
            dialled: self.dialled.map(at),
            answered: self.answered.map(at),
        }
    }

    /// Takes a request off the books that is neither permitted nor refused: a listener's redirect.
    pub fn skip(&mut self) {
        self.recorded = true;
    }

    fn record(
        &mut self,
        result: RequestResult,
        status: Option<u16>,
        refusal: Option<Refusal>,
        failure: Option<ExchangeReason>,
    ) {
        // The first booking counts. Another follows at the latest when the request is dropped.
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        self.thread.metrics.route_or_none(self.route.as_ref()).request(self.kind, result);
        let decision = DecisionRecord { failure, ..self.decision(result, status, refusal) };
        let trace = self.trace.filter(|trace| trace.exported().is_some());
        if let Some(trace) = trace {
            let now = SystemTime::now();
            let scheme = if self.connection.tls_version.is_some() { "https" } else { "http" };
            let http = HttpFacts { method: self.method.as_ref(), scheme };
            let span = FinishedSpan::of_decision(&decision, http, trace, &self.moments(now), now);
            self.thread.plane.spans.keep(span);
        }
        let decisive = LazyCell::new(|| decision.decisive());
        decision.log(&decisive, &self.thread.throttle);
        self.thread
            .recent
            .keep(|| RecentDecision::of_request(&decision, *decisive, Timestamp::now()));
    }

    fn decision(
        &self,
        result: RequestResult,
        status: Option<u16>,
        refusal: Option<Refusal>,
    ) -> DecisionRecord<'_> {
        let derived = self.forwarded.derived.as_ref().map(|derived| &derived.derivation);
        let client = self.forwarded.subject.client;
        DecisionRecord {
            log_context: LogContext { client, ..self.connection.log_context() },
            subject: &self.forwarded.subject,
            derived: self.fault.as_deref().or(derived),
            kind: self.kind,
            host: &self.host,
            path: &self.path,
            origin: self.origin.as_deref(),
            request_id: self.id(),
            trace_id: self.trace_id(),
            route: self.route.as_deref(),
            policy: self.policy.as_deref(),
            judged: self.judged,
            result,
            refusal,
            failure: None,
            status,
            delivery: self.delivery,
            backend: self.tried.backend.as_ref(),
            error: self.tried.error.as_deref(),
            ban: self.ban.as_ref(),
        }
    }

    /// Whether the connection is that of a listed peer, over which other clients send requests too.
    pub fn is_shared(&self) -> bool {
        self.forwarded.derived.is_some() || self.fault.is_some()
    }

    /// What a refusal does to the connection. A refused attempt closes it, and so does a head that
    /// did not pass the gate, a request whose body is not read, and a client that is not served
    /// here: a refusal must not keep connections.
    fn persistence(&self, refusal: Refusal) -> Persistence {
        let unserved = match refusal {
            Refusal::Head(_) => true,
            Refusal::Network | Refusal::Banned => !self.is_shared(),
            Refusal::Route | Refusal::Misdirected => !self.is_shared(),
            // With a route only a second reading of the path is refused: the client is served here.
            Refusal::Path => self.route.is_none(),
            // The connection is closed without an answer.
            Refusal::Pending | Refusal::Proxy | Refusal::Tls => true,
            // The client is let in, or another request of it may be.
            Refusal::Origin | Refusal::Subprotocol | Refusal::Identity | Refusal::Forwarded => {
                false
            }
            Refusal::Handshake | Refusal::Version | Refusal::Plain | Refusal::Body => false,
            Refusal::Rate { .. } | Refusal::Connections | Refusal::Capacity => false,
            Refusal::Draining | Refusal::Backend(_) => false,
        };
        let closes =
            self.kind == RequestKind::Upgrade || self.has_body || !self.passed_gate || unserved;
        if closes { Persistence::Close } else { Persistence::Keep }
    }

    fn trace_id(&self) -> Option<TraceId> {
        self.trace.map(|trace| trace.trace_id)
    }

    fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        // No effect on a request that is booked already.
        self.log_failed(match std::thread::panicking() {
            true => ExchangeReason::Panic,
            false if self.thread.plane.lifecycle.cutting().is_cancelled() => ExchangeReason::Cut,
            false => ExchangeReason::ClientLeft,
        });
    }
}
