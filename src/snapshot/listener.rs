//! A listener as configured: its address and its protocol.
//!
//! Bound sockets live outside the snapshot, so that a reload keeps them. Every accepted connection
//! looks up these settings under its listener's name.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::policy::forwarded::ForwardedRules;
use crate::policy::limit::Rate;
use crate::policy::network::Peer;
use crate::policy::peers::PeerList;
use crate::snapshot::client_auth::ClientAuthOptions;

/// One `[[listener]]`, with all defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The name in `sidegate.toml`; the `listener` label.
    pub name: Arc<str>,
    /// The address or systemd name that it accepts on.
    pub address: ListenAddress,
    /// The protocol on its connections.
    pub protocol: Protocol,
    /// The port that clients use, where a port mapping lies in front. `None` means that each
    /// request's `Host` tells it.
    pub public_port: Option<u16>,
    /// Verification of client certificates. `None` means off: the listener requests none.
    pub client_certificates: Option<Arc<ClientCertificates>>,
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
    /// The peers whose connections begin with a PROXY header, and no other peer's. `None` means
    /// off.
    pub proxy_protocol: Option<PeerList>,
    /// The forwarded headers that are believed, and of which peers. `None` means off.
    pub forwarded: Option<ForwardedRules>,
    /// Timeouts before a request is routed.
    pub timeouts: ListenerTimeouts,
}

impl Listener {
    /// Whether requests on a connection of `peer` are those of clients that its forwarded headers
    /// name. Bounds on one client's connections don't hold for it.
    pub fn forwards_others(&self, peer: Peer) -> bool {
        self.forwarded.as_ref().is_some_and(|rules| rules.from.contains(peer))
    }
}

/// `client_certificates` of a listener.
#[derive(Debug)]
pub struct ClientCertificates {
    /// The contents of the files, and the mode.
    pub options: ClientAuthOptions,
    /// Paths of the authorities (`ca`) as written, for messages and the effective configuration.
    pub ca: Arc<str>,
    /// Paths of the revocation lists (`crl`) as written.
    pub crl: Box<[Arc<str>]>,
    /// `revoked_serials` as written. `None` means that there are none.
    pub revoked_serials: Option<Arc<str>>,
    /// Expiry of each revocation list that has a `nextUpdate`.
    pub crls_due: Box<[CrlDue]>,
}

/// Expiry of a revocation list, when its authority owes a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlDue {
    /// Name of the authority, for people.
    pub issuer: Arc<str>,
    /// Path of the file, as written.
    pub file: Arc<str>,
    /// The list's `nextUpdate` (RFC 5280, section 5.1.2.5).
    pub at: Timestamp,
}

impl Listener {
    /// Sentences about the revocation lists that have expired by `now`.
    pub fn expired_crls(&self, now: Timestamp) -> impl Iterator<Item = String> {
        let certificates = self.client_certificates.as_ref();
        let due = certificates.map(|all| &*all.crls_due).unwrap_or_default();
        let then = match certificates.is_some_and(|all| all.options.enforces_crl_expiry) {
            true => "new TLS handshakes of its clients fail until a newer one is there",
            false => "it is used all the same",
        };
        due.iter().filter(move |due| due.at < now).map(move |CrlDue { issuer, file, at }| {
            let name = &self.name;
            format!(
                "listener {name}: the revocation list of {issuer} in {file} expired at {at}: {then}"
            )
        })
    }
}

/// Compares what the files contain, not their names.
impl PartialEq for ClientCertificates {
    fn eq(&self, other: &Self) -> bool {
        self.options.is_same(&other.options)
    }
}

impl Eq for ClientCertificates {}

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
    /// A Unix socket to bind.
    Unix(UnixAddress),
    /// The sockets that systemd passes under this name.
    Systemd(Arc<str>),
}

/// The file of a Unix socket, and the users who may connect to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixAddress {
    /// Absolute path of the file.
    pub path: Arc<Path>,
    /// Permission bits of the file.
    pub mode: u32,
    /// Group of the file. `None` means that of the process.
    pub group: Option<FileGroup>,
}

/// The group of a Unix socket's file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileGroup {
    /// Its name or number, as written.
    pub name: Arc<str>,
    /// Its number, looked up when the configuration was read.
    pub id: u32,
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(unix) => write!(f, "unix:{}", unix.path.display()),
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
    Redirect(HttpsPorts),
}

/// The default port of `https` (RFC 9110 §4.2.2).
pub const HTTPS_PORT: u16 = 443;

/// The default port of `http` (RFC 9110 §4.2.1).
pub const HTTP_PORT: u16 = 80;

/// The ports of the first TLS listener, to which a redirect leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpsPorts {
    /// Its `public_port`. `None` means that it is not set.
    pub public: Option<u16>,
    /// The port that it is bound to. `None` means that there is no such listener, or that its port
    /// is not known before the bind.
    pub bound: Option<u16>,
}

impl HttpsPorts {
    /// The port of the `https` address for a client that used the port `used`, which reached this
    /// process at the port `arrived`.
    ///
    /// A difference between the two shows a port mapping, which leads the default port of `https`
    /// to the TLS listener. Equal ports show none, so the client reaches the bound port.
    pub fn for_client(self, used: u16, arrived: u16) -> u16 {
        let unmapped = self.bound.filter(|_| used == arrived);
        self.public.or(unmapped).unwrap_or(HTTPS_PORT)
    }
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
    /// From accept to the end of the PROXY header, and never longer than `tls`.
    pub proxy_header: Duration,
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
            proxy_header: Duration::from_secs(5),
            tls: Duration::from_secs(10),
            head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_names_the_port_that_clients_reach() {
        let check = |public: Option<u16>, bound: Option<u16>, used, arrived, port| {
            assert_eq!(HttpsPorts { public, bound }.for_client(used, arrived), port);
        };
        // 80 is mapped to 8080, so 443 is to 8443.
        check(None, Some(8443), 80, 8080, 443);
        // The client used 8080 itself.
        check(None, Some(8443), 8080, 8080, 8443);
        check(None, Some(8443), 80, 80, 8443);
        check(None, Some(443), 80, 80, 443);
        // Another mapping: only `public_port` can say what it is.
        check(None, Some(8443), 18080, 8080, 443);
        check(Some(18443), Some(8443), 18080, 8080, 18443);
        check(Some(18443), Some(8443), 8080, 8080, 18443);
        check(None, None, 8080, 8080, 443);
    }
}
