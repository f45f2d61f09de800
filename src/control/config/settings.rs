//! The values of `sidegate.toml`, defaults filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use crate::control::config::diagnostic::Place;
use crate::control::config::document::unit::Bound;
use crate::lifecycle::DrainTerms;
use crate::policy::network::Networks;
use crate::policy::route::{HostPattern, PathPattern};
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::{Listener, ListenerTimeouts};
use crate::snapshot::route::{BackendAddress, Paths, PlainHttp, RouteTimeouts};

/// `sidegate.toml`, defaults filled in.
#[derive(Debug)]
pub struct Settings {
    /// `[metrics]`
    pub metrics: MetricsSettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[reload]`
    pub reload: ReloadSettings,
    /// `[shutdown]`
    pub shutdown: ShutdownSettings,
    /// `[policies] lists_from`, as written: folders beside that of the policies in which lists may lie.
    pub lists_from: Vec<Box<str>>,
    /// `[process] threads`; `None`: as many as the CPUs that the process may use.
    pub threads: Option<NonZeroUsize>,
    /// In the order written.
    pub listeners: Vec<Arc<Listener>>,
    /// In the order written: the first is the default.
    pub certificates: Vec<Arc<Certificate>>,
    /// In the order written.
    pub routes: Vec<RoutePage>,
    /// `[defaults]`, which `routes` have taken up already.
    pub defaults: RouteDefaults,
    /// `[timeouts]` up to routing.
    pub listener_timeouts: ListenerTimeouts,
    /// `[timeouts]` from there on, which a route may set for itself.
    pub route_timeouts: RouteTimeouts,
    /// Where it says some of it.
    pub written: Written,
}

/// Where the file says what only binding finds out about, or what cannot be changed while running.
#[derive(Debug)]
pub struct Written {
    /// The file, for what it doesn't say.
    pub(super) file: Place,
    pub(super) listeners: BTreeMap<Arc<str>, Place>,
    pub(super) metrics: Option<Place>,
    pub(super) admin: Option<Place>,
    pub(super) threads: Option<Place>,
    pub(super) max_revoked: Option<Place>,
}

impl Written {
    /// `listen` of the listener `name`.
    pub fn listener(&self, name: &str) -> Place {
        self.or_file(self.listeners.get(name))
    }

    /// `listen` of `[metrics]`.
    pub fn metrics(&self) -> Place {
        self.or_file(self.metrics.as_ref())
    }

    /// `socket` of `[admin]`.
    pub fn admin(&self) -> Place {
        self.or_file(self.admin.as_ref())
    }

    /// `max_revoked` of `[reload]`.
    pub fn max_revoked(&self) -> Place {
        self.or_file(self.max_revoked.as_ref())
    }

    /// `threads` of `[process]`.
    pub fn threads(&self) -> Place {
        self.or_file(self.threads.as_ref())
    }

    fn or_file(&self, place: Option<&Place>) -> Place {
        place.unwrap_or(&self.file).clone()
    }
}

/// Where `/metrics`, `/livez` and `/readyz` are served, and to whom.
#[derive(Debug, Clone)]
pub struct MetricsSettings {
    /// `None`: off.
    pub listen: Option<MetricsAddress>,
    /// Who may ask.
    pub allow: Networks<()>,
    /// Names that it may be asked by at a loopback address, in lower case and without a last dot.
    pub hosts: Vec<Box<str>>,
}

/// Where `/metrics` is asked. Displays as `sidegate.toml` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// At this address.
    Tcp(SocketAddr),
    /// At a Unix socket with this path.
    Unix(PathBuf),
    /// At the sockets that systemd passes under this name.
    Systemd(Arc<str>),
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetricsAddress::Tcp(address) => address.fmt(f),
            MetricsAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            MetricsAddress::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// The admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSettings {
    /// Where it is.
    pub socket: AdminSocket,
    /// Its permission bits.
    pub mode: u32,
    /// The group it is given to; `None`: the process' own.
    pub group: Option<String>,
}

/// Where the admin socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminSocket {
    /// Where commands look for it by themselves.
    Auto,
    /// At this path.
    Path(PathBuf),
    /// At the sockets that systemd passes under this name.
    Systemd(Arc<str>),
    /// Nowhere.
    Off,
}

/// How changes are noticed and brought to live tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadSettings {
    /// How changes are noticed.
    pub watch: Watch,
    /// The time between two slow second looks.
    pub poll: Duration,
    /// Newly refused tunnels are closed over this long.
    pub revoke_spread: Duration,
    /// A reload that would close more of the live tunnels is rejected until accepted.
    pub max_revoked: Bound,
}

/// How changes are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// By inotify, and by polling where that fails.
    Auto,
    /// By polling every 2 s.
    Poll,
    /// Not at all: only on request.
    Off,
}

/// How the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// `/readyz` says 503 for so long before accepting stops.
    pub delay: Duration,
    /// Tunnels are closed over this long.
    pub spread: Duration,
    /// Then the rest is cut.
    pub deadline: Duration,
    /// The close code: 1001 or 1012.
    pub code: u16,
}

impl ShutdownSettings {
    /// The part of them that a drain is ordered with.
    pub fn terms(&self) -> DrainTerms {
        DrainTerms { delay: self.delay, deadline: self.deadline, code: self.code }
    }
}

/// One `[[route]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePage {
    /// Its name.
    pub name: Arc<str>,
    /// For which hosts.
    pub host: HostPattern,
    /// For which paths.
    pub path: PathPattern,
    /// Where it leads; never empty, no two equal.
    pub backends: Box<[BackendAddress]>,
    /// How those over TLS are met; `None`: none is.
    pub backend_tls: Option<BackendTlsPage>,
    /// The name of its policy, which is among [`Loaded::policies`](crate::control::config::Loaded).
    pub policy: Arc<str>,
    /// What happens to plain HTTP.
    pub http: PlainHttp,
    /// Whether `path` is taken off before forwarding.
    pub strip_prefix: bool,
    /// In which form the path of a request is forwarded.
    pub paths: Paths,
    /// The largest body of plain HTTP, in bytes; `None` means unlimited.
    pub max_body: Option<u64>,
    /// The most fields of a backend's answer.
    pub max_fields: usize,
    /// Its own, or those of `[timeouts]`.
    pub timeouts: RouteTimeouts,
    /// The line of its `name` in `sidegate.toml`, from 1.
    pub line: u32,
    /// The line of its path, from 1.
    pub path_line: u32,
}

/// What each route has that doesn't say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDefaults {
    /// The name of the policy. `None` means that each route names its own.
    pub policy: Option<Arc<str>>,
    /// What happens to plain HTTP.
    pub http: PlainHttp,
    /// The largest body of plain HTTP, in bytes. `None` means unlimited.
    pub max_body: Option<u64>,
    /// Over those of `[timeouts]`.
    pub timeouts: RouteTimeouts,
}

/// `backend_tls` of a route.
#[derive(Debug, Clone)]
pub struct BackendTlsPage {
    /// `ca` as written; `None`: the system's own authorities.
    pub ca: Option<Arc<str>>,
    /// Who vouches for backends.
    pub roots: Arc<RootCertStore>,
    /// The name that a backend has to prove; `None`: its address.
    pub name: Option<ServerName<'static>>,
    /// What is shown to a backend that asks who we are.
    pub identity: Option<Arc<Certificate>>,
}

/// By what the files say and hold.
impl PartialEq for BackendTlsPage {
    fn eq(&self, other: &Self) -> bool {
        let shown = |page: &Self| {
            page.identity
                .as_ref()
                .map(|identity| (identity.label.clone(), identity.key.cert.clone()))
        };
        (&self.ca, &self.roots.roots, &self.name) == (&other.ca, &other.roots.roots, &other.name)
            && shown(self) == shown(other)
    }
}

impl Eq for BackendTlsPage {}
