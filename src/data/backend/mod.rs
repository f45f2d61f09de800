//! The local servers behind us: which one is dialled, and what it answers.
//!
//! Nothing gets here without a [`Permit`]. The backend with the fewest tunnels
//! is first; one that refuses the dial is marked as down for a moment and the
//! next is tried. Nothing is retried once a byte was sent, but for one thing: a
//! reused connection that turns out to be closed (DESIGN decision 7).

mod ask;
mod cause;
mod dial;
mod driven;
mod idle;
mod standing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request, response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use self::ask::{Answering, Said, ask};
pub use self::dial::Tried;
use self::driven::Driven;
use self::idle::{GiveBack, Idle, Line, Way};
pub use self::standing::{Backends, Load};
use crate::data::body::{Fault, Outgoing, Upload};
use crate::data::channel::Channel;
use crate::data::forward;
use crate::data::head::{Read, Spelling};
use crate::data::heard::{Heard, Hearing};
use crate::data::websocket::handshake::{Agreed, Handshake};
use crate::observe::metrics::CoreMetrics;
use crate::refusal::{Head, Refusal};
use crate::snapshot::Permit;

/// The largest head of a backend's answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// What is said of a backend that took the request and then nothing came.
const NO_ANSWER: &str = "no answer in time";

/// One thread's way to the backends: its idle connections, and the tasks that drive them.
pub struct Dialler {
    backends: Arc<Backends>,
    metrics: Arc<CoreMetrics>,
    tracker: TaskTracker,
    /// `None` once a drain has closed them: what comes back then is closed too, or its end would be waited for.
    idle: Mutex<Option<HashMap<Way, Vec<Idle>>>>,
}

/// A backend's answer to an attempt.
pub enum Answer {
    /// A 101 that is valid.
    Switched(Box<Switched>),
    /// Anything else: the backend's right.
    Other(Response<Outgoing>),
}

/// An attempt's head on its way to a backend.
pub struct Attempt {
    /// What it says.
    pub head: request::Parts,
    /// How its names are spelled, where it was read without hyper. Where hyper has read it, only hyper knows.
    pub spelling: Option<Spelling>,
}

/// A backend that switched to WebSocket.
pub struct Switched {
    /// The head that goes to the client.
    pub head: response::Parts,
    /// How its names are spelled, where it was read without hyper.
    pub spelling: Spelling,
    /// The connection, taken back.
    pub channel: Channel,
    /// What the backend had sent behind its head.
    pub early: Bytes,
    /// What the two sides agreed on.
    pub agreed: Agreed,
    /// Its weight on the backend.
    pub load: Load,
}

impl Dialler {
    /// A thread's own; `tracker` owns the tasks that drive its connections.
    pub fn new(backends: Arc<Backends>, metrics: Arc<CoreMetrics>, tracker: TaskTracker) -> Self {
        Dialler { backends, metrics, tracker, idle: Mutex::new(Some(HashMap::new())) }
    }

    /// Sends an attempt, and takes the connection back if the backend switches.
    pub async fn upgrade(
        &self,
        permit: &Permit,
        attempt: Attempt,
        handshake: &Handshake,
        tried: &mut Tried,
    ) -> Result<Answer, Refusal> {
        let (mut socket, load) = self.dial(permit, tried).await?;
        let late = Instant::now() + permit.route().timeouts.response;
        let socket = if let Some(spelling) = &attempt.spelling {
            let asked = ask(&mut socket, &attempt.head, spelling);
            match timeout_at(late, asked).await.map_err(|_| tried.late(NO_ANSWER))? {
                Said::Switched(Read { mut parts, spelling, length }, came) => {
                    let agreed = agreed(permit, handshake, &mut parts, tried)?;
                    let (channel, early) = (Channel::clear(socket), Bytes::copy_from_slice(&came[length..]));
                    return Ok(switched(Switched { head: parts, spelling, channel, early, agreed, load }));
                }
                Said::Other(said, broke) => Answering::asked(socket, said, broke),
            }
        } else {
            Answering::unasked(socket)
        };
        // Boxed, or those that get a 101 at once would carry the room that hyper takes.
        Box::pin(self.upgrade_by_hyper(permit, attempt.head, handshake, (socket, load), late, tried)).await
    }

