//! Connections to backends that wait for the next plain request.
//!
//! Each thread keeps its own, for a moment and a bounded number of them; one serves no request of a route that meets its backends
//! on other terms.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, timeout};

use super::{Dialler, lock};
use crate::data::body::Upload;
use crate::data::heard::Heard;
use crate::snapshot::route::{BackendAddress, Route};
use crate::snapshot::tls::BackendTls;
use crate::snapshot::{Permit, Snapshot};

/// How long an idle connection is kept for the next plain request.
const KEPT_IDLE: Duration = Duration::from_secs(4);

/// The most idle connections that are kept to one backend, by each thread.
const MOST_IDLE: usize = 64;

/// How a backend was reached: who it proved to be on one route's terms it did not prove on another's.
#[derive(Clone)]
pub struct Way {
    /// To whom.
    pub address: BackendAddress,
    tls: Option<Arc<BackendTls>>,
}

impl Way {
    /// To `address` under the rules of `route`.
    pub fn new(address: BackendAddress, route: &Route) -> Way {
        let over_tls = matches!(address, BackendAddress::Tls(_));
        Way { address, tls: route.backend_tls.clone().filter(|_| over_tls) }
    }

    /// The terms are the same only if they are the very same.
    fn terms(&self) -> Option<*const BackendTls> {
        self.tls.as_ref().map(Arc::as_ptr)
    }
}

impl PartialEq for Way {
    fn eq(&self, other: &Way) -> bool {
        self.address == other.address && self.terms() == other.terms()
    }
}

impl Eq for Way {}

impl Hash for Way {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
        self.terms().hash(state);
    }
}

/// One that is idle.
pub struct Idle {
    line: Line,
    since: Instant,
}

/// A connection for plain requests.
pub struct Line {
    /// How it was reached.
    pub way: Way,
    /// hyper's end of it.
    pub sender: SendRequest<Upload>,
    /// Whether a byte of the latest answer has come.
    pub heard: Heard,
}

impl Dialler {
    /// Closes the idle connections that nobody asked for in time, and forgets the backends that `live` names no more.
    pub fn tidy(&self, live: &Snapshot) {
        self.backends.tidy(live.generation, live.route_list.iter().flat_map(|route| &route.backends));
        let mut idle = lock(&self.idle);
        let Some(idle) = &mut *idle else { return };
        for kept in idle.values_mut() {
            kept.retain(|one| one.since.elapsed() < KEPT_IDLE && !one.line.sender.is_closed());
        }
        idle.retain(|_, kept| !kept.is_empty());
    }

    /// Closes all idle connections, those that are still to come back too.
    pub fn close_idle(&self) {
        *lock(&self.idle) = None;
    }

    /// One that leads to a backend of the permit's route.
    pub(super) async fn take_idle(&self, permit: &Permit) -> Option<Line> {
        loop {
            let mut line = self.pop_idle(permit)?;
            // Ready at once unless its last answer is only just being finished; never for long.
            if let Ok(Ok(())) = timeout(permit.route().timeouts.dial, line.sender.ready()).await {
                return Some(line);
            }
        }
    }

    #[expect(clippy::mutable_key_type, reason = "a way is told by its terms' address, which never changes")]
    fn pop_idle(&self, permit: &Permit) -> Option<Line> {
        let ranked = self.backends.ranked(&permit.route().backends);
        let mut idle = lock(&self.idle);
        let idle = idle.as_mut()?;
        for (address, _) in ranked {
            let Some(kept) = idle.get_mut(&Way::new(address, permit.route())) else { continue };
            while let Some(one) = kept.pop() {
                if one.since.elapsed() < KEPT_IDLE && !one.line.sender.is_closed() {
                    return Some(one.line);
                }
            }
        }
        None
    }
}

/// Gives a connection back to the idle ones when its answer's body is over.
pub struct GiveBack {
    /// Whose idle ones.
    pub dialler: Arc<Dialler>,
    /// The connection.
    pub line: Option<Line>,
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        let Some(line) = self.line.take().filter(|line| !line.sender.is_closed()) else { return };
        let mut idle = lock(&self.dialler.idle);
        let Some(idle) = &mut *idle else { return };
        let kept = idle.entry(line.way.clone()).or_default();
        if kept.len() < MOST_IDLE {
            kept.push(Idle { line, since: Instant::now() });
        }
    }
}
