//! An exchange in flight: a forwarded request and its answer, from the charge to the last byte.
//!
//! It carries out orders from outside, bounds how long the exchange may last, and books its
//! one ending when it is dropped, whatever dropped it. It moves no byte.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use jiff::Timestamp;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::close::{ExchangePhase, ExchangeReason, Initiator, Traffic};
use crate::data::http::deadlines::{Cancel, CutKind, HttpDeadlines, WaitKind};
use crate::observe::log::decision::{self, ExchangeClosed};
use crate::observe::metrics::RouteMetrics;
use crate::observe::spans::{FinishedSpan, SpanQueue};
use crate::refusal::Refusal;
use crate::tunnels::budget::Full;
use crate::tunnels::{EndOrder, ExchangeRegistration, MIN_STREAM_AGE, TunnelRules};

/// Why an exchange ended, and who acted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeEnd {
    /// The side that acted first.
    pub by: Initiator,
    /// Why the exchange ended, as the log and the metrics name it.
    pub reason: ExchangeReason,
    /// The refusal of an exchange that is no longer permitted, or not for so long. `None` means
    /// that no rule refused it.
    pub refusal: Option<Refusal>,
}

/// What the answer's head says of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// A length, so that the client sees whether it is whole.
    Sized,
    /// Chunks, or everything up to the end of the connection.
    UnknownLength,
    /// A stream of events, which ends only when a side ends it.
    EventStream,
}

impl BodyKind {
    /// Reads the shape off the fields of an answer's head.
    pub fn from_headers(headers: &HeaderMap) -> BodyKind {
        match headers.get(CONTENT_TYPE).map(|value| value.as_bytes()) {
            Some(kind) if is_event_stream(kind) => BodyKind::EventStream,
            _ if headers.contains_key(CONTENT_LENGTH) => BodyKind::Sized,
            _ => BodyKind::UnknownLength,
        }
    }
}

