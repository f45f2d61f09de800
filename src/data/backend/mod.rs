//! The local servers behind us: which one is dialled, and what it answers.
//!
//! Nothing gets here without a [`Permit`]. The backend with the fewest tunnels is first. A backend
//! that refuses the dial is marked as down for a moment, and the next is tried. Nothing is retried
//! once a byte was sent, but for a reused connection that turns out to be closed
//! (`docs/spec/wire.md`, "Choosing a backend").

mod dial;
mod driven;
mod health;
mod pool;
mod tracked;
mod upgrade;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Response, StatusCode, request, response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::TaskTracker;

pub use crate::data::backend::dial::DialRecord;
use crate::data::backend::dial::{Connector, Dialled};
use crate::data::backend::driven::{Connection, DrivenConnection};
pub use crate::data::backend::health::{BackendTable, DownBackend, LoadGuard};
use crate::data::backend::pool::{ActiveConnection, Pool, PoolKey, PooledConnection};
use crate::data::backend::tracked::ProgressSocket;
use crate::data::backend::upgrade::{
    Carrier, MAX_HEAD_BYTES, ReplaySocket, UpgradeReply, read_response, send_attempt,
};
use crate::data::http::body::{PrefetchedBody, RequestBody, ResponseBody, UploadFault};
use crate::data::http::deadlines::HttpDeadlines;
use crate::data::http::forward;
use crate::data::http::head::{OriginalSpelling, ParsedHead};
use crate::data::http::in_flight::BodyKind;
use crate::data::http::interim;
use crate::data::http::progress::{RequestProgress, TOO_MANY_INTERIMS};
use crate::data::stream::keepalive;
use crate::data::stream::socket::Socket;
use crate::data::websocket::handshake::{Agreement, Handshake};
use crate::observe::metrics::ThreadMetrics;
use crate::refusal::{HeadError, Refusal};
use crate::snapshot::listener::DEFAULT_MAX_FIELDS;
use crate::snapshot::route::{Endpoint, RouteTimeouts};
use crate::snapshot::{Permit, Snapshot};

/// The bound of a timer that has none: a year.
const NO_TIMEOUT: Duration = Duration::from_secs(366 * 24 * 3600);

/// The error of a backend that took the request and sent no answer in time.
const ANSWER_TIMED_OUT: &str = "no answer in time";

/// The error of a backend that stopped reading the request.
const REQUEST_STALLED: &str = "it took nothing of the request in time";

/// One thread's way to the backends: its idle connections, and the tasks that drive them.
pub struct BackendClient {
    connector: Connector,
    pool: Arc<Pool>,
    tracker: TaskTracker,
}

/// A backend's answer to an attempt.
pub enum UpgradeOutcome {
    /// A valid 101 whose subprotocol the policy admits.
    Switched(Box<Switched>),
    /// Any other answer, which is the backend's right, to be relayed.
    Other(Response<ResponseBody>),
}

/// An attempt's head on its way to a backend.
pub struct Attempt {
    /// The head as the backend is to get it.
    pub head: request::Parts,
    /// How its names are spelled. `None` means that hyper has read the head, and alone knows.
    pub spelling: Option<OriginalSpelling>,
}

/// An attempt that hyper sends over `socket`.
struct HyperExchange<S> {
    request: Request<RequestBody>,
    socket: S,
    /// The deadline of the answer. `None` means that its time begins once the attempt is sent.
    late: Option<Instant>,
}

/// A backend that switched to WebSocket.
pub struct Switched {
    /// The head that goes to the client.
    pub head: response::Parts,
    /// How its names are spelled, where it was read without hyper.
    pub spelling: OriginalSpelling,
    /// The connection, taken back for the tunnel.
    pub socket: Socket,
    /// Bytes that the backend had sent behind its head.
    pub early: Bytes,
    /// What the two sides agreed on.
    pub agreed: Agreement,
    /// Its weight on the backend.
    pub load: LoadGuard,
}

impl BackendClient {
    /// Makes a thread's client; `tracker` owns the tasks that drive its connections.
    pub fn new(
        backends: Arc<BackendTable>,
        metrics: Arc<ThreadMetrics>,
        tracker: TaskTracker,
    ) -> Self {
        let pool = Pool::new(Arc::clone(&backends));
        BackendClient { connector: Connector::new(backends, metrics), pool, tracker }
    }

