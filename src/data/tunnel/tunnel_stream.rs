//! One side of a tunnel: a socket, its TLS session where it has one, and what
//! could not be written yet. It moves bytes and knows no frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::data::stream::buffers::{Buffers, HEADROOM, MAX_PLAINTEXT};
use crate::data::stream::send_buffer::SendBuffer;
use crate::data::stream::socket::Socket;
use crate::data::tls::TlsSession;

/// One side of a tunnel.
pub struct TunnelStream {
    socket: Socket,
    /// TLS, or the plaintext that the socket would not take yet.
    cover: Transport,
    /// Bytes that the socket took, to tell a slow peer from a peer that takes nothing.
    sent: u64,
    finishing: FinState,
}

enum Transport {
    Tls(Box<TlsSession>),
    Clear(SendBuffer),
}

/// How far the end of our direction has got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FinState {
    Open,
    /// FIN follows when all is sent.
    Pending,
    Sent,
}

impl TunnelStream {
    /// A side without a TLS session of its own; a backend's [`Socket`] may encrypt below.
    pub fn clear(socket: Socket) -> Self {
        TunnelStream {
            socket,
            cover: Transport::Clear(SendBuffer::default()),
            sent: 0,
            finishing: FinState::Open,
        }
    }

    /// A client's side under TLS.
    pub fn tls(socket: Socket, session: Box<TlsSession>) -> Self {
        TunnelStream { socket, cover: Transport::Tls(session), sent: 0, finishing: FinState::Open }
    }

    /// Reads once into `buffers.plain`, behind [`HEADROOM`], and charges the work to
    /// `buffers.turn`. Returns how much is filled: 0 at the end of the stream, and where nothing
    /// but TLS records without application data came.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<usize>> {
        match &mut self.cover {
            Transport::Tls(session) => session.poll_read(&mut self.socket, cx, buffers),
            Transport::Clear(_) => {
                let read = self
                    .socket
                    .poll_read_once(cx, &mut buffers.plain[HEADROOM..HEADROOM + MAX_PLAINTEXT]);
                // Records without application data are not told apart: TLS 1.3 hides their type
                // (RFC 8446 §5.2).
                if let Some(records) = self.socket.take_records() {
                    buffers.turn.spend_records(records, 0);
                }
                if let Poll::Ready(Ok(read)) = read {
                    buffers.turn.spend_call(read);
                }
                read
            }
        }
    }

    /// Lets the peer keep its window closed, as [`Socket::allow_zero_window`].
    pub fn allow_zero_window(&self, write_stall: Duration) {
        self.socket.allow_zero_window(write_stall);
    }

    /// Whether the stream is over, once a read gave nothing.
    pub fn has_ended(&self) -> bool {
        match &self.cover {
            Transport::Tls(session) => session.has_ended(),
            // In the clear a read of zero bytes is always the end.
            Transport::Clear(_) => true,
        }
    }

    /// Queues all of `bytes` behind unsent ones, and sends as much as the socket takes.
    pub fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let sent = match &mut self.cover {
            Transport::Tls(session) => session.write(&mut self.socket, cx, bytes)?,
            Transport::Clear(unsent) => unsent.write(&mut self.socket, cx, bytes)?,
        };
        self.sent += sent as u64;
        Ok(())
    }

    /// As [`TunnelStream::write`], and ends our direction behind `bytes`. Under TLS, close_notify
    /// goes out in the same write.
    pub fn write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let sent = match &mut self.cover {
            Transport::Tls(session) => session.write_last(&mut self.socket, cx, bytes)?,
            Transport::Clear(unsent) => unsent.write_last(&mut self.socket, cx, bytes)?,
        };
        self.sent += sent as u64;
        self.shutdown_write();
        Ok(())
    }

    /// Sends unsent bytes, then FIN if our direction is to end. Returns whether nothing is left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let sent = match &mut self.cover {
            Transport::Tls(session) => session.flush(&mut self.socket, cx)?,
            Transport::Clear(unsent) => unsent.flush(&mut self.socket, cx)?,
        };
        self.sent += sent as u64;
        if self.has_unsent() {
            return Ok(false);
        }
        if self.finishing == FinState::Pending {
            // Pending only over TLS to a backend, whose close_notify may find no room in the
            // kernel.
            if Pin::new(&mut self.socket).poll_shutdown(cx)?.is_pending() {
                return Ok(false);
            }
            self.finishing = FinState::Sent;
        }
        Ok(true)
    }

    /// Whether there is anything for [`TunnelStream::poll_flush`] to do.
    pub fn wants_flush(&self) -> bool {
        self.has_unsent() || self.finishing == FinState::Pending
    }

    /// Whether something is not sent yet.
    pub fn has_unsent(&self) -> bool {
        match &self.cover {
            Transport::Tls(session) => session.has_unsent(),
            Transport::Clear(unsent) => !unsent.is_empty() || self.socket.has_buffered(),
        }
    }

    /// Whether our direction ends, or has ended: nothing may be written any more.
    pub fn is_finishing(&self) -> bool {
        self.finishing != FinState::Open
    }

    /// Bytes that the kernel holds for the peer, as [`Socket::unacked`].
    #[cold]
    pub fn unacked(&self) -> u64 {
        self.socket.unacked()
    }

    /// Bytes that the peer has acknowledged so far, where [`TunnelStream::unacked`] is `unacked`.
    /// Over TLS to a backend `sent` counts plaintext, so only a change means something.
    pub fn acked(&self, unacked: u64) -> u64 {
        // May wrap: `unacked` counts the FIN, and ciphertext where `sent` counts plaintext.
        self.sent.wrapping_sub(unacked)
    }

    /// Whether the connection was broken since the last call, as [`Socket::is_broken`].
    pub fn is_broken(&self) -> bool {
        self.socket.is_broken()
    }

    /// Resets the connection, as [`Socket::reset`].
    pub fn reset(&self) {
        self.socket.reset();
    }

    /// Ends both directions, as [`Socket::shutdown_both`].
    pub fn shutdown_both(&self) {
        self.socket.shutdown_both();
    }

    /// Ends our direction once all is sent: close_notify under TLS, then FIN.
    pub fn shutdown_write(&mut self) {
        if self.finishing != FinState::Open {
            return;
        }
        self.finishing = FinState::Pending;
        // Over TLS to a backend the shutdown of the socket sends close_notify.
        if let Transport::Tls(session) = &mut self.cover {
            session.close_notify();
        }
    }
}
