//! Puts an attempt to a backend without hyper, which only answers other than a plain 101 need.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use http::{request, response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::data::http::course::{MAX_INTERIMS, TOO_MANY_INTERIMS};
use crate::data::http::head::{self, Answered, Read, Spelling};
use crate::data::stream::socket::Socket;

/// The largest head of a backend's answer, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;

/// Room for the head of a 101, as a rule.
const USUAL: usize = 1024;

/// What a backend said to an attempt.
pub enum Said {
    /// A 101, at the start of what came.
    Switched(Read<response::Parts>, Bytes),
    /// Something else, or nothing, and the error that ended the reading. hyper has to read and to
    /// judge it.
    Other(Bytes, Option<io::Error>),
}

/// Sends an attempt's head. Errors are left for the reading of the answer to find.
pub async fn ask(socket: &mut Socket, head: &request::Parts, spelling: &Spelling) {
    let head = head::write_request(head, spelling);
    // A backend that takes no more may have answered; if not, its end is read.
    if socket.write_all(&head).await.is_ok() {
        let _ = socket.flush().await;
    }
}

/// Reads until the head of the answer is whole. A head with more than `max_fields` goes to hyper,
/// which refuses it.
pub async fn hear(socket: &mut Socket, max_fields: usize) -> Said {
    let mut came = BytesMut::new();
    let mut interims = 0;
    while came.len() <= MAX_HEAD {
        came.reserve(USUAL);
        match socket.read_buf(&mut came).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Said::Other(came.freeze(), Some(error)),
        }
        let mut whole = came.freeze();
        loop {
            match head::answer(&whole, max_fields) {
                Answered::Switched(read) => return Said::Switched(read, whole),
                Answered::Other => return Said::Other(whole, None),
                Answered::Unfinished(0) => break,
                Answered::Unfinished(_) if interims == MAX_INTERIMS => {
                    let error = io::Error::other(TOO_MANY_INTERIMS);
                    return Said::Other(Bytes::new(), Some(error));
                }
                // Dropped: many WebSocket clients take the first head for the answer.
                Answered::Unfinished(interim) => {
                    interims += 1;
                    whole.advance(interim);
                }
            }
        }
        came = whole.into();
    }
    Said::Other(came.freeze(), None)
}

/// A backend's socket under hyper. Where the attempt was sent before, hyper's own copy of it is
/// swallowed, and hyper only gets to read the answer.
pub struct Answering {
    socket: Socket,
    asked: Asked,
    /// Bytes of the answer that were read before hyper, and the error that ended that.
    said: Bytes,
    broke: Option<io::Error>,
}

/// Whether the attempt has been sent.
enum Asked {
    /// Not before hyper, which sends it.
    No,
    /// Before hyper, which has yet to write its copy. The waker is that of a read which waits for
    /// this.
    Before(Option<Waker>),
    /// Before hyper, which has begun to write its copy.
    Again,
}

impl Answering {
    /// A socket over which hyper sends the attempt.
    pub fn unasked(socket: Socket) -> Self {
        Answering { socket, asked: Asked::No, said: Bytes::new(), broke: None }
    }

    /// A socket over which the attempt was sent, with what has been read since.
    pub fn asked(socket: Socket, said: Bytes, broke: Option<io::Error>) -> Self {
        Answering { socket, asked: Asked::Before(None), said, broke }
    }

    /// The socket, to set its options.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket, and the bytes of the answer that hyper has not read.
    pub fn into_parts(self) -> (Socket, Bytes) {
        (self.socket, self.said)
    }

    /// Whether hyper writes an attempt that was sent before it, which goes no further.
    fn is_asked_again(&mut self) -> bool {
        if let Asked::Before(waits) = &mut self.asked {
            if let Some(waits) = waits.take() {
                waits.wake();
            }
            self.asked = Asked::Again;
        }
        matches!(self.asked, Asked::Again)
    }
}

impl AsyncRead for Answering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper takes bytes that come before it has written a request for an error.
        if let Asked::Before(waits) = &mut self.asked {
            *waits = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if !self.said.is_empty() {
            let most = self.said.len().min(buffer.remaining());
            buffer.put_slice(&self.said.split_to(most));
            return Poll::Ready(Ok(()));
        }
        match self.broke.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Answering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_asked_again() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_asked_again() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