    /// Closes the idle connections that were not used in time, and forgets the backends that
    /// `live` names no more.
    pub fn evict_expired(&self, live: &Snapshot) {
        self.pool.tidy(live);
    }

    /// Closes all idle connections, and each that would become idle later.
    pub fn close_idle(&self) {
        self.pool.close_idle();
    }

    /// Sends an attempt, and takes the connection back if the backend switches. The answer is late
    /// as in [`BackendClient::forward`].
    pub async fn upgrade(
        &self,
        permit: &Permit,
        attempt: Attempt,
        handshake: &Handshake,
        tried: &mut DialRecord,
    ) -> Result<UpgradeOutcome, Refusal> {
        let Dialled { mut socket, load, .. } = self.connector.dial(permit, tried).await?;
        let RouteTimeouts { response, write_stall, .. } = permit.route().timeouts;
        // A new socket has the default already: mostly this saves a system call.
        if keepalive::user_timeout(write_stall) != keepalive::USER_TIMEOUT {
            socket.allow_zero_window(write_stall);
        }
        let Some(spelling) = &attempt.spelling else {
            let request = Request::from_parts(attempt.head, RequestBody::Empty);
            let exchange = HyperExchange { request, socket, late: None };
            // Boxed, as below: attempts that get a 101 at once would carry the room of hyper.
            return Box::pin(self.upgrade_with_hyper(permit, exchange, handshake, load, tried))
                .await;
        };
        let asked = timeout(write_stall, send_attempt(&mut socket, &attempt.head, spelling)).await;
        asked.map_err(|_| tried.timed_out(REQUEST_STALLED))?;
        // hyper gets the same deadline, so that reading on with it gives no time anew.
        let late = Instant::now() + response.unwrap_or(NO_TIMEOUT);
        let heard = timeout_at(late, read_response(&mut socket, permit.route().max_fields)).await;
        match heard.map_err(|_| tried.timed_out(ANSWER_TIMED_OUT))? {
            UpgradeReply::Switched(ParsedHead { parts, spelling, length }, came) => {
                // A copy: a slice would keep the bytes of the head for as long as the tunnel lives.
                let early = Bytes::copy_from_slice(&came[length..]);
                let settled = settled(permit, handshake, parts, tried)?;
                Ok(settled.switched(spelling, socket, early, load))
            }
            UpgradeReply::Other(heard, error) => {
                let socket = ReplaySocket::new(socket, heard, error);
                // hyper's copy of the attempt goes nowhere: only its method counts, since the
                // answer to a GET may have a body.
                let request = Request::new(RequestBody::Empty);
                let exchange = HyperExchange { request, socket, late: Some(late) };
                Box::pin(self.upgrade_with_hyper(permit, exchange, handshake, load, tried)).await
            }
        }
    }

