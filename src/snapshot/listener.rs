//! A listener as configured: its address and its protocol.
//!
//! Bound sockets live outside the snapshot, so that a reload keeps them. Every accepted connection
//! looks up these settings under its listener's name.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::limit::Rate;

/// One `[[listener]]`, with all defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The name in `sidegate.toml`; the `listener` label.
    pub name: Arc<str>,
    /// The address or systemd name that it accepts on.
    pub address: ListenAddress,
    /// The protocol on its connections.
    pub protocol: Protocol,
    /// Most bytes of a request head.
    pub max_head: usize,
    /// Most fields of a request head.
    pub max_fields: usize,
    /// Most connections at once. `None` means limited only by the process' total.
    pub max_connections: Option<usize>,
    /// Most connections of one client that hold no tunnel and serve no permitted request.
    pub pending_per_client: usize,
    /// TLS handshakes of one client, resumed ones included. `None` means unlimited.
    pub handshakes_per_client: Option<Rate>,
    /// Timeouts before a request is routed.
    pub timeouts: ListenerTimeouts,
}

/// Default rate of TLS handshakes of one client: an office or a balancer is one address, and all of
/// its clients reconnect at once.
pub const DEFAULT_HANDSHAKES_PER_CLIENT: Rate = Rate {
    tokens: NonZeroU32::new(500).unwrap(),
    per: Duration::from_secs(1),
    burst: NonZeroU32::new(10_000).unwrap(),
};

/// Default of the most fields in the head of a request or of an answer.
pub const DEFAULT_MAX_FIELDS: usize = 100;

/// Where a listener accepts connections. Displays as in `sidegate.toml`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddress {
    /// An address to bind.
    Tcp(SocketAddr),
    /// The sockets that systemd passes under this name.
    Systemd(Arc<str>),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// The protocol that a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 over TLS, under these rules.
    Tls(TlsRules),
    /// HTTP/1.1 in the clear, fully served.
    Plain,
    /// HTTP/1.1 in the clear, and every answer is a 308 to the `https` address.
    Redirect {
        /// The port of that address: the first TLS listener's, or 443.
        port: u16,
    },
}

/// The `tls_*` keys of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsRules {
    /// Whether TLS 1.2 is refused (`tls_min = "1.3"`).
    pub only_13: bool,
    /// Whether the TLS handshake fails for a name that no certificate covers, or for no name at
    /// all.
    pub strict_sni: bool,
}

/// The timeouts from accept to routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// From accept to the end of the TLS handshake.
    pub tls: Duration,
    /// From then to the complete request head; the wait for its first byte counts.
    pub head: Duration,
    /// Idle time between two plain requests.
    pub keep_alive: Duration,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        ListenerTimeouts {
            tls: Duration::from_secs(10),
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
        }
    }
}
