//! The data plane: from an accepted connection to the end of its tunnel.
//!
//! One current-thread runtime per core, each accepting for itself; a connection never leaves its
//! core. The data plane knows nothing of files: it obeys the running snapshot and the orders in the
//! table of tunnels.

pub mod admission;
mod backend;
mod connection;
pub mod http;
pub mod listener;
pub mod stream;
pub mod tls;
mod tunnel;
pub mod websocket;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::data::admission::cap::Cap;
use crate::data::admission::pending::Pending;
use crate::data::admission::turnstile::Turnstile;
use crate::data::backend::{Backends, Dialler};
use crate::data::listener::Accepting;
use crate::lifecycle::Lifecycle;
use crate::observe::log::cap::{Cap as RefusalCap, Lines};
use crate::observe::metrics::{CoreMetrics, Metrics};
use crate::observe::pulse::Pulse;
use crate::snapshot::Live;
use crate::tunnels::Tunnels;

/// What all threads of the data plane share.
pub struct Shared {
    /// The running generation, loaded once for each request.
    pub live: Arc<Live>,
    /// The table of live tunnels.
    pub tunnels: Arc<Tunnels>,
    /// The metrics of the process, of which each thread has its part.
    pub metrics: Arc<Metrics>,
    /// The cap on the connections of the whole process.
    pub total: Cap,
    /// The stage of the process: at `closing`, accepting stops and plain connections finish their
    /// request.
    pub lifecycle: Arc<Lifecycle>,
    pending: Pending,
    /// Where TLS handshakes wait that are over their client's rate.
    turnstile: Turnstile,
    backends: Arc<Backends>,
}

impl Shared {
    /// Makes the state that all threads share, with room for `connections` in all.
    pub fn new(
        live: Arc<Live>,
        tunnels: Arc<Tunnels>,
        metrics: Arc<Metrics>,
        lifecycle: Arc<Lifecycle>,
        connections: usize,
    ) -> Arc<Self> {
        let backends = Backends::new(Arc::clone(&metrics));
        Arc::new(Shared {
            live,
            tunnels,
            metrics,
            total: Cap::new(connections),
            lifecycle,
            pending: Pending::default(),
            turnstile: Turnstile::default(),
            backends: Arc::new(backends),
        })
    }
}

/// What the tasks of one thread share.
pub struct Core {
    shared: Arc<Shared>,
    metrics: Arc<CoreMetrics>,
    dialler: Arc<Dialler>,
    tracker: TaskTracker,
    /// Which refusals the log shows.
    cap: RefusalCap,
    /// The same for lines about candidate policies.
    differences: RefusalCap,
    /// The same for lines about TLS handshakes that wait.
    delays: RefusalCap,
}

/// Runs one thread of the data plane over the `sockets` that it is sent, until a drain has nothing
/// left to wait for, or `end` is true; connections that are still open then are dropped. `pulse`
/// beats for as long as the runtime turns: an accept loop that pauses does not stop it.
///
/// # Errors
/// The runtime cannot be made.
pub fn run_thread(
    shared: &Arc<Shared>,
    sockets: UnboundedReceiver<Accepting>,
    pulse: Pulse,
    mut end: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let tracker = TaskTracker::new();
        let metrics = shared.metrics.core();
        let dialler =
            Dialler::new(Arc::clone(&shared.backends), Arc::clone(&metrics), tracker.clone());
        let (dialler, cap) = (Arc::new(dialler), RefusalCap::default());
        let core = Arc::new(Core {
            shared: Arc::clone(shared),
            metrics,
            dialler,
            tracker: tracker.clone(),
            cap,
            differences: RefusalCap::default(),
            delays: RefusalCap::of(Lines::Delays),
        });
        tracker.spawn(listen(Arc::clone(&core), sockets));
        tracker.spawn(tidy(Arc::clone(&core)));
        let drained = async {
            shared.lifecycle.closing().cancelled().await;
            // Still takes new tasks; `wait` alone depends on it.
            tracker.close();
            tracker.wait().await;
        };
        tokio::select! {
            () = drained => {}
            // An error means that the sender is gone: the thread ends then too.
            _ = end.wait_for(|end| *end) => {}
            () = pulse.keep() => {}
        }
        pulse.end();
        Ok(())
    })
}

/// Accepts on every socket that comes, until all accepting stops.
async fn listen(core: Arc<Core>, mut sockets: UnboundedReceiver<Accepting>) {
    while let Some(Some(socket)) =
        core.shared.lifecycle.closing().run_until_cancelled(sockets.recv()).await
    {
        let address = socket.bound.address();
        match listener::accept_all(Arc::clone(&core), socket) {
            Ok(accepting) => drop(core.tracker.spawn(accepting)),
            Err(error) => {
                tracing::error!(%address, %error, "a thread cannot wait for connections here");
            }
        }
    }
}

/// Once a second: closes idle connections to backends whose time is up, forgets backends that are
/// gone, and reports what the log left out. With the drain, closes all idle connections.
async fn tidy(core: Arc<Core>) {
    while core
        .shared
        .lifecycle
        .closing()
        .run_until_cancelled(tokio::time::sleep(Duration::from_secs(1)))
        .await
        .is_some()
    {
        core.dialler.tidy(&core.shared.live.load());
        core.cap.tidy(std::time::Instant::now());
        core.differences.tidy(std::time::Instant::now());
        core.delays.tidy(std::time::Instant::now());
    }
    core.dialler.close_idle();
}
