//! The deadlines of a connection that still speaks HTTP, which hyper does not give: first byte to
//! complete head, idle between requests, a client that takes no answer.
//!
//! The stream under hyper reports what moves, the service reports when a request begins and ends,
//! and the connection's task asks when to give up. Nothing is closed here, except an idle
//! connection that is to make room for another of its client: its stream then reads as ended, if
//! really nothing has arrived.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Version;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::data::admission::pending::PendingGuard;
use crate::data::http::pace::Pace;
use crate::data::stream::keepalive;
use crate::snapshot::listener::ListenerTimeouts;
use crate::snapshot::route::RouteTimeouts;
use crate::sync::lock;

/// The most bytes of interim answers that wait for a client.
const MAX_INTERIM_BYTES: usize = 16 * 1024;

/// What a connection waits for until its next deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitKind {
    /// The rest of a head.
    Head,
    /// The first byte of the next request.
    Idle,
    /// The client to take anything of its answer, within `write_stall`.
    Write,
    /// The client to take its answer at the route's `body_pace`.
    Pace,
}

/// An exchange that may be ordered to end while its client takes nothing: hyper asks for no more of
/// the answer then, and so does not see the order.
pub trait Cancel: Send {
    /// Ready once the exchange must end; it notes why.
    fn poll_cancel(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// The deadlines of one connection, shared by its stream, its service and its task.
#[derive(Clone)]
pub struct HttpDeadlines(Arc<Mutex<DeadlineState>>);

struct DeadlineState {
    timeouts: ListenerTimeouts,
    write_stall: Duration,
    /// The user timeout that is set on the socket.
    user_timeout: Duration,
    phase: HttpPhase,
    /// Since when the client has taken nothing while there was something for it.
    stalled: Option<Instant>,
    /// Bytes that the socket took.
    sent: u64,
    /// How many of them the client had acknowledged when the socket last took no more.
    acked: u64,
    /// How fast the client takes its answer.
    pace: Pace,
    /// Since when the client is known to take an answer more slowly than `body_pace`.
    slow: Option<Instant>,
    /// Whether the request has a body of which not all is read.
    unread: bool,
    /// Whether that body was given up: the rest of it is discarded, and the connection ends with
    /// the answer.
    is_discarding: bool,
    /// That body, until the answer is with the kernel. `None` means that all of it is read, or that
    /// it was let go.
    given_up: Option<Incoming>,
    /// The connection's task, to be woken when that body is given up.
    discarder: Option<Waker>,
    /// The task that waits for more of the request's body.
    upload: Option<Waker>,
    /// Whether the latest request is of HTTP/1.1.
    is_http_11: bool,
    /// Whether an interim answer may go out: the request is of HTTP/1.1, and nothing has gone out.
    may_interim: bool,
    /// Interim answers of the backend that are not written yet.
    interims: Vec<u8>,
    /// Whether more may come: the request is of HTTP/1.1 and on its way, and its answer has not
    /// been handed to hyper.
    awaits_interims: bool,
    /// The connection's task, which writes them.
    writer: Option<Waker>,
    /// Dropped once all that hyper had to write is with the kernel. `None` means that nothing waits
    /// for that.
    flushes: Option<oneshot::Sender<()>>,
    /// Whether the client has ended its side.
    client_eof: bool,
    /// Whether hyper has come to that end while a request was worked on: it has handed on all that
    /// came before.
    drained: bool,
    /// The task from which that end was hidden, to be woken when it may see it.
    parked: Option<Waker>,
    /// How an exchange was cut, which ends the connection. `None` means that none was.
    cut: Option<CutKind>,
    /// The exchange whose answer is on its way.
    exchange: Option<Weak<Mutex<dyn Cancel>>>,
    /// Whether the end of the connection waits until the client has acknowledged everything.
    awaits_delivery: bool,
    /// Whether the client acknowledged all that it was sent. `None` means not yet known.
    delivered: Option<bool>,
    /// Whether any byte of HTTP has come.
    has_received: bool,
    /// Whether bytes were read behind the latest request, its body included.
    surplus: bool,
    /// Whether bytes were read of which it is not known yet whether they begin a head.
    unparsed: bool,
    /// Counts the connection among those of its client.
    guard: PendingGuard,
    /// Whether the time of the connection is up, or the process drains: it ends unless something
    /// has arrived.
    is_expiring: bool,
    /// Whether the connection ends for that, or to make room for another of its client.
    is_leaving: bool,
}

#[derive(Clone, Copy)]
enum HttpPhase {
    Head {
        until: Instant,
    },
    Busy,
    /// The answer is handed to hyper, and not yet with the kernel.
    Ended,
    /// `stays`: the connection was asked to leave when something had arrived.
    Idle {
        until: Instant,
        stays: bool,
    },
}

/// What a connection's task does when all that can be done for now is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Polls once more: the connection got a request to leave.
    PollAgain,
    /// Closes the connection: it leaves.
    Close,
    /// Waits, and gives up at this time. `None` means that a request is worked on, and its client
    /// is not waited for.
    Wait(Option<(Instant, WaitKind)>),
}

impl HttpDeadlines {
    /// Starts with the wait for the first head.
    pub fn new(timeouts: ListenerTimeouts, write_stall: Duration, guard: PendingGuard) -> Self {
        let phase = HttpPhase::Head { until: Instant::now() + timeouts.head };
        HttpDeadlines(Arc::new(Mutex::new(DeadlineState {
            timeouts,
            write_stall,
            user_timeout: keepalive::USER_TIMEOUT,
            phase,
            stalled: None,
            sent: 0,
            acked: 0,
            pace: Pace::new(None),
            slow: None,
            unread: false,
            is_discarding: false,
            given_up: None,
            discarder: None,
            upload: None,
            is_http_11: false,
            may_interim: false,
            interims: Vec::new(),
            awaits_interims: false,
            writer: None,
            flushes: None,
            client_eof: false,
            drained: false,
            parked: None,
            cut: None,
            exchange: None,
            awaits_delivery: false,
            delivered: None,
            has_received: false,
            surplus: false,
            unparsed: false,
            guard,
            is_expiring: false,
            is_leaving: false,
        })))
    }

