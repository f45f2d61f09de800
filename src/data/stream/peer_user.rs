//! The user at the other end of a Unix socket, and its groups: one `unsafe` call of the program.
//!
//! The kernel records both when the peer connects (`SO_PEERCRED`, `SO_PEERGROUPS`, unix(7)). A peer
//! whose record can't be read has no identity: the caller refuses it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::policy::network::UnixUser;

/// The most supplementary groups of a peer. A peer with more is refused: without all of them, a
/// rule would judge it by a guess.
const MAX_GROUPS: usize = 4096;

/// Room for the groups of most users, so that one call is enough.
const USUAL_GROUPS: usize = 64;

/// The user that the peer of a Unix socket ran as when it connected.
///
/// # Errors
/// The socket is no Unix socket, or the kernel has no record of its peer.
pub fn user(socket: &impl AsFd) -> io::Result<UnixUser> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    let user = UnixUser { uid: peer.uid.as_raw(), gid: peer.gid.as_raw() };
    // A socket without a record of its peer, which the kernel shows as -1.
    let is_known = user.uid != u32::MAX && user.gid != u32::MAX;
    is_known.then_some(user).ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// The supplementary groups of the peer of a Unix socket when it connected.
///
/// # Errors
/// The kernel does not tell (before Linux 4.13), or there are more than [`MAX_GROUPS`].
pub fn groups(socket: &impl AsFd) -> io::Result<Box<[u32]>> {
    let mut groups = vec![0; USUAL_GROUPS];
    let mut count = read_groups(socket, &mut groups);
    // Once is enough: the record is of connect(2), and does not grow between the two calls.
    if count.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ERANGE)) {
        groups.resize(MAX_GROUPS, 0);
        count = read_groups(socket, &mut groups);
    }
    groups.truncate(count?);
    Ok(groups.into())
}

/// Reads the groups into `room`, and returns their number. `ERANGE` means that there are more.
#[expect(unsafe_code, reason = "no safe wrapper of this socket option exists")]
fn read_groups(socket: &impl AsFd, room: &mut [u32]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    let size = size_of_val(room);
    let mut length = libc::socklen_t::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open for the whole call, since `socket` is borrowed. The kernel
    // writes at most `length` bytes to `room`, which has as many, and any bytes are valid as
    // numbers. It writes the length that it used to `length`. Both are borrowed for the call.
    let answer = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            room.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // The kernel counts bytes, and not groups.
    Ok(length as usize / size_of::<libc::gid_t>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// The accepted end of a connection of this process to itself.
    fn accepted() -> (UnixStream, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let client = UnixStream::connect(folder.path().join("socket")).unwrap();
        (listener.accept().unwrap().0, client)
    }

    #[test]
    fn peer_has_the_user_and_the_groups_of_its_process() {
        let (accepted, _client) = accepted();
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let own = UnixUser { uid: uid.as_raw(), gid: gid.as_raw() };
        assert_eq!(user(&accepted).unwrap(), own);
        let mut known: Vec<_> = rustix::process::getgroups().unwrap();
        known.sort_unstable_by_key(|group| group.as_raw());
        let mut groups = groups(&accepted).unwrap();
        groups.sort_unstable();
        assert_eq!(*groups, *known.iter().map(|group| group.as_raw()).collect::<Vec<_>>());
    }

    #[test]
    fn too_little_room_for_groups_is_an_error() {
        let (accepted, _client) = accepted();
        let count = rustix::process::getgroups().unwrap().len();
        if let Some(less) = count.checked_sub(1) {
            let error = read_groups(&accepted, &mut vec![0; less]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ERANGE));
        }
    }

    #[test]
    fn socket_without_a_peer_record_is_an_error() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(user(&tcp).is_err());
        assert!(groups(&tcp).is_err());
    }
}
