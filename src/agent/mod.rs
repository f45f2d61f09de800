//! The wiring: [`Agent`] binds the sockets and starts both planes.
//!
//! The agent decides no request and reads no file. `runtimes` runs the planes until a drain is
//! over, `listeners` holds the sockets that accept, and `rebind` binds sockets that a reload adds.

mod listeners;
mod rebind;
mod runtimes;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::task::TaskTracker;

use self::listeners::{Facts, Listeners, Prepared};
use self::rebind::{ADMIN, METRICS, Rebind, cannot_listen, told};
use self::runtimes::{Control, Planes};
use crate::addresses::{BoundAddress, BoundAddresses};
use crate::admin::{Admin, AdminListener, MetricsListener, Rates, Served};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::reload::{self, Accept, Cause, Outcome, Reloader, Requests, Standing, World};
use crate::control::systemd::{self, sockets::Sockets};
use crate::data::core::Shared;
use crate::data::http::head::HeadReader;
use crate::data::listener::Accepting;
use crate::lifecycle::{Lifecycle, Stage};
use crate::observe::log::Drops;
use crate::observe::metrics::Metrics;
use crate::observe::pulse::Pulses;
use crate::snapshot::{Live, Snapshot};
use crate::tunnels::Tunnels;

/// A running agent. Dropping it ends it at once.
pub struct Agent {
    world: World,
    addresses: Arc<BoundAddresses>,
    scrapes: Arc<Served<MetricsListener>>,
    asks: Arc<Served<AdminListener>>,
    requests: Requests,
    control: Option<JoinHandle<()>>,
}

