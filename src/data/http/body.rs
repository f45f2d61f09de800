//! Bodies of plain HTTP on their way: bounded in size and pace, and never left to stall.
//!
//! Nothing is buffered beyond one read of hyper's. Orders to an answer's exchange, and its ending,
//! belong to `in_flight`.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::close::{ExchangeReason, Initiator};
use crate::data::http::deadlines::HttpDeadlines;
use crate::data::http::expect::{ContinueSignal, ContinueWait};
use crate::data::http::forward;
use crate::data::http::in_flight::{ExchangeEnd, InFlightExchange};
use crate::data::http::pace::Pace;
use crate::data::http::progress::RequestProgress;
use crate::snapshot::route::Route;
use crate::sync::lock;

/// A request's body on its way to the backend.
pub enum RequestBody {
    /// The request has no body.
    Empty,
    /// The body as the client sends it.
    Streamed(Box<StreamedBody>),
}

/// A body with a bound, a deadline between its bytes and a least pace.
pub struct StreamedBody {
    /// `None` means dropped: `drop` hands it to the connection's deadlines.
    incoming: Option<Incoming>,
    /// Bytes that may still come under the route's `max_body`.
    left: u64,
    /// The wait for a 100, while the client holds the body back. `None` means that it may be read.
    held: Option<ContinueWait>,
    wait: BodyDeadline,
    fault: UploadFault,
    /// Knows whether the client has ended its side, which `TimedStream` hides from hyper during a
    /// request: for hyper, a truncated body would stay pending for ever.
    deadlines: HttpDeadlines,
    /// Notified once the whole body has been handed to hyper. `None` means not yet on a connection.
    progress: Option<RequestProgress>,
}

/// Why an upload was given up, shared with the request that awaits the answer.
#[derive(Clone, Default)]
pub struct UploadFault(Arc<AtomicU8>);

const UPLOAD_TOO_BIG: u8 = 1;
const UPLOAD_STALLED: u8 = 2;
const UPLOAD_MALFORMED: u8 = 3;
const UPLOAD_TOO_SLOW: u8 = 4;
const UPLOAD_CLIENT_LEFT: u8 = 5;

impl UploadFault {
    /// Whether more came than `max_body`.
    pub fn is_too_big(&self) -> bool {
        self.is(UPLOAD_TOO_BIG)
    }

    /// Whether the body cannot be read.
    pub fn is_broken(&self) -> bool {
        self.is(UPLOAD_MALFORMED)
    }

    /// Why the exchange ends, if the upload ended it.
    pub fn exchange_end(&self) -> Option<ExchangeEnd> {
        let reason = match self.0.load(Ordering::Relaxed) {
            UPLOAD_TOO_BIG | UPLOAD_MALFORMED => ExchangeReason::ClientBody,
            UPLOAD_STALLED => ExchangeReason::BodyStall,
            UPLOAD_TOO_SLOW => ExchangeReason::TooSlow,
            UPLOAD_CLIENT_LEFT => ExchangeReason::ClientLeft,
            _ => return None,
        };
        Some(ExchangeEnd::new(Initiator::Client, reason))
    }

    /// Why the client can get no answer, as a line for people. `None` means that it can get one.
    pub fn no_answer_reason(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            UPLOAD_STALLED => Some("the client's body stalled"),
            UPLOAD_TOO_SLOW => Some("the client's body came more slowly than body_pace"),
            UPLOAD_CLIENT_LEFT => Some("the client left in the middle of its body"),
            _ => None,
        }
    }

    fn is(&self, fault: u8) -> bool {
        self.0.load(Ordering::Relaxed) == fault
    }

    fn set(&self, fault: u8) -> BodyError {
        self.0.store(fault, Ordering::Relaxed);
        BodyError(match fault {
            UPLOAD_TOO_BIG => "the body is too large",
            UPLOAD_STALLED => "the body stalled",
            UPLOAD_TOO_SLOW => "the body is too slow",
            UPLOAD_MALFORMED => "the body cannot be read",
            _ => "the client's body broke off",
        })
    }
}

