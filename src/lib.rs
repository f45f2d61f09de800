//! Sidegate, a WebSocket sidecar: it terminates TLS, decides who may open a WebSocket, relays to a
//! local backend, and swaps routing, policy and certificates atomically when their files change.
//!
//! This is the wiring: [`Agent`] binds the sockets and starts the planes. What happens to a
//! connection is told in `data`, what happens to a changed file in `control`, how it all ends in `planes`.

pub mod admin;
pub mod close;
pub mod control;
pub mod data;
pub mod observe;
mod planes;
pub mod policy;
pub mod refusal;
pub mod snapshot;
pub mod tunnels;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

pub use crate::admin::Order;
use crate::admin::{Admin, AdminListener, MetricsListener, Rates, Scrapes};
use crate::control::config::MetricsAddress;
use crate::control::config::diagnostic::Diagnostic;
use crate::control::reload::{Accept, Bind, Cause, Outcome, Reloader, Requests};
use crate::control::systemd::{self, Phase, Sockets};
use crate::data::Shared;
use crate::data::listener::Bound;
use crate::observe::log::Drops;
use crate::observe::metrics::Metrics;
use crate::observe::pulse::Pulses;
use crate::planes::{Planes, Serving};
use crate::snapshot::Live;
use crate::snapshot::listener::Address;
use crate::tunnels::Tunnels;

/// A running agent. Dropping it ends it at once.
pub struct Agent {
    listeners: Vec<(Arc<str>, SocketAddr)>,
    scrapes: Arc<Scrapes>,
    admin: Option<PathBuf>,
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
        let (snapshot, standing, handover) = control::reload::start(&config, &passed).map_err(StartError::Files)?.into_parts();
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

        let mut shares: Vec<Vec<Bound>> = (0..threads).map(|_| Vec::new()).collect();
        let mut listeners = Vec::new();
        for listener in &settings.listeners {
            let bound = match &listener.address {
                Address::Tcp(address) => data::listener::bind(listener, *address, threads, most),
                Address::Systemd(name) => {
                    passed.tcp(name).and_then(|sockets| data::listener::share(listener, &sockets, threads, most))
                }
            };
            let bound = bound.map_err(|error| {
                unavailable(&format!("listener `{}` cannot listen on {}", listener.name, listener.address), &error)
            })?;
            metrics.connections_limit(&listener.name, listener.max_connections.unwrap_or(most));
            listeners.extend(bound.iter().take(1).flatten().map(|one| (Arc::clone(&listener.name), one.address())));
            for (share, more) in shares.iter_mut().zip(bound) {
                share.extend(more);
            }
        }
        let scraped = settings.metrics.listen.as_ref().map(|address| MetricsListener::bind(address, &passed)).transpose();
        let scraped = scraped.map_err(|error| unavailable("[metrics] cannot listen", &error))?;
        let asks = AdminListener::bind(&settings.admin, &config, &passed);
        let asks = asks.map_err(|error| unavailable("[admin] cannot listen", &error))?;

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
            listeners: listeners.iter().map(|(name, address)| (Arc::clone(name), address.to_string())).collect(),
            rates: Rates::default(),
            ordered: AtomicBool::new(false),
        });
        let scrapes = Scrapes::new(Arc::clone(&admin), scraped);
        let admin_path = asks.as_ref().map(|asks| asks.path().to_owned());
        let rebind = rebind(&config, &passed, &scrapes);
        let planes = Planes { shared, standing, threads: Vec::new(), tracker, told, phase: phase.clone(), pulses };
        let serving = Serving { admin, scrapes: Arc::clone(&scrapes), asks };
        let control = spawn("control", move || planes.run(shares, (reloader, rebind), serving, &end))?;
        Ok(Agent { listeners, scrapes, admin: admin_path, requests, phase, orders, ended, control: Some(control) })
    }

    /// The listeners' names and the addresses that were bound.
    pub fn listeners(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.listeners
    }

    /// Where `/metrics`, `/livez` and `/readyz` are served now; `None`: nowhere, or at a Unix socket.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.scrapes.address()
    }

    /// Where the admin socket is.
    pub fn admin(&self) -> Option<&Path> {
        self.admin.as_deref()
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

/// What a reload can bind: the metrics listener, so far.
fn rebind(config: &Path, passed: &Arc<Sockets>, scrapes: &Arc<Scrapes>) -> Bind {
    let (config, passed, scrapes) = (config.to_owned(), Arc::clone(passed), Arc::clone(scrapes));
    Arc::new(move |now, next| {
        if now.metrics.listen == next.metrics.listen {
            return Ok(Box::new(|| {}));
        }
        let bound = next.metrics.listen.as_ref().map(|address| MetricsListener::bind(address, &passed)).transpose();
        let bound = bound.map_err(|error| {
            let (what, remedy) = told("[metrics] cannot listen", &error);
            let port = |address: &Option<MetricsAddress>| match address {
                Some(MetricsAddress::Tcp(address)) => Some(address.port()),
                _ => None,
            };
            let same_port = port(&now.metrics.listen) == port(&next.metrics.listen);
            let remedy = if same_port { Some("sidegate itself has that port: restart it, or take another port") } else { remedy };
            vec![Diagnostic::of(&config, what, remedy.map(str::to_owned))]
        })?;
        let scrapes = Arc::clone(&scrapes);
        Ok(Box::new(move || scrapes.replace(bound)))
    })
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

/// Why something cannot be had, and what to do about it.
fn told(what: &str, error: &std::io::Error) -> (String, Option<&'static str>) {
    let remedy = match error.kind() {
        std::io::ErrorKind::AddrInUse => Some("something else listens there already; stop it, or choose another address"),
        std::io::ErrorKind::PermissionDenied => Some("not permitted; ports below 1024 need CAP_NET_BIND_SERVICE"),
        std::io::ErrorKind::AddrNotAvailable => Some("no interface has this address"),
        _ => None,
    };
    (format!("{what}: {error}"), remedy)
}

/// The process' total of connections: each takes two descriptors, and some are kept for everything else.
fn most_connections() -> usize {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    ((limit - (limit / 4).min(256)) / 2).max(8)
}
