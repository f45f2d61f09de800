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

use crate::control::config::crowdsec_settings::CrowdsecSettings;
use crate::control::config::diagnostic::Span;
use crate::control::config::document::unit::ShareOrCount;
use crate::lifecycle::DrainOptions;
use crate::observe::recent::RingBounds;
use crate::policy::network::Networks;
use crate::policy::route::{HostPattern, PathPattern};
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::{Listener, ListenerTimeouts};
use crate::snapshot::route::{
    BackendAddress, PathForwarding, PlainHttp, RefusalForm, RouteTimeouts, SentCertificate,
};
use crate::trace_context::TraceRules;

/// Values of `sidegate.toml`, with defaults filled in.
#[derive(Debug)]
pub struct Settings {
    /// The metrics listener, from `[metrics]`.
    pub metrics: MetricsSettings,
    /// The admin socket, from `[admin]`.
    pub admin: AdminSettings,
    /// Watching, polling and revocations, from `[reload]`.
    pub reload: ReloadSettings,
    /// The drain, from `[shutdown]`.
    pub shutdown: ShutdownSettings,
    /// `[policies] lists_from`, as written: further folders in which lists may lie.
    pub lists_from: Vec<Box<str>>,
    /// Settings that need a restart, from `[process]`.
    pub process: ProcessSettings,
    /// Traces and their spans, from `[tracing]`.
    pub traces: TraceSettings,
    /// CrowdSec's Local API, from `[crowdsec]`. `None` means that there is none.
    pub crowdsec: Option<Arc<CrowdsecSettings>>,
    /// The listeners, in the order written.
    pub listeners: Vec<Arc<Listener>>,
    /// The certificates, in the order written. The first is the default.
    pub certificates: Vec<Arc<Certificate>>,
    /// Whether a chain was left out, so that other names may have a certificate too.
    pub lacks_chain: bool,
    /// The routes, in the order written.
    pub routes: Vec<RouteSettings>,
    /// `[defaults]`, already applied to `routes`.
    pub defaults: RouteDefaults,
    /// `[timeouts]` for the time before a route is found.
    pub listener_timeouts: ListenerTimeouts,
    /// `[timeouts]` for the time after that, which a route may override.
    pub route_timeouts: RouteTimeouts,
    /// Places in the file, for later errors.
    pub written: SettingSpans,
}

/// Places of settings that can only fail when bound, or that a running process cannot change.
#[derive(Debug)]
pub struct SettingSpans {
    /// The file as a whole, for settings that it does not contain.
    pub(super) file: Span,
    pub(super) listeners: BTreeMap<Arc<str>, Span>,
    pub(super) metrics: Option<Span>,
    pub(super) admin: Option<Span>,
    pub(super) page: Option<Span>,
    pub(super) threads: Option<Span>,
    pub(super) state: Option<Span>,
    pub(super) max_revoked: Option<Span>,
    pub(super) max_widened: Option<Span>,
}

impl SettingSpans {
    /// Place of `listen` of the listener `name`, or the file.
    pub fn listener(&self, name: &str) -> Span {
        self.or_file(self.listeners.get(name))
    }

    /// Place of `listen` in `[metrics]`, or the file.
    pub fn metrics(&self) -> Span {
        self.or_file(self.metrics.as_ref())
    }

    /// Place of `socket`, `group` or `mode` in `[admin]`, or the file.
    pub fn admin(&self) -> Span {
        self.or_file(self.admin.as_ref())
    }

    /// Place of `page_listen`, `page_group` or `page_mode` in `[admin]`, or the file.
    pub fn page(&self) -> Span {
        self.or_file(self.page.as_ref())
    }

    /// Place of `max_revoked` in `[reload]`, or the file.
    pub fn max_revoked(&self) -> Span {
        self.or_file(self.max_revoked.as_ref())
    }

    /// Place of `max_widened` in `[reload]`, or the file.
    pub fn max_widened(&self) -> Span {
        self.or_file(self.max_widened.as_ref())
    }

    /// Place of `threads` in `[process]`, or the file.
    pub fn threads(&self) -> Span {
        self.or_file(self.threads.as_ref())
    }

    /// Place of `state` in `[process]`, or the file.
    pub fn state(&self) -> Span {
        self.or_file(self.state.as_ref())
    }

    fn or_file(&self, place: Option<&Span>) -> Span {
        place.unwrap_or(&self.file).clone()
    }
}