/// `text/event-stream`, with whatever parameters (HTML, §9.2).
fn is_event_stream(kind: &[u8]) -> bool {
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// An exchange on the books. Dropped without an ending, its client has left or was given up.
pub struct InFlightExchange {
    exchange: ExchangeRegistration,
    metrics: Arc<RouteMetrics>,
    deadlines: HttpDeadlines,
    began: Instant,
    phase: ExchangePhase,
    shape: BodyKind,
    /// How the connection ends where the answer is cut.
    cut: CutKind,
    /// Whether a drain may refuse the request: its client may safely repeat it.
    repeatable: bool,
    /// Bytes of the answer's body.
    bytes: u64,
    /// The rules, and the order to end, as they were last read from the table.
    rules: TunnelRules,
    end: Option<EndOrder>,
    timer: Option<Pin<Box<Sleep>>>,
    ending: Option<ExchangeEnd>,
    /// Where the span of its end goes. `None` means that its trace is not exported.
    spans: Option<Arc<SpanQueue>>,
}

impl ExchangeEnd {
    /// An ending that is no refusal.
    pub fn new(by: Initiator, reason: ExchangeReason) -> Self {
        ExchangeEnd { by, reason, refusal: None }
    }

    fn refused(reason: ExchangeReason, refusal: Refusal) -> Self {
        ExchangeEnd { by: Initiator::Sidegate, reason, refusal: Some(refusal) }
    }
}

impl InFlightExchange {
    /// Begins `exchange`; `repeatable` says whether its method is safe.
    pub fn new(
        exchange: ExchangeRegistration,
        metrics: Arc<RouteMetrics>,
        deadlines: HttpDeadlines,
        repeatable: bool,
    ) -> Self {
        metrics.exchange_opened();
        InFlightExchange {
            rules: exchange.entry.rules(),
            exchange,
            metrics,
            deadlines,
            began: Instant::now(),
            phase: ExchangePhase::Request,
            shape: BodyKind::UnknownLength,
            cut: CutKind::Close,
            repeatable,
            bytes: 0,
            end: None,
            timer: None,
            ending: None,
            spans: None,
        }
    }

    /// Keeps the span of its end in `spans`.
    pub fn with_spans(mut self, spans: Option<Arc<SpanQueue>>) -> Self {
        self.spans = spans;
        self
    }

    /// Waits for the answer's head, or until the exchange must end before it.
    ///
    /// # Errors
    /// The ending that came first.
    pub async fn run_until<T>(&mut self, head: impl Future<Output = T>) -> Result<T, ExchangeEnd> {
        let mut head = pin!(head);
        poll_fn(|cx| {
            // First: an order wins over a head that comes at the same time.
            if let Poll::Ready(ending) = self.poll_end(cx) {
                self.set_end(ending);
                return Poll::Ready(Err(ending));
            }
            head.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Notes that the answer's head has come. `in_chunks` says whether the client gets the answer
    /// in chunks, and sees by the last one whether it is whole.
    pub fn note_head(&mut self, shape: BodyKind, in_chunks: bool) {
        self.phase = ExchangePhase::Answer;
        self.shape = shape;
        // Without a last chunk to miss, a client could take a closed connection for the end.
        self.cut = if in_chunks { CutKind::Close } else { CutKind::Reset };
        if shape == BodyKind::EventStream {
            self.exchange.entry.mark_event_stream();
        }
    }

    /// Shares the exchange with the connection's deadlines, which cut it where hyper does not look.
    pub fn into_shared(self) -> Arc<Mutex<InFlightExchange>> {
        let deadlines = self.deadlines.clone();
        let shared = Arc::new(Mutex::new(self));
        // Weak, so that the deadlines don't keep the exchange on the books once its body is gone.
        let weak: Weak<Mutex<InFlightExchange>> = Arc::downgrade(&shared);
        deadlines.attach_exchange(weak);
        shared
    }

    /// Counts bytes of the answer's body that went on to the client.
    pub fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Notes how the exchange ended; the first ending holds.
    pub fn set_end(&mut self, ending: ExchangeEnd) {
        self.ending.get_or_insert(ending);
    }

    /// Cuts the answer, in the way that keeps its client from taking it for whole.
    pub fn cut(&self) {
        self.deadlines.set_cut(self.cut);
    }

    /// Ready when the exchange must end, by an order from outside or by a limit of its policy.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<ExchangeEnd> {
        // Kept in `self`: the table reports each change only once, and this may be polled again
        // before the ending is due.
        if let Some((rules, end)) = self.exchange.entry.take_changes(cx.waker()) {
            (self.rules, self.end) = (rules, end);
        }
        loop {
            let now = Instant::now();
            let due = match self.due(now) {
                Ok(due) => due,
                Err(ending) => return Poll::Ready(ending),
            };
            let Some(due) = due else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            // Polled even where it was just set: only a poll registers the waker. If it has fired,
            // the loop looks again, since another limit may be next.
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// When to look again, or the ending that is due at `now`.
    fn due(&mut self, now: Instant) -> Result<Option<Instant>, ExchangeEnd> {
        let mut next: Option<Instant> = None;
        let mut due = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        match &self.end {
            Some(EndOrder::Revoke(refusal)) => {
                return Err(ExchangeEnd::refused(ExchangeReason::Revoked, *refusal));
            }
            // The close code is for WebSockets; HTTP has no such frame.
            Some(EndOrder::Close(_)) => {
                return Err(ExchangeEnd::new(Initiator::Sidegate, ExchangeReason::Operator));
            }
            Some(EndOrder::Cut) => {
                return Err(ExchangeEnd::new(Initiator::Sidegate, ExchangeReason::Cut));
            }
            // The close code of a drain is for WebSockets; HTTP has no such frame.
            Some(EndOrder::Drain(_)) => match self.drain_deadline() {
                Some(at) if at <= now => {
                    return Err(ExchangeEnd::refused(ExchangeReason::Drain, Refusal::Draining));
                }
                at => at.into_iter().for_each(&mut due),
            },
            None => {}
        }
        // An answer of another kind has no `lifetime`: `body_stall` and `body_pace` bound it.
        if let (BodyKind::EventStream, Some(lifetime)) = (self.shape, self.rules.limits().lifetime)
        {
            match self.began + lifetime {
                at if at <= now => {
                    return Err(ExchangeEnd::new(Initiator::Sidegate, ExchangeReason::Lifetime));
                }
                at => due(at),
            }
        }
        // From this age on, the exchange takes a place among the streams. It is taken late, so that
        // short requests never compete for one.
        if !self.exchange.has_stream() {
            match self.began + MIN_STREAM_AGE {
                at if at <= now => {
                    let taken = self.exchange.take_stream(Timestamp::now());
                    taken.map_err(|full| {
                        ExchangeEnd::refused(ExchangeReason::Streams, stream_refusal(full))
                    })?;
                }
                at => due(at),
            }
        }
        Ok(next)
    }

    /// When a drain ends the exchange. `None` means not before the drain's deadline: an answer with
    /// an end of its own may finish, and so may a request that its client could not safely repeat.
    fn drain_deadline(&self) -> Option<Instant> {
        match (self.phase, self.shape) {
            (ExchangePhase::Answer, BodyKind::EventStream) => Some(self.began),
            (ExchangePhase::Answer, BodyKind::UnknownLength) => Some(self.began + MIN_STREAM_AGE),
            (ExchangePhase::Answer, BodyKind::Sized) => None,
            (ExchangePhase::Request, _) => self.repeatable.then(|| self.began + MIN_STREAM_AGE),
        }
    }

    /// The ending of an exchange that was dropped without one.
    fn end_on_drop(&self) -> ExchangeEnd {
        // First: while a panic unwinds, the client has not left, and no clock says anything about
        // it.
        if std::thread::panicking() {
            return ExchangeEnd::new(Initiator::Sidegate, ExchangeReason::Panic);
        }
        if self.exchange.entry.ordered_end() == Some(EndOrder::Cut) {
            return ExchangeEnd::new(Initiator::Sidegate, ExchangeReason::Cut);
        }
        let now = Instant::now();
        // A client that was given up is dropped like one which left: the deadlines tell them apart.
        let reason = match self.deadlines.deadline() {
            Some((at, WaitKind::Write)) if at <= now => ExchangeReason::Stalled,
            Some((at, WaitKind::Pace)) if at <= now => ExchangeReason::TooSlow,
            _ => ExchangeReason::ClientLeft,
        };
        ExchangeEnd::new(Initiator::Client, reason)
    }
}

/// The refusal of an exchange that finds no place among the streams.
fn stream_refusal(full: Full) -> Refusal {
    match full {
        Full::Client => Refusal::Connections,
        Full::Total => Refusal::Capacity,
    }
}

impl Cancel for InFlightExchange {
    /// Resets the connection: the client must not get what it has not taken yet.
    fn poll_cancel(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ending = ready!(self.poll_end(cx));
        self.set_end(ending);
        self.deadlines.set_cut(CutKind::Reset);
        Poll::Ready(())
    }
}

impl Drop for InFlightExchange {
    fn drop(&mut self) {
        let ExchangeEnd { by, reason, refusal } = self.ending.unwrap_or_else(|| self.end_on_drop());
        // Counted here and nowhere else, so that each exchange that was opened is also closed.
        self.metrics.exchange_closed(by, reason);
        let lasted = self.began.elapsed();
        // An exchange that ended before its answer has its decision's line and span, which say why.
        if self.phase != ExchangePhase::Answer {
            return;
        }
        let from_backend = Traffic { bytes: self.bytes, messages: 0 };
        let closed =
            ExchangeClosed { by, reason, refusal, phase: self.phase, from_backend, lasted };
        if reason != ExchangeReason::Complete || lasted >= MIN_STREAM_AGE {
            decision::log_exchange_closed(&self.exchange.entry, &closed);
        }
        // Whole answers too, unlike the line: a trace is recorded to see how long they took.
        if let Some(spans) = &self.spans {
            spans.keep(FinishedSpan::of_exchange(&self.exchange.entry, &closed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_of_events_is_known_in_every_spelling() {
        let check = |kind: &'static str, shape| {
            let headers = [(CONTENT_TYPE, kind), (CONTENT_LENGTH, "9")];
            let headers = headers.map(|(name, value)| (name, value.parse().unwrap()));
            assert_eq!(BodyKind::from_headers(&HeaderMap::from_iter(headers)), shape, "{kind}");
        };
        for kind in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "text/event-stream;charset=UTF-8",
            "TEXT/EVENT-STREAM ; a=\";\"",
            "text/event-stream;",
        ] {
            check(kind, BodyKind::EventStream);
        }
        for kind in ["text/plain", "text/event-streams", "text/event", "x; text/event-stream", ""] {
            check(kind, BodyKind::Sized);
        }
        assert_eq!(BodyKind::from_headers(&HeaderMap::new()), BodyKind::UnknownLength);
    }
}
