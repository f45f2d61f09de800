//! A route at run time: the destination of a host and a path, with its policy and timeouts.
//!
//! A live tunnel holds its route's `Arc` and nothing else of a generation, so a route never points
//! back at the snapshot.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::policy::Policy;
use crate::policy::request::RequestPath;
use crate::snapshot::tls::BackendTls;

/// The destination of requests for one host pattern and path pattern.
#[derive(Debug)]
pub struct Route {
    /// Number of the route in this process: a name keeps its number over reloads.
    pub number: usize,
    /// The name in `sidegate.toml`; the `route` label of every metric.
    pub name: Arc<str>,
    /// The path pattern as written; `strip_prefix` removes it.
    pub path: Box<str>,
    /// The backends in the order written; never empty.
    pub backends: Box<[BackendAddress]>,
    /// TLS settings for the backends over TLS. `None` means that no backend uses TLS.
    pub backend_tls: Option<Arc<BackendTls>>,
    /// The policy that judges its requests.
    pub policy: Arc<Policy>,
    /// Whether plain HTTP is forwarded or refused.
    pub http: PlainHttp,
    /// Whether `path` is removed before forwarding.
    pub strip_prefix: bool,
    /// The form in which the path of a request is forwarded.
    pub paths: PathForwarding,
    /// The largest body of plain HTTP, in bytes; `None` means unlimited.
    pub max_body: Option<u64>,
    /// Most fields in the head of a backend's answer.
    pub max_fields: usize,
    /// Timeouts of the route.
    pub timeouts: RouteTimeouts,
}

/// Treatment of plain HTTP on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// Answered with 426: only WebSockets are served.
    Refuse,
    /// Forwarded after the same verdict.
    Forward,
}

/// The form in which a route forwards the path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathForwarding {
    /// The canonical form, by which the path is judged.
    Canonical,
    /// The path as sent. Every reading of it stays below the route's path.
    AsIs,
}

/// One local server behind a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// `http://HOST:PORT`, with an address literal or `localhost`.
    Tcp(SocketAddr),
    /// `https://HOST:PORT`, with an address literal or `localhost`.
    Tls(SocketAddr),
    /// `unix:/run/app.sock`, a Unix socket.
    Unix(PathBuf),
}

impl Route {
    /// Returns the path that backends receive for `path`, before any prefix is stripped.
    pub fn forwarded<'p>(&self, path: &'p RequestPath) -> &'p str {
        path.forwarded(self.paths == PathForwarding::AsIs)
    }
}

impl BackendAddress {
    /// Whether traffic to the backend stays on this host or is encrypted.
    pub fn is_private(&self) -> bool {
        match self {
            BackendAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
            BackendAddress::Tls(_) | BackendAddress::Unix(_) => true,
        }
    }

    /// The `Host` for a request whose client sent none: the address, or the name that the backend's
    /// certificate has to prove.
    pub fn authority(&self, tls: Option<&BackendTls>) -> String {
        match self {
            BackendAddress::Tcp(address) => address.to_string(),
            BackendAddress::Tls(address) => match tls.and_then(BackendTls::name) {
                Some(ServerName::DnsName(name)) => format!("{}:{}", name.as_ref(), address.port()),
                _ => address.to_string(),
            },
            BackendAddress::Unix(_) => "localhost".into(),
        }
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendAddress::Tcp(address) => write!(f, "http://{address}"),
            BackendAddress::Tls(address) => write!(f, "https://{address}"),
            BackendAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The timeouts that a route may set for itself (`docs/spec/formats.md`, "`[timeouts]`").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// Time without a byte of a body, on either side. `None` means unlimited. It does not apply to
    /// a stream of events, which may be silent for hours.
    pub body_stall: Option<Duration>,
    /// Minimum rate, in bytes a second, at which a client sends a request's body and takes an
    /// answer. It is averaged over half a minute of waiting for the client, in which one pause
    /// counts as 15 s at most. `None` means unlimited.
    pub body_pace: Option<u64>,
    /// Time to connect to the backend's socket.
    pub dial: Duration,
    /// Time from the complete request to the backend's head. `None` means unlimited.
    pub response: Option<Duration>,
    /// Time for which a peer may accept no byte while there is data for it.
    pub write_stall: Duration,
    /// Time for an ending after Sidegate's Close or one side's end of stream.
    pub grace: Duration,
}

impl Default for RouteTimeouts {
    fn default() -> Self {
        RouteTimeouts {
            body_stall: Some(Duration::from_secs(60)),
            body_pace: Some(500),
            dial: Duration::from_secs(2),
            response: Some(Duration::from_secs(120)),
            write_stall: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}