/// The traces of requests.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// How traces are passed on and made.
    pub rules: TraceRules,
    /// URL of the collector of spans, without a slash at its end. `None` means off.
    pub collector: Option<Box<str>>,
    /// File of the authorities of the collector, as written. `None` means those of the system.
    pub collector_ca: Option<Box<str>>,
    /// The authorities in that file.
    pub collector_roots: Option<Arc<RootCertStore>>,
}

/// Settings of the process, which are taken once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Number of data-plane threads. `None` means one for each CPU that the process may use.
    pub threads: Option<NonZeroUsize>,
    /// Folder for what outlasts a restart.
    pub state: StateSetting,
}

/// Where the process keeps what outlasts a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateSetting {
    /// The first usable folder among the names of systemd, the host and the session.
    Auto,
    /// This folder; a relative path begins at the folder of `sidegate.toml`.
    Path(PathBuf),
    /// Nowhere.
    Off,
}

/// Address of `/metrics`, `/livez` and `/readyz`, and the clients that may use it.
#[derive(Debug, Clone)]
pub struct MetricsSettings {
    /// Address to listen at. `None` means off.
    pub listen: Option<MetricsAddress>,
    /// Networks whose clients may scrape.
    pub allow: Networks<()>,
    /// Host names that are accepted at a loopback address, in lower case and without a final dot.
    pub hosts: Vec<Box<str>>,
}

/// Address of the metrics listener. Displays as written in `sidegate.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// The sockets that systemd passes under this name.
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

/// Place and permissions of the admin socket, and what it remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSettings {
    /// Place of the socket, or off.
    pub socket: AdminSocket,
    /// Permission bits of the socket file, at most 0o777.
    pub mode: u32,
    /// Group of the socket file. `None` means the process's own.
    pub group: Option<String>,
    /// The bounds of the recent decisions.
    pub recent: RingBounds,
    /// How the page `/status` is served.
    pub page: PageSettings,
}

impl AdminSettings {
    /// The bounds of the recent decisions: off where neither socket nor page shows them.
    pub fn recent(&self) -> RingBounds {
        match (&self.socket, &self.page.listen) {
            (AdminSocket::Off, None) => RingBounds::default(),
            _ => self.recent,
        }
    }

    /// Whether the socket of `other` has the same place and permissions.
    pub fn has_socket_of(&self, other: &AdminSettings) -> bool {
        let socket = |all: &AdminSettings| (all.socket.clone(), all.mode, all.group.clone());
        socket(self) == socket(other)
    }
}

/// The page `/status`: its listener, and how much it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSettings {
    /// Address to listen at. `None` means off.
    pub listen: Option<PageAddress>,
    /// Permission bits of the file of a Unix socket, at most 0o777.
    pub mode: u32,
    /// Group of the file of a Unix socket. `None` means the process's own.
    pub group: Option<String>,
    /// The form of client addresses.
    pub addresses: PageAddresses,
}

impl PageSettings {
    /// Whether the socket of `other` has the same place and permissions.
    pub fn has_socket_of(&self, other: &PageSettings) -> bool {
        let socket = |page: &PageSettings| (page.listen.clone(), page.mode, page.group.clone());
        socket(self) == socket(other)
    }
}

/// Address of the listener of the page. Displays as written in `sidegate.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageAddress {
    /// A loopback address and port.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl fmt::Display for PageAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageAddress::Tcp(address) => address.fmt(f),
            PageAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The form in which the page shows client addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageAddresses {
    /// Their network: a /24, or a /48 of IPv6.
    Short,
    /// The address of each client as it is.
    Full,
}

/// Place of the admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminSocket {
    /// The default path, at which commands look for it.
    Auto,
    /// A Unix socket at this path.
    Path(PathBuf),
    /// The sockets that systemd passes under this name.
    Systemd(Arc<str>),
    /// There is no admin socket.
    Off,
}

/// How file changes are noticed and applied to live tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadSettings {
    /// Whether files are watched, polled, or read on request only.
    pub watch: WatchMode,
    /// Time between two periodic looks at the files, whatever the watch reports.
    pub poll: Duration,
    /// Time over which newly refused tunnels are closed.
    pub revoke_spread: Duration,
    /// A reload that would close more of the live tunnels than this is rejected until accepted.
    pub max_revoked: ShareOrCount,
    /// A reload that would newly admit more networks than this is rejected until accepted.
    pub max_widened: ShareOrCount,
}

/// Longest time between two looks at files that cannot be watched.
const MAX_UNWATCHED_INTERVAL: Duration = Duration::from_secs(2);

impl ReloadSettings {
    /// The time between two looks at files that cannot be watched.
    pub fn unwatched_interval(&self) -> Duration {
        unwatched_interval(self.poll)
    }
}

