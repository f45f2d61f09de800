//! The local servers behind us: which one is dialled, and what it answers.
//!
//! Nothing gets here without a [`Permit`]. The backend with the fewest tunnels
//! is first; one that refuses the dial is marked as down for a moment and the
//! next is tried. Nothing is retried once a byte was sent, but for one thing: a
//! reused connection that turns out to be closed (DESIGN decision 7).

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use crate::data::body::{Fault, Outgoing, Upload};
use crate::data::channel::Channel;
use crate::data::forward;
use crate::data::heard::{Heard, Hearing};
use crate::data::socket::Socket;
use crate::data::websocket::handshake::{Agreed, Handshake};
use crate::observe::metrics::{BackendMetrics, CoreMetrics, Metrics};
use crate::refusal::{Backend, Head, Refusal};
use crate::snapshot::Permit;
use crate::snapshot::route::{BackendAddress, Route};
use crate::snapshot::tls::BackendTls;

/// How long a backend that refused a dial is tried last: at first, and at most, for it is twice as long each time that it
/// is found down again.
const FIRST_DOWN: Duration = Duration::from_secs(1);
const LONGEST_DOWN: Duration = Duration::from_secs(10);

/// How long an idle connection is kept for the next plain request.
const KEPT_IDLE: Duration = Duration::from_secs(4);

/// The most idle connections that are kept to one backend, by each thread.
const MOST_IDLE: usize = 64;

/// The largest head of a backend's answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// What is said of a backend that took the request and then nothing came.
const NO_ANSWER: &str = "no answer in time";

/// What is said of one that doesn't take the connection.
const NOT_TAKEN: &str = "it did not take the connection in time";

/// What the process knows of its backends.
pub struct Backends {
    metrics: Arc<Metrics>,
    standings: Mutex<HashMap<BackendAddress, Arc<Standing>>>,
}

struct Standing {
    metrics: Arc<BackendMetrics>,
    tunnels: AtomicUsize,
    down: Mutex<Option<Down>>,
}

/// A backend that is down. It is tried when all others were, and once its pause is over by one dial before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Down {
    pause: Duration,
    until: Instant,
    /// Whether it let the dial wait, and so is the last to be tried.
    hangs: bool,
}

impl Down {
    fn since(now: Instant) -> Self {
        Down { pause: FIRST_DOWN, until: now + FIRST_DOWN, hangs: false }
    }

    /// It is dialled: if its pause was over, nobody else tries it before the others for another, twice as long.
    fn tried(&mut self, now: Instant) {
        if self.until <= now {
            self.pause = (self.pause * 2).min(LONGEST_DOWN);
            self.until = now + self.pause;
        }
    }
}

/// In which order backends are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Up,
    Refuses,
    /// Last, since it takes time that the others may need.
    Hangs,
}

/// A tunnel's weight on its backend; taken off on drop.
pub struct Load(Arc<Standing>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Backends {
    /// Nothing is known yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Backends { metrics, standings: Mutex::default() }
    }

    /// The addresses in the order in which they are tried: those that are up, fewest tunnels first.
    fn ranked(&self, addresses: &[BackendAddress]) -> Vec<(BackendAddress, Arc<Standing>)> {
        let mut standings = lock(&self.standings);
        let mut standing = |address: &BackendAddress| {
            let new = || Arc::new(Standing::new(self.metrics.backend(address)));
            (address.clone(), Arc::clone(standings.entry(address.clone()).or_insert_with(new)))
        };
        let mut ranked: Vec<_> = addresses.iter().map(&mut standing).collect();
        let now = Instant::now();
        ranked.sort_by_key(|(_, standing)| (standing.rank(now), standing.tunnels.load(Ordering::Relaxed)));
        ranked
    }
}

impl Standing {
    fn new(metrics: Arc<BackendMetrics>) -> Self {
        Standing { metrics, tunnels: AtomicUsize::new(0), down: Mutex::new(None) }
    }

    fn rank(&self, now: Instant) -> Rank {
        match *lock(&self.down) {
            Some(Down { until, hangs, .. }) if until > now => {
                if hangs {
                    Rank::Hangs
                } else {
                    Rank::Refuses
                }
            }
            _ => Rank::Up,
        }
    }

    /// It is dialled now.
    fn tried(&self, now: Instant) {
        if let Some(down) = &mut *lock(&self.down) {
            down.tried(now);
        }
    }

    /// A dial succeeded.
    fn up(&self, address: &BackendAddress) {
        *lock(&self.down) = None;
        if self.metrics.dialled(true) {
            tracing::info!(backend = %address, "the backend is up again");
        }
    }

    /// A dial failed; one warning for each time that it goes down, however many dials fail then.
    fn down(&self, address: &BackendAddress, route: &str, hangs: bool, error: &dyn fmt::Display) {
        lock(&self.down).get_or_insert_with(|| Down::since(Instant::now())).hangs = hangs;
        if self.metrics.dialled(false) {
            tracing::warn!(route, backend = %address, %error, "the backend is down");
        } else {
            tracing::debug!(route, backend = %address, %error, "the backend is still down");
        }
    }

