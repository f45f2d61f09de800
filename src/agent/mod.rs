//! The wiring: [`Agent`] binds the sockets and starts both planes.
//!
//! The agent decides no request and reads no file. `runtimes` runs the planes until a drain is
//! over, `listeners` holds the sockets that accept, and `socket_binder` binds sockets that a reload
//! adds.

mod admin_listeners;
mod listeners;
mod runtimes;
mod socket_binder;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::admin_listeners::{AdminListeners, FirstAdminSockets};
use self::listeners::{ListenerDeps, Listeners, PreparedListeners};
use self::runtimes::{ControlPlane, Planes};
use self::socket_binder::{
    ADMIN_BIND_FAILED, METRICS_BIND_FAILED, PAGE_BIND_FAILED, SocketBinder, bind_error_message,
    listener_bind_failed,
};
use crate::addresses::{BoundAddress, BoundAddresses};
use crate::admin::{
    ActivityHistory, AdminContext, AdminListener, MetricsListener, PageListener, RateHistory,
};
use crate::control::bans::{BanKeeper, BanState};
use crate::control::config::PageAddress;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::crowdsec::{Bouncer, BouncerDeps};
use crate::control::reload::{
    self, AcceptedEffects, ConfigStatus, ReloadContext, ReloadOutcome, Reloader, ReloaderHandle,
    Trigger,
};
use crate::control::resolve::{Lookup, Resolver};
use crate::control::state_dir::StateDir;
use crate::control::systemd::{self, sockets::PassedSockets};
use crate::data::backend::DownBackend;
use crate::data::context::{DataPlane, Observers};
use crate::data::http::head::HeadReader;
use crate::data::listener::ListeningSocket;
use crate::handover::binary;
use crate::handover::giver::{Giver, GiverDeps, ServingPlane};
use crate::handover::offer::Prepared;
use crate::handover::peers::EarlierProcesses;
use crate::handover::request::UpgradeHandle;
use crate::handover::taker::{OpenTakeover, Takeover};
use crate::inherited_sockets::SharedSocket;
use crate::lifecycle::{Lifecycle, Stage};
use crate::observe::heartbeat::Heartbeats;
use crate::observe::log::LogHandle;
use crate::observe::metrics::Metrics;
use crate::observe::recent::RecentDecisions;
use crate::snapshot::{CurrentSnapshot, Snapshot};
use crate::tunnels::Tunnels;

/// A running agent. Dropping it ends it at once.
pub struct Agent {
    context: ReloadContext,
    addresses: Arc<BoundAddresses>,
    listening: AdminListeners,
    requests: ReloaderHandle,
    control: Option<JoinHandle<()>>,
}

