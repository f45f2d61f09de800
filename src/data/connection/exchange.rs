//! The story of a request: read, judged, charged, dialled, answered.
//!
//! Each step consumes one noun and returns the next (`Request` → `Permit` →
//! `Handshake` → `Slot` → `Tunnel`), so nothing reaches a backend that was not
//! permitted. Every request has one line in the log and one count.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use http::{Request as HttpRequest, Response, Uri, request};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::data::Core;
use crate::data::answer::{self, After};
use crate::data::backend::{Answer, Attempt, Tried};
use crate::data::body::{Fault, Outgoing, Upload};
use crate::data::connection::Once;
use crate::data::connection::opening::Opening;
use crate::data::forward::{self, Arrival};
use crate::data::head;
use crate::data::patience::{Patience, Watched};
use crate::data::websocket::handshake::Handshake;
use crate::observe::log::decision::{self, Decision, Party};
use crate::observe::metrics::{ConnectionEnd, Difference, RequestKind, RequestResult};
use crate::policy::Policy;
use crate::policy::network::Peer;
use crate::policy::request::{Kind, Request};
use crate::refusal::{Backend, Head, Refusal};
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::Speaks;
use crate::snapshot::route::{PlainHttp, Route};
use crate::snapshot::{Judgement, Permit};
use crate::tunnels::{Origination, Tunnels};

/// What the requests of one connection share.
pub struct Exchange {
    core: Arc<Core>,
    /// How the connection came.
    pub came: Came,
    /// The connection's clock, which knows whether it counts among those that wait.
    patience: Patience,
    /// What becomes a tunnel when hyper lets go of the connection.
    ready: Once<Ready>,
    /// The answer to an attempt that was decided before hyper read it.
    decided: Once<Response<Outgoing>>,
    /// Whether an answer of ours closes the connection.
    closes: AtomicBool,
}

/// How a connection came.
pub struct Came {
    /// The listener's name.
    pub listener: Arc<str>,
    /// What the listener does with connections.
    pub speaks: Speaks,
    /// What a backend is told of it.
    pub arrival: Arrival,
    /// The socket's other end.
    pub peer: Peer,
    /// The certificate that its TLS handshake got.
    pub served: Option<Arc<Certificate>>,
}

impl Came {
    fn party(&self) -> Party<'_> {
        Party { listener: &self.listener, client: self.arrival.client, peer: self.peer }
    }
}

/// An attempt that was granted, while hyper answers it.
pub struct Ready {
    on: hyper::upgrade::OnUpgrade,
    opening: Box<Opening>,
}

/// The client's stream, taken back from hyper.
pub type TakenBack = hyper::upgrade::Parts<TokioIo<Watched>>;

/// One request on its way: what is known of it so far, for its line and its count.
struct Asked {
    id: HeaderValue,
    began: Instant,
    kind: RequestKind,
    has_body: bool,
    /// Whether the head passed the gate.
    passed: bool,
    host: String,
    path: String,
    origin: Option<Box<str>>,
    route: Option<Arc<Route>>,
    policy: Option<Arc<Policy>>,
    /// What the policy's candidate judged.
    candidate: Option<Result<(), Refusal>>,
    /// Under which generation, and when.
    judged: Option<(u64, Timestamp)>,
    tried: Tried,
}

/// What comes of an attempt that is let in.
enum Granted {
    /// A tunnel, once the client has its 101.
    Tunnel(Box<Opening>),
    /// The backend's answer, which is another.
    Other(Response<Outgoing>),
}

/// Why a request gets no answer of the backend's.
enum Denied {
    Refused(Refusal),
    /// The client's body stalled: nobody is left to answer.
    Stalled,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied::Refused(refusal)
    }
}

/// A connection that is given up without an answer.
#[derive(Debug)]
pub struct GivenUp;

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client's body stalled")
    }
}

impl std::error::Error for GivenUp {}

impl Exchange {
    /// For one connection.
    pub fn new(core: Arc<Core>, came: Came, patience: Patience) -> Self {
        let (ready, decided) = (Once::new(None), Once::new(None));
        Exchange { core, came, patience, ready, decided, closes: AtomicBool::new(false) }
    }

