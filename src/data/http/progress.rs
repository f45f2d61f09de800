//! The progress of a request over a backend connection: written, answered, idle again.
//!
//! hyper does not say when a request has been written whole, nor whether its answer came first.
//! The socket under hyper notes both here (`backend/tracked.rs`). Nothing is decided here: the
//! reuse of connections and the deadlines do that.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::lock;

/// The most interim answers to one request, 100 included: a backend that sends more has lost its
/// way.
pub const MAX_INTERIMS: u32 = 1000;

/// The error of a backend that sent more than `MAX_INTERIMS` interim answers.
pub const TOO_MANY_INTERIMS: &str = "it sent more than 1000 interim answers (1xx) to one request";

/// What has happened on a connection since its latest request began. Clones share it.
#[derive(Clone, Default)]
pub struct RequestProgress(Arc<Mutex<ProgressState>>);

#[derive(Default)]
struct ProgressState {
    /// Whether hyper has been handed the whole request.
    handed_over: bool,
    /// Whether anything of the request has been written.
    begun: bool,
    /// When the socket had taken the whole request; `None` means not yet.
    sent: Option<Instant>,
    /// Whether a byte of the answer has come.
    heard: bool,
    /// Whether the answer began before the request was sent whole.
    early: bool,
    /// Whether the answer is over: whatever comes now belongs to no request.
    over: bool,
    /// Whether something came after the answer was over.
    surplus: bool,
    /// Since when the backend has taken nothing that was written. `None` means that it takes it.
    blocked: Option<Instant>,
    /// How long the backend may take nothing: the `write_stall` of the request's route.
    write_stall: Duration,
    /// Whether the connection was given up because the backend took nothing.
    stalled: bool,
    /// Whether a write failed: the backend closed before the request was sent whole.
    refuses: bool,
    /// The task that waits for the request to be sent.
    waits: Option<Waker>,
    /// How many interim answers have come.
    interims: u32,
    /// How many bytes have come.
    received: usize,
}

impl RequestProgress {
    /// Begins a new request; `has_body` says whether more than its head is to be sent. The backend
    /// may take nothing of it for `write_stall`.
    pub fn begin(&self, has_body: bool, write_stall: Duration) {
        // Replaces everything, the waker too: the wait of a former request is over.
        *self.lock() =
            ProgressState { handed_over: !has_body, write_stall, ..ProgressState::default() };
    }

    /// Notes that hyper has been handed the last of the request's body.
    pub fn on_body_handed_over(&self) {
        self.lock().handed_over = true;
    }

    /// Counts an interim answer (1xx).
    pub fn count_interim(&self) {
        self.lock().interims += 1;
    }

    /// Whether more interim answers have come than a request may have. One read can bring all of
    /// them, and the answer behind them.
    pub fn has_too_many_interims(&self) -> bool {
        self.lock().interims > MAX_INTERIMS
    }

    /// How many bytes have come since the request began.
    pub fn received(&self) -> usize {
        self.lock().received
    }

    /// Whether a byte of the answer has come.
    pub fn has_response_byte(&self) -> bool {
        self.lock().heard
    }

    /// Whether the request was sent whole before its answer began.
    pub fn is_in_order(&self) -> bool {
        let state = self.lock();
        state.sent.is_some() && !state.early && !state.refuses
    }

    /// Notes that the answer has been read to its end.
    pub fn on_response_end(&self) {
        self.lock().over = true;
    }

    /// Whether bytes came that belong to no answer.
    pub fn has_surplus(&self) -> bool {
        self.lock().surplus
    }

    /// Whether the connection was given up because the backend took nothing.
    pub fn is_stalled(&self) -> bool {
        self.lock().stalled
    }

    /// Waits until the socket has taken the whole request; says when that was.
    pub async fn wait_sent(&self) -> Instant {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            if let Some(at) = state.sent {
                return Poll::Ready(at);
            }
            state.waits = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits until the backend has taken nothing for too long. Only for the task that drives the
    /// connection, polled behind it: a write that blocks wakes no other task.
    pub async fn wait_stalled(&self) {
        loop {
            // Registers no waker: only this task's own poll of the connection changes `blocked`.
            let until = std::future::poll_fn(|_| match self.lock().stalls_at() {
                Some(at) => Poll::Ready(at),
                None => Poll::Pending,
            });
            tokio::time::sleep_until(until.await).await;
            let mut state = self.lock();
            // During the sleep a write may have passed and another blocked, with a later deadline.
            if state.stalls_at().is_some_and(|at| at <= Instant::now()) {
                state.stalled = true;
                return;
            }
        }
    }

    /// Notes that bytes of the answer have come.
    pub fn on_read(&self, bytes: usize) {
        // The end of the stream. hyper sees it as well, and ends the connection.
        if bytes == 0 {
            return;
        }
        let mut state = self.lock();
        state.received = state.received.saturating_add(bytes);
        // hyper reads while the connection is idle too, so bytes between two requests get here.
        state.surplus |= state.over;
        if !state.heard {
            state.heard = true;
            state.early = state.sent.is_none();
        }
    }

    /// Notes the outcome of a write. Returns how long the backend may take nothing.
    pub fn on_write(&self, written: &Poll<io::Result<usize>>) -> Duration {
        let mut state = self.lock();
        match written {
            Poll::Ready(written) => {
                state.begun = true;
                state.blocked = None;
                state.refuses |= written.is_err();
            }
            Poll::Pending => {
                // From the first write that blocked: a further try, for whatever reason, must not
                // extend the wait.
                state.blocked.get_or_insert_with(Instant::now);
            }
        }
        state.write_stall
    }

    /// As [`RequestProgress::on_write`], of bytes that the socket kept back. Ready if they are gone
    /// or lost.
    pub fn wrote_whole(&self, flushed: &Poll<io::Result<()>>) -> Poll<()> {
        let mut state = self.lock();
        // The error stays here: shown to hyper, it would cost an answer that has come already.
        state.refuses |= matches!(flushed, Poll::Ready(Err(_)));
        if flushed.is_pending() && !state.refuses { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Whether a write has failed: the backend takes nothing more of the request.
    pub fn is_blocked(&self) -> bool {
        self.lock().refuses
    }

    /// Notes a flush, and so the time when a request was sent whole: hyper flushes the socket only
    /// once its own buffer is empty.
    pub fn on_flush(&self) {
        let mut state = self.lock();
        state.blocked = None;
        if state.handed_over && state.begun && state.sent.is_none() {
            state.sent = Some(Instant::now());
            if let Some(waits) = state.waits.take() {
                waits.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ProgressState> {
        lock(&self.0)
    }
}

impl ProgressState {
    /// When the backend will have taken nothing for too long, if it takes nothing from now on.
    /// `None` means that no write waits.
    fn stalls_at(&self) -> Option<Instant> {
        self.blocked.map(|since| since + self.write_stall)
    }
}
