//! A client's stream under hyper, which reports what moves to the connection's deadlines.
//!
//! The stream hides from hyper that a client has ended its side while it is answered, and finds out
//! whether such a client is still there. Where a request's body was given up it discards the rest
//! while the answer is written. It holds no deadline: `deadlines` does.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::data::admission::discarding::MAX_DISCARDED_BYTES;
use crate::data::http::deadlines::{CutKind, HttpDeadlines};
use crate::data::http::request_filter::RequestFilter;
use crate::data::stream::keepalive;
use crate::data::stream::socket::{self, Socket};
use crate::data::stream::turn::{self, TurnBudget};
use crate::data::tls;
use crate::data::tunnel::tunnel_stream::TunnelStream;

/// How long a client that has ended its side has to acknowledge the last bytes that it was sent.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a client that has ended its side waits for its answer before the first probe, and the
/// time between probes.
const FIRST_PROBE_DELAY: Duration = Duration::from_secs(2);
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// How often the socket's error is read while a request is worked on.
const ERROR_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long a probe has to provoke a reset.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// The bytes that probe a client: an interim answer, which any client of HTTP/1.1 passes over (RFC
/// 9110 §15.2). A client that has closed its socket resets the connection.
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The first and the longest pause between two looks at what a client has acknowledged.
const MIN_ACK_POLL_INTERVAL: Duration = Duration::from_millis(1);
const MAX_ACK_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A client's stream under hyper, which reports what moves.
pub struct TimedStream {
    stream: ClientStream,
    deadlines: HttpDeadlines,
    /// Bytes that were read of the stream, and are to be read again.
    again: Bytes,
    /// The rest of interim answers, of which a part may be written. `None` means that none is
    /// left. Boxed, since few connections have any.
    interims: Option<Box<Bytes>>,
    /// Whether hyper has written all that it had, so that what it writes next begins an answer.
    is_clean: bool,
    /// The request lines on their way to hyper. `None` means that hyper doesn't read yet.
    filter: Option<Box<RequestFilter>>,
    /// Whether the last flush left something behind.
    holds_back: bool,
    confirming: Option<Box<DeliveryWait>>,
    /// The probes of a client that has ended its side. `None` means that it has not, or that none
    /// was due.
    probing: Option<ProbeState>,
    /// When the socket's error is read next, while a request is worked on.
    looks: Option<Pin<Box<Sleep>>>,
    /// Bytes of the client that were discarded.
    discarded: u64,
    /// Whether our direction has ended: all written bytes are with the kernel, and FIN behind them.
    is_shut: bool,
}

/// A client's stream, in the clear or under TLS.
pub enum ClientStream {
    /// TCP or Unix, on a listener without TLS.
    Clear(Socket),
    /// TLS, once its handshake is done.
    Tls(tls::TlsClientStream),
    /// Taken back for the tunnel.
    Detached,
}

impl ClientStream {
    /// The version of TLS, in the words of OpenSSL. `None` means a stream in the clear.
    pub fn tls_version(&self) -> Option<&'static str> {
        if let ClientStream::Tls(stream) = self { stream.version() } else { None }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            ClientStream::Clear(socket) => Pin::new(socket).poll_write(cx, bytes),
            ClientStream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            ClientStream::Detached => Poll::Ready(Err(detached_error())),
        }
    }

    /// The socket alone. `None` means that the stream was taken back.
    fn into_socket(self) -> Option<Socket> {
        match self {
            ClientStream::Clear(socket) => Some(socket),
            ClientStream::Tls(stream) => Some(stream.into_parts().0),
            ClientStream::Detached => None,
        }
    }

    /// Ends our direction where a TLS alert was the last that was sent. Says whether it was.
    fn ends_behind_alert(&self) -> bool {
        matches!(self, ClientStream::Tls(stream) if stream.ends_behind_alert())
    }

    /// The socket of the client. `None` means that the stream was taken back.
    fn socket(&self) -> Option<&Socket> {
        match self {
            ClientStream::Clear(socket) => Some(socket),
            ClientStream::Tls(stream) => Some(stream.socket()),
            ClientStream::Detached => None,
        }
    }
}

/// The wait for a client that has ended its side to acknowledge the last bytes that it was sent.
struct DeliveryWait {
    until: Instant,
    pause: Duration,
    timer: Pin<Box<Sleep>>,
}

/// The probes of a client that has ended its side while it is answered.
struct ProbeState {
    timer: Pin<Box<Sleep>>,
    /// Whether a probe went out whose outcome is awaited.
    sent: bool,
}

