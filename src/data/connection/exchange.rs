//! The story of a request: read, judged, charged, dialled, answered.
//!
//! Each step consumes one noun and returns the next (`Request` → `Permit` →
//! `Handshake` → `Slot` → `Tunnel`), so nothing reaches a backend that was not
//! permitted. Every request has one line in the log and one count: [`Asked`] sees to it.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, TRAILER, TRANSFER_ENCODING,
};
use http::{Request as HttpRequest, Response, StatusCode, Uri, Version, request, response};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use crate::close::{By, ExchangeReason};
use crate::data::backend::{Answer, Attempt};
use crate::data::connection::asked::{Asked, Came};
use crate::data::connection::opening::{Opening, Switching};
use crate::data::connection::watched::Watched;
use crate::data::core::Core;
use crate::data::http::answer::{self, After};
use crate::data::http::body::{Fault, Outgoing, Upload};
use crate::data::http::expect;
use crate::data::http::flight::{Ending, Flight, Shape};
use crate::data::http::forward;
use crate::data::http::head;
use crate::data::http::malformed::Flaw;
use crate::data::http::patience::{Cut, Patience};
use crate::data::websocket::handshake::Handshake;
use crate::observe::log::decision;
use crate::observe::metrics::ConnectionEnd;
use crate::policy::request::target::Tidied;
use crate::policy::request::{Kind, Request};
use crate::refusal::{Backend, Head, Refusal};
use crate::snapshot::listener::Speaks;
use crate::snapshot::route::Paths;
use crate::snapshot::{Judgement, Permit, Snapshot};
use crate::tunnels::STREAM_AGE;

/// What the requests of one connection share.
pub struct Exchange {
    core: Arc<Core>,
    /// How the connection came.
    pub came: Arc<Came>,
    /// The connection's clock, which holds its seat among the connections of its client.
    patience: Patience,
    /// The tunnel that opens when hyper lets go of the connection.
    opening: Once<Box<Opening>>,
    /// hyper's promise to hand the stream over, where a request has asked for an upgrade, whatever
    /// its answer was.
    handed_over: Once<OnUpgrade>,
    /// The answer to an attempt that was decided before hyper read it.
    decided: Once<Response<Outgoing>>,
    /// Whether an answer of ours closes the connection.
    closes: AtomicBool,
    /// Whether a head came that cannot be read.
    has_bad_head: AtomicBool,
    /// Whether a request was answered on it.
    has_answered: AtomicBool,
    /// Requests whose client had ended its side before the answer: delivery decides about them.
    unsettled: Mutex<Vec<Asked>>,
}

/// The outcome of an attempt that is let in.
enum Granted {
    /// A tunnel, once the client has its 101.
    Tunnel(Box<Switching>),
    /// The backend's answer, if it is no 101.
    Other(Response<Outgoing>),
}

/// The outcome of a request that is let in.
enum Decided {
    Answer(Response<Outgoing>),
    /// A 101, after which the connection becomes a tunnel.
    Tunnel {
        head: response::Parts,
        granted: Box<Switching>,
    },
}

/// Why a request gets no answer of the backend's.
enum Denied {
    Refused(Refusal),
    /// No answer can be given.
    GivenUp(ExchangeReason),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied::Refused(refusal)
    }
}

/// A connection that is given up without an answer.
#[derive(Debug)]
pub struct GivenUp(ExchangeReason);

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.word())
    }
}

impl std::error::Error for GivenUp {}

impl Exchange {
    /// Starts without any request, for one connection.
    pub fn new(core: Arc<Core>, came: Came, patience: Patience) -> Self {
        Exchange {
            core,
            came: Arc::new(came),
            patience,
            opening: Once::new(None),
            handed_over: Once::new(None),
            decided: Once::new(None),
            closes: AtomicBool::new(false),
            has_bad_head: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            unsettled: Mutex::default(),
        }
    }

    fn asked(&self, has_body: bool) -> Box<Asked> {
        Box::new(Asked::new(Arc::clone(&self.core), Arc::clone(&self.came), has_body))
    }