/// A body that cannot go on.
#[derive(Debug)]
pub struct BodyError(&'static str);

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BodyError {}

impl RequestBody {
    /// The body of a request on `route`, which bounds it. `deadlines` tells whether it broke off.
    pub fn streamed(
        incoming: Incoming,
        route: &Route,
        deadlines: HttpDeadlines,
    ) -> (RequestBody, UploadFault) {
        let fault = UploadFault::default();
        let streamed = StreamedBody {
            incoming: Some(incoming),
            left: route.max_body.unwrap_or(u64::MAX),
            held: None,
            wait: BodyDeadline::new(route.timeouts.body_stall, Pace::new(route.timeouts.body_pace)),
            fault: fault.clone(),
            deadlines,
            progress: None,
        };
        (RequestBody::Streamed(Box::new(streamed)), fault)
    }

    /// Reads nothing of the body until the backend wants it: its client waits for a 100.
    pub fn hold_for_continue(&mut self) {
        if let RequestBody::Streamed(body) = self {
            body.held = Some(ContinueWait::default());
        }
    }

    /// The signal that lets a held body go. `None` means that the body is not held back.
    pub fn continue_signal(&self) -> Option<ContinueSignal> {
        match self {
            RequestBody::Empty => None,
            RequestBody::Streamed(body) => body.held.as_ref().map(ContinueWait::signal),
        }
    }

    /// Reports in `progress` when the whole body has been handed to hyper.
    pub fn report_progress_to(&mut self, progress: RequestProgress) {
        if let RequestBody::Streamed(body) = self {
            body.progress = Some(progress);
        }
    }
}

impl StreamedBody {
    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// Notes that the body was read whole. Called as soon as `is_end_stream` is true too: hyper may
    /// ask that instead of polling for the final `None`.
    fn note_end(&self) {
        self.deadlines.on_body_read();
        if let Some(progress) = &self.progress {
            progress.on_body_handed_over();
        }
    }
}

impl Drop for StreamedBody {
    /// Hands an unread rest to the connection's deadlines: nothing else reads on from here, and the
    /// connection has to end behind its answer.
    fn drop(&mut self) {
        self.deadlines.discard_body(self.incoming.take());
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let RequestBody::Streamed(body) = self.get_mut() else { return Poll::Ready(None) };
        let Some(incoming) = &mut body.incoming else { return Poll::Ready(None) };
        if let Some(held) = &mut body.held {
            // `incoming` is not polled before: its first poll makes hyper send the 100.
            ready!(held.poll(cx));
            body.held = None;
        }
        let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
            // hyper's body stays pending behind the end of the client's side, which only the
            // deadlines know.
            if body.deadlines.has_broken_off(cx.waker()) {
                return Poll::Ready(Some(Err(body.fault.set(UPLOAD_CLIENT_LEFT))));
            }
            let fault = match ready!(body.wait.poll_failure(cx)) {
                WaitFailure::Stalled => UPLOAD_STALLED,
                WaitFailure::Slow => UPLOAD_TOO_SLOW,
            };
            return Poll::Ready(Some(Err(body.fault.set(fault))));
        };
        Poll::Ready(match frame {
            None => {
                body.note_end();
                None
            }
            // Trailers end a body. They are not passed on: they were never judged.
            Some(Ok(frame)) if frame.is_trailers() => {
                body.note_end();
                None
            }
            Some(Err(error)) => {
                let fault =
                    if is_malformed(&error) { UPLOAD_MALFORMED } else { UPLOAD_CLIENT_LEFT };
                Some(Err(body.fault.set(fault)))
            }
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                body.wait.add(size);
                match body.left.checked_sub(size) {
                    // The frame that goes beyond the bound is dropped: no byte over `max_body`
                    // reaches the backend.
                    None => Some(Err(body.fault.set(UPLOAD_TOO_BIG))),
                    Some(left) => {
                        body.left = left;
                        if body.is_end_stream() {
                            body.note_end();
                        }
                        Some(Ok(frame))
                    }
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            // hyper's client chooses the framing by this where the head has no length of its own.
            RequestBody::Streamed(body) => {
                body.incoming.as_ref().map(Incoming::size_hint).unwrap_or_default()
            }
        }
    }
}

/// Whether a body's framing is malformed, rather than cut short: hyper's error carries that of
/// its decoder.
fn is_malformed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let decoder = source.and_then(|source| source.downcast_ref::<io::Error>());
    let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput];
    decoder.is_some_and(|error| kinds.contains(&error.kind()))
}

/// Proof that the body of an answer was read to its end. Only this file makes one.
pub struct ReadToEnd(());

/// A hook for the end of an answer's body. Dropped uncalled, the answer was not read to its end.
pub trait OnBodyEnd: Send + Sync {
    /// The answer's body was read to its end.
    fn body_ended(self: Box<Self>, proof: ReadToEnd);
}