    /// Notes that a route was found, which has its own `write_stall` and `body_pace`.
    pub fn set_route_timeouts(&self, timeouts: &RouteTimeouts) {
        let mut state = self.lock();
        state.write_stall = timeouts.write_stall;
        state.pace = Pace::new(timeouts.body_pace);
    }

    /// Notes that the head of a request of this version is complete. `has_body` says whether more
    /// than that is to come.
    pub fn on_request_start(&self, version: Version, has_body: bool) {
        let mut state = self.lock();
        state.phase = HttpPhase::Busy;
        state.drained = false;
        state.surplus = false;
        state.unread = has_body;
        state.is_http_11 = version == Version::HTTP_11;
        state.may_interim = state.is_http_11;
        // An interim answer to the former request that came late must not precede this answer.
        state.interims = Vec::new();
        state.awaits_interims = false;
        state.guard.set_counted();
    }

    /// Notes that the request goes to a backend, which may send interim answers. A client of
    /// HTTP/1.0 gets none: it would take the first for the answer.
    pub fn expect_interims(&self) {
        let mut state = self.lock();
        state.awaits_interims = state.is_http_11;
    }

    /// Whether an interim answer would be written.
    pub fn accepts_interims(&self) -> bool {
        let state = self.lock();
        state.awaits_interims && state.interims.len() < MAX_INTERIM_BYTES
    }

    /// Queues an interim answer of the backend, with this head. A head that finds no room, since
    /// the client takes nothing, is dropped.
    pub fn queue_interim(&self, head: &[u8]) {
        let mut state = self.lock();
        if state.awaits_interims && state.interims.len() + head.len() <= MAX_INTERIM_BYTES {
            state.interims.extend_from_slice(head);
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
        }
    }

    /// Notes that hyper has the answer: an interim answer that comes now would come behind its
    /// head.
    pub fn set_answered(&self) {
        self.lock().awaits_interims = false;
    }

    /// Takes the interim answers to be written where hyper has written all that it had. Wakes `cx`
    /// when more come. Drops interim answers that are left behind an answer.
    pub fn poll_interims(&self, cx: &Context<'_>) -> Vec<u8> {
        let mut state = self.lock();
        if !state.awaits_interims {
            state.interims = Vec::new();
            return Vec::new();
        }
        if !state.writer.as_ref().is_some_and(|writer| writer.will_wake(cx.waker())) {
            state.writer = Some(cx.waker().clone());
        }
        std::mem::take(&mut state.interims)
    }

    /// The interim answers to be written in front of what hyper writes first.
    pub fn take_interims(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().interims)
    }

    /// Notes that the request is permitted and charged: until it is over, the connection does not
    /// count for its client.
    pub fn on_permit(&self) {
        self.lock().guard.exempt();
    }

