//! The decision about a request: read, judged, charged, and an attempt dialled.
//!
//! Each step needs the value of a step before: charging takes the `Permit`, dialling the permit of
//! the `Slot` and the `Handshake`. So no request reaches a backend that was not permitted. The
//! order is that of `docs/spec/wire.md`, "The order of decisions". Both readers of heads decide
//! here, and this file names no type of hyper's server.
//!
//! Every request has one line in the log and one count ([`RequestLog`] sees to it), except on a
//! listener that redirects: its redirects are neither logged nor counted.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, Uri, Version, request};
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use crate::data::backend::{Attempt, UpgradeOutcome};
use crate::data::connection::accepted_upgrade::AcceptedUpgrade;
use crate::data::connection::pending_tunnel::{GrantedTunnel, PendingTunnel};
use crate::data::connection::plain::Forward;
use crate::data::connection::request_log::RequestLog;
use crate::data::connection::service::{HttpService, answered_with, check_answer};
use crate::data::http::body::{ResponseBody, UploadFault};
use crate::data::http::forward;
use crate::data::http::head::OriginalSpelling;
use crate::data::http::head_check::HeadFlaw;
use crate::data::http::reply::{self, Persistence};
use crate::data::websocket::handshake::Handshake;
use crate::policy::request::{Request, RequestType, Scheme, target};
use crate::refusal::{BackendError, HeadError, Refusal};
use crate::snapshot::listener::{HttpsPorts, Protocol};
use crate::snapshot::route::{PathForwarding, RefusalForm};
use crate::snapshot::{Judgement, Permit, Snapshot};
use crate::tunnels::MIN_STREAM_AGE;

/// The `error` of a request whose client a PROXY header has named, in the log.
const UNLISTED_PEER: &str = "the listener's proxy_protocol.from lists the peer no more that sent \
                             the PROXY header of this connection";

/// The head of a request, from either reader, and the gate's verdict on it.
pub struct RequestHead {
    /// The head as it was parsed.
    pub parts: request::Parts,
    /// How its names are spelled. `None` means that hyper has read the head, and alone knows.
    spelling: Option<OriginalSpelling>,
    /// The request, or why it is refused.
    pub request: Result<Request, Refusal>,
    /// Whether a body follows.
    has_body: bool,
}

impl RequestHead {
    /// Takes a head through the gate. A head with a [`HeadFlaw`] is refused: hyper has read
    /// another.
    pub fn new(
        parts: request::Parts,
        spelling: Option<OriginalSpelling>,
        has_body: bool,
        scheme: Scheme,
    ) -> Self {
        let request = match parts.extensions.get::<HeadFlaw>() {
            Some(flaw) => Err(flaw.refusal()),
            None => Request::read(&parts, scheme),
        };
        RequestHead { parts, spelling, request, has_body }
    }

    /// Whether the request has passed the gate, and asks for no upgrade to WebSocket.
    pub fn is_plain(&self) -> bool {
        self.request.as_ref().is_ok_and(Request::is_plain)
    }
}

/// The outcome of a request, and who answers it.
pub enum Decision {
    /// The client gets its 101: the backend has switched and the tunnel opens, or the refusal
    /// follows in a Close.
    Accept(AcceptedUpgrade),
    /// The connection is closed, and the client gets no answer.
    Drop,
    /// Sidegate answers, without a backend's body: a refusal or a redirect.
    Reply(Response<Bytes>),
    /// A backend answers, with a body of its own.
    Backend(BackendAnswer),
}

/// The answer of a backend, which is no 101.
pub enum BackendAnswer {
    /// The answer to an attempt, which has come.
    Ready(Response<ResponseBody>),
    /// Plain HTTP that has yet to be put to a backend, with the body that the caller has.
    Pending(Box<Forward>, Box<RequestLog>),
}

/// The next step of a request that is let in.
#[expect(clippy::large_enum_variant, reason = "it is moved once, and never stored")]
enum AdmittedRequest {
    Reply(Response<Bytes>),
    Forward(Box<Forward>),
    Open { handshake: Handshake, attempt: Attempt, request: Request, permit: Permit },
}

/// A request that is refused before its handshake matters.
struct RefusedRequest {
    refusal: Refusal,
    /// The handshake of an attempt that is to be accepted and closed. `None` means that the refusal
    /// needs none. Boxed, since few refusals have one.
    handshake: Option<Box<Handshake>>,
}

