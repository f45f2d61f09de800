//! The deadlines of a connection that still speaks HTTP, which hyper does not give:
//! first byte to whole head, idle between requests, a client that takes no answer.
//!
//! The stream under hyper reports what moves, the service reports when a request
//! begins and ends, and the connection's task asks when to give up. It closes nothing,
//! but for an idle connection that is to make room for another of its client: the stream
//! then reads as ended, if really nothing has arrived.

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
use crate::data::pending::Seat;
use crate::data::socket::{self, Socket};
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
    /// The connection's seat among those of its client.
    seat: Seat,
    /// Whether it is making room for another connection of its client.
    leaves: bool,
}

#[derive(Clone, Copy)]
enum Phase {
    Head {
        until: Instant,
    },
    Busy,
    /// `stays`: it was asked to leave when something had arrived.
    Idle {
        until: Instant,
        stays: bool,
    },
}

/// What a connection's task does when all that can be done for now is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Polls once more: the connection is asked to leave.
    Decide,
    /// Closes the connection: it leaves.
    Leave,
    /// Waits, and gives up at this time. `None` means that a request is worked on.
    Wait(Option<(Instant, Waits)>),
}

impl Patience {
    /// Starts with the wait for the first head.
    pub fn new(timeouts: ListenerTimeouts, write_stall: Duration, seat: Seat) -> Self {
        let phase = Phase::Head { until: Instant::now() + timeouts.head };
        let (stalled, heard, leaves) = (None, false, false);
        let state = State { timeouts, write_stall, phase, stalled, heard, seat, leaves };
        Patience(Arc::new(Mutex::new(state)))
    }

    /// A route was found, which has its own patience with a client that takes nothing.
    pub fn routed(&self, write_stall: Duration) {
        self.lock().write_stall = write_stall;
    }

    /// A request's head is whole.
    pub fn request_began(&self) {
        let mut state = self.lock();
        state.phase = Phase::Busy;
        state.seat.count();
    }

    /// The request is permitted and charged: until it is over, the connection does not count for its client.
    pub fn request_permitted(&self) {
        self.lock().seat.release();
    }

    /// Its answer is handed over.
    pub fn request_ended(&self) {
        let mut state = self.lock();
        state.phase = Phase::Idle { until: Instant::now() + state.timeouts.keep_alive, stays: false };
    }

    /// What to do after a poll of the connection that left nothing to do. An idle connection whose answers are all
    /// with the kernel counts from here on, and hears through `cx` that it is to leave.
    pub fn next(&self, cx: &mut Context<'_>) -> Next {
        let mut state = self.lock();
        if state.leaves {
            return Next::Leave;
        }
        if let (Phase::Idle { stays: false, .. }, None) = (state.phase, state.stalled) {
            state.seat.idle(cx);
            if state.seat.is_asked() {
                return Next::Decide;
            }
        }
        Next::Wait(state.deadline())
    }

    /// Stays, although asked to leave.
    pub fn stay(&self) {
        self.lock().stay();
    }

    /// Whether the connection leaves to make room for another of its client.
    pub fn leaves(&self) -> bool {
        self.lock().leaves
    }

    /// When to give up, and on what; `None` while a request is worked on.
    pub fn deadline(&self) -> Option<(Instant, Waits)> {
        self.lock().deadline()
    }

