//! A route as it runs: where a host and a path lead, under which policy, with which patience.
//!
//! A live tunnel holds its route's `Arc` and nothing else of a generation, so
//! this room never points back at the snapshot.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::policy::Policy;
use crate::policy::request::RequestPath;
use crate::snapshot::tls::BackendTls;

/// Where requests for one host pattern and path pattern lead.
#[derive(Debug)]
pub struct Route {
    /// Which of all routes that this process has had it is: a name keeps its number over reloads.
    pub number: usize,
    /// The name in `sidegate.toml`; the `route` label of every metric.
    pub name: Arc<str>,
    /// The path pattern as written; what `strip_prefix` strips.
    pub path: Box<str>,
    /// The backends, in the order written; never empty.
    pub backends: Box<[BackendAddress]>,
    /// How those over TLS are met; `None`: none is.
    pub backend_tls: Option<Arc<BackendTls>>,
    /// Who may.
    pub policy: Arc<Policy>,
    /// What happens to plain HTTP.
    pub http: PlainHttp,
    /// Whether `path` is taken off before forwarding.
    pub strip_prefix: bool,
    /// In which form the path of a request is forwarded.
    pub paths: Paths,
    /// The largest body of plain HTTP, in bytes; `None` means unlimited.
    pub max_body: Option<u64>,
    /// The most fields that the head of a backend's answer may have.
    pub max_fields: usize,
    /// How patient we are on this route.
    pub timeouts: RouteTimeouts,
}

/// What a route does with plain HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// 426: only WebSockets.
    Refuse,
    /// Forwarded through the same judge.
    Forward,
}

/// In which form a route forwards the path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// In its canonical form, in which it is judged.
    Canonical,
    /// As it was sent. Every reading of it stays below the route's path.
    AsIs,
}

/// One local server behind a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// `http://HOST:PORT`, an address literal or `localhost`.
    Tcp(SocketAddr),
    /// `https://HOST:PORT`, likewise.
    Tls(SocketAddr),
    /// `unix:/run/app.sock`.
    Unix(PathBuf),
}

impl Route {
    /// The path that its backends get of a request for `path`, before any prefix is stripped.
    pub fn forwarded<'p>(&self, path: &'p RequestPath) -> &'p str {
        path.forwarded(self.paths == Paths::AsIs)
    }
}

impl BackendAddress {
    /// Whether what we send stays on this host, or is encrypted.
    pub fn is_private(&self) -> bool {
        match self {
            BackendAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
            BackendAddress::Tls(_) | BackendAddress::Unix(_) => true,
        }
    }

    /// The `Host` of a request whose client named none: the address, or the name that the backend
    /// proves by its certificate.
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
    /// No byte of a body for so long, either side; `None` means unlimited. It never holds for a
    /// stream of events, which may be silent for hours.
    pub body_stall: Option<Duration>,
    /// The least bytes a second at which a client sends a request's body and takes an answer, averaged
    /// over half a minute of waiting for it, in which one pause counts as 15 s at most; `None`
    /// means unlimited.
    pub body_pace: Option<u64>,
    /// Until the backend's socket is connected.
    pub dial: Duration,
    /// From the request being sent whole to the backend's head; `None` means unlimited.
    pub response: Option<Duration>,
    /// A peer that takes nothing for so long while we have something for it.
    pub write_stall: Duration,
    /// How long an ending may take after our Close or one side's end.
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