impl From<Refusal> for RefusedRequest {
    fn from(refusal: Refusal) -> Self {
        RefusedRequest { refusal, handshake: None }
    }
}

/// The outcome of an attempt that is let in.
enum AttemptAnswer {
    Tunnel(Box<GrantedTunnel>),
    /// The backend's answer, if it is no 101.
    Other(Response<ResponseBody>),
}

impl HttpService {
    /// Decides a request, and puts an attempt to its backend. The request is on the books from the
    /// call on, not from the first poll: its client may be gone before that.
    pub fn decide(self: Arc<Self>, mut head: RequestHead) -> impl Future<Output = Decision> {
        let (thread, connection) = (Arc::clone(&self.thread), Arc::clone(&self.connection));
        let mut log = Box::new(RequestLog::new(thread, connection, head.has_body));
        self.note(&head, &mut log);
        let live = self.thread.plane.live.load();
        log.note_trace(live.traces.trace_of(&head.parts.headers), &head.parts.method);
        self.derive_client(&live, &mut head, &mut log);
        let derived_under = live.generation;
        drop(live);
        async move {
            // Taken apart before the wait, so that the future holds no second copy of the head.
            let next = self.next_step(head, derived_under, &mut log);
            let (handshake, attempt, request, permit) = match next {
                Ok(AdmittedRequest::Open { handshake, attempt, request, permit }) => {
                    (handshake, attempt, request, permit)
                }
                Ok(AdmittedRequest::Forward(forward)) => {
                    return Decision::Backend(BackendAnswer::Pending(forward, log));
                }
                Ok(AdmittedRequest::Reply(answer)) => {
                    self.routed(&log);
                    return Decision::Reply(answer);
                }
                Err(RefusedRequest { refusal, handshake }) => {
                    self.routed(&log);
                    return self.refuse(&mut log, refusal, handshake.as_deref());
                }
            };
            // Boxed: a connection that waits for a head would carry the room that it takes.
            let opens = self.open_tunnel(attempt, request, permit, &handshake, &mut log);
            let granted = Box::pin(opens).await;
            self.routed(&log);
            match granted {
                Ok(AttemptAnswer::Tunnel(granted)) => {
                    Decision::Accept(AcceptedUpgrade::Tunnel(PendingTunnel::new(granted, log)))
                }
                Ok(AttemptAnswer::Other(answer)) => {
                    self.defer_log(log);
                    Decision::Backend(BackendAnswer::Ready(answer))
                }
                Err(refusal) => self.refuse(&mut log, refusal, Some(&handshake)),
            }
        }
    }

    /// Notes the facts of a head for its line in the log.
    fn note(&self, head: &RequestHead, log: &mut RequestLog) {
        let refusal = match &head.request {
            Ok(request) => return log.note_request(request),
            Err(refusal) => *refusal,
        };
        if let Some(flaw) = head.parts.extensions.get::<HeadFlaw>() {
            // hyper has read another head instead: none of its fields came from the client.
            self.bad_head();
            log.tried.error = Some(flaw.to_string());
            return;
        }
        log.note_head(&head.parts.headers, &head.parts.uri);
        if refusal == Refusal::Head(HeadError::InvalidTarget) {
            log.tried.error = Some("a control, a space or DEL in the target".into());
        }
    }

    /// Takes the steps in their order, up to the charge of plain HTTP or the permit of an attempt.
    /// The client was found under the generation `derived_under`.
    fn next_step(
        &self,
        mut head: RequestHead,
        derived_under: u64,
        log: &mut RequestLog,
    ) -> Result<AdmittedRequest, RefusedRequest> {
        // Loaded once: the client, the route and the verdict are those of one generation.
        let live = self.thread.plane.live.load();
        if live.generation != derived_under {
            self.derive_again(&live, &mut head, log);
        }
        let RequestHead { parts, spelling, request, .. } = head;
        let request = request?;
        // Before the judgement: a redirect says nothing about routes, and no policy applies to it.
        if let Protocol::Redirect(ports) = self.connection.protocol {
            return Ok(AdmittedRequest::Reply(self.redirect(ports, &request, &parts.uri, log)?));
        }
        let judged = self.judge(&live, &request, log);
        let permit = match judged {
            Err(Refusal::Route) => {
                let redirect = self.add_slash(&live, &request, &parts.uri, log)?;
                return Ok(AdmittedRequest::Reply(redirect));
            }
            Err(refusal) => return Err(self.refused_by_judge(refusal, &parts, log)),
            Ok(permit) => permit,
        };
        match request.kind {
            RequestType::Attempt { .. } => Ok(AdmittedRequest::Open {
                // Before the charge: a malformed attempt takes no token of its client's.
                handshake: Handshake::parse(&parts)?,
                attempt: Attempt { head: parts, spelling },
                request,
                permit,
            }),
            RequestType::Plain => {
                let forward = self.charge_plain(parts, request, permit, log)?;
                Ok(AdmittedRequest::Forward(Box::new(forward)))
            }
        }
    }

