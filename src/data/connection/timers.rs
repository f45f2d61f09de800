//! How long a connection speaks HTTP: until a deadline of `deadlines` passes, and no longer than a
//! drain or the end of its listener lets it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::data::http::deadlines::{HttpDeadlines, NextStep, WaitKind};

/// How long a TLS handshake, and then a head, may still take once the connection is to close: a
/// client that was let in is answered.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(2);

/// Ready at `deadline`, or [`CLOSING_TIMEOUT`] after `closing` was cancelled, if that is earlier.
pub async fn deadline_or_closing(deadline: Instant, closing: &CancellationToken) {
    let mut timer = pin!(sleep_until(deadline));
    if closing.run_until_cancelled(timer.as_mut()).await.is_none() {
        timer.as_mut().reset(deadline.min(Instant::now() + CLOSING_TIMEOUT));
        timer.await;
    }
}

/// The bounds on the time in which a connection speaks HTTP.
pub struct ConnectionTimers<'c, 'f> {
    deadlines: &'c HttpDeadlines,
    closing: Pin<&'c mut WaitForCancellationFuture<'f>>,
    /// Whether the connection is to close: a drain has begun, or its listener is gone.
    is_closing: bool,
    timer: Pin<&'c mut Sleep>,
}

impl<'c, 'f> ConnectionTimers<'c, 'f> {
    /// Keeps to `deadlines`, and ends the connection between requests once `closing` is cancelled.
    pub fn new(
        deadlines: &'c HttpDeadlines,
        closing: Pin<&'c mut WaitForCancellationFuture<'f>>,
        timer: Pin<&'c mut Sleep>,
    ) -> Self {
        ConnectionTimers { deadlines, closing, is_closing: false, timer }
    }

    /// Whether the connection is to close: a drain has begun, or its listener is gone.
    pub fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Takes steps until one is the last; the second argument of `step` says whether the connection
    /// is to close. `None` means that time is up, or that the connection makes room for another of
    /// its client.
    pub async fn run_until<T>(
        &mut self,
        mut step: impl FnMut(&mut Context<'_>, bool) -> Poll<T>,
    ) -> Option<T> {
        poll_fn(|cx| {
            if !self.is_closing && self.closing.as_mut().poll(cx).is_ready() {
                self.is_closing = true;
                self.deadlines.bound_heads(CLOSING_TIMEOUT);
            }
            loop {
                let due = match self.steps(cx, &mut step) {
                    Ok(due) => due,
                    Err(last) => return Poll::Ready(last),
                };
                if self.deadlines.poll_cancel(cx).is_ready() {
                    return Poll::Ready(None);
                }
                let waits = ready!(self.poll_late(cx, due));
                // Where nothing has arrived, the next step reads the end of the stream.
                if waits != WaitKind::Idle || !self.deadlines.expire_if_idle() {
                    return Poll::Ready(None);
                }
            }
        })
        .await
    }

    /// Takes steps until nothing more can be done for now. Returns until when to wait, and for
    /// what; `None` means that a request is worked on.
    ///
    /// # Errors
    /// What [`ConnectionTimers::run_until`] returns.
    fn steps<T>(
        &mut self,
        cx: &mut Context<'_>,
        step: &mut impl FnMut(&mut Context<'_>, bool) -> Poll<T>,
    ) -> Result<Option<(Instant, WaitKind)>, Option<T>> {
        let mut decided = false;
        loop {
            if let Poll::Ready(last) = step(cx, self.is_closing) {
                return Err(Some(last));
            }
            // Between requests there is nothing to wait for.
            if self.is_closing && self.deadlines.is_quiet() {
                return Err(None);
            }
            match self.deadlines.next(cx) {
                NextStep::Wait(due) => return Ok(due),
                NextStep::Close => return Err(None),
                // Asked after the step's read, so the next step's read decides. A step that doesn't
                // read has something else to do.
                NextStep::PollAgain if decided => self.deadlines.decline_displacement(),
                NextStep::PollAgain => decided = true,
            }
        }
    }

    /// Ready once the wait that is `due` is late; returns what was waited for.
    fn poll_late(
        &mut self,
        cx: &mut Context<'_>,
        mut due: Option<(Instant, WaitKind)>,
    ) -> Poll<WaitKind> {
        while let Some((at, waits)) = due {
            if self.timer.deadline() != at {
                self.timer.as_mut().reset(at);
            }
            ready!(self.timer.as_mut().poll(cx));
            // It may have moved while the timer ran.
            due = self.deadlines.deadline();
            if due == Some((at, waits)) {
                return Poll::Ready(waits);
            }
        }
        Poll::Pending
    }
}
