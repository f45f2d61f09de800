//! Bodies of plain HTTP on their way: bounded in size and pace, and never left to stall.
//!
//! Nothing is buffered beyond one read of hyper's. Orders to an answer's exchange, and its ending,
//! belong to `flight`.

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

use crate::close::{By, ExchangeReason};
use crate::data::http::course::Course;
use crate::data::http::expect::{Held, Wanted};
use crate::data::http::flight::{Ending, Flight};
use crate::data::http::forward;
use crate::data::http::pace::Pace;
use crate::data::http::patience::Patience;
use crate::snapshot::route::Route;
use crate::sync::lock;

/// A request's body on its way to the backend.
pub enum Upload {
    /// The request has no body.
    Empty,
    /// The body as the client sends it.
    Streamed(Box<Streamed>),
}

/// A body with a bound, a deadline between its bytes and a least pace.
pub struct Streamed {
    /// `None` means dropped: `drop` hands it to the connection's clock.
    incoming: Option<Incoming>,
    /// Bytes that may still come under the route's `max_body`.
    left: u64,
    /// The wait for a 100, while the client holds the body back. `None` means that it may be read.
    held: Option<Held>,
    wait: Wait,
    fault: Fault,
    /// Knows whether the client has ended its side, which `Watched` hides from hyper during a
    /// request: for hyper, a truncated body would stay pending for ever.
    patience: Patience,
    /// Notified once the whole body has been handed to hyper. `None` means not yet on a connection.
    course: Option<Course>,
}

/// Why an upload was given up, shared with the request that awaits the answer.
#[derive(Clone, Default)]
pub struct Fault(Arc<AtomicU8>);

const TOO_BIG: u8 = 1;
const STALLED: u8 = 2;
const BROKEN: u8 = 3;
const SLOW: u8 = 4;
const LEFT: u8 = 5;

impl Fault {
    /// Whether more came than `max_body`.
    pub fn is_too_big(&self) -> bool {
        self.is(TOO_BIG)
    }

    /// Whether the body cannot be read.
    pub fn is_broken(&self) -> bool {
        self.is(BROKEN)
    }

    /// Why the exchange ends, if the upload ended it.
    pub fn ending(&self) -> Option<Ending> {
        let reason = match self.0.load(Ordering::Relaxed) {
            TOO_BIG | BROKEN => ExchangeReason::ClientBody,
            STALLED => ExchangeReason::BodyStall,
            SLOW => ExchangeReason::Pace,
            LEFT => ExchangeReason::ClientLeft,
            _ => return None,
        };
        Some(Ending::new(By::Client, reason))
    }

    /// Why the client can get no answer, as a line for people. `None` means that it can get one.
    pub fn given_up(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            STALLED => Some("the client's body stalled"),
            SLOW => Some("the client's body came more slowly than body_pace"),
            LEFT => Some("the client left in the middle of its body"),
            _ => None,
        }
    }

    fn is(&self, fault: u8) -> bool {
        self.0.load(Ordering::Relaxed) == fault
    }

    fn set(&self, fault: u8) -> Broken {
        self.0.store(fault, Ordering::Relaxed);
        Broken(match fault {
            TOO_BIG => "the body is too large",
            STALLED => "the body stalled",
            SLOW => "the body is too slow",
            BROKEN => "the body cannot be read",
            _ => "the client's body broke off",
        })
    }
}