    /// Keeps the handshake of an attempt whose refusal is to reach its client in a Close. A
    /// malformed one is not kept, so the refusal is answered.
    fn refused_by_judge(
        &self,
        refusal: Refusal,
        head: &request::Parts,
        log: &RequestLog,
    ) -> RefusedRequest {
        let closes = self.form_of(log, refusal) == RefusalForm::Close;
        let handshake = if closes { Handshake::parse(head).ok().map(Box::new) } else { None };
        RefusedRequest { refusal, handshake }
    }

    /// Answers a request on a listener that redirects to TLS at one of `ports`.
    fn redirect(
        &self,
        ports: HttpsPorts,
        request: &Request,
        target: &Uri,
        log: &mut RequestLog,
    ) -> Result<Response<Bytes>, Refusal> {
        let host = request.public_host();
        if host.is_unnamed() {
            // HTTP/1.0 may name no host, and then there is nowhere to redirect to.
            return Err(Refusal::Head(HeadError::Malformed));
        }
        if request.scheme == Scheme::Https {
            // A listed peer has terminated TLS: the redirect would lead back here, for ever.
            log.tried.error = Some("it came over https, where a redirect would lead again".into());
            return Err(Refusal::Route);
        }
        // Displayed, it begins with a slash also where an absolute target has no path.
        let target = target.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        // `http::Uri` holds bytes beyond ASCII, which `Location` may not. hyper's way has encoded
        // them before.
        let encoded = target::encoded(target.as_bytes());
        let target = encoded.map_or(target, |(target, _)| target);
        // Other clients of a listed peer have requests on the same connection.
        let keeps = log.is_shared() && request.is_plain() && !log.has_body;
        let after = if keeps { Persistence::Keep } else { Persistence::Close };
        if !keeps {
            self.closes();
        }
        log.skip();
        let used = log.forwarded.public_port(&request.host);
        let port = ports.for_client(used, log.forwarded.port);
        Ok(reply::redirect(host.name(), port, &target, after))
    }

    /// Judges under the generation that runs now: no connection keeps one between requests.
    fn judge(
        &self,
        live: &Snapshot,
        request: &Request,
        log: &mut RequestLog,
    ) -> Result<Permit, Refusal> {
        let now = Timestamp::now();
        let Judgement { generation, route, policy, verdict, candidate, ambiguity, ban, .. } =
            live.judge(&log.forwarded.subject, request, self.connection.served.as_ref(), now);
        log.judged = Some((generation, now));
        log.note_route(request, route);
        log.policy = policy;
        log.ban = ban;
        log.candidate = candidate;
        log.tried.error = ambiguity.map(|ambiguity| ambiguity.to_string());
        if let Err(refusal) = &verdict {
            if *refusal == Refusal::Proxy {
                log.tried.error = Some(UNLISTED_PEER.into());
            }
            log.compare(log.candidate(), Some(*refusal));
        }
        verdict
    }

    /// Answers a request that no route matches. Plain HTTP whose path lacks only a slash at its end
    /// is redirected, if the policy there permits it. No rate is charged: no backend has any work,
    /// and the request that follows pays.
    fn add_slash(
        &self,
        live: &Snapshot,
        request: &Request,
        target: &Uri,
        log: &mut RequestLog,
    ) -> Result<Response<Bytes>, Refusal> {
        let slashed = live.with_slash(request).ok_or(Refusal::Route)?;
        let permit = self.judge(live, &slashed, log)?;
        log.compare(log.candidate, None);
        let (answer, after) = log.log_redirect(&permit.route().path, target.query());
        self.closes_after(after);
        Ok(answer)
    }

