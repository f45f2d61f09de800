//! TLS towards clients: the one module that drives it.
//!
//! `read_first_bytes` waits for a client's first bytes; `accept` makes the TLS handshake with the
//! configuration that is in force by then; [`TlsClientStream`] is what hyper reads heads from;
//! [`TlsSession`] is the same connection taken back after the upgrade, decrypting and encrypting
//! over the thread's buffers. The rest of the program does not see that rustls' unbuffered API is
//! behind them.

mod session;

use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::data::admission::sniff::{self, Sniffed};
use crate::data::stream::buffers::{self, MAX_PLAINTEXT};
use crate::data::stream::socket::{self, Socket};
use crate::snapshot::client_hello;

pub use self::session::TlsSession;

/// Most bytes that one read takes before the upgrade; the session keeps any that hyper does not
/// take.
const MAX_HANDSHAKE_READ_BYTES: usize = 16 * 1024;

/// A client's stream after its TLS handshake, for hyper.
pub struct TlsClientStream {
    socket: Socket,
    session: Box<TlsSession>,
}

/// Facts of a TLS handshake that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeInfo {
    /// Whether the handshake resumed an earlier session.
    pub resumed: bool,
    /// The certificates that the client has shown, now or in that session: its own first.
    pub client_chain: Vec<CertificateDer<'static>>,
}

/// Why there is no stream.
pub enum AcceptError {
    /// The connection ended before its first byte: a health check.
    NoBytes,
    /// The client left, or the socket failed.
    Io(io::Error),
    /// The error of the client, and the connection, on which an alert says so.
    Alerted(io::Error, AlertedConnection),
    /// The peer sent a PROXY header, which nothing reads here.
    ProxyHeader,
    /// The client speaks plain HTTP. It has got no answer yet.
    PlainHttp(FirstBytes),
}

impl From<io::Error> for AcceptError {
    fn from(error: io::Error) -> Self {
        AcceptError::Io(error)
    }
}

/// A connection whose handshake has failed with an alert.
pub struct AlertedConnection {
    socket: Socket,
    session: Box<TlsSession>,
}

impl AlertedConnection {
    /// Sends the rest of the alert, and ends our direction. The caller discards what the client has
    /// sent, since the kernel resets a socket that is closed with unread bytes, and the client may
    /// lose the alert. `None` means that the client is gone.
    pub async fn end(mut self) -> Option<Socket> {
        poll_fn(|cx| self.session.poll_alerted(&mut self.socket, cx)).await.ok()?;
        poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await.ok()?;
        Some(self.socket)
    }
}

/// A client whose first bytes have come, before anything is made of them.
pub struct FirstBytes {
    socket: Socket,
    /// The ClientHello, or a piece of it.
    said: Vec<u8>,
}

/// Waits for the client's first bytes. The caller bounds the wait.
pub async fn read_first_bytes(socket: Socket) -> Result<FirstBytes, AcceptError> {
    let mut hello = FirstBytes { socket, said: Vec::new() };
    // A balancer's check may end by a reset, so that its side keeps no TIME_WAIT.
    match hello.read_more().await {
        Ok(0) => Err(AcceptError::NoBytes),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(AcceptError::NoBytes),
        Ok(_) => Ok(hello),
        Err(error) => Err(error.into()),
    }
}

impl FirstBytes {
    /// Passes a client on whose bytes may begin a TLS handshake.
    ///
    /// # Errors
    /// [`AcceptError::PlainHttp`], where they are a request of plain HTTP, and
    /// [`AcceptError::ProxyHeader`]. rustls refuses a client that leaves before that is known.
    pub async fn reject_others(mut self) -> Result<FirstBytes, AcceptError> {
        loop {
            match (sniff::sniff_proxy(&self.said), sniff::sniff_http(&self.said)) {
                (Sniffed::Match, _) => return Err(AcceptError::ProxyHeader),
                (_, Sniffed::Match) => return Err(AcceptError::PlainHttp(self)),
                (Sniffed::Mismatch, Sniffed::Mismatch) => return Ok(self),
                _ if self.read_more().await? > 0 => {}
                _ => return Ok(self),
            }
        }
    }

    /// Answers in the clear, and ends our direction. `None` means that the client is gone.
    pub async fn answer_and_close(mut self, answer: &[u8]) -> Option<Socket> {
        sniff::send_and_shutdown(&mut self.socket, answer).await.ok()?;
        Some(self.socket)
    }

    /// Waits for `turn`, unless the client leaves before.
    pub async fn run_until_left(
        &mut self,
        turn: impl Future<Output = ()>,
    ) -> Result<(), AcceptError> {
        tokio::select! {
            biased;
            // `wait_left` first: a client that has gone takes no token.
            left = self.wait_left() => Err(left),
            () = turn => Ok(()),
        }
    }

    /// Reads more bytes of the client, until it leaves; they are kept, and bounded.
    async fn wait_left(&mut self) -> AcceptError {
        while self.said.len() < MAX_HANDSHAKE_READ_BYTES {
            match self.read_more().await {
                Ok(0) => return AcceptError::Io(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return AcceptError::Io(error),
            }
        }
        // No ClientHello is as long. Whether the client leaves is seen once it has its turn.
        std::future::pending().await
    }

    /// Reads once; 0 is the end of the stream.
    async fn read_more(&mut self) -> io::Result<usize> {
        read_more(&mut self.socket, &mut self.said).await
    }
}

/// Reads once behind `said`, up to [`MAX_HANDSHAKE_READ_BYTES`] bytes in all; 0 is the end of the
/// stream, or of the room.
async fn read_more(socket: &mut Socket, said: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|cx| {
        buffers::lend(|buffers| {
            // Read into the thread's buffer first, so that a client that says nothing holds no
            // memory.
            let room = &mut buffers.cipher[..MAX_HANDSHAKE_READ_BYTES - said.len()];
            let read = ready!(socket.poll_read_once(cx, room))?;
            said.extend_from_slice(&buffers.cipher[..read]);
            Poll::Ready(Ok(read))
        })
    })
    .await
}