impl ProbeState {
    /// Where no probe may be sent, the kernel's own tell, though later: a closed socket is
    /// forgotten by its host after a minute (tcp(7), SO_KEEPALIVE).
    fn new(socket: &Socket) -> Self {
        let probes = TcpKeepalive::new().with_time(PROBE_INTERVAL).with_interval(PROBE_INTERVAL);
        // A socket that fails this has lost its peer already.
        let _ = SockRef::from(socket).set_tcp_keepalive(&probes);
        ProbeState { timer: Box::pin(tokio::time::sleep(FIRST_PROBE_DELAY)), sent: false }
    }
}

impl DeliveryWait {
    fn new() -> Self {
        let now = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(now + MIN_ACK_POLL_INTERVAL));
        DeliveryWait { until: now + DELIVERY_TIMEOUT, pause: MIN_ACK_POLL_INTERVAL, timer }
    }
}

impl ClientStream {
    /// Whether nothing has arrived that is not read. Not known counts as no.
    fn is_empty(&self) -> bool {
        match self {
            ClientStream::Clear(socket) => socket::is_empty(socket),
            ClientStream::Tls(stream) => stream.has_nothing(),
            ClientStream::Detached => false,
        }
    }
}

impl TimedStream {
    /// Reports what moves on `stream` to `deadlines`.
    pub fn new(stream: ClientStream, deadlines: HttpDeadlines) -> Self {
        TimedStream {
            stream,
            deadlines,
            again: Bytes::new(),
            interims: None,
            is_clean: true,
            filter: None,
            holds_back: false,
            confirming: None,
            probing: None,
            looks: None,
            discarded: 0,
            is_shut: false,
        }
    }

    /// Makes reads begin with `again`.
    pub fn with_replay(mut self, again: Bytes) -> Self {
        self.again = again;
        self
    }

    /// Makes reads go through `filter` from here on.
    pub fn with_filter(mut self, filter: RequestFilter) -> Self {
        self.filter = Some(Box::new(filter));
        self
    }

    /// Takes the stream back for the tunnel, with the bytes that are to be read again. `None` means
    /// that it was taken before.
    pub fn into_parts(mut self) -> Option<(TunnelStream, Bytes)> {
        let channel = match std::mem::replace(&mut self.stream, ClientStream::Detached) {
            ClientStream::Clear(socket) => TunnelStream::clear(socket),
            ClientStream::Tls(stream) => {
                let (socket, session) = stream.into_parts();
                TunnelStream::tls(socket, session)
            }
            ClientStream::Detached => return None,
        };
        let held = self.filter.take().map_or_else(Bytes::new, |filter| filter.into_held());
        let again = std::mem::take(&mut self.again);
        Some((channel, if held.is_empty() { again } else { [held, again].concat().into() }))
    }

    /// Returns the socket, where our direction has ended in order or behind an alert, and the
    /// client may have sent bytes that were not read; and how many bytes have been discarded.
    /// `unread` says whether hyper, which is done with the stream, has left something of it.
    pub fn into_unread(mut self, unread: bool) -> Option<(Socket, u64)> {
        // A client that has ended its side sends nothing more. A connection that was cut ends
        // without the wait.
        if self.deadlines.has_client_eof() || self.deadlines.cut().is_some() {
            return None;
        }
        let holds = unread || self.has_held_bytes() || self.deadlines.has_unread_body();
        let ends_in_order = self.is_shut && (holds || !self.stream.is_empty());
        if !ends_in_order && !self.stream.ends_behind_alert() {
            return None;
        }
        let socket = std::mem::replace(&mut self.stream, ClientStream::Detached).into_socket()?;
        Some((socket, self.discarded))
    }

    /// Returns the socket where the client has not acknowledged all that it was sent, with our
    /// direction ended by FIN alone; and how many bytes have been discarded. `None` means that the
    /// socket may be closed at once.
    pub fn into_unacked(mut self) -> Option<(Socket, u64)> {
        let socket = std::mem::replace(&mut self.stream, ClientStream::Detached).into_socket()?;
        let is_owed = socket.unacked() > 0 && socket.shutdown_write().is_ok();
        is_owed.then_some((socket, self.discarded))
    }

    /// Whether the client has broken TLS, and is owed the alert that says so.
    pub fn has_alerted(&self) -> bool {
        matches!(&self.stream, ClientStream::Tls(stream) if stream.has_alerted())
    }

    /// Whether bytes of the client were read that hyper has not got.
    fn has_held_bytes(&self) -> bool {
        !self.again.is_empty() || self.filter.as_ref().is_some_and(|filter| filter.has_held_bytes())
    }