    /// Charges a permitted attempt, dials, and grants the tunnel if the backend switches.
    async fn open_tunnel(
        &self,
        mut attempt: Attempt,
        mut request: Request,
        permit: Permit,
        handshake: &Handshake,
        log: &mut RequestLog,
    ) -> Result<AttemptAnswer, Refusal> {
        // Charged first: the candidate's budgets don't depend on what the policy's say.
        let candidate = log.candidate();
        // A connection that outlives its listener opens no tunnel after its first answer: the
        // client connects again, and gets the rules that listen now.
        let slot = match self.is_retired() {
            true => Err(Refusal::Draining),
            false => self.thread.plane.tunnels.charge(permit),
        };
        log.compare(candidate, slot.as_ref().err().copied());
        let slot = slot?;
        // From here on the policy bounds the connection, and `pending_per_client` does not
        // (decision 021).
        self.deadlines.on_permit();
        let route = slot.permit().route();
        let trailers = forward::takes_trailers(&attempt.head.headers);
        request.path.keep_form(route.paths == PathForwarding::AsIs);
        forward::to_backend(&mut attempt.head, &request, route, &log.forwarded, log.names())?;
        let (subject, host) = (slot.permit().subject(), request.host.name());
        log.note_dial(self.connection.preamble(route, subject, host));
        let overdue = self.drain_overdue(log.began);
        // An answer that has come is used, even if the drain is due in the same turn.
        let answer = tokio::select! {
            biased;
            answer = self.thread.backend_client.upgrade(slot.permit(), attempt, handshake, &mut log.tried) => answer,
            () = overdue => Err(Refusal::Draining),
        };
        log.note_answer();
        compare_choice(log, candidate, &answer);
        match answer? {
            UpgradeOutcome::Other(answer) => {
                // What the client has sent behind its attempt may be frames or a request (RFC 9110
                // §7.8): nothing after it is read.
                self.closes();
                let mut in_flight = self.begin_exchange(slot.permit(), request, log, true);
                let answer = check_answer(answer, &mut in_flight, Version::HTTP_11, trailers);
                answered_with(log, answer.status().as_u16(), &self.deadlines);
                Ok(AttemptAnswer::Other(
                    answer.map(|body| body.with_exchange(in_flight, UploadFault::default())),
                ))
            }
            UpgradeOutcome::Switched(mut backend) => {
                let subprotocol = backend.agreed.subprotocol.take();
                if let RequestType::Attempt { subprotocols } = &mut request.kind {
                    // Reloads judge a tunnel by the subprotocol that it speaks, not by its offers.
                    *subprotocols = subprotocol.iter().cloned().collect();
                }
                let from = log.origination(subprotocol);
                Ok(AttemptAnswer::Tunnel(Box::new(GrantedTunnel { backend, slot, request, from })))
            }
        }
    }

    /// Ready once a drain should no longer wait for an attempt that `began` then: its client may
    /// safely repeat it, and its tunnel would be drained at once.
    async fn drain_overdue(&self, began: Instant) {
        self.thread.plane.lifecycle.closing().cancelled().await;
        sleep_until(began + MIN_STREAM_AGE).await;
    }
}

/// Compares once more when the backend has chosen a subprotocol, if the candidate let the attempt
/// pass.
fn compare_choice(
    log: &RequestLog,
    candidate: Option<Result<(), Refusal>>,
    answer: &Result<UpgradeOutcome, Refusal>,
) {
    let rules = log.policy.as_ref().and_then(|policy| policy.candidate.as_ref());
    let (Some(Ok(())), Some(rules)) = (candidate, rules) else { return };
    match (answer, &log.tried.unadmitted) {
        // The candidate would have answered this 101 with 502.
        (Ok(UpgradeOutcome::Switched(backend)), _)
            if !rules.admits_subprotocol(backend.agreed.subprotocol.as_deref()) =>
        {
            log.compare(Some(Err(Refusal::Backend(BackendError::Failed))), None);
        }
        // The policy has refused the choice of the backend, and the candidate admits it.
        (Err(refusal), Some(chosen)) if rules.admits_subprotocol(chosen.as_deref()) => {
            log.compare(candidate, Some(*refusal));
        }
        _ => {}
    }
}
