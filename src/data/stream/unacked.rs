//! How many bytes a TCP peer has not acknowledged yet: one `unsafe` call of the program.
//!
//! A socket that takes no more bytes says nothing about its peer: the kernel frees room in large
//! steps. Only the send queue tells a peer that reads slowly from a peer that reads nothing.

use std::os::fd::{AsFd, AsRawFd};

/// Bytes in the send queue that the peer has not acknowledged, its FIN included (tcp(7), SIOCOUTQ).
/// `None` means that the socket does not tell.
#[expect(unsafe_code, reason = "no safe wrapper of this ioctl exists")]
pub fn unacked(socket: &impl AsFd) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the whole call, since `socket` is borrowed. SIOCOUTQ is
    // TIOCOUTQ by another name (asm-generic/sockios.h), and writes one `int` to the address that
    // it is given, which is that of `bytes`.
    let answer = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    (answer == 0).then(|| u64::try_from(bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn unread_bytes_stay_unacknowledged_only_beyond_the_window() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut served, _) = listener.accept().unwrap();
        assert_eq!(unacked(&served), Some(0));
        served.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(more) = served.write(&[0; 65536]) {
            sent += more as u64;
        }
        let waits = unacked(&served).unwrap();
        assert!(waits > 0 && waits < sent, "{waits} of {sent}");
        let mut rest = vec![0; usize::try_from(sent).unwrap()];
        client.read_exact(&mut rest).unwrap();
        while unacked(&served) != Some(0) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn descriptor_without_a_send_queue_has_no_count() {
        assert_eq!(unacked(&std::fs::File::open("/dev/null").unwrap()), None);
    }
}
