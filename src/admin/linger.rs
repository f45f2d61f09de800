//! Answers of the metrics listener and of the admin socket that arrive although their requests were
//! not read whole (RFC 9112 §9.6): what a caller still sends is discarded for a while.
//!
//! A socket that is closed with unread bytes in it is reset, and a caller that is still sending
//! loses its answer. It answers nothing, and has the bounds of the data plane.

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

use crate::data::discards::{MAX_DISCARDED, SILENCE_TIMEOUT, TOTAL_TIMEOUT};
use crate::data::unacked::unacked;

/// The most bytes that are discarded by one read.
const CHUNK: usize = 8 * 1024;

/// The first and the longest pause between two looks at what a caller has acknowledged.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// Whether the body of a connection's latest request was given up: its connection ends behind the
/// answer, and nothing more of it is parsed.
#[derive(Clone, Default)]
pub struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    /// The body is given up.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was given up.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A caller's stream under hyper. While the caller takes nothing of an answer whose request's body
/// was given up, it discards that body: the caller may send all of it before it reads.
pub struct Heard<'i, I> {
    io: &'i mut I,
    given_up: GivenUp,
    /// How much may still be discarded.
    left: u64,
}

impl<'i, I: AsyncRead + AsyncWrite + Unpin> Heard<'i, I> {
    /// Over `io`, until it is dropped.
    pub fn new(io: &'i mut I, given_up: GivenUp) -> Self {
        Heard { io, given_up, left: MAX_DISCARDED }
    }

    /// Discards what has come. A read that finds nothing has `cx` woken by more.
    fn discard(&mut self, cx: &mut Context<'_>) {
        while self.given_up.is_set() && self.left > 0 {
            match poll_discard(self.io, cx) {
                Poll::Ready(Ok(came @ 1..)) => self.left = self.left.saturating_sub(came),
                // Its end shows in what is written.
                Poll::Ready(_) => self.left = 0,
                Poll::Pending => return,
            }
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<'_, I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().io).poll_read(cx, buffer)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Heard<'_, I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let heard = self.get_mut();
        let written = Pin::new(&mut *heard.io).poll_write(cx, bytes);
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

/// Ends our direction behind an answer, and discards what the caller still sends, until it ends or
/// a bound is reached. `awaits`: more is to come. Where nothing has, it does not wait for any.
pub async fn linger<I: AsyncRead + AsyncWrite + Unpin>(io: &mut I, awaits: bool) {
    // Of a caller that is gone nothing more comes.
    let _ = io.shutdown().await;
    let last = Instant::now() + TOTAL_TIMEOUT;
    let mut left = MAX_DISCARDED;
    let mut came = if awaits { 1 } else { at_once(io).await };
    while came > 0 && came <= left {
        left -= came;
        let until = (Instant::now() + SILENCE_TIMEOUT).min(last);
        let more = timeout_at(until, poll_fn(|cx| poll_discard(io, cx))).await;
        let (Ok(Ok(more)), true) = (more, Instant::now() < last) else { return };
        came = more;
    }
}

/// How much had come already, and is discarded.
async fn at_once<I: AsyncRead + Unpin>(io: &mut I) -> u64 {
    let came = poll_fn(|cx| Poll::Ready(poll_discard(io, cx))).await;
    if let Poll::Ready(Ok(came)) = came { came } else { 0 }
}

/// Discards some of what has come; 0 is the end of the stream.
fn poll_discard<I: AsyncRead + Unpin>(io: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
    let mut room = [MaybeUninit::uninit(); CHUNK];
    let mut buffer = ReadBuf::uninit(&mut room);
    Pin::new(io).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len() as u64)
}

/// Waits until `last` for a caller to acknowledge all that it was sent. Says whether it has.
pub async fn delivered(tcp: &TcpStream, last: Instant) -> bool {
    let mut pause = FIRST_LOOK;
    while unacked(tcp) != Some(0) {
        if Instant::now() >= last || !matches!(tcp.take_error(), Ok(None)) {
            return false;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
    true
}

/// Has the kernel forget what a caller was sent and has not taken, once `tcp` is closed.
pub fn forget(tcp: &TcpStream) {
    // Of a socket that fails this, the caller is gone already.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::duplex;

    /// After how many seconds discarding ends, where a caller sends so much and then nothing.
    async fn check(sent: usize, awaits: bool, seconds: u64) {
        let (mut caller, mut io) = duplex(1 << 20);
        caller.write_all(&vec![0; sent]).await.unwrap();
        let began = Instant::now();
        linger(&mut io, awaits).await;
        assert_eq!(began.elapsed().as_secs(), seconds, "{sent} bytes, {awaits}");
    }

    #[tokio::test(start_paused = true)]
    async fn discarding_begins_only_where_something_is_unread() {
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
        assert!((MAX_DISCARDED..=MAX_DISCARDED + (2 << 20)).contains(&sent), "{sent}");
    }
}
