//! An attempt that is asked of a backend without hyper, which is only needed for answers other than a plain 101.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use http::{request, response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{MAX_HEAD, course};
use crate::data::head::{self, Answered, Read, Spelling};
use crate::data::interim::MAX_INTERIMS;
use crate::data::socket::Socket;

/// Room for the head of a 101, as a rule.
const USUAL: usize = 1024;

/// What a backend said to an attempt.
pub enum Said {
    /// A 101, at the start of what came.
    Switched(Read<response::Parts>, Bytes),
    /// Something else, or nothing, and how its reading ended: hyper is to read it, and to say what it thinks of it.
    Other(Bytes, Option<io::Error>),
}

/// Sends an attempt's head.
pub async fn ask(socket: &mut Socket, head: &request::Parts, spelling: &Spelling) {
    let head = head::write_request(head, spelling);
    // One that takes no more may have answered; if not, its end is read.
    if socket.write_all(&head).await.is_ok() {
        let _ = socket.flush().await;
    }
}

/// Reads until the head of the answer is whole. One with more than `max_fields` is hyper's to refuse.
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
                    let error = io::Error::other(course::TOO_MANY_INTERIMS);
                    return Said::Other(Bytes::new(), Some(error));
                }
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

/// A backend's socket under hyper, which may have been asked already: then hyper only gets to read the answer.
pub struct Answering {
    socket: Socket,
    asked: Asked,
    /// What has been read of the answer, and how that ended.
    said: Bytes,
    broke: Option<io::Error>,
}

/// Whether a backend has been asked.
enum Asked {
    /// By hyper, if at all.
    No,
    /// Before hyper, which has yet to ask: it takes no answer before. Who waits for that is woken.
    Before(Option<Waker>),
    /// Before hyper, which has asked again.
    Again,
}

impl Answering {
    /// One that hyper is to ask.
    pub fn unasked(socket: Socket) -> Self {
        Answering { socket, asked: Asked::No, said: Bytes::new(), broke: None }
    }

    /// One that was asked, and has said this.
    pub fn asked(socket: Socket, said: Bytes, broke: Option<io::Error>) -> Self {
        Answering { socket, asked: Asked::Before(None), said, broke }
    }

    /// The socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket, and what hyper has not read of what was said.
    pub fn into_parts(self) -> (Socket, Bytes) {
        (self.socket, self.said)
    }

    /// Whether hyper asks what has been asked before, which goes no further.
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
