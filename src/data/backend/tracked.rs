//! A backend's socket under hyper, which notes in a [`RequestProgress`] what passes over it.
//!
//! A backend that takes no more may have answered before. hyper would give that answer up with the
//! failed write, so whatever it still writes then is swallowed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::data::http::progress::{RequestProgress, TOO_MANY_INTERIMS};
use crate::data::stream::keepalive;
use crate::data::stream::socket::Socket;

/// The most bytes of an answer that one read takes: hyper's buffer grows with what a read brings.
const MAX_READ_BYTES: usize = 16 * 1024;

/// A backend's socket under hyper that keeps its [`RequestProgress`].
pub struct ProgressSocket<S> {
    socket: S,
    progress: RequestProgress,
    /// The TCP user timeout that is set on the socket.
    user_timeout: Duration,
}

impl<S: AsRef<Socket>> ProgressSocket<S> {
    /// Reports in `progress` what passes over `socket`.
    pub fn new(socket: S, progress: RequestProgress) -> Self {
        ProgressSocket { socket, progress, user_timeout: keepalive::USER_TIMEOUT }
    }

    /// Gives the socket back.
    pub fn into_inner(self) -> S {
        self.socket
    }

    /// Notes a write, and sets the user timeout anew where the `write_stall` differs: a connection
    /// serves several routes, each with its own.
    fn report(&mut self, written: &Poll<io::Result<usize>>) {
        let write_stall = self.progress.on_write(written);
        let user_timeout = keepalive::user_timeout(write_stall);
        if user_timeout != self.user_timeout {
            self.user_timeout = user_timeout;
            self.socket.as_ref().allow_zero_window(write_stall);
        }
    }
}

/// What hyper sees of a write of `length` bytes. Errors are kept from hyper: whether there is an
/// answer shows when it reads, which is at once, since the connection has ended.
fn hide_error(written: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
    written.map(|written| Ok(written.unwrap_or(length)))
}

impl<S: AsyncRead + Unpin> AsyncRead for ProgressSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper would read interim answers without end.
        if self.progress.has_too_many_interims() {
            return Poll::Ready(Err(io::Error::other(TOO_MANY_INTERIMS)));
        }
        let max = buffer.remaining().min(MAX_READ_BYTES);
        let mut some = ReadBuf::new(buffer.initialize_unfilled_to(max));
        let read = Pin::new(&mut self.socket).poll_read(cx, &mut some);
        let bytes = some.filled().len();
        buffer.advance(bytes);
        self.progress.on_read(bytes);
        read
    }
}

impl<S: AsyncWrite + AsRef<Socket> + Unpin> AsyncWrite for ProgressSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.progress.is_blocked() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.report(&written);
        hide_error(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.progress.is_blocked() {
            return Poll::Ready(Ok(length));
        }
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.report(&written);
        hide_error(written, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        ready!(self.progress.wrote_whole(&flushed));
        self.progress.on_flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
