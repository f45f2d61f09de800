//! A refused attempt that is accepted only to be closed (`refuse = "close"`).
//!
//! Scripts of a browser see no status of a failed handshake, and see the code of a Close. So the
//! client gets a 101 and a Close with the refusal's word. No backend is dialled, nothing is
//! charged, and no frame of the client goes anywhere: its frames are read to find its own Close.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Response, StatusCode, response};
use tokio::time::timeout;

use crate::data::admission::discarding::MAX_DISCARDED_BYTES;
use crate::data::admission::refused_upgrades::RefusedUpgradeGuard;
use crate::data::connection::linger::discard_until;
use crate::data::connection::open_guard::OpenGuard;
use crate::data::http::deadlines::HttpDeadlines;
use crate::data::http::forward::X_REQUEST_ID;
use crate::data::http::head::{self, OriginalSpelling};
use crate::data::stream::buffers::{self, HEADROOM};
use crate::data::stream::turn;
use crate::data::tunnel::tunnel_stream::TunnelStream;
use crate::data::websocket::frame::{self, Extensions, PieceKind, Scanner, Sender};
use crate::data::websocket::handshake::Handshake;
use crate::observe::metrics::DiscardEnd;
use crate::policy::network::ClientKey;
use crate::refusal::Refusal;

/// The most time that a client has for its Close, whatever the route's `grace` says: each such
/// connection holds a place that another client could have.
const MAX_CLOSE_WAIT: Duration = Duration::from_secs(10);

/// A refused attempt whose client is to get a 101 and a Close.
pub struct RefusedUpgrade {
    head: response::Parts,
    code: u16,
    word: &'static str,
    wait: Duration,
    /// The connection's deadlines, which count it among those of its client.
    deadlines: HttpDeadlines,
    /// Its place among the refused attempts that are being closed.
    _place: RefusedUpgradeGuard,
}

impl RefusedUpgrade {
    /// Accepts `handshake`, to be closed with `code` for `refusal`. The client has `grace` for its
    /// own Close.
    pub fn new(
        handshake: &Handshake,
        refusal: Refusal,
        code: u16,
        grace: Duration,
        deadlines: HttpDeadlines,
        place: RefusedUpgradeGuard,
    ) -> Box<Self> {
        let (head, word) = (accepting(handshake), refusal.word());
        let wait = grace.min(MAX_CLOSE_WAIT);
        Box::new(RefusedUpgrade { head, code, word, wait, deadlines, _place: place })
    }

    /// Names the request in the 101, as a backend and the log would.
    pub fn with_id(mut self: Box<Self>, id: &HeaderValue) -> Box<Self> {
        self.head.headers.insert(X_REQUEST_ID, id.clone());
        self
    }

    /// The head of the 101, for a client whose attempt hyper has not read.
    pub fn head(&self) -> Vec<u8> {
        head::write_switched(&self.head, &OriginalSpelling::default())
    }

    /// Takes the head of the 101, for a client whose attempt hyper has read.
    pub fn take_head(&mut self) -> response::Parts {
        std::mem::replace(&mut self.head, Response::new(()).into_parts().0)
    }

    /// Sends the Close to the client behind `stream`, which has its 101 and has `said` something
    /// already. Waits for its Close, bounded in time and in bytes.
    pub async fn close(
        self: Box<Self>,
        stream: TunnelStream,
        said: Bytes,
        open_guard: OpenGuard,
        client: ClientKey,
    ) {
        // The 101 has agreed on no extension, so that a reserved bit is a fault (RFC 6455 §5.2).
        let scanner = Scanner::new(Sender::Client, Extensions::None);
        let phase = ClosePhase::Awaited(scanner);
        let mut closing = ClosingHandshake { stream, phase, left: MAX_DISCARDED_BYTES };
        let close = frame::close_frame(self.code, self.word, None);
        // Sent by the first poll: a write that finds no room registers the waker of its task.
        let mut first = Some((close, said));
        let closed = timeout(
            self.wait,
            poll_fn(|cx| {
                if let Some((close, said)) = first.take() {
                    closing.begin(cx, close.as_slice(), &said);
                }
                closing.poll(cx)
            }),
        );
        let closed = async { closed.await.unwrap_or(DiscardEnd::Time) };
        let discarded = discard_until(closed, &self.deadlines, &open_guard, client).await;
        poll_fn(|cx| {
            closing.finish(cx, discarded.end);
            Poll::Ready(())
        })
        .await;
    }
}

