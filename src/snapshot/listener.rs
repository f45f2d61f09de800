//! A listener as configured: where it is bound and how it speaks.
//!
//! Bound sockets live outside the snapshot, so that a reload keeps them; this is what
//! every accepted connection looks up under its listener's name.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::limit::Rate;

/// One `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The name in `sidegate.toml`; the `listener` label.
    pub name: Arc<str>,
    /// Where its connections come in.
    pub address: Address,
    /// How it speaks.
    pub speaks: Speaks,
    /// The most bytes that a request head may have.
    pub max_head: usize,
    /// The most fields that a request head may have.
    pub max_fields: usize,
    /// The most connections at once; `None`: the process' total is the only bound.
    pub max_connections: Option<usize>,
    /// The most connections of one client that hold no tunnel and serve no permitted request.
    pub pending_per_client: usize,
    /// TLS handshakes of one client, resumed ones included. `None` means unlimited.
    pub handshakes_per_client: Option<Rate>,
    /// How patient we are before a request is routed.
    pub timeouts: ListenerTimeouts,
}

/// The rate of TLS handshakes of one client unless the file says otherwise: an office or a balancer is one address,
/// and all of its clients come back at once.
pub const HANDSHAKES_PER_CLIENT: Rate = Rate {
    tokens: NonZeroU32::new(500).unwrap(),
    per: Duration::from_secs(1),
    burst: NonZeroU32::new(10_000).unwrap(),
};

/// The most fields of a head unless the file says otherwise, of a request and of an answer.
pub const MAX_FIELDS: usize = 100;

/// Where a listener's connections come in. Displays as `sidegate.toml` has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// At this address, which is to be bound.
    Tcp(SocketAddr),
    /// At the sockets that systemd passes under this name.
    Systemd(Arc<str>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// What a listener does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 over TLS.
    Tls(TlsRules),
    /// HTTP/1.1 in the clear.
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
    /// Whether a name that no certificate covers, or none at all, ends the TLS handshake.
    pub strict_sni: bool,
}

/// The timeouts from accept to routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// Accept → TLS handshake done.
    pub tls: Duration,
    /// → the whole request head, its first byte included.
    pub head: Duration,
    /// Idle between plain requests.
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
