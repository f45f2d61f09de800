//! The sockets that systemd bound and passed by name (sd_listen_fds(3)).
//!
//! Hands out duplicates, and never unlinks or shuts down a socket: the originals stay open to the
//! end, so that connections made during a restart wait in their queue for the next process.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{SockRef, Type};

use super::adopt::duplicate;
use crate::addresses::SocketPlace;
use crate::inherited_sockets::{InheritedSockets, SharedSocket, SocketPurpose};

/// The sockets from systemd, and those from the former process of an upgrade; none by default.
#[derive(Debug, Default)]
pub struct PassedSockets {
    sockets: Vec<PassedSocket>,
    inherited: InheritedSockets,
}

#[derive(Debug)]
struct PassedSocket {
    name: Arc<str>,
    kind: SocketKind,
    descriptor: OwnedFd,
}

/// The kind of a passed descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketKind {
    /// A listening TCP socket, with its address.
    Tcp(SocketAddr),
    /// A listening Unix socket, with its path. `None` means that it has none in the file system.
    Unix(Option<PathBuf>),
    /// A descriptor that accepts no connections, in words: "a datagram socket".
    Other(&'static str),
}

impl PassedSockets {
    /// The sockets passed to this process by `LISTEN_FDS`, with the names of `LISTEN_FDNAMES`.
    ///
    /// The variables stay in the environment, where they name this process and none of its
    /// children, and the descriptors close on exec. Changing the environment would be unsound once
    /// there are threads.
    ///
    /// # Errors
    /// The variables contradict each other or the open descriptors; one sentence for people.
    pub fn from_env() -> Result<PassedSockets, String> {
        let told = |error: io::Error| {
            format!(
                "the sockets from systemd (LISTEN_FDS, LISTEN_FDNAMES) cannot be taken: {error}"
            )
        };
        let passed = sd_notify::listen_fds_with_names().map_err(told)?;
        let adopted = passed.map(|(number, name)| Ok((name, duplicate(number)?)));
        Ok(PassedSockets::new(adopted.collect::<io::Result<Vec<_>>>().map_err(told)?))
    }

    /// Wraps these descriptors, each under its name.
    pub fn new(named: impl IntoIterator<Item = (String, OwnedFd)>) -> PassedSockets {
        let socket = |(name, descriptor): (String, OwnedFd)| PassedSocket {
            name: name.into(),
            kind: kind(&descriptor),
            descriptor,
        };
        let sockets = named.into_iter().map(socket).collect();
        PassedSockets { sockets, inherited: InheritedSockets::default() }
    }

    /// The sockets that a former process of this agent had: its own, and those from systemd.
    pub fn inherit(all: Vec<SharedSocket>) -> PassedSockets {
        let (mut named, mut own) = (Vec::new(), Vec::new());
        for one in all {
            match &one.purpose {
                SocketPurpose::Systemd(name) => named.push((name.to_string(), one.socket)),
                _ => own.push(one),
            }
        }
        PassedSockets { inherited: InheritedSockets::new(own), ..PassedSockets::new(named) }
    }

    /// The sockets of the former process that are not from systemd.
    pub fn inherited(&self) -> &InheritedSockets {
        &self.inherited
    }

    /// Duplicates of systemd's sockets for the next process.
    ///
    /// # Errors
    /// The process has no free descriptor left.
    pub fn share(&self) -> io::Result<Vec<SharedSocket>> {
        let share = |one: &PassedSocket| {
            let place = match &one.kind {
                SocketKind::Tcp(address) => SocketPlace::Tcp(*address),
                SocketKind::Unix(path) => {
                    SocketPlace::Unix(path.as_deref().unwrap_or(Path::new("")).into())
                }
                // The next process refuses it with the same words.
                SocketKind::Other(_) => SocketPlace::Unix(Path::new("").into()),
            };
            let purpose = SocketPurpose::Systemd((*one.name).into());
            Ok(SharedSocket { purpose, place, socket: one.descriptor.try_clone()? })
        };
        self.sockets.iter().map(share).collect()
    }