/// A body that cannot go on.
#[derive(Debug)]
pub struct Broken(&'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

impl Upload {
    /// The body of a request on `route`, which bounds it. `patience` tells whether it broke off.
    pub fn streamed(incoming: Incoming, route: &Route, patience: Patience) -> (Upload, Fault) {
        let fault = Fault::default();
        let streamed = Streamed {
            incoming: Some(incoming),
            left: route.max_body.unwrap_or(u64::MAX),
            held: None,
            wait: Wait::new(route.timeouts.body_stall, Pace::new(route.timeouts.body_pace)),
            fault: fault.clone(),
            patience,
            course: None,
        };
        (Upload::Streamed(Box::new(streamed)), fault)
    }

    /// Reads nothing of the body until the backend wants it: its client waits for a 100.
    pub fn holds(&mut self) {
        if let Upload::Streamed(body) = self {
            body.held = Some(Held::default());
        }
    }

    /// The signal that lets a held body go. `None` means that the body is not held back.
    pub fn wanted(&self) -> Option<Wanted> {
        match self {
            Upload::Empty => None,
            Upload::Streamed(body) => body.held.as_ref().map(Held::wanted),
        }
    }

    /// Reports in `course` when the whole body has been handed to hyper.
    pub fn reports_to(&mut self, course: Course) {
        if let Upload::Streamed(body) = self {
            body.course = Some(course);
        }
    }
}

impl Streamed {
    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// Notes that the body was read whole. Called as soon as `is_end_stream` is true too: hyper may
    /// ask that instead of polling for the final `None`.
    fn over(&self) {
        self.patience.body_read();
        if let Some(course) = &self.course {
            course.handed_over();
        }
    }
}

impl Drop for Streamed {
    /// Hands an unread rest to the connection's clock: nothing else reads on from here, and the
    /// connection has to end behind its answer.
    fn drop(&mut self) {
        self.patience.body_given_up(self.incoming.take());
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Upload::Streamed(body) = self.get_mut() else { return Poll::Ready(None) };
        let Some(incoming) = &mut body.incoming else { return Poll::Ready(None) };
        if let Some(held) = &mut body.held {
            ready!(held.poll(cx));
            body.held = None;
        }
        let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
            if body.patience.has_broken_off(cx.waker()) {
                return Poll::Ready(Some(Err(body.fault.set(LEFT))));
            }
            let fault = match ready!(body.wait.poll_over(cx)) {
                Over::Stalled => STALLED,
                Over::Slow => SLOW,
            };
            return Poll::Ready(Some(Err(body.fault.set(fault))));
        };
        Poll::Ready(match frame {
            None => {
                body.over();
                None
            }
            // Trailers end a body. They are not passed on: they were never judged.
            Some(Ok(frame)) if frame.is_trailers() => {
                body.over();
                None
            }
            Some(Err(error)) => {
                let fault = if is_malformed(&error) { BROKEN } else { LEFT };
                Some(Err(body.fault.set(fault)))
            }
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                body.wait.came(size);
                match body.left.checked_sub(size) {
                    None => Some(Err(body.fault.set(TOO_BIG))),
                    Some(left) => {
                        body.left = left;
                        if body.is_end_stream() {
                            body.over();
                        }
                        Some(Ok(frame))
                    }
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Streamed(body) => {
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
pub struct ReadWhole(());

/// A hook for the end of an answer's body. Dropped uncalled, the answer was not read to its end.
pub trait OnWhole: Send + Sync {
    /// The answer's body was read to its end.
    fn whole(self: Box<Self>, proof: ReadWhole);
}

/// An answer's body on its way to the client. hyper drops it, and `held` with it, once the last
/// of it is handed over.
pub struct Outgoing {
    kind: Kind,
    held: Option<Box<dyn Send + Sync>>,
}

enum Kind {
    Full(Full<Bytes>),
    Relayed(Box<Relayed>),
}

/// A backend's body whose beginning was read ahead, as far as it came together with the head.
pub struct Begun {
    incoming: Incoming,
    first: Option<Frame<Bytes>>,
}

impl Begun {
    /// Polls `incoming` once for its first frame, and waits for nothing.
    ///
    /// # Errors
    /// The body is broken from its start. The client has been sent nothing yet, so it can get a
    /// 502.
    pub async fn read(mut incoming: Incoming) -> hyper::Result<Begun> {
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut incoming).poll_frame(cx))).await;
        match first {
            Poll::Ready(Some(Err(error))) => Err(error),
            Poll::Ready(Some(Ok(first))) => Ok(Begun { incoming, first: Some(first) }),
            Poll::Ready(None) | Poll::Pending => Ok(Begun { incoming, first: None }),
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
        rest.exact().map_or(rest, |rest| SizeHint::with_exact(rest + held))
    }
}

/// An answer as the backend sends it.
struct Relayed {
    body: Begun,
    wait: Wait,
    on_whole: Option<Box<dyn OnWhole>>,
    flight: Option<Arc<Mutex<Flight>>>,
    /// The fault of the request's body, which can break the answer too.
    fault: Fault,
}

impl Outgoing {
    /// An answer without a body.
    pub fn empty() -> Self {
        Outgoing::full(Bytes::new())
    }

    /// A body that is there from the start.
    pub fn full(bytes: Bytes) -> Self {
        Outgoing { kind: Kind::Full(Full::new(bytes)), held: None }
    }

    /// A body as the backend sends it. `stall` is its longest pause; `None` means unlimited.
    pub fn relayed(body: Begun, stall: Option<Duration>) -> Self {
        let wait = Wait::new(stall, Pace::new(None));
        let fault = Fault::default();
        let relayed = Relayed { body, wait, on_whole: None, flight: None, fault };
        Outgoing { kind: Kind::Relayed(Box::new(relayed)), held: None }
    }

    /// Calls `on_whole` when the body has been read to its end, and drops it otherwise.
    pub fn on_whole(mut self, on_whole: Box<dyn OnWhole>) -> Self {
        if let Kind::Relayed(relayed) = &mut self.kind {
            relayed.on_whole = Some(on_whole);
            relayed.look();
        }
        self
    }

    /// Ties the body to its exchange, whose orders it obeys. `fault` is that of the request's
    /// body, which may still be on its way.
    pub fn within(mut self, flight: Flight, fault: Fault) -> Self {
        if let Kind::Relayed(relayed) = &mut self.kind {
            relayed.fault = fault;
            relayed.flight = Some(flight.shared());
            relayed.look();
        }
        self
    }

    /// Keeps `held` until the body is over.
    pub fn holding(mut self, held: impl Send + Sync + 'static) -> Self {
        self.held = Some(Box::new((held, self.held.take())));
        self
    }
}

impl Relayed {
    /// Notes an end that no further poll would show: hyper asks `is_end_stream` instead.
    fn look(&mut self) {
        if self.body.is_end_stream() {
            self.whole();
        }
    }

    fn whole(&mut self) {
        if let Some(on_whole) = self.on_whole.take() {
            on_whole.whole(ReadWhole(()));
        }
        self.ends(Ending::new(By::Backend, ExchangeReason::Complete));
    }

    fn ends(&mut self, ending: Ending) {
        if let Some(flight) = self.flight.take() {
            lock(&flight).ends(ending);
        }
        // `whole` takes it first. Still there, the answer was cut: dropping it closes the backend's
        // connection.
        self.on_whole = None;
    }

    fn breaks(&mut self, ending: Ending, why: &'static str) -> Broken {
        // Before `ends`, which takes the flight.
        if let Some(flight) = &self.flight {
            lock(flight).cuts();
        }
        self.ends(ending);
        Broken(why)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        // Before the body: a backend that always has bytes ready must not outrun an order.
        let ordered = self.flight.as_ref().map(|flight| lock(flight).poll_ordered(cx));
        if let Some(Poll::Ready(ending)) = ordered {
            return Poll::Ready(Some(Err(self.breaks(ending, "the exchange was ended"))));
        }
        let Poll::Ready(frame) = self.body.poll_frame(cx) else {
            ready!(self.wait.poll_over(cx));
            let ending = Ending::new(By::Backend, ExchangeReason::BodyStall);
            return Poll::Ready(Some(Err(self.breaks(ending, "the backend's body stalled"))));
        };
        Poll::Ready(match frame {
            None => {
                self.whole();
                None
            }
            Some(Err(_)) => {
                // A broken upload ends the backend's connection, and so breaks the answer: then the
                // client is to blame.
                let gone = Ending::new(By::Backend, ExchangeReason::BackendGone);
                let ending = self.fault.ending().unwrap_or(gone);
                Some(Err(self.breaks(ending, "the backend's body broke off")))
            }
            // Trailers end a body: hyper does not poll behind them.
            Some(Ok(frame)) if frame.is_trailers() => {
                self.whole();
                let mut trailers = frame.into_trailers().unwrap_or_default();
                forward::tidy_trailers(&mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.wait.came(size);
                if let Some(flight) = &self.flight {
                    lock(flight).passed(size);
                }
                self.look();
                Some(Ok(frame))
            }
        })
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.get_mut().kind {
            Kind::Full(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Kind::Relayed(relayed) => relayed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(full) => full.is_end_stream(),
            Kind::Relayed(relayed) => relayed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(full) => full.size_hint(),
            Kind::Relayed(relayed) => relayed.body.size_hint(),
        }
    }
}

/// A deadline that every byte sets back, and a least pace. The timer is made at the first wait.
struct Wait {
    /// The longest pause; `None` means unlimited.
    stall: Option<Duration>,
    pace: Pace,
    /// When the present wait began. `None` means that nothing is waited for.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Why a wait is over.
enum Over {
    /// No byte came within the longest pause.
    Stalled,
    /// Bytes came more slowly than `body_pace`.
    Slow,
}

impl Wait {
    fn new(stall: Option<Duration>, pace: Pace) -> Self {
        Wait { stall, pace, since: None, timer: None }
    }

    fn came(&mut self, bytes: u64) {
        if self.since.take().is_some() {
            self.pace.rests(Instant::now());
        }
        self.pace.moved(bytes);
    }

    /// Ready once nothing, or too little, has come for too long. To be called only when a read is
    /// pending: the first call starts the wait.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        self.pace.waits(since);
        let stalls = self.stall.map(|stall| since + stall);
        loop {
            let now = Instant::now();
            if stalls.is_some_and(|at| at <= now) {
                return Poll::Ready(Over::Stalled);
            }
            if self.pace.is_too_slow(now) {
                return Poll::Ready(Over::Slow);
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
