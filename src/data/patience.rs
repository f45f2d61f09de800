//! The deadlines of a connection that still speaks HTTP, which hyper does not give:
//! first byte to whole head, idle between requests, a client that takes no answer.
//!
//! The stream under hyper reports what moves, the service reports when a request
//! begins and ends, and the connection's task asks when to give up. It closes nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::data::channel::Channel;
use crate::data::socket::Socket;
use crate::data::tls;
use crate::snapshot::listener::ListenerTimeouts;

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// The rest of a head.
    Head,
    /// The next request.
    Idle,
    /// An answer to be taken.
    Taken,
}

/// The clock of one connection, shared by its stream, its service and its task.
#[derive(Clone)]
pub struct Patience(Arc<Mutex<State>>);

struct State {
    timeouts: ListenerTimeouts,
    write_stall: Duration,
    phase: Phase,
    /// Since when the client has taken nothing of what is written.
    stalled: Option<Instant>,
    /// Whether any byte of HTTP has come.
    heard: bool,
}

#[derive(Clone, Copy)]
enum Phase {
    Head { until: Instant },
    Busy,
    Idle { until: Instant },
}

impl Patience {
    /// Starts with the wait for the first head.
    pub fn new(timeouts: ListenerTimeouts, write_stall: Duration) -> Self {
        let phase = Phase::Head { until: Instant::now() + timeouts.head };
        Patience(Arc::new(Mutex::new(State { timeouts, write_stall, phase, stalled: None, heard: false })))
    }

    /// A route was found, which has its own patience with a client that takes nothing.
    pub fn routed(&self, write_stall: Duration) {
        self.lock().write_stall = write_stall;
    }

    /// A request's head is whole.
    pub fn request_began(&self) {
        self.lock().phase = Phase::Busy;
    }

    /// Its answer is handed over.
    pub fn request_ended(&self) {
        let mut state = self.lock();
        state.phase = Phase::Idle { until: Instant::now() + state.timeouts.keep_alive };
    }

    /// When to give up, and on what; `None` while a request is worked on.
    pub fn deadline(&self) -> Option<(Instant, Waits)> {
        let state = self.lock();
        let stall = state.stalled.map(|since| (since + state.write_stall, Waits::Taken));
        let phase = match state.phase {
            Phase::Head { until } => Some((until, Waits::Head)),
            Phase::Busy => None,
            Phase::Idle { until } => Some((until, Waits::Idle)),
        };
        stall.into_iter().chain(phase).min_by_key(|(at, _)| *at)
    }

    /// Whether any byte of HTTP has come.
    pub fn heard(&self) -> bool {
        self.lock().heard
    }

    /// Whether the connection is between two requests.
    pub fn is_idle(&self) -> bool {
        matches!(self.lock().phase, Phase::Idle { .. })
    }

    /// A client that has said nothing yet has no longer than until `last` for its first head.
    pub fn hurry(&self, last: Instant) {
        let mut state = self.lock();
        if let Phase::Head { until } = state.phase
            && !state.heard
        {
            state.phase = Phase::Head { until: until.min(last) };
        }
    }

    fn read(&self) {
        let mut state = self.lock();
        state.heard = true;
        if let Phase::Idle { .. } = state.phase {
            state.phase = Phase::Head { until: Instant::now() + state.timeouts.head };
        }
    }

    fn wrote(&self, taken: bool) {
        let mut state = self.lock();
        state.stalled = match (taken, state.stalled) {
            (true, _) => None,
            (false, Some(since)) => Some(since),
            (false, None) => Some(Instant::now()),
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's stream under hyper, which reports what moves.
pub struct Watched {
    stream: Stream,
    patience: Patience,
    /// What was read of it, and is to be read again.
    again: Bytes,
}

/// A client's stream, in the clear or under TLS.
pub enum Stream {
    /// In the clear.
    Clear(TcpStream),
    /// Under TLS.
    Tls(tls::Stream),
}

impl Watched {
    /// Reports what moves on `stream` to `patience`.
    pub fn new(stream: Stream, patience: Patience) -> Self {
        Watched { stream, patience, again: Bytes::new() }
    }

    /// The same, from which `again` is read first.
    pub fn rewound(self, again: Bytes) -> Self {
        Watched { again, ..self }
    }

    /// The stream, taken back for the tunnel, and what nobody has read again.
    pub fn into_parts(self) -> (Channel, Bytes) {
        let channel = match self.stream {
            Stream::Clear(tcp) => Channel::clear(Socket::Tcp(tcp)),
            Stream::Tls(stream) => {
                let (socket, session) = stream.into_parts();
                Channel::tls(socket, session)
            }
        };
        (channel, self.again)
    }

    fn report(&self, written: &Poll<io::Result<usize>>) {
        self.patience.wrote(written.is_ready());
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watched = self.get_mut();
        if !watched.again.is_empty() {
            let most = watched.again.len().min(buffer.remaining());
            buffer.put_slice(&watched.again.split_to(most));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = match &mut watched.stream {
            Stream::Clear(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            watched.patience.read();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let watched = self.get_mut();
        let written = match &mut watched.stream {
            Stream::Clear(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        watched.report(&written);
        written
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let watched = self.get_mut();
        let written = match &mut watched.stream {
            Stream::Clear(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        watched.report(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Clear(tcp) => tcp.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let watched = self.get_mut();
        match &mut watched.stream {
            Stream::Clear(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let watched = self.get_mut();
        match &mut watched.stream {
            Stream::Clear(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience() -> Patience {
        Patience::new(ListenerTimeouts::default(), Duration::from_secs(30))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_is_waited_for_from_the_start_and_the_next_from_its_first_byte() {
        let began = Instant::now();
        let patience = patience();
        assert_eq!(patience.deadline(), Some((began + Duration::from_secs(10), Waits::Head)));
        patience.read();
        assert_eq!(patience.deadline(), Some((began + Duration::from_secs(10), Waits::Head)));
        patience.request_began();
        assert_eq!(patience.deadline(), None);
        patience.request_ended();
        assert_eq!(patience.deadline(), Some((began + Duration::from_secs(75), Waits::Idle)));
        tokio::time::advance(Duration::from_secs(70)).await;
        patience.read();
        assert_eq!(patience.deadline(), Some((began + Duration::from_secs(80), Waits::Head)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_waited_for_from_its_first_refusal() {
        let began = Instant::now();
        let patience = patience();
        patience.request_began();
        patience.wrote(false);
        tokio::time::advance(Duration::from_secs(20)).await;
        patience.wrote(false);
        assert_eq!(patience.deadline(), Some((began + Duration::from_secs(30), Waits::Taken)));
        patience.wrote(true);
        assert_eq!(patience.deadline(), None);
    }
}