/// Why an agent did not start.
#[derive(Debug)]
pub enum StartError {
    /// The files are missing or wrong: exit code 78.
    InvalidFiles(Vec<Diagnostic>),
    /// A port, a socket or a descriptor is not available: exit code 75.
    Unavailable(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::InvalidFiles(diagnostics) => {
                diagnostics.iter().try_for_each(|diagnostic| writeln!(f, "{diagnostic}"))
            }
            StartError::Unavailable(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

impl Agent {
    /// Loads `config`, binds every socket but those `passed` by systemd, and serves once it
    /// returns. `log` is the log of the process, `heads` reads the first head of each connection,
    /// and `lookup` resolves the names of backends.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left behind.
    pub fn start(
        config: &Path,
        passed: PassedSockets,
        log: LogHandle,
        heads: HeadReader,
        lookup: Lookup,
    ) -> Result<Agent, StartError> {
        Agent::begin(config, passed, log, heads, lookup, &mut None)
    }

    /// Like [`Agent::start`], with the sockets and tunnels of a former process.
    ///
    /// # Errors
    /// See [`StartError`]. The former process goes on as before, and knows the reason.
    pub fn take_over(
        config: &Path,
        passed: PassedSockets,
        log: LogHandle,
        heads: HeadReader,
        lookup: Lookup,
        takeover: Takeover,
    ) -> Result<Agent, StartError> {
        let mut takeover = Some(takeover);
        Agent::begin(config, passed, log, heads, lookup, &mut takeover).inspect_err(|error| {
            if let Some(takeover) = takeover {
                takeover.fail(&error.to_string());
            }
        })
    }

    /// Loads `config` as a start does, and tells the former process the outcome. Nothing is bound.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn try_start(
        config: &Path,
        passed: &PassedSockets,
        takeover: Takeover,
    ) -> Result<(), StartError> {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
        match reload::start(&config, passed).map_err(StartError::InvalidFiles) {
            Ok(started) => {
                let (snapshot, ..) = started.into_parts();
                // The former process closes the channel, which ends the trial.
                drop(takeover.prepared(prepared(&snapshot)));
                Ok(())
            }
            Err(error) => {
                takeover.fail(&error.to_string());
                Err(error)
            }
        }
    }

    fn begin(
        config: &Path,
        passed: PassedSockets,
        log: LogHandle,
        heads: HeadReader,
        lookup: Lookup,
        takeover: &mut Option<Takeover>,
    ) -> Result<Agent, StartError> {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
        let passed = Arc::new(passed);
        let started = reload::start(&config, &passed).map_err(StartError::InvalidFiles)?;
        let (mut snapshot, config_status, handover) = started.into_parts();
        if let Some(takeover) = takeover {
            snapshot.generation = takeover.offer.generation + 1;
        }
        let (max, addresses) = (max_connections(), Arc::new(BoundAddresses::default()));
        let resolver = Resolver::new(lookup, Arc::clone(&addresses));
        let context = reload_context(config, passed, snapshot, config_status, resolver);

        let (listeners, sockets) = listeners(&context, &addresses, max);
        let bound = bind(&context, &listeners)?;

        let folder = handover.folder().clone();
        let (reloader, requests) = Reloader::new(context.clone(), handover);
        let (upgrades, orders) = UpgradeHandle::new();
        let admin =
            admin_context(&context, AdminParts { requests, log, upgrades }, &addresses, &folder);
        let takeover = takeover.take().map(|takeover| open(takeover, &context)).transpose()?;
        if let Some(takeover) = &takeover {
            admin.bans.adopt_text(&takeover.kept.bans);
        }
        let listening = AdminListeners::new(&admin, bound.admin);
        let rebind = SocketBinder {
            config: context.config.clone(),
            passed: Arc::clone(&context.passed),
            listeners: Arc::clone(&listeners),
            addresses: Arc::clone(&addresses),
            admin: listening.clone(),
        };
        // The sockets wait in the channels until the data plane's threads start.
        listeners.take_over(bound.accepting);
        // Behind the binding, so that no name leads to a listener. Clients wait in the queues of
        // the sockets meanwhile.
        context.resolver.resolve_new(&context.live.load().names.pending());

        let planes = planes(&context, Arc::clone(&admin.heartbeats), max, heads);
        let (plane, requests) = (Arc::clone(&planes.plane), admin.requests.clone());
        let sockets_held = AgentSockets { listeners, admin: listening.clone(), plane };
        let giver = giver_deps(&context, &admin, sockets_held);
        let control = ControlPlane {
            reloader,
            resolver: context.resolver.clone(),
            bind: rebind.into_bind(),
            admin,
            listening: listening.clone(),
            peers: giver.peers.clone(),
            retired: giver.retired.clone(),
            giver: Giver::new(giver, orders),
            takeover,
        };
        let control = spawn("control", move || planes.run(sockets, control))?;
        let control = Some(control);
        Ok(Agent { context, addresses, listening, requests, control })
    }

    /// The addresses of the listeners that accept now.
    pub fn listeners(&self) -> Arc<Vec<BoundAddress>> {
        self.addresses.load()
    }

    /// The address that serves `/metrics`, `/livez` and `/readyz` now. `None` means off, or a Unix
    /// socket.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.listening.scrapes.address()
    }

    /// The path of the admin socket now. `None` means that there is none.
    pub fn admin(&self) -> Option<PathBuf> {
        self.listening.asks.address()
    }

    /// The address or path of the page `/status` now. `None` means off.
    pub fn page(&self) -> Option<PageAddress> {
        self.listening.pages.address()
    }

    /// Tells the service manager, if there is one, that the agent is ready. Call it once signals
    /// are handled.
    pub fn ready(&self) {
        self.context.lifecycle.serve();
    }

    /// Reloads and awaits the outcome. `None` means that the agent is ending.
    pub async fn reload(&self, trigger: Trigger) -> Option<ReloadOutcome> {
        self.requests.reload(trigger, AcceptedEffects::default()).await
    }

    /// Requests a reload without waiting. The log has its outcome.
    pub fn request_reload(&self) {
        self.requests.try_reload();
    }

    /// Starts a drain: stops accepting, lets tunnels end, then ends. A second call cuts the
    /// remaining connections.
    pub fn drain(&self) {
        let lifecycle = &self.context.lifecycle;
        if !lifecycle.drain(self.context.config_status.settings.load().shutdown.drain_options()) {
            lifecycle.cut();
        }
    }

    /// Waits until both planes have ended.
    pub async fn ended(&mut self) {
        let mut stages = self.context.lifecycle.subscribe();
        // An error would mean that the lifecycle is gone, but `self` holds it.
        let _ = stages.wait_for(|stage| *stage == Stage::Ended).await;
        self.join();
    }

    fn join(&mut self) {
        if let Some(control) = self.control.take() {
            // A panic of the control plane is already in the log.
            let _ = control.join();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // `cut` advances the stage only of a process that is draining.
        self.drain();
        self.context.lifecycle.cut();
        self.join();
    }
}

/// The listening sockets of an agent.
struct AgentSockets {
    listeners: Arc<Listeners>,
    admin: AdminListeners,
    plane: Arc<DataPlane>,
}

impl ServingPlane for AgentSockets {
    fn share(&self) -> io::Result<Vec<SharedSocket>> {
        let mut all = self.listeners.share()?;
        all.extend(self.admin.share()?);
        Ok(all)
    }

    fn release(&self) {
        self.listeners.release();
        self.admin.release();
    }

    fn connections(&self) -> usize {
        self.plane.total.taken()
    }

    fn backends_down(&self) -> Vec<DownBackend> {
        self.plane.backends_down()
    }
}

/// What a new process tells of the files that it has loaded.
fn prepared(snapshot: &Snapshot) -> Prepared {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Prepared { version, digest: snapshot.digest.to_string() }
}

/// The parts of the admin endpoints that a start makes beside the context.
struct AdminParts {
    requests: ReloaderHandle,
    log: LogHandle,
    upgrades: UpgradeHandle,
}

/// The state of the admin endpoints. Puts kept bans and decisions in force.
fn admin_context(
    context: &ReloadContext,
    AdminParts { requests, log, upgrades }: AdminParts,
    addresses: &Arc<BoundAddresses>,
    folder: &Result<StateDir, String>,
) -> Arc<AdminContext> {
    let bans = keep_bans(context, folder);
    Arc::new(AdminContext {
        live: Arc::clone(&context.live),
        tunnels: Arc::clone(&context.tunnels),
        metrics: Arc::clone(&context.metrics),
        recent: Arc::clone(&context.recent),
        tracker: context.tracker.clone(),
        config_status: Arc::clone(&context.config_status),
        requests,
        lifecycle: Arc::clone(&context.lifecycle),
        heartbeats: Heartbeats::new(systemd::heartbeat_period(systemd::watchdog())),
        log,
        config: context.config.clone(),
        addresses: Arc::clone(addresses),
        bouncer: keep_decisions(context, &bans),
        bans,
        upgrades,
        rates: RateHistory::default(),
        history: ActivityHistory::default(),
    })
}

/// The parts of the process that an upgrade acts on.
fn giver_deps(context: &ReloadContext, admin: &AdminContext, sockets: AgentSockets) -> GiverDeps {
    GiverDeps {
        context: context.clone(),
        requests: admin.requests.clone(),
        bans: Arc::clone(&admin.bans),
        sockets: Arc::new(sockets),
        peers: EarlierProcesses::default(),
        retired: CancellationToken::new(),
        started_by: binary::started_by(),
    }
}

/// Waits for the order to accept, once all sockets are taken.
fn open(takeover: Takeover, context: &ReloadContext) -> Result<OpenTakeover, StartError> {
    let left = context.passed.inherited().left();
    if !left.is_empty() {
        // To close one of them would reset the connections in its queue.
        let left = left.join(", ");
        let sentence = format!("it would not listen on {left}, as the former process does");
        takeover.fail(&sentence);
        return Err(StartError::Unavailable(sentence));
    }
    takeover.prepared(prepared(&context.live.load())).map_err(StartError::Unavailable)
}

/// Puts the kept bans in force, before any socket accepts.
fn keep_bans(context: &ReloadContext, known: &Result<StateDir, String>) -> Arc<BanKeeper> {
    let state = context.config_status.settings.load().process.state.clone();
    let folder = StateDir::find_again(&state, &context.config, known);
    let state = BanState {
        live: Arc::clone(&context.live),
        tunnels: Arc::clone(&context.tunnels),
        metrics: Arc::clone(&context.metrics),
        config_status: Arc::clone(&context.config_status),
        tracker: context.tracker.clone(),
    };
    BanKeeper::start(state, folder)
}

/// Puts the kept decisions of CrowdSec in force, before any socket accepts.
fn keep_decisions(context: &ReloadContext, bans: &Arc<BanKeeper>) -> Arc<Bouncer> {
    Bouncer::start(BouncerDeps {
        live: Arc::clone(&context.live),
        tunnels: Arc::clone(&context.tunnels),
        config_status: Arc::clone(&context.config_status),
        metrics: Arc::clone(&context.metrics),
        keeper: Arc::clone(bans),
        lifecycle: Arc::clone(&context.lifecycle),
        tracker: context.tracker.clone(),
    })
}

/// The state of a process that starts with this generation.
fn reload_context(
    config: PathBuf,
    passed: Arc<PassedSockets>,
    snapshot: Snapshot,
    config_status: Arc<ConfigStatus>,
    resolver: Resolver,
) -> ReloadContext {
    let metrics = Metrics::new();
    metrics.succeeded(jiff::Timestamp::now());
    metrics.forget_identities(&snapshot);
    for warning in config_status.warnings.load().iter() {
        tracing::warn!(place = warning.place(), "{}", warning.message);
    }
    let (live, lifecycle) = (Arc::new(CurrentSnapshot::new(snapshot)), Lifecycle::new());
    let tunnels = Tunnels::new(Arc::clone(&live), Arc::clone(&lifecycle));
    let recent = config_status.settings.load().admin.recent();
    let recent = RecentDecisions::new(recent, jiff::Timestamp::now());
    let tracker = TaskTracker::new();
    ReloadContext {
        config,
        passed,
        live,
        tunnels,
        metrics,
        recent,
        lifecycle,
        config_status,
        resolver,
        tracker,
    }
}

/// Creates the listeners, still without sockets, and the channel on which each thread of the data
/// plane receives its sockets.
fn listeners(
    context: &ReloadContext,
    addresses: &Arc<BoundAddresses>,
    max: usize,
) -> (Arc<Listeners>, Vec<UnboundedReceiver<ListeningSocket>>) {
    let threads = context.config_status.settings.load().process.threads;
    // The number that the process may use, by its CPU affinity and cgroup, not that of the machine.
    let threads = threads.or_else(|| std::thread::available_parallelism().ok());
    let facts = ListenerDeps {
        stop: context.lifecycle.closing().clone(),
        passed: Arc::clone(&context.passed),
        live: Arc::clone(&context.live),
        metrics: Arc::clone(&context.metrics),
        addresses: Arc::clone(addresses),
        max,
    };
    Listeners::new(threads.map_or(1, NonZeroUsize::get), facts)
}

/// The sockets of the first generation, bound but not yet served.
struct FirstSockets {
    accepting: PreparedListeners,
    admin: FirstAdminSockets,
}

fn bind(context: &ReloadContext, listeners: &Listeners) -> Result<FirstSockets, StartError> {
    let settings = context.config_status.settings.load();
    let accepting = listeners
        .prepare(&settings.listeners)
        .map_err(|refused| unavailable(&listener_bind_failed(&refused.listener), &refused.error))?;
    let scrapes = settings.metrics.listen.as_ref();
    let scrapes = scrapes.map(|address| MetricsListener::bind(address, &context.passed, None));
    let scrapes = scrapes.transpose().map_err(|error| unavailable(METRICS_BIND_FAILED, &error))?;
    let asks = AdminListener::bind(&settings.admin, &context.config, &context.passed, None);
    let asks = asks.map_err(|error| unavailable(ADMIN_BIND_FAILED, &error))?;
    let pages = PageListener::bind(&settings.admin.page, context.passed.inherited(), None);
    let pages = pages.map_err(|error| unavailable(PAGE_BIND_FAILED, &error))?;
    Ok(FirstSockets { accepting, admin: FirstAdminSockets { scrapes, asks, pages } })
}

fn planes(
    context: &ReloadContext,
    heartbeats: Arc<Heartbeats>,
    max: usize,
    heads: HeadReader,
) -> Planes {
    let plane = DataPlane::new(
        Arc::clone(&context.live),
        Arc::clone(&context.tunnels),
        Observers {
            metrics: Arc::clone(&context.metrics),
            recent: Arc::clone(&context.recent),
            spans: Arc::default(),
        },
        Arc::clone(&context.lifecycle),
        max,
        heads,
    );
    let (config_status, tracker) = (Arc::clone(&context.config_status), context.tracker.clone());
    let (threads, passed) = (Vec::new(), Arc::clone(&context.passed));
    Planes { plane, config_status, threads, tracker, heartbeats, passed }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|error| unavailable("a thread cannot be started", &error))
}

fn unavailable(what: &str, error: &std::io::Error) -> StartError {
    StartError::Unavailable(match bind_error_message(what, error) {
        (what, Some(remedy)) => format!("{what}: {remedy}"),
        (what, None) => what,
    })
}

/// The process' total of connections: each takes two descriptors, and a quarter (256 at most) is
/// kept for everything else.
fn max_connections() -> usize {
    // Where the limit cannot be read, the usual soft limit is assumed.
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // At least 8, so that a small limit degrades and does not stop the process.
    ((limit - (limit / 4).min(256)) / 2).max(8)
}