    /// Notes that all of the request's body has been read.
    pub fn on_body_read(&self) {
        self.lock().unread = false;
    }

    /// Whether the latest request has a body of which not all is read.
    pub fn has_unread_body(&self) -> bool {
        self.lock().unread
    }

    /// Gives up the request's body. The connection must end with the answer: the discarded bytes
    /// belong to no request. Where the answer may be large, `body` is hyper's handle of that body,
    /// to be held until the answer is with the kernel.
    pub fn discard_body(&self, body: Option<Incoming>) {
        let mut state = self.lock();
        if state.unread {
            state.is_discarding = true;
            // A second call without a handle keeps that of the first.
            state.given_up = body.or(state.given_up.take());
            if let Some(discarder) = state.discarder.take() {
                discarder.wake();
            }
        }
    }

    /// Lets go of a body that was given up, if the answer is with the kernel. hyper ends the
    /// connection then: before, it would leave out what it has not written, if the request has
    /// asked for an upgrade. Says whether there was one.
    pub fn drop_discarded_body(&self) -> bool {
        let mut state = self.lock();
        let body = if state.is_idle() { state.given_up.take() } else { None };
        drop(state);
        body.is_some()
    }

    /// Whether bytes that the client still sends are discarded.
    pub fn is_discarding(&self) -> bool {
        let state = self.lock();
        state.is_discarding && !state.client_eof
    }

    /// Notes that the client has ended its side, behind all that was discarded.
    pub fn on_discarded_all(&self) {
        self.lock().client_eof = true;
    }

