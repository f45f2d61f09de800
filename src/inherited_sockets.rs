//! Listening sockets that another process of the same agent hands over, by their place.
//!
//! The new process takes each socket where it would otherwise bind one. The files of Unix sockets
//! belong to the old process until [`InheritedSockets::own_files`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::addresses::SocketPlace;
use crate::socket_file::{self, SocketFile};
use crate::sync::lock;

/// What a listening socket is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "for", content = "name")]
pub enum SocketPurpose {
    /// A listener of the data plane, by its name.
    Listener(Box<str>),
    /// The listener of `[metrics]`.
    Metrics,
    /// The socket of `[admin]`.
    Admin,
    /// The listener of the page `/status`.
    Page,
    /// Passed by systemd under this name.
    Systemd(Box<str>),
}

/// A listening socket on its way from one process to the next.
#[derive(Debug)]
pub struct SharedSocket {
    /// What it is for.
    pub purpose: SocketPurpose,
    /// The address or path at which it listens.
    pub place: SocketPlace,
    /// The socket: a descriptor of its own for the same queue.
    pub socket: OwnedFd,
}

impl SharedSocket {
    /// A further descriptor for the same socket.
    ///
    /// # Errors
    /// The process has no free descriptor left.
    pub fn duplicate(&self) -> io::Result<SharedSocket> {
        let SharedSocket { purpose, place, socket } = self;
        let (purpose, place) = (purpose.clone(), place.clone());
        Ok(SharedSocket { purpose, place, socket: socket.try_clone()? })
    }
}

/// The sockets that this process got from the one before, and has not taken yet. Empty in a process
/// that was not started by an upgrade.
#[derive(Debug, Default)]
pub struct InheritedSockets(Mutex<InheritedState>);

#[derive(Debug, Default)]
struct InheritedState {
    left: Vec<SharedSocket>,
    /// Files of Unix sockets, and links to them, that this process will own.
    files: Vec<PathBuf>,
    /// Whether there was a former process.
    is_upgrade: bool,
}

impl InheritedSockets {
    /// The sockets that the former process has sent, without those of systemd.
    pub fn new(sockets: Vec<SharedSocket>) -> Self {
        InheritedSockets(Mutex::new(InheritedState {
            left: sockets,
            files: Vec::new(),
            is_upgrade: true,
        }))
    }

    /// Takes all sockets for `address`, of any listener: an address may have a new name. Port 0
    /// takes those of the same `purpose` and IP address.
    pub fn take_tcp(&self, purpose: &SocketPurpose, address: SocketAddr) -> Vec<TcpListener> {
        let is_wanted = |one: &SharedSocket| match one.place {
            SocketPlace::Tcp(at) if address.port() == 0 => {
                at.ip() == address.ip() && one.purpose == *purpose
            }
            SocketPlace::Tcp(at) => at == address,
            SocketPlace::Unix(_) => false,
        };
        let mut state = lock(&self.0);
        state.left.extract_if(.., |one| is_wanted(one)).map(|one| one.socket.into()).collect()
    }

    /// Takes the Unix socket at `path` with its file. `None` means that there is none.
    ///
    /// # Errors
    /// The file is gone.
    pub fn take_unix(&self, path: &Path) -> io::Result<Option<(UnixListener, SocketFile)>> {
        let mut state = lock(&self.0);
        let is_wanted = |one: &mut SharedSocket| one.place.path() == Some(path);
        let Some(found) = state.left.extract_if(.., is_wanted).next() else { return Ok(None) };
        let file = SocketFile::adopt(path)?;
        state.files.push(path.to_owned());
        Ok(Some((found.socket.into(), file)))
    }

    /// Takes the symbolic link at `path`, if it leads to `target` and there was a former process.
    pub fn take_link(&self, target: &Path, path: &Path) -> Option<SocketFile> {
        let mut state = lock(&self.0);
        let leads_there = std::fs::read_link(path).is_ok_and(|found| found == target);
        let file = (state.is_upgrade && leads_there).then(|| SocketFile::adopt(path).ok())??;
        state.files.push(path.to_owned());
        Some(file)
    }

    /// The sockets that nothing has taken, in words.
    pub fn left(&self) -> Vec<String> {
        lock(&self.0).left.iter().map(|one| one.place.to_string()).collect()
    }

    /// Makes the files that were taken belong to this process, which removes them at its end. The
    /// former process has given them up.
    pub fn own_files(&self) {
        for path in std::mem::take(&mut lock(&self.0).files) {
            if let Err(error) = socket_file::own(&path) {
                let path = path.display();
                tracing::warn!(%error, %path, "the file of a socket is gone");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(purpose: SocketPurpose) -> (SharedSocket, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        (SharedSocket { purpose, place: SocketPlace::Tcp(at), socket: socket.into() }, at)
    }

    #[test]
    fn socket_is_taken_by_address_and_port_0_by_purpose() {
        let (one, other) = ("one".into(), "other".into());
        let (first, at) = tcp(SocketPurpose::Listener(one));
        let (second, second_at) = tcp(SocketPurpose::Listener(other));
        let (metrics, _) = tcp(SocketPurpose::Metrics);
        let all = InheritedSockets::new(vec![first, second, metrics]);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(all.take_tcp(&SocketPurpose::Admin, any).len(), 0);
        assert_eq!(all.take_tcp(&SocketPurpose::Listener("renamed".into()), at).len(), 1);
        let taken = all.take_tcp(&SocketPurpose::Listener("other".into()), any);
        assert_eq!(taken[0].local_addr().unwrap(), second_at);
        assert_eq!(all.left().len(), 1);
    }

    #[test]
    fn file_belongs_to_the_old_process_until_it_is_owned() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.sock"), folder.path().join("link"));
        let listen = || {
            let (socket, place) =
                (UnixListener::bind(&path).unwrap(), SocketPlace::Unix((*path).into()));
            std::os::unix::fs::symlink(&path, &link).unwrap();
            let purpose = SocketPurpose::Admin;
            InheritedSockets::new(vec![SharedSocket { purpose, place, socket: socket.into() }])
        };
        let all = listen();
        assert!(all.take_link(folder.path(), &link).is_none(), "it leads elsewhere");
        assert!(InheritedSockets::default().take_link(&path, &link).is_none(), "no upgrade");
        let taken = (all.take_unix(&path).unwrap().unwrap(), all.take_link(&path, &link).unwrap());
        drop(taken);
        assert!(path.exists() && link.is_symlink(), "an upgrade that failed leaves all in place");
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&link).unwrap();
        let all = listen();
        let taken = (all.take_unix(&path).unwrap().unwrap(), all.take_link(&path, &link).unwrap());
        all.own_files();
        drop(taken);
        assert!(!path.exists() && !link.is_symlink());
    }
}
