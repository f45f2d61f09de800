//! A stream socket, TCP or Unix, as hyper and the tunnel use it.
//!
//! It hides which of the two it is and nothing else.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::snapshot::route::BackendAddress;

/// A connected stream socket.
pub enum Socket {
    /// TCP, with `TCP_NODELAY`.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Socket {
    /// Connects to a backend.
    pub async fn connect(address: &BackendAddress) -> io::Result<Socket> {
        match address {
            BackendAddress::Tcp(address) => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Ok(Socket::Tcp(tcp))
            }
            BackendAddress::Unix(path) => UnixStream::connect(path).await.map(Socket::Unix),
        }
    }

    /// Reads once into `buffer`; `poll_read`, not `try_read`: it clears the readiness
    /// on a short read, which saves the syscall that would block.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes once. It is tried before it is asked for: there mostly is room, and the question costs more than the answer.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = match self {
            Socket::Tcp(tcp) => tcp.try_io(Interest::WRITABLE, || send(&*tcp, bytes)),
            Socket::Unix(unix) => unix.try_io(Interest::WRITABLE, || send(&*unix, bytes)),
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Pin::new(self).poll_write(cx, bytes),
            sent => Poll::Ready(sent),
        }
    }

    /// Ends our direction of the stream (FIN); what the peer sends still comes.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(tcp) => SockRef::from(tcp).shutdown(Shutdown::Write),
            Socket::Unix(unix) => SockRef::from(unix).shutdown(Shutdown::Write),
        }
    }
}

/// The system call alone: libc's own is a place where its threads may be cancelled, which costs as much again.
fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Socket::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }
}
