//! The state that the tasks of the data plane share: [`DataPlane`] among all threads,
//! [`ThreadContext`] among those of one thread.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use crate::data::admission::cap::ConnectionCap;
use crate::data::admission::handshake_queue::HandshakeQueue;
use crate::data::admission::pending::PendingConnections;
use crate::data::admission::refused_upgrades::RefusedUpgrades;
use crate::data::backend::{BackendClient, BackendTable, DownBackend};
use crate::data::http::head::HeadReader;
use crate::lifecycle::Lifecycle;
use crate::observe::log::decision::{self, ConnectionRefusal, LogContext};
use crate::observe::log::throttle::{LineKind, LogThrottle};
use crate::observe::metrics::{Metrics, ThreadMetrics};
use crate::observe::recent::{RecentDecision, RecentDecisions, ThreadDecisions};
use crate::observe::spans::SpanQueue;
use crate::snapshot::CurrentSnapshot;
use crate::tunnels::Tunnels;

/// What all threads of the data plane share.
pub struct DataPlane {
    /// The running generation, loaded once for each request.
    pub live: Arc<CurrentSnapshot>,
    /// The table of live tunnels.
    pub tunnels: Arc<Tunnels>,
    /// The metrics of the process, of which each thread has its part.
    pub metrics: Arc<Metrics>,
    /// The recent decisions, of which each thread has its part.
    pub recent: Arc<RecentDecisions>,
    /// The spans that wait for an exporter.
    pub spans: Arc<SpanQueue>,
    /// The cap on the connections of the whole process.
    pub total: ConnectionCap,
    /// The stage of the process: at `closing`, accepting stops and plain connections finish their
    /// request.
    pub lifecycle: Arc<Lifecycle>,
    /// The reader of the first head of each connection.
    pub heads: HeadReader,
    pub(super) pending: PendingConnections,
    /// Refused attempts that were accepted only to be closed.
    pub(super) refused_upgrades: RefusedUpgrades,
    /// Where TLS handshakes wait that are over their client's rate.
    pub(super) handshake_queue: HandshakeQueue,
    pub(super) backends: Arc<BackendTable>,
}

/// Where the data plane reports.
pub struct Observers {
    /// The metrics of the process.
    pub metrics: Arc<Metrics>,
    /// The recent decisions of the process.
    pub recent: Arc<RecentDecisions>,
    /// The spans that wait for an exporter.
    pub spans: Arc<SpanQueue>,
}

impl DataPlane {
    /// Makes the state that all threads share, with room for `connections` in all.
    pub fn new(
        live: Arc<CurrentSnapshot>,
        tunnels: Arc<Tunnels>,
        observers: Observers,
        lifecycle: Arc<Lifecycle>,
        connections: usize,
        heads: HeadReader,
    ) -> Arc<Self> {
        let Observers { metrics, recent, spans } = observers;
        let backends = BackendTable::new(Arc::clone(&metrics));
        Arc::new(DataPlane {
            live,
            tunnels,
            metrics,
            recent,
            spans,
            total: ConnectionCap::new(connections),
            lifecycle,
            heads,
            pending: PendingConnections::default(),
            refused_upgrades: RefusedUpgrades::default(),
            handshake_queue: HandshakeQueue::default(),
            backends: Arc::new(backends),
        })
    }
}

impl DataPlane {
    /// The addresses of backends whose last dial failed.
    pub fn backends_down(&self) -> Vec<DownBackend> {
        self.backends.down()
    }

    /// Notes addresses of backends that another process of the agent has found down.
    pub fn note_backends_down(&self, down: &[DownBackend]) {
        self.backends.note_down(&self.live.load(), down);
    }
}

/// What the tasks of one thread share.
pub struct ThreadContext {
    pub(super) plane: Arc<DataPlane>,
    pub(super) metrics: Arc<ThreadMetrics>,
    /// The recent decisions of the thread.
    pub(super) recent: Arc<ThreadDecisions>,
    pub(super) backend_client: Arc<BackendClient>,
    pub(super) tracker: TaskTracker,
    /// Which refusals the log shows.
    pub(super) throttle: LogThrottle,
    /// The same for lines about candidate policies.
    pub(super) differences: LogThrottle,
    /// The same for lines about TLS handshakes that wait.
    pub(super) delays: LogThrottle,
}

impl ThreadContext {
    /// Makes the state of one thread, whose tasks belong to `tracker`.
    pub(super) fn new(plane: &Arc<DataPlane>, tracker: TaskTracker) -> Arc<Self> {
        let metrics = plane.metrics.core();
        let backends = Arc::clone(&plane.backends);
        let backend_client = BackendClient::new(backends, Arc::clone(&metrics), tracker.clone());
        Arc::new(ThreadContext {
            plane: Arc::clone(plane),
            metrics,
            recent: plane.recent.thread(),
            backend_client: Arc::new(backend_client),
            tracker,
            throttle: LogThrottle::default(),
            differences: LogThrottle::default(),
            delays: LogThrottle::new(LineKind::Delays),
        })
    }

    /// Counts, logs and keeps the refusal of a connection before its first request.
    pub(super) fn refuse_connection(
        &self,
        log_context: LogContext<'_>,
        refused: ConnectionRefusal<'_>,
    ) {
        self.metrics.no_route().refused(refused.refusal);
        decision::log_refused_connection(log_context, refused, &self.throttle);
        self.recent.keep(|| RecentDecision::of_connection(&log_context, refused, Timestamp::now()));
    }
}