    /// The names, without duplicates, in the order passed.
    pub fn names(&self) -> Vec<&Arc<str>> {
        let mut names: Vec<&Arc<str>> = Vec::new();
        for socket in &self.sockets {
            if !names.contains(&&socket.name) {
                names.push(&socket.name);
            }
        }
        names
    }

    /// The kinds of the sockets under `name`: a `.socket` unit with two `ListenStream=` passes two.
    pub fn kinds(&self, name: &str) -> impl Iterator<Item = &SocketKind> {
        self.by_name(name).map(|socket| &socket.kind)
    }

    /// Duplicates of the TCP sockets under `name`.
    ///
    /// # Errors
    /// The process has no free descriptor left.
    pub fn tcp(&self, name: &str) -> io::Result<Vec<TcpListener>> {
        let tcp = self.by_name(name).filter(|socket| matches!(socket.kind, SocketKind::Tcp(_)));
        tcp.map(|socket| Ok(socket.descriptor.try_clone()?.into())).collect()
    }

    /// Duplicates of the Unix sockets under `name`.
    ///
    /// # Errors
    /// The process has no free descriptor left.
    pub fn unix(&self, name: &str) -> io::Result<Vec<UnixListener>> {
        let unix = self.by_name(name).filter(|socket| matches!(socket.kind, SocketKind::Unix(_)));
        unix.map(|socket| Ok(socket.descriptor.try_clone()?.into())).collect()
    }

    fn by_name(&self, name: &str) -> impl Iterator<Item = &PassedSocket> {
        self.sockets.iter().filter(move |socket| *socket.name == *name)
    }
}

fn kind(descriptor: &OwnedFd) -> SocketKind {
    let socket = SockRef::from(descriptor);
    let Ok(r#type) = socket.r#type() else { return SocketKind::Other("no socket") };
    match r#type {
        Type::STREAM => {}
        Type::DGRAM => return SocketKind::Other("a datagram socket"),
        Type::SEQPACKET => return SocketKind::Other("a socket of packets"),
        _ => return SocketKind::Other("a socket without connections"),
    }
    // A unit with `Accept=yes` passes accepted connections (systemd.socket(5)).
    if !socket.is_listener().unwrap_or(false) {
        return SocketKind::Other("a connection, not a listening socket");
    }
    let Ok(address) = socket.local_addr() else {
        return SocketKind::Other("a socket without an address");
    };
    if address.is_unix() {
        return SocketKind::Unix(address.as_pathname().map(Into::into));
    }
    address
        .as_socket()
        .map_or(SocketKind::Other("neither a TCP nor a Unix socket"), SocketKind::Tcp)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn check(descriptor: impl Into<OwnedFd>, expected: SocketKind) {
        assert_eq!(kind(&descriptor.into()), expected);
    }

    #[test]
    fn passed_descriptors_are_classified() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        check(
            TcpStream::connect(address).unwrap(),
            SocketKind::Other("a connection, not a listening socket"),
        );
        check(tcp, SocketKind::Tcp(address));
        check(UnixListener::bind(&path).unwrap(), SocketKind::Unix(Some(path)));
        check(
            UnixStream::pair().unwrap().0,
            SocketKind::Other("a connection, not a listening socket"),
        );
        check(UdpSocket::bind("127.0.0.1:0").unwrap(), SocketKind::Other("a datagram socket"));
        check(UnixDatagram::unbound().unwrap(), SocketKind::Other("a datagram socket"));
        check(tempfile::tempfile().unwrap(), SocketKind::Other("no socket"));
    }

    #[test]
    fn several_sockets_of_one_name_are_all_handed_out() {
        let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, two, other) = (socket(), socket(), socket());
        let addresses = [one.local_addr().unwrap(), two.local_addr().unwrap()];
        let named = [("public", one), ("other", other), ("public", two)];
        let sockets =
            PassedSockets::new(named.map(|(name, socket)| (name.to_owned(), socket.into())));
        assert_eq!(sockets.names(), [&Arc::from("public"), &Arc::from("other")]);
        let found: Vec<_> = sockets
            .tcp("public")
            .unwrap()
            .iter()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        assert_eq!(found, addresses);
        assert!(
            sockets.unix("public").unwrap().is_empty() && sockets.tcp("none").unwrap().is_empty()
        );
    }
}
