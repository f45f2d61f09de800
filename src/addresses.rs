//! The addresses that the process listens on: written by `agent`, read by code that reports them.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// An address that a listener is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundAddress {
    /// Name of the listener.
    pub listener: Arc<str>,
    /// The place where it accepts connections.
    pub address: SocketPlace,
}

/// Where a socket listens. Displays as in `sidegate.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketPlace {
    /// An address with the port that the kernel chose, where the configuration says port 0.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(Arc<Path>),
}

impl SocketPlace {
    /// The address of a TCP socket. `None` means a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            SocketPlace::Tcp(address) => Some(*address),
            SocketPlace::Unix(_) => None,
        }
    }

    /// The path of a Unix socket. `None` means a TCP socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            SocketPlace::Tcp(_) => None,
            SocketPlace::Unix(path) => Some(path),
        }
    }
}

impl fmt::Display for SocketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketPlace::Tcp(address) => address.fmt(f),
            SocketPlace::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The addresses of all listeners that accept now; stored at start and by each reload.
#[derive(Default)]
pub struct BoundAddresses(ArcSwap<Vec<BoundAddress>>);

impl BoundAddresses {
    /// Returns the addresses, in the order of the listeners.
    pub fn load(&self) -> Arc<Vec<BoundAddress>> {
        self.0.load_full()
    }

    /// Replaces all addresses, in one swap.
    pub fn store(&self, addresses: Vec<BoundAddress>) {
        self.0.store(Arc::new(addresses));
    }
}
