//! The configuration: from files to values, or to everything that is wrong with them.
//!
//! [`load`] is the story. It decides nothing about a request, compiles no
//! snapshot and touches no socket; it reads only what `sidegate.toml` and the
//! policies beside it name.

mod certificate;
pub mod diagnostic;
mod document;
pub mod effective;
mod encoding;
mod fault;
pub(in crate::control) mod feed;
mod file;
mod list;
mod name;
pub(in crate::control) mod page;
mod policy;
pub(in crate::control) mod quote;
pub mod readers;
pub mod schema;
pub mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use self::diagnostic::{Diagnostic, Place};
pub use self::document::unit::Bound;
use self::document::{Document, typography};
use self::list::ListFile;
pub use self::list::ListFiles;
use self::page::{Finding, error};
use self::policy::Sheet;
pub use self::policy::{Expect, lists_named, no_policy, policy_files};
use self::quote::Quoting;
use self::source::{Fault, Files, MOST_LIST, MOST_TOML};
use crate::control::systemd::Sockets;
use crate::lifecycle::DrainTerms;
use crate::policy::Allow;
use crate::policy::limit::Limits;
use crate::policy::list::List;
use crate::policy::network::{Client, Networks};
use crate::policy::origin::Origins;
use crate::policy::request::Request;
use crate::policy::route::{HostPattern, PathPattern};
use crate::policy::rule::RuleLines;
use crate::policy::subprotocol::Subprotocols;
use crate::refusal::Refusal;
use crate::snapshot::certificate::Certificate;
use crate::snapshot::listener::{Listener, ListenerTimeouts};
use crate::snapshot::route::{BackendAddress, Paths, PlainHttp, RouteTimeouts};

/// Reads and checks everything that `config`, the path of `sidegate.toml`, names. `passed` is what systemd
/// passed; `None` where no agent is to run, and every socket is taken for granted.
///
/// # Errors
/// All errors of all files at once, and after them the warnings.
pub fn load(files: &mut Files, config: &Path, passed: Option<&Sockets>) -> Result<Loaded, Vec<Diagnostic>> {
    load_as(files, config, Pass { passed, ..Pass::default() })
}

/// [`load`], as `pass` says.
///
/// # Errors
/// As there; there is no candidate to promote.
pub fn load_as(files: &mut Files, config: &Path, pass: Pass<'_>) -> Result<Loaded, Vec<Diagnostic>> {
    load_at(files, config, pass, Timestamp::now())
}

/// [`load_as`], where `now` says which entries and certificates are past their time: a matter of warnings alone.
fn load_at(files: &mut Files, config: &Path, pass: Pass<'_>, now: Timestamp) -> Result<Loaded, Vec<Diagnostic>> {
    let Pass { passed, promoted, known } = pass;
    files.begin_with(config);
    let file = Arc::from(config.display().to_string());
    let bytes = files.read(config, MOST_TOML).map_err(|fault| {
        let remedy = "name the file with --config, or let `sidegate init` write one";
        vec![about(&file, &fault).perhaps((fault == Fault::Missing).then(|| remedy.into())).at(Place::file(Arc::clone(&file)))]
    })?;
    let folder = config.parent().unwrap_or(Path::new(""));
    let nothing = ListFiles::default();
    let known = known.unwrap_or(&nothing);
    let (lists, torn) = Default::default();
    let mut reading = Reading { files, folder, now, passed, known, lists, torn };
    let (names, misnamed) = policy::names(&mut reading);
    if let Some(name) = promoted
        && !names.candidates.contains(name)
    {
        let shown = format!("policies/{name}.shadow.toml");
        let remedy = "a candidate is written there, judged beside the policy for a while, and then promoted";
        let missing = error(format!("{shown} does not exist: there is nothing to promote")).remedy(remedy);
        return Err(vec![missing.at(Place::file(folder.join(&shown).display().to_string().into()))]);
    }
    let names = names.promoting(promoted);

    let document = Document::parse(file, &bytes, reading.files.quoting(config));
    let settings = file::read(&mut reading, &document, &names.policies);
    let lists_from = settings.lists_from.iter().map(|named| folder.join(&**named));
    reading.torn = document.is_torn();
    reading.files.confine(std::iter::once(folder.join(policy::FOLDER)).chain(lists_from).collect());
    let mut found = document.into_diagnostics();
    found.extend(misnamed);
    let mut read = |sheet| {
        let (page, diagnostics) = policy::read(&mut reading, sheet);
        found.extend(diagnostics);
        page
    };
    let baseline = if names.baseline { read(Sheet::Baseline) } else { None };
    let policies = names.policies.iter().filter_map(|name| read(Sheet::Policy { name, file: names.file_of(name) })).collect();
    let candidates = names.candidates.iter().filter_map(|name| read(Sheet::Candidate(name))).collect();

    found.sort_by_key(|diagnostic| diagnostic.level);
    if found.iter().any(Diagnostic::is_error) {
        return Err(found);
    }
    Ok(Loaded { settings, baseline, policies, candidates, lists: reading.lists, warnings: found })
}

