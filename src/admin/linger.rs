//! Lingering close for the metrics listener and the admin socket (RFC 9112 §9.6): input behind an
//! answer is discarded for a while.
//!
//! The kernel resets a socket that is closed with unread bytes, and a caller that still sends would
//! lose its answer. This module answers nothing. Its bounds are those of the data plane.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::data::admission::discarding::{MAX_DISCARDED_BYTES, SILENCE_TIMEOUT, TOTAL_TIMEOUT};
use crate::data::stream::unacked::unacked;

/// Most bytes that one read discards.
const MAX_READ_BYTES: usize = 8 * 1024;

/// The first and the longest pause between two polls of the bytes not yet acknowledged.
const MIN_ACK_POLL_INTERVAL: Duration = Duration::from_millis(1);
const MAX_ACK_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Whether the body of a connection's latest request was given up. If so, the connection ends
/// behind the answer and no further request is parsed.
#[derive(Clone, Default)]
pub struct BodyAbandoned(Arc<AtomicBool>);

impl BodyAbandoned {
    /// Marks the body as given up.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the body was given up.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A caller's stream under hyper. While a write is blocked, the given-up body of the request is
/// discarded: a caller may send all of it before it reads.
pub struct DiscardingStream<'i, I> {
    io: &'i mut I,
    given_up: BodyAbandoned,
    /// Bytes that may still be discarded.
    left: u64,
}

impl<'i, I: AsyncRead + AsyncWrite + Unpin> DiscardingStream<'i, I> {
    /// Wraps the caller's stream `io`.
    pub fn new(io: &'i mut I, given_up: BodyAbandoned) -> Self {
        DiscardingStream { io, given_up, left: MAX_DISCARDED_BYTES }
    }

    /// Discards all input that has arrived. The last read registers `cx` to be woken by more.
    fn discard(&mut self, cx: &mut Context<'_>) {
        while self.given_up.is_set() && self.left > 0 {
            match poll_discard(self.io, cx) {
                Poll::Ready(Ok(came @ 1..)) => self.left = self.left.saturating_sub(came),
                // The end or an error of the stream also fails the next write, which reports it.
                Poll::Ready(_) => self.left = 0,
                Poll::Pending => return,
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for DiscardingStream<'_, I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().io).poll_read(cx, buffer)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for DiscardingStream<'_, I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let heard = self.get_mut();
        let written = Pin::new(&mut *heard.io).poll_write(cx, bytes);
        // A caller that sends its whole body before it reads would otherwise wait for us, and we
        // for it.
        if written.is_pending() {
            heard.discard(cx);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().io).poll_shutdown(cx)
    }
}

/// Shuts down the writing side behind an answer, and discards input until the caller's end or a
/// bound. `awaits` means more input is expected. Otherwise this waits only if some has already
/// arrived.
pub async fn linger<I: AsyncRead + AsyncWrite + Unpin>(io: &mut I, awaits: bool) {
    // A failure means the caller is gone: the reads below end at once.
    let _ = io.shutdown().await;
    let last = Instant::now() + TOTAL_TIMEOUT;
    let mut left = MAX_DISCARDED_BYTES;
    // With input still awaited, 1 only enters the loop: nothing has been read yet.
    let mut came = if awaits { 1 } else { discard_available(io).await };
    while came > 0 && came <= left {
        left -= came;
        let until = (Instant::now() + SILENCE_TIMEOUT).min(last);
        let more = timeout_at(until, poll_fn(|cx| poll_discard(io, cx))).await;
        // `timeout_at` polls the read first, so input that is always ready never times out. The
        // total is therefore checked after each read.
        let (Ok(Ok(more)), true) = (more, Instant::now() < last) else { return };
        came = more;
    }
}

/// Discards input that has already arrived, without waiting; returns its length in bytes.
async fn discard_available<I: AsyncRead + Unpin>(io: &mut I) -> u64 {
    let came = poll_fn(|cx| Poll::Ready(poll_discard(io, cx))).await;
    if let Poll::Ready(Ok(came)) = came { came } else { 0 }
}

/// Discards at most `MAX_READ_BYTES` bytes; 0 means the end of the stream.
fn poll_discard<I: AsyncRead + Unpin>(io: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
    // Uninitialised, so that no poll has to zero 8 KiB.
    let mut room = [MaybeUninit::uninit(); MAX_READ_BYTES];
    let mut buffer = ReadBuf::uninit(&mut room);
    Pin::new(io).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len() as u64)
}

/// Waits until `last` for the caller to acknowledge everything sent; returns whether it has. The
/// kernel signals no event for this, so the send queue is polled.
pub async fn wait_for_ack(tcp: &TcpStream, last: Instant) -> bool {
    let mut pause = MIN_ACK_POLL_INTERVAL;
    while unacked(tcp) != Some(0) {
        if Instant::now() >= last || !matches!(tcp.take_error(), Ok(None)) {
            return false;
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_ACK_POLL_INTERVAL);
    }
    true
}

/// Makes the close of `tcp` drop the unacknowledged bytes and reset the connection (SO_LINGER of
/// 0).
pub fn reset_on_close(tcp: &TcpStream) {
    // A failure means that the caller is already gone.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::duplex;

    /// Checks how long discarding lasts, in seconds, if a caller sends so much and then nothing.
    async fn check(sent: usize, awaits: bool, seconds: u64) {
        let (mut caller, mut io) = duplex(1 << 20);
        caller.write_all(&vec![0; sent]).await.unwrap();
        let began = Instant::now();
        linger(&mut io, awaits).await;
        assert_eq!(began.elapsed().as_secs(), seconds, "{sent} bytes, {awaits}");
    }

    #[tokio::test(start_paused = true)]
    async fn discarding_begins_only_when_input_is_unread() {
        check(0, false, 0).await;
        check(0, true, SILENCE_TIMEOUT.as_secs()).await;
        check(1, false, SILENCE_TIMEOUT.as_secs()).await;
        check(1 << 20, true, SILENCE_TIMEOUT.as_secs()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn discarding_ends_with_its_caller() {
        let (caller, mut io) = duplex(64);
        drop(caller);
        let began = Instant::now();
        linger(&mut io, true).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn discarding_of_a_drip_and_of_a_flood_is_bounded() {
        let (mut caller, mut io) = duplex(64);
        let began = Instant::now();
        let drips = async {
            while caller.write_all(b"x").await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! { () = linger(&mut io, true) => {}, () = drips => unreachable!() }
        assert_eq!(began.elapsed().as_secs(), TOTAL_TIMEOUT.as_secs());
        let (mut caller, mut io) = duplex(1 << 20);
        let mut sent = 0;
        let floods = async {
            while caller.write_all(&[0; 1 << 16]).await.is_ok() {
                sent += 1 << 16;
            }
        };
        tokio::select! { () = linger(&mut io, true) => {}, () = floods => unreachable!() }
        assert!((MAX_DISCARDED_BYTES..=MAX_DISCARDED_BYTES + (2 << 20)).contains(&sent), "{sent}");
    }
}
