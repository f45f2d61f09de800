//! How TCP finds out by itself that a peer is gone: keep-alive probes, and a bound on silence.
//!
//! A host that loses its power or its network sends no FIN. Two mechanisms of the kernel notice it,
//! each where the other doesn't look (tcp(7)):
//!
//! - A connection over which nothing moves is probed after 60 s, and then every 15 s.
//! - A connection with bytes under way is not probed. Its bytes are sent again, by default for a
//!   quarter of an hour; `TCP_USER_TIMEOUT` ends that.
//!
//! `TCP_USER_TIMEOUT` takes the place of the number of probes as well: a silent peer is given up at
//! the first probe after it. So it is 60 s + 4 × 15 s, the time that four probes take.
//!
//! It also ends a connection whose peer has kept its window closed for so long, although the peer
//! acknowledges every probe. Such a peer is alive, and `write_stall` says how long it may take
//! nothing. So where `write_stall` is longer, the user timeout is longer than that.
//!
//! Once a socket is closed, the user timeout alone bounds how long the kernel keeps bytes for the
//! peer: some MiB, which no limit counts any more. So a closed connection has no more than
//! `write_stall`.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::data::stream::unacked::unacked;

/// How long nothing moves over a connection before its peer is probed.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// The time between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// The probes that a peer leaves unanswered before it is gone. The user timeout has the same
/// effect; this holds on kernels that do not let it.
const MAX_PROBES: u32 = 4;

/// The user timeout that [`enable`] sets.
pub const USER_TIMEOUT: Duration = Duration::from_secs(60 + 4 * 15);

/// By how much the user timeout exceeds `write_stall`: the window of a peer closes before the
/// socket takes no more, which is where `write_stall` begins.
const USER_TIMEOUT_MARGIN: Duration = Duration::from_secs(60);

/// The longest user timeout that the kernel takes, as an `int` of milliseconds.
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// The least time that the peer of a closed socket has to take what the kernel holds for it.
const MIN_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes the kernel watch the peer of a TCP socket. Connections that a listening socket accepts
/// inherit it.
///
/// # Errors
/// `socket` is no TCP socket.
pub fn enable(socket: &impl AsFd) -> io::Result<()> {
    let probes = TcpKeepalive::new();
    let probes = probes.with_time(IDLE_TIME).with_interval(PROBE_INTERVAL).with_retries(MAX_PROBES);
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Lets the peer of a watched socket keep its window closed for as long as `write_stall` lets it.
///
/// # Errors
/// `socket` is no TCP socket.
pub fn allow_zero_window(socket: &impl AsFd, write_stall: Duration) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(user_timeout(write_stall)))
}

/// Bounds how long the kernel keeps what it holds for the peer of a socket that is about to be
/// closed: a peer that takes nothing has `write_stall`, as it had while the socket was open.
pub fn bound_close(socket: &impl AsFd, write_stall: Duration) {
    // Without such bytes the kernel keeps nothing for the peer, and a system call is spared.
    if unacked(socket).is_some_and(|bytes| bytes > 0) {
        let time = write_stall.clamp(MIN_CLOSE_TIMEOUT, MAX_USER_TIMEOUT);
        // A socket that fails this has no peer any more.
        let _ = SockRef::from(socket).set_tcp_user_timeout(Some(time));
    }
}

/// The user timeout of a connection whose peer may take nothing for `write_stall`.
pub fn user_timeout(write_stall: Duration) -> Duration {
    write_stall.saturating_add(USER_TIMEOUT_MARGIN).clamp(USER_TIMEOUT, MAX_USER_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn accepted_socket_inherits_keep_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        enable(&listener).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap() && !SockRef::from(&client).keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE_TIME);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), MAX_PROBES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(120)));
    }

    #[test]
    fn user_timeout_is_never_shorter_than_write_stall() {
        let seconds = Duration::from_secs;
        let check = |write_stall, expected| {
            let client = TcpListener::bind("127.0.0.1:0").unwrap();
            allow_zero_window(&client, write_stall).unwrap();
            assert_eq!(SockRef::from(&client).tcp_user_timeout().unwrap(), Some(expected));
        };
        check(Duration::from_millis(1), USER_TIMEOUT);
        check(seconds(30), USER_TIMEOUT);
        check(seconds(60), USER_TIMEOUT);
        check(seconds(90), seconds(150));
        check(seconds(3600), seconds(3660));
        check(seconds(366 * 24 * 3600), MAX_USER_TIMEOUT);
    }

    #[test]
    fn unix_socket_has_no_keep_alive() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(enable(&one).is_err());
    }
}