    async fn upgrade_by_hyper(
        &self,
        permit: &Permit,
        head: request::Parts,
        handshake: &Handshake,
        (socket, load): (Answering, Load),
        late: Instant,
        tried: &mut Tried,
    ) -> Result<Answer, Refusal> {
        let begun = client().handshake(TokioIo::new(socket)).await;
        let (mut sender, connection) = begun.map_err(|error| tried.broke(&error))?;
        let mut connection = Driven::new(connection.with_upgrades());
        let sent = sender.send_request(Request::from_parts(head, Upload::Empty));
        let answer = timeout_at(late, connection.until(sent)).await.map_err(|_| tried.late(NO_ANSWER))?;
        let mut answer = answer.map_err(|error| tried.broke(&error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let answer = relayed(permit, answer, &http::Method::GET, true, tried)?;
            self.tracker.spawn(connection.finish());
            return Ok(Answer::Other(answer.map(|body| body.holding(load))));
        }
        let on = hyper::upgrade::on(&mut answer);
        let (mut head, _) = answer.into_parts();
        let agreed = agreed(permit, handshake, &mut head, tried)?;
        let upgraded = timeout_at(late, connection.until(on)).await.map_err(|_| tried.late(NO_ANSWER))?;
        let upgraded = upgraded.map_err(|error| tried.broke(&error))?;
        let parts = upgraded.downcast::<TokioIo<Answering>>().map_err(|_| tried.failed(&"its connection was lost"))?;
        let (socket, unread) = parts.io.into_inner().into_parts();
        // A copy: what is read ahead is little, and hyper's whole buffer would live as long as the tunnel.
        let early = [parts.read_buf, unread].concat().into();
        let channel = Channel::clear(socket);
        Ok(switched(Switched { head, spelling: Spelling::default(), channel, early, agreed, load }))
    }

    /// Sends a plain request, over an idle connection if there is one.
    pub async fn forward(
        self: &Arc<Self>,
        permit: &Permit,
        head: request::Parts,
        body: Upload,
        fault: &Fault,
        tried: &mut Tried,
    ) -> Result<Response<Outgoing>, Refusal> {
        let method = head.method.clone();
        let patience = permit.route().timeouts.response;
        let again = (method.is_safe() && body.is_end_stream()).then(|| head.clone());
        let mut request = Request::from_parts(head, body);
        while let Some(mut line) = self.take_idle(permit).await {
            line.heard.clear();
            tried.backend = Some(line.way.address.clone());
            let sent = timeout(patience, line.sender.try_send_request(request)).await;
            let sent = sent.map_err(|_| tried.late(NO_ANSWER))?;
            match sent {
                Ok(answer) => return self.answered(permit, answer, &method, line, tried),
                // Closed meanwhile: nothing was sent, or nothing that matters.
                Err(mut error) => match (error.take_message(), &again) {
                    (Some(unsent), _) => request = unsent,
                    (None, Some(head)) if !line.heard.is_set() => request = Request::from_parts(head.clone(), Upload::Empty),
                    _ => return Err(broken(tried, fault, error.error())),
                },
            }
        }
        let (socket, load, address) = self.dial_any(permit, tried).await?;
        drop(load);
        let heard = Heard::default();
        let io = TokioIo::new(Hearing::new(socket, heard.clone()));
        let (mut sender, connection) = client().handshake(io).await.map_err(|error| tried.broke(&error))?;
        self.tracker.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a backend's connection broke");
            }
        });
        let answer = timeout(patience, sender.send_request(request)).await.map_err(|_| tried.late(NO_ANSWER))?;
        let answer = answer.map_err(|error| broken(tried, fault, &error))?;
        let way = Way::new(address, permit.route());
        self.answered(permit, answer, &method, Line { way, sender, heard }, tried)
    }

    fn answered(
        self: &Arc<Self>,
        permit: &Permit,
        answer: Response<Incoming>,
        method: &http::Method,
        line: Line,
        tried: &mut Tried,
    ) -> Result<Response<Outgoing>, Refusal> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(tried.failed(&"switched protocols unasked"));
        }
        let answer = relayed(permit, answer, method, false, tried)?;
        let back = GiveBack { dialler: Arc::clone(self), line: Some(line) };
        Ok(answer.map(|body| body.holding(back)))
    }
}

/// What a backend's 101 settles, and whether the policy admits it.
fn agreed(permit: &Permit, handshake: &Handshake, head: &mut response::Parts, tried: &mut Tried) -> Result<Agreed, Refusal> {
    forward::remove_named(head);
    let agreed = handshake.agree(head.status, &head.headers).map_err(|what| tried.failed(&what))?;
    if permit.route().policy.admits_subprotocol(agreed.subprotocol.as_deref()) {
        return Ok(agreed);
    }
    let refusal = tried.failed(&match agreed.subprotocol {
        Some(_) => "chose a subprotocol that the policy doesn't admit",
        None => "chose no subprotocol, which the policy admits only with \"none\"",
    });
    tried.unadmitted = Some(agreed.subprotocol);
    Err(refusal)
}

fn switched(mut switched: Switched) -> Answer {
    forward::to_client(&mut switched.head, true);
    Answer::Switched(Box::new(switched))
}

fn client() -> Builder {
    let mut builder = Builder::new();
    // Ours are written as they are documented; a client's own keep their case.
    builder.preserve_header_case(true).title_case_headers(true).max_header_size(MAX_HEAD);
    builder
}

/// A backend's answer on its way to the client.
fn relayed(
    permit: &Permit,
    answer: Response<Incoming>,
    method: &http::Method,
    attempt: bool,
    tried: &mut Tried,
) -> Result<Response<Outgoing>, Refusal> {
    let (mut head, body) = answer.into_parts();
    forward::accept_head(&head, method).map_err(|what| tried.failed(&what))?;
    forward::to_client(&mut head, attempt);
    Ok(Response::from_parts(head, Outgoing::relayed(body, permit.route().timeouts.body_stall)))
}

/// A request that could not be sent to its end: the client's fault or the backend's.
fn broken(tried: &mut Tried, fault: &Fault, error: &hyper::Error) -> Refusal {
    if fault.is_too_big() {
        return Refusal::Body;
    }
    // A chunk that cannot be read is malformed as a head is, and none of the backend's doing.
    if fault.is_broken() {
        return Refusal::Head(Head::Malformed);
    }
    tried.broke(error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