    /// Ready once the connection, which only discards from now on, is to make room for another of
    /// its client. Until then it counts for its client.
    pub fn poll_displaced(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        state.guard.set_idle(cx);
        if state.guard.is_displacement_pending() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether a body of which hyper has no more has broken off: its client has ended its side, and
    /// all that came before was handed on. Otherwise wakes `waker` when that is so.
    pub fn has_broken_off(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        state.upload = Some(waker.clone());
        state.drained
    }

    /// Whether the client has ended its side of the connection.
    pub fn has_client_eof(&self) -> bool {
        self.lock().client_eof
    }

    /// Notes that an exchange was cut; the connection ends with it. The first cut counts.
    pub fn set_cut(&self, cut: CutKind) {
        self.lock().cut.get_or_insert(cut);
    }

    /// Makes the end of the connection wait until the client has acknowledged everything.
    pub fn require_delivery(&self) {
        self.lock().awaits_delivery = true;
    }

    /// Notes that the answer of `exchange` is on its way: its orders hold where the client takes
    /// nothing too.
    pub fn attach_exchange(&self, exchange: Weak<Mutex<dyn Cancel>>) {
        self.lock().exchange = Some(exchange);
    }

    /// Ready once an exchange must end while its client takes nothing.
    pub fn poll_cancel(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.lock();
        // Only while the client takes nothing: else hyper polls the answer's body, which reads its
        // orders.
        let exchange = state.stalled.and(state.exchange.as_ref()).and_then(Weak::upgrade);
        drop(state);
        let Some(exchange) = exchange else { return Poll::Pending };
        // Without our own lock: the exchange notes its cut here, and the lock is not re-entrant.
        lock(&exchange).poll_cancel(cx)
    }

    /// Whether a request is worked on.
    pub fn is_busy(&self) -> bool {
        matches!(self.lock().phase, HttpPhase::Busy)
    }

    /// How an exchange was cut. `None` means that none was.
    pub fn cut(&self) -> Option<CutKind> {
        self.lock().cut
    }

    /// How long the client may take nothing.
    pub fn write_stall(&self) -> Duration {
        self.lock().write_stall
    }

    /// Whether the end of the connection waits for the client's acknowledgement.
    pub fn awaits_delivery(&self) -> bool {
        let state = self.lock();
        state.awaits_delivery && state.delivered.is_none()
    }

    /// Notes whether the client has acknowledged everything.
    pub fn set_delivered(&self, delivered: bool) {
        self.lock().delivered = Some(delivered);
    }

    /// Whether the client is known to have acknowledged everything by the end of the connection.
    pub fn was_delivered(&self) -> bool {
        self.lock().delivered == Some(true)
    }

    /// Notes that hyper has the answer. The next deadline begins with [`HttpDeadlines::on_flush`].
    pub fn on_response(&self) {
        self.lock().phase = HttpPhase::Ended;
    }

    /// Notes that all that hyper had to write is with the kernel. Behind an answer the connection
    /// is then idle, or within the next head, if the bytes read so far end there. `within_head` is
    /// as in [`HttpDeadlines::on_parsed`].
    pub fn on_flush(&self, within_head: Option<bool>) {
        let mut state = self.lock();
        drop(state.flushes.take());
        if !matches!(state.phase, HttpPhase::Ended) {
            return;
        }
        state.enter_idle(false);
        if state.is_begun(within_head) {
            state.enter_head();
        }
        // The answer is with the kernel: hyper may now see that the client has ended its side.
        if let Some(parked) = state.parked.take() {
            parked.wake();
        }
    }

    /// Waits until all that hyper has to write is with the kernel. hyper flushes with each poll,
    /// whether there is something to flush or not.
    pub async fn flushed(&self) {
        let (tx, rx) = oneshot::channel();
        self.lock().flushes = Some(tx);
        // The channel only ever closes.
        let _ = rx.await;
    }

    /// Notes that the connection ends: bytes that were read behind the last request belong to none.
    pub fn set_closing(&self) {
        let mut state = self.lock();
        if matches!(state.phase, HttpPhase::Head { .. } | HttpPhase::Ended) {
            state.enter_idle(true);
        }
    }

    /// Says what to do after a poll of the connection that left nothing to do. An idle connection
    /// whose answers are all with the kernel counts from here on, and `cx` is woken when it is to
    /// leave.
    pub fn next(&self, cx: &mut Context<'_>) -> NextStep {
        let mut state = self.lock();
        if state.is_leaving {
            return NextStep::Close;
        }
        if state.unread && state.discarder.as_ref().is_none_or(|known| !known.will_wake(cx.waker()))
        {
            state.discarder = Some(cx.waker().clone());
        }
        if let (HttpPhase::Idle { stays: false, .. }, None) = (state.phase, state.stalled) {
            state.guard.set_idle(cx);
            // At the bound of its client, `set_idle` may have asked this very connection.
            if state.guard.is_displacement_pending() {
                return NextStep::PollAgain;
            }
        }
        NextStep::Wait(state.deadline())
    }

    /// Keeps the connection, which was asked to leave.
    pub fn decline_displacement(&self) {
        self.lock().decline_displacement();
    }

    /// Asks an idle connection to end unless something has arrived, which its next read decides.
    /// Says whether that is news to it.
    pub fn expire_if_idle(&self) -> bool {
        let mut state = self.lock();
        let is_news = state.is_quiet() && !state.is_leaving && !state.is_expiring;
        state.is_expiring |= is_news;
        is_news
    }

    /// Whether the connection ends because nothing has arrived when it was asked.
    pub fn is_leaving(&self) -> bool {
        self.lock().is_leaving
    }

    /// Whether the connection leaves to make room for another of its client.
    pub fn is_displaced(&self) -> bool {
        let state = self.lock();
        state.is_leaving && !state.is_expiring
    }

    /// When to give up, and on what. `None` means that a request is worked on, and its client is
    /// not waited for.
    pub fn deadline(&self) -> Option<(Instant, WaitKind)> {
        self.lock().deadline()
    }

    /// Follows a request to leave if `has_nothing` arrived, and says whether the connection leaves.
    pub fn decide_displacement(&self, has_nothing: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        // Bytes that are not sorted yet may begin a head: the decision waits for `on_parsed`.
        if !state.is_displacement_pending() || state.unparsed {
            return state.is_leaving;
        }
        state.is_leaving = has_nothing();
        if !state.is_leaving {
            state.decline_displacement();
        }
        state.is_leaving
    }

    /// Whether any byte of HTTP has come.
    pub fn has_received(&self) -> bool {
        self.lock().has_received
    }

    /// Whether the connection is between two requests, all answers are with the kernel, and nothing
    /// is known to have arrived.
    pub fn is_quiet(&self) -> bool {
        self.lock().is_quiet()
    }

    /// Bounds every head by `limit` from now on, the current one included.
    pub fn bound_heads(&self, limit: Duration) {
        let mut state = self.lock();
        // Never longer than before: a drain on a listener with a short `head` must not extend it.
        state.timeouts.head = state.timeouts.head.min(limit);
        if let HttpPhase::Head { until } = state.phase {
            state.phase = HttpPhase::Head { until: until.min(Instant::now() + limit) };
        }
    }

    /// Notes that bytes of the client were read. [`HttpDeadlines::on_parsed`] says later whether
    /// they begin a head.
    pub fn on_read(&self) {
        let mut state = self.lock();
        state.has_received = true;
        state.unparsed = true;
        // Bytes before the end of a body belong to it.
        state.surplus |= !state.unread;
    }

    /// Notes whether the bytes read so far end within a head: an empty line between two requests
    /// (RFC 9112 §2.2) does not begin one. `None` means not known; any byte behind a request then
    /// counts as a head.
    pub fn on_parsed(&self, within_head: Option<bool>) {
        let mut state = self.lock();
        state.unparsed = false;
        if matches!(state.phase, HttpPhase::Idle { .. }) && state.is_begun(within_head) {
            state.enter_head();
        }
    }

    /// Notes that the socket has taken `bytes` of hyper's. Returns how long the client may take
    /// nothing, where the kernel does not know that yet.
    pub fn on_write(&self, bytes: usize) -> Option<Duration> {
        let mut state = self.lock();
        state.may_interim = false;
        state.wrote(bytes);
        let user_timeout = keepalive::user_timeout(state.write_stall);
        let before = std::mem::replace(&mut state.user_timeout, user_timeout);
        (before != user_timeout).then_some(state.write_stall)
    }

    /// Notes that the socket has taken `bytes` of an interim answer.
    pub fn on_interim_write(&self, bytes: usize) {
        self.lock().wrote(bytes);
    }

    /// Notes that the socket takes no more, and that `unacked` bytes of those it took are not
    /// acknowledged. Where these become fewer the client takes something, although the socket has
    /// no room yet: the kernel frees room in large steps.
    pub fn on_blocked(&self, unacked: u64) {
        let now = Instant::now();
        let mut state = self.lock();
        let taken = state.sent.saturating_sub(unacked);
        let more = taken.saturating_sub(state.acked);
        if more > 0 || state.stalled.is_none() {
            state.stalled = Some(now);
        }
        state.acked += more;
        if more > 0 {
            // The client took something: its pause ended about now.
            state.pace.stop_wait(now);
        }
        state.pace.add_bytes(more);
        state.pace.start_wait(now);
        if state.pace.is_too_slow(now) {
            state.slow = Some(now);
        }
    }

    /// Whether an interim answer may go out now: nothing of the answer has, or waits to.
    pub fn may_interim(&self) -> bool {
        let state = self.lock();
        state.may_interim && state.stalled.is_none() && matches!(state.phase, HttpPhase::Busy)
    }

    /// Notes that the client has ended its side. Says whether hyper is to see that now: while a
    /// request whose body has been read is answered, hyper would take the client for gone.
    pub fn on_client_eof(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        state.client_eof = true;
        // Woken for its own look: hyper gets no end of stream during a request, so its body stays
        // pending.
        if let Some(upload) = state.upload.take() {
            upload.wake();
        }
        let is_hidden = matches!(state.phase, HttpPhase::Busy | HttpPhase::Ended);
        state.drained = is_hidden;
        state.parked = is_hidden.then(|| waker.clone());
        !is_hidden
    }

    fn lock(&self) -> MutexGuard<'_, DeadlineState> {
        lock(&self.0)
    }
}