    /// Reads the answer to an attempt with hyper. The attempt was sent before and has got no plain
    /// 101, or only hyper knows how to spell its names.
    async fn upgrade_with_hyper<S: Carrier>(
        &self,
        permit: &Permit,
        exchange: HyperExchange<S>,
        handshake: &Handshake,
        load: LoadGuard,
        tried: &mut DialRecord,
    ) -> Result<UpgradeOutcome, Refusal> {
        let (mut answer, mut connection) = self.exchange(permit, exchange, tried).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let answer = check_answer(permit, answer, &http::Method::GET, true, tried).await?;
            // The body of the answer comes through the connection, which has to be driven
            // meanwhile.
            self.tracker.spawn(connection.finish());
            return Ok(UpgradeOutcome::Other(answer.map(|body| body.with_guard(load))));
        }
        let on = hyper::upgrade::on(&mut answer);
        let (head, _) = answer.into_parts();
        let settled = settled(permit, handshake, head, tried)?;
        // The head of the 101 has been read: this takes no longer than a turn.
        let upgraded =
            connection.run_until(on).await.map_err(|error| tried.hyper_failed(&error))?;
        let parts = upgraded
            .downcast::<TokioIo<ProgressSocket<S>>>()
            // `exchange` has given hyper this very type, so the cast does not fail.
            .map_err(|_| tried.failed(&"its connection was lost"))?;
        let (socket, unread) = parts.io.into_inner().into_inner().into_parts();
        // A copy, in the order of the stream: little is read ahead, and a slice would keep hyper's
        // whole buffer for as long as the tunnel lives.
        let early = [parts.read_buf, unread].concat().into();
        Ok(settled.switched(OriginalSpelling::default(), socket, early, load))
    }

    /// Sends an attempt with hyper, and waits for the head of its answer.
    async fn exchange<S: Carrier>(
        &self,
        permit: &Permit,
        exchange: HyperExchange<S>,
        tried: &mut DialRecord,
    ) -> Result<(Response<Incoming>, DrivenConnection<impl Connection>), Refusal> {
        let HyperExchange { mut request, socket, late } = exchange;
        let RouteTimeouts { response, write_stall, .. } = permit.route().timeouts;
        let progress = RequestProgress::default();
        progress.begin(false, write_stall);
        let begun = client(permit.route().max_fields)
            .handshake(TokioIo::new(ProgressSocket::new(socket, progress.clone())))
            .await;
        let (mut sender, connection) = begun.map_err(|error| tried.hyper_failed(&error))?;
        let mut connection = DrivenConnection::new(connection.with_upgrades());
        interim::count(&mut request, progress.clone());
        let sent = sender.send_request(request);
        // Without a deadline of its own, the wait for the answer begins once the request is sent
        // whole: a slow upload must not use up the backend's time.
        let is_late = async {
            let late = match late {
                Some(late) => late,
                None => progress.wait_sent().await + response.unwrap_or(NO_TIMEOUT),
            };
            sleep_until(late).await;
        };
        let answer = tokio::select! {
            // An answer that came in time wins over a timer that fired in the same turn.
            biased;
            answer = connection.run_until(sent) => answer,
            () = is_late => return Err(tried.timed_out(ANSWER_TIMED_OUT)),
            () = progress.wait_stalled() => return Err(tried.timed_out(REQUEST_STALLED)),
        };
        let answer = answer.map_err(|error| match error.is_parse_too_large() {
            true => tried.failed(&HeadTooLarge { permit, received: progress.received() }),
            false => tried.hyper_failed(&error),
        })?;
        if progress.has_too_many_interims() {
            return Err(tried.failed(&TOO_MANY_INTERIMS));
        }
        Ok((answer, connection))
    }

    /// Sends a plain request, over an idle connection if there is one. The answer is late once
    /// `response` has passed since the request was sent whole, or `write_stall` without progress
    /// before that.
    ///
    /// # Errors
    /// The refusal that answers the client: 502, 504, or the one for the `fault` of its own body.
    pub async fn forward(
        &self,
        permit: &Permit,
        head: request::Parts,
        body: RequestBody,
        fault: &UploadFault,
        deadlines: &HttpDeadlines,
        tried: &mut DialRecord,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let method = head.method.clone();
        let is_unnamed = !head.headers.contains_key(HOST);
        // Only a safe request without a body may be sent a second time. A proxy must not repeat a
        // request whose method is not idempotent (RFC 9110 §9.2.2).
        let again = (method.is_safe() && body.is_end_stream()).then(|| head.clone());
        let mut request = Request::from_parts(head, body);
        // Each idle connection may have been closed by the backend meanwhile (RFC 9112 §9.5). The
        // loop ends at the latest when none is left, and then a new one is made.
        while let Some(line) = self.pool.take(permit).await {
            tried.backend = Some(line.endpoint().clone());
            name_backend(&mut request, is_unnamed, permit, line.endpoint());
            let (mut underway, sent) = self.send(permit, line, request, deadlines).await;
            match sent.ok_or_else(|| tried.timed_out(ANSWER_TIMED_OUT))? {
                Ok(answer) => return answered(permit, answer, &method, underway, tried).await,
                // Closed meanwhile. hyper returns a request of which it has sent nothing. A safe
                // one is repeated unless a byte of its answer has come.
                Err(mut error) => match (error.take_message(), &again) {
                    (Some(unsent), _) => request = unsent,
                    (None, Some(head)) if !underway.progress().has_response_byte() => {
                        request = Request::from_parts(head.clone(), RequestBody::Empty);
                    }
                    _ => {
                        return Err(send_failure(
                            permit,
                            tried,
                            fault,
                            &mut underway,
                            error.error(),
                        ));
                    }
                },
            }
        }
        let line = self.connect(permit, tried).await?;
        name_backend(&mut request, is_unnamed, permit, line.endpoint());
        let (mut underway, sent) = self.send(permit, line, request, deadlines).await;
        match sent.ok_or_else(|| tried.timed_out(ANSWER_TIMED_OUT))? {
            Ok(answer) => answered(permit, answer, &method, underway, tried).await,
            Err(error) => Err(send_failure(permit, tried, fault, &mut underway, error.error())),
        }
    }

    /// Makes a connection for plain requests, and gives it to a task of its own.
    async fn connect(
        &self,
        permit: &Permit,
        tried: &mut DialRecord,
    ) -> Result<PooledConnection, Refusal> {
        let Dialled { socket, load, endpoint } = self.connector.dial(permit, tried).await?;
        // A load counts tunnels, and this becomes none.
        drop(load);
        let progress = RequestProgress::default();
        let io = TokioIo::new(ProgressSocket::new(socket, progress.clone()));
        // hyper's handshake only builds its state: no byte passes.
        let begun = client(permit.route().max_fields).handshake(io).await;
        let (sender, connection) = begun.map_err(|error| tried.hyper_failed(&error))?;
        let driven = progress.clone();
        let driver = self.tracker.spawn(async move {
            tokio::select! {
                // hyper first: an error of its own says more than a stall.
                biased;
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to a backend failed");
                },
                // Dropping the connection closes it; `RequestProgress::is_stalled` tells the
                // request why.
                () = driven.wait_stalled() => {}
            }
        });
        let key = PoolKey::new(endpoint, permit.route());
        let is_named = !tried.preamble.0.is_empty();
        Ok(PooledConnection::new(key, sender, progress, driver.abort_handle(), is_named))
    }

    /// Puts a request on a connection and waits for the head of its answer; `None` means late.
    /// Interim answers before it go to the client of `deadlines`.
    async fn send(
        &self,
        permit: &Permit,
        line: PooledConnection,
        mut request: Request<RequestBody>,
        deadlines: &HttpDeadlines,
    ) -> (ActiveConnection, Option<SendResult>) {
        let response = permit.route().timeouts.response;
        let mut underway = ActiveConnection::begin(&self.pool, line, permit, request.body_mut());
        let progress = underway.progress().clone();
        let wanted = request.body().continue_signal();
        interim::pass_on(&mut request, progress.clone(), deadlines, wanted);
        let late = async {
            // Before that, `write_stall` bounds it, in the task that drives the connection.
            let sent = progress.wait_sent().await;
            sleep_until(sent + response.unwrap_or(NO_TIMEOUT)).await;
        };
        // Never `None` here: the request has only just begun.
        let Some(sender) = underway.sender() else { return (underway, None) };
        let put = tokio::select! {
            biased;
            put = sender.try_send_request(request) => Some(put),
            () = late => None,
        };
        (underway, put)
    }
}

