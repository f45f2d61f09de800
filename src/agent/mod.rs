//! The wiring: [`Agent`] binds the sockets and starts both planes.
//!
//! It decides no request and reads no file. `runtimes` runs the planes until a drain is over,
//! `listeners` holds the sockets that accept, `rebind` binds what a reload adds.

mod listeners;
mod rebind;
mod runtimes;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

pub use self::listeners::Listeners;
use self::listeners::Unavailable;
use self::rebind::{ADMIN, Bound, METRICS, cannot_listen, told};
use self::runtimes::{Planes, Serving};
use crate::admin::{Admin, AdminListener, MetricsListener, Order, Rates, Served};
use crate::control::config::diagnostic::Diagnostic;
use crate::control::reload::{self, Accept, Cause, Outcome, Reloader, Requests};
use crate::control::systemd::{self, Phase, Sockets};
use crate::data::Shared;
use crate::observe::log::Drops;
use crate::observe::metrics::Metrics;
use crate::observe::pulse::Pulses;
use crate::snapshot::Live;
use crate::tunnels::Tunnels;

/// A running agent. Dropping it ends it at once.
pub struct Agent {
    listeners: Arc<Listeners>,
    scrapes: Arc<Served<MetricsListener>>,
    asks: Arc<Served<AdminListener>>,
    requests: Requests,
    phase: watch::Sender<Phase>,
    orders: mpsc::Sender<Order>,
    ended: watch::Receiver<bool>,
    control: Option<JoinHandle<()>>,
}

/// Why an agent did not start.
#[derive(Debug)]
pub enum StartError {
    /// The files are missing or wrong: exit code 78.
    Files(Vec<Diagnostic>),
    /// A port, a socket or descriptors are not to be had: exit code 75.
    Unavailable(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Files(diagnostics) => diagnostics.iter().try_for_each(|diagnostic| writeln!(f, "{diagnostic}")),
            StartError::Unavailable(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

impl Agent {
    /// Loads `config`, binds every socket but those `passed` by systemd, and serves when it returns. `drops` counts
    /// dropped log lines.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left behind.
    pub fn start(config: &Path, passed: Sockets, drops: Drops) -> Result<Agent, StartError> {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
        let passed = Arc::new(passed);
        let (snapshot, standing, handover) = reload::start(&config, &passed).map_err(StartError::Files)?.into_parts();
        let settings = standing.settings.load_full();
        let threads = settings.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let most = most_connections();

        let metrics = Metrics::new();
        metrics.succeeded(jiff::Timestamp::now());
        for warning in standing.warnings.load().iter() {
            tracing::warn!(place = warning.place(), "{}", warning.message);
        }
        let live = Arc::new(Live::new(snapshot));
        let tunnels = Tunnels::new(Arc::clone(&live));
        let shared = Shared::new(Arc::clone(&live), Arc::clone(&tunnels), Arc::clone(&metrics), most);

        let stop = shared.stop_accepting.clone();
        let facts = (Arc::clone(&live), Arc::clone(&metrics));
        let (listeners, sockets) = Listeners::new(threads, stop, Arc::clone(&passed), facts, most);
        let accepting = listeners.prepare(&settings.listeners);
        let accepting = accepting.map_err(|Unavailable { listener, error }| unavailable(&cannot_listen(&listener), &error))?;
        let scraped = settings.metrics.listen.as_ref().map(|address| MetricsListener::bind(address, &passed, None)).transpose();
        let scraped = scraped.map_err(|error| unavailable(METRICS, &error))?;
        let asks = AdminListener::bind(&settings.admin, &config, &passed, None);
        let asks = asks.map_err(|error| unavailable(ADMIN, &error))?;

        let tracker = TaskTracker::new();
        let (reloader, requests) = Reloader::new(
            (config.clone(), Arc::clone(&passed)),
            (Arc::clone(&standing), handover),
            Arc::clone(&live),
            Arc::clone(&tunnels),
            Arc::clone(&metrics),
            tracker.clone(),
        );
        let (orders, told) = mpsc::channel(4);
        let (end, ended) = watch::channel(false);
        let (phase, _) = watch::channel(Phase::Starts);
        let pulses = Pulses::new(systemd::period(systemd::watchdog()));
        let admin = Arc::new(Admin {
            live,
            tunnels,
            metrics: Arc::clone(&metrics),
            standing: Arc::clone(&standing),
            requests: requests.clone(),
            orders: orders.clone(),
            pulses: Arc::clone(&pulses),
            drops,
            config: config.clone(),
            listeners: Arc::clone(&listeners),
            rates: Rates::default(),
            ordered: AtomicBool::new(false),
        });
        let scrapes = Served::new(Arc::clone(&admin), scraped);
        let asks = Served::new(Arc::clone(&admin), asks);
        let bound =
            Bound { config, passed, listeners: Arc::clone(&listeners), scrapes: Arc::clone(&scrapes), asks: Arc::clone(&asks) };
        listeners.take_over(accepting);
        let planes = Planes { shared, standing, threads: Vec::new(), tracker, told, phase: phase.clone(), pulses };
        let serving = Serving { admin, scrapes: Arc::clone(&scrapes), asks: Arc::clone(&asks) };
        let control = spawn("control", move || planes.run(sockets, (reloader, bound.rebinds()), serving, &end))?;
        Ok(Agent { listeners, scrapes, asks, requests, phase, orders, ended, control: Some(control) })
    }

    /// The listeners' names and the addresses that are bound now.
    pub fn listeners(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.listeners.addresses()
    }

    /// Where `/metrics`, `/livez` and `/readyz` are served now; `None`: nowhere, or at a Unix socket.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.scrapes.at()
    }

    /// Where the admin socket is now.
    pub fn admin(&self) -> Option<PathBuf> {
        self.asks.at()
    }

    /// Tells systemd, if it started us, that we are ready: to be called once whoever commands is obeyed.
    pub fn ready(&self) {
        self.phase.send_if_modified(|phase| {
            let starts = *phase == Phase::Starts;
            if starts {
                *phase = Phase::Serves;
            }
            starts
        });
    }

    /// Reloads, and awaits the outcome; `None` if the agent is ending.
    pub async fn reload(&self, cause: Cause) -> Option<Outcome> {
        self.requests.reload(cause, Accept::default()).await
    }

    /// Asks for a reload, whose outcome stands in the log.
    pub fn nudge(&self, cause: Cause) {
        self.requests.nudge(cause);
    }

    /// Gives an order.
    pub async fn order(&self, order: Order) {
        // An agent that is gone has nothing to be ordered.
        let _ = self.orders.send(order).await;
    }

    /// Waits until everything has ended.
    pub async fn ended(&mut self) {
        let _ = self.ended.wait_for(|ended| *ended).await;
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // A drain, and a second one at once.
        let _ = self.orders.try_send(Order::Drain);
        let _ = self.orders.try_send(Order::Drain);
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.into()).spawn(work).map_err(|error| unavailable("a thread cannot be started", &error))
}

fn unavailable(what: &str, error: &std::io::Error) -> StartError {
    StartError::Unavailable(match told(what, error) {
        (what, Some(remedy)) => format!("{what}: {remedy}"),
        (what, None) => what,
    })
}

/// The process' total of connections: each takes two descriptors, and some are kept for everything else.
fn most_connections() -> usize {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    ((limit - (limit / 4).min(256)) / 2).max(8)
}