impl DeadlineState {
    fn wrote(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        if self.stalled.take().is_some() {
            self.pace.stop_wait(Instant::now());
        }
    }

    fn deadline(&self) -> Option<(Instant, WaitKind)> {
        let stall = self.stalled.map(|since| (since + self.write_stall, WaitKind::Write));
        let pace = self.slow.or_else(|| self.pace.due()).map(|at| (at, WaitKind::Pace));
        let phase = match self.phase {
            HttpPhase::Head { until } => Some((until, WaitKind::Head)),
            // An answer that waits for the client is bounded by `write_stall` and `body_pace`.
            HttpPhase::Busy | HttpPhase::Ended => None,
            HttpPhase::Idle { until, .. } => Some((until, WaitKind::Idle)),
        };
        // The earliest bound decides, and also names the reason for the log.
        stall.into_iter().chain(pace).chain(phase).min_by_key(|(at, _)| *at)
    }

    /// Waits for the next request. `stays` means that the connection makes no room for another.
    fn enter_idle(&mut self, stays: bool) {
        let until = Instant::now() + self.timeouts.keep_alive;
        self.phase = HttpPhase::Idle { until, stays };
    }

    /// Waits for the rest of a head.
    fn enter_head(&mut self) {
        self.phase = HttpPhase::Head { until: Instant::now() + self.timeouts.head };
        // A head has begun, so the connection is answered first.
        self.is_expiring = false;
        self.guard.set_counted();
    }

