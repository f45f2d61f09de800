//! A stream socket as hyper and the tunnel use it: TCP, Unix, or TLS to a backend, with Sidegate as
//! the client.
//!
//! The type hides which of them it is and nothing else. TLS towards clients is in `data/tls`.

use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, connect_unspec};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::data::stream::buffers;
use crate::data::stream::keepalive;
use crate::data::stream::record_stream::RecordStream;
use crate::data::stream::unacked::unacked;
use crate::policy::proxied::Endpoints;
use crate::snapshot::route::{BackendAddress, Endpoint};
use crate::snapshot::tls::BackendTls;

/// Bytes in front of everything else on a connection to a backend; empty means none. A reference to
/// it is half as long as that to a slice, and dialling holds several.
#[derive(Debug, Default)]
pub struct Preamble(pub Box<[u8]>);

/// A connected stream socket.
pub enum Socket {
    /// TCP, in the clear or below `data/tls`, with `TCP_NODELAY`.
    Tcp(TcpStream),
    /// A Unix socket, in the clear or below `data/tls`.
    Unix(UnixStream),
    /// TLS to a backend, with `TCP_NODELAY`.
    Tls(Box<TlsStream<RecordStream>>),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Socket::Tcp(stream)
    }
}

impl Socket {
    /// Connects to one address of a backend. Over TLS, `tls` has the configuration. `preamble` goes
    /// out first, in front of TLS.
    pub async fn connect(
        endpoint: &Endpoint,
        tls: Option<&BackendTls>,
        preamble: &Preamble,
    ) -> io::Result<Socket> {
        let (address, name) = match (&endpoint.backend, endpoint.resolved) {
            (BackendAddress::Unix(path), _) => {
                let mut unix = UnixStream::connect(path).await?;
                if !preamble.0.is_empty() {
                    Box::pin(unix.write_all(&preamble.0)).await?;
                }
                return Ok(Socket::Unix(unix));
            }
            (BackendAddress::Tcp(address), _) => {
                return connect(*address, preamble).await.map(Socket::Tcp);
            }
            (BackendAddress::Named(name), Some(address)) => match &name.server_name {
                None => return connect(address, preamble).await.map(Socket::Tcp),
                Some(server_name) => (address, server_name.clone()),
            },
            // Without a configured name the certificate has to hold the address itself (RFC 9110
            // §4.3.5).
            (BackendAddress::Tls(address), _) => (*address, ServerName::from(address.ip())),
            (BackendAddress::Named(_), None) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let tls = tls.ok_or(io::ErrorKind::InvalidInput)?;
        // Boxed: connections without TLS need no room for the handshake.
        Box::pin(connect_tls(connect(address, preamble), name, tls)).await
    }

    /// Both ends of a client's connection over TCP. `None` means a Unix socket, or a client that is
    /// gone.
    pub fn endpoints(&self) -> Option<Endpoints> {
        let Socket::Tcp(tcp) = self else { return None };
        Some(Endpoints { source: tcp.peer_addr().ok()?, destination: tcp.local_addr().ok()? })
    }

    /// Reads once into `buffer`. Uses `poll_read`, not `try_read`: it clears the readiness on a
    /// short read, which saves the system call that would block.
    pub fn poll_read_once(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes once. Tries the write before polling readiness: there is usually room, and a poll
    /// costs more than an `EAGAIN`.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Without the flag a connection that the peer has closed raises SIGPIPE (send(2)).
        self.poll_send_with(cx, bytes, SendFlags::NOSIGNAL)
    }

    /// As [`Socket::poll_send`], for bytes that leave in one segment with the FIN that the caller
    /// sends next.
    pub fn poll_send_last(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // With MORE the kernel holds the last segment back until the FIN joins it (send(2)).
        self.poll_send_with(cx, bytes, SendFlags::NOSIGNAL | SendFlags::MORE)
    }

    fn poll_send_with(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        flags: SendFlags,
    ) -> Poll<io::Result<usize>> {
        let sent = match self {
            Socket::Tcp(tcp) => tcp.try_io(Interest::WRITABLE, || send(&*tcp, bytes, flags)),
            Socket::Unix(unix) => unix.try_io(Interest::WRITABLE, || send(&*unix, bytes, flags)),
            // tokio-rustls encrypts first, and makes the system calls itself.
            Socket::Tls(tls) => return Pin::new(tls).poll_write(cx, bytes),
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Registers the waker, which `try_io` does not do.
                Pin::new(self).poll_write(cx, bytes)
            }
            sent => Poll::Ready(sent),
        }
    }

