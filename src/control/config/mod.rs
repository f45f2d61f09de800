//! The configuration: from files to values, or to everything that is wrong with them.
//!
//! [`load`] is the story. It decides nothing about a request, compiles no
//! snapshot and touches no socket; it reads only what `sidegate.toml` and the
//! policies beside it name.

mod certificate;
pub mod diagnostic;
mod document;
pub mod effective;
mod file;
mod list;
mod name;
mod page;
mod policy;
pub mod source;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::diagnostic::{Diagnostic, Place};
use self::document::Document;
use self::page::{Finding, error};
use self::source::{Fault, Files, MOST_TOML};
use crate::control::systemd::Sockets;
use crate::policy::Allow;
use crate::policy::decisive::RuleLines;
use crate::policy::limit::Limits;
use crate::policy::list::List;
use crate::policy::network::Networks;
use crate::policy::origin::Origins;
use crate::policy::route::{HostPattern, PathPattern};
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::{Listener, ListenerTimeouts};
use crate::snapshot::route::{BackendAddress, PlainHttp, RouteTimeouts};

/// Reads and checks everything that `config`, the path of `sidegate.toml`, names. `passed` is what systemd
/// passed; `None` where no agent is to run, and every socket is taken for granted.
///
/// # Errors
/// All errors of all files at once, and after them the warnings.
pub fn load(files: &mut Files, config: &Path, passed: Option<&Sockets>) -> Result<Loaded, Vec<Diagnostic>> {
    load_at(files, config, passed, Timestamp::now())
}

/// [`load`], where `now` says which entries and certificates are past their time: a matter of warnings alone.
fn load_at(files: &mut Files, config: &Path, passed: Option<&Sockets>, now: Timestamp) -> Result<Loaded, Vec<Diagnostic>> {
    let file = Arc::from(config.display().to_string());
    let bytes = files.read(config, MOST_TOML).map_err(|fault| {
        let remedy = "name the file with --config, or let `sidegate init` write one";
        vec![about(&file, &fault).perhaps((fault == Fault::Missing).then(|| remedy.into())).at(Place::file(Arc::clone(&file)))]
    })?;
    let folder = config.parent().unwrap_or(Path::new(""));
    let mut reading = Reading { files, folder, now, passed, lists: HashSet::new() };
    let (names, misnamed) = policy::names(&mut reading);

    let document = Document::parse(file, &bytes);
    let settings = file::read(&mut reading, &document, &names);
    let mut found = document.into_diagnostics();
    found.extend(misnamed);
    let mut policies = Vec::new();
    for name in names {
        let (page, diagnostics) = policy::read(&mut reading, name);
        policies.extend(page);
        found.extend(diagnostics);
    }

    found.sort_by_key(|diagnostic| diagnostic.level);
    if found.iter().any(Diagnostic::is_error) {
        return Err(found);
    }
    Ok(Loaded { settings, policies, warnings: found })
}

/// The admin socket that `config` names, as far as it can be read: a file that is broken elsewhere is
/// no reason not to find the agent that runs. `None`: it names no path.
pub fn named_socket(config: &Path) -> Option<PathBuf> {
    let bytes = Files::new().read(config, MOST_TOML).ok()?;
    let document = Document::parse(Arc::default(), &bytes);
    let socket = document.root().table("admin").get("socket")?.as_str()?;
    match socket {
        "auto" | "off" => None,
        // A link to it is where `auto` would be.
        passed if passed.starts_with("systemd:") => None,
        path => Some(config.parent().unwrap_or(Path::new("")).join(path)),
    }
}

/// `text`, if it can stand as a route's `backend`; else why not, and what to write instead.
///
/// # Errors
/// One sentence for people.
pub fn backend(text: &str) -> Result<String, String> {
    let mut files = Files::new();
    let reading =
        Reading { files: &mut files, folder: Path::new(""), now: Timestamp::now(), passed: None, lists: HashSet::new() };
    file::backend(text, &reading).map(|_| text.to_owned()).map_err(|finding| finding.sentence())
}

/// What `path` cannot be read for.
fn about(path: &str, fault: &Fault) -> Finding {
    error(format!("{path} {fault}")).perhaps(fault.remedy())
}

/// One pass over the files.
#[derive(Debug)]
struct Reading<'f> {
    files: &'f mut Files,
    /// Where `sidegate.toml` is, and relative paths begin.
    folder: &'f Path,
    now: Timestamp,
    /// What systemd passed, where that can be known.
    passed: Option<&'f Sockets>,
    /// The list files whose findings have been told.
    lists: HashSet<PathBuf>,
}

impl Reading<'_> {
    /// The path that `text` means in `sidegate.toml`.
    fn path(&self, text: &str) -> Result<PathBuf, Finding> {
        if text.is_empty() {
            return Err(error("an empty path"));
        }
        Ok(self.folder.join(text))
    }
}

/// Values without an error.
#[derive(Debug)]
pub struct Loaded {
    /// What the operator's file says.
    pub settings: Settings,
    /// Every policy, used or not, by name.
    pub policies: Vec<PolicyPage>,
    /// What somebody should look at.
    pub warnings: Vec<Diagnostic>,
}

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
    /// `[process] threads`; `None`: as many as the CPUs that the process may use.
    pub threads: Option<NonZeroUsize>,
    /// In the order written.
    pub listeners: Vec<Arc<Listener>>,
    /// In the order written: the first is the default.
    pub certificates: Vec<Arc<Certificate>>,
    /// In the order written.
    pub routes: Vec<RoutePage>,
    /// `[timeouts]` up to routing.
    pub listener_timeouts: ListenerTimeouts,
    /// `[timeouts]` from there on, which a route may set for itself.
    pub route_timeouts: RouteTimeouts,
}

/// Where `/metrics`, `/livez` and `/readyz` are served, and to whom.
#[derive(Debug, Clone)]
pub struct MetricsSettings {
    /// `None`: off.
    pub listen: Option<MetricsAddress>,
    /// Who may ask.
    pub allow: Networks<()>,
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
    /// The name of its policy, which is among [`Loaded::policies`].
    pub policy: Arc<str>,
    /// What happens to plain HTTP.
    pub http: PlainHttp,
    /// Whether `path` is taken off before forwarding.
    pub strip_prefix: bool,
    /// The largest body of plain HTTP, in bytes.
    pub max_body: u64,
    /// Its own, or those of `[timeouts]`.
    pub timeouts: RouteTimeouts,
}

/// One `policies/NAME.toml`.
#[derive(Debug)]
pub struct PolicyPage {
    /// The file's stem.
    pub name: Arc<str>,
    /// The file, as people write it: `policies/NAME.toml`.
    pub file: Arc<str>,
    /// Who answers for it, as written.
    pub owner: Option<Box<str>>,
    /// Who is admitted.
    pub allow: Allow,
    /// Whom nobody may admit.
    pub deny: Vec<Arc<List>>,
    /// Which pages may open it; `None`: not looked at.
    pub origins: Option<Origins>,
    /// Which subprotocols an attempt may offer; `None`: not looked at.
    pub subprotocols: Option<Vec<Box<str>>>,
    /// How much of it.
    pub limits: Limits,
    /// Where its rules stand in the file.
    pub lines: RuleLines,
}

impl PolicyPage {
    /// The lists that its rules name, each once.
    pub fn lists(&self) -> impl Iterator<Item = &Arc<List>> {
        self.allow.lists(&self.deny)
    }
}