/// The admin socket that `config` names, as far as it can be read: a file that is broken elsewhere is
/// no reason not to find the agent that runs. `None`: it names no path.
pub fn named_socket(config: &Path) -> Option<PathBuf> {
    let bytes = Files::new().read(config, MOST_TOML).ok()?;
    let document = Document::parse(Arc::default(), &bytes, Quoting::Nothing);
    let socket = document.root().table("admin").get("socket")?.as_str()?;
    match socket {
        "auto" | "off" => None,
        // A link to it is where `auto` would be.
        passed if passed.starts_with("systemd:") => None,
        path => Some(config.parent().unwrap_or(Path::new("")).join(path)),
    }
}

/// The list in the file `path`, which no policy names here, and all that is found in it.
pub fn list_alone(files: &mut Files, path: &Path, now: Timestamp) -> (Option<List>, Vec<Diagnostic>) {
    let shown: Arc<str> = path.display().to_string().into();
    files.confine(vec![neighbourhood(path)]);
    match files.read(path, MOST_LIST) {
        Ok(bytes) => {
            let (digest, quoting) = (files.digest_of(path).unwrap_or_default(), files.quoting(path));
            let read = ListFile { path, bytes: &bytes, digest, quoting };
            let (entries, found) = list::from_file(read, None, now);
            (entries.map(|entries| List::of_file("list".into(), shown, None, entries)), found)
        }
        Err(fault) => (None, vec![about(&shown, &fault).at(Place::file(Arc::clone(&shown)))]),
    }
}

/// The folder of the policies that `list` is for, or its own: a link that leads out of it names another's file.
fn neighbourhood(list: &Path) -> PathBuf {
    let is_policies = |folder: &&Path| folder.file_name().is_some_and(|name| name == policy::FOLDER);
    let own = list.parent().unwrap_or(Path::new(""));
    Path::new(".").join(own.ancestors().find(is_policies).unwrap_or(own))
}

/// `text`, if it can stand as a route's `backend`; else why not, and what to write instead.
///
/// # Errors
/// One sentence for people.
pub fn backend(text: &str) -> Result<String, String> {
    let (mut files, known) = (Files::new(), ListFiles::default());
    let (folder, now, lists) = (Path::new(""), Timestamp::now(), ListFiles::default());
    let reading = Reading { files: &mut files, folder, now, passed: None, known: &known, lists, torn: false };
    let told = |finding: Finding| match text.contains(typography::is_quote) {
        true => typography::finding(text),
        false => finding,
    };
    file::backend(text, &reading).map(|_| text.to_owned()).map_err(|finding| told(finding).sentence())
}

/// `text`, if it can stand as a route's `host`; else why not, and what to write instead.
///
/// # Errors
/// One sentence for people.
pub fn host(text: &str) -> Result<HostPattern, String> {
    HostPattern::parse(text)
}

/// `text`, as a share or a number of things.
///
/// # Errors
/// One sentence for people.
pub fn bound(text: &str) -> Result<Bound, String> {
    document::unit::share_or_number(text).map_err(|finding| finding.sentence())
}

