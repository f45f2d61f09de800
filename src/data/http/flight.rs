//! An exchange in flight: a forwarded request and its answer, from the charge to the last byte.
//!
//! A flight carries out orders from outside, bounds how long the exchange may last, and books its
//! one ending when it is dropped, whatever dropped it. It moves no byte.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use jiff::Timestamp;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::close::{By, ExchangePhase, ExchangeReason, Traffic};
use crate::data::http::patience::{Cut, Cuttable, Patience, Waits};
use crate::observe::log::decision::{self, ExchangeClosed};
use crate::observe::metrics::RouteMetrics;
use crate::refusal::Refusal;
use crate::tunnels::budget::Full;
use crate::tunnels::{End, Exchange, STREAM_AGE, Terms};

/// Why an exchange ended, and who acted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The side that acted first.
    pub by: By,
    /// Why the exchange ended, as the log and the metrics name it.
    pub reason: ExchangeReason,
    /// The refusal of an exchange that is no longer permitted, or not for so long. `None` means
    /// that no rule refused it.
    pub refusal: Option<Refusal>,
}

/// What the answer's head says of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A length, so that the client sees whether it is whole.
    Sized,
    /// Chunks, or everything up to the end of the connection.
    Open,
    /// A stream of events, which ends only when a side ends it.
    Events,
}

impl Shape {
    /// Reads the shape off the fields of an answer's head.
    pub fn of(headers: &HeaderMap) -> Shape {
        match headers.get(CONTENT_TYPE).map(|value| value.as_bytes()) {
            Some(kind) if is_event_stream(kind) => Shape::Events,
            _ if headers.contains_key(CONTENT_LENGTH) => Shape::Sized,
            _ => Shape::Open,
        }
    }
}