    /// Decides the attempt at the start of `came`, which hyper has not read. Returns the length of
    /// its head, and the tunnel that it gets. `None` means that hyper has to read the request and
    /// to answer it, decided or not.
    pub async fn attempt(
        &self,
        came: &Bytes,
        patience: &Patience,
    ) -> Option<(usize, Box<Opening>)> {
        if let Speaks::Redirect { .. } = self.came.speaks {
            return None;
        }
        let head::Read { parts, spelling, length } = head::request(came, self.came.max_fields)?;
        let grown = parts.extensions.get::<Tidied>().map_or(0, |tidied| tidied.grown);
        if length + grown > self.came.max_head {
            // hyper is handed the encoded head and answers 431, so nothing may be decided before.
            return None;
        }
        let request =
            Request::read(&parts, self.came.arrival.scheme()).ok().filter(Request::is_attempt)?;
        patience.request_began(Version::HTTP_11, false);
        let mut asked = self.asked(false);
        asked.read(&request);
        let judged = self.judge(&self.core.shared.live.load(), &request, &mut asked);
        let granted = match judged {
            Ok(permit) => {
                let attempt = Attempt { head: parts, spelling: Some(spelling) };
                self.open(attempt, request, permit, &mut asked).await
            }
            Err(refusal) => Err(refusal),
        };
        self.answered(&asked, patience);
        let answer = match granted {
            Ok(Granted::Tunnel(granted)) => return Some((length, Opening::new(granted, asked))),
            Ok(Granted::Other(answer)) => answer,
            Err(refusal) => self.refuse(&mut asked, refusal),
        };
        self.settles(asked);
        // hyper reads the same head again; its service takes this, and decides nothing twice.
        self.decided.put(answer);
        None
    }