/// Writes the backend's own authority into Host, where the client, of HTTP/1.0, named no host: a
/// request of HTTP/1.1 has one (RFC 9112 §3.2).
fn name_backend(
    request: &mut Request<RequestBody>,
    is_unnamed: bool,
    permit: &Permit,
    endpoint: &Endpoint,
) {
    if is_unnamed {
        let name = endpoint.backend.authority(permit.route().backend_tls.as_deref());
        let value = HeaderValue::try_from(name);
        request.headers_mut().insert(HOST, value.unwrap_or(HeaderValue::from_static("localhost")));
    }
}

/// hyper's answer to a request, or the error, with the request itself if it was not sent.
type SendResult = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

async fn answered(
    permit: &Permit,
    answer: Response<Incoming>,
    method: &http::Method,
    underway: ActiveConnection,
    tried: &mut DialRecord,
) -> Result<Response<ResponseBody>, Refusal> {
    if underway.progress().has_too_many_interims() {
        return Err(tried.failed(&TOO_MANY_INTERIMS));
    }
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(tried.failed(&"switched protocols unasked"));
    }
    let answer = check_answer(permit, answer, method, false, tried).await?;
    Ok(answer.map(|body| body.on_end(Box::new(underway))))
}

/// The head of a valid 101 as its client gets it, and what it settles. Only [`settled`] makes one.
struct Settled {
    head: response::Parts,
    agreed: Agreement,
}