/// `text/event-stream`, with whatever parameters (HTML, §9.2).
fn is_event_stream(kind: &[u8]) -> bool {
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// An exchange on the books. Dropped without an ending, its client has left or was given up.
pub struct Flight {
    exchange: Exchange,
    metrics: Arc<RouteMetrics>,
    patience: Patience,
    began: Instant,
    phase: ExchangePhase,
    shape: Shape,
    /// How the connection ends where the answer is cut.
    cut: Cut,
    /// Whether a drain may refuse the request: its client may safely repeat it.
    repeatable: bool,
    /// Bytes of the answer's body.
    bytes: u64,
    /// The rules, and the order to end, as they were last read from the table.
    terms: Terms,
    end: Option<End>,
    timer: Option<Pin<Box<Sleep>>>,
    ending: Option<Ending>,
}

impl Ending {
    /// An ending that is no refusal.
    pub fn new(by: By, reason: ExchangeReason) -> Self {
        Ending { by, reason, refusal: None }
    }

    fn refused(reason: ExchangeReason, refusal: Refusal) -> Self {
        Ending { by: By::Sidegate, reason, refusal: Some(refusal) }
    }
}

impl Flight {
    /// Begins `exchange`; `repeatable` says whether its method is safe.
    pub fn new(
        exchange: Exchange,
        metrics: Arc<RouteMetrics>,
        patience: Patience,
        repeatable: bool,
    ) -> Self {
        metrics.exchange_opened();
        Flight {
            terms: exchange.entry.terms(),
            exchange,
            metrics,
            patience,
            began: Instant::now(),
            phase: ExchangePhase::Request,
            shape: Shape::Open,
            cut: Cut::Close,
            repeatable,
            bytes: 0,
            end: None,
            timer: None,
            ending: None,
        }
    }

    /// Waits for the answer's head, or until the exchange must end before it.
    ///
    /// # Errors
    /// The ending that came first.
    pub async fn until<T>(&mut self, head: impl Future<Output = T>) -> Result<T, Ending> {
        let mut head = pin!(head);
        poll_fn(|cx| {
            // First: an order wins over a head that comes at the same time.
            if let Poll::Ready(ending) = self.poll_ordered(cx) {
                self.ends(ending);
                return Poll::Ready(Err(ending));
            }
            head.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Notes that the answer's head has come. `in_chunks` says whether the client gets the answer
    /// in chunks, and sees by the last one whether it is whole.
    pub fn answered(&mut self, shape: Shape, in_chunks: bool) {
        self.phase = ExchangePhase::Answer;
        self.shape = shape;
        // Without a last chunk to miss, a client could take a closed connection for the end.
        self.cut = if in_chunks { Cut::Close } else { Cut::Reset };
        if shape == Shape::Events {
            self.exchange.entry.has_events();
        }
    }

    /// Shares the exchange with the connection's clock, which cuts it where hyper does not look.
    pub fn shared(self) -> Arc<Mutex<Flight>> {
        let patience = self.patience.clone();
        let shared = Arc::new(Mutex::new(self));
        // Weak, so that the clock doesn't keep the exchange on the books once its body is gone.
        let weak: Weak<Mutex<Flight>> = Arc::downgrade(&shared);
        patience.answers(weak);
        shared
    }

    /// Counts bytes of the answer's body that went on to the client.
    pub fn passed(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Notes how the exchange ended; the first ending holds.
    pub fn ends(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// Cuts the answer, in the way that keeps its client from taking it for whole.
    pub fn cuts(&self) {
        self.patience.cuts(self.cut);
    }

    /// Ready when the exchange must end, by an order from outside or by a limit of its policy.
    pub fn poll_ordered(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Some((terms, end)) = self.exchange.entry.changed(cx.waker()) {
            (self.terms, self.end) = (terms, end);
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
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// When to look again, or the ending that is due at `now`.
    fn due(&mut self, now: Instant) -> Result<Option<Instant>, Ending> {
        let mut next: Option<Instant> = None;
        let mut due = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        match self.end {
            Some(End::Revoke(refusal)) => {
                return Err(Ending::refused(ExchangeReason::Revoked, refusal));
            }
            Some(End::Cut) => return Err(Ending::new(By::Sidegate, ExchangeReason::Cut)),
            Some(End::Drain(_)) => match self.drains_at() {
                Some(at) if at <= now => {
                    return Err(Ending::refused(ExchangeReason::Drain, Refusal::Draining));
                }
                at => at.into_iter().for_each(&mut due),
            },
            None => {}
        }
        if let (Shape::Events, Some(lifetime)) = (self.shape, self.terms.limits().lifetime) {
            match self.began + lifetime {
                at if at <= now => {
                    return Err(Ending::new(By::Sidegate, ExchangeReason::Lifetime));
                }
                at => due(at),
            }
        }
        if !self.exchange.has_stream() {
            match self.began + STREAM_AGE {
                at if at <= now => {
                    let taken = self.exchange.take_stream(Timestamp::now());
                    taken
                        .map_err(|full| Ending::refused(ExchangeReason::Streams, refusal(full)))?;
                }
                at => due(at),
            }
        }
        Ok(next)
    }

    /// When a drain ends the exchange. `None` means not before the drain's deadline: an answer with
    /// an end of its own may finish, and so may a request that its client could not safely repeat.
    fn drains_at(&self) -> Option<Instant> {
        match (self.phase, self.shape) {
            (ExchangePhase::Answer, Shape::Events) => Some(self.began),
            (ExchangePhase::Answer, Shape::Open) => Some(self.began + STREAM_AGE),
            (ExchangePhase::Answer, Shape::Sized) => None,
            (ExchangePhase::Request, _) => self.repeatable.then(|| self.began + STREAM_AGE),
        }
    }

    /// The ending of an exchange that was dropped without one.
    fn dropped(&self) -> Ending {
        if std::thread::panicking() {
            return Ending::new(By::Sidegate, ExchangeReason::Panic);
        }
        if self.exchange.entry.ordered_end() == Some(End::Cut) {
            return Ending::new(By::Sidegate, ExchangeReason::Cut);
        }
        let now = Instant::now();
        // A client that was given up is dropped like one which left: the clock tells them apart.
        let reason = match self.patience.deadline() {
            Some((at, Waits::Taken)) if at <= now => ExchangeReason::Stalled,
            Some((at, Waits::Pace)) if at <= now => ExchangeReason::Pace,
            _ => ExchangeReason::ClientLeft,
        };
        Ending::new(By::Client, reason)
    }
}

/// The refusal of an exchange that finds no place among the streams.
fn refusal(full: Full) -> Refusal {
    match full {
        Full::Client => Refusal::Connections,
        Full::Total => Refusal::Capacity,
    }
}

impl Cuttable for Flight {
    /// Resets the connection: the client must not get what it has not taken yet.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ending = ready!(self.poll_ordered(cx));
        self.ends(ending);
        self.patience.cuts(Cut::Reset);
        Poll::Ready(())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Ending { by, reason, refusal } = self.ending.unwrap_or_else(|| self.dropped());
        self.metrics.exchange_closed(by, reason);
        let lasted = self.began.elapsed();
        // An exchange that ended before its answer has its decision's line, which says why.
        let is_told = self.phase == ExchangePhase::Answer
            && (reason != ExchangeReason::Complete || lasted >= STREAM_AGE);
        if is_told {
            let from_backend = Traffic { bytes: self.bytes, messages: 0 };
            let closed =
                ExchangeClosed { by, reason, refusal, phase: self.phase, from_backend, lasted };
            decision::exchange_closed(&self.exchange.entry, &closed);
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
            assert_eq!(Shape::of(&HeaderMap::from_iter(headers)), shape, "{kind}");
        };
        for kind in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "text/event-stream;charset=UTF-8",
            "TEXT/EVENT-STREAM ; a=\";\"",
            "text/event-stream;",
        ] {
            check(kind, Shape::Events);
        }
        for kind in ["text/plain", "text/event-streams", "text/event", "x; text/event-stream", ""] {
            check(kind, Shape::Sized);
        }
        assert_eq!(Shape::of(&HeaderMap::new()), Shape::Open);
    }
}