    /// Lets the peer keep its window closed for as long as `write_stall`. A Unix socket has no
    /// window, and a TCP socket that fails this has no peer any more.
    pub fn allow_zero_window(&self, write_stall: Duration) {
        let _ = match self {
            Socket::Tcp(tcp) => keepalive::allow_zero_window(tcp, write_stall),
            Socket::Unix(_) => Ok(()),
            Socket::Tls(tls) => keepalive::allow_zero_window(tls.get_ref().0.tcp(), write_stall),
        };
    }

    /// The error of the connection since the last call, if there is one.
    ///
    /// # Errors
    /// The socket does not tell.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        SockRef::from(self).take_error()
    }

    /// Ends our direction of the socket itself, without TLS. A socket whose peer is gone has ended.
    ///
    /// # Errors
    /// As for shutdown(2).
    pub fn shutdown_write(&self) -> io::Result<()> {
        match SockRef::from(self).shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            shut => shut,
        }
    }

    /// Makes `close` drop what the kernel holds for the peer: with a linger time of zero, a TCP
    /// socket sends RST. The bytes of a Unix socket are with the peer already.
    pub fn reset_on_close(&self) {
        // A socket that fails this has lost its peer already.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    /// Ready once there may be something to read, the end of the stream included.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(tcp) => tcp.poll_read_ready(cx),
            Socket::Unix(unix) => unix.poll_read_ready(cx),
            Socket::Tls(tls) => tls.get_ref().0.tcp().poll_read_ready(cx),
        }
    }

    /// Calls `read`, which reads from the socket below, and clears the readiness where it would
    /// block.
    pub fn try_read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Socket::Tcp(tcp) => tcp.try_io(Interest::READABLE, read),
            Socket::Unix(unix) => unix.try_io(Interest::READABLE, read),
            Socket::Tls(tls) => tls.get_ref().0.tcp().try_io(Interest::READABLE, read),
        }
    }

    /// Bytes that the kernel holds for the peer: everything that a TCP peer has not acknowledged,
    /// FIN included, and the buffers that the peer of a Unix socket has not read.
    pub fn unacked(&self) -> u64 {
        unacked(self).unwrap_or(0)
    }

    /// Whether the connection was broken since the last call, by a reset or by the kernel's own
    /// timeouts.
    pub fn is_broken(&self) -> bool {
        !matches!(SockRef::from(self).take_error(), Ok(None))
    }

    /// Resets the connection of a TCP socket, which drops what the kernel holds for the peer:
    /// otherwise the kernel would keep it until the user timeout, for a peer that reads nothing.
    /// Shuts a Unix socket.
    pub fn reset(&self) {
        // Connecting to no address ends a connection as `close` does with a linger time of zero
        // (connect(2)). A socket that fails this has lost its peer already.
        if matches!(self, Socket::Unix(_)) || connect_unspec(self).is_err() {
            self.shutdown_both();
        }
    }

    /// Ends both directions, as `close` does.
    pub fn shutdown_both(&self) {
        // A socket that fails this has lost its peer already.
        let _ = SockRef::from(self).shutdown(Shutdown::Both);
    }

    /// How many TLS records have come since the last call. `None` means that the socket is not over
    /// TLS.
    pub fn take_records(&mut self) -> Option<usize> {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => None,
            Socket::Tls(tls) => Some(tls.get_mut().0.take_records()),
        }
    }

    /// Whether bytes that the socket took have not left yet: TLS keeps records that the kernel had
    /// no room for.
    pub fn has_buffered(&self) -> bool {
        match self {
            Socket::Tcp(_) | Socket::Unix(_) => false,
            Socket::Tls(tls) => tls.get_ref().1.wants_write(),
        }
    }
}