    fn load(self: &Arc<Self>) -> Load {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        Load(Arc::clone(self))
    }
}

/// One thread's way to the backends: its idle connections, and the tasks that drive them.
pub struct Dialler {
    backends: Arc<Backends>,
    metrics: Arc<CoreMetrics>,
    tracker: TaskTracker,
    /// `None` once a drain has closed them: what comes back then is closed too, or its end would be waited for.
    idle: Mutex<Option<HashMap<Way, Vec<Idle>>>>,
}

/// How a backend was reached: who it proved to be under one route's rules, or one generation's, it did not under another's.
#[derive(Clone)]
struct Way {
    address: BackendAddress,
    tls: Option<Arc<BackendTls>>,
}

impl Way {
    fn new(address: BackendAddress, route: &Route) -> Way {
        let over_tls = matches!(address, BackendAddress::Tls(_));
        Way { address, tls: route.backend_tls.clone().filter(|_| over_tls) }
    }

    /// The rules are the same only if they are the very same.
    fn rules(&self) -> Option<*const BackendTls> {
        self.tls.as_ref().map(Arc::as_ptr)
    }
}

impl PartialEq for Way {
    fn eq(&self, other: &Way) -> bool {
        self.address == other.address && self.rules() == other.rules()
    }
}

impl Eq for Way {}

impl Hash for Way {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
        self.rules().hash(state);
    }
}

struct Idle {
    line: Line,
    since: Instant,
}

/// A connection for plain requests.
struct Line {
    way: Way,
    sender: SendRequest<Upload>,
    /// Whether a byte of the latest answer has come.
    heard: Heard,
}

/// A backend's answer to an attempt.
pub enum Answer {
    /// A 101 that is valid.
    Switched(Box<Switched>),
    /// Anything else: the backend's right.
    Other(Response<Outgoing>),
}

/// A backend that switched to WebSocket.
pub struct Switched {
    /// The head that goes to the client.
    pub head: Response<()>,
    /// The connection, taken back.
    pub channel: Channel,
    /// What the backend had sent behind its head.
    pub early: Bytes,
    /// What the two sides agreed on.
    pub agreed: Agreed,
    /// Its weight on the backend.
    pub load: Load,
}

/// Which backend a request was sent to, and why nothing came of it: for the line of its decision.
#[derive(Default)]
pub struct Tried {
    /// The one that was dialled last.
    pub backend: Option<BackendAddress>,
    /// What went wrong, for people.
    pub error: Option<String>,
}

impl Tried {
    fn failed(&mut self, what: &dyn fmt::Display) -> Refusal {
        self.error = Some(what.to_string());
        Refusal::Backend(Backend::Failed)
    }

