//! Dials the backends of a route: in which order, and for how long. It sends nothing.

use std::fmt;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::connect_fault;
use crate::data::backend::health::{BackendHealth, BackendTable, DialFault, LoadGuard};
use crate::data::stream::socket::{Preamble, Socket};
use crate::observe::metrics::ThreadMetrics;
use crate::refusal::{BackendError, Refusal};
use crate::snapshot::Permit;
use crate::snapshot::route::Endpoint;

/// Most addresses of names that one dial tries, so that each has time enough. The next dial begins
/// with others, since these are down then.
const MAX_NAMED_TRIES: usize = 8;

/// The error of a backend that doesn't take the connection in time.
const CONNECT_TIMED_OUT: &str = "it did not take the connection in time";

/// Which backend a request was sent to, and why nothing came of it: for the line of its decision.
#[derive(Default)]
pub struct DialRecord {
    /// The PROXY header that a connection made for the request begins with. Empty means none.
    pub preamble: Preamble,
    /// The address that was dialled, or reused, last.
    pub backend: Option<Endpoint>,
    /// What went wrong, in words for people.
    pub error: Option<String>,
    /// What a valid 101 chose that the policy does not admit. The inner `None` means no
    /// subprotocol.
    pub unadmitted: Option<Option<Box<str>>>,
}

impl DialRecord {
    /// Notes what went wrong.
    pub fn failed(&mut self, what: &dyn fmt::Display) -> Refusal {
        self.error = Some(what.to_string());
        Refusal::Backend(BackendError::Failed)
    }

    /// Notes an error of the connection.
    pub fn hyper_failed(&mut self, error: &hyper::Error) -> Refusal {
        self.failed(&connect_fault::describe(error))
    }

    /// Notes what was not done in time.
    pub fn timed_out(&mut self, what: &str) -> Refusal {
        self.error = Some(what.to_owned());
        Refusal::Backend(BackendError::TimedOut)
    }
}

/// Connects to backends, and counts how long that takes.
pub struct Connector {
    backends: Arc<BackendTable>,
    metrics: Arc<ThreadMetrics>,
}

/// A connection to a backend that was just made.
pub struct Dialled {
    /// The connection, after the TLS handshake where there is one.
    pub socket: Socket,
    /// The weight of one more tunnel on its backend.
    pub load: LoadGuard,
    /// The address that took the connection.
    pub endpoint: Endpoint,
}

impl Connector {
    /// Makes the connector of the thread whose counters are `metrics`.
    pub fn new(backends: Arc<BackendTable>, metrics: Arc<ThreadMetrics>) -> Self {
        Connector { backends, metrics }
    }

    /// Connects to the first backend that takes the connection, within the route's `dial`. Each
    /// backend has an equal share of the time left, so that one which hangs leaves the others
    /// theirs.
    pub async fn dial(&self, permit: &Permit, tried: &mut DialRecord) -> Result<Dialled, Refusal> {
        let route = permit.route();
        let began = Instant::now();
        let late = began + route.timeouts.dial;
        let mut hung = false;
        let mut left = bounded(self.backends.ranked(&route.backends)).into_iter();
        if left.len() == 0 {
            let first = route.backends.first().map(|backend| backend.address.clone());
            tried.backend = first.map(|backend| Endpoint { backend, resolved: None });
            return Err(tried.failed(&self.backends.note_unknown(route)));
        }
        while let Some((endpoint, health)) = left.next() {
            let now = Instant::now();
            // Before the wait, so that no other dial tries a backend that is down meanwhile.
            health.note_dial(now);
            let untried = u32::try_from(left.len()).unwrap_or(u32::MAX);
            // Time that a fast refusal leaves over goes to the backends behind it.
            let share = now + late.saturating_duration_since(now) / untried.saturating_add(1);
            // The weight counts before the wait, so that a burst spreads.
            let load = health.add_tunnel();
            tried.backend = Some(endpoint.clone());
            let tls = route.backend_tls.as_deref();
            match timeout_at(share, Socket::connect(&endpoint, tls, &tried.preamble)).await {
                Ok(Ok(socket)) => {
                    tried.error = None;
                    health.note_success(&endpoint);
                    self.metrics.route(route).dialled(began.elapsed());
                    return Ok(Dialled { socket, load, endpoint });
                }
                Ok(Err(error)) => {
                    let error = connect_fault::describe_dial(&error);
                    let fault = DialFault { hangs: false, error: &error };
                    self.backends.note_failure(route, &endpoint, &health, &fault);
                    tried.error = Some(error);
                }
                Err(_) => {
                    let fault = DialFault { hangs: true, error: &CONNECT_TIMED_OUT };
                    self.backends.note_failure(route, &endpoint, &health, &fault);
                    tried.error = Some(CONNECT_TIMED_OUT.to_owned());
                    // Of several faults, a timeout decides the answer: 504 and not 502.
                    hung = true;
                }
            }
        }
        Err(Refusal::Backend(if hung { BackendError::TimedOut } else { BackendError::Failed }))
    }
}

/// Leaves out the addresses of names that one dial has no time for.
fn bounded(mut ranked: Vec<(Endpoint, Arc<BackendHealth>)>) -> Vec<(Endpoint, Arc<BackendHealth>)> {
    let mut tried = 0;
    // In the order of their ranks, so that the worst are left out.
    ranked.retain(|(endpoint, _)| {
        tried += usize::from(endpoint.resolved.is_some());
        endpoint.resolved.is_none() || tried <= MAX_NAMED_TRIES
    });
    ranked
}