    /// Decides the attempt at the start of `came`, which hyper has not read: how long its head is, and the tunnel that it
    /// gets. `None`: hyper is to read it and to answer, whether it is decided or not.
    pub async fn attempt(&self, came: &Bytes, patience: &Patience) -> Option<(usize, Box<Opening>)> {
        if let Speaks::Redirect { .. } = self.came.speaks {
            return None;
        }
        let head::Read { parts, spelling, length } = head::request(came)?;
        let request = Request::read(&parts).ok().filter(Request::is_attempt)?;
        patience.request_began();
        let mut asked = Asked::new(false);
        asked.read(&request);
        let granted = match self.judge(&request, &mut asked) {
            Ok(permit) => self.open(Attempt { head: parts, spelling: Some(spelling) }, request, permit, &mut asked).await,
            Err(refusal) => Err(refusal),
        };
        self.answered(&asked, patience);
        let answer = match granted {
            Ok(Granted::Tunnel(opening)) => return Some((length, opening)),
            Ok(Granted::Other(answer)) => answer,
            Err(refusal) => self.refuse(&asked, refusal),
        };
        self.decided.put(answer);
        None
    }

    /// Answers one request.
    ///
    /// # Errors
    /// Only to make hyper close the connection without an answer.
    pub async fn answer(
        self: Arc<Self>,
        request: HttpRequest<Incoming>,
        patience: Patience,
    ) -> Result<Response<Outgoing>, GivenUp> {
        patience.request_began();
        let ended = Ended(patience.clone());
        if let Some(answer) = self.decided.take() {
            return Ok(answer.map(|body| body.holding(ended)));
        }
        let mut asked = Asked::new(!request.body().is_end_stream());
        asked.came(request.headers(), request.uri());
        let answer = match self.decide(request, &mut asked).await {
            Ok(answer) => answer,
            Err(Denied::Refused(refusal)) => self.refuse(&asked, refusal),
            Err(Denied::Stalled) => return Err(self.give_up(&asked)),
        };
        self.answered(&asked, &patience);
        Ok(answer.map(|body| body.holding(ended)))
    }

    /// There is an answer, and its route says how long the client may take to take it.
    fn answered(&self, asked: &Asked, patience: &Patience) {
        if let Some(route) = &asked.route {
            patience.routed(route.timeouts.write_stall);
        }
    }

    /// The steps in their order (SEMANTICS, "Order of decisions and the answer to each failure").
    async fn decide(&self, mut http: HttpRequest<Incoming>, asked: &mut Asked) -> Result<Response<Outgoing>, Denied> {
        let on = hyper::upgrade::on(&mut http);
        let (parts, body) = http.into_parts();
        let request = Request::read(&parts)?;
        asked.read(&request);
        if let Speaks::Redirect { port } = self.came.speaks {
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            self.closes.store(true, Ordering::Relaxed);
            return Ok(answer::redirect(request.host.name(), port, target));
        }
        let permit = self.judge(&request, asked)?;
        match request.kind {
            Kind::Attempt { .. } => match self.open(Attempt { head: parts, spelling: None }, request, permit, asked).await? {
                Granted::Tunnel(mut opening) => {
                    let head = std::mem::replace(&mut opening.backend.head, Response::new(()).into_parts().0);
                    self.ready.put(Ready { on, opening });
                    Ok(Response::from_parts(head, Outgoing::empty()))
                }
                Granted::Other(answer) => Ok(answer),
            },
            Kind::Plain => self.forward(parts, body, &request, &permit, asked).await,
        }
    }

    /// The verdict, under the generation that runs now: no connection holds one between requests.
    fn judge(&self, request: &Request, asked: &mut Asked) -> Result<Permit, Refusal> {
        let live = self.core.shared.live.load();
        let now = Timestamp::now();
        let Judgement { generation, route, policy, verdict, candidate, ambiguity } =
            live.judge(self.came.arrival.client, request, self.came.served.as_deref(), now);
        asked.judged = Some((generation, now));
        asked.route = route;
        asked.policy = policy;
        asked.candidate = candidate;
        asked.tried.error = ambiguity.map(|ambiguity| ambiguity.to_string());
        if let Err(refusal) = &verdict {
            self.compare(asked, self.candidate(asked), Some(*refusal));
        }
        verdict
    }

    /// An attempt that is permitted: charged, dialled, and granted if the backend switches.
    async fn open(
        &self,
        mut attempt: Attempt,
        mut request: Request,
        permit: Permit,
        asked: &mut Asked,
    ) -> Result<Granted, Refusal> {
        let handshake = Handshake::parse(&attempt.head)?;
        let candidate = self.candidate(asked);
        let slot = self.core.shared.tunnels.charge(permit);
        self.compare(asked, candidate, slot.as_ref().err().copied());
        let slot = slot?;
        self.patience.request_permitted();
        forward::to_backend(&mut attempt.head, &request, slot.permit().route(), &self.came.arrival, &asked.id);
        let answer = self.core.dialler.upgrade(slot.permit(), attempt, &handshake, &mut asked.tried).await;
        self.compare_choice(asked, candidate, &answer);
        match answer? {
            Answer::Other(answer) => {
                self.closes.store(true, Ordering::Relaxed);
                self.permitted(asked, answer.status().as_u16());
                Ok(Granted::Other(answer))
            }
            Answer::Switched(mut backend) => {
                self.permitted(asked, 101);
                let subprotocol = backend.agreed.subprotocol.take();
                if let Kind::Attempt { subprotocols } = &mut request.kind {
                    // From now on it is judged by what it speaks, no longer by what it offered.
                    *subprotocols = subprotocol.iter().cloned().collect();
                }
                let from = Origination { peer: self.came.peer, request_id: asked.id().into(), subprotocol };
                Ok(Granted::Tunnel(Box::new(Opening { backend, slot, request, from, began: asked.began })))
            }
        }
    }