    /// Discards bytes that the client still sends of a body that was given up: a client that sends
    /// all of it before it reads would never take the answer. TLS or not: nothing of it is read
    /// again.
    fn discard(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.discarded >= MAX_DISCARDED_BYTES || !self.deadlines.is_discarding() {
            return Ok(());
        }
        let Some(socket) = self.stream.socket() else { return Ok(()) };
        let mut turn = TurnBudget::new();
        while let Poll::Ready(came) = socket::poll_discard(socket, cx) {
            let came = came?;
            if came == 0 {
                self.deadlines.on_discarded_all();
                return Ok(());
            }
            self.discarded += came as u64;
            turn.spend_call(came);
            if turn.is_over() {
                turn::yield_after_io(cx);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a client that has ended its side has acknowledged all that it was sent, so that it
    /// still reads. A client that has closed its socket answers with a reset.
    pub async fn delivered(&mut self) -> bool {
        poll_fn(|cx| self.poll_delivered(cx)).await
    }

    fn poll_delivered(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(socket) = self.stream.socket() else { return Poll::Ready(false) };
        let confirming = self.confirming.get_or_insert_with(|| Box::new(DeliveryWait::new()));
        loop {
            // A reset: the client had closed its socket before the last bytes came.
            if socket.is_broken() {
                return Poll::Ready(false);
            }
            // The kernel tells of no acknowledgement, so its queue is polled (SIOCOUTQ).
            if socket.unacked() == 0 {
                return Poll::Ready(true);
            }
            if Instant::now() >= confirming.until {
                return Poll::Ready(false);
            }
            ready!(confirming.timer.as_mut().poll(cx));
            confirming.pause = (confirming.pause * 2).min(MAX_ACK_POLL_INTERVAL);
            confirming.timer.as_mut().reset(Instant::now() + confirming.pause);
        }
    }

    /// Ready once a client that has ended its side turns out to be gone. While it is there, it is
    /// answered all the same. Bytes tell: a closed socket answers them with a reset.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let Some(socket) = self.stream.socket() else {
                return Poll::Ready(Err(detached_error()));
            };
            if let Some(error) = socket.take_error()? {
                return Poll::Ready(Err(error));
            }
            let probing = self.probing.get_or_insert_with(|| ProbeState::new(socket));
            ready!(probing.timer.as_mut().poll(cx));
            let may_probe = self.interims.is_none() && self.deadlines.may_interim();
            probing.sent = !probing.sent && may_probe;
            let pause = if probing.sent { PROBE_TIMEOUT } else { PROBE_INTERVAL };
            probing.timer.as_mut().reset(Instant::now() + pause);
            if probing.sent {
                // Never written in part: nothing else waits, and the kernel has room for 25 bytes.
                let _ = self.stream.poll_write(cx, PROBE)?;
            }
        }
    }

