//! The state that the tasks of the data plane share: [`Shared`] among all threads, [`Core`] among
//! those of one thread.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::data::admission::cap::Cap;
use crate::data::admission::pending::Pending;
use crate::data::admission::turnstile::Turnstile;
use crate::data::backend::{Backends, Dialler};
use crate::data::http::head::HeadReader;
use crate::lifecycle::Lifecycle;
use crate::observe::log::cap::{Cap as RefusalCap, Lines};
use crate::observe::metrics::{CoreMetrics, Metrics};
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
    /// The reader of the first head of each connection.
    pub heads: HeadReader,
    pub(super) pending: Pending,
    /// Where TLS handshakes wait that are over their client's rate.
    pub(super) turnstile: Turnstile,
    pub(super) backends: Arc<Backends>,
}

impl Shared {
    /// Makes the state that all threads share, with room for `connections` in all.
    pub fn new(
        live: Arc<Live>,
        tunnels: Arc<Tunnels>,
        metrics: Arc<Metrics>,
        lifecycle: Arc<Lifecycle>,
        connections: usize,
        heads: HeadReader,
    ) -> Arc<Self> {
        let backends = Backends::new(Arc::clone(&metrics));
        Arc::new(Shared {
            live,
            tunnels,
            metrics,
            total: Cap::new(connections),
            lifecycle,
            heads,
            pending: Pending::default(),
            turnstile: Turnstile::default(),
            backends: Arc::new(backends),
        })
    }
}

/// What the tasks of one thread share.
pub struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Arc<CoreMetrics>,
    pub(super) dialler: Arc<Dialler>,
    pub(super) tracker: TaskTracker,
    /// Which refusals the log shows.
    pub(super) cap: RefusalCap,
    /// The same for lines about candidate policies.
    pub(super) differences: RefusalCap,
    /// The same for lines about TLS handshakes that wait.
    pub(super) delays: RefusalCap,
}

impl Core {
    /// Makes the state of one thread, whose tasks belong to `tracker`.
    pub(super) fn new(shared: &Arc<Shared>, tracker: TaskTracker) -> Arc<Self> {
        let metrics = shared.metrics.core();
        let backends = Arc::clone(&shared.backends);
        let dialler = Dialler::new(backends, Arc::clone(&metrics), tracker.clone());
        Arc::new(Core {
            shared: Arc::clone(shared),
            metrics,
            dialler: Arc::new(dialler),
            tracker,
            cap: RefusalCap::default(),
            differences: RefusalCap::default(),
            delays: RefusalCap::of(Lines::Delays),
        })
    }
}