/// An answer's body on its way to the client. hyper drops it, and `held` with it, once the last
/// of it is handed over.
pub struct ResponseBody {
    kind: ResponseBodyKind,
    held: Option<Box<dyn Send + Sync>>,
}

enum ResponseBodyKind {
    Full(Full<Bytes>),
    Relayed(Box<RelayedBody>),
}

/// A backend's body whose beginning was read ahead, as far as it came together with the head.
pub struct PrefetchedBody {
    incoming: Incoming,
    first: Option<Frame<Bytes>>,
}

impl PrefetchedBody {
    /// Polls `incoming` once for its first frame, and waits for nothing.
    ///
    /// # Errors
    /// The body is broken from its start. The client has been sent nothing yet, so it can get a
    /// 502.
    pub async fn prefetch(mut incoming: Incoming) -> hyper::Result<PrefetchedBody> {
        // The waker registered here is of the task that waits for the head. The next poll of the
        // body replaces it.
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut incoming).poll_frame(cx))).await;
        match first {
            Poll::Ready(Some(Err(error))) => Err(error),
            Poll::Ready(Some(Ok(first))) => Ok(PrefetchedBody { incoming, first: Some(first) }),
            Poll::Ready(None) | Poll::Pending => Ok(PrefetchedBody { incoming, first: None }),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // hyper's own hint no longer counts the frame that was read ahead.
        let held = self.first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        let rest = self.incoming.size_hint();
        // An inexact hint stays true: the frame only adds to its lower bound.
        rest.exact().map_or(rest, |rest| SizeHint::with_exact(rest + held))
    }
}

/// An answer as the backend sends it.
struct RelayedBody {
    body: PrefetchedBody,
    wait: BodyDeadline,
    on_whole: Option<Box<dyn OnBodyEnd>>,
    in_flight: Option<Arc<Mutex<InFlightExchange>>>,
    /// The fault of the request's body, which can break the answer too.
    fault: UploadFault,
}

impl ResponseBody {
    /// An answer without a body.
    pub fn empty() -> Self {
        ResponseBody::full(Bytes::new())
    }

    /// A body that is there from the start.
    pub fn full(bytes: Bytes) -> Self {
        ResponseBody { kind: ResponseBodyKind::Full(Full::new(bytes)), held: None }
    }

    /// A body as the backend sends it. `stall` is its longest pause; `None` means unlimited.
    pub fn relayed(body: PrefetchedBody, stall: Option<Duration>) -> Self {
        // No pace: a backend may be slow. The pace of the client is measured under hyper, at its
        // socket.
        let wait = BodyDeadline::new(stall, Pace::new(None));
        let fault = UploadFault::default();
        let relayed = RelayedBody { body, wait, on_whole: None, in_flight: None, fault };
        ResponseBody { kind: ResponseBodyKind::Relayed(Box::new(relayed)), held: None }
    }

    /// Calls `on_end` when the body has been read to its end, and drops it otherwise.
    pub fn on_end(mut self, on_whole: Box<dyn OnBodyEnd>) -> Self {
        if let ResponseBodyKind::Relayed(relayed) = &mut self.kind {
            relayed.on_whole = Some(on_whole);
            relayed.check_end_of_stream();
        }
        self
    }

    /// Ties the body to its exchange, whose orders it obeys. `fault` is that of the request's
    /// body, which may still be on its way.
    pub fn with_exchange(mut self, in_flight: InFlightExchange, fault: UploadFault) -> Self {
        if let ResponseBodyKind::Relayed(relayed) = &mut self.kind {
            relayed.fault = fault;
            relayed.in_flight = Some(in_flight.into_shared());
            relayed.check_end_of_stream();
        }
        self
    }

    /// Keeps `held` until the body is over.
    pub fn with_guard(mut self, held: impl Send + Sync + 'static) -> Self {
        // Around the former guard, which is dropped together with this one.
        self.held = Some(Box::new((held, self.held.take())));
        self
    }
}

impl RelayedBody {
    /// Notes an end that no further poll would show: hyper asks `is_end_stream` instead.
    fn check_end_of_stream(&mut self) {
        if self.body.is_end_stream() {
            self.note_end();
        }
    }

    fn note_end(&mut self) {
        if let Some(on_whole) = self.on_whole.take() {
            on_whole.body_ended(ReadToEnd(()));
        }
        self.set_end(ExchangeEnd::new(Initiator::Backend, ExchangeReason::Complete));
    }