    /// Follows a request to leave if `has_nothing` arrived, and says whether it does.
    fn decides(&self, has_nothing: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        if !state.is_asked() {
            return state.leaves;
        }
        state.leaves = has_nothing();
        if !state.leaves {
            state.stay();
        }
        state.leaves
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
            state.seat.count();
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

impl State {
    fn deadline(&self) -> Option<(Instant, Waits)> {
        let stall = self.stalled.map(|since| (since + self.write_stall, Waits::Taken));
        let phase = match self.phase {
            Phase::Head { until } => Some((until, Waits::Head)),
            Phase::Busy => None,
            Phase::Idle { until, .. } => Some((until, Waits::Idle)),
        };
        stall.into_iter().chain(phase).min_by_key(|(at, _)| *at)
    }

    /// Whether it is asked to leave, and has not decided.
    fn is_asked(&self) -> bool {
        matches!(self.phase, Phase::Idle { .. }) && !self.leaves && self.seat.is_asked()
    }

    fn stay(&mut self) {
        if let Phase::Idle { stays, .. } = &mut self.phase {
            *stays = true;
        }
        self.seat.count();
    }
}

/// A client's stream under hyper, which reports what moves.
pub struct Watched {
    stream: Stream,
    patience: Patience,
    /// What was read of it, and is to be read again.
    again: Bytes,
    /// Whether the last flush left something behind.
    holds_back: bool,
}

/// A client's stream, in the clear or under TLS.
pub enum Stream {
    /// In the clear.
    Clear(TcpStream),
    /// Under TLS.
    Tls(tls::Stream),
}

impl Stream {
    /// Whether nothing has arrived that is not read; not known counts as no.
    fn has_nothing(&self) -> bool {
        match self {
            Stream::Clear(tcp) => socket::is_empty(tcp),
            Stream::Tls(stream) => stream.has_nothing(),
        }
    }
}

impl Watched {
    /// Reports what moves on `stream` to `patience`.
    pub fn new(stream: Stream, patience: Patience) -> Self {
        Watched { stream, patience, again: Bytes::new(), holds_back: false }
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
        } else if read.is_pending() && watched.patience.decides(|| watched.stream.has_nothing()) {
            return Poll::Ready(Ok(()));
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
            Stream::Tls(stream) => {
                let flushed = Pin::new(stream).poll_flush(cx);
                // Records that the kernel has no room for are an answer that is not taken.
                if flushed.is_pending() || watched.holds_back {
                    watched.holds_back = flushed.is_pending();
                    watched.patience.wrote(flushed.is_ready());
                }
                flushed
            }
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

    use std::task::Waker;

    use crate::data::pending::{Claim, Pending};
    use crate::policy::network::Client;

    const MOST: usize = 2;

    /// One connection of a client that may have two.
    fn one_of(pending: &Pending) -> Option<Patience> {
        let Some(Claim::Granted(seat)) = pending.claim(Client::new([192, 0, 2, 1].into()), MOST) else { return None };
        Some(Patience::new(ListenerTimeouts::default(), Duration::from_secs(30), seat))
    }

    fn patience() -> Patience {
        one_of(&Pending::default()).unwrap()
    }

    fn next(patience: &Patience) -> Next {
        patience.next(&mut Context::from_waker(Waker::noop()))
    }

    /// A connection that is idle after a request.
    fn idle(pending: &Pending) -> Patience {
        let patience = one_of(pending).unwrap();
        patience.request_began();
        patience.request_ended();
        assert!(matches!(next(&patience), Next::Wait(Some((_, Waits::Idle)))));
        patience
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

    #[test]
    fn connection_counts_unless_it_serves_a_permitted_request() {
        let pending = Pending::default();
        let (refused, permitted) = (one_of(&pending).unwrap(), one_of(&pending).unwrap());
        refused.request_began();
        permitted.request_began();
        assert!(one_of(&pending).is_none());
        permitted.request_permitted();
        let third = one_of(&pending).unwrap();
        permitted.request_ended();
        assert!(matches!(next(&permitted), Next::Decide), "one too many, and it alone is idle");
        drop((refused, third));
        permitted.stay();
        assert!(matches!(next(&permitted), Next::Wait(_)));
    }

    #[test]
    fn half_a_head_behind_a_permitted_request_counts() {
        let pending = Pending::default();
        let (permitted, _other) = (one_of(&pending).unwrap(), one_of(&pending).unwrap());
        permitted.request_began();
        permitted.request_permitted();
        permitted.request_ended();
        permitted.read();
        assert!(one_of(&pending).is_none());
    }

    #[test]
    fn idle_connection_leaves_where_nothing_has_arrived() {
        let pending = Pending::default();
        let (oldest, newer) = (idle(&pending), idle(&pending));
        assert!(one_of(&pending).is_none());
        assert_eq!((next(&oldest), matches!(next(&newer), Next::Wait(_))), (Next::Decide, true));
        assert!(oldest.decides(|| true) && oldest.leaves());
        assert_eq!(next(&oldest), Next::Leave);
    }

    #[test]
    fn bytes_that_have_arrived_win() {
        let pending = Pending::default();
        let (unread, read) = (idle(&pending), idle(&pending));
        assert!(one_of(&pending).is_none());
        assert!(!unread.decides(|| false));
        assert!(matches!(next(&unread), Next::Wait(_)), "and it is not asked again");
        assert!(one_of(&pending).is_none());
        read.read();
        assert!(!read.decides(|| panic!("it is no longer idle")));
        assert!(matches!(next(&read), Next::Wait(Some((_, Waits::Head)))));
    }

    #[test]
    fn answer_that_is_not_taken_yet_is_never_cut() {
        let pending = Pending::default();
        let (slow, _other) = (one_of(&pending).unwrap(), one_of(&pending));
        slow.request_began();
        slow.wrote(false);
        slow.request_ended();
        assert!(matches!(next(&slow), Next::Wait(_)));
        assert!(pending.claim(Client::new([192, 0, 2, 1].into()), MOST).is_none(), "nor asked to leave");
    }
}
