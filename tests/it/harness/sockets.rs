//! The TCP sockets of this process, agent included, as the kernel has them.
//!
//! Duplicates only the sockets that a test asks for: a duplicate delays the end of its connection.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::Socket;

use crate::harness::within;

/// A connection of the agent, by the agent's own socket.
pub struct Found(Socket);

impl Found {
    /// Finds the connection that this process accepted at `listener`.
    pub async fn accepted(listener: SocketAddr) -> Found {
        find(&format!("accepted at {listener}"), |local, peer| {
            local == listener && peer.port() != 0
        })
        .await
    }

    /// Finds the connection that this process made to `backend`, an address in a configuration's
    /// form.
    pub async fn dialled(backend: &str) -> Found {
        let (_, address) = backend.split_once("://").unwrap();
        let address: SocketAddr = address.parse().unwrap();
        find(&format!("to {backend}"), |_, peer| peer == address).await
    }

    /// Asserts that the kernel probes the peer after a minute of silence, every 15 s, four times.
    pub fn expect_watched(&self) {
        assert!(self.0.keepalive().unwrap() && self.0.tcp_nodelay().unwrap());
        let times =
            (self.0.tcp_keepalive_time().unwrap(), self.0.tcp_keepalive_interval().unwrap());
        assert_eq!(times, (Duration::from_secs(60), Duration::from_secs(15)));
        assert_eq!(self.0.tcp_keepalive_retries().unwrap(), 4);
    }

    /// Returns after how many seconds of silence the kernel gives up on the peer.
    pub fn user_timeout(&self) -> u64 {
        self.0.tcp_user_timeout().unwrap().unwrap_or_default().as_secs()
    }

    /// Waits until [`Found::user_timeout`] is this.
    pub async fn expect_user_timeout(&self, seconds: u64) {
        let becomes = async {
            while self.user_timeout() != seconds {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(&format!("a user timeout of {seconds} s"), becomes).await;
    }
}

/// Waits until the kernel holds nothing for the peer at `peer` of a connection that the agent at
/// `local` has closed.
pub async fn expect_released(local: SocketAddr, peer: SocketAddr) {
    let released = async {
        while holds(local, peer) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the kernel's letting go of a connection", released).await;
}

/// Returns whether the kernel holds bytes to be sent from one end to the other.
fn holds(local: SocketAddr, peer: SocketAddr) -> bool {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let queued = fields[4].split_once(':').unwrap().0 != "00000000";
        queued && (address(fields[1]), address(fields[2])) == (local, peer)
    })
}

/// Finds the one socket whose own and peer address satisfy `is_it`.
async fn find(what: &str, is_it: impl Fn(SocketAddr, SocketAddr) -> bool) -> Found {
    let found = async {
        loop {
            if let Some(found) = look(&is_it) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, found).await
}

fn look(is_it: &impl Fn(SocketAddr, SocketAddr) -> bool) -> Option<Found> {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let open = fields[3] == "01";
        (open && is_it(address(fields[1]), address(fields[2]))).then(|| fields[9].to_owned())
    })?;
    let link = format!("socket:[{inode}]");
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let number = entries
        .filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.to_str() == Some(&link)));
    let number = number.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).next()?;
    let pid = Pid::from_raw(i32::try_from(std::process::id()).unwrap())?;
    let this = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let duplicate: OwnedFd = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()).ok()?;
    Some(Found(duplicate.into()))
}

/// Parses `0100007F:1F90`: the address in the machine's byte order, and the port.
fn address(text: &str) -> SocketAddr {
    let (address, port) = text.split_once(':').unwrap();
    let address = Ipv4Addr::from(u32::from_str_radix(address, 16).unwrap().to_ne_bytes());
    (address, u16::from_str_radix(port, 16).unwrap()).into()
}

/// Number of ports that [`free_address`] has tried.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// Returns a free loopback address, a different one to each caller. Its port is below the kernel's
/// range for automatic ports.
pub fn free_address() -> SocketAddr {
    let lowest = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let lowest: u16 = lowest.split_whitespace().next().unwrap().parse().unwrap();
    let (first, count) = (lowest / 2, lowest - lowest / 2);
    // Another process of the same tests begins elsewhere.
    let offset = (std::process::id() % u32::from(count)) as u16;
    (0..count)
        .map(|_| NEXT_PORT.fetch_add(1, Ordering::Relaxed))
        .map(|next| first + (next % count + offset) % count)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("no free port")
}