    /// Whether a head has begun behind the latest request. Behind an answer that came before the
    /// end of the body, all bytes that come are the rest of that body.
    fn is_begun(&self, within_head: Option<bool>) -> bool {
        !self.unread && within_head.unwrap_or(self.surplus)
    }

    /// Whether the connection is between two requests, and all answers are with the kernel.
    fn is_idle(&self) -> bool {
        matches!(self.phase, HttpPhase::Idle { .. }) && self.stalled.is_none()
    }

    /// Whether the connection has a request to leave that it has not decided.
    fn is_displacement_pending(&self) -> bool {
        let is_asked = self.is_expiring || self.guard.is_displacement_pending();
        matches!(self.phase, HttpPhase::Idle { .. }) && !self.is_leaving && is_asked
    }

    /// Stays this once: bytes that have arrived are read soon, or are a part of a TLS record.
    fn decline_displacement(&mut self) {
        if let HttpPhase::Idle { until, stays } = &mut self.phase {
            *stays = true;
            if self.is_expiring {
                *until = Instant::now() + self.timeouts.head;
            }
        }
        self.is_expiring = false;
        self.guard.set_counted();
    }

    fn is_quiet(&self) -> bool {
        matches!(self.phase, HttpPhase::Idle { stays: false, .. }) && self.is_idle()
    }
}