    fn late(&mut self, what: &str) -> Refusal {
        self.error = Some(what.to_owned());
        Refusal::Backend(Backend::Late)
    }
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
        head: request::Parts,
        handshake: &Handshake,
        tried: &mut Tried,
    ) -> Result<Answer, Refusal> {
        let timeouts = permit.route().timeouts;
        let (socket, load) = self.dial(permit, tried).await?;
        let late = Instant::now() + timeouts.response;
        let (mut sender, connection) = client().handshake(TokioIo::new(socket)).await.map_err(|error| tried.failed(&error))?;
        self.tracker.spawn(async move {
            // Whatever ends it, the sender's future says so.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a backend's connection broke");
            }
        });
        let sent = sender.send_request(Request::from_parts(head, Upload::Empty));
        let answer = timeout_at(late, sent).await.map_err(|_| tried.late(NO_ANSWER))?;
        let mut answer = answer.map_err(|error| tried.failed(&error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let answer = relayed(permit, answer, &http::Method::GET, true, tried)?;
            return Ok(Answer::Other(answer.map(|body| body.holding(load))));
        }
        let agreed = handshake.agree(answer.status(), answer.headers()).map_err(|what| tried.failed(&what))?;
        if let Some(chosen) = &agreed.subprotocol
            && !permit.route().policy.admits_subprotocol(chosen)
        {
            return Err(tried.failed(&"chose a subprotocol that the policy doesn't admit"));
        }
        let upgraded = timeout_at(late, hyper::upgrade::on(&mut answer)).await.map_err(|_| tried.late(NO_ANSWER))?;
        let upgraded = upgraded.map_err(|error| tried.failed(&error))?;
        let parts = upgraded.downcast::<TokioIo<Socket>>().map_err(|_| tried.failed(&"its connection was lost"))?;
        let (mut head, _) = answer.into_parts();
        forward::to_client(&mut head, true);
        let channel = Channel::clear(parts.io.into_inner());
        // A copy: what is read ahead is little, and hyper's whole buffer would live as long as the tunnel.
        let early = Bytes::copy_from_slice(&parts.read_buf);
        let head = Response::from_parts(head, ());
        Ok(Answer::Switched(Box::new(Switched { head, channel, early, agreed, load })))
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
        let (mut sender, connection) = client().handshake(io).await.map_err(|error| tried.failed(&error))?;
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

    /// Closes the idle connections that nobody asked for in time.
    pub fn tidy(&self) {
        let mut idle = lock(&self.idle);
        let Some(idle) = &mut *idle else { return };
        for kept in idle.values_mut() {
            kept.retain(|one| one.since.elapsed() < KEPT_IDLE && !one.line.sender.is_closed());
        }
        idle.retain(|_, kept| !kept.is_empty());
    }

    /// Closes all idle connections, those that are still to come back too.
    pub fn close_idle(&self) {
        *lock(&self.idle) = None;
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

    async fn take_idle(&self, permit: &Permit) -> Option<Line> {
        loop {
            let mut line = self.pop_idle(permit)?;
            // Ready at once unless its last answer is only just being finished; never for long.
            if let Ok(Ok(())) = timeout(permit.route().timeouts.dial, line.sender.ready()).await {
                return Some(line);
            }
        }
    }

    #[expect(clippy::mutable_key_type, reason = "a way is told by its rules' address, which never changes")]
    fn pop_idle(&self, permit: &Permit) -> Option<Line> {
        let ranked = self.backends.ranked(&permit.route().backends);
        let mut idle = lock(&self.idle);
        let idle = idle.as_mut()?;
        for (address, _) in ranked {
            let Some(kept) = idle.get_mut(&Way::new(address, permit.route())) else { continue };
            while let Some(one) = kept.pop() {
                if one.since.elapsed() < KEPT_IDLE && !one.line.sender.is_closed() {
                    return Some(one.line);
                }
            }
        }
        None
    }

    async fn dial(&self, permit: &Permit, tried: &mut Tried) -> Result<(Socket, Load), Refusal> {
        self.dial_any(permit, tried).await.map(|(socket, load, _)| (socket, load))
    }

    /// Connects to the first backend that takes the connection, within the route's `dial`: one that hangs has its share
    /// of what is left of that, and leaves theirs to those that have not been tried.
    async fn dial_any(&self, permit: &Permit, tried: &mut Tried) -> Result<(Socket, Load, BackendAddress), Refusal> {
        let route = permit.route();
        let began = Instant::now();
        let late = began + route.timeouts.dial;
        let mut hung = false;
        let mut left = self.backends.ranked(&route.backends).into_iter();
        while let Some((address, standing)) = left.next() {
            let now = Instant::now();
            standing.tried(now);
            let untried = u32::try_from(left.len()).unwrap_or(u32::MAX);
            let share = now + late.saturating_duration_since(now) / untried.saturating_add(1);
            // The weight is there before the wait, so that a burst spreads.
            let load = standing.load();
            tried.backend = Some(address.clone());
            match timeout_at(share, Socket::connect(&address, route.backend_tls.as_deref())).await {
                Ok(Ok(socket)) => {
                    tried.error = None;
                    standing.up(&address);
                    self.metrics.route(route).dialled(began.elapsed());
                    return Ok((socket, load, address));
                }
                Ok(Err(error)) => {
                    standing.down(&address, &route.name, false, &error);
                    tried.error = Some(error.to_string());
                }
                Err(_) => {
                    standing.down(&address, &route.name, true, &NOT_TAKEN);
                    tried.error = Some(NOT_TAKEN.to_owned());
                    hung = true;
                }
            }
        }
        Err(Refusal::Backend(if hung { Backend::Late } else { Backend::Failed }))
    }
}

/// Gives a connection back to the idle ones when its answer's body is over.
struct GiveBack {
    dialler: Arc<Dialler>,
    line: Option<Line>,
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        let Some(line) = self.line.take().filter(|line| !line.sender.is_closed()) else { return };
        let mut idle = lock(&self.dialler.idle);
        let Some(idle) = &mut *idle else { return };
        let kept = idle.entry(line.way.clone()).or_default();
        if kept.len() < MOST_IDLE {
            kept.push(Idle { line, since: Instant::now() });
        }
    }
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
    tried.failed(error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stays_down_is_tried_less_and_less_often_and_never_too_seldom() {
        let began = Instant::now();
        let mut down = Down::since(began);
        let pauses = (0..6).map(|_| {
            let pause = down.pause;
            down.tried(down.until);
            pause.as_secs()
        });
        assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn dials_within_the_pause_make_it_no_longer() {
        let began = Instant::now();
        let mut down = Down::since(began);
        let before = down;
        for _ in 0..9 {
            down.tried(began + FIRST_DOWN / 2);
        }
        assert_eq!(down, before);
    }

    #[test]
    fn one_that_is_back_begins_anew() {
        let address = BackendAddress::Tcp(([127, 0, 0, 1], 1).into());
        let standing = Standing::new(Arc::default());
        standing.down(&address, "chat", false, &"refused");
        standing.tried(Instant::now() + FIRST_DOWN);
        assert_eq!(standing.rank(Instant::now() + FIRST_DOWN), Rank::Refuses);
        standing.up(&address);
        assert_eq!(standing.rank(Instant::now()), Rank::Up);
        standing.down(&address, "chat", false, &"refused");
        assert_eq!(standing.rank(Instant::now() + FIRST_DOWN), Rank::Up);
    }
}
