//! The course of a request over a backend connection: written, answered, idle again.
//!
//! hyper does not say when a request has been written whole, nor whether its answer came first.
//! Both are read off the socket here. Nothing is decided here: `reuse` and the clocks do that.
//!
//! A backend that takes no more may have answered before. hyper would give that answer up with the
//! failed write, so whatever it still writes then is swallowed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::ask::Answering;
use super::lock;
use crate::data::http::interim::MAX_INTERIMS;
use crate::data::stream::keepalive;

/// The error of a backend that sent more than `MAX_INTERIMS` interim answers.
pub const TOO_MANY_INTERIMS: &str = "it sent more than 1000 interim answers (1xx) to one request";

/// The most bytes of an answer that one read takes: hyper's buffer grows with what a read brings.
const MOST_READ: usize = 16 * 1024;

/// What has happened on a connection since its latest request began. Clones share it.
#[derive(Clone, Default)]
pub struct Course(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
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

impl Course {
    /// Begins a new request; `has_body` says whether more than its head is to be sent. The backend
    /// may take nothing of it for `write_stall`.
    pub fn begin(&self, has_body: bool, write_stall: Duration) {
        *self.lock() = State { handed_over: !has_body, write_stall, ..State::default() };
    }

    /// Notes that hyper has been handed the last of the request's body.
    pub fn handed_over(&self) {
        self.lock().handed_over = true;
    }

    /// Counts an interim answer (1xx).
    pub fn interim(&self) {
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
    pub fn is_heard(&self) -> bool {
        self.lock().heard
    }

    /// Whether the request was sent whole before its answer began.
    pub fn is_in_order(&self) -> bool {
        let state = self.lock();
        state.sent.is_some() && !state.early && !state.refuses
    }

    /// Notes that the answer has been read to its end.
    pub fn over(&self) {
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
    pub async fn sent(&self) -> Instant {
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
    pub async fn stalls(&self) {
        loop {
            // Registers no waker: only this task's own poll of the connection changes `blocked`.
            let until = std::future::poll_fn(|_| match self.lock().stalls_at() {
                Some(at) => Poll::Ready(at),
                None => Poll::Pending,
            });
            tokio::time::sleep_until(until.await).await;
            let mut state = self.lock();
            if state.stalls_at().is_some_and(|at| at <= Instant::now()) {
                state.stalled = true;
                return;
            }
        }
    }

    fn read(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = self.lock();
        state.received = state.received.saturating_add(bytes);
        state.surplus |= state.over;
        if !state.heard {
            state.heard = true;
            state.early = state.sent.is_none();
        }
    }

    /// Notes the outcome of a write. Returns how long the backend may take nothing.
    fn wrote(&self, written: &Poll<io::Result<usize>>) -> Duration {
        let mut state = self.lock();
        match written {
            Poll::Ready(written) => {
                state.begun = true;
                state.blocked = None;
                state.refuses |= written.is_err();
            }
            Poll::Pending => {
                state.blocked.get_or_insert_with(Instant::now);
            }
        }
        state.write_stall
    }

    /// As [`Course::wrote`], of bytes that the socket kept back. Ready if they are gone or lost.
    fn wrote_whole(&self, flushed: &Poll<io::Result<()>>) -> Poll<()> {
        let mut state = self.lock();
        state.refuses |= matches!(flushed, Poll::Ready(Err(_)));
        if flushed.is_pending() && !state.refuses { Poll::Pending } else { Poll::Ready(()) }
    }

    fn refuses(&self) -> bool {
        self.lock().refuses
    }

    /// Notes a flush, and so the time when a request was sent whole: hyper flushes the socket only
    /// once its own buffer is empty.
    fn flushed(&self) {
        let mut state = self.lock();
        state.blocked = None;
        if state.handed_over && state.begun && state.sent.is_none() {
            state.sent = Some(Instant::now());
            if let Some(waits) = state.waits.take() {
                waits.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl State {
    /// When the backend will have taken nothing for too long, if it takes nothing from now on.
    /// `None` means that no write waits.
    fn stalls_at(&self) -> Option<Instant> {
        self.blocked.map(|since| since + self.write_stall)
    }
}

/// A backend's socket under hyper that keeps its [`Course`].
pub struct Tracked {
    socket: Answering,
    course: Course,
    /// The TCP user timeout that is set on the socket.
    user_timeout: Duration,
}

impl Tracked {
    /// Reports in `course` what passes over `socket`.
    pub fn new(socket: Answering, course: Course) -> Self {
        Tracked { socket, course, user_timeout: keepalive::USER_TIMEOUT }
    }

    /// Gives the socket back.
    pub fn into_inner(self) -> Answering {
        self.socket
    }

    /// Notes a write, and sets the user timeout anew where the `write_stall` differs: a connection
    /// serves several routes, each with its own.
    fn report(&mut self, written: &Poll<io::Result<usize>>) {
        let write_stall = self.course.wrote(written);
        let user_timeout = keepalive::user_timeout(write_stall);
        if user_timeout != self.user_timeout {
            self.user_timeout = user_timeout;
            self.socket.socket().bear(write_stall);
        }
    }
}

/// What hyper sees of a write of `length` bytes. Errors are kept from hyper: whether there is an
/// answer shows when it reads, which is at once, since the connection has ended.
fn unless_failed(written: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
    written.map(|written| Ok(written.unwrap_or(length)))
}

impl AsyncRead for Tracked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper would read interim answers without end.
        if self.course.has_too_many_interims() {
            return Poll::Ready(Err(io::Error::other(TOO_MANY_INTERIMS)));
        }
        let most = buffer.remaining().min(MOST_READ);
        let mut some = ReadBuf::new(buffer.initialize_unfilled_to(most));
        let read = Pin::new(&mut self.socket).poll_read(cx, &mut some);
        let bytes = some.filled().len();
        buffer.advance(bytes);
        self.course.read(bytes);
        read
    }
}

impl AsyncWrite for Tracked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.course.refuses() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.report(&written);
        unless_failed(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.course.refuses() {
            return Poll::Ready(Ok(length));
        }
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.report(&written);
        unless_failed(written, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        ready!(self.course.wrote_whole(&flushed));
        self.course.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