    /// Plain HTTP that is permitted: where the route forwards it, charged and streamed both ways.
    async fn forward(
        &self,
        mut parts: request::Parts,
        body: Incoming,
        request: &Request,
        permit: &Permit,
        asked: &mut Asked,
    ) -> Result<Response<Outgoing>, Denied> {
        let route = permit.route();
        if route.http == PlainHttp::Refuse {
            return Err(Refusal::Plain.into());
        }
        if declared_length(&parts).is_some_and(|length| length > route.max_body) {
            return Err(Refusal::Body.into());
        }
        let candidate = self.candidate(asked);
        let charged = self.core.shared.tunnels.charge_plain(permit);
        self.compare(asked, candidate, charged.err());
        charged?;
        self.patience.request_permitted();
        forward::to_backend(&mut parts, request, route, &self.came.arrival, &asked.id);
        let (body, fault) = if asked.has_body {
            Upload::streamed(body, route.max_body, route.timeouts.body_stall)
        } else {
            (Upload::Empty, Fault::default())
        };
        match self.core.dialler.forward(permit, parts, body, &fault, &mut asked.tried).await {
            Ok(answer) => {
                self.permitted(asked, answer.status().as_u16());
                Ok(answer)
            }
            Err(_) if fault.is_stalled() => {
                asked.tried.error = Some("the client's body stalled".into());
                Err(Denied::Stalled)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// What the candidate of the policy that judged says, charged to budgets of its own.
    fn candidate(&self, asked: &Asked) -> Option<Result<(), Refusal>> {
        let (policy, judged, (_, now)) = (asked.policy.as_ref()?, asked.candidate?, asked.judged?);
        let is_plain = asked.kind == RequestKind::Plain;
        Tunnels::charge_candidate(policy, self.came.arrival.client, is_plain, judged, now)
    }

    /// Compares once more when the backend has chosen a subprotocol, if the candidate let the attempt pass.
    fn compare_choice(&self, asked: &Asked, candidate: Option<Result<(), Refusal>>, answer: &Result<Answer, Refusal>) {
        let rules = asked.policy.as_ref().and_then(|policy| policy.candidate.as_ref());
        let (Some(Ok(())), Some(rules)) = (candidate, rules) else { return };
        match (answer, &asked.tried.unadmitted) {
            (Ok(Answer::Switched(backend)), _) if !rules.admits_subprotocol(backend.agreed.subprotocol.as_deref()) => {
                self.compare(asked, Some(Err(Refusal::Backend(Backend::Failed))), None);
            }
            (Err(refusal), Some(chosen)) if rules.admits_subprotocol(chosen.as_deref()) => {
                self.compare(asked, candidate, Some(*refusal));
            }
            _ => {}
        }
    }

    /// Counts and logs where a candidate would have decided otherwise. More never comes of it.
    fn compare(&self, asked: &Asked, candidate: Option<Result<(), Refusal>>, refusal: Option<Refusal>) {
        let (difference, reason) = match (candidate, refusal) {
            (Some(Err(reason)), None) => (Difference::WouldRefuse, reason),
            // A drain refuses whatever any policy says.
            (Some(Ok(())), Some(reason)) if reason != Refusal::Draining => (Difference::WouldAdmit, reason),
            _ => return,
        };
        let Some(policy) = &asked.policy else { return };
        self.core.shared.metrics.candidate_differs(&policy.name, difference, reason);
        self.decision(asked, RequestResult::Refused, None, Some(reason)).log_difference(difference, &self.core.differences);
    }

    /// Books a request that reached its backend.
    fn permitted(&self, asked: &Asked, status: u16) {
        self.core.metrics.found(asked.route.as_ref()).request(asked.kind, RequestResult::Permitted);
        self.log(RequestResult::Permitted, asked, Some(status), None);
    }

    /// Books a refusal, and makes the answer.
    fn refuse(&self, asked: &Asked, refusal: Refusal) -> Response<Outgoing> {
        let result = if matches!(refusal, Refusal::Backend(_)) { RequestResult::Failed } else { RequestResult::Refused };
        let metrics = self.core.metrics.found(asked.route.as_ref());
        metrics.request(asked.kind, result);
        metrics.refused(refusal);
        let after = asked.after(refusal);
        if after == After::Close {
            self.closes.store(true, Ordering::Relaxed);
        }
        self.log(result, asked, refusal.status(), Some(refusal));
        answer::refusal(refusal, &asked.id, after)
    }

    /// The one line of a decision.
    fn log(&self, result: RequestResult, asked: &Asked, status: Option<u16>, refusal: Option<Refusal>) {
        self.decision(asked, result, status, refusal).log(&self.core.cap);
    }

    fn decision<'d>(
        &'d self,
        asked: &'d Asked,
        result: RequestResult,
        status: Option<u16>,
        refusal: Option<Refusal>,
    ) -> Decision<'d> {
        Decision {
            party: self.came.party(),
            kind: asked.kind,
            host: &asked.host,
            path: &asked.path,
            origin: asked.origin.as_deref(),
            request_id: asked.id(),
            route: asked.route.as_deref(),
            policy: asked.policy.as_deref(),
            judged: asked.judged,
            result,
            refusal,
            status,
            backend: asked.tried.backend.as_ref(),
            error: asked.tried.error.as_deref(),
        }
    }

    /// Books a request whose body stalled.
    fn give_up(&self, asked: &Asked) -> GivenUp {
        self.core.metrics.found(asked.route.as_ref()).request(asked.kind, RequestResult::Failed);
        self.log(RequestResult::Failed, asked, None, None);
        GivenUp
    }

    /// Books a head that hyper refused by itself, or that came too late.
    pub fn malformed(&self, error: &str) -> ConnectionEnd {
        let refusal = Refusal::Head(Head::Malformed);
        self.core.metrics.no_route().refused(refusal);
        decision::turned_away(self.came.party(), refusal, None, Some(error), &self.core.cap);
        ConnectionEnd::Head
    }

    /// Whether an answer of ours closed the connection.
    pub fn closed_it(&self) -> bool {
        self.closes.load(Ordering::Relaxed)
    }

    /// The attempt that was granted, if one was.
    pub fn take_ready(&self) -> Option<Ready> {
        self.ready.take()
    }
}

impl Ready {
    /// Waits until the 101 is written, and takes the client's stream back. `None`: the client went away.
    pub async fn upgraded(self) -> Option<(TakenBack, Box<Opening>)> {
        let parts = self.on.await.ok()?.downcast::<TokioIo<Watched>>().ok()?;
        Some((parts, self.opening))
    }
}

/// Says that a request is over when its answer's body is.
struct Ended(Patience);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

impl Asked {
    fn new(has_body: bool) -> Self {
        let mut id = [0; 32];
        HEXLOWER.encode_mut(&rand::random::<u128>().to_be_bytes(), &mut id);
        Asked {
            id: HeaderValue::from_bytes(&id).unwrap_or_else(|_| HeaderValue::from_static("-")),
            began: Instant::now(),
            kind: RequestKind::Plain,
            has_body,
            passed: false,
            host: String::new(),
            path: String::new(),
            origin: None,
            route: None,
            policy: None,
            candidate: None,
            judged: None,
            tried: Tried::default(),
        }
    }

    /// What is known of a head that has not passed the gate.
    fn came(&mut self, headers: &HeaderMap, target: &Uri) {
        self.host = headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()).unwrap_or_default();
        self.path = target.path().to_owned();
    }

    fn read(&mut self, request: &Request) {
        self.kind = if request.is_attempt() { RequestKind::Upgrade } else { RequestKind::Plain };
        self.passed = true;
        self.host = request.host.name().to_owned();
        self.path = request.path.to_string();
        self.origin.clone_from(&request.origin);
    }

    /// A refused attempt closes, so does a head that did not pass the gate, a body that nobody reads, and a client
    /// that is not served here: a refusal must not be a way to keep connections.
    fn after(&self, refusal: Refusal) -> After {
        let unserved = matches!(refusal, Refusal::Network | Refusal::Route | Refusal::Misdirected);
        let closes = self.kind == RequestKind::Upgrade || self.has_body || !self.passed || unserved;
        if closes { After::Close } else { After::Keep }
    }

    fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }
}

/// The Content-Length; hyper has made sure that it is one number.
fn declared_length(parts: &request::Parts) -> Option<u64> {
    parts.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