/// Makes the TLS handshake with a client that has sent `hello`. The caller bounds the wait.
/// `configuration` is called with whether the client's server name is hidden
/// (`snapshot::client_hello`).
pub async fn accept(
    mut hello: FirstBytes,
    configuration: impl FnOnce(bool) -> Arc<ServerConfig>,
) -> Result<(TlsClientStream, HandshakeInfo), AcceptError> {
    // Whether its name has to be hidden shows only in a complete ClientHello, before rustls reads
    // it.
    while client_hello::is_partial(&hello.said) && hello.read_more().await? > 0 {}
    let FirstBytes { mut socket, said: mut hello } = hello;
    let is_nameless = client_hello::hide_name(&mut hello);
    let tls = UnbufferedServerConnection::new(configuration(is_nameless));
    let tls = tls.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let mut session = Box::new(TlsSession::new(tls));
    let mut shaken = feed(&mut session, &mut socket, hello).await.map(|()| false);
    while let Ok(false) = shaken {
        shaken = if is_nameless {
            // Boxed: few connections need this future.
            Box::pin(handshake_step_hidden_name(&mut session, &mut socket)).await
        } else {
            poll_fn(|cx| session.poll_handshake_step(&mut socket, cx, MAX_HANDSHAKE_READ_BYTES))
                .await
        };
    }
    match shaken {
        Ok(_) => {
            let (resumed, client_chain) = (session.is_resumed(), session.client_chain());
            let facts = HandshakeInfo { resumed, client_chain };
            Ok((TlsClientStream { socket, session }, facts))
        }
        Err(error) if session.has_alerted() => {
            let alerted = AlertedConnection { socket, session };
            Err(AcceptError::Alerted(error, alerted))
        }
        Err(error) => Err(AcceptError::Io(error)),
    }
}

/// One step of a TLS handshake whose server name is hidden: a second ClientHello, which follows a
/// HelloRetryRequest, is read whole, and its name is hidden too.
async fn handshake_step_hidden_name(
    session: &mut TlsSession,
    socket: &mut Socket,
) -> io::Result<bool> {
    if poll_fn(|cx| session.poll_handshake_sent(socket, cx)).await? {
        return Ok(true);
    }
    let Some(mut said) = session.take_partial_record(MAX_HANDSHAKE_READ_BYTES) else {
        return poll_fn(|cx| session.poll_handshake_step(socket, cx, MAX_HANDSHAKE_READ_BYTES))
            .await;
    };
    if read_more(socket, &mut said).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    while client_hello::is_partial(client_hello::second_hello(&mut said))
        && read_more(socket, &mut said).await? > 0
    {}
    client_hello::hide_name(client_hello::second_hello(&mut said));
    feed(session, socket, said).await?;
    Ok(false)
}

/// Has `session` work on the bytes that `came`.
async fn feed(session: &mut TlsSession, socket: &mut Socket, came: Vec<u8>) -> io::Result<()> {
    let mut came = Some(came);
    // `poll_fn` takes a closure that may be called again. This one is ready at once, so the bytes
    // are there.
    poll_fn(|cx| Poll::Ready(session.feed(socket, cx, came.take().unwrap_or_default()))).await
}

impl TlsClientStream {
    /// The socket and the session, for the tunnel. Plaintext that hyper had not read yet stays in
    /// the session.
    pub fn into_parts(self) -> (Socket, Box<TlsSession>) {
        (self.socket, self.session)
    }

    /// The version of TLS, in the words of OpenSSL. `None` means not yet known.
    pub fn version(&self) -> Option<&'static str> {
        self.session.version()
    }

    /// Whether nothing has arrived that is not read, not even a part of a record.
    pub fn has_nothing(&self) -> bool {
        self.session.is_between_records() && socket::is_empty(&self.socket)
    }

    /// The client's socket, below TLS.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether the client has broken TLS, and is owed the alert that says so.
    pub fn has_alerted(&self) -> bool {
        self.session.has_alerted()
    }

    /// Ends our direction behind an alert. Says whether there was an alert, and all of it is with
    /// the kernel.
    pub fn ends_behind_alert(&self) -> bool {
        let is_sent = self.session.has_alerted() && !self.session.has_unsent();
        is_sent && SockRef::from(&self.socket).shutdown(Shutdown::Write).is_ok()
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.flush(&mut self.socket, cx)?;
        if self.session.has_unsent() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncRead for TlsClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let TlsClientStream { socket, session } = self.get_mut();
        session.poll_read_some(socket, cx, MAX_HANDSHAKE_READ_BYTES, |plain| {
            let taken = plain.len().min(buffer.remaining());
            buffer.put_slice(&plain[..taken]);
            taken
        })
    }
}

impl AsyncWrite for TlsClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        // Takes new bytes only once all earlier records are sent: hyper feels the back-pressure.
        ready!(stream.poll_sent(cx))?;
        // Bounds what the session keeps where the kernel has no room.
        let bytes = &bytes[..bytes.len().min(MAX_PLAINTEXT)];
        stream.session.write(&mut stream.socket, cx, bytes)?;
        // All count as written, though some records may be unsent: `poll_flush` waits for them.
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_sent(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        stream.session.close_notify();
        ready!(stream.poll_sent(cx))?;
        Pin::new(&mut stream.socket).poll_shutdown(cx)
    }
}
