//! One side of a tunnel: a socket, its TLS session where it has one, and what
//! could not be written yet. It moves bytes and knows no frame.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::data::buffers::{Buffers, FRONT, READ};
use crate::data::socket::Socket;
use crate::data::tls::Session;
use crate::data::unsent::Unsent;

/// One side of a tunnel.
pub struct Channel {
    socket: Socket,
    /// TLS, or the plaintext that the socket would not take yet.
    cover: Cover,
    /// Bytes that went out, to tell a peer that takes little from one that takes nothing.
    sent: u64,
    finishing: Finish,
}

enum Cover {
    Tls(Box<Session>),
    Clear(Unsent),
}

/// How far the end of our direction has got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finish {
    Not,
    /// FIN follows when all is sent.
    Wanted,
    Done,
}

impl Channel {
    /// A side in the clear, as far as we see.
    pub fn clear(socket: Socket) -> Self {
        Channel { socket, cover: Cover::Clear(Unsent::default()), sent: 0, finishing: Finish::Not }
    }

    /// A side under TLS.
    pub fn tls(socket: Socket, session: Box<Session>) -> Self {
        Channel { socket, cover: Cover::Tls(session), sent: 0, finishing: Finish::Not }
    }

    /// Reads once into `buffers.plain`, behind [`FRONT`]; its turn counts what that took. Returns how much is filled: 0 at
    /// the end of the stream, and where nothing but TLS records without application data came.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
    ) -> Poll<io::Result<usize>> {
        match &mut self.cover {
            Cover::Tls(session) => session.poll_read(&mut self.socket, cx, buffers),
            Cover::Clear(_) => {
                let read = self.socket.poll_fill(cx, &mut buffers.plain[FRONT..FRONT + READ]);
                if let Some(records) = self.socket.take_records() {
                    buffers.turn.records(records, 0);
                }
                if let Poll::Ready(Ok(read)) = read {
                    buffers.turn.moved(read);
                }
                read
            }
        }
    }

    /// As [`Socket::bear`].
    pub fn bear(&self, write_stall: Duration) {
        self.socket.bear(write_stall);
    }

    /// Whether the stream is over, once a read gave nothing.
    pub fn has_ended(&self) -> bool {
        match &self.cover {
            Cover::Tls(session) => session.has_ended(),
            Cover::Clear(_) => true,
        }
    }

    /// Takes all of `bytes`, in order behind what is not sent yet, and sends what the socket takes.
    pub fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let sent = match &mut self.cover {
            Cover::Tls(session) => session.write(&mut self.socket, cx, bytes)?,
            Cover::Clear(unsent) => unsent.write(&mut self.socket, cx, bytes)?,
        };
        self.sent += sent as u64;
        Ok(())
    }

    /// As [`Channel::write`], and ends our direction behind it: under TLS, close_notify goes out in the same write.
    pub fn write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let sent = match &mut self.cover {
            Cover::Tls(session) => session.write_last(&mut self.socket, cx, bytes)?,
            Cover::Clear(unsent) => unsent.write_last(&mut self.socket, cx, bytes)?,
        };
        self.sent += sent as u64;
        self.finish();
        Ok(())
    }

    /// Sends what is not sent yet, then, if the end is wanted, FIN. True when nothing is left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let sent = match &mut self.cover {
            Cover::Tls(session) => session.flush(&mut self.socket, cx)?,
            Cover::Clear(unsent) => unsent.flush(&mut self.socket, cx)?,
        };
        self.sent += sent as u64;
        if self.has_unsent() {
            return Ok(false);
        }
        if self.finishing == Finish::Wanted {
            if Pin::new(&mut self.socket).poll_shutdown(cx)?.is_pending() {
                return Ok(false);
            }
            self.finishing = Finish::Done;
        }
        Ok(true)
    }

    /// Whether there is anything for [`Channel::poll_flush`] to do.
    pub fn wants_flush(&self) -> bool {
        self.has_unsent() || self.finishing == Finish::Wanted
    }

    /// Whether something is not sent yet.
    pub fn has_unsent(&self) -> bool {
        match &self.cover {
            Cover::Tls(session) => session.has_unsent(),
            Cover::Clear(unsent) => !unsent.is_empty() || self.socket.holds_back(),
        }
    }

    /// Whether our direction ends, or has ended: nothing may be written any more.
    pub fn is_finishing(&self) -> bool {
        self.finishing != Finish::Not
    }

    /// As [`Socket::unacked`].
    pub fn unacked(&self) -> u64 {
        self.socket.unacked()
    }

    /// How much the peer has taken so far, the bytes that it has acknowledged. TLS to a backend counts
    /// plaintext, so only a change means something.
    #[cold]
    pub fn taken(&self) -> u64 {
        self.sent.wrapping_sub(self.unacked())
    }

    /// As [`Socket::is_broken`].
    pub fn is_broken(&self) -> bool {
        self.socket.is_broken()
    }

    /// As [`Socket::reset`].
    pub fn reset(&self) {
        self.socket.reset();
    }

    /// As [`Socket::shut`].
    pub fn shut(&self) {
        self.socket.shut();
    }

    /// Ends our direction once all is sent: close_notify under TLS, then FIN.
    pub fn finish(&mut self) {
        if self.finishing != Finish::Not {
            return;
        }
        self.finishing = Finish::Wanted;
        if let Cover::Tls(session) = &mut self.cover {
            session.close_notify();
        }
    }
}