/// How a connection ends after one of its exchanges was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutKind {
    /// Closed: the missing last chunk tells the client, or nothing of an answer was sent.
    Close,
    /// Reset: a client could take the part that it got for a whole answer.
    Reset,
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::task::Waker;

    use crate::data::admission::pending::{AdmissionClaim, PendingConnections};
    use crate::policy::network::Client;

    const MOST: usize = 2;

    /// One connection of a client that may have two.
    fn one_of(pending: &PendingConnections) -> Option<HttpDeadlines> {
        let Some(AdmissionClaim::Granted(guard)) =
            pending.claim(Client::new([192, 0, 2, 1].into()), MOST)
        else {
            return None;
        };
        Some(HttpDeadlines::new(ListenerTimeouts::default(), Duration::from_secs(30), guard))
    }

    fn deadlines() -> HttpDeadlines {
        one_of(&PendingConnections::default()).unwrap()
    }

    /// Its answer is with the kernel, and nothing has come behind the request.
    fn answered(deadlines: &HttpDeadlines) {
        deadlines.on_response();
        deadlines.on_flush(Some(false));
    }

    /// Bytes come that end within a head.
    fn begun(deadlines: &HttpDeadlines) {
        deadlines.on_read();
        deadlines.on_parsed(Some(true));
    }

    fn next(deadlines: &HttpDeadlines) -> NextStep {
        deadlines.next(&mut Context::from_waker(Waker::noop()))
    }

    /// A connection that is idle after a request.
    fn idle(pending: &PendingConnections) -> HttpDeadlines {
        let deadlines = one_of(pending).unwrap();
        deadlines.on_request_start(Version::HTTP_11, false);
        answered(&deadlines);
        assert!(matches!(next(&deadlines), NextStep::Wait(Some((_, WaitKind::Idle)))));
        deadlines
    }

    #[tokio::test(start_paused = true)]
    async fn first_head_is_timed_from_accept_and_others_from_first_byte() {
        let began = Instant::now();
        let deadlines = deadlines();
        assert_eq!(deadlines.deadline(), Some((began + Duration::from_secs(10), WaitKind::Head)));
        deadlines.on_read();
        assert_eq!(deadlines.deadline(), Some((began + Duration::from_secs(10), WaitKind::Head)));
        deadlines.on_request_start(Version::HTTP_11, false);
        assert_eq!(deadlines.deadline(), None);
        answered(&deadlines);
        assert_eq!(deadlines.deadline(), Some((began + Duration::from_secs(75), WaitKind::Idle)));
        tokio::time::advance(Duration::from_secs(70)).await;
        begun(&deadlines);
        assert_eq!(deadlines.deadline(), Some((began + Duration::from_secs(80), WaitKind::Head)));
    }

    #[tokio::test(start_paused = true)]
    async fn head_that_starts_with_the_end_of_a_request_has_a_deadline() {
        for (within_head, waits, seconds) in [
            (Some(true), WaitKind::Head, 10),
            (None, WaitKind::Head, 10),
            (Some(false), WaitKind::Idle, 75),
        ] {
            let deadlines = deadlines();
            deadlines.on_request_start(Version::HTTP_11, false);
            deadlines.on_read();
            deadlines.on_parsed(within_head);
            deadlines.on_response();
            tokio::time::advance(Duration::from_secs(20)).await;
            assert_eq!(deadlines.deadline(), None, "its answer is not with the kernel");
            deadlines.on_flush(within_head);
            let until = Instant::now() + Duration::from_secs(seconds);
            assert_eq!(deadlines.deadline(), Some((until, waits)), "{within_head:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn empty_line_between_requests_begins_no_head() {
        let pending = PendingConnections::default();
        let (deadlines, _other) = (idle(&pending), one_of(&pending));
        let before = deadlines.deadline();
        tokio::time::advance(Duration::from_secs(5)).await;
        deadlines.on_read();
        deadlines.on_parsed(Some(false));
        assert_eq!(deadlines.deadline(), before);
        assert!(one_of(&pending).is_none());
        assert!(deadlines.decide_displacement(|| true), "it makes room");
    }

    #[tokio::test(start_paused = true)]
    async fn head_deadline_is_shortened_by_a_drain() {
        let limit = Duration::from_secs(2);
        let (first, next) = (deadlines(), deadlines());
        first.on_read();
        next.on_request_start(Version::HTTP_11, false);
        next.on_response();
        for deadlines in [&first, &next] {
            deadlines.bound_heads(limit);
            deadlines.on_flush(Some(true));
            assert_eq!(deadlines.deadline(), Some((Instant::now() + limit, WaitKind::Head)));
        }
    }

    #[test]
    fn end_of_a_connection_is_not_a_late_head() {
        let deadlines = deadlines();
        deadlines.on_request_start(Version::HTTP_11, false);
        deadlines.on_response();
        deadlines.on_flush(Some(true));
        deadlines.set_closing();
        assert!(matches!(next(&deadlines), NextStep::Wait(Some((_, WaitKind::Idle)))));
    }

    #[tokio::test(start_paused = true)]
    async fn stall_is_timed_from_the_first_blocked_write() {
        let began = Instant::now();
        let deadlines = deadlines();
        deadlines.on_request_start(Version::HTTP_11, false);
        deadlines.on_write(100);
        deadlines.on_blocked(100);
        tokio::time::advance(Duration::from_secs(20)).await;
        deadlines.on_blocked(100);
        assert_eq!(deadlines.deadline(), Some((began + Duration::from_secs(30), WaitKind::Write)));
        deadlines.on_write(1);
        assert_eq!(deadlines.deadline(), None);
    }

    #[test]
    fn connection_counts_unless_it_serves_a_permitted_request() {
        let pending = PendingConnections::default();
        let (refused, permitted) = (one_of(&pending).unwrap(), one_of(&pending).unwrap());
        refused.on_request_start(Version::HTTP_11, false);
        permitted.on_request_start(Version::HTTP_11, false);
        assert!(one_of(&pending).is_none());
        permitted.on_permit();
        let third = one_of(&pending).unwrap();
        answered(&permitted);
        assert!(
            matches!(next(&permitted), NextStep::PollAgain),
            "one too many, and it alone is idle"
        );
        drop((refused, third));
        permitted.decline_displacement();
        assert!(matches!(next(&permitted), NextStep::Wait(_)));
    }

    #[test]
    fn half_a_head_behind_a_permitted_request_counts() {
        let pending = PendingConnections::default();
        let (permitted, _other) = (one_of(&pending).unwrap(), one_of(&pending).unwrap());
        permitted.on_request_start(Version::HTTP_11, false);
        permitted.on_permit();
        answered(&permitted);
        begun(&permitted);
        assert!(one_of(&pending).is_none());
    }

    #[test]
    fn rest_of_a_body_behind_its_answer_begins_no_head() {
        let deadlines = deadlines();
        deadlines.on_request_start(Version::HTTP_11, true);
        answered(&deadlines);
        begun(&deadlines);
        assert!(deadlines.lock().is_idle());
        deadlines.on_body_read();
        begun(&deadlines);
        assert!(matches!(next(&deadlines), NextStep::Wait(Some((_, WaitKind::Head)))));
    }

    #[test]
    fn idle_connection_leaves_where_nothing_has_arrived() {
        let pending = PendingConnections::default();
        let (oldest, newer) = (idle(&pending), idle(&pending));
        assert!(one_of(&pending).is_none());
        assert_eq!(
            (next(&oldest), matches!(next(&newer), NextStep::Wait(_))),
            (NextStep::PollAgain, true)
        );
        assert!(oldest.decide_displacement(|| true) && oldest.is_leaving());
        assert_eq!(next(&oldest), NextStep::Close);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_expires_where_nothing_has_arrived() {
        let pending = PendingConnections::default();
        let deadlines = idle(&pending);
        assert!(!deadlines.decide_displacement(|| panic!("it is not asked")));
        assert!(deadlines.expire_if_idle() && !deadlines.expire_if_idle());
        assert!(deadlines.decide_displacement(|| true) && !deadlines.is_displaced());
        assert_eq!(next(&deadlines), NextStep::Close);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_does_not_expire_once_bytes_have_arrived() {
        let pending = PendingConnections::default();
        let deadlines = idle(&pending);
        tokio::time::advance(Duration::from_secs(75)).await;
        assert!(deadlines.expire_if_idle() && !deadlines.decide_displacement(|| false));
        assert!(deadlines.lock().is_idle() && !deadlines.is_quiet());
        // A part of a TLS record, of which the rest may never come.
        let until = Instant::now() + Duration::from_secs(10);
        assert_eq!(deadlines.deadline(), Some((until, WaitKind::Idle)));
        assert!(!deadlines.expire_if_idle(), "it stays once");
        begun(&deadlines);
        assert!(!deadlines.expire_if_idle());
        assert!(matches!(next(&deadlines), NextStep::Wait(Some((_, WaitKind::Head)))));
    }

    #[test]
    fn arrived_bytes_prevent_a_displacement() {
        let pending = PendingConnections::default();
        let (unread, read) = (idle(&pending), idle(&pending));
        assert!(one_of(&pending).is_none());
        assert!(!unread.decide_displacement(|| false));
        assert!(matches!(next(&unread), NextStep::Wait(_)), "and it is not asked again");
        assert!(one_of(&pending).is_none());
        read.on_read();
        assert!(!read.decide_displacement(|| panic!("it is not known yet what has come")));
        read.on_parsed(Some(true));
        assert!(!read.decide_displacement(|| panic!("it is no longer idle")));
        assert!(matches!(next(&read), NextStep::Wait(Some((_, WaitKind::Head)))));
    }

    #[test]
    fn answer_that_is_not_taken_yet_is_never_cut() {
        let pending = PendingConnections::default();
        let (slow, _other) = (one_of(&pending).unwrap(), one_of(&pending));
        slow.on_request_start(Version::HTTP_11, false);
        slow.on_blocked(0);
        slow.on_response();
        assert!(matches!(next(&slow), NextStep::Wait(_)));
        assert!(
            pending.claim(Client::new([192, 0, 2, 1].into()), MOST).is_none(),
            "nor asked to leave"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_reads_slowly_is_not_stalled() {
        let deadlines = deadlines();
        deadlines.on_request_start(Version::HTTP_11, false);
        deadlines.on_write(1000);
        deadlines.on_blocked(1000);
        for left in [999, 998] {
            tokio::time::advance(Duration::from_secs(29)).await;
            deadlines.on_blocked(left);
        }
        let until = Instant::now() + Duration::from_secs(30);
        assert_eq!(deadlines.deadline(), Some((until, WaitKind::Write)));
    }

    /// Lets the client take `bytes` a second, and says after how many seconds it was too slow.
    async fn too_slow_after(bytes: u64) -> Option<u64> {
        let deadlines = deadlines();
        let timeouts = RouteTimeouts { body_pace: Some(500), ..RouteTimeouts::default() };
        deadlines.on_request_start(Version::HTTP_11, false);
        deadlines.set_route_timeouts(&timeouts);
        deadlines.on_write(1 << 20);
        for second in 0..200 {
            deadlines.on_blocked((1 << 20) - second * bytes);
            if let Some((at, WaitKind::Pace)) = deadlines.deadline()
                && at <= Instant::now()
            {
                return Some(second);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_takes_an_answer_too_slowly_is_given_up() {
        assert_eq!(too_slow_after(499).await, Some(29));
        assert_eq!(too_slow_after(500).await, None);
    }

    #[test]
    fn client_eof_is_hidden_while_a_request_is_answered() {
        let deadlines = deadlines();
        let shown = || deadlines.on_client_eof(Waker::noop());
        assert!(shown(), "before a request");
        deadlines.on_request_start(Version::HTTP_11, false);
        assert!(!shown());
        deadlines.on_response();
        assert!(!shown(), "its answer is not with the kernel");
        deadlines.on_flush(None);
        assert!(shown() && deadlines.has_client_eof());
    }
}