/// The time between two looks at files that cannot be watched, for this `poll`.
pub fn unwatched_interval(poll: Duration) -> Duration {
    poll.min(MAX_UNWATCHED_INTERVAL)
}

/// The way in which file changes are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchMode {
    /// inotify, with polling as the fallback.
    Auto,
    /// Polling every 2 s, or every `poll` if that is shorter.
    Poll,
    /// Off: files are read on request only.
    Off,
    /// Noticed like `Auto`, then checked, and published on request only.
    Hold,
}

impl WatchMode {
    /// Whether the kernel reports changes, with polling as the fallback.
    pub const fn uses_inotify(self) -> bool {
        match self {
            WatchMode::Auto | WatchMode::Hold => true,
            WatchMode::Poll | WatchMode::Off => false,
        }
    }
}

/// The course of a shutdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// Time for which `/readyz` answers 503 before accepting stops.
    pub delay: Duration,
    /// Time over which tunnels are closed.
    pub spread: Duration,
    /// Time after which the remaining tunnels are cut.
    pub deadline: Duration,
    /// Time for which the former process of an upgrade keeps its tunnels.
    pub deadline_upgrade: Duration,
    /// WebSocket close code: 1001 or 1012.
    pub code: u16,
}

impl ShutdownSettings {
    /// The settings that a drain order carries.
    pub fn drain_options(&self) -> DrainOptions {
        DrainOptions { delay: self.delay, deadline: self.deadline, code: self.code }
    }
}

/// Values of one `[[route]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSettings {
    /// Name of the route, unique in the file.
    pub name: Arc<str>,
    /// Hosts that the route is for.
    pub host: HostPattern,
    /// Paths that the route is for.
    pub path: PathPattern,
    /// The route's backends; never empty, no two equal.
    pub backends: Box<[BackendAddress]>,
    /// TLS towards `https://` backends. `None` means that no backend uses TLS.
    pub backend_tls: Option<BackendTlsSettings>,
    /// Name of the policy, which is among
    /// [`LoadedConfig::policies`](crate::control::config::LoadedConfig).
    pub policy: Arc<str>,
    /// Whether plain HTTP is forwarded or refused.
    pub http: PlainHttp,
    /// The form in which clients learn of refusals.
    pub refuse: RefusalForm,
    /// Whether each connection to a backend begins with a PROXY header of version 2.
    pub proxy_protocol: bool,
    /// The certificates of the client that backends get.
    pub client_certificate: SentCertificate,
    /// Whether `path` is removed from the request before forwarding.
    pub strip_prefix: bool,
    /// The form in which the path of a request is forwarded.
    pub paths: PathForwarding,
    /// Largest body of plain HTTP, in bytes. `None` means unlimited.
    pub max_body: Option<u64>,
    /// Most fields in a backend's response.
    pub max_fields: usize,
    /// Timeouts, each the route's own or from `[timeouts]`.
    pub timeouts: RouteTimeouts,
    /// Interval at which names of its backends are resolved again.
    pub resolve: Duration,
    /// The line of its `name` in `sidegate.toml`, from 1.
    pub line: u32,
    /// The line of its `path`, from 1.
    pub path_line: u32,
}

/// Values of routes that do not set their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDefaults {
    /// The name of the policy. `None` means that each route names its own.
    pub policy: Option<Arc<str>>,
    /// Whether plain HTTP is forwarded or refused.
    pub http: PlainHttp,
    /// The form in which clients learn of refusals.
    pub refuse: RefusalForm,
    /// Largest body of plain HTTP, in bytes. `None` means unlimited.
    pub max_body: Option<u64>,
    /// Timeouts of `[defaults]`, which override those of `[timeouts]`.
    pub timeouts: RouteTimeouts,
    /// Interval at which names of backends are resolved again.
    pub resolve: Duration,
}

/// Values of `backend_tls` of a route.
#[derive(Debug, Clone)]
pub struct BackendTlsSettings {
    /// `ca` as written. `None` means the system's own authorities.
    pub ca: Option<Arc<str>>,
    /// Authorities that backend certificates must chain to.
    pub roots: Arc<RootCertStore>,
    /// Name that a backend's certificate must have. `None` means the backend's address.
    pub name: Option<ServerName<'static>>,
    /// Client certificate for backends that ask for one. `None` means that none is sent.
    pub identity: Option<Arc<Certificate>>,
}

/// Compares what the files contain, not the pointers to the parsed values.
impl PartialEq for BackendTlsSettings {
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

impl Eq for BackendTlsSettings {}