    /// Ready with the error of a connection that was reset while a request is worked on. Where a
    /// client has sent bytes behind that request, hyper does not read, and would not notice.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.deadlines.is_busy() {
            // Between two requests hyper reads, and meets the error itself.
            self.looks = None;
            return Poll::Pending;
        }
        let Some(socket) = self.stream.socket() else { return Poll::Pending };
        let looks =
            self.looks.get_or_insert_with(|| Box::pin(tokio::time::sleep(ERROR_POLL_INTERVAL)));
        loop {
            ready!(looks.as_mut().poll(cx));
            if let Ok(Some(error)) | Err(error) = socket.take_error() {
                return Poll::Ready(error);
            }
            looks.as_mut().reset(Instant::now() + ERROR_POLL_INTERVAL);
        }
    }

    /// Writes the interim answers that wait, before hyper writes anything.
    fn poll_before_hyper(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.is_clean) && self.interims.is_none() {
            self.interims = box_interims(self.deadlines.take_interims());
        }
        self.poll_interims(cx)
    }

    /// Writes the rest of the interim answers. A client that takes nothing of them counts as a
    /// client that does not take its answer.
    fn poll_interims(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(interims) = &mut self.interims {
            let Poll::Ready(written) = self.stream.poll_write(cx, interims) else {
                self.report(&Poll::Pending);
                return Poll::Pending;
            };
            let bytes = written?;
            if bytes == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            interims.advance(bytes);
            let is_over = interims.is_empty();
            self.deadlines.on_interim_write(bytes);
            if is_over {
                self.interims = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn report(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(written) => {
                // An error counts as no bytes: hyper ends the connection by it.
                if let Some(write_stall) = self.deadlines.on_write(*written.as_ref().unwrap_or(&0))
                {
                    self.allow_zero_window(write_stall);
                }
            }
            Poll::Pending => {
                let unacked = self.stream.socket().map_or(0, Socket::unacked);
                self.deadlines.on_blocked(unacked);
            }
        }
    }
}

impl TimedStream {
    /// Lets the client keep its window closed for as long as the route of its request allows. A
    /// tunnel keeps that from the answer that opened it.
    fn allow_zero_window(&self, write_stall: Duration) {
        if let Some(socket) = self.stream.socket() {
            socket.allow_zero_window(write_stall);
        }
    }
}

impl Drop for TimedStream {
    fn drop(&mut self) {
        let Some(socket) = self.stream.socket() else { return };
        if self.deadlines.cut() == Some(CutKind::Reset) {
            socket.reset_on_close();
        } else {
            keepalive::bound_close(socket, self.deadlines.write_stall());
        }
    }
}

/// Boxes interim answers that are to be written. `None` means that there are none.
fn box_interims(interims: Vec<u8>) -> Option<Box<Bytes>> {
    (!interims.is_empty()).then(|| Box::new(interims.into()))
}

/// The error of reading or writing a stream that was taken back.
fn detached_error() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl TimedStream {
    fn poll_client(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self;
        if !this.again.is_empty() {
            let max = this.again.len().min(buffer.remaining());
            buffer.put_slice(&this.again.split_to(max));
            return Poll::Ready(Ok(()));
        }
        if this.deadlines.is_discarding() {
            // The rest of a body that was given up: a flush discards it.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            ClientStream::Clear(socket) => Pin::new(socket).poll_read(cx, buffer),
            ClientStream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            ClientStream::Detached => Poll::Ready(Err(detached_error())),
        };
        if buffer.filled().len() > before {
            this.deadlines.on_read();
        } else if read.is_pending() && this.deadlines.decide_displacement(|| this.stream.is_empty())
        {
            // Reads as ended, although the client has not ended its side: the connection leaves,
            // and hyper closes it.
            return Poll::Ready(Ok(()));
        } else if matches!(read, Poll::Ready(Ok(()))) && !this.deadlines.on_client_eof(cx.waker()) {
            // hyper would drop the exchange at this end: hides it for as long as the client is
            // there.
            return this.poll_gone(cx);
        }
        read
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Taken out for the call, since the closure borrows the whole stream.
        let Some(mut filter) = this.filter.take() else { return this.poll_client(cx, buffer) };
        let read = filter.poll(buffer, |buffer| this.poll_client(cx, buffer));
        // Bytes count as a head only once the filter has looked at them.
        this.deadlines.on_parsed(filter.is_within_head());
        this.filter = Some(filter);
        read
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_before_hyper(cx))?;
        let written = this.stream.poll_write(cx, bytes);
        this.report(&written);
        if written.is_pending() {
            this.discard(cx)?;
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_before_hyper(cx))?;
        let written = match &mut this.stream {
            ClientStream::Clear(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            ClientStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            ClientStream::Detached => Poll::Ready(Err(detached_error())),
        };
        this.report(&written);
        if written.is_pending() {
            this.discard(cx)?;
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            ClientStream::Clear(socket) => socket.is_write_vectored(),
            ClientStream::Tls(stream) => stream.is_write_vectored(),
            ClientStream::Detached => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes with each poll, whether there is something to flush or not.
        if let Poll::Ready(error) = this.poll_error(cx) {
            return Poll::Ready(Err(error));
        }
        this.discard(cx)?;
        // hyper flushes only once its own buffer is empty: the next write begins an answer.
        this.is_clean = true;
        if this.interims.is_none() {
            this.interims = box_interims(this.deadlines.poll_interims(cx));
        }
        ready!(this.poll_interims(cx))?;
        ready!(this.poll_flush_stream(cx))?;
        let filter = this.filter.as_mut();
        this.deadlines.on_flush(filter.and_then(|filter| filter.is_within_head()));
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.deadlines.set_closing();
        // Before our own end: a client that has read everything may close at once, and resets
        // whatever comes then.
        if this.deadlines.awaits_delivery() {
            let delivered = ready!(this.poll_delivered(cx));
            this.deadlines.set_delivered(delivered);
        }
        let shut = match &mut this.stream {
            ClientStream::Clear(socket) => Poll::Ready(socket.shutdown_write()),
            ClientStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            ClientStream::Detached => Poll::Ready(Err(detached_error())),
        };
        this.is_shut = matches!(shut, Poll::Ready(Ok(())));
        shut
    }
}

impl TimedStream {
    fn poll_flush_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            ClientStream::Clear(socket) => Pin::new(socket).poll_flush(cx),
            ClientStream::Tls(stream) => {
                let flushed = Pin::new(stream).poll_flush(cx);
                // Records that the kernel has no room for count as an answer that the client does
                // not take.
                if flushed.is_pending() || self.holds_back {
                    self.holds_back = flushed.is_pending();
                    let written =
                        if flushed.is_ready() { Poll::Ready(Ok(0)) } else { Poll::Pending };
                    self.report(&written);
                }
                flushed
            }
            ClientStream::Detached => Poll::Ready(Err(detached_error())),
        }
    }
}
