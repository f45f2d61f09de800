//! Bodies of plain HTTP on their way: bounded in size, and never left to stall.
//!
//! Nothing is buffered beyond what hyper reads at once.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

/// A request's body on its way to the backend.
pub enum Upload {
    /// None.
    Empty,
    /// As the client sends it.
    Streamed(Streamed),
}

/// A body with a bound and a deadline between its bytes.
pub struct Streamed {
    incoming: Incoming,
    left: u64,
    patience: Patience,
    fault: Fault,
}

/// Why an upload was given up, shared with whoever awaits the answer.
#[derive(Clone, Default)]
pub struct Fault(Arc<AtomicU8>);

const TOO_BIG: u8 = 1;
const STALLED: u8 = 2;
const BROKEN: u8 = 3;

impl Fault {
    /// Whether more came than `max_body`.
    pub fn is_too_big(&self) -> bool {
        self.0.load(Ordering::Relaxed) == TOO_BIG
    }

    /// Whether nothing came for too long.
    pub fn is_stalled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == STALLED
    }

    /// Whether what came cannot be read, or broke off.
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed) == BROKEN
    }

    fn set(&self, fault: u8) -> Broken {
        self.0.store(fault, Ordering::Relaxed);
        Broken(match fault {
            TOO_BIG => "the body is too large",
            STALLED => "the body stalled",
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
    /// At most `max` bytes of `incoming`, and no pause longer than `stall`.
    pub fn streamed(incoming: Incoming, max: u64, stall: Duration) -> (Upload, Fault) {
        let fault = Fault::default();
        let streamed = Streamed { incoming, left: max, patience: Patience::new(stall), fault: fault.clone() };
        (Upload::Streamed(streamed), fault)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Upload::Streamed(body) = self.get_mut() else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut body.incoming).poll_frame(cx) else {
            ready!(body.patience.poll_over(cx));
            return Poll::Ready(Some(Err(body.fault.set(STALLED))));
        };
        body.patience.reset();
        Poll::Ready(match frame {
            None => None,
            Some(Err(_)) => Some(Err(body.fault.set(BROKEN))),
            // Trailers, which end a body, go no further: they were never judged.
            Some(Ok(frame)) if frame.is_trailers() => None,
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, Bytes::len) as u64;
                match body.left.checked_sub(size) {
                    None => Some(Err(body.fault.set(TOO_BIG))),
                    Some(left) => {
                        body.left = left;
                        Some(Ok(frame))
                    }
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Streamed(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Streamed(body) => body.incoming.size_hint(),
        }
    }
}

/// An answer's body on its way to the client. `Done` is dropped when the last of it is handed over.
pub struct Outgoing {
    kind: Kind,
    done: Option<Box<dyn Send + Sync>>,
}

enum Kind {
    Full(Full<Bytes>),
    Relayed { incoming: Incoming, patience: Patience },
}

impl Outgoing {
    /// No body.
    pub fn empty() -> Self {
        Outgoing::full(Bytes::new())
    }

    /// All of it at once.
    pub fn full(bytes: Bytes) -> Self {
        Outgoing { kind: Kind::Full(Full::new(bytes)), done: None }
    }

    /// As the backend sends it, with no pause longer than `stall`.
    pub fn relayed(incoming: Incoming, stall: Duration) -> Self {
        Outgoing { kind: Kind::Relayed { incoming, patience: Patience::new(stall) }, done: None }
    }

    /// Keeps `held` until the body is over.
    pub fn holding(mut self, held: impl Send + Sync + 'static) -> Self {
        self.done = Some(Box::new((held, self.done.take())));
        self
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.get_mut().kind {
            Kind::Full(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Kind::Relayed { incoming, patience } => {
                let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
                    ready!(patience.poll_over(cx));
                    return Poll::Ready(Some(Err(Broken("the backend's body stalled"))));
                };
                patience.reset();
                Poll::Ready(frame.map(|frame| frame.map_err(|_| Broken("the backend's body broke off"))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(full) => full.is_end_stream(),
            Kind::Relayed { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(full) => full.size_hint(),
            Kind::Relayed { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// A deadline that every byte sets back. Its timer is made only when something is waited for.
struct Patience {
    span: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(span: Duration) -> Self {
        Patience { span, timer: None }
    }

    fn reset(&mut self) {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + self.span);
        }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let span = self.span;
        self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(span))).as_mut().poll(cx)
    }
}