/// What `path` cannot be read for.
fn about(path: &str, fault: &Fault) -> Finding {
    error(format!("{path} {fault}")).perhaps(fault.remedy())
}

/// What a pass over the files knows beforehand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass<'p> {
    /// What systemd passed; `None` where no agent is to run, and every socket is taken for granted.
    pub passed: Option<&'p Sockets>,
    /// The policy whose candidate is read in its place, as if it had been promoted.
    pub promoted: Option<&'p str>,
    /// The list files of an earlier pass: those that say the same are not read into entries again.
    pub known: Option<&'p ListFiles>,
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
    /// What list files said before.
    known: &'f ListFiles,
    /// What those say that have been read.
    lists: ListFiles,
    /// Whether `sidegate.toml` has a syntax error, so that what it lacks may be there.
    torn: bool,
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
    /// `policies/baseline.toml`, whose denials come before every policy.
    pub baseline: Option<PolicyPage>,
    /// Every policy, used or not, by name.
    pub policies: Vec<PolicyPage>,
    /// `policies/NAME.shadow.toml`, under the names of the policies that they may replace.
    pub candidates: Vec<PolicyPage>,
    /// What their list files say, for the next pass.
    pub lists: ListFiles,
    /// What somebody should look at.
    pub warnings: Vec<Diagnostic>,
}

impl Loaded {
    /// The lists that policies read from files, each with its policy.
    pub fn feeds(&self) -> impl Iterator<Item = (&Arc<str>, &Feed)> {
        let pages = self.policies.iter().chain(&self.baseline);
        pages.flat_map(|page| page.feeds.iter().map(|feed| (&page.name, feed)))
    }
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
    file: Place,
    listeners: BTreeMap<Arc<str>, Place>,
    metrics: Option<Place>,
    admin: Option<Place>,
    threads: Option<Place>,
    max_revoked: Option<Place>,
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
    /// The name of its policy, which is among [`Loaded::policies`].
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
        let shown = |page: &Self| page.identity.as_ref().map(|identity| (identity.label.clone(), identity.key.cert.clone()));
        (&self.ca, &self.roots.roots, &self.name) == (&other.ca, &other.roots.roots, &other.name) && shown(self) == shown(other)
    }
}

impl Eq for BackendTlsPage {}

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
    /// Which subprotocols its tunnels may speak. `None` means not looked at.
    pub subprotocols: Option<Subprotocols>,
    /// How much of it.
    pub limits: Limits,
    /// Where its rules stand in the file.
    pub lines: RuleLines,
    /// The lists that it reads from files.
    pub feeds: Vec<Feed>,
    /// What it expects of itself, in the order written.
    pub tests: Vec<PolicyTest>,
}

/// A list that a policy reads from a file, and how that file is minded.
#[derive(Debug)]
pub struct Feed {
    /// The list's name.
    pub name: Arc<str>,
    /// Its file, as people write it.
    pub file: Arc<str>,
    /// How many entries it has.
    pub entries: usize,
    /// When it was last written.
    pub modified: Option<Timestamp>,
    /// How old it may become.
    pub max_age: Option<Duration>,
    /// Whether a reload with an older one is rejected.
    pub rejects_stale: bool,
    /// By how much of its entries, in percent, a reload may shrink it; `None`: it doesn't say.
    pub max_shrink: Option<u8>,
    /// Where the policy names it.
    pub place: Place,
}

/// One `[[test]]` of a policy.
#[derive(Debug)]
pub struct PolicyTest {
    /// What it shows.
    pub name: Arc<str>,
    /// Who asks.
    pub client: Client,
    /// What is asked; a path that the gate refuses is judged by nobody.
    pub request: Result<Request, Refusal>,
    /// When; `None`: at a time when no entry has lapsed.
    pub at: Option<Timestamp>,
    /// What should come of it.
    pub expect: Expect,
    /// Where its URL stands.
    pub at_url: Place,
    /// Where it says what should come of it.
    pub at_expect: Place,
}