    /// Answers one request. The request begins with the call, not with the first poll: hyper may
    /// read the end of the client's side, or find the client gone, before it polls.
    pub fn answer(
        self: Arc<Self>,
        mut request: HttpRequest<Incoming>,
    ) -> impl Future<Output = Result<Response<Outgoing>, GivenUp>> {
        if request.extensions().get::<OnUpgrade>().is_some() {
            self.handed_over.put(hyper::upgrade::on(&mut request));
        }
        let has_body = !request.body().is_end_stream();
        let version = request.version();
        self.patience.request_began(version, has_body);
        let ended = Ended(Some(self.patience.clone()));
        let begun = self.decided.take().map_or_else(
            || {
                let mut asked = self.asked(has_body);
                if request.extensions().get::<Flaw>().is_none() {
                    asked.came(request.headers(), request.uri());
                }
                Err(asked)
            },
            Ok,
        );
        async move {
            let mut answer = match begun {
                Ok(decided) => decided,
                Err(asked) => self.answer_undecided(request, asked).await?,
            };
            self.patience.has_answer();
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                // The client's next bytes are the tunnel's, not the next request's.
                ended.forget();
                return Ok(answer);
            }
            if self.came.closing.is_cancelled() {
                answer::close(&mut answer);
            }
            self.has_answered.store(true, Ordering::Relaxed);
            if version == Version::HTTP_10 && answer.headers().contains_key(CONNECTION) {
                // hyper adds `keep-alive` to what it takes for an answer of HTTP/1.1.
                *answer.version_mut() = version;
            }
            // The request is over when hyper drops the body of its answer.
            Ok(answer.map(|body| body.holding(ended)))
        }
    }

    /// Answers a request that was not decided before hyper read it.
    ///
    /// # Errors
    /// Only to make hyper close the connection without an answer.
    async fn answer_undecided(
        &self,
        request: HttpRequest<Incoming>,
        mut asked: Box<Asked>,
    ) -> Result<Response<Outgoing>, GivenUp> {
        let answer = match self.decide(request, &mut asked).await {
            Ok(Decided::Answer(answer)) => answer,
            Ok(Decided::Tunnel { head, granted }) => {
                self.answered(&asked, &self.patience);
                self.opening.put(Opening::new(granted, asked));
                return Ok(Response::from_parts(head, Outgoing::empty()));
            }
            Err(Denied::Refused(refusal)) => self.refuse(&mut asked, refusal),
            Err(Denied::GivenUp(reason)) => {
                asked.fail(reason);
                self.patience.cuts(Cut::Close);
                return Err(GivenUp(reason));
            }
        };
        self.answered(&asked, &self.patience);
        self.settles(asked);
        Ok(answer)
    }

    /// Notes that there is an answer: its route bounds how long the client may take to take it.
    fn answered(&self, asked: &Asked, patience: &Patience) {
        if let Some(route) = &asked.route {
            patience.routed(&route.timeouts);
        }
    }

    /// Keeps a request whose delivery decides how it is booked.
    fn settles(&self, asked: Box<Asked>) {
        if asked.settles.is_some() {
            self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).push(*asked);
        }
    }

    /// Books the requests that wait for the end of the connection: as answered if all was
    /// `delivered`, and else, by their drop, as left by the client.
    pub fn settle(&self, delivered: bool) {
        let unsettled =
            std::mem::take(&mut *self.unsettled.lock().unwrap_or_else(PoisonError::into_inner));
        for mut asked in unsettled {
            if let Some(status) = asked.settles.filter(|_| delivered) {
                asked.permitted(status);
            }
        }
    }

    /// The steps in their order (`docs/spec/wire.md`, "The order of decisions").
    async fn decide(
        &self,
        http: HttpRequest<Incoming>,
        asked: &mut Asked,
    ) -> Result<Decided, Denied> {
        let (parts, body) = http.into_parts();
        if let Some(flaw) = parts.extensions.get::<Flaw>() {
            self.has_bad_head.store(true, Ordering::Relaxed);
            asked.tried.error = Some(flaw.to_string());
            return Err(flaw.refusal().into());
        }
        let request = Request::read(&parts, self.came.arrival.scheme()).inspect_err(|refusal| {
            if *refusal == Refusal::Head(Head::TargetBroken) {
                asked.tried.error = Some("a control, a space or DEL in the target".into());
            }
        })?;
        asked.read(&request);
        if let Speaks::Redirect { port } = self.came.speaks {
            if request.host.is_unnamed() {
                // HTTP/1.0 may name no host, and then there is nowhere to redirect to.
                return Err(Refusal::Head(Head::Malformed).into());
            }
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            self.closes.store(true, Ordering::Relaxed);
            asked.pass_over();
            return Ok(Decided::Answer(answer::redirect(request.host.name(), port, target)));
        }
        let judged = self.judge(&self.core.shared.live.load(), &request, asked);
        let permit = match judged {
            Err(Refusal::Route) => {
                return self.add_slash(&request, &parts.uri, asked).map(Decided::Answer);
            }
            judged => judged?,
        };
        match request.kind {
            Kind::Attempt { .. } => {
                let attempt = Attempt { head: parts, spelling: None };
                match self.open(attempt, request, permit, asked).await? {
                    Granted::Tunnel(mut granted) => {
                        let nothing = Response::new(()).into_parts().0;
                        let head = std::mem::replace(&mut granted.backend.head, nothing);
                        Ok(Decided::Tunnel { head, granted })
                    }
                    Granted::Other(answer) => Ok(Decided::Answer(answer)),
                }
            }
            Kind::Plain => {
                let answer = self.forward(parts, body, request, &permit, asked).await;
                answer.map(Decided::Answer)
            }
        }
    }

    /// Judges under the generation that runs now: no connection keeps one between requests.
    fn judge(
        &self,
        live: &Snapshot,
        request: &Request,
        asked: &mut Asked,
    ) -> Result<Permit, Refusal> {
        let now = Timestamp::now();
        let Judgement { generation, route, policy, verdict, candidate, ambiguity } =
            live.judge(self.came.arrival.client, request, self.came.served.as_deref(), now);
        asked.judged = Some((generation, now));
        asked.routed(request, route);
        asked.policy = policy;
        asked.candidate = candidate;
        asked.tried.error = ambiguity.map(|ambiguity| ambiguity.to_string());
        if let Err(refusal) = &verdict {
            asked.compare(asked.candidate(), Some(*refusal));
        }
        verdict
    }

    /// Answers a request that no route matches. Plain HTTP whose path lacks only a slash at its end
    /// is redirected, if the policy there permits it. No rate is charged: no backend has any work,
    /// and the request that follows pays.
    fn add_slash(
        &self,
        request: &Request,
        target: &Uri,
        asked: &mut Asked,
    ) -> Result<Response<Outgoing>, Denied> {
        // Loaded once: the route is found and judged under one generation, which the line names.
        let live = self.core.shared.live.load();
        let slashed = live.slashed(request).ok_or(Refusal::Route)?;
        let permit = self.judge(&live, &slashed, asked)?;
        asked.compare(asked.candidate, None);
        let (answer, after) = asked.redirect(&permit.route().path, target.query());
        self.closes_after(after);
        Ok(answer)
    }

    /// Charges a permitted attempt, dials, and grants the tunnel if the backend switches.
    async fn open(
        &self,
        mut attempt: Attempt,
        mut request: Request,
        permit: Permit,
        asked: &mut Asked,
    ) -> Result<Granted, Refusal> {
        let handshake = Handshake::parse(&attempt.head)?;
        // Charged first: the candidate's budgets don't depend on what the policy's say.
        let candidate = asked.candidate();
        let slot = match self.is_retired() {
            true => Err(Refusal::Draining),
            false => self.core.shared.tunnels.charge(permit),
        };
        asked.compare(candidate, slot.as_ref().err().copied());
        let slot = slot?;
        self.patience.request_permitted();
        let route = slot.permit().route();
        let trailers = forward::takes_trailers(&attempt.head.headers);
        request.path.settle(route.paths == Paths::AsIs);
        forward::to_backend(&mut attempt.head, &request, route, &self.came.arrival, &asked.id)?;
        let overdue = self.overdue(asked.began);
        let answer = tokio::select! {
            biased;
            answer = self.core.dialler.upgrade(slot.permit(), attempt, &handshake, &mut asked.tried) => answer,
            () = overdue => Err(Refusal::Draining),
        };
        compare_choice(asked, candidate, &answer);
        match answer? {
            Answer::Other(answer) => {
                self.closes.store(true, Ordering::Relaxed);
                let mut flight = self.flight(slot.permit(), request, asked, true);
                let answer = relayed(answer, &mut flight, Version::HTTP_11, trailers);
                answered_with(asked, answer.status().as_u16(), &self.patience);
                Ok(Granted::Other(answer.map(|body| body.within(flight, Fault::default()))))
            }
            Answer::Switched(mut backend) => {
                let subprotocol = backend.agreed.subprotocol.take();
                if let Kind::Attempt { subprotocols } = &mut request.kind {
                    // Reloads judge a tunnel by the subprotocol that it speaks, not by its offers.
                    *subprotocols = subprotocol.iter().cloned().collect();
                }
                let from = asked.origination(subprotocol);
                Ok(Granted::Tunnel(Box::new(Switching { backend, slot, request, from })))
            }
        }
    }

    /// Ready once a drain should no longer wait for an attempt that `began` then: its client may
    /// safely repeat it, and its tunnel would be drained at once.
    async fn overdue(&self, began: Instant) {
        self.core.shared.lifecycle.closing().cancelled().await;
        sleep_until(began + STREAM_AGE).await;
    }

    /// Whether the connection opens no tunnel any more: its listener is gone, or speaks otherwise.
    /// A client that connected before is still served its first request, which it came for.
    fn is_retired(&self) -> bool {
        self.came.closing.is_cancelled() && self.has_answered.load(Ordering::Relaxed)
    }

    /// Forwards permitted plain HTTP where the route allows it: charges it, and streams both ways.
    async fn forward(
        &self,
        mut parts: request::Parts,
        body: Incoming,
        mut request: Request,
        permit: &Permit,
        asked: &mut Asked,
    ) -> Result<Response<Outgoing>, Denied> {
        let route = permit.route();
        permit.forwards(&request)?;
        // Refused before it is charged; a body without a length is counted as it comes.
        let most = route.max_body.unwrap_or(u64::MAX);
        if declared_length(&parts.headers).is_some_and(|length| length > most) {
            return Err(Refusal::Body.into());
        }
        let candidate = asked.candidate();
        let charged = self.core.shared.tunnels.charge_plain(permit);
        asked.compare(candidate, charged.err());
        charged?;
        self.patience.request_permitted();
        let version = parts.version;
        let trailers = forward::takes_trailers(&parts.headers);
        let is_expected = asked.has_body && expect::is_expected(&parts);
        request.path.settle(route.paths == Paths::AsIs);
        forward::to_backend(&mut parts, &request, route, &self.came.arrival, &asked.id)?;
        if asked.has_body && !parts.headers.contains_key(CONTENT_LENGTH) {
            // hyper sends a body of unknown length with GET and HEAD only where a header says so.
            parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if is_expected {
            parts.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        }
        let repeatable = parts.method.is_safe();
        let mut flight = self.flight(permit, request, asked, repeatable);
        let (mut body, fault) = if asked.has_body {
            Upload::streamed(body, route, self.patience.clone())
        } else {
            (Upload::Empty, Fault::default())
        };
        if is_expected {
            body.holds();
        }
        let dialler = &self.core.dialler;
        let put = dialler.forward(permit, parts, body, &fault, &self.patience, &mut asked.tried);
        match flight.until(put).await {
            Ok(Ok(answer)) => {
                let mut answer = relayed(answer, &mut flight, version, trailers);
                if version == Version::HTTP_10 && lasts_to_the_end(&answer) {
                    // Only the end of the connection ends it, whatever the client asked for.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                if self.patience.has_unread_body() {
                    // If the answer is whole first, the rest is discarded: no request may follow.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    self.closes.store(true, Ordering::Relaxed);
                }
                answered_with(asked, answer.status().as_u16(), &self.patience);
                Ok(answer.map(|body| body.within(flight, fault)))
            }
            Ok(Err(refusal)) => Err(unanswered(&mut flight, &fault, asked, refusal)),
            Err(Ending { refusal: Some(refusal), .. }) => Err(refusal.into()),
            Err(Ending { reason, .. }) => Err(Denied::GivenUp(reason)),
        }
    }

    /// Enters a permitted request into the table of exchanges.
    fn flight(&self, permit: &Permit, request: Request, asked: &Asked, repeatable: bool) -> Flight {
        let (tunnels, from) = (&self.core.shared.tunnels, asked.origination(None));
        let exchange = tunnels.begin_exchange(permit, request, from, Timestamp::now);
        let metrics = self.core.metrics.route(permit.route());
        Flight::new(exchange, metrics, self.patience.clone(), repeatable)
    }

    /// Books a refusal, and makes the answer.
    fn refuse(&self, asked: &mut Asked, refusal: Refusal) -> Response<Outgoing> {
        let (answer, after) = asked.refuse(refusal);
        self.closes_after(after);
        answer
    }

    /// Notes whether one of sidegate's own answers closes the connection, which discards the rest
    /// of the request's body.
    fn closes_after(&self, after: After) {
        if after == After::Close {
            self.closes.store(true, Ordering::Relaxed);
            self.patience.body_given_up(None);
        }
    }

    /// Books a head that hyper refused by itself, or that came too late.
    pub fn malformed(&self, error: &str) -> ConnectionEnd {
        let refusal = Refusal::Head(Head::Malformed);
        self.core.metrics.no_route().refused(refusal);
        decision::turned_away(self.came.party(), refusal, None, Some(error), &self.core.cap);
        ConnectionEnd::Head
    }

    /// Whether a head that could not be read ends the connection.
    pub fn has_bad_head(&self) -> bool {
        self.has_bad_head.load(Ordering::Relaxed)
    }

    /// Whether an answer of ours closed the connection.
    pub fn closed_it(&self) -> bool {
        self.closes.load(Ordering::Relaxed)
    }

    /// The attempt that was granted, if one was.
    pub fn take_opening(&self) -> Option<Box<Opening>> {
        self.opening.take()
    }

    /// The client's stream, and the bytes that hyper has read ahead, where hyper has handed the
    /// stream over: for a 101, and where another answer ends a connection on which a request has
    /// asked for an upgrade. In the second case our direction has not ended yet.
    pub async fn handed_over(&self) -> Option<(Watched, Bytes)> {
        let upgraded = self.handed_over.take()?.await.ok()?;
        let parts = upgraded.downcast::<TokioIo<Watched>>().ok()?;
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

/// A value that is handed over once.
struct Once<T>(Mutex<Option<T>>);

impl<T> Once<T> {
    fn new(value: Option<T>) -> Self {
        Once(Mutex::new(value))
    }

    fn put(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Reports a request as over when it is dropped, with the body of the answer.
struct Ended(Option<Patience>);

impl Ended {
    /// Reports nothing: the connection speaks HTTP no more.
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(patience) = &self.0 {
            patience.request_ended();
        }
    }
}

/// Compares once more when the backend has chosen a subprotocol, if the candidate let the attempt
/// pass.
fn compare_choice(
    asked: &Asked,
    candidate: Option<Result<(), Refusal>>,
    answer: &Result<Answer, Refusal>,
) {
    let rules = asked.policy.as_ref().and_then(|policy| policy.candidate.as_ref());
    let (Some(Ok(())), Some(rules)) = (candidate, rules) else { return };
    match (answer, &asked.tried.unadmitted) {
        (Ok(Answer::Switched(backend)), _)
            if !rules.admits_subprotocol(backend.agreed.subprotocol.as_deref()) =>
        {
            asked.compare(Some(Err(Refusal::Backend(Backend::Failed))), None);
        }
        (Err(refusal), Some(chosen)) if rules.admits_subprotocol(chosen.as_deref()) => {
            asked.compare(candidate, Some(*refusal));
        }
        _ => {}
    }
}

/// Notes what the answer's head says of its body. Trailers are announced only to a client that
/// takes them, as `trailers` says, and gets chunks.
fn relayed(
    mut answer: Response<Outgoing>,
    flight: &mut Flight,
    version: Version,
    trailers: bool,
) -> Response<Outgoing> {
    let has_length = answer.headers().contains_key(CONTENT_LENGTH);
    if !trailers || has_length {
        answer.headers_mut().remove(TRAILER);
    }
    let headers = answer.headers();
    flight.answered(Shape::of(headers), !has_length && version == Version::HTTP_11);
    answer
}

/// Whether a client of HTTP/1.0 learns the end of this answer by that of its connection alone: it
/// knows no chunks (RFC 9112 §6.1).
fn lasts_to_the_end(answer: &Response<Outgoing>) -> bool {
    !answer.headers().contains_key(CONTENT_LENGTH) && !answer.body().is_end_stream()
}

/// Books an answer of the backend's: at once, or, where the client has ended its side already and
/// may be gone, once it is known whether the answer was delivered.
fn answered_with(asked: &mut Asked, status: u16, patience: &Patience) {
    if patience.has_ended() {
        asked.settles = Some(status);
        patience.confirms();
    } else {
        asked.permitted(status);
    }
}

/// Why an exchange ends without an answer of the backend's.
fn unanswered(flight: &mut Flight, fault: &Fault, asked: &mut Asked, refusal: Refusal) -> Denied {
    let ending = fault.ending().unwrap_or(Ending::new(By::Backend, ExchangeReason::Backend));
    flight.ends(ending);
    match fault.given_up() {
        Some(why) => {
            asked.tried.error = Some(why.into());
            Denied::GivenUp(ending.reason)
        }
        None => refusal.into(),
    }
}

/// The Content-Length; hyper has made sure that it is one number.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