/// Why an agent did not start.
#[derive(Debug)]
pub enum StartError {
    /// The files are missing or wrong: exit code 78.
    Files(Vec<Diagnostic>),
    /// A port, a socket or a descriptor is not available: exit code 75.
    Unavailable(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Files(diagnostics) => {
                diagnostics.iter().try_for_each(|diagnostic| writeln!(f, "{diagnostic}"))
            }
            StartError::Unavailable(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

impl Agent {
    /// Loads `config`, binds every socket but those `passed` by systemd, and serves once it
    /// returns. `drops` counts dropped log lines, and `heads` reads the first head of each
    /// connection.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left behind.
    pub fn start(
        config: &Path,
        passed: Sockets,
        drops: Drops,
        heads: HeadReader,
    ) -> Result<Agent, StartError> {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
        let passed = Arc::new(passed);
        let started = reload::start(&config, &passed).map_err(StartError::Files)?;
        let (snapshot, standing, handover) = started.into_parts();
        let world = world(config, passed, snapshot, standing);
        let (most, addresses) = (most_connections(), Arc::new(BoundAddresses::default()));

        let (listeners, sockets) = listeners(&world, &addresses, most);
        let bound = bind(&world, &listeners)?;

        let (reloader, requests) = Reloader::new(world.clone(), handover);
        let pulses = Pulses::new(systemd::period(systemd::watchdog()));
        let admin = Arc::new(Admin {
            live: Arc::clone(&world.live),
            tunnels: Arc::clone(&world.tunnels),
            metrics: Arc::clone(&world.metrics),
            standing: Arc::clone(&world.standing),
            requests: requests.clone(),
            lifecycle: Arc::clone(&world.lifecycle),
            pulses: Arc::clone(&pulses),
            drops,
            config: world.config.clone(),
            addresses: Arc::clone(&addresses),
            rates: Rates::default(),
        });
        let scrapes = Served::new(Arc::clone(&admin), bound.scrapes);
        let asks = Served::new(Arc::clone(&admin), bound.asks);
        let rebind = Rebind {
            config: world.config.clone(),
            passed: Arc::clone(&world.passed),
            listeners: Arc::clone(&listeners),
            addresses: Arc::clone(&addresses),
            scrapes: Arc::clone(&scrapes),
            asks: Arc::clone(&asks),
        };
        // The sockets wait in the channels until the data plane's threads start.
        listeners.take_over(bound.accepting);

        let planes = planes(&world, pulses, most, heads);
        let control = Control {
            reloader,
            bind: rebind.into_bind(),
            admin,
            scrapes: Arc::clone(&scrapes),
            asks: Arc::clone(&asks),
        };
        let control = spawn("control", move || planes.run(sockets, control))?;
        Ok(Agent { world, addresses, scrapes, asks, requests, control: Some(control) })
    }

    /// The addresses of the listeners that accept now.
    pub fn listeners(&self) -> Arc<Vec<BoundAddress>> {
        self.addresses.load()
    }

    /// The address that serves `/metrics`, `/livez` and `/readyz` now. `None` means off, or a Unix
    /// socket.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.scrapes.at()
    }

    /// The path of the admin socket now. `None` means that there is none.
    pub fn admin(&self) -> Option<PathBuf> {
        self.asks.at()
    }

    /// Tells the service manager, if there is one, that the agent is ready. Call it once signals
    /// are handled.
    pub fn ready(&self) {
        self.world.lifecycle.serve();
    }

    /// Reloads and awaits the outcome. `None` means that the agent is ending.
    pub async fn reload(&self, cause: Cause) -> Option<Outcome> {
        self.requests.reload(cause, Accept::default()).await
    }

    /// Requests a reload without waiting. The log has its outcome.
    pub fn nudge(&self) {
        self.requests.nudge();
    }

    /// Starts a drain: stops accepting, lets tunnels end, then ends. A second call cuts the
    /// remaining connections.
    pub fn drain(&self) {
        let lifecycle = &self.world.lifecycle;
        if !lifecycle.drain(self.world.standing.settings.load().shutdown.terms()) {
            lifecycle.cut();
        }
    }

    /// Waits until both planes have ended.
    pub async fn ended(&mut self) {
        let mut stages = self.world.lifecycle.subscribe();
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
        self.world.lifecycle.cut();
        self.join();
    }
}

/// The state of a process that starts with this generation.
fn world(
    config: PathBuf,
    passed: Arc<Sockets>,
    snapshot: Snapshot,
    standing: Arc<Standing>,
) -> World {
    let metrics = Metrics::new();
    metrics.succeeded(jiff::Timestamp::now());
    for warning in standing.warnings.load().iter() {
        tracing::warn!(place = warning.place(), "{}", warning.message);
    }
    let (live, lifecycle) = (Arc::new(Live::new(snapshot)), Lifecycle::new());
    let tunnels = Tunnels::new(Arc::clone(&live), Arc::clone(&lifecycle));
    let tracker = TaskTracker::new();
    World { config, passed, live, tunnels, metrics, lifecycle, standing, tracker }
}

/// Creates the listeners, still without sockets, and the channel on which each thread of the data
/// plane receives its sockets.
fn listeners(
    world: &World,
    addresses: &Arc<BoundAddresses>,
    most: usize,
) -> (Arc<Listeners>, Vec<UnboundedReceiver<Accepting>>) {
    let threads = world.standing.settings.load().threads;
    let threads = threads.or_else(|| std::thread::available_parallelism().ok());
    let facts = Facts {
        stop: world.lifecycle.closing().clone(),
        passed: Arc::clone(&world.passed),
        live: Arc::clone(&world.live),
        metrics: Arc::clone(&world.metrics),
        addresses: Arc::clone(addresses),
        most,
    };
    Listeners::new(threads.map_or(1, NonZeroUsize::get), facts)
}

/// The sockets of the first generation, bound but not yet served.
struct FirstSockets {
    accepting: Prepared,
    scrapes: Option<MetricsListener>,
    asks: Option<AdminListener>,
}

fn bind(world: &World, listeners: &Listeners) -> Result<FirstSockets, StartError> {
    let settings = world.standing.settings.load();
    let accepting = listeners
        .prepare(&settings.listeners)
        .map_err(|refused| unavailable(&cannot_listen(&refused.listener), &refused.error))?;
    let scrapes = settings.metrics.listen.as_ref();
    let scrapes = scrapes.map(|address| MetricsListener::bind(address, &world.passed, None));
    let scrapes = scrapes.transpose().map_err(|error| unavailable(METRICS, &error))?;
    let asks = AdminListener::bind(&settings.admin, &world.config, &world.passed, None);
    let asks = asks.map_err(|error| unavailable(ADMIN, &error))?;
    Ok(FirstSockets { accepting, scrapes, asks })
}

fn planes(world: &World, pulses: Arc<Pulses>, most: usize, heads: HeadReader) -> Planes {
    let shared = Shared::new(
        Arc::clone(&world.live),
        Arc::clone(&world.tunnels),
        Arc::clone(&world.metrics),
        Arc::clone(&world.lifecycle),
        most,
        heads,
    );
    let (standing, tracker) = (Arc::clone(&world.standing), world.tracker.clone());
    Planes { shared, standing, threads: Vec::new(), tracker, pulses }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|error| unavailable("a thread cannot be started", &error))
}

fn unavailable(what: &str, error: &std::io::Error) -> StartError {
    StartError::Unavailable(match told(what, error) {
        (what, Some(remedy)) => format!("{what}: {remedy}"),
        (what, None) => what,
    })
}

/// The process' total of connections: each takes two descriptors, and a quarter (256 at most) is
/// kept for everything else.
fn most_connections() -> usize {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    ((limit - (limit / 4).min(256)) / 2).max(8)
}
