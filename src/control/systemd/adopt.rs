//! One of the program's four `unsafe` calls: adopts a descriptor that is known only by its number.
//!
//! Closes nothing: the number that systemd passed stays open until the process ends.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// Duplicates the descriptor `number`. The duplicate closes on exec and on drop; the original stays
/// open.
///
/// # Errors
/// No descriptor is open under that number, or the process has no free descriptor left.
#[expect(
    unsafe_code,
    reason = "systemd passes descriptors by number; std adopts a number only by an unsafe call"
)]
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: `borrow_raw` asks for a number that is not -1, seen above, and that stays open for as
    // long as it is borrowed, which is this one call. What systemd passes was open before our first
    // instruction, so no descriptor that we opened has its number, and only who owns a descriptor
    // closes it. Were the number a lie, the kernel would say EBADF, or duplicate a descriptor of
    // ours: neither touches memory, and the owner's own is not closed by it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    #[test]
    fn duplicate_is_the_same_socket_with_cloexec() {
        let original = TcpListener::bind("127.0.0.1:0").unwrap();
        let duplicate = duplicate(original.as_raw_fd()).unwrap();
        assert!(fcntl_getfd(&duplicate).unwrap().contains(FdFlags::CLOEXEC));
        let same = TcpListener::from(duplicate);
        assert_eq!(same.local_addr().unwrap(), original.local_addr().unwrap());
        drop(same);
        std::net::TcpStream::connect(original.local_addr().unwrap()).unwrap();
    }

    #[test]
    fn closed_descriptor_number_is_an_error() {
        for number in [-1, RawFd::MAX] {
            assert_eq!(duplicate(number).unwrap_err().raw_os_error(), Some(libc::EBADF));
        }
    }
}