/// Makes the TLS handshake. A name that is configured replaces `name`.
async fn connect_tls(
    tcp: impl Future<Output = io::Result<TcpStream>>,
    name: ServerName<'static>,
    tls: &BackendTls,
) -> io::Result<Socket> {
    let name = tls.name().cloned().unwrap_or(name);
    let tcp = RecordStream::new(tcp.await?);
    let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(name, tcp).await?;
    Ok(Socket::Tls(Box::new(stream)))
}

async fn connect(address: SocketAddr, preamble: &Preamble) -> io::Result<TcpStream> {
    let mut tcp = TcpStream::connect(address).await?;
    // Nagle's algorithm would hold a small frame back until the frame before it is acknowledged.
    tcp.set_nodelay(true)?;
    keepalive::enable(&tcp)?;
    if !preamble.0.is_empty() {
        // Before TLS begins: a backend takes the header off ahead of its own handshake.
        // Boxed: most connections have none.
        Box::pin(tcp.write_all(&preamble.0)).await?;
    }
    Ok(tcp)
}

/// Makes the system call itself: libc's `send` is a cancellation point of its threads, which costs
/// as much again.
fn send(socket: impl AsFd, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Whether nothing is there to read on a socket, the end of its stream included. Asks the kernel:
/// what the runtime knows may be older.
pub fn is_empty(socket: impl AsFd) -> bool {
    let looked = rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    // A reset counts as something to read: the next read returns it.
    looked.is_err_and(|error| error == rustix::io::Errno::AGAIN)
}

/// Discards bytes that have come, as many as one system call does, and returns their number; 0
/// means the end of the stream. The kernel frees them: with `MSG_TRUNC` nothing of a TCP stream is
/// copied (recv(2)). A Unix socket ignores the flag.
pub fn poll_discard(socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let discarded = socket.try_read(|| {
            buffers::lend(|buffers| {
                let room = &mut buffers.cipher[..];
                let (_, came) = rustix::net::recv(socket, room, RecvFlags::TRUNC)?;
                Ok(came)
            })
        });
        match discarded {
            // `try_io` has cleared the readiness, so that the next round registers the waker.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            discarded => return Poll::Ready(discarded),
        }
    }
}

/// The descriptor of the TCP or Unix socket below.
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(tcp) => tcp.as_fd(),
            Socket::Unix(unix) => unix.as_fd(),
            Socket::Tls(tls) => tls.get_ref().0.tcp().as_fd(),
        }
    }
}

impl AsRef<Socket> for Socket {
    fn as_ref(&self) -> &Socket {
        self
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buffer),
            Socket::Tls(tls) => decrypt(tls, cx, buffer),
        }
    }
}

/// Reads once, and takes all plaintext that this gave: tokio-rustls gives one record at a time. A
/// function apart, so that a read without TLS makes no call.
#[inline(never)]
fn decrypt(
    tls: &mut TlsStream<RecordStream>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    ready!(Pin::new(&mut *tls).poll_read(cx, buffer))?;
    // Plaintext that is decrypted already. Its end and its errors come with the next read.
    while buffer.remaining() > 0
        && let Ok(more @ 1..) = tls.get_mut().1.reader().read(buffer.initialize_unfilled())
    {
        buffer.advance(more);
    }
    Poll::Ready(Ok(()))
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
            Socket::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Socket::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, slices),
            Socket::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(_) | Socket::Unix(_) => Poll::Ready(Ok(())),
            Socket::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Ends our direction of the stream (close_notify, FIN); what the peer sends still comes.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Poll::Ready(SockRef::from(&*tcp).shutdown(Shutdown::Write)),
            Socket::Unix(unix) => Poll::Ready(SockRef::from(&*unix).shutdown(Shutdown::Write)),
            Socket::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