    fn set_end(&mut self, ending: ExchangeEnd) {
        if let Some(in_flight) = self.in_flight.take() {
            lock(&in_flight).set_end(ending);
        }
        // `body_ended` takes it first. Still there, the answer was cut: dropping it closes the
        // backend's connection.
        self.on_whole = None;
    }

    fn fail(&mut self, ending: ExchangeEnd, why: &'static str) -> BodyError {
        // Before `set_end`, which takes the exchange.
        if let Some(in_flight) = &self.in_flight {
            lock(in_flight).cut();
        }
        self.set_end(ending);
        BodyError(why)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // Before the body: a backend that always has bytes ready must not outrun an order.
        let ordered = self.in_flight.as_ref().map(|in_flight| lock(in_flight).poll_end(cx));
        if let Some(Poll::Ready(ending)) = ordered {
            return Poll::Ready(Some(Err(self.fail(ending, "the exchange was ended"))));
        }
        let Poll::Ready(frame) = self.body.poll_frame(cx) else {
            ready!(self.wait.poll_failure(cx));
            let ending = ExchangeEnd::new(Initiator::Backend, ExchangeReason::BodyStall);
            return Poll::Ready(Some(Err(self.fail(ending, "the backend's body stalled"))));
        };
        Poll::Ready(match frame {
            None => {
                self.note_end();
                None
            }
            Some(Err(_)) => {
                // A broken upload ends the backend's connection, and so breaks the answer: then the
                // client is to blame.
                let gone = ExchangeEnd::new(Initiator::Backend, ExchangeReason::BackendGone);
                let ending = self.fault.exchange_end().unwrap_or(gone);
                Some(Err(self.fail(ending, "the backend's body broke off")))
            }
            // Trailers end a body: hyper does not poll behind them.
            Some(Ok(frame)) if frame.is_trailers() => {
                self.note_end();
                let mut trailers = frame.into_trailers().unwrap_or_default();
                forward::strip_hop_by_hop_trailers(&mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.wait.add(size);
                if let Some(in_flight) = &self.in_flight {
                    lock(in_flight).add_bytes(size);
                }
                self.check_end_of_stream();
                Some(Ok(frame))
            }
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().kind {
            ResponseBodyKind::Full(full) => {
                Pin::new(full).poll_frame(cx).map_err(|never| match never {})
            }
            ResponseBodyKind::Relayed(relayed) => relayed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            ResponseBodyKind::Full(full) => full.is_end_stream(),
            ResponseBodyKind::Relayed(relayed) => relayed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ResponseBodyKind::Full(full) => full.size_hint(),
            ResponseBodyKind::Relayed(relayed) => relayed.body.size_hint(),
        }
    }
}

/// A deadline that every byte sets back, and a least pace. The timer is made at the first wait.
struct BodyDeadline {
    /// The longest pause; `None` means unlimited.
    stall: Option<Duration>,
    pace: Pace,
    /// When the present wait began. `None` means that nothing is waited for.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Why a wait is over.
enum WaitFailure {
    /// No byte came within the longest pause.
    Stalled,
    /// Bytes came more slowly than `body_pace`.
    Slow,
}

impl BodyDeadline {
    fn new(stall: Option<Duration>, pace: Pace) -> Self {
        BodyDeadline { stall, pace, since: None, timer: None }
    }

    fn add(&mut self, bytes: u64) {
        if self.since.take().is_some() {
            self.pace.stop_wait(Instant::now());
        }
        self.pace.add_bytes(bytes);
    }

    /// Ready once nothing, or too little, has come for too long. To be called only when a read is
    /// pending: the first call starts the wait.
    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<WaitFailure> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        self.pace.start_wait(since);
        // From the first pending read on, not from this poll: a caller that is woken by other
        // events must not extend the wait.
        let stalls = self.stall.map(|stall| since + stall);
        loop {
            let now = Instant::now();
            if stalls.is_some_and(|at| at <= now) {
                return Poll::Ready(WaitFailure::Stalled);
            }
            // After the stall, so that a body which stopped altogether is reported as stalled.
            if self.pace.is_too_slow(now) {
                return Poll::Ready(WaitFailure::Slow);
            }
            let Some(due) = self.pace.due().into_iter().chain(stalls).min() else {
                return Poll::Pending;
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}
