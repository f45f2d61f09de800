//! A listening socket, TCP or Unix, and the connections that it accepts, each with its peer.
//!
//! It never waits: a socket without a connection says `WouldBlock`.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream as StdTcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream as StdUnixStream};
use std::sync::Arc;

use rustix::net::SocketFlags;
use tokio::net::{TcpStream, UnixStream};

use crate::data::stream::socket::Socket;
use crate::data::stream::{keepalive, peer_user};
use crate::policy::network::Peer;
use crate::policy::subject::{Credentials, Subject};

/// A listening socket of either kind.
pub enum ListenSocket {
    /// A TCP socket, whose peers have addresses.
    Tcp(TcpListener),
    /// A Unix socket, whose peers are users of this host.
    Unix(UnixListener),
}

/// A connection that was accepted.
pub struct Arrival {
    stream: AcceptedStream,
    /// The address or the user at its other end.
    pub peer: Peer,
    /// What the kernel knows of a user of this host beyond its id. `None` means nothing.
    pub credentials: Option<Arc<Credentials>>,
}

/// The stream of a connection, before a runtime has it.
enum AcceptedStream {
    Tcp(StdTcpStream),
    Unix(StdUnixStream),
}

impl ListenSocket {
    /// Takes one connection from the queue. A TCP connection costs one system call: the new socket
    /// is non-blocking already.
    ///
    /// # Errors
    /// As for accept(2). `ConnectionAborted` also means a peer that cannot be identified.
    pub fn accept(&self) -> io::Result<Arrival> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match self {
            ListenSocket::Tcp(socket) => {
                let (stream, address) = rustix::net::acceptfrom_with(socket, flags)?;
                let address = address
                    .and_then(|address| SocketAddr::try_from(address).ok())
                    // An address of another family counts as a fault of the peer, so that accepting
                    // is not paused.
                    .ok_or(io::ErrorKind::ConnectionAborted)?;
                let (stream, peer) = (AcceptedStream::Tcp(stream.into()), Peer::new(address.ip()));
                Ok(Arrival { stream, peer, credentials: None })
            }
            ListenSocket::Unix(socket) => {
                let stream = StdUnixStream::from(rustix::net::accept_with(socket, flags)?);
                identified(stream).map_err(|error| {
                    // Refused, since it could be any user of this host.
                    tracing::error!(
                        %error,
                        "a connection to a Unix socket is refused: its user or groups are unknown"
                    );
                    io::ErrorKind::ConnectionAborted.into()
                })
            }
        }
    }
}

/// A connection over a Unix socket with the user at its other end.
fn identified(stream: StdUnixStream) -> io::Result<Arrival> {
    // The kernel recorded both at connect(2). A peer that has changed its user since, or has passed
    // the socket to another process, counts as the user that connected.
    let (user, groups) = (peer_user::user(&stream)?, peer_user::groups(&stream)?);
    let Subject { credentials, .. } = Subject::of_user(user, groups);
    Ok(Arrival { stream: AcceptedStream::Unix(stream), peer: Peer::unix(user), credentials })
}

impl Arrival {
    /// Sets what a connection would have inherited. A connection that came before this process had
    /// the listening socket, while no process was running, has none of it.
    pub fn set_inherited_options(&self) {
        if let AcceptedStream::Tcp(stream) = &self.stream {
            // A socket that fails this has lost its peer already.
            let _ = stream.set_nodelay(true).and_then(|()| keepalive::enable(stream));
        }
    }

    /// Registers the stream with the runtime.
    ///
    /// # Errors
    /// The runtime has no room for it.
    pub fn into_socket(self) -> io::Result<Socket> {
        match self.stream {
            AcceptedStream::Tcp(stream) => TcpStream::from_std(stream).map(Socket::Tcp),
            AcceptedStream::Unix(stream) => UnixStream::from_std(stream).map(Socket::Unix),
        }
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ListenSocket::Tcp(socket) => socket.as_fd(),
            ListenSocket::Unix(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for ListenSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