/// The head of a 101 that accepts `handshake` without any extension. The first subprotocol of the
/// offer is chosen: Chromium fails a WebSocket whose offer was not taken up, and hides the Close.
fn accepting(handshake: &Handshake) -> response::Parts {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    // Base64 is always valid in a value, and so is the offer of a client, which was a value.
    let accept = HeaderValue::try_from(handshake.accept()).ok();
    let chosen = handshake.first_subprotocol().and_then(|name| HeaderValue::from_str(name).ok());
    let fields = [(SEC_WEBSOCKET_ACCEPT, accept), (SEC_WEBSOCKET_PROTOCOL, chosen)];
    for (name, value) in fields {
        head.headers.extend(value.map(|value| (name, value)));
    }
    head
}

/// The closing handshake with a client (RFC 6455 §7.1.2) that has got a Close.
struct ClosingHandshake {
    stream: TunnelStream,
    phase: ClosePhase,
    /// Bytes that may still come.
    left: u64,
}

enum ClosePhase {
    /// The client's frames are read, to find its Close.
    Awaited(Scanner),
    /// The client has sent its Close. Our direction ends behind it (RFC 6455 §7.1.1).
    Closed,
    /// The client's frames cannot be read. Our direction ends, and what still comes is discarded.
    Broken,
}

impl ClosingHandshake {
    /// Sends `close`, and reads what the client has `said` already.
    fn begin(&mut self, cx: &mut Context<'_>, close: &[u8], said: &[u8]) {
        // An error is met again by the next flush.
        let _ = self.stream.write(cx, close);
        self.scan(said);
    }

    /// Ready once the client has closed, in either sense, or has sent too much.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DiscardEnd> {
        buffers::lend(|buffers| {
            loop {
                match self.stream.poll_flush(cx) {
                    Ok(true) if matches!(self.phase, ClosePhase::Closed) => {
                        return Poll::Ready(DiscardEnd::Client);
                    }
                    Ok(_) => {}
                    Err(_) => return Poll::Ready(DiscardEnd::Client),
                }
                let read = match self.stream.poll_read(cx, buffers) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(DiscardEnd::Client),
                    Poll::Ready(Ok(read)) => read,
                };
                // TLS records without application data read as 0 too, and are no end.
                if read == 0 && self.stream.has_ended() {
                    return Poll::Ready(DiscardEnd::Client);
                }
                let Some(left) = self.left.checked_sub(read as u64) else {
                    return Poll::Ready(DiscardEnd::Size);
                };
                self.left = left;
                self.scan(&buffers.plain[HEADROOM..HEADROOM + read]);
                if buffers.turn.is_over() {
                    turn::yield_after_io(cx);
                    return Poll::Pending;
                }
            }
        })
    }
}

impl ClosingHandshake {
    /// Reads the client's frames up to its Close.
    fn scan(&mut self, mut bytes: &[u8]) {
        while let (ClosePhase::Awaited(scanner), false) = (&mut self.phase, bytes.is_empty()) {
            let piece = match scanner.next(bytes, &None::<u64>) {
                Ok(piece) => piece,
                // No code tells the client: it has a Close already.
                Err(_) => return self.end_in(ClosePhase::Broken),
            };
            if matches!(piece.what, PieceKind::Control(control) if control.is_close()) {
                return self.end_in(ClosePhase::Closed);
            }
            bytes = &bytes[piece.taken..];
        }
    }

    /// Ends our direction behind the Close.
    fn end_in(&mut self, phase: ClosePhase) {
        self.phase = phase;
        self.stream.shutdown_write();
    }

    /// Ends the connection, whose wait has ended so. A client that has not taken its Close by now,
    /// or whose place another connection needs, leaves nothing behind in the kernel.
    fn finish(&mut self, cx: &mut Context<'_>, end: DiscardEnd) {
        if end == DiscardEnd::Displaced || (end != DiscardEnd::Client && self.stream.unacked() > 0)
        {
            return self.stream.reset();
        }
        self.stream.shutdown_write();
        // An error means that the client is gone.
        let _ = self.stream.poll_flush(cx);
    }
}
