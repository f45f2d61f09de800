//! Puts an attempt to a backend without hyper, which only answers other than a plain 101 need.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http::{request, response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::data::http::head::{self, OriginalSpelling, ParsedHead, UpgradeResponse};
use crate::data::http::progress::{MAX_INTERIMS, TOO_MANY_INTERIMS};
use crate::data::stream::socket::Socket;

/// The largest head of a backend's answer, in bytes.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Room for the head of a 101, as a rule.
const TYPICAL_HEAD_BYTES: usize = 1024;

/// What a backend said to an attempt.
pub enum UpgradeReply {
    /// A 101, at the start of what came.
    Switched(ParsedHead<response::Parts>, Bytes),
    /// Something else, or nothing, and the error that ended the reading. hyper has to read and to
    /// judge it.
    Other(Bytes, Option<io::Error>),
}

/// Sends an attempt's head. Errors are left for the reading of the answer to find.
pub async fn send_attempt(socket: &mut Socket, head: &request::Parts, spelling: &OriginalSpelling) {
    let head = head::write_request(head, spelling);
    // A backend that takes no more may have answered; if not, its end is read.
    if socket.write_all(&head).await.is_ok() {
        let _ = socket.flush().await;
    }
}

/// Reads until the head of the answer is whole. A head with more than `max_fields` goes to hyper,
/// which refuses it.
pub async fn read_response(socket: &mut Socket, max_fields: usize) -> UpgradeReply {
    let mut came = BytesMut::new();
    let mut interims = 0;
    while came.len() <= MAX_HEAD_BYTES {
        came.reserve(TYPICAL_HEAD_BYTES);
        match socket.read_buf(&mut came).await {
            // hyper reads the same end behind these bytes, and finds the words for it.
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return UpgradeReply::Other(came.freeze(), Some(error)),
        }
        let mut whole = came.freeze();
        loop {
            match head::parse_response(&whole, max_fields) {
                // A read may take more than the bound that the loop looks at before it.
                UpgradeResponse::Switched(read) if read.length <= MAX_HEAD_BYTES => {
                    return UpgradeReply::Switched(read, whole);
                }
                UpgradeResponse::Switched(_) | UpgradeResponse::Other => {
                    return UpgradeReply::Other(whole, None);
                }
                UpgradeResponse::Partial(0) => break,
                UpgradeResponse::Partial(_) if interims == MAX_INTERIMS => {
                    let error = io::Error::other(TOO_MANY_INTERIMS);
                    // Without the bytes: hyper would skip the interim answers and take a 101 behind
                    // them.
                    return UpgradeReply::Other(Bytes::new(), Some(error));
                }
                // Dropped: many WebSocket clients take the first head for the answer.
                UpgradeResponse::Partial(interim) => {
                    interims += 1;
                    whole.advance(interim);
                }
            }
        }
        came = whole.into();
    }
    UpgradeReply::Other(came.freeze(), None)
}

/// A stream to a backend under hyper, which is taken back for a tunnel.
pub trait Carrier: AsyncRead + AsyncWrite + AsRef<Socket> + Unpin + Send + 'static {
    /// The socket, and the bytes of the answer that hyper has not read.
    fn into_parts(self) -> (Socket, Bytes);
}

impl Carrier for Socket {
    fn into_parts(self) -> (Socket, Bytes) {
        (self, Bytes::new())
    }
}

impl Carrier for ReplaySocket {
    fn into_parts(self) -> (Socket, Bytes) {
        (self.socket, self.heard)
    }
}

/// A backend's socket from which hyper reads the answer to an attempt that was sent before.
///
/// hyper reads no answer before it has written a request, so its own copy of the attempt is
/// dropped. Reads begin with the bytes that [`read_response`] has read, and end with its error.
pub struct ReplaySocket {
    socket: Socket,
    heard: Bytes,
    error: Option<io::Error>,
    /// Whether hyper has begun to write its copy.
    has_request: bool,
}

impl ReplaySocket {
    /// A socket that has answered with `heard` so far, and with `error` where reading failed.
    pub fn new(socket: Socket, heard: Bytes, error: Option<io::Error>) -> Self {
        ReplaySocket { socket, heard, error, has_request: false }
    }
}

impl AsRef<Socket> for ReplaySocket {
    fn as_ref(&self) -> &Socket {
        &self.socket
    }
}

impl AsyncRead for ReplaySocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper reads first, and takes bytes before its own request for an error: the write wakes
        // the task that waits here, which is the same.
        if !self.has_request {
            return Poll::Pending;
        }
        if !self.heard.is_empty() {
            let max = self.heard.len().min(buffer.remaining());
            buffer.put_slice(&self.heard.split_to(max));
            return Poll::Ready(Ok(()));
        }
        match self.error.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ReplaySocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !std::mem::replace(&mut self.has_request, true) {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
