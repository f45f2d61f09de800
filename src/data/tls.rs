//! TLS towards clients: the one room that drives it.
//!
//! `accept` makes the TLS handshake with the configuration that the ClientHello
//! chose; [`Stream`] is what hyper reads heads from; [`Session`] is the same
//! connection taken back after the upgrade, decrypting and encrypting over the
//! thread's buffers. What stands behind this door (today tokio-rustls and its
//! `ServerConnection`) is nobody else's business.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::server::{Acceptor, ClientHello};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::data::buffers::{Buffers, READ};
use crate::data::socket::Socket;

/// A client's stream after its TLS handshake, for hyper.
pub struct Stream(TlsStream<TcpStream>);

/// How the TLS handshake went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether it resumed an earlier session.
    pub resumed: bool,
}

/// Why there is no stream.
#[derive(Debug)]
pub enum Failure {
    /// The connection ended before its first byte: a health check.
    Empty,
    /// What the client did wrong, or the socket's error; the alert has been sent.
    Broken(io::Error),
}

/// Makes the TLS handshake on `tcp`; `choose` gives the configuration once the
/// ClientHello is there, or `None` to give up. It has no deadline of its own.
pub async fn accept(
    tcp: TcpStream,
    choose: impl FnOnce(&ClientHello<'_>) -> Option<Arc<ServerConfig>>,
) -> Result<(Stream, Facts), Failure> {
    if tcp.peek(&mut [0]).await.map_err(Failure::Broken)? == 0 {
        return Err(Failure::Empty);
    }
    let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(Failure::Broken)?;
    let config = choose(&start.client_hello()).ok_or_else(|| Failure::Broken(io::ErrorKind::NotConnected.into()))?;
    let stream = start.into_stream(config).await.map_err(Failure::Broken)?;
    let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    Ok((Stream(stream), Facts { resumed }))
}

impl Stream {
    /// The socket and the session, for the tunnel. Plaintext that hyper had not read yet stays in the session.
    pub fn into_parts(self) -> (Socket, Session) {
        let (tcp, mut tls) = self.0.into_inner();
        // The tunnel bounds what it hands over by reading only when nothing is left to send.
        tls.set_buffer_limit(None);
        (Socket::Tcp(tcp), Session { tls: Box::new(tls), drained: false, ended: false, burst: false })
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A client's TLS connection under the tunnel. It holds no socket: the caller passes it in.
pub struct Session {
    tls: Box<ServerConnection>,
    /// Whether the plaintext that came before the upgrade has been taken out.
    drained: bool,
    /// Whether close_notify, or the end of the socket's stream, has come.
    ended: bool,
    /// Whether a read since the last rest was large enough to have grown rustls' buffer.
    burst: bool,
}

impl Session {
    /// Reads until there is plaintext; returns how much of `buffers.plain` is filled, 0 at the end of the stream.
    pub fn poll_read(&mut self, socket: &mut Socket, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<io::Result<usize>> {
        if !self.drained {
            self.drained = true;
            let filled = self.take_plaintext(&mut buffers.plain, 0)?;
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
        }
        loop {
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            let read = ready!(socket.poll_fill(cx, &mut buffers.cipher[..READ]))?;
            if read == 0 {
                self.ended = true;
                continue;
            }
            self.burst |= read > 4096;
            let filled = self.decrypt(socket, cx, &buffers.cipher[..read], &mut buffers.plain)?;
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
        }
    }

    /// What this makes rustls want to say is sent with the tunnel's next flush, where its progress is counted.
    fn decrypt(&mut self, socket: &mut Socket, cx: &mut Context<'_>, mut cipher: &[u8], plain: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while !cipher.is_empty() && !self.ended {
            self.tls.read_tls(&mut cipher)?;
            if let Err(error) = self.tls.process_new_packets() {
                // The alert; that the peer takes it is no longer our concern.
                let _ = self.poll_flush(socket, cx);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            filled = self.take_plaintext(plain, filled)?;
        }
        Ok(filled)
    }

    fn take_plaintext(&mut self, plain: &mut [u8], mut filled: usize) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(&mut plain[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(filled);
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(filled),
                // FIN without close_notify, seen before the upgrade: frames say by themselves whether they are whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    return Ok(filled);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Encrypts `bytes` behind what is not sent yet.
    pub fn encrypt(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)
    }

    /// Queues close_notify.
    pub fn close_notify(&mut self) {
        self.tls.send_close_notify();
    }

    /// Whether something is not sent yet.
    pub fn has_unsent(&self) -> bool {
        self.tls.wants_write()
    }

    /// Sends what is not sent yet; returns how many bytes went out. Ready when nothing is left.
    pub fn poll_flush(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> io::Result<usize> {
        let mut sent = 0;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Records { socket, cx }) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Gives back what a burst made rustls grow; called when the tunnel has nothing more to do.
    pub fn rest(&mut self) {
        if std::mem::take(&mut self.burst) {
            // A read that blocks makes rustls shrink its buffer to what it holds.
            let _ = self.tls.read_tls(&mut Blocked);
        }
    }
}

/// `write_tls` into the socket: one writev of all records, no copy.
struct Records<'a, 'b> {
    socket: &'a mut Socket,
    cx: &'a mut Context<'b>,
}

impl Write for Records<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.socket).poll_write_vectored(self.cx, slices) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads nothing.
struct Blocked;

impl Read for Blocked {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