impl Settled {
    /// The answer that the tunnel begins with.
    fn switched(
        self,
        spelling: OriginalSpelling,
        socket: Socket,
        early: Bytes,
        load: LoadGuard,
    ) -> UpgradeOutcome {
        let Settled { head, agreed } = self;
        UpgradeOutcome::Switched(Box::new(Switched { head, spelling, socket, early, agreed, load }))
    }
}

/// Checks the head of a backend's 101, from either reader, and that the policy admits its
/// subprotocol.
fn settled(
    permit: &Permit,
    handshake: &Handshake,
    mut head: response::Parts,
    tried: &mut DialRecord,
) -> Result<Settled, Refusal> {
    let agreed = forward::switched(&mut head, handshake).map_err(|what| tried.failed(&what))?;
    if permit.route().policy.admits_subprotocol(agreed.subprotocol.as_deref()) {
        return Ok(Settled { head, agreed });
    }
    let refusal = tried.failed(&match agreed.subprotocol {
        Some(_) => "chose a subprotocol that the policy doesn't admit",
        None => "chose no subprotocol, which the policy admits only with \"none\"",
    });
    tried.unadmitted = Some(agreed.subprotocol);
    Err(refusal)
}

/// hyper's client, with the bound on the fields of an answer.
pub fn client(max_fields: usize) -> Builder {
    let mut builder = Builder::new();
    if max_fields != DEFAULT_MAX_FIELDS {
        // A call moves hyper's fields from the stack to the heap, so its default is not set again.
        builder.max_headers(max_fields);
    }
    // Sidegate's fields are written as they are documented; a client's own keep their case.
    builder.preserve_header_case(true).title_case_headers(true).max_header_size(MAX_HEAD_BYTES);
    // Bounds how much hyper holds of a body that the other side does not take. hyper also refuses a
    // head that fills this buffer, so it is larger than the largest head.
    builder.max_buf_size(MAX_HEAD_BYTES + 8 * 1024);
    builder
}

/// Checks a backend's answer, and turns it into the client's.
async fn check_answer(
    permit: &Permit,
    answer: Response<Incoming>,
    method: &http::Method,
    attempt: bool,
    tried: &mut DialRecord,
) -> Result<Response<ResponseBody>, Refusal> {
    let (mut head, body) = answer.into_parts();
    forward::check_framing(&head, method).map_err(|what| tried.failed(&what))?;
    forward::to_client(&mut head, attempt);
    let stall = match BodyKind::from_headers(&head.headers) {
        // A stream of events may be silent for hours; TCP notices a backend that is gone.
        BodyKind::EventStream => None,
        BodyKind::Sized | BodyKind::UnknownLength => permit.route().timeouts.body_stall,
    };
    let begun = PrefetchedBody::prefetch(body).await.map_err(|error| tried.hyper_failed(&error))?;
    Ok(Response::from_parts(head, ResponseBody::relayed(begun, stall)))
}

/// A head that hyper finds too large: it does not say whether by its size or by its fields.
struct HeadTooLarge<'p> {
    permit: &'p Permit,
    /// How many bytes of the answer came.
    received: usize,
}

impl fmt::Display for HeadTooLarge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max_fields = self.permit.route().max_fields;
        if self.received >= MAX_HEAD_BYTES {
            f.write_str("its answer's head is over 64 KiB")
        } else {
            write!(
                f,
                "its answer has too many header fields (more than {max_fields}, `max_fields`)"
            )
        }
    }
}

/// The refusal of a request that hyper failed to send, or to get an answer to: the client's fault
/// or the backend's.
fn send_failure(
    permit: &Permit,
    tried: &mut DialRecord,
    fault: &UploadFault,
    underway: &mut ActiveConnection,
    error: &hyper::Error,
) -> Refusal {
    // Causes first: each of them shows as an error of hyper's connection too.
    if underway.progress().is_stalled() {
        return tried.timed_out(REQUEST_STALLED);
    }
    if fault.is_too_big() {
        return Refusal::Body;
    }
    if error.is_parse_too_large() {
        let received = underway.progress().received();
        return tried.failed(&HeadTooLarge { permit, received });
    }
    // A chunk that cannot be read is malformed like a head, and not the backend's fault.
    if fault.is_broken() {
        return Refusal::Head(HeadError::Malformed);
    }
    tried.hyper_failed(error)
}
